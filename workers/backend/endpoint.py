"""Where a server is: its configured address, taken apart once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from urllib.parse import SplitResult, urlsplit

_DEFAULT_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443}


class Endpoint:
    """The address of one server. Its text forms carry no user information and no query, so they may be shown."""

    __slots__ = (
        "address",
        "authority",
        "fields",
        "header_fields",
        "host",
        "is_websocket",
        "path",
        "port",
        "target",
        "tls",
    )

    def __init__(self, url: str, headers: Iterable[tuple[str, str]] = ()) -> None:
        """Take `url` apart. `headers`: configured by the user, and checked there; sent with every request.

        Errors: `ValueError` with the reason if it is no usable URL.
        """
        parts = urlsplit(url)
        self.host, self.port = _host_and_port(parts)
        self.tls = parts.scheme in ("https", "wss")
        self.is_websocket = parts.scheme in ("ws", "wss")
        shown_host = f"[{self.host}]" if ":" in self.host else self.host
        self.address = f"{shown_host}:{self.port}"
        """For messages: host and port."""
        is_default = self.port == _DEFAULT_PORTS[parts.scheme]
        self.authority = (shown_host if is_default else self.address).encode()
        """The Host header (RFC 9110, section 7.2)."""
        self.path = parts.path or "/"
        """For messages."""
        self.target = (self.path + (f"?{parts.query}" if parts.query else "")).encode()
        """The request target (RFC 9112, section 3.2.1)."""
        self.header_fields = tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in headers)
        """The configured headers. They may be secrets."""
        self.fields = b"".join(b"%b: %b\r\n" % field for field in self.header_fields)
        """The same as field lines."""


def _host_and_port(parts: SplitResult) -> tuple[str, int]:
    if parts.scheme not in _DEFAULT_PORTS:
        raise ValueError("a server's URL must begin with http://, https://, ws:// or wss://")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a server's URL must not contain a user name or password")
    host = parts.hostname
    if not host:
        raise ValueError("a server's URL must name a host")
    text = parts.path + parts.query + host
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("a server's URL must be printable ASCII without blanks; encode other characters")
    return host, parts.port or _DEFAULT_PORTS[parts.scheme]


NOWHERE: Final = Endpoint("http://localhost/")
"""In place of the address of a server that has none because it is a command."""
