"""Who wants to be told what: subscriptions of legacy sessions, and listen streams of modern clients.

Rule 1: a client is told of what it asked for, from the server that has it, and of nothing else.
Rule 2: a server is asked to tell of a resource as long as some client wants it (`Served.watch`). A server that
cannot be asked now is asked later; only what it refuses is refused.
Rule 3: what a session has subscribed to is part of it (`Session.uris`) and outlives this front. A session without a
stream stays subscribed at the servers for `SUBSCRIPTION_KEEP_S`; what it misses is told once when it has one again.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping
from typing import Final

import msgspec
import trio

from protocol import tasks, uris
from protocol.abilities import TASKS
from protocol.errors import INTERNAL_ERROR, INVALID_PARAMS, METHOD_NOT_FOUND, OVERLOADED, RESOURCE_NOT_FOUND_LEGACY
from protocol.jsonrpc import Message, Object, Raw, RpcError, decode_object, encode_object, notification
from protocol.limits import (
    LISTENS_MAX,
    LISTENS_PER_CLIENT_MAX,
    SESSION_NOTE_BYTES_MAX,
    SUBSCRIPTION_KEEP_S,
    SUBSCRIPTIONS_MAX,
    SUBSCRIPTIONS_PER_CLIENT_MAX,
)
from protocol.link import AnswerKind, Payload
from protocol.meta import SUBSCRIPTION_ID_KEY, ClientMeta
from protocol.versions import Era
from workers.front import task_news
from workers.front.calls import FrontCall, Reply
from workers.front.resources import Resources
from workers.front.served import Served, ServedByName
from workers.front.sessions import Session, Sessions
from workers.front.task_handles import TaskHandles
from workers.front.task_looks import Asker, look
from workers.reactor import Reactor

LISTEN: Final = "subscriptions/listen"
SUBSCRIBE_CAPABILITY: Final = "resources.subscribe"
SWEEP_S: Final = 10.0
URIS_BYTES_MAX: Final = SESSION_NOTE_BYTES_MAX - 1024
"""Of all that one client subscribes to; the rest of a note is for its other parts."""
SHOWN_CHARACTERS_MAX: Final = 200
UPDATED: Final = "notifications/resources/updated"
_LISTS: Final = {"toolsListChanged": "tools", "promptsListChanged": "prompts", "resourcesListChanged": "resources"}
"""By member of a filter: the capability whose list it is about."""

Target = tuple[str, str]
"""A server, and a URI as it knows it, or the topic of a task (`protocol.tasks.topic`)."""


class Listen:
    """One listen stream (`workers.front.calls.ServerSide` of the call that it is)."""

    def __init__(self, owner: Subscriptions, call: FrontCall, lists: frozenset[str]) -> None:
        self.call = call
        self.lists = lists
        self.targets: dict[str, Target] = {}
        """By URI, or handle of a task, as the client knows it."""
        self._owner = owner
        self._meta = Raw(b'{"%b":%b}' % (SUBSCRIPTION_ID_KEY.encode(), call.request_id))
        self._held: dict[tuple[str, bytes], Object] | None = {}
        """What has happened before the client was told that it is subscribed; None from then on."""

    def acknowledge(self) -> None:
        """Tell the client what it will be told of: always the first that it hears."""
        honoured: Object = {member: Raw(b"true") for member, kind in _LISTS.items() if kind in self.lists}
        for member, are_tasks in (("resourceSubscriptions", False), ("taskIds", True)):
            some = [name for name, target in self.targets.items() if _is_task(target) is are_tasks]
            if some:
                honoured[member] = Raw(msgspec.json.encode(some))
        held, self._held = self._held or {}, None
        params: Object = {"notifications": Raw(encode_object(honoured))}
        self.tell("notifications/subscriptions/acknowledged", params)
        for (method, _), each in held.items():
            self.tell(method, each)

    def tell(self, method: str, params: Object) -> None:
        if self._held is not None:
            self._held[method, bytes(params.get("uri", params.get("taskId", b"")))] = params
            return
        meta = decode_object(params["_meta"]) if "_meta" in params else {}
        meta |= decode_object(self._meta)
        self.call.reply.notify(method, encode_object(params | {"_meta": Raw(encode_object(meta))}))

    # --- workers.front.calls.ServerSide -----------------------------------------------------------------------------
    def cancel(self, call: FrontCall, reason: str) -> None:
        del call, reason
        self._owner.forget(self)

    def pause(self, call: FrontCall) -> None:
        """The client does not read what it asked to be told: end the stream, so that it knows that it misses some."""
        del call
        self._owner.end(self)

    def resume(self, call: FrontCall) -> None:
        """Nothing was paused."""

    def answer(self, call: FrontCall, number: int, kind: AnswerKind, payload: bytes) -> None:
        """Nothing was asked."""

    @property
    def place(self) -> tuple[str, str]:
        return "", ""


Subscriber = Session | Listen


class Tally:
    """What the endpoints of one front have to know of one another."""

    def __init__(self) -> None:
        self.listens = 0
        """Streams that are open."""
        self.subscriptions = 0
        self.endpoints: Counter[Target] = Counter()
        """How many endpoints have clients that want this resource; a server is asked once for all of them."""


class Subscriptions:
    """All wishes of the clients of one endpoint."""

    def __init__(
        self,
        reactor: Reactor,
        servers: ServedByName,
        sessions: Sessions,
        resources: Resources,
        handles: TaskHandles,
        tally: Tally,
        *,
        modern_meta: bytes,
        endpoint: str = "",
    ) -> None:
        self._handles = handles
        self._endpoint = endpoint
        self._tally = tally
        self._reactor = reactor
        self._servers = servers
        self._sessions = sessions
        self._resources = resources
        self._modern_meta = modern_meta
        self._listens: dict[Listen, None] = {}
        self._wanting: dict[Target, dict[Subscriber, str]] = {}
        """With the URI as each client knows it."""
        self._active: dict[Session, dict[str, Target]] = {}
        """Sessions whose subscriptions are held at the servers."""
        self._missed: dict[Session, dict[str, bytes]] = {}
        """By session without a stream: messages about each URI."""
        self._since: dict[Session, float] = {}
        """Since when a session has had no stream."""
        self._sweep = reactor.every(SWEEP_S, self._sweep_sessions)
        self._draining = False
        self._is_closed = False
        sessions.on_stream[endpoint] = self._stream_changed

    # --- legacy clients ----------------------------------------------------------------------------------------------
    def subscribe(self, message: Message, session: Session, reply: Reply) -> None:
        """Serve `resources/subscribe`. Errors: `RpcError`."""
        uri = self._wanted_uri(message)
        if uri not in session.uris:
            self._check_room(
                [*session.uris, uri], f"a session can subscribe to {SUBSCRIPTIONS_PER_CLIENT_MAX} resources"
            )
        self._reactor.start_soon(self._subscribe, session, uri, reply)

    def unsubscribe(self, message: Message, session: Session, reply: Reply) -> None:
        """Serve `resources/unsubscribe`. Errors: `RpcError`."""
        uri = self._wanted_uri(message)
        session.uris.pop(uri, None)
        self._sessions.note(session)
        self._missed.get(session, {}).pop(uri, None)
        target = self._active.get(session, {}).pop(uri, None)
        if target is not None:
            self._drop(target, session)
        reply.result(b"{}")

    async def _subscribe(self, session: Session, uri: str, reply: Reply) -> None:
        try:
            target = await self._hold(session, uri, Era.LEGACY)
        except RpcError as error:
            reply.error(error.code, error.message, error.data)
            return
        except Exception:
            reply.error(INTERNAL_ERROR, "The subscription failed; the log of the proxy says more")
            raise
        if self._sessions.is_ended(session):
            self._drop(target, session)
            return
        session.uris[uri] = None
        self._activate(session, uri, target)
        self._sessions.note(session)
        reply.result(b"{}")

    def _activate(self, session: Session, uri: str, target: Target) -> None:
        self._active.setdefault(session, {})[uri] = target
        if session.stream is None and session not in self._since:
            self._since[session] = self._reactor.now
            self._sweep.wake()

    def _stream_changed(self, session: Session) -> None:
        """The session has got a stream, or has lost it, or is over."""
        if session.stream is None:
            if not session.uris:
                self._release(session)
            elif session in self._active:
                self._since[session] = self._reactor.now
                self._sweep.wake()
            return
        self._since.pop(session, None)
        for message in self._missed.pop(session, {}).values():
            session.stream.send(message)
        if session.uris and session not in self._active:
            self._reactor.start_soon(self._take_up_again, session)

    async def _take_up_again(self, session: Session) -> None:
        """Subscribe a session that comes back after long, or to another front, and tell it that it has missed some."""
        for uri in list(session.uris):
            try:
                target = await self._hold(session, uri, Era.LEGACY)
            except RpcError:
                continue  # it is told of an update, and finds out when it reads the resource
            finally:
                if uri in session.uris:
                    self._tell_session(session, uri, {"uri": Raw(msgspec.json.encode(uri))})
            if uri in session.uris:
                self._activate(session, uri, target)
            else:
                self._drop(target, session)

    def _release(self, session: Session) -> None:
        """Ask the servers for nothing more on behalf of this session."""
        self._since.pop(session, None)
        self._missed.pop(session, None)
        for target in self._active.pop(session, {}).values():
            self._drop(target, session)

    def _sweep_sessions(self) -> bool:
        now = self._reactor.now
        for session, since in list(self._since.items()):
            if now - since > SUBSCRIPTION_KEEP_S:
                self._release(session)
        return bool(self._since)

    # --- modern clients ----------------------------------------------------------------------------------------------
    def listen(
        self,
        message: Message,
        meta: ClientMeta,
        reply: Reply,
        in_flight: dict[bytes, FrontCall] | None,
        client: int = 0,
    ) -> None:
        """Serve `subscriptions/listen`. `client`: its number, 0 if it is unknown. Errors: `RpcError`."""
        members, uris_wanted, handles = _read_filter(message)
        if handles and not meta.abilities & TASKS:
            raise tasks.missing_extension()
        wanted = uris_wanted + handles
        if self._tally.listens >= LISTENS_MAX or self._draining:
            raise RpcError(OVERLOADED, f"No more than {LISTENS_MAX} listen streams can be open; try again later")
        if (
            in_flight is not None
            and sum(call.method == LISTEN for call in in_flight.values()) >= LISTENS_PER_CLIENT_MAX
        ):
            advice = "end one, or ask for everything on one stream"
            raise RpcError(OVERLOADED, f"A client can have {LISTENS_PER_CLIENT_MAX} listen streams open; {advice}")
        self._check_room(wanted, f"a listen stream can be about {SUBSCRIPTIONS_PER_CLIENT_MAX} resources and tasks")
        assert message.id is not None
        lists = frozenset(kind for member, kind in _LISTS.items() if member in members and self._offers(kind))
        call = FrontCall(
            reply, message.id, Era.MODERN, meta.version or "", LISTEN, "", b"",
            meta=b"", client_info=meta.client_info, progress_token=b"", log_level="", deadline=float("inf"),
            abilities=meta.abilities, client=client,
        )  # fmt: skip
        if in_flight is not None:
            call.in_flight = in_flight
            in_flight[message.id] = call
        reply.call = call
        listen = Listen(self, call, lists)
        call.server = listen
        self._listens[listen] = None
        self._tally.listens += 1
        self._reactor.start_soon(self._open, listen, wanted, frozenset(handles))

    async def _open(self, listen: Listen, wanted: list[str], handles: frozenset[str]) -> None:
        async def hold(uri: str) -> None:
            try:
                if uri in handles:
                    target = await self._hold_task(listen, uri)
                else:
                    target = await self._hold(listen, uri, Era.MODERN)
            except RpcError:
                return  # the acknowledgement does not name it
            if listen in self._listens:
                listen.targets[uri] = target
            else:
                self._drop(target, listen)

        async with trio.open_nursery() as nursery:
            for uri in wanted:
                nursery.start_soon(hold, uri)
        if listen in self._listens:
            listen.targets = {uri: listen.targets[uri] for uri in wanted if uri in listen.targets}
            listen.acknowledge()

    def forget(self, listen: Listen) -> None:
        """The client does not listen any more."""
        if self._listens.pop(listen, 0) is None:
            self._tally.listens -= 1
            for target in listen.targets.values():
                self._drop(target, listen)

    def end(self, listen: Listen) -> None:
        """End a stream politely: the client gets a result, and knows that it hears nothing more."""
        if listen not in self._listens:
            return
        self.forget(listen)
        call = listen.call
        call.leave()
        meta = b'"%b":%b,%b' % (SUBSCRIPTION_ID_KEY.encode(), call.request_id, self._modern_meta)
        call.reply.result(b'{"resultType":"complete","_meta":{%b}}' % meta)

    def end_all(self, in_flight: Mapping[bytes, FrontCall]) -> None:
        """End the streams among these calls."""
        for call in list(in_flight.values()):
            if isinstance(call.server, Listen):
                self.end(call.server)

    def drain(self) -> None:
        """The front leaves."""
        self._draining = True
        for listen in list(self._listens):
            self.end(listen)

    def close(self) -> None:
        """The endpoint is gone."""
        self._is_closed = True
        self.drain()
        self._sessions.end_streams(self._endpoint)
        for session in list(self._active):
            self._release(session)
        del self._sessions.on_stream[self._endpoint]
        self._sweep.end()

    # --- what is wanted of servers -----------------------------------------------------------------------------------
    async def _hold(self, subscriber: Subscriber, uri: str, era: Era) -> Target:
        """Have the server that has this resource tell of it. Errors: `RpcError` if nobody does."""
        target = self._resources.listed_owner(uri)
        if target is None:
            await self._resources.learn(era)
            target = self._resources.owner(uri)
        server = self._servers.get(target[0]) if target is not None else None
        if target is None or server is None:
            shown = uri[:SHOWN_CHARACTERS_MAX]
            code = RESOURCE_NOT_FOUND_LEGACY if era is Era.LEGACY else INVALID_PARAMS
            raise RpcError(code, f"Resource not found: {shown}", b'{"uri":%b}' % msgspec.json.encode(shown))
        if server.offers is not None and SUBSCRIBE_CAPABILITY not in server.offers:
            raise RpcError(METHOD_NOT_FOUND, f'server "{server.name}" does not tell of updates of its resources')
        return await self._want(subscriber, uri, target, server)

    async def _hold_task(self, listen: Listen, handle: str) -> Target:
        """Have the server that has this task tell of it. Errors: `RpcError` if it does not."""
        facts = self._handles.read(handle)
        server = self._servers.get(facts.server) if facts is not None else None
        if facts is None or server is None:
            raise RpcError(INVALID_PARAMS, "Task not found")
        return await self._want(listen, handle, (facts.server, tasks.topic(facts.replica, facts.task_id)), server)

    async def _want(self, subscriber: Subscriber, uri: str, target: Target, server: Served) -> Target:
        target = _as_it_has(subscriber, target, server)
        self._count(subscriber, target)
        self._wanting[target][subscriber] = uri
        refusal = await server.watch(target[1])
        if self._is_closed:
            refusal = (INTERNAL_ERROR, f'server "{target[0]}" is not there any more')
        if refusal is not None:
            self._drop(target, subscriber)
            raise RpcError(*refusal)
        return target

    def _count(self, subscriber: Subscriber, target: Target) -> None:
        """Somebody is about to want this."""
        if target not in self._wanting:
            self._wanting[target] = {}
            self._tally.endpoints[target] += 1
        self._tally.subscriptions += subscriber not in self._wanting[target]

    def _drop(self, target: Target, subscriber: Subscriber) -> None:
        wanting = self._wanting.get(target, {})
        if wanting.pop(subscriber, None) is None:
            return
        self._tally.subscriptions -= 1
        if not wanting:
            del self._wanting[target]
            self._tally.endpoints[target] -= 1
            server = self._servers.get(target[0])
            if not self._tally.endpoints[target]:
                del self._tally.endpoints[target]
                if server is not None:
                    server.unwatch(target[1])

    def servers_changed(self) -> None:
        """There are other servers now, or other links to them."""
        for name, uri in self._wanting:
            if (server := self._servers.get(name)) is not None:
                server.keep_watching(uri)

    def _check_room(self, wanted: list[str], limit: str) -> None:
        if len(wanted) > SUBSCRIPTIONS_PER_CLIENT_MAX or sum(map(len, wanted)) > URIS_BYTES_MAX:
            raise RpcError(INVALID_PARAMS, f"Too many: {limit} with {URIS_BYTES_MAX} characters in all")
        if self._tally.subscriptions + len(wanted) > SUBSCRIPTIONS_MAX:
            raise RpcError(OVERLOADED, f"No more than {SUBSCRIPTIONS_MAX} subscriptions can be held; try again later")

    def offers_subscriptions(self) -> bool:
        """Whether some server tells of its resources. One that has not been reached yet may."""
        return any(server.offers is None or SUBSCRIBE_CAPABILITY in server.offers for server in self._servers.values())

    def _offers(self, capability: str) -> bool:
        servers = self._servers.values()
        return capability == "tools" or any(each.offers is None or capability in each.offers for each in servers)

    def _wanted_uri(self, message: Message) -> str:
        if not self.offers_subscriptions():
            raise RpcError(METHOD_NOT_FOUND, f"Method not found: {message.method}: no server tells of its resources")
        try:
            return msgspec.json.decode(message.params["uri"], type=str)
        except (KeyError, msgspec.DecodeError):
            raise RpcError(INVALID_PARAMS, f"{message.method} needs params.uri, a string") from None

    # --- what servers tell -------------------------------------------------------------------------------------------
    def list_changed(self, capability: str) -> None:
        """Tell the listen streams that asked for it. (Sessions are told by `Sessions.broadcast`.)"""
        for listen in list(self._listens):
            if capability in listen.lists:
                listen.tell(f"notifications/{capability}/list_changed", {})

    def updated(self, server: str, uri: str, payload: Payload) -> None:
        """A server says that one of its resources has changed, or a task."""
        if _is_task((server, uri)):
            self._task_changed((server, uri), bytes(payload))
            return
        told: dict[Subscriber, None] = {}
        params = decode_object(payload)
        client, uri = uris.read_client(uri)
        for covering in uris.covering(uri):
            target = (server, uris.of_client(client, covering) if client else covering)
            for subscriber, public in list(self._wanting.get(target, {}).items()):
                if subscriber in told:
                    continue
                told[subscriber] = None
                shown = public if covering == uri else uris.alias(server, uri) if uris.read_alias(public) else uri
                about = params | {"uri": Raw(msgspec.json.encode(shown))}
                if isinstance(subscriber, Listen):
                    subscriber.tell(UPDATED, about)
                else:
                    self._tell_session(subscriber, public, about)

    def _task_changed(self, target: Target, task: bytes) -> None:
        """`task`: empty if it may have changed without anybody having heard of it."""
        wanting = list(self._wanting.get(target, {}).items())
        if not task:
            server = self._servers.get(target[0])
            listen = next((subscriber for subscriber, _ in wanting if isinstance(subscriber, Listen)), None)
            if server is not None and listen is not None:
                self._look_at_task(server, target, listen)
            return
        for subscriber, handle in wanting:
            params = task_news.told(task, handle)
            if isinstance(subscriber, Listen):
                subscriber.tell(tasks.STATUS[Era.MODERN], params)
                continue
            if subscriber.stream is not None:
                subscriber.stream.send(notification(tasks.STATUS[Era.LEGACY], encode_object(params)))
            if task_news.is_final(task):
                self._active.get(subscriber, {}).pop(handle, None)
                self._drop(target, subscriber)

    def _look_at_task(self, server: Served, target: Target, listen: Listen) -> None:
        """Its server may have told of it while we could not hear that: ask as this client would."""
        call = listen.call
        asker = Asker(call.era, call.version, call.abilities, call.client_info, call.client, call.reply.client)
        replica, task_id = tasks.read_topic(target[1]) or ("", "")

        def found(task: bytes) -> None:
            with contextlib.suppress(RpcError):  # what is no JSON object is no news
                self._task_changed(target, task)

        look(server, replica, task_id, asker, self._reactor.now + server.timeout_s(call), found)

    def follow_task(self, session_id: str, target: Target, handle: str) -> None:
        """Tell the legacy client of this session what the server says of a task, as long as it has a stream."""
        session, server = self._sessions.find(session_id, self._endpoint), self._servers.get(target[0])
        if session is None or server is None:
            return
        target = _as_it_has(session, target, server)
        if session in self._wanting.get(target, {}):
            return
        has_room = self._tally.subscriptions < SUBSCRIPTIONS_MAX
        if has_room and len(self._active.get(session, ())) < SUBSCRIPTIONS_PER_CLIENT_MAX:
            self._count(session, target)
            self._wanting[target][session] = handle
            self._activate(session, handle, target)
            server.keep_watching(target[1])

    def _tell_session(self, session: Session, uri: str, params: Object) -> None:
        message = notification(UPDATED, encode_object(params))
        if session.stream is not None:
            session.stream.send(message)
        else:
            self._missed.setdefault(session, {})[uri] = message


def _as_it_has(subscriber: Subscriber, target: Target, server: Served) -> Target:
    """Return what a subscriber means: where each client has a session of its own, what it has there."""
    if not server.is_isolated:
        return target
    client = subscriber.number if isinstance(subscriber, Session) else subscriber.call.client
    return target[0], uris.of_client(client, target[1])


def _is_task(target: Target) -> bool:
    return tasks.read_topic(target[1]) is not None


def _read_filter(message: Message) -> tuple[set[str], list[str], list[str]]:
    """Return the members of a listen request's filter that are true, and the URIs and the handles of tasks in it.

    Errors: `RpcError` -32602.
    """
    try:
        members = decode_object(message.params["notifications"], "params.notifications")
        true = {member for member in _LISTS if msgspec.json.decode(members.get(member, b"false"), type=bool)}
        wanted = msgspec.json.decode(members.get("resourceSubscriptions", b"[]"), type=list[str])
        handles = msgspec.json.decode(members.get("taskIds", b"[]"), type=list[str])
    except (KeyError, RpcError):
        raise RpcError(INVALID_PARAMS, f"{LISTEN} needs params.notifications, an object") from None
    except msgspec.MsgspecError:
        needs = "booleans, resourceSubscriptions a list of URIs, and taskIds one of task ids"
        raise RpcError(INVALID_PARAMS, f"the members of params.notifications must be {needs}") from None
    return true, list(dict.fromkeys(wanted)), list(dict.fromkeys(handles))
