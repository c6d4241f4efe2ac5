"""What each method does, for clients of both eras, whatever transport the message came over.

The edges (http_edge.py, stdio.py) check what their transport demands and hand over a decoded message and the place its
answer goes. A method that is not here is answered with -32601.
"""

from __future__ import annotations

from typing import Final

import msgspec

from protocol import versions
from protocol.abilities import EXTENSIONS, TASKS, UI
from protocol.client_profiles import Profiles
from protocol.counts import LEGACY_REQUESTS, MODERN_REQUESTS
from protocol.errors import HEADER_MISMATCH, INTERNAL_ERROR, INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND
from protocol.headers import NAME_BEARING, check_modern
from protocol.input_required import RESPONSES, STATE, take_retry
from protocol.jsonrpc import Message, Object, Raw, RpcError, encode_object, notification
from protocol.lazy_tools import TOOL_CALL, call_from
from protocol.meta import KNOWN_BYTES_MAX, LOG_LEVELS, SERVER_INFO_KEY, ClientMeta, client_name, split_meta
from protocol.param_headers import ParamHeader
from protocol.param_headers import check as check_params
from protocol.tasks import EXTENSION as TASKS_EXTENSION
from protocol.tasks import LEGACY_CAPABILITY
from protocol.versions import MODERN_VERSIONS, Era
from workers.front.calls import FrontCall, Reply
from workers.front.catalogue import Catalogue
from workers.front.lazy_tools import LazyTools
from workers.front.management import STRUCTURED_SINCE, Management
from workers.front.merging import cursor_of, list_result
from workers.front.questions import LegacyQuestions
from workers.front.reads import Asked, Reads
from workers.front.resources import Resources
from workers.front.rounds import Rounds
from workers.front.served import ServedByName
from workers.front.server_link import LIST_CAPABILITIES
from workers.front.sessions import Session, Sessions
from workers.front.subscriptions import LISTEN, Subscriptions, Tally
from workers.front.task_handles import TaskHandles
from workers.front.task_list import TaskList
from workers.front.tasks import LEGACY_OFFER, Tasks
from workers.logs import Log
from workers.reactor import Reactor

OFFERED_IN_ORDER: Final = ("tools", "prompts", "resources", "completions", "logging")
"""Capabilities of servers that reach clients."""
OFFERED: Final = frozenset(OFFERED_IN_ORDER)
LISTED: Final = b'{"listChanged":true}'
LISTED_AND_SUBSCRIBED: Final = b'{"subscribe":true,"listChanged":true}'
INSTRUCTIONS_BYTES_MAX: Final = 16 * 1024
NAME_SHOWN_MAX: Final = 80
_LEGACY: Final = Era.LEGACY  # a member of an enum is slow to reach through its class
_MODERN: Final = Era.MODERN
NAME_KEPT_BYTES_MAX: Final = 256
_AGREES_WITH: Final = "agrees with"
"""In the notes on a head: what it was last found to agree with, as `_Agreement`."""
_NAME_BEARING: Final = dict(NAME_BEARING)  # which is slow to look into, because nobody can change it
LISTED_UNDER: Final = {
    "tools": "tools", "prompts": "prompts", "resources": "resources", "resourceTemplates": "resources",
}  # fmt: skip
"""The capability that a kind of list belongs to."""
LIST_CHANGED: Final = {
    kind: notification(f"notifications/{capability}/list_changed", b"{}") for kind, capability in LISTED_UNDER.items()
}
"""What clients are told, by the kind of list that has changed."""
_decode_str = msgspec.json.Decoder(str).decode


class ServerIdentity(msgspec.Struct, frozen=True):
    """What we call ourselves towards clients (`Implementation` of the specification)."""

    name: str
    title: str
    version: str


class _Agreement(msgspec.Struct, frozen=True):
    """What a request said that agrees with its head."""

    said: tuple[Raw | None, str | None, Raw | None]
    """Its `_meta`, method and name."""
    meta: ClientMeta
    """What that `_meta` means."""
    name: str | None
    """What that name means; None if that has to be looked at again."""


