"""What we accept as a server's response, where its end is, and what we write ourselves."""

from __future__ import annotations

import gzip
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.http1 import (
    CONTINUE,
    LAST_CHUNK,
    ResponseError,
    ResponseHead,
    ResponseParser,
    chunk,
    response,
    response_head,
)
from protocol.limits import ANSWER_BYTES_MAX, HEADER_BYTES_MAX, KIB
from tests.protocol.http1_pieces import RecordingHandler, byte_by_byte, cut_at, one_piece, read_response

OK = b"HTTP/1.1 200 OK\r\n"
JSON = b"Content-Type: application/json\r\n"
EVENTS = b"Content-Type: text/event-stream\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


def sized(body: bytes, *lines: bytes, status_line: bytes = OK) -> bytes:
    return b"".join((status_line, *lines, b"Content-Length: %d\r\n\r\n" % len(body), body))


def head(
    status: int = 200, length: int | None = None, keep_alive: bool = True, **headers: str
) -> tuple[str, int, dict[bytes, bytes], int | None, bool]:
    names = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    return "head", status, names, length, keep_alive


VALID = {
    "length": (sized(b"{}"), [head(length=2, content_length="2"), ("body", b"{}"), ("end",)]),
    "length-zero": (sized(b""), [head(length=0, content_length="0"), ("end",)]),
    "headers": (
        sized(b"", b"WWW-Authenticate: a\r\n", b"www-authenticate: b\r\n", b"X: 1\r\n", b"X: 2\r\n"),
        [head(length=0, www_authenticate="a, b", x="1", content_length="0"), ("end",)],
    ),
    "chunked": (
        OK + CHUNKED + b"\r\n3\r\nabc\r\n2;x\r\nde\r\n0\r\na: b\r\n\r\n",
        [head(transfer_encoding="chunked"), ("body", b"abcde"), ("end",)],
    ),
    "event-stream": (
        OK + EVENTS + CHUNKED + b"\r\n4\r\n:ok\n\r\n0\r\n\r\n",
        [head(content_type="text/event-stream", transfer_encoding="chunked"), ("body", b":ok\n"), ("end",)],
    ),
    "no-reason": (sized(b"", status_line=b"HTTP/1.1 200\r\n"), [head(length=0, content_length="0"), ("end",)]),
    "empty-reason": (sized(b"", status_line=b"HTTP/1.1 200 \r\n"), [head(length=0, content_length="0"), ("end",)]),
    "odd-reason": (
        sized(b"", status_line=b"HTTP/1.1 299 N\xe9 \t!\r\n"),
        [head(299, length=0, content_length="0"), ("end",)],
    ),
    "accepted": (sized(b"", status_line=b"HTTP/1.1 202 Accepted\r\n"), [head(202, 0, content_length="0"), ("end",)]),
    "no-content": (b"HTTP/1.1 204 No Content\r\n\r\n", [head(204), ("end",)]),
    "not-modified-with-length": (
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
        [head(304, length=5, content_length="5"), ("end",)],
    ),
    "close": (
        sized(b"x", b"Connection: foo, Close\r\n"),
        [head(length=1, keep_alive=False, connection="foo, Close", content_length="1"), ("body", b"x"), ("end",)],
    ),
    "closed-is-not-close": (
        sized(b"", b"Connection: closed\r\n"),
        [head(length=0, connection="closed", content_length="0"), ("end",)],
    ),
    "http-1.0": (
        sized(b"x", status_line=b"HTTP/1.0 200 OK\r\n"),
        [head(length=1, keep_alive=False, content_length="1"), ("body", b"x"), ("end",)],
    ),
    "http-1.0-keep-alive": (
        sized(b"x", b"Connection: Keep-Alive\r\n", status_line=b"HTTP/1.0 200 OK\r\n"),
        [head(length=1, connection="Keep-Alive", content_length="1"), ("body", b"x"), ("end",)],
    ),
    "interim": (
        CONTINUE + b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + sized(b"x"),
        [head(length=1, content_length="1"), ("body", b"x"), ("end",)],
    ),
    "identity": (
        sized(b"", b"Content-Encoding: identity\r\n"),
        [head(length=0, content_encoding="identity", content_length="0"), ("end",)],
    ),
}

