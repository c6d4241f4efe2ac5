"""Signs what clients carry for us from one request to another, so that it comes back as it was given out (D-08).

The form is a prefix + base64url(HMAC-SHA256 | payload). It is not encrypted: what is in it came to this client anyway.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import Final

_MAC_BYTES: Final = hashlib.sha256().digest_size


class Seal:
    """One kind of such texts. A text of one kind never passes for one of another, though the key is the same."""

    __slots__ = ("_characters_max", "_prefix", "_purpose")

    def __init__(self, prefix: str, purpose: bytes, characters_max: int) -> None:
        self._prefix = prefix
        self._purpose = purpose
        self._characters_max = characters_max

    def close(self, key: bytes, payload: bytes) -> str:
        """Return the text for a payload."""
        return self._prefix + base64.urlsafe_b64encode(self._sign(key, payload) + payload).rstrip(b"=").decode()

    def open(self, key: bytes, text: str) -> bytes | None:
        """Return the payload of a text, None if it was not made with this key, or is spelled otherwise than it was."""
        if len(text) > self._characters_max or not text.startswith(self._prefix) or not text.isascii():
            return None
        encoded = text[len(self._prefix) :].encode()
        try:
            sealed = base64.b64decode(encoded + b"=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
        except binascii.Error:
            return None
        # A second spelling would pass for another text where they are compared.
        if base64.urlsafe_b64encode(sealed).rstrip(b"=") != encoded:
            return None
        payload = sealed[_MAC_BYTES:]
        return payload if hmac.compare_digest(self._sign(key, payload), sealed[:_MAC_BYTES]) else None

    def _sign(self, key: bytes, payload: bytes) -> bytes:
        return hmac.digest(key, self._purpose + payload, "sha256")
