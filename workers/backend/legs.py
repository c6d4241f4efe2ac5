"""Keeps the two legs: decides which one serves a client, opens them when they are needed, recovers them when they fail.

Rule 1: an era is asked for by one task at a time; everyone else who needs it waits for that answer.
Rule 2: opening is bounded: each era is asked for once per attempt, and an attempt ends with a leg or a reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import trio

from protocol.versions import Era
from workers.backend.able_sessions import AbleSessions, Waiter
from workers.backend.answers import Answer
from workers.backend.era import EraTable, Step, Verdict, contradicts
from workers.backend.faults import Failure, Faults, Unanswered
from workers.backend.leg import HANDSHAKE_TIMEOUT_S, Leg, Opening
from workers.logs import Log
from workers.reactor import Reactor

_QUESTIONS_MAX: Final = 4
"""Questions of one attempt: each era once, and once more if what was known of it is contradicted meanwhile."""


class Legs:
    """Both ways of speaking to the server."""

    def __init__(
        self,
        reactor: Reactor,
        legs: Mapping[Era, Leg],
        able: AbleSessions | None,
        faults: Faults,
        log: Log,
        opened: Callable[[Leg], None],
    ) -> None:
        self.able = able
        """Sessions of a legacy server for clients that can be asked; None if there can be but one session."""
        self._reactor = reactor
        self._legs = dict(legs)
        self._faults = faults
        self._log = log
        self._opened = opened
        self._table = EraTable()
        self._locks = {era: trio.Lock() for era in Era}
        self._settling: dict[Era, list[Waiter]] = {}

    @property
    def found_transport(self) -> str:
        """The transport that was found out; "" if it is the usual one."""
        return ""

    def serving(self, era: Era) -> Leg | None:
        """Return the leg that serves clients of `era` now; None if that is to be found out first."""
        if self._table.is_open(era):  # nearly always
            return self._legs[era]
        step, use = self._table.step(era, self._reactor.now)
        return self._legs[use] if step is Step.USE else None

    def wait(self, era: Era, waiter: Waiter) -> None:
        """Find out who serves `era`, and tell the waiter."""
        waiting = self._settling.get(era)
        if waiting is not None:
            waiting.append(waiter)
            return
        self._settling[era] = [waiter]
        self._reactor.start_soon(self._settle, era)

    async def leg_for(self, era: Era) -> Leg:
        """Return the leg that serves clients of `era`, opening it if need be. Errors: `Unanswered`."""
        while (leg := self.serving(era)) is None:
            await self._settled(era)
        return leg

    async def ask(self, leg: Leg, method: str, params: bytes, timeout_s: float = HANDSHAKE_TIMEOUT_S) -> Answer:
        """Make a request of our own over this leg, opening it again once if the server has forgotten us.

        Errors: `Unanswered`.
        """
        opening = leg.opening
        answer = await leg.ask(method, params, timeout_s)
        if not contradicts(leg.era, answer):
            return answer
        self.forget(leg, opening)
        if await self.leg_for(leg.era) is not leg:
            raise Unanswered(self._faults.of_answer(answer))
        return await leg.ask(method, params, timeout_s)

    def forget(self, leg: Leg, opening: int) -> None:
        """An answer to something sent since `opening` shows that the server no longer speaks with us as it did."""
        if leg is not self._legs[leg.era]:
            if self.able is not None:
                self.able.forget(leg, opening)
            return
        if leg.opening != opening or not self._table.is_open(leg.era):
            return  # somebody has noticed before
        self._log.info("the server has forgotten us or changed", era=leg.era.name.lower())
        leg.was_forgotten()
        self._table.forget(leg.era)

    def doubt(self) -> None:
        """The server could not be reached: whoever answers next may be another."""
        self._table.forget_all()
        if self.able is not None:
            self.able.doubt()

    def open_legs(self) -> list[Leg]:
        return [leg for era, leg in self._legs.items() if self._table.is_open(era)]

    async def _settled(self, era: Era) -> None:
        done = trio.Event()
        outcome: list[Failure] = []

        def waiter(failure: Failure | None) -> None:
            if failure is not None:
                outcome.append(failure)
            done.set()

        self.wait(era, waiter)
        await done.wait()
        if outcome:
            raise Unanswered(outcome[0])

    async def _settle(self, wanted: Era) -> None:
        failure: Failure | None = self._faults.stopping()
        try:
            failure = await self._find(wanted)
        finally:
            for waiter in self._settling.pop(wanted):
                waiter(failure)

    async def _find(self, wanted: Era) -> Failure | None:
        """Ask until a leg is open; return why none is."""
        failure: Failure | None = None
        for _ in range(_QUESTIONS_MAX):
            step, era = self._table.step(wanted, trio.current_time())
            if step is Step.USE:
                return None
            if step is Step.STUCK:
                break
            try:
                failure = await self._open(era) or failure
            except Unanswered as error:
                return error.failure
        # Neither era, as it seems. The next attempt starts from nothing: the server may be half started.
        self._table.forget_all()
        return failure or self._faults.no_common_era()

    async def _open(self, era: Era) -> Failure | None:
        """Ask for an era and remember the verdict; return why there is none. Errors: `Unanswered`."""
        async with self._locks[era]:
            if not self._table.is_unknown(era, trio.current_time()):
                return None  # somebody else has asked meanwhile
            try:
                opening = await self._ask_for(era)
            except Unanswered as error:
                opening = Opening(Verdict.UNSURE, error.failure)
            failure = opening.failure
            if failure is not None and (failure.down or (failure.final and not self._table.is_open(era.other))):
                raise Unanswered(failure)
            self._table.learn(era, opening.verdict, trio.current_time())
        said = failure.message if failure is not None else ""
        self._log.info("asked for an era", era=era.name.lower(), verdict=opening.verdict.name.lower(), said=said)
        if opening.verdict is Verdict.YES:
            self._opened(self._legs[era])
        return failure

    async def _ask_for(self, era: Era) -> Opening:
        """Ask for an era. Errors: `Unanswered`."""
        return await self._legs[era].open()
