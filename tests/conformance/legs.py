"""What the matrix and the tests share: the reference servers, the client's command, what cannot pass."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from tests.processes import Server

KINDS = ("dual", "legacy", "modern")
"""Eras the reference server speaks."""
CLIENT_ERAS = ("legacy", "modern")

UNAVOIDABLE = {("input-required-result-basic-elicitation", "sep-2322-elicitation-incomplete")}
"""Checks that no proxy can pass in front of a legacy server. The scenario insists on the key `user_name` in
inputRequests; a server that asks with elicitation/create names no key, so whatever key the proxy makes up differs."""


def reference_server(kind: str, log: Path) -> Server:
    return Server(log, module="tests.conformance.reference_server", era=kind)


def tasks_server(log: Path) -> Server:
    return Server(log, module="tests.conformance.tasks_server")


def client_command(era: str, log: Path) -> str:
    """Return the command line of a client that reaches its server through the proxy, or "direct"ly."""
    return shlex.join([sys.executable, "-m", "tests.conformance.client_through_proxy", "--era", era, str(log)])
