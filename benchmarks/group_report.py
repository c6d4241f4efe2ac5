"""Says what a fault of one replica has done to the calls of its group. Pure: times and calls in, figures out."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks import plot, timeline
from benchmarks.plot import Line, Panel
from benchmarks.report import columns, figure, finite
from benchmarks.targets import Verdict
from benchmarks.timeline import NS_PER_MS, NS_PER_S, Call, Window, kind_of, median, percentile

WINDOW: Final = Window(1.0, 4.0)
"""It ends before a replica that was ejected is tried again."""
LATE_MS: Final = 100.0
"""A call that takes so much longer than the slowest of a hundred did before has been held up by the fault."""
SETTLED_S: Final = 2.0
"""Afterwards calls are to take as long as before."""
BIN_S: Final = 0.05
SAFE: Final = "look"
OTHER: Final = "echo"
KILLED: Final = "killed"
HUNG: Final = "hung"
SLOW: Final = "slow"
CORRUPT: Final = "corrupt"
KINDS: Final = (KILLED, HUNG, SLOW, CORRUPT)
SHIFTED_MS_MAX: Final[Mapping[str, float]] = {KILLED: 100.0, HUNG: 1000.0}
P99_RATIO_MAX: Final = 2.0
P99_RISE_MS_MAX: Final = 10.0
"""What counts as back to normal: twice, or so much more than, what it was."""
HEADINGS: Final = ("replica is", "times", "lost: safe", "other", "shifted, ms", "p99 ms before", "first 2 s", "then")
LEGEND: Final = (
    "lost: failed calls in all; safe: of a tool that only reads; other: of one that says nothing of itself. shifted: "
    "when the last call was made that failed or was held up, in ms since the fault, median / worst; 0: none made after "
    f"it was. p99: of good answers, by when their calls were made, median of the repetitions; then: {SETTLED_S:g} s "
    "after the fault and later."
)


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What one fault has done. Times in ms."""

    kind: str
    safe_lost: int
    other_lost: int
    shifted_ms: float
    p99_before_ms: float
    p99_first_ms: float
    p99_then_ms: float
    reasons: dict[str, int]


@dataclasses.dataclass(frozen=True, slots=True)
class Observation:
    outcome: Outcome
    fault_ns: int
    calls: list[Call]
    """Of both tools."""


def observe(kind: str, fault_ns: int, safe: Iterable[Call], other: Iterable[Call]) -> Observation:
    """Return what the fault has done to the calls around it."""
    safe, other = WINDOW.around(safe, fault_ns), WINDOW.around(other, fault_ns)
    calls = [*safe, *other]
    settled_ns = fault_ns + int(SETTLED_S * NS_PER_S)
    before = [call.ms for call in calls if call.ended_ns < fault_ns and not call.fault]
    late_ms = percentile(before, 99) + LATE_MS
    made = [call for call in calls if call.ended_ns >= fault_ns]
    held_up = [call.started_ns for call in made if call.fault or call.ms > late_ms]
    after = [call for call in made if call.started_ns >= fault_ns and not call.fault]
    outcome = Outcome(
        kind=kind,
        safe_lost=sum(bool(call.fault) for call in safe if call.ended_ns >= fault_ns),
        other_lost=sum(bool(call.fault) for call in other if call.ended_ns >= fault_ns),
        shifted_ms=max([0.0, *((started_ns - fault_ns) / NS_PER_MS for started_ns in held_up)]),
        p99_before_ms=percentile(before, 99),
        p99_first_ms=percentile((call.ms for call in after if call.started_ns < settled_ns), 99),
        p99_then_ms=percentile((call.ms for call in after if call.started_ns >= settled_ns), 99),
        reasons=dict(collections.Counter(kind_of(call.fault) for call in made if call.fault)),
    )
    return Observation(outcome, fault_ns, calls)


def table(observations: Sequence[Observation]) -> str:
    if not observations:
        return "nothing was measured"
    rows = [HEADINGS, *(_row(kind, found) for kind, found in _by_kind(observations).items())]
    return "\n\n".join([columns(rows), LEGEND, *_reasons(observations)])


