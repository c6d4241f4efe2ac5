"""Answers fronts that ask for a server's lists, and keeps those lists warm."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

from protocol import link
from protocol.tasks import FORBIDDEN
from protocol.versions import Era
from workers.backend.answers import Answer
from workers.backend.catalogue import KINDS, Catalogue, Kind
from workers.backend.faults import Failure, Faults, Unanswered
from workers.backend.front_link import FrontLink
from workers.backend.leg import Leg
from workers.backend.legs import Legs
from workers.backend.modern import ModernLeg
from workers.logs import Log
from workers.reactor import Reactor

CHANGED_TOGETHER = {"resources": ("resources", "resourceTemplates")}
"""A server announces changes of both with one notification."""


class Listings:
    """All lists of one server."""

    def __init__(
        self,
        reactor: Reactor,
        legs: Legs,
        faults: Faults,
        log: Log,
        *,
        page_timeout_s: float,
        changed: Callable[[str], None],
        header_rules: bool,
        tools_known: Callable[[], None],
        unreachable: Callable[[Failure], None],
    ) -> None:
        self._reactor = reactor
        self._legs = legs
        self._faults = faults
        self._log = log
        self._page_timeout_s = page_timeout_s
        self._changed = changed
        self._tools_known = tools_known
        self._unreachable = unreachable
        # One sequence for all: an (era, kind) can come to be served by the other leg, and must not repeat a number.
        generations = count(1)
        self._catalogues = {
            (era, name): Catalogue(era, kind, faults, log, generations, header_rules=header_rules)
            for era in Era
            for name, kind in KINDS.items()
        }

    @property
    def tools(self) -> tuple[str, ...] | None:
        """The names of the server's tools as of the last list over a leg that is open; None if there has been none."""
        for leg in self._legs.open_legs():
            catalogue = self._catalogues[leg.era, "tools"]
            if catalogue.generation:
                return catalogue.keys
        return None

    def task_support(self, tool: str) -> str:
        """Return what a legacy tool says of tasks, as far as its list is known."""
        return self._catalogues[Era.LEGACY, "tools"].task_tools.get(tool, FORBIDDEN)

    async def list_tools(self) -> None:
        """Fetch the tools as a front's request would. Errors: `Unanswered`."""
        await self._refresh_for(Era.MODERN, "tools")

    def request(self, front: FrontLink, request: link.ListRequest) -> None:
        """Answer a front, at once if the list is fresh enough."""
        if request.kind not in KINDS:
            front.send(link.ListFault(request.id, f'there is no list of "{request.kind[:40]}"'))
            return
        leg = self._legs.serving(request.era)
        if leg is not None:
            catalogue = self._catalogues[leg.era, request.kind]
            if catalogue.is_fresh(self._reactor.now):
                front.send(*catalogue.listing(request, self._reactor.now))
                return
        self._reactor.start_soon(self._answer, front, request)

    def list_changed(self, kind: str) -> None:
        """The server says so."""
        for name in CHANGED_TOGETHER.get(kind, (kind,)):
            for era in Era:
                self._catalogues[era, name].invalidate()
            self._changed(name)

    def opened(self, leg: Leg) -> None:
        """The server may be another than the one that said for how long its lists are good."""
        for name, kind in KINDS.items():
            catalogue = self._catalogues[leg.era, name]
            if catalogue.is_lacking and _lacks(leg, kind):
                continue
            if catalogue.is_fresh(self._reactor.now):
                catalogue.invalidate()
                self._changed(name)

    async def warm(self, leg: Leg) -> None:
        """Fetch the tools over a leg that has just been opened, so that nobody has to wait for them."""
        known = self._catalogues[leg.era, "tools"].generation
        try:
            changed = await self._refresh(leg, "tools")
        except Unanswered as error:
            self._log.warning("the tools could not be listed", reason=self._faults.in_words(error.failure))
            self._report(error.failure)
            return
        if changed and known:
            self._changed("tools")

    def relist(self, leg: Leg, done: Callable[[Failure | None], None]) -> None:
        """Fetch the tools of this leg again, then call back."""
        self._reactor.start_soon(self._relist, leg, done)

    async def _relist(self, leg: Leg, done: Callable[[Failure | None], None]) -> None:
        try:
            changed = await self._refresh(leg, "tools")
        except Unanswered as error:
            done(error.failure)
            return
        done(None)
        if changed:
            self._changed("tools")

    async def _answer(self, front: FrontLink, request: link.ListRequest) -> None:
        try:
            leg = await self._refresh_for(request.era, request.kind)
        except Unanswered as error:
            self._report(error.failure)
            front.send(link.ListFault(request.id, self._faults.in_words(error.failure)))
            return
        front.send(*self._catalogues[leg.era, request.kind].listing(request, self._reactor.now))

    async def _refresh_for(self, era: Era, kind: str) -> Leg:
        """Fetch a list for clients of `era`; return the leg it came over. Errors: `Unanswered`."""
        leg = await self._legs.leg_for(era)
        try:
            await self._refresh(leg, kind)
        except Unanswered:
            other = self._legs.serving(era)
            if other is None or other is leg:
                raise
            # The server has come back with the other era.
            leg = other
            await self._refresh(leg, kind)
        return leg

    async def _refresh(self, leg: Leg, kind: str) -> bool:
        catalogue = self._catalogues[leg.era, kind]
        if _lacks(leg, catalogue.kind):
            changed = catalogue.take_nothing()
            if changed and kind == "tools":
                self._tools_known()
            return changed

        async def ask(method: str, params: bytes) -> Answer:
            return await self._legs.ask(leg, method, params, self._page_timeout_s)

        changed = await catalogue.refresh(ask)
        if isinstance(leg, ModernLeg) and kind == "tools":
            leg.param_headers = catalogue.param_headers
        if changed and kind == "tools":
            self._tools_known()
        return changed

    def _report(self, failure: Failure) -> None:
        if failure.down:
            self._unreachable(failure)


def _lacks(leg: Leg, kind: Kind) -> bool:
    return leg.capabilities is not None and kind.capability not in leg.capabilities
