"""Hands a call that its server cannot serve to a tool of another server, where the user has named one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from protocol.jsonrpc import Raw, decode_object, encode_object
from workers.front.calls import FrontCall
from workers.front.served import ServedByName

Configured = Callable[[str], Mapping[str, tuple[str, str]]]
"""Returns, for what clients see under a public name, which tool of whom takes over from each of its tools."""


class Fallback:
    """One tool that takes over."""

    def __init__(self, servers: ServedByName, server: str, tool: str) -> None:
        self._server = servers[server]
        self._tool = tool

    def take(self, call: FrontCall) -> None:
        """Serve the call, within the time that it has left."""
        params = decode_object(call.payload, "params")
        params["name"] = Raw(msgspec.json.encode(self._tool))
        call.name, call.payload = self._tool, encode_object(params)
        call.fallbacks += 1
        call.link_id = 0
        call.tried = ()
        self._server.submit(call)


class Fallbacks:
    """Who takes over from whom now. `servers`: what clients see, by public name."""

    def __init__(self, servers: ServedByName, configured: Configured) -> None:
        self._servers = servers
        self._configured = configured

    def of(self, public: str, call: FrontCall) -> Fallback | None:
        """Return what takes over a call of this server or group, if anything does."""
        if call.method != "tools/call":
            return None
        server, tool = self._configured(public).get(call.name, ("", ""))
        return Fallback(self._servers, server, tool) if server in self._servers else None
