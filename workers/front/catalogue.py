"""The merged list of all servers' tools, as clients of one era see it.

Order: servers as configured, each server's own order inside. A server that cannot be asked is represented by its last
good list; one that never gave any is named as missing. One bad item is dropped alone (protocol.md, section 9).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Final

import msgspec
import trio

from protocol import bridge
from protocol.client_profiles import Profile, may_be_fitted
from protocol.errors import INVALID_PARAMS
from protocol.jsonrpc import Object, RpcError, decode_object, encode_object
from protocol.names import Assigned, Namespace
from protocol.param_headers import ParamHeader, find_param_headers
from protocol.tool_rules import Override, apply_override
from protocol.versions import Era
from workers.front.server_link import ServerLink, Snapshot
from workers.logs import Log

CURSOR_BYTES_MAX: Final = 1024
COMPARED_NAMES_MAX: Final = 50
LEARN_PAUSE_S: Final = 1.0
"""Between two times of asking all servers because a call named a tool that nobody was known to have."""
FULL_NAME_KEY: Final = "io.github.mcp-bulkhead/fullName"
"""`_meta` of a tool whose name was made to fit: the name before that, which is understood as well."""
_decode_str = msgspec.json.Decoder(str).decode


class Merged:
    """A merged list: public names and rendered items, in order."""

    __slots__ = ("items", "missing", "names", "private", "snapshots", "ttl_ms")

    def __init__(self) -> None:
        self.names: list[str] = []
        self.items: list[bytes] = []
        self.missing: list[str] = []
        """Servers whose list is not known."""
        self.snapshots: list[Snapshot | None] = []
        """Of all servers: what this list was made of."""
        self.ttl_ms = 0
        self.private = False

    def after(self, ours: Sequence[tuple[str, bytes]]) -> Merged:
        """Return the same list behind some tools of our own."""
        return self._with([*(name for name, _ in ours), *self.names], [*(item for _, item in ours), *self.items])

    def hidden_behind(self, ours: Sequence[tuple[str, bytes]]) -> Merged:
        """Return a list of some tools of our own that says the same about what it stands for."""
        return self._with([name for name, _ in ours], [item for _, item in ours])

    def _with(self, names: list[str], items: list[bytes]) -> Merged:
        merged = Merged()
        merged.names, merged.items = names, items
        merged.missing, merged.snapshots = self.missing, self.snapshots
        merged.ttl_ms, merged.private = self.ttl_ms, self.private
        return merged


class _Tools:
    """One server's tools in the shape of one era, kept until the server's list changes."""

    __slots__ = ("own_names", "param_headers", "snapshot", "tools")

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.own_names: list[str] = []
        self.tools: list[tuple[bytes, Object]] = []
        """Each as bytes, and its members."""
        self.param_headers: dict[str, list[ParamHeader]] = {}
        """By the tool's own name, only tools that declare any."""


