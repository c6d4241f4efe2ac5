"""What each method does, for clients of both eras, whatever transport the message came over.

The edges (http_edge.py, stdio.py) check what their transport demands and hand over a decoded message and the place its
answer goes. A method that is not here is answered with -32601.
"""

from __future__ import annotations

from typing import Final

import msgspec

from protocol import versions
from protocol.errors import HEADER_MISMATCH, INTERNAL_ERROR, INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND
from protocol.headers import check_modern
from protocol.jsonrpc import Message, Object, Raw, RpcError, encode_object, notification
from protocol.meta import LOG_LEVELS, SERVER_INFO_KEY, ClientMeta, split_meta
from protocol.param_headers import ParamHeader
from protocol.param_headers import check as check_params
from protocol.versions import MODERN_VERSIONS, Era
from workers.front.calls import FrontCall, Reply
from workers.front.catalogue import Catalogue, Merged, page
from workers.front.server_link import ServerLink
from workers.front.sessions import Session, Sessions
from workers.logs import Log
from workers.reactor import Reactor

MISSING_SERVERS_KEY: Final = "io.github.mcp-bulkhead/missingServers"
"""`_meta` of a merged list: names of the servers whose part is not in it."""
INSTRUCTIONS_BYTES_MAX: Final = 16 * 1024
NAME_SHOWN_MAX: Final = 80
TOOLS_CHANGED: Final = notification("notifications/tools/list_changed", b"{}")
_decode_str = msgspec.json.Decoder(str).decode


class ServerIdentity(msgspec.Struct, frozen=True):
    """What we call ourselves towards clients (`Implementation` of the specification)."""

    name: str
    title: str
    version: str


