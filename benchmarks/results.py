"""Turns the rounds of a run into figures: medians over rounds, and ratios of what ran side by side."""

from __future__ import annotations

import collections
import dataclasses
import statistics
from collections.abc import Callable

from benchmarks.cpu import BACKEND
from benchmarks.rounds import Histogram, LoadResult
from protocol.versions import Era

BACKEND_PART = BACKEND


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """One row of the matrix. On stdio, `connections` is the number of calls in flight."""

    connections: int
    size: int
    era: Era

    @property
    def title(self) -> str:
        plural = "s" if self.connections > 1 else ""
        return f"{self.connections} connection{plural}, {size_text(self.size)}, {self.era.name.lower()}"


@dataclasses.dataclass(frozen=True, slots=True)
class Round:
    """What one round has shown of one subject. `cpu_ns` is by part, the backend's included."""

    load: LoadResult
    cpu_ns: dict[str, int]
    process_ended: bool
    """One of the subject's processes ended meanwhile, so that its CPU time is not complete."""

    @property
    def calls_per_s(self) -> float:
        return self.load.calls / self.load.seconds if self.load.seconds else 0.0

    @property
    def hop_us(self) -> float:
        """CPU µs per call of everything between client and backend; 0 without calls."""
        used = sum(ns for part, ns in self.cpu_ns.items() if part != BACKEND_PART)
        return used / self.load.attempts / 1e3 if self.load.attempts else 0.0


class SubjectResult:
    """All rounds of one subject in one case."""

    def __init__(self, rounds: list[Round], warm_up: LoadResult) -> None:
        self.rounds = rounds
        self.failed = warm_up.failed + sum(each.load.failed for each in rounds)
        self.calls = sum(each.load.calls for each in rounds)
        self.faults = collections.Counter(warm_up.faults)
        self._latencies = Histogram()
        for each in rounds:
            self.faults.update(each.load.faults)
            self._latencies.merge(each.load.latencies)

    @property
    def calls_per_s(self) -> float:
        return statistics.median(each.calls_per_s for each in self.rounds)

    def latency_ms(self, percent: float) -> float:
        """Return a percentile over the calls of all rounds; nan if there were none."""
        return self._latencies.percentile_ns(percent) / 1e6

    @property
    def generator_us(self) -> float:
        return self._median_us([each.load.generator_cpu_ns for each in self.rounds])

    def part_us(self, part: str) -> float | None:
        """Return the CPU µs per call of one part (median over rounds), or None if the subject has no such part."""
        if not any(part in each.cpu_ns for each in self.rounds):
            return None
        return self._median_us([each.cpu_ns.get(part, 0) for each in self.rounds])

    @property
    def hop_us(self) -> float:
        """CPU µs per call of everything between client and backend (median over rounds)."""
        per_call = [each.hop_us for each in self.rounds if each.load.attempts]
        return statistics.median(per_call) if per_call else float("nan")

    @property
    def process_ended(self) -> bool:
        return any(each.process_ended for each in self.rounds)

    def _median_us(self, used_ns: list[int]) -> float:
        per_call = [
            ns / each.load.attempts / 1e3 for ns, each in zip(used_ns, self.rounds, strict=True) if each.load.attempts
        ]
        return statistics.median(per_call) if per_call else float("nan")


class CaseResult:
    """One case: what each subject has shown, side by side."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.subjects: dict[str, SubjectResult] = {}
        self.errors: dict[str, str] = {}
        """Why a subject could not be measured in this case."""

    def speed_ratio(self, subject: str, reference: str) -> float | None:
        """Return calls/s of a subject over those of another (median of the ratios of each round); None if unknown."""
        return self._ratio(subject, reference, lambda each: each.calls_per_s)

    def hop_ratio(self, subject: str, reference: str) -> float | None:
        """Return the CPU per call of a subject over that of another, both without the backend, in the same way."""
        return self._ratio(subject, reference, lambda each: each.hop_us)

    def _ratio(self, subject: str, reference: str, figure: Callable[[Round], float]) -> float | None:
        mine, theirs = self.subjects.get(subject), self.subjects.get(reference)
        if mine is None or theirs is None:
            return None
        pairs = [(figure(my), figure(their)) for my, their in zip(mine.rounds, theirs.rounds, strict=True)]
        ratios = [my / their for my, their in pairs if their > 0]
        return statistics.median(ratios) if ratios else None


class RunResult:
    """What a run has found, also when it was interrupted."""

    def __init__(self) -> None:
        self.cases: list[CaseResult] = []
        self.skipped: dict[str, str] = {}
        """Subjects that are not installed here, and why."""
        self.broken: dict[str, str] = {}
        """Subjects that could not be started, and why."""
        self.placement = ""
        """Which processors whose processes had, in words."""
        self.memory: dict[str, dict[str, float]] = {}
        """For each subject, how much memory a large answer takes in each of its parts, in multiples of its size."""


def size_text(size: int) -> str:
    """Return a payload's size for people, in decimal units: 100 B, 10 KB, 1 MB."""
    for unit, factor in (("MB", 1_000_000), ("KB", 1_000)):
        if size >= factor:
            return f"{size / factor:g} {unit}"
    return f"{size} B"
