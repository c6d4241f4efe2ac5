"""The other fronts, if there are any: hand connections over to them, and take over those that they hand to this one.

Each front has an inbox, a socket for packets that the root holds open. What is put in while its front is being replaced
waits there for the next one, as connections do that nobody has accepted yet.

Rule 1: a connection belongs to one front at any time: to this one until its packet is in the inbox, then to the other.
Rule 2: what does not fit into an inbox waits here, in order, at most `MOVE_WAIT_S`; then clients are told to try again.
Rule 3: a front that leaves closes its inbox first, and serves what is in it. From then on others serve its clients.
"""

from __future__ import annotations

import array
import contextlib
import os
import select
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from protocol import moving
from protocol.http1 import response
from protocol.limits import MOVE_WAIT_S
from protocol.moving import Moved
from workers.logs import Log
from workers.reactor import Reactor

SWEEP_S: Final = 1.0
TAKEN_AT_ONCE: Final = 64
_DESCRIPTORS_MAX: Final = 2
_ANCILLARY_BYTES: Final = socket.CMSG_SPACE(4 * _DESCRIPTORS_MAX)


class FrontGone(Exception):
    """The other front takes nothing any more."""


class OtherFronts:
    """`number`: of this front, from 0. `arrived`: gets each connection that another front hands over."""

    def __init__(
        self,
        reactor: Reactor,
        number: int,
        inbox: socket.socket,
        ways: Sequence[socket.socket],
        log: Log,
        *,
        arrived: Callable[[socket.socket, Moved], None],
        gone: Callable[[int], None],
    ) -> None:
        """`ways`: to the inbox of each front, also this one's. `gone`: told of a front that takes nothing any more."""
        self._reactor = reactor
        self._inbox = inbox
        self._log = log
        self._arrived = arrived
        self._gone = gone
        self._ways = {other: _Way(reactor, way) for other, way in enumerate(ways) if other != number}
        ways[number].close()
        self._sweep = reactor.every(SWEEP_S, self._sweep_ways)
        reactor.watch(inbox.fileno(), self, select.EPOLLIN)

    def hand_over(self, front: int, sock: socket.socket, message: Moved) -> None:
        """Give a connection, on which plain HTTP is spoken and which is closed here afterwards, to another front.

        Errors: `FrontGone`; the connection is still the caller's then.
        """
        way = self._ways[front]
        try:
            way.put(_Parcel(sock, *moving.packet(message), self._reactor.now))
        except FrontGone:
            self._gone(front)
            raise
        if way.waiting:
            self._sweep.wake()

    def leave(self) -> None:
        """Take nothing more than what is in the inbox already."""
        with contextlib.suppress(OSError):
            self._inbox.shutdown(socket.SHUT_RD)
        while self._take():
            pass
        self._reactor.forget(self._inbox.fileno())
        self._inbox.close()
        for way in self._ways.values():
            way.close()
        self._sweep.end()

    # --- workers.reactor.Source, for the inbox ----------------------------------------------------------------
    def ready(self, mask: int) -> None:
        del mask
        for _ in range(TAKEN_AT_ONCE):
            if not self._take():
                return

    def failed(self, error: Exception) -> None:
        """One connection could not be taken over; the inbox goes on."""

    def _take(self) -> bool:
        """Take over a connection; return whether there was one."""
        try:
            data, ancillary, _, _ = self._inbox.recvmsg(
                moving.PACKET_BYTES_MAX, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
            )
        except OSError:
            return False
        fds = array.array("i", b"".join(content for _, kind, content in ancillary if kind == socket.SCM_RIGHTS))
        if not data:
            return False
        message = moving.read(_in_memory(fds.pop()) if len(fds) == _DESCRIPTORS_MAX else data)
        if message is None or not fds:  # without a descriptor left the kernel drops those that come
            self._log.error("a connection that was handed over is lost", descriptors=len(fds))
            for fd in fds:
                os.close(fd)
            return True
        self._arrived(self._reactor.machine.socket(fds[0]), message)
        return True

    def _sweep_ways(self) -> bool:
        for way in self._ways.values():
            way.sweep(self._reactor.now)
        return any(way.waiting for way in self._ways.values())


class _Parcel:
    """A connection on its way."""

    def __init__(self, sock: socket.socket, packet: bytes, memory: bytes, since: float) -> None:
        self.sock = sock
        self.packet = packet
        self.memory = memory
        self.since = since

    def send(self, way: socket.socket) -> None:
        """Errors: `OSError`."""
        if not self.memory:
            self._send(way, self.sock.fileno())
            return
        memory_fd = os.memfd_create("requests", os.MFD_CLOEXEC)
        try:
            with open(memory_fd, "wb", closefd=False) as memory:
                memory.write(self.memory)
            self._send(way, self.sock.fileno(), memory_fd)
        finally:
            os.close(memory_fd)

    def _send(self, way: socket.socket, *fds: int) -> None:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
        way.sendmsg([self.packet], [rights], socket.MSG_DONTWAIT)

    def give_up(self) -> None:
        """Tell the client, as far as that goes without waiting."""
        with contextlib.suppress(OSError):
            self.sock.send(response(503, [(b"retry-after", b"1")], b"try again in a moment\n", close=True))
        self.sock.close()


class _Way:
    """The way to one inbox (a `workers.reactor.Source`)."""

    def __init__(self, reactor: Reactor, sock: socket.socket) -> None:
        self._reactor = reactor
        self._sock = sock
        self._is_gone = False
        self.waiting: deque[_Parcel] = deque()

    def put(self, parcel: _Parcel) -> None:
        """Errors: `FrontGone`."""
        if self._is_gone:
            raise FrontGone
        if self.waiting or not self._try(parcel):
            if not self.waiting:
                self._reactor.watch(self._sock.fileno(), self, select.EPOLLOUT)
            self.waiting.append(parcel)

    def _try(self, parcel: _Parcel) -> bool:
        """Return whether the parcel is on its way. Errors: `FrontGone`."""
        try:
            parcel.send(self._sock)
        except (BrokenPipeError, ConnectionResetError):
            self._is_gone = True
            raise FrontGone from None
        except OSError:  # the inbox is full, or too many descriptors are under way
            return False
        parcel.sock.close()
        return True

    def close(self) -> None:
        while self.waiting:
            self.waiting.popleft().give_up()
        self._reactor.forget(self._sock.fileno())
        self._sock.close()

    def ready(self, mask: int) -> None:
        del mask
        try:
            while self.waiting and self._try(self.waiting[0]):
                self.waiting.popleft()
        except FrontGone:
            while self.waiting:
                self.waiting.popleft().give_up()
        if not self.waiting:
            self._reactor.forget(self._sock.fileno())

    def failed(self, error: Exception) -> None:
        """One connection could not be handed over; it is given up when its time is over."""

    def sweep(self, now: float) -> None:
        while self.waiting and now - self.waiting[0].since > MOVE_WAIT_S:
            self.waiting.popleft().give_up()
        if not self.waiting:
            self._reactor.forget(self._sock.fileno())


def _in_memory(fd: int) -> bytes:
    with open(fd, "rb") as memory:
        memory.seek(0)
        return memory.read()
