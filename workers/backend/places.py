"""How several fronts share what their server can take: so many calls in flight at all of them together. Pure.

A place lets one call be in flight. Each front has a limit, the number of places it may fill without asking, so that a
call costs nothing more as long as there are enough. A front that has calls waiting says so; places that nobody uses go
to it at once, and the others are told lower limits until each that wants more has its fair share.

Rule 1: there are never more calls in flight than places. A raised limit counts at once; a lowered one when the front
has said that it knows, because until then it may send calls under the old one; calls above a limit count till they end.
Rule 2: with fewer places than fronts that want one, each place goes around: from a front whose call has ended to the
one that has had none for the longest time.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Generic, TypeVar

F = TypeVar("F")
Told = list[tuple[F, int]]
"""New limits, in the order in which the fronts are to be told."""


class _Holder:
    """What one front has."""

    __slots__ = ("limit", "lowered", "turn", "unacknowledged", "wants")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        """What it may be acting on."""
        self.lowered = -1
        """The lower limit that it has been told last and has not acknowledged; -1 for none."""
        self.unacknowledged = 1
        """Limits that it has been told and has not acknowledged, with the first one."""
        self.wants = False
        """It has calls waiting."""
        self.turn = 0
        """Grows with each place it is given: who has waited longest has the lowest."""


class Places(Generic[F]):
    """All places of one server. `used`: returns how many calls of a front are in flight."""

    def __init__(self, total: int, fronts: int, used: Callable[[F], int]) -> None:
        self._total = total
        self._share = total // fronts
        self._kept = 1 if total >= 2 * fronts else 0
        """Left to a front that uses none, so that its next call need not ask."""
        self._used = used
        self._holders: dict[F, _Holder] = {}
        self._wanting = 0
        self._turns = count(1)

    def join(self, front: F) -> int:
        """There is one more front. Return its limit."""
        holder = self._holders[front] = _Holder(min(self._share, max(0, self._free())))
        return holder.limit

    def leave(self, front: F) -> Told[F]:
        """A front is gone, and none of its calls is in flight."""
        holder = self._holders.pop(front)
        self._wanting -= holder.wants
        return self._balance()

    def want(self, front: F, *, wants: bool) -> Told[F]:
        """A front has calls waiting (or none any more)."""
        holder = self._holders[front]
        self._wanting += wants - holder.wants
        holder.wants = wants
        return self._balance()

    def acknowledged(self, front: F) -> Told[F]:
        """A front keeps to the oldest limit that it had not acknowledged."""
        holder = self._holders[front]
        holder.unacknowledged -= 1
        if not holder.unacknowledged and holder.lowered >= 0:
            holder.limit, holder.lowered = holder.lowered, -1
        return self._balance()

    def ended(self) -> Told[F]:
        """A call has ended."""
        return self._balance() if self._wanting else []

    def _held(self, front: F, holder: _Holder) -> int:
        return max(holder.limit, self._used(front))

    def _free(self) -> int:
        return self._total - sum(self._held(front, holder) for front, holder in self._holders.items())

    def _balance(self) -> Told[F]:
        if not self._wanting:
            return []
        return [*self._hand_out(), *self._ask_back()]

    def _hand_out(self) -> Told[F]:
        """Give what is free to those who want it, one place after the other to who has the fewest."""
        wanting = {front: one for front, one in self._holders.items() if one.wants and one.lowered < 0}
        raised: dict[F, int] = {}
        for _ in range(self._free() if wanting else 0):
            front = min(wanting, key=lambda each: (wanting[each].limit, wanting[each].turn))
            holder = wanting[front]
            holder.limit += 1
            holder.turn = next(self._turns)
            raised[front] = holder.limit
        for front in raised:
            wanting[front].unacknowledged += 1
        return list(raised.items())

    def _ask_back(self) -> Told[F]:
        """Lower the limits of those who have more than they need, or than is fair while others want more."""
        holders = self._holders
        contenders = sum(holder.wants or self._used(front) > 0 for front, holder in holders.items())
        fair = self._total // max(1, contenders)
        is_unfair = any(
            holder.wants and holder.limit < max(1, fair) and (fair or not self._used(front))
            for front, holder in holders.items()
        )
        told: Told[F] = []
        for front, holder in holders.items():
            if not holder.wants:
                used = self._used(front)
                target = used + max(self._kept, used // 4)
            elif is_unfair:
                target = fair
            else:
                continue
            if holder.lowered < 0 and holder.limit > target and self._is_wanted_beside(holder):
                holder.lowered = target
                holder.unacknowledged += 1
                told.append((front, target))
        return told

    def _is_wanted_beside(self, holder: _Holder) -> bool:
        """Whether somebody else wants places."""
        return self._wanting > holder.wants
