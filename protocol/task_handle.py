"""Seals whose a task is into the task id that a client gets, so that any front can ask the right server (D-08).

A handle is good for one principal, and for one session if it was given out in one. Whoever makes one up, or comes with
that of another, is told that there is no such task. The form is that of `protocol.sealing`, over msgpack.
"""

from __future__ import annotations

from typing import Final

import msgspec

from protocol.jsonrpc import DECODE_ERRORS
from protocol.limits import KIB, TASK_ID_CHARACTERS_MAX
from protocol.sealing import Seal

HANDLE_CHARACTERS_MAX: Final = (TASK_ID_CHARACTERS_MAX * 4 + KIB) * 4 // 3
"""It comes in a header (`Mcp-Name`); a whole header block may have 16 KiB."""
_SEAL: Final = Seal("mbt1.", b"mcp-bulkhead task mbt1\0", HANDLE_CHARACTERS_MAX)


class TaskFacts(msgspec.Struct, frozen=True, array_like=True):
    """What a handle says to the proxy."""

    server: str
    """Its public name."""
    replica: str
    """Which one of a group has the task; "" if the server is none."""
    owner: str
    """Who may ask for it: the digest of a legacy session, or the principal, "" for somebody not authenticated."""
    task_id: str
    """The server's own, or its worker's."""
    is_kept: bool = False
    """The server's worker keeps the task; the server knows nothing of it."""


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(TaskFacts).decode


def seal(key: bytes, facts: TaskFacts) -> str:
    return _SEAL.close(key, _encode(facts))


def unseal(key: bytes, text: str) -> TaskFacts | None:
    """Return the facts in a handle, None if it was not made with this key. Whose it is, is for the caller to check."""
    payload = _SEAL.open(key, text)
    try:
        return _decode(payload) if payload is not None else None
    except DECODE_ERRORS:
        return None
