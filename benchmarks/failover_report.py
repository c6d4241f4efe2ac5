"""Turns observed faults into figures: medians and p99 over repetitions, promised numbers, plots."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks import faults, plot, timeline
from benchmarks.plot import Line, Panel
from benchmarks.report import columns, figure, finite
from benchmarks.stand import FRONT, ZYGOTE
from benchmarks.targets import Verdict
from benchmarks.timeline import Observation, Outcome, Window, is_hit, median, percentile

BIN_S: Final = 0.05
SERVED_P50_MS_MAX: Final = 25.0
SERVED_P99_MS_MAX: Final = 60.0
RISE_MS_MAX: Final = 1.0
RISE_RATIO_MAX: Final = 0.10
TIMES: Final[Mapping[str, Callable[[Outcome], float]]] = {
    "noticed": lambda outcome: outcome.noticed_ms,
    "replaced": lambda outcome: outcome.replaced_ms,
    "first good call": lambda outcome: outcome.first_good_ms,
}
HEADINGS: Final = ("killed", "times", *TIMES, "failed here", "elsewhere", "p99 ms before", "during")
LEGEND: Final = (
    "Milliseconds since the kill, median / p99 over all times it was done. noticed: the killed process has been reaped "
    "(a server: the first call has failed); replaced: another is there (a server: after the 500 ms it was kept away); "
    "first good call: of those made after the kill, on the server that was hit; where all are hit, on the last of "
    "them. failed: calls in all; here: on the servers that were hit. p99: of calls on the other servers, median."
)


def table(observations: Sequence[Observation]) -> str:
    """Return a row for each kind of fault, and why calls have failed."""
    if not observations:
        return "nothing was measured"
    rows = [HEADINGS, *(_row(kind, found) for kind, found in _by_kind(observations).items())]
    return "\n\n".join([columns(rows), LEGEND, *_reasons(observations)])


def _row(kind: str, found: Sequence[Observation]) -> tuple[str, ...]:
    outcomes = [each.outcome for each in found]
    return (
        kind,
        str(len(found)),
        *(_median_and_p99(map(time_of, outcomes)) for time_of in TIMES.values()),
        str(sum(outcome.failed_here for outcome in outcomes)),
        str(sum(outcome.failed_elsewhere for outcome in outcomes)) if found[0].fault.server is not None else "",
        figure(median(outcome.p99_before_ms for outcome in outcomes)),
        figure(median(outcome.p99_during_ms for outcome in outcomes)),
    )


def _median_and_p99(values: Iterable[float]) -> str:
    known = list(values)
    return f"{figure(median(known)) or 'never'} / {figure(percentile(known, 99)) or 'never'}"


def _reasons(observations: Sequence[Observation]) -> Iterator[str]:
    for kind, found in _by_kind(observations).items():
        reasons = failure_kinds(found)
        if reasons:
            lines = [f"  {count} times {reason}" for reason, count in reasons.most_common()]
            yield "\n".join([f"Failed calls after the {kind} was killed:", *lines])


def failure_kinds(found: Iterable[Observation]) -> collections.Counter[str]:
    return collections.Counter(
        timeline.kind_of(call.fault)
        for each in found
        for call in each.calls
        if call.fault and call.ended_ns >= each.fault.killed_ns
    )


def _by_kind(observations: Iterable[Observation]) -> dict[str, list[Observation]]:
    found: dict[str, list[Observation]] = {}
    for each in observations:
        found.setdefault(each.fault.kind, []).append(each)
    return found


def verdicts(observations: Sequence[Observation], connections: int) -> list[Verdict]:
    """Compare with what is promised. `connections`: open ones when the front is killed."""
    made: list[Verdict] = []
    by_kind = _by_kind(observations)
    for kind, found in by_kind.items():
        outcomes = [each.outcome for each in found]
        if kind == faults.WORKER_KIND:
            served = [outcome.first_good_ms for outcome in outcomes]
            made.append(
                _at_most("ms from killing a worker to the next good call, p50", SERVED_P50_MS_MAX, median(served))
            )
            p99 = percentile(served, 99)
            made.append(_at_most("ms from killing a worker to the next good call, p99", SERVED_P99_MS_MAX, p99))
        if kind in (faults.WORKER_KIND, faults.SERVER_KIND):
            elsewhere = sum(outcome.failed_elsewhere for outcome in outcomes)
            made.append(_at_most(f"failed calls on other servers while a {kind} is killed", 0, elsewhere))
            before = median(outcome.p99_before_ms for outcome in outcomes)
            rise = median(outcome.p99_rise_ms for outcome in outcomes)
            bound = RISE_MS_MAX if math.isnan(before) else max(RISE_RATIO_MAX * before, RISE_MS_MAX)
            made.append(_at_most(f"ms the p99 of other servers rises while a {kind} is killed", bound, rise))
        elif kind == FRONT:
            most = max(outcome.failed_here for outcome in outcomes)
            made.append(_at_most("failed calls when the front is killed (one per connection)", connections, most))
        if kind in (FRONT, ZYGOTE):
            never = sum(math.isnan(outcome.first_good_ms) for outcome in outcomes)
            made.append(_at_most(f"times a server stayed away after the {kind} was killed", 0, never))
    return made


def _at_most(what: str, bound: float, measured: float) -> Verdict:
    """What never came is no missing measurement but a missed promise."""
    return Verdict(what, bound, False, math.inf if math.isnan(measured) else measured)


def document(observations: Sequence[Observation]) -> dict[str, Any]:
    return {
        "faults": {
            kind: {
                "failed": dict(failure_kinds(found)),
                "observations": [
                    {"server": each.fault.server, **{k: finite(v) for k, v in dataclasses.asdict(each.outcome).items()}}
                    for each in found
                ],
            }
            for kind, found in _by_kind(observations).items()
        }
    }


def write_plots(observations: Sequence[Observation], directory: Path, windows: Mapping[str, Window]) -> Iterator[Path]:
    """Draw one plot for each kind of fault, all its repetitions in one. `directory` is made if need be."""
    directory.mkdir(parents=True, exist_ok=True)
    for kind, found in _by_kind(observations).items():
        file = directory / f"failover-{kind}.svg"
        file.write_text(draw(kind, found, windows[kind]), encoding="utf-8")
        yield file


def draw(kind: str, found: Sequence[Observation], window: Window) -> str:
    """Draw calls/s and p99 around the kill: mean of the repetitions, and p99 over all of their calls."""
    groups = {"servers hit": True} if found[0].fault.server is None else {"server hit": True, "others": False}
    speeds: list[Line] = []
    latencies: list[Line] = []
    for label, hit in groups.items():
        merged = [
            dataclasses.replace(
                call,
                started_ns=call.started_ns - each.fault.killed_ns,
                ended_ns=call.ended_ns - each.fault.killed_ns,
            )
            for each in found
            for call in each.calls
            if is_hit(call, each.fault) is hit
        ]
        bins = list(timeline.bins(merged, 0, window, BIN_S))
        speeds.append(Line(label, [(each.middle_s, each.calls_per_s / len(found)) for each in bins]))
        latencies.append(Line(label, [(each.middle_s, each.p99_ms) for each in bins]))
        if hit and any(each.failed_per_s for each in bins):
            speeds.append(Line("failed", [(each.middle_s, each.failed_per_s / len(found)) for each in bins]))
    marks = [(0.0, "killed")]
    served = median(each.outcome.first_good_ms for each in found)
    if not math.isnan(served):
        marks.append((served / 1000, f"first good call, {figure(served)} ms"))
    title = f"{kind} killed, {len(found)} times; proxy with {_servers(found)} servers"
    return plot.draw(title, "seconds since the kill", [Panel("calls/s", speeds), Panel("p99 ms", latencies)], marks)


def _servers(found: Sequence[Observation]) -> int:
    return len({call.server for each in found for call in each.calls})
