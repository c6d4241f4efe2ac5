"""The header ladder of protocol/headers.py, and its codec, against the official SDK's reading of the specification."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcp.shared.inbound import (
    InboundLadderRejection,
    classify_inbound_request,
    decode_header_value,
    encode_header_value,
)

from protocol.errors import HEADER_MISMATCH, INVALID_PARAMS, UNSUPPORTED_VERSION
from protocol.headers import NAME_BEARING, check_modern, decode_value, encode_value
from protocol.jsonrpc import RpcError, decode_message
from protocol.meta import split_meta

VERSION_KEY = "io.modelcontextprotocol/protocolVersion"
CAPABILITIES_KEY = "io.modelcontextprotocol/clientCapabilities"
META: dict[str, Any] = {VERSION_KEY: "2026-07-28", CAPABILITIES_KEY: {}}
ABSENT = object()


def body(method: str = "tools/call", meta: Any = META, **params: Any) -> dict[str, Any]:
    if meta is not ABSENT:
        params["_meta"] = meta
    return {"jsonrpc": "2.0", "id": "é", "method": method, "params": params}


def headers_for(message: dict[str, Any], **changed: str | None) -> dict[bytes, bytes]:
    """Return the headers a well-behaved client sends; `mcp_name=None` leaves one out."""
    found: dict[str, str | None] = {"mcp-protocol-version": "2026-07-28", "mcp-method": message["method"]}
    member = NAME_BEARING.get(message["method"])
    if member in message["params"]:
        found["mcp-name"] = encode_header_value(message["params"][member])
    found.update({name.replace("_", "-"): value for name, value in changed.items()})
    return {name.encode(): value.encode() for name, value in found.items() if value is not None}


def verdict(
    message: dict[str, Any], headers: dict[bytes, bytes] | None, repeated: tuple[bytes, ...] = ()
) -> RpcError | None:
    read = decode_message(json.dumps(message).encode())
    try:
        check_modern(headers, repeated, read, split_meta(read.params))
    except RpcError as error:
        return error
    return None


def code(message: dict[str, Any], headers: dict[bytes, bytes] | None, repeated: tuple[bytes, ...] = ()) -> int | None:
    error = verdict(message, headers, repeated)
    return None if error is None else error.code


# --- codec -----------------------------------------------------------------------------------------------------------
@given(st.text() | st.text(alphabet="=?base64 \t\nAé", max_size=20) | st.text().map("=?base64?{}?=".format))
def test_any_string_survives_its_header_form(value: str):
    written = encode_value(value)

    assert decode_value(written) == value
    assert written.isascii()
    assert written == written.strip()
    assert b"\n" not in written
    assert b"\r" not in written


@given(st.text() | st.text(alphabet="=?base64 \t\nAé", max_size=20) | st.text().map("=?base64?{}?=".format))
def test_a_string_is_written_as_the_official_sdk_writes_it(value: str):
    assert encode_value(value).decode() == encode_header_value(value)


@given(
    st.text(alphabet=st.characters(max_codepoint=126, min_codepoint=32))
    | st.text(alphabet="=?base64/+AQ", max_size=12).map("=?base64?{}?=".format)
    | st.binary(max_size=12).map(lambda raw: __import__("base64").b64encode(raw).decode()).map("=?base64?{}?=".format)
)
def test_a_value_is_read_as_the_official_sdk_reads_it(value: str):
    assert decode_value(value.encode()) == decode_header_value(value)


@pytest.mark.case("A-12")
@pytest.mark.parametrize(
    "value",
    [
        b"=?base64?*?=",
        b"=?base64?YQ?=",
        b"=?base64?YQ=?=",
        b"=?base64?YR==?=",
        b"=?base64?YQ==YQ==?=",
        b"=?base64?Y Q==?=",
        b"=?base64?_-8=?=",
        b"=?base64?/w==?=",
        b"=?base64?7aCA?=",
        b"caf\xe9",
        "café".encode(),
    ],
)
def test_a_broken_value_is_read_as_nothing(value: bytes):
    assert decode_value(value) is None


# --- ladder ----------------------------------------------------------------------------------------------------------
@pytest.mark.case("A-12", "A-13")
@pytest.mark.parametrize("name", ["echo", "é", " echo", "=?base64?YQ==?=", "a\nb", ""])
@pytest.mark.parametrize("method", NAME_BEARING)
def test_a_request_that_agrees_with_its_headers_passes(method: str, name: str):
    message = body(method, **{NAME_BEARING[method]: name})

    assert code(message, headers_for(message)) is None
    assert code(message, None) is None


@pytest.mark.parametrize("method", ["tools/list", "server/discover", "no/such", "x" * 10_000, "a b"])
def test_a_method_without_a_name_needs_no_name_header_and_may_have_one(method: str):
    message = body(method)

    assert code(message, headers_for(message)) is None
    assert code(message, headers_for(message, mcp_name="anything")) is None


@pytest.mark.case("A-12")
@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"mcp_protocol_version": None}, "mcp-protocol-version"),
        ({"mcp_protocol_version": "2025-11-25"}, "mcp-protocol-version"),
        ({"mcp_protocol_version": ""}, "mcp-protocol-version"),
        ({"mcp_method": None}, "mcp-method"),
        ({"mcp_method": "tools/list"}, "mcp-method"),
        ({"mcp_method": "Tools/Call"}, "mcp-method"),
        ({"mcp_method": "=?base64?dG9vbHMvY2FsbA==?="}, "mcp-method"),
        ({"mcp_name": None}, "mcp-name"),
        ({"mcp_name": "other"}, "mcp-name"),
        ({"mcp_name": "Echo"}, "mcp-name"),
        ({"mcp_name": ""}, "mcp-name"),
        ({"mcp_name": "=?base64?ZWNobw?="}, "mcp-name"),
        ({"mcp_name": "=?base64?b3RoZXI=?="}, "mcp-name"),
        ({"mcp_name": "=?BASE64?ZWNobw==?="}, "mcp-name"),
    ],
)
def test_a_header_that_does_not_repeat_the_body_is_a_mismatch(changed: dict[str, str | None], what: str):
    message = body(name="echo")

    error = verdict(message, headers_for(message, **changed))

    assert error is not None
    assert (error.code, error.id) == (HEADER_MISMATCH, b'"\\u00e9"')
    assert what in error.message


@pytest.mark.case("A-12")
def test_a_name_may_be_in_the_sentinel_without_need():
    assert code(body(name="echo"), headers_for(body(name="echo"), mcp_name="=?base64?ZWNobw==?=")) is None


@pytest.mark.case("A-12")
@pytest.mark.parametrize("name", [7, True, ["echo"], {"a": 1}])
def test_a_name_that_is_no_string_agrees_with_no_header(name: Any):
    message = body(name=name)

    for header in (None, json.dumps(name), str(name)):
        assert code(message, headers_for(body(name="x"), mcp_name=header)) == HEADER_MISMATCH


@pytest.mark.case("A-12")
def test_a_name_header_without_a_name_in_the_body_is_a_mismatch():
    for message in (body(), body(name=None)):
        assert code(message, headers_for(body())) is None
        assert code(message, headers_for(body(), mcp_name="echo")) == HEADER_MISMATCH


@pytest.mark.case("A-12")
@pytest.mark.parametrize("name", [b"mcp-protocol-version", b"mcp-method", b"mcp-name"])
def test_a_routing_header_that_is_there_twice_is_refused_before_anything_else(name: bytes):
    message = body(name="echo", meta=ABSENT)

    assert code(message, headers_for(message), (b"x", name)) == HEADER_MISMATCH
    assert code(message, headers_for(message), (b"x", b"mcp-param-a")) == INVALID_PARAMS


@pytest.mark.case("A-13")
@pytest.mark.parametrize("with_headers", [True, False])
@pytest.mark.parametrize(
    "meta",
    [
        ABSENT,
        {},
        {VERSION_KEY: "2026-07-28"},
        {CAPABILITIES_KEY: {}},
        {VERSION_KEY: 7, CAPABILITIES_KEY: {}},
        {VERSION_KEY: None, CAPABILITIES_KEY: {}},
    ],
)
def test_missing_or_malformed_meta_is_invalid_params(meta: Any, with_headers: bool):
    message = body("tools/list", meta)

    error = verdict(message, headers_for(message) if with_headers else None)

    assert error is not None
    assert (error.code, error.id) == (INVALID_PARAMS, b'"\\u00e9"')
    assert VERSION_KEY in error.message


@pytest.mark.case("A-13")
@pytest.mark.parametrize("version", ["2025-11-25", "1900-01-01", "", "2026-07-28 ", "é"])
def test_an_unknown_version_is_told_which_ones_there_are(version: str):
    message = body("tools/list", {**META, VERSION_KEY: version})

    for headers in (None, {b"mcp-protocol-version": version.encode(), b"mcp-method": b"tools/list"}):
        error = verdict(message, headers)
        assert error is not None
        assert (error.code, error.id) == (UNSUPPORTED_VERSION, b'"\\u00e9"')
        assert json.loads(error.data) == {"supported": ["2026-07-28"], "requested": version}


VALUES = st.sampled_from(["2026-07-28", "2025-11-25", "tools/call", "echo", "=?base64?ZWNobw==?=", "=?base64?x?=", ""])


@pytest.mark.case("A-12", "A-13")
@settings(max_examples=300)
@given(
    method=st.sampled_from(["tools/call", "tools/list", "resources/read", "ping"]),
    params=st.dictionaries(st.sampled_from(["name", "uri"]), st.sampled_from(["echo", "é", 7]), max_size=2),
    meta=st.just(META)
    | st.dictionaries(
        st.sampled_from([VERSION_KEY, CAPABILITIES_KEY, "x"]), st.sampled_from(["2026-07-28", "2025-11-25"]), max_size=3
    ).map(lambda found: {key: {} if key == CAPABILITIES_KEY else value for key, value in found.items()}),
    headers=st.none()
    | st.dictionaries(st.sampled_from(["mcp-protocol-version", "mcp-method", "mcp-name"]), VALUES, max_size=3)
    | st.just({"mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call", "mcp-name": "echo"}),
)
def test_the_verdict_is_that_of_the_official_sdk(
    method: str, params: dict[str, Any], meta: dict[str, Any], headers: dict[str, str] | None
):
    message = body(method, meta, **params)
    if headers and "mcp-name" in headers and NAME_BEARING.get(method) not in params:
        headers = {name: value for name, value in headers.items() if name != "mcp-name"}  # Here we are stricter.

    theirs = classify_inbound_request(message, headers=headers)
    ours = verdict(message, None if headers is None else {n.encode(): v.encode() for n, v in headers.items()})

    assert (ours.code if ours else None) == (theirs.code if isinstance(theirs, InboundLadderRejection) else None)
    if ours and ours.data:
        assert json.loads(ours.data) == theirs.data
