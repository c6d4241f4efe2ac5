"""The root's end of a control socket: packets with descriptors, out and in, never blocking and always bounded."""

from __future__ import annotations

import array
import contextlib
import socket
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import trio

from protocol.control import PACKET_BYTES_MAX
from supervisor.allowance import Allowance
from supervisor.machine import LinuxMachine, Machine

QUEUED_PACKETS_MAX: Final = 4096
"""More than a front ever gets at once (a link for each server, its ended sessions): who lets so many wait is stuck."""
BURST_PACKETS: Final = 256
"""So many at once, and others have their turn."""
_FD_BYTES: Final = 4


class ChannelFull(Exception):
    """The other end does not read."""


@dataclass(frozen=True, slots=True)
class Packet:
    data: bytes
    fds: Sequence[int]
    """Descriptors that came along; they belong to the receiver now."""


class Channel:
    """Sends in order, and receives until the other end is gone. Takes ownership of the socket.

    `allowance`: of our time for what the other end says; None if it may say what it likes. What passes between two
    calls of `receive` counts as the time that hearing its packets took, so nothing must be awaited meanwhile.

    `fds_max`: how many descriptors a packet from the other end may carry. The kernel closes what is more, so a worker
    that has been taken over by its server cannot use up the descriptors of the root.
    """

    def __init__(
        self,
        sock: socket.socket,
        machine: Machine | None = None,
        *,
        allowance: Allowance | None = None,
        fds_max: int = 0,
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._machine = machine or LinuxMachine()
        self._ancillary_bytes = socket.CMSG_SPACE(_FD_BYTES * fds_max) if fds_max else 0
        self._queue: deque[tuple[bytes, list[int]]] = deque()
        self._queued = trio.Event()
        self._closed = False
        self._allowance = allowance
        self._woken_at: float | None = None
        """When the packets were read that were last returned, by the clock of our own time; None before the first."""
        self.received = 0
        self.paused_s = 0.0
        """How long the other end was not listened to because it had used up its allowance."""

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send the packet with copies of the descriptors, now or as soon as there is room (see `flush_forever`).

        Errors: `ChannelFull`; `OSError` if there are no more descriptors to be had. That the other end is gone is no
        error here: `receive` tells.
        """
        if self._closed or (not self._queue and self._try(data, fds)):
            return
        if len(self._queue) >= QUEUED_PACKETS_MAX:
            raise ChannelFull
        copies: list[int] = []
        try:
            for fd in fds:
                copies.append(self._machine.duplicate(fd))  # noqa: PERF401 - those that were had before it failed must not be lost
        except OSError:
            self._close_all(copies)
            raise
        self._queue.append((data, copies))
        self._queued.set()

    def _try(self, data: bytes, fds: Sequence[int]) -> bool:
        """Return False if the packet has to wait."""
        try:
            if fds:
                socket.send_fds(self._sock, [data], fds)
            else:
                self._sock.send(data)
        except BlockingIOError:
            return False
        except (BrokenPipeError, ConnectionResetError):
            return True
        return True

    async def flush_forever(self) -> None:
        """Send what had to wait. Runs in a task of its own."""
        while True:
            await self._queued.wait()
            while self._queue:
                data, fds = self._queue[0]
                try:
                    sent = self._try(data, fds)
                except OSError:  # for one, too many descriptors under way; what follows makes no sense without this one
                    self.end()
                    return
                if sent:
                    self._queue.popleft()
                    self._close_all(fds)
                else:
                    await self._machine.wait_writable(self._sock)
            self._queued = trio.Event()

    async def receive(self) -> list[Packet]:
        """Return the packets that are there, waiting for the first; none once the other end is gone."""
        if self._closed:
            return []
        if self._allowance and self._woken_at is not None:
            cost_s = self._machine.own_cpu_seconds() - self._woken_at
            if pause_s := self._allowance.spend(cost_s, trio.current_time()):
                self.paused_s += pause_s
                await trio.sleep(pause_s)
        await self._machine.wait_readable(self._sock)
        self._woken_at = self._machine.own_cpu_seconds()
        return self.receive_nowait()

    def receive_nowait(self) -> list[Packet]:
        """Return the packets that are there, at most `BURST_PACKETS`."""
        packets: list[Packet] = []
        while len(packets) < BURST_PACKETS and (packet := self._next()):
            packets.append(packet)
        self.received += len(packets)
        return packets

    def _next(self) -> Packet | None:
        try:
            data, ancillary, _, _ = self._sock.recvmsg(PACKET_BYTES_MAX, self._ancillary_bytes, socket.MSG_CMSG_CLOEXEC)
        except OSError:
            return None
        return Packet(data, _descriptors(ancillary)) if data else None

    def end(self) -> None:
        """Tell the other end, and our own `receive`, that it is over. Packets already sent still arrive."""
        if not self._closed:
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._machine.notify_closing(self._sock)
            self._sock.close()
            for _, fds in self._queue:
                self._close_all(fds)
            self._queue.clear()

    def _close_all(self, fds: Sequence[int]) -> None:
        for fd in fds:
            self._machine.close(fd)


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> Sequence[int]:
    fds = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    return fds
