"""WebSocket connections without I/O: bytes in, whole text messages out, with bounds (RFC 6455).

Frames and handshakes are wsproto's, which is what trio-websocket is made of (docs/decisions/0017-websocket.md).

Rule 1: no extension is negotiated, so that a message takes as much memory as it has bytes: nothing is inflated.
Rule 2: what breaks a rule ends the connection, with the close code that says so (RFC 6455, section 7.4.1).
Rule 3: of several pings that came together the last is answered, as the RFC allows: a flood of them makes no other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from wsproto import ConnectionType, WSConnection
from wsproto.connection import Connection, ConnectionState
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto.utilities import LocalProtocolError, RemoteProtocolError, generate_accept_token

from protocol.http1 import HttpError
from protocol.link import Payload

SUBPROTOCOL: Final = "mcp"
GOING_AWAY: Final = 1001
PROTOCOL_ERROR: Final = 1002
UNSUPPORTED_DATA: Final = 1003
NO_CODE: Final = 1005
BROKEN_OFF: Final = 1006
POLICY_VIOLATION: Final = 1008
TOO_BIG: Final = 1009
FRAMES_TOGETHER_MAX: Final = 2000
"""That complete no message, in one read. Empty frames cost their sender two bytes and us some microseconds."""
_KEY: Final = re.compile(rb"[A-Za-z0-9+/]{22}==")
_OPEN: Final = frozenset({ConnectionState.OPEN, ConnectionState.LOCAL_CLOSING})
_MEANINGS: Final = {
    1000: "it has nothing more to say",
    GOING_AWAY: "it is going away",
    PROTOCOL_ERROR: "protocol error",
    UNSUPPORTED_DATA: "it cannot take such data",
    NO_CODE: "no reason given",
    BROKEN_OFF: "without a closing handshake",
    1007: "invalid data",
    POLICY_VIOLATION: "policy violation",
    TOO_BIG: "a message was too big for it",
    1010: "it misses an extension",
    1011: "it had an internal error",
    1012: "it is restarting",
    1013: "it is overloaded",
}


class Closed(msgspec.Struct, frozen=True):
    """Nothing more can come, or be sent."""

    code: int
    """Of RFC 6455, section 7.4.1."""
    reason: str
    """In the words of whoever ended it, not to be trusted."""
    is_ours: bool
    """The other side has broken a rule; `code` and `reason` are what it is told."""

    def __str__(self) -> str:
        return f"code {self.code}: {_MEANINGS.get(self.code, 'a reason of its own')}"


class Refused(Exception):
    """The other side has not made a WebSocket of the connection."""

    def __init__(self, status: int, text: str, headers: Mapping[bytes, bytes]) -> None:
        super().__init__(text)
        self.status = status
        """Of HTTP; 0 if what it said is no answer to the handshake."""
        self.headers = headers
        """With names in lower case."""


class Opening:
    """A client's handshake. `host` is the field's value, `headers` are sent besides."""

    def __init__(self, host: str, target: str, headers: Sequence[tuple[bytes, bytes]]) -> None:
        self._handshake = WSConnection(ConnectionType.CLIENT)
        self.request: bytes = self._handshake.send(
            Request(host=host, target=target, subprotocols=[SUBPROTOCOL], extra_headers=list(headers))
        )

    def feed(self, data: bytes) -> Connection | None:
        """Return the frames' side of the connection once the server has accepted. Errors: `Refused`."""
        try:
            self._handshake.receive_data(data)
            for event in self._handshake.handshake.events():
                if isinstance(event, AcceptConnection):
                    return self._handshake.connection
                if isinstance(event, RejectConnection):
                    fields = {bytes(name).lower(): bytes(value) for name, value in event.headers}
                    raise Refused(event.status_code, f"HTTP {event.status_code}", fields)
        except RemoteProtocolError as error:
            raise Refused(0, str(error), {}) from None
        except ValueError:  # a field that is not ASCII
            raise Refused(0, "a malformed handshake", {}) from None
        return None


