"""The merged list of what all servers offer by name, tools or prompts, as clients of one era and kind see it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

import msgspec
import trio

from protocol import bridge, uris
from protocol.apps import has_page, is_for_pages_only, with_page
from protocol.client_profiles import STRICTEST, Profile, may_be_fitted
from protocol.jsonrpc import Object, RpcError, decode_object, encode_object
from protocol.names import Assigned, Namespace
from protocol.param_headers import ParamHeader, find_param_headers
from protocol.tool_rules import Override, apply_override
from protocol.versions import Era
from workers.front.merging import Learning, Merged, ask_all
from workers.front.served import Served
from workers.front.snapshot import Snapshot
from workers.logs import Log

COMPARED_NAMES_MAX: Final = 50
CLASHES_TOLD_MAX: Final = 20
FULL_NAME_KEY: Final = "io.github.mcp-bulkhead/fullName"
"""`_meta` of a tool whose name was made to fit: the name before that, which is understood as well."""
_decode_str = msgspec.json.Decoder(str).decode


class NamedKind(msgspec.Struct, frozen=True):
    """A kind of things that have names."""

    name: str
    noun: str
    are_tools: bool = False
    """They differ between the eras, and may have arguments that are repeated in headers."""


TOOLS: Final = NamedKind("tools", "tool", are_tools=True)
PROMPTS: Final = NamedKind("prompts", "prompt")


class _Shaped:
    """One server's list in the shape of one era, kept until the server's list changes."""

    __slots__ = ("for_pages", "items", "own_names", "param_headers", "snapshot", "with_page")

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.own_names: list[str] = []
        self.items: list[tuple[bytes, Object]] = []
        """Each as bytes, and its members."""
        self.param_headers: dict[str, list[ParamHeader]] = {}
        """By the tool's own name, only tools that declare any."""
        self.with_page: set[str] = set()
        """Own names of tools that have a page (protocol/apps.py)."""
        self.for_pages: set[str] = set()
        """Of those that only pages may call."""