class Endpoint:
    """An MCP server that clients see: all servers together, or one of them."""

    def __init__(
        self,
        reactor: Reactor,
        servers: ServedByName,
        catalogue: Catalogue,
        sessions: Sessions,
        management: Management,
        rounds: Rounds,
        handles: TaskHandles,
        log: Log,
        *,
        identity: ServerIdentity,
        prompts: Catalogue,
        resources: Resources,
        profiles: Profiles,
        lazy: LazyTools | None,
        page_size: int,
        tally: Tally,
        name: str = "",
    ) -> None:
        """`name`: of the one server whose endpoint this is; "" for that of all of them."""
        self.name = name
        self.sessions = sessions
        self._reactor = reactor
        self._counts = reactor.counts
        self._servers = servers
        self._catalogue = catalogue
        self._management = management
        self._own_tools = management.names
        self._rounds = rounds
        self._log = log
        self._identity = msgspec.json.encode(identity)
        self._modern_meta = b'"%b":%b' % (SERVER_INFO_KEY.encode(), self._identity)
        self._profiles = profiles
        self._lazy = lazy
        self._page_size = page_size
        self.subscriptions = Subscriptions(
            reactor, servers, sessions, resources, handles, tally, modern_meta=self._modern_meta, endpoint=name
        )
        task_list = TaskList(reactor, servers, handles, sessions, name)
        self._tasks = Tasks(reactor, servers, handles, self.subscriptions, task_list)
        self._reads = Reads(
            reactor, servers, prompts, resources, profiles, rounds,
            page_size=page_size, modern_meta=self._modern_meta,
        )  # fmt: skip

    # --- legacy ---------------------------------------------------------------------------------------------
    def initialize(self, message: Message) -> tuple[Session, bytes]:
        """Open a session and return it with the result of `initialize`.

        Errors: `RpcError` -32602 if the parameters are not those of the specification.
        """
        params = message.params
        try:
            offered = _decode_str(params["protocolVersion"])
            capabilities = _object(params.get("capabilities"), b"{}")
            client_info = _object(params.get("clientInfo"), b"")
        except (KeyError, msgspec.DecodeError):
            raise RpcError(
                INVALID_PARAMS,
                "initialize needs protocolVersion (a string), capabilities and clientInfo (objects)",
                b"",
                message.id,
            ) from None
        version = versions.negotiate_legacy(offered)
        session = self.sessions.open(version, capabilities, client_info, self.name)
        result: Object = {
            "protocolVersion": Raw(msgspec.json.encode(version)),
            "capabilities": Raw(self._capabilities(Era.LEGACY)),
            "serverInfo": Raw(self._identity),
        }
        self._add_instructions(result)
        return session, encode_object(result)

    def legacy(self, message: Message, session: Session, reply: Reply) -> None:
        """Serve a request of an initialized session."""
        assert message.id is not None
        self._counts[LEGACY_REQUESTS] += 1
        try:
            method = message.method
            if method == "tools/call":
                meta = split_meta(message.params)
                facts = session.facts
                self._tools_call(message, meta, reply, _LEGACY, facts.version, session.in_flight, facts.client_info,
                                 session.abilities, 0, session.questions, session.log_level, None, None, (),
                                 )  # fmt: skip
            elif method == "ping":
                reply.result(b"{}")
            elif method == "tools/list":
                facts, abilities = session.facts, session.abilities
                self._reactor.start_soon(
                    self._tools_list, message, reply, Era.LEGACY, facts.version, facts.client_info, abilities
                )
            elif method == "initialize":
                raise RpcError(INVALID_REQUEST, "This session is initialized already", b"", message.id)
            elif method == "logging/setLevel":
                self._set_level(message, session)
                reply.result(b"{}")
            elif method == "resources/subscribe":
                self.subscriptions.subscribe(message, session, reply)
            elif method == "resources/unsubscribe":
                self.subscriptions.unsubscribe(message, session, reply)
            else:
                facts = session.facts
                meta = split_meta(message.params)
                asked = Asked(
                    message, meta, reply, Era.LEGACY, facts.version, facts.client_info, session.in_flight,
                    session.abilities, session.questions, session.log_level,
                )  # fmt: skip
                if not self._reads.serve(asked) and not self._tasks.serve(asked):
                    raise _unknown_method(message)
        except RpcError as error:
            reply.error(error.code, error.message, error.data)

    def _set_level(self, message: Message, session: Session) -> None:
        """From now on the client is sent log lines of its calls from this level on."""
        if not self._offers("logging"):
            raise _unknown_method(message)
        level = _text(message.params.get("level"))
        if level not in LOG_LEVELS:
            raise RpcError(INVALID_PARAMS, f"logging/setLevel needs a level: one of {', '.join(LOG_LEVELS)}")
        session.log_level = level
        self.sessions.note(session)

    def legacy_notification(self, message: Message, in_flight: dict[bytes, FrontCall]) -> None:
        """Take note of a notification. Unknown ones are ignored, as JSON-RPC demands."""
        if message.method == "notifications/cancelled":
            self.cancelled(message, in_flight)

    def cancelled(self, message: Message, in_flight: dict[bytes, FrontCall]) -> None:
        """The client gives up one of its requests. An unknown or finished one is nothing unusual (a race)."""
        request_id = message.params.get("requestId")
        call = in_flight.get(bytes(request_id)) if request_id is not None else None
        if call is None:
            self._log.debug("cancelled a request that is not in flight")
            return
        reply = call.reply
        call.cancel(_text(message.params.get("reason")) or "cancelled by the client")
        reply.nothing()

    # --- modern ---------------------------------------------------------------------------------------------
    def modern(
        self,
        message: Message,
        reply: Reply,
        headers: dict[bytes, bytes] | None,
        repeated: tuple[bytes, ...] = (),
        head_notes: dict[object, object] | None = None,
        in_flight: dict[bytes, FrontCall] | None = None,
        client: int = 0,
    ) -> None:
        """Serve a stateless request. `headers`: None on transports that have none.

        `client`: its number (protocol/clients.py) if it can be told from others.

        `head_notes`: for what is found out about these headers; the same object comes with the same headers only.
        """
        assert message.id is not None
        self._counts[MODERN_REQUESTS] += 1
        try:
            params, method = message.params, message.method
            # What the headers are compared with is nearly always what it was in the request before.
            said = (params.get("_meta"), method, params.get(_NAME_BEARING.get(method or "", "")))
            agreed: _Agreement | None = None if head_notes is None else head_notes.get(_AGREES_WITH)  # pyright: ignore[reportAssignmentType] - nothing else is noted so
            if agreed is not None and agreed.said == said:
                del params["_meta"]
                meta, name = agreed.meta, agreed.name
            else:
                meta, name = split_meta(params), None
                check_modern(headers, repeated, message, meta)
                if head_notes is not None:
                    _note_agreement(head_notes, said, meta)
            if method == "tools/call":
                self._tools_call(message, meta, reply, _MODERN, meta.version or "", in_flight, meta.client_info,
                                 meta.abilities, client, None, "", name, headers, repeated)  # fmt: skip
            elif method == "tools/list":
                version, abilities = meta.version or "", meta.abilities
                self._reactor.start_soon(
                    self._tools_list, message, reply, Era.MODERN, version, meta.client_info, abilities
                )
            elif method == "server/discover":
                reply.result(self._discover())
            elif method == LISTEN:
                self.subscriptions.listen(message, meta, reply, in_flight, client)
            else:
                asked = Asked(
                    message, meta, reply, Era.MODERN, meta.version or "", meta.client_info, in_flight, meta.abilities,
                    client=client,
                )  # fmt: skip
                if not self._reads.serve(asked) and not self._tasks.serve(asked):
                    raise _unknown_method(message)
        except RpcError as error:
            reply.error(error.code, error.message, error.data)

    def _discover(self) -> bytes:
        result: Object = {
            "resultType": Raw(b'"complete"'),
            "supportedVersions": Raw(msgspec.json.encode(MODERN_VERSIONS)),
            "capabilities": Raw(self._capabilities(Era.MODERN)),
            "ttlMs": Raw(b"0"),
            "cacheScope": Raw(b'"private"'),
            "_meta": Raw(b"{%b}" % self._modern_meta),
        }
        self._add_instructions(result)
        return encode_object(result)

    # --- tools ----------------------------------------------------------------------------------------------
    async def _tools_list(
        self, message: Message, reply: Reply, era: Era, version: str, client_info: bytes, abilities: int
    ) -> None:
        try:
            cursor = cursor_of(message)
            profile = self._profiles.of(client_name(client_info))
            merged = await self._catalogue.merged(era, profile)
            if not abilities & UI:
                merged = merged.for_models()
            if self._lazy is not None and self._lazy.replaces(merged):
                merged = merged.hidden_behind(self._lazy.items(structured=version >= STRUCTURED_SINCE))
            merged = merged.after(self._management.tools(version))
            reply.result(list_result(merged, "tools", cursor, self._page_size, era, modern_meta=self._modern_meta))
        except RpcError as error:
            reply.error(error.code, error.message, error.data)
        except Exception:
            reply.error(INTERNAL_ERROR, "The tools could not be listed; the log of the proxy says more")
            raise

    def _tools_call(
        self,
        message: Message,
        meta: ClientMeta,
        reply: Reply,
        era: Era,
        version: str,
        in_flight: dict[bytes, FrontCall] | None,
        client_info: bytes,
        abilities: int,
        client: int,
        questions: LegacyQuestions | None,
        log_level: str,
        public: str | None,
        headers: dict[bytes, bytes] | None,
        repeated: tuple[bytes, ...],
    ) -> None:
        """`public`: the tool's name, if it is known already."""
        # Arguments are given by their places, here and below: names would cost more than all that is done with them.
        params = message.params
        retry = take_retry(params) if STATE in params or RESPONSES in params else None
        if public is None:
            public = _tool_name(params)
        if public in self._own_tools:
            self._management.call(public, params, reply, era, version, self._modern_meta)
            return
        if self._lazy is not None and public in self._lazy:
            if public != TOOL_CALL:
                self._reactor.start_soon(self._look, public, params, reply, era, version, client_info)
                return
            params = call_from(params)
            public, headers = _tool_name(params), None
        owner = self._catalogue.targets.get(public)  # nearly always it is listed
        if owner is None:
            owner = self._catalogue.owner(public)
            if owner is None and abilities & UI:
                owner = self._catalogue.unprefixed(public)
        name, payload, server = "", b"", None
        deadline = self._reactor.now
        if owner is not None:
            name, payload = self._addressed(params, public, owner, era, version, headers, repeated)
            server = self._servers[owner[0]]
            deadline += server.tool_timeouts.get(name, server.call_timeout_s)
        request_id = message.id
        assert request_id is not None
        call = FrontCall(
            reply, request_id, era, version, "tools/call", name, payload, meta.rest, client_info, meta.progress_token,
            meta.log_level or log_level, deadline, abilities, questions, self._tasks if abilities & TASKS else None,
            client, in_flight,
        )  # fmt: skip
        if era is _LEGACY and "task" in params:
            call.reply = self._tasks.augmented(call, in_flight)
        if retry is not None and era is _MODERN:
            call.retry = retry
            if owner is not None:
                self._rounds.resume(owner[0], call)
        if in_flight is not None:
            in_flight[request_id] = call
        reply.call = call
        if server is not None:
            server.submit(call)
        else:
            self._reactor.start_soon(self._call_once_listed, call, params, public, headers, repeated)

    async def _look(
        self, public: str, params: Object, reply: Reply, era: Era, version: str, client_info: bytes
    ) -> None:
        """Serve a tool of ours that looks into the catalogue."""
        assert self._lazy is not None
        profile = self._profiles.of(client_name(client_info))
        try:
            result = await self._lazy.look(public, params, era, profile, structured=version >= STRUCTURED_SINCE)
        except RpcError as error:
            reply.error(error.code, error.message, error.data)
            return
        if era is Era.MODERN:
            result = b'{"resultType":"complete",%b,"_meta":{%b}}' % (result[1:-1], self._modern_meta)
        reply.result(result)

    async def _call_once_listed(
        self,
        call: FrontCall,
        params: Object,
        public: str,
        headers: dict[bytes, bytes] | None,
        repeated: tuple[bytes, ...],
    ) -> None:
        """Find out whose tool this is; a front that was restarted must know the names that clients know."""
        reply = call.reply
        await self._catalogue.learn(call.era, self._profiles.of(client_name(call.client_info)))
        if reply.call is not call:
            return  # cancelled meanwhile
        try:
            owner = self._catalogue.owner_now(public)
            if owner is None and call.abilities & UI:
                owner = self._catalogue.unprefixed(public)
            if owner is None:
                raise self._unknown_tool(public)
            call.name, call.payload = self._addressed(params, public, owner, call.era, call.version, headers, repeated)
            if call.retry is not None:
                self._rounds.resume(owner[0], call)
            call.deadline += self._servers[owner[0]].timeout_s(call)
        except RpcError as error:
            call.leave()
            reply.error(error.code, error.message, error.data)
            return
        self._servers[owner[0]].submit(call)

    def _addressed(
        self,
        params: Object,
        public: str,
        owner: tuple[str, str],
        era: Era,
        version: str,
        headers: dict[bytes, bytes] | None,
        repeated: tuple[bytes, ...],
    ) -> tuple[str, bytes]:
        """Return the server's own name of a tool, and the parameters as the server is to get them."""
        server, name = owner
        if self._catalogue.has_param_headers and headers is not None:
            declared = self._catalogue.param_headers(server, era, name)
            if declared:
                _check_param_headers(params, declared, headers, repeated)
        if name is not public:
            params["name"] = name  # pyright: ignore[reportArgumentType] - a string is encoded as well, and sooner
        if "task" in params and not self._tasks.may_augment(server, version):
            del params["task"]  # who cannot make a task, or must decide that by itself, is not told that one is wanted
        return name, encode_object(params)

    def _unknown_tool(self, public: str) -> RpcError:
        shown = public[:NAME_SHOWN_MAX]
        near = self._catalogue.nearest(public)
        servers = "" if self.name else f"; the servers are {', '.join(self._servers)}"
        advice = f"; did you mean {', '.join(near)}?" if near else servers
        return RpcError(INVALID_PARAMS, f"Tool '{shown}' not found{advice}")

    def _capabilities(self, era: Era) -> bytes:
        """Return what the servers can do together. One that has not been reached yet may do anything."""
        offers = set[str]() if self.name else {"tools"}  # all together always have the tools that manage them
        for server in self._servers.values():
            offers |= OFFERED if server.offers is None else OFFERED & server.offers
        # Lists change whenever servers come and go, whatever they say of themselves.
        found = {
            name: Raw(LISTED if name in LIST_CAPABILITIES else b"{}") for name in OFFERED_IN_ORDER if name in offers
        }
        if "resources" in found and self.subscriptions.offers_subscriptions():
            found["resources"] = Raw(LISTED_AND_SUBSCRIBED)
        if era is Era.LEGACY and self._tasks.is_offered(era):
            found[LEGACY_CAPABILITY] = Raw(LEGACY_OFFER)
        extensions = [name for name in EXTENSIONS if self._offers(f"extensions.{name}")]
        if era is Era.LEGACY:
            extensions = [name for name in extensions if name != TASKS_EXTENSION]
        if extensions:
            found["extensions"] = Raw(msgspec.json.encode({name: {} for name in extensions}))
        return encode_object(found)

    def _offers(self, capability: str) -> bool:
        """Whether some server can do this. One that has not been reached yet may do anything."""
        return any(server.offers is None or capability in server.offers for server in self._servers.values())

    def _add_instructions(self, result: Object) -> None:
        parts = [
            server.instructions if self.name else f"## {server.name}\n{server.instructions}"
            for server in self._servers.values()
            if server.instructions
        ]
        if parts:
            text = "\n\n".join(parts).encode()[:INSTRUCTIONS_BYTES_MAX].decode(errors="ignore")
            result["instructions"] = Raw(msgspec.json.encode(text))


