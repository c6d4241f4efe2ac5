"""One request and its answer, and the keep-alive connection they travel on if it is HTTP/1.1.

Rule 1: a connection carries one exchange at a time, and is used again only if the last answer named its request and
ended exactly where HTTP says it ends, with nothing behind it. A server that once says a response too many would
otherwise answer each request with the response to the one before.
Rule 2: nobody is told anything from inside the parser: what it finds is collected, and handed on when it has returned.
So whatever an exchange does then, also ending its own connection, finds a parser that is at rest.
Rule 3: an exchange ends exactly once, with `answered`, `stream_ended` or `failed`; abandoning it ends it silently.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, ClassVar, Final

from protocol.http1 import ResponseError, ResponseHead, ResponseParser
from protocol.jsonrpc import Reply
from protocol.limits import STREAM_IDLE_S
from protocol.link import Payload
from protocol.sse import Event, EventDecoder, SseError
from workers.backend.faults import Failure, quoted
from workers.backend.way import HandshakeError
from workers.tls import TlsStream, refuses_handshake

if TYPE_CHECKING:
    from workers.backend.pool import Pool

LINGER_S: Final = 1.0
"""How long a server may take to end a stream whose answer has come; after that the connection is given up."""
PROMPT_S: Final = 0.1
"""A server that closes an idle connection sooner than this closes all of them after their answers. One idle for longer
is looked at before it is used again, because the reactor may not have got to it yet."""
_LOOK: Final = int(socket.MSG_PEEK | socket.MSG_DONTWAIT)


class Exchange:
    """One request and whatever comes back. Subclasses say what to do with it.

    Over HTTP that is `answered`, or `streamed` and `stream_ended`; over a pipe `noted` and `replied`.
    """

    __slots__ = ("connection", "is_paused", "method", "own_id", "repeatable", "repeated", "request", "waiting_since")

    is_call: ClassVar[bool] = False
    """It is a client's."""
    waiting_since: float
    """Since when it has been waiting for a connection, if it ever had to."""

    def __init__(self, *, repeatable: bool) -> None:
        self.request: tuple[Payload, ...] = ()
        """The whole request as it is written."""
        self.own_id = b""
        """The request's id at the server, raw JSON; b"" for what is no request."""
        self.method = b"POST"
        self.repeatable = repeatable
        """Executing the request twice does no harm."""
        self.repeated = False
        self.connection: Carrier | None = None
        """While it is being exchanged."""
        self.is_paused = False
        """Its answer is not to be read for now."""

    is_standing: ClassVar[bool] = False
    """Its answer is a stream that is meant to stay open, so that nobody waits for its end."""

    def stream_began(self) -> None:
        """The answer is an event stream. Told from inside the parser: only to be taken note of."""

    def writing(self) -> None:
        """The request is about to be written; from now on the server may get some of it."""

    def unwritten(self) -> None:
        """Not a byte of it could be written after all."""

    def answered(self, head: ResponseHead, body: Payload) -> bool:
        """The complete answer, unless it is an event stream. Return whether it is certainly the one to this request."""
        raise NotImplementedError

    def streamed(self, event: Event) -> None:
        """One event of an answer that is a stream. Whoever has enough calls `Carrier.release_early`."""
        raise NotImplementedError

    def stream_ended(self) -> None:
        """The stream ended in good order and nobody had said that it was enough."""
        raise NotImplementedError

    def replied(self, reply: Reply) -> None:
        """The response to this request."""
        raise NotImplementedError

    def noted(self, notification: Reply) -> None:
        """A notification about this request."""

    def failed(self, failure: Failure) -> None:
        """No answer will come."""
        raise NotImplementedError

    def broken(self, failure: Failure) -> None:
        """The connection ended in the middle of the answer."""
        self.failed(failure)

    def returned(self, failure: Failure) -> None:
        """It could not be sent, and not one byte of it has been; it may be submitted again."""
        self.failed(failure)

    def fell_silent(self) -> None:
        """Its answer has begun, and nothing more has come for `STREAM_IDLE_S`. Nothing happens unless overridden."""


