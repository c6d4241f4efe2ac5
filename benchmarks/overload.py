"""Asks ten times as much of a server as it can take, and looks whether the proxy bends or breaks.

The first of two servers takes 100 ms for a call and is given at most 8 at a time, with 4 more waiting. At its *peak* 12
clients keep all of these places taken. Then as many clients as it needs call ten times as often: goodput must stay,
those accepted must not wait much longer, those refused must hear so at once and with advice, and memory must not grow.
The second server has two clients of its own all the time, who must notice nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.footprint import KIB, pss_bytes
from benchmarks.options import number_within
from benchmarks.progress import Progress
from benchmarks.report import columns, figure, finite
from benchmarks.stand import FRONT, Load, Stand, worker_role
from benchmarks.steady import read_record
from benchmarks.subjects import StartError
from benchmarks.targets import Verdict
from benchmarks.timeline import NS_PER_S, Call, kind_of, percentile
from protocol.errors import OVERLOADED

DELAY_MS: Final = 100.0
IN_FLIGHT: Final = 8
QUEUE: Final = 4
LIMITED: Final = range(1)
OTHER: Final = range(1, 2)
PEAK_CLIENTS: Final = IN_FLIGHT + QUEUE
OVERLOAD_CLIENTS: Final = 60
OVERLOAD_PAUSE_MS: Final = 40.0
"""60 clients that are mostly refused call 1,000 times a second, and 800 is ten times what the server takes."""
OTHER_CLIENTS: Final = 2
OTHER_PAUSE_MS: Final = 10.0
SECONDS: Final = 20.0
SECONDS_QUICK: Final = 4.0
SETTLE_S: Final = 1.0
SAMPLE_S: Final = 0.1
MIB: Final = KIB * KIB

TIMES_PEAK_MIN: Final = 10.0
GOODPUT_MIN: Final = 0.9
ACCEPTED_RATIO_MAX: Final = 2.0
REFUSED_P99_MS_MAX: Final = 10.0
GROWTH_RATIO_MAX: Final = 0.05
GROWTH_MIB_MIN: Final = 2.0
"""Less is noise: an allocator takes memory by the MiB."""


@dataclasses.dataclass(frozen=True, slots=True)
class Phase:
    """What became of the calls that ended within some time. Latencies in ms, nan if there were none."""

    offered_per_s: float
    good_per_s: float
    good_p50_ms: float
    good_p99_ms: float
    refused_per_s: float
    refused_p50_ms: float
    refused_p99_ms: float
    unadvised: int
    """Refused without advice when to come again."""
    failed: int
    """Neither good nor refused."""
    reasons: Sequence[str]

    @classmethod
    def of(cls, calls: Sequence[Call], from_ns: int, until_ns: int) -> Phase:
        ended = [call for call in calls if from_ns <= call.ended_ns < until_ns]
        seconds = (until_ns - from_ns) / NS_PER_S
        good = [call for call in ended if not call.fault]
        refused = [call for call in ended if is_refusal(call)]
        failed = [call for call in ended if call.fault and not is_refusal(call)]
        return cls(
            offered_per_s=len(ended) / seconds,
            good_per_s=len(good) / seconds,
            good_p50_ms=percentile((call.ms for call in good), 50),
            good_p99_ms=percentile((call.ms for call in good), 99),
            refused_per_s=len(refused) / seconds,
            refused_p50_ms=percentile((call.ms for call in refused), 50),
            refused_p99_ms=percentile((call.ms for call in refused), 99),
            unadvised=sum('"retryAfterMs":' not in call.fault for call in refused),
            failed=len(failed),
            reasons=sorted({kind_of(call.fault) for call in failed}),
        )


def is_refusal(call: Call) -> bool:
    return f'"code":{OVERLOADED},' in call.fault


@dataclasses.dataclass(slots=True)
class Memory:
    """MiB (PSS) of one process: when the overload has begun, the most during it, and when it was over."""

    before: float
    most: float = 0.0
    after: float = 0.0

    @property
    def growth(self) -> float:
        return max(self.most, self.after) - self.before

    @property
    def growth_max(self) -> float:
        return max(GROWTH_MIB_MIN, self.before * GROWTH_RATIO_MAX)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seconds", type=number_within(1, 3600, float), help=f"at its peak, and again overloaded; default {SECONDS:g}"
    )
    parser.add_argument("--quick", action="store_true", help=f"{SECONDS_QUICK:g} seconds each")


class Overload:
    """One run. What has been measured until then stays available if it is interrupted."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._seconds: float = options.seconds or (SECONDS_QUICK if options.quick else SECONDS)
        self.phases: dict[str, Phase] = {}
        self.memory: dict[str, Memory] = {}

    def run(self, progress: Progress) -> None:
        """Raises StartError."""
        progress.expect(2)
        limits = ("--in-flight", f"s1={IN_FLIGHT}", "--queue", f"s1={QUEUE}")
        with tempfile.TemporaryDirectory(prefix="mcp-bulkhead-bench-") as name:
            stand = Stand(
                Path(name) / "stand", progress.line, 2, self._options.checkout, proxy_options=limits, delay_ms=DELAY_MS
            )
            with stand:
                other = stand.start_load(OTHER_CLIENTS, OTHER_PAUSE_MS, OTHER)
                progress.working("at its peak")
                peak = stand.start_load(PEAK_CLIENTS, 0.0, LIMITED)
                peak_span = self._span()
                self._finish("peak", peak, peak_span)
                progress.step()
                progress.working("overloaded")
                load = stand.start_load(OVERLOAD_CLIENTS, OVERLOAD_PAUSE_MS, LIMITED)
                overload_span = self._watch_memory(stand)
                self._finish("overload", load, overload_span)
                for role, memory in self.memory.items():
                    memory.after = _mib(stand, role)
                progress.step()
                other.end()
                calls = list(read_record(other.record))
                self.phases["other, peak"] = Phase.of(calls, *peak_span)
                self.phases["other, overload"] = Phase.of(calls, *overload_span)
        progress.clear()

    def _span(self) -> tuple[int, int]:
        """Let the load go on for as long as it is measured; return from when to when."""
        time.sleep(SETTLE_S)
        begun = time.perf_counter_ns()
        time.sleep(self._seconds)
        return begun, time.perf_counter_ns()

    def _watch_memory(self, stand: Stand) -> tuple[int, int]:
        """The same, looking at the processes meanwhile."""
        time.sleep(SETTLE_S)
        self.memory = {role: Memory(_mib(stand, role)) for role in (FRONT, worker_role(0))}
        begun = time.perf_counter_ns()
        while time.perf_counter_ns() - begun < self._seconds * NS_PER_S:
            for role, memory in self.memory.items():
                memory.most = max(memory.most, _mib(stand, role))
            time.sleep(SAMPLE_S)
        return begun, time.perf_counter_ns()

    def _finish(self, name: str, load: Load, span: tuple[int, int]) -> None:
        load.end()
        self.phases[name] = Phase.of(list(read_record(load.record)), *span)

    def tables(self) -> str:
        return "\n\n".join(part for part in (phase_table(self.phases), memory_table(self.memory)) if part)

    def verdicts(self) -> list[Verdict]:
        if not {"peak", "overload", "other, overload"} <= set(self.phases):
            return []
        return verdicts(self.phases, self.memory)

    def document(self) -> dict[str, Any]:
        return {
            "options": {"seconds": self._seconds, "in_flight": IN_FLIGHT, "queue": QUEUE, "delay_ms": DELAY_MS},
            "phases": {
                name: {k: finite(v) if isinstance(v, float) else v for k, v in dataclasses.asdict(phase).items()}
                for name, phase in self.phases.items()
            },
            "memory_mib": {role: dataclasses.asdict(memory) for role, memory in self.memory.items()},
        }


