"""Take over listening sockets that a service manager has opened for us: sd_listen_fds(3), "socket activation".

Variables meant for another process are ignored, as they must be. Variables meant for us that make no sense are not: who
configured them wants clients to connect there, and another port would be a surprise.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import MutableMapping
from typing import Final

COUNT_VARIABLE: Final = "LISTEN_FDS"
PID_VARIABLE: Final = "LISTEN_PID"
NAMES_VARIABLE: Final = "LISTEN_FDNAMES"
FIRST_FD: Final = 3
"""SD_LISTEN_FDS_START."""
SOCKETS_MAX: Final = 8
"""All of them go to a front in one packet, with what it shares with other fronts, which may be eight."""
_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)


class ActivationError(Exception):
    """The sockets we were given cannot be used. The text says why and what to do."""


def take_from(environ: MutableMapping[str, str], pid: int, first_fd: int = FIRST_FD) -> list[socket.socket]:
    """Return the listening sockets that the environment says are there for process `pid`; none if it names none.

    The variables are taken out, so that no child takes the sockets for its own.

    Errors: `ActivationError`.
    """
    count = environ.pop(COUNT_VARIABLE, "")
    owner = environ.pop(PID_VARIABLE, "")
    names = environ.pop(NAMES_VARIABLE, "")
    if not count or owner != str(pid):
        return []
    number = int(count) if count.isascii() and count.isdecimal() and len(count) < 4 else 0
    if not 1 <= number <= SOCKETS_MAX:
        raise ActivationError(
            f"{COUNT_VARIABLE} is {count[:20]!a} where 1 to {SOCKETS_MAX} sockets are expected; "
            "correct the ListenStream= lines of the socket unit"
        )
    labels = names.split(":") if names else [""] * number
    if len(labels) != number:
        raise ActivationError(
            f"{NAMES_VARIABLE} has {len(labels)} names for {number} sockets; "
            "correct the FileDescriptorName= lines of the socket unit"
        )
    return [_listener(first_fd + index, label) for index, label in enumerate(labels)]


def _listener(fd: int, label: str) -> socket.socket:
    who = f"descriptor {fd} ({label[:40]!a})" if label else f"descriptor {fd}"
    try:
        is_socket = stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError:
        raise ActivationError(f"{who} from {COUNT_VARIABLE} is not open; {_ADVICE}") from None
    if not is_socket:
        raise ActivationError(f"{who} from {COUNT_VARIABLE} is not a socket; {_ADVICE}")
    sock = socket.socket(fileno=fd)
    if (
        sock.type != socket.SOCK_STREAM
        or sock.family not in _FAMILIES
        or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    ):
        sock.detach()
        raise ActivationError(
            f"{who} from {COUNT_VARIABLE} does not listen for connections over TCP or a Unix socket; {_ADVICE}"
        )
    os.set_inheritable(fd, False)
    sock.setblocking(False)
    return sock


_ADVICE: Final = "give the socket unit ListenStream= and Accept=no, or start without it"