class Catalogue:
    """Merges the lists of one kind of all servers."""

    def __init__(self, kind: NamedKind, servers: Sequence[Served], namespace: Namespace, log: Log) -> None:
        self._kind = kind
        self._servers: Sequence[Served] = servers
        self._namespace = namespace
        self._log = log
        self._shaped: dict[tuple[str, Era], _Shaped] = {}
        self._merged: dict[tuple[Era, Profile], Merged] = {}
        self._assigned: dict[tuple[Era, Profile], Assigned] = {}
        self.targets: dict[str, tuple[str, str]] = {}
        """(server, its own name for the tool) by every name that has been listed."""
        self._clashes: dict[Era, list[str]] = {era: [] for era in Era}
        """What has been said in the log about names that are there twice."""
        self.has_param_headers = False
        """Some tool declares, or has declared, `Mcp-Param-*` headers."""
        self._learning = Learning()

    def serve(self, servers: Sequence[Served], namespace: Namespace) -> None:
        """From now on these are the servers."""
        names = {server.name for server in servers}
        self._servers = servers
        self._namespace = namespace
        self._shaped = {key: tools for key, tools in self._shaped.items() if key[0] in names}
        self._merged.clear()
        self._assigned.clear()
        self.targets = {public: target for public, target in self.targets.items() if target[0] in names}

    async def merged(self, era: Era, profile: Profile) -> Merged:
        """Return the list as it is now, for clients of one kind."""
        servers = self._servers
        snapshots = await ask_all(servers, era, self._kind.name)
        while servers is not self._servers:  # others have become the servers meanwhile
            servers = self._servers
            snapshots = await ask_all(servers, era, self._kind.name)
        merged = self._merged.get((era, profile))
        if merged is None or not merged.is_of(snapshots):
            merged = self._merge(era, profile, snapshots)
        return merged.aged(trio.current_time())

    def _merge(self, era: Era, profile: Profile, snapshots: list[Snapshot | None]) -> Merged:
        merged = Merged.of(self._servers, snapshots)
        known = [(server.name, snapshot) for server, snapshot in zip(self._servers, snapshots, strict=True) if snapshot]
        lists = [(server, self._in_shape(server, era, snapshot)) for server, snapshot in known]
        assigned = self._namespace.assign([(server, shaped.own_names) for server, shaped in lists], profile)
        for (server, shaped), names, full_names in zip(lists, assigned.names, assigned.full_names, strict=True):
            for own, (raw, members), public, full in zip(
                shaped.own_names, shaped.items, names, full_names, strict=True
            ):
                if public:
                    override = self._namespace.override(server, own)
                    is_as_sent = public == own and override is None
                    if own in shaped.for_pages:
                        merged.for_pages.add(len(merged.names))
                        merged.varies = True
                    if public != full or (profile.characters_max and STRICTEST.fit(full) != full):
                        merged.varies = True
                    merged.names.append(public)
                    if len(self._servers) > 1 and own in shaped.with_page:
                        # Whose page it is must be said in its URI: not all servers list theirs.
                        members, is_as_sent = with_page(members, partial(uris.alias, server)), False
                    merged.items.append(raw if is_as_sent else _rendered(members, public, full, override))
        self._merged[era, profile] = merged
        self._assigned[era, profile] = assigned
        self.targets = {}
        for one in self._assigned.values():
            self.targets |= one.targets
        if assigned.clashes != self._clashes[era]:
            self._clashes[era] = assigned.clashes
            unused = ", ".join(assigned.clashes[:CLASHES_TOLD_MAX])
            self._log.warning(f"{self._kind.name} have a name that is taken; they are not offered", unused=unused)
        return merged

    def owner(self, public: str) -> tuple[str, str] | None:
        """Return (server, its own name for the tool); None if only `learn` can tell."""
        found = self.targets.get(public)
        if found is None:
            found = self._namespace.split(public)
            if found is not None and may_be_fitted(public) and not self._is_listed(found[0]):
                return None
        return found

    def unprefixed(self, name: str) -> tuple[str, str] | None:
        """Return (server, its own name for the tool) if only one server has listed a tool under this name of its own.

        So pages of tools (MCP Apps), which call their server through the client, know them.
        """
        found = {target for target in self.targets.values() if target[1] == name}
        return found.pop() if len(found) == 1 else None

    def owner_now(self, public: str) -> tuple[str, str] | None:
        """Return (server, its own name for the tool), or None if no server can be meant, as far as lists are known."""
        return self.targets.get(public) or self._namespace.split(public)

    def _is_listed(self, server: str) -> bool:
        return any((server, era) in self._shaped for era in Era)

    async def learn(self, era: Era, profile: Profile) -> None:
        """Get to know the names that clients know, if that has not just been tried."""
        await self._learning.once(lambda: self.merged(era, profile))

    def param_headers(self, server: str, era: Era, name: str) -> list[ParamHeader]:
        """Return the `Mcp-Param-*` headers a tool declares, as far as its list is known."""
        shaped = self._shaped.get((server, era))
        return shaped.param_headers.get(name, []) if shaped is not None else []

    def nearest(self, public: str) -> list[str]:
        """Return up to three known names that look like this one."""
        import difflib

        # Comparing costs some 30 µs for each name, and a client may ask for any number of wrong ones.
        names = dict.fromkeys(name for merged in self._merged.values() for name in merged.names)
        names |= dict.fromkeys(sorted(self._namespace.reserved))
        likely = [name for name in names if abs(len(name) - len(public)) <= 2 or (public and name.endswith(public))]
        return difflib.get_close_matches(public[:128], likely[:COMPARED_NAMES_MAX], n=3, cutoff=0.5)

    def _in_shape(self, server: str, era: Era, snapshot: Snapshot) -> _Shaped:
        key = (server, era)
        shaped = self._shaped.get(key)
        if shaped is not None and shaped.snapshot is snapshot:
            return shaped
        shaped = _Shaped(snapshot)
        for raw in snapshot.items:
            try:
                self._put_in_shape(era, snapshot.leg, raw, shaped)
            except (RpcError, msgspec.DecodeError, KeyError, ValueError) as error:
                self._log.warning(f"a {self._kind.noun} was left out", server=server, reason=str(error)[:200])
        self._shaped[key] = shaped
        if shaped.param_headers:
            self.has_param_headers = True
        return shaped

    def _put_in_shape(self, era: Era, leg: Era, raw: msgspec.Raw, into: _Shaped) -> None:
        members = decode_object(raw, self._kind.noun)
        name = _decode_str(members["name"])
        content = bytes(raw)
        if self._kind.are_tools:
            if b"x-mcp-header" in content and (declared := find_param_headers(bytes(members["inputSchema"]))):
                into.param_headers[name] = declared
            if leg is not era:
                translated = bridge.tool_to_modern(raw) if era is Era.MODERN else bridge.tool_to_legacy(raw)
                members = decode_object(translated, self._kind.noun)
                content = encode_object(members)
            if has_page(members):
                into.with_page.add(name)
            if is_for_pages_only(members):
                into.for_pages.add(name)
        into.own_names.append(name)
        into.items.append((content, members))


def _rendered(members: Object, public: str, full: str, override: Override | None) -> bytes:
    """Return a tool under its public name, which is `full` unless a client could not take that."""
    tool = dict(members)
    tool["name"] = msgspec.Raw(msgspec.json.encode(public))
    if override is not None:
        apply_override(tool, override)
    if public != full:
        meta = decode_object(tool["_meta"], "_meta") if "_meta" in tool else {}
        meta[FULL_NAME_KEY] = msgspec.Raw(msgspec.json.encode(full))
        tool["_meta"] = msgspec.Raw(encode_object(meta))
    return encode_object(tool)
