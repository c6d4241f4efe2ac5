"""What frames an HTTP/2 connection may bring, and how many of them that say nothing."""

from __future__ import annotations

import pytest
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from protocol.http2_guard import FrameGuard, GoAway, Http2Error, error_name
from protocol.limits import (
    HTTP2_CONTROL_FRAMES_MAX,
    HTTP2_CONTROL_FRAMES_PER_S,
    HTTP2_CONTROL_FRAMES_PER_SENT,
    HTTP2_FRAME_BYTES_MAX,
    HTTP2_HEADER_LIST_BYTES_MAX,
    HTTP2_SETTINGS_MAX,
)

HELLO = SettingsFrame(0, settings={3: 100}).serialize()
PING = PingFrame(0, b"12345678").serialize()
DATA = DataFrame(1, b"x" * 300).serialize()


def goaway(last: int, code: int, more: bytes = b"") -> bytes:
    return GoAwayFrame(0, last_stream_id=last, error_code=code, additional_data=more).serialize()


def greeted(now: float = 0.0) -> FrameGuard:
    guard = FrameGuard(now)
    guard.feed(HELLO, now)
    return guard


def test_what_is_within_bounds_is_passed_on_as_it_came():
    guard = FrameGuard(0.0)
    data = HELLO + DATA + PING

    (piece,) = guard.feed(data, 0.0)

    assert piece is data


@pytest.mark.parametrize("size", [1, 2, 8, 9, 10, 25, 1000])
def test_however_the_bytes_are_cut_the_same_is_passed_on_and_goaway_is_taken_out(size: int):
    guard = FrameGuard(0.0)
    data = HELLO + DATA + goaway(7, 0, b"more " * 50) + DATA + goaway(5, 11) + PING
    found: list[bytes | GoAway] = []
    for start in range(0, len(data), size):
        found += guard.feed(data[start : start + size], 0.0)

    assert [piece for piece in found if isinstance(piece, GoAway)] == [GoAway(7, 0), GoAway(5, 11)]
    assert b"".join(piece for piece in found if isinstance(piece, bytes)) == HELLO + DATA + DATA + PING
    first = found.index(GoAway(7, 0))
    assert b"".join(piece for piece in found[:first] if isinstance(piece, bytes)) == HELLO + DATA


WRONG: dict[str, tuple[bytes, str]] = {
    "HTTP/1.1": (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not begin as HTTP/2 does"),
    "no settings": (PING, "does not begin as HTTP/2 does"),
    "an acknowledgement": (SettingsFrame(0, flags=["ACK"]).serialize(), "does not begin as HTTP/2 does"),
    "a long frame": (
        HELLO + DataFrame(1, b"x" * (HTTP2_FRAME_BYTES_MAX + 1)).serialize()[:9],
        "a frame of 65537 bytes",
    ),
    "many fields": (
        HELLO + HeadersFrame(1, b"x" * 10_000).serialize() + ContinuationFrame(1, b"x" * 9_585).serialize()[:9],
        f"more than {HTTP2_HEADER_LIST_BYTES_MAX} bytes",
    ),
    "settings": (
        HELLO + SettingsFrame(0, settings=dict.fromkeys(range(100, 100 + HTTP2_SETTINGS_MAX), 1)).serialize(),
        "settings without end",
    ),
    "a short goaway": (HELLO + b"\0\0\4\7\0\0\0\0\0\0\0\0\0", "malformed GOAWAY"),
    "a goaway on a stream": (HELLO + b"\0\0\x08\7\0\0\0\0\1" + bytes(8), "malformed GOAWAY"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_breaks_a_bound_is_refused_before_it_is_here(what: str):
    data, words = WRONG[what]

    with pytest.raises(Http2Error, match=words):
        FrameGuard(0.0).feed(data, 0.0)


EMPTY = {
    "pings": PingFrame(0, b"12345678"),
    "settings": SettingsFrame(0),
    "windows": WindowUpdateFrame(0, window_increment=1),
    "empty pieces": DataFrame(1, b""),
    "resets": RstStreamFrame(1),
    "heads": HeadersFrame(1, b"", flags=["END_HEADERS"]),
    "parts of a head": ContinuationFrame(1, b""),
}


@pytest.mark.parametrize("kind", EMPTY)
def test_a_flood_of_frames_that_say_nothing_is_an_error(kind: str):
    frame: Frame = EMPTY[kind]
    guard = greeted()
    data = frame.serialize()
    assert guard.feed(data * (HTTP2_CONTROL_FRAMES_MAX - 1), 0.0)

    with pytest.raises(Http2Error, match="a flood of frames"):
        guard.feed(data, 0.0)


def test_as_many_over_a_long_time_are_none():
    guard = greeted()
    for now in range(100):
        guard.feed(PING * HTTP2_CONTROL_FRAMES_PER_S, float(now))
    guard.feed(PING * (HTTP2_CONTROL_FRAMES_MAX - HTTP2_CONTROL_FRAMES_PER_S), 100.0)

    with pytest.raises(Http2Error):
        guard.feed(PING * HTTP2_CONTROL_FRAMES_MAX, 100.5)


def test_the_more_we_send_the_more_may_be_said_about_it():
    guard = greeted()
    guard.sent(HTTP2_CONTROL_FRAMES_MAX)
    updates = WindowUpdateFrame(0, window_increment=1).serialize()
    count = HTTP2_CONTROL_FRAMES_MAX * (HTTP2_CONTROL_FRAMES_PER_SENT + 1) - 1
    assert guard.feed(updates * count, 0.0)

    with pytest.raises(Http2Error):
        guard.feed(updates, 0.0)


def test_pieces_of_answers_are_never_too_many():
    guard = greeted()

    assert guard.feed(DataFrame(1, b"x").serialize() * 100_000, 0.0)


def test_error_codes_have_names():
    assert [error_name(code) for code in (0, 7, 8, 13, 99)] == [
        "NO_ERROR", "REFUSED_STREAM", "CANCEL", "HTTP_1_1_REQUIRED", "error 99",
    ]  # fmt: skip
