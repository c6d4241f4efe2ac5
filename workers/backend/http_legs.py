"""The legs of a server at an http URL: Streamable HTTP, or the HTTP+SSE that was before it, whichever the server has.

Which one it is is found out as the specification says (2025-11-25, transports, "Backwards Compatibility"): a server
that refuses a POST of `initialize` with 400, 404 or 405 may have an event stream to be had with GET.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from protocol.versions import Era
from workers.backend.able_sessions import AbleSessions
from workers.backend.era import Verdict
from workers.backend.faults import Faults, Unanswered
from workers.backend.leg import Leg, Opening
from workers.backend.legacy import LegacyLeg
from workers.backend.legs import Legs
from workers.backend.message_legs import MessageLegacyLeg
from workers.backend.modern import ModernLeg
from workers.logs import Log
from workers.reactor import Reactor

_MAYBE_OLDER: Final = frozenset({400, 404, 405})


class HttpLegs(Legs):
    """Both eras, and both transports of the older one."""

    def __init__(
        self,
        reactor: Reactor,
        modern: ModernLeg,
        legacy: LegacyLeg,
        sse: MessageLegacyLeg,
        able: AbleSessions,
        faults: Faults,
        log: Log,
        opened: Callable[[Leg], None],
    ) -> None:
        super().__init__(reactor, {Era.MODERN: modern, Era.LEGACY: legacy}, able, faults, log, opened)
        self._streamable = (legacy, able)
        self._sse = sse

    @property
    def found_transport(self) -> str:
        return "sse" if self._legs[Era.LEGACY] is self._sse else ""

    async def _ask_for(self, era: Era) -> Opening:
        if era is Era.MODERN:
            return await super()._ask_for(era)
        self._legs[Era.LEGACY], self.able = self._streamable  # it may have become another server
        opening = await super()._ask_for(era)
        if opening.status in _MAYBE_OLDER and not self._table.is_open(Era.MODERN):
            try:
                older = await self._sse.open()
            except Unanswered:
                return opening
            if older.verdict is Verdict.YES:
                self._legs[Era.LEGACY], self.able = self._sse, None  # one stream is one session
                return older
        return opening
