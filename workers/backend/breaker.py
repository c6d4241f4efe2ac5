"""When to stop asking a server that does not answer, and how to find out that it does again. Pure; time comes in.

Two signals open it, because each alone misses a common failure: several transport failures in a row (the server is
gone), or a poor share of successes (it answers now and then). It heals by one probe at a time. A tool's own `isError`
is a success: the server works. Precedents: Finagle's failure accrual for both signals, Linkerd for growing penalties
and a probation of one.
"""

from __future__ import annotations

import enum
from collections import deque
from random import Random
from typing import Final

CONSECUTIVE_MAX: Final = 5
WINDOW_S: Final = 30.0
SAMPLE_MIN: Final = 5
SUCCESS_SHARE_MIN: Final = 0.8
PENALTY_MIN_S: Final = 1.0
PENALTY_MAX_S: Final = 60.0
JITTER: Final = 0.2
OUTCOMES_KEPT_MAX: Final = 1000


class Position(enum.Enum):
    """Where the breaker stands."""

    CLOSED = "closed"
    """Calls pass."""
    OPEN = "open"
    """Calls are refused until the penalty is over."""
    HALF_OPEN = "half_open"
    """The next call passes as the probe; until it has ended all others are refused."""


class Breaker:
    """One server's breaker."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._consecutive = 0
        self._outcomes: deque[tuple[float, bool]] = deque(maxlen=OUTCOMES_KEPT_MAX)
        self._penalty_s = 0.0
        self._open_until = 0.0
        self._probing = False
        self._opened = False

    def position(self, now: float) -> Position:
        if not self._opened:
            return Position.CLOSED
        return Position.OPEN if now < self._open_until else Position.HALF_OPEN

    def admit(self, now: float) -> bool:
        """May this call be tried? If the answer is yes its outcome must be reported, or `abandoned`."""
        if not self._opened:
            return True
        if now < self._open_until or self._probing:
            return False
        self._probing = True
        return True

    def retry_after_s(self, now: float) -> float:
        """How long a refused call had better wait."""
        return max(0.1, self._open_until - now)

    def succeeded(self, now: float) -> None:
        self._consecutive = 0
        if self._opened:
            self._opened = self._probing = False
            self._penalty_s = 0.0
            self._outcomes.clear()
        self._outcomes.append((now, True))

    def failed(self, now: float) -> None:
        """The transport failed: refused, reset, timed out, 5xx, or not MCP at all."""
        if self._opened:
            if self._probing:
                self._open(now)
            return  # a call from before it opened says nothing new
        self._consecutive += 1
        self._outcomes.append((now, False))
        if self._consecutive >= CONSECUTIVE_MAX or self._share_is_poor(now):
            self._open(now)

    def throttled(self, now: float) -> None:
        """The server said 429, or 503 with advice: it lives, so this is no failure; but a probe has not healed it."""
        if self._probing:
            self._open(now)

    def abandoned(self) -> None:
        """An admitted call ended without telling anything about the server (cancelled, or never tried)."""
        self._probing = False

    def _share_is_poor(self, now: float) -> bool:
        outcomes = self._outcomes
        while outcomes and now - outcomes[0][0] > WINDOW_S:
            outcomes.popleft()
        good = sum(ok for _, ok in outcomes)
        return len(outcomes) >= SAMPLE_MIN and good < SUCCESS_SHARE_MIN * len(outcomes)

    def _open(self, now: float) -> None:
        self._opened = True
        self._probing = False
        self._consecutive = 0
        self._penalty_s = min(PENALTY_MAX_S, max(PENALTY_MIN_S, self._penalty_s * 2))
        # Jitter keeps the probes of many proxies apart when one server comes back.
        self._open_until = now + self._penalty_s * self._random.uniform(1 - JITTER, 1 + JITTER)
