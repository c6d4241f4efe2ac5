"""Read a configuration file with care, and replace one whole or not at all.

Rule 1: what is read is what was there at one moment, from one open file, or it is refused.
Rule 2: a file is replaced by a new one in one step, after that is safe on the disk. Whatever happens before, the old
one is untouched.
Rule 3: a symbolic link stays, and what it leads to is replaced.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Final

from protocol.limits import KIB, MIB
from supervisor.config import ConfigError
from supervisor.configuration.problems import WholeFileError

FILE_BYTES_MAX: Final = 256 * KIB
CLIENT_FILE_BYTES_MAX: Final = 16 * MIB
"""Some clients keep their whole history in the same file."""
READ_TRIES: Final = 5
READ_PAUSE_S: Final = 0.02
LOCK_TRIES: Final = 100
LOCK_PAUSE_S: Final = 0.02
BACKUP_SUFFIX: Final = ".bak"
_NO_LOCKS: Final = frozenset({errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS})
"""Some network file systems."""

Identity = tuple[int, int, int, int]
"""Device, inode, time of change in ns, size: another one means another content."""


class NotWrittenError(ConfigError):
    """The file could not be changed, and has not been. The text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Content:
    text: str
    identity: Identity


def identity_of(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


def identity(path: str) -> Identity | None:
    """Return that of the file the path leads to; None if there is none that we can see."""
    try:
        return identity_of(os.stat(path))
    except OSError:
        return None


def read(path: str, bytes_max: int = FILE_BYTES_MAX) -> Content:
    """Return what is in the file.

    Errors: `WholeFileError` if it cannot be read, is not plain, not text, too large, open for everybody to write, or
    keeps changing.
    """
    for _ in range(READ_TRIES):
        try:
            content = _read_once(path, bytes_max)
        except OSError as error:
            raise WholeFileError(path, f"cannot be read: {error.strerror}") from None
        if content is not None:
            return content
        time.sleep(READ_PAUSE_S)
    raise WholeFileError(path, "changes while it is being read; try again when it is complete")


def _read_once(path: str, bytes_max: int) -> Content | None:
    """Return what is in the file, or None if it changed meanwhile."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)  # non-blocking, should it be a pipe
    with open(fd, "rb") as file:
        before = os.fstat(fd)
        _refuse_untrusted(path, before)
        if before.st_size > bytes_max:
            raise WholeFileError(path, f"is larger than {bytes_max // KIB} KiB")
        data = file.read(bytes_max + 1)
        if identity_of(before) != identity_of(os.fstat(fd)) or len(data) != before.st_size:
            return None
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise WholeFileError(path, f"is no UTF-8 text: line {line} has a byte that cannot be") from None
    return Content(text.removeprefix("\ufeff"), identity_of(before))


def _refuse_untrusted(path: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise WholeFileError(path, "is not a plain file")
    if status.st_mode & stat.S_IWOTH:
        raise WholeFileError(path, "can be written by everybody, so it is not trusted; chmod o-w it")


@contextlib.contextmanager
def locked(path: str) -> Generator[None]:
    """Keep other proxies from changing the file at the same time. Errors: `NotWrittenError`."""
    folder = os.path.dirname(os.path.realpath(path))
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise NotWrittenError(f"{folder} cannot be opened: {error.strerror}") from None
    try:
        _lock(fd, folder)
        yield
    finally:
        os.close(fd)


def _lock(fd: int, folder: str) -> None:
    for _ in range(LOCK_TRIES):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(LOCK_PAUSE_S)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise NotWrittenError(f"{folder} cannot be locked: {error.strerror}") from None
            return
        else:
            return
    raise NotWrittenError(f"another program holds {folder} locked; try again")


def replace(path: str, text: str, expected: Identity | None) -> None:
    """Put this text in the file's place, and what was there into `path` + ".bak". Call it while it is `locked`.

    Mode and owner stay. `expected`: the file that the new text was made from; None to make a new one, for us alone.
    Errors: `NotWrittenError`; the file is then what it was.
    """
    target = os.path.realpath(path)
    try:
        _replace(target, text.encode(), expected)
    except OSError as error:
        raise NotWrittenError(f"{path} could not be written, and is what it was: {error.strerror}") from None


def _replace(target: str, data: bytes, expected: Identity | None) -> None:
    folder, name = os.path.split(target)
    draft, backup = (os.path.join(folder, f".{name}.{kind}") for kind in ("new", "old"))
    try:
        old = os.stat(target, follow_symlinks=False) if expected else None
        _write(draft, data, old)
        if expected is not None:
            _write(backup, _bytes_of(target), old)
        if identity(target) != expected:
            raise NotWrittenError(
                f"{target} has been changed by somebody else meanwhile, and is left as it is; try again"
            )
        if expected is not None:
            os.rename(backup, target + BACKUP_SUFFIX)
        os.rename(draft, target)
    except BaseException:
        for leftover in (draft, backup):
            with contextlib.suppress(OSError):
                os.unlink(leftover)
        raise
    with contextlib.suppress(
        OSError
    ):  # the new file is there; whether a power cut could take it back is another matter
        _sync_folder(folder)


def _bytes_of(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(FILE_BYTES_MAX)


def _write(path: str, data: bytes, like: os.stat_result | None) -> None:
    """Make this file, with the mode and owner of another, and see it onto the disk."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # of somebody who was killed; whoever is alive holds the lock
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(fd, "wb", buffering=0) as file:
        rest = memoryview(data)
        while rest:
            rest = rest[file.write(rest) :]
        if like is not None:
            mine = os.fstat(fd)
            if (mine.st_uid, mine.st_gid) != (like.st_uid, like.st_gid):
                os.fchown(fd, like.st_uid, like.st_gid)
            os.fchmod(fd, stat.S_IMODE(like.st_mode))
        os.fsync(fd)


def _sync_folder(folder: str) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
