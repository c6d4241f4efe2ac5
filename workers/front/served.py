"""What clients are served by under one public name: a server, or a group of servers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from protocol.versions import Era
from workers.front.calls import FrontCall
from workers.front.snapshot import Snapshot


class Served(Protocol):
    """The surface that lists, reads and calls need."""

    @property
    def name(self) -> str: ...

    @property
    def instructions(self) -> str: ...

    @property
    def offers(self) -> frozenset[str] | None:
        """Names of its capabilities; None if they are not known."""
        ...

    @property
    def kinds(self) -> frozenset[str]:
        """The lists that it has or may have, by the capability they belong to."""
        ...

    @property
    def is_usable(self) -> bool:
        """A call would be sent, and probably answered."""
        ...

    @property
    def is_isolated(self) -> bool:
        """Each client has a session of its own there."""
        ...

    async def snapshot(self, era: Era, kind: str) -> Snapshot | None:
        """Return the list as it is now, else the last good one, else None."""
        ...

    @property
    def call_timeout_s(self) -> float: ...

    @property
    def tool_timeouts(self) -> Mapping[str, float]: ...

    def timeout_s(self, call: FrontCall) -> float:
        """Return how long this call may go without an answer or progress."""
        ...

    def submit(self, call: FrontCall) -> None:
        """See to it that the call is answered."""
        ...

    async def watch(self, uri: str) -> tuple[int, str] | None:
        """Be told of updates of a resource; return the code and message of why that is refused, None if it is not."""
        ...

    def unwatch(self, uri: str) -> None:
        """Nobody wants to be told of it any more."""
        ...

    def keep_watching(self, uri: str) -> None:
        """Somebody wants to be told of it still, by whoever is there now."""
        ...


ServedByName = Mapping[str, Served]
