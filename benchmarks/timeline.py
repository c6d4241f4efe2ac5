"""Says what a fault has done, from the calls that were made around it. Pure: times and calls in, figures out.

Times are nanoseconds of the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import dataclasses
import math
import re
import statistics
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

NS_PER_S: Final = 1_000_000_000
NS_PER_MS: Final = 1_000_000
FAULT_CHARACTERS_MAX: Final = 160


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """One call; `fault` is empty if its answer was the right one."""

    server: int
    started_ns: int
    ended_ns: int
    fault: str = ""

    @property
    def ms(self) -> float:
        return (self.ended_ns - self.started_ns) / NS_PER_MS


@dataclasses.dataclass(frozen=True, slots=True)
class Fault:
    """Something that was killed, and what could be seen of it from outside. None: not seen."""

    kind: str
    server: int | None
    """The server it hits; None if it hits all of them."""
    killed_ns: int
    noticed_ns: int | None = None
    """The parent of the killed process has reaped it."""
    replaced_ns: int | None = None
    """Another process has taken its place: it exists and has its title."""
    outlived_until_ns: int = 0
    """Until then those that were there before may have gone on answering, because not they themselves were killed."""


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What one fault has done. Times are ms since the kill, nan for what never came."""

    noticed_ms: float
    replaced_ms: float
    first_good_ms: float
    """Until a call that was made after the kill was answered well; where all servers are hit, on the last of them."""
    failed_here: int
    """Calls on the servers that were hit."""
    failed_elsewhere: int
    p99_before_ms: float
    """Of the good calls on the other servers; nan if there are no others."""
    p99_during_ms: float

    @property
    def healed_ms(self) -> float:
        """From the replacement to the first good call."""
        return self.first_good_ms - self.replaced_ms

    @property
    def p99_rise_ms(self) -> float:
        return self.p99_during_ms - self.p99_before_ms


@dataclasses.dataclass(frozen=True, slots=True)
class Window:
    """How much time around a kill is looked at."""

    before_s: float
    after_s: float

    def around(self, calls: Iterable[Call], killed_ns: int) -> list[Call]:
        """Return the calls that were under way within it, also those that got no answer until much later."""
        first = killed_ns - int(self.before_s * NS_PER_S)
        last = killed_ns + int(self.after_s * NS_PER_S)
        return [call for call in calls if first <= call.ended_ns and call.started_ns < last]


def analyse(calls: Iterable[Call], fault: Fault, window: Window) -> Outcome:
    """Return what `fault` has done to the calls around it; they come in any order, and may reach beyond the window."""
    around = window.around(calls, fault.killed_ns)
    here = [call for call in around if is_hit(call, fault) and call.ended_ns >= fault.killed_ns]
    others = [call for call in around if not is_hit(call, fault)]
    before = [call.ms for call in others if not call.fault and call.ended_ns < fault.killed_ns]
    during = [call.ms for call in others if not call.fault and call.ended_ns >= fault.killed_ns]
    # What is our own child is seen by calls only: the first of them that fails is when it was noticed.
    noticed_ns = fault.noticed_ns or min((call.ended_ns for call in here if call.fault), default=None)
    return Outcome(
        noticed_ms=_ms_since(fault.killed_ns, noticed_ns),
        replaced_ms=_ms_since(fault.killed_ns, fault.replaced_ns),
        first_good_ms=_first_good_ms(here, {call.server for call in around if is_hit(call, fault)}, fault),
        failed_here=sum(bool(call.fault) for call in here),
        failed_elsewhere=sum(bool(call.fault) for call in others if call.ended_ns >= fault.killed_ns),
        p99_before_ms=percentile(before, 99),
        p99_during_ms=percentile(during, 99),
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Observation:
    """One fault, what it did, and the calls around it."""

    fault: Fault
    outcome: Outcome
    calls: list[Call]


def observe(calls: Iterable[Call], fault: Fault, window: Window) -> Observation:
    around = window.around(calls, fault.killed_ns)
    return Observation(fault, analyse(around, fault, window), around)


def is_hit(call: Call, fault: Fault) -> bool:
    return fault.server is None or call.server == fault.server


def _ms_since(killed_ns: int, then_ns: int | None) -> float:
    return math.nan if then_ns is None else (then_ns - killed_ns) / NS_PER_MS


def _first_good_ms(calls: Sequence[Call], servers: set[int], fault: Fault) -> float:
    # A call made before the kill may have been answered before it, too: only its answer came after.
    first = dict.fromkeys(servers, math.inf)
    for call in calls:
        if not call.fault and call.started_ns >= fault.killed_ns and call.ended_ns >= fault.outlived_until_ns:
            first[call.server] = min(first[call.server], call.ended_ns)
    last = max(first.values(), default=math.inf)
    return math.nan if math.isinf(last) else (last - fault.killed_ns) / NS_PER_MS


def percentile(values: Iterable[float], percent: float) -> float:
    """Return the smallest value that `percent` of them do not exceed; nan if there are none, or one is nan."""
    ordered = sorted(values)
    if not ordered or any(math.isnan(value) for value in ordered):
        return math.nan
    return ordered[max(math.ceil(len(ordered) * percent / 100) - 1, 0)]


def median(values: Iterable[float]) -> float:
    """nan if there are none, or one is nan: what has never come has no median."""
    known = list(values)
    return math.nan if not known or any(map(math.isnan, known)) else statistics.median(known)


def kind_of(fault: str) -> str:
    """Return the reason of a failed call without what differs from call to call, and from server to server."""
    return re.sub(r"\d+(\.\d+)?", "N", fault)[:FAULT_CHARACTERS_MAX]


@dataclasses.dataclass(frozen=True, slots=True)
class Bin:
    """A short time, counted from the kill."""

    middle_s: float
    calls_per_s: float
    """Good answers."""
    failed_per_s: float
    p99_ms: float


def bins(calls: Iterable[Call], origin_ns: int, window: Window, bin_s: float) -> Iterator[Bin]:
    """Divide the calls around `origin_ns` into bins of equal length by the time they ended."""
    count = max(round((window.before_s + window.after_s) / bin_s), 1)
    first_ns = origin_ns - int(window.before_s * NS_PER_S)
    latencies: list[list[float]] = [[] for _ in range(count)]
    failed = [0] * count
    for call in calls:
        index = math.floor((call.ended_ns - first_ns) / NS_PER_S / bin_s)
        if not 0 <= index < count:
            continue
        if call.fault:
            failed[index] += 1
        else:
            latencies[index].append(call.ms)
    for index in range(count):
        yield Bin(
            middle_s=(index + 0.5) * bin_s - window.before_s,
            calls_per_s=len(latencies[index]) / bin_s,
            failed_per_s=failed[index] / bin_s,
            p99_ms=percentile(latencies[index], 99),
        )
