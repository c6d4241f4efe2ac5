"""Compares a run with the numbers that are promised."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Final

from benchmarks.cpu import FRONT, WORKER
from benchmarks.results import CaseResult, RunResult
from benchmarks.subjects import NGINX, PROXY, PROXY_STDIO, PROXY_TLS, PROXY_TLS_FRONT, SDK_RELAY

CONNECTIONS: Final = 64
SMALL_BYTES: Final = 100
FRONT_US_MAX: Final = 45.0
WORKER_US_MAX: Final = 40.0
TLS_US_MAX: Final = 12.0
TLS_SIDES: Final = ((PROXY_TLS, WORKER), (PROXY_TLS_FRONT, FRONT))
"""Which subject shows what TLS costs whom."""
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


def check(run: RunResult) -> list[Verdict]:
    """Return a verdict for each promised number that a run with the proxy is about."""
    verdicts: list[Verdict] = []
    for result in run.cases:
        about_proxy = {PROXY, PROXY_STDIO} & {*result.subjects, *result.errors}
        if about_proxy and (result.case.connections, result.case.size) == (CONNECTIONS, SMALL_BYTES):
            verdicts += _small_calls(result)
        if (result.case.connections, result.case.size) == (CONNECTIONS, SMALL_BYTES):
            verdicts += [_added_by_tls(result, *side) for side in TLS_SIDES if side[0] in result.subjects]
    for name in (PROXY, PROXY_STDIO, PROXY_TLS, PROXY_TLS_FRONT):
        multiples = run.memory.get(name, {})
        verdicts += [_copies(name, part, multiples[part]) for part in (FRONT, WORKER) if part in multiples]
        verdicts += _no_failures(name, run.cases)
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


def _added_by_tls(result: CaseResult, subject: str, part: str) -> Verdict:
    plain, encrypted = (result.subjects.get(name) for name in (PROXY, subject))
    plain_us, encrypted_us = (one.part_us(part) if one else None for one in (plain, encrypted))
    added = None if plain_us is None or encrypted_us is None else encrypted_us - plain_us
    return Verdict(f"{part} CPU µs per call that TLS adds ({result.case.title})", TLS_US_MAX, False, added)


def _copies(name: str, part: str, multiple: float) -> Verdict:
    # What else a process does in the meantime touches some pages too, hence the rounding to whole copies.
    copies = float(round(multiple - 1)) if math.isfinite(multiple) else multiple
    return Verdict(f"copies of a large answer in the {part} of {name}", COPIES_MAX, False, copies)


def _no_failures(name: str, cases: Sequence[CaseResult]) -> list[Verdict]:
    if not any(name in result.subjects or name in result.errors for result in cases):
        return []
    failed = sum(result.subjects[name].failed for result in cases if name in result.subjects)
    # A case in which it could not be measured at all is as bad as a failed call.
    failed += sum(name in result.errors for result in cases)
    return [Verdict(f"failed calls of {name} in all cases", 0, False, failed)]
