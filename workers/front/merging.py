"""What merged lists of every kind have in common: how servers are asked, what has changed, and pages.

Order: servers as configured, each server's own order inside. A server that cannot be asked is represented by its last
good list; one that never gave any is named as missing. One bad item is dropped alone (protocol.md, section 9).

How long and by whom a list may be kept (2026-07-28, server/utilities/caching): no longer than the part of any server,
and by everybody only if all of the servers say so and each client would get the same.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import operator
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec
import trio

from protocol.errors import INVALID_PARAMS
from protocol.jsonrpc import Message, RpcError
from protocol.versions import Era
from workers.front.served import Served
from workers.front.snapshot import Snapshot

CURSOR_BYTES_MAX: Final = 1024
MISSING_SERVERS_KEY: Final = "io.github.mcp-bulkhead/missingServers"
"""`_meta` of a merged list: names of the servers whose part is not in it."""
LEARN_PAUSE_S: Final = 1.0
LIST_HAS_CHANGED: Final = "The list has changed; start again without a cursor"
PUBLIC_CURSOR: Final = b"c1:"
PRIVATE_CURSOR: Final = b"p1:"
MARK_BYTES_MAX: Final = 700
"""Of an item's name in a cursor; as base64 it is still below `CURSOR_BYTES_MAX`."""


class Merged:
    """A merged list: public names and rendered items, in order."""

    __slots__ = ("_for_models", "for_pages", "items", "missing", "names", "private", "snapshots", "ttl_ms", "varies")

    def __init__(self) -> None:
        self.for_pages: set[int] = set()
        """Positions of tools that only pages may call (protocol/apps.py)."""
        self._for_models: Merged | None = None
        self.names: list[str] = []
        self.items: list[bytes] = []
        self.missing: list[str] = []
        """Servers whose list is not known."""
        self.snapshots: list[Snapshot | None] = []
        """Of all servers: what this list was made of."""
        self.ttl_ms = 0
        self.private = True
        self.varies = False
        """Other clients get other items, or other names for them."""

    @classmethod
    def of(cls, servers: Sequence[Served], snapshots: list[Snapshot | None]) -> Merged:
        """Return the list of these servers, without an item so far."""
        merged = cls()
        merged.snapshots = snapshots
        merged.missing = [server.name for server, known in zip(servers, snapshots, strict=True) if known is None]
        return merged

    def is_of(self, snapshots: list[Snapshot | None]) -> bool:
        """Whether these are what the list was made of."""
        return is_same(self.snapshots, snapshots)

    def aged(self, now: float) -> Merged:
        """Return the list itself, saying for how long and by whom it may be kept from now on."""
        parts = [known for known in self.snapshots if known is not None]
        is_whole = bool(parts) and not self.missing
        self.ttl_ms = int(max(0.0, min(part.fetched_at + part.ttl_s - now for part in parts)) * 1000) if is_whole else 0
        self.private = not is_whole or self.varies or any(part.private for part in parts)
        return self

    def after(self, ours: Sequence[tuple[str, bytes]]) -> Merged:
        """Return the same list behind some tools of our own."""
        return self._with([*(name for name, _ in ours), *self.names], [*(item for _, item in ours), *self.items])

    def for_models(self) -> Merged:
        """Return the list without the tools that a client must not show that shows no pages."""
        if not self.for_pages:
            return self
        if self._for_models is None:
            kept = [position for position in range(len(self.names)) if position not in self.for_pages]
            names, items = [self.names[each] for each in kept], [self.items[each] for each in kept]
            self._for_models = self._with(names, items)
        self._for_models.ttl_ms, self._for_models.private = self.ttl_ms, self.private
        return self._for_models

    def hidden_behind(self, ours: Sequence[tuple[str, bytes]]) -> Merged:
        """Return a list of some tools of our own that says the same about what it stands for."""
        return self._with([name for name, _ in ours], [item for _, item in ours])

    def _with(self, names: list[str], items: list[bytes]) -> Merged:
        merged = Merged()
        merged.names, merged.items = names, items
        merged.missing, merged.snapshots = self.missing, self.snapshots
        merged.ttl_ms, merged.private = self.ttl_ms, self.private
        return merged


def is_same(some: Sequence[Snapshot | None], others: Sequence[Snapshot | None]) -> bool:
    """Whether these are the very same lists."""
    return len(some) == len(others) and all(map(operator.is_, some, others))


async def ask_all(servers: Sequence[Served], era: Era, kind: str) -> list[Snapshot | None]:
    """Ask every server at once for its list, and wait no longer than each deserves."""
    found: dict[str, Snapshot | None] = {}

    async def ask(server: Served) -> None:
        found[server.name] = await server.snapshot(era, kind)

    async with trio.open_nursery() as nursery:
        for server in servers:
            nursery.start_soon(ask, server)
    return [found[server.name] for server in servers]


