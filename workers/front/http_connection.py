"""One client connection: bytes to requests, answers to bytes, in order, within deadlines.

An answer is plain JSON unless something precedes it or it takes long; then it becomes an event stream, in which
comments keep intermediaries from closing it (MCP transports, Streamable HTTP).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import msgspec

from protocol.counts import REFUSED
from protocol.errors import INVALID_REQUEST, http_status
from protocol.http1 import CONTINUE, LAST_CHUNK, HttpError, Request, RequestParser, chunk, response, response_head
from protocol.jsonrpc import error_message, notification, result_parts
from protocol.limits import (
    BODY_GRACE_S,
    BODY_RATE_MIN_BYTES_PER_S,
    HEADERS_DEADLINE_S,
    KEEP_ALIVE_IDLE_S,
    PIPELINED_REQUESTS_MAX,
    STREAM_BUFFER_HIGH_BYTES,
    STREAM_KEEP_ALIVE_S,
    WRITE_IDLE_S,
)
from protocol.link import Payload
from protocol.sse import KEEP_ALIVE, encode_event
from protocol.versions import Era
from workers.front.calls import FrontCall, sse_payload
from workers.front.kept_streams import KeptStream, not_kept
from workers.reactor import Reactor, SocketStream
from workers.tls import TlsStream
from workers.transport import StreamHandler

JSON: Final = (b"content-type", b"application/json")
EVENT_STREAM_HEADERS: Final = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
)
ALLOWED_METHODS: Final = b"POST, GET, DELETE"
METHOD_NOT_ALLOWED: Final = 405
JOINED_BYTES_MAX: Final = 64 * 1024
"""Answers up to this size are joined into one buffer; larger ones are sent from where they lie."""
QUEUED_BODY_BYTES_MAX: Final = 64 * 1024
"""A request with a larger body that has to wait for the answer before it is the last one read meanwhile."""
LINGER_S: Final = 2.0
"""How long the rest of a refused request is read, unseen, so that the client gets to read why."""
TLS_HANDSHAKE: Final = b"\x16\x03"
"""What a TLS connection begins with (RFC 8446, section 5.1)."""
_RESULT: Final = b'{"jsonrpc":"2.0","id":%b,"result":%b}'
_RESULT_BYTES: Final = len(_RESULT % (b"", b""))
_OK_RESULT: Final = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" + _RESULT

OpenStream = Callable[[StreamHandler], SocketStream | TlsStream]
"""Makes the stream of a connection that has been accepted."""


Keep = Callable[["HttpReply"], KeptStream]


class HttpService(Protocol):
    """What a connection asks of the edge behind it."""

    @property
    def rules(self) -> object:
        """What `head` goes by: as long as this is the same object, a head that has passed would pass again."""
        ...

    def head(self, request: Request) -> None:
        """Check a request's head before its body is read; raise `HttpError` to refuse it."""
        ...

    def request(self, request: Request, reply: HttpReply) -> None:
        """Serve a complete request."""
        ...

    def connection_closed(self, connection: Connected) -> None: ...

    def connection_replaced(self, connection: HttpConnection, successor: Connected) -> None:
        """What came as HTTP goes on as something else."""
        ...

    def move(self, connection: HttpConnection, front: int, requests: Sequence[Request]) -> bool:
        """Hand a connection over to another front, with the requests that have come and wait; False if it is gone."""
        ...

    @property
    def spoke_tls(self) -> Callable[[HttpConnection], None]:
        """Told of a client that begins with TLS in place of HTTP."""
        ...


class Connected(Protocol):
    """A client's connection, whatever is spoken on it."""

    def drain(self, idle_s: float) -> None: ...

    def sweep(self, now: float) -> None: ...


class Successor(Connected, StreamHandler, Protocol):
    """What takes a connection over when it stops speaking HTTP."""


