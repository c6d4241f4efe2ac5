"""What we accept as a request and how we refuse the rest; the corpus in tests/corpus/http holds most of the rules."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.http1 import CONTINUE, HttpError, Request, RequestParser
from protocol.http1_head import Fields
from protocol.limits import BODY_BYTES_MAX, HEADER_BYTES_MAX, HEADER_COUNT_MAX, KIB, REQUEST_TARGET_BYTES_MAX
from tests.protocol.http1_pieces import byte_by_byte, cut_at, one_piece, read_requests

CORPUS = Path(__file__).parent.parent / "corpus" / "http"
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def corpus(kind: str) -> list[Any]:
    return [pytest.param(path, id=path.stem) for path in sorted((CORPUS / kind).glob("*.http"))]


def expectation(path: Path) -> dict[str, Any]:
    return json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))


def post(*lines: bytes, body: bytes = b"") -> bytes:
    return b"".join((b"POST /mcp HTTP/1.1\r\nHost: a\r\n", *(line + b"\r\n" for line in lines), b"\r\n", body))


def head_of_bytes(size: int) -> bytes:
    """Return a request without body whose head has exactly `size` bytes."""
    return GET[:-2] + b"X: " + b"x" * (size - len(GET) - 5) + b"\r\n\r\n"


def ignore(_request: Request) -> None:
    pass


# --- the short way ---------------------------------------------------------------------------------------------------
WHOLE = post(b"Content-Length: 2", body=b"ab")
PIECES = [
    WHOLE, WHOLE, post(b"Content-Length: 2", body=b"cd"), WHOLE + WHOLE, WHOLE[:-1], b"b", WHOLE[:9], WHOLE[9:],
    b"\r\n", b"\r", GET, post(b"Content-Length: 0"), post(b"Content-Length: 2", b"Expect: 100-continue", body=b"ab"),
    WHOLE + b"\r\n", post(b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    post(b"Content-Length: 2", b"Connection: close", body=b"ab"),
    b"no request\r\n\r\n", post(b"Content-Length: %d" % len(WHOLE), body=WHOLE),
]  # fmt: skip


@settings(max_examples=1000)
@given(st.lists(st.sampled_from(PIECES), max_size=8))
def test_the_short_way_of_reading_a_request_says_what_the_general_way_says(pieces: list[bytes]):
    assert read_requests(pieces, short_way=True) == read_requests(pieces)


LENGTH_LINES = [
    b"Content-Length: 0", b"Content-Length: 1", b"Content-Length: 2", b"Content-Length: 12", b"content-length:3",
    b"Content-Length:  2", b"Content-Length: 2 ", b"Content-Length: 007", b"Content-Length: +2", b"Content-Length: ",
    b"Content-Length: 2\r\nContent-Length: 2", b"Content-Length: 2\r\nContent-Length: 3", b"X: a",
    b"Content-Length: 99999999999999999999", b"Content-Length: 1000", b"Content-Length: 1001",
    b"Content-Length: 2\r\nTransfer-Encoding: chunked", b"X: content-length: 2\r\nContent-Length: 5",
]  # fmt: skip


@pytest.mark.case("A-14")
@settings(max_examples=1000)
@given(
    st.lists(st.tuples(st.sampled_from([b"A: a", b"X-Content-Length: 3"]), st.sampled_from(LENGTH_LINES)), max_size=8)
)
def test_a_head_that_differs_in_its_length_from_one_before_is_read_as_if_it_were_the_first(
    lines: list[tuple[bytes, bytes]],
):
    requests: list[bytes] = []
    expected: list[Any] = []
    for other, length in lines:
        announced = re.search(rb"(?m)^content-length: ?(\d{1,4})\r?$", length, re.IGNORECASE)
        requests.append(post(length, other, body=b"x" * int(announced[1] if announced else b"0")))
        expected += read_requests(requests[-1:], body_bytes_max=1000)
        if expected[-1][0] != "request":
            break

    assert read_requests(requests, body_bytes_max=1000) == expected


def test_the_head_of_the_request_before_is_read_the_short_way():
    parser = RequestParser(ignore, ignore)
    assert parser.again(WHOLE) is None, "it is the first"
    parser.feed(WHOLE)

    for body in (b"cd", b"ef"):
        request = parser.again(post(b"Content-Length: 2", body=body))
        assert request is not None
        assert (request.method, request.headers[b"host"], request.body) == (b"POST", b"a", body)
    assert parser.again(WHOLE + b"x") is None
    assert parser.again(WHOLE[:-1]) is None
    assert parser.again(GET) is None


# --- the corpus ------------------------------------------------------------------------------------------------------
def test_every_corpus_file_has_its_other_half():
    stems = {path.with_suffix("") for path in CORPUS.glob("*/*.http")}

    assert len(stems) > 200
    assert stems == {path.with_suffix("") for path in CORPUS.glob("*/*.json")}


@pytest.mark.case("A-16", "A-23", "D-04")
@pytest.mark.parametrize("path", corpus("valid"))
def test_a_valid_request_says_the_same_however_it_is_cut(path: Path):
    data = path.read_bytes()
    whole = read_requests(one_piece(data))

    expected = expectation(path)["requests"]
    requests = [fact for kind, fact in whole if kind == "request"]
    assert len(requests) == len(expected)
    for request, wanted in zip(requests, expected, strict=True):
        said = {
            "method": request["method"].decode(),
            "target": request["target"].decode(),
            "body": request["body"].decode("latin-1"),
            "keep_alive": request["keep_alive"],
            "expect_continue": request["expect_continue"],
            "content_length": request["content_length"],
            "repeated": [name.decode() for name in request["repeated"]],
            "headers": {name.decode(): value.decode("latin-1") for name, value in request["headers"].items()},
        }
        assert said | wanted | {"headers": said["headers"]} == said
        assert said["headers"] | wanted.get("headers", {}) == said["headers"]
    assert read_requests(byte_by_byte(data)) == whole


@pytest.mark.case("A-08", "A-09", "A-14", "A-16", "A-17", "A-24", "D-04", "D-32")
@pytest.mark.parametrize("path", corpus("invalid"))
def test_an_invalid_request_is_refused_the_same_way_however_it_is_cut(path: Path):
    data, expected = path.read_bytes(), expectation(path)
    whole = read_requests(one_piece(data))

    assert [kind for kind, *_ in whole].count("request") == expected["completed"]
    assert whole[-1][:2] == ("refused", expected["status"])
    assert read_requests(byte_by_byte(data)) == whole


@pytest.mark.case("A-14")
def test_nothing_is_read_after_a_refusal():
    seen: list[Request] = []
    parser = RequestParser(seen.append, seen.append)
    with pytest.raises(HttpError, match="400"):
        parser.feed(post(b"X : y") + GET)

    with pytest.raises(HttpError, match="400"):
        parser.feed(GET)
    assert seen == []


@pytest.mark.case("A-16")
@pytest.mark.parametrize(
    "start",
    [b"\x16", b"\x00", b"{}\n", b"GET / HTTP/1.0\r\n", b"GET /\r\n", b"PRI * HTTP/2.0\r\n", b"GET / HTTP/1.1\n"],
)
def test_wrong_protocols_are_refused_before_their_head_is_complete(start: bytes):
    records = read_requests(byte_by_byte(start))

    assert [kind for kind, *_ in records] == ["refused"]


@pytest.mark.case("A-14")
@pytest.mark.parametrize("control", [*range(9), *range(10, 32), 127])
def test_a_control_byte_anywhere_in_a_head_is_refused_the_same_way_however_it_is_cut(control: int):
    head = b"GET /path HTTP/1.1\r\nHost: a\r\nName: some value\r\n\r\n"
    for at in range(1, len(head)):
        data = head[:at] + bytes([control]) + head[at:]
        whole = read_requests(one_piece(data))
        # A line feed right after the head is not part of it, and begins an empty line.
        assert whole[-1][:2] == ("refused", 400), data
        assert read_requests(byte_by_byte(data)) == whole, data


# --- sizes -----------------------------------------------------------------------------------------------------------
@pytest.mark.case("A-15")
@pytest.mark.parametrize("pieces", [one_piece, byte_by_byte])
@pytest.mark.parametrize(("count", "accepted"), [(HEADER_COUNT_MAX, True), (HEADER_COUNT_MAX + 1, False)])
@pytest.mark.parametrize("line", [b"X-%d: y\r\n", b"Accept: %d\r\n", b"Repeated: %d\r\n"])
def test_header_lines_are_counted_whether_or_not_they_repeat(line: bytes, count: int, accepted: bool, pieces: Any):
    data = GET[:-2] + b"".join(line % number for number in range(count - 1)) + b"\r\n"

    last = read_requests(pieces(data))[-1]

    assert last[0] == "request" if accepted else last[:2] == ("refused", 431)


@pytest.mark.case("A-15")
def test_header_lines_beyond_the_limit_are_not_even_kept():
    fields = Fields()
    for number in range(10_000):
        fields.on_header(b"x-%d" % (number // 2), b"y")

    assert len(fields.headers) + len(fields.repeated) == HEADER_COUNT_MAX
    assert fields.line_count == 10_000


@pytest.mark.case("A-15")
@pytest.mark.parametrize("pieces", [one_piece, byte_by_byte])
@pytest.mark.parametrize(("size", "accepted"), [(-1, True), (0, True), (1, False), (50_000, False)])
def test_a_head_may_have_16_kib_and_not_a_byte_more(size: int, accepted: bool, pieces: Any):
    data = head_of_bytes(HEADER_BYTES_MAX + size)
    last = read_requests(pieces(data))[-1]

    assert last[0] == "request" if accepted else last[:2] == ("refused", 431)


@pytest.mark.case("A-15")
@pytest.mark.parametrize("pieces", [one_piece, byte_by_byte])
@pytest.mark.parametrize("fault", [b" : y", b": \x00", b": y\n"])
@pytest.mark.parametrize("offset", [-40, -3, -2, -1, 0, 1, 2])
def test_a_fault_near_the_size_limit_gets_the_same_verdict_however_it_is_cut(fault: bytes, offset: int, pieces: Any):
    padding = HEADER_BYTES_MAX + offset - len(GET) - 3
    data = GET[:-2] + b"X: " + b"x" * padding + b"\r\nX" + fault + b"\r\n\r\n"

    assert read_requests(pieces(data)) == read_requests(cut_at(data, [HEADER_BYTES_MAX, 7]))


@pytest.mark.case("A-16")
@pytest.mark.parametrize("pieces", [one_piece, byte_by_byte])
@pytest.mark.parametrize(
    ("length", "status"),
    [(REQUEST_TARGET_BYTES_MAX, None), (REQUEST_TARGET_BYTES_MAX + 1, 414), (10 * KIB, 414), (20 * KIB, 414)],
)
def test_a_target_may_have_8_kib_and_not_a_byte_more(length: int, status: int | None, pieces: Any):
    data = GET.replace(b"/ ", b"/" + b"a" * (length - 1) + b" ")
    last = read_requests(pieces(data))[-1]

    assert last[0] == "request" if status is None else last[:2] == ("refused", status)


@pytest.mark.case("A-08")
@pytest.mark.parametrize(("length", "accepted"), [(BODY_BYTES_MAX, True), (BODY_BYTES_MAX + 1, False)])
def test_a_body_over_the_limit_is_refused_before_a_byte_of_it_is_read(length: int, accepted: bool):
    heads: list[Request] = []
    parser = RequestParser(heads.append, ignore)
    head = post(b"Content-Length: %d" % length)
    if accepted:
        parser.feed(head)
        assert parser.in_body
    else:
        with pytest.raises(HttpError, match="413"):
            parser.feed(head)
        assert heads == []


@pytest.mark.case("A-09")
@pytest.mark.parametrize(("excess", "accepted"), [(0, True), (1, False)])
@pytest.mark.parametrize("size", [1, 10, 100])
def test_a_chunked_body_is_cut_at_the_limit(size: int, excess: int, accepted: bool):
    body_bytes_max = 1000
    total = body_bytes_max + excess
    sizes = [size] * (total // size) + [total % size] * (total % size > 0)
    data = post(
        b"Transfer-Encoding: chunked", body=b"".join(b"%x\r\n%b\r\n" % (n, b"x" * n) for n in sizes) + b"0\r\n\r\n"
    )
    whole = read_requests(one_piece(data), body_bytes_max=body_bytes_max)

    if accepted:
        assert whole[-1][1]["body"] == b"x" * total
    else:
        assert whole[-1][:2] == ("refused", 413)
    assert read_requests(byte_by_byte(data), body_bytes_max=body_bytes_max) == whole


@pytest.mark.case("A-09")
def test_an_endless_chunked_body_holds_no_more_than_what_has_come():
    parser = RequestParser(ignore, ignore, body_bytes_max=10_000)
    parser.feed(post(b"Transfer-Encoding: chunked"))
    for _ in range(10_000):
        parser.feed(b"1\r\nx\r\n")
    assert parser.body_received == 10_000

    with pytest.raises(HttpError, match="413"):
        parser.feed(b"1\r\nx\r\n")


@pytest.mark.case("A-14")
@pytest.mark.parametrize("pieces", [one_piece, byte_by_byte])
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"1;" + b"e" * 4091 + b"\r\nx\r\n0\r\n\r\n", None),
        (b"1;" + b"e" * 4093 + b"\r\nx\r\n0\r\n\r\n", 400),
        (b"1;" + b"e" * 100_000, 400),
        (b"0\r\n" + b"a: b\r\n" * 100 + b"\r\n", None),
        (b"0\r\n" + b"a: b\r\n" * 101 + b"\r\n", 431),
        (b"0\r\n" + (b"a: " + b"b" * 4000 + b"\r\n") * 4 + b"\r\n", None),
        (b"0\r\n" + (b"a: " + b"b" * 4000 + b"\r\n") * 5 + b"\r\n", 431),
        (b"0\r\na: " + b"b" * 100_000, 400),
    ],
)
def test_chunk_extensions_and_trailers_are_bounded(body: bytes, status: int | None, pieces: Any):
    last = read_requests(pieces(post(b"Transfer-Encoding: chunked", body=body)))[-1]

    assert last[0] == "request" if status is None else last[:2] == ("refused", status)


# --- state the front asks for ----------------------------------------------------------------------------------------
@pytest.mark.case("A-23")
def test_pipelined_requests_complete_in_order_within_one_feed():
    seen: list[bytes] = []
    parser = RequestParser(lambda r: seen.append(b"head " + r.target), lambda r: seen.append(b"done " + r.target))
    parser.feed(b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(3)))

    assert seen == [b"head /0", b"done /0", b"head /1", b"done /1", b"head /2", b"done /2"]


def test_the_parser_tells_in_which_part_of_a_request_it_is():
    parser = RequestParser(ignore, ignore)
    states: list[tuple[bool, bool, int]] = []
    for piece in (b"POST /mcp HT", b"TP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n", b"a", b"b", b"c", GET[:1]):
        parser.feed(piece)
        states.append((parser.in_head, parser.in_body, parser.body_received))

    assert states == [
        (True, False, 0),
        (False, True, 0),
        (False, True, 1),
        (False, True, 2),
        (False, False, 0),
        (True, False, 0),
    ]


@pytest.mark.case("A-19")
def test_bytes_of_a_chunk_count_as_received_when_they_come_and_not_when_they_are_announced():
    parser = RequestParser(ignore, ignore)
    parser.feed(post(b"Transfer-Encoding: chunked", body=b"100000\r\nabc"))

    assert parser.body_received == 3


@pytest.mark.case("A-24")
def test_a_callback_can_refuse_at_the_head_before_the_client_is_told_to_continue():
    sent: list[bytes] = []

    def gate(request: Request) -> None:
        if b"authorization" not in request.headers:
            raise HttpError(401, "who are you?")
        if request.expect_continue:
            sent.append(CONTINUE)

    done: list[Request] = []
    expecting = (b"Expect: 100-continue", b"Content-Length: 2")
    with pytest.raises(HttpError, match="401"):
        RequestParser(gate, done.append).feed(post(*expecting))
    assert sent == []

    parser = RequestParser(gate, done.append)
    parser.feed(post(*expecting, b"Authorization: x"))
    assert sent == [CONTINUE]
    parser.feed(b"{}")
    assert done[0].body == b"{}"


class RefuseFirst:
    """An `on_request` that refuses the first request; there must be no second."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, _request: Request) -> None:
        self.calls += 1
        raise HttpError(429, "too many")


