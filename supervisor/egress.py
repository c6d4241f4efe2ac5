"""How the worker of a server gets to it: which proxy stands before it, and whom it trusts. Pure, but for one path.

A proxy is the one that the server is configured with or, as with curl, what HTTP_PROXY, HTTPS_PROXY and NO_PROXY say
(their names in lower case count more). The environment sends nobody on this machine away. No message repeats a proxy's
URL: it may hold a password.
"""

from __future__ import annotations

import base64
import ipaddress
import os
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote, urlsplit

from protocol.control import Proxy, Route
from supervisor import config
from supervisor.config import ConfigError, Server
from supervisor.configuration.references import LookUp, references, resolved_url

NONE: Final = "none"
"""As a server's `proxy`: whatever the environment says, there is none."""
_USUAL_PORT: Final = 80
_USUAL: Final = {
    "http": (80, "http_proxy"), "https": (443, "https_proxy"), "ws": (80, "http_proxy"), "wss": (443, "https_proxy"),
}  # fmt: skip
"""By scheme: the port that need not be said, and the variable of the environment that may name a proxy."""
_SECRET_CHARS_MAX: Final = 1024


def route(server: Server, environment: Mapping[str, str], look_up: LookUp, *, allow_private: bool = False) -> Route:
    """Return how the worker of a server that has a URL gets to it. Errors: `ConfigError`.

    `allow_private`: what counts if the server's own configuration does not say.
    """
    files = (os.path.expanduser(file) for file in (server.ca_file, server.client_cert, server.client_key))
    # An address that was looked up is one of many, of which no proxy knows which is meant.
    proxy = None if server.address else proxy_of(server, environment, look_up)
    allowed = allow_private if server.allow_private is None else server.allow_private
    return Route(proxy, *files, address=server.address, allow_private=allowed, http2=server.http2)


def proxy_of(server: Server, environment: Mapping[str, str], look_up: LookUp) -> Proxy | None:
    """Return the proxy before a server. Errors: `ConfigError` that says where its URL is from."""
    if server.proxy == NONE or not server.url.lower().startswith(tuple(f"{scheme}://" for scheme in _USUAL)):
        return None
    if server.proxy:
        return parse(resolved_url(server.proxy, look_up))
    parts = urlsplit(server.url)
    usual_port, variable = _USUAL[parts.scheme]
    host, port = parts.hostname or "", parts.port or usual_port
    name, text = _variable(environment, variable)
    if not text or _is_here(host) or _is_excepted(_variable(environment, "no_proxy")[1], host, port):
        return None
    try:
        return parse(text)
    except ConfigError as error:
        raise ConfigError(f'{name} of the environment: {error}; set proxy = "none" if it is not to be used') from None


def check(text: str) -> str:
    """Check a server's `proxy`, as far as that is possible before its references are looked up."""
    if text != NONE and not references(text):
        parse(text)
    return text


def parse(text: str) -> Proxy:
    """Return the proxy at a URL such as http://user:password@proxy.example:3128. Errors: `ConfigError`."""
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ConfigError("the URL of the proxy cannot be read") from None
    if parts.scheme != "http":
        raise ConfigError("the URL of the proxy must begin with http://; no other kind of proxy is supported")
    if not config.is_host(host) or port == 0 or parts.path.strip("/") or parts.query or parts.fragment:
        raise ConfigError("the URL of the proxy is not http://HOST:PORT or http://USER:PASSWORD@HOST:PORT")
    return Proxy(host, port or _USUAL_PORT, _authorization(parts.username, parts.password))


def _authorization(user: str | None, password: str | None) -> str:
    if user is None:
        return ""
    secret = f"{unquote(user)}:{unquote(password or '')}".encode()
    if len(secret) > _SECRET_CHARS_MAX:
        raise ConfigError(f"user and password of the proxy are longer than {_SECRET_CHARS_MAX} characters")
    return f"Basic {base64.b64encode(secret).decode()}"


def _variable(environment: Mapping[str, str], name: str) -> tuple[str, str]:
    """Return how a variable is called that says this, and what it says."""
    found = next((word for word in (name, name.upper()) if environment.get(word)), name)
    return found, environment.get(found, "").strip()


def _is_here(host: str) -> bool:
    address = _address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def _is_excepted(exceptions: str, host: str, port: int) -> bool:
    """Whether NO_PROXY names the host: itself, a domain above it, a network, each perhaps with a port, or "*"."""
    return any(_names(entry.strip().lower(), host, port) for entry in exceptions.split(",") if entry.strip())


def _names(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    name, colon, number = entry.rpartition(":")
    if colon and number.isdigit() and (":" not in name or name.endswith("]")):
        if int(number[:6]) != port:
            return False
        entry = name
    entry = entry.strip("[]")
    address = _address(host)
    if address is not None:
        try:
            return address in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    entry = entry.removeprefix("*").removeprefix(".")
    return bool(entry) and (host == entry or host.endswith(f".{entry}"))


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
