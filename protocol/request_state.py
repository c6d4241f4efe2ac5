"""Seals what a modern client carries to its next request of the same kind into `requestState` (B-23, D-08).

The client is not trusted with it: it is signed, belongs to one request of one principal, and ends by itself
(2026-07-28, basic, multi round-trip requests, "requestState"). The form is that of `protocol.sealing`, over msgpack.
"""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from protocol.jsonrpc import DECODE_ERRORS, Raw, RpcError, decode_object
from protocol.limits import KIB, REQUEST_STATE_BYTES_MAX
from protocol.link import Payload
from protocol.sealing import Seal

SEALED_CHARACTERS_MAX: Final = (REQUEST_STATE_BYTES_MAX + 4 * KIB) * 4 // 3
_SEAL: Final = Seal("mbs1.", b"mcp-bulkhead request state mbs1\0", SEALED_CHARACTERS_MAX)


class StateFacts(msgspec.Struct, frozen=True, array_like=True):
    """What a state says to the proxy."""

    server: str
    principal: str
    """Who may come back with it; "" for somebody who has not been authenticated."""
    request: bytes
    """`digest` of the request that it belongs to."""
    expires_at: int
    """Wall clock, seconds."""
    interaction: int
    """What the server's worker holds, 0 if nothing."""
    state: bytes
    """The server's own `requestState`, a raw JSON string, or b""."""
    replica: str = ""
    """Which one of a group gave it out; what it means is known there alone."""


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(StateFacts).decode


def seal(key: bytes, facts: StateFacts) -> str:
    return _SEAL.close(key, _encode(facts))


def unseal(key: bytes, text: str) -> StateFacts | None:
    """Return the facts in a state, None if it was not made with this key. Whether it fits is for the caller to say."""
    payload = _SEAL.open(key, text)
    try:
        return _decode(payload) if payload is not None else None
    except DECODE_ERRORS:
        return None


def digest(method: str, name: str, params: Payload) -> bytes:
    """Return what tells one request from another: method, the server's own name of what is asked for, arguments.

    Arguments that mean the same are the same, however they are written.
    """
    try:
        arguments = decode_object(params, "params").get("arguments", Raw(b"{}"))
        canonical = msgspec.json.encode(msgspec.json.decode(arguments), order="sorted")
    except (RpcError, *DECODE_ERRORS):
        canonical = bytes(params)
    parts = (method.encode(), name.encode(), canonical)
    return hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).digest()
