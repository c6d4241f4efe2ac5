"""Shows the root that this worker's loop runs: every second while there is something to do, and seldom while not.

Waking up costs some hundred microseconds because the caches are cold, so fifty idle workers that beat every second
would cost more than everything else they do at rest. A worker that has served nothing since its last beat says that it
rests, and the root then looks for itself whether it sleeps (supervisor/lives.py). The first thing it serves ends the
rest.
"""

from __future__ import annotations

from protocol.flight import FlightPage
from protocol.limits import HEARTBEAT_S, REST_S
from workers.reactor import Reactor


class Heart:
    """Beats from its creation on."""

    def __init__(self, reactor: Reactor, page: FlightPage) -> None:
        self._reactor = reactor
        self._page = page
        self._rests = False
        self._served = True
        """Something has been served since the last beat."""
        self._sweep = reactor.every(HEARTBEAT_S, self._look)

    def _look(self) -> float | None:
        if self._served:
            self._beat()
            return None
        self._rests = True
        self._page.rest(self._reactor.machine.monotonic_ns())
        return self._reactor.now + REST_S - HEARTBEAT_S

    def _beat(self) -> None:
        self._page.beat(self._reactor.machine.monotonic_ns())
        self._served = self._rests = False
        self._reactor.at_next_batch(self._stir)

    def _stir(self) -> None:
        """The first batch since the last beat is about to be served."""
        if self._rests:
            self._beat()
            self._sweep.wake()
        else:
            self._served = True
