"""Writes what never changes in a legacy client's session into the session id itself, signed (D-08).

Any front can therefore serve any session, also after a restart, and keeps nothing about it. The token is
`mb1.` + base64url(HMAC-SHA256 | msgpack), visible ASCII as `Mcp-Session-Id` must be (2025-11-25, transports).
It is signed, not encrypted: nothing in it is secret from the client that it was made for.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import Final

import msgspec

from protocol.jsonrpc import DECODE_ERRORS, Object
from protocol.limits import KIB

TOKEN_BYTES_MAX: Final = 4 * KIB
"""It comes back in a header with every request; a whole header block may have 16 KiB."""
_PREFIX: Final = "mb1."
_MAC_BYTES: Final = hashlib.sha256().digest_size
_PURPOSE: Final = b"mcp-bulkhead session mb1\0"
"""Signed with the payload, so that nothing else ever signed with the same key passes for a session."""
_FIELD_BYTES_MAX: Final = 1200
"""Capabilities and client info in their raw form; two of them, the rest and base64's third fit into a token."""
_NAME_CHARACTERS_MAX: Final = 64
"""Of name and version of a client whose info is cut down. They are for people; 64 characters say it all."""
_DIGEST_CHARACTERS: Final = 32  # 128 bits
_KNOWN_CAPABILITIES: Final = ("roots", "sampling", "elicitation", "tasks", "extensions", "experimental")
"""Most important first: what does not fit any more is left out, as if the client could not do it."""


class SessionFacts(msgspec.Struct, frozen=True, array_like=True):
    """What a session is about, fixed when it begins."""

    version: str
    """The legacy revision agreed on."""
    capabilities: bytes
    """The client's capabilities, raw JSON object."""
    client_info: bytes
    """The client's `clientInfo`, raw JSON object."""
    nonce: bytes
    """At least 16 random bytes: they are what makes one session different from another."""
    issued_at: int
    """Wall clock, seconds."""
    endpoint: str = ""
    """The server whose own endpoint it was made at, and is good at; "" for the endpoint of all servers."""


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(SessionFacts).decode
_members: Final = msgspec.json.Decoder(Object).decode


def mint(key: bytes, facts: SessionFacts) -> str:
    """Return the session id for these facts, at most `TOKEN_BYTES_MAX` long.

    Client info that is too large is cut down to name and version, capabilities to the ones we know.
    """
    payload = _encode(
        msgspec.structs.replace(
            facts, capabilities=_small_capabilities(facts.capabilities), client_info=_small_info(facts.client_info)
        )
    )
    token = _PREFIX + base64.urlsafe_b64encode(_sign(key, payload) + payload).rstrip(b"=").decode()
    assert len(token) <= TOKEN_BYTES_MAX, "a version or a nonce is absurdly long"
    return token


def digest(token: str) -> str:
    """Return what stands for a session where its id would be too long."""
    return hashlib.sha256(token.encode()).hexdigest()[:_DIGEST_CHARACTERS]


def read(key: bytes, token: str) -> SessionFacts | None:
    """Return the facts in a session id, None if it was not made with this key."""
    sealed = _unpack(token)
    if sealed is None or not hmac.compare_digest(_sign(key, sealed[_MAC_BYTES:]), sealed[:_MAC_BYTES]):
        return None
    try:
        return _decode(sealed[_MAC_BYTES:])
    except DECODE_ERRORS:
        return None


def _sign(key: bytes, payload: bytes) -> bytes:
    return hmac.digest(key, _PURPOSE + payload, "sha256")


def _unpack(token: str) -> bytes | None:
    if len(token) > TOKEN_BYTES_MAX or not token.startswith(_PREFIX) or not token.isascii():
        return None
    text = token[len(_PREFIX) :].encode()
    try:
        sealed = base64.b64decode(text + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        return None
    # One session has one spelling: a second one would pass for another session where ids are compared as text.
    return sealed if base64.urlsafe_b64encode(sealed).rstrip(b"=") == text else None


def _small_info(info: bytes) -> bytes:
    if len(info) <= _FIELD_BYTES_MAX:
        return info
    members = _object(info)
    return msgspec.json.encode({name: _cut(members[name]) for name in ("name", "version") if name in members})


def _cut(raw: msgspec.Raw) -> str:
    try:
        return msgspec.json.decode(raw, type=str)[:_NAME_CHARACTERS_MAX]
    except DECODE_ERRORS:
        return ""


def _small_capabilities(capabilities: bytes) -> bytes:
    if len(capabilities) <= _FIELD_BYTES_MAX:
        return capabilities
    members, kept, small = _object(capabilities), Object(), b"{}"
    for name in _KNOWN_CAPABILITIES:
        if name in members:
            attempt = msgspec.json.encode({**kept, name: members[name]})
            if len(attempt) <= _FIELD_BYTES_MAX:
                kept[name], small = members[name], attempt
    return small


def _object(raw: bytes) -> Object:
    try:
        return _members(raw)
    except DECODE_ERRORS:
        return {}
