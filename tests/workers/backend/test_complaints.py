"""What of a command's standard error is kept and told."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.control import SAID_CHARS_MAX, SAID_LINES_MAX
from protocol.limits import STDERR_KEPT_BYTES, STDERR_LINES_PER_S
from workers.backend.complaints import BURST_LINES, LINE_BYTES_MAX, Complaints


def test_lines_are_told_once_also_if_they_come_in_pieces():
    complaints = Complaints(())
    complaints.feed(b"one\ntw", 0.0)
    assert complaints.take(0.0) == ["one"]
    complaints.feed(b"o\n\n  \nthree", 0.0)
    assert complaints.take(0.0) == ["two"]
    assert complaints.end() == ["three"]
    assert complaints.last_words() == ""


def test_only_so_many_lines_a_second_are_told_and_the_others_counted():
    complaints = Complaints(())
    complaints.feed(b"line\n" * 1000, 0.0)
    first = complaints.take(0.0)
    assert first == ["line"] * BURST_LINES
    assert complaints.has_more

    later = complaints.take(1.0)
    assert later == [f"... {1000 - BURST_LINES} more lines"]
    assert not complaints.has_more

    complaints.feed(b"line\n" * 1000, 1.0)
    assert len(complaints.take(1.0)) <= STDERR_LINES_PER_S


def test_the_last_lines_are_told_at_the_end_also_after_a_flood():
    complaints = Complaints(())
    complaints.feed(b"noise\n" * 5000 + b"Error: out of luck\n", 0.0)
    assert complaints.last_words() == "Error: out of luck"
    assert complaints.end()[-1] == "Error: out of luck"


def test_secrets_are_taken_out_the_longer_ones_first():
    complaints = Complaints(("tok", "token-4711", ""))
    complaints.feed(b"it is token-4711\nand tok\n", 0.0)
    assert complaints.last_words() == "and [redacted]"
    assert complaints.take(0.0) == ["it is [redacted]", "and [redacted]"]


@pytest.mark.case("B-25")
def test_what_would_colour_a_terminal_or_take_it_over_is_not_shown():
    complaints = Complaints(("token-4711",))
    complaints.feed(b"\x1b[1;31mERROR\x1b[0m tok\x1b[Ken-4711\r\n", 0.0)
    complaints.feed(
        b"\x1b]0;owned\x07\x1b]8;;http://evil\x1b\\a\x1b(B link\x9b\xe2\x80\xae bidi\tend \x1b[2J\x1b\n", 0.0
    )
    shown = ["ERROR [redacted]", "a link\N{REPLACEMENT CHARACTER}  bidi end"]
    assert complaints.take(0.0) == shown
    assert complaints.last_words() == shown[1]


@settings(deadline=None)  # the first pieces of a busy machine take long
@given(st.lists(st.binary(max_size=3 * LINE_BYTES_MAX), max_size=30))
def test_whatever_is_written_is_bounded(pieces: list[bytes]):
    complaints = Complaints(("secret",))
    for at, piece in enumerate(pieces):
        complaints.feed(piece, at / 10)
        lines = complaints.take(at / 10)
        assert len(lines) <= SAID_LINES_MAX
        assert all(len(line) <= SAID_CHARS_MAX and line.isprintable() for line in lines)
        assert len(complaints.kept) <= STDERR_KEPT_BYTES
    assert b"".join(pieces)[-STDERR_KEPT_BYTES:] == complaints.kept
    assert len(complaints.end()) <= SAID_LINES_MAX
