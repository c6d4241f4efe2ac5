"""What a server lists over one leg: fetched page by page, kept as the server sent it, numbered whenever it changes.

Rule 1: items go through byte for byte. One that cannot be used is dropped alone; the list is not.
Rule 2: whoever wants the list while it is being fetched waits for that fetch, unless the server has said since it
began that the list has changed. A fetch that fails changes nothing.
Rule 3: a list may be kept for as long as its server says (2026-07-28, server/utilities/caching), counted from when we
asked for it. One that comes without hints, as all of legacy servers do, is stale at once and private.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import count
from typing import Final

import msgspec
import trio

from protocol import link
from protocol.errors import METHOD_NOT_FOUND
from protocol.jsonrpc import Object, Raw, RpcError, decode_object
from protocol.limits import ANSWER_BYTES_MAX, LIST_ITEMS_MAX, LIST_PAGES_MAX
from protocol.param_headers import ParamHeader, find_param_headers
from protocol.tasks import FORBIDDEN, support
from protocol.versions import Era
from workers.backend.answers import Answer
from workers.backend.faults import Failure, Faults, Unanswered
from workers.logs import Log

TTL_MAX_MS: Final = 24 * 3600 * 1000
STALE: Final = float("-inf")
ALWAYS_FRESH: Final = float("inf")
NAMED_IN_LOG_MAX: Final = 5
NAME_CHARACTERS_MAX: Final = 80
_FOLDED: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

Ask = Callable[[str, bytes], Awaitable[Answer]]
"""Makes a request (method, params) over the catalogue's leg. Errors: `Unanswered`."""


class Kind(msgspec.Struct, frozen=True):
    """One of the lists a server may have."""

    method: str
    member: str
    """Of the result: where the items are."""
    key: str
    """Of an item: what tells it from the others; a string."""
    capability: str
    """Without it the server has no such list."""


KINDS: Final = {
    "tools": Kind("tools/list", "tools", "name", "tools"),
    "prompts": Kind("prompts/list", "prompts", "name", "prompts"),
    "resources": Kind("resources/list", "resources", "uri", "resources"),
    "resourceTemplates": Kind("resources/templates/list", "resourceTemplates", "uriTemplate", "resources"),
}


class Fetched(msgspec.Struct):
    """A list as it is being fetched."""

    items: dict[str, Raw] = msgspec.field(default_factory=dict[str, Raw])
    """In the server's order; of items with the same key the first."""
    param_headers: dict[str, list[ParamHeader]] = msgspec.field(default_factory=dict[str, list[ParamHeader]])
    task_tools: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    ttl_ms: int = TTL_MAX_MS
    """The shortest of all pages."""
    private: bool = False
    """Some page is."""
    bytes_total: int = 0
    dropped: list[str] = msgspec.field(default_factory=list[str])
    """What was left out and why, for the log."""
    dropped_count: int = 0

    def drop(self, what: str) -> None:
        self.dropped_count += 1
        if len(self.dropped) < NAMED_IN_LOG_MAX:
            self.dropped.append(what)


