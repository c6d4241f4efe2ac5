"""Writes what never changes in a legacy client's session into the session id itself, signed (D-08).

Any front can therefore serve any session, also after a restart, and keeps nothing about it. The form is that of
`protocol.sealing`, over msgpack: visible ASCII as `Mcp-Session-Id` must be (2025-11-25, transports).
"""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from protocol.jsonrpc import DECODE_ERRORS, Object
from protocol.limits import KIB
from protocol.sealing import Seal

TOKEN_BYTES_MAX: Final = 4 * KIB
"""It comes back in a header with every request; a whole header block may have 16 KiB."""
_SEAL: Final = Seal("mb1.", b"mcp-bulkhead session mb1\0", TOKEN_BYTES_MAX)
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
    token = _SEAL.close(key, payload)
    assert len(token) <= TOKEN_BYTES_MAX, "a version or a nonce is absurdly long"
    return token


def digest(token: str) -> str:
    """Return what stands for a session where its id would be too long."""
    return hashlib.sha256(token.encode()).hexdigest()[:_DIGEST_CHARACTERS]


def nonce(random: bytes, front: int, fronts: int) -> bytes:
    """Return a nonce made of random bytes, for a session that this front of so many (at most 256) opens.

    The last of the bytes also says which front that is.
    """
    last = random[-1] % (256 // fronts)
    return random[:-1] + bytes([last * fronts + front])


def owner(facts: SessionFacts, fronts: int) -> int:
    """Return which of so many fronts has the session: the one that opened it, if there were as many then.

    If there were not, the sessions that there are fall to the fronts evenly.
    """
    return facts.nonce[-1] % fronts


def read(key: bytes, token: str) -> SessionFacts | None:
    """Return the facts in a session id, None if it was not made with this key."""
    payload = _SEAL.open(key, token)
    try:
        return _decode(payload) if payload is not None else None
    except DECODE_ERRORS:
        return None


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
