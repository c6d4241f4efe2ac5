"""When a command that has ended may be started again. Pure; the numbers are those of our own processes.

At once, but no more than `RESTART_INTENSITY` times within `RESTART_PERIOD_S`; then it is parked, and started once every
`PARK_RETRY_S` until one of them has lasted for `RESTART_RESET_S`.
"""

from __future__ import annotations

from protocol.limits import PARK_RETRY_S, RESTART_INTENSITY, RESTART_PERIOD_S, RESTART_RESET_S


class Starts:
    """The ends of one command, also of attempts to start it."""

    def __init__(self) -> None:
        self._ends: list[float] = []
        self._is_parked = False
        self.parked_until = float("-inf")

    def ended(self, started_at: float, now: float) -> None:
        """It was started then and has ended now; not because we wanted it to."""
        if now - started_at >= RESTART_RESET_S:
            self._ends.clear()
            self._is_parked = False
        self._ends = [at for at in self._ends if now - at < RESTART_PERIOD_S] + [now]
        if self._is_parked or len(self._ends) > RESTART_INTENSITY:
            self._is_parked = True
            self.parked_until = now + PARK_RETRY_S

    def wait_s(self, now: float) -> float:
        """Return how long it must not be started; 0 for not at all."""
        return max(0.0, self.parked_until - now)
