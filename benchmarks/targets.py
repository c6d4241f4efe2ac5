"""Compares a run with the numbers that are promised."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

from benchmarks.cpu import FRONT, WORKER
from benchmarks.results import Case, CaseResult
from benchmarks.subjects import NGINX, PROXY, PROXY_STDIO, SDK_RELAY

CONNECTIONS: Final = 64
SMALL_BYTES: Final = 100
LARGE_BYTES: Final = 1_000_000
FRONT_US_MAX: Final = 45.0
WORKER_US_MAX: Final = 40.0
NGINX_RATIO_MIN: Final = 0.5
SDK_RATIO_MIN: Final = 20.0
COPIES_MAX: Final = 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """One promised number and what was measured; `measured` None: this run does not tell."""

    what: str
    bound: float
    at_least: bool
    measured: float | None

    @property
    def kept(self) -> bool | None:
        if self.measured is None:
            return None
        return self.measured >= self.bound if self.at_least else self.measured <= self.bound

    @property
    def sentence(self) -> str:
        word = {True: "kept", False: "MISSED", None: "not measured"}[self.kept]
        sign = "≥" if self.at_least else "≤"
        figure = "" if self.measured is None else f": {self.measured:.4g}"
        return f"{word:<12} {self.what} {sign} {self.bound:g}{figure}"


def check(cases: Sequence[CaseResult]) -> list[Verdict]:
    """Return a verdict for each promised number the cases of a run are about."""
    verdicts: list[Verdict] = []
    for result in cases:
        case = result.case
        if PROXY not in result.subjects and PROXY_STDIO not in result.subjects and PROXY not in result.errors:
            continue
        if (case.connections, case.size) == (CONNECTIONS, SMALL_BYTES):
            verdicts += _small_calls(result)
        if case.size == LARGE_BYTES:
            small = next(
                (other for other in cases if other.case == Case(case.connections, SMALL_BYTES, case.era)), None
            )
            verdicts += _large_results(result, small)
        verdicts += _no_failures(result)
    return verdicts


def all_kept(verdicts: Sequence[Verdict]) -> bool:
    """Whether something was measured and nothing measured was missed."""
    return any(verdict.kept for verdict in verdicts) and not any(verdict.kept is False for verdict in verdicts)


def _small_calls(result: CaseResult) -> list[Verdict]:
    title = result.case.title
    proxy = result.subjects.get(PROXY)
    return [
        Verdict(f"front CPU µs per call ({title})", FRONT_US_MAX, False, proxy.part_us(FRONT) if proxy else None),
        Verdict(f"worker CPU µs per call ({title})", WORKER_US_MAX, False, proxy.part_us(WORKER) if proxy else None),
        Verdict(f"calls/s relative to nginx ({title})", NGINX_RATIO_MIN, True, result.speed_ratio(PROXY, NGINX)),
        Verdict(
            f"calls/s relative to the SDK relay ({title})", SDK_RATIO_MIN, True, result.speed_ratio(PROXY, SDK_RELAY)
        ),
    ]


def _large_results(result: CaseResult, small: CaseResult | None) -> list[Verdict]:
    title = result.case.title
    return [
        Verdict(f"CPU in units of a copy, beyond passing on, in the {part} ({title})", COPIES_MAX, False, result.sure_copies(PROXY, part, small))
        for part in (FRONT, WORKER)
    ]


def _no_failures(result: CaseResult) -> list[Verdict]:
    return [
        Verdict(f"failed calls of {name} ({result.case.title})", 0, False, result.subjects[name].failed)
        for name in (PROXY, PROXY_STDIO)
        if name in result.subjects
    ]
