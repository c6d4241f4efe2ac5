"""Streamable HTTP, the side towards clients: from an HTTP request to a message of the right era.

Dispatch (protocol.md, section 6): a `MCP-Protocol-Version` header that names a handshake revision, or none, means a
legacy client; anything else a modern one, so that even an unknown version gets the structured error it can act on.
"""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable
from typing import Final

from protocol.errors import INVALID_REQUEST, UNSUPPORTED_VERSION
from protocol.http1 import Request
from protocol.jsonrpc import Message, RpcError, decode_message, decode_reply, error_message, is_array
from protocol.meta import PROTOCOL_VERSION_KEY
from protocol.versions import LEGACY_VERSIONS, MODERN_VERSIONS, Era
from workers.front.batch import serve_batch
from workers.front.endpoint import LIST_CHANGED, Endpoint
from workers.front.http_connection import ALLOWED_METHODS, METHOD_NOT_ALLOWED, HttpReply
from workers.front.kept_streams import is_of_session, not_kept, read_event_id, session_event_id
from workers.front.sessions import Session
from workers.logs import Log

VERSION_HEADER: Final = b"mcp-protocol-version"
SESSION_HEADER: Final = b"mcp-session-id"
SERVED_METHODS: Final = frozenset({b"POST", b"GET", b"DELETE"})
_LEGACY_HEADERS: Final = frozenset(version.encode() for version in LEGACY_VERSIONS)
_MODERN_HEADERS: Final = frozenset(version.encode() for version in MODERN_VERSIONS)
_MODERN: Final = Era.MODERN  # a member of an enum is slow to reach through its class
_SESSION: Final = "session"
"""In `Request.notes`: the one that a POST with this head belongs to, as long as it is known."""
_ACCEPT_BOTH: Final = (b"application/json", b"text/event-stream")

Serve = Callable[[Request, HttpReply], None]
"""Serves a request whose head is known to be right. Errors: `RpcError` if its body is no message at all."""


class HttpEdge:
    """Serves the requests to one endpoint. All depends on the head alone, but for the body of a POST."""

    def __init__(self, endpoint: Endpoint, log: Log) -> None:
        self._endpoint = endpoint
        self._sessions = endpoint.sessions
        self._log = log

    def serve(self, request: Request, reply: HttpReply) -> Serve | None:
        """Serve a request, or return what serves it and all POSTs with the same head. Errors: `RpcError`."""
        legacy = is_legacy(request)
        if request.method == b"POST":
            if _fits(request, reply):
                return self._legacy_post if legacy else self._modern_post
        elif request.method not in SERVED_METHODS or not legacy:
            allow = ALLOWED_METHODS if legacy else b"POST"
            message = f"Method not allowed; use {allow.decode()}"
            reply.reject(METHOD_NOT_ALLOWED, INVALID_REQUEST, message, ((b"allow", allow),))
        elif request.method == b"GET":
            self._legacy_get(request, reply)
        else:
            self._legacy_delete(request, reply)
        return None

    # --- modern ---------------------------------------------------------------------------------------------
    def _modern_post(self, request: Request, reply: HttpReply, message: Message | None = None) -> None:
        """`message`: what the body says, if that is known already."""
        if message is None:
            message = decode_message(request.body)
        if message.is_response:
            raise RpcError(INVALID_REQUEST, "A response is not accepted here: this server sends no requests")
        if message.id is None:
            # There is nothing a stateless notification could act on: closing the stream is how a call is cancelled.
            version = request.headers.get(VERSION_HEADER, b"")
            if version in _MODERN_HEADERS:
                reply.plain(202)
            else:
                reply.reject(400, UNSUPPORTED_VERSION, "Unsupported protocol version")
            return
        reply.era = _MODERN
        reply.request_id = message.id
        self._endpoint.modern(message, reply, request.headers, request.repeated, request.notes)

    # --- legacy ---------------------------------------------------------------------------------------------
    def _legacy_post(self, request: Request, reply: HttpReply) -> None:
        try:
            message = decode_message(request.body)
        except RpcError:
            if not is_array(request.body):
                raise
            self._legacy_batch(request, reply)
            return
        if message.method == "initialize" and message.id is not None:
            self._initialize(message, reply)
            return
        session: Session | None = request.notes.get(_SESSION)  # pyright: ignore[reportAssignmentType] - nothing else is noted so
        if session is None or not session.is_known:
            if SESSION_HEADER not in request.headers and _is_modern(message):
                self._modern_post(request, reply, message)  # its ladder says that the header is missing or another
                return
            session = self._session(request, reply, message)
            if session is None:
                return
            request.notes[_SESSION] = session
        if message.id is None or message.is_response:
            if not message.is_response:
                self._endpoint.legacy_notification(message, session.in_flight)
            elif not session.questions.answered(decode_reply(request.body)):
                self._log.debug("a response to nothing was ignored")
            reply.plain(202)
            return
        reply.request_id = message.id
        reply.ends_with_client = False
        reply.keep = session.keep
        self._endpoint.legacy(message, session, reply)

    def _initialize(self, message: Message, reply: HttpReply) -> None:
        assert message.id is not None
        reply.request_id = message.id
        try:
            session, result = self._endpoint.initialize(message)
        except RpcError as error:
            reply.error(error.code, error.message, error.data)
            return
        self._log.debug("session opened", version=session.facts.version, client=reply.client)
        body = b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (message.id, result)
        reply.plain(200, body, (*JSON_HEADERS, (SESSION_HEADER, session.id.encode())))

    def _session(self, request: Request, reply: HttpReply, message: Message | None) -> Session | None:
        """Return the request's session, or None when it has been refused, or is another front's to serve."""
        session_id = request.headers.get(SESSION_HEADER)
        named = message.id if message is not None and message.id is not None else None
        if session_id is None:
            error = error_message(named, INVALID_REQUEST, "Bad Request: Mcp-Session-Id is missing; initialize first")
            reply.plain(400, error, JSON_HEADERS)
            return None
        session = None
        if SESSION_HEADER not in request.repeated:
            session = self._sessions.find(session_id.decode("latin-1"), self._endpoint.name)
        if session is None and SESSION_HEADER not in request.repeated:
            front = self._sessions.elsewhere(session_id.decode("latin-1"))
            if front is not None:
                reply.move(request, front)
                return None
        if session is None:
            reply.plain(404, error_message(named, INVALID_REQUEST, "Session not found; initialize again"), JSON_HEADERS)
            return None
        return session

    def _legacy_batch(self, request: Request, reply: HttpReply) -> None:
        """An array of messages: only 2025-03-26 has them."""
        session = self._session(request, reply, None)
        if session is None:
            return
        reply.ends_with_client = False
        if not serve_batch(request.body, session, self._endpoint, reply):
            reply.plain(202)

    def _legacy_get(self, request: Request, reply: HttpReply) -> None:
        """Open the stream for messages that belong to no request."""
        accept = request.headers.get(b"accept")
        if accept is not None and not _accepts(accept, b"text/event-stream"):
            reply.reject(406, INVALID_REQUEST, "Accept must list text/event-stream")
            return
        session = self._session(request, reply, None)
        if session is None:
            return
        last_event_id = request.headers.get(b"last-event-id", b"")
        if (found := read_event_id(last_event_id)) is not None:
            self._resume(session, reply, *found)
            return
        stream = SessionStream(self._endpoint, session, reply)
        stream.open()
        if is_of_session(last_event_id):  # what was said meanwhile is not known, but only what may have changed
            for message in dict.fromkeys(LIST_CHANGED.values()):
                stream.send(message)

    def _resume(self, session: Session, reply: HttpReply, name: bytes, number: int, request_id: bytes) -> None:
        """Go on with the stream of a request that the client has lost."""
        kept = self._sessions.kept.find(session.id, name)
        if kept is not None:
            kept.reply.resume(reply, number)
            return
        reply.message(not_kept(request_id))
        reply.end_stream()

    def _legacy_delete(self, request: Request, reply: HttpReply) -> None:
        session = self._session(request, reply, None)
        if session is not None:
            self._sessions.end(session)
            reply.plain(200)


