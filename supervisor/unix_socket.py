"""Sockets that are files: how one takes the place of another that nobody listens on any more.

Rule 1: who listens is told by connecting, never by a number in a file: a socket that refuses is stale and is replaced,
one that answers is somebody's and stays. Nothing is ever killed to get a socket.
Rule 2: one instance at a time looks and binds in a folder (a lock on the folder itself), so two cannot both replace it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CONNECT_TIMEOUT_S: Final = 2.0


class UnixSocketError(Exception):
    """Something else is where the socket should be. The text says what."""


@dataclass(frozen=True, slots=True)
class Bound:
    """A socket that listens, and the file to be removed when it is closed."""

    sock: socket.socket
    path: Path
    identity: tuple[int, int, int]
    """Device, inode, which are used again, and time of making, so that nobody else's file is ever removed."""

    def close(self) -> None:
        self.sock.close()
        with contextlib.suppress(OSError):
            if identity_of(self.path) == self.identity:
                self.path.unlink()


def bind(path: Path, name: str, *, backlog: int) -> Bound:
    """Listen there, for our own user alone. `name`: the path as the address is to have it.

    What is there already must be gone (`make_room`), and the folder locked. Errors: `OSError`.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)  # so that the file is never open to others, not even for a moment
    try:
        sock.bind(name)
        sock.listen(backlog)
        sock.setblocking(False)
        return Bound(sock, path, identity_of(path))
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(before)


def adopt(sock: socket.socket, path: Path) -> Bound:
    """Return the socket that another process has bound there, and that is ours now."""
    sock.setblocking(False)
    try:
        return Bound(sock, path, identity_of(path))
    except OSError:
        return Bound(sock, path, (0, 0, 0))  # somebody has removed the file


def make_room(path: Path, folder_fd: int) -> None:
    """Remove a socket that nobody listens on any more. Errors: `UnixSocketError`, `OSError`."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise UnixSocketError(f"{path} is there and is no socket; remove it, or name another")
    if status.st_uid != os.geteuid():
        raise UnixSocketError(f"{path} belongs to another user; name another")
    if somebody_listens(path, folder_fd):
        raise UnixSocketError(f"another program listens on {path}; stop that one, or name another")
    path.unlink()


def somebody_listens(path: Path, folder_fd: int) -> bool:
    try:
        connected(short(path, folder_fd)).close()
    except OSError as error:
        # Only a refusal says that nobody does: a proxy that is busy or stopped has a full queue of connections.
        return error.errno not in (errno.ECONNREFUSED, errno.ENOENT)
    return True


def connected(name: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(CONNECT_TIMEOUT_S)
        sock.connect(name)
    except OSError:
        sock.close()
        raise
    return sock


def short(path: Path, folder_fd: int) -> str:
    """Return a name for the socket that fits into its address (108 bytes, unix(7)), however deep the folder is."""
    return f"/proc/self/fd/{folder_fd}/{path.name}"


def identity_of(path: Path) -> tuple[int, int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino, status.st_mtime_ns


@contextlib.contextmanager
def opened(folder: Path) -> Generator[int]:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def locked(folder: Path) -> Generator[int]:
    with opened(folder) as fd:
        fcntl.flock(fd, fcntl.LOCK_EX)  # held for moments only, and let go of by the kernel if its holder dies
        yield fd
