"""Make a trio run deterministic: its scheduler, every clock and every source of chance follow the seed.

Also where a process can be stopped: a task of a stopped process that is woken is put aside until the process goes on.
"""

from __future__ import annotations

import contextlib
import contextvars
import heapq
import itertools
import os
import random
import secrets
import time
from collections.abc import Callable, Iterator
from random import Random
from typing import Any, Protocol
from unittest import mock

import trio
import trio._core._run as trio_run
from trio.testing import MockClock

WALL_START = 1_800_000_000.0
MONOTONIC_START = 1_000.0
"""Not zero, which a heartbeat that never came would be."""


class Stoppable(Protocol):
    """A process, as far as the scheduler knows it."""

    is_stopped: bool
    held: list[tuple[trio.lowlevel.Task, Any]]
    """Tasks that were woken while it was stopped, with what they are woken with."""


PROCESS: contextvars.ContextVar[Stoppable | None] = contextvars.ContextVar("PROCESS", default=None)
"""The simulated process a task belongs to; its children inherit it."""

_reschedule = trio_run.Runner.reschedule
_NOTHING = trio_run._NO_SEND


def _reschedule_unless_stopped(self: Any, task: trio.lowlevel.Task, next_send: Any = _NOTHING) -> None:
    process = task.context.get(PROCESS)
    if process is not None and process.is_stopped:
        task._abort_func = None  # it is woken once, as if it were on the run queue already
        process.held.append((task, next_send))
    else:
        _reschedule(self, task, next_send)


def release(process: Stoppable) -> None:
    """Let a process go on: what it would have done meanwhile it does now."""
    held, process.held = process.held, []
    for task, next_send in held:
        _reschedule(task._runner, task, next_send)


class Time:
    """The clocks of the simulated machine. `wall_shift`: what the wall clock has been set ahead by, in seconds."""

    def __init__(self, clock: MockClock) -> None:
        self._clock = clock
        self.wall_shift = 0.0

    def now(self) -> float:
        return self._clock.current_time()

    def monotonic(self) -> float:
        return MONOTONIC_START + self._clock.current_time()

    def uptime(self) -> float:
        """Return the same: here all clocks go on while the machine is asleep, and only processes stand still."""
        return self.monotonic()

    def wall(self) -> float:
        return WALL_START + self._clock.current_time() + self.wall_shift


class Agenda:
    """What the simulated world does at set times, in the order of the times and then of the requests."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._earlier = trio.Event()

    def at(self, when: float, action: Callable[[], None]) -> None:
        if not self._heap or when < self._heap[0][0]:
            self._earlier.set()
        heapq.heappush(self._heap, (when, next(self._numbers), action))

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        self.at(trio.current_time() + seconds, action)

    async def run(self) -> None:
        """Carry out what is due, until cancelled."""
        while True:
            now = trio.current_time()
            while self._heap and self._heap[0][0] <= now:
                heapq.heappop(self._heap)[2]()
            self._earlier = trio.Event()
            with trio.move_on_at(self._heap[0][0] if self._heap else float("inf")):
                await self._earlier.wait()


@contextlib.contextmanager
def deterministic(seed: str, clock: MockClock) -> Iterator[Time]:
    """Let everything that is not in the seed's power be decided by it: the scheduler, clocks, chance."""
    chance = Random(f"{seed}:anything")
    times = Time(clock)
    scheduler, everybody = trio_run._r.getstate(), random.getstate()
    trio_run._r.seed(f"{seed}:scheduler")
    random.seed(f"{seed}:random")
    patches = {
        (trio_run, "_ALLOW_DETERMINISTIC_SCHEDULING"): True,
        (trio_run.Runner, "reschedule"): _reschedule_unless_stopped,
        (time, "time"): times.wall,
        (time, "time_ns"): lambda: int(times.wall() * 1e9),
        (time, "monotonic"): times.monotonic,
        (time, "monotonic_ns"): lambda: int(times.monotonic() * 1e9),
        (os, "urandom"): chance.randbytes,
        (os, "getpid"): lambda: 1000,
        (secrets, "token_bytes"): lambda count=32: chance.randbytes(count),
        (secrets, "token_hex"): lambda count=32: chance.randbytes(count).hex(),
        (secrets, "token_urlsafe"): lambda count=32: chance.randbytes(count).hex(),
    }
    with contextlib.ExitStack() as stack:
        for (place, name), value in patches.items():
            stack.enter_context(mock.patch.object(place, name, value))
        try:
            yield times
        finally:
            trio_run._r.setstate(scheduler)
            random.setstate(everybody)
