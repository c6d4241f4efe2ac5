"""When to stop asking a server that does not answer, and how to find out that it does again. Pure; time comes in.

Two signals open it, because each alone misses a common failure: several transport failures in a row (the server is
gone), or a poor share of successes (it answers now and then). It heals by one probe at a time. A tool's own `isError`
is a success: the server works. Precedents: Finagle's failure accrual for both signals, Linkerd for growing penalties
and a probation of one.

Every call that is admitted gets a ticket, and its outcome counts only while the ticket is good: what was sent before
the breaker opened says nothing about the server now, and must neither heal it nor end the probe of another call.
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
RETRY_MIN_S: Final = 0.1
"""Advice to a refused call while a probe is out, whose end nobody knows."""
OUTCOMES_KEPT_MAX: Final = 256
"""At a high rate the window is shorter than `WINDOW_S`: a server that breaks is noticed the sooner."""


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
        self._ticket = 1
        """The one whose outcomes count: of all calls while closed, of the probe while not. Changes with each step."""
        self.pass_ticket = self._ticket
        """What `admit` returns while it is closed, as it nearly always is; 0 while it is not."""
        self._consecutive = 0
        self._outcomes: deque[tuple[float, bool]] = deque(maxlen=OUTCOMES_KEPT_MAX)
        self._penalty_s = 0.0
        self._closed_since = float("-inf")
        self._open_until = 0.0
        self._is_open = False
        """Not closed, that is open or half open."""
        self._probing = False

    @property
    def is_closed(self) -> bool:
        return not self._is_open

    @property
    def open_until(self) -> float:
        """When the penalty is over; meaningful unless closed."""
        return self._open_until

    def position(self, now: float) -> Position:
        if not self._is_open:
            return Position.CLOSED
        return Position.OPEN if now < self._open_until else Position.HALF_OPEN

    def admit(self, now: float) -> int:
        """May this call be tried? Return its ticket, with which its outcome must be reported; 0 if it is refused."""
        if not self._is_open:
            return self.pass_ticket
        if self._probing or now < self._open_until:
            return 0
        self._probing = True
        self._ticket += 1
        return self._ticket

    def retry_after_s(self, now: float) -> float:
        """How long a refused call had better wait."""
        return max(RETRY_MIN_S, self._open_until - now)

    def succeeded(self, ticket: int, now: float) -> None:
        """The server answered this call, be it with an error of its own."""
        if ticket != self._ticket:
            return
        if self._is_open:
            self._close(now)
        self._consecutive = 0
        self._outcomes.append((now, True))

    def failed(self, ticket: int, now: float) -> None:
        """The transport failed: refused, reset, timed out, 5xx, or not MCP at all."""
        if ticket != self._ticket:
            return
        if self._probing:
            self._open(now)
            return
        self._consecutive += 1
        self._outcomes.append((now, False))
        if self._consecutive >= CONSECUTIVE_MAX or self._share_is_poor(now):
            self._open(now)

    def throttled(self, ticket: int, now: float) -> None:
        """The server said 429, or 503 with advice: it lives, so this is no failure; but a probe has not healed it."""
        if ticket == self._ticket and self._probing:
            self._open(now)

    def abandoned(self, ticket: int) -> None:
        """An admitted call ended without telling anything about the server (cancelled, or never tried)."""
        if ticket == self._ticket and self._probing:
            self._probing = False
            self._ticket += 1

    def recovered(self, now: float) -> None:
        """The server has answered a question of our own: it is there, and calls may try it, whatever was before."""
        if self._is_open:
            self._close(now)

    def _share_is_poor(self, now: float) -> bool:
        outcomes = self._outcomes
        while outcomes and now - outcomes[0][0] > WINDOW_S:
            outcomes.popleft()
        good = sum(ok for _, ok in outcomes)
        return len(outcomes) >= SAMPLE_MIN and good < SUCCESS_SHARE_MIN * len(outcomes)

    def _open(self, now: float) -> None:
        if not self._is_open and now - self._closed_since > WINDOW_S:
            # It has held for a while. One that only answers probes and pings would otherwise begin at 1 s for ever.
            self._penalty_s = 0.0
        self._is_open = True
        self._probing = False
        self._ticket += 1
        self.pass_ticket = 0
        self._penalty_s = min(PENALTY_MAX_S, max(PENALTY_MIN_S, self._penalty_s * 2))
        # Jitter keeps the probes of many proxies apart when one server comes back.
        self._open_until = now + self._penalty_s * self._random.uniform(1 - JITTER, 1 + JITTER)

    def _close(self, now: float) -> None:
        self._is_open = False
        self._probing = False
        self._ticket += 1
        self.pass_ticket = self._ticket
        self._consecutive = 0
        self._closed_since = now
        self._outcomes.clear()
