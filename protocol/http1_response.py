"""Parse HTTP/1.1 responses of servers: framing strict enough that an answer can never be taken for another one's."""

from __future__ import annotations

import re
from typing import Final, Protocol

import httptools
import msgspec

from protocol.http1_body import DIRECT_BYTES_MIN, ChunkedBody, FixedBody, PassedBody
from protocol.http1_head import (
    CRLF,
    EMPTY_LINE,
    HEAD_KEPT_BYTES_MAX,
    LENGTH_FIELD,
    Fields,
    HeadBuffer,
    HttpError,
    KnownHeads,
    connection_option,
    require_whole_lines,
)
from protocol.limits import ANSWER_BYTES_MAX, HEADER_BYTES_MAX

_BEGINNING: Final = b"HTTP/1."
"""Of every answer. What begins otherwise is refused at once: somebody may have to wait for the rest for ever."""
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[01] ([1-9][0-9][0-9])(?: [\t\x20-\x7e\x80-\xff]*)?")
EVENT_STREAM: Final = b"text/event-stream"
_EXCESS: Final = "the server sent bytes that answer no request"
_INTERIM_MAX: Final = 1000  # 102 Processing each few seconds for an hour; more is an attack on our time
_LENGTH_DIGITS_MAX: Final = 19
WITHOUT_BODY: Final = frozenset({204, 304})


class ResponseError(Exception):
    """A server's response breaks a rule. The connection cannot be used any more."""


class ResponseHead(msgspec.Struct, eq=False):
    """Status and header fields of a response."""

    status: int
    headers: dict[bytes, bytes]
    """Names in lower case, values trimmed; of repeated fields the first one, list-valued ones joined with ", "."""
    content_length: int | None
    """As announced; None for a chunked body, one that lasts until the connection ends, or none."""
    keep_alive: bool
    """The connection may serve another request. Becomes False before `response_end` if the server sent too much."""
    media_type: bytes = b""
    """Of its Content-Type, without parameters, in lower case."""
    plain_bytes: int = -1
    """Of a body of which nothing but this says where it ends, and which is to be handed on as it is; -1 of others."""

    @property
    def is_stream(self) -> bool:
        """Its body is an event stream, which may be of any length, because events are handed on as they come."""
        return self.media_type == EVENT_STREAM and self.status == 200

    def __repr__(self) -> str:
        # Header values may hold secrets (sessions, cookies), and a repr ends up in logs.
        return f"<ResponseHead {self.status}>"


class ResponseHandler(Protocol):
    """Who gets what a response consists of: one head, any number of pieces, one end."""

    def response_head(self, head: ResponseHead) -> None: ...

    def response_body(self, chunk: bytes | bytearray | memoryview) -> None:
        """A piece of the body; of a body that was received through `into`, the whole."""
        ...

    def response_end(self) -> None: ...


def read_status_line(line: bytes) -> int:
    """Return the status of a status line without its CR LF. Errors: `HttpError`."""
    if line.startswith(_BEGINNING):
        require_whole_lines(line)
        if match := _STATUS_LINE.fullmatch(line):
            return int(match[1])
    raise HttpError(400, "this is not an HTTP/1.1 status line")