class HttpConnection:
    """Serves the requests of one connection, one after the other (a `workers.transport.StreamHandler`)."""

    __slots__ = (
        "_draining", "_eof", "_going_on", "_idle_s", "_idle_until", "_leaving_since", "_parser", "_passed",
        "_phase", "_phase_since", "_queue", "_reactor", "_refusal", "_reply", "_served", "client", "closed",
        "service", "stream",
    )  # fmt: skip

    def __init__(self, reactor: Reactor, open_stream: OpenStream, service: HttpService, client: str = "") -> None:
        """`client`: the address that somebody who can be trusted gives, or has, "" if there is no such."""
        self._reactor = reactor
        self.service = service
        self._parser = RequestParser(self._head, self._request)
        self._queue: deque[Request] = deque()
        self._reply: HttpReply | None = None
        self._passed: object = None
        """The service's rules when the last head passed."""
        self._served = 0
        self._refusal: HttpError | None = None
        """What came last breaks the rules of HTTP. Where the next request would begin is not certain."""
        self._eof = False
        self._draining = False
        self._idle_s = 0.0
        """While draining: how long the client may still begin a request."""
        self._idle_until = 0.0
        self._going_on = False
        self._leaving_since: float | None = None
        """Nothing more is served since then."""
        self._phase: tuple[object, ...] = ()
        self._phase_since = reactor.now
        self.client = client
        self.closed = False
        self.stream = open_stream(self)

    @property
    def now(self) -> float:
        return self._reactor.now

    # --- incoming (workers.transport.StreamHandler) ---------------------------------------------------------
    def data_received(self, data: bytes) -> None:
        # Nearly always this is the next request of a client that has all its answers, with a head that has passed.
        if (
            self._reply is None
            and self._passed is self.service.rules
            and not self._queue
            and self._leaving_since is None
            and self.stream.buffered <= STREAM_BUFFER_HIGH_BYTES
            and (request := self._parser.again(data)) is not None
        ):
            self._served += 1
            self._reply = reply = HttpReply(self, self._reactor.now, not self._draining, request.headers)
            self.service.request(request, reply)
            return
        if self._refusal is not None:
            return  # what follows is not looked at
        try:
            into = self._parser.feed(data)
        except HttpError as error:
            if data.startswith(TLS_HANDSHAKE) and not self._served:
                self.service.spoke_tls(self)
            self._refuse(error)
            return
        if into is not None:
            self.stream.into = into

    def into_filled(self, count: int) -> None:
        try:
            self._parser.into_filled(count)
        except HttpError as error:
            self._refuse(error)
            return
        self.stream.into = self._parser.into

    def eof_received(self) -> None:
        self._eof = True
        reply = self._reply
        if self._leaving_since is not None:
            self.stream.close()
        elif reply is None:
            self._go_on()
        elif reply.ends_with_client:
            self.stream.abort()
        # A legacy client may have gone for good or only have closed its sending side; either way its call goes on
        # ("disconnection should not be interpreted as the client cancelling", 2025-11-25 transports).

    def buffer_drained(self) -> None:
        if self._reply is not None:
            self._reply.drained()
        else:
            self._go_on()

    def stream_closed(self, error: OSError | None) -> None:
        del error
        self.closed = True
        self._queue.clear()
        reply, self._reply = self._reply, None
        if reply is not None:
            reply.client_gone()
        self.service.connection_closed(self)

    def _head(self, request: Request) -> None:
        self.service.head(request)
        self._passed = self.service.rules
        if request.expect_continue and self._reply is None:
            self.stream.write(CONTINUE)

    def _request(self, request: Request) -> None:
        if self._leaving_since is not None:
            return
        if self._reply is None and not self._queue and self.stream.buffered <= STREAM_BUFFER_HIGH_BYTES:
            self._serve(request)
            return
        self._queue.append(request)
        if len(self._queue) >= PIPELINED_REQUESTS_MAX or len(request.body) > QUEUED_BODY_BYTES_MAX:
            self.stream.pause_reading()

    def _go_on(self) -> None:
        """Serve what waits, in order, as far as that is possible now."""
        self._going_on = True
        try:
            while self._queue and self._can_go_on():
                self._serve(self._queue.popleft())
        except Exception:
            self.stream.abort()  # here the reactor does not know whose stream to close
            raise
        finally:
            self._going_on = False
        if not self._queue:
            self.stream.resume_reading()
            if self._refusal is not None and self._can_go_on():
                self._answer_refusal(self._refusal)
            elif self._eof and self._can_go_on():
                self._close()

    def _can_go_on(self) -> bool:
        # A client that does not take its answers gets no more of them.
        is_read = self.stream.buffered <= STREAM_BUFFER_HIGH_BYTES
        return is_read and self._reply is None and self._leaving_since is None

    def _serve(self, request: Request) -> None:
        self._served += 1
        self._reply = reply = HttpReply(
            self, self._reactor.now, request.keep_alive and not self._draining, request.headers
        )
        self.service.request(request, reply)

    def _refuse(self, error: HttpError) -> None:
        """Answer what came before in order, then say what is wrong, then close."""
        self._refusal = error
        self.stream.into = None
        if self._reply is None:
            self._go_on()

    def _answer_refusal(self, error: HttpError) -> None:
        self.count_refusal()
        body = error_message(None, INVALID_REQUEST, error.message)
        headers = [JSON, (b"allow", ALLOWED_METHODS)] if error.status == METHOD_NOT_ALLOWED else [JSON]
        self.stream.write(response(error.status, headers, body, close=True))
        if self._eof:
            self._close()
        else:
            self._leaving_since = self._reactor.now
            self.stream.finish()

    def count_refusal(self) -> None:
        """A request is answered with an error of HTTP."""
        self._reactor.counts[REFUSED] += 1

    def _close(self) -> None:
        self._leaving_since = self._reactor.now
        self._queue.clear()
        self.stream.close()

    def hand_over(self, answer: bytes, make: Callable[[HttpConnection], Successor]) -> None:
        """Write the answer that ends HTTP on this connection, and give its stream to somebody else.

        Requests that have come behind it are not looked at: nobody may send anything before that answer.
        """
        self._leaving_since = self._reactor.now
        self._reply = None
        self.stream.write(answer)
        self.stream.handler = successor = make(self)
        self.service.connection_replaced(self, successor)
        if self._draining:
            successor.drain(self._idle_s)

    # --- to another front, and from there -------------------------------------------------------------------
    def move(self, request: Request, front: int) -> None:
        """Have another front serve this request, which is being served now, and what follows."""
        from workers.front.moving import Departure  # only where there are several fronts

        self._queue.appendleft(request)
        Departure(self, front, self._reactor)

    def may_leave(self) -> bool:
        """All that has come is whole requests, or cannot become one (`workers.front.moving.Leaving`)."""
        return self._parser.is_between or self._refusal is not None

    def waiting_bytes(self) -> int:
        """Return how much waits to be handed over (`workers.front.moving.Leaving`)."""
        return sum(len(request.body) for request in self._queue) + self._parser.body_received

    def leave(self, front: int) -> None:
        """Go to the other front, or serve its clients if it is gone (`workers.front.moving.Leaving`)."""
        if self.closed:
            return
        if self._refusal is None and self.service.move(self, front, self._queue):
            self.closed = True
            self._queue.clear()
            self._reply = None
            self.service.connection_closed(self)
            return
        request = self._queue.popleft()
        assert self._reply is not None
        if self._refusal is None:  # the other front is gone, so its sessions are ours
            self._serve(request)
        else:
            self._reply.reject(503, INVALID_REQUEST, "another request of this connection is broken; try again")

    def take_over(self, unsent: bytes, requests: Sequence[Request]) -> None:
        """Go on where another front has left off."""
        if unsent:
            self.stream.write(unsent)
        for request in requests:
            self._request(request)

    # --- outgoing, for HttpReply ----------------------------------------------------------------------------
    def adopt(self, reply: HttpReply) -> None:
        """What is being answered now is answered by this one, which has lost its own connection."""
        self._reply = reply

    def forsake(self) -> None:
        """Close; what was being answered goes on elsewhere."""
        self._reply = None
        self.stream.abort()

    def reply_ended(self, keep_alive: bool) -> None:
        self._reply = None
        if not keep_alive:
            self._close()
        elif self._queue or self._eof or self._refusal is not None:
            if not self._going_on:
                # Not now: the caller is in the middle of its own work, and a long queue would pile up on its stack.
                self._reactor.at_batch_end(self._go_on)
        elif self._draining:
            self._wait_for_last()

    # --- deadlines ------------------------------------------------------------------------------------------
    def drain(self, idle_s: float) -> None:
        """Finish what is under way, then close.

        A client that has not begun a request may do so for `idle_s` more. HTTP/1.1 has no way to tell it not to: if the
        connection closed under its request, it could not know whether that was executed (RFC 9112, section 9.6).
        """
        self._draining = True
        self._idle_s = idle_s
        if self._reply is not None:
            self._reply.drain()
        else:
            self._wait_for_last()

    def _wait_for_last(self) -> None:
        now = self._reactor.now
        self._idle_until = now + self._idle_s
        self._close_if_idle(now)

    def _close_if_idle(self, now: float) -> None:
        """While draining: close unless a request is on its way. One that never arrives has its own deadlines."""
        if now >= self._idle_until and not (self._parser.in_head or self._parser.in_body):
            self._close()

    def sweep(self, now: float) -> None:
        """Called about once a second: has anything taken too long?"""
        if self.stream.buffered and now - self.stream.stalled_since > WRITE_IDLE_S:
            self.stream.abort()
        elif self._leaving_since is not None:
            if not self.stream.buffered and now - self._leaving_since > LINGER_S:
                self.stream.abort()
        elif self._reply is not None:
            self._reply.sweep(now)
        elif not self._queue and self._refusal is None:
            self._sweep_incoming(now)
            if self._draining and self._leaving_since is None:
                self._close_if_idle(now)

    def _sweep_incoming(self, now: float) -> None:
        parser = self._parser
        phase = (parser.in_head, parser.in_body, self._served)
        if phase != self._phase:
            self._phase = phase
            self._phase_since = now
            return
        elapsed = now - self._phase_since
        if parser.in_body:
            if parser.body_received < (elapsed - BODY_GRACE_S) * BODY_RATE_MIN_BYTES_PER_S:
                self._refuse(HttpError(408, "the request's body arrives too slowly"))
        elif parser.in_head:
            if elapsed > HEADERS_DEADLINE_S:
                self._refuse(HttpError(408, "the request's head took too long"))
        elif elapsed > (KEEP_ALIVE_IDLE_S if self._served else HEADERS_DEADLINE_S):
            self._close()


