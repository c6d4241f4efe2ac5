"""Hostile and ordinary bytes against protocol/jsonrpc.py, with the standard library's parser as the second opinion."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from protocol import jsonrpc
from protocol.errors import INVALID_REQUEST, PARSE_ERROR
from protocol.jsonrpc import (
    Message,
    RpcError,
    decode_batch,
    decode_message,
    decode_object,
    decode_reply,
    read_result,
    screen,
)
from protocol.limits import BATCH_MESSAGES_MAX, BODY_BYTES_MAX, ID_BYTES_MAX, JSON_DEPTH_MAX

CORPUS = Path(__file__).parent.parent / "corpus" / "jsonrpc"
PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'

ORDINARY = json.dumps([{"name": "a", "value": [1, 2.5, None, "text"]}] * 5000).encode()
COST_MAX = 10
"""What a hostile byte may cost, in bytes of ordinary JSON read by the standard library.

The latter takes 10 to 15 ms per MiB where 50 ms are promised; the rest is slack, for the machine may be busy with other
things. Anything quadratic costs thousands.
"""


def corpus(kind: str) -> list[Any]:
    paths = sorted((CORPUS / kind).glob("*.body"))
    assert paths, "the corpus is missing"
    params: list[Any] = []
    for path in paths:
        expectation = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        params.append(pytest.param(path.read_bytes(), expectation, id=path.stem))
    return params


def code_of(read: Callable[[bytes], object], body: bytes) -> int | None:
    """Return the code a body is refused with, None if it is not."""
    try:
        read(body)
    except RpcError as error:
        return error.code
    return None


def cpu_s(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def refused(body: bytes) -> RpcError:
    with pytest.raises(RpcError) as caught:
        decode_message(body)
    return caught.value


# --- corpus ----------------------------------------------------------------------------------------------------------
@pytest.mark.case("A-02", "A-03", "A-05", "A-06", "A-10", "A-11")
@pytest.mark.parametrize("kind", [bytes, bytearray])
@pytest.mark.parametrize(("body", "expected"), corpus("valid"))
def test_a_valid_body_is_read_as_expected(body: bytes, expected: dict[str, Any], kind: type[bytes | bytearray]):
    message = decode_message(kind(body))

    assert message.id == (None if expected["id"] is None else expected["id"].encode()), expected["why"]
    assert message.method == expected["method"]
    assert {name: bytes(raw).decode() for name, raw in message.params.items()} == expected["params"]
    assert message.is_response is expected["response"]


@pytest.mark.case("A-01", "A-02", "A-03", "A-04", "A-05", "A-06", "A-10")
@pytest.mark.parametrize("kind", [bytes, bytearray])
@pytest.mark.parametrize(("body", "expected"), corpus("invalid"))
def test_an_invalid_body_is_refused_with_the_expected_code(
    body: bytes, expected: dict[str, Any], kind: type[bytes | bytearray]
):
    with pytest.raises(RpcError) as caught:
        decode_message(kind(body))

    assert caught.value.code == expected["code"], expected["why"]
    assert caught.value.id == (None if expected["id"] is None else expected["id"].encode())
    assert 0 < len(caught.value.message) < 200


def test_every_corpus_body_has_its_expectation_and_every_expectation_its_body():
    for kind in ("valid", "invalid"):
        bodies = {path.stem for path in (CORPUS / kind).glob("*.body")}
        assert bodies == {path.stem for path in (CORPUS / kind).glob("*.json")}


@pytest.mark.parametrize(("body", "expected"), corpus("valid"))
def test_a_valid_body_is_json_to_the_standard_library_too(body: bytes, expected: dict[str, Any]):
    members = json.loads(body)

    assert members.get("method") == expected["method"]
    assert members.get("params", {}).keys() == expected["params"].keys()


# --- screening -------------------------------------------------------------------------------------------------------
@pytest.mark.case("A-02")
@pytest.mark.promise("R16")
@pytest.mark.parametrize("levels", [65, 1000, 100_000])
@pytest.mark.parametrize(
    ("before", "opening", "closing", "after"),
    [
        (b"", b"[", b"]", b""),
        (b'{"jsonrpc":"2.0","id":1,"method":"a","params":{"x":', b"[", b"]", b"}}"),
        (b'{"jsonrpc":"2.0","id":1,"method":"a","params":{"_meta":{"x":', b'{"a":', b"}", b"}}}"),
        (b'{"jsonrpc":"2.0","id":1,"method":"a","x":', b'{"a":[', b"]}", b"}"),
        (b'{"jsonrpc":"2.0","id":1,"method":"a","x":', b"[", b"", b""),
        (b'{"jsonrpc":"2.0","id":1,"method":"a","x":', b'{"":', b"", b""),
    ],
)
def test_deep_nesting_is_called_too_deep_wherever_it_is(
    levels: int, before: bytes, opening: bytes, closing: bytes, after: bytes
):
    error = refused(before + opening * levels + b"1" + closing * levels + after)

    assert error.code == INVALID_REQUEST
    assert "too deep" in error.message


def depth_by_hand(text: bytes) -> int:
    """Count brackets one character at a time."""
    depth = deepest = 0
    in_string = escaped = False
    for character in text.decode("latin-1"):
        if in_string:
            if not escaped and character == '"':
                in_string = False
            escaped = character == "\\" and not escaped
        elif character == '"':
            in_string = True
        elif character in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "]}":
            depth -= 1
    return deepest


JSON_TEXT = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='[]{}"\\,:aé\n'),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(alphabet='[]{}"\\a'), inner, max_size=4),
    max_leaves=40,
)


@pytest.mark.case("A-02")
@given(JSON_TEXT, st.booleans())
def test_depth_is_what_counting_by_hand_gives(value: object, ascii_only: bool):
    text = json.dumps(value, ensure_ascii=ascii_only).encode()

    depth = depth_by_hand(text)
    assert not jsonrpc._is_deeper(text, depth)
    assert depth == 0 or jsonrpc._is_deeper(bytearray(text), depth - 1)


@pytest.mark.case("A-02")
@given(st.text(alphabet='[]{}"', max_size=60))
@example('"[""["')
@example('["]"[')
def test_depth_is_exact_also_for_brackets_and_quotes_that_are_no_json(text: str):
    depth = depth_by_hand(text.encode())
    assert not jsonrpc._is_deeper(text.encode(), depth)
    assert depth == 0 or jsonrpc._is_deeper(text.encode(), depth - 1)


@pytest.mark.case("A-02")
def test_depth_is_exact_across_portions_of_the_work():
    hills = b"[" * 40 + b"[]" * 30_000 + b"[[]]" + b"[]" * 30_000 + b"]" * 40

    assert jsonrpc._is_deeper(hills, 41)
    assert not jsonrpc._is_deeper(hills, 42)


@pytest.mark.case("A-02")
@given(st.integers(JSON_DEPTH_MAX - 3, JSON_DEPTH_MAX + 3), st.randoms(use_true_random=False))
def test_the_limit_on_depth_is_exact(levels: int, rng: random.Random):
    opening = [rng.choice([b"[", b'{"]":', b'["[\\"",']) for _ in range(levels)]
    body = b"".join(opening) + b"0" + b"".join(b"}" if piece.startswith(b"{") else b"]" for piece in reversed(opening))
    assert json.loads(body) is not None

    if levels <= JSON_DEPTH_MAX:
        screen(body)
    else:
        with pytest.raises(RpcError, match="too deep"):
            screen(body)


@pytest.mark.case("A-03")
@given(st.binary(max_size=40), st.integers(0, 200_000))
@example(b"\xf0\x9f\x98\x80", 65_535)
@example(b"\xf0\x9f\x98\x80", 65_533)
@example(b"\xf0\x9f\x98", 65_533)
@settings(max_examples=200)
def test_utf8_is_checked_as_python_does_also_across_portions(tail: bytes, padding: int):
    body = b"x" * padding + tail
    try:
        body.decode()
    except UnicodeDecodeError:
        with pytest.raises(RpcError) as caught:
            screen(body)
        assert caught.value.code == PARSE_ERROR
    else:
        if b"\\u" not in body and body.count(b"[") + body.count(b"{") <= JSON_DEPTH_MAX:
            screen(body)


SURROGATE_PIECES = [r"\ud800", r"\uDBFF", r"\udc00", r"\uDFFF", r"\u0041", "a", r"\n", r"\\", r"\udabc", r"\"", "ud800"]


@pytest.mark.case("A-03")
@given(st.lists(st.sampled_from(SURROGATE_PIECES), max_size=6).map("".join))
def test_escaped_surrogates_are_judged_as_python_judges_them(text: str):
    body = b'{"jsonrpc":"2.0","id":1,"method":"a","params":{"x":["%b"]}}' % text.encode()
    is_lone = any(0xD800 <= ord(character) <= 0xDFFF for character in json.loads(body)["params"]["x"][0])

    for check in (screen, decode_message):
        if is_lone:
            with pytest.raises(RpcError) as caught:
                check(body)
            assert caught.value.code == PARSE_ERROR
        else:
            check(body)


@pytest.mark.case("A-01")
@pytest.mark.promise("R16")
@given(st.binary(max_size=300) | st.text(alphabet='{}[]":,\\u0d8 \n\x00é', max_size=300).map(str.encode))
@settings(max_examples=500)
def test_any_bytes_give_a_message_or_an_rpc_error_and_nothing_else(body: bytes):
    for read in (decode_message, decode_batch, decode_reply, screen, decode_object):
        assert code_of(read, body) in (None, PARSE_ERROR, INVALID_REQUEST)


@pytest.mark.case("A-01")
@pytest.mark.promise("R16")
@given(st.data())
@settings(max_examples=500)
def test_a_message_with_a_few_bytes_changed_never_escapes_the_rules(data: st.DataObject):
    body = bytearray(b'{"jsonrpc":"2.0","id":"\\u00e9","method":"a","params":{"n":[1.5e3,{"x":null}],"_meta":{"t":1}}}')
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.sampled_from(b'{}[]":,\\ud8 0\xff\n'))
    try:
        message = decode_message(body)
    except RpcError:
        return
    # What we take, the strictest reading of the standard library takes as well, and says the same.
    members = json.loads(bytes(body), object_pairs_hook=list)
    assert len({name for name, _ in members}) == len(members)
    plain = json.loads(bytes(body))
    assert message.method == plain.get("method")
    assert (None if message.id is None else json.loads(message.id)) == plain.get("id")
    assert {name: json.loads(bytes(raw)) for name, raw in message.params.items()} == plain.get("params", {})


# --- members that are there twice ------------------------------------------------------------------------------------
def spell(name: str, rng: random.Random) -> str:
    """Write a member's name with some of its characters escaped in one of the ways JSON has."""
    written = ""
    for character in name:
        short = json.dumps(character)[1:-1]
        units = character.encode("utf-16-be")
        long = "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
        slash = "\\/" if character == "/" else short
        written += rng.choice([short, short, long, slash, character if character not in '"\\\n' else short])
    return f'"{written}"'