def test_a_refusal_by_on_request_ends_the_connection_too():
    refuse = RefuseFirst()
    parser = RequestParser(ignore, refuse)
    for _ in range(2):
        with pytest.raises(HttpError, match="429"):
            parser.feed(GET + GET)

    assert refuse.calls == 1


def test_a_request_in_a_log_shows_no_secret():
    seen: list[Request] = []
    RequestParser(seen.append, ignore).feed(
        b"GET /mcp?token=s3cret HTTP/1.1\r\nHost: a\r\nAuthorization: s3cret\r\n\r\n"
    )

    assert repr(seen[0]) == "<Request GET /mcp, 0 bytes>"


# --- large bodies ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "data",
    [
        post(b"Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n\r\n"),
        post(b"Content-Length: 5", body=b"hello"),
        post(b"Content-Length: 100000", body=b"x" * 100_000),
    ],
    ids=["chunked", "small", "large"],
)
@pytest.mark.parametrize("pieces", [one_piece, byte_by_byte])
def test_a_finished_body_is_held_by_its_request_alone(data: bytes, pieces: Any):
    seen: list[Request] = []
    parser = RequestParser(ignore, seen.append)
    for piece in pieces(data):
        parser.feed(piece)

    references = sys.getrefcount(seen[0].body)
    assert references == 2  # the request's, and the one of the call that counts


