"""The operating system as a worker uses it, behind one object: whoever gives a worker another one plays the machine.

It hands out sockets, pages and waiting; what is done with them per call is the sockets' own and passes nothing here.
"""

from __future__ import annotations

import mmap
import os
import random
import select
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from workers.dialing import dial, dial_unix


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

    async def connect(self, host: str, port: int, *, private: bool = True) -> socket.socket:
        """Return a connected socket. Names are resolved here, to private addresses only if that is so said.

        Errors: `OSError`, of which `workers.dialing.PrivateAddressError` is one.
        """
        ...

    async def connect_unix(self, path: str) -> socket.socket:
        """The same for the Unix socket at this path."""
        ...

    def read_memory(self, fd: int, count: int, at: int) -> bytes: ...

    def map_memory(self, fd: int, size: int) -> memoryview:
        """Take ownership of a descriptor of shared memory, and return the memory. Errors: `OSError`."""
        ...

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

    async def connect(self, host: str, port: int, *, private: bool = True) -> socket.socket:
        return await dial(host, port, private=private)

    async def connect_unix(self, path: str) -> socket.socket:
        return await dial_unix(path)

    def read_memory(self, fd: int, count: int, at: int) -> bytes:
        return os.pread(fd, count, at)

    def map_memory(self, fd: int, size: int) -> memoryview:
        try:
            return memoryview(mmap.mmap(fd, size))
        finally:
            os.close(fd)

    def close(self, fd: int) -> None:
        os.close(fd)
