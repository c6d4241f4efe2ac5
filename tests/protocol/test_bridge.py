"""Results, errors and tools carried from one era into the other by protocol/bridge.py."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import bridge
from protocol.errors import INTERNAL_ERROR
from protocol.jsonrpc import RpcError
from tests import schemas

SERVER_INFO = b'{"name":"mcp-bulkhead","version":"1"}'
SERVER_INFO_KEY = "io.modelcontextprotocol/serverInfo"
TEXT = {"type": "text", "text": "hi"}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def to_modern(result: Any, *, cacheable: bool = False, server_info: bytes = b"") -> Any:
    return json.loads(
        bridge.result_to_modern(json.dumps(result).encode(), cacheable=cacheable, server_info=server_info)
    )


def to_legacy(result: Any) -> Any:
    return json.loads(bridge.result_to_legacy(json.dumps(result).encode(), "2025-11-25"))


# --- results to modern clients ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_legacy_result_becomes_complete_and_the_rest_of_it_stays_byte_for_byte(kind: Any):
    result = kind(
        b'{"content":[ {"type":"text","text":"\\u00e9"} ],"structuredContent":{"n":1.50,"x":null},"odd":[1 ,2]}'
    )

    assert bridge.result_to_modern(result, cacheable=False, server_info=b"") == (
        b'{"content":[ {"type":"text","text":"\\u00e9"} ],"structuredContent":{"n":1.50,"x":null},"odd":[1 ,2],'
        b'"resultType":"complete"}'
    )


def test_a_list_of_a_legacy_server_is_stale_at_once_and_private():
    assert to_modern({"tools": []}, cacheable=True) == {
        "tools": [],
        "resultType": "complete",
        "ttlMs": 0,
        "cacheScope": "private",
    }


def test_what_a_server_says_about_its_result_stays():
    said = {"resultType": "task", "ttlMs": 5, "cacheScope": "public"}

    assert to_modern(said, cacheable=True) == said


@pytest.mark.parametrize("meta", [{}, {"a": 1}, {SERVER_INFO_KEY: {"name": "theirs"}, "a": 1}, None, 7, []])
def test_our_identity_stands_in_meta_beside_what_is_there(meta: Any):
    kept = {key: value for key, value in meta.items() if key == "a"} if isinstance(meta, dict) else {}

    translated = to_modern({"_meta": meta}, server_info=SERVER_INFO)

    assert translated["_meta"] == {**kept, SERVER_INFO_KEY: json.loads(SERVER_INFO)}
    assert to_modern({}, server_info=SERVER_INFO)["_meta"] == {SERVER_INFO_KEY: json.loads(SERVER_INFO)}


@pytest.mark.case("B-16")
@pytest.mark.parametrize("result", [b"", b"null", b"7", b"[]", b'"x"', b"{", b'{"a":' + b"[" * 100_000])
def test_a_result_that_is_no_object_is_an_error_of_the_server(result: bytes):
    for translate in (
        lambda: bridge.result_to_modern(result, cacheable=True, server_info=SERVER_INFO),
        lambda: bridge.result_to_legacy(result, "2025-11-25"),
    ):
        with pytest.raises(RpcError) as caught:
            translate()
        assert caught.value.code == INTERNAL_ERROR


def test_translated_results_are_what_the_official_schemas_ask_for():
    info = SERVER_INFO
    schemas.validate("2026-07-28", "CallToolResult", to_modern({"content": [TEXT]}, server_info=info))
    schemas.validate("2026-07-28", "ListToolsResult", to_modern({"tools": []}, cacheable=True, server_info=info))
    for revision in ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"):
        modern = {"resultType": "complete", "content": [TEXT], "structuredContent": [1], "_meta": {SERVER_INFO_KEY: {}}}
        schemas.validate(revision, "CallToolResult", to_legacy(modern))


# --- results to legacy clients ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize(
    "result",
    [
        b"{}",
        b'{ "content" : [ ] , "structuredContent" : { "a" : 1.0 } , "odd" : "\\u00e9" , "_meta" : { "a" : 1 } }',
        b'{"_meta":7,"content":null}',
    ],
)
def test_a_result_with_nothing_modern_stays_byte_for_byte(kind: Any, result: bytes):
    assert bridge.result_to_legacy(kind(result), "2025-06-18") == result


def test_what_only_modern_clients_know_is_taken_out():
    result = {"resultType": "complete", "ttlMs": 9, "cacheScope": "public", "tools": [], "nextCursor": "x"}

    assert to_legacy(result) == {"tools": [], "nextCursor": "x"}
    assert to_legacy({"_meta": {SERVER_INFO_KEY: {"name": "x"}, "a": 1}}) == {"_meta": {"a": 1}}
    assert to_legacy({"_meta": {SERVER_INFO_KEY: {"name": "x"}}, "a": 1}) == {"a": 1}


@pytest.mark.parametrize("result_type", ["input_required", "task", "", 7, None])
def test_a_result_that_is_not_complete_never_reaches_a_legacy_client(result_type: Any):
    with pytest.raises(RpcError) as caught:
        to_legacy({"resultType": result_type, "content": [], "inputRequests": {}})

    assert caught.value.code == INTERNAL_ERROR


@given(JSON.filter(lambda value: not isinstance(value, dict)), st.lists(JSON | st.just(TEXT), max_size=3))
def test_structured_content_that_is_no_object_becomes_text(value: Any, content: list[Any]):
    translated = to_legacy({"content": content, "structuredContent": value, "isError": False})

    assert "structuredContent" not in translated
    assert translated["isError"] is False
    blocks = translated["content"]
    assert blocks[: len(content)] == content
    assert any(isinstance(block, dict) and said_by(block) == value for block in blocks)


def said_by(block: dict[str, Any]) -> Any:
    try:
        return json.loads(block["text"])
    except (KeyError, TypeError, ValueError):
        return object()


@pytest.mark.parametrize("text", ["[1,2]", " [ 1 , 2 ] ", "[1,\n2]"])
def test_a_text_that_says_the_same_already_is_enough(text: str):
    content = [{"type": "text", "text": "before"}, {"type": "text", "text": text}]

    assert to_legacy({"content": content, "structuredContent": [1, 2]}) == {"content": content}


@pytest.mark.parametrize("content", [None, 7, {}, "x"])
def test_text_is_made_also_where_content_is_missing_or_malformed(content: Any):
    assert to_legacy({"content": content, "structuredContent": "e"}) == {"content": [{"type": "text", "text": '"e"'}]}
    assert to_legacy({"structuredContent": 1.5}) == {"content": [{"type": "text", "text": "1.5"}]}


# --- tools -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "tool",
    [
        b'{"name":"a","inputSchema":{"type":"object","outputSchema":[]}, "odd" : 1.50}',
        b'{"name":"a","outputSchema":{"type":"object"} , "description":"outputSchema \\u00e9 execution"}',
        b'{"name":"a","outputSchema":{ "properties":{}, "type" : "object" }}',
        b'"outputSchema execution"',
        b"null",
    ],
)
def test_a_tool_with_nothing_modern_stays_byte_for_byte(tool: bytes):
    assert bridge.tool_to_legacy(msgspec.Raw(tool)) == tool


@pytest.mark.parametrize(
    "output", [{"type": "array"}, {"type": ["object"]}, {}, {"anyOf": [{"type": "object"}]}, True, None, "object"]
)
@pytest.mark.parametrize("escaped", [False, True])
def test_an_output_schema_of_no_object_is_taken_out_for_legacy_clients(output: Any, escaped: bool):
    tool = json.dumps({"name": "é", "outputSchema": output, "title": "T"}).encode()
    if escaped:
        tool = tool.replace(b"outputSchema", b"\\u006futputSchema")

    assert json.loads(bridge.tool_to_legacy(msgspec.Raw(tool))) == {"name": "é", "title": "T"}


@pytest.mark.parametrize(
    "tool", [b'{"name" : "a", "description":"execution"}', b'{"name":"a","annotations":{"execution":1}}', b"[]"]
)
def test_a_tool_with_nothing_legacy_stays_byte_for_byte(tool: bytes):
    assert bridge.tool_to_modern(msgspec.Raw(tool)) == tool


@pytest.mark.parametrize("key", [b"execution", b"\\u0065xecution"])
def test_execution_is_taken_out_for_modern_clients(key: bytes):
    tool = b'{"name":"a","%b":{"taskSupport":"optional"},"inputSchema":{"type":"object", "x":1.50}}' % key

    assert bridge.tool_to_modern(msgspec.Raw(tool)) == b'{"name":"a","inputSchema":{"type":"object", "x":1.50}}'


# --- errors ----------------------------------------------------------------------------------------------------------
@given(st.integers(-33000, 33000), st.text(max_size=20), JSON)
def test_no_code_reaches_a_client_of_an_era_that_must_not_see_it(code: int, message: str, data: Any):
    error = json.dumps({"code": code, "message": message, "data": data, "odd": 1}).encode()

    legacy = json.loads(bridge.error_to_legacy(error, "resources/read"))
    modern = json.loads(bridge.error_to_modern(error))

    assert not (-32099 <= legacy["code"] <= -32020 and legacy["code"] != -32042)
    assert modern["code"] not in (-32002, -32042)
    for translated in (legacy, modern):
        assert translated["message"].startswith(message)
        assert (translated["data"], translated["odd"]) == (data, 1)


@pytest.mark.parametrize("code", [-32700, -32600, -32601, -32602, -32603, -32000, -32019, -31001, 0, 7, -32100, -32800])
def test_an_error_both_eras_know_stays_byte_for_byte(code: int):
    error = b'{ "message" : "\\u00e9" , "code" : %d , "data" : { "x" : 1.50 } , "odd" : 1 }' % code

    assert bridge.error_to_legacy(error, "resources/read") == error
    assert bridge.error_to_modern(error) == error


def test_a_missing_resource_has_the_code_of_the_clients_era():
    modern = b'{"code":-32602,"message":"not found","data":{"uri":"a:b"}}'
    legacy = b'{"code":-32002,"message":"not found","data":{"uri":"a:b"}}'

    assert bridge.error_to_legacy(modern, "resources/read") == legacy
    assert bridge.error_to_modern(legacy) == modern
    assert bridge.error_to_legacy(legacy, "resources/read") == legacy
    assert bridge.error_to_modern(modern) == modern


def test_a_missing_capability_is_named_to_a_client_that_does_not_know_the_code():
    data = {"requiredCapabilities": {"sampling": {}, "elicitation": {"form": {}}}}
    error = json.dumps({"code": -32021, "message": "cannot", "data": data}).encode()

    translated = json.loads(bridge.error_to_legacy(error, "resources/read"))

    assert translated["code"] == INTERNAL_ERROR
    assert "sampling, elicitation" in translated["message"]
    assert translated["data"] == data


@pytest.mark.parametrize(("code", "words"), [(-32020, "headers"), (-32022, "version"), (-32023, "m"), (-32099, "m")])
def test_other_modern_codes_become_words_for_a_legacy_client(code: int, words: str):
    error = json.dumps({"code": code, "message": "m", "data": {"requested": "x"}}).encode()

    translated = json.loads(bridge.error_to_legacy(error, "resources/read"))

    assert (translated["code"], translated["data"]) == (INTERNAL_ERROR, {"requested": "x"})
    assert words in translated["message"]


def test_a_required_url_is_told_to_a_modern_client_without_the_code_it_must_not_see():
    pages = [{"url": "https://x.test/"}]
    error = json.dumps({"code": -32042, "message": "open it", "data": {"elicitations": pages}}).encode()

    assert bridge.error_to_legacy(error, "resources/read") == error
    assert json.loads(bridge.error_to_modern(error)) == {
        "code": -32021,
        "message": "open it",
        "data": {"elicitations": pages, "requiredCapabilities": {"elicitation": {"url": {}}}},
    }


@pytest.mark.parametrize("data", [None, 7, {}, {"requiredCapabilities": []}, {"requiredCapabilities": {}}])
def test_a_missing_capability_without_a_name_is_said_as_well(data: Any):
    translated = json.loads(
        bridge.error_to_legacy(json.dumps({"code": -32021, "message": "m", "data": data}).encode(), "")
    )

    assert (translated["code"], translated["data"]) == (INTERNAL_ERROR, data)
    assert "capability" in translated["message"]


@pytest.mark.case("B-16")
@pytest.mark.parametrize(
    "error", [b"", b"null", b"[]", b'"x"', b"{}", b'{"code":"x","message":"m"}', b'{"code":1}', b"{"]
)
def test_an_error_that_cannot_be_read_becomes_one_that_can(error: bytes):
    for translated in map(json.loads, (bridge.error_to_legacy(error, ""), bridge.error_to_modern(error))):
        assert translated["code"] == INTERNAL_ERROR
        assert translated["message"]


def test_a_tool_that_refuses_an_argument_named_uri_keeps_its_code_for_a_legacy_client():
    error = b'{"code":-32602,"message":"bad uri","data":{"uri":"x:y"}}'

    assert bridge.error_to_legacy(error, "tools/call") == error