def fill(parser: RequestParser, body: bytes, step: int) -> None:
    """Receive `body` the way the reactor does: straight into the parser's buffer, as far as it is open."""
    at = 0
    while at < len(body):
        into = parser.into
        assert into is not None
        count = min(step, len(into), len(body) - at)
        into[:count] = body[at : at + count]
        at += count
        parser.into_filled(count)


@pytest.mark.parametrize("step", [1000, 65_536, 10_000_000])
@pytest.mark.parametrize("already", [0, 1, 70_000])
def test_a_large_body_is_received_straight_into_its_buffer(already: int, step: int):
    body = bytes(range(256)) * 4096
    seen: list[Request] = []
    parser = RequestParser(ignore, seen.append)
    parser.feed(post(b"Content-Length: %d" % len(body), body=body[:already]))
    assert parser.body_received == already
    fill(parser, body[already:], step)

    assert len(seen) == 1
    assert seen[0].body == body
    assert parser.into is None
    assert not parser.in_body
    seen[0].body += b"x"  # nobody holds a view of it any more
    parser.feed(GET)
    assert len(seen) == 2


@pytest.mark.parametrize(("missing", "direct"), [(64 * KIB, False), (64 * KIB + 1, True)])
def test_only_bodies_with_more_than_64_kib_missing_are_received_directly(missing: int, direct: bool):
    parser = RequestParser(ignore, ignore)
    parser.feed(post(b"Content-Length: %d" % (missing + 10), body=b"x" * 10))

    assert (parser.into is not None) == direct


