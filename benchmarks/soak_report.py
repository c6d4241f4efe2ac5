"""Turns a soak into figures: failed calls by kind, what processes held over time, and the verdict."""

from __future__ import annotations

import collections
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks import footprint, plot, timeline
from benchmarks.plot import Line, Panel
from benchmarks.report import columns, figure
from benchmarks.targets import Verdict
from benchmarks.timeline import NS_PER_S, Call, Fault, Window, is_hit, percentile

BINS: Final = 200
EFFECT_S: Final = 5.0
"""Calls on what a fault has hit may fail for so long: a server is away for half a second, then probed once a second."""
GROWTH_PERCENT_MAX: Final = 5.0
UNANSWERED: Final = "no answer within"
MIB: Final = 1024 * 1024


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """What the proxy held at one moment."""

    at_ns: int
    processes: int
    descriptors: int
    """Of all processes, without TCP connections."""
    connections: int
    root_rss: int
    pss: int
    """Of all processes, bytes."""


def take_sample(roles: Mapping[int, str]) -> Sample:
    descriptors, connections = footprint.descriptors(roles)
    return Sample(
        at_ns=time.perf_counter_ns(),
        processes=len(roles),
        descriptors=descriptors,
        connections=connections,
        root_rss=sum(footprint.rss_bytes(pid) for pid, role in roles.items() if role == "root"),
        pss=sum(map(footprint.pss_bytes, roles)),
    )


def tables(calls: Sequence[Call], faults: Sequence[Fault], before: Sample | None, after: Sample | None) -> str:
    if not calls:
        return "nothing was measured"
    failed = sum(bool(call.fault) for call in calls)
    seconds = max((calls[-1].ended_ns - calls[0].ended_ns) / NS_PER_S, 1e-9)
    latency = percentile((call.ms for call in calls if not call.fault), 99)
    said = f"{len(calls):,} calls in {seconds:,.0f} s, {failed:,} failed; p99 of the good ones {figure(latency)} ms"
    kinds = collections.Counter(fault.kind for fault in faults)
    blocks = [said, "Faults: " + (", ".join(f"{count} times {kind}" for kind, count in kinds.items()) or "none")]
    if reasons := failure_kinds(calls):
        blocks.append("\n".join(["Failed calls:", *(f"  {count} times {why}" for why, count in reasons.most_common())]))
    if before and after:
        rows = [("at rest", "before", "after")]
        rows += [(name, f"{of(before):,.10g}", f"{of(after):,.10g}") for name, of in _HELD.items()]
        blocks.append(columns(rows))
    return "\n\n".join(blocks)


_HELD: Final[Mapping[str, Callable[[Sample], float]]] = {
    "processes": lambda sample: sample.processes,
    "descriptors": lambda sample: sample.descriptors,
    "TCP connections": lambda sample: sample.connections,
    "RSS of the root, MiB": lambda sample: round(sample.root_rss / MIB, 2),
    "PSS of all, MiB": lambda sample: round(sample.pss / MIB, 2),
}


def failure_kinds(calls: Sequence[Call]) -> collections.Counter[str]:
    return collections.Counter(timeline.kind_of(call.fault) for call in calls if call.fault)


def unexplained(calls: Sequence[Call], faults: Sequence[Fault]) -> Iterator[Call]:
    """Yield the failed calls on servers that no fault has hit within the EFFECT_S before."""
    for call in calls:
        if call.fault and not any(
            is_hit(call, fault) and fault.killed_ns <= call.ended_ns < fault.killed_ns + EFFECT_S * NS_PER_S
            for fault in faults
        ):
            yield call


def verdicts(
    calls: Sequence[Call], faults: Sequence[Fault], before: Sample | None, after: Sample | None
) -> list[Verdict]:
    made: list[Verdict] = []
    if calls:
        count = sum(1 for _ in unexplained(calls, faults))
        made.append(Verdict("failed calls that no fault explains", 0, False, count))
        count = sum(call.fault.startswith(UNANSWERED) for call in calls)
        made.append(Verdict("calls that were never answered", 0, False, count))
    if before and after:
        made.append(Verdict("processes more or fewer", 0, False, abs(after.processes - before.processes)))
        made.append(Verdict("descriptors more or fewer", 0, False, abs(after.descriptors - before.descriptors)))
        for what, old, new in (
            ("RSS of the root", before.root_rss, after.root_rss),
            ("PSS of all processes", before.pss, after.pss),
        ):
            grown = (new / old - 1) * 100 if old else math.inf
            made.append(Verdict(f"% more: {what}", GROWTH_PERCENT_MAX, False, grown))
    return made


def document(
    calls: Sequence[Call],
    faults: Sequence[Fault],
    samples: Sequence[Sample],
    before: Sample | None,
    after: Sample | None,
) -> dict[str, Any]:
    return {
        "calls": len(calls),
        "failed": dict(failure_kinds(calls)),
        "faults": [{"kind": fault.kind, "server": fault.server, "at_ns": fault.killed_ns} for fault in faults],
        "before": dataclasses.asdict(before) if before else None,
        "after": dataclasses.asdict(after) if after else None,
        "samples": [dataclasses.asdict(sample) for sample in samples],
    }


def write_plot(calls: Sequence[Call], samples: Sequence[Sample], directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / "soak.svg"
    file.write_text(draw(calls, samples), encoding="utf-8")
    return file


def draw(calls: Sequence[Call], samples: Sequence[Sample]) -> str:
    """Draw calls, memory, descriptors and processes over the whole time."""
    origin_ns = samples[0].at_ns if samples else 0
    seconds = max((samples[-1].at_ns - origin_ns) / NS_PER_S, 1.0) if samples else 1.0
    bins = list(timeline.bins(calls, origin_ns, Window(0.0, seconds), seconds / BINS))

    def held(label: str) -> Line:
        return Line(label, [((sample.at_ns - origin_ns) / NS_PER_S, _HELD[label](sample)) for sample in samples])

    panels = [
        Panel(
            "calls/s",
            [
                Line("good", [(each.middle_s, each.calls_per_s) for each in bins]),
                Line("failed", [(each.middle_s, each.failed_per_s) for each in bins]),
            ],
        ),
        Panel("p99 ms", [Line("good calls", [(each.middle_s, each.p99_ms) for each in bins])]),
        Panel("memory", [held("PSS of all, MiB"), held("RSS of the root, MiB")]),
        Panel("held", [held("descriptors"), held("TCP connections"), held("processes")]),
    ]
    return plot.draw("faults at random under load", "seconds", panels)
