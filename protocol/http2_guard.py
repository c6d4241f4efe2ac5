"""Watch over the frames of an HTTP/2 connection before they are parsed: how large they are, and how many say nothing.

The library behind it (h2) keeps the rules of RFC 9113, and knows no measure: it waits for whatever length is announced,
answers each ping, and counts nothing. It also takes GOAWAY for the end of everything, which is why that frame never
reaches it: the streams that the server has accepted go on (RFC 9113, section 6.8).
"""

from __future__ import annotations

from typing import Final

import msgspec

from protocol.limits import (
    HTTP2_CONTROL_FRAMES_MAX,
    HTTP2_CONTROL_FRAMES_PER_S,
    HTTP2_CONTROL_FRAMES_PER_SENT,
    HTTP2_FRAME_BYTES_MAX,
    HTTP2_HEADER_LIST_BYTES_MAX,
    HTTP2_SETTINGS_MAX,
)

FRAME_HEAD_BYTES: Final = 9
_SETTING_BYTES: Final = 6
_GOAWAY_BYTES: Final = 8
"""Of a GOAWAY without what its sender adds for people."""
_NO_STREAM: Final = b"\0\0\0\0"
_STREAM_BITS: Final = 0x7FFFFFFF
_DATA, _HEADERS, _SETTINGS, _PUSH_PROMISE, _GOAWAY, _CONTINUATION = 0, 1, 4, 5, 7, 9
_ACK = _END_STREAM = 1

ERROR_NAMES: Final = (
    "NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED",
    "FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED",
)  # fmt: skip
"""By number (RFC 9113, section 7)."""


def error_name(code: int) -> str:
    """Return what an error code is called."""
    return ERROR_NAMES[code] if 0 <= code < len(ERROR_NAMES) else f"error {code}"


class Http2Error(Exception):
    """The connection cannot go on: the peer has broken a rule or a bound. The text says which, and may be shown."""


class GoAway(msgspec.Struct, frozen=True):
    """The peer takes no new stream on this connection (RFC 9113, section 6.8)."""

    last_stream: int
    """Streams with a higher id have not been looked at, and will not be."""
    code: int


class FrameGuard:
    """Watches one direction of one connection."""

    __slots__ = ("_credit", "_goaway", "_head", "_header_bytes", "_is_first", "_left", "_now", "_settings")

    def __init__(self, now: float) -> None:
        self._head = b""
        """The part that is here of the head of a frame."""
        self._left = 0
        """Bytes of the current frame still to come."""
        self._goaway: bytearray | None = None
        """The part that is here of a GOAWAY."""
        self._header_bytes = 0
        """Of the field block that is under way."""
        self._is_first = True
        self._settings = 0
        self._credit = float(HTTP2_CONTROL_FRAMES_MAX)
        """How many frames may come now that carry no answer."""
        self._now = now

    def sent(self, frames: int = 1) -> None:
        """So many frames with part of a request were sent, which the peer may answer with some of its own."""
        self._credit = min(self._credit + frames * HTTP2_CONTROL_FRAMES_PER_SENT, 10.0 * HTTP2_CONTROL_FRAMES_MAX)

    def feed(self, data: bytes, now: float) -> list[bytes | GoAway]:
        """Return what is to be parsed of what has come, in order. `now`: in seconds. Errors: `Http2Error`."""
        if self._head:
            data, self._head = self._head + data, b""
        pieces: list[bytes | GoAway] = []
        begin, position, end = 0, 0, len(data)
        while position < end:
            if not self._left:
                if end - position < FRAME_HEAD_BYTES:
                    self._head = data[position:]  # what it is the head of decides who gets it
                    end = position
                    break
                if self._begin_frame(data[position : position + FRAME_HEAD_BYTES], now):
                    if begin < position:
                        pieces.append(data[begin:position])
                    begin = position + FRAME_HEAD_BYTES
                position += FRAME_HEAD_BYTES
            stop = min(end, position + self._left)
            self._left -= stop - position
            if self._goaway is not None:
                self._goaway += data[position:stop]
                begin = stop
                if not self._left:
                    pieces.append(_read_goaway(self._goaway))
                    self._goaway = None
            position = stop
        if begin < end:
            pieces.append(data[begin:end])
        return pieces

    def _begin_frame(self, head: bytes, now: float) -> bool:
        """Judge the head of a frame; return whether it is one that is taken out."""
        length = head[0] << 16 | head[1] << 8 | head[2]
        kind, flags = head[3], head[4]
        if self._is_first:
            if kind != _SETTINGS or flags & _ACK or head[5:] != _NO_STREAM:
                raise Http2Error("it does not begin as HTTP/2 does")
            self._is_first = False
        if length > HTTP2_FRAME_BYTES_MAX:
            raise Http2Error(f"a frame of {length} bytes")
        self._left = length
        if kind == _DATA:
            if not length and not flags & _END_STREAM:
                self._count(now)
            return False
        self._count(now)
        if kind in (_HEADERS, _CONTINUATION, _PUSH_PROMISE):
            self._header_bytes = length + (self._header_bytes if kind == _CONTINUATION else 0)
            if self._header_bytes > HTTP2_HEADER_LIST_BYTES_MAX:
                raise Http2Error(f"header fields of more than {HTTP2_HEADER_LIST_BYTES_MAX} bytes")
        elif kind == _SETTINGS:
            self._settings += length // _SETTING_BYTES
            if self._settings > HTTP2_SETTINGS_MAX:
                raise Http2Error("it changes its settings without end")
        elif kind == _GOAWAY:
            if length < _GOAWAY_BYTES or head[5:] != _NO_STREAM:
                raise Http2Error("a malformed GOAWAY frame")
            self._goaway = bytearray()
            return True
        return False

    def _count(self, now: float) -> None:
        """A frame that carries no part of an answer, or hardly any."""
        self._credit -= 1
        if self._credit < 0:
            earned = (now - self._now) * HTTP2_CONTROL_FRAMES_PER_S
            self._now = now
            self._credit = min(self._credit + earned, HTTP2_CONTROL_FRAMES_MAX)
            if self._credit < 0:
                raise Http2Error("a flood of frames that carry no answer")


def _read_goaway(frame: bytearray) -> GoAway:
    return GoAway(int.from_bytes(frame[:4], "big") & _STREAM_BITS, int.from_bytes(frame[4:_GOAWAY_BYTES], "big"))
