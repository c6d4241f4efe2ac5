"""A list of a server as it last said it, and what its tools say of themselves there."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from protocol.link import Listing


class _Hints(msgspec.Struct):
    """What a tool says of itself, named as on the wire (`ToolAnnotations`; both false unless given)."""

    readOnlyHint: bool = False  # noqa: N815
    idempotentHint: bool = False  # noqa: N815


class _Annotated(msgspec.Struct):
    """A tool, as far as it decides about sending a call of it again."""

    name: str
    annotations: _Hints | None = None

    @property
    def is_read_only(self) -> bool:
        return self.annotations is not None and self.annotations.readOnlyHint

    @property
    def is_repeatable(self) -> bool:
        return self.annotations is not None and (self.annotations.readOnlyHint or self.annotations.idempotentHint)


def _annotated(item: msgspec.Raw) -> _Annotated | None:
    try:
        return msgspec.json.decode(item, type=_Annotated)
    except msgspec.MsgspecError:
        return None


class Snapshot:
    """The last good list of one kind for clients of one era."""

    __slots__ = (
        "_read_only",
        "_repeatable",
        "fetched_at",
        "generation",
        "incarnation",
        "items",
        "leg",
        "private",
        "ttl_s",
    )

    def __init__(self, listing: Listing, items: list[msgspec.Raw], incarnation: int, now: float) -> None:
        self.items = items
        self.generation = listing.generation
        self.incarnation = incarnation
        self.leg = listing.leg
        self.private = listing.private
        self.ttl_s = listing.ttl_ms / 1000
        self.fetched_at = now
        self._repeatable: frozenset[str] | None = None
        self._read_only: frozenset[str] | None = None

    def is_fresh(self, now: float) -> bool:
        """The server has said that it may be used for so long without asking."""
        return self.ttl_s > 0 and now - self.fetched_at < self.ttl_s

    def repeatable_tools(self) -> frozenset[str]:
        """Return the names of the tools that say of themselves that executing them twice does no harm."""
        if self._repeatable is None:
            self._repeatable = self._tools_that(lambda tool: tool.is_repeatable)
        return self._repeatable

    def read_only_tools(self) -> frozenset[str]:
        """Return the names of the tools that say of themselves that they change nothing."""
        if self._read_only is None:
            self._read_only = self._tools_that(lambda tool: tool.is_read_only)
        return self._read_only

    def _tools_that(self, say: Callable[[_Annotated], bool]) -> frozenset[str]:
        tools = [tool for tool in map(_annotated, self.items) if tool is not None]
        others = {tool.name for tool in tools if not say(tool)}  # a name that is there twice has to say it twice
        return frozenset(tool.name for tool in tools) - others
