"""The operating system as a worker uses it, behind one object: whoever gives a worker another one plays the machine.

It hands out sockets, pages and waiting; what is done with them per call is the sockets' own and passes nothing here.
"""

from __future__ import annotations

import contextlib
import os
import random
import select
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

import trio

from protocol.limits import TCP_PROBE_AFTER_S, TCP_PROBES_MAX

_LOOPBACK: Final = ((socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.1"))
_KEEP_ALIVE: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, TCP_PROBE_AFTER_S),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, TCP_PROBE_AFTER_S),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, TCP_PROBES_MAX),
)
"""A server whose machine is gone says nothing. Without probes a call would wait for all of its time."""


class Poll(Protocol):
    """What the reactor asks which descriptors are ready (`select.epoll`)."""

    def fileno(self) -> int: ...

    def register(self, fd: int, eventmask: int, /) -> None: ...

    def modify(self, fd: int, eventmask: int, /) -> None: ...

    def unregister(self, fd: int, /) -> None: ...

    def poll(self, timeout: float, maxevents: int, /) -> list[tuple[int, int]]: ...

    def close(self) -> None: ...


class Machine(Protocol):
    """What a worker needs."""

    random: random.Random
    """For spreading what would else happen at once, not for secrets."""
    wait_readable: Callable[[int | socket.socket], Awaitable[None]]

    def monotonic_ns(self) -> int:
        """Return the nanoseconds of the clock that all processes share and that nobody can set."""
        ...

    def new_poll(self) -> Poll: ...

    def socket(self, fd: int) -> socket.socket:
        """Take ownership of a descriptor that is a socket."""
        ...

    async def connect(self, host: str, port: int) -> socket.socket:
        """Return a connected socket. Names are resolved here. Errors: `OSError`."""
        ...

    def read_memory(self, fd: int, count: int, at: int) -> bytes: ...

    def close(self, fd: int) -> None: ...


class LinuxMachine:
    """The machine we run on (`Machine`)."""

    def __init__(self) -> None:
        self.random = random.Random()  # noqa: S311 - see `Machine.random`
        self.wait_readable: Callable[[int | socket.socket], Awaitable[None]] = trio.lowlevel.wait_readable

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()

    def new_poll(self) -> Poll:
        return select.epoll()

    def socket(self, fd: int) -> socket.socket:
        return socket.socket(fileno=fd)

    async def connect(self, host: str, port: int) -> socket.socket:
        known = _known_addresses(host)
        for family, address in known[:-1]:
            with contextlib.suppress(OSError):
                return await _connect(family, address, port)
        if known:
            return await _connect(*known[-1], port)
        stream = await trio.open_tcp_stream(host, port)
        # trio has set TCP_NODELAY; from here on the reactor owns the descriptor.
        sock = socket.socket(fileno=stream.socket.detach())
        _probe_often(sock)
        return sock

    def read_memory(self, fd: int, count: int, at: int) -> bytes:
        return os.pread(fd, count, at)

    def close(self, fd: int) -> None:
        os.close(fd)


def _known_addresses(host: str) -> Sequence[tuple[socket.AddressFamily, str]]:
    """Return the addresses of a host that need not be looked up: a literal one, or localhost (RFC 6761, section 6.3).

    Most servers are so near. Looking up and trying addresses as for any other name takes a thread, milliseconds and a
    megabyte of memory in a worker that does it once.
    """
    if host.lower() == "localhost":
        return _LOOPBACK
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            socket.inet_pton(family, host)
            return ((family, host),)
    return ()


def _probe_often(sock: socket.socket) -> None:
    for level, option, value in _KEEP_ALIVE:
        sock.setsockopt(level, option, value)


async def _connect(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _probe_often(sock)
        try:
            sock.connect((address, port))
        except BlockingIOError:
            await trio.lowlevel.wait_writable(sock)
            if number := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(number, os.strerror(number)) from None
    except BaseException:
        sock.close()
        raise
    return sock
