"""Which resources the fronts want to hear about, and whether the server tells us: on each leg that is open.

Rule 1: a server is subscribed to a resource on every leg, because what happens on one may be told only there.
Rule 2: a front is answered once it is known: yes if the server agreed on some leg, no if it refused on all. While the
server cannot be asked there is no answer; what is wanted is asked for as soon as a leg is opened.
Rule 3: updates are gathered for a moment, so that a server that sends many has each told once (B-10). After a gap in
what we could hear, everything that is watched counts as updated, because it may have been.
Rule 4: a task is watched like a resource, under a topic (`protocol.tasks.topic`). A modern server is asked to tell of
it in its listen stream; a legacy one that has tasks does so as it likes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import msgspec
import trio

from protocol import link, tasks, uris
from protocol.errors import METHOD_NOT_FOUND, OVERLOADED
from protocol.jsonrpc import Raw, RpcError, decode_object
from protocol.limits import SUBSCRIPTION_WAIT_S, SUBSCRIPTIONS_MAX, UPDATES_GATHER_S
from protocol.versions import Era
from workers.backend.answers import read_error
from workers.backend.era import contradicts
from workers.backend.faults import Failure, Faults, Unanswered
from workers.backend.kept_tasks import KeptTasks
from workers.backend.leg import Leg
from workers.backend.legs import Legs
from workers.logs import Log
from workers.reactor import Reactor

RETRY_S: Final = 5.0
"""Before a server that gave no answer to a subscription is asked again."""
_SUBSCRIBE: Final = "resources.subscribe"
_TASKS: Final = f"extensions.{tasks.EXTENSION}"
MESSAGE_CHARACTERS_MAX: Final = 500


Wanted = tuple[list[str], list[str]]
"""URIs of resources, and ids of tasks."""


class Ear(Protocol):
    """Who wants to hear: a front, or one of its clients."""

    def send(self, header: link.Header, payload: link.Payload = b"") -> None: ...


class Watches:
    """`kick_listen`: what is wanted of a modern server has changed."""

    def __init__(
        self, reactor: Reactor, legs: Legs, faults: Faults, log: Log, *, kick_listen: Callable[[], None]
    ) -> None:
        self._reactor = reactor
        self._legs = legs
        self._faults = faults
        self._log = log
        self._kick_listen = kick_listen
        self.kept: KeptTasks | None = None
        """Tasks of our own."""
        self._wanted: dict[str, dict[Ear, None]] = {}
        self._unanswered: dict[str, list[tuple[Ear, int]]] = {}
        self._told: dict[Era, set[str]] = {era: set() for era in Era}
        """What the server has agreed to tell us on each leg, as of its last opening."""
        self._refused: dict[Era, dict[str, tuple[int, str]]] = {era: {} for era in Era}
        self._topics: dict[str, str] = {}
        """Of the tasks that are wanted, by the server's own ids."""
        self._updates: dict[str, bytes] = {}
        """Told in a moment."""
        self._legacy = trio.CancelScope()
        self._changed = trio.Event()

    # --- what fronts want --------------------------------------------------------------------------------------------
    def watch(self, front: Ear, header: link.Watch) -> None:
        """A front wants to hear of a resource."""
        uri = header.uri
        if uri not in self._wanted and len(self._wanted) >= SUBSCRIPTIONS_MAX:
            front.send(link.Watching(header.id, OVERLOADED, f"no more than {SUBSCRIPTIONS_MAX} resources are watched"))
            return
        self._wanted.setdefault(uri, {})[front] = None
        if (task := tasks.read_topic(uri)) is not None:
            self._topics[task[1]] = uri
        self._unanswered.setdefault(uri, []).append((front, header.id))
        self._settle(uri)
        if uri in self._unanswered:
            self._kick()
            if not self._legs.open_legs():
                self._reactor.start_soon(self._open)

    def unwatch(self, front: Ear, uri: str) -> None:
        """A front does not want to hear of it any more."""
        fronts = self._wanted.get(uri)
        if fronts is None or fronts.pop(front, 0) == 0:
            return
        if not fronts:
            self._forget(uri)
            self._kick()

    def front_gone(self, front: Ear) -> None:
        for uri in [uri for uri, fronts in self._wanted.items() if front in fronts]:
            self.unwatch(front, uri)

    @property
    def is_empty(self) -> bool:
        """Nobody wants to hear of anything."""
        return not self._wanted

    def wishes(self) -> list[tuple[Ear, str]]:
        """Return who wants to hear of what."""
        return [(ear, uri) for uri, ears in self._wanted.items() for ear in ears]

    def wanted(self) -> Wanted:
        """Return what is wanted now."""
        return self._resources(), [task_id for task_id in self._topics if not task_id.startswith(tasks.KEPT)]

    def _resources(self) -> list[str]:
        return [uri for uri in self._wanted if tasks.read_topic(uri) is None]

    # --- what the server agrees to -----------------------------------------------------------------------------------
    def opened(self, leg: Leg, settled: trio.Event) -> None:
        """A leg has been opened: what was agreed on it before may be forgotten."""
        self._told[leg.era].clear()
        self._refused[leg.era].clear()
        if leg.era is Era.LEGACY:
            self._legacy.cancel()
            self._legacy = trio.CancelScope()
            if _SUBSCRIBE in leg.flags:
                self._reactor.start_soon(self._subscribe_forever, leg, settled, self._legacy)
        for uri in list(self._unanswered):
            self._settle(uri)

    def stop(self) -> None:
        self._legacy.cancel()

    def acknowledged(self, asked: Wanted, honoured: Wanted) -> None:
        """A modern server was asked for these resources and tasks, and tells us of those."""
        self._told[Era.MODERN] = told = {uri for uri in self._named(honoured) if uri in self._wanted}
        refused = self._refused[Era.MODERN]
        refused.clear()
        for uri in self._named(asked):
            if uri not in told and uri in self._wanted:
                refused[uri] = (METHOD_NOT_FOUND, self._faults.no_subscription())
        for uri in list(self._unanswered):
            self._settle(uri)

    def _named(self, some: Wanted) -> list[str]:
        return [*some[0], *(self._topics[task_id] for task_id in some[1] if task_id in self._topics)]

    def _settle(self, uri: str) -> None:
        """Answer those that wait for this, if it is known."""
        verdicts: list[tuple[int, str] | None] = []
        task = tasks.read_topic(uri)
        if task is not None and task[1].startswith(tasks.KEPT):
            self._answer(uri, 0, "")
            if self.kept is not None and self.kept.is_news(task[1]):
                self._note_update(uri, b"")
            return
        is_task = task is not None
        for leg in self._legs.open_legs():
            if uri in self._told[leg.era] or (is_task and leg.era is Era.LEGACY and _has_tasks(leg)):
                self._answer(uri, 0, "")
                return
            if (_TASKS if is_task else _SUBSCRIBE) not in leg.flags:
                verdicts.append((METHOD_NOT_FOUND, self._faults.no_subscription()))
            else:
                verdicts.append(self._refused[leg.era].get(uri))
        refusals = [verdict for verdict in verdicts if verdict is not None]
        if refusals and len(refusals) == len(verdicts):
            self._answer(uri, *refusals[-1])
            self._forget(uri)

    def _answer(self, uri: str, code: int, message: str) -> None:
        for front, number in self._unanswered.pop(uri, ()):
            front.send(link.Watching(number, code, message[:MESSAGE_CHARACTERS_MAX]))

    def _forget(self, uri: str) -> None:
        self._wanted.pop(uri, None)
        self._unanswered.pop(uri, None)
        if (task := tasks.read_topic(uri)) is not None:
            self._topics.pop(task[1], None)
        self._updates.pop(uri, None)
        for refused in self._refused.values():
            refused.pop(uri, None)

    def _kick(self) -> None:
        self._changed.set()
        self._kick_listen()

    async def _open(self) -> None:
        try:
            await self._legs.leg_for(Era.MODERN)
        except Unanswered as error:
            self._log.debug("nobody to subscribe at", reason=error.failure.message)

    # --- a legacy server ---------------------------------------------------------------------------------------------
    async def _subscribe_forever(self, leg: Leg, settled: trio.Event, running: trio.CancelScope) -> None:
        """Keep the session subscribed to what is wanted. `settled`: what it says can be heard."""
        with running:
            with trio.move_on_after(SUBSCRIPTION_WAIT_S):
                await settled.wait()  # nothing is to be said before we can hear it
            async with trio.open_nursery() as nursery:
                if not settled.is_set():
                    nursery.start_soon(self._miss_until, settled)
                await self._keep_subscribed(leg)

    async def _miss_until(self, settled: trio.Event) -> None:
        """The session is subscribed before it can be heard: what is said until then counts as missed."""
        await settled.wait()
        self.missed()

    async def _keep_subscribed(self, leg: Leg) -> None:
        told, refused = self._told[Era.LEGACY], self._refused[Era.LEGACY]
        while True:
            self._changed = trio.Event()
            failure: Failure | None = None
            for uri in [uri for uri in self._resources() if uri not in told and uri not in refused]:
                failure = await self._ask(leg, "resources/subscribe", uri)
                if failure is None:
                    told.add(uri)
                elif failure.payload:
                    refused[uri] = (failure.code, self._faults.in_words(failure))
                else:
                    break
                self._settle(uri)
            for uri in [uri for uri in told if uri not in self._wanted]:
                told.discard(uri)
                await self._ask(leg, "resources/unsubscribe", uri)
            with trio.move_on_after(RETRY_S if failure is not None and not failure.payload else float("inf")):
                await self._changed.wait()

    async def _ask(self, leg: Leg, method: str, uri: str) -> Failure | None:
        opening = leg.opening
        try:
            answer = await leg.ask(method, b'{"uri":%b}' % msgspec.json.encode(uri))
        except Unanswered as error:
            return error.failure
        if answer.reply is not None and answer.reply.result is not None:
            return None
        if contradicts(leg.era, answer):
            self._legs.forget(leg, opening)
            self._reactor.start_soon(self._reopen, leg.era)
            await trio.sleep_forever()  # until the leg is opened again, which ends this task
        failure = self._faults.of_answer(answer)
        return failure if read_error(answer.reply) is not None else msgspec.structs.replace(failure, payload=b"")

    async def _reopen(self, era: Era) -> None:
        try:
            await self._legs.leg_for(era)
        except Unanswered as error:
            self._log.info("a leg could not be opened again", reason=error.failure.message)

    # --- what the server says ----------------------------------------------------------------------------------------
    def updated(self, params: Raw) -> None:
        """The server says that a resource has changed, or a task."""
        if self._topics and (task := tasks.glimpse(params)) is not None:
            if (topic := self._topics.get(task.task_id)) is not None:
                self._note_update(topic, bytes(params))
            return
        try:
            uri = msgspec.json.decode(decode_object(params)["uri"], type=str)
        except (RpcError, KeyError, msgspec.MsgspecError, UnicodeDecodeError):
            return
        watched = next((each for each in uris.covering(uri) if each in self._wanted), None)
        if watched is None:
            return
        if len(self._updates) < SUBSCRIPTIONS_MAX:
            self._note_update(uri, bytes(params))
        else:  # so many parts of it that only the whole can be named
            self._note_update(watched, b'{"uri":%b}' % msgspec.json.encode(watched))

    def kept_changed(self, task_id: str, task: bytes) -> None:
        """A task of our own has changed."""
        if (topic := self._topics.get(task_id)) is not None:
            self._note_update(topic, task)

    def missed(self) -> None:
        """The server may have said something that we did not hear."""
        for uri in self._wanted:
            is_task = tasks.read_topic(uri) is not None
            self._note_update(uri, b"" if is_task else b'{"uri":%b}' % msgspec.json.encode(uri))

    def _note_update(self, uri: str, params: bytes) -> None:
        if not self._updates:
            self._reactor.start_soon(self._tell)
        self._updates[uri] = params

    async def _tell(self) -> None:
        await trio.sleep(UPDATES_GATHER_S)
        updates, self._updates = self._updates, {}
        for uri, params in updates.items():
            fronts: dict[Ear, None] = {}
            for each in uris.covering(uri) if tasks.read_topic(uri) is None else (uri,):
                fronts |= self._wanted.get(each, {})
            for front in fronts:
                front.send(link.Updated(uri), params)


def _has_tasks(leg: Leg) -> bool:
    return leg.capabilities is not None and tasks.LEGACY_CAPABILITY in leg.capabilities
