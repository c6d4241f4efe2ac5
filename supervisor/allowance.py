"""How much of the root's time what one worker says may take, and when it is next listened to. Pure: times come in.

What a message costs the root depends on the message, so time is counted and not messages: a worker that floods the
root is heard as far as its share goes, whatever it says, and the others find the root as idle as ever (reliability.md,
C-12). Whether a worker lives the root reads elsewhere (lives.py): one that is not listened to does not count as dead.
"""

from __future__ import annotations

from typing import Final

SHARE: Final = 0.02
"""Of one processor. With what is not counted, C-12 allows twice as much."""
CREDIT_S: Final = 0.01
"""What may be used at once after a quiet time: some hundred messages; at its start a worker has about ten."""
WAKE_S: Final = 0.0002
"""What it costs to wake up for a message, apart from hearing it: most, if messages come one by one."""


class Allowance:
    """Of one worker. Times are seconds of the root's clock."""

    def __init__(self, now: float) -> None:
        self._credit = CREDIT_S
        self._at = now

    def spend(self, cost_s: float, now: float) -> float:
        """Count what hearing the worker has cost; return for how many seconds it must not be listened to."""
        self._credit = min(CREDIT_S, self._credit + (now - self._at) * SHARE) - WAKE_S - cost_s
        self._at = now
        return max(0.0, -self._credit / SHARE)
