"""The Unix socket of the admin door: where it is, how it is made, found and connected to.

Rule 1: only its owner may use it. The file is 0600, and both ends ask the kernel who is at the other (SO_PEERCRED).
Rule 2: who listens is told by connecting, never by a number in a file: a socket that refuses is stale and is replaced,
one that answers is somebody's and stays. Nothing is ever killed to get a socket.
Rule 3: one instance at a time looks and binds in a folder (a lock on the folder itself), so two cannot both replace it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import struct
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PREFIX: Final = "admin-"
SUFFIX: Final = ".sock"
FOLDER: Final = "mcp-bulkhead"
BACKLOG: Final = 16
CONNECT_TIMEOUT_S: Final = 2.0
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


@dataclass(frozen=True, slots=True)
class Bound:
    """A socket that listens, and the file to be removed when it is closed."""

    sock: socket.socket
    path: Path
    identity: tuple[int, int]
    """Device and inode, so that nobody else's file is ever removed."""

    def close(self) -> None:
        self.sock.close()
        with contextlib.suppress(OSError):
            if _identity(self.path) == self.identity:
                self.path.unlink()


def bind(path: Path) -> Bound:
    """Listen there, in place of a socket that nobody listens on any more.

    Errors: `AdminSocketError` if somebody does, or something else is in the way; `OSError` if it cannot be made.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(path.parent) as folder_fd:
        _remove_stale(path, folder_fd)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)  # so that the file is never open to others, not even for a moment
        try:
            sock.bind(_short(path, folder_fd))
            sock.listen(BACKLOG)
            sock.setblocking(False)
            return Bound(sock, path, _identity(path))
        except OSError:
            sock.close()
            raise
        finally:
            os.umask(before)


def adopt(sock: socket.socket, path: Path) -> Bound:
    """Return the socket that another process has bound there, and that is ours now."""
    sock.setblocking(False)
    try:
        return Bound(sock, path, _identity(path))
    except OSError:
        return Bound(sock, path, (0, 0))  # somebody has removed the file


def connect(path: Path) -> socket.socket:
    """Return a connection to the proxy that listens there.

    Errors: `AdminSocketError` if nobody does, or somebody who is not us.
    """
    try:
        with _opened(path.parent) as folder_fd:
            sock = _connected(_short(path, folder_fd))
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
        if other != path and _is_ours(other) and not _somebody_listens(other, folder_fd):
            with contextlib.suppress(OSError):
                other.unlink()
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise AdminSocketError(f"{path} is there and is no socket; remove it, or name another with --admin-socket")
    if status.st_uid != os.geteuid():
        raise AdminSocketError(f"{path} belongs to another user; name another with --admin-socket")
    if _somebody_listens(path, folder_fd):
        raise AdminSocketError(
            f"another proxy listens on {path}; stop that one, or name another socket with --admin-socket"
        )
    path.unlink()


def _is_ours(path: Path) -> bool:
    with contextlib.suppress(OSError):
        status = path.lstat()
        return stat.S_ISSOCK(status.st_mode) and status.st_uid == os.geteuid()
    return False


def _somebody_listens(path: Path, folder_fd: int) -> bool:
    try:
        _connected(_short(path, folder_fd)).close()
    except OSError as error:
        # Only a refusal says that nobody does: a proxy that is busy or stopped has a full queue of connections.
        return error.errno not in (errno.ECONNREFUSED, errno.ENOENT)
    return True


def _connected(name: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(CONNECT_TIMEOUT_S)
        sock.connect(name)
    except OSError:
        sock.close()
        raise
    return sock


def _short(path: Path, folder_fd: int) -> str:
    """Return a name for the socket that fits into its address (108 bytes, unix(7)), however deep the folder is."""
    return f"/proc/self/fd/{folder_fd}/{path.name}"


def _identity(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino


@contextlib.contextmanager
def _opened(folder: Path) -> Generator[int]:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _locked(folder: Path) -> Generator[int]:
    with _opened(folder) as fd:
        fcntl.flock(fd, fcntl.LOCK_EX)  # held for moments only, and let go of by the kernel if its holder dies
        yield fd
