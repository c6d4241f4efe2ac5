"""Decide what follows the end of a child. Pure: time and randomness come in as arguments.

Rule 1: which ends call for a restart is the table `RESTARTED`, and nothing else.
Rule 2: the first restart is at once, later ones wait longer and longer (decorrelated jitter, so that children that
failed together do not come back together); a child that has been up for `RESTART_RESET_S` starts again at nothing.
Rule 3: more than `intensity` restarts within `period_s` is excess: the child is parked, or its failure escalates.
Rule 4: a restart exactly `period_s` old counts no more, so one restart every `period_s / intensity` may go on for ever.
"""

from __future__ import annotations

import enum
import signal
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Final

from protocol.limits import PARK_RETRY_S, RESTART_BACKOFF_MIN_S, RESTART_RESET_S
from supervisor.spec import ChildSpec, Excess, Restart


class EndKind(enum.Enum):
    """Why a child is gone."""

    CLEAN = "clean"
    """By itself, with status 0."""
    ASKED = "asked"
    """Because the tree told it to stop."""
    CRASH = "crash"
    """By itself, with an error; or it could not be started."""
    SIGNAL = "signal"
    """Somebody killed it."""
    OOM = "oom"
    """The kernel killed it for want of memory."""
    STUCK = "stuck"
    """We killed it: not ready in time, or it broke the rules between our processes."""
    LOST = "lost"
    """The zygote died, and it along with it. Not its own fault, so it is neither judged nor counted."""


@dataclass(frozen=True, slots=True)
class End:
    """The end of one incarnation. `text` continues a sentence: "server main: worker …"."""

    kind: EndKind
    text: str


def classify(exit_code: int, *, out_of_memory: bool) -> End:
    """Say how a process ended that we did not stop; `exit_code` is as of os.waitstatus_to_exitcode."""
    if exit_code == 0:
        return End(EndKind.CLEAN, "ended by itself")
    if exit_code > 0:
        return End(EndKind.CRASH, f"failed with exit status {exit_code}")
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    if exit_code == -signal.SIGKILL and out_of_memory:
        return End(EndKind.OOM, "was killed by the kernel because memory ran out")
    return End(EndKind.SIGNAL, f"was killed by {name}")


FAILURES: Final = frozenset({EndKind.CRASH, EndKind.SIGNAL, EndKind.OOM, EndKind.STUCK})
RESTARTED: Final[Mapping[Restart, frozenset[EndKind]]] = {
    Restart.PERMANENT: FAILURES | {EndKind.CLEAN},
    Restart.TRANSIENT: FAILURES,
    Restart.TEMPORARY: frozenset(),
}


class Action(enum.Enum):
    RESTART_NOW = "restart now"
    RESTART_AFTER = "restart after a delay"
    PARK = "park"
    """Restart after a long delay, and park again at once if that fails."""
    STOP = "stop"
    """Never restart."""
    ESCALATE = "escalate"


EXCESS: Final[Mapping[Excess, Action]] = {Excess.PARK: Action.PARK, Excess.ESCALATE: Action.ESCALATE}


@dataclass(frozen=True, slots=True)
class Verdict:
    action: Action
    delay_s: float = 0.0
    """Until the restart, for those actions that have one."""


class RestartWindow:
    """Allows so many restarts (or other events) within a sliding time."""

    def __init__(self, intensity: int, period_s: float) -> None:
        self._period_s = period_s
        self._times: deque[float] = deque(maxlen=intensity)

    def allows(self, now: float) -> bool:
        """Say whether one more is within the intensity, and count it if so."""
        times = self._times
        if len(times) == times.maxlen and times[0] + self._period_s > now:
            return False
        times.append(now)
        return True


class Backoff:
    """Delays between restarts: none, then decorrelated jitter."""

    def __init__(self, max_s: float, random: Random) -> None:
        self._max_s = max_s
        self._random = random
        self._last_s: float | None = None

    def reset(self) -> None:
        self._last_s = None

    def next_s(self) -> float:
        if self._last_s is None:
            self._last_s = 0.0
        else:
            high = max(3 * self._last_s, 3 * RESTART_BACKOFF_MIN_S)
            self._last_s = min(self._random.uniform(RESTART_BACKOFF_MIN_S, high), self._max_s)
        return self._last_s


class Restarts:
    """The history of one child, and the judge of its next end."""

    def __init__(self, spec: ChildSpec, random: Random) -> None:
        self._spec = spec
        self._window = RestartWindow(spec.intensity, spec.period_s)
        self._backoff = Backoff(spec.delay_s_max, random)
        self._parked = False

    def decide(self, kind: EndKind, now: float, up_s: float) -> Verdict:
        """Judge an end. `up_s`: how long the incarnation had been ready (0: it never was)."""
        if kind not in RESTARTED[self._spec.restart]:
            return Verdict(Action.STOP)
        if up_s >= RESTART_RESET_S:
            self._backoff.reset()
            self._parked = False
        within = self._window.allows(now)
        if within and not self._parked:
            delay_s = self._backoff.next_s()
            return Verdict(Action.RESTART_AFTER, delay_s) if delay_s else Verdict(Action.RESTART_NOW)
        action = EXCESS[self._spec.excess]
        self._parked = action is Action.PARK
        return Verdict(action, PARK_RETRY_S if self._parked else 0.0)
