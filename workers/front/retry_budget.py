"""Bound how many calls to one server are sent again, so that retries never become the load. Pure: time comes in.

In any `REPLAY_PERIOD_S` they are no more than `REPLAY_SHARE` of the calls, and `REPLAY_FLOOR` (reliability.md, R07),
unless another share is given.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final

from protocol.limits import REPLAY_FLOOR, REPLAY_PERIOD_S, REPLAY_SHARE

_CALLS, _REPLAYS = 1, 2


class RetryBudget:
    """Counts calls and replays, second by second. Times are seconds of any clock that does not go back."""

    __slots__ = ("_floor", "_latest", "_latest_ends", "_seconds", "_share")

    def __init__(self, share: float = REPLAY_SHARE, floor: int = REPLAY_FLOOR) -> None:
        self._share = share
        self._floor = floor
        self._seconds: Final[deque[list[int]]] = deque(maxlen=REPLAY_PERIOD_S)
        """[second, calls, replays], oldest first; only seconds in which there were any."""
        self._latest = [0, 0, 0]
        self._latest_ends = -math.inf

    def called(self, now: float) -> None:
        """Note that a call is sent for the first time."""
        if now >= self._latest_ends:
            self._begin_second(now)
        self._latest[_CALLS] += 1

    def allows(self, now: float) -> bool:
        """Say whether one more call may be sent again, and count it if so."""
        second = int(now)
        recent = [one for one in self._seconds if one[0] > second - REPLAY_PERIOD_S]
        calls, replays = sum(one[_CALLS] for one in recent), sum(one[_REPLAYS] for one in recent)
        if replays + 1 > self._share * calls + self._floor:
            return False
        if now >= self._latest_ends:
            self._begin_second(now)
        self._latest[_REPLAYS] += 1
        return True

    def _begin_second(self, now: float) -> None:
        second = int(now)
        self._latest = [second, 0, 0]
        self._latest_ends = second + 1.0
        self._seconds.append(self._latest)
