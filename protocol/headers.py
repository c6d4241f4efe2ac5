"""Checks that the headers of a modern request say what its body says, and codes header values (2026-07-28).

A gateway in front of us may route by the headers while servers act on the body, so both must agree exactly.
Specification: transports/streamable HTTP, "protocol version header", "standard headers" and "value encoding".
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from protocol.errors import HEADER_MISMATCH, INVALID_PARAMS, UNSUPPORTED_VERSION
from protocol.jsonrpc import Message, Raw, RpcError
from protocol.meta import CLIENT_CAPABILITIES_KEY, PROTOCOL_VERSION_KEY, ClientMeta
from protocol.versions import MODERN_VERSIONS

VERSION_HEADER: Final = b"mcp-protocol-version"
METHOD_HEADER: Final = b"mcp-method"
NAME_HEADER: Final = b"mcp-name"
_ROUTING_HEADERS: Final = (VERSION_HEADER, METHOD_HEADER, NAME_HEADER)

NAME_BEARING: Final[Mapping[str, str]] = MappingProxyType(
    {
        "tools/call": "name",
        "prompts/get": "name",
        "resources/read": "uri",
        "tasks/get": "taskId",
        "tasks/update": "taskId",
        "tasks/cancel": "taskId",
    }
)
"""Method → the member of `params` that `Mcp-Name` repeats (tasks: extension io.modelcontextprotocol/tasks)."""

_SENTINEL: Final = re.compile(rb"=\?base64\?(.*)\?=")
_PLAIN: Final = re.compile(r"(?! )[ -~]*(?<! )")
"""Visible ASCII and blanks, no blank at either end: what survives an HTTP field unchanged (RFC 9110 section 5.5)."""
_decode_string: Final = msgspec.json.Decoder(str).decode


def encode_value(value: str) -> bytes:
    """Return the header form of a string: as it is where that is safe, else in the base64 sentinel."""
    if _PLAIN.fullmatch(value):
        plain = value.encode()
        if not _SENTINEL.fullmatch(plain):
            return plain
    return b"=?base64?%b?=" % base64.b64encode(value.encode())


def decode_value(value: bytes) -> str | None:
    """Return the string behind a header value; None if it has no sentinel and is not ASCII, or a broken sentinel.

    Only canonical base64 is read: two spellings of one value would let a gateway and us see two values.
    """
    sentinel = _SENTINEL.fullmatch(value)
    if not sentinel:
        return value.decode() if value.isascii() else None
    try:
        decoded = base64.b64decode(sentinel[1], validate=True)
        return decoded.decode() if base64.b64encode(decoded) == sentinel[1] else None
    except (binascii.Error, UnicodeDecodeError):
        return None


def check_modern(
    headers: Mapping[bytes, bytes] | None, repeated: Collection[bytes], message: Message, meta: ClientMeta
) -> None:
    """Refuse a modern request at the first rung it misses: repeated header, `_meta`, header against body, version.

    `headers` has lower-case names and trimmed values, `repeated` the names that came more than once; None instead of
    headers (stdio) leaves their rungs out. Errors: `RpcError` -32020, -32602 or -32022 with the request's id.
    """
    try:
        if headers is not None:
            _refuse_repeated(repeated)
        version = _require_meta(meta)
        if headers is not None:
            _compare_headers(headers, message, version)
        if version not in MODERN_VERSIONS:
            data = msgspec.json.encode({"supported": MODERN_VERSIONS, "requested": version})
            raise RpcError(UNSUPPORTED_VERSION, "this protocol version is not supported", data)
    except RpcError as error:
        error.id = message.id
        raise


def _refuse_repeated(repeated: Collection[bytes]) -> None:
    for name in _ROUTING_HEADERS:
        if name in repeated:
            raise RpcError(HEADER_MISMATCH, f"the {name.decode()} header is there more than once")


def _require_meta(meta: ClientMeta) -> str:
    if not meta.version_present or not meta.capabilities:
        raise RpcError(
            INVALID_PARAMS, f"params._meta must contain {PROTOCOL_VERSION_KEY} and {CLIENT_CAPABILITIES_KEY}"
        )
    if meta.version is None:
        raise RpcError(INVALID_PARAMS, f"{PROTOCOL_VERSION_KEY} must be a string")
    return meta.version


def _compare_headers(headers: Mapping[bytes, bytes], message: Message, version: str) -> None:
    if headers.get(VERSION_HEADER) != version.encode():
        raise _mismatch(VERSION_HEADER, "the protocol version in params._meta")
    if headers.get(METHOD_HEADER) != (message.method or "").encode():
        raise _mismatch(METHOD_HEADER, "the method")
    member = NAME_BEARING.get(message.method or "")
    if member and not _names_agree(headers.get(NAME_HEADER), message.params.get(member)):
        raise _mismatch(NAME_HEADER, f"params.{member}")


def _names_agree(header: bytes | None, raw: Raw | None) -> bool:
    """Absent on both sides agrees here; that the method needs a name is for the method to say."""
    if raw is None or raw == _NULL:
        return header is None
    try:
        return header is not None and decode_value(header) == _decode_string(raw)
    except msgspec.ValidationError:
        return False


def _mismatch(header: bytes, body: str) -> RpcError:
    return RpcError(HEADER_MISMATCH, f"the {header.decode()} header does not repeat {body} of the body")


_NULL: Final = msgspec.Raw(b"null")
