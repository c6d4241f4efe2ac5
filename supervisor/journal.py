"""What the root remembers of workers that failed: the newest crash reports, for whoever asks later. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from protocol.flight import DUMP_BYTES
from protocol.limits import CRASH_REPORTS_MAX
from protocol.log_lines import redact
from supervisor.restart import End


@dataclass(frozen=True, slots=True)
class CrashReport:
    """The end of one incarnation that nobody had asked for."""

    name: str
    incarnation: int
    end: End
    at: float
    """Seconds since 1970."""
    dump: str
    """The stacks it wrote down when it was aborted, innermost frame first, without secrets; "" if it did not get to it.
    At most `DUMP_BYTES` characters."""


class Journal:
    """The last `CRASH_REPORTS_MAX` reports."""

    def __init__(self) -> None:
        self._reports: deque[CrashReport] = deque(maxlen=CRASH_REPORTS_MAX)

    def note(self, name: str, incarnation: int, end: End, at: float, dump: bytes) -> CrashReport:
        """Keep a report of this end, and return it. `dump`: as the worker left it, filled up with zeros."""
        text = redact(dump[:DUMP_BYTES].rstrip(b"\0").decode("utf-8", "replace"))[:DUMP_BYTES]
        report = CrashReport(name, incarnation, end, at, text)
        self._reports.append(report)
        return report

    @property
    def reports(self) -> Sequence[CrashReport]:
        """Oldest first."""
        return tuple(self._reports)
