"""Translate between the heads of HTTP/1.1 messages and the header fields of HTTP/2 (RFC 9113, section 8)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from protocol.http1_head import CRLF, EMPTY_LINE, Fields, only_text
from protocol.http1_response import (
    WITHOUT_BODY,
    ResponseError,
    ResponseHead,
    announced_length,
    media_type_of,
    refuse_compressed,
)
from protocol.limits import ANSWER_BYTES_MAX, HEADER_COUNT_MAX

Field = tuple[bytes, bytes]

_LENGTH: Final = b"Content-Length: "
_OF_CONNECTIONS: Final = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
)
"""Fields that have no place here (RFC 9113, section 8.2.2)."""
_NAMES: Final = re.compile(rb"(?:[!#$%&'*+\-.^_`|~0-9a-z]+,)*")
_STATUS: Final = re.compile(rb"[1-9][0-9][0-9]")


def split_request(start: bytes) -> tuple[bytes, bytes, bytes]:
    """Take apart the beginning of one of our own requests in HTTP/1.1 (`workers/backend/requests.py`).

    Return its head up to the field that says how long the body is, what that says (b"" if there is none), and what is
    here of the body.
    """
    end = start.index(EMPTY_LINE)
    at = start.rfind(_LENGTH, 0, end)
    if at < 0:
        return start[: end + len(CRLF)], b"", start[end + len(EMPTY_LINE) :]
    return start[:at], start[at + len(_LENGTH) : end], start[end + len(EMPTY_LINE) :]


def request_fields(head: bytes) -> list[Field]:
    """Return the fields of a request whose head in HTTP/1.1, without the empty line, is this."""
    request_line, *lines = head.removesuffix(CRLF).split(CRLF)
    method, target, _ = request_line.split(b" ")
    authority = b""
    fields: list[Field] = []
    for line in lines:
        name, _, value = line.partition(b":")
        name, value = name.lower(), value.strip()
        if name == b"host":
            authority = value
        elif name not in _OF_CONNECTIONS:
            fields.append((name, value))
    pseudo = [(b":method", method), (b":scheme", b"https"), (b":authority", authority), (b":path", target)]
    return pseudo + fields


def response_head(received: Iterable[Field]) -> ResponseHead:
    """Return the head of a final response. Errors: `ResponseError` if it is malformed, or its body would be no use."""
    status = b""
    fields = Fields()
    names: list[bytes] = []
    values: list[bytes] = []
    for name, value in received:
        if name[:1] == b":":
            if name != b":status" or status or names:
                raise ResponseError("a malformed HTTP/2 response: pseudo-header fields")
            status = value
            continue
        names.append(name)
        values.append(value)
        fields.on_header(name, value)
    if _STATUS.fullmatch(status) is None or status == b"101":
        raise ResponseError("an HTTP/2 response without a status")
    if len(names) > HEADER_COUNT_MAX:
        raise ResponseError(f"more than {HEADER_COUNT_MAX} header fields")
    joined = b",".join([*names, b""])
    if _NAMES.fullmatch(joined) is None or joined.count(b",") != len(names) or not only_text(b"".join(values)):
        raise ResponseError("a malformed HTTP/2 response: header fields")
    if not _OF_CONNECTIONS.isdisjoint(fields.headers):
        raise ResponseError("a malformed HTTP/2 response: fields that are for connections")
    return _with_body(int(status), fields)


def _with_body(status: int, fields: Fields) -> ResponseHead:
    headers = fields.headers
    media_type, length = media_type_of(headers), announced_length(fields)
    head = ResponseHead(status, headers, length, keep_alive=True, media_type=media_type)
    if status not in WITHOUT_BODY:
        refuse_compressed(headers)
        if not head.is_stream and (length or 0) > ANSWER_BYTES_MAX:
            raise ResponseError(f"the answer is longer than {ANSWER_BYTES_MAX} bytes")
    return head