class Endpoint:
    """The MCP server that clients see."""

    def __init__(
        self,
        reactor: Reactor,
        servers: dict[str, ServerLink],
        catalogue: Catalogue,
        sessions: Sessions,
        log: Log,
        *,
        identity: ServerIdentity,
        page_size: int,
    ) -> None:
        self.sessions = sessions
        self._reactor = reactor
        self._servers = servers
        self._catalogue = catalogue
        self._log = log
        self._identity = msgspec.json.encode(identity)
        self._modern_meta = b'"%b":%b' % (SERVER_INFO_KEY.encode(), self._identity)
        self._page_size = page_size

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
        session = self.sessions.open(version, capabilities, client_info)
        result: Object = {
            "protocolVersion": Raw(msgspec.json.encode(version)),
            "capabilities": Raw(b'{"tools":{"listChanged":true}}'),
            "serverInfo": Raw(self._identity),
        }
        self._add_instructions(result)
        return session, encode_object(result)

    def legacy(self, message: Message, session: Session, reply: Reply) -> None:
        """Serve a request of an initialized session."""
        assert message.id is not None
        try:
            method = message.method
            if method == "tools/call":
                meta = split_meta(message.params)
                self._tools_call(message, meta, reply, Era.LEGACY, session.facts.version, session.in_flight,
                                 client_info=session.facts.client_info)  # fmt: skip
            elif method == "ping":
                reply.result(b"{}")
            elif method == "tools/list":
                self._reactor.start_soon(self._tools_list, message, reply, Era.LEGACY)
            elif method == "initialize":
                raise RpcError(INVALID_REQUEST, "This session is initialized already", b"", message.id)
            else:
                raise _unknown_method(message)
        except RpcError as error:
            reply.error(error.code, error.message, error.data)

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
        *,
        headers: dict[bytes, bytes] | None,
        repeated: tuple[bytes, ...] = (),
        in_flight: dict[bytes, FrontCall] | None = None,
    ) -> None:
        """Serve a stateless request. `headers`: None on transports that have none."""
        assert message.id is not None
        try:
            meta = split_meta(message.params)
            check_modern(headers, repeated, message, meta)
            method = message.method
            if method == "tools/call":
                self._tools_call(message, meta, reply, Era.MODERN, meta.version or "", in_flight,
                                 client_info=meta.client_info, headers=headers, repeated=repeated)  # fmt: skip
            elif method == "tools/list":
                self._reactor.start_soon(self._tools_list, message, reply, Era.MODERN)
            elif method == "server/discover":
                reply.result(self._discover())
            else:
                raise _unknown_method(message)
        except RpcError as error:
            reply.error(error.code, error.message, error.data)

    def _discover(self) -> bytes:
        result: Object = {
            "resultType": Raw(b'"complete"'),
            "supportedVersions": Raw(msgspec.json.encode(MODERN_VERSIONS)),
            "capabilities": Raw(b'{"tools":{}}'),
            "ttlMs": Raw(b"0"),
            "cacheScope": Raw(b'"private"'),
            "_meta": Raw(b"{%b}" % self._modern_meta),
        }
        self._add_instructions(result)
        return encode_object(result)

    # --- tools ----------------------------------------------------------------------------------------------
    async def _tools_list(self, message: Message, reply: Reply, era: Era) -> None:
        try:
            cursor = _cursor(message)
            merged = await self._catalogue.tools(era)
            items, following = page(merged, cursor, self._page_size)
        except RpcError as error:
            reply.error(error.code, error.message, error.data)
            return
        except Exception:
            reply.error(INTERNAL_ERROR, "The tools could not be listed; the log of the proxy says more")
            raise
        members = [b'"tools":[%b]' % b",".join(items)]
        if following is not None:
            members.append(b'"nextCursor":%b' % msgspec.json.encode(following))
        meta = self._list_meta(merged, era)
        if era is Era.MODERN:
            members.insert(0, b'"resultType":"complete"')
            scope = b"private" if merged.private else b"public"
            members.append(b'"ttlMs":%d,"cacheScope":"%b"' % (merged.ttl_ms, scope))
        if meta:
            members.append(b'"_meta":{%b}' % meta)
        reply.result(b"{%b}" % b",".join(members))

    def _list_meta(self, merged: Merged, era: Era) -> bytes:
        members = [self._modern_meta] if era is Era.MODERN else []
        if merged.missing:
            members.append(b'"%b":%b' % (MISSING_SERVERS_KEY.encode(), msgspec.json.encode(merged.missing)))
        return b",".join(members)

    def _tools_call(
        self,
        message: Message,
        meta: ClientMeta,
        reply: Reply,
        era: Era,
        version: str,
        in_flight: dict[bytes, FrontCall] | None,
        *,
        client_info: bytes,
        headers: dict[bytes, bytes] | None = None,
        repeated: tuple[bytes, ...] = (),
    ) -> None:
        params = message.params
        public = _tool_name(params)
        owner = self._catalogue.owner(public)
        server = self._servers.get(owner[0]) if owner is not None else None
        if owner is None or server is None:
            raise self._unknown_tool(public)
        name = owner[1]
        if headers is not None:
            declared = self._catalogue.param_headers(owner[0], era, name)
            if declared:
                _check_param_headers(params, declared, headers, repeated)
        if name is not public:
            params["name"] = Raw(msgspec.json.encode(name))
        params.pop("task", None)  # tasks are not served yet; a server must not be asked for one on our behalf
        request_id = message.id
        assert request_id is not None
        timeout_s = server.tool_timeouts.get(name, server.call_timeout_s)
        call = FrontCall(
            reply, request_id, era, version, "tools/call", name, encode_object(params),
            meta=meta.rest, client_info=client_info, progress_token=meta.progress_token,
            log_level=_log_level(meta), deadline=self._reactor.now + timeout_s,
        )  # fmt: skip
        if in_flight is not None:
            call.in_flight = in_flight
            in_flight[request_id] = call
        reply.call = call
        server.submit(call)

    def _unknown_tool(self, public: str) -> RpcError:
        shown = public[:NAME_SHOWN_MAX]
        near = self._catalogue.nearest(public)
        advice = f"; did you mean {', '.join(near)}?" if near else f"; the servers are {', '.join(self._servers)}"
        return RpcError(INVALID_PARAMS, f"Tool '{shown}' not found{advice}")

    def _add_instructions(self, result: Object) -> None:
        parts = [f"## {server.name}\n{server.instructions}" for server in self._servers.values() if server.instructions]
        if parts:
            text = "\n\n".join(parts).encode()[:INSTRUCTIONS_BYTES_MAX].decode(errors="ignore")
            result["instructions"] = Raw(msgspec.json.encode(text))


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


def _cursor(message: Message) -> str | None:
    raw = message.params.get("cursor")
    if raw is None:
        return None
    try:
        return _decode_str(raw) or None
    except msgspec.DecodeError:
        raise RpcError(INVALID_PARAMS, "cursor must be a string", b"", message.id) from None


def _tool_name(params: Object) -> str:
    try:
        return _decode_str(params["name"])
    except (KeyError, msgspec.DecodeError):
        raise RpcError(INVALID_PARAMS, "tools/call needs params.name, a string") from None


def _log_level(meta: ClientMeta) -> str:
    if meta.log_level and meta.log_level not in LOG_LEVELS:
        raise RpcError(INVALID_PARAMS, f"unknown log level; it is one of {', '.join(LOG_LEVELS)}")
    return meta.log_level


def _check_param_headers(
    params: Object, declared: list[ParamHeader], headers: dict[bytes, bytes], repeated: tuple[bytes, ...]
) -> None:
    arguments = params.get("arguments")
    fault = check_params(bytes(arguments) if arguments is not None else b"{}", declared, headers, repeated)
    if fault is not None:
        raise RpcError(HEADER_MISMATCH, fault)
