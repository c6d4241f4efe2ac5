"""Who may speak to us at all: the checks on a request's head that come before anything else (MCP transports, Security).

A browser page that has rebound a DNS name to 127.0.0.1 sends its own name in `Host`; a page that posts across origins
says where it comes from in `Origin`. Both are compared with short allow-lists, never with what the request claims.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from typing import Final

from protocol.http1 import HttpError, Request

LOOPBACK_NAMES: Final = frozenset({b"localhost", b"127.0.0.1", b"[::1]"})
_HOST = re.compile(rb"(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::([0-9]{1,5}))?\Z", re.IGNORECASE)
_ORIGIN = re.compile(rb"(https?)://(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::([0-9]{1,5}))?\Z")
_PASSED: Final = "passed"
"""In `Request.notes`: the gate that has let a request with this head pass."""


class Gate:
    """Host and Origin allow-lists."""

    def __init__(self, hosts: Collection[str], origins: Collection[str], *, any_host: bool = False) -> None:
        """`hosts` may be wildcards such as "*.example.com".

        `any_host`: no page can have rebound a name to get here, so that `Host` may be what the client likes."""
        self._any_host = any_host
        self._hosts = LOOPBACK_NAMES | {_bracketed(host) for host in hosts}
        self._wildcards = {host[1:] for host in self._hosts if host.startswith(b"*.")}
        """What certificates for "*.example.com" allow: one label more (RFC 9525, section 6.3)."""
        self._origins = frozenset(origin.encode() for origin in origins)

    def check(self, request: Request) -> None:
        """Raise `HttpError` 421 for a foreign Host, 403 for a foreign Origin."""
        if request.notes.get(_PASSED) is self:
            return
        headers = request.headers
        if not self._any_host:
            self._check_host(headers[b"host"])
        origin = headers.get(b"origin")
        if origin is not None:
            if b"origin" in request.repeated:
                raise HttpError(403, "more than one Origin header")
            self._check_origin(origin)
        request.notes[_PASSED] = self

    def _check_host(self, host: bytes) -> None:
        match = _HOST.match(host)
        if match is None or not self._is_known(match[1].lower()) or not _port_fits(match[2]):
            raise HttpError(421, "this Host name is not served here; see --allow-host")

    def _is_known(self, name: bytes) -> bool:
        return name in self._hosts or (name.find(b".") > 0 and name[name.find(b".") :] in self._wildcards)

    def _check_origin(self, origin: bytes) -> None:
        if origin in self._origins:
            return
        match = _ORIGIN.match(origin)
        if match is None or match[2] not in LOOPBACK_NAMES or not _port_fits(match[3]):
            raise HttpError(403, "this Origin is not allowed; see --allow-origin")


def _port_fits(port: bytes | None) -> bool:
    return port is None or 0 < int(port) < 65536


def _bracketed(host: str) -> bytes:
    """Return the host as it stands in a Host header: IPv6 addresses in brackets, names in lower case."""
    try:
        if ipaddress.ip_address(host).version == 6:
            return f"[{host.lower()}]".encode()
    except ValueError:
        pass
    return host.lower().encode()
