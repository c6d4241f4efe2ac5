"""Plays whole lives of a backend worker within this process: start, both eras, a call of each, leaving.

The zygote does this before it forks workers. What Python does once per process (filling caches, specialising the code
that runs often) is then done, and shared: a worker takes a megabyte less and starts sooner. Nobody else takes part: the
server is a socket pair, the root and the front are two sockets held here, and all of them are closed at the end.
"""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from protocol import control, link
from protocol.control import Attach, BackendSettings, Boot, Drain, LogSettings, ServerInfo
from protocol.flight import SHARED_BYTES, FlightPage
from protocol.versions import Era
from workers import layout, logs
from workers.control_end import ControlEnd, receive_boot
from workers.link_end import LinkEnd
from workers.machine import LinuxMachine
from workers.main import serve
from workers.reactor import Reactor

PATIENCE_S: Final = 1.0
"""It takes some ten milliseconds. Nothing depends on its coming to its end."""
RECEIVE_BYTES: Final = 16 * 1024
PAUSES_S: Final = (0.3, 1.1, 1.1, 20.0, 20.0)
"""Time that passes after the calls: until the first sweep, a beat of the heart, its rest, and two checks of the server,
of which the first is content with the calls."""
TURNS: Final = 25
"""Of the loop, after each of these; what is due then takes ten at most."""
LIVES: Final = 16
"""CPython 3.11 specialises code that is called often, and writes to it until it has found out how."""
_LENGTH: Final = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_ID: Final = re.compile(rb'"id":("[^"]*"|\d+)')
_RESULT: Final = (
    b'{"resultType":"complete","supportedVersions":["2026-07-28"],"protocolVersion":"2025-11-25","ttlMs":0,'
    b'"cacheScope":"private","capabilities":{"tools":{}},"serverInfo":{"name":"rehearsal","version":"1"},'
    b'"tools":[{"name":"echo","inputSchema":{"type":"object"}}],"content":[{"type":"text","text":"x"}]}'
)
"""Answers every question of both eras, because members that nobody asked for are no error."""

_is_prepared = False


def prepare() -> None:
    """Rehearse as often as it takes until the next life writes to as little as possible of what it shares with others.

    A spare is a fork of a process that has done this, so once is enough for it.
    """
    global _is_prepared  # it is the process that is prepared, and with it all that it forks
    if not _is_prepared:
        _is_prepared = True
        rehearse()
        layout.gather(rehearse)
        for _ in range(LIVES):
            rehearse()
    rehearse()


def rehearse() -> bool:
    """Play it; return whether it came to its end. No other event loop may run in this thread."""
    root_end, worker_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    front_end, link_end = socket.socketpair()
    with root_end, worker_end, front_end:
        settings = BackendSettings(ServerInfo("rehearsal", "http://127.0.0.1/mcp", call_timeout_s=PATIENCE_S))
        boot = Boot("rehearsal", 1, settings, LogSettings("error", file=False))
        root_end.send(control.encode(boot))
        socket.send_fds(root_end, [control.encode(Attach("front", 1))], [link_end.fileno()])
        link_end.close()
        clock = _Clock()
        return trio.run(_play, root_end, worker_end, front_end, clock, clock=clock)


async def _play(root_end: socket.socket, worker_end: socket.socket, front_end: socket.socket, clock: _Clock) -> bool:
    boot, _ = receive_boot(worker_end)
    log = logs.open_log(boot, None)
    page = FlightPage(memoryview(bytearray(SHARED_BYTES)))
    with trio.move_on_after(PATIENCE_S) as patience:
        async with trio.open_nursery() as nursery:
            stage = _Stage(nursery)

            async def rest_and_leave() -> None:
                for seconds in PAUSES_S:
                    patience.deadline += seconds
                    clock.ahead_s += seconds
                    for _ in range(TURNS):
                        await trio.lowlevel.checkpoint()
                root_end.send(control.encode(Drain(PATIENCE_S)))

            nursery.start_soon(_call, Reactor(log, stage), front_end, rest_and_leave)
            with stage:
                await serve(ControlEnd(worker_end, stage), boot, [], page, log, stage)
            nursery.cancel_scope.cancel()
    return not patience.cancelled_caught


async def _call(reactor: Reactor, sock: socket.socket, afterwards: Callable[[], Awaitable[None]]) -> None:
    """Be the front: call once in each era."""
    answered = 0
    eras = iter(Era)

    def on_frame(header: link.Header, payload: link.Payload) -> None:
        del payload
        nonlocal answered
        if isinstance(header, (link.Result, link.Fault)):
            answered += 1
            call_next()

    def call_next() -> None:
        if (era := next(eras, None)) is None:
            reactor.start_soon(afterwards)
            return
        call = link.Call(answered + 1, era, "tools/call", "echo", PATIENCE_S, b"", False, "", b"")
        end.send(call, b'{"name":"echo","arguments":{"text":"x"}}')

    def no_more(_reason: str) -> None: ...

    end = LinkEnd(
        reactor, sock, role="front", name="front", incarnation=1, calls=0, on_frame=on_frame, on_closed=no_more
    )
    call_next()
    await reactor.run()


class _Clock(trio.abc.Clock):
    """Time that can be made to pass: a worker does some of what it does only while nobody calls."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def start_clock(self) -> None: ...

    def current_time(self) -> float:
        return time.perf_counter() + self.ahead_s

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return deadline - self.current_time()


class _Stage(LinuxMachine):
    """A machine on which the only server there is can be reached under every address."""

    def __init__(self, nursery: trio.Nursery) -> None:
        super().__init__()
        self._nursery = nursery
        self._sockets = contextlib.ExitStack()

    def __enter__(self) -> _Stage:
        return self

    def __exit__(self, *_: object) -> None:
        """Close whatever the worker has left open, which it does if it is broken off."""
        self._sockets.close()

    def socket(self, fd: int) -> socket.socket:
        return self._sockets.enter_context(super().socket(fd))

    async def connect(self, host: str, port: int, *, private: bool = True) -> socket.socket:
        del host, port
        ours, theirs = map(self._sockets.enter_context, socket.socketpair())
        theirs.setblocking(False)
        self._nursery.start_soon(_answer_all, theirs)
        return ours


async def _answer_all(sock: socket.socket) -> None:
    """Be the server, on one connection. Requests come one at a time."""
    with sock:
        request = b""
        while True:
            await trio.lowlevel.wait_readable(sock)
            if not (received := sock.recv(RECEIVE_BYTES)):
                return
            request += received
            head, end, body = request.partition(b"\r\n\r\n")
            length = int(found[1]) if (found := _LENGTH.search(head)) else 0
            if end and len(body) >= length:
                sock.send(_answer(body))
                request = b""


def _answer(body: bytes) -> bytes:
    asked = _ID.search(body)
    if asked is None:
        return b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"
    answer = b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (asked[1], _RESULT)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nMcp-Session-Id: x\r\nContent-Length: %d\r\n\r\n"
    return head % len(answer) + answer
