"""Notice when most servers fail at once: then the cause is probably here, not there. Pure; time comes in.

Precedent: Envoy's panic threshold, below which it no longer believes its own health checks (reliability.md, 1.2).
"""

from __future__ import annotations

from typing import Final

OUTAGE_PERIOD_S: Final = 10.0
SERVERS_MIN: Final = 3
"""With fewer, one that fails is half of them, which says nothing."""


class Outage:
    """Which of so many servers fail, and since when."""

    def __init__(self, servers: int = 0) -> None:
        self.servers = servers
        """How many there are; they may come and go."""
        self._failing_since: dict[str, float] = {}
        self.is_general = False
        """More than half of them began to fail within `OUTAGE_PERIOD_S`, and more than half still do."""

    def failed(self, name: str, now: float) -> bool:
        """A server does not work. Return whether that makes it general: true once for each general outage."""
        since = self._failing_since.setdefault(name, now)
        if self.is_general or since < now or self.servers < SERVERS_MIN:
            return False
        recent = sum(now - one <= OUTAGE_PERIOD_S for one in self._failing_since.values())
        self.is_general = 2 * recent > self.servers
        return self.is_general

    def works(self, name: str) -> None:
        """A server works, perhaps again."""
        self._failing_since.pop(name, None)
        if 2 * len(self._failing_since) <= self.servers:
            self.is_general = False