INVALID = {
    "not-http": b"SSH-2.0-OpenSSH_9.2\r\n",
    "tls-alert": b"\x15\x03\x03\x00\x02\x02\x28",
    "html-without-head": b"<html>\r\n\r\n",
    "http-2": b"HTTP/2 200\r\n\r\n",
    "http-2.0": b"HTTP/2.0 200 OK\r\n\r\n",
    "http-1.2": b"HTTP/1.2 200 OK\r\n\r\n",
    "icy": b"ICY 200 OK\r\n\r\n",
    "rtsp": b"RTSP/1.0 200 OK\r\n\r\n",
    "request": b"GET / HTTP/1.1\r\n\r\n",
    "status-of-two-digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "status-of-four-digits": b"HTTP/1.1 2000 OK\r\n\r\n",
    "status-zero": b"HTTP/1.1 099 OK\r\n\r\n",
    "status-signed": b"HTTP/1.1 +20 OK\r\n\r\n",
    "two-spaces": b"HTTP/1.1  200 OK\r\n\r\n",
    "empty-line-first": b"\r\n" + OK + b"\r\n",
    "switching-protocols": b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
    "endless-interim": CONTINUE * 1001,
    "lf-only": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "lf-in-fields": OK + b"X: y\nContent-Length: 0\r\n\r\n",
    "nul": OK + b"X: \0\r\n\r\n",
    "fold": OK + b"X: y\r\n z\r\nContent-Length: 0\r\n\r\n",
    "space-before-colon": OK + b"Content-Length : 0\r\n\r\n",
    "head-too-long": OK + b"X: " + b"y" * HEADER_BYTES_MAX,
    "status-line-too-long": b"HTTP/1.1 200 " + b"y" * HEADER_BYTES_MAX,
    "too-many-lines": OK + b"X: y\r\n" * 101 + b"\r\n",
    "length-twice": OK + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\nx",
    "length-list": OK + b"Content-Length: 1, 1\r\n\r\nx",
    "length-signed": OK + b"Content-Length: +1\r\n\r\nx",
    "length-of-20-digits": OK + b"Content-Length: 00000000000000000001\r\n\r\nx",
    "length-and-coding": OK + b"Content-Length: 5\r\n" + CHUNKED + b"\r\n0\r\n\r\n",
    "coding-and-length": OK + CHUNKED + b"Content-Length: 5\r\n\r\n0\r\n\r\n",
    "coding-gzip": OK + b"Transfer-Encoding: gzip\r\n\r\n",
    "coding-gzip-chunked": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "coding-twice": OK + CHUNKED + CHUNKED + b"\r\n0\r\n\r\n",
    "coding-in-http-1.0": b"HTTP/1.0 200 OK\r\n" + CHUNKED + b"\r\n0\r\n\r\n",
    "content-encoding-gzip": sized(gzip.compress(b"{}"), b"Content-Encoding: gzip\r\n"),
    "chunk-size-bad": OK + CHUNKED + b"\r\nxyz\r\n",
    "chunk-end-bad": OK + CHUNKED + b"\r\n1\r\nxy\r\n0\r\n\r\n",
    "no-content-with-body": b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n{}",
    "more-than-the-length": sized(b"{}") + b"}",
    "more-than-the-last-chunk": OK + CHUNKED + b"\r\n0\r\n\r\n\r\n",
    "two-responses": sized(b"") + sized(b""),
}


@pytest.mark.case("B-11")
@pytest.mark.parametrize("name", VALID)
def test_a_valid_response_says_the_same_however_it_is_cut(name: str):
    data, expected = VALID[name]

    assert read_response(one_piece(data)) == expected
    assert read_response(byte_by_byte(data)) == expected


@pytest.mark.promise("R16")
@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_response_is_an_error_however_it_is_cut(name: str):
    whole = read_response(one_piece(INVALID[name]))

    assert whole[-1][0] == "error"
    # Only the flag that warns the handler in time can differ: byte by byte, the excess is not here yet.
    assert [r[:4] for r in read_response(byte_by_byte(INVALID[name]))] == [r[:4] for r in whole]


# --- where a response ends -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("pieces", [one_piece, byte_by_byte])
def test_a_response_to_head_has_no_body_whatever_it_announces(pieces: Any):
    for data in (OK + b"Content-Length: 5\r\n\r\n", OK + CHUNKED + b"\r\n", OK + b"\r\n"):
        kinds = [kind for kind, *_ in read_response(pieces(data), method=b"HEAD")]
        assert kinds == ["head", "end"]


