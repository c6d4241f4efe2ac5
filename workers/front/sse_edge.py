"""HTTP+SSE, the transport of 2024-11-05, for clients that know no other.

A client opens a stream (`GET /sse`), is told there where to post its messages, and gets everything that it is told on
the stream. The stream is the connection: when it ends, what was under way for this client is cancelled and nobody can
go on with it, because these clients would not know how.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Final

from protocol.errors import INTERNAL_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND
from protocol.http1 import Request
from protocol.jsonrpc import (
    Message,
    RpcError,
    decode_message,
    decode_reply,
    is_array,
)
from protocol.link import Payload
from workers.front.batch import serve_batch
from workers.front.conversation import MessageReply
from workers.front.endpoint import Endpoint
from workers.front.http_connection import METHOD_NOT_ALLOWED, HttpReply
from workers.front.http_edge import refuses_content
from workers.front.sessions import Session
from workers.logs import Log

STREAM_PATH: Final = b"/sse"
MESSAGES_PATH: Final = b"/messages"
_SESSION: Final = b"session_id="
"""As the official SDKs call it."""
_TOKEN_BYTES: Final = 16


class SseEdge:
    """Serves the two paths of the transport, for all endpoints."""

    def __init__(self, log: Log, *, fronts: int = 1, number: int = 0) -> None:
        """`fronts`: how many there are, of which this is the one with that `number`, from 0."""
        self._log = log
        self._others = {b"%d" % other: other for other in range(fronts) if other != number}
        self._prefix = b"%d." % number if fronts > 1 else b""
        """In tokens: which front has the stream."""
        self._clients: dict[bytes, SseClient] = {}
        """By the token in the address that each was given. One without a stream is not here."""

    def front_gone(self, front: int) -> None:
        """Another front serves nobody any more, and its streams have ended."""
        self._others.pop(b"%d" % front, None)

    def open(self, endpoint: Endpoint, request: Request, reply: HttpReply) -> None:
        """Serve a request for a stream."""
        if request.method != b"GET":
            reply.reject(METHOD_NOT_ALLOWED, INVALID_REQUEST, "Method not allowed; use GET", ((b"allow", b"GET"),))
            return
        token = self._prefix + secrets.token_urlsafe(_TOKEN_BYTES).encode()
        client = self._clients[token] = SseClient(endpoint, reply, self._log, lambda: self._clients.pop(token, None))
        client.begin(MESSAGES_PATH + b"?" + _SESSION + token)

    def post(self, request: Request, reply: HttpReply) -> None:
        """Serve a request that brings a message. Errors: `RpcError` if it is none."""
        if request.method != b"POST":
            reply.reject(METHOD_NOT_ALLOWED, INVALID_REQUEST, "Method not allowed; use POST", ((b"allow", b"POST"),))
            return
        if refuses_content(request, reply):
            return
        query = request.target.partition(b"?")[2]
        token = query.removeprefix(_SESSION) if query.startswith(_SESSION) else b""
        client = self._clients.get(token)
        if client is None and (front := self._others.get(token.partition(b".")[0])) is not None:
            reply.move(request, front)
        elif client is None:
            text = f"There is no such session; get a stream with GET {STREAM_PATH.decode()} first"
            reply.reject(404, METHOD_NOT_FOUND, text)
        elif client.backed_up:
            text = "The client does not read its stream, so nothing more is taken from it"
            reply.reject(503, INVALID_REQUEST, text, ((b"retry-after", b"1"),))
        else:
            client.receive(request.body)
            reply.plain(202)


class SseClient:
    """One client: its stream, its session once it has one, and what it is owed."""

    def __init__(self, endpoint: Endpoint, reply: HttpReply, log: Log, gone: Callable[[], object]) -> None:
        self._endpoint = endpoint
        self._stream = reply
        self._log = log
        self._gone = gone
        self._session: Session | None = None
        self._owed: dict[MessageReply, None] = {}
        self._paused: dict[MessageReply, None] = {}
        self._draining = False
        self._ended = False

    def begin(self, address: bytes) -> None:
        """Open the stream, and say where messages are to go."""
        self._stream.tenant = self
        self._stream.open_stream(self)
        self._stream.event(b"endpoint", address)

    # --- workers.front.conversation.Partner -----------------------------------------------------------------
    @property
    def client(self) -> str:
        return self._stream.client

    @property
    def backed_up(self) -> bool:
        return self._stream.backed_up

    def header(self, name: bytes) -> bytes:
        """Return a field of the request that opened the stream, which is the one that stands for the client."""
        return self._stream.header(name)

    # --- incoming -------------------------------------------------------------------------------------------
    def receive(self, body: bytes | bytearray) -> None:
        """Take a message. Errors: `RpcError` if it is none."""
        if is_array(body):
            self._batch(body)
            return
        message = decode_message(body)
        session = self._session
        if message.is_response:
            if session is None or not session.questions.answered(decode_reply(body)):
                self._log.debug("a response to nothing was ignored")
        elif message.id is None:
            if session is not None:
                self._endpoint.legacy_notification(message, session.in_flight)
        else:
            reply = MessageReply(self, message.id)
            try:
                self._request(message, session, reply)
            except Exception:
                reply.error(INTERNAL_ERROR, "Internal error; the log of the proxy says more")
                raise

    def _request(self, message: Message, session: Session | None, reply: MessageReply) -> None:
        if session is not None:
            self._endpoint.legacy(message, session, reply)
        elif message.method == "initialize":
            self._initialize(message, reply)
        elif message.method == "ping":
            reply.result(b"{}")
        else:
            reply.error(INVALID_REQUEST, "Initialize first")

    def _initialize(self, message: Message, reply: MessageReply) -> None:
        try:
            session, result = self._endpoint.initialize(message)
        except RpcError as error:
            reply.error(error.code, error.message, error.data)
            return
        self._session = session
        reply.result(result)
        self._endpoint.sessions.set_stream(session, self)

    def _batch(self, body: bytes | bytearray) -> None:
        if self._session is None:
            raise RpcError(INVALID_REQUEST, "A batch needs an initialized 2025-03-26 session")
        reply = MessageReply(self, b"null")
        answers_follow = False
        try:
            answers_follow = serve_batch(body, self._session, self._endpoint, reply)
        finally:
            if not answers_follow:
                reply.nothing()

    # --- outgoing -------------------------------------------------------------------------------------------
    def write(self, *parts: Payload) -> None:
        self.send(b"".join(parts))

    def send(self, message: bytes) -> None:
        """Write a message (`workers.front.sessions.EventStream`)."""
        if not self._ended:
            self._stream.message(message)

    def end(self) -> None:
        """Nothing more will be said here (`workers.front.sessions.EventStream`)."""
        if not self._ended:
            self._stream.end_stream()

    def began(self, reply: MessageReply) -> None:
        self._owed[reply] = None

    def paused(self, reply: MessageReply) -> None:
        self._paused[reply] = None

    def ended(self, reply: MessageReply) -> None:
        self._owed.pop(reply, None)
        self._paused.pop(reply, None)
        if self._draining and not self._owed:
            self.end()

    # --- of the stream (workers.front.http_connection: StreamOwner, Tenant) ----------------------------------
    def drained(self) -> None:
        """The client has read what was written."""
        paused, self._paused = self._paused, {}
        for reply in paused:
            reply.resume()

    def drain(self) -> None:
        """The front leaves: end the stream when all that is owed has been written."""
        self._draining = True
        if not self._owed:
            self.end()

    def stream_gone(self, reply: HttpReply) -> None:
        del reply
        if self._ended:
            return
        self._ended = True
        self._gone()
        if self._session is not None:
            self._endpoint.sessions.forget(self._session)  # which cancels its calls
