"""Which replicas of a group get no calls for a while because they failed too often. Pure: time comes in.

As Envoy's outlier detection: after `EJECTION_FAILURES` in a row, for longer each time, and never more than
`EJECTED_SHARE_MAX` of a group at once, because what ails most of them is no reason to prefer the others.
"""

from __future__ import annotations

import msgspec

from protocol.limits import (
    EJECTED_SHARE_MAX,
    EJECTION_BASE_S,
    EJECTION_FAILURES,
    EJECTION_MAX_S,
    EJECTION_PARDON_S,
)

NEVER: float = float("-inf")


class _Record(msgspec.Struct):
    failures: int = 0
    """In a row."""
    until: float = NEVER
    """When its last ejection ends, or ended."""
    strikes: int = 0
    """Ejections without `EJECTION_PARDON_S` in between."""
    ejections: int = 0


class Outliers:
    """The replicas of one group, by name."""

    def __init__(self) -> None:
        self._records: dict[str, _Record] = {}

    def keep(self, names: frozenset[str]) -> None:
        """From now on these are the replicas."""
        self._records = {name: self._records.get(name) or _Record() for name in names}

    def answered(self, name: str) -> None:
        """It has answered, whatever it said."""
        if record := self._records.get(name):
            record.failures = 0

    def failed(self, name: str, now: float) -> bool:
        """It has not answered as it should; return whether it gets no calls for a while because of this."""
        record = self._records.get(name)
        if record is None:
            return False
        record.failures += 1
        return record.failures >= EJECTION_FAILURES and self.eject(name, now)

    def eject(self, name: str, now: float) -> bool:
        """Give it no calls for a while, if that is possible and not so already; return whether that is news."""
        record = self._records.get(name)
        ejected = sum(one.until > now for one in self._records.values())
        if record is None or record.until > now or ejected + 1 > EJECTED_SHARE_MAX * len(self._records):
            return False
        record.strikes = 1 if now - record.until > EJECTION_PARDON_S else record.strikes + 1
        record.until = now + min(EJECTION_BASE_S * record.strikes, EJECTION_MAX_S)
        record.ejections += 1
        record.failures = 0
        return True

    def is_ejected(self, name: str, now: float) -> bool:
        """Whether it gets no calls now."""
        record = self._records.get(name)
        return record is not None and record.until > now

    def returned_at(self, name: str) -> float:
        """Return when its last ejection ends, or ended; minus infinity if there was none."""
        record = self._records.get(name)
        return record.until if record else NEVER

    def ejections(self, name: str) -> int:
        """Return how often it was ejected."""
        record = self._records.get(name)
        return record.ejections if record else 0
