"""HTTP/2 to a server: one connection that carries many exchanges at once, each on a stream of its own (RFC 9113).

Frames, header compression and the states of streams are the library h2's (docs/decisions/0020-tls-and-egress.md);
before it stands `protocol.http2_guard`, which knows measure.

Rule 1: what arrives counts against the connection's window until it is here, and against its stream's until somebody
has taken it. So a client that takes nothing holds up its own stream alone, with `HTTP2_STREAM_WINDOW_BYTES` at most.
Rule 2: a request was *not sent* if the server says so (a GOAWAY with a lower stream, REFUSED_STREAM; section 8.7), or
if the kernel took nothing of it. Of anything else that ends early the outcome is unknown.
Rule 3: nothing is sent before the server has shown, with its settings, that it speaks HTTP/2.
Rule 4: exchanges are told of what came when h2 is at rest (exchange.py, rule 2).
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Final

import trio
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    InformationalResponseReceived,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import H2Error, ProtocolError

from protocol.http2_fields import split_request
from protocol.http2_guard import FrameGuard, GoAway, Http2Error, error_name
from protocol.limits import (
    HTTP2_CONNECTION_WINDOW_BYTES,
    HTTP2_REQUESTS_MAX,
    HTTP2_STREAMS_MAX,
    TLS_HANDSHAKE_S,
    WRITE_IDLE_S,
)
from workers.backend.exchange import PROMPT_S, Exchange
from workers.backend.http2_frames import Frames
from workers.backend.http2_stream import Stream
from workers.backend.way import GreetingError, HandshakeError
from workers.tls import TlsStream, refuses_handshake

if TYPE_CHECKING:
    from workers.backend.pool import Pool

SILENCE_S: Final = 1.0
"""A request that is given up after so long, in which the server has said nothing on the whole connection, is followed
by no other there: it may be dead, and only the kernel's patience would tell."""
LOOKS_MAX: Final = 4
_LOOK: Final = int(socket.MSG_PEEK | socket.MSG_DONTWAIT)


async def greet(pool: Pool, sock: socket.socket, tls: TlsStream) -> Http2Connection:
    """Begin to speak HTTP/2 on a stream whose peer has chosen it. Errors: `GreetingError`, `HandshakeError`."""
    connection = Http2Connection(pool, sock, tls)
    try:
        with trio.fail_after(TLS_HANDSHAKE_S):
            await connection.greeted.wait()
    except trio.TooSlowError:
        tls.abort()
        raise GreetingError(f"it said nothing within {TLS_HANDSHAKE_S:g} s") from None
    except BaseException:
        tls.abort()
        raise
    if connection.fault is not None:
        raise connection.fault
    if connection.is_over:
        raise GreetingError("it closed the connection")
    return connection


