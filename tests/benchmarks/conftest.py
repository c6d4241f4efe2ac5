"""Fixtures: the backend as a process, and MCP servers that answer as a test tells them to."""

from __future__ import annotations

import contextlib
import os
import socket
import socketserver
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.backend_answers import Answers, parse_head
from benchmarks.clients import Endpoint
from tests.benchmarks.runs import Start, members
from tests.catalogue import CHECKOUT
from tests.processes import assert_gone

Change = Callable[[int, bytes], bytes | None]
"""Given the number of a tools/call and the right response, what is sent instead; None closes the connection."""


class Last(bytes):
    """A response after which the connection is closed without a word."""


@pytest.fixture
def backend() -> Iterator[Endpoint]:
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        fd = listener.fileno()
        command = [sys.executable, "-m", "benchmarks.backend", "--fd", str(fd)]
        process = subprocess.Popen(command, cwd=CHECKOUT, pass_fds=[fd])
        address = listener.getsockname()
    try:
        yield Endpoint(address, "/mcp")
        assert process.poll() is None, "the backend has ended by itself"
    finally:
        process.kill()
        process.wait(5)


class ScriptedServer(socketserver.ThreadingTCPServer):
    """The answers of the backend, changed on their way out."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, change: Change) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.change = change
        self.answers = Answers()
        self.calls = 0
        self.lock = threading.Lock()
        self.closed = threading.Event()
        """A connection has been closed by the server."""

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self.server_address, "/mcp")


class _Handler(socketserver.StreamRequestHandler):
    server: ScriptedServer

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            while self._answer_one():
                pass

    def _answer_one(self) -> bool:
        raw = b""
        while not raw.endswith(b"\r\n\r\n"):
            line = self.rfile.readline()
            if not line:
                return False
            raw += line
        head = parse_head(raw)
        body = self.rfile.read(head.content_length)
        with self.server.lock:
            response: bytes | None = b"".join(self.server.answers.to(head, body))
            called = b'"method":"tools/call"' in body
            self.server.calls += called
            number = self.server.calls
        if called:  # without the lock: a change may wait for another connection
            response = self.server.change(number, response)
        if response is None:
            return False
        self.wfile.write(response)
        return not isinstance(response, Last)

    def finish(self) -> None:
        super().finish()
        self.server.shutdown_request(self.request)
        self.server.closed.set()


@pytest.fixture
def scripted() -> Iterator[Callable[[Change], ScriptedServer]]:
    with contextlib.ExitStack() as stack:

        def start(change: Change) -> ScriptedServer:
            server = stack.enter_context(ScriptedServer(change))
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            stack.callback(thread.join, 5)
            stack.callback(server.shutdown)
            return server

        yield start


@pytest.fixture
def mark() -> str:
    """Stands in the environment of everything a run starts, so that it can be found wherever it has gone."""
    return uuid.uuid4().hex


@pytest.fixture
def start_run(mark: str, tmp_path: Path) -> Iterator[Start]:
    """Start a run; after the test, fail if anything of it is left."""

    def start(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "benchmarks", *arguments],
            cwd=CHECKOUT,
            # SPT_NOENV: a process that sets its title would otherwise lose its mark.
            env=os.environ | {"MARK": mark, "SPT_NOENV": "1", "TMPDIR": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    yield start
    left = members(mark)
    try:
        assert_gone(left)
    finally:
        for process in left:
            if process.is_running():
                process.kill()