@pytest.mark.case("A-08")
def test_a_large_announced_body_holds_memory_only_as_it_comes():
    parser = RequestParser(ignore, ignore)
    parser.feed(post(b"Content-Length: %d" % BODY_BYTES_MAX))
    assert parser.into is not None
    assert len(parser.into) <= 256 * KIB


@pytest.mark.parametrize("mix", [[3, 300_000, 5, 400_000, 1], [700_000], [1] * 50])
def test_bytes_that_are_fed_while_a_window_is_open_find_their_place(mix: list[int]):
    body = bytes(range(256)) * 3000
    seen: list[Request] = []
    parser = RequestParser(ignore, seen.append)
    parser.feed(post(b"Content-Length: %d" % len(body)))
    at = 0
    for number, count in enumerate(mix):
        if number % 2:
            count = min(count, len(parser.into or b""))
            fill(parser, body[at : at + count], count)
        else:
            parser.feed(body[at : at + count])
        at += count
    parser.feed(body[at:] + GET)

    assert [bytes(request.body) for request in seen] == [body, b""]


def test_a_refusal_after_a_direct_body_ends_the_connection_too():
    refuse = RefuseFirst()
    body = b"x" * 100_000
    parser = RequestParser(ignore, refuse)
    parser.feed(post(b"Content-Length: %d" % len(body)))
    with pytest.raises(HttpError, match="429"):
        fill(parser, body, 100_000)
    with pytest.raises(HttpError, match="429"):
        parser.feed(GET)
    assert refuse.calls == 1


