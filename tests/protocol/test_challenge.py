"""What is shown of WWW-Authenticate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.challenge import described


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (b"", ""),
        (b"Bearer", "(Bearer)"),
        (b"Basic realm=x, Bearer", "(Basic)"),
        (b'Bearer realm="r", resource_metadata="https://Auth.example:8443/a?b"', "(Bearer; see auth.example)"),
        (b"Bearer resource_metadata=http://auth.example/x,y=z", "(Bearer; see auth.example)"),
        (b'resource_metadata="https://auth.example/"', "(see auth.example)"),
        (b'Bearer xresource_metadata="https://auth.example/"', "(Bearer)"),
        (b'Bearer resource_metadata="javascript:alert(1)"', "(Bearer)"),
        (b'Bearer resource_metadata="https://user:pass@auth.example/"', "(Bearer; see auth.example)"),
        (b'Bearer resource_metadata="https://[::1/"', "(Bearer)"),
        ('Bearer resource_metadata="https://gr\u00fc\u00df.example/"'.encode("latin-1"), "(Bearer)"),
        (b'Bearer resource_metadata="https://' + b"x" * 61 + b'/"', "(Bearer)"),
        (b"<script> x", ""),
        (b"\x1b[31m Bearer", ""),
        (b"x" * 100_000, ""),
        (b'Bearer resource_metadata="https://' + b"x" * 100_000, "(Bearer)"),
    ],
)
@pytest.mark.case("B-13")
def test_scheme_and_host_are_shown_and_nothing_else(value: bytes, words: str):
    assert described(value) == words


@pytest.mark.case("B-13")
@given(st.binary() | st.builds(lambda tail: b'Bearer resource_metadata="https://' + tail, st.binary()))
def test_whatever_it_is_little_is_shown_and_that_is_harmless(value: bytes):
    words = described(value)
    assert len(words) <= 90
    assert words.isascii()
    assert words.isprintable()
