"""Notice that the root has not run for a while: the machine was asleep, or everything on it was stopped. Pure.

The clock must go on while the machine is asleep. The one that all timers go by does not (clock_gettime(2),
CLOCK_MONOTONIC), so that no deadline passes meanwhile; but at the other end of a connection time has passed, and
whatever was between may have forgotten it.
"""

from __future__ import annotations

from typing import Final

from protocol.limits import HEARTBEAT_S, SILENCE_S

ABSENCE_S: Final = HEARTBEAT_S + SILENCE_S
"""More than a busy machine holds anybody up, and less than any server waits before it closes a connection."""


class WakeWatch:
    """Is told each `HEARTBEAT_S` or sooner how long the machine has been up (`supervisor.machine.Machine.uptime`)."""

    def __init__(self, at: float) -> None:
        self._last = at

    def look(self, at: float) -> float:
        """Return for how many seconds nothing has run, 0 if that is no more than usual."""
        absent_s = at - self._last
        self._last = at
        return absent_s if absent_s > ABSENCE_S else 0.0