def _note_agreement(
    head_notes: dict[object, object], said: tuple[Raw | None, str | None, Raw | None], meta: ClientMeta
) -> None:
    raw_meta, method, name = said
    if raw_meta is None or len(raw_meta) > KNOWN_BYTES_MAX or (name is not None and len(name) > NAME_KEPT_BYTES_MAX):
        return
    # Copies, because what was said is part of a body that may be large.
    said = (raw_meta.copy(), method, None if name is None else name.copy())
    head_notes[_AGREES_WITH] = _Agreement(said, meta, _text(name) or None)


def _unknown_method(message: Message) -> RpcError:
    method = (message.method or "")[:NAME_SHOWN_MAX]
    return RpcError(METHOD_NOT_FOUND, f"Method not found: {method}", b"", message.id)


def _object(raw: Raw | None, default: bytes) -> bytes:
    if raw is None:
        return default
    content = bytes(raw)
    if not content.startswith(b"{"):
        raise msgspec.ValidationError("not an object")
    return content


def _text(raw: Raw | None) -> str:
    try:
        return _decode_str(raw) if raw is not None else ""
    except msgspec.DecodeError:
        return ""


def _tool_name(params: Object) -> str:
    try:
        return _decode_str(params["name"])
    except (KeyError, msgspec.DecodeError):
        raise RpcError(INVALID_PARAMS, "tools/call needs params.name, a string") from None


def _check_param_headers(
    params: Object, declared: list[ParamHeader], headers: dict[bytes, bytes], repeated: tuple[bytes, ...]
) -> None:
    arguments = params.get("arguments")
    fault = check_params(bytes(arguments) if arguments is not None else b"{}", declared, headers, repeated)
    if fault is not None:
        raise RpcError(HEADER_MISMATCH, fault)