class ResponseParser:
    """Turns the bytes of one connection to a server into responses, one per `expect`.

    The parser is dead after a `ResponseError`: where one message ends and the next begins is not known any more.
    """

    __slots__ = (
        "_body",
        "_body_bytes_max",
        "_error",
        "_first_line",
        "_handler",
        "_head",
        "_interim_count",
        "_is_fresh",
        "_known",
        "_last",
        "_last_head",
        "_method",
        "_response",
        "_status",
    )

    def __init__(self, handler: ResponseHandler, *, body_bytes_max: int = ANSWER_BYTES_MAX) -> None:
        self._handler = handler
        self._body_bytes_max = body_bytes_max
        self._head = HeadBuffer(read_status_line, _BEGINNING)
        self._known = KnownHeads[ResponseHead]()
        self._method = b""
        """Of the request whose response is expected; empty if none is."""
        self._is_fresh = False
        """Not a byte of the expected response has come, and it may have a body."""
        self._interim_count = 0
        self._response: ResponseHead | None = None
        """The response whose body is being received, and with it `_body`."""
        self._body: FixedBody | PassedBody | ChunkedBody | None = None
        self._last_head = EMPTY_LINE
        self._last: ResponseHead | None = None
        """What was found in `_known` last, which mostly begins the next answer as well. At first nothing does."""
        self._error: ResponseError | None = None
        # Nearly all responses of a connection have the first line of the one before.
        self._first_line = b"HTTP/1.1 200 OK\r\n"
        self._status = 200

    @property
    def idle(self) -> bool:
        """Not a byte of the expected response has come, or the last one is complete."""
        return self._body is None and not self._head.pending and not self._interim_count

    @property
    def into(self) -> memoryview | None:
        """Where the next bytes of a large body can be received without a copy; report them with `into_filled`.

        Read it again after each `feed` and `into_filled`: the view of before has been released by then.
        """
        return None if self._body is None else self._body.into

    def into_filled(self, count: int) -> None:
        """`count` bytes have been received at the beginning of `into`."""
        body = self._body
        assert isinstance(body, FixedBody), "no large body is being received"
        body.filled(count)
        if body.complete:
            self._handler.response_body(body.take())
            self._end(excess=False)

    def expect(self, method: bytes) -> None:
        """A request with this method is about to be sent on this connection."""
        assert not self._method, "the connection is still waiting for another response"
        self._method = method
        self._is_fresh = method != b"HEAD"
        self._interim_count = 0

    def whole(self, data: bytes) -> ResponseHead | None:
        """Take all of the expected response at once, and return its head; None if `data` has to be fed.

        The fast path of nearly all answers: `data` is a head that this connection has had before and a body of just
        the length it announces, its last `plain_bytes`. There is nothing to keep track of then, and the handler is told
        nothing.
        """
        if not self._is_fresh:
            return None
        if not data.startswith(self._last_head):
            head = data[: data.find(EMPTY_LINE, 0, HEAD_KEPT_BYTES_MAX) + len(EMPTY_LINE)]
            response = self._known.get(head)
            if response is None:
                return None
            self._last_head, self._last = head, response
        response = self._last
        if response is None or response.plain_bytes != len(data) - len(self._last_head):
            return None
        self._is_fresh = False
        self._method = b""
        return response

    def feed(self, data: bytes) -> memoryview | None:
        """Parse what the server sent, and return `into`.

        Errors: `ResponseError`; the same again for whatever is fed after it. What the handler raises passes through,
        and the connection cannot be used after it either.
        """
        if self._error is not None:
            raise ResponseError(*self._error.args)
        self._is_fresh = False
        position, end = 0, len(data)
        try:
            while position < end:
                if not self._method:
                    raise ResponseError(_EXCESS)
                if self._body is None:
                    position = self._feed_head(data, position)
                else:
                    position = self._feed_body(self._body, data, position)
        except HttpError as error:
            self._error = ResponseError(error.message)
            raise self._error from None
        except ResponseError as error:
            self._error = error
            raise
        return None if self._body is None else self._body.into

    def feed_eof(self) -> None:
        """The server will send no more.

        Errors: `ResponseError` if a response is expected and the end of the connection is not what completes it.
        """
        if self._error is not None or not self._method:
            return
        if isinstance(self._body, PassedBody) and self._body.until_close:
            self._end(excess=False)
            return
        when = "without answering" if self.idle else "in the middle of its answer"
        self._error = ResponseError(f"the server closed the connection {when}")
        raise self._error

    def _feed_head(self, data: bytes, position: int) -> int:
        if not self._head.pending:
            end = data.find(EMPTY_LINE, position, position + HEADER_BYTES_MAX)
            if end >= 0:
                end += len(EMPTY_LINE)
                return self._begin(data[position:end], data, end)
        head, position = self._head.add(data, position)
        return position if head is None else self._begin(head, data, position)

    def _begin(self, head: bytes, data: bytes, position: int) -> int:
        """Take a complete head and what `data` has of its body from `position` on."""
        response = self._known.get(head)
        if response is None:
            response = self._read_alike(head) or self._read_head(head)
            if response is None:
                return position
            self._known.keep(head, response)
        self._interim_count = 0
        if response.plain_bytes == len(data) - position and self._method != b"HEAD":
            # The whole body is here and nothing behind it, so there is nothing to keep track of.
            handler = self._handler
            handler.response_head(response)
            handler.response_body(data[position:])
            self._method = b""
            handler.response_end()
            return len(data)
        response = msgspec.structs.replace(response)  # what becomes of this body may end the connection
        body = self._body_of(response, len(data) - position)
        self._handler.response_head(response)
        self._response = response
        self._body = body
        if body.complete:
            self._end(excess=position < len(data))
            return position
        return self._feed_body(body, data, position) if position < len(data) else position

    def _feed_body(self, body: FixedBody | PassedBody | ChunkedBody, data: bytes, position: int) -> int:
        if isinstance(body, FixedBody):
            position = body.add(data, position)
        else:
            position = body.add(data, position, self._handler.response_body)
        if body.complete:
            if isinstance(body, FixedBody):
                self._handler.response_body(body.take())
            self._end(excess=position < len(data))
        return position

    def _end(self, *, excess: bool) -> None:
        response = self._response
        assert response is not None, "no response is being received"
        self._response = None
        self._body = None
        self._method = b""
        # The handler may send the next request from within `response_end`. Bytes that are here already cannot be an
        # answer to it, so it must know before that this connection is spoiled.
        if excess:
            response.keep_alive = False
        self._handler.response_end()
        if excess:
            raise ResponseError(_EXCESS)

    def _read_alike(self, head: bytes) -> ResponseHead | None:
        """Read a head that differs from a known one in its length alone; None if there is no such with a plain body."""
        alike = self._known.alike(head)
        if alike is None:
            return None
        known, digits = alike
        length = int(digits)
        if known.plain_bytes < 0 or not 0 < length <= self._body_bytes_max:
            return None
        headers = {**known.headers, LENGTH_FIELD: digits}
        return msgspec.structs.replace(known, content_length=length, headers=headers, plain_bytes=length)

    def _read_head(self, head: bytes) -> ResponseHead | None:
        """Return the head of a final response, None for an interim one (RFC 9110, 15.2)."""
        if not head.startswith(self._first_line):
            line_end = head.find(CRLF)
            self._status = read_status_line(head[:line_end])
            self._first_line = head[: line_end + len(CRLF)]
        status = self._status
        fields = Fields()
        fields.read(httptools.HttpResponseParser(fields), head)
        if status < 200:
            self._interim_count += 1
            if status == 101 or self._interim_count > _INTERIM_MAX:
                raise ResponseError("the server changes the protocol or never comes to an answer")
            return None
        response = ResponseHead(
            status=status,
            headers=fields.headers,
            content_length=_content_length(head, fields),
            keep_alive=_keep_alive(head, fields.headers),
            media_type=media_type_of(fields.headers),
        )
        length = response.content_length or 0
        if (
            0 < length <= self._body_bytes_max
            and status not in WITHOUT_BODY
            and b"content-encoding" not in response.headers
            and not response.is_stream
        ):
            response.plain_bytes = length
        return response

    def _body_of(self, response: ResponseHead, available: int) -> FixedBody | PassedBody | ChunkedBody:
        """Return an empty body of the right kind (RFC 9112, 6.3). Errors: `ResponseError` if it would be too long."""
        headers, length = response.headers, response.content_length
        if self._method == b"HEAD" or response.status in WITHOUT_BODY:
            return PassedBody(0, None)
        streaming = response.is_stream
        bytes_max = None if streaming else self._body_bytes_max
        refuse_compressed(headers)
        if b"transfer-encoding" in headers:
            return ChunkedBody(bytes_max)
        if length is None:
            response.keep_alive = False
            return PassedBody(None, bytes_max)
        if bytes_max is not None and length > bytes_max:
            raise ResponseError(f"the answer is longer than {bytes_max} bytes")
        if streaming or length - available <= DIRECT_BYTES_MIN:
            return PassedBody(length, None)
        return FixedBody(length)


