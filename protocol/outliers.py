"""Which replicas of a group get no calls for a while because they do worse than the others. Pure: time comes in.

As Envoy's outlier detection, for groups that are too small for deviations from a mean: a replica is ejected after
`EJECTION_FAILURES` in a row, or if it fails a far larger part of its calls than the others do, or if it takes many
times as long as they do for the same tools. Each ejection is longer than the one before, and never more than
`EJECTED_SHARE_MAX` of a group are ejected at once, because what ails most of them is no reason to prefer the others.

A replica comes back when its time is over and its server has answered a check (`due`, `checked`). Until it has then
answered a call, its first failure is enough. What becomes of calls that it was sent before it came back does not count:
they may have hung for a minute, and say nothing of how it is now.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Final

import msgspec

from protocol.limits import (
    EJECTED_SHARE_MAX,
    EJECTION_BASE_S,
    EJECTION_CALLS_MIN,
    EJECTION_EXCESS,
    EJECTION_FAILURES,
    EJECTION_KINDS_MAX,
    EJECTION_MAX_S,
    EJECTION_PARDON_S,
    EJECTION_PERIOD_S,
    EJECTION_SLOWER_S,
    EJECTION_SLOWNESS,
)

NEVER: float = float("-inf")
KIND_CALLS_MIN: Final = 3
"""Answers of the others that say how long a tool takes."""
TOO_OFTEN: Final = "it failed too often"
MORE_THAN_OTHERS: Final = "it fails far more of its calls than the others"
TOO_SLOW: Final = "it is many times slower than the others"


class _Times(msgspec.Struct):
    """Answers of one kind: how many, and how long they took together."""

    count: int = 0
    seconds: float = 0.0


class _Record(msgspec.Struct):
    failures: int = 0
    """In a row."""
    until: float = NEVER
    """When its last ejection ends, or ended."""
    strikes: int = 0
    """Ejections without `EJECTION_PARDON_S` in between."""
    ejections: int = 0
    is_unchecked: bool = False
    """Its server has answered no check since it was ejected."""
    is_on_trial: bool = False
    """It has answered no call since it was ejected."""
    # In this period:
    calls: int = 0
    failed: int = 0
    times: dict[str, _Times] = msgspec.field(default_factory=dict[str, _Times])
    """By kind, of which there are at most `EJECTION_KINDS_MAX`."""

    def forget_period(self) -> None:
        self.calls = self.failed = 0
        self.times = {}


class Outliers:
    """The replicas of one group, by name."""

    def __init__(self) -> None:
        self._records: dict[str, _Record] = {}
        self._period_ends = NEVER

    def keep(self, names: frozenset[str]) -> None:
        """From now on these are the replicas."""
        self._records = {name: self._records.get(name) or _Record() for name in names}

    # --- what they do -----------------------------------------------------------------------------------------------
    def answered(self, name: str, kind: str = "", seconds: float = 0.0, sent_at: float = math.inf) -> None:
        """It has answered, whatever it said. `kind`: of calls that should take it as long as the others."""
        record = self._records.get(name)
        if record is None or sent_at < record.until:
            return
        record.failures = 0
        record.is_on_trial = False
        record.calls += 1
        times = record.times.get(kind)
        if times is None:
            if len(record.times) >= EJECTION_KINDS_MAX:
                return
            times = record.times[kind] = _Times()
        times.count += 1
        times.seconds += seconds

    def failed(self, name: str, now: float, sent_at: float = math.inf) -> bool:
        """It has not answered as it should; return whether it gets no calls for a while because of this."""
        record = self._records.get(name)
        if record is None or sent_at < record.until:
            return False
        record.failures += 1
        record.calls += 1
        record.failed += 1
        return (record.is_on_trial or record.failures >= EJECTION_FAILURES) and self.eject(name, now)

    def judge(self, now: float) -> list[tuple[str, str]]:
        """Compare them with one another, and eject who does far worse; return who that is, and why."""
        found: list[tuple[str, str]] = []
        for name, record in self._records.items():
            if record.until <= now and (why := self._is_worse(record)) and self.eject(name, now):
                found.append((name, why))
        if now >= self._period_ends:
            is_first = self._period_ends == NEVER
            self._period_ends = now + EJECTION_PERIOD_S
            for record in () if is_first else self._records.values():
                record.forget_period()
        return found

    # --- ejections --------------------------------------------------------------------------------------------------
    def eject(self, name: str, now: float) -> bool:
        """Give it no calls for a while, if that is possible and not so already; return whether that is news."""
        record = self._records.get(name)
        if record is None or record.until > now:
            return False
        others = sum(self.is_ejected(one, now) for one in self._records if one != name)
        if others + 1 > EJECTED_SHARE_MAX * len(self._records):
            return False
        record.strikes = 1 if now - record.until > EJECTION_PARDON_S else record.strikes + 1
        record.until = now + min(EJECTION_BASE_S * record.strikes, EJECTION_MAX_S)
        record.ejections += 1
        record.failures = 0
        record.is_unchecked = record.is_on_trial = True
        record.forget_period()
        return True

    def is_ejected(self, name: str, now: float) -> bool:
        """Whether it gets no calls now."""
        record = self._records.get(name)
        return record is not None and (record.until > now or record.is_unchecked)

    def is_due(self, name: str, now: float) -> bool:
        """Whether its time is over, and all that it lacks is a check of its server."""
        record = self._records.get(name)
        return record is not None and record.until <= now and record.is_unchecked

    def checked(self, name: str, now: float, *, works: bool) -> None:
        """A replica has been checked. If it was due and does not work it stays away, for longer than the last time.

        What a check finds before that changes nothing: its worker may have one made for other reasons.
        """
        record = self._records.get(name)
        if record is None or not self.is_due(name, now):
            return
        if works:
            record.is_unchecked = False
            record.until = now
        else:
            record.strikes += 1
            record.until = now + min(EJECTION_BASE_S * record.strikes, EJECTION_MAX_S)

    def is_on_trial(self, name: str) -> bool:
        """Whether it has answered no call since it was ejected."""
        record = self._records.get(name)
        return record is not None and record.is_on_trial

    def returned_at(self, name: str) -> float:
        """Return when its last ejection ends, or ended; minus infinity if there was none."""
        record = self._records.get(name)
        return record.until if record else NEVER

    def ejections(self, name: str) -> int:
        """Return how often it was ejected."""
        record = self._records.get(name)
        return record.ejections if record else 0

    # --- comparisons ------------------------------------------------------------------------------------------------
    def _is_worse(self, record: _Record) -> str:
        """Return in which way it does far worse than the others; "" if it does not, or too little is known."""
        others = [one for one in self._records.values() if one is not record]
        if _fails_more(record, others):
            return MORE_THAN_OTHERS
        count, taken, usual = _compared(record, others)
        is_slow = taken >= EJECTION_SLOWNESS * usual and taken - usual >= EJECTION_SLOWER_S * count
        return TOO_SLOW if count >= EJECTION_CALLS_MIN and is_slow else ""


def _fails_more(record: _Record, others: Sequence[_Record]) -> bool:
    known = [one.failed / one.calls for one in others if one.calls >= EJECTION_CALLS_MIN]
    if record.calls < EJECTION_CALLS_MIN or not known:
        return False
    return record.failed / record.calls - statistics.median(known) >= EJECTION_EXCESS


def _compared(record: _Record, others: Sequence[_Record]) -> tuple[int, float, float]:
    """Return how many answers can be compared, how long they took, and how long they would have taken the others.

    Kind by kind, so that nobody seems slow who was merely given what takes long.
    """
    count, taken, usual = 0, 0.0, 0.0
    for kind, own in record.times.items():
        theirs = [one.times[kind] for one in others if kind in one.times]
        known = sum(times.count for times in theirs)
        if known >= KIND_CALLS_MIN:
            count += own.count
            taken += own.seconds
            usual += own.count * sum(times.seconds for times in theirs) / known
    return count, taken, usual
