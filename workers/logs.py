"""A worker's log: warnings and errors for people on standard error, JSON lines in the log file the root has opened.

A line is one write and never waits: where it cannot be written at once it is dropped and counted, because a log nobody
reads must not stop a call.
"""

from __future__ import annotations

import logging
import os
import select
import sys
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Final, Protocol, cast

import structlog

from protocol.control import Boot, FrontSettings
from protocol.log_lines import dropped, human_line, json_line

LEVELS: Final[Mapping[str, int]] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


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


class _Sink:
    """Writes rendered lines; what structlog calls the logger."""

    def __init__(self, who: str, file_fd: int | None) -> None:
        self._who = who
        self._file = None if file_fd is None else _Target(file_fd, self._json_note, may_wait=False)
        self._stderr = _Target(sys.stderr.fileno(), lambda text: human_line(f"{who}: {text}"), may_wait=True)

    @property
    def dropped(self) -> int:
        """Lines that have been lost and whose loss could not be told yet."""
        return self._stderr.dropped + (self._file.dropped if self._file else 0)

    def msg(self, level: str, fields: MutableMapping[str, Any]) -> None:
        trace = fields.pop("exception", "")
        if self._file is not None:
            self._file.write(json_line({"who": self._who, **fields, **({"exception": trace} if trace else {})}))
        if level in ("warning", "error"):
            details = "".join(
                f", {name} {value}" for name, value in fields.items() if name not in ("event", "level", "timestamp")
            )
            self._stderr.write(human_line(f"{self._who}: {fields['event']}{details}"))

    debug = info = warning = error = msg

    def _json_note(self, text: str) -> bytes:
        return json_line({"who": self._who, "event": text, "level": "warning"})


def open_log(boot: Boot, file_fd: int | None) -> Log:
    """Return the log of the worker that `boot` describes."""
    who = boot.name if isinstance(boot.settings, FrontSettings) else f"server {boot.name}"
    return cast(
        "Log",
        structlog.wrap_logger(
            _Sink(who, file_fd),
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.format_exc_info,
                _for_sink,
            ],
            wrapper_class=structlog.make_filtering_bound_logger(LEVELS[boot.log.level]),
            cache_logger_on_first_use=True,
        ),
    )


def _for_sink(logger: object, method: str, event: MutableMapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    del logger
    return (method, event), {}
