"""The pace at which one call's progress goes to its client: of what comes faster only the newest is kept.

Progress says how far a call has come, so a newer report makes an older one worthless (2025-11-25, basic/utilities,
"Progress": both parties should limit its rate).
"""

from __future__ import annotations

from protocol.limits import PROGRESS_AT_ONCE, PROGRESS_PER_S


class Progress:
    """Of one call. Times are seconds of the reactor's clock."""

    __slots__ = ("_credit", "_since", "held", "is_waiting")

    def __init__(self, now: float) -> None:
        self._credit = PROGRESS_AT_ONCE
        self._since = now
        self.held: bytes | None = None
        """The newest report, if it has not been sent; None if it has."""
        self.is_waiting = False
        """Somebody will look again when there is a place for it."""

    def wait_s(self, now: float) -> float:
        """Return in how many seconds the next report may be sent; 0 means now, and counts as sent."""
        self._credit = min(PROGRESS_AT_ONCE, self._credit + (now - self._since) * PROGRESS_PER_S)
        self._since = now
        if self._credit < 1.0:
            return (1.0 - self._credit) / PROGRESS_PER_S
        self._credit -= 1.0
        return 0.0