class Learning:
    """Asks all servers for what clients know already, because a call named something that nobody was known to have.

    A client that asks for what nobody has does not make us ask all servers each time.
    """

    def __init__(self) -> None:
        self._under_way: trio.Event | None = None
        self._done_at = float("-inf")

    async def once(self, ask: Callable[[], Awaitable[object]]) -> None:
        """Ask, unless that has just been done; wait for it if others are at it."""
        while self._under_way is not None:
            await self._under_way.wait()
        if trio.current_time() - self._done_at < LEARN_PAUSE_S:
            return
        self._under_way = trio.Event()
        try:
            await ask()
            self._done_at = trio.current_time()
        finally:
            self._under_way.set()
            self._under_way = None


def list_result(
    merged: Merged, member: str, cursor: str | None, page_size: int, era: Era, *, modern_meta: bytes
) -> bytes:
    """Return a page of a list as the result of its method. `modern_meta`: members of `_meta` for the modern era.

    Errors: `RpcError` -32602 if the cursor is not one of ours or its item is gone.
    """
    begun = _read_cursor(cursor) if cursor is not None else None
    is_private = begun.is_private if begun is not None else merged.private
    if era is Era.MODERN and merged.private and not is_private:
        # All pages of a list must be of the same scope, and those before this one may be in anybody's hands.
        raise RpcError(INVALID_PARAMS, LIST_HAS_CHANGED)
    items, following = _page(merged, begun, page_size, is_private=is_private)
    members = [b'"%b":[%b]' % (member.encode(), b",".join(items))]
    if following is not None:
        members.append(b'"nextCursor":%b' % msgspec.json.encode(following))
    meta = [modern_meta] if era is Era.MODERN else []
    if merged.missing:
        meta.append(b'"%b":%b' % (MISSING_SERVERS_KEY.encode(), msgspec.json.encode(merged.missing)))
    if era is Era.MODERN:
        members.insert(0, b'"resultType":"complete"')
        scope = b"private" if is_private else b"public"
        members.append(b'"ttlMs":%d,"cacheScope":"%b"' % (merged.ttl_ms, scope))
    if meta:
        members.append(b'"_meta":{%b}' % b",".join(meta))
    return b"{%b}" % b",".join(members)


def cursor_of(message: Message) -> str | None:
    """Return where the client wants its page to begin. Errors: `RpcError` -32602."""
    raw = message.params.get("cursor")
    if raw is None:
        return None
    try:
        return msgspec.json.decode(raw, type=str) or None
    except msgspec.DecodeError:
        raise RpcError(INVALID_PARAMS, "cursor must be a string", b"", message.id) from None


class _Cursor(msgspec.Struct, frozen=True):
    """Where the next page begins, so that it needs no state and survives changes elsewhere in the list."""

    mark: bytes
    """Of the last item of the page before."""
    is_private: bool
    """The pages before were."""


def _page(merged: Merged, begun: _Cursor | None, page_size: int, *, is_private: bool) -> tuple[list[bytes], str | None]:
    """Return the items after the cursor and the cursor of the next page, if any. Errors: as `list_result`."""
    start = 0
    if begun is not None:
        start = next((number for number, name in enumerate(merged.names, 1) if _mark(name) == begun.mark), 0)
        if not start:
            raise RpcError(INVALID_PARAMS, LIST_HAS_CHANGED)
    end = start + page_size if page_size else len(merged.items)
    following = None
    if end < len(merged.items):
        following = _write_cursor(_Cursor(_mark(merged.names[end - 1]), is_private))
    return merged.items[start:end], following


def _mark(name: str) -> bytes:
    """Return what stands for an item in a cursor: its name, or a digest if that is long, as some URIs are."""
    encoded = name.encode("utf-8", "surrogatepass")
    if len(encoded) <= MARK_BYTES_MAX:
        return encoded
    return b"\0" + hashlib.sha256(encoded).digest()


def _write_cursor(cursor: _Cursor) -> str:
    kind = PRIVATE_CURSOR if cursor.is_private else PUBLIC_CURSOR
    return base64.urlsafe_b64encode(kind + cursor.mark).decode().rstrip("=")


def _read_cursor(cursor: str) -> _Cursor:
    try:
        if len(cursor) <= CURSOR_BYTES_MAX:
            content = base64.urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
            if content.startswith((PUBLIC_CURSOR, PRIVATE_CURSOR)):
                return _Cursor(content[3:], content.startswith(PRIVATE_CURSOR))
    except (binascii.Error, UnicodeError, ValueError):
        pass
    raise RpcError(INVALID_PARAMS, "Invalid cursor")
