"""Turns results, errors and tools of one era into those of the other, leaving alone whatever both understand.

Legacy clients must not meet modern codes and members, nor modern clients legacy ones; everything else, unknown members
included, goes through as the server wrote it. The specification has no words for a proxy between revisions: the rules
follow from what each schema forbids (2025-11-25 and 2026-07-28, server/tools, basic/index "errors", caching).
"""

from __future__ import annotations

from typing import Final

import msgspec

from protocol.errors import (
    HEADER_MISMATCH,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    MISSING_CAPABILITY,
    RESOURCE_NOT_FOUND_LEGACY,
    UNSUPPORTED_VERSION,
    URL_ELICITATION_REQUIRED,
)
from protocol.jsonrpc import DECODE_ERRORS, Object, Raw, RpcError, encode_object
from protocol.link import Payload
from protocol.meta import SERVER_INFO_KEY

_COMPLETE: Final = msgspec.Raw(b'"complete"')
_ZERO: Final = msgspec.Raw(b"0")
_PRIVATE: Final = msgspec.Raw(b'"private"')
_MODERN_MEMBERS: Final = ("resultType", "ttlMs", "cacheScope")

_members: Final = msgspec.json.Decoder(Object).decode
_items: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode


# --- results -------------------------------------------------------------------------------------------------------
def result_to_modern(result: Payload, *, cacheable: bool, server_info: bytes) -> bytes:
    """Return a result with what a modern client must find in it; what is there already stays.

    `cacheable`: one of the results that carry cache hints; a legacy server gives none, so it is stale at once and for
    this client only. `server_info`: our own, a raw JSON object for `_meta`, or b"". Errors: `RpcError` -32603 if the
    result is no JSON object.
    """
    members = _result_members(result)
    members.setdefault("resultType", _COMPLETE)
    if cacheable:
        members.setdefault("ttlMs", _ZERO)
        members.setdefault("cacheScope", _PRIVATE)
    if server_info:
        meta = _object_or_none(members.get("_meta")) or {}
        meta[SERVER_INFO_KEY] = msgspec.Raw(server_info)
        members["_meta"] = msgspec.Raw(encode_object(meta))
    return encode_object(members)


def result_to_legacy(result: Payload, version: str) -> bytes:
    """Return a result without what legacy revisions do not know; byte for byte the same if there is nothing of it.

    `version` is the client's. Legacy revisions only ever added members that older ones ignore, so all get the same.
    Errors: `RpcError` -32603 if the result is no JSON object or not complete: a legacy client could not go on with it.
    """
    members = _result_members(result)
    result_type = members.get("resultType")
    if result_type is not None and result_type != _COMPLETE:
        raise RpcError(INTERNAL_ERROR, "the server's answer asks for something that clients of this version cannot do")
    before = dict(members)
    for name in _MODERN_MEMBERS:
        members.pop(name, None)
    _drop_server_info(members)
    _drop_odd_structured_content(members)
    return bytes(result) if members == before else encode_object(members)


def _result_members(result: Payload) -> Object:
    try:
        return _members(result)
    except DECODE_ERRORS:
        raise RpcError(INTERNAL_ERROR, "the server's answer is no JSON object, or nested too deep") from None


def _drop_server_info(members: Object) -> None:
    """Legacy clients know the server from `initialize`; here it would name one that they never spoke to."""
    meta = _object_or_none(members.get("_meta"))
    if not meta or meta.pop(SERVER_INFO_KEY, None) is None:
        return
    if meta:
        members["_meta"] = msgspec.Raw(encode_object(meta))
    else:
        del members["_meta"]


def _drop_odd_structured_content(members: Object) -> None:
    """Legacy `structuredContent` is an object. What it said otherwise stays readable as text."""
    value = members.get("structuredContent")
    if value is None or _is_object(value):
        return
    del members["structuredContent"]
    blocks = _items_or_none(members.get("content")) or []
    if not any(_says_as_text(block, value) for block in blocks):
        text = msgspec.json.encode({"type": "text", "text": bytes(value).decode(errors="replace")})
        members["content"] = msgspec.Raw(msgspec.json.encode([*blocks, msgspec.Raw(text)]))


def _says_as_text(block: Raw, value: Raw) -> bool:
    try:
        return _decode(_decode_text_block(block).text) == _decode(value)
    except DECODE_ERRORS:
        return False


class _TextBlock(msgspec.Struct, tag="text", tag_field="type"):
    text: str


_decode_text_block: Final = msgspec.json.Decoder(_TextBlock).decode
_decode: Final = msgspec.json.Decoder().decode


