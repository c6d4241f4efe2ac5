"""The Unix socket of the admin door: where it is, how it is made, found and connected to.

Rule 1: only its owner may use it. The file is 0600, and both ends ask the kernel who is at the other (SO_PEERCRED).
Rule 2: it replaces one that nobody listens on any more, and no other (supervisor/unix_socket.py).
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
from pathlib import Path
from typing import Final

from supervisor import unix_socket
from supervisor.unix_socket import Bound, UnixSocketError, connected, locked, opened, short, somebody_listens

PREFIX: Final = "admin-"
SUFFIX: Final = ".sock"
FOLDER: Final = "mcp-bulkhead"
BACKLOG: Final = 16
FOUND_MAX: Final = 256
"""Files of a folder that are looked at."""
_CREDENTIALS: Final = struct.Struct("3i")


class AdminSocketError(Exception):
    """The socket cannot or must not be used. The text says why and what to do."""


def usual_folder(state_dir: str = "") -> Path:
    """Return where the sockets are: the state directory if one is given, else the user's runtime directory."""
    if state_dir:
        return Path(state_dir)
    if runtime := os.environ.get("XDG_RUNTIME_DIR", ""):
        return Path(runtime) / FOLDER
    from supervisor.secret import usual_state_dir  # loads what is not needed otherwise

    return usual_state_dir()


def usual_path(folder: Path, port: int) -> Path:
    """Return the socket of a proxy on this port (0: on standard input alone, where there may be many)."""
    return folder / f"{PREFIX}{port or f'stdio-{os.getpid()}'}{SUFFIX}"


def bind(path: Path) -> Bound:
    """Listen there, in place of a socket that nobody listens on any more.

    Errors: `AdminSocketError` if somebody does, or something else is in the way; `OSError` if it cannot be made.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(path.parent) as folder_fd:
        _remove_stale(path, folder_fd)
        return unix_socket.bind(path, short(path, folder_fd), backlog=BACKLOG)


def connect(path: Path) -> socket.socket:
    """Return a connection to the proxy that listens there.

    Errors: `AdminSocketError` if nobody does, or somebody who is not us.
    """
    try:
        with opened(path.parent) as folder_fd:
            sock = connected(short(path, folder_fd))
    except FileNotFoundError:
        raise AdminSocketError(f"there is no socket {path}; is the proxy running?") from None
    except ConnectionRefusedError:
        raise AdminSocketError(f"nobody listens on {path}; the proxy that made it is gone") from None
    except OSError as error:
        raise AdminSocketError(f"cannot connect to {path}: {error.strerror or error}") from None
    if peer_uid(sock) not in (os.geteuid(), 0):
        sock.close()
        raise AdminSocketError(f"{path} belongs to another user's program, which is not talked to")
    return sock


def find(folder: Path) -> list[Path]:
    """Return the sockets in the folder on which a proxy of ours listens."""
    found: list[Path] = []
    for path in _candidates(folder):
        with contextlib.suppress(AdminSocketError):
            connect(path).close()
            found.append(path)
    return found


def peer_uid(sock: socket.socket) -> int:
    """Return the user that the process at the other end was when it connected or began to listen."""
    _, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return uid


def _candidates(folder: Path) -> list[Path]:
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    return [folder / name for name in names if name.startswith(PREFIX) and name.endswith(SUFFIX)][:FOUND_MAX]


def _remove_stale(path: Path, folder_fd: int) -> None:
    """Make room for a socket there, and remove what killed proxies have left beside it."""
    for other in _candidates(path.parent):
        if other != path and _is_ours(other) and not somebody_listens(other, folder_fd):
            with contextlib.suppress(OSError):
                other.unlink()
    try:
        unix_socket.make_room(path, folder_fd)
    except UnixSocketError as error:
        raise AdminSocketError(f"{error} with --admin-socket") from None


def _is_ours(path: Path) -> bool:
    with contextlib.suppress(OSError):
        status = path.lstat()
        return stat.S_ISSOCK(status.st_mode) and status.st_uid == os.geteuid()
    return False
