"""`_meta` taken apart and put together by protocol/meta.py."""

from __future__ import annotations

import json
import typing
from typing import Any

import mcp_types
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp_types import LoggingLevel

from protocol import meta
from protocol.abilities import ROOTS
from protocol.errors import INVALID_PARAMS, INVALID_REQUEST
from protocol.jsonrpc import RpcError, decode_object, encode_object
from protocol.limits import ID_BYTES_MAX
from protocol.meta import LOG_LEVELS, ClientMeta, join_meta, log_level_passes, split_meta, with_meta

FULL = (
    b'{"name":"echo","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28",'
    b'"traceparent":"00-1-2-01","io.modelcontextprotocol/clientCapabilities":{"roots":{}},"vendor/x": {"n": 1.50} ,'
    b'"io.modelcontextprotocol/clientInfo":{"name":"c"},"io.modelcontextprotocol/logLevel":"info","progressToken":"7"}}'
)
OWNED = (
    "io.modelcontextprotocol/protocolVersion",
    "io.modelcontextprotocol/clientCapabilities",
    "io.modelcontextprotocol/clientInfo",
    "io.modelcontextprotocol/logLevel",
    "progressToken",
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def split(text: str | bytes) -> ClientMeta:
    return split_meta(decode_object(b'{"_meta":%b}' % (text.encode() if isinstance(text, str) else text)))


def split_key(key: str, value: str) -> ClientMeta:
    return split(f'{{"{key}": {value} }}')


def test_our_keys_are_taken_out_and_the_rest_stays_byte_for_byte():
    params = decode_object(FULL)

    said = split_meta(params)

    assert said == ClientMeta(
        version="2026-07-28",
        version_present=True,
        capabilities=b'{"roots":{}}',
        client_info=b'{"name":"c"}',
        log_level="info",
        progress_token=b'"7"',
        rest=b'"traceparent":"00-1-2-01","vendor/x":{"n": 1.50}',
        present=True,
        abilities=ROOTS,
    )
    assert encode_object(params) == b'{"name":"echo"}'


def test_without_meta_nothing_is_said_and_params_stay():
    params = decode_object(b'{"name":"echo"}')

    assert split_meta(params) == ClientMeta()
    assert encode_object(params) == b'{"name":"echo"}'


def test_an_empty_meta_is_present_and_says_nothing():
    assert split("{}") == ClientMeta(present=True)


@pytest.mark.case("A-05")
@pytest.mark.parametrize(
    "text",
    [
        '{"progressToken":1,"progressToken":2}',
        '{"progressToken":1,"progress\\u0054oken":2}',
        '{"io.modelcontextprotocol/protocolVersion":"a","io.modelcontextprotocol\\/protocolVersion":"b"}',
        '{"vendor/x":1, "vendor/x":1}',
    ],
)
def test_a_key_that_is_there_twice_is_refused(text: str):
    with pytest.raises(RpcError, match="twice") as caught:
        split(text)

    assert caught.value.code == INVALID_REQUEST


def test_keys_with_escapes_are_known_as_well():
    """PHP writes slashes as \\/ unless told otherwise."""
    said = split('{"io.modelcontextprotocol\\/protocolVersion":"2026-07-28","progress\\u0054oken":7,"a\\/b":1}')

    assert (said.version, said.progress_token, said.rest) == ("2026-07-28", b"7", b'"a/b":1')


@pytest.mark.case("A-13")
@pytest.mark.parametrize("text", ["null", "7", '"x"', "[]", "true"])
def test_a_meta_that_is_no_object_is_refused(text: str):
    with pytest.raises(RpcError, match="_meta must be an object") as caught:
        split(text)

    assert caught.value.code == INVALID_PARAMS


@pytest.mark.case("A-13")
@pytest.mark.parametrize("text", ["null", "7", "{}", "[]", "true"])
def test_a_version_that_is_no_string_is_present_but_none(text: str):
    said = split_key(meta.PROTOCOL_VERSION_KEY, text)

    assert (said.version, said.version_present) == (None, True)


@pytest.mark.case("A-13")
@pytest.mark.parametrize("key", ["clientCapabilities", "clientInfo"])
@pytest.mark.parametrize("text", ["null", "7", '"x"', "[]", "true"])
def test_capabilities_and_client_info_must_be_objects(key: str, text: str):
    with pytest.raises(RpcError, match=key) as caught:
        split_key(f"io.modelcontextprotocol/{key}", text)

    assert caught.value.code == INVALID_PARAMS


@pytest.mark.parametrize("text", ["null", "7", '""', '"INFO"', '"trace"', "{}", '"%s"' % ("x" * 10_000)])
def test_a_log_level_must_be_one_of_the_eight(text: str):
    with pytest.raises(RpcError, match="debug, info") as caught:
        split_key(meta.LOG_LEVEL_KEY, text)

    assert caught.value.code == INVALID_PARAMS
    assert len(caught.value.message) < 200


@pytest.mark.parametrize("level", LOG_LEVELS)
def test_every_log_level_is_known(level: str):
    assert split_key(meta.LOG_LEVEL_KEY, f'"{level}"').log_level == level


@pytest.mark.parametrize("token", ["7", '"7"', "0", "-1", '""', "9" * ID_BYTES_MAX, '"é"', '"\\u00e9"'])
def test_a_progress_token_is_kept_exactly(token: str):
    assert split_key("progressToken", token).progress_token == token.encode()


def test_a_progress_token_of_null_counts_as_none():
    assert split_key("progressToken", "null").progress_token == b""


@pytest.mark.parametrize(
    "token", ["1.0", "1e3", "-1.5", "true", "{}", "[]", "9" * (ID_BYTES_MAX + 1), '"%s"' % ("x" * 300)]
)
def test_a_progress_token_of_another_type_or_length_is_refused(token: str):
    with pytest.raises(RpcError, match="progressToken") as caught:
        split_key("progressToken", token)

    assert caught.value.code == INVALID_PARAMS


@given(st.dictionaries(st.text(max_size=5), JSON, max_size=5), st.booleans())
def test_what_is_not_ours_comes_out_of_the_other_end_as_it_went_in(others: dict[str, Any], with_ours: bool):
    ours: dict[str, Any] = {OWNED[0]: "2026-07-28", OWNED[1]: {}, OWNED[4]: 7} if with_ours else {}
    params = decode_object(json.dumps({"_meta": {**others, **ours}, "a": 1}).encode())

    rest = split_meta(params).rest
    whole = with_meta(encode_object(params), rest)

    assert json.loads(join_meta([rest])) == others
    assert json.loads(whole) == ({"a": 1, "_meta": others} if others else {"a": 1})


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ([], b"{}"),
        ([b"", b""], b"{}"),
        ([b'"a":1'], b'{"a":1}'),
        ([b"", b'"a":1', b"", b'"b":2,"c":3'], b'{"a":1,"b":2,"c":3}'),
    ],
)
def test_groups_of_members_join_without_traces_of_empty_ones(groups: list[bytes], expected: bytes):
    assert join_meta(groups) == expected


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize(
    ("params", "members", "expected"),
    [
        (b"{}", b"", b"{}"),
        (b"{}", b'"x":1', b'{"_meta":{"x":1}}'),
        (b'{"a": 1}', b"", b'{"a": 1}'),
        (b'{"a": 1}', b'"x":1,"y":2', b'{"a": 1,"_meta":{"x":1,"y":2}}'),
    ],
)
def test_meta_is_added_at_the_end_of_params(kind: Any, params: bytes, members: bytes, expected: bytes):
    assert with_meta(kind(params), members) == expected


def test_the_log_levels_are_those_of_the_official_schema_in_order_of_severity():
    assert list(typing.get_args(LoggingLevel)) == list(LOG_LEVELS)
    for index, level in enumerate(LOG_LEVELS):
        assert [log_level_passes(other, level) for other in LOG_LEVELS] == [False] * index + [True] * (8 - index)


def test_what_is_no_log_level_never_passes_and_lets_nothing_pass():
    assert not log_level_passes("trace", "debug")
    assert not log_level_passes("emergency", "")
    assert not log_level_passes("emergency", "trace")


def test_the_keys_are_those_of_the_official_sdk():
    assert meta.PROTOCOL_VERSION_KEY == mcp_types.PROTOCOL_VERSION_META_KEY
    assert meta.CLIENT_CAPABILITIES_KEY == mcp_types.CLIENT_CAPABILITIES_META_KEY
    assert meta.CLIENT_INFO_KEY == mcp_types.CLIENT_INFO_META_KEY
    assert meta.LOG_LEVEL_KEY == mcp_types.LOG_LEVEL_META_KEY
    assert meta.SERVER_INFO_KEY == mcp_types.SERVER_INFO_META_KEY
