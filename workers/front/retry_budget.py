"""Bound how many calls to one server are sent again, so that retries never become the load. Pure: time comes in.

In any `REPLAY_PERIOD_S` they are no more than `REPLAY_SHARE` of the calls, and `REPLAY_FLOOR` (reliability.md, R07),
unless another share is given.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from protocol.limits import REPLAY_FLOOR, REPLAY_PERIOD_S, REPLAY_SHARE

_CALLS, _REPLAYS = 1, 2


class RetryBudget:
    """Counts calls and replays, second by second. Times are seconds of any clock that does not go back."""

    __slots__ = ("_floor", "_seconds", "_share")

    def __init__(self, share: float = REPLAY_SHARE, floor: int = REPLAY_FLOOR) -> None:
        self._share = share
        self._floor = floor
        self._seconds: Final[deque[list[int]]] = deque(maxlen=REPLAY_PERIOD_S)
        """[second, calls, replays], oldest first; only seconds in which there were any."""

    def called(self, now: float) -> None:
        """Note that a call is sent for the first time."""
        seconds, second = self._seconds, int(now)
        # All but the first call of a second are counted without another call; this is done for each of them.
        (seconds[-1] if seconds and seconds[-1][0] == second else self._at(second))[_CALLS] += 1

    def allows(self, now: float) -> bool:
        """Say whether one more call may be sent again, and count it if so."""
        second = int(now)
        recent = [one for one in self._seconds if one[0] > second - REPLAY_PERIOD_S]
        calls, replays = sum(one[_CALLS] for one in recent), sum(one[_REPLAYS] for one in recent)
        if replays + 1 > self._share * calls + self._floor:
            return False
        self._at(second)[_REPLAYS] += 1
        return True

    def _at(self, second: int) -> list[int]:
        seconds = self._seconds
        if not seconds or seconds[-1][0] != second:
            seconds.append([second, 0, 0])
        return seconds[-1]