@pytest.mark.parametrize("pieces", [one_piece, byte_by_byte])
def test_a_body_without_length_ends_with_the_connection(pieces: Any):
    data = OK + JSON + b"\r\n{}"

    assert read_response(pieces(data))[1:] == [("body", b"{}")]
    assert read_response(pieces(data), eof=True) == [
        head(keep_alive=False, content_type="application/json"),
        ("body", b"{}"),
        ("end",),
    ]


@pytest.mark.case("B-03")
@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (b"", "without answering"),
        (b"HTTP/1.1 200", "in the middle"),
        (CONTINUE, "in the middle"),
        (OK + b"Content-Length: 2\r\n\r\n{", "in the middle"),
        (OK + b"Content-Length: 100000\r\n\r\n{", "in the middle"),
        (OK + CHUNKED + b"\r\n1\r\n{", "in the middle"),
        (OK + CHUNKED + b"\r\n1\r\n{\r\n0\r\n", "in the middle"),
    ],
)
def test_a_connection_that_ends_too_early_is_an_error(sent: bytes, told: str):
    records = read_response(one_piece(sent), eof=True)

    assert records[-1][0] == "error"
    assert told in records[-1][1]
    assert ("end",) not in records


@pytest.mark.case("B-11")
@pytest.mark.parametrize("sent", [b"\xe6", b"HTP", b"http/1.1 200 OK", b"\x00\x00\x12\x04\x00\x00", b"HTTP/2 200 OK"])
def test_what_can_be_no_answer_any_more_is_refused_without_waiting_for_the_rest_of_it(sent: bytes):
    assert read_response(one_piece(sent)) == [("error", "this is not an HTTP/1.1 status line")]
    assert read_response(one_piece(b"HTTP/1")) == []


def test_a_connection_may_end_when_no_response_is_expected():
    handler = RecordingHandler()
    parser = ResponseParser(handler)
    parser.feed_eof()
    parser.expect(b"POST")
    parser.feed(sized(b""))
    parser.feed_eof()

    assert handler.records[-1] == ("end",)


def test_one_connection_carries_many_responses():
    handler = RecordingHandler()
    parser = ResponseParser(handler)
    idle: list[bool] = [parser.idle]
    for body in (b"1", b"", b"x" * 200_000):
        parser.expect(b"POST")
        idle.append(parser.idle)
        data = sized(body)
        parser.feed(data[:10])
        idle.append(parser.idle)
        parser.feed(data[10:])
        idle.append(parser.idle)

    assert idle == [True] + [True, False, True] * 3
    assert [r[1] for r in handler.records if r[0] == "body"] == [b"1", b"x" * 200_000]


def test_an_interim_response_shows_that_the_server_is_at_work():
    parser = ResponseParser(RecordingHandler())
    parser.expect(b"POST")
    parser.feed(CONTINUE)
    assert not parser.idle

    parser.feed(sized(b""))
    assert parser.idle


def test_bytes_that_answer_no_request_spoil_the_connection():
    parser = ResponseParser(RecordingHandler())
    for _ in range(2):
        with pytest.raises(ResponseError, match="answer no request"):
            parser.feed(sized(b""))


def test_the_handler_knows_of_excess_bytes_before_it_could_use_the_connection_again():
    class Pool:
        """Sends the next request at once if the connection may be used again, as a pool does."""

        reused = False

        def response_head(self, head: ResponseHead) -> None:
            self.head = head

        def response_body(self, chunk: bytes | bytearray | memoryview) -> None: ...

        def response_end(self) -> None:
            if self.head.keep_alive:
                self.reused = True
                parser.expect(b"POST")

    for data, reused in ((sized(b"{}"), True), (sized(b"{}") + sized(b"{}"), False)):
        pool = Pool()
        parser = ResponseParser(pool)
        parser.expect(b"POST")
        if reused:
            parser.feed(data)
        else:
            with pytest.raises(ResponseError, match="answer no request"):
                parser.feed(data)
        assert pool.reused == reused


def test_a_response_in_a_log_shows_no_secret():
    assert repr(ResponseHead(200, {b"set-cookie": b"s3cret"}, None, True)) == "<ResponseHead 200>"


