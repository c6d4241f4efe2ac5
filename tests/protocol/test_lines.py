"""Newline framing: all at once and cut at every place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.lines import LineDecoder, LineTooLong

TOO_LONG = "too long"


def decoded(pieces: list[bytes], line_bytes_max: int = 20) -> list[bytes | str]:
    decoder = LineDecoder(line_bytes_max)
    return [TOO_LONG if isinstance(line, LineTooLong) else line for piece in pieces for line in decoder.feed(piece)]


def one_by_one(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        pytest.param(b"", [], id="nothing"),
        pytest.param(b"{}\n", [b"{}"], id="one line"),
        pytest.param(b"{}\n[]\n", [b"{}", b"[]"], id="two lines"),
        pytest.param(b"{}\r\n[]\r\n", [b"{}", b"[]"], id="windows line ends"),
        pytest.param(b"\n \n\t\r\n{}\n\n", [b"{}"], id="blank lines are left out"),
        pytest.param(b"{}\n[", [b"{}"], id="an unfinished line is not a line yet"),
        pytest.param(b"a\rb\n", [b"a\rb"], id="a lone carriage return is no line end"),
        pytest.param(b"x" * 20 + b"\n", [b"x" * 20], id="exactly the limit"),
        pytest.param(b"x" * 21 + b"\nok\n", [TOO_LONG, b"ok"], id="one byte over the limit"),
        pytest.param(b"x" * 21, [TOO_LONG], id="too long is said before the line ends"),
        pytest.param(b"x" * 500 + b"\n" + b"y" * 500 + b"\nok\n", [TOO_LONG, TOO_LONG, b"ok"], id="once for each line"),
    ],
)
def test_lines_are_cut_alike_all_at_once_and_byte_by_byte(data: bytes, lines: list[bytes | str]):
    assert decoded([data]) == lines
    assert decoded(one_by_one(data)) == lines


@given(st.lists(st.sampled_from([b"{}", b"x" * 19, b"x" * 22, b"\n", b"\r\n", b" ", b"\xff"])), st.data())
def test_lines_do_not_depend_on_how_the_bytes_were_cut(parts: list[bytes], data: st.DataObject):
    whole = b"".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)))))
    pieces = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]

    assert decoded(pieces) == decoded([whole])


def test_a_line_that_never_ends_is_not_kept():
    decoder = LineDecoder(1000)
    told = [line for _ in range(1000) for line in decoder.feed(b"x" * 100)]

    assert len(told) == 1
    assert isinstance(told[0], LineTooLong)
    assert str(told[0]) == "a line is longer than 1000 bytes"
    assert not decoder._parts
