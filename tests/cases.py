"""The catalogue of faults and abuse as data, and which of its cases the tests show today."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tests.catalogue import rows


@dataclass(frozen=True)
class Case:
    id: str
    family: str
    """A: bad client input, B: server faults, C: processes and machine, D: security."""
    stimulus: str
    outcome: str
    levels: frozenset[str]
    """u: unit, s: simulator or in memory, p: real processes, f: fuzzing."""


def _read() -> dict[str, Case]:
    found: dict[str, Case] = {}
    for number, stimulus, outcome, levels in rows(r"[A-D]-\d\d"):
        assert number not in found, f"two cases are called {number}"
        found[number] = Case(number, number[0], stimulus, outcome, frozenset(levels.split()))
    return found


def _through(family: str, last: int) -> set[str]:
    return {f"{family}-{number:02}" for number in range(1, last + 1)}


CASES: Final = _read()
SHOWN: Final = (
    _through("A", 22)
    | {"B-28"}
    | _through("C", 18) - {"C-03", "C-08"}
    | {"C-21", "C-26", "C-28", "D-01", "D-02", "D-24"}
)
"""Cases that must have a test. It only grows: a case leaves this set only if it leaves the catalogue."""
