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
Rule 4: a call of a client that cannot be told from others (a modern one over HTTP) leaves the session that all share
only while somebody is being asked there. Its calls would else be scattered over processes of which none remembers what
the others have been told.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from random import Random
from typing import Final

from protocol.abilities import EVERYTHING, NOTHING, OF_SESSIONS
from protocol.limits import LEASED_SESSIONS_MAX
from protocol.versions import Era
from workers.backend.access import Access
from workers.backend.calls import BackendCall
from workers.backend.client_session import ClientSession
from workers.backend.client_sessions import ClientSessions
from workers.backend.faults import Failure
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
    """Those of one worker. `calls` returns what is under way on a leg."""

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
        self._last: OrderedDict[int, ClientSession] = OrderedDict()
        """The session that a client was given last, if it was not the one that all share."""

    def legs_of(self, call: BackendCall) -> Legs:
        """Return what a call is to be sent over."""
        if call.session is not None:
            return call.session.legs
        shared = self.shared.legs
        leg = shared.serving(call.header.era)
        if leg is None or leg.era is not _LEGACY:
            return shared
        able = call.header.abilities & OF_SESSIONS if shared.able is not None else NOTHING
        if shared.able is not None:
            leg = shared.able.serving(able) if able & EVERYTHING else None
            if leg is None:
                return shared  # it has a session without anybody in it, or one in which nothing is asked
        if not call.header.client and not self._is_asking(leg, call):
            return shared
        last = self._last.get(call.header.client)
        if last is not None and last.abilities == able and self._is_free(last, call):
            return self._lease(last, call)
        if self._is_free_shared(leg, call):
            self._last.pop(call.header.client, None)
            return shared
        alike = (session for session in self._all if session.abilities == able and self._is_free(session, call))
        session = next(alike, None) or self._open(able)
        return self._lease(session, call) if session is not None else shared

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

    def _is_free_shared(self, leg: Leg, call: BackendCall) -> bool:
        return isinstance(leg, LegacyLeg) and _may_join(call, self._calls(leg), leg)

    def _is_asking(self, leg: Leg, call: BackendCall) -> bool:
        return any(other.talk is not None and other.client != call.client for other in self._calls(leg))

    def client_gone(self, client: int) -> None:
        """Its session is for others from now on."""
        self._last.pop(client, None)


def _may_join(call: BackendCall, others: Iterable[BackendCall], leg: LegacyLeg) -> bool:
    """Whether a call may be under way beside these without making it unclear whom a question on this leg is for."""
    who = call.client
    if call.can_be_asked and not leg.is_left_to(who):
        return False
    return all(other.client == who or not (call.can_be_asked or other.can_be_asked) for other in others)


def _nothing() -> None:
    pass
