"""What single clients have at a server with `isolation = "session"`: a session each, or a process of its command.

The session that all share stays for lists, health and whatever is said to everybody; no call of a client that is told
from others goes over it, unless the server is modern and over HTTP: then there is nothing that could be kept apart.

Rule 1: a session is one client's from its first call or subscription to its end, and is never given to another one.
Rule 2: a client that cannot be told from others (a modern one over HTTP) has a session for the length of one call, with
all questions in it. Only a modern command, which must keep nothing between two requests, does it share with the like.
Rule 3: there are `sessions_max` at a time, those that are ending included. Who needs one more waits for
`QUEUE_DEADLINE_S`.
Rule 4: one ends when its client's does; after `SESSION_IDLE_S` without calls and subscriptions; and after
`SESSION_SPARE_S` if somebody waits for a place.
Rule 5: what happens to one says nothing of the server: the breaker and the health of all do not hear of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import Final

import trio

from protocol import link, tasks, uris
from protocol.abilities import OF_SESSIONS
from protocol.clients import abilities_of, era_of
from protocol.errors import OVERLOADED
from protocol.limits import QUEUE_DEADLINE_S, QUEUE_PER_SERVER_MAX, SESSION_IDLE_S, SESSION_SPARE_S
from protocol.versions import Era
from workers.backend.access import Access
from workers.backend.calls import BackendCall
from workers.backend.client_session import ClientSession
from workers.backend.faults import Failure, Unanswered
from workers.backend.front_link import FrontLink
from workers.backend.leg import Leg
from workers.backend.legs import Legs
from workers.backend.requests import Ids
from workers.backend.watches import RETRY_S, Watches
from workers.logs import Log
from workers.reactor import Reactor

_MODERN: Final = Era.MODERN  # a member of an enum is slow to reach through its class


class ClientSessions:
    """All of one worker."""

    def __init__(
        self,
        reactor: Reactor,
        shared: Access,
        watches: Watches,
        ids: Ids,
        log: Log,
        random: Random,
        *,
        most: int,
        used: Callable[[], None],
        said: Callable[[list[str]], None],
        unreachable: Callable[[Failure], None],
        changed: Callable[[], None],
    ) -> None:
        """`shared`, `watches`: of the session that all share. `used`: there are deadlines to watch.

        `changed`: there are more clients with a session of their own now, or fewer.
        """
        self.reactor = reactor
        self.shared = shared
        self.ids = ids
        self.log = log
        self.random = random
        self.used = used
        self.said = said
        self.unreachable = unreachable
        self._watches = watches
        self._most = most
        self._changed = changed
        self._all: dict[ClientSession, None] = {}
        """Those that are ending, too."""
        self._by_client: dict[int, ClientSession] = {}
        self._waiting: dict[BackendCall, float] = {}
        """Calls for which there is no session, until when they wait for one."""
        self._undecided: set[tuple[FrontEar, str]] = set()
        """What is to be watched where nobody knows yet, as it is not known what the server speaks."""
        self._holders = 0
        self._is_closed = False

    @property
    def count(self) -> int:
        """How many clients have one."""
        return len(self._by_client)

    # --- calls -------------------------------------------------------------------------------------------------------
    def legs_of(self, call: BackendCall) -> Legs | None:
        """Return what a call is to be sent over; None if it has been told to wait."""
        if call.session is not None:
            return call.session.legs
        client, shared = call.header.client, self.shared
        if shared.pool is not None or not client:
            leg = shared.legs.serving(call.header.era)
            if leg is None or leg.era is _MODERN:
                return shared.legs
        session = self._by_client.get(client) or self._begin(client, call.header.abilities)
        if session is None:
            self._wait(call)
            return None
        session.begin(call)
        return session.legs

    def client_gone(self, client: int) -> None:
        """The client makes no more calls."""
        session = self._by_client.pop(client, None)
        if session is not None:
            session.is_last_call = True
            if not session.calls:
                self.end(session)

    def asked(self, leg: Leg) -> None:
        """The server asks what names no call, in a session in which it is clear whom."""

    def _begin(self, client: int, abilities: int) -> ClientSession | None:
        """Return a new session for this client, or for one call of an unknown one; None if there is no room."""
        if self._is_closed or len(self._all) >= self._most:
            return None
        session = ClientSession(self, abilities & OF_SESSIONS, client)
        self._add(session)
        if client:
            self._by_client[client] = session
            self._changed()
        return session

    def _add(self, session: ClientSession) -> None:
        self._all[session] = None
        for _ in range(self._holders):
            session.hold(is_held=True)

    def _wait(self, call: BackendCall) -> None:
        if len(self._waiting) >= QUEUE_PER_SERVER_MAX or self._is_closed:
            self._refuse(call)
            return
        self._waiting[call] = self.reactor.now + QUEUE_DEADLINE_S
        if sum(session.is_ending for session in self._all) < len(self._waiting):
            self._make_room()
        self.used()

    def _make_room(self) -> None:
        """End the session that has been idle for longest, if any has been for long enough."""
        idle = [session for session in self._all if session.idle_s(self.reactor.now) >= SESSION_SPARE_S]
        if idle:
            self.end(min(idle, key=lambda session: session.idle_since))

    def _refuse(self, call: BackendCall) -> None:
        call.failed(self._full())

    def _full(self) -> Failure:
        return self.shared.faults.too_many_sessions(self._most, "sessions" if self.shared.is_url else "processes")

    def _go_on(self) -> None:
        """There may be room again."""
        for call in list(self._waiting):
            if call.ended:
                del self._waiting[call]
            elif len(self._all) < self._most or call.header.client in self._by_client:
                del self._waiting[call]
                call.dispatch()

    # --- subscriptions -----------------------------------------------------------------------------------------------
    def watch(self, front: FrontLink, header: link.Watch) -> None:
        """Somebody wants to hear of a resource, as he has it."""
        client, uri = uris.read_client(header.uri)
        ear, wish = FrontEar(front, client), link.Watch(header.id, uri)
        task = tasks.read_topic(uri)
        if not client or (task is not None and task[1].startswith(tasks.KEPT)):
            self._watches.watch(ear, wish)
        elif self.shared.pool is None:
            self._watch_own(ear, wish)
        else:
            self.reactor.start_soon(self._watch_once_known, ear, wish)

    def unwatch(self, front: FrontLink, text: str) -> None:
        """He does not any more."""
        client, uri = uris.read_client(text)
        self._unwatch(FrontEar(front, client), uri)

    def front_gone(self, front: FrontLink) -> None:
        for watches in (self._watches, *(session.watches for session in self._all)):
            for ear, uri in watches.wishes():
                if isinstance(ear, FrontEar) and ear.front is front:
                    self._unwatch(ear, uri)
        self._undecided = {(ear, uri) for ear, uri in self._undecided if ear.front is not front}

    def _watch_own(self, ear: FrontEar, wish: link.Watch) -> None:
        session = self._by_client.get(ear.client) or self._begin(ear.client, abilities_of(ear.client))
        if session is None:
            ear.send(link.Watching(wish.id, OVERLOADED, self._full().message))
        else:
            session.watches.watch(ear, wish)

    async def _watch_once_known(self, ear: FrontEar, wish: link.Watch) -> None:
        key = (ear, wish.uri)
        self._undecided.add(key)
        while key in self._undecided:
            try:
                leg = await self.shared.legs.leg_for(era_of(ear.client))
            except Unanswered:
                await trio.sleep(RETRY_S)
                continue
            if key in self._undecided:
                self._undecided.discard(key)
                if leg.era is _MODERN:
                    self._watches.watch(ear, wish)
                else:
                    self._watch_own(ear, wish)

    def _unwatch(self, ear: FrontEar, uri: str) -> None:
        self._undecided.discard((ear, uri))
        self._watches.unwatch(ear, uri)
        session = self._by_client.get(ear.client)
        if session is not None:
            session.watches.unwatch(ear, uri)
            session.idle_since = self.reactor.now
            self.used()

    # --- as of a channel ---------------------------------------------------------------------------------------------
    def hold(self, *, is_held: bool) -> None:
        """A front takes what it is sent too slowly, or again fast enough."""
        self._holders += 1 if is_held else -1
        for session in self._all:
            session.hold(is_held=is_held)

    def doubt(self) -> None:
        """The server could not be reached: it has to be asked first whether it still knows these sessions."""
        for session in self._all:
            if not session.has_channel:
                session.legs.doubt()

    def woke(self) -> None:
        """What leads to the server may have been cut off."""
        for session in self._all:
            if session.has_channel:
                session.channel.drop_idle()

    def sweep(self, now: float) -> float | None:
        """Look at deadlines. Return when there is something to do again; None: soon."""
        for call in [call for call, until in self._waiting.items() if until <= now]:
            del self._waiting[call]
            self._refuse(call)
        due: float | None = None if self._waiting else math.inf
        for session in list(self._all):
            if session.has_channel:
                session.channel.sweep()
            if session.idle_s(now) >= SESSION_IDLE_S:
                self.log.info("a session was idle for long and is ended", seconds=round(session.idle_s(now)))
                self.end(session)
            next_due = session.next_due
            due = None if due is None or next_due is None else min(due, next_due)
        return due

    # --- the end -----------------------------------------------------------------------------------------------------
    def end(self, session: ClientSession) -> None:
        """End a session, whatever is under way in it."""
        if session.is_ending:
            return
        session.is_ending = True
        if self._by_client.get(session.client) is session:
            del self._by_client[session.client]
        self.reactor.start_soon(self._end, session)

    async def _end(self, session: ClientSession) -> None:
        try:
            await session.end()
        finally:
            self._all.pop(session, None)
            session.ended.set()
            if session.client:
                self._changed()
            self._go_on()

    async def end_all(self) -> None:
        """End all, and come back when they have ended."""
        self._is_closed = True
        self._undecided.clear()
        for session in list(self._all):
            self.end(session)
        for session in list(self._all):
            await session.ended.wait()


class FrontEar:
    """One client of a front that hears of resources (`workers.backend.watches.Ear`). As good as any of the same two."""

    __slots__ = ("client", "front")

    def __init__(self, front: FrontLink, client: int) -> None:
        self.front = front
        self.client = client

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FrontEar) and (self.front, self.client) == (other.front, other.client)

    def __hash__(self) -> int:
        return hash((self.front, self.client))

    def send(self, header: link.Header, payload: link.Payload = b"") -> None:
        if isinstance(header, link.Updated):
            header = link.Updated(uris.of_client(self.client, header.uri))
        self.front.send(header, payload)
