"""Gather the head of one HTTP/1.1 message and read its header fields; requests and responses share this.

Rule 1: a head is handed to llhttp only when all of it is here. What is accepted can then not depend on how TCP
happened to cut the bytes.
Rule 2: a head that is still incomplete is refused as soon as it cannot become valid any more (a control byte, half a
line end, too long), and a complete head is judged in the same order, so that both give the same verdict.
Rule 3: llhttp runs without any of its leniencies. It refuses folded lines, a space before the colon, signed or repeated
lengths, and control bytes; what it does not know (counts, sizes) is decided here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import ClassVar, Final, TypeVar

import httptools
import msgspec

from protocol.limits import HEADER_BYTES_MAX, HEADER_COUNT_MAX

CRLF: Final = b"\r\n"
EMPTY_LINE: Final = b"\r\n\r\n"

_TEXT: Final = bytes(byte for byte in range(256) if byte == 9 or (byte >= 32 and byte != 127))
"""What a header line may consist of: visible ASCII, space, tab and the obsolete high bytes (RFC 9110, 5.5)."""

_LIST_VALUED: Final = frozenset(
    {
        b"accept",
        b"accept-charset",
        b"accept-encoding",
        b"accept-language",
        b"cache-control",
        b"connection",
        b"content-encoding",
        b"expect",
        b"forwarded",
        b"te",
        b"trailer",
        b"upgrade",
        b"via",
        b"www-authenticate",
        b"x-forwarded-for",
    }
)
"""Fields defined as lists, which may be split over several lines (RFC 9110, 5.3)."""


class HttpError(Exception):
    """A client's request breaks a rule: answer with `status` and `message`, then close the connection."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message

    def __str__(self) -> str:
        return f"{self.status} {self.message}"


def require_whole_lines(text: bytes | bytearray) -> None:
    """Refuse control bytes and line ends that are not exactly CR LF.

    Such bytes are read differently by different parsers, which is how requests are smuggled past a proxy.
    """
    # After removing all text only line ends may be left. If as many bytes are left as the CR LF pairs have, then every
    # one of them belongs to a pair.
    if len(text.translate(None, _TEXT)) != 2 * text.count(CRLF):
        raise HttpError(400, "a line holds a control character or does not end in CR LF")


def only_text(values: bytes) -> bool:
    """Whether there is no control byte in field values."""
    return not values.translate(None, _TEXT)


def connection_option(headers: dict[bytes, bytes], option: bytes) -> bool:
    """Whether `option`, in lower case, is one of the list in Connection (RFC 9110, 7.6.1).

    llhttp forgets what it knew of this as soon as a message without a body is complete, so it cannot be asked.
    """
    options = headers.get(b"connection", b"").lower()
    return option in options and option in [one.strip() for one in options.split(b",")]


class Fields:
    """The header fields of one message, filled by llhttp."""

    __slots__ = ("headers", "line_count", "repeated")

    # llhttp's binding looks all callbacks up for each message; names that exist are found ten times faster than names
    # that do not.
    on_message_begin: ClassVar[None] = None
    on_url: ClassVar[None] = None
    on_status: ClassVar[None] = None
    on_headers_complete: ClassVar[None] = None
    on_body: ClassVar[None] = None
    on_message_complete: ClassVar[None] = None
    on_chunk_header: ClassVar[None] = None
    on_chunk_complete: ClassVar[None] = None

    def __init__(self) -> None:
        self.headers: dict[bytes, bytes] = {}
        self.repeated: tuple[bytes, ...] = ()
        self.line_count = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        self.line_count += 1
        if self.line_count > HEADER_COUNT_MAX:
            return  # The head will be refused; keeping thousands of names until then would cost quadratic time.
        name = name.lower()
        headers = self.headers
        if name not in headers:
            headers[name] = value.strip()
        elif name in _LIST_VALUED:
            headers[name] += b", " + value.strip()
        elif name not in self.repeated:
            self.repeated += (name,)

    def read(self, parser: httptools.HttpRequestParser | httptools.HttpResponseParser, head: bytes) -> None:
        """Let `parser`, which must be new and report to this object, read `head`.

        Errors: `HttpError` 400 for a malformed head, 431 for too many lines.
        """
        try:
            parser.feed_data(head)
        except httptools.HttpParserUpgrade:
            pass  # An offer to change the protocol may always be ignored (RFC 9110, 7.8), and we do.
        except httptools.HttpParserError as error:
            require_whole_lines(head)
            raise HttpError(400, f"malformed header: {error}") from None
        if self.line_count > HEADER_COUNT_MAX:
            raise HttpError(431, f"more than {HEADER_COUNT_MAX} header lines")


