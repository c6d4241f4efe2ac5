"""What a server says of the authorization it wants, as it may be shown: WWW-Authenticate (RFC 9110, 11.6.1; RFC 9728).

Only what people can be shown is taken out of it, because its sender is not to be trusted with more: a scheme, and the
host where the metadata of the resource is. Whatever else it is, also if it is malformed, is left alone.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

_READ_BYTES: Final = 4096
_SCHEME: Final = re.compile(r"\s*([A-Za-z][A-Za-z0-9-]{0,19})(?=[\s,]|$)")
_METADATA: Final = re.compile(r'(?:^|[\s,])resource_metadata="?(https?://[^"\s,\\]+)', re.IGNORECASE)
_HOST: Final = re.compile(r"[a-z0-9.-]{1,60}")


def described(value: bytes) -> str:
    """Return what the field says in words that continue "needs authorization", such as "(Bearer; see auth.example)".

    "" if it says nothing that can be shown. At most 90 characters.
    """
    text = value[:_READ_BYTES].decode("latin-1")
    scheme = _SCHEME.match(text)
    host = _metadata_host(text)
    parts = [*([scheme[1]] if scheme else []), *([f"see {host}"] if host else [])]
    return f"({'; '.join(parts)})" if parts else ""


def _metadata_host(text: str) -> str:
    found = _METADATA.search(text)
    try:
        host = urlsplit(found[1]).hostname if found else None
    except ValueError:  # not even brackets match
        return ""
    return host if host and _HOST.fullmatch(host) else ""
