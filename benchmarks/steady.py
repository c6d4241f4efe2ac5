"""Keeps clients of several servers busy at a steady pace, and writes down every call: the load around faults.

`python -m benchmarks.steady --port N --servers 3 --clients 4 --pause-ms 4 --record FILE` is a process of its own, so
that starting and killing others does not delay its calls. Each client makes its next call a pause after its last
answer; half of them are legacy clients, half modern. It says "ready" once every client has had a good answer, and ends
when its standard input does. Lost connections are opened again, as a client would do; nothing is ever asked twice.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import select
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, TextIO

from benchmarks import clients, messages
from benchmarks.clients import Client, Endpoint
from benchmarks.generator import Pattern
from benchmarks.messages import Workload
from benchmarks.timeline import NS_PER_S, Call
from benchmarks.wire import ExchangeError
from protocol.versions import Era

HOST: Final = "127.0.0.1"
MCP_PATH: Final = "/mcp"
PAYLOAD_BYTES: Final = 100
CALL_WAIT_S: Final = 10.0
"""A call without an answer for so long has failed."""
READY_WAIT_S: Final = 30.0
LAST_ANSWERS_S: Final = 3.0
"""How long calls in flight may take at the end."""
READY: Final = "ready"


def server_name(server: int) -> str:
    """Return the name under which the proxy knows the n-th server."""
    return f"s{server + 1}"


def public_tool(server: int, tool: str = "echo") -> str:
    return f"{server_name(server)}__{tool}"


class Caller:
    """One client and its server."""

    __slots__ = ("client", "due_ns", "fd", "pattern", "server")

    def __init__(self, server: int, client: Client, workload: Workload) -> None:
        self.server = server
        self.client = client
        self.pattern = Pattern(workload)
        self.fd = -1
        self.due_ns = 0


class SteadyLoad:
    """The loop. One line per call goes to `record`."""

    def __init__(self, callers: Sequence[Caller], pause_s: float, record: TextIO) -> None:
        self._pause_ns = int(pause_s * NS_PER_S)
        self._record = record
        self._poll = select.epoll()
        self._by_fd: dict[int, Caller] = {}
        self._resting = collections.deque(callers)
        """Those that wait for their next call; the pause is the same for all, so the first comes first."""
        self._flying: dict[Caller, None] = {}
        """Those that wait for an answer, the longest waiting first."""
        self._unproven = set(callers)
        self._last_id = messages.CALL_IDS_FROM
        for caller in callers:
            self._watch(caller)

    @property
    def ready(self) -> bool:
        """Every client has had a good answer."""
        return not self._unproven

    def turn(self, *, calling: bool, once: bool = False) -> None:
        """Make the calls that are due (if `calling`), take the answers that have come; wait a moment for them.

        `once`: who has had a good answer does not call again."""
        now = time.perf_counter_ns()
        while calling and self._resting and self._resting[0].due_ns <= now:
            caller = self._resting.popleft()
            if not once or caller in self._unproven:
                self._call(caller)
        for fd, _ in self._poll.poll(self._wait_s(now) if calling else 0.05):
            caller = self._by_fd.get(fd)
            if caller is not None:
                self._receive(caller)
        self._give_up(time.perf_counter_ns() - int(CALL_WAIT_S * NS_PER_S))

    def finish(self) -> None:
        """Wait for the last answers."""
        deadline = time.perf_counter_ns() + int(LAST_ANSWERS_S * NS_PER_S)
        while self._flying and time.perf_counter_ns() < deadline:
            self.turn(calling=False)
        for caller in list(self._flying):
            self._ended(caller, f"no answer within {LAST_ANSWERS_S:g} s of the end")

    def _wait_s(self, now: int) -> float:
        if not self._resting:
            return 0.05
        return min(max(self._resting[0].due_ns - now, 0) / NS_PER_S, 0.05)

    def _call(self, caller: Caller) -> None:
        client = caller.client
        self._last_id += 1
        client.call_id = b"%d" % self._last_id
        client.filled = 0
        client.response = None
        client.started_ns = time.perf_counter_ns()
        self._flying[caller] = None
        try:
            if client.closing:
                self._reopen(caller)
            # A small request fits into the empty buffer of a connection whose last call has been answered.
            client.peer.sendall(client.before_id + client.call_id + client.after_id)
        except (ExchangeError, OSError) as error:
            client.closing = True
            self._ended(caller, f"the connection failed: {error}")

    def _receive(self, caller: Caller) -> None:
        client = caller.client
        if not client.call_id:  # nobody has asked: the connection has ended, or what comes is nothing we wait for
            client.closing = True
            self._forget(caller)
            return
        try:
            received = client.peer.recv_into(client.view[client.filled :])
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(caller, f"the connection failed: {error}")
            return
        if not received:
            self._lost(caller, "the connection was closed before the answer was complete")
            return
        client.filled += received
        if client.filled == len(client.memory):
            client.make_room()
        fault = caller.pattern.judge(client)
        if fault is not None:
            if not fault:
                self._unproven.discard(caller)
            self._ended(caller, fault)

    def _give_up(self, before_ns: int) -> None:
        while self._flying:
            caller = next(iter(self._flying))
            if caller.client.started_ns > before_ns:
                return
            self._lost(caller, f"no answer within {CALL_WAIT_S:g} s")

    def _lost(self, caller: Caller, fault: str) -> None:
        caller.client.closing = True
        self._ended(caller, fault)

    def _ended(self, caller: Caller, fault: str) -> None:
        now = time.perf_counter_ns()
        client = caller.client
        self._record.write(line_of(Call(caller.server, client.started_ns, now, fault)))
        client.call_id = b""
        del self._flying[caller]
        if client.closing:
            self._forget(caller)
        caller.due_ns = now + self._pause_ns
        self._resting.append(caller)

    def _watch(self, caller: Caller) -> None:
        caller.fd = caller.client.peer.fileno()
        self._by_fd[caller.fd] = caller
        self._poll.register(caller.fd, select.EPOLLIN)

    def _forget(self, caller: Caller) -> None:
        if caller.fd >= 0:
            del self._by_fd[caller.fd]
            self._poll.unregister(caller.fd)
            caller.client.peer.close()
            caller.fd = -1  # the number may soon be that of another caller's connection

    def _reopen(self, caller: Caller) -> None:
        self._forget(caller)
        caller.client.reconnect()
        self._watch(caller)


def line_of(call: Call) -> str:
    fault = " ".join(call.fault.split())
    return f"{call.server} {call.started_ns} {call.ended_ns} {fault}\n"


def read_record(file: Path) -> Iterator[Call]:
    """Return the calls of a record in the order they ended; a last line that was not written to its end is left out."""
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n"):
                server, started_ns, ended_ns, fault = line.split(" ", 3)
                yield Call(int(server), int(started_ns), int(ended_ns), fault.strip())


def open_callers(port: int, servers: range, clients_each: int, tool: str = "echo") -> list[Caller]:
    """Connect all clients. Raises ExchangeError, ValueError."""
    endpoint = Endpoint((HOST, port), MCP_PATH)
    callers: list[Caller] = []
    for number in range(clients_each):
        workload = Workload(PAYLOAD_BYTES, list(Era)[number % len(Era)])
        for server in servers:
            opened = clients.open_clients(endpoint, workload, 1, public_tool(server, tool))
            callers += [Caller(server, client, workload) for client in opened]
    return callers


def _open_when_there(port: int, servers: range, clients_each: int, tool: str) -> list[Caller]:
    deadline = time.monotonic() + READY_WAIT_S
    while True:
        try:
            return open_callers(port, servers, clients_each, tool)
        except (ExchangeError, ValueError):
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.05)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steady", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--servers", type=int, required=True, help="how many; the n-th is called sN")
    parser.add_argument("--first", type=int, default=0, help="how many servers before those get no calls")
    parser.add_argument("--clients", type=int, required=True, help="of each server")
    parser.add_argument("--pause-ms", type=float, required=True, help="from an answer to the next call of that client")
    parser.add_argument("--tool", default="echo", help="what is called: echo, or look, which only reads")
    parser.add_argument("--record", type=Path, required=True, help="one line per call goes here")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt of the terminal is for the run that started this
    try:
        servers = range(options.first, options.first + options.servers)
        callers = _open_when_there(options.port, servers, options.clients, options.tool)
    except (ExchangeError, ValueError) as error:
        sys.exit(f"the proxy does not answer: {error}")
    with options.record.open("w", encoding="utf-8") as record, contextlib.ExitStack() as stack:
        stack.callback(clients.close_clients, [caller.client for caller in callers])
        _run(SteadyLoad(callers, options.pause_ms / 1000, record))


def _run(load: SteadyLoad) -> None:
    said = False
    asked = select.poll()
    asked.register(sys.stdin, select.POLLIN)
    deadline = time.monotonic() + READY_WAIT_S
    while not asked.poll(0):
        load.turn(calling=True)
        if not said and load.ready:
            print(READY, flush=True)
            said = True
        elif not said and time.monotonic() > deadline:
            sys.exit("not every server answers calls")
    load.finish()


if __name__ == "__main__":
    main()