def blank(rng: random.Random) -> str:
    return rng.choice(["", "", "", " ", "\n", "\t \r\n"])


NAMES = st.text(alphabet='ab/é😀"\\\n,:{}', max_size=3)


@pytest.mark.case("A-05")
@given(st.lists(st.tuples(NAMES, JSON_TEXT), max_size=6), st.booleans(), st.randoms(use_true_random=False))
@settings(max_examples=200)
def test_a_repeated_member_is_found_in_every_spelling_and_nothing_else_is_called_one(
    members: list[tuple[str, object]], plain: bool, rng: random.Random
):
    pairs: list[str] = []
    for name, value in members:
        if plain:
            pairs.append(json.dumps(name, ensure_ascii=False) + ":" + json.dumps(value, separators=(",", ":")))
        else:
            text = json.dumps(value, indent=rng.choice([None, 1]))
            pairs.append(blank(rng) + spell(name, rng) + blank(rng) + ":" + blank(rng) + text + blank(rng))
    body = ("{" + ",".join(pairs) + "}").encode()
    names = [name for name, _ in json.loads(body, object_pairs_hook=list)]

    if len(set(names)) < len(names):
        with pytest.raises(RpcError, match="twice") as caught:
            decode_object(body)
        assert caught.value.code == INVALID_REQUEST
    else:
        assert {name: json.loads(bytes(raw)) for name, raw in decode_object(body).items()} == dict(members)
        assert decode_object(msgspec.Raw(body)).keys() == set(names)
        assert decode_object(memoryview(body)).keys() == set(names)


