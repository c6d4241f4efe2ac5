"""Keeps a load on the proxy and breaks something every few seconds, for an hour: does anything leak, or stay broken?

What is compared is the proxy at rest: after a warm-up in which things have been broken already, and at the end. No
process is killed twice within a minute, because that would only show that restarts are limited (supervisor/restart.py).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random, SystemRandom
from typing import Any, Final

from benchmarks import faults, soak_report
from benchmarks.faults import NoTargetError
from benchmarks.options import number_within
from benchmarks.progress import Progress
from benchmarks.soak_plan import EVERYWHERE, WARM_UP, Plan
from benchmarks.soak_report import Sample, take_sample
from benchmarks.stand import Stand, wait_until
from benchmarks.steady import read_record, server_name
from benchmarks.subjects import StartError
from benchmarks.targets import Verdict
from benchmarks.timeline import Call, Fault

MINUTES: Final = 60.0
MINUTES_QUICK: Final = 0.5
EVERY_S: Final = 5.0
SERVERS: Final = 6
CLIENTS: Final = 4
PAUSE_MS: Final = 100.0
"""With the numbers above, some 240 calls a second."""
SAMPLES: Final = 600
SAMPLE_S_MIN: Final = 0.5
WARM_UP_PAUSE_S: Final = 1.5
SETTLE_S: Final = 3.0
COMPLETE_WAIT_S: Final = 40.0
"""How long the last restart may take; they are at most half a minute apart."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=number_within(0.05, 10_000, float), help=f"default {MINUTES:g}")
    parser.add_argument(
        "--every",
        type=number_within(0.5, 600, float),
        default=EVERY_S,
        help=f"seconds between faults, default {EVERY_S:g}",
    )
    parser.add_argument("--servers", type=number_within(2, 50, int), default=SERVERS, help=f"default {SERVERS}")
    parser.add_argument("--seed", type=int, help="repeat the faults of an earlier run, in kind and order")
    parser.add_argument("--quick", action="store_true", help=f"{MINUTES_QUICK:g} minutes")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="draw a plot there (SVG)")


class Soak:
    """One run. What has been seen until then stays available if it is interrupted."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._seconds = 60 * (options.minutes or (MINUTES_QUICK if options.quick else MINUTES))
        self._seed: int = SystemRandom().randrange(2**32) if options.seed is None else options.seed
        self._plan = Plan(Random(self._seed), options.servers)
        self.calls: list[Call] = []
        self.faults: list[Fault] = []
        self.samples: list[Sample] = []
        self.before: Sample | None = None
        self.after: Sample | None = None

    def run(self, progress: Progress) -> None:
        """Raises StartError."""
        progress.line(f"seed {self._seed}")
        progress.expect(max(int(self._seconds / self._options.every), 1))
        with (
            tempfile.TemporaryDirectory(prefix="mcp-bulkhead-bench-") as name,
            Stand(Path(name) / "soak", progress.line, self._options.servers, self._options.checkout) as stand,
        ):
            progress.working("warming up")
            self._warm_up(stand)
            self.before = _at_rest(stand)
            self._soak(stand, progress)
            progress.working("looking at what is left")
            self.after = _at_rest(stand)
            stand.start_load(1, PAUSE_MS).end()  # raises if a server does not answer any more
        progress.clear()
        if self._options.plots:
            progress.line(f"plot: {soak_report.write_plot(self.calls, self.samples, self._options.plots)}")

    def _warm_up(self, stand: Stand) -> None:
        load = stand.start_load(CLIENTS, PAUSE_MS)
        for kind, server in WARM_UP:
            time.sleep(WARM_UP_PAUSE_S)
            self._break(stand, kind, server)
        time.sleep(WARM_UP_PAUSE_S)
        load.end()
        self.faults.clear()

    def _soak(self, stand: Stand, progress: Progress) -> None:
        load = stand.start_load(CLIENTS, PAUSE_MS)
        try:
            for _ in self._moments(stand):
                if not load.alive or not stand.proxy.alive:
                    raise StartError(f"it has ended: {stand.proxy.last_words() or 'no reason known'}")
                self._break_something(stand, progress)
            load.end()
        finally:
            self.calls += read_record(load.record)

    def _moments(self, stand: Stand) -> Iterator[None]:
        """Yield whenever it is time for a fault, and take samples in between."""
        started = time.monotonic()
        sample_s = max(self._seconds / SAMPLES, SAMPLE_S_MIN)
        next_fault = started + self._options.every
        while (now := time.monotonic()) < started + self._seconds:
            self.samples.append(take_sample(stand.roles()))
            if now >= next_fault:
                next_fault += self._options.every
                yield
            time.sleep(sample_s)

    def _break_something(self, stand: Stand, progress: Progress) -> None:
        chosen = self._plan.choose(time.monotonic())
        if chosen is not None:
            kind, server = chosen
            where = "" if server == EVERYWHERE else f" {server_name(server)}"
            progress.working(f"{kind}{where}")
            self._break(stand, kind, server)
        progress.step()

    def _break(self, stand: Stand, kind: str, server: int) -> None:
        self._plan.done(kind, server, time.monotonic())
        try:
            self.faults.append(faults.inflict(stand, kind, server))
        except NoTargetError as error:
            raise StartError(f"{error}; last words of the proxy: {stand.proxy.last_words() or 'none'}") from None

    def tables(self) -> str:
        return soak_report.tables(self.calls, self.faults, self.before, self.after)

    def verdicts(self) -> list[Verdict]:
        return soak_report.verdicts(self.calls, self.faults, self.before, self.after)

    def document(self) -> dict[str, Any]:
        options = {"minutes": self._seconds / 60, "every": self._options.every, "servers": self._options.servers}
        return {
            "options": {**options, "seed": self._seed},
            **soak_report.document(self.calls, self.faults, self.samples, self.before, self.after),
        }


def _at_rest(stand: Stand) -> Sample:
    """Return what the proxy holds when nobody calls and every process is there."""
    if wait_until(stand.complete, COMPLETE_WAIT_S) is None:
        raise StartError(f"a process of the proxy is missing; its last words: {stand.proxy.last_words() or 'none'}")
    time.sleep(SETTLE_S)
    return take_sample(stand.roles())
