"""Where a worker counts what it does: places in its flight page, which the root reads (supervisor/metrics.py).

Each is one 64-bit number with one writer. A backend worker and a front use the same places for different things.
"""

from __future__ import annotations

from typing import Final, Protocol

COUNTS: Final = 12
"""Places, some of them free."""


class Counts(Protocol):
    """Such a page, or a list in its place."""

    def __getitem__(self, at: int, /) -> int: ...

    def __setitem__(self, at: int, count: int, /) -> None: ...


def nowhere() -> Counts:
    """Return counts that nobody looks at."""
    return [0] * COUNTS


# Of a backend worker:
ANSWERED: Final = 0
"""Calls that a front got an answer or an error for."""
SPENT_US: Final = 1
"""Microseconds from their arrival to that, together."""
ERRORS: Final = 2
"""Calls, checks and attempts to connect that the server failed."""

# Of a front:
CONNECTIONS: Final = 0
"""That are open now."""
ACCEPTED: Final = 1
"""Connections served, those included that are gone."""
TURNED_AWAY: Final = 2
"""Connections closed at once, because there were too many."""
LEGACY_REQUESTS: Final = 3
"""JSON-RPC requests of initialized sessions."""
MODERN_REQUESTS: Final = 4
"""Stateless JSON-RPC requests."""
REFUSED: Final = 5
"""HTTP requests answered with an error of HTTP, because nothing could or should be made of them."""
OVERLOADED_CALLS: Final = 6
"""Calls refused because a server had too many already."""
FAILED_CALLS: Final = 7
"""Calls answered with any other error of ours."""
