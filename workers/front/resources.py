"""The merged lists of all servers' resources and templates, and whose a URI is.

Whose it is, in this order: an alias says so; a server lists it; a template of a server fits; only one server has
resources, or only one has some with this scheme. Servers may have far more resources than they list.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import trio

from protocol import uris
from protocol.jsonrpc import RpcError, decode_object, encode_object
from protocol.versions import Era
from workers.front.merging import Learning, Merged, ask_all
from workers.front.served import Served
from workers.front.snapshot import Snapshot
from workers.logs import Log

RESOURCES: Final = "resources"
TEMPLATES: Final = "resourceTemplates"
KEYS: Final = {RESOURCES: "uri", TEMPLATES: "uriTemplate"}
_decode_str = msgspec.json.Decoder(str).decode


class Resources:
    """Merges resources and templates."""

    def __init__(self, servers: Sequence[Served], log: Log, *, owns_all: bool = False) -> None:
        """`owns_all`: there is one server, and whatever is asked for is meant for it."""
        self._servers = servers
        self._owns_all = owns_all
        self._log = log
        self._merged: dict[tuple[str, Era], Merged] = {}
        self._owners: dict[tuple[str, Era], dict[str, str]] = {}
        """By kind and era: the server of each URI, or template, that is listed."""
        self._learning = Learning()

    def serve(self, servers: Sequence[Served]) -> None:
        """From now on these are the servers."""
        self._servers = servers
        self._merged.clear()
        names = {server.name for server in servers}
        for key, owners in self._owners.items():
            self._owners[key] = {uri: server for uri, server in owners.items() if server in names}

    async def merged(self, kind: str, era: Era) -> Merged:
        """Return the list of a kind as it is now."""
        servers = self._servers
        snapshots = await ask_all(servers, era, kind)
        while servers is not self._servers:  # others have become the servers meanwhile
            servers = self._servers
            snapshots = await ask_all(servers, era, kind)
        merged = self._merged.get((kind, era))
        if merged is None or not merged.is_of(snapshots):
            merged = self._merge(kind, era, snapshots)
        return merged.aged(trio.current_time())

    async def learn(self, era: Era) -> None:
        """Get to know the lists, if that has not just been tried."""

        async def ask() -> None:
            async with trio.open_nursery() as nursery:
                for kind in KEYS:
                    nursery.start_soon(self.merged, kind, era)

        await self._learning.once(ask)

    def listed_owner(self, uri: str) -> tuple[str, str] | None:
        """Return (server, the URI as it knows it), if a list or the URI itself says so beyond doubt."""
        if (aliased := uris.read_alias(uri)) and any(server.name == aliased[0] for server in self._servers):
            return aliased
        if self._owns_all and self._servers:
            return self._servers[0].name, uri
        for (kind, _), owners in self._owners.items():
            if kind == RESOURCES and uri in owners:
                return owners[uri], uri
        return None

    def owner(self, uri: str) -> tuple[str, str] | None:
        """Return (server, the URI as it knows it), as far as can be told now."""
        if found := self.listed_owner(uri):
            return found
        for (kind, _), owners in self._owners.items():
            if kind == TEMPLATES:
                for template, server in owners.items():
                    if uri == template or uris.matches(template, uri):
                        return server, uri
        scheme = uris.scheme(uri)
        return self._only(lambda known: uris.scheme(known) == scheme, uri) or self._only(lambda _: True, uri)

    def _only(self, counts: Callable[[str], bool], uri: str) -> tuple[str, str] | None:
        servers = {server for owners in self._owners.values() for known, server in owners.items() if counts(known)}
        return (servers.pop(), uri) if len(servers) == 1 else None

    def _merge(self, kind: str, era: Era, snapshots: list[Snapshot | None]) -> Merged:
        merged = Merged.of(self._servers, snapshots)
        owners: dict[str, str] = {}
        for server, snapshot in zip(self._servers, snapshots, strict=True):
            for raw in snapshot.items if snapshot else ():
                try:
                    self._add(merged, owners, kind, server.name, raw)
                except (RpcError, msgspec.DecodeError, KeyError) as error:
                    self._log.warning("a resource was left out", server=server.name, reason=str(error)[:200])
        self._merged[kind, era] = merged
        self._owners[kind, era] = owners
        return merged

    def _add(self, merged: Merged, owners: dict[str, str], kind: str, server: str, raw: msgspec.Raw) -> None:
        members = decode_object(raw, "resource")
        uri = _decode_str(members[KEYS[kind]])
        item = bytes(raw)
        if uri in owners:
            uri = uris.alias(server, uri)
            members[KEYS[kind]] = msgspec.Raw(msgspec.json.encode(uri))
            item = encode_object(members)
        else:
            owners[uri] = server
        merged.names.append(uri)
        merged.items.append(item)
