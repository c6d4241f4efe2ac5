"""The only leg of a client that has a session of its own with a legacy server over HTTP.

What the server speaks has been found out over the session that all share (legs.py); this is only opened there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from protocol.versions import Era
from workers.backend.able_sessions import HEARD_S
from workers.backend.faults import Failure, Faults, Unanswered
from workers.backend.leg import Leg
from workers.backend.legacy import LegacyLeg
from workers.backend.legs import Legs, Waiter
from workers.logs import Log
from workers.reactor import Reactor

_LEGACY: Final = Era.LEGACY


class OwnLeg(Legs):
    """Serves clients of whatever era over this leg."""

    def __init__(
        self, reactor: Reactor, leg: LegacyLeg, faults: Faults, log: Log, opened: Callable[[Leg], None]
    ) -> None:
        super().__init__(reactor, {_LEGACY: leg}, None, faults, log, opened)
        self.heard: Callable[[], trio.Event] | None = None
        """Returns what is set once nothing is missed of what the server says on the session; None if nobody listens."""
        self.contradicted: Callable[[], None] | None = None
        """Told if it turns out not to be a legacy server any more."""

    def serving(self, era: Era) -> Leg | None:
        del era
        return self._legs[_LEGACY] if self._table.is_open(_LEGACY) else None

    def wait(self, era: Era, waiter: Waiter) -> None:
        del era
        super().wait(_LEGACY, waiter)

    async def _find(self, wanted: Era) -> Failure | None:
        self._table.forget_all()  # what it once refused it may do now
        try:
            failure = await self._open(wanted)
        except Unanswered as error:
            return error.failure
        if not self._table.is_open(wanted):
            if self.contradicted is not None:
                self.contradicted()
            return failure or self._faults.no_common_era()
        if self.heard is not None:
            with trio.move_on_after(HEARD_S):
                await self.heard().wait()
        return None