class Catalogue:
    """Merges the lists of all servers, per era and kind of client."""

    def __init__(self, servers: Sequence[ServerLink], namespace: Namespace, log: Log) -> None:
        self._servers: Sequence[ServerLink] = servers
        self._namespace = namespace
        self._log = log
        self._tools: dict[tuple[str, Era], _Tools] = {}
        self._merged: dict[tuple[Era, Profile], Merged] = {}
        self._assigned: dict[tuple[Era, Profile], Assigned] = {}
        self._targets: dict[str, tuple[str, str]] = {}
        """(server, its own name for the tool) by every name that has been listed."""
        self._clashes: dict[Era, list[str]] = {era: [] for era in Era}
        """What has been said in the log about names that are there twice."""
        self._learning: trio.Event | None = None
        self._learned_at = float("-inf")

    def serve(self, servers: Sequence[ServerLink], namespace: Namespace) -> None:
        """From now on these are the servers."""
        names = {server.name for server in servers}
        self._servers = servers
        self._namespace = namespace
        self._tools = {key: tools for key, tools in self._tools.items() if key[0] in names}
        self._merged.clear()
        self._assigned.clear()
        self._targets = {public: target for public, target in self._targets.items() if target[0] in names}

    async def tools(self, era: Era, profile: Profile) -> Merged:
        """Ask every server at once, wait no longer than each deserves, and merge."""
        servers = self._servers
        snapshots = await self._snapshots(era, servers)
        while servers is not self._servers:  # others have become the servers meanwhile
            servers = self._servers
            snapshots = await self._snapshots(era, servers)
        merged = self._merged.get((era, profile))
        if merged is None or not _are_same(merged.snapshots, snapshots):
            merged = self._merge(era, profile, snapshots)
        now = trio.current_time()
        ttls = [max(0.0, known.fetched_at + known.ttl_s - now) for known in snapshots if known is not None]
        merged.ttl_ms = 0 if merged.missing or not ttls else int(min(ttls) * 1000)
        return merged

    async def _snapshots(self, era: Era, servers: Sequence[ServerLink]) -> list[Snapshot | None]:
        found: dict[str, Snapshot | None] = {}

        async def ask(server: ServerLink) -> None:
            found[server.name] = await server.snapshot(era, "tools")

        async with trio.open_nursery() as nursery:
            for server in servers:
                nursery.start_soon(ask, server)
        return [found[server.name] for server in servers]

    def _merge(self, era: Era, profile: Profile, snapshots: list[Snapshot | None]) -> Merged:
        merged = Merged()
        merged.snapshots = snapshots
        merged.missing = [s.name for s, known in zip(self._servers, snapshots, strict=True) if known is None]
        merged.private = any(known is None or known.private for known in snapshots) or not snapshots
        known = [(server.name, snapshot) for server, snapshot in zip(self._servers, snapshots, strict=True) if snapshot]
        lists = [(server, self._in_shape(server, era, snapshot)) for server, snapshot in known]
        assigned = self._namespace.assign([(server, tools.own_names) for server, tools in lists], profile)
        for (server, tools), names, full_names in zip(lists, assigned.names, assigned.full_names, strict=True):
            for own, (raw, members), public, full in zip(tools.own_names, tools.tools, names, full_names, strict=True):
                if public:
                    override = self._namespace.override(server, own)
                    is_as_sent = public == own and override is None
                    merged.names.append(public)
                    merged.items.append(raw if is_as_sent else _rendered(members, public, full, override))
        self._merged[era, profile] = merged
        self._assigned[era, profile] = assigned
        self._targets = {}
        for one in self._assigned.values():
            self._targets |= one.targets
        if assigned.clashes != self._clashes[era]:
            self._clashes[era] = assigned.clashes
            self._log.warning(
                "tools have a name that is taken; they are not offered", unused=", ".join(assigned.clashes[:20])
            )
        return merged

    def owner(self, public: str) -> tuple[str, str] | None:
        """Return (server, its own name for the tool); None if only `learn` can tell."""
        found = self._targets.get(public)
        if found is None:
            found = self._namespace.split(public)
            if found is not None and may_be_fitted(public) and not self._is_listed(found[0]):
                return None
        return found

    def owner_now(self, public: str) -> tuple[str, str] | None:
        """Return (server, its own name for the tool), or None if no server can be meant, as far as lists are known."""
        return self._targets.get(public) or self._namespace.split(public)

    def _is_listed(self, server: str) -> bool:
        return any((server, era) in self._tools for era in Era)

    async def learn(self, era: Era, profile: Profile) -> None:
        """Get to know the names that clients know, if there has been no occasion yet, or they may have changed.

        A client that calls what nobody offers does not make us ask all servers each time.
        """
        while self._learning is not None:
            await self._learning.wait()
        if trio.current_time() - self._learned_at < LEARN_PAUSE_S:
            return
        self._learning = trio.Event()
        try:
            await self.tools(era, profile)
            self._learned_at = trio.current_time()
        finally:
            self._learning.set()
            self._learning = None

    def param_headers(self, server: str, era: Era, tool: str) -> list[ParamHeader]:
        """Return the `Mcp-Param-*` headers a tool declares, as far as its list is known."""
        tools = self._tools.get((server, era))
        return tools.param_headers.get(tool, []) if tools is not None else []

    def nearest(self, public: str) -> list[str]:
        """Return up to three known names that look like this one."""
        import difflib

        # Comparing costs some 30 µs for each name, and a client may ask for any number of wrong ones.
        names = dict.fromkeys(name for merged in self._merged.values() for name in merged.names)
        names |= dict.fromkeys(sorted(self._namespace.reserved))
        likely = [name for name in names if abs(len(name) - len(public)) <= 2 or (public and name.endswith(public))]
        return difflib.get_close_matches(public[:128], likely[:COMPARED_NAMES_MAX], n=3, cutoff=0.5)

    def _in_shape(self, server: str, era: Era, snapshot: Snapshot) -> _Tools:
        key = (server, era)
        tools = self._tools.get(key)
        if tools is not None and tools.snapshot is snapshot:
            return tools
        tools = _Tools(snapshot)
        for raw in snapshot.items:
            try:
                _put_in_shape(era, snapshot.leg, raw, tools)
            except (RpcError, msgspec.DecodeError, KeyError, ValueError) as error:
                self._log.warning("a tool was left out", server=server, reason=str(error)[:200])
        self._tools[key] = tools
        return tools


def _are_same(some: list[Snapshot | None], others: list[Snapshot | None]) -> bool:
    return len(some) == len(others) and all(one is other for one, other in zip(some, others, strict=True))


def _put_in_shape(era: Era, leg: Era, raw: msgspec.Raw, into: _Tools) -> None:
    members = decode_object(raw, "tool")
    name = _decode_str(members["name"])
    if b"x-mcp-header" in bytes(raw):
        declared = find_param_headers(bytes(members["inputSchema"]))
        if declared:
            into.param_headers[name] = declared
    shaped = bytes(raw)
    if leg is not era:
        translated = bridge.tool_to_modern(raw) if era is Era.MODERN else bridge.tool_to_legacy(raw)
        members = decode_object(translated, "tool")
        shaped = encode_object(members)
    into.own_names.append(name)
    into.tools.append((shaped, members))


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


def page(merged: Merged, cursor: str | None, page_size: int) -> tuple[list[bytes], str | None]:
    """Return the items after `cursor` and the cursor of the next page, if any.

    A cursor is the last name of the page before, so it needs no state and survives changes elsewhere in the list.
    Errors: `RpcError` -32602 if it is not one of ours or its item is gone.
    """
    start = 0
    if cursor is not None:
        name = _read_cursor(cursor)
        try:
            start = merged.names.index(name) + 1
        except ValueError:
            raise RpcError(INVALID_PARAMS, "The list has changed; start again without a cursor") from None
    end = start + page_size if page_size else len(merged.items)
    following = _write_cursor(merged.names[end - 1]) if end < len(merged.items) else None
    return merged.items[start:end], following


def _write_cursor(name: str) -> str:
    return base64.urlsafe_b64encode(b"c1:" + name.encode()).decode().rstrip("=")


def _read_cursor(cursor: str) -> str:
    try:
        if len(cursor) <= CURSOR_BYTES_MAX:
            text = base64.urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4)).decode()
            if text.startswith("c1:"):
                return text[3:]
    except (binascii.Error, UnicodeError, ValueError):
        pass
    raise RpcError(INVALID_PARAMS, "Invalid cursor")