class Catalogue:
    """One list over one leg."""

    def __init__(
        self, era: Era, kind: Kind, faults: Faults, log: Log, generations: count[int], *, header_rules: bool = True
    ) -> None:
        """`header_rules`: arguments may have to be repeated in headers, because there are any."""
        self.era = era
        self.kind = kind
        self.generation = 0
        """0: never fetched."""
        self.payload = b"[]"
        """All items as one JSON array."""
        self.keys: tuple[str, ...] = ()
        """What tells the items apart (`Kind.key`), in their order."""
        self.param_headers: dict[str, list[ParamHeader]] = {}
        """Of tools over the modern leg: the arguments that are repeated in headers, by tool name."""
        self.task_tools: dict[str, str] = {}
        """Of tools over the legacy leg: what they say of tasks (`protocol.tasks.support`), unless that is forbidden."""
        self._faults = faults
        self._log = log
        self._generations = generations
        self._has_header_rules = header_rules and era is Era.MODERN
        self._private = True
        self._fresh_until = STALE
        self._fetching: _Fetching | None = None

    def is_fresh(self, now: float) -> bool:
        return now < self._fresh_until

    def invalidate(self) -> None:
        """The server says that the list has changed."""
        self._fresh_until = STALE
        if self._fetching is not None:
            self._fetching.outdated = True

    def listing(self, request: link.ListRequest, now: float) -> tuple[link.Listing, bytes]:
        """Return the answer to a front, with what is left by now of the time that the list may be kept."""
        ttl_ms = int(max(0.0, min((self._fresh_until - now) * 1000, TTL_MAX_MS)))
        header = link.Listing(request.id, request.era, request.kind, self.generation, ttl_ms, self._private, self.era)
        return header, b"" if request.have == self.generation else self.payload

    @property
    def is_lacking(self) -> bool:
        """The server has said of itself that it has no such list."""
        return self._fresh_until == ALWAYS_FRESH

    def take_nothing(self) -> bool:
        """The server has no such list, until it is another or says otherwise. Return whether it had one."""
        changed = self._adopt(Fetched(), 0.0)
        self._fresh_until = ALWAYS_FRESH
        return changed

    async def refresh(self, ask: Ask) -> bool:
        """Fetch the list, or wait for the fetch under way. Return whether it has changed. Errors: `Unanswered`."""
        while (running := self._fetching) is not None:
            is_late = running.outdated
            await running.done.wait()
            if is_late:
                continue  # that fetch may have seen the list as it was before what its asker has been told of
            if running.failure is not None:
                raise Unanswered(running.failure)
            return running.changed
        running = self._fetching = _Fetching()
        try:
            started = trio.current_time()
            fetched = await self._fetch_pages(ask)
            running.changed = self._adopt(fetched, STALE if running.outdated else started)
        except Unanswered as error:
            running.failure = error.failure
            raise
        finally:
            self._fetching = None
            running.done.set()
        return running.changed

    async def _fetch_pages(self, ask: Ask) -> Fetched:
        fetched = Fetched()
        cursor = b""
        cursors: set[bytes] = set()
        for _ in range(LIST_PAGES_MAX):
            answer = await ask(self.kind.method, b'{"cursor":%b}' % cursor if cursor else b"{}")
            cursor = self._take_page(fetched, answer)
            if not cursor:
                return fetched
            if cursor in cursors:
                fetched.drop("pages after a cursor that came twice")
                return fetched
            if len(fetched.items) >= LIST_ITEMS_MAX or fetched.bytes_total >= ANSWER_BYTES_MAX:
                break
            cursors.add(cursor)
        fetched.drop(f"pages beyond {LIST_PAGES_MAX}, or items beyond {LIST_ITEMS_MAX} or {ANSWER_BYTES_MAX} bytes")
        return fetched

    def _take_page(self, fetched: Fetched, answer: Answer) -> bytes:
        """Add a page to the list; return the cursor of the next as raw JSON, b"" if this is the last."""
        result = answer.reply.result if answer.reply is not None else None
        if result is None:
            failure = self._faults.of_answer(answer)
            if failure.payload and failure.code == METHOD_NOT_FOUND:
                fetched.ttl_ms, fetched.private = 0, True
                return b""  # it has no such list after all
            raise Unanswered(failure)
        try:
            page = decode_object(result, "the list")
            items = msgspec.json.decode(page[self.kind.member], type=list[Raw])
        except (RpcError, KeyError, *_FOLDED):
            raise Unanswered(self._faults.malformed(f"no list to {self.kind.method}")) from None
        for item in items:
            self._take_item(fetched, item)
        fetched.ttl_ms = min(fetched.ttl_ms, _ttl_ms(page) if self.era is Era.MODERN else 0)
        fetched.private = fetched.private or self.era is Era.LEGACY or bytes(page.get("cacheScope", b"")) != b'"public"'
        cursor = bytes(page.get("nextCursor", b""))
        return cursor if cursor.startswith(b'"') else b""

    def _take_item(self, fetched: Fetched, item: Raw) -> None:
        try:
            members = decode_object(item)
            key = msgspec.json.decode(members[self.kind.key], type=str)
        except (RpcError, KeyError, *_FOLDED):
            fetched.drop(f"an item that is no object with a {self.kind.key}")
            return
        shown = ascii(key[:NAME_CHARACTERS_MAX])
        if key in fetched.items:
            fetched.drop(f"a second {shown}")
        elif len(fetched.items) >= LIST_ITEMS_MAX or fetched.bytes_total + len(item) > ANSWER_BYTES_MAX:
            fetched.drop(f"{shown} beyond the limits")
        elif self._keeps_header_rules(fetched, key, shown, members):
            fetched.items[key] = item
            if self.era is Era.LEGACY and b"taskSupport" in bytes(item) and (said := support(members)) != FORBIDDEN:
                fetched.task_tools[key] = said
            fetched.bytes_total += len(item) + 1

    def _keeps_header_rules(self, fetched: Fetched, key: str, shown: str, members: Object) -> bool:
        """A client over HTTP must not offer a tool whose header annotations are invalid (2026-07-28, server/tools)."""
        schema = members.get("inputSchema")
        if not self._has_header_rules or schema is None:
            return True
        try:
            declared = find_param_headers(bytes(schema))
        except ValueError as error:
            fetched.drop(f"{shown}: {error}")
            return False
        if declared:
            fetched.param_headers[key] = declared
        return True

    def _adopt(self, fetched: Fetched, fetched_at: float) -> bool:
        payload = b"[%b]" % b",".join(fetched.items.values())
        self._private = fetched.private
        self._fresh_until = fetched_at + fetched.ttl_ms / 1000
        if self.generation and payload == self.payload:
            return False
        self.generation = next(self._generations)
        self.payload = payload
        self.keys = tuple(fetched.items)
        self.param_headers = fetched.param_headers
        self.task_tools = fetched.task_tools
        if fetched.dropped_count:
            self._log.warning(
                "parts of a list were dropped",
                method=self.kind.method,
                count=fetched.dropped_count,
                examples="; ".join(fetched.dropped),
            )
        self._log.info("list fetched", method=self.kind.method, era=self.era.name.lower(), items=len(fetched.items))
        return True


class _Fetching:
    """A fetch under way, and its outcome for those who share it."""

    __slots__ = ("changed", "done", "failure", "outdated")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.changed = False
        self.failure: Failure | None = None
        self.outdated = False
        """The server has said meanwhile that the list has changed."""


def _ttl_ms(page: Object) -> int:
    try:
        ttl_ms = msgspec.json.decode(page["ttlMs"], type=float)
    except (KeyError, *_FOLDED):
        return 0
    return int(max(0.0, min(ttl_ms, TTL_MAX_MS)))
