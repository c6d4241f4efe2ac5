"""Asks a server from time to time whether it is still there, when no call has shown it meanwhile.

Rule 1: one question at a time, in an era that is open already: a check never greets the server in another one.
Rule 2: a task that sleeps until the next check; whatever happens in between only leaves a note of the time.
"""

from __future__ import annotations

import time
from random import Random
from typing import Final

import msgspec
import trio

from protocol.counts import ERRORS, Counts, nowhere
from protocol.versions import Era
from workers.backend.faults import Failure, Faults, Says, Unanswered
from workers.backend.leg import Leg
from workers.backend.legs import Legs

INTERVAL_S: Final = 15.0
JITTER: Final = 0.2
"""Many proxies that were started together do not ask in step."""
TIMEOUT_S: Final = 5.0
WAKE_SPREAD_S: Final = 5.0
"""When a machine wakes up, all workers notice it in the same second."""
QUESTIONS: Final = {Era.LEGACY: "ping", Era.MODERN: "server/discover"}


class Vitals(msgspec.Struct):
    """What is known of a server's health; told to the root (`protocol.control.WorkerState`)."""

    answers: bool = True
    checked_at: float = 0.0
    response_ms: float = 0.0
    error_count: int = 0
    last_error: str = ""
    counts: Counts = msgspec.field(default_factory=nowhere)
    """Where the root sees how many errors there are without being told."""

    def answered(self) -> None:
        self.answers = True
        self.checked_at = time.time()

    def failed(self, failure: Failure) -> None:
        """The server, and not only a request, has failed."""
        self.answers = failure.says is not Says.SILENT
        self.checked_at = time.time()
        self.error_count += 1
        self.counts[ERRORS] = self.error_count
        self.last_error = failure.message


class Checkup:
    """The questions that find out."""

    def __init__(self, legs: Legs, faults: Faults, vitals: Vitals, random: Random, *, call_timeout_s: float) -> None:
        self._legs = legs
        self._faults = faults
        self._vitals = vitals
        self._random = random
        self._timeout_s = min(TIMEOUT_S, call_timeout_s)
        self._hastened = trio.Event()

    async def pause(self) -> float:
        """Sleep until a check is due. Return since when an answer to a call would make it needless."""
        quiet_since = trio.current_time()
        with trio.move_on_after(INTERVAL_S * self._random.uniform(1 - JITTER, 1 + JITTER)):
            await self._hastened.wait()
        if self._hastened.is_set():
            self._hastened = trio.Event()
            quiet_since = trio.current_time()
            await trio.sleep(self._random.uniform(0.0, WAKE_SPREAD_S))
        return quiet_since

    def hasten(self) -> None:
        """Check within `WAKE_SPREAD_S`, because what was known of the server may be out of date."""
        self._hastened.set()

    async def check(self) -> Failure | None:
        """Ask over an open leg; return what is wrong with the server, None if nothing is or there is no such leg.

        A JSON-RPC error is as good an answer as any: not every server knows `ping`.
        """
        legs = self._legs.open_legs()
        if not legs:
            return None
        started = trio.current_time()
        failure: Failure | None = self._faults.silent(self._timeout_s)
        with trio.move_on_after(self._timeout_s):
            failure = await self._ask(legs[0])
        if failure is None:
            self._vitals.response_ms = (trio.current_time() - started) * 1000
        return failure

    async def _ask(self, leg: Leg) -> Failure | None:
        try:
            answer = await self._legs.ask(leg, QUESTIONS[leg.era], b"{}", self._timeout_s)
        except Unanswered as error:
            return error.failure
        if answer.status == 200 and answer.reply is not None:
            return None
        failure = self._faults.of_answer(answer)
        return None if failure.says in (Says.WORKS, Says.THROTTLES) and not failure.final else failure
