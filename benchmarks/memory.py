"""Measures how much memory a large answer takes in each process it passes, in multiples of its own size.

This is how copies are counted from outside: a process that receives an answer into one buffer and sends that buffer has
touched once its size, each copy adds once its size, and a process that streams stays near 0. CPU time cannot tell,
because checking a megabyte of JSON costs more than copying it.

It works on processes that have seen no large answer yet: memory that was used and freed is used again unnoticed. Each
call asks for more than the one before, so that even the allocator's own reserve is too small for it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import resource
from pathlib import Path
from typing import Final

from benchmarks.messages import Workload
from benchmarks.subjects import Subject
from benchmarks.wire import ExchangeError
from protocol.versions import Era

SIZES: Final = (4_000_000, 8_000_000, 12_000_000)
_RESET_PEAK: Final = "5"
"""What to write to /proc/PID/clear_refs (proc(5))."""


def per_large_answer(subject: Subject) -> dict[str, float]:
    """Return for each part of a fresh subject the largest multiple seen; {} where the kernel does not tell.

    Raises ExchangeError or ValueError if an answer is not as it should be."""
    multiples: dict[str, float] = {}
    for size in SIZES:
        with contextlib.closing(subject.open_load(Workload(size, Era.LEGACY), 1)) as load:
            parts = subject.parts()
            before = {pid: _Use.of(pid, reset=True) for pid in parts}
            result = load.run(0.0)
            if not result.calls:
                raise ExchangeError(next(iter(result.faults), "no answer"))
            for pid, part in parts.items():
                was, now = before[pid], _Use.of(pid)
                if was is not None and now is not None:
                    multiples[part] = max(multiples.get(part, 0.0), now.beyond(was) / size)
    return multiples


@dataclasses.dataclass(frozen=True, slots=True)
class _Use:
    """Memory of one process, in bytes."""

    resident: int
    peak: int
    touched: int
    """Pages that were touched for the first time since the process began; large pages count as small ones."""

    @classmethod
    def of(cls, pid: int, *, reset: bool = False) -> _Use | None:
        try:
            if reset:
                Path(f"/proc/{pid}/clear_refs").write_text(_RESET_PEAK)
            status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            # The second field of stat, a name in parentheses, may contain anything; minflt is the tenth.
            faults = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[7])
        except (OSError, KeyError):
            return None
        kilobytes = [int(status[name].split()[0]) for name in ("VmRSS", "VmHWM")]
        return cls(kilobytes[0] * 1024, kilobytes[1] * 1024, faults * resource.getpagesize())

    def beyond(self, before: _Use) -> int:
        """Return how much was needed since then: all that was touched, or what was in use at once if that is more."""
        return max(self.touched - before.touched, self.peak - before.resident)
