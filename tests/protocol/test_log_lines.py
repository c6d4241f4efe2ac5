"""Log lines: one line, bounded, nothing hidden in it, no secrets."""

from __future__ import annotations

import time
import unicodedata

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import log_lines
from protocol.log_lines import HUMAN_LINE_BYTES_MAX, JSON_LINE_BYTES_MAX, clean, human_line, json_line, redact, safe

CANARY = "hunter2-Zx9canary"


@pytest.mark.case("D-24")
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("two\nlines\r\n", "two\\nlines\\r\\n"),
        ("\x1b[2J\x9b31m", "\\x1b[2J\\x9b31m"),
        ("nul\x00 bell\x07", "nul\\x00 bell\\x07"),
        ("abc\u202edef", "abc\\u202edef"),
        ("zero\u200bwidth", "zero\\u200bwidth"),
        ("line\u2028separator", "line\\u2028separator"),
        ("tag\U000e0041", "tag\\U000e0041"),
        ("surrogate\ud800", "surrogate\\ud800"),
        ("Grüße, 世界 🙂", "Grüße, 世界 🙂"),
    ],
)
def test_hidden_characters_are_shown_as_escapes_and_visible_ones_stay(text: str, shown: str):
    assert clean(text) == shown


@pytest.mark.case("D-24")
@given(st.text())
def test_a_line_for_people_is_one_line_whatever_the_text(text: str):
    line = human_line(text)

    decoded = line.decode()
    assert decoded.endswith("\n")
    assert len(decoded.splitlines()) == 1
    assert not {unicodedata.category(character) for character in decoded[:-1]} & {"Cc", "Cs", "Zl", "Zp"}
    assert len(line) <= HUMAN_LINE_BYTES_MAX


@pytest.mark.case("D-24")
def test_a_line_for_people_is_cut_at_its_bound_between_characters():
    line = human_line("ü" * 10_000)

    assert len(line) <= HUMAN_LINE_BYTES_MAX
    assert line.decode().endswith("ü...\n")


@pytest.mark.case("D-25")
@pytest.mark.promise("R19")
@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {CANARY}",
        f"authorization: Basic {CANARY}",
        f"Proxy-Authorization: Digest username={CANARY}, nonce=x",
        f"Cookie: a=1; session={CANARY}",
        f"{{'authorization': 'Bearer {CANARY}'}}",
        f"{{b'cookie': b'id={CANARY}'}}",
        f'{{"token": "{CANARY}"}}',
        f'"{{\\"token\\":\\"{CANARY}\\"}}"',
        f"token={CANARY}&x=1",
        f"x-api-key: {CANARY}",
        f"ACCESS_TOKEN={CANARY}",
        f"client_secret = '{CANARY}",
        f"password:{CANARY}",
        f"Mcp-Session-Id: {CANARY}",
        f"it said bearer {CANARY}!",
        f"http://user:{CANARY}@example.com/path",
        f"http://{CANARY}@example.com",
        f"http://example.com/path?key={CANARY}&b={CANARY}#{CANARY}",
        f"GET http://example.com/?{CANARY}=1&q={CANARY} failed".replace(f"?{CANARY}", "?q"),
        f"the session mb1.{CANARY}.{CANARY} ended",
        f"jwt eyJhbGciOi{CANARY}.eyJ{CANARY}.{CANARY}",
        f"key sk-{CANARY} and ghp_{CANARY}abcdef",
    ],
)
def test_what_looks_like_a_secret_is_not_shown(text: str):
    assert CANARY not in redact(text)
    assert CANARY.encode() not in human_line(text)
    assert CANARY.encode() not in json_line({"event": text})


def test_the_text_around_a_url_stays_when_its_values_go():
    assert redact("(http://a.test/?token=x)") == "(http://a.test/?token=[redacted])"
    assert redact("see (http://a.test/x?k=v), or http://b.test/?k=v; ok") == (
        "see (http://a.test/x?k=[redacted]), or http://b.test/?k=[redacted]; ok"
    )


@pytest.mark.parametrize(
    "text",
    [
        "server main: ready",
        "http://localhost:8000/mcp answered 503",
        "the progressToken: 7 is used twice",
        "tokenised 12 words, basic functions only",
        "connect ECONNREFUSED 127.0.0.1:9",
    ],
)
def test_ordinary_text_stays_as_it_is(text: str):
    assert redact(text) == text


@pytest.mark.case("D-24")
@given(
    st.dictionaries(st.text(), st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary()))
)
def test_a_json_line_is_one_object_in_one_line_whatever_is_in_it(fields: dict[str, object]):
    line = json_line(fields)

    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert len(line) <= JSON_LINE_BYTES_MAX
    assert isinstance(msgspec.json.decode(line), dict)


def test_a_json_line_keeps_numbers_and_cuts_only_what_is_too_long():
    line = json_line({"event": "x" * 100_000, "pid": 7, "ratio": 0.5, "gone": None, "level": "info"})

    decoded = msgspec.json.decode(line)
    assert decoded["pid"] == 7
    assert decoded["ratio"] == 0.5
    assert decoded["gone"] is None
    assert decoded["event"].endswith("...")
    assert 1000 < len(line) <= JSON_LINE_BYTES_MAX


def test_a_json_line_with_too_many_fields_keeps_those_that_every_line_has():
    line = json_line({"level": "info", "event": "many"} | {f"field{number}": "x" * 300 for number in range(100)})

    assert msgspec.json.decode(line) == {"level": "info", "event": "many", "cut": True}


@pytest.mark.case("D-25")
@pytest.mark.parametrize(
    "name", ["token", "Authorization", "client_secret", "x-api-key", "http_cookie", "new_password"]
)
def test_a_field_with_a_telling_name_shows_no_value(name: str):
    assert CANARY.encode() not in json_line({"event": "e", name: CANARY})
    assert CANARY.encode() not in json_line({"event": "e", name: [CANARY]})


@pytest.mark.case("D-31")
@pytest.mark.parametrize(
    "text",
    [
        "eyJa-" * 200_000,
        "token" * 200_000,
        "token:'" * 150_000,
        "a://" * 250_000,
        "Bearer " * 150_000,
        "\x00" * 1_000_000,
    ],
)
def test_rendering_hostile_text_costs_little(text: str):
    begin = time.process_time()
    safe(text)

    assert time.process_time() - begin < 0.05
    assert len(safe(text)) <= 8 * log_lines.TEXT_CHARS_MAX
