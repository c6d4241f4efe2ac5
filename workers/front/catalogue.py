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
from protocol.errors import INVALID_PARAMS
from protocol.jsonrpc import RpcError, decode_object, encode_object
from protocol.names import Namespace
from protocol.param_headers import ParamHeader, find_param_headers
from protocol.versions import Era
from workers.front.server_link import ServerLink, Snapshot
from workers.logs import Log

CURSOR_BYTES_MAX: Final = 1024
COMPARED_NAMES_MAX: Final = 50
OURS: Final = ""
"""In place of a server's name: the tool is the proxy's own."""
_decode_str = msgspec.json.Decoder(str).decode


class Merged:
    """A merged list: public names and rendered items, in order."""

    __slots__ = ("items", "missing", "names", "private", "ttl_ms")

    def __init__(self) -> None:
        self.names: list[str] = []
        self.items: list[bytes] = []
        self.missing: list[str] = []
        """Servers whose list is not known."""
        self.ttl_ms = 0
        self.private = False


class _Rendered:
    """One server's list with public names, kept until the server's list changes."""

    __slots__ = ("items", "names", "param_headers", "snapshot")

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.names: list[str] = []
        self.items: list[bytes] = []
        self.param_headers: dict[str, list[ParamHeader]] = {}
        """By the tool's own name, only tools that declare any."""


class Catalogue:
    """Merges the lists of all servers, per era."""

    def __init__(self, servers: Sequence[ServerLink], namespace: Namespace, log: Log) -> None:
        self._servers: Sequence[ServerLink] = servers
        self._namespace = namespace
        self._plain = namespace.public("server", "x") == "x"
        """Names are public as they are, so that only the lists tell whose they are."""
        self._log = log
        self._rendered: dict[tuple[str, Era], _Rendered] = {}
        self._owners: dict[Era, dict[str, str]] = {era: {} for era in Era}
        """Which server a listed public name belongs to."""
        self._shadowed: dict[Era, list[str]] = {era: [] for era in Era}
        """What has been said in the log about names that are there twice."""

    def serve(self, servers: Sequence[ServerLink], namespace: Namespace) -> None:
        """From now on these are the servers."""
        names = {server.name for server in servers}
        self._servers = servers
        self._namespace = namespace
        self._rendered = {key: rendered for key, rendered in self._rendered.items() if key[0] in names}
        for era, owners in self._owners.items():
            self._owners[era] = {public: server for public, server in owners.items() if server in names | {OURS}}

    async def tools(self, era: Era, ours: Sequence[tuple[str, bytes]] = ()) -> Merged:
        """Ask every server at once, wait no longer than each deserves, and merge.

        `ours`: public names and items of the proxy's own tools. They come first, and no server can take their names.
        """
        servers = self._servers
        snapshots: dict[str, Snapshot | None] = {}

        async def ask(server: ServerLink) -> None:
            snapshots[server.name] = await server.snapshot(era, "tools")

        async with trio.open_nursery() as nursery:
            for server in servers:
                nursery.start_soon(ask, server)
        merged = Merged()
        merged.names += [name for name, _ in ours]
        merged.items += [item for _, item in ours]
        owners = dict.fromkeys(merged.names, OURS)
        now = trio.current_time()
        ttls: list[float] = []
        shadowed: list[str] = []
        for server in servers:
            snapshot = snapshots[server.name]
            if snapshot is None:
                merged.missing.append(server.name)
                continue
            rendered = self._render(server.name, era, snapshot)
            ttls.append(max(0.0, snapshot.fetched_at + snapshot.ttl_s - now))
            merged.private = merged.private or snapshot.private
            for name, item in zip(rendered.names, rendered.items, strict=True):
                if name in owners:
                    shadowed.append(f"{name} of {server.name}")
                    continue
                owners[name] = server.name
                merged.names.append(name)
                merged.items.append(item)
        self._owners[era] = owners
        if shadowed != self._shadowed[era]:
            self._shadowed[era] = shadowed
            self._log.warning("tools have a name that is taken; the first is used", unused=", ".join(shadowed[:20]))
        merged.ttl_ms = 0 if merged.missing or not ttls else int(min(ttls) * 1000)
        merged.private = merged.private or bool(merged.missing) or not ttls
        return merged

    def owner(self, public: str) -> tuple[str, str] | None:
        """Return (server, its own name for the tool), or None if no server can be meant."""
        if self._plain:
            server = self._owners[Era.MODERN].get(public) or self._owners[Era.LEGACY].get(public)
            if server is not None:
                return server, public
        return self._namespace.split(public)

    def param_headers(self, server: str, era: Era, tool: str) -> list[ParamHeader]:
        """Return the `Mcp-Param-*` headers a tool declares, as far as its list is known."""
        rendered = self._rendered.get((server, era))
        return rendered.param_headers.get(tool, []) if rendered is not None else []

    def nearest(self, public: str) -> list[str]:
        """Return up to three known names that look like this one."""
        import difflib

        # Comparing costs some 30 µs for each name, and a client may ask for any number of wrong ones.
        names = dict.fromkeys(name for owners in self._owners.values() for name in owners)
        likely = [name for name in names if abs(len(name) - len(public)) <= 2 or (public and name.endswith(public))]
        return difflib.get_close_matches(public[:128], likely[:COMPARED_NAMES_MAX], n=3, cutoff=0.5)

    def _render(self, server: str, era: Era, snapshot: Snapshot) -> _Rendered:
        key = (server, era)
        rendered = self._rendered.get(key)
        if rendered is not None and rendered.snapshot is snapshot:
            return rendered
        rendered = _Rendered(snapshot)
        for raw in snapshot.items:
            try:
                self._render_one(server, era, snapshot.leg, raw, rendered)
            except (RpcError, msgspec.DecodeError, KeyError, ValueError) as error:
                self._log.warning("a tool was left out", server=server, reason=str(error)[:200])
        self._rendered[key] = rendered
        return rendered

    def _render_one(self, server: str, era: Era, leg: Era, raw: msgspec.Raw, into: _Rendered) -> None:
        tool = decode_object(raw, "tool")
        name = _decode_str(tool["name"])
        if b"x-mcp-header" in bytes(raw):
            declared = find_param_headers(bytes(tool["inputSchema"]))
            if declared:
                into.param_headers[name] = declared
        if leg is not era:
            translated = bridge.tool_to_modern(raw) if era is Era.MODERN else bridge.tool_to_legacy(raw)
            tool = decode_object(translated, "tool")
        public = self._namespace.public(server, name)
        if public == name:
            into.items.append(encode_object(tool) if leg is not era else bytes(raw))
        else:
            tool["name"] = msgspec.Raw(msgspec.json.encode(public))
            into.items.append(encode_object(tool))
        into.names.append(public)


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