# --- sizes -----------------------------------------------------------------------------------------------------------
@pytest.mark.case("B-11")
@pytest.mark.parametrize("pieces", [one_piece, byte_by_byte])
@pytest.mark.parametrize(("size", "accepted"), [(1000, True), (1001, False)])
@pytest.mark.parametrize("framing", ["length", "chunked", "until close"])
def test_an_answer_is_cut_at_the_limit_however_it_is_framed(framing: str, size: int, accepted: bool, pieces: Any):
    body = b"x" * size
    data = {
        "length": sized(body),
        "chunked": OK
        + CHUNKED
        + b"\r\n"
        + b"".join(chunk(body[at : at + 100]) for at in range(0, size, 100))
        + LAST_CHUNK,
        "until close": OK + b"\r\n" + body,
    }[framing]
    last = read_response(pieces(data), eof=True, body_bytes_max=1000)[-1]

    assert last == ("end",) if accepted else (last[0] == "error" and "1000 bytes" in last[1])


@pytest.mark.case("B-11")
def test_an_infinite_chunked_answer_ends_at_the_limit_and_the_error_names_it():
    parser = ResponseParser(RecordingHandler(), body_bytes_max=100_000)
    parser.expect(b"POST")
    parser.feed(OK + JSON + CHUNKED + b"\r\n")
    for _ in range(100):
        parser.feed(chunk(b"x" * 1000))
    with pytest.raises(ResponseError, match="longer than 100000 bytes"):
        parser.feed(chunk(b"x"))


def test_an_event_stream_may_be_longer_than_any_answer():
    for content_type in (b"text/event-stream", b"Text/Event-Stream; charset=utf-8", b"text/event-stream ;x"):
        for framing, wrap in ((CHUNKED, chunk), (b"Content-Length: 100000\r\n", bytes), (b"", bytes)):
            parser = ResponseParser(RecordingHandler(), body_bytes_max=1000)
            parser.expect(b"GET")
            parser.feed(OK + b"Content-Type: " + content_type + b"\r\n" + framing + b"\r\n")
            assert parser.into is None
            for _ in range(10):
                parser.feed(wrap(b":" * 1000))


