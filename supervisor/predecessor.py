"""Upgrade, the side of the new version: take over what the old one holds, and become the service when it says so.

Rule 1: until it has taken over, the new version accepts no client and speaks to no service manager, and it dies with the
old one: kill either of them, and clients meet what they would have met without an upgrade.
Rule 2: from then on it depends on the old one for nothing.
"""

from __future__ import annotations

import array
import os
import signal
import socket
import struct
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Final

import msgspec
import trio

from protocol.control import PACKET_BYTES_MAX
from supervisor import handover, linux
from supervisor.channel import Channel, ChannelFull
from supervisor.handover import HANDOVER_VERSION, VARIABLE, Ended, FromNew, FromOld, Inheritance, Prepared, Taken, TakeOver

LISTENERS_MAX: Final = 64
"""Far more than anybody listens on."""
RECEIVE_S_MAX: Final = 10.0
"""The old version sends the first packet before we have loaded."""
_CREDENTIALS: Final = struct.Struct("iII")
"""struct ucred of unix(7): process, user and group."""


class InheritanceError(Exception):
    """What the old version handed over cannot be used. The text says why."""


@dataclass(frozen=True, slots=True)
class Inherited:
    """What comes from the old version."""

    listeners: list[socket.socket]
    session_key: bytes
    handover: socket.socket
    """The way to it."""


def inherit_from(environ: MutableMapping[str, str]) -> Inherited | None:
    """Return what the old version hands over to this process; None if it was not started by one.

    From now on this process dies when the old one does (see `Predecessor`). Blocks until it is there.

    Errors: `InheritanceError`.
    """
    sock = _socket_of_parent(environ.pop(VARIABLE, ""))
    if sock is None:
        return None
    linux.die_with_parent(signal.SIGKILL)
    if os.getppid() != _peer(sock):
        raise InheritanceError("the old version is gone already")
    sock.settimeout(RECEIVE_S_MAX)
    size = socket.CMSG_SPACE(array.array("i").itemsize * LISTENERS_MAX)
    try:
        packet, ancillary, flags, _ = sock.recvmsg(PACKET_BYTES_MAX, size, socket.MSG_CMSG_CLOEXEC)
        message: FromOld = handover.decode_from_old(packet)
    except (OSError, msgspec.DecodeError):
        raise InheritanceError("the old version did not say what to take over") from None
    fds = array.array("i")
    for _, _, content in ancillary:
        fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    listeners = [socket.socket(fileno=fd) for fd in fds]
    if not isinstance(message, Inheritance) or message.version != HANDOVER_VERSION or flags & socket.MSG_CTRUNC:
        raise InheritanceError("the old version hands over in a way that is not understood; restart instead")
    return Inherited(listeners, message.session_key, sock)


def _socket_of_parent(number: str) -> socket.socket | None:
    """Return the socket with this number if its other end was made by our parent."""
    if not (number.isascii() and number.isdecimal() and len(number) < len(str(2**31))):
        return None
    try:
        sock = socket.socket(fileno=int(number))
        if sock.family == socket.AF_UNIX and _peer(sock) == os.getppid():
            os.set_inheritable(sock.fileno(), False)
            return sock
        sock.detach()  # not ours to close
    except OSError:
        pass
    return None


def _peer(sock: socket.socket) -> int:
    """Return the process that made the pair to which the socket belongs (SO_PEERCRED, unix(7))."""
    return _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))[0]


class Predecessor:
    """The old version, while it is still there."""

    def __init__(self, inherited: Inherited) -> None:
        self._channel = Channel(inherited.handover)
        self.gone = trio.Event()
        self.taken = False
        """We are the service now."""

    def prepared(self) -> None:
        """Say that all is up here."""
        self._send(Prepared())

    def tell_ended(self, session_id: str) -> None:
        self._send(Ended([session_id]))

    async def listen(self, *, take_over: Callable[[], None], ended: Callable[[list[str]], None]) -> None:
        """Obey the old version until it is gone.

        `take_over` is called when we become the service, `ended` when its clients have ended sessions.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._channel.flush_forever)
            while packets := await self._channel.receive():
                for packet in packets:
                    self._hear(packet.data, take_over, ended)
            nursery.cancel_scope.cancel()
        self._channel.close()
        self.gone.set()

    def _hear(self, packet: bytes, take_over: Callable[[], None], ended: Callable[[list[str]], None]) -> None:
        try:
            message: FromOld = handover.decode_from_old(packet)
        except msgspec.DecodeError:
            self._channel.end()
            return
        match message:
            case TakeOver():
                if not self.taken:
                    self.taken = True
                    linux.outlive_parent()
                    take_over()
                    self._send(Taken())
            case Ended(session_ids):
                ended(session_ids)
            case Inheritance():
                pass

    def _send(self, message: FromNew) -> None:
        try:
            self._channel.send(handover.encode(message))
        except (OSError, ChannelFull):
            self._channel.end()
