"""Take over what the version before this one holds, when it has started this process to replace it (upgrade)."""

from __future__ import annotations

import os
import signal
import socket
import struct
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from supervisor import linux, unix_socket
from supervisor.config import Server

VARIABLE: Final = "MCP_BULKHEAD_HANDOVER"
"""Holds the number of the descriptor over which a new version speaks to the one that started it."""
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
    ended_sessions: list[str]
    """Oldest first."""
    handover: socket.socket
    """The way to it."""
    servers: tuple[Server, ...] | None = None
    """To be served instead of those that the arguments name, if no file names them; None if the arguments are right."""
    admin: unix_socket.Bound | None = None
    """Where the admin door listens."""
    admin_ports: tuple[socket.socket, ...] = ()
    """Where it listens to those who have the token."""


def inherit_from(environ: MutableMapping[str, str]) -> Inherited | None:
    """Return what the old version hands over to this process; None if it was not started by one.

    From now on this process dies when the old one does (see `Predecessor`). Blocks until it is there.

    Errors: `InheritanceError`.
    """
    sock = _packet_socket(environ.pop(VARIABLE, ""))
    if sock is None:
        return None
    linux.die_with_parent(signal.SIGKILL)
    if os.getppid() != _peer(sock):
        raise InheritanceError("the old version that was to be replaced is gone")
    sock.settimeout(RECEIVE_S_MAX)
    try:
        return _receive(sock)
    except (OSError, ValueError):  # what cannot be decoded is a ValueError to msgspec
        raise InheritanceError("the old version did not say what there is to take over") from None


def _receive(sock: socket.socket) -> Inherited:
    from protocol.control import PACKET_BYTES_MAX  # slow to load, and needed only here; the port is bound already
    from supervisor import handover

    packet, fds, flags, _ = socket.recv_fds(sock, PACKET_BYTES_MAX, LISTENERS_MAX, socket.MSG_CMSG_CLOEXEC)
    listeners = [socket.socket(fileno=fd) for fd in fds]
    message = handover.decode_from_old(packet)
    if not isinstance(message, handover.Inheritance) or flags & socket.MSG_CTRUNC:
        raise ValueError("not the first message, or not all of it")
    if message.version != handover.HANDOVER_VERSION:
        raise InheritanceError("the old version hands over in a way that is not understood; restart instead")
    ended: list[str] = []
    for _ in range(message.ended_parts):
        part = handover.decode_from_old(sock.recv(PACKET_BYTES_MAX))
        ended += part.session_ids if isinstance(part, handover.Ended) else []
    ports = tuple(listeners.pop() for _ in range(message.admin_ports))[::-1]
    admin = unix_socket.adopt(listeners.pop(), Path(message.admin)) if message.admin else None
    servers: list[Server] = []
    for _ in range(message.servers):
        part = handover.decode_from_old(sock.recv(PACKET_BYTES_MAX))
        servers += [part.server] if isinstance(part, handover.Configured) else []
    known = tuple(servers) if message.servers >= 0 else None
    return Inherited(listeners, message.session_key, ended, sock, known, admin, ports)


def _packet_socket(number: str) -> socket.socket | None:
    """Return the socket with this number if it is of the kind that roots speak over."""
    if not (number.isascii() and number.isdecimal() and len(number) < len(str(2**31))):
        return None
    try:
        sock = socket.socket(fileno=int(number))
    except OSError:
        return None
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_SEQPACKET:
        sock.detach()  # not ours to close
        return None
    os.set_inheritable(sock.fileno(), False)
    return sock


def _peer(sock: socket.socket) -> int:
    """Return the process that made the pair to which the socket belongs (SO_PEERCRED, unix(7))."""
    return _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))[0]
