"""Events as written, and as read from anything a server may call an event stream."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from protocol.sse import KEEP_ALIVE, Event, EventDecoder, SseError, encode_event
from tests.protocol.http1_pieces import byte_by_byte, cut_at, one_piece


def read(pieces: Iterable[bytes], **options: int) -> list[Any]:
    """Return the events, and "too long" if that is how it ends."""
    decoder = EventDecoder(**options)
    events: list[Any] = []
    try:
        for piece in pieces:
            events += decoder.feed(piece)
    except SseError as error:
        events += error.events
        events.append("too long")
    return events


def event(data: bytes, event: str = "message", id: str | None = None, retry_ms: int | None = None) -> Event:  # noqa: A002
    return Event(event=event, data=data, id=id, retry_ms=retry_ms)


STREAMS = {
    "one": (b"data: {}\n\n", [event(b"{}")]),
    "all-fields": (b"event: e\nid: 7\nretry: 1500\ndata: x\n\n", [event(b"x", "e", "7", 1500)]),
    "no-space-after-colon": (b"data:x\nevent:e\n\n", [event(b"x", "e")]),
    "only-one-space-is-removed": (b"data:  x \n\n", [event(b" x ")]),
    "several-data-lines": (b"data: a\ndata:\ndata\ndata: b\n\n", [event(b"a\n\n\nb")]),
    "fields-without-colon": (b"data\nevent\nid\nretry\n\n", [event(b"", id="")]),
    "empty-data-is-an-event": (b"id: 1\ndata:\n\n", [event(b"", id="1")]),
    "no-data-is-none": (b"event: e\nid: 1\n\ndata: x\n\n", [event(b"x")]),
    "type-does-not-stick": (b"event: e\ndata: x\n\ndata: y\n\n", [event(b"x", "e"), event(b"y")]),
    "crlf": (b"data: x\r\nevent: e\r\n\r\ndata: y\r\n\r\n", [event(b"x", "e"), event(b"y")]),
    "cr": (b"data: x\revent: e\r\rdata: y\r\r", [event(b"x", "e"), event(b"y")]),
    "mixed-line-ends": (b"data: x\r\ndata: y\ndata: z\r\r\ndata: w\n\r", [event(b"x\ny\nz"), event(b"w")]),
    "cr-then-crlf": (b"data: x\r\r\ndata: y\r\n\n", [event(b"x"), event(b"y")]),
    "comments": (b": hello\n:\ndata: x\n: in between\n\n" + KEEP_ALIVE * 3, [event(b"x")]),
    "unknown-fields": (b"date: x\nDATA: y\n data: z\ndata : w\n\n", []),
    "bom": (b"\xef\xbb\xbfdata: x\n\n", [event(b"x")]),
    "bom-twice": (b"\xef\xbb\xbf\xef\xbb\xbfdata: x\n\n", []),
    "bom-later": (b"data: x\n\n\xef\xbb\xbfdata: y\n\n", [event(b"x")]),
    "bom-alone": (b"\xef\xbb\xbf\n\ndata: x\n\n", [event(b"x")]),
    "bom-cut": (b"\xef\xbbdata: x\n\n", []),
    "unfinished": (b"data: x\n\ndata: y\n", [event(b"x")]),
    "line-unfinished": (b"data: x\n\ndata: y", [event(b"x")]),
    "invalid-utf-8-in-data-is-kept": (b"data: \xff\n\n", [event(b"\xff")]),
    "invalid-utf-8-in-names-is-replaced": (b"event: \xff\nid: \xe9\ndata: x\n\n", [event(b"x", "\ufffd", "\ufffd")]),
    "id-with-nul": (b"id: a\0b\ndata: x\n\n", [event(b"x")]),
    "id-with-control": (b"id: a\x1bb\ndata: x\n\n", [event(b"x")]),
    "id-with-separator": (b"id: a\xe2\x80\xa8b\ndata: x\n\n", [event(b"x")]),
    "last-id-counts": (b"id: 1\nid: 2\ndata: x\n\n", [event(b"x", id="2")]),
    "retry-zero": (b"retry: 0\ndata: x\n\n", [event(b"x", retry_ms=0)]),
    "retry-garbage": (b"retry: -1\nretry: 1.5\nretry: \xb2\nretry: soon\nretry:\ndata: x\n\n", [event(b"x")]),
    "retry-of-many-digits": (b"retry: " + b"9" * 5000 + b"\ndata: x\n\n", [event(b"x")]),
    "nothing": (b"", []),
    "only-line-ends": (b"\n\r\n\r\n\n\r", []),
    "html": (b"<html>\n<body>data: no</body>\n\n</html>\n\n", []),
}


@pytest.mark.case("B-09")
@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_means_the_same_however_it_is_cut(name: str):
    data, expected = STREAMS[name]

    assert read(one_piece(data)) == expected
    assert read(byte_by_byte(data)) == expected


def test_an_empty_piece_changes_nothing():
    assert read([b"data: x\r", b"", b"\n", b"", b"\r\n"]) == [event(b"x")]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_pieces_may_be_any_kind_of_bytes(kind: Any):
    assert read([kind(b"data: {}\n\n")]) == [event(b"{}")]


# --- bounds ----------------------------------------------------------------------------------------------------------
@pytest.mark.case("B-09")
@pytest.mark.parametrize("pieces", [one_piece, byte_by_byte])
@pytest.mark.parametrize(
    ("stream", "accepted"),
    [
        (b"data: " + b"x" * 94 + b"\n\n", True),
        (b"data: " + b"x" * 95 + b"\n\n", False),
        (b"data: " + b"x" * 1_000, False),
        (b"x" * 101, False),
        (b": " + b"x" * 99, False),
        (b"data: 12\n" * 12 + b"\n", True),
        (b"data: 12\n" * 13 + b"\n", False),
        (b"event: 1\n" * 13 + b"\n", False),
        (b"\xef\xbb\xbf" + b"x" * 100 + b"\n", True),
        (b"\xef\xbb\xbf" + b"x" * 101 + b"\n", False),
        ((b"data: " + b"x" * 80 + b"\n\n") * 5, True),
        (b": comment\n" * 50, True),
        (b"unknown: x\n" * 50, True),
        (b"\n" * 500, True),
    ],
)
def test_an_event_is_bounded_and_what_is_dropped_does_not_count(stream: bytes, accepted: bool, pieces: Any):
    told = read(pieces(stream), event_bytes_max=100)

    assert ("too long" not in told) == accepted


@pytest.mark.case("B-09")
def test_an_id_is_bounded_because_it_is_sent_back_in_a_header():
    assert read([b"id: " + b"x" * 4096 + b"\ndata: y\n\n"]) == [event(b"y", id="x" * 4096)]
    assert read([b"id: " + b"x" * 4097 + b"\n"]) == ["too long"]


@pytest.mark.case("B-09")
def test_a_line_of_ten_mebibytes_in_small_pieces_is_one_event():
    size = 10 * 1024 * 1024
    piece = b"x" * 1000
    decoder = EventDecoder()
    assert decoder.feed(b"data: ") == []
    for _ in range(size // len(piece)):
        assert decoder.feed(piece) == []
    (one,) = decoder.feed(b"\n\n")

    assert one.data == piece * (size // len(piece))


@pytest.mark.case("B-09")
@pytest.mark.parametrize("fault", [b"x" * 11, b"data: 67890\n", b"id: " + b"x" * 5000 + b"\n"])
def test_nothing_is_read_after_a_refusal(fault: bytes):
    decoder = EventDecoder(event_bytes_max=5000 if fault.startswith(b"id") else 10)
    with pytest.raises(SseError):
        decoder.feed(fault)
    with pytest.raises(SseError):
        decoder.feed(b"\n\ndata: x\n\n")


# --- resuming --------------------------------------------------------------------------------------------------------
def test_what_is_needed_to_resume_is_also_taken_from_blocks_without_data():
    decoder = EventDecoder()
    assert (decoder.last_event_id, decoder.retry_ms) == ("", None)

    assert decoder.feed(b"id: 41\nretry: 100\n\n") == []
    assert (decoder.last_event_id, decoder.retry_ms) == ("41", 100)

    decoder.feed(b"id: 42\ndata: x\n\ndata: y\n\n")
    assert (decoder.last_event_id, decoder.retry_ms) == ("42", 100)

    decoder.feed(b"id: 43\nretry: 200\ndata: cut short\n")
    assert (decoder.last_event_id, decoder.retry_ms) == ("42", 100)

    decoder.feed(b"\nid:\n\n")
    assert (decoder.last_event_id, decoder.retry_ms) == ("", 200)


# --- writing ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("data", [b"{}", bytearray(b"{}"), memoryview(b"{}")])
def test_what_we_write_is_what_we_read(data: bytes | bytearray | memoryview):
    assert encode_event(data) == b"event: message\ndata: {}\n\n"
    assert read([encode_event(data, event=b"endpoint", event_id=b"a/1")]) == [event(b"{}", "endpoint", "a/1")]
    assert read([encode_event(b"", event_id=b"1")]) == [event(b"", id="1")]
    assert read([KEEP_ALIVE]) == []


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_an_event_of_ours_cannot_be_split(end: bytes):
    for write in (
        lambda: encode_event(b"a" + end + b"b"),
        lambda: encode_event(b"a", event=b"e" + end),
        lambda: encode_event(b"a", event_id=b"1" + end),
    ):
        with pytest.raises(AssertionError):
            write()


# --- anything at all -------------------------------------------------------------------------------------------------
FRAGMENTS = st.sampled_from(
    [
        b"data",
        b"event",
        b"id",
        b"retry",
        b":",
        b" ",
        b"\n",
        b"\r",
        b"\r\n",
        b"\n\n",
        b"x",
        b"{}",
        b"7",
        b"\0",
        b"\xff",
        b"\xef\xbb\xbf",
    ]
)
ANYTHING = st.one_of(st.lists(FRAGMENTS, max_size=30).map(b"".join), st.binary(max_size=100))


@pytest.mark.promise("R16")
@pytest.mark.case("B-09")
@settings(max_examples=500, deadline=None)
@example(b"data\n\ndatadatadatadatadatadata", [6])
@given(ANYTHING, st.lists(st.integers(0, 200), max_size=8))
def test_any_bytes_decode_or_raise_an_sse_error_and_cuts_change_nothing(data: bytes, cuts: list[int]):
    whole = read(one_piece(data), event_bytes_max=20)

    assert read(cut_at(data, cuts), event_bytes_max=20) == whole
    assert read(byte_by_byte(data), event_bytes_max=20) == whole


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(st.binary(max_size=30), st.sampled_from(["message", "endpoint", "ü"]), st.sampled_from(["", "1"]))
    )
)
def test_any_events_that_are_written_are_read_back(written: list[tuple[bytes, str, str]]):
    clean = [(data.replace(b"\n", b"").replace(b"\r", b""), name, id_) for data, name, id_ in written]
    stream = b"".join(
        encode_event(data, event=name.encode(), event_id=id_.encode()) + KEEP_ALIVE for data, name, id_ in clean
    )

    assert read([stream]) == [event(data, name, id_ or None) for data, name, id_ in clean]
