"""Write HTTP/1.1 responses."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

from protocol.link import Payload

LAST_CHUNK: Final = b"0\r\n\r\n"
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

_STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode("ascii") for status in HTTPStatus
}


def response(status: int, headers: Sequence[tuple[bytes, bytes]], body: Payload, *, close: bool) -> bytes:
    """Return a complete response. `headers` must not contain those that frame the message."""
    return b"".join((response_head(status, headers, content_length=len(body), close=close), body))


def response_head(
    status: int, headers: Sequence[tuple[bytes, bytes]], *, content_length: int | None, close: bool
) -> bytes:
    """Return the head of a response; without `content_length` a chunked body has to follow.

    Errors: `ValueError` if a header holds a line end: what it is made of was not checked, and would split the response.
    """
    parts = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d Status\r\n" % status]
    parts += [b"%b: %b\r\n" % header for header in headers]
    if content_length is None:
        parts.append(b"transfer-encoding: chunked\r\n")
    elif status != HTTPStatus.NO_CONTENT:  # which must not have a length (RFC 9110, 8.6)
        parts.append(b"content-length: %d\r\n" % content_length)
    parts.append(b"connection: close\r\n\r\n" if close else b"\r\n")
    head = b"".join(parts)
    if head.count(b"\n") != len(parts) + close or head.count(b"\r") != len(parts) + close:
        raise ValueError("a header of our response holds a line end")
    return head


def chunk(data: Payload) -> bytes:
    """Return `data`, which must not be empty, as one chunk of a chunked body."""
    assert len(data) > 0, "an empty chunk would end the body; that is LAST_CHUNK"
    return b"%x\r\n%b\r\n" % (len(data), data)