@pytest.mark.case("B-11")
def test_an_error_that_calls_itself_an_event_stream_is_limited():
    parser = ResponseParser(RecordingHandler(), body_bytes_max=1000)
    parser.expect(b"POST")
    parser.feed(b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/event-stream\r\n" + CHUNKED + b"\r\n")
    parser.feed(chunk(b":" * 1000))
    with pytest.raises(ResponseError, match="longer than 1000 bytes"):
        parser.feed(chunk(b":"))


def test_a_type_that_only_begins_like_an_event_stream_is_limited():
    data = OK + b"Content-Type: text/event-streams\r\nContent-Length: 1001\r\n\r\n"

    assert read_response(one_piece(data), body_bytes_max=1000)[-1][0] == "error"


@pytest.mark.parametrize("step", [1000, 65_536, 100_000_000])
@pytest.mark.parametrize("already", [0, 1, 70_000])
def test_a_large_answer_is_received_straight_into_its_buffer_and_handed_over_whole(already: int, step: int):
    body = bytes(range(256)) * 4096
    data = sized(body)
    handler = RecordingHandler()
    parser = ResponseParser(handler)
    parser.expect(b"POST")
    at = len(data) - len(body) + already
    parser.feed(data[:at])
    while at < len(data):
        into = parser.into
        assert into is not None
        assert len(into) <= 256 * KIB
        assert len(handler.records) == 1
        count = min(step, len(into), len(data) - at)
        into[:count] = data[at : at + count]
        at += count
        parser.into_filled(count)

    assert handler.records[1:] == [("body", body), ("end",)]
    assert parser.idle
    assert parser.into is None


def test_bytes_of_a_large_answer_may_also_be_fed():
    body = bytes(range(256)) * 1024
    pieces = cut_at(sized(body), [50, 100_000])

    assert read_response(pieces)[1:] == [("body", body), ("end",)]
    assert read_response([*pieces[:-1], pieces[-1] + b"x"])[1:] == [
        ("body", body),
        ("end",),
        ("error", "the server sent bytes that answer no request"),
    ]


def test_an_answer_of_impossible_length_is_refused_before_memory_is_taken():
    assert read_response([OK + b"Content-Length: %d\r\n\r\n" % (ANSWER_BYTES_MAX + 1)])[-1][0] == "error"


# --- anything at all -------------------------------------------------------------------------------------------------
FRAGMENTS = st.sampled_from(
    [
        *(
            OK,
            b"HTTP/1.0 200 OK\r\n",
            CONTINUE,
            JSON,
            EVENTS,
            CHUNKED,
            b"HTTP/1.1 204 N\r\n\r\n",
            b"Content-Length: 3\r\n",
        ),
        *(
            b"Content-Length: 0\r\n",
            b"\r\n",
            b"\r",
            b"\n",
            b"abc",
            b"3\r\nabc\r\n",
            b"0\r\n\r\n",
            b":",
            b" ",
            b"\0",
            b"\xff",
        ),
        *(b"Connection: close\r\n", b"X: y\r\n", b"Connection: upgrade\r\nUpgrade: h2c\r\n"),
    ]
)
STREAMS = st.one_of(st.lists(FRAGMENTS, max_size=20).map(b"".join), st.binary(max_size=200))


@pytest.mark.promise("R16")
@pytest.mark.case("B-11")
@settings(max_examples=500, deadline=None)
@given(STREAMS, st.lists(st.integers(0, 500), max_size=8), st.sampled_from([b"POST", b"HEAD"]), st.booleans())
def test_any_bytes_parse_or_raise_a_response_error_and_cuts_change_nothing(
    data: bytes, cuts: list[int], method: bytes, eof: bool
):
    def told(pieces: Any) -> list[Any]:
        return [record[:4] for record in read_response(pieces, method=method, eof=eof, body_bytes_max=20)]

    whole = told(one_piece(data))
    assert told(cut_at(data, cuts)) == whole
    assert told(byte_by_byte(data)) == whole


# --- what we write ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("body", [b"{}", bytearray(b"{}"), memoryview(b"{}"), b""])
@pytest.mark.parametrize("close", [True, False])
def test_what_we_write_is_what_we_read(body: bytes | bytearray | memoryview, close: bool):
    written = response(404, [(b"content-type", b"application/json")], body, close=close)
    records = read_response(one_piece(written))

    assert records[0][1] == 404
    assert records[0][3:] == (len(body), not close)
    assert records[1:] == ([("body", bytes(body))] if len(body) else []) + [("end",)]


def test_a_chunked_response_is_read_back():
    parts = [
        response_head(200, [(b"content-type", b"text/event-stream")], content_length=None, close=False),
        chunk(b"a" * 17),
        chunk(memoryview(b"bc")),
        chunk(bytearray(b"d")),
        LAST_CHUNK,
    ]

    assert read_response(parts)[1:] == [("body", b"a" * 17 + b"bcd"), ("end",)]


def test_a_response_without_content_announces_no_length():
    assert response(204, [], b"", close=False) == b"HTTP/1.1 204 No Content\r\n\r\n"


def test_a_status_without_a_name_is_written_all_the_same():
    assert read_response([response(599, [], b"", close=False)])[0][1] == 599


@pytest.mark.parametrize("header", [(b"x", b"a\r\nb: c"), (b"x", b"a\nb"), (b"x", b"a\rb"), (b"x\r\ny", b"z")])
def test_a_header_of_ours_cannot_split_the_response(header: tuple[bytes, bytes]):
    with pytest.raises(ValueError, match="line end"):
        response(200, [header], b"", close=True)


def test_an_empty_chunk_cannot_end_a_body_by_mistake():
    with pytest.raises(AssertionError):
        chunk(b"")


# --- the short way ---------------------------------------------------------------------------------------------------
ANSWERS = [
    sized(b"{}", JSON), sized(b"[]", JSON), sized(b"{...}", JSON), sized(b"{}", JSON, b"Connection: close\r\n"),
    sized(b"", JSON), sized(b"{}", status_line=b"HTTP/1.1 404 Not Found\r\n"), sized(b":ok\n", EVENTS),
    OK + CHUNKED + b"\r\n2\r\n{}\r\n0\r\n\r\n", OK + JSON + b"\r\n{}", sized(b"{}", JSON) + b"{",
    sized(b"{}", JSON)[:-1], sized(b"{}", JSON)[:20], b"HTTP/1.1 204 No Content\r\n\r\n",
    sized(b"{}", JSON, status_line=b"HTTP/1.1 204 No Content\r\n"),
    b"HTTP/1.1 100 Continue\r\n\r\n" + sized(b"{}", JSON),
    sized(b"{}", b"Content-Encoding: identity\r\n"), sized(bytes(2000)), b"rubbish", b"\r\n\r\n",
]  # fmt: skip


def read_answers(answers: list[tuple[bytes, bytes]], *, short_way: bool) -> tuple[list[Any], int]:
    """Return what one connection's answers to requests of these methods say, and how many were taken the short way."""
    handler = RecordingHandler()
    parser = ResponseParser(handler, body_bytes_max=1000)
    short = 0
    try:
        for count, (method, data) in enumerate(answers, 1):
            parser.expect(method)
            if short_way and (found := parser.whole(data)) is not None:
                short += 1
                handler.response_head(found)
                handler.response_body(data[-found.plain_bytes :])
                handler.response_end()
            else:
                parser.feed(data)
            if handler.records.count(("end",)) < count:
                break  # the next request goes on another connection
    except ResponseError as error:
        handler.records.append(("error", str(error)))
    return handler.records, short


@settings(max_examples=1000)
@given(st.lists(st.tuples(st.sampled_from([b"POST", b"POST", b"GET", b"HEAD"]), st.sampled_from(ANSWERS)), max_size=6))
def test_the_short_way_of_reading_an_answer_says_what_the_general_way_says(answers: list[tuple[bytes, bytes]]):
    records, _ = read_answers(answers, short_way=True)

    assert records == read_answers(answers, short_way=False)[0]


def test_all_but_the_first_answer_with_one_head_are_read_the_short_way():
    answers = [(b"POST", sized(b"%d" % (number % 10), JSON)) for number in range(10)]

    records, short = read_answers(answers, short_way=True)

    assert short == 9
    assert [record[1] for record in records if record[0] == "body"] == [b"%d" % number for number in range(10)]


@settings(max_examples=500)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([OK, b"HTTP/1.1 500 Oops\r\n", b"HTTP/1.1 204 No Content\r\n"]),
            st.sampled_from([JSON, EVENTS, b"Content-Encoding: gzip\r\n"]),
            st.sampled_from([b"0", b"1", b"2", b"12", b"007", b"1000", b"1001", b"+1", b"1\r\nContent-Length: 1"]),
        ),
        max_size=6,
    ),
    st.booleans(),
)
def test_a_head_that_differs_in_its_length_from_one_before_is_read_as_if_it_were_the_first(
    heads: list[tuple[bytes, bytes, bytes]], short_way: bool
):
    answers: list[tuple[bytes, bytes]] = []
    expected: list[Any] = []
    for status_line, kind, digits in heads:
        body = b"" if b"204" in status_line else b"x" * int(re.split(rb"\D", digits)[0] or b"0")
        answers.append((b"POST", status_line + kind + b"Content-Length: " + digits + b"\r\n\r\n" + body))
        expected += read_answers(answers[-1:], short_way=False)[0]
        if expected[-1] != ("end",):
            break

    assert read_answers(answers, short_way=short_way)[0] == expected


