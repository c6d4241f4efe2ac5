"""Where a server is: its configured address, taken apart once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from urllib.parse import SplitResult, urlsplit

from protocol import unix_url
from protocol.control import Proxy

SHOWN_CHARS_MAX: Final = 200
_DEFAULT_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443}


class Endpoint:
    """The address of one server. Its text forms carry no user information and no query, so they may be shown."""

    __slots__ = (
        "address", "authority", "fields", "header_fields", "host", "is_websocket", "location", "path", "port", "proxy",
        "socket", "target", "tls",
    )  # fmt: skip

    def __init__(
        self, url: str, headers: Iterable[tuple[str, str]] = (), proxy: Proxy | None = None, location: str = ""
    ) -> None:
        """Take `url` apart. `headers`: configured by the user, and checked there; sent with every request.

        `location`: the IP address of the host, if its name is not to be looked up.
        Errors: `ValueError` with the reason if it is no usable URL.
        """
        self.socket = ""
        """The path of the Unix socket to connect to; "" for a host and port."""
        self.proxy = proxy
        """Where to connect to instead. It is told where we want to go (`workers.backend.way`)."""
        if url.startswith(unix_url.PREFIX):
            self._be_local(url)
        else:
            self._be_remote(url)
        self.location = location or self.host
        """What to connect to, if there is no proxy."""
        if location:
            self.address += f" at {location}"
        self.header_fields = tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in headers)
        """The configured headers. They may be secrets."""
        self.fields = b"".join(b"%b: %b\r\n" % field for field in self.header_fields)
        """The same as field lines."""
        if proxy is not None and not self.has_tunnel:
            # A proxy that reads along wants the whole URL (RFC 9112, section 3.2.2).
            self.target = b"http://%b%b" % (self.authority, self.target)
            self.fields += authorization_field(proxy)

    @property
    def has_tunnel(self) -> bool:
        """A proxy has to connect us with the server, because it could make nothing of what we say to each other."""
        return self.tls or self.is_websocket

    def own_path(self, location: bytes) -> str:
        """Return the path that a redirect leads to, as it may be shown; "" if it leads to another server or nowhere.

        Which other server is not shown: whoever makes a server redirect could have us name any address.
        """
        origin = b"%b://%b/" % (b"https" if self.tls else b"http", self.authority)
        if location.lower().startswith(origin):
            location = location[len(origin) - 1 :]
        path = location.partition(b"#")[0].partition(b"?")[0].decode("latin-1")
        is_path = path.startswith("/") and not path.startswith("//") and "\\" not in path
        return path if is_path and path.isascii() and path.isprintable() and len(path) <= SHOWN_CHARS_MAX else ""

    def _be_remote(self, url: str) -> None:
        parts = urlsplit(url)
        self.host, self.port = _host_and_port(parts)
        self.tls = parts.scheme in ("https", "wss")
        self.is_websocket = parts.scheme in ("ws", "wss")
        shown_host = f"[{self.host}]" if ":" in self.host else self.host
        self.address = f"{shown_host}:{self.port}"
        """For messages: host and port, or the path of the socket."""
        is_default = self.port == _DEFAULT_PORTS[parts.scheme]
        self.authority = (shown_host if is_default else self.address).encode()
        """The Host header (RFC 9110, section 7.2)."""
        self.path = parts.path or "/"
        """For messages."""
        self.target = (self.path + (f"?{parts.query}" if parts.query else "")).encode()
        """The request target (RFC 9112, section 3.2.1)."""

    def _be_local(self, url: str) -> None:
        self.socket, target = unix_url.split(url)
        _check_text(target)
        self.host, self.port = "localhost", 0
        self.tls = self.is_websocket = False
        self.address = self.socket
        self.authority = b"localhost"
        self.path = target.partition("?")[0]
        self.target = target.encode()


def authorization_field(proxy: Proxy) -> bytes:
    """Return the field line that a proxy wants to see; empty if it wants none. It is a secret."""
    return f"Proxy-Authorization: {proxy.authorization}\r\n".encode("latin-1") if proxy.authorization else b""


def _host_and_port(parts: SplitResult) -> tuple[str, int]:
    if parts.scheme not in _DEFAULT_PORTS:
        raise ValueError("a server's URL must begin with http://, https://, ws://, wss:// or unix://")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a server's URL must not contain a user name or password")
    host = parts.hostname
    if not host:
        raise ValueError("a server's URL must name a host")
    _check_text(parts.path + parts.query + host)
    return host, parts.port or _DEFAULT_PORTS[parts.scheme]


def _check_text(text: str) -> None:
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("a server's URL must be printable ASCII without blanks; encode other characters")


NOWHERE: Final = Endpoint("http://localhost/")
"""In place of the address of a server that has none because it is a command."""
