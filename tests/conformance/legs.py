"""What the matrix and the tests share: the reference servers, the client's command, what cannot pass."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from tests.conformance.suite import Check
from tests.processes import Server

KINDS = ("dual", "legacy", "modern")
"""Eras the reference server speaks."""
CLIENT_ERAS = ("legacy", "modern")

UNAVOIDABLE = {("input-required-result-basic-elicitation", "sep-2322-elicitation-incomplete")}
"""Checks that no proxy can pass in front of a legacy server. The scenario insists on the key `user_name` in
inputRequests; a server that asks with elicitation/create names no key, so whatever key the proxy makes up differs."""

COUNTS_INITIALIZE = {"http-standard-headers", "request-metadata"}
"""Scenarios of 2026-07-28 that count an `initialize` as a mistake. The proxy makes it once for a legacy client: nothing
else tells whether a modern server has that client's era as well, in which it serves it better (workers/backend/era.py).
"""
JUDGED_BY_LAST_REQUEST = "sep-2575-client-retry-supported-version"
"""A check of the second, which looks at the last request that it saw: that one."""


def reference_server(kind: str, log: Path) -> Server:
    return Server(log, module="tests.conformance.reference_server", era=kind)


def tasks_server(log: Path) -> Server:
    return Server(log, module="tests.conformance.tasks_server")


def client_command(era: str, log: Path) -> str:
    """Return the command line of a client that reaches its server through the proxy, or "direct"ly."""
    return shlex.join([sys.executable, "-m", "tests.conformance.client_through_proxy", "--era", era, str(log)])


def is_expected(check: Check, era: str = "") -> bool:
    """Whether a check that failed had to. `era`: of the client, where the suite is the server."""
    if (check.scenario, check.id) in UNAVOIDABLE:
        return True
    is_about_era = check.method == "initialize" or check.id == JUDGED_BY_LAST_REQUEST
    return era == "legacy" and check.scenario in COUNTS_INITIALIZE and is_about_era