@pytest.mark.case("A-28")
@pytest.mark.parametrize("spelled", ['"a%d":0', '"\\u0061%d": 0'])
def test_an_object_that_we_read_has_a_bounded_number_of_members(spelled: str):
    def body(count: int) -> bytes:
        return ("{" + ",".join(spelled % number for number in range(count)) + "}").encode()

    assert len(decode_object(body(jsonrpc.OBJECT_MEMBERS_MAX))) == jsonrpc.OBJECT_MEMBERS_MAX
    with pytest.raises(RpcError, match="members") as caught:
        decode_object(body(jsonrpc.OBJECT_MEMBERS_MAX + 1))
    assert caught.value.code == INVALID_REQUEST


@pytest.mark.case("A-02")
@pytest.mark.promise("R16")
def test_no_recursion_error_escapes_even_from_what_was_not_screened():
    limit = sys.getrecursionlimit()
    for levels in [*range(limit - 60, limit + 2), 100_000]:
        for raw in (b"[" * levels + b"]" * levels, b'{"a":1, "\\u0062":%b}' % (b"[" * levels + b"]" * levels)):
            for read in (decode_object, decode_reply):
                assert code_of(read, raw) in (None, INVALID_REQUEST)


# --- cost ------------------------------------------------------------------------------------------------------------
def filled(before: bytes, unit: bytes, after: bytes) -> bytes:
    return before + unit * ((BODY_BYTES_MAX - len(before) - len(after)) // len(unit)) + after


CALL = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":'
HOSTILE: dict[str, Callable[[], bytes]] = {
    "many keys": lambda: CALL + b"{" + b",".join(b'"%d":1' % number for number in range(350_000)) + b"}}",
    "many keys in arguments": lambda: (
        CALL + b'{"a":{' + b",".join(b'"%d":1' % number for number in range(350_000)) + b"}}}"
    ),
    "one key over and over": lambda: filled(CALL + b"{", b'"":1,', b'"":1}}'),
    "one key over and over, with blanks": lambda: filled(CALL + b"{ ", b'"": 1,', b'"":1}}'),
    "escaped keys": lambda: CALL + b"{" + b",".join(b'"\\u0061%d":1' % number for number in range(250_000)) + b"}}",
    "one long escaped key": lambda: filled(CALL + b'{"', b"\\n", b'":1}}'),
    "million items": lambda: filled(CALL + b'{"a":[', b"1,", b"1]}}"),
    "million empty arrays": lambda: filled(CALL + b'{"a":[', b"[],", b"1]}}"),
    "hills of 60 levels": lambda: filled(CALL + b'{"a":[', b"[" * 60 + b"]" * 60 + b",", b"1]}}"),
    "one long string": lambda: filled(CALL + b'{"a":"', b"x", b'"}}'),
    "string of backslashes": lambda: filled(CALL + b'{"a":[[' + b"[]," * 70 + b'"', b"\\\\", b'"]]}}'),
    "string of quotes": lambda: filled(CALL + b'{"a":[[' + b"[]," * 70 + b'"', b'\\"', b'"]]}}'),
    "strings of brackets": lambda: filled(CALL + b'{"a":[', b'"[",[],', b"1]}}"),
    "empty strings": lambda: filled(CALL + b'{"a":[' + b"[]," * 70, b'"",', b"1]}}"),
    "surrogate pairs": lambda: filled(CALL + b'{"a":"', b"\\ud83d\\ude00", b'"}}'),
    "emoji": lambda: filled(CALL + b'{"a":"', "😀".encode(), b'"}}'),
    "accents between brackets": lambda: filled(CALL + b'{"a":[', '["é"],'.encode(), b"1]}}"),
    "blanks": lambda: filled(CALL + b'{"a":1', b" ", b"}}"),
    "newlines between members": lambda: (
        CALL + b"{" + b",\n".join(b'"%d": 1' % number for number in range(250_000)) + b"}}"
    ),
    "openers": lambda: filled(b"", b"[", b""),
    "closers": lambda: filled(b"", b"]", b""),
    "quotes": lambda: filled(b"", b'"', b""),
    "backslashes": lambda: filled(b"", b"\\", b""),
    "continuation bytes": lambda: filled(b'"', b"\x80", b""),
    "long number": lambda: filled(CALL + b'{"a":', b"9", b"}}"),
    "batch of numbers": lambda: filled(b"[", b"1,", b"1]"),
    "batch of objects": lambda: filled(b"[", b"{},", b"{}]"),
}


@pytest.mark.case("A-28", "D-31")
@pytest.mark.promise("R16")
@pytest.mark.parametrize("name", HOSTILE)
def test_four_hostile_mebibytes_cost_little(name: str):
    body = HOSTILE[name]()
    read = decode_batch if name.startswith("batch") else decode_message
    ours = [cpu_s(lambda: code_of(read, body)) for _ in range(3)]
    theirs = [cpu_s(lambda: json.loads(ORDINARY)) for _ in range(3)]

    assert min(ours) / len(body) < COST_MAX * min(theirs) / len(ORDINARY)


# --- ids -------------------------------------------------------------------------------------------------------------
@pytest.mark.case("A-06")
@given(st.integers() | st.text().filter(lambda text: text.isprintable()))
def test_an_id_comes_back_exactly_as_it_was_sent(value: int | str):
    for written in {json.dumps(value), json.dumps(value, ensure_ascii=False)}:
        raw = written.encode()
        if len(raw) > ID_BYTES_MAX:
            continue
        message = decode_message(b'{"jsonrpc":"2.0","id": %b ,"method":"ping"}' % raw)
        assert message.id == raw
        assert jsonrpc.result_parts(message.id) + b"{}}" == b'{"jsonrpc":"2.0","id":%b,"result":{}}' % raw


@pytest.mark.case("A-06")
def test_seven_and_the_string_seven_stay_different():
    assert decode_message(PING.replace(b":1,", b":7,")).id == b"7"
    assert decode_message(PING.replace(b":1,", b':"7",')).id == b'"7"'


# --- batches ---------------------------------------------------------------------------------------------------------
@pytest.mark.case("A-04")
def test_a_batch_gives_its_messages_in_order_and_errors_in_their_places():
    items = [
        PING,
        b'{"jsonrpc":"2.0","method":"a"}',
        b"7",
        b'{"jsonrpc":"2.0","id":"x","method":1}',
        b"[]",
        b'{"jsonrpc":"2.0","id":2,"method":"b","method":"c"}',
        b'{"jsonrpc":"2.0","id":3,"result":{}}',
    ]

    read = decode_batch(b" [" + b" ,\n".join(items) + b"]")

    assert [type(item) for item in read] == [Message, Message, RpcError, RpcError, RpcError, RpcError, Message]
    assert [item.id for item in read] == [b"1", None, None, b'"x"', None, None, b"3"]
    assert all(item.code == INVALID_REQUEST for item in read if isinstance(item, RpcError))


@pytest.mark.case("A-04")
@pytest.mark.parametrize("count", [0, BATCH_MESSAGES_MAX + 1, 1000])
def test_an_empty_or_an_oversize_batch_is_refused_as_a_whole(count: int):
    with pytest.raises(RpcError) as caught:
        decode_batch(b"[" + b",".join([PING] * count) + b"]")

    assert caught.value.code == INVALID_REQUEST


@pytest.mark.case("A-04")
def test_a_batch_may_be_exactly_as_long_as_the_limit():
    assert len(decode_batch(b"[" + b",".join([PING] * BATCH_MESSAGES_MAX) + b"]")) == BATCH_MESSAGES_MAX


@pytest.mark.case("A-04")
@pytest.mark.parametrize(
    ("body", "code"),
    [
        (PING, INVALID_REQUEST),
        (b"7", INVALID_REQUEST),
        (b"[", PARSE_ERROR),
        (b"[1,]", PARSE_ERROR),
        (b"[%b" % PING, PARSE_ERROR),
        (b"[%b]]" % PING, PARSE_ERROR),
        (b'["\xff"]', PARSE_ERROR),
    ],
)
def test_what_is_no_batch_is_refused(body: bytes, code: int):
    with pytest.raises(RpcError) as caught:
        decode_batch(body)

    assert caught.value.code == code


@pytest.mark.parametrize(("body", "expected"), [(b"[", True), (b" \t\r\n[1]", True), (b"{}", False), (b"", False)])
def test_an_array_is_told_by_its_first_character(body: bytes, expected: bool):
    assert jsonrpc.is_array(body) is expected
    assert jsonrpc.is_array(bytearray(body)) is expected


# --- replies of servers ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_reply_is_read_in_every_form_it_may_have(kind: Any):
    result = decode_reply(kind('{"jsonrpc":"2.0","id":"é","result":{"a": 1},"more":[1]}'.encode()))
    assert (result.id, bytes(result.result or b""), result.error, result.method) == (
        '"é"'.encode(),
        b'{"a": 1}',
        None,
        None,
    )

    error = decode_reply(kind(b'{"jsonrpc":"2.0","id":7,"error":{"code":-1,"message":"m","data":null}}'))
    assert (error.id, bytes(error.error or b"")) == (b"7", b'{"code":-1,"message":"m","data":null}')

    note = decode_reply(kind(b'{"jsonrpc":"2.0","method":"n/x","params":{"a":1}}'))
    assert (note.id, note.method, bytes(note.params or b"")) == (None, "n/x", b'{"a":1}')

    asked = decode_reply(kind(b'{"jsonrpc":"2.0","id":0,"method":"ping"}'))
    assert (asked.id, asked.method, asked.params) == (b"0", "ping", None)


@pytest.mark.case("B-16")
@pytest.mark.parametrize("id_member", [b"", b'"id":null,'])
def test_an_error_without_an_id_is_an_error_of_nobody_in_particular(id_member: bytes):
    reply = decode_reply(b'{"jsonrpc":"2.0",%b"error":{"code":-32700,"message":"?"}}' % id_member)

    assert reply.id is None
    assert reply.error is not None


@pytest.mark.case("B-16")
@pytest.mark.parametrize(
    ("data", "code", "request_id"),
    [
        (b"", PARSE_ERROR, None),
        (b"<html><body>502 Bad Gateway", PARSE_ERROR, None),
        (b'{"jsonrpc":"2.0","id":1,"result":{"a":NaN}}', PARSE_ERROR, None),
        (b'{"jsonrpc":"2.0","id":1,"result":{"a":"\xff"}}', PARSE_ERROR, None),
        (b'{"jsonrpc":"2.0","id":1,"result":{"a":"\\ud800"}}', PARSE_ERROR, None),
        (b'{"jsonrpc":"2.0","id":1,"result":{}} {', PARSE_ERROR, None),
        (b"[]", INVALID_REQUEST, None),
        (b"null", INVALID_REQUEST, None),
        (b"{}", INVALID_REQUEST, None),
        (b'{"id":1,"result":{}}', INVALID_REQUEST, None),
        (b'{"jsonrpc":2,"id":1,"result":{}}', INVALID_REQUEST, None),
        (b'{"jsonrpc":"1.0","id":1,"result":{}}', INVALID_REQUEST, b"1"),
        (b'{"jsonrpc":"2.0","id":1}', INVALID_REQUEST, b"1"),
        (b'{"jsonrpc":"2.0","id":1,"method":""}', INVALID_REQUEST, b"1"),
        (b'{"jsonrpc":"2.0","id":1,"method":7}', INVALID_REQUEST, None),
        (b'{"jsonrpc":"2.0","result":{}}', INVALID_REQUEST, None),
        (b'{"jsonrpc":"2.0","id":null,"result":{}}', INVALID_REQUEST, None),
        (b'{"jsonrpc":"2.0","id":1.0,"result":{}}', INVALID_REQUEST, None),
        (b'{"jsonrpc":"2.0","id":true,"result":{}}', INVALID_REQUEST, None),
        (b'{"jsonrpc":"2.0","id":"%b","result":{}}' % (b"x" * ID_BYTES_MAX), INVALID_REQUEST, None),
        (b'{"jsonrpc":"2.0","id":1,"result":null}', INVALID_REQUEST, b"1"),
        (b'{"jsonrpc":"2.0","id":1,"result":[]}', INVALID_REQUEST, b"1"),
        (b'{"jsonrpc":"2.0","id":1,"result":{},"error":{"code":1,"message":""}}', INVALID_REQUEST, b"1"),
        (b'{"jsonrpc":"2.0","id":1,"result":{},"method":"x"}', INVALID_REQUEST, b"1"),
        (b'{"jsonrpc":"2.0","id":1,"error":"broken"}', INVALID_REQUEST, b"1"),
        (b'{"jsonrpc":"2.0","id":1,"error":{"message":"x"}}', INVALID_REQUEST, b"1"),
        (b'{"jsonrpc":"2.0","id":1,"error":{"code":"x","message":"x"}}', INVALID_REQUEST, b"1"),
        (b'{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":null}}', INVALID_REQUEST, b"1"),
        (b'{"jsonrpc":"2.0","method":"x","params":[]}', INVALID_REQUEST, None),
        (b'{"jsonrpc":"2.0","id":1,"method":"x","params":null}', INVALID_REQUEST, b"1"),
    ],
)
def test_a_malformed_reply_is_a_typed_error_that_names_the_call_if_it_can(
    data: bytes, code: int, request_id: bytes | None
):
    with pytest.raises(RpcError) as caught:
        decode_reply(data)

    assert (caught.value.code, caught.value.id) == (code, request_id)


# --- messages to bytes -----------------------------------------------------------------------------------------------
def test_what_is_written_reads_back_as_it_was():
    request = decode_message(jsonrpc.request(b'"7"', 'a"b', b'{"x": 1}'))
    assert (request.id, request.method, bytes(request.params["x"])) == (b'"7"', 'a"b', b"1")

    notification = decode_message(jsonrpc.notification("é", bytearray(b"{}")))
    assert (notification.id, notification.method, notification.params) == (None, "é", {})

    assert json.loads(jsonrpc.error_message(b"7", -5, 'a "quoted"\nline', b'{"x":1}')) == {
        "jsonrpc": "2.0",
        "id": 7,
        "error": {"code": -5, "message": 'a "quoted"\nline', "data": {"x": 1}},
    }
    assert json.loads(jsonrpc.error_message(None, -5, "m")) == {
        "jsonrpc": "2.0",
        "id": None,
        "error": {"code": -5, "message": "m"},
    }


def test_an_encoded_object_has_its_values_byte_for_byte():
    members = decode_object(b'{ "a" : [ 1.0 , 1e2 ] , "\\u0062" : "\\u00e9" }')

    assert jsonrpc.encode_object(members) == b'{"a":[ 1.0 , 1e2 ],"b":"\\u00e9"}'


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@given(value=JSON_TEXT, indent=st.sampled_from([None, 0, 2, "\t"]), line_end=st.sampled_from(["\n", "\r\n", "\r"]))
def test_one_line_never_has_a_line_end_and_says_the_same(kind: Any, value: object, indent: Any, line_end: str):
    raw = json.dumps(value, indent=indent).replace("\n", line_end).encode()

    line = bytes(jsonrpc.one_line(kind(raw)))

    assert b"\n" not in line
    assert b"\r" not in line
    assert json.loads(line) == value
    if b"\n" not in raw and b"\r" not in raw:
        assert line == raw


@pytest.mark.parametrize("raw", [b'{"a":"x\ny"}', b'{"a":"x\ry"}', b"{\n", b"[\n" * 5000])
def test_one_line_refuses_line_ends_that_are_not_between_tokens(raw: bytes):
    with pytest.raises(RpcError):
        jsonrpc.one_line(raw)


# --- the short way ---------------------------------------------------------------------------------------------------
MEMBERS = [
    b'"jsonrpc":"2.0"', b'"jsonrpc":"1.0"', b'"id":1', b'"id":"a"', b'"id":null', b'"id":1.5', b'"id":{}',
    b'"method":"m"', b'"method":""', b'"method":7', b'"m\\u0065thod":"n"', b'"params":{"a":1}', b'"params":{}',
    b'"params":[]', b'"params":{"a":1,"a":2}', b'"params":{"a": 1}', b'"params":{"\\u0061":1}', b'"params":null',
    b'"result":{}', b'"error":{}', b'"other":1',
]  # fmt: skip


def outcome(read: Callable[[], Message]) -> Message | tuple[int, bytes | None]:
    try:
        return read()
    except RpcError as error:
        return error.code, error.id


@pytest.mark.case("A-05")
@settings(max_examples=1000)
@given(st.lists(st.sampled_from(MEMBERS), max_size=6), st.sampled_from([b",", b", ", b","]))
@example([b'"jsonrpc":"2.0"', b'"id":1', b'"method":"m"', b'"params":{"a":1}'], b",")
@example([b'"method":"m"', b'"params":{"a":1}', b'"jsonrpc":"2.0"', b'"id":1'], b",")
def test_the_short_way_of_reading_a_message_says_what_the_general_way_says(members: list[bytes], comma: bytes):
    body = b"{%b}" % comma.join(members)

    def general() -> Message:
        return jsonrpc._read_envelope(decode_object(body, "the message"))

    assert outcome(lambda: decode_message(body)) == outcome(general)


@pytest.mark.parametrize(
    "body",
    [
        b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":{"b": [1]}}}',
        b'{"method":"m","params":{"a":1},"jsonrpc":"2.0","id":"x"}',
        b'{"jsonrpc":"2.0","method":"m"}',
    ],
)
def test_messages_as_clients_write_them_are_read_the_short_way(body: bytes, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(jsonrpc, "_read_envelope")

    assert decode_message(body).method == "m"


ANSWER_MEMBERS = [
    b'"jsonrpc":"2.0"', b'"jsonrpc":"1.0"', b'"jsonrpc":2', b'"id":"b1-1"', b'"id":"b1-2"', b'"id":1', b'"id":null',
    b'"id":"\\u00621-1"', b'"\\u0069d":"b1-1"', b'"result":{"a":1}', b'"result": {"a":{}} ', b'"result":{}',
    b'"result":[{}]', b'"result":"}"', b'"result":null', b'"error":{"code":1,"message":"m"}', b'"method":"m"',
    b'"params":{}', b'"other":{}', b'"result":{"a":"\xff"}', '"result":{"a":"é"}'.encode(),
]  # fmt: skip


@settings(max_examples=1000)
@given(st.lists(st.sampled_from(ANSWER_MEMBERS), max_size=5), st.sampled_from([b"", b" ", b"}", b",", b"\n"]))
@example([b'"result":{"a":1}', b'"jsonrpc":"2.0"', b'"id":"b1-1"'], b"")
@example([b'"jsonrpc":"2.0"', b'"id":"b1-1"', b'"result":{"a":1}', b'"result":{}'], b"")
@example([b'"jsonrpc":"2.0"', b'"id":"b1-1"', b'"result":{"a":1}', b'"other":{}'], b"")
def test_the_short_way_of_reading_a_result_says_what_the_general_way_says(members: list[bytes], after: bytes):
    body = b"{%b}%b" % (b",".join(members), after)

    result = read_result(body, b'"b1-1"')

    if result is not None:
        reply = decode_reply(body)
        assert reply.id == b'"b1-1"' or b"u0062" in body
        assert reply.result is not None
        assert bytes(reply.result) == result


@pytest.mark.parametrize(
    "body",
    [
        b'{"jsonrpc":"2.0","id":"b1-1","result":{"a":{"b": [1]}}}',
        b'{"result":{"a":1},"jsonrpc":"2.0","id":"b1-1"}',
        '{"jsonrpc": "2.0", "id": "b1-1", "result": {"a": "é"}}\n'.encode(),
    ],
)
def test_results_as_servers_write_them_are_read_the_short_way(body: bytes):
    assert msgspec.json.decode(read_result(body, b'"b1-1"') or b"null") == json.loads(body)["result"]


@pytest.mark.case("B-06")
@pytest.mark.parametrize(
    "body",
    [
        b'{"jsonrpc":"2.0","id":"b1-2","result":{}}',
        b'{"jsonrpc":"2.0","id":"b1-1","result":[]}',
        b'{"jsonrpc":"2.0","id":"b1-1","result":{},"error":{"code":1,"message":""}}',
        b'{"jsonrpc":"2.0","id":"b1-1","error":{"code":1,"message":""}}',
        b'{"jsonrpc":"2.0","id":"b1-1"}',
        b'{"jsonrpc":"2.0","id":"b1-1","result":{}}}',
        b'{"jsonrpc":"2.0","id":"b1-1","result":{"a":"\xff"}}',
        b"",
    ],
)
def test_what_is_no_result_of_this_very_request_is_not_read_the_short_way(body: bytes):
    assert read_result(body, b'"b1-1"') is None
