"""URLs of servers behind Unix sockets."""

from __future__ import annotations

import pytest

from protocol.unix_url import split


@pytest.mark.parametrize(
    ("url", "path", "target"),
    [
        ("unix:///run/files.sock", "/run/files.sock", "/mcp"),
        ("unix:///run/files.sock:/", "/run/files.sock", "/"),
        ("unix:///run/files.sock:/a/mcp?key=a:b&c=/", "/run/files.sock", "/a/mcp?key=a:b&c=/"),
        ("unix:///run/files.sock?key=a:b", "/run/files.sock", "/mcp?key=a:b"),
        ("unix:///run/a%3Ab%20c", "/run/a:b c", "/mcp"),
        (f"unix:///{'a' * 106}", f"/{'a' * 106}", "/mcp"),
    ],
)
def test_a_url_is_a_socket_and_the_endpoint_behind_a_colon(url: str, path: str, target: str):
    assert split(url) == (path, target)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("unix:/run/x.sock", "absolute path"),
        ("unix://", "absolute path"),
        ("unix://run/x.sock", "absolute path"),
        ("unix:///", "absolute path"),
        ("unix:///run/:/mcp", "absolute path"),
        ("unix:///run/%00", "absolute path"),
        ("unix:///run/x:mcp", "begins with '/'"),
        ("unix:///run/x:", "begins with '/'"),
        (f"unix:///{'a' * 107}", "at most 107 bytes"),
    ],
)
def test_what_is_no_socket_is_refused(url: str, words: str):
    with pytest.raises(ValueError, match=words):
        split(url)
