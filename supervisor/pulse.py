"""Judge whether a worker's loop still runs, by how long ago it showed that it does. Pure: times come in.

Rule 1: silence is counted from the last heartbeat, or from when the worker was ready if that is later.
Rule 2: whoever looks too late knows nothing about the others: the whole machine was busy, stopped or asleep. Then all
silence is counted from the late look, so that everybody gets the full time once more (reliability.md, C-24, C-25).
"""

from __future__ import annotations

import math
from typing import Final

from protocol.limits import HEARTBEAT_S, SILENCE_S

LATE_S: Final = 0.5
"""A look that comes so much later than it was planned is late."""


class Pulse:
    """Times are seconds of the monotonic clock that all processes share."""

    def __init__(self) -> None:
        self._planned = math.inf
        self._late_look = -math.inf

    def look(self, now: float) -> None:
        """Begin a look at all workers."""
        if now - self._planned > LATE_S:
            self._late_look = now
        self._planned = now + HEARTBEAT_S

    def due(self, beat: float, ready_since: float) -> float:
        """Return when a worker counts as stuck unless another heartbeat comes before."""
        due = max(beat, ready_since, self._late_look) + SILENCE_S
        self._planned = min(self._planned, due)
        return due

    @property
    def next_look(self) -> float:
        """When to look again: as soon as one of those looked at may be due, and each `HEARTBEAT_S` at least."""
        return self._planned