# --- anything at all -------------------------------------------------------------------------------------------------
FRAGMENTS = st.sampled_from(
    [
        *(
            b"GET",
            b"POST",
            b" ",
            b"/",
            b"/mcp",
            b"HTTP/1.1",
            b"HTTP/1.0",
            b"\r\n",
            b"\r\n\r\n",
            b"\r",
            b"\n",
            b"\t",
            b":",
        ),
        *(
            b"Host: a\r\n",
            b"Host: b\r\n",
            b"Content-Length: 3\r\n",
            b"Content-Length: 0\r\n",
            b"X: y\r\n",
            b"\0",
            b"\xff",
        ),
        *(b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n", b"Upgrade: h2c\r\nConnection: Upgrade\r\n", GET),
        *(
            b"Expect: 100-continue\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\n",
            b"http://a/",
            b"3\r\nabc\r\n",
            b"0\r\n\r\n",
            b"abc",
        ),
    ]
)
STREAMS = st.one_of(st.lists(FRAGMENTS, max_size=25).map(b"".join), st.binary(max_size=200))
CUTS = st.lists(st.integers(0, 1000), max_size=8)


@pytest.mark.promise("R16")
@pytest.mark.case("A-14", "A-15")
@settings(max_examples=600, deadline=None)
@given(STREAMS, CUTS)
def test_any_bytes_parse_or_raise_an_http_error_and_cuts_change_nothing(data: bytes, cuts: list[int]):
    whole = read_requests(one_piece(data), body_bytes_max=1000)

    assert read_requests(cut_at(data, cuts), body_bytes_max=1000) == whole
    assert read_requests(byte_by_byte(data), body_bytes_max=1000) == whole


@pytest.mark.case("A-14")
@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [b"1\r\nx\r\n", b"a\r\n0123456789\r\n", b"0\r\n\r\n", b"2;e\r\nab\r\n", b"\r\n", b"x", b"00", b"\n"]
        )
    )
)
def test_chunked_bodies_are_understood_exactly_as_llhttp_understands_them(fragments: list[bytes]):
    """llhttp is independent of our decoder; two readings of one body are what smuggling needs."""
    data = post(b"Transfer-Encoding: chunked", b"Connection: close", body=b"".join(fragments) + b"\r\n")
    ours = read_requests(one_piece(data))

    class Theirs:
        def __init__(self) -> None:
            self.body = b""
            self.complete = False

        def on_body(self, piece: bytes) -> None:
            self.body += piece

        def on_message_complete(self) -> None:
            self.complete = True

    theirs = Theirs()
    refused = False
    try:
        httptools.HttpRequestParser(theirs).feed_data(data)
    except httptools.HttpParserError:
        refused = not theirs.complete

    complete = [record[1]["body"] for record in ours if record[0] == "request"]
    assert complete == ([theirs.body] if theirs.complete else [])
    assert (ours[-1][0] == "refused") == refused


def test_messages_of_refusals_are_sentences_without_the_clients_bytes():
    for path in (CORPUS / "invalid").glob("*.http"):
        message = read_requests(one_piece(path.read_bytes()))[-1][2]
        assert re.fullmatch(r"[ -~]{10,100}", message), path.stem
        assert "evil" not in message