def acceptance(fields: Mapping[bytes, bytes]) -> bytes:
    """Return the answer that makes a WebSocket of a connection: to a request with these fields (RFC 6455, section 4.2).

    The subprotocol is chosen if it was offered; who offers only others does not speak MCP. Errors: `HttpError`.
    """
    if b"upgrade" not in [token.strip().lower() for token in fields.get(b"connection", b"").split(b",")]:
        raise HttpError(400, "this is the endpoint for WebSocket: Connection must be Upgrade")
    if fields.get(b"upgrade", b"").lower() != b"websocket":
        raise HttpError(400, "this is the endpoint for WebSocket: Upgrade must be websocket")
    if fields.get(b"sec-websocket-version") != b"13":
        raise HttpError(426, "Sec-WebSocket-Version must be 13")
    key = fields.get(b"sec-websocket-key", b"")
    if not _KEY.fullmatch(key):
        raise HttpError(400, "Sec-WebSocket-Key is missing or malformed")
    offered = fields.get(b"sec-websocket-protocol")
    chosen = b""
    if offered is not None:
        if SUBPROTOCOL.encode() not in [name.strip() for name in offered.split(b",")]:
            raise HttpError(400, "Sec-WebSocket-Protocol must offer mcp")
        chosen = b"sec-websocket-protocol: %b\r\n" % SUBPROTOCOL.encode()
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
        b"sec-websocket-accept: %b\r\n%b\r\n" % (generate_accept_token(key), chosen)
    )


def serving() -> Connection:
    """Return the frames' side of a connection that was accepted so."""
    return Connection(ConnectionType.SERVER)


class WebSocket:
    """One open connection."""

    __slots__ = ("_frames", "_is_over", "_max", "_parts", "_pong", "_size")

    def __init__(self, frames: Connection, message_bytes_max: int) -> None:
        self._frames = frames
        self._max = message_bytes_max
        self._parts: list[bytes] = []
        self._size = 0
        self._is_over = False
        self._pong = b""

    def feed(self, data: bytes) -> list[bytes | Closed]:
        """Return the messages that are complete now; `Closed`, if that has happened, is the last item, once."""
        found: list[bytes | Closed] = []
        if not self._is_over:
            self._frames.receive_data(data)
            self._look(found)
        return found

    def take_pong(self) -> bytes:
        """Return what answers the last ping, if there was one since this was called last."""
        pong, self._pong = self._pong, b""
        return pong

    def message(self, text: Payload) -> bytes:
        """Return a message as a frame."""
        return self._frames.send(TextMessage(str(text, "utf-8")))

    def ping(self) -> bytes:
        return b"" if self._is_over else self._frames.send(Ping())

    def close(self, code: int, reason: str = "") -> bytes:
        """Return the close frame. Nothing can be sent after it, and what still comes is dropped."""
        self._is_over = True
        try:
            return self._frames.send(CloseConnection(code, reason or None))
        except LocalProtocolError:  # both sides have said it already
            return b""

    def _look(self, found: list[bytes | Closed]) -> None:
        ping: Ping | None = None
        frames = 0
        for event in self._frames.events():
            frames += 1
            if isinstance(event, TextMessage):
                if (piece := self._take(event)) is not None:
                    found.append(piece)
                    frames = 0
                if self._size > self._max:
                    self._end(Closed(TOO_BIG, f"messages may have {self._max} bytes", is_ours=True), found)
            elif isinstance(event, Ping):
                ping = event
            elif isinstance(event, BytesMessage):
                self._end(Closed(UNSUPPORTED_DATA, "MCP messages are text frames", is_ours=True), found)
            elif isinstance(event, CloseConnection):
                # wsproto tells in the same way what it did not like and what the other side has said.
                is_ours = self._frames.state in _OPEN
                self._end(Closed(int(event.code), event.reason or "", is_ours=is_ours), found)
            if frames > FRAMES_TOGETHER_MAX:
                self._end(Closed(POLICY_VIOLATION, "too many frames without a message", is_ours=True), found)
            if self._is_over:
                return
        if ping is not None:
            self._pong = self._frames.send(ping.response())

    def _take(self, event: TextMessage) -> bytes | None:
        """Return the message if this completes it."""
        piece = event.data.encode()
        self._size += len(piece)
        if self._size > self._max:
            self._parts.clear()
            return None
        if piece:
            self._parts.append(piece)
        if not event.message_finished:
            return None
        whole = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._size = 0
        return whole

    def _end(self, closed: Closed, found: list[bytes | Closed]) -> None:
        self._is_over = True
        found.append(closed)
