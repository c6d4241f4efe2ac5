"""Serves the three tools that stand for a large catalogue (protocol/lazy_tools.py)."""

from __future__ import annotations

from typing import Final

import trio

from protocol import lazy_tools
from protocol.client_profiles import Profile
from protocol.jsonrpc import Object, Raw
from protocol.lazy_tools import TOOL_CALL, TOOL_NAMES, TOOL_SEARCH
from protocol.ranking import Ranking
from protocol.versions import Era
from workers.front.catalogue import Catalogue
from workers.front.merging import Merged

INDEXED_AT_ONCE: Final = 50
"""Tools that are indexed before others get their turn; some 20 µs each."""
INDEXES_KEPT_MAX: Final = 8


class LazyTools:
    """Finds tools in the merged list. `above`: catalogues with more tools than this are not listed whole."""

    def __init__(self, catalogue: Catalogue, above: int) -> None:
        self._catalogue = catalogue
        self._above = above
        self._indexes: dict[tuple[Era, Profile], tuple[list[bytes], Ranking]] = {}
        self._items = {structured: lazy_tools.items(with_output_schema=structured) for structured in (False, True)}

    def __contains__(self, public: str) -> bool:
        return public in TOOL_NAMES

    def replaces(self, merged: Merged) -> bool:
        """Whether a list is so long that it is hidden behind the three."""
        return len(merged.items) > self._above

    def items(self, *, structured: bool) -> list[tuple[str, bytes]]:
        """Return names and items of the three. `structured`: the client's revision has `structuredContent`."""
        return self._items[structured]

    async def look(self, public: str, params: Object, era: Era, profile: Profile, *, structured: bool) -> bytes:
        """Serve a call of one of the two that look only; return the result without what its era adds.

        Errors: `RpcError`.
        """
        assert public != TOOL_CALL
        if public == TOOL_SEARCH:
            return await self._search(params, era, profile, structured=structured)
        schemas = lazy_tools.schemas_from(params)
        merged = (await self._catalogue.merged(era, profile)).for_models()
        known = dict(zip(merged.names, merged.items, strict=True))
        tools = [Raw(known[name]) for name in schemas.names if name in known]
        missing = [name for name in schemas.names if name not in known]
        return lazy_tools.answer({"tools": tools, "missing": missing}, structured=structured)

    async def _search(self, params: Object, era: Era, profile: Profile, *, structured: bool) -> bytes:
        search = lazy_tools.search_from(params)
        merged = (await self._catalogue.merged(era, profile)).for_models()
        ranking = await self._index(merged.items, era, profile)
        best = [
            lazy_tools.found(merged.items[number], score) for number, score in ranking.best(search.query, search.limit)
        ]
        return lazy_tools.answer({"tools": best, "total": len(merged.items)}, structured=structured)

    async def _index(self, items: list[bytes], era: Era, profile: Profile) -> Ranking:
        known = self._indexes.get((era, profile))
        if known is not None and known[0] == items:  # the same objects, as long as the list has not changed
            return known[1]
        ranking = Ranking()
        for number, item in enumerate(items):
            ranking.add(lazy_tools.fields(item))
            if number % INDEXED_AT_ONCE == INDEXED_AT_ONCE - 1:
                await trio.lowlevel.checkpoint()
        while len(self._indexes) >= INDEXES_KEPT_MAX:
            del self._indexes[next(iter(self._indexes))]
        self._indexes[era, profile] = (items, ranking)
        return ranking
