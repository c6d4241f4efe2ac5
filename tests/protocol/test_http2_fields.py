"""Heads of HTTP/1.1 as fields of HTTP/2, and back."""

from __future__ import annotations

import pytest

from protocol.http1 import ResponseError
from protocol.http2_fields import request_fields, response_head, split_request
from protocol.limits import ANSWER_BYTES_MAX, HEADER_COUNT_MAX
from workers.backend import requests
from workers.backend.endpoint import Endpoint

ENDPOINT = Endpoint("https://mcp.example.com:8443/mcp?key=1", [("Authorization", "Bearer abc"), ("X-Empty", "")])
OK = (b":status", b"200")


def test_a_request_says_the_same_in_fields():
    head = requests.json_head(ENDPOINT, (b"Mcp-Session-Id", b"s: 1"))
    (whole,) = requests.rpc(head, b'"b1-1"', "tools/call", b'{"name":"echo"}')

    found, length, body = split_request(bytes(whole))

    assert found == head
    assert int(length) == len(body)
    assert body == b'{"jsonrpc":"2.0","id":"b1-1","method":"tools/call","params":{"name":"echo"}}'
    assert request_fields(found) == [
        (b":method", b"POST"), (b":scheme", b"https"), (b":authority", b"mcp.example.com:8443"),
        (b":path", b"/mcp?key=1"), (b"user-agent", b"mcp-bulkhead"), (b"authorization", b"Bearer abc"),
        (b"x-empty", b""), (b"accept", b"application/json, text/event-stream"),
        (b"content-type", b"application/json"), (b"mcp-session-id", b"s: 1"),
    ]  # fmt: skip


def test_a_request_without_a_body_has_no_length():
    head = requests.head(b"GET", ENDPOINT, (b"Accept", b"text/event-stream"))

    assert split_request(head + b"\r\n") == (head, b"", b"")


def test_fields_that_are_for_one_connection_are_left_out():
    head = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: x\r\nKeep-Alive: 1\r\nTransfer-Encoding: chunked\r\nA: b\r\n"

    assert request_fields(head)[4:] == [(b"a", b"b")]


def test_a_response_is_read_as_over_http_1():
    head = response_head(
        [OK, (b"content-type", b"Text/Event-Stream; charset=utf-8"), (b"mcp-session-id", b"s"), (b"vary", b"a"),
         (b"x", b"1"), (b"x", b"2"), (b"accept", b"b"), (b"accept", b"c")]
    )  # fmt: skip

    assert (head.status, head.media_type, head.content_length, head.keep_alive) == (
        200,
        b"text/event-stream",
        None,
        True,
    )
    assert head.headers[b"mcp-session-id"] == b"s"
    assert (head.headers[b"x"], head.headers[b"accept"]) == (b"1", b"b, c")


MALFORMED: dict[str, tuple[list[tuple[bytes, bytes]], str]] = {
    "no status": ([(b"a", b"b")], "without a status"),
    "status that is none": ([(b":status", b"2x0")], "without a status"),
    "101": ([(b":status", b"101")], "without a status"),
    "two of them": ([OK, OK], "pseudo-header"),
    "one too late": ([(b"a", b"b"), OK], "pseudo-header"),
    "one of requests": ([OK, (b":path", b"/")], "pseudo-header"),
    "capital letters": ([OK, (b"Server", b"x")], "header fields"),
    "a name that is none": ([OK, (b"a,b", b"x")], "header fields"),
    "no name": ([OK, (b"", b"x")], "header fields"),
    "a line end": ([OK, (b"a", b"b\r\nc: d")], "header fields"),
    "a field of connections": ([OK, (b"connection", b"close")], "for connections"),
    "a transfer coding": ([OK, (b"transfer-encoding", b"chunked")], "for connections"),
    "too many": ([OK, *[(b"a%d" % n, b"") for n in range(HEADER_COUNT_MAX + 1)]], "more than 100 header fields"),
    "a length that is none": ([OK, (b"content-length", b"+1")], "Content-Length"),
    "too long": ([OK, (b"content-length", b"%d" % (ANSWER_BYTES_MAX + 1))], "longer than"),
    "an error that calls itself an event stream": (
        [(b":status", b"502"), (b"content-type", b"text/event-stream"), (b"content-length", b"99999999999")],
        "longer than",
    ),
    "compressed": ([OK, (b"content-encoding", b"gzip")], "compressed"),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_a_malformed_response_is_refused(what: str):
    fields, words = MALFORMED[what]

    with pytest.raises(ResponseError, match=words):
        response_head(fields)