class Http2Connection:
    """One connection: the handler of its TLS stream."""

    def __init__(self, pool: Pool, sock: socket.socket, tls: TlsStream) -> None:
        self._pool = pool
        self.sock = sock
        self.tls = tls
        self._guard = FrameGuard(pool.reactor.now)
        self._h2 = Frames()
        self._streams: dict[int, Stream] = {}
        self._streams_max = 0
        self._next_id = 1
        self._fresh: list[Stream] = []
        """Those begun since the last bytes were given to the kernel."""
        self._arrived = 0
        """Bytes that count against the connection's window, although they are here."""
        self._flush_due = False
        self.takes_streams = True
        """It neither ends nor is about to."""
        self.is_over = False
        """It is closed."""
        self._has_answered = False
        self._heard_at = pool.reactor.now
        self.idle_since = pool.reactor.now
        self.greeted = trio.Event()
        """Set when the server has shown that it speaks HTTP/2, or `fault` is why it does not."""
        self.fault: OSError | None = None
        tls.handler = self
        tls.resume_reading()
        self._flush()

    @property
    def is_idle(self) -> bool:
        return not self._streams

    def has_room(self) -> bool:
        """Whether one more exchange may begin here."""
        if self._pool.reactor.now - self._heard_at > PROMPT_S:
            self._look()
        return self.takes_streams and len(self._streams) < self._streams_max

    def start(self, exchange: Exchange) -> Stream:
        """Send a request, on a stream of its own. There must be room."""
        stream = Stream(self._pool, self, self._next_id)
        self._next_id += 2
        self._streams[stream.id] = stream
        stream.exchange = exchange
        exchange.connection = stream
        if exchange.is_paused:
            stream.pause_reading()
        exchange.writing()
        head, length, first = split_request(bytes(exchange.request[0]))
        stream.unsent.extend(memoryview(chunk) for chunk in (first, *exchange.request[1:]) if len(chunk))
        self._h2.begin(stream.id, head, length, is_end=not stream.unsent)
        self._guard.sent()
        self._fresh.append(stream)
        self._send_body(stream)
        self._flush_soon()
        if stream.id > 2 * HTTP2_REQUESTS_MAX:
            self.retire()
        return stream

    def retire(self) -> None:
        """Begin nothing more here, and close when all has ended."""
        self.takes_streams = False
        if not self._streams:
            self.close()

    def close(self) -> None:
        """Close now, with all that is under way."""
        if not self.is_over:
            with contextlib.suppress(H2Error):
                self._h2.close_connection()
            self._end()

    def sweep(self, now: float, idle_s: float) -> None:
        """Close what has been idle for too long, or is stuck."""
        if not self._streams:
            if now - self.idle_since > idle_s:
                self.close()
        elif self.tls.buffered and now - self.tls.stalled_since > WRITE_IDLE_S:
            self._break(f"it has taken nothing of what it was sent for {WRITE_IDLE_S:g} s")

    # --- for its streams ---------------------------------------------------------------------------------------------
    def give_back(self, stream: Stream, count: int) -> None:
        """So many bytes of a stream have been taken: the server may send as many more."""
        if stream.id in self._streams and not self.is_over and not stream.end_due:
            with contextlib.suppress(H2Error):  # it has ended
                self._h2.increment_flow_control_window(count, stream.id)
            self._flush_soon()

    def finished(self, stream: Stream) -> None:
        """The whole answer has been handed on."""
        self._has_answered = True
        self._drop(stream, is_reset=bool(stream.unsent))

    def cancel(self, stream: Stream) -> None:
        """Nobody needs the rest of the answer."""
        began_at, now = stream.began_at, self._pool.reactor.now
        self._drop(stream, is_reset=not stream.end_due or bool(stream.unsent))
        if self._heard_at <= began_at and now - began_at > SILENCE_S:
            self.retire()

    def _drop(self, stream: Stream, *, is_reset: bool) -> None:
        if self._streams.pop(stream.id, None) is None or self.is_over:
            return
        if is_reset:
            with contextlib.suppress(H2Error):  # it has ended at the same time
                self._h2.reset_stream(stream.id, ErrorCodes.CANCEL)
            self._flush_soon()
        if not self._streams:
            self.idle_since = self._pool.reactor.now
            if not self.takes_streams:
                self.close()

    # --- sending -----------------------------------------------------------------------------------------------------
    def _send_body(self, stream: Stream) -> None:
        self._guard.sent(self._h2.send_body(stream.id, stream.unsent))

    def _send_bodies(self) -> None:
        for stream in self._streams.values():
            if stream.unsent:
                self._send_body(stream)

    def _flush_soon(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            self._pool.reactor.at_batch_end(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        data = self._h2.data_to_send()
        if data:
            self.tls.write(data)
        if not self.tls.refused_write:
            self._fresh.clear()

    # --- workers.transport.StreamHandler -----------------------------------------------------------------------------
    def data_received(self, data: bytes) -> None:
        self._heard_at = now = self._pool.reactor.now
        try:
            for piece in self._guard.feed(data, now):
                if isinstance(piece, GoAway):
                    self._go_away(piece)
                else:
                    for event in self._h2.receive_data(piece):
                        self._react(event)
        except Http2Error as error:
            self._break(str(error))
        except ProtocolError as error:
            self._break(f"a breach of its rules, {type(error).__name__}")
        else:
            self._flush_soon()

    def into_filled(self, count: int) -> None:
        raise AssertionError(f"{count} bytes that were to be received nowhere")

    def eof_received(self) -> None:
        self._lose(None)

    def buffer_drained(self) -> None:
        """Nothing waits for it: the server's windows limit what is written."""

    def stream_closed(self, error: OSError | None) -> None:
        self._lose(error)

    # --- what the server says ----------------------------------------------------------------------------------------
    def _react(self, event: Event) -> None:
        if self.is_over:
            return
        if isinstance(event, DataReceived):
            self._data(event)
        elif isinstance(event, ResponseReceived):
            if (stream := self._streams.get(event.stream_id)) is not None:
                stream.head_received(event.headers)
        elif isinstance(event, StreamEnded):
            if (stream := self._streams.get(event.stream_id)) is not None:
                stream.ended()
        elif isinstance(event, WindowUpdated):
            if not event.stream_id:
                self._send_bodies()
            elif (stream := self._streams.get(event.stream_id)) is not None:
                self._send_body(stream)
        elif isinstance(event, StreamReset):
            if (stream := self._streams.get(event.stream_id)) is not None:
                self._reset(stream, error_name(int(event.error_code)))
        elif isinstance(event, InformationalResponseReceived):
            if (stream := self._streams.get(event.stream_id)) is not None:
                stream.interim_received(event.headers)
        elif isinstance(event, RemoteSettingsChanged):
            self._settle()

    def _data(self, event: DataReceived) -> None:
        size = event.flow_controlled_length
        self._arrived += size
        if self._arrived >= HTTP2_CONNECTION_WINDOW_BYTES // 2:
            self._h2.increment_flow_control_window(self._arrived)
            self._arrived = 0
        if (stream := self._streams.get(event.stream_id)) is not None:
            stream.data_received(event.data, size)

    def _settle(self) -> None:
        """The server's settings have come, or changed."""
        self._streams_max = min(HTTP2_STREAMS_MAX, self._h2.remote_settings.max_concurrent_streams)
        self._h2.bound_table()
        self._send_bodies()
        self.greeted.set()
        self._pool.find_room()

    def _reset(self, stream: Stream, code: str) -> None:
        if stream.end_due:
            return  # the answer is here, and the server does not want the rest of the request
        del self._streams[stream.id]
        self._break_off(stream, code, is_unsent=code == "REFUSED_STREAM" and not stream.is_touched)
        if not self._streams:
            self.idle_since = self._pool.reactor.now
            if not self.takes_streams:
                self.close()

    def _go_away(self, said: GoAway) -> None:
        code = error_name(said.code)
        self.takes_streams = False
        if not self.greeted.is_set():
            self._fail_greeting(f"it ended the connection with {code}")
        for stream in [stream for stream in self._streams.values() if stream.id > said.last_stream]:
            del self._streams[stream.id]
            self._break_off(stream, code, is_unsent=True)
        if said.code:
            for stream in self._end():
                self._break_off(stream, code, is_unsent=False)
        elif not self._streams:
            self.close()

    # --- ends --------------------------------------------------------------------------------------------------------
    def _break_off(self, stream: Stream, code: str, *, is_unsent: bool) -> None:
        exchange = stream.give_up()
        if exchange is None:
            return
        faults = self._pool.faults
        if is_unsent:
            self._send_again(exchange, f"HTTP/2 {code}")
        elif stream.is_touched:
            exchange.broken(faults.cut_off(code))
        else:
            exchange.failed(faults.cut_off(code))

    def _send_again(self, exchange: Exchange, why: str) -> None:
        """Nothing of the request has been looked at. Try once more, unless that has been done before."""
        exchange.unwritten()
        if exchange.repeated:
            exchange.failed(self._pool.faults.turned_away(why))
        else:
            exchange.repeated = True
            self._pool.submit(exchange)

    def _break(self, why: str) -> None:
        """The server breaks rules or bounds; `why` is for people."""
        if self.is_over:
            return
        self._pool.log.info("unusable HTTP/2", error=why)
        with contextlib.suppress(H2Error):
            self._h2.close_connection(ErrorCodes.PROTOCOL_ERROR)
        self._fail_greeting(why)
        failure = self._pool.faults.malformed(f"something unusable (HTTP/2: {why})")
        for stream in self._end():
            exchange = stream.give_up()
            if exchange is not None:
                exchange.failed(failure)

    def _lose(self, error: OSError | None) -> None:
        """The connection is gone. `error`: of a stream that broke."""
        if self.is_over:
            return
        if error is not None and refuses_handshake(error):
            # With TLS 1.3 a server says so when we already count as connected.
            self.fault = self.fault or HandshakeError(error)
        self._fail_greeting("it closed the connection", is_closed=True)
        fresh, faults = set(self._fresh), self._pool.faults
        streams = self._end()
        if streams:
            self._pool.drop_idle()
        for stream in streams:
            exchange = stream.give_up()
            if exchange is None:
                continue
            if stream in fresh:
                self._send_again(exchange, "its connections break")
            elif stream.is_touched:
                exchange.broken(faults.broke_off("in the middle of its answer"))
            elif self._has_answered and exchange.repeatable and not exchange.repeated:
                exchange.repeated = True
                self._pool.submit(exchange)
            else:
                exchange.failed(faults.broke_off("before it answered"))

    def _fail_greeting(self, what: str, *, is_closed: bool = False) -> None:
        if not self.greeted.is_set():
            self.fault = self.fault or GreetingError(what, is_closed=is_closed)
            self.greeted.set()

    def _end(self) -> list[Stream]:
        """Close; return the streams that have not come to their end."""
        self.is_over = True
        self.takes_streams = False
        self._flush()
        self.tls.abort()
        self._pool.forget_shared(self)
        streams = [stream for stream in self._streams.values() if not stream.end_due]
        self._streams.clear()
        return streams

    def _look(self) -> None:
        """Read what a silent server has said last, if the loop has not got to it: it may have been goodbye."""
        for _ in range(LOOKS_MAX):
            try:
                self.sock.recv(1, _LOOK)
            except BlockingIOError:
                return
            except OSError as error:
                self._lose(error)
            if self.is_over:
                return
            self.tls.catch_up()
