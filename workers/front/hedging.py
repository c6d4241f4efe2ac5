"""Asks another replica as well when a call that only reads takes unusually long; the first that says anything wins.

Rule 1: only tools that call themselves read-only are hedged, once, and within a budget.
Rule 2: both copies are one request of one client. They have one place for the answer, which the winner takes; the loser
is cancelled at its server. If one fails, the other is what is left of the call.
Rule 3: a copy is one of the tries that a call may have.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Final

import msgspec

from protocol.hedging import Lateness
from protocol.limits import HEDGE_FLOOR, HEDGE_SHARE
from workers.front.calls import FrontCall
from workers.front.replica import Replica
from workers.front.retry_budget import RetryBudget
from workers.reactor import Reactor

LOOK_S: Final = 0.005


class Hedging:
    """The late calls of one group. `taker`: who would send a call of this replica at once, if anybody."""

    def __init__(self, reactor: Reactor, taker: Callable[[FrontCall, Replica], Replica | None]) -> None:
        self._reactor = reactor
        self._taker = taker
        self._lateness = Lateness()
        self._budget = RetryBudget(HEDGE_SHARE, HEDGE_FLOOR)
        self._waiting: list[tuple[float, int, FrontCall, int, Replica]] = []
        """When each call will be late, by that time; its number on the link tells whether it is still there."""
        self._order = itertools.count()
        self._look = reactor.every(LOOK_S, self._look_after)

    def sent(self, call: FrontCall, replica: Replica) -> None:
        """A call was sent to a replica."""
        now = self._reactor.now
        if call.tries == 1 and not call.pair_since:
            self._budget.called(now)
        late_s = self._lateness.late_s(call.name)
        if late_s is None or call.pair_since or call.replica or call.interaction or not replica.only_reads(call):
            return
        heapq.heappush(self._waiting, (now + late_s, next(self._order), call, call.link_id, replica))
        self._look.wake()

    def answered(self, call: FrontCall, seconds: float) -> None:
        """A call was answered, so many seconds after it was sent to that replica."""
        # Of two copies only one is heard of, so what counts is the time since the first of them.
        self._lateness.observe(call.name, self._reactor.now - call.pair_since if call.pair_since else seconds)

    def end(self) -> None:
        """Hedge no more calls."""
        self._waiting.clear()
        self._look.end()

    def _look_after(self) -> float | bool:
        now = self._reactor.now
        waiting = self._waiting
        while waiting and waiting[0][0] <= now:
            _, _, call, link_id, replica = heapq.heappop(waiting)
            if replica.is_serving(call, link_id) and not call.heard:
                self._ask_another(call, replica)
        return waiting[0][0] if waiting else False

    def _ask_another(self, call: FrontCall, replica: Replica) -> None:
        taker = self._taker(call, replica)
        if taker is not None and replica.may_try_once_more(call) and self._budget.allows(self._reactor.now):
            give_copy(call, replica, taker)


def give_copy(call: FrontCall, replica: Replica, taker: Replica) -> None:
    """Have another replica serve a call as well that this one has been sent. The client hears of one of them."""
    call.pair_since = replica.sent_at(call.link_id)
    copy = msgspec.structs.replace(
        call, link_id=0, server=None, in_flight=None, asked=None, tried=(*call.tried, replica.name), twin=call
    )
    call.twin = copy
    call.tries += 1  # whichever is left has been tried by both
    call.tried = (*call.tried, taker.name)
    replica.hedged += 1
    taker.submit(copy)
