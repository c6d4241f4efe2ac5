"""Keeps the ids of sessions that clients have ended in a file, so that they stay ended when the proxy is started anew.

A session id is good wherever its key is (protocol/session_token.py), so the file lies beside the key. It is a line for
each id, oldest first, which several proxies with one state directory append to. What is lost of it is a session that
is good again, which its client alone knows; so a disk that is full, slow or gone stops nothing.

Rule 1: writing is for a thread, and what comes while it writes, or less than a second later, is written together.
Rule 2: the file is not longer than `FILE_BYTES_MAX` for long: then it is replaced, in one step, by its newest ids.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import trio

from supervisor.logs import Log
from supervisor.memory import ENDED_BYTES_MAX, ENDED_MAX, ID_CHARS_MAX

FILE_NAME: Final = "ended-sessions"
FILE_BYTES_MAX: Final = 2 * ENDED_BYTES_MAX
WRITE_EVERY_S: Final = 1.0
LAST_WRITE_S: Final = 1.0
"""A stop waits no longer for a disk."""
_APPENDING: Final = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK


class EndedFile:
    """The file at this path."""

    def __init__(self, path: Path, log: Log) -> None:
        self._path = path
        self._log = log
        self._waiting: dict[str, None] = {}
        """Not written yet, oldest first."""
        self._added = trio.Event()
        self._failed = False

    def load(self) -> list[str]:
        """Return what is in the file, oldest first; nothing if there is none that can be used."""
        try:
            return list(_ids(_read(self._path)))
        except FileNotFoundError:
            return []
        except OSError as error:
            self._complain(error)
            return []

    def add(self, session_id: str) -> None:
        """Have it written soon."""
        if _is_id(session_id):
            self._waiting[session_id] = None
            if len(self._waiting) > ENDED_MAX:
                del self._waiting[next(iter(self._waiting))]
            self._added.set()

    async def run(self) -> None:
        """Write what is added, until cancelled."""
        while True:
            await self._added.wait()
            self._added = trio.Event()
            await self._write()
            await trio.sleep(WRITE_EVERY_S)

    async def finish(self) -> None:
        """Write what is left, once `run` has been cancelled."""
        with trio.move_on_after(LAST_WRITE_S):
            await self._write()

    async def _write(self) -> None:
        if not self._waiting:
            return
        batch = tuple(self._waiting)
        try:
            await trio.to_thread.run_sync(_append, self._path, batch, abandon_on_cancel=True)
        except OSError as error:  # the next write tries these again
            self._complain(error)
            return
        self._failed = False
        for session_id in batch:
            self._waiting.pop(session_id, None)

    def _complain(self, error: OSError) -> None:
        """Tell people once, and again only after it worked."""
        if not self._failed:
            self._failed = True
            self._log.warning(
                f"ended sessions cannot be kept in {self._path} ({error.strerror}): "
                "after a restart of the proxy they are good again"
            )


def _append(path: Path, session_ids: Iterable[str]) -> None:
    lines = _lines(session_ids)
    fd = os.open(path, _APPENDING, 0o600)
    with open(fd, "r+b", buffering=0) as file:
        size = _checked_size(fd)
        is_torn = size > 0 and os.pread(fd, 1, size - 1) != b"\n"  # a write before was cut short: that line is lost
        lines = b"\n" * is_torn + lines
        if file.write(lines) != len(lines):
            raise OSError(0, "no space for all of it")
    if size + len(lines) > FILE_BYTES_MAX:
        _shorten(path)


def _shorten(path: Path) -> None:
    """Replace the file by one with its newest ids. What another proxy appends just then is lost."""
    lines = _lines(_ids(_read(path)))
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(lines)
            file.flush()
            os.fsync(fd)
        draft.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise


def _read(path: Path) -> bytes:
    """Return the end of the file, which has the newest. Errors: `OSError`, also if others may have written to it."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(fd, "rb", buffering=0) as file:
        size = _checked_size(fd)
        file.seek(max(0, size - FILE_BYTES_MAX))
        return file.read(FILE_BYTES_MAX)


def _checked_size(fd: int) -> int:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise OSError(0, "it is not a plain file that only its user can write; remove it")
    return status.st_size


def _ids(content: bytes) -> Iterable[str]:
    """Return the newest ids of a file's content, oldest first, each once."""
    newest: dict[str, None] = {}
    size = 0
    for line in reversed(content.decode("ascii", "replace").split("\n")[:-1]):
        if _is_id(line) and line not in newest:
            size += len(line)
            if len(newest) == ENDED_MAX or size > ENDED_BYTES_MAX:
                break
            newest[line] = None
    return reversed(newest)


def _lines(session_ids: Iterable[str]) -> bytes:
    return "".join(f"{session_id}\n" for session_id in session_ids).encode()


def _is_id(line: str) -> bool:
    """Whether it can be the value of a header and is a line."""
    return 0 < len(line) <= ID_CHARS_MAX and line.isascii() and line.isprintable() and " " not in line