Head = TypeVar("Head", bound=msgspec.Struct)
HEADS_KEPT_MAX: Final = 4
HEAD_KEPT_BYTES_MAX: Final = 1024
"""Bounds of what one connection remembers, twice: together a few KiB."""
_LENGTH: Final = re.compile(rb"\r\ncontent-length: ?([0-9]{1,19})\r\n", re.IGNORECASE)
LENGTH_FIELD: Final = b"content-length"


class KnownHeads(dict[bytes, Head]):
    """Heads that were found good on this connection, by their bytes.

    One peer sends the same few heads over and over, of which only the lengths differ, and reading one anew costs many
    times as much as finding it here. Kept per connection and no longer, because heads hold tokens. What is found here
    must not be changed; whoever wants to takes a copy, whose own members may be set but not `headers`, which all copies
    share.
    """

    def __init__(self) -> None:
        super().__init__()
        self._but_for_length: dict[bytes, Head] = {}
        """The same, by their bytes without the digits of their length."""

    def keep(self, head: bytes, result: Head) -> Head | None:
        """Remember what reading `head` has given, before anybody changes it; return what is kept, None if nothing."""
        if len(head) > HEAD_KEPT_BYTES_MAX:
            return None
        if len(self) >= HEADS_KEPT_MAX:
            self.clear()
        kept = self[head] = msgspec.structs.replace(result)
        length = _LENGTH.search(head)
        if length is not None:
            if len(self._but_for_length) >= HEADS_KEPT_MAX:
                self._but_for_length.clear()
            self._but_for_length[_without(head, length)] = kept
        return kept

    def alike(self, head: bytes) -> tuple[Head, bytes] | None:
        """Return what a good head has given that differs from this one in its length alone, and this one's length.

        A good head has one Content-Length at most, so there is but one place where the digits can have been.
        """
        length = _LENGTH.search(head)
        if length is None:
            return None
        known = self._but_for_length.get(_without(head, length))
        return None if known is None else (known, length[1])


def _without(head: bytes, length: re.Match[bytes]) -> bytes:
    start, end = length.span(1)
    return head[:start] + head[end:]


class HeadBuffer:
    """Holds a head that arrives in several pieces, and refuses it as early as possible."""

    __slots__ = ("_beginning", "_check_first_line", "_first_line_checked", "_screened", "pending")

    def __init__(self, check_first_line: Callable[[bytes], object], beginning: bytes = b"") -> None:
        """`check_first_line` gets the first line without its CR LF, as soon as it is complete, and may raise; what does
        not begin like `beginning` it gets at once."""
        self.pending = bytearray()
        self._beginning = beginning
        self._check_first_line = check_first_line
        self._first_line_checked = False
        self._screened = 0

    def add(self, data: bytes, position: int) -> tuple[bytes | None, int]:
        """Take bytes of `data` from `position` on; return the head if it is complete, and where it ended in `data`.

        Errors: `HttpError` 400, 414 or 431 if the head cannot become valid any more.
        """
        pending = self.pending
        before = len(pending)
        pending += data[position : position + HEADER_BYTES_MAX + 1 - before]
        end = pending.find(EMPTY_LINE, max(0, before - 3), HEADER_BYTES_MAX)
        if end < 0:
            self._screen()
            return None, len(data)
        end += len(EMPTY_LINE)
        head = bytes(pending[:end])
        pending.clear()
        self._first_line_checked = False
        self._screened = 0
        return head, position + end - before

    def _screen(self) -> None:
        pending = self.pending
        if not self._beginning.startswith(pending[: len(self._beginning)]):
            self._check_first_line(bytes(pending))
        if not self._first_line_checked:
            line_end = pending.find(CRLF, self._screened, HEADER_BYTES_MAX)
            if line_end >= 0:
                self._first_line_checked = True
                self._check_first_line(bytes(pending[:line_end]))
        stop = len(pending) - pending.endswith(b"\r")  # Its LF may still come.
        require_whole_lines(pending[self._screened : stop])
        self._screened = stop
        if len(pending) > HEADER_BYTES_MAX:
            if not self._first_line_checked:
                raise HttpError(414, "the request line is too long")
            raise HttpError(431, f"the head is longer than {HEADER_BYTES_MAX} bytes")
