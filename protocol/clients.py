"""The number by which workers tell clients apart, and what they have to know of one before its first call.

It is the same on every front and in every life of one, so that a client finds again what it has at a server.
"""

from __future__ import annotations

import hashlib
from typing import Final

from protocol.versions import Era

UNKNOWN: Final = 0
"""Of a client that cannot be told from others."""
_IDENTITY_BITS: Final = 54
_ABILITIES_BITS: Final = 8
_MODERN: Final = 1 << _ABILITIES_BITS


def number_of(identity: bytes, era: Era, abilities: int = 0) -> int:
    """Return the number of a client, which fits into 63 bits. `identity`: what nobody else has, or can choose."""
    digest = int.from_bytes(hashlib.sha256(identity).digest()[:8])
    known = (digest >> (64 - _IDENTITY_BITS)) | 1  # not 0, which is nobody's
    return (known << (_ABILITIES_BITS + 1)) | (_MODERN if era is Era.MODERN else 0) | (abilities & (_MODERN - 1))


def era_of(number: int) -> Era:
    """Return the era that the client speaks."""
    return Era.MODERN if number & _MODERN else Era.LEGACY


def abilities_of(number: int) -> int:
    """Return what the client can do (protocol/abilities.py), as far as that is known of it without a call."""
    return number & (_MODERN - 1)
