"""The sessions with a legacy server that declare what clients can be asked: one for each set, opened when first needed.

A server must not be told that it may ask for what the client of a call cannot give, and capabilities are fixed when a
session begins. There are few sets, since only what can be relayed counts (protocol/abilities.py): that is the bound.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from workers.backend.era import Verdict
from workers.backend.faults import Failure, Faults, Unanswered
from workers.backend.leg import Leg
from workers.backend.legacy import LegacyLeg
from workers.reactor import Reactor

HEARD_S: Final = 2.0
"""A server that does not say in this time whether it has a stream of its own for questions gets calls all the same."""

Waiter = Callable[[Failure | None], None]
"""Told when what it waits for is settled: None, or why nothing came of it."""


def _heard_at_once(leg: LegacyLeg) -> trio.Event:
    del leg
    event = trio.Event()
    event.set()
    return event


class _Session:
    def __init__(self, leg: LegacyLeg) -> None:
        self.leg = leg
        self.is_open = False
        self.waiting: list[Waiter] = []


class AbleSessions:
    """By abilities, the session to use. Each is opened by one task at a time."""

    def __init__(self, reactor: Reactor, new_leg: Callable[[int], LegacyLeg], faults: Faults) -> None:
        self._reactor = reactor
        self._new_leg = new_leg
        self._faults = faults
        self._sessions: dict[int, _Session] = {}
        self.opened: Callable[[LegacyLeg], trio.Event] = _heard_at_once
        """Told of each session that has been opened; what it returns is set once nothing of what the server asks is
        missed."""

    def serving(self, abilities: int) -> Leg | None:
        """Return the session that declares just this; None if it has to be opened first."""
        session = self._sessions.get(abilities)
        return session.leg if session is not None and session.is_open else None

    def wait(self, abilities: int, waiter: Waiter) -> None:
        """Open the session, and tell the waiter."""
        session = self._sessions.get(abilities)
        if session is None:
            session = self._sessions[abilities] = _Session(self._new_leg(abilities))
        session.waiting.append(waiter)
        if len(session.waiting) == 1:
            self._reactor.start_soon(self._open, session)

    def forget(self, leg: Leg, opening: int) -> None:
        """An answer to something sent since `opening` shows that the server does not know this session any more."""
        for session in self._sessions.values():
            if session.leg is leg and session.is_open and leg.opening == opening:
                session.is_open = False
                leg.was_forgotten()

    def doubt(self) -> None:
        """The server could not be reached: it has to be asked first whether it still knows us."""
        for session in self._sessions.values():
            session.is_open = False

    async def end(self) -> None:
        """Tell the server that the sessions are over."""
        for session in self._sessions.values():
            session.is_open = False
            await session.leg.end()

    async def _open(self, session: _Session) -> None:
        failure: Failure | None = self._faults.stopping()
        try:
            failure = await self._ask(session.leg)
        finally:
            session.is_open = failure is None
            waiting, session.waiting = session.waiting, []
            for waiter in waiting:
                waiter(failure)

    async def _ask(self, leg: LegacyLeg) -> Failure | None:
        try:
            opening = await leg.open()
        except Unanswered as error:
            return error.failure
        if opening.verdict is Verdict.YES:
            with trio.move_on_after(HEARD_S):
                await self.opened(leg).wait()
            return None
        return opening.failure or self._faults.no_common_era()
