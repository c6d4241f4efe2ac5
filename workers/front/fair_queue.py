"""The calls that wait for a server, so that clients take turns: who sends the most waits the longest.

Rule 1: the next place goes to the client whose last turn is longest ago, and of its calls to the oldest.
Rule 2: when the queue is full, who has fewer calls in it than somebody else still gets in, and the newest call of
whoever has the most goes out instead. Otherwise one client could keep all others out before turns even matter.

A client is a session, the client on stdio, or one connection of a modern client, which has no session to tell it by.
Behind proxies that are trusted to say whom they speak for, it is the address that they give, whatever sessions it has.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator

from protocol.forwarded import share
from workers.front.calls import FrontCall


class FairQueue:
    """Waiting calls, at most `calls_max`."""

    __slots__ = ("_calls_max", "_waiting", "calls")

    def __init__(self, calls_max: int) -> None:
        self._calls_max = calls_max
        self.calls: dict[FrontCall, int | str] = {}
        """All that wait, oldest first, and their clients, which calls forget when they end. To be looked at only."""
        self._waiting: OrderedDict[int | str, deque[FrontCall]] = OrderedDict()
        """By client, never empty; the one whose turn is next comes first."""

    def __len__(self) -> int:
        return len(self.calls)

    def __iter__(self) -> Iterator[FrontCall]:
        """All that wait, oldest first."""
        return iter(self.calls)

    def __contains__(self, call: FrontCall) -> bool:
        return call in self.calls

    def add(self, call: FrontCall) -> FrontCall | None:
        """Let the call wait. Return the one that must be refused for want of room, which may be this one; else None."""
        client = _client(call)
        displaced = None
        if len(self.calls) >= self._calls_max:
            own = len(self._waiting.get(client, ()))
            greediest = max(self._waiting.values(), key=len, default=None)
            if greediest is None or len(greediest) <= own + 1:
                return call
            displaced = greediest[-1]
            self.remove(displaced)
        self.calls[call] = client
        self._waiting.setdefault(client, deque()).append(call)
        return displaced

    def take(self) -> FrontCall:
        """Take out the call whose turn it is. There must be one."""
        client, calls = next(iter(self._waiting.items()))
        call = calls.popleft()
        del self.calls[call]
        if calls:
            self._waiting.move_to_end(client)
        else:
            del self._waiting[client]
        return call

    def remove(self, call: FrontCall) -> None:
        """Take out this call, which must be there."""
        client = self.calls.pop(call)
        calls = self._waiting[client]
        calls.remove(call)
        if not calls:
            del self._waiting[client]


def _client(call: FrontCall) -> int | str:
    """Return what tells this call's client from others: its table of calls in flight, which calls hold while they wait.

    An HTTP connection carries one request at a time, so a call without a table is the only one of its connection.
    """
    if client := call.reply.client:
        return share(client)
    return id(call.in_flight if call.in_flight is not None else call)
