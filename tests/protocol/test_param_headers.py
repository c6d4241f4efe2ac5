"""`x-mcp-header` in protocol/param_headers.py against the official SDK's reading of the specification."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcp.shared.inbound import (
    find_invalid_x_mcp_header,
    mcp_param_headers,
    validate_mcp_param_headers,
    x_mcp_header_map,
)

from protocol.jsonrpc import RpcError
from protocol.param_headers import ParamHeader, check, find_param_headers, render

REGION = ParamHeader(("region",), "Region", "string")
COUNT = ParamHeader(("count",), "Count", "integer")
DRY = ParamHeader(("dry",), "Dry", "boolean")
DEEP = ParamHeader(("where", "zone"), "Zone", "string")
ALL = [REGION, COUNT, DRY, DEEP]


def schema(**properties: Any) -> bytes:
    return json.dumps({"type": "object", "properties": properties}).encode()


# --- declarations ----------------------------------------------------------------------------------------------------
def test_declarations_are_found_in_order_and_at_any_depth_of_properties():
    found = find_param_headers(
        schema(
            region={"type": "string", "x-mcp-header": "Region"},
            plain={"type": "string"},
            where={"type": "object", "properties": {"zone": {"type": "string", "x-mcp-header": "Zone"}}},
            count={"type": "integer", "x-mcp-header": "Count"},
            dry={"type": "boolean", "x-mcp-header": "Dry"},
        )
    )

    assert found == [REGION, DEEP, COUNT, DRY]
    assert [param.field for param in found] == [
        b"mcp-param-region",
        b"mcp-param-zone",
        b"mcp-param-count",
        b"mcp-param-dry",
    ]


@pytest.mark.parametrize("text", [b"{}", b"true", b"null", b"[]", b'{"type":"object"}', b"not json", b""])
def test_a_schema_without_the_word_declares_nothing(text: bytes):
    assert find_param_headers(text) == []


def test_an_escaped_spelling_of_the_word_is_the_word():
    text = schema(region={"type": "string", "x-mcp-header": "Region"}).replace(b"x-mcp", b"\\u0078-mcp")

    assert find_param_headers(text) == [REGION]


def test_the_word_as_data_or_as_a_property_of_that_name_declares_nothing():
    assert find_param_headers(schema(a={"type": "string", "default": {"x-mcp-header": "A"}})) == []
    assert find_param_headers(schema(a={"enum": [{"x-mcp-header": "A"}], "const": {"x-mcp-header": "A"}})) == []
    assert find_param_headers(schema(**{"x-mcp-header": {"type": "string"}})) == []


ANNOTATED = {"type": "string", "x-mcp-header": "A"}


@pytest.mark.parametrize(
    "properties",
    [
        {"a": {"type": "string", "x-mcp-header": ""}},
        {"a": {"type": "string", "x-mcp-header": "a b"}},
        {"a": {"type": "string", "x-mcp-header": "é"}},
        {"a": {"type": "string", "x-mcp-header": "a\r\nX: y"}},
        {"a": {"type": "string", "x-mcp-header": "a:"}},
        {"a": {"type": "string", "x-mcp-header": 7}},
        {"a": {"type": "string", "x-mcp-header": None}},
        {"a": {"type": "string", "x-mcp-header": True}},
        {"a": {"type": "number", "x-mcp-header": "A"}},
        {"a": {"type": "object", "x-mcp-header": "A"}},
        {"a": {"type": "array", "x-mcp-header": "A"}},
        {"a": {"type": "null", "x-mcp-header": "A"}},
        {"a": {"type": ["string"], "x-mcp-header": "A"}},
        {"a": {"x-mcp-header": "A"}},
        {"a": ANNOTATED, "b": {"type": "string", "x-mcp-header": "a"}},
        {"a": {"type": "array", "items": ANNOTATED}},
        {"a": {"anyOf": [ANNOTATED]}},
        {"a": {"type": "array", "items": {"properties": {"b": ANNOTATED}}}},
        {"a": {"$defs": {"x": ANNOTATED}}},
        {"a": {"patternProperties": {".*": ANNOTATED}}},
        {"a": {"not": ANNOTATED}},
    ],
)
def test_one_invalid_declaration_spoils_the_tool(properties: dict[str, Any]):
    text = schema(fine={"type": "string", "x-mcp-header": "Fine"}, **properties)
    assert find_invalid_x_mcp_header(json.loads(text)), "the official SDK agrees"

    with pytest.raises(ValueError, match="x-mcp-header"):
        find_param_headers(text)


def test_a_declaration_at_the_root_is_invalid():
    with pytest.raises(ValueError, match="x-mcp-header"):
        find_param_headers(b'{"type":"string","x-mcp-header":"A"}')


@pytest.mark.parametrize("text", [b'{"x-mcp-header":', b'{"x-mcp-header":"\xff"}', b"[" * 100_000 + b'"x-mcp-header"'])
def test_a_schema_that_cannot_be_read_is_invalid_too(text: bytes):
    with pytest.raises(ValueError, match="cannot be read"):
        find_param_headers(text)


@pytest.mark.case("D-31")
def test_a_deep_or_wide_schema_is_walked_without_recursion():
    deep: dict[str, Any] = ANNOTATED
    for _ in range(200):
        deep = {"type": "object", "properties": {"a": deep}}
    wide = {str(number): {"type": "string", "x-mcp-header": f"H{number}"} for number in range(10_000)}

    assert find_param_headers(json.dumps(deep).encode()) == [ParamHeader(("a",) * 200, "A", "string")]
    assert len(find_param_headers(schema(**wide))) == 10_000


KEYWORDS = [
    *("properties", "items", "anyOf", "allOf", "oneOf", "prefixItems", "not", "if", "then", "else", "contains"),
    *("$defs", "definitions", "patternProperties", "dependentSchemas", "additionalProperties", "propertyNames"),
    *(
        "unevaluatedItems",
        "unevaluatedProperties",
        "contentSchema",
        "default",
        "const",
        "enum",
        "examples",
        "$ref",
        "a",
    ),
]
SCHEMA = st.recursive(
    st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["string", "integer", "boolean", "number", "object", 7]),
            "x-mcp-header": st.sampled_from(["A", "a", "B", "C-1", "", "é", 7, None]),
        },
    )
    | st.sampled_from([True, None, 7, "x"]),
    lambda inner: st.builds(
        lambda keyword, value, extra: {**extra, keyword: value},
        st.sampled_from(["properties"] * 10 + KEYWORDS),
        st.dictionaries(st.sampled_from(["p", "q", "r"]), inner, max_size=3) | st.lists(inner, max_size=2) | inner,
        st.fixed_dictionaries({}, optional={"type": st.just("object"), "x-mcp-header": st.just("D")}),
    ),
    max_leaves=6,
)


@given(SCHEMA)
@settings(max_examples=500)
def test_declarations_are_those_the_official_sdk_finds(root: Any):
    text = json.dumps(root).encode()

    if find_invalid_x_mcp_header(root) is not None:
        with pytest.raises(ValueError, match="x-mcp-header"):
            find_param_headers(text)
    else:
        assert {param.path: param.header for param in find_param_headers(text)} == x_mcp_header_map(root)


# --- writing ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (b"", {}),
        (b"{}", {}),
        (b"null", {}),
        (b"[]", {}),
        (b'{"region":null,"where":null}', {}),
        (b'{"region":"eu"}', {b"mcp-param-region": b"eu"}),
        (b'{"region":""}', {b"mcp-param-region": b""}),
        ('{"region":"é"}'.encode(), {b"mcp-param-region": b"=?base64?w6k=?="}),
        (b'{"region":"a\\nb"}', {b"mcp-param-region": b"=?base64?YQpi?="}),
        (b'{"region":{},"count":[1],"dry":{}}', {}),
        (b'{"count":42}', {b"mcp-param-count": b"42"}),
        (b'{"count":42.0}', {b"mcp-param-count": b"42"}),
        (b'{"count":1e2}', {b"mcp-param-count": b"100"}),
        (b'{"count":1.5}', {b"mcp-param-count": b"1.5"}),
        (b'{"count":-7}', {b"mcp-param-count": b"-7"}),
        (b'{"count":9007199254740993}', {b"mcp-param-count": b"9007199254740993"}),
        (b'{"count":1e999}', {}),
        (b'{"count":%b}' % (b"9" * 5000), {}),
        (b'{"dry":true}', {b"mcp-param-dry": b"true"}),
        (b'{"dry":false}', {b"mcp-param-dry": b"false"}),
        (b'{"where":{"zone":"z"}}', {b"mcp-param-zone": b"z"}),
        (b'{"where":"z"}', {}),
        (b'{"r\\u0065gion":"eu"}', {b"mcp-param-region": b"eu"}),
    ],
)
def test_arguments_become_headers_where_a_header_can_say_them(arguments: bytes, expected: dict[bytes, bytes]):
    assert dict(render(arguments, ALL)) == expected


@pytest.mark.case("A-05")
@pytest.mark.parametrize("arguments", [b'{"region":"a","region":"b"}', b'{"where":{"zone":"a","z\\u006fne":"b"}}'])
def test_an_argument_that_is_there_twice_has_no_header(arguments: bytes):
    with pytest.raises(RpcError, match="twice"):
        render(arguments, ALL)
    assert "twice" in (check(arguments, ALL, {}, ()) or "")


SCALAR = (
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.text(max_size=8)
    | st.floats(allow_nan=False, allow_infinity=False)
)
ARGUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "region": SCALAR,
        "count": SCALAR,
        "dry": SCALAR,
        "where": SCALAR | st.fixed_dictionaries({}, optional={"zone": SCALAR | st.just({})}),
        "other": SCALAR,
    },
)
SCHEMA_OF_ALL = {
    "type": "object",
    "properties": {
        "region": {"type": "string", "x-mcp-header": "Region"},
        "count": {"type": "integer", "x-mcp-header": "Count"},
        "dry": {"type": "boolean", "x-mcp-header": "Dry"},
        "where": {"type": "object", "properties": {"zone": {"type": "string", "x-mcp-header": "Zone"}}},
    },
}


@pytest.mark.case("A-12")
@given(ARGUMENTS)
def test_the_official_sdk_accepts_the_headers_we_write_and_we_accept_its(arguments: dict[str, Any]):
    raw = json.dumps(arguments).encode()
    ours = {name.decode(): value.decode() for name, value in render(raw, ALL)}
    theirs = mcp_param_headers(x_mcp_header_map(SCHEMA_OF_ALL), arguments)

    assert validate_mcp_param_headers(SCHEMA_OF_ALL, arguments, ours) is None
    assert check(raw, ALL, {name.lower().encode(): value.encode() for name, value in theirs.items()}, ()) is None


# --- checking --------------------------------------------------------------------------------------------------------
@pytest.mark.case("A-12")
@pytest.mark.parametrize(
    ("arguments", "headers"),
    [
        (b'{"region":"eu"}', {}),
        (b'{"region":"eu"}', {b"mcp-param-region": b"us"}),
        (b'{"region":"eu"}', {b"mcp-param-region": b"EU"}),
        (b'{"region":"eu"}', {b"mcp-param-region": b"=?base64?ZXU?="}),
        (b'{"region":"eu"}', {b"mcp-param-region": b"\xe9"}),
        (b"{}", {b"mcp-param-region": b"eu"}),
        (b'{"region":null}', {b"mcp-param-region": b"null"}),
        (b'{"region":{}}', {b"mcp-param-region": b"{}"}),
        (b"", {b"mcp-param-zone": b"x"}),
        (b'{"count":42}', {b"mcp-param-count": b"43"}),
        (b'{"count":42}', {b"mcp-param-count": b"42.5"}),
        (b'{"count":42}', {b"mcp-param-count": b"4.2e1"}),
        (b'{"count":42}', {b"mcp-param-count": b"+42"}),
        (b'{"count":42}', {b"mcp-param-count": b"42."}),
        (b'{"count":42}', {b"mcp-param-count": b" 42"}),
        (b'{"count":9007199254740993}', {b"mcp-param-count": b"9007199254740992"}),
        (b'{"count":"42"}', {b"mcp-param-count": b"42.0"}),
        (b'{"count":true}', {b"mcp-param-count": b"1"}),
        (b'{"count":%b}' % (b"9" * 5000), {b"mcp-param-count": b"9" * 5000}),
        (b'{"dry":true}', {b"mcp-param-dry": b"True"}),
        (b'{"dry":true}', {b"mcp-param-dry": b"1"}),
        (b'{"where":{"zone":"a"}}', {b"mcp-param-zone": b"b"}),
    ],
)
def test_a_header_that_does_not_repeat_its_argument_is_named(arguments: bytes, headers: dict[bytes, bytes]):
    reason = check(arguments, ALL, headers, ())

    assert reason is not None
    assert reason.startswith("the Mcp-Param-")


@pytest.mark.case("A-12")
@pytest.mark.parametrize(
    ("arguments", "headers"),
    [
        (b'{"region":"eu"}', {b"mcp-param-region": b"eu", b"mcp-param-unknown": b"anything"}),
        (b'{"region":"eu"}', {b"mcp-param-region": b"=?base64?ZXU=?="}),
        (b'{"count":42}', {b"mcp-param-count": b"42.0"}),
        (b'{"count":42.0}', {b"mcp-param-count": b"42"}),
        (b'{"count":9007199254740993}', {b"mcp-param-count": b"9007199254740993"}),
        (b'{"count":0}', {b"mcp-param-count": b"-0"}),
        (b'{"count":%b}' % (b"9" * 5000), {}),
        (b'{"dry":false,"where":{"zone":null}}', {b"mcp-param-dry": b"false"}),
        (b"", {}),
    ],
)
def test_headers_that_repeat_their_arguments_pass(arguments: bytes, headers: dict[bytes, bytes]):
    assert check(arguments, ALL, headers, ()) is None


@pytest.mark.case("A-12")
def test_a_param_header_that_is_there_twice_is_refused_if_it_is_declared():
    headers = {b"mcp-param-region": b"eu"}

    assert "more than once" in (check(b'{"region":"eu"}', ALL, headers, (b"mcp-param-region",)) or "")
    assert check(b'{"region":"eu"}', ALL, headers, (b"mcp-param-other", b"x")) is None


TOLD = st.sampled_from(
    ["eu", "42", "42.0", "42.5", "-0", "0", "true", "false", "1", "1e+22", "", "=?base64?ZXU=?=", "=?base64?x?="]
)


@pytest.mark.case("A-12")
@settings(max_examples=500)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            name: st.sampled_from(["eu", 42, 42.0, 42.5, 0, -0.0, True, 1e22, None, {}, ""])
            for name in ("region", "count", "dry")
        },
    ),
    st.dictionaries(st.sampled_from(["mcp-param-region", "mcp-param-count", "mcp-param-dry"]), TOLD),
)
def test_the_verdict_is_that_of_the_official_sdk(arguments: dict[str, Any], headers: dict[str, str]):
    theirs = validate_mcp_param_headers(SCHEMA_OF_ALL, arguments, headers)
    ours = check(json.dumps(arguments).encode(), ALL, {n.encode(): v.encode() for n, v in headers.items()}, ())

    assert (ours is None) == (theirs is None)