def _row(kind: str, found: Sequence[Outcome]) -> tuple[str, ...]:
    return (
        kind,
        str(len(found)),
        str(sum(outcome.safe_lost for outcome in found)),
        str(sum(outcome.other_lost for outcome in found)),
        f"{figure(median(outcome.shifted_ms for outcome in found))} / {figure(max(one.shifted_ms for one in found))}",
        figure(median(outcome.p99_before_ms for outcome in found)),
        figure(median(outcome.p99_first_ms for outcome in found)),
        figure(median(outcome.p99_then_ms for outcome in found)),
    )


def _reasons(observations: Sequence[Observation]) -> Iterator[str]:
    for kind, found in _by_kind(observations).items():
        reasons = sum((collections.Counter(outcome.reasons) for outcome in found), collections.Counter[str]())
        if reasons:
            lines = [f"  {count} times {reason}" for reason, count in reasons.most_common()]
            yield "\n".join([f"Failed calls after a replica was {kind}:", *lines])


def _by_kind(observations: Iterable[Observation]) -> dict[str, list[Outcome]]:
    found: dict[str, list[Outcome]] = {}
    for each in observations:
        found.setdefault(each.outcome.kind, []).append(each.outcome)
    return found


def verdicts(observations: Sequence[Observation]) -> list[Verdict]:
    """Compare with what is promised."""
    made: list[Verdict] = []
    for kind, found in _by_kind(observations).items():
        lost = sum(outcome.safe_lost for outcome in found)
        made.append(Verdict(f"failed safe calls while a replica is {kind}", 0, False, lost))
        if kind in SHIFTED_MS_MAX:
            shifted = max(outcome.shifted_ms for outcome in found)
            bound = SHIFTED_MS_MAX[kind]
            made.append(Verdict(f"ms until no call is held up, replica {kind}", bound, False, shifted))
        before = median(outcome.p99_before_ms for outcome in found)
        then = median(outcome.p99_then_ms for outcome in found)
        bound = max(P99_RATIO_MAX * before, before + P99_RISE_MS_MAX)
        then = math.inf if math.isnan(then) else then
        made.append(Verdict(f"p99 in ms {SETTLED_S:g} s after a replica was {kind}", bound, False, then))
    return made


def document(observations: Sequence[Observation]) -> dict[str, Any]:
    return {
        "faults": {
            kind: [
                {name: finite(value) if isinstance(value, float) else value for name, value in members.items()}
                for members in map(dataclasses.asdict, found)
            ]
            for kind, found in _by_kind(observations).items()
        }
    }


def write_plots(observations: Sequence[Observation], directory: Path) -> Iterator[Path]:
    """Draw one plot for each kind of fault, all its repetitions in one. `directory` is made if need be."""
    directory.mkdir(parents=True, exist_ok=True)
    for kind in _by_kind(observations):
        file = directory / f"failover-replica-{kind}.svg"
        found = [each for each in observations if each.outcome.kind == kind]
        file.write_text(draw(kind, found), encoding="utf-8")
        yield file


def draw(kind: str, found: Sequence[Observation]) -> str:
    """Draw calls/s and p99 around the fault: mean of the repetitions, and p99 over all of their calls."""
    merged = [
        dataclasses.replace(call, started_ns=call.started_ns - each.fault_ns, ended_ns=call.ended_ns - each.fault_ns)
        for each in found
        for call in each.calls
    ]
    bins = list(timeline.bins(merged, 0, WINDOW, BIN_S))
    speeds = [Line("good", [(each.middle_s, each.calls_per_s / len(found)) for each in bins])]
    if any(each.failed_per_s for each in bins):
        speeds.append(Line("failed", [(each.middle_s, each.failed_per_s / len(found)) for each in bins]))
    latencies = [Line("good", [(each.middle_s, each.p99_ms) for each in bins])]
    shifted_ms = median(each.outcome.shifted_ms for each in found)
    marks = [(0.0, kind), (shifted_ms / 1000, f"shifted, {figure(shifted_ms)} ms")]
    title = f"one of three replicas {kind}, {len(found)} times"
    return plot.draw(title, "seconds since the fault", [Panel("calls/s", speeds), Panel("p99 ms", latencies)], marks)
