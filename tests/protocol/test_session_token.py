"""Session ids of protocol/session_token.py: ours are read, everything else is nobody's."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import string

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.session_token import TOKEN_BYTES_MAX, SessionFacts, mint, nonce, owner, read

KEY = bytes(range(32))
FACTS = SessionFacts(
    version="2025-11-25",
    capabilities=b'{"sampling":{},"roots":{"listChanged":true}}',
    client_info=b'{"name":"test","version":"1"}',
    nonce=b"0123456789abcdef",
    issued_at=1_763_000_000,
)
ALPHABET = string.ascii_letters + string.digits + "-_"


@given(
    st.sampled_from(["2024-11-05", "2025-11-25"]),
    st.binary(max_size=1200),
    st.binary(max_size=1200),
    st.binary(max_size=32),
    st.integers(0, 2**63),
)
def test_facts_of_ordinary_size_come_back_as_they_were(
    version: str, capabilities: bytes, info: bytes, nonce: bytes, issued_at: int
):
    facts = SessionFacts(version, capabilities, info, nonce, issued_at)

    token = mint(KEY, facts)

    assert read(KEY, token) == facts
    assert len(token) <= TOKEN_BYTES_MAX
    assert token.startswith("mb1.")
    assert set(token[4:]) <= set(ALPHABET)


def test_the_same_facts_give_the_same_token_and_another_nonce_another():
    assert mint(KEY, FACTS) == mint(KEY, FACTS)
    assert mint(KEY, FACTS) != mint(KEY, msgspec.structs.replace(FACTS, nonce=b"another nonce..."))


@pytest.mark.case("D-08")
@given(st.data())
def test_a_token_changed_anywhere_is_not_ours(data: st.DataObject):
    token = mint(KEY, FACTS)
    at = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.sampled_from(ALPHABET + ".=+/ é\x00").filter(lambda character: character != token[at]))

    assert read(KEY, token[:at] + other + token[at + 1 :]) is None


@pytest.mark.case("D-08")
@given(st.binary(max_size=64).filter(lambda key: key != KEY))
def test_a_token_made_with_another_key_is_not_ours(key: bytes):
    # HMAC fills a short key up with zeros, so those two are one key.
    if key.rstrip(b"\0") != KEY:
        assert read(key, mint(KEY, FACTS)) is None


@pytest.mark.case("D-08")
def test_every_piece_of_a_token_and_everything_longer_is_not_ours():
    token = mint(KEY, FACTS)

    for size in range(len(token)):
        assert read(KEY, token[:size]) is None
    for more in ("A", "AA", "AAA", "AAAA", "=", "==", ".", " ", "\n"):
        assert read(KEY, token + more) is None
        assert read(KEY, more + token) is None


@pytest.mark.case("D-08")
@given(st.text(max_size=200) | st.text(alphabet=ALPHABET, max_size=200).map("mb1.".__add__))
def test_any_other_text_is_not_ours_and_never_an_exception(token: str):
    assert read(KEY, token) is None


@pytest.mark.case("D-08")
def test_an_endless_token_is_refused_before_it_is_looked_at():
    assert read(KEY, "mb1." + "A" * 10_000_000) is None


@pytest.mark.case("D-08")
def test_one_session_has_one_spelling():
    """A second one would pass where an ended session is remembered by its text."""
    for nonce_bytes in range(16, 20):
        token = mint(KEY, msgspec.structs.replace(FACTS, nonce=b"x" * nonce_bytes))
        sealed = base64.urlsafe_b64decode(token[4:] + "==")
        same = [
            other
            for last in ALPHABET
            if (other := token[:-1] + last) != token and base64.urlsafe_b64decode(other[4:] + "==") == sealed
        ]
        if len(token[4:]) % 4:
            assert same, "base64 has several spellings here"
        assert all(read(KEY, other) is None for other in same)


@pytest.mark.case("D-08")
def test_a_signature_of_the_same_key_for_another_purpose_does_not_pass():
    sealed = base64.urlsafe_b64decode(mint(KEY, FACTS)[4:] + "==")
    payload = sealed[32:]
    forged = hmac.digest(KEY, payload, hashlib.sha256) + payload

    assert read(KEY, "mb1." + base64.urlsafe_b64encode(forged).rstrip(b"=").decode()) is None


def signed(payload: bytes) -> str:
    """Seal a payload as `mint` does, without looking at what it is."""
    mac = hmac.digest(KEY, b"mcp-bulkhead session mb1\0" + payload, hashlib.sha256)
    return "mb1." + base64.urlsafe_b64encode(mac + payload).rstrip(b"=").decode()


def test_a_payload_of_another_shape_is_nobodys_even_if_it_is_signed():
    assert read(KEY, signed(msgspec.msgpack.encode(FACTS))) == FACTS

    for payload in (b"", b"\xc1", b"\x90", msgspec.msgpack.encode({"version": "x"}), msgspec.msgpack.encode([1] * 5)):
        assert read(KEY, signed(payload)) is None
    assert read(KEY, signed(b"\x91" * 3000)) is None


def test_large_client_info_is_cut_down_to_name_and_version():
    info = {"icons": ["x" * 5000], "name": "n" * 70 + "é", "version": "1.2", "title": "T"}

    facts = read(KEY, mint(KEY, msgspec.structs.replace(FACTS, client_info=json.dumps(info).encode())))

    assert facts is not None
    assert json.loads(facts.client_info) == {"name": "n" * 64, "version": "1.2"}
    assert facts.capabilities == FACTS.capabilities


@pytest.mark.parametrize(
    "info", [b"x" * 5000, b"[" * 5000, b'"' + b"x" * 5000 + b'"', json.dumps({"name": 7, "x": "x" * 5000}).encode()]
)
def test_large_client_info_of_a_wrong_shape_is_cut_down_as_well(info: bytes):
    facts = read(KEY, mint(KEY, msgspec.structs.replace(FACTS, client_info=info)))

    assert facts is not None
    assert json.loads(facts.client_info) in ({}, {"name": ""})


def test_large_capabilities_keep_what_we_know_and_lose_what_does_not_fit():
    capabilities = {
        "vendor": {"x": "y" * 2000},
        "experimental": {"x": "y" * 2000},
        "extensions": {"e": {}},
        "roots": {"listChanged": True},
        "sampling": {"tools": {}},
        "elicitation": {"form": {}},
    }

    facts = read(KEY, mint(KEY, msgspec.structs.replace(FACTS, capabilities=json.dumps(capabilities).encode())))

    assert facts is not None
    assert json.loads(facts.capabilities) == {
        name: capabilities[name] for name in ("roots", "sampling", "elicitation", "extensions")
    }


@given(
    st.dictionaries(st.sampled_from(["roots", "sampling", "tasks", "x"]), st.text(min_size=300, max_size=3000)),
    st.text(min_size=400, max_size=3000),
)
def test_a_token_is_never_too_long_whatever_a_client_says(capabilities: dict[str, str], name: str):
    for ascii_only in (True, False):
        facts = msgspec.structs.replace(
            FACTS,
            capabilities=json.dumps(capabilities, ensure_ascii=ascii_only).encode(errors="replace"),
            client_info=json.dumps({"name": name, "version": name}, ensure_ascii=ascii_only).encode(errors="replace"),
            nonce=b"x" * 32,
        )
        token = mint(KEY, facts)

        assert len(token) <= TOKEN_BYTES_MAX
        assert read(KEY, token) is not None


@given(st.binary(min_size=17, max_size=17), st.integers(1, 8), st.integers(0, 7))
def test_a_session_belongs_to_the_front_that_opened_it(random: bytes, fronts: int, front: int):
    number = front % fronts
    made = nonce(random, number, fronts)
    assert made[:16] == random[:16], "as hard to guess as ever"
    assert owner(msgspec.structs.replace(FACTS, nonce=made), fronts) == number


@given(st.binary(min_size=16, max_size=17), st.integers(1, 8))
def test_a_session_from_before_there_were_so_many_fronts_belongs_to_one_of_them(random: bytes, fronts: int):
    assert 0 <= owner(msgspec.structs.replace(FACTS, nonce=random), fronts) < fronts
