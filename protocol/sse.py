"""Write and read server-sent events (WHATWG HTML, 9.2): an encoder, and an incremental, bounded decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from protocol.limits import SSE_EVENT_BYTES_MAX
from protocol.link import Payload

KEEP_ALIVE: Final = b": keep-alive\n\n"
_BOM: Final = b"\xef\xbb\xbf"
_FIELD_INITIALS: Final = b"deir"  # data, event, id, retry; any other line is skipped by its first byte
_ID_BYTES_MAX: Final = 4096  # an id is sent back in a header, so it must fit one
_RETRY_DIGITS_MAX: Final = 10  # 10**10 ms is four months; int() of a megabyte of digits takes minutes


class SseError(Exception):
    """A server's event stream breaks a limit. `events`: what was complete before that, in the same piece."""

    def __init__(self, message: str, events: Sequence[Event] = ()) -> None:
        super().__init__(message)
        self.events = events


class Event(msgspec.Struct, eq=True):
    """One event."""

    event: str
    """Its type; "message" if the server gave none."""
    data: bytes
    """Its data lines joined with LF, as sent: not necessarily UTF-8."""
    id: str | None
    """The id given with this event; None if there was none."""
    retry_ms: int | None
    """The reconnection time given with this event."""


def encode_event(data: Payload, *, event: bytes = b"message", event_id: bytes = b"") -> bytes:
    """Return one event. Neither `data` nor the names may contain a line end."""
    encoded = b"".join(
        (b"id: ", event_id, b"\nevent: ", event, b"\ndata: ", data, b"\n\n")
        if event_id
        else (b"event: ", event, b"\ndata: ", data, b"\n\n")
    )
    assert encoded.count(b"\n") == (4 if event_id else 3), "a line end would split the event"
    assert b"\r" not in encoded, "a line end would split the event"
    return encoded


class EventDecoder:
    """Turns the bytes of one event stream into events. An event that the stream's end cuts short is dropped."""

    __slots__ = (
        "_after_cr",
        "_at_start",
        "_data",
        "_error",
        "_event",
        "_event_bytes",
        "_event_bytes_max",
        "_id",
        "_line",
        "_retry_ms",
        "_too_long",
        "last_event_id",
        "retry_ms",
    )

    def __init__(self, *, event_bytes_max: int = SSE_EVENT_BYTES_MAX) -> None:
        self._event_bytes_max = event_bytes_max
        self._too_long = f"an event is longer than {event_bytes_max} bytes"
        self._error: SseError | None = None
        self._line = bytearray()
        """The line that is not complete yet."""
        self._after_cr = False
        """The last byte was a CR, so a LF that follows belongs to the same line end."""
        self._at_start = True
        self._data: bytes | bytearray | None = None
        self._event = ""
        self._id: str | None = None
        self._retry_ms: int | None = None
        self._event_bytes = 0
        """Bytes held for the event that is being received."""
        self.last_event_id = ""
        """What to send as Last-Event-ID when the stream breaks; also set by blocks without data."""
        self.retry_ms: int | None = None
        """The last reconnection time the server asked for; also set by blocks without data."""

    def feed(self, chunk: Payload) -> list[Event]:
        """Return the events that `chunk` completes.

        Errors: `SseError` if a line or an event is too long; the same again for whatever is fed after it.
        """
        if self._error is not None:
            raise SseError(*self._error.args)
        text = self._with_plain_line_ends(bytes(chunk))
        if b"\n" not in text:
            self._line += text
            self._check_partial_line()
            return []
        lines: list[bytes | bytearray] = [*text.split(b"\n")]
        if self._line:
            self._line += lines[0]
            lines[0] = self._line
        if self._at_start:
            self._at_start = False
            lines[0] = lines[0].removeprefix(_BOM)
        self._line = bytearray(lines.pop())
        events: list[Event] = []
        for line in lines:
            if not line:
                if self._event_bytes:
                    self._end_block(events)
                continue
            if self._event_bytes + len(line) > self._event_bytes_max:
                raise self._refusal(self._too_long, events)
            if line[0] in _FIELD_INITIALS:
                self._read_field(line, events)
        self._check_partial_line(events)
        return events

    def _with_plain_line_ends(self, text: bytes) -> bytes:
        """Return `text` with LF for each of the three line ends, also if one of two bytes lies in the piece before."""
        if self._after_cr and text:
            self._after_cr = False
            text = text.removeprefix(b"\n")
        if b"\r" in text:
            self._after_cr = text.endswith(b"\r")
            text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return text

    def _check_partial_line(self, events: Sequence[Event] = ()) -> None:
        line = self._line
        if self._at_start and line.startswith(_BOM):
            self._at_start = False
            del line[: len(_BOM)]
        if self._event_bytes + len(line) > self._event_bytes_max:
            raise self._refusal(self._too_long, events)

    def _read_field(self, line: bytes | bytearray, events: Sequence[Event]) -> None:
        if line.startswith(b"data: "):
            # Lines of many pieces can be megabytes, and a plain slice would copy them twice.
            self._add_data(line[6:] if isinstance(line, bytes) else bytes(memoryview(line)[6:]))
        else:
            field, _, value = line.partition(b":")
            value = bytes(value.removeprefix(b" "))
            if field == b"data":
                self._add_data(value)
            elif field == b"event":
                self._event = value.decode("utf-8", "replace")
            elif field == b"id":
                self._read_id(value, events)
            elif field == b"retry":
                if value.isdigit() and len(value) <= _RETRY_DIGITS_MAX:
                    self._retry_ms = int(value)
            else:
                return  # Nobody knows this field, and nothing of it is kept.
        self._event_bytes += len(line)

    def _add_data(self, value: bytes) -> None:
        if self._data is None:
            self._data = value
            return
        if isinstance(self._data, bytes):
            # Many short lines cost forty bytes each as objects of their own.
            self._data = bytearray(self._data)
        self._data += b"\n"
        self._data += value

    def _read_id(self, value: bytes, events: Sequence[Event]) -> None:
        if len(value) > _ID_BYTES_MAX:
            raise self._refusal(f"an event id is longer than {_ID_BYTES_MAX} bytes", events)
        # The standard ignores ids with NUL. Other control characters could not be sent back in a header either.
        text = value.decode("utf-8", "replace")
        if text.isprintable():
            self._id = text

    def _end_block(self, events: list[Event]) -> None:
        if self._id is not None:
            self.last_event_id = self._id
        if self._retry_ms is not None:
            self.retry_ms = self._retry_ms
        if self._data is not None:
            events.append(
                Event(event=self._event or "message", data=bytes(self._data), id=self._id, retry_ms=self._retry_ms)
            )
        self._data = None
        self._event = ""
        self._id = None
        self._retry_ms = None
        self._event_bytes = 0

    def _refusal(self, message: str, events: Sequence[Event]) -> SseError:
        self._error = SseError(message)
        return SseError(message, events)
