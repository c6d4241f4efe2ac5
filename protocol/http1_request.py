"""Parse HTTP/1.1 requests: what we accept from clients, and with which status we refuse the rest.

Stricter than RFC 9112 wherever leniency has been used to smuggle requests: see case A-14 for what is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import httptools
import msgspec

from protocol.http1_body import ChunkedBody, FixedBody
from protocol.http1_head import (
    CRLF,
    EMPTY_LINE,
    LENGTH_FIELD,
    Fields,
    HeadBuffer,
    HttpError,
    KnownHeads,
    connection_option,
    require_whole_lines,
)
from protocol.limits import BODY_BYTES_MAX, HEADER_BYTES_MAX, REQUEST_TARGET_BYTES_MAX

_copy: Final = msgspec.structs.replace
_CR: Final = 13
_LF: Final = 10
_SLASH: Final = 47

_METHODS: Final = frozenset({b"DELETE", b"GET", b"HEAD", b"OPTIONS", b"PATCH", b"POST", b"PUT", b"TRACE"})
"""Methods that parse. The gate refuses most of them, too; any other is refused here, CONNECT because of its target."""
_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VERSION: Final = re.compile(rb"HTTP/[0-9]\.[0-9]")
_TARGET: Final = re.compile(rb"[!$-;=?-\[\]-~]+")
"""Visible ASCII but ``"#<>\\``. RFC 3986 allows fewer; browsers send the rest un-encoded in queries."""
_ABSOLUTE: Final = re.compile(rb"[Hh][Tt][Tt][Pp][Ss]?://([^/?]*)(.*)")
_HOST: Final = re.compile(rb"(?:[0-9A-Za-z._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
"""A name or an address with an optional port. RFC 3986 also allows sub-delimiters in names; no real name has them."""
_TRANSFER_ENCODING: Final = re.compile(rb"(?<=\r\n)transfer-encoding:[^\r]*\r\n", re.IGNORECASE)
_LENGTH_DIGITS_MAX: Final = 19  # 10**19 - 1 is below 2**64, so nobody behind us can overflow


class Request(msgspec.Struct, eq=False):
    """One HTTP request."""

    method: bytes
    target: bytes
    """Path and query exactly as sent (of an absolute target, its path and query)."""
    headers: dict[bytes, bytes]
    """Names in lower case, values without surrounding white space. Of repeated fields the first value, except that
    list-valued ones are joined with ", "."""
    repeated: tuple[bytes, ...]
    """Names of fields that came more than once and are not list-valued."""
    keep_alive: bool
    expect_continue: bool
    content_length: int | None
    """None if the body is chunked or there is none."""
    http11: bool = True
    body: bytes | bytearray = b""
    """Complete when the request is."""
    notes: dict[object, object] = {}
    """What anybody has found out about the head, for the next request with the same one: all of a connection that have
    the same head share this."""

    def __repr__(self) -> str:
        # Header values and queries hold tokens, and a repr ends up in logs.
        path = self.target.partition(b"?")[0]
        return f"<Request {self.method.decode('ascii')} {path.decode('ascii')}, {len(self.body)} bytes>"


def read_request_line(line: bytes) -> tuple[bytes, bytes]:
    """Return method and target of a request line without its CR LF.

    Errors: `HttpError` 400, 405, 414 or 505.
    """
    require_whole_lines(line)
    parts = line.split(b" ")
    if len(parts) != 3 or not _VERSION.fullmatch(parts[2]):
        raise HttpError(400, "this is not an HTTP/1.1 request line")
    method, target, version = parts
    if version != b"HTTP/1.1":
        raise HttpError(505, "only HTTP/1.1 is spoken here")
    if len(target) > REQUEST_TARGET_BYTES_MAX:
        raise HttpError(414, f"the request target is longer than {REQUEST_TARGET_BYTES_MAX} bytes")
    if not _TOKEN.fullmatch(method) or not _TARGET.fullmatch(target):
        raise HttpError(400, "malformed request line")
    if method not in _METHODS:
        raise HttpError(405, "this method is not allowed")
    if not (target[0] == _SLASH or _ABSOLUTE.fullmatch(target)):
        raise HttpError(400, "the request target is neither a path nor a URL")
    return method, target


class RequestParser:
    """Turns the bytes of one client connection into requests.

    `on_head` is called when a request's head is complete and lawful, `on_request` when its body is, too. One `feed` may
    complete several pipelined requests. After an `HttpError`, and after a request that ends the connection, nothing
    more is read.
    """

    __slots__ = (
        "_body",
        "_body_bytes_max",
        "_chunks",
        "_cr_seen",
        "_empty_line_seen",
        "_ended",
        "_error",
        "_first_line",
        "_head",
        "_host",
        "_known",
        "_last",
        "_last_head",
        "_on_head",
        "_on_request",
        "_request",
        "_request_line",
        "_usual",
    )

    def __init__(
        self,
        on_head: Callable[[Request], None],
        on_request: Callable[[Request], None],
        *,
        body_bytes_max: int = BODY_BYTES_MAX,
    ) -> None:
        self._on_head = on_head
        self._on_request = on_request
        self._body_bytes_max = body_bytes_max
        self._head = HeadBuffer(read_request_line)
        self._known = KnownHeads[Request]()
        self._request: Request | None = None
        """The request whose body is being received, and with it `_body`."""
        self._body: FixedBody | ChunkedBody | None = None
        self._chunks = bytearray()
        """What has come of a chunked body."""
        self._error: HttpError | None = None
        self._ended = False
        self._cr_seen = False
        self._empty_line_seen = False
        # Nearly all requests of a connection have the first line and the Host of the one before.
        self._first_line = b"POST /mcp HTTP/1.1\r\n"
        self._request_line = (b"POST", b"/mcp")
        self._host: bytes | None = None
        self._last: Request | None = None
        """The request before, without its body, if all the next one has to say anew is that."""
        self._last_head = b""
        self._usual: Request | None = None
        """The same, but None unless the next request may begin right away."""

    @property
    def in_head(self) -> bool:
        """Some bytes of a head are here, but not all."""
        return bool(self._head.pending)

    @property
    def is_between(self) -> bool:
        """All that has come belongs to requests that are complete."""
        return self._body is None and not self._head.pending and not self._cr_seen

    @property
    def in_body(self) -> bool:
        """A head is complete and its body is not."""
        return self._body is not None

    @property
    def body_received(self) -> int:
        """Bytes of the current body so far."""
        return 0 if self._body is None else self._body.received

    @property
    def into(self) -> memoryview | None:
        """Where the next bytes of a large body can be received without a copy; report them with `into_filled`.

        Read it again after each `feed` and `into_filled`: the view of before has been released by then.
        """
        return None if self._body is None else self._body.into

    def into_filled(self, count: int) -> None:
        """`count` bytes have been received at the beginning of `into`.

        Errors: `HttpError` from `on_request`.
        """
        body, request = self._body, self._request
        assert isinstance(body, FixedBody), "no large body is being received"
        assert request is not None, "a body belongs to a request"
        body.filled(count)
        if body.complete:
            request.body = body.take()
            try:
                self._finish(request)
            except HttpError as error:
                self._refuse(error)
                raise

    def again(self, data: bytes) -> Request | None:
        """Return the request that `data` is if its head is that of the request before and its body is all here.

        This is the short way for what nearly all reads are. No callback is called: whether the same head is still
        lawful is for the caller to know. None: nothing has been read, and `feed` has to.
        """
        usual = self._usual
        if usual is None or not data.startswith(self._last_head):
            return None
        body_at = len(self._last_head)
        if len(data) - body_at != usual.content_length:
            return None
        request = _copy(usual)
        request.body = data[body_at:]
        return request

    def feed(self, data: bytes) -> memoryview | None:
        """Parse what the client sent, and return `into`.

        Errors: `HttpError` from the rules here or from a callback; the same again for whatever is fed after it.
        """
        self._usual = None
        position, end = 0, len(data)
        try:
            while position < end and not self._ended:
                if self._body is None:
                    position = self._feed_head(data, position)
                else:
                    position = self._feed_body(self._body, data, position)
        except HttpError as error:
            self._refuse(error)
            raise
        if self._error is not None:
            raise HttpError(self._error.status, self._error.message)
        if self._body is not None:
            return self._body.into
        if self.is_between and not self._empty_line_seen:
            self._usual = self._last
        return None

    def _refuse(self, error: HttpError) -> None:
        self._error = error
        self._ended = True

    def _feed_head(self, data: bytes, position: int) -> int:
        if not self._head.pending:
            if data[position] == _CR or self._cr_seen:
                return self._skip_empty_line(data, position)
            end = data.find(EMPTY_LINE, position, position + HEADER_BYTES_MAX)
            if end >= 0:
                end += len(EMPTY_LINE)
                return self._begin(data[position:end], data, end)
        head, position = self._head.add(data, position)
        return position if head is None else self._begin(head, data, position)

    def _skip_empty_line(self, data: bytes, position: int) -> int:
        """Skip one byte of the one empty line that old clients send after a body (RFC 9112, 2.2)."""
        if self._empty_line_seen or (self._cr_seen and data[position] != _LF):
            raise HttpError(400, "this is not an HTTP/1.1 request line")
        self._empty_line_seen = self._cr_seen
        self._cr_seen = not self._cr_seen
        return position + 1

    def _begin(self, head: bytes, data: bytes, position: int) -> int:
        """Take a complete head and what `data` has of its body from `position` on."""
        known = self._known.get(head)
        if known is not None:
            request = _copy(known)
        else:
            request = self._read_alike(head) or self._read_head(head)
            known = self._known.keep(head, request)
        self._empty_line_seen = False
        self._on_head(request)
        # The others need more than to be handed on with their bodies.
        is_usual = known is not None and request.keep_alive and not request.expect_continue
        self._last, self._last_head = (known, head) if is_usual else (None, b"")
        length = request.content_length
        if length is None and b"transfer-encoding" in request.headers:
            self._request = request
            self._body = ChunkedBody(self._body_bytes_max)
            return position
        stop = position + (length or 0)
        if stop > len(data):
            self._request = request
            self._body = FixedBody(stop - position, data[position:])
            return len(data)
        if length:
            request.body = data[position:stop]
        self._finish(request)
        return stop

    def _feed_body(self, body: FixedBody | ChunkedBody, data: bytes, position: int) -> int:
        request = self._request
        assert request is not None, "a body belongs to a request"
        if isinstance(body, FixedBody):
            position = body.add(data, position)
        else:
            position = body.add(data, position, self._chunks.extend)
        if body.complete:
            if isinstance(body, FixedBody):
                request.body = body.take()
            else:
                # An idle connection must not hold the body of its last request.
                request.body, self._chunks = self._chunks, bytearray()
            self._finish(request)
        return position

    def _finish(self, request: Request) -> None:
        self._request = None
        self._body = None
        # What follows a request that ends the connection must not be read as another one (RFC 9112, 9.6).
        self._ended = not request.keep_alive
        self._on_request(request)

    def _read_alike(self, head: bytes) -> Request | None:
        """Read a head that differs from a known one in its length alone; None if there is none, or it is too long."""
        alike = self._known.alike(head)
        if alike is None:
            return None
        known, digits = alike
        length = int(digits)
        if length > self._body_bytes_max:
            return None
        return _copy(known, content_length=length, headers={**known.headers, LENGTH_FIELD: digits})

    def _read_head(self, head: bytes) -> Request:
        if not head.startswith(self._first_line):
            line_end = head.find(CRLF)
            self._request_line = read_request_line(head[:line_end])
            self._first_line = head[: line_end + len(CRLF)]
        method, target = self._request_line
        fields = Fields()
        try:
            fields.read(httptools.HttpRequestParser(fields), head)
        except HttpError as error:
            if error.status == 400:
                _refuse_coding(head)
            raise
        headers = fields.headers
        self._check_host(fields)
        if target[0] != _SLASH:
            target = _origin_form(target, headers[b"host"])
        if b"content-encoding" in headers and headers[b"content-encoding"].lower() != b"identity":
            raise HttpError(415, "compressed bodies are not accepted")
        return Request(
            method=method,
            target=target,
            headers=headers,
            repeated=fields.repeated,
            keep_alive=not connection_option(headers, b"close"),
            expect_continue=b"expect" in headers and _expects_continue(headers),
            content_length=self._content_length(fields),
        )

    def _check_host(self, fields: Fields) -> None:
        """Refuse a request without exactly one well-formed Host (RFC 9112, 3.2)."""
        host = fields.headers.get(b"host")
        if host is None or b"host" in fields.repeated:
            raise HttpError(400, "a request must have exactly one Host")
        if host != self._host:
            if not _HOST.fullmatch(host):
                raise HttpError(400, "malformed Host")
            self._host = host

    def _content_length(self, fields: Fields) -> int | None:
        """Return the announced length; refuse every framing that two parsers could read differently (RFC 9112, 6)."""
        headers = fields.headers
        coding = headers.get(b"transfer-encoding")
        length = headers.get(b"content-length")
        if coding is not None:
            if length is not None or b"transfer-encoding" in fields.repeated:
                raise HttpError(400, "the body's length is given in two ways")
            if coding.lower() != b"chunked":
                raise HttpError(501, "the only transfer coding accepted is chunked")
            return None
        if length is None:
            return None
        if not length.isdigit() or len(length) > _LENGTH_DIGITS_MAX or b"content-length" in fields.repeated:
            raise HttpError(400, "malformed Content-Length")
        if int(length) > self._body_bytes_max:
            raise HttpError(413, f"the body is longer than {self._body_bytes_max} bytes")
        return int(length)


def _refuse_coding(head: bytes) -> None:
    """Raise 501 if the transfer coding is the only fault of a head that llhttp has refused."""
    require_whole_lines(head)
    codings = _TRANSFER_ENCODING.findall(head)
    if len(codings) != 1 or codings[0].partition(b":")[2].strip().lower() == b"chunked":
        return
    fields = Fields()
    fields.read(httptools.HttpRequestParser(fields), head.replace(codings[0], b""))
    if b"content-length" not in fields.headers:
        raise HttpError(501, "the only transfer coding accepted is chunked")


def _expects_continue(headers: dict[bytes, bytes]) -> bool:
    if headers[b"expect"].lower() != b"100-continue":
        raise HttpError(417, "the only expectation met here is 100-continue")
    return True


def _origin_form(target: bytes, host: bytes) -> bytes:
    """Reduce an absolute target, as proxies send it, to path and query (RFC 9112, 3.2.2).

    Errors: `HttpError` 400 if it names another host than Host: nobody could say which of the two was checked.
    """
    match = _ABSOLUTE.fullmatch(target)
    if match is None or match[1].lower() != host.lower():
        raise HttpError(400, "the request target names another host than Host")
    path = match[2]
    return path if path.startswith(b"/") else b"/" + path