class Carrier:
    """What one exchange is made on: told what a parser finds of its answer, and hands that on."""

    __slots__ = (
        "_body", "_complete", "_decoder", "_events", "_pool", "_sock", "_stream_error", "_touched", "exchange", "head",
        "heard_at", "lingering_since", "tls",
    )  # fmt: skip

    def __init__(self, pool: Pool, sock: socket.socket, tls: TlsStream | None) -> None:
        """`tls`: the stream on this socket, if it has one (`workers.tls.connect`)."""
        self._pool = pool
        self._sock = sock
        self.tls = tls
        self.head: ResponseHead | None = None
        """Of the answer that is under way."""
        self._body: list[Payload] = []
        self._decoder: EventDecoder | None = None
        self._events: list[Event] = []
        self._stream_error = ""
        self._complete = False
        self._touched = False
        """Some byte of the current answer has come."""
        self.exchange: Exchange | None = None
        self.heard_at = 0.0
        """When the last bytes came of an answer that has begun (it has a head) and not ended."""
        self.lingering_since: float | None = None
        """Since when the rest of a stream that nobody needs any more is awaited; None if it is not."""

    def pause_reading(self) -> None:
        raise NotImplementedError

    def resume_reading(self) -> None:
        raise NotImplementedError

    def abort(self) -> None:
        """Give up the exchange, if there is one, without telling it, and what it was made on."""
        raise NotImplementedError

    def _over(self, *, may_reuse: bool) -> None:
        """The answer has been handed on. `may_reuse`: it was in order, and the one to this request."""
        raise NotImplementedError

    def probe_peer(self, idle_s: int, interval_s: int, probes: int) -> None:
        """Have the kernel find out if the peer is gone without a word: for streams that nothing else limits."""
        sock = self._sock
        if sock.family is socket.AF_UNIX:
            return  # which nobody leaves without the kernel's telling
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle_s)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, interval_s)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, probes)

    def check_silence(self, now: float) -> None:
        """Tell the exchange if its answer has begun and nothing more has come for `STREAM_IDLE_S`."""
        exchange = self.exchange
        if exchange is None or self.head is None:
            return
        if exchange.is_paused:
            self.heard_at = now  # it is we who do not read
        elif now - self.heard_at > STREAM_IDLE_S:
            exchange.fell_silent()

    def release_early(self) -> None:
        """The exchange has what it needs, and only the end of its stream is still to come."""
        self._detach()
        if not self._complete:
            self.lingering_since = self._pool.reactor.now
            self.resume_reading()

    def _detach(self) -> None:
        if self.exchange is not None:
            self.exchange.connection = None
            self.exchange = None

    # --- protocol.http1.ResponseHandler ------------------------------------------------------------------------------
    def response_head(self, head: ResponseHead) -> None:
        self.head = head
        if head.is_stream:
            self._decoder = EventDecoder()
            if self.exchange is not None:
                self.exchange.stream_began()

    def response_body(self, chunk: Payload) -> None:
        if self._decoder is None:
            self._body.append(chunk)
        elif self.exchange is not None and not self._stream_error:
            try:
                self._events += self._decoder.feed(chunk)
            except SseError as error:
                self._events += error.events
                self._stream_error = str(error)

    def response_end(self) -> None:
        self._complete = True

    # --- handing on --------------------------------------------------------------------------------------------------
    def _deliver(self, error: str) -> None:
        """Hand on what the parser has found. `error`: nothing more can come on this connection, and why."""
        if self._events:
            self._deliver_events()
        if self._stream_error:
            error = error or self._stream_error
        if self._complete:
            self._end(may_reuse=not error)
        elif error:
            self._break(error)
        else:
            self.heard_at = self._pool.reactor.now

    def _deliver_events(self) -> None:
        events, self._events = self._events, []
        for event in events:
            if self.exchange is None:
                return  # it had enough, or was abandoned
            self.exchange.streamed(event)

    def _end(self, *, may_reuse: bool) -> None:
        exchange, head, streamed = self.exchange, self.head, self._decoder is not None
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body = []
        self._decoder = None
        self._complete = False
        self._touched = False
        self.head = None
        self.lingering_since = None
        assert head is not None
        is_own = exchange is None
        if exchange is not None:
            exchange.connection = self.exchange = None
            if not streamed:
                is_own = exchange.answered(head, body)
            elif self._stream_error:
                exchange.failed(self._pool.faults.malformed(f"a broken event stream ({self._stream_error})"))
            else:
                exchange.stream_ended()
        self._over(may_reuse=is_own and may_reuse and head.keep_alive)

    def _break(self, error: str) -> None:
        exchange = self.exchange
        self._pool.log.info("unusable answer", error=error, beginning=quoted(b"".join(self._body[:1])))
        self.abort()
        if exchange is not None:
            exchange.failed(self._pool.faults.malformed(f"something unusable ({error})"))


