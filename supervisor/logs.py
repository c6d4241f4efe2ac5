"""Configure the root's logging: short lines for people on standard error, JSON lines in the log file if there is one.

A line is written in one piece or not at all, and writing never waits: a log that nobody reads must not stop the proxy.
What did not fit is counted, and the count is told as soon as there is room again.
"""

from __future__ import annotations

import contextlib
import os
import select
import stat
from collections.abc import Callable, Mapping, MutableMapping
from typing import Final, NoReturn, cast

import structlog

from protocol import log_lines

_NONBLOCKING: Final = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY
_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}

Log = structlog.typing.FilteringBoundLogger


class Sink:
    """Writes whole lines to a descriptor, or drops and counts them. `render`: makes a line of a text."""

    def __init__(self, fd: int, render: Callable[[str], bytes] = log_lines.human_line) -> None:
        self.dropped = 0
        self._render = render
        self._fd = fd
        kind = os.fstat(fd).st_mode
        if stat.S_ISFIFO(kind) or stat.S_ISCHR(kind):
            # A description of our own, so that "do not wait" is said to nobody else who writes to the pipe or terminal.
            with contextlib.suppress(OSError):
                self._fd = os.open(f"/proc/self/fd/{fd}", _NONBLOCKING)
        self._may_wait = self._fd == fd and not stat.S_ISREG(kind)

    def write(self, line: bytes) -> None:
        if not self._put(line):
            self.dropped += 1
        elif self.dropped and self._put(self._render(log_lines.dropped(self.dropped))):
            self.dropped = 0

    def _put(self, line: bytes) -> bool:
        if self._may_wait and not _is_writable(self._fd):
            return False
        try:
            return os.write(self._fd, line) == len(line)
        except OSError:  # full, closed, or out of disk
            return False


def json_note(text: str) -> bytes:
    """Return a line of the log file that is about the log itself."""
    return log_lines.json_line({"process": "root", "event": text, "level": "warning"})


def _is_writable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(0))


class _Output:
    """The last processor: renders an event and hands it to the sinks."""

    def __init__(self, stderr: Sink, file: Sink | None) -> None:
        self._stderr = stderr
        self._file = file

    def __call__(self, _logger: object, level: str, event: MutableMapping[str, object]) -> NoReturn:
        if _LEVELS.get(level, 0) >= _LEVELS["info"]:
            who = event.get("who")
            self._stderr.write(log_lines.human_line(f"{who}: {event['event']}" if who else str(event["event"])))
        if self._file:
            self._file.write(log_lines.json_line(cast("Mapping[str, object]", event)))
        raise structlog.DropEvent


def configure(*, debug: bool, file_fd: int | None) -> Log:
    """Return the root's logger. `who` of an event is the child it is about; `event` is a sentence for people."""
    output = _Output(Sink(2), Sink(file_fd, json_note) if file_fd is not None else None)
    processors: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        output,
    ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS["debug" if debug else "info"]),
        logger_factory=structlog.ReturnLoggerFactory(),
        cache_logger_on_first_use=True,
    )
    return cast("Log", structlog.get_logger(process="root"))
