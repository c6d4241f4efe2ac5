"""What carries requests to the server and brings answers back, whatever it is: connections, a WebSocket or a pipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from workers.backend.exchange import Exchange

if TYPE_CHECKING:
    from workers.backend.faults import Faults


class Channel(Protocol):
    """The way to the server (`workers.backend.pool.Pool`, `workers.backend.messages.MessageChannel`)."""

    standing: int
    """How many exchanges now are streams that stay open, which nothing else has to do without."""

    @property
    def faults(self) -> Faults: ...

    @property
    def is_overfull(self) -> bool:
        """What a stream that ends gives back is not to be used again."""
        ...

    @property
    def next_due(self) -> float | None:
        """When `sweep` has something to do next, in reactor time; None: it should look again soon."""
        ...

    def submit(self, exchange: Exchange) -> None:
        """Start the exchange, now or as soon as it can be; it may fail at once."""
        ...

    def abandon(self, exchange: Exchange) -> bool:
        """End an exchange silently, wherever it is. Return whether some of its request may have been written."""
        ...

    def hold(self, *, is_held: bool) -> None:
        """A front takes what it is sent too slowly (True), or again fast enough; once for each that does."""
        ...

    def drop_idle(self) -> None:
        """What leads to the server and is not in use may have been cut off meanwhile."""
        ...

    def sweep(self) -> None:
        """Look at deadlines."""
        ...

    async def stop(self) -> None:
        """End everything, also what has been started; whoever awaits something fails."""
        ...
