"""Further sessions with a legacy server whose questions do not say which call they belong to: a call leases one.

So it is on pipes, on WebSockets, and on the GET stream of a session over HTTP: a question there may be about any call
under way, and can be put to a client only if they are all its own (asking.py). Most servers never ask so, and have the
one session that all share. For the others it is seen to that no other client's call is under way beside one that may
be asked, as far as the bound allows.

Rule 1: the session that all share comes first. A client that has been given another one keeps to it while it can,
because servers remember things.
Rule 2: calls of clients that cannot be asked may be under way side by side.
Rule 3: there are at most `LEASED_SESSIONS_MAX`. When all are taken, a call goes where it would have gone without them,
and a question that comes then waits, or is refused, as it would be there.
Rule 4: a server that has not asked so yet has the one session. But the first call of each tool waits while another
client's first call has been under way for less than `FIRST_CALL_S`, if both can be asked: most end or ask in that time,
and then it is known what they do.
Rule 5: a call of a client that cannot be told from others (a modern one over HTTP) leaves the session that all share
only if its own tool has asked before, or while such a one is under way there. Its calls would else be scattered over
processes of which none remembers what the others have been told.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from random import Random
from typing import Final

from protocol import link
from protocol.abilities import EVERYTHING, NOTHING, OF_SESSIONS
from protocol.limits import FIRST_CALL_S, LEASED_SESSIONS_MAX
from protocol.versions import Era
from workers.backend.access import Access
from workers.backend.askers import Askers
from workers.backend.calls import BackendCall
from workers.backend.client_session import ClientSession
from workers.backend.client_sessions import ClientSessions
from workers.backend.faults import Failure
from workers.backend.interactions import Ending
from workers.backend.leg import Leg
from workers.backend.legacy import LegacyLeg
from workers.backend.legs import Legs
from workers.backend.requests import Ids
from workers.backend.watches import Watches
from workers.logs import Log
from workers.reactor import Reactor

CLIENTS_KEPT_MAX: Final = 1000
"""Of which it is remembered where they were served."""
_LEGACY: Final = Era.LEGACY  # a member of an enum is slow to reach through its class


class LeasedSessions(ClientSessions):
    """Those of one worker. `calls` returns what is under way on a leg of the session that all share."""

    def __init__(
        self,
        reactor: Reactor,
        shared: Access,
        watches: Watches,
        ids: Ids,
        log: Log,
        random: Random,
        *,
        used: Callable[[], None],
        said: Callable[[list[str]], None],
        unreachable: Callable[[Failure], None],
        calls: Callable[[Leg], Iterable[BackendCall]],
    ) -> None:
        super().__init__(
            reactor, shared, watches, ids, log, random, most=LEASED_SESSIONS_MAX, used=used, said=said,
            unreachable=unreachable, changed=_nothing,
        )  # fmt: skip
        self._calls = calls
        self._has_asked = False
        """The server has asked what names no call."""
        self._askers = Askers()
        self._firsts: dict[BackendCall, Leg] = {}
        """Calls under way of what is not known yet, and over which leg."""
        self._patient: dict[BackendCall, float] = {}
        """Calls that wait for such a one to end or to ask, and until when at the latest."""
        self._last: OrderedDict[int, ClientSession] = OrderedDict()
        """The session that a client was given last, if it was not the one that all share."""

    def legs_of(self, call: BackendCall) -> Legs | None:
        """Return what a call is to be sent over; None if it has been told to wait."""
        if call.session is not None:
            return call.session.legs
        shared = self.shared.legs
        if not (self._has_asked or call.can_be_asked):
            return shared
        until = self._patient.pop(call, self.reactor.now + FIRST_CALL_S)
        leg = shared.serving(call.header.era)
        if leg is None or leg.era is not _LEGACY:
            return shared
        able = call.header.abilities & OF_SESSIONS if shared.able is not None else NOTHING
        if shared.able is not None:
            leg = shared.able.serving(able) if able & EVERYTHING else None
        if not isinstance(leg, LegacyLeg) or not leg.asks_apart:
            return shared  # it has a session without anybody in it, or one in which nothing is asked
        is_first = call.can_be_asked and not self._askers.is_known(call)
        is_kept_apart = self._has_asked and call.header.client
        if is_first and not is_kept_apart and self._is_to_wait(leg, call, until):
            return None
        session = self._session_for(leg, call, able)
        if is_first:
            self._firsts[call] = leg if session is None else session.legacy
            call.first = self
        return shared if session is None else self._lease(session, call)

    def _session_for(self, leg: LegacyLeg, call: BackendCall, able: int) -> ClientSession | None:
        """Return the session that a call leases; None if that is the one that all share."""
        last = self._last.get(call.header.client)
        if not self._has_asked or not (call.header.client or self._may_ask(leg, call)):
            return None
        if last is not None and last.abilities == able and self._is_free(last, call):
            return last
        if _may_join(call, self._calls(leg), leg):
            self._last.pop(call.header.client, None)
            return None
        alike = (session for session in self._all if session.abilities == able and self._is_free(session, call))
        return next(alike, None) or self._open(able)

    def _open(self, able: int) -> ClientSession | None:
        """Return one more session; None if there is no room. A message channel has one kind, which can be asked all."""
        if self._is_closed or len(self._all) >= self._most:
            return None
        session = ClientSession(self, able, is_leased=True)
        self._add(session)
        return session

    def _lease(self, session: ClientSession, call: BackendCall) -> Legs:
        if client := call.header.client:
            self._last[client] = session
            self._last.move_to_end(client)
            if len(self._last) > CLIENTS_KEPT_MAX:
                self._last.popitem(last=False)
        session.begin(call)
        return session.legs

    def _is_free(self, session: ClientSession, call: BackendCall) -> bool:
        return not session.is_ending and _may_join(call, session.calls, session.legacy)

    def _may_ask(self, leg: LegacyLeg, call: BackendCall) -> bool:
        """Whether the server may be asking in this call, or in one of another client on this leg."""
        others = (other for other in self._calls(leg) if other.client != call.client)
        return self._askers.asks(call) or any(other.talk is not None or self._askers.asks(other) for other in others)

    def client_gone(self, client: int) -> None:
        """Its session is for others from now on."""
        self._last.pop(client, None)

    # --- what is called for the first time ---------------------------------------------------------------------------
    def _is_to_wait(self, leg: LegacyLeg, call: BackendCall, until: float) -> bool:
        """Whether a call that may be asked something waits for another one such, of which as little is known."""
        now = self.reactor.now
        others = (other for other, where in self._firsts.items() if where is leg and other.client != call.client)
        if now >= until or not any(now < other.came_at + FIRST_CALL_S for other in others):
            return False
        self._patient[call] = until
        self.used()
        return True

    def asked(self, leg: Leg) -> None:
        """The server has asked what names no call: of whoever is being asked now, or of any that can be."""
        calls = [call for call in self._under_way(leg) if call.can_be_asked and call.is_at(leg)]
        if not calls:
            return  # it asks so at the beginning of a session
        if not self._has_asked:
            self._has_asked = True
            self.log.info("the server asks what names no call; calls that may be asked get a session of their own")
        for call in [call for call in calls if call.talk is not None] or calls:
            self._askers.note(call, asks=True)
        for call in [call for call, where in self._firsts.items() if where is leg]:
            self._drop_first(call)  # of those that nobody is asked in nothing is known still
        self._wake(list(self._patient))

    def named(self, call: BackendCall) -> None:
        """The server has asked on the stream of this call, as it should."""
        self._askers.note(call, asks=False)
        self._drop_first(call)
        self._wake(list(self._patient))

    def over(self, call: BackendCall, header: Ending) -> None:
        """A call has ended in which nothing was asked."""
        if isinstance(header, link.Result):
            self._askers.note(call, asks=False)
        self._drop_first(call)
        self._wake(list(self._patient))

    def _drop_first(self, call: BackendCall) -> None:
        self._firsts.pop(call, None)
        call.first = None

    def _under_way(self, leg: Leg) -> Iterable[BackendCall]:
        return next((session.calls for session in self._all if session.legacy is leg), None) or self._calls(leg)

    def _wake(self, calls: Iterable[BackendCall]) -> None:
        """Send these calls, which wait, unless they still have to."""
        for call in calls:
            if call.ended:
                self._patient.pop(call, None)
            elif call in self._patient:  # still: one that was sent before it may have woken it
                call.dispatch()

    def sweep(self, now: float) -> float | None:
        due = super().sweep(now)
        self._wake([call for call, until in self._patient.items() if until <= now])
        return None if self._patient else due


def _may_join(call: BackendCall, others: Iterable[BackendCall], leg: LegacyLeg) -> bool:
    """Whether a call may be under way beside these without making it unclear whom a question on this leg is for."""
    who = call.client
    if call.can_be_asked and not leg.is_left_to(who):
        return False
    return all(other.client == who or not (call.can_be_asked or other.can_be_asked) for other in others)


def _nothing() -> None:
    pass
