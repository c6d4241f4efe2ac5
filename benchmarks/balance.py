"""Compares the policies for groups of replicas, with three replicas of which one is slow.

The same clients call the same group, once for each policy. What a good policy is worth shows in the tail: taking turns
gives a third of all calls to the slow one.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks import plot
from benchmarks.options import number_within
from benchmarks.plot import Line, Panel
from benchmarks.progress import Progress
from benchmarks.report import columns, figure, finite
from benchmarks.stand import Stand
from benchmarks.steady import read_record, server_name
from benchmarks.subjects import StartError
from benchmarks.targets import Verdict
from benchmarks.timeline import NS_PER_S, Call, kind_of, percentile

REPLICAS: Final = 3
GROUP: Final = REPLICAS
"""Its number: it has the name that one more server would have, so that the load can call it."""
DELAY_MS: Final = 100.0
CLIENTS: Final = 12
PAUSE_MS: Final = 5.0
SECONDS: Final = 10.0
SECONDS_QUICK: Final = 3.0
SETTLE_S: Final = 1.0
POLICIES: Final = ("least_loaded", "round_robin", "weighted", "priority", "sticky")
"""With `priority` the slow one is preferred; with `weighted` who has set the weights knows which one is slow."""
WEIGHT: Final = 9
"""Of each of the others, with `weighted`."""
CTL_S: Final = 10.0
PLOTTED: Final = (*range(0, 90, 5), *range(90, 100), 99.5, 99.9)
"""Percentiles."""


@dataclasses.dataclass(frozen=True, slots=True)
class Balanced:
    """What became of the calls under one policy. Latencies in ms."""

    per_s: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    slow_share: float
    """Of the calls: those that took as long as the slow replica takes."""
    failed: int
    reasons: dict[str, int]
    tail: list[tuple[float, float]] = dataclasses.field(default_factory=list[tuple[float, float]], compare=False)
    """(percentile, ms) of good calls, for the plot."""

    @classmethod
    def of(cls, calls: list[Call], from_ns: int, until_ns: int) -> Balanced:
        ended = [call for call in calls if from_ns <= call.ended_ns < until_ns]
        good = [call.ms for call in ended if not call.fault]
        return cls(
            per_s=len(good) / ((until_ns - from_ns) / NS_PER_S),
            p50_ms=percentile(good, 50),
            p90_ms=percentile(good, 90),
            p99_ms=percentile(good, 99),
            slow_share=sum(ms >= DELAY_MS for ms in good) / max(1, len(good)),
            failed=len(ended) - len(good),
            reasons=dict(collections.Counter(kind_of(call.fault) for call in ended if call.fault)),
            tail=[(float(part), percentile(good, part)) for part in PLOTTED],
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=number_within(1, 3600, float), help=f"of each policy; default {SECONDS:g}")
    parser.add_argument("--quick", action="store_true", help=f"{SECONDS_QUICK:g} seconds each")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="draw a plot there (SVG)")
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=POLICIES, help="which; default all")


class Balance:
    """One run. What has been measured until then stays available if it is interrupted."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._seconds: float = options.seconds or (SECONDS_QUICK if options.quick else SECONDS)
        self.found: dict[str, Balanced] = {}

    def run(self, progress: Progress) -> None:
        """Raises StartError."""
        policies: list[str] = self._options.policies
        progress.expect(len(policies))
        with tempfile.TemporaryDirectory(prefix="mcp-bulkhead-bench-") as name:
            for policy in policies:
                progress.working(policy)
                self.found[policy] = self._measure(Path(name) / policy, policy, progress)
                progress.step()
        progress.clear()
        if self._options.plots:
            self._options.plots.mkdir(parents=True, exist_ok=True)
            file: Path = self._options.plots / "balance.svg"
            file.write_text(draw(self.found), encoding="utf-8")
            progress.line(f"plot: {file}")

    def _measure(self, directory: Path, policy: str, progress: Progress) -> Balanced:
        replicas = ",".join(server_name(number) for number in range(REPLICAS))
        door = directory.with_suffix(".sock")
        options = ("--group", f"{server_name(GROUP)}={replicas}:{policy}", "--admin-socket", str(door))
        with Stand(
            directory, progress.line, REPLICAS, self._options.checkout, proxy_options=options, delay_ms=DELAY_MS
        ) as stand:
            load = stand.start_load(CLIENTS, PAUSE_MS, range(GROUP, GROUP + 1))
            if policy == "weighted":
                for number in range(1, REPLICAS):
                    self._weigh(door, server_name(number))
            time.sleep(SETTLE_S)
            begun = time.perf_counter_ns()
            time.sleep(self._seconds)
            ended = time.perf_counter_ns()
            load.end()
            return Balanced.of(list(read_record(load.record)), begun, ended)

    def _weigh(self, door: Path, server: str) -> None:
        """Raises StartError."""
        told = ["--socket", str(door), "weight", server, f"{WEIGHT}"]
        command = [sys.executable, "-m", "supervisor", "ctl", *told]
        done = subprocess.run(
            command, cwd=self._options.checkout, capture_output=True, text=True, timeout=CTL_S, check=False
        )
        if done.returncode:
            raise StartError(f"the weights cannot be set: {done.stderr.strip()}")

    def tables(self) -> str:
        if not self.found:
            return "nothing was measured"
        rows = [
            (
                policy,
                *map(figure, (one.per_s, one.p50_ms, one.p90_ms, one.p99_ms, one.slow_share * 100)),
                str(one.failed),
            )
            for policy, one in self.found.items()
        ]
        headings = ("policy", "calls/s", "p50 ms", "p90 ms", "p99 ms", "slow %", "failed")
        reasons = [f"  {policy}: {reason} ({count})" for policy, one in self.found.items()
                   for reason, count in one.reasons.items()]  # fmt: skip
        return "\n\n".join([columns([headings, *rows]), *(["\n".join(["Failed calls:", *reasons])] if reasons else [])])

    def verdicts(self) -> list[Verdict]:
        """Nothing is promised of a policy but that it fails no call."""
        failed = sum(one.failed for one in self.found.values())
        return [Verdict("failed calls, all policies", 0, False, failed)] if self.found else []

    def document(self) -> dict[str, Any]:
        return {
            "options": {"seconds": self._seconds, "clients": CLIENTS, "pause_ms": PAUSE_MS, "delay_ms": DELAY_MS},
            "policies": {
                policy: {
                    name: finite(value) if isinstance(value, float) else value
                    for name, value in dataclasses.asdict(one).items()
                    if name != "tail"
                }
                for policy, one in self.found.items()
            },
        }


def draw(found: Mapping[str, Balanced]) -> str:
    """Return a plot of how many of the calls took no longer than how long, by policy, as SVG."""
    lines = [Line(policy, one.tail) for policy, one in found.items()]
    title = f"one of {REPLICAS} replicas takes {DELAY_MS:g} ms for a call"
    return plot.draw(title, "% of the calls that took no longer", [Panel("ms", lines)])
