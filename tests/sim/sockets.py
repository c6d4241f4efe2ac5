"""`socket.socket` over the simulated kernel, as far as the proxy uses it."""

from __future__ import annotations

import array
import errno
import os
import socket
import struct
from collections.abc import Iterable, Sequence
from typing import Any, cast

from tests.sim.kernel import Listener, PacketEnd, Process, StreamEnd, error, joined


class Sock:
    """One descriptor of a process that is a socket."""

    family = socket.AF_INET

    def __init__(self, process: Process, fd: int) -> None:
        self._process = process
        self._fd = fd

    def __enter__(self) -> Sock:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        return self._fd

    def getpeername(self) -> tuple[str, int]:
        return "127.0.0.1", 0  # everybody is on this machine

    def detach(self) -> int:
        fd, self._fd = self._fd, -1
        return fd

    def close(self) -> None:
        if self._fd >= 0:
            self._process.close(self._fd)
            self._fd = -1

    def setblocking(self, flag: bool) -> None:
        """Nothing here ever blocks."""

    def setsockopt(self, *_: object) -> None:
        self._thing()

    def getsockopt(self, level: int, name: int) -> int:
        assert (level, name) == (socket.SOL_SOCKET, socket.SO_ERROR)
        return self._thing().take_error()

    def getsockname(self) -> tuple[str, int]:
        thing = self._thing()
        return "127.0.0.1", thing.port if isinstance(thing, Listener) else 0

    # --- bytes -------------------------------------------------------------------------------------------------------
    def send(self, data: Any) -> int:
        thing = self._thing()
        if isinstance(thing, PacketEnd):
            thing.send(bytes(data), [])
            return len(data)
        return cast("StreamEnd", thing).send(bytes(data))

    def sendmsg(
        self, chunks: Iterable[Any], ancillary: Sequence[tuple[int, int, Any]] = (), flags: int = 0, address: Any = None
    ) -> int:
        del flags, address
        thing = self._thing()
        data = joined(list(chunks))
        if isinstance(thing, PacketEnd):
            fds = [fd for _, _, content in ancillary for fd in array.array("i", bytes(content))]
            thing.send(data, [self._process.thing(fd) for fd in fds])
            return len(data)
        assert not ancillary
        return cast("StreamEnd", thing).send(data)

    def recv(self, count: int, flags: int = 0) -> bytes:
        return cast("StreamEnd", self._thing()).receive(count, peek=bool(flags & socket.MSG_PEEK))

    def recv_into(self, buffer: memoryview) -> int:
        data = self.recv(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def recvmsg(self, count: int, ancillary_bytes: int = 0, flags: int = 0) -> tuple[bytes, list[Any], int, None]:
        del flags
        thing: PacketEnd = self._thing()
        data, things = thing.receive()
        assert len(data) <= count
        room = max(0, ancillary_bytes - socket.CMSG_LEN(0)) // 4 if ancillary_bytes else 0
        fds: list[int] = []
        for passed in things:
            if len(fds) < room:
                try:
                    fds.append(self._process.install(passed))
                except OSError:
                    room = 0
            passed.closed_one()
        cut = socket.MSG_CTRUNC if len(fds) < len(things) else 0
        content = struct.pack(f"{len(fds)}i", *fds)
        return data, [(socket.SOL_SOCKET, socket.SCM_RIGHTS, content)] if fds else [], cut, None

    def shutdown(self, how: int) -> None:
        thing = self._thing()
        if isinstance(thing, PacketEnd):
            assert how == socket.SHUT_RDWR
            thing.shutdown()
        else:
            assert how == socket.SHUT_WR
            cast("StreamEnd", thing).end_output()

    def accept(self) -> tuple[Any, tuple[str, int]]:
        listener: Listener = self._thing()
        if not listener.queue:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        if listener.fails:
            listener.fails -= 1
            raise error(errno.EMFILE)
        fd = self._process.install(listener.queue[0])
        listener.queue.popleft().closed_one()
        return as_socket(self._process, fd), ("127.0.0.1", 1)

    def _thing(self) -> Any:
        self._process.call()
        return self._process.thing(self._fd)


def as_socket(process: Process, fd: int) -> socket.socket:
    """Return the socket that this descriptor is, under the type that the proxy knows."""
    return cast("socket.socket", Sock(process, fd))
