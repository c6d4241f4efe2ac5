"""A worker's log: warnings and errors for people on standard error, JSON lines in the log file the root has opened.

A line is one write and never waits: where it cannot be written at once it is dropped and counted, because a log nobody
reads must not stop a call.
"""

from __future__ import annotations

import logging
import os
import select
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Final, Protocol, cast

import structlog

from protocol.control import Boot, FrontSettings
from protocol.log_lines import human_line, json_line

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


class _Sink:
    """Writes rendered lines; what structlog calls the logger."""

    def __init__(self, who: str, file_fd: int | None) -> None:
        self._who = who
        self._file_fd = file_fd
        self._stderr_fd = sys.stderr.fileno()
        self._poll = select.poll()
        self._poll.register(self._stderr_fd, select.POLLOUT)
        self.dropped = 0

    def msg(self, level: str, fields: MutableMapping[str, Any]) -> None:
        trace = fields.pop("exception", "")
        if self._file_fd is not None:
            line = json_line({"who": self._who, **fields, **({"exception": trace} if trace else {})})
            self._write(self._file_fd, line)
        if level in ("warning", "error") and self._writable():
            details = "".join(
                f", {name} {value}" for name, value in fields.items() if name not in ("event", "level", "timestamp")
            )
            self._write(self._stderr_fd, human_line(f"{self._who}: {fields['event']}{details}"))

    debug = info = warning = error = msg

    def _writable(self) -> bool:
        """A pipe that is ready takes PIPE_BUF bytes without waiting (pipe(7)); a line is never longer."""
        ready = bool(self._poll.poll(0))
        self.dropped += not ready
        return ready

    def _write(self, fd: int, line: bytes) -> None:
        try:
            os.write(fd, line)
        except OSError:
            self.dropped += 1


def open_log(boot: Boot, file_fd: int | None) -> Log:
    """Return the log of the worker that `boot` describes."""
    who = "front" if isinstance(boot.settings, FrontSettings) else f"server {boot.name}"
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