# --- tools ---------------------------------------------------------------------------------------------------------
def tool_to_legacy(tool: Raw) -> bytes:
    """Return a tool without an `outputSchema` that legacy clients would refuse; otherwise byte for byte the same."""
    if not _may_have(tool, b"outputSchema"):
        return bytes(tool)
    members = _object_or_none(tool)
    schema = None if members is None else members.get("outputSchema")
    if members is None or schema is None or _describes_object(schema):
        return bytes(tool)
    del members["outputSchema"]
    return encode_object(members)


def tool_to_modern(tool: Raw) -> bytes:
    """Return a tool without `execution`, which 2026-07-28 took out; otherwise byte for byte the same."""
    if not _may_have(tool, b"execution"):
        return bytes(tool)
    members = _object_or_none(tool)
    if members is None or members.pop("execution", None) is None:
        return bytes(tool)
    return encode_object(members)


def _may_have(tool: Raw, name: bytes) -> bool:
    """Tell quickly that a name is nowhere in the text; it could also be spelled with escapes."""
    text = bytes(tool)
    return name in text or b"\\u" in text


def _describes_object(schema: Raw) -> bool:
    members = _object_or_none(schema)
    return members is not None and members.get("type") == msgspec.Raw(b'"object"')


# --- errors --------------------------------------------------------------------------------------------------------
_MODERN_CODES: Final = range(-32099, HEADER_MISMATCH + 1)
"""The block the modern era keeps for itself; only `URL_ELICITATION_REQUIRED` in it is older."""


class _Error(msgspec.Struct):
    code: int
    message: str
    data: msgspec.Raw = msgspec.Raw()


_URL_ELICITATION: Final = msgspec.Raw(b'{"elicitation":{"url":{}}}')
_decode_error: Final = msgspec.json.Decoder(_Error).decode


def error_to_legacy(error: bytes, method: str) -> bytes:
    """Return a server's error object as a legacy client may see it; byte for byte the same where nothing is modern.

    `method`: of the request it answers, because one code means different things for different methods.
    """
    fault = _read_error(error)
    if fault is None:
        return _UNREADABLE
    if method == "resources/read" and fault.code == INVALID_PARAMS and "uri" in (_object_or_none(fault.data) or {}):
        # How a modern server says that a resource is not there.
        return _rewritten(error, RESOURCE_NOT_FOUND_LEGACY, fault.message)
    if fault.code in _MODERN_CODES and fault.code != URL_ELICITATION_REQUIRED:
        return _rewritten(error, INTERNAL_ERROR, _legacy_message(fault))
    return error


def error_to_modern(error: bytes) -> bytes:
    """Return a server's error object as a modern client may see it; byte for byte the same where nothing is legacy."""
    fault = _read_error(error)
    if fault is None:
        return _UNREADABLE
    if fault.code == RESOURCE_NOT_FOUND_LEGACY:
        return _rewritten(error, INVALID_PARAMS, fault.message)
    if fault.code == URL_ELICITATION_REQUIRED:
        # Only a client that cannot be asked so gets here. `data.elicitations` stays: a person can still open the pages.
        data = (_object_or_none(fault.data) or {}) | {"requiredCapabilities": _URL_ELICITATION}
        return _rewritten(error, MISSING_CAPABILITY, fault.message, encode_object(data))
    return error


def _read_error(error: bytes) -> _Error | None:
    try:
        return _decode_error(error)
    except DECODE_ERRORS:
        return None


def _legacy_message(fault: _Error) -> str:
    """Say in words what the code would have said, for a client that does not know the code."""
    if fault.code == MISSING_CAPABILITY:
        wanted = _object_or_none((_object_or_none(fault.data) or {}).get("requiredCapabilities")) or {}
        return f"{fault.message} (the client lacks a capability: {', '.join(wanted) or 'not named'})"
    if fault.code == HEADER_MISMATCH:
        return f"{fault.message} (the server found headers and body of the request to differ)"
    if fault.code == UNSUPPORTED_VERSION:
        return f"{fault.message} (the server does not support the protocol version)"
    return fault.message


def _rewritten(error: bytes, code: int, message: str, data: bytes = b"") -> bytes:
    members = _members(error)
    if data:
        members["data"] = msgspec.Raw(data)
    members["code"] = msgspec.Raw(b"%d" % code)
    members["message"] = msgspec.Raw(msgspec.json.encode(message))
    return encode_object(members)


_UNREADABLE: Final = msgspec.json.encode({"code": INTERNAL_ERROR, "message": "the server's error could not be read"})


# --- shared --------------------------------------------------------------------------------------------------------
def _object_or_none(raw: Raw | None) -> Object | None:
    try:
        return None if raw is None else _members(raw)
    except DECODE_ERRORS:
        return None


def _items_or_none(raw: Raw | None) -> list[Raw] | None:
    try:
        return None if raw is None else _items(raw)
    except DECODE_ERRORS:
        return None


def _is_object(raw: Raw) -> bool:
    return memoryview(raw)[0] == ord("{")
