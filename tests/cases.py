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


def _some(family: str, numbers: str) -> set[str]:
    """Return the ids of a family from a list such as "01-03 07"."""
    ids: set[str] = set()
    for part in numbers.split():
        first, _, last = part.partition("-")
        ids |= {f"{family}-{number:02}" for number in range(int(first), int(last or first) + 1)}
    return ids


CASES: Final = _read()
SHOWN: Final = (
    _some("A", "01-30") | _some("B", "01-35") | _some("C", "01-32") | _some("D", "01-04 07 08 11-15 18 21 24-27 29-32")
)
"""Cases that must have a test. It only grows: a case leaves this set only if it leaves the catalogue."""
