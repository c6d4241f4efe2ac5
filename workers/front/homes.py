"""Which replica of a group has the session of each client, where clients have their own (`isolation = "session"`).

A client's home is the replica that first answered it, until that one cannot be used, or fails a call that another one
serves. What was kept there for the client is lost then, and begins anew where it goes. Nothing of this outlives the
front: the next one sends a client where its number leads it, which is where it was unless replicas have come or gone.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

HOMES_MAX: Final = 10_000
"""As many sessions as a front remembers (sessions.py). The client that has its home for longest loses it."""


class Homes:
    """The homes of the clients of one group, by the numbers of the clients (protocol/clients.py)."""

    def __init__(self) -> None:
        self._by_client: dict[int, str] = {}

    def of(self, client: int) -> str:
        """Return the name of its replica; "" if it has none."""
        return self._by_client.get(client, "")

    def answered(self, client: int, replica: str, tried: Collection[str]) -> None:
        """A call of this client was answered. `tried`: replicas that had it before, and could not serve it."""
        home = self._by_client.get(client)
        if home is None or home in tried:
            self._by_client[client] = replica
            if len(self._by_client) > HOMES_MAX:
                del self._by_client[next(iter(self._by_client))]

    def leave(self, client: int) -> None:
        """The client has ended its session, or its replica cannot be used."""
        self._by_client.pop(client, None)
