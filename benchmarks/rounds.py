"""Keeps what one round of load has measured: counts, latencies, faults."""

from __future__ import annotations

import collections
import dataclasses
from typing import Final, Protocol

SUB_BUCKET_BITS: Final = 6
"""Each power of two is divided into 64 equal buckets, so a latency is known to within 1.6 %."""
BUCKETS: Final = (40 - SUB_BUCKET_BITS) << SUB_BUCKET_BITS
"""Enough for 2**39 ns, nine minutes; no call is waited for so long."""


class Histogram:
    """Counts of latencies in nanoseconds, in buckets that are linear within each power of two."""

    def __init__(self) -> None:
        self.counts = [0] * BUCKETS

    def add(self, latency_ns: int) -> None:
        self.counts[bucket_of(latency_ns)] += 1

    def merge(self, other: Histogram) -> None:
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]

    def percentile_ns(self, percent: float) -> float:
        """Return the latency that `percent` of the calls did not exceed (middle of its bucket); nan without calls."""
        wanted = sum(self.counts) * percent / 100
        seen = 0
        for index, count in enumerate(self.counts):
            seen += count
            if count and seen >= wanted:
                low, high = bounds_of(index)
                return (low + high) / 2
        return float("nan")


def bucket_of(latency_ns: int) -> int:
    exponent = max(latency_ns.bit_length() - SUB_BUCKET_BITS - 1, 0)
    return min((exponent << SUB_BUCKET_BITS) + (latency_ns >> exponent), BUCKETS - 1)


def bounds_of(index: int) -> tuple[int, int]:
    """Return the lowest latency of a bucket and the lowest of the next."""
    exponent = max((index >> SUB_BUCKET_BITS) - 1, 0)
    low = index - (exponent << SUB_BUCKET_BITS)
    return low << exponent, (low + 1) << exponent


@dataclasses.dataclass(slots=True)
class LoadResult:
    """What the generator saw in one round. `seconds` runs from the first call to the last answer."""

    calls: int = 0
    """Good answers."""
    failed: int = 0
    """Wrong, missing and error answers; they are in no other number."""
    seconds: float = 0.0
    generator_cpu_ns: int = 0
    latencies: Histogram = dataclasses.field(default_factory=Histogram)
    faults: collections.Counter[str] = dataclasses.field(default_factory=lambda: collections.Counter[str]())

    @property
    def attempts(self) -> int:
        return self.calls + self.failed

    def fail(self, reason: str) -> None:
        self.failed += 1
        if reason in self.faults or len(self.faults) < FAULT_KINDS_MAX:
            self.faults[reason] += 1


FAULT_KINDS_MAX: Final = 8
"""Different reasons kept of one round; all failures are counted, whatever their reason."""


class Load(Protocol):
    """An open load on one subject: `run` may be called several times before `close`."""

    def run(self, seconds: float) -> LoadResult:
        """Keep all connections busy for so long, then wait for the last answers."""
        ...

    def close(self) -> None: ...
