"""A worker's end of its control socket: packets with file descriptors, from and to the root."""

from __future__ import annotations

import array
import socket

import msgspec

from protocol import control
from protocol.control import Boot, FromWorker, ToWorker
from workers.machine import LinuxMachine, Machine

DESCRIPTORS_MAX = 64


class RootLost(Exception):
    """The control socket has ended: the root is gone and so must we be."""


class ControlEnd:
    """Receives orders and sends reports. Reports never block: what the root does not read is dropped and counted."""

    def __init__(self, sock: socket.socket, machine: Machine | None = None) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._machine = machine or LinuxMachine()
        self.dropped = 0

    async def receive(self) -> tuple[ToWorker, list[int]]:
        """Return the next order and the descriptors attached to it.

        Errors: `RootLost` at the end, or if a packet makes no sense.
        """
        while True:
            try:
                return _parse(*_receive(self._sock))
            except BlockingIOError:
                await self._machine.wait_readable(self._sock)

    def send(self, message: FromWorker) -> None:
        try:
            self._sock.send(control.encode(message))
        except OSError:
            self.dropped += 1


def receive_boot(sock: socket.socket) -> tuple[Boot, list[int]]:
    """Wait, blocking, for the first packet, which is always `Boot`."""
    sock.setblocking(True)
    message, descriptors = _parse(*_receive(sock))
    if not isinstance(message, Boot):
        raise RootLost(f"expected boot, got {type(message).__name__}")
    return message, descriptors


def _receive(sock: socket.socket) -> tuple[bytes, list[int]]:
    try:
        data, ancillary, flags, _ = sock.recvmsg(
            control.PACKET_BYTES_MAX, socket.CMSG_SPACE(4 * DESCRIPTORS_MAX), socket.MSG_CMSG_CLOEXEC
        )
    except ConnectionError as error:  # it died with reports of ours unread
        raise RootLost(f"the control socket broke: {error.strerror}") from None
    descriptors = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        raise RootLost("a control packet was cut off")
    return data, list(descriptors)


def _parse(data: bytes, descriptors: list[int]) -> tuple[ToWorker, list[int]]:
    if not data:
        raise RootLost("the control socket has ended")
    try:
        return control.decode_to_worker(data), descriptors
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RootLost(f"a control packet that does not decode: {error}") from None
