"""Whose resource a URI names: aliases and templates in protocol/uris.py."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import uris

TEXT = st.text(max_size=30)


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}", fullmatch=True), st.text(min_size=1))
def test_an_alias_leads_back_to_the_server_and_its_uri(server: str, uri: str):
    assert uris.read_alias(uris.alias(server, uri)) == (server, uri)


@pytest.mark.parametrize(
    "uri", ["", "file:///a", "mcp-bulkhead://", "mcp-bulkhead:///a", "mcp-bulkhead://a", "mcp-bulkhead://a/"]
)
def test_other_uris_are_no_aliases(uri: str):
    assert uris.read_alias(uri) is None


@pytest.mark.parametrize(
    ("template", "uri", "fits"),
    [
        ("file:///{+path}", "file:///a/b", True),
        ("file:///{+path}", "files:///a/b", False),
        ("db://{table}/rows/{id}", "db://users/rows/7", True),
        ("db://{table}/rows/{id}", "db://users/columns/7", False),
        ("search://x{?q,lang}", "search://x?q=1", True),
        ("search://x{?q,lang}", "search://x", True),
        ("a{x}a", "a", False),
        ("a{x}a", "aa", True),
        ("plain://x", "plain://x", True),
        ("plain://x", "plain://xy", False),
        ("{x}", "anything", True),
        ("mail://{box}.eml", "mail://in.emlx", False),
    ],
)
def test_a_template_fits_what_could_be_made_from_it(template: str, uri: str, fits: bool):
    assert uris.matches(template, uri) is fits


@given(
    st.lists(st.tuples(st.text(alphabet="ab/:", max_size=5), TEXT), max_size=6), st.text(alphabet="ab/:", max_size=5)
)
def test_every_expansion_of_a_template_fits_it(parts: list[tuple[str, str]], end: str):
    template = "".join(f"{literal}{{v{number}}}" for number, (literal, _) in enumerate(parts)) + end
    uri = "".join(literal + value for literal, value in parts) + end

    assert uris.matches(template, uri)


@pytest.mark.case("D-31")
def test_no_template_is_costly_to_try():
    template = "{a}a" * 1000
    started = time.process_time()
    assert not uris.matches(template, "a" * 8000 + "b")

    assert time.process_time() - started < 0.05


@pytest.mark.parametrize(
    ("uri", "scheme"), [("FILE:///a", "file"), ("a+b.c-1:x", "a+b.c-1"), ("no scheme", ""), ("1:x", ""), ("", "")]
)
def test_the_scheme_is_what_stands_before_the_first_colon(uri: str, scheme: str):
    assert uris.scheme(uri) == scheme
