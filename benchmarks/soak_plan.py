"""Chooses what is broken next during a soak. Pure: times and a source of randomness in, the next fault out."""

from __future__ import annotations

import math
from random import Random
from typing import Final

from benchmarks.faults import FREEZE_KIND, SERVER_KIND, WORKER_KIND
from benchmarks.stand import FRONT, ZYGOTE

RESET_S: Final = 65.0
"""A process that has been up for a minute is restarted at once when it ends; before that its restarts are slowed down,
and that is not what a soak is about (supervisor/restart.py)."""
ZYGOTE_S: Final = 300.0
"""Everything dies with the zygote, so that nothing may be killed for a minute after it."""
SERVER_S: Final = 10.0
FREEZE_S: Final = 5.0
EVERYWHERE: Final = -1
"""In place of a server, for faults that hit all of them."""
WARM_UP: Final = ((WORKER_KIND, 0), (SERVER_KIND, 0), (FREEZE_KIND, 1), (FRONT, EVERYWHERE))


class Plan:
    """Remembers what was done when. Times are seconds of any clock."""

    def __init__(self, random: Random, servers: int) -> None:
        self._random = random
        self._servers = servers
        self._done: dict[tuple[str, int], float] = {}

    def done(self, kind: str, server: int, now: float) -> None:
        self._done[kind, server] = now

    def choose(self, now: float) -> tuple[str, int] | None:
        """Return a kind of fault and the server it hits, or None if it is too early for anything."""
        kinds = [(kind, self._targets(kind, now)) for kind in (WORKER_KIND, SERVER_KIND, FREEZE_KIND, FRONT, ZYGOTE)]
        possible = [(kind, targets) for kind, targets in kinds if targets]
        if not possible:
            return None
        kind, targets = self._random.choice(possible)
        return kind, self._random.choice(targets)

    def _targets(self, kind: str, now: float) -> list[int]:
        gap_s = {WORKER_KIND: RESET_S, FRONT: RESET_S, ZYGOTE: ZYGOTE_S, SERVER_KIND: SERVER_S}.get(kind, FREEZE_S)
        if kind in (WORKER_KIND, FRONT) and self._since(ZYGOTE, EVERYWHERE, now) < RESET_S:
            return []
        servers = [EVERYWHERE] if kind in (FRONT, ZYGOTE) else list(range(self._servers))
        return [server for server in servers if self._since(kind, server, now) >= gap_s]

    def _since(self, kind: str, server: int, now: float) -> float:
        return now - self._done.get((kind, server), -math.inf)
