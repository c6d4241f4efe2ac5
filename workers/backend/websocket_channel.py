"""The WebSocket to a server: one message a text frame, all calls side by side on one connection (messages.py).

MCP has no such transport of its own; this is the one of the official SDK's 1.x: subprotocol `mcp`, and whatever a line
of stdio would say in a frame.

Rule 1: a server that neither says anything nor answers a ping is gone, and so is one that reads nothing.
Rule 2: what breaks the rules of WebSocket (binary frames, frames without end, messages too long) ends the connection,
with the close code that says why. What is well-formed and no message is only counted.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence

import trio

from protocol.limits import (
    ANSWER_BYTES_MAX,
    CONNECT_TIMEOUT_S,
    MIB,
    STREAM_BUFFER_HIGH_BYTES,
    WEBSOCKET_PING_S,
    WEBSOCKET_PONG_S,
    WRITE_IDLE_S,
)
from protocol.link import Payload
from workers.backend.endpoint import Endpoint
from workers.backend.faults import Failure, Unanswered
from workers.backend.leg import HANDSHAKE_TIMEOUT_S, Counters
from workers.backend.ordered import WRITTEN_TOGETHER_BYTES, OrderedChannel, OrderedLife
from workers.backend.way import Way
from workers.backend.websocket_faults import WebSocketFaults
from workers.logs import Log
from workers.reactor import Reactor
from workers.tls import TlsStream
from workers.transport import ConnectionStream
from workers.websocket import GOING_AWAY, TOO_BIG, UNSUPPORTED_DATA, Closed, Opening, Refused, WebSocket


class Handshake:
    """A connection that is to become a WebSocket (a `workers.transport.StreamHandler`)."""

    def __init__(self, reactor: Reactor, sock: socket.socket, tls: TlsStream | None, opening: Opening) -> None:
        self._opening = opening
        self.done = trio.Event()
        self.websocket: WebSocket | None = None
        """Set if it has."""
        self.refusal: Refused | None = None
        self.is_broken = False
        """The connection has ended."""
        self.stream: ConnectionStream
        if tls is None:
            self.stream = reactor.add_stream(sock, self)
        else:
            self.stream, tls.handler = tls, self
            tls.resume_reading()
        self.stream.write(opening.request)

    def data_received(self, data: bytes) -> None:
        try:
            frames = self._opening.feed(data)
        except Refused as refusal:
            self.refusal = refusal
            self.done.set()
            return
        if frames is not None:
            self.stream.pause_reading()  # until somebody takes what comes
            self.websocket = WebSocket(frames, ANSWER_BYTES_MAX)
            self.done.set()

    def into_filled(self, count: int) -> None:
        raise AssertionError(f"{count} bytes for nobody")

    def eof_received(self) -> None:
        self.is_broken = True
        self.done.set()

    def buffer_drained(self) -> None: ...

    def stream_closed(self, error: OSError | None) -> None:
        del error
        self.eof_received()


class WebSocketLife(OrderedLife):
    """One open WebSocket (a `workers.transport.StreamHandler`)."""

    def __init__(self, channel: WebSocketChannel, stream: ConnectionStream, websocket: WebSocket, now: float) -> None:
        super().__init__(now)
        self._channel = channel
        self._stream = stream
        self._websocket = websocket
        self.heard_at = now
        self.pinged_at: float | None = None
        """When it was asked whether it lives, if nothing has come since."""
        self._is_paused = False

    # --- workers.backend.ordered.OrderedLife -------------------------------------------------------------------------
    @property
    def is_full(self) -> bool:
        return self._stream.buffered > 0

    def write(self, messages: Sequence[Payload]) -> bool:
        frames = [self._websocket.message(message) for message in messages]
        if sum(map(len, frames)) < WRITTEN_TOGETHER_BYTES:
            self._stream.write(b"".join(frames))
        else:
            self._stream.writelines(frames)
        return True

    def set_paused(self, *, is_paused: bool) -> None:
        self._is_paused = is_paused
        self.pinged_at = None
        if is_paused:
            self._stream.pause_reading()
        else:
            self._stream.resume_reading()

    def close(self) -> None:
        self._stream.abort()

    def leave(self, code: int, reason: str = "") -> None:
        """Say goodbye, as far as that goes without waiting, and close."""
        self._stream.write(self._websocket.close(code, reason))
        if self._stream.buffered:
            self._stream.abort()
        else:
            self._stream.close()

    def look(self, now: float) -> str:
        """Return what is wrong, "" if nothing is. Ask the server whether it lives, if it has been silent for long."""
        if self.is_full and now - self._stream.stalled_since > WRITE_IDLE_S:
            return f"has read nothing for {WRITE_IDLE_S:g} s, so the connection was closed"
        if self._is_paused:
            self.heard_at = now  # it is we who do not read
        elif self.pinged_at is not None:
            if now - self.pinged_at > WEBSOCKET_PONG_S:
                return f"did not answer a ping within {WEBSOCKET_PONG_S:g} s, so the connection counts as dead"
        elif now - self.heard_at > WEBSOCKET_PING_S:
            self.pinged_at = now
            self._stream.write(self._websocket.ping())
        return ""

    # --- workers.transport.StreamHandler -----------------------------------------------------------------------------
    def data_received(self, data: bytes) -> None:
        self.heard_at = self._channel.now
        self.pinged_at = None
        for item in self._websocket.feed(data):
            if self.is_over:
                return
            if isinstance(item, Closed):
                self._channel.closed(self, item)
                return
            self._channel.take(self, item)
        # A server that does not read its pongs gets no more of them than it can be sent.
        if (pong := self._websocket.take_pong()) and self._stream.buffered < STREAM_BUFFER_HIGH_BYTES:
            self._stream.write(pong)

    def into_filled(self, count: int) -> None:
        raise AssertionError(f"{count} bytes for nobody")

    def eof_received(self) -> None:
        self._channel.lost(self)

    def buffer_drained(self) -> None:
        self._channel.drained()

    def stream_closed(self, error: OSError | None) -> None:
        del error
        self._channel.lost(self)


class WebSocketChannel(OrderedChannel[WebSocketLife]):
    """A channel to a server that speaks WebSocket. `connected`: the server has accepted a connection."""

    initialize_s = HANDSHAKE_TIMEOUT_S
    faults: WebSocketFaults

    def __init__(
        self,
        reactor: Reactor,
        endpoint: Endpoint,
        way: Way,
        faults: WebSocketFaults,
        counters: Counters,
        log: Log,
        *,
        connected: Callable[[], None],
        ended: Callable[[Failure], None],
        used: Callable[[], None],
    ) -> None:
        super().__init__(reactor, faults, counters, log, used=used, ended=ended)
        self._endpoint = endpoint
        self._way = way
        self._connected = connected
        self._starting = trio.Lock()

    @property
    def now(self) -> float:
        return self._reactor.now

    @property
    def next_due(self) -> float | None:
        due, life = super().next_due, self.life
        if due is None or life is None:
            return due
        return (life.heard_at if life.pinged_at is None else life.pinged_at) + WEBSOCKET_PING_S

    # --- its life ----------------------------------------------------------------------------------------------------
    async def start(self) -> None:
        """Connect, unless that is done. Errors: `Unanswered`."""
        async with self._starting:
            if self.life is not None:
                return
            stream, websocket = await self._shake_hands(*await self._connect())
            if self._closed:
                stream.abort()
                raise Unanswered(self.faults.stopping())
            life = self.life = WebSocketLife(self, stream, websocket, trio.current_time())
            stream.tell_when_empty()
            stream.handler = life
            life.data_received(b"")  # what came together with the answer to the handshake
            life.set_paused(is_paused=self.is_held)
            self._used()

    async def _connect(self) -> tuple[socket.socket, TlsStream | None]:
        if self._closed:
            raise Unanswered(self.faults.stopping())
        try:
            connection = await self._way.connect()
        except OSError as error:
            raise Unanswered(self.faults.unreachable(error)) from None
        self._connected()
        return connection

    async def _shake_hands(self, sock: socket.socket, tls: TlsStream | None) -> tuple[ConnectionStream, WebSocket]:
        endpoint = self._endpoint
        opening = Opening(endpoint.authority.decode(), endpoint.target.decode(), endpoint.header_fields)
        handshake = Handshake(self._reactor, sock, tls, opening)
        stream, websocket = handshake.stream, None
        try:
            with trio.move_on_after(CONNECT_TIMEOUT_S):
                await handshake.done.wait()
                websocket = handshake.websocket
        finally:
            if websocket is None or handshake.is_broken:
                stream.abort()
        if handshake.refusal is not None:
            raise Unanswered(self.faults.refused_handshake(handshake.refusal))
        if handshake.is_broken:
            raise Unanswered(self.faults.broken_handshake())
        if websocket is None:
            raise Unanswered(self.faults.silent_handshake(CONNECT_TIMEOUT_S))
        return stream, websocket

    def sweep(self) -> None:
        life = self.life
        if life is not None and (why := life.look(self._reactor.now)):
            self.give_up(life, why)

    def drop_idle(self) -> None:
        """It may have been cut off meanwhile: find out at once, not only when nothing has come for a while."""
        if self.life is not None:
            self.life.heard_at = float("-inf")
            self._used()

    def give_up(self, life: WebSocketLife, why: str) -> None:
        if not life.is_over:
            life.leave(GOING_AWAY)
            self._life_over(life, why)

    def closed(self, life: WebSocketLife, closed: Closed) -> None:
        """One side has said that it is over."""
        life.leave(closed.code, closed.reason if closed.is_ours else "")
        if not closed.is_ours:
            how = f"closed the connection ({closed})"
        elif closed.code == TOO_BIG:
            how = f"sent a message longer than {ANSWER_BYTES_MAX // MIB} MiB"
        elif closed.code == UNSUPPORTED_DATA:
            how = "sent a binary frame, but messages of MCP are text"
        else:
            how = f"broke the rules of WebSocket ({closed})"
        self._life_over(life, how)

    def lost(self, life: WebSocketLife) -> None:
        """The connection has ended, and nobody had said so."""
        if not life.is_over:
            life.close()
            self._life_over(life, "closed the connection without a closing handshake")

    def _life_over(self, life: WebSocketLife, how: str) -> None:
        life.is_over = True
        self.life = None
        self._log.info("the connection has ended", how=how)
        self._settle(life, how)

    async def stop(self) -> None:
        self._stop_exchanges()
        if self.life is not None:
            self.give_up(self.life, "was disconnected")