class HttpReply(msgspec.Struct, eq=False):
    """The answer to one HTTP request: a `workers.front.calls.Reply`, and the HTTP-level answers besides.

    A struct only because one is made per request, and msgspec makes them four times as fast.
    """

    _connection: HttpConnection
    _last_sent: float
    keep_alive: bool
    _headers: dict[bytes, bytes]
    _done: bool = False
    _streaming: bool = False
    _paused: bool = False
    _stream_owner: StreamOwner | None = None
    tenant: Tenant | None = None
    """Who answers many requests on this one's stream."""
    call: FrontCall | None = None
    forwarded_for: str = ""
    """Whom the client of this connection speaks for, if it is a proxy that can be trusted."""
    era: Era = Era.LEGACY
    request_id: bytes = b"null"
    ends_with_client: bool = True
    """Whether a client that disconnects thereby cancels (all but requests of legacy clients)."""
    keep: Keep | None = None
    """Begins to keep what is sent, should this become an event stream; None for answers that are not to be resumed."""
    _kept: KeptStream | None = None
    _is_lost: bool = False
    """The client's connection is gone, and it may come back for the rest on another."""

    # --- workers.front.calls.Reply --------------------------------------------------------------------------
    @property
    def client(self) -> str:
        return self.forwarded_for or self._connection.client

    def header(self, name: bytes) -> bytes:
        return self._headers.get(name, b"")

    def notify(self, method: str, params: Payload) -> None:
        self.message(notification(method, params))

    def ask(self, message: bytes) -> bool:
        if self._done:
            return False
        self.message(message)
        return True

    def result(self, result: Payload) -> None:
        if self._done:
            return
        request_id = self.request_id
        if self._streaming:
            self._last_event(sse_payload(result_parts(request_id), result, b"}"))
            return
        connection = self._connection
        size = _RESULT_BYTES + len(request_id) + len(result)
        if size <= JOINED_BYTES_MAX and self.keep_alive:
            connection.stream.write(_OK_RESULT % (size, request_id, result))
        else:
            head = response_head(200, [JSON], content_length=size, close=not self.keep_alive)
            connection.stream.writelines((head + result_parts(request_id), result, b"}"))
        # As `_end`: what never was an event stream has no owner and is not kept.
        self._done = True
        self.call = None
        connection.reply_ended(self.keep_alive)

    def error(self, code: int, message: str, data: bytes = b"", retry_after_s: int = 0) -> None:
        self._answer_error(error_message(self.request_id, code, message, data), code, retry_after_s)

    def raw_error(self, error: Payload, code: int) -> None:
        self._answer_error(b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (self.request_id, error), code)

    def nothing(self) -> None:
        """End without a message. As JSON that would be an empty document, so it is an event stream without events."""
        if self._done:
            return
        self._begin_stream()
        if not self._is_lost:
            self._connection.stream.write(LAST_CHUNK)
        self._end()

    # --- answers of HTTP itself -----------------------------------------------------------------------------
    def reject(self, status: int, code: int, message: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        """Refuse the request as a whole, with a JSON-RPC error as explanation."""
        self._connection.count_refusal()
        self.plain(status, error_message(None, code, message), (JSON, *headers))

    def plain(self, status: int, body: Payload = b"", headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        if not self._done:
            self._connection.stream.write(response(status, headers, body, close=not self.keep_alive))
            self._end()

    def open_stream(self, owner: StreamOwner) -> None:
        """Become an event stream that stays open until `end_stream` or until the client goes."""
        self._stream_owner = owner
        self._begin_stream()

    def message(self, message: bytes) -> None:
        """Send a JSON-RPC message as an event."""
        if self._done:
            return
        self._begin_stream()
        payload = sse_payload(message)
        event_id = self._kept.add(payload) if self._kept is not None else b""
        if self._is_lost:
            return
        self._write_chunk(encode_event(payload, event_id=event_id))
        stream = self._connection.stream
        if stream.buffered > STREAM_BUFFER_HIGH_BYTES and not self._paused:
            self._paused = True
            if self.call is not None and self.call.server is not None:
                self.call.server.pause(self.call)

    def event(self, name: bytes, data: bytes) -> None:
        """Send an event that is no JSON-RPC message."""
        self._write_chunk(encode_event(data, event=name))

    @property
    def streaming(self) -> bool:
        """The answer has become an event stream."""
        return self._streaming

    @property
    def backed_up(self) -> bool:
        """The client reads more slowly than we write."""
        return self._connection.stream.buffered > STREAM_BUFFER_HIGH_BYTES

    def finish_batch(self, answers: list[bytes]) -> None:
        """Send what is left of a batch's answers, and end."""
        if not self._streaming and answers:
            self.plain(200, b"[%b]" % b",".join(answers), (JSON,))
            return
        self._begin_stream()
        for answer in answers:
            self.message(answer)
        self.end_stream()

    def session_message(self, message: bytes, event_id: bytes) -> None:
        """Send a JSON-RPC message on a stream that belongs to no request."""
        if not self._done:
            self._begin_stream()
            self._write_chunk(encode_event(sse_payload(message), event_id=event_id))

    def end_stream(self) -> None:
        if not self._done:
            self._connection.stream.write(LAST_CHUNK)
            self._end()

    def move(self, request: Request, front: int) -> None:
        """Have another front answer."""
        self._last_sent = math.inf  # nothing is said here to keep the connection alive
        self._connection.move(request, front)

    def hand_over(self, answer: bytes, make: Callable[[HttpConnection], Successor]) -> None:
        """End HTTP on this connection with this answer."""
        self._done = True
        self._connection.hand_over(answer, make)

    # --- for the connection ---------------------------------------------------------------------------------
    def client_gone(self) -> None:
        if self._kept is not None and self.call is not None and not self._done:
            self._is_lost = True
            self._kept.lost()
            self.drained()  # nobody reads any more, so nobody reads slowly
            return
        self._done = True
        if self._stream_owner is not None:
            self._stream_owner.stream_gone(self)
        call = self.call
        if call is None:
            return
        if self.ends_with_client:
            call.cancel("the client disconnected")
            return
        call.unreachable()
        if self._paused and call.server is not None:
            call.server.resume(call)  # nobody reads any more, so nobody reads slowly; the call goes on to its end

    def give_up(self) -> None:
        """Nobody has come back for the rest."""
        self._kept = None
        self.client_gone()

    def resume(self, fresh: HttpReply, number: int) -> None:
        """The client is back, with a request that is answered by `fresh`: send what it has missed after this event."""
        kept = self._kept
        assert kept is not None
        if not self._done:
            if not self._is_lost:  # the client has noticed first that its connection is gone
                self._connection.forsake()
            self._connection, self.keep_alive = fresh._connection, fresh.keep_alive
            self._connection.adopt(self)
            self._is_lost = False
            self._paused = False
            kept.found()
            fresh = self
        fresh.open_again(kept, number)

    def open_again(self, kept: KeptStream, number: int) -> None:
        self._streaming = True
        self._connection.stream.write(
            response_head(200, EVENT_STREAM_HEADERS, content_length=None, close=not self.keep_alive)
        )
        for event_id, message in kept.after(number):
            self._write_chunk(encode_event(message, event_id=event_id))
        if not kept.is_over:
            return
        if not kept.has_all_after(number):
            self._write_chunk(encode_event(not_kept(kept.reply.request_id), event_id=kept.last_id))
        self.end_stream()

    def drained(self) -> None:
        if self._paused:
            self._paused = False
            if self.call is not None and self.call.server is not None:
                self.call.server.resume(self.call)
            if self.tenant is not None:
                self.tenant.drained()

    def drain(self) -> None:
        """The front leaves: a stream that waits for nothing in particular ends now."""
        if not self._streaming:
            self.keep_alive = False  # else it is too late to tell the client, whose next request may come here
        if self.tenant is not None:
            self.tenant.drain()
        elif self._stream_owner is not None:
            self.end_stream()

    def sweep(self, now: float) -> None:
        if now - self._last_sent > STREAM_KEEP_ALIVE_S:
            is_first = not self._streaming
            self._begin_stream()
            kept = self._kept
            if is_first and kept is not None and kept.is_primed:
                self._write_chunk(encode_event(b"", event_id=kept.last_id))
            else:
                self._write_chunk(KEEP_ALIVE)

    # --- inside ---------------------------------------------------------------------------------------------
    def _answer_error(self, message: bytes, code: int, retry_after_s: int = 0) -> None:
        if self._done:
            return
        if self._streaming:
            self._last_event(sse_payload(message))
            return
        status = http_status(code) if self.era is Era.MODERN else 200
        advice = [(b"retry-after", b"%d" % retry_after_s)] if retry_after_s else []
        self._connection.stream.write(response(status, [JSON, *advice], message, close=not self.keep_alive))
        self._end()

    def _begin_stream(self) -> None:
        if not self._streaming:
            self._streaming = True
            self._connection.stream.write(
                response_head(200, EVENT_STREAM_HEADERS, content_length=None, close=not self.keep_alive)
            )
            if self.keep is not None:
                self._kept = self.keep(self)

    def _write_chunk(self, data: bytes) -> None:
        self._last_sent = self._connection.now
        self._connection.stream.write(chunk(data))

    def _last_event(self, message: bytes) -> None:
        event_id = self._kept.add(message) if self._kept is not None else b""
        if not self._is_lost:
            self._connection.stream.write(chunk(encode_event(message, event_id=event_id)) + LAST_CHUNK)
        self._end()

    def _end(self) -> None:
        self._done = True
        self.call = None
        if self._kept is not None:
            self._kept.over()
        if self._stream_owner is not None:
            self._stream_owner.stream_gone(self)
        if not self._is_lost:
            self._connection.reply_ended(self.keep_alive)


class StreamOwner(Protocol):
    """Who keeps an open event stream and wants to know when it ends."""

    def stream_gone(self, reply: HttpReply) -> None: ...


class Tenant(Protocol):
    """Who answers many requests on one stream."""

    def drained(self) -> None:
        """The client has read what was written, after the stream was backed up."""
        ...

    def drain(self) -> None:
        """The front leaves: end the stream when nothing is owed any more."""
        ...
