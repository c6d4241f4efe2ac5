"""A worker's log: warnings and errors for people on standard error, JSON lines in the log file the root has opened.

A line is one write and never waits: where it cannot be written at once it is dropped and counted, because a log nobody
reads must not stop a call.
"""

from __future__ import annotations

import os
import select
import sys
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final, Protocol

from protocol.control import Boot, FrontSettings
from protocol.log_lines import dropped, human_line, json_line

LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class Log(Protocol):
    """What the rest of the worker logs to."""

    def debug(self, event: str, **fields: object) -> object: ...

    def info(self, event: str, **fields: object) -> object: ...

    def warning(self, event: str, **fields: object) -> object: ...

    def error(self, event: str, **fields: object) -> object: ...


class _Target:
    """Writes lines to one descriptor, or drops and counts them. `render`: makes a line of a text."""

    def __init__(self, fd: int, render: Callable[[str], bytes], *, may_wait: bool) -> None:
        self.dropped = 0
        self._fd = fd
        self._render = render
        self._poll: select.poll | None = None
        if may_wait:
            self._poll = select.poll()
            self._poll.register(fd, select.POLLOUT)

    def write(self, line: bytes) -> None:
        if not self._put(line):
            self.dropped += 1
        elif self.dropped and self._put(self._render(dropped(self.dropped))):
            self.dropped = 0

    def _put(self, line: bytes) -> bool:
        """A pipe that is ready takes PIPE_BUF bytes without waiting (pipe(7)); a line is never longer."""
        try:
            return (self._poll is None or bool(self._poll.poll(0))) and os.write(self._fd, line) == len(line)
        except OSError:
            return False


class WorkerLog:
    """A `Log` of everything from `least` on (a level of `LEVELS`). `who`: whose lines these are."""

    __slots__ = ("_file", "_least", "_stderr", "_who")

    def __init__(self, who: str, least: str, file_fd: int | None) -> None:
        self._who = who
        self._least = LEVELS[least]
        self._file = None if file_fd is None else _Target(file_fd, self._json_note, may_wait=False)
        self._stderr = _Target(sys.stderr.fileno(), self._human_note, may_wait=True)

    @property
    def dropped(self) -> int:
        """Lines that have been lost and whose loss could not be told yet."""
        return self._stderr.dropped + (self._file.dropped if self._file else 0)

    def debug(self, event: str, **fields: object) -> None:
        self._log("debug", event, fields)

    def info(self, event: str, **fields: object) -> None:
        self._log("info", event, fields)

    def warning(self, event: str, **fields: object) -> None:
        self._log("warning", event, fields)

    def error(self, event: str, **fields: object) -> None:
        self._log("error", event, fields)

    def _log(self, level: str, event: str, fields: dict[str, object]) -> None:
        """`exc_info`: an exception, whose traceback goes into the file."""
        for_people = level in ("warning", "error")
        if LEVELS[level] < self._least or not (for_people or self._file):
            return
        error = fields.pop("exc_info", None)
        if self._file is not None:
            trace = "".join(traceback.format_exception(error)) if isinstance(error, BaseException) else ""
            self._file.write(self._json(level, event, {**fields, "exception": trace} if trace else fields))
        if for_people:
            details = "".join(f", {name} {value}" for name, value in fields.items())
            self._stderr.write(human_line(f"{self._who}: {event}{details}"))

    def _json(self, level: str, event: str, fields: Mapping[str, object]) -> bytes:
        now = datetime.now(UTC).replace(tzinfo=None).isoformat()
        return json_line({"timestamp": f"{now}Z", "level": level, "who": self._who, "event": event, **fields})

    def _json_note(self, text: str) -> bytes:
        return self._json("warning", text, {})

    def _human_note(self, text: str) -> bytes:
        return human_line(f"{self._who}: {text}")


def open_log(boot: Boot, file_fd: int | None) -> WorkerLog:
    """Return the log of the worker that `boot` describes."""
    who = boot.name if isinstance(boot.settings, FrontSettings) else f"server {boot.name}"
    return WorkerLog(who, boot.log.level, file_fd)