def _mib(stand: Stand, role: str) -> float:
    pid = stand.find(role)
    if pid is None:
        raise StartError(f"{role} is gone; last words of the proxy: {stand.proxy.last_words() or 'none'}")
    return pss_bytes(pid) / MIB


def phase_table(phases: dict[str, Phase]) -> str:
    if not phases:
        return "nothing was measured"
    headings = ("calls on", "offered/s", "good/s", "p50 ms", "p99 ms", "refused/s", "p50 ms", "p99 ms", "failed")
    names = {"peak": "limited, peak", "overload": "limited, overload"}
    rows = [
        (
            names.get(name, name),
            figure(phase.offered_per_s),
            figure(phase.good_per_s),
            figure(phase.good_p50_ms),
            figure(phase.good_p99_ms),
            figure(phase.refused_per_s),
            figure(phase.refused_p50_ms),
            figure(phase.refused_p99_ms),
            str(phase.failed),
        )
        for name, phase in phases.items()
    ]
    reasons = [f"  {name}: {reason}" for name, phase in phases.items() for reason in phase.reasons]
    return "\n\n".join([columns([headings, *rows]), *(["\n".join(["Failed calls:", *reasons])] if reasons else [])])


def memory_table(memory: dict[str, Memory]) -> str:
    if not memory:
        return ""
    rows = [(role, figure(one.before), figure(one.most), figure(one.after)) for role, one in memory.items()]
    return columns([("MiB (PSS)", "overload begins", "most during it", "afterwards"), *rows])


def verdicts(phases: dict[str, Phase], memory: dict[str, Memory]) -> list[Verdict]:
    """Compare with what is promised of overload (docs/reliability.md, R09)."""
    peak, overload = phases["peak"], phases["overload"]
    refusals = f"ms until a refusal, p99 of {overload.refused_per_s:,.0f}/s"
    return [
        Verdict("calls offered, as a multiple of the peak", TIMES_PEAK_MIN, True, _ratio(overload.offered_per_s, peak)),
        Verdict("goodput, as a multiple of the peak", GOODPUT_MIN, True, _ratio(overload.good_per_s, peak)),
        _at_most(
            "p99 of calls that are accepted, as a multiple of the peak",
            ACCEPTED_RATIO_MAX,
            overload.good_p99_ms / peak.good_p99_ms,
        ),
        _at_most(refusals, REFUSED_P99_MS_MAX, overload.refused_p99_ms),
        _at_most("refusals without advice", 0, overload.unadvised),
        _at_most("calls that failed otherwise", 0, peak.failed + overload.failed),
        _at_most("failed calls on the other server", 0, phases["other, overload"].failed),
        *(
            _at_most(f"MiB that the {role} grows under overload", one.growth_max, one.growth)
            for role, one in memory.items()
        ),
    ]


def _ratio(per_s: float, peak: Phase) -> float:
    return per_s / peak.good_per_s if peak.good_per_s else math.nan


def _at_most(what: str, bound: float, measured: float) -> Verdict:
    """What never came is no missing measurement but a missed promise."""
    return Verdict(what, bound, False, math.inf if math.isnan(measured) else measured)
