"""Gather the body of one HTTP/1.1 message, of known length or chunked; requests and responses share this.

llhttp is not used for bodies: it cannot say where in the bytes it was given a chunked message ended, nor how long a
chunk or its extension is, and it copies. Both are needed to find a pipelined successor and to refuse too much in time.
Rule 1: a verdict depends on the bytes only, never on how they were cut.
Rule 2: memory grows with what has been received, never with what has been announced.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import ClassVar, Final

from protocol.http1_head import CRLF, HttpError, require_whole_lines
from protocol.limits import HEADER_BYTES_MAX, HEADER_COUNT_MAX, KIB

DIRECT_BYTES_MIN: Final = 64 * KIB
"""Bodies with more than this still missing are received straight into their buffer; below, a copy is cheaper."""
_WINDOW: Final = memoryview(bytes(256 * KIB))
"""What a direct buffer grows by, as zeros to copy. A thousand clients that announce 4 MiB and send nothing hold 256 MiB
this way, and not 4 GiB; fresh zeros for each step would cost ten times as much, in page faults."""
CHUNK_LINE_BYTES_MAX: Final = 4 * KIB
"""Size, extensions and line end of one chunk: Go's net/http has the same limit. Nobody uses extensions."""

_CHUNK_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,16})(?:;[\t\x20-\x7e\x80-\xff]*)?\r\n")
"""RFC 9112, 7.1, without the white space before the semicolon that it calls bad."""
_TRAILER_LINE: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*\r\n")


class FixedBody:
    """A body whose length is known, gathered in one buffer."""

    __slots__ = ("_buffer", "_length", "into", "received")

    def __init__(self, length: int, first: bytes = b"") -> None:
        """`first` are the bytes that came together with the head (fewer than `length`)."""
        self._length = length
        self._buffer = bytearray(first)
        self.received = len(first)
        self.into: memoryview | None = None
        """Where the next bytes belong, if they should be received there without `add`."""
        if length - self.received > DIRECT_BYTES_MIN:
            self._open_window()

    @property
    def complete(self) -> bool:
        return self.received == self._length

    def add(self, data: bytes, position: int) -> int:
        """Take what belongs to the body from `data`; return the position of the first byte that does not."""
        count = min(self._length - self.received, len(data) - position)
        if self.into is None:
            self._buffer += data[position : position + count]
            self.received += count
            return position + count
        count = min(count, len(self.into))
        self.into[:count] = data[position : position + count]
        self.filled(count)
        return position + count

    def filled(self, count: int) -> None:
        """`count` bytes have been written to the beginning of `into`."""
        window = self.into
        assert window is not None, "bytes reported for a window that is not open"
        assert 0 < count <= len(window), "more bytes reported than the window holds"
        self.received += count
        self.into = None if count == len(window) else window[count:]
        # A bytearray cannot grow while a view of it lives, and the reactor still holds this one.
        window.release()
        if self.into is None and not self.complete:
            self._open_window()

    def take(self) -> bytearray:
        """Return the complete body."""
        assert self.complete, "the body is not complete"
        return self._buffer

    def _open_window(self) -> None:
        self._buffer += _WINDOW[: self._length - self.received]
        with memoryview(self._buffer) as whole:
            self.into = whole[self.received :]


class PassedBody:
    """A body that is passed on in pieces as they come: of known length, or lasting until the connection ends."""

    __slots__ = ("_bytes_max", "_length", "received")

    into: ClassVar[None] = None

    def __init__(self, length: int | None, bytes_max: int | None) -> None:
        self._length = length
        self._bytes_max = bytes_max
        self.received = 0

    @property
    def complete(self) -> bool:
        return self.received == self._length

    @property
    def until_close(self) -> bool:
        return self._length is None

    def add(self, data: bytes, position: int, emit: Callable[[bytes], object]) -> int:
        """Pass on what belongs to the body; return the position of the first byte that does not. Errors: 413."""
        stop = len(data)
        if self._length is not None:
            stop = min(stop, position + self._length - self.received)
        elif self._bytes_max is not None:
            stop = min(stop, position + self._bytes_max - self.received)
        emit(data[position:stop])
        self.received += stop - position
        if self._length is None and stop < len(data):
            raise HttpError(413, f"the body is longer than {self._bytes_max} bytes")
        return stop


