"""The test stand for faults: several servers, the proxy before them, and a steady load on each."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from benchmarks import cpu, steady
from benchmarks.processes import Child, Children
from benchmarks.steady import server_name
from benchmarks.subjects import BACKLOG, HOST, MCP_PATH, PROJECT, Starter, StartError, free_address

FRONT: Final = "front"
ZYGOTE: Final = "zygote"
WATCH_PAUSE_S: Final = 0.001
"""How often /proc is looked at while something is expected to happen: each look costs a fraction of this."""
LOAD_READY_S: Final = steady.READY_WAIT_S + 5
LOAD_END_S: Final = steady.LAST_ANSWERS_S + 5


class BackendServer:
    """One MCP server, a process that can be killed and started again on its port.

    The port is held by a socket that is bound but does not listen: while the process is away connections are refused,
    and nobody else gets the port."""

    def __init__(self, children: Children, number: int, delay_ms: float = 0.0) -> None:
        self._children = children
        self._delay_ms = delay_ms
        self.name = server_name(number)
        self._holder = _bound((HOST, 0))
        self.address: tuple[str, int] = self._holder.getsockname()
        self.child = self.start()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.address[1]}{MCP_PATH}"

    def start(self) -> Child:
        """Start the process, which can be connected to at once."""
        with _bound(self.address) as listener:
            listener.listen(BACKLOG)
            fd = listener.fileno()
            command = [sys.executable, "-m", "benchmarks.backend", "--fd", str(fd), "--delay-ms", str(self._delay_ms)]
            self.child = self._children.start(f"server-{self.name}", command, cwd=PROJECT, inherit=[fd])
        return self.child

    def close(self) -> None:
        self._holder.close()


class Load:
    """The process that calls (steady.py)."""

    def __init__(
        self, children: Children, record: Path, port: int, servers: range, clients: int, pause_ms: float, tool: str
    ) -> None:
        self.record = record
        called = {"servers": len(servers), "first": servers.start, "clients": clients, "pause-ms": pause_ms}
        options = {"port": port, **called, "tool": tool, "record": record}
        arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        command = [sys.executable, "-m", "benchmarks.steady", *arguments]
        self._child = children.start("load", command, cwd=PROJECT, piped=True)

    @property
    def alive(self) -> bool:
        return self._child.alive

    def wait_ready(self) -> None:
        """Return once every client has had a good answer. Raises StartError."""
        output = self._child.process.stdout
        assert output is not None, "it was started with pipes"
        readable, _, _ = select.select([output], [], [], LOAD_READY_S)
        if not readable or not output.readline():
            raise StartError(f"the load does not get going: {self._child.last_words() or 'no reason known'}")

    def end(self) -> None:
        """Let it get its last answers and write down everything. Raises StartError if it has failed."""
        code: int | None = self._child.process.poll()
        if code is None:
            assert self._child.process.stdin is not None, "it was started with pipes"
            self._child.process.stdin.close()
            code = self._child.process.wait(LOAD_END_S)
        if code:
            raise StartError(f"the load has failed: {self._child.last_words() or f'exit status {code}'}")


class Stand:
    """Servers and the proxy; starts in `__init__`, ends with `close`.

    `backends`: how many processes play the servers, in turn; by default each has one of its own. `proxy_options`: more
    of them. `delay_ms`: how long the first server takes for a call."""

    def __init__(
        self,
        directory: Path,
        say: Callable[[str], None],
        servers: int,
        checkout: Path,
        backends: int = 0,
        *,
        proxy_options: Sequence[str] = (),
        delay_ms: float = 0.0,
    ) -> None:
        directory.mkdir()
        self.directory = directory
        self.names = [server_name(number) for number in range(servers)]
        self._children = Children(directory, say)
        self.servers: list[BackendServer] = []
        self._loads = 0
        try:
            for number in range(backends or servers):
                self.servers.append(BackendServer(self._children, number, 0.0 if number else delay_ms))
            self.port = free_address()[1]
            urls = [self.servers[number % len(self.servers)].url for number in range(servers)]
            listed = ",".join(f"{name}={url}" for name, url in zip(self.names, urls, strict=True))
            self.executed_ns = time.perf_counter_ns()
            """When the proxy was about to be started."""
            options = ["--http", "--port", str(self.port), "--servers", listed, *proxy_options]
            self.proxy = Starter(self._children, directory).start_proxy("proxy", checkout, options, piped=False)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Stand:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._children.stop()
        for server in self.servers:
            server.close()

    def start_load(self, clients: int, pause_ms: float, servers: range | None = None, tool: str = "echo") -> Load:
        """Start calling. `clients`: of each server. `servers`: by number, by default all. Raises StartError."""
        self._loads += 1
        record = self.directory / f"calls-{self._loads}"
        load = Load(self._children, record, self.port, servers or range(len(self.names)), clients, pause_ms, tool)
        try:
            load.wait_ready()
        except StartError as error:
            raise StartError(f"{error}; last words of the proxy: {self.proxy.last_words() or 'none'}") from None
        return load

    def roles(self) -> dict[int, str]:
        """Return the role of each process of the proxy by its title: root, zygote, front, "server NAME"."""
        return roles_below(self.proxy.pid)

    def find(self, role: str) -> int | None:
        """Return the process with this role, or None if there is none at the moment."""
        return next((pid for pid, found in self.roles().items() if found == role), None)

    def complete(self) -> bool:
        """Whether every process is there that should be."""
        wanted = {"root", ZYGOTE, FRONT, *(worker_role(number) for number in range(len(self.names)))}
        return wanted <= set(self.roles().values())


def worker_role(server: int) -> str:
    return f"server {server_name(server)}"


def roles_below(root: int) -> dict[int, str]:
    roles = {pid: role_of(pid) for pid in cpu.family(root)}
    return {pid: role for pid, role in roles.items() if role}


def role_of(pid: int) -> str:
    """Return what a process of the proxy does by its title; "" if it is gone."""
    return cpu.process_title(pid).removeprefix(cpu.TITLE_PREFIX)


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> int:
    """Send a signal and return the time just before, in ns of the monotonic clock."""
    before = time.perf_counter_ns()
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
    return before


def wait_until(look: Callable[[], bool], wait_s: float) -> int | None:
    """Look again and again. Return when it was first true, in ns of the monotonic clock, or None if it never was."""
    deadline = time.perf_counter() + wait_s
    while not look():
        if time.perf_counter() > deadline:
            return None
        time.sleep(WATCH_PAUSE_S)
    return time.perf_counter_ns()


def is_there(pid: int) -> bool:
    """Whether the process has not been reaped yet."""
    return Path(f"/proc/{pid}").exists()


def _bound(address: tuple[str, int]) -> socket.socket:
    bound = socket.socket()
    try:
        # With this on both, a socket that does not listen and one that does can share an address (socket(7)).
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound
