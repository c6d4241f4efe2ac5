"""When a call has taken so long that another replica should be asked as well. Pure: time comes in.

Source: Dean and Barroso, "The tail at scale": a second request after the 95th percentile of what is usual shortens the
tail for a few percent more load.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from protocol.limits import HEDGE_KINDS_MAX, HEDGE_SAMPLES, HEDGE_SAMPLES_MIN

QUANTILE: Final = 0.95
SORT_EVERY: Final = 8
"""Answers of a tool. Sorting at each of them would say little more."""


class _Kind:
    __slots__ = ("late_s", "samples", "since_sorted")

    def __init__(self) -> None:
        self.samples: deque[float] = deque(maxlen=HEDGE_SAMPLES)
        self.since_sorted = 0
        self.late_s: float | None = None


class Lateness:
    """How long calls of each tool take, from the last `HEDGE_SAMPLES` answers."""

    def __init__(self) -> None:
        self._kinds: dict[str, _Kind] = {}

    def observe(self, kind: str, seconds: float) -> None:
        """Note how long a call has taken, from when it was first sent."""
        one = self._kinds.get(kind)
        if one is None:
            if len(self._kinds) >= HEDGE_KINDS_MAX:
                return
            one = self._kinds[kind] = _Kind()
        one.samples.append(seconds)
        one.since_sorted += 1
        if len(one.samples) >= HEDGE_SAMPLES_MIN and (one.late_s is None or one.since_sorted >= SORT_EVERY):
            ordered = sorted(one.samples)
            one.late_s = ordered[int(QUANTILE * len(ordered))]
            one.since_sorted = 0

    def late_s(self, kind: str) -> float | None:
        """Return after how many seconds a call of this tool takes unusually long; None if that is not known."""
        one = self._kinds.get(kind)
        return one.late_s if one else None
