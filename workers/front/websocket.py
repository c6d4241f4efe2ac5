"""A client over WebSocket: one JSON-RPC message a text frame, a session as long as the connection.

MCP has no such transport of its own; this is the one of the official SDK's 1.x. `Host` and `Origin` have been checked
with the handshake, as for any request: browsers let every page connect, and say which one it was.

Rule 1: who breaks the rules of WebSocket is told so with a close code, and let go.
Rule 2: who neither says anything nor answers a ping is gone, and so is who takes no answer, or never says anything.
Rule 3: who has `WEBSOCKET_REQUESTS_MAX` answers to get is not read from until he gets some.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from protocol.http1 import Request
from protocol.limits import (
    KEEP_ALIVE_IDLE_S,
    LINE_BYTES_MAX,
    STREAM_BUFFER_HIGH_BYTES,
    WEBSOCKET_PING_S,
    WEBSOCKET_PONG_S,
    WEBSOCKET_REQUESTS_MAX,
    WRITE_IDLE_S,
)
from protocol.link import Payload
from workers.front.calls import ClientTable
from workers.front.conversation import Conversation
from workers.front.endpoint import Endpoint
from workers.logs import Log
from workers.websocket import GOING_AWAY, POLICY_VIOLATION, Closed, WebSocket, acceptance, serving

if TYPE_CHECKING:
    from workers.front.http_connection import HttpConnection, HttpReply

_FINISHED = 1000


def upgrade(request: Request, reply: HttpReply, endpoint: Endpoint, log: Log) -> None:
    """Make a WebSocket of the connection that this request came on. Errors: `HttpError`."""
    answer = acceptance(request.headers)
    client = reply.client
    reply.hand_over(answer, lambda connection: WebSocketEdge(endpoint, connection, client, log))


class WebSocketEdge(Conversation):
    """Serves one such client (a `workers.transport.StreamHandler`, and a connection as the doors see it)."""

    def __init__(self, endpoint: Endpoint, connection: HttpConnection, client: str, log: Log) -> None:
        identity = secrets.token_hex(16).encode()
        super().__init__(endpoint, ClientTable(identity), log, identity)
        self.stream = connection.stream
        self.client = client
        self._connection = connection
        """As which it came: it knows the time, and who counts connections."""
        self._websocket = WebSocket(serving(), LINE_BYTES_MAX)
        self._began_at = self._heard_at = connection.now
        self._pinged_at: float | None = None
        self._has_spoken = False
        self._is_over = False

    # --- workers.transport.StreamHandler --------------------------------------------------------------------
    def data_received(self, data: bytes) -> None:
        self._heard_at = self._connection.now
        self._pinged_at = None
        for item in self._websocket.feed(data):
            if isinstance(item, Closed):
                self._leave(item.code, item.reason if item.is_ours else "")
                return
            self._has_spoken = True
            if not self._ended:
                self.take(item)
        # Who does not read his pongs gets no more of them than he can be sent.
        if (pong := self._websocket.take_pong()) and self.stream.buffered < STREAM_BUFFER_HIGH_BYTES:
            self.stream.write(pong)

    def eof_received(self) -> None:
        """Without a closing handshake nobody is there to get an answer (RFC 6455, section 7.1.1)."""
        self.stream.abort()

    def stream_closed(self, error: OSError | None) -> None:
        del error
        self._is_over = True
        self._endpoint.subscriptions.end_all(self._in_flight)
        self._gone()
        self._leave_session()
        self._connection.service.connection_closed(self)

    # --- workers.front.conversation.Conversation ------------------------------------------------------------
    def _put(self, *parts: Payload) -> None:
        if not self._is_over:
            self.stream.write(self._websocket.message(parts[0] if len(parts) == 1 else b"".join(parts)))

    def began(self, reply: object) -> None:
        super().began(reply)  # pyright: ignore[reportArgumentType]
        if len(self._owed) >= WEBSOCKET_REQUESTS_MAX:
            self.stream.pause_reading()

    def _answered(self) -> None:
        if len(self._owed) == WEBSOCKET_REQUESTS_MAX - 1 and not self.backed_up and not self._ended:
            self.stream.resume_reading()

    def _finish(self) -> None:
        self._leave(GOING_AWAY)

    # --- for the doors --------------------------------------------------------------------------------------
    def drain(self, idle_s: float) -> None:
        """Take nothing more, and leave when all that is owed has been written."""
        del idle_s
        self._end_input()

    def sweep(self, now: float) -> None:
        if self.stream.buffered and now - self.stream.stalled_since > WRITE_IDLE_S:
            self.stream.abort()
        elif self._is_over or self._ended:
            return
        elif not self._has_spoken and now - self._began_at > KEEP_ALIVE_IDLE_S:
            self._leave(POLICY_VIOLATION, "nothing was said")
        elif self._pinged_at is not None:
            if now - self._pinged_at > WEBSOCKET_PONG_S:
                self.stream.abort()
        elif now - self._heard_at > WEBSOCKET_PING_S:
            self._pinged_at = now
            self.stream.write(self._websocket.ping())

    def _leave(self, code: int, reason: str = "") -> None:
        """Say goodbye and close, once what was written has been taken; `sweep` sees to it that it is."""
        if not self._is_over:
            self._is_over = True
            self.stream.write(self._websocket.close(code or _FINISHED, reason))
            self.stream.close()
