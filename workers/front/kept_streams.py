"""What is kept of the event streams of legacy clients' requests, for those that lose one and ask for the rest.

Every event on such a stream has an id; a client whose connection broke names the last one it got, in the
`Last-Event-ID` of a GET, and the stream goes on there (2025-11-25, transports, "Resumability and Redelivery"). The call
goes on in any case, with or without the client.

Rule 1: a stream belongs to the session it was begun in, and nobody else finds it (D-08).
Rule 2: everything is bounded; what does not fit is not kept. A client that asks for what is not kept any more is told
that the outcome is unknown: the id of its request is in the ids of the events, so also another front can say that.
Rule 3: a stream that nobody reads and nobody comes back for within `RESUME_S` is given up.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections import deque
from typing import TYPE_CHECKING, Final

import msgspec

from protocol.errors import OUTCOME_UNKNOWN
from protocol.jsonrpc import DECODE_ERRORS, error_message
from protocol.limits import ID_BYTES_MAX, KEPT_STREAM_BYTES_MAX, KEPT_STREAMS_BYTES_MAX, KEPT_STREAMS_MAX, RESUME_S
from workers.reactor import Reactor

if TYPE_CHECKING:
    from workers.front.http_connection import HttpReply

SWEEP_S: Final = 5.0
_PRIMED_SINCE: Final = "2025-11-25"
"""Before that, clients did not expect events without data."""
_OF_REQUEST: Final = b"p"
_OF_SESSION: Final = b"g"
_NOT_KEPT: Final = (
    "what followed on this stream is not kept any more; the request was made and goes on, its outcome is unknown"
)


class KeptStream:
    """One event stream, and as much of what was sent on it as may be kept."""

    __slots__ = (
        "_keeper",
        "_name",
        "_number",
        "events",
        "is_over",
        "is_primed",
        "reply",
        "session_id",
        "since",
        "size",
    )

    def __init__(self, keeper: KeptStreams, session_id: str, version: str, reply: HttpReply) -> None:
        self._keeper = keeper
        self.session_id = session_id
        self.is_primed = version >= _PRIMED_SINCE
        """An event without data may say where the stream begins."""
        self.reply = reply
        """Where the call says what belongs on it."""
        self._name = b"%b.%b.%b" % (_OF_REQUEST, secrets.token_hex(8).encode(), _encode_id(reply.request_id))
        self._number = 0
        self.events: deque[tuple[int, bytes]] = deque()
        """Number and message, oldest first; those that fit."""
        self.size = 0
        self.is_over = False
        self.since: float | None = None
        """When it ended or was lost; None while somebody reads it."""

    @property
    def name(self) -> bytes:
        return self._name

    @property
    def last_id(self) -> bytes:
        return b"%b.%d" % (self._name, self._number)

    def add(self, message: bytes) -> bytes:
        """Keep a message, and return the id of its event."""
        self._number += 1
        self._keeper.add(self, self._number, message)
        return self.last_id

    def after(self, number: int) -> list[tuple[bytes, bytes]]:
        """Return the events after the one of this number, as ids and messages."""
        return [(b"%b.%d" % (self._name, at), message) for at, message in self.events if at > number]

    def has_all_after(self, number: int) -> bool:
        """Whether nothing after this one is missing that a client must get: the end of a stream is its answer."""
        return not self.is_over or number >= self._number or bool(self.events and self.events[-1][0] == self._number)

    def over(self) -> None:
        """Its answer has been sent, or would have been."""
        self.is_over = True
        self._keeper.left(self)

    def lost(self) -> None:
        """The client's connection is gone."""
        self._keeper.left(self)

    def found(self) -> None:
        """The client has come back."""
        self.since = None


class KeptStreams:
    """All such streams of one front."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._streams: dict[bytes, KeptStream] = {}
        """By name, oldest first."""
        self._size = 0
        self._sweep = reactor.every(SWEEP_S, self._look)

    def begin(self, session_id: str, version: str, reply: HttpReply) -> KeptStream:
        """An answer has become an event stream."""
        stream = KeptStream(self, session_id, version, reply)
        self._streams[stream.name] = stream
        if len(self._streams) > KEPT_STREAMS_MAX:
            self._forget_oldest_end()
        return stream

    def find(self, session_id: str, name: bytes) -> KeptStream | None:
        stream = self._streams.get(name)
        return stream if stream is not None and stream.session_id == session_id else None

    def forget_session(self, session_id: str) -> None:
        """The session is over, and so are its calls."""
        for stream in [each for each in self._streams.values() if each.session_id == session_id]:
            self._drop(stream)

    def add(self, stream: KeptStream, number: int, message: bytes) -> None:
        if self._streams.get(stream.name) is not stream:
            return  # its session is over
        stream.events.append((number, message))
        stream.size += len(message)
        self._size += len(message)
        while stream.events and (stream.size > KEPT_STREAM_BYTES_MAX or self._size > KEPT_STREAMS_BYTES_MAX):
            _, oldest = stream.events.popleft()
            stream.size -= len(oldest)
            self._size -= len(oldest)

    def left(self, stream: KeptStream) -> None:
        stream.since = self._reactor.now
        self._sweep.wake()

    def _look(self) -> bool:
        now = self._reactor.now
        for stream in [each for each in self._streams.values() if each.since is not None]:
            if stream.since is not None and now - stream.since > RESUME_S:
                self._drop(stream)
        return any(each.since is not None for each in self._streams.values())

    def _forget_oldest_end(self) -> None:
        oldest = next((each for each in self._streams.values() if each.since is not None), None)
        if oldest is not None:
            self._drop(oldest)

    def _drop(self, stream: KeptStream) -> None:
        del self._streams[stream.name]
        self._size -= stream.size
        stream.events.clear()
        if not stream.is_over and stream.since is not None:
            stream.reply.give_up()


def session_event_id(stream: bytes, number: int) -> bytes:
    """Return the id of an event on a stream that belongs to no request. Nothing of those is kept."""
    return b"%b.%b.%d" % (_OF_SESSION, stream, number)


def is_of_session(event_id: bytes) -> bool:
    """Whether this names an event of a stream that belongs to no request."""
    return event_id.startswith(_OF_SESSION + b".")


def read_event_id(event_id: bytes) -> tuple[bytes, int, bytes] | None:
    """Return the name of the stream, the number of the event and the id of the request; None if it is no id of ours."""
    name, _, digits = event_id.rpartition(b".")
    kind, _, rest = name.partition(b".")
    request_id = _decode_id(rest.rpartition(b".")[2])
    if kind != _OF_REQUEST or not digits.isdigit() or len(digits) > 9 or not request_id:
        return None
    return name, int(digits), request_id


def not_kept(request_id: bytes) -> bytes:
    """Return the message for a client that asks for what is not kept any more."""
    return error_message(request_id, OUTCOME_UNKNOWN, _NOT_KEPT)


def _encode_id(request_id: bytes) -> bytes:
    return base64.urlsafe_b64encode(request_id).rstrip(b"=")


def _decode_id(text: bytes) -> bytes:
    try:
        request_id = base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4))
        msgspec.json.decode(request_id, type=str | int)  # it comes from the client, and goes into a message
    except (binascii.Error, ValueError, *DECODE_ERRORS):
        return b""
    return request_id if len(request_id) <= ID_BYTES_MAX else b""