class SessionStream:
    """The GET stream of one session (`workers.front.sessions.EventStream`)."""

    def __init__(self, endpoint: Endpoint, session: Session, reply: HttpReply) -> None:
        self._sessions = endpoint.sessions
        self._session = session
        self._reply = reply
        self._count = 0
        self._nonce = secrets.token_hex(4).encode()

    def open(self) -> None:
        self._sessions.set_stream(self._session, self)
        self._reply.open_stream(self)

    def send(self, message: bytes) -> None:
        self._count += 1
        self._reply.session_message(message, session_event_id(self._nonce, self._count))

    def end(self) -> None:
        self._reply.end_stream()

    def stream_gone(self, reply: HttpReply) -> None:
        del reply
        self._sessions.stream_gone(self._session, self)


JSON_HEADERS: Final = ((b"content-type", b"application/json"),)


def refuses_content(request: Request, reply: HttpReply) -> bool:
    """Refuse a body of another type than JSON; return whether that was so."""
    kind = request.headers.get(b"content-type", b"")
    if kind == b"application/json" or _is_json(kind):
        return False
    reply.reject(415, INVALID_REQUEST, "Content-Type must be application/json (in UTF-8)")
    return True


def _fits(request: Request, reply: HttpReply) -> bool:
    if refuses_content(request, reply):
        return False
    accept = request.headers.get(b"accept")
    if accept is not None and not _accepts(accept, *_ACCEPT_BOTH):
        reply.reject(406, INVALID_REQUEST, "Accept must list both application/json and text/event-stream")
        return False
    return True


def is_legacy(request: Request) -> bool:
    """A version we do not know counts as modern: that path answers with the versions we do know."""
    version = request.headers.get(VERSION_HEADER)
    return (version is None or version in _LEGACY_HEADERS) and VERSION_HEADER not in request.repeated


def _is_modern(message: Message) -> bool:
    meta = message.params.get("_meta")
    return meta is not None and PROTOCOL_VERSION_KEY.encode() in bytes(meta)


@functools.lru_cache(maxsize=64)
def _is_json(kind: bytes) -> bool:
    """application/json, in any case, with no parameter but charset=utf-8."""
    essence, _, parameters = kind.lower().partition(b";")
    if essence.strip() != b"application/json":
        return False
    return parameters.strip().replace(b'"', b"") in (b"", b"charset=utf-8", b"charset=utf8")


@functools.lru_cache(maxsize=64)
def _accepts(accept: bytes, *wanted: bytes) -> bool:
    """Does the Accept header admit all of these media types (RFC 9110, section 12.5.1; q=0 excludes)?"""
    admitted: set[bytes] = set()
    for item in accept.lower().split(b","):
        essence, _, parameters = item.partition(b";")
        quality = parameters.replace(b" ", b"").partition(b"q=")[2].partition(b";")[0]
        if quality not in (b"0", b"0.0", b"0.00", b"0.000"):
            admitted.add(essence.strip())
    return all(admitted & {kind, kind.partition(b"/")[0] + b"/*", b"*/*"} for kind in wanted)