def test_a_known_head_with_another_length_is_not_parsed_anew(monkeypatch: pytest.MonkeyPatch):
    parser = ResponseParser(RecordingHandler())
    for size in range(1, 20):
        parser.expect(b"POST")
        parser.feed(sized(b"x" * size, JSON))
        monkeypatch.delattr(ResponseParser, "_read_head", raising=False)


def test_an_event_stream_of_another_length_is_not_taken_for_a_whole_answer():
    parser = ResponseParser(RecordingHandler())
    for data in (sized(b":", EVENTS), sized(b"::", EVENTS)):
        parser.expect(b"POST")
        parser.feed(data)
    parser.expect(b"POST")

    assert parser.whole(sized(b"::", EVENTS)) is None


def test_an_answer_of_another_length_is_over_when_that_has_come():
    handler = RecordingHandler()
    parser = ResponseParser(handler)
    parser.expect(b"POST")
    parser.feed(sized(b"1", JSON))
    parser.expect(b"POST")
    parser.feed(sized(b"12", JSON)[:-1])
    assert handler.records.count(("end",)) == 1
    parser.feed(b"2")
    assert handler.records[-2:] == [("body", b"12"), ("end",)]


def test_an_answer_that_has_begun_is_not_taken_for_a_whole_one():
    parser = ResponseParser(RecordingHandler())
    for data in (sized(b"{}", JSON), sized(b"{}", JSON)[:5]):
        parser.expect(b"POST")
        parser.feed(data)

    assert parser.whole(sized(b"{}", JSON)) is None