def _keep_alive(head: bytes, headers: dict[bytes, bytes]) -> bool:
    """Whether the connection stays open after the response (RFC 9112, 9.3)."""
    if head.startswith(b"HTTP/1.0"):
        return connection_option(headers, b"keep-alive")
    return not connection_option(headers, b"close")


def _content_length(head: bytes, fields: Fields) -> int | None:
    """Return the announced length; refuse every framing that can be read in two ways (RFC 9112, 6)."""
    headers = fields.headers
    coding = headers.get(b"transfer-encoding")
    length = headers.get(b"content-length")
    if coding is not None:
        if length is not None or b"transfer-encoding" in fields.repeated or head.startswith(b"HTTP/1.0"):
            raise ResponseError("the length of the answer is given in two ways")
        if coding.lower() != b"chunked":
            raise ResponseError("the answer has a transfer coding other than chunked")
        return None
    return announced_length(fields)


# --- what a head says in any version of HTTP -------------------------------------------------------------------------
def media_type_of(headers: dict[bytes, bytes]) -> bytes:
    return headers.get(b"content-type", b"").partition(b";")[0].strip().lower()


def refuse_compressed(headers: dict[bytes, bytes]) -> None:
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise ResponseError("the server compressed its answer without being asked to")


def announced_length(fields: Fields) -> int | None:
    """Return what Content-Length says, None if it is not there. Errors: `ResponseError` if it is malformed."""
    length = fields.headers.get(b"content-length")
    if length is None:
        return None
    if not length.isdigit() or len(length) > _LENGTH_DIGITS_MAX or b"content-length" in fields.repeated:
        raise ResponseError("the answer has a malformed Content-Length")
    return int(length)