class Connection(Carrier):
    """One connection over HTTP/1.1: a handler of its stream and of its response parser."""

    __slots__ = ("_parser", "_stream", "_used_before", "idle_since")

    def __init__(self, pool: Pool, sock: socket.socket, tls: TlsStream | None = None) -> None:
        super().__init__(pool, sock, tls)
        self._parser = ResponseParser(self)
        self._used_before = False
        self.idle_since = 0.0
        if tls is None:
            self._stream = pool.reactor.add_stream(sock, self)
        else:
            self._stream = tls
            tls.handler = self
            tls.resume_reading()

    def start(self, exchange: Exchange) -> None:
        """Send the request. The connection must be idle."""
        self.exchange = exchange
        exchange.connection = self
        self._parser.expect(exchange.method)
        exchange.writing()
        request = exchange.request
        if len(request) == 1:  # nearly always
            self._stream.write(request[0])
        else:
            self._stream.writelines(request)
        if exchange.is_paused:
            self._stream.pause_reading()

    def is_alive(self) -> bool:
        """Tell whether the server has neither closed this idle connection nor said anything unasked on it."""
        try:
            self._sock.recv(1, _LOOK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False  # the end, or bytes that belong to no answer

    def pause_reading(self) -> None:
        self._stream.pause_reading()

    def resume_reading(self) -> None:
        self._stream.resume_reading()

    def abort(self) -> None:
        """Give up the exchange, if there is one, without telling it, and close."""
        self._detach()
        self._pool.retire(self)
        self._stream.abort()

    def _over(self, *, may_reuse: bool) -> None:
        # An answer that came before the request was all written leaves the connection in no state to be used again.
        if may_reuse and not self._stream.buffered:
            pool = self._pool
            if self._used_before:
                pool.keeps_alive = True
            else:
                self._used_before = True
            self._stream.resume_reading()
            pool.release(self)
        else:
            self._stream.abort()

    # --- workers.transport.StreamHandler -----------------------------------------------------------------------------
    def data_received(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is not None and (head := self._parser.whole(data)) is not None:
            # The fast path of nearly all answers. Nothing has been collected, so there is nothing to clear away.
            exchange.connection = self.exchange = None
            is_own = exchange.answered(head, data[-head.plain_bytes :])
            self._over(may_reuse=is_own and head.keep_alive)
            return
        error, into = "", None
        self._touched = True
        try:
            into = self._parser.feed(data)
        except ResponseError as raised:
            error = str(raised) or "malformed HTTP"
        self._stream.into = into
        self._deliver(error)

    def into_filled(self, count: int) -> None:
        self._parser.into_filled(count)
        self._stream.into = self._parser.into
        if self._complete:
            self._deliver("")
        else:
            self.heard_at = self._pool.reactor.now

    def eof_received(self) -> None:
        error = ""
        self._note_prompt_close()
        if self.exchange is not None or self.lingering_since is not None:
            try:
                self._parser.feed_eof()
            except ResponseError:
                error = "closed"
        self._pool.retire(self)
        self._stream.abort()
        if self._complete and not error:
            self._deliver("closed")
        else:
            self._lost()

    def buffer_drained(self) -> None:
        """Nothing waits for it: a request is written whole."""

    def stream_closed(self, error: OSError | None) -> None:
        if error is not None:
            self._note_prompt_close()
        self._pool.forget(self)
        self._lost(error)

    def _note_prompt_close(self) -> None:
        untouched = self.exchange is None or not self._touched
        if self._used_before and untouched and self._pool.reactor.now - self.idle_since < PROMPT_S:
            self._pool.keeps_alive = False

    def _lost(self, error: OSError | None = None) -> None:
        """The connection is gone; whoever was using it is told so once. `error`: of a stream that broke."""
        exchange = self.exchange
        if exchange is None:
            return
        self._detach()
        self._pool.drop_idle()
        if self._touched:
            exchange.broken(self._pool.faults.broke_off("in the middle of its answer"))
        elif not self._used_before and error is not None and refuses_handshake(error):
            # With TLS 1.3 a server says so when we already count as connected; it has read nothing of the request.
            exchange.unwritten()
            exchange.failed(self._pool.faults.unreachable(HandshakeError(error)))
        elif error is not None and self._stream.refused_write:
            # The server had closed the connection, and the kernel knew before a byte of the request was sent.
            exchange.unwritten()
            if self._used_before:
                self._pool.submit(exchange)
            else:
                exchange.failed(self._pool.faults.unreachable(error))
        elif self._used_before and exchange.repeatable and not exchange.repeated:
            # The server closed an idle connection just as it was used again.
            exchange.repeated = True
            self._pool.submit(exchange)
        else:
            # Some servers that want a certificate just hang up on those without one.
            unexplained = not self._used_before and self.tls is not None and error is not None
            exchange.failed(self._pool.faults.broke_off("before it answered", unexplained=unexplained))