class ChunkedBody:
    """A decoder of the chunked coding (RFC 9112, 7.1). Extensions and trailer fields are limited and dropped."""

    __slots__ = (
        "_announced",
        "_bytes_max",
        "_left",
        "_line",
        "_line_end_due",
        "_trailer_bytes",
        "_trailer_count",
        "complete",
        "received",
    )

    into: ClassVar[None] = None

    def __init__(self, bytes_max: int | None) -> None:
        self._bytes_max = bytes_max
        self._announced = 0
        """Sum of all chunk sizes so far."""
        self._left = 0
        """Bytes of the current chunk's data still to come."""
        self._line_end_due = False
        """The current chunk's data is complete, its CR LF is not."""
        self._line = bytearray()
        """The part that is here of a chunk line, a trailer line or a line end."""
        self._trailer_bytes = -1
        """Bytes of trailer lines so far; -1 before the last chunk."""
        self._trailer_count = 0
        self.received = 0
        self.complete = False

    def add(self, data: bytes, position: int, emit: Callable[[bytes], object]) -> int:
        """Decode `data` from `position` on, passing pieces of the body to `emit`.

        Returns the position after the last byte that belongs to the body. Errors: `HttpError` 400, 413, 431.
        """
        end = len(data)
        while position < end and not self.complete:
            if self._left:
                position = self._read_data(data, position, emit)
            elif self._line_end_due:
                position = self._read_line_end(data, position)
            elif self._line or self._trailer_bytes >= 0:
                position = self._read_line(data, position)
            else:
                position = self._read_chunks(data, position, emit)
        return position

    def _read_chunks(self, data: bytes, position: int, emit: Callable[[bytes], object]) -> int:
        """Decode the chunks that lie in `data` as a whole; leave the first one that does not to the slower ways."""
        match = _CHUNK_LINE.match
        while (line := match(data, position, position + CHUNK_LINE_BYTES_MAX)) is not None:
            size = self._begin_chunk(line)
            position = line.end()
            stop = position + size
            if size == 0 or not data.startswith(CRLF, stop):
                return position
            self._left = 0
            self.received += size
            emit(data[position:stop])
            position = stop + len(CRLF)
        return self._read_line(data, position)

    def _begin_chunk(self, line: re.Match[bytes]) -> int:
        size = int(line[1], 16)
        self._announced += size
        if self._bytes_max is not None and self._announced > self._bytes_max:
            raise HttpError(413, f"the body is longer than {self._bytes_max} bytes")
        self._left = size
        if size == 0:
            self._trailer_bytes = 0
        return size

    def _read_data(self, data: bytes, position: int, emit: Callable[[bytes], object]) -> int:
        piece = data[position : position + self._left]
        self._left -= len(piece)
        self.received += len(piece)
        self._line_end_due = self._left == 0
        emit(piece)
        return position + len(piece)

    def _read_line_end(self, data: bytes, position: int) -> int:
        expected = CRLF[len(self._line) :]
        piece = data[position : position + len(expected)]
        if not expected.startswith(piece):
            raise HttpError(400, "a chunk is longer than its size says")
        if piece == expected:
            self._line.clear()
            self._line_end_due = False
        else:
            self._line += piece
        return position + len(piece)

    def _read_line(self, data: bytes, position: int) -> int:
        """Gather one chunk or trailer line and judge it when it is complete."""
        line = self._line
        before = len(line)
        line += data[position : position + CHUNK_LINE_BYTES_MAX + 1 - before]
        end = line.find(CRLF, max(0, before - 1), CHUNK_LINE_BYTES_MAX)
        if end < 0:
            require_whole_lines(line[:-1] if line.endswith(b"\r") else line)
            if len(line) > CHUNK_LINE_BYTES_MAX:
                raise HttpError(400, f"a line of the chunked coding is longer than {CHUNK_LINE_BYTES_MAX} bytes")
            return len(data)
        end += len(CRLF)
        whole = bytes(line[:end])
        line.clear()
        require_whole_lines(whole)
        self._judge_line(whole)
        return position + end - before

    def _judge_line(self, line: bytes) -> None:
        if self._trailer_bytes < 0:
            match = _CHUNK_LINE.fullmatch(line)
            if match is None:
                raise HttpError(400, "malformed chunk size")
            self._begin_chunk(match)
        elif line == CRLF:
            self.complete = True
        else:
            self._judge_trailer(line)

    def _judge_trailer(self, line: bytes) -> None:
        self._trailer_bytes += len(line)
        self._trailer_count += 1
        if self._trailer_bytes > HEADER_BYTES_MAX or self._trailer_count > HEADER_COUNT_MAX:
            raise HttpError(431, "too many trailer fields")
        if _TRAILER_LINE.fullmatch(line) is None:
            raise HttpError(400, "malformed trailer field")
