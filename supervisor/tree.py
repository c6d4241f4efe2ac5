"""Decide what happens to which process, and when. Pure: events and the time come in, actions go out.

The zygote is the first child and carries all others: when it ends, they are started again (rest_for_one). Among
themselves they are independent (one_for_one). root.py tells this tree what happened and does what it answers.

Rule 1: every phase but UP and ENDED has a deadline or an event that another deadline guards, so nothing waits for ever.
Rule 2: a restart is never made while an end is being handled. It is queued with a time, and a stop overtakes it.
Rule 3: an event about an incarnation that is no longer the current one changes nothing.
Rule 4: no incarnation is started before the one before it is gone.
Rule 5: children come and go at run time. No two of one family, and none that came later, have the same incarnation.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from protocol.limits import BOOT_DEADLINE_S, STOP_S, WORKER_STOP_S
from supervisor import spec as specs
from supervisor.restart import Action, End, EndKind, Restarts, Verdict
from supervisor.spec import ChildSpec, Role

START_ORDER: Final = (Role.ZYGOTE, Role.FRONT, Role.SERVER)
"""The front goes before the servers because it needs nothing of them to answer its port."""
STOP_ORDER: Final = (Role.FRONT, Role.SERVER, Role.ZYGOTE)
"""Reverse order of dependence: the front has calls to finish, and needs the servers for them."""
STOP_RESERVE_S: Final = {Role.FRONT: 4.0, Role.SERVER: 1.0, Role.ZYGOTE: 0.5}
"""How long before the end of `STOP_S` the last of a role is killed, so that later stages have some time left."""
FORK_DEADLINE_S: Final = 30.0
"""The zygote forks in milliseconds once it has started, which a busy small machine may take many seconds for."""
KILL_REPORT_S: Final = 2.0
"""From SIGKILL to the report of the end: milliseconds, unless the kernel holds the process or the zygote is stuck."""
EXIT_GAVE_UP: Final = 1


class Phase(enum.Enum):
    WAITING = "waiting"
    """No process. Started at the deadline; without one, together with the zygote."""
    FORKING = "forking"
    """The zygote has been asked for it."""
    BOOTING = "booting"
    """Forked, but not ready yet."""
    UP = "up"
    STOPPING = "stopping"
    """Asked to leave; killed at the deadline."""
    DYING = "dying"
    """Killed; its end has not been reported yet."""
    ENDED = "ended"
    """No process, and none will be started."""


ALIVE: Final = frozenset({Phase.FORKING, Phase.BOOTING, Phase.UP, Phase.STOPPING, Phase.DYING})
"""There is a process, or there may be one."""


@dataclass(frozen=True, slots=True)
class Start:
    """Start this incarnation."""

    name: str
    incarnation: int


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask the child to leave."""

    name: str


@dataclass(frozen=True, slots=True)
class Kill:
    """SIGKILL the child, or what is about to become it."""

    name: str
    why: End


@dataclass(frozen=True, slots=True)
class Gone:
    """The child has ended. `verdict`: what comes next; None if it ended with the zygote, or because the tree stops."""

    name: str
    end: End
    verdict: Verdict | None


@dataclass(frozen=True, slots=True)
class Finish:
    """Nothing is left; exit with this status."""

    code: int


Do = Start | Ask | Kill | Gone | Finish


class Child:
    """One child and where it stands."""

    __slots__ = (
        "charge", "deadline", "incarnation", "leaving", "parked", "phase", "restarts", "spec", "starts", "up_since",
    )  # fmt: skip

    def __init__(self, spec: ChildSpec, restarts: Restarts) -> None:
        self.spec = spec
        self.restarts = restarts
        self.phase = Phase.WAITING
        self.incarnation = 0
        self.starts = 0
        """How many incarnations it has had; their numbers are those of its family."""
        self.deadline = math.inf
        self.up_since: float | None = None
        self.charge: End | None = None
        """Why we killed it or asked it to leave; its end is judged by this and not by its status."""
        self.parked = False
        self.leaving = False
        """The tree forgets it as soon as its process is gone."""

    def enter(self, phase: Phase, deadline: float = math.inf) -> None:
        self.phase = phase
        self.deadline = deadline


class Tree:
    """All children. Methods return what to do, in order; times are monotonic seconds."""

    def __init__(self, children: Sequence[ChildSpec], random: Random) -> None:
        specs.check(children)
        self._random = random
        self.children = {spec.name: Child(spec, Restarts(spec, random)) for spec in children}
        self._zygote = next(child for child in self.children.values() if child.spec.role is Role.ZYGOTE)
        self.stopping = False
        self._last: dict[str, int] = {}
        """The highest incarnation so far, by family of children."""
        self._last_removed = 0
        """The highest of families that are gone."""
        self._stop_deadline = math.inf
        self._exit_code = 0
        self._finished = False

    # --- events ------------------------------------------------------------------------------------------------------
    def start(self, now: float) -> list[Do]:
        """Start everything for the first time."""
        return self._start_all(now)

    def forked(self, name: str, incarnation: int, now: float) -> None:
        """The zygote has made the process."""
        child = self._current(name, incarnation)
        if child and child.phase is Phase.FORKING:
            child.enter(Phase.BOOTING, now + BOOT_DEADLINE_S)

    def ready(self, name: str, incarnation: int, now: float) -> bool:
        """The worker does its work. Return whether that is news."""
        child = self._current(name, incarnation)
        if not child or child.phase not in (Phase.FORKING, Phase.BOOTING):
            return False
        child.enter(Phase.UP)
        child.up_since = now
        return True

    def blame(self, name: str, incarnation: int, text: str, now: float) -> list[Do]:
        """Replace a child that broke a rule. `text` continues "server main: worker …"."""
        return self.end(name, incarnation, End(EndKind.STUCK, text), now)

    def end(self, name: str, incarnation: int, why: End, now: float) -> list[Do]:
        """Kill a child, which then has failed in this way."""
        child = self._current(name, incarnation)
        return self._kill(child, why, now) if child else []

    def add(self, spec: ChildSpec, now: float) -> list[Do]:
        """Keep one more worker from now on. Not while the tree stops.

        Errors: `SpecError` if there is a child of that name, or it is not a worker.
        """
        specs.check([*(child.spec for child in self.children.values()), spec])
        assert not self.stopping, "the caller must not begin anything new during a stop"
        child = self.children[spec.name] = Child(spec, Restarts(spec, self._random))
        # Without a zygote it starts with the next one.
        return [self._start(child, now)] if self._zygote.phase is Phase.UP else []

    def remove(self, name: str, now: float) -> list[Do]:
        """Ask a worker to leave, and keep it no more. It is gone from `children` when its process is."""
        child = self.children[name]
        assert child is not self._zygote
        child.leaving = True
        match child.phase:
            case Phase.WAITING | Phase.ENDED:
                self._forget(child)
                return []
            case Phase.FORKING | Phase.BOOTING:  # it has nothing to finish
                return self._kill(child, End(EndKind.ASKED, "was not needed any more"), now)
            case Phase.UP:
                return [self._ask(child, now)]
            case Phase.STOPPING | Phase.DYING:
                return []

    def retire(self, name: str, within_s: float, now: float) -> list[Do]:
        """Keep a worker no more, but let it finish what it has: it is killed after `within_s`.

        Whoever knows that it has finished asks it to leave.
        """
        child = self.children[name]
        if child.phase is not Phase.UP or self.stopping:
            return self.remove(name, now)
        child.leaving = True
        child.charge = End(EndKind.ASKED, "stopped")
        child.enter(Phase.STOPPING, now + within_s)
        return []

    def retry(self, name: str, now: float) -> list[Do]:
        """Start a worker that waits for its restart without further delay, and judge it as if it had never failed.

        Nothing happens to one that has a process.
        """
        child = self.children[name]
        if child.phase is not Phase.WAITING:
            return []
        child.restarts = Restarts(child.spec, self._random)
        child.parked = False
        child.deadline = math.inf
        return [self._start(child, now)] if self._zygote.phase is Phase.UP else []

    def exited(self, name: str, incarnation: int, end: End, now: float) -> list[Do]:
        """A process is gone, or could not be made."""
        child = self._current(name, incarnation)
        if not child or child.phase not in ALIVE:
            return []
        end = child.charge or end
        up_s = now - child.up_since if child.up_since is not None else 0.0
        if self.stopping:
            child.enter(Phase.ENDED)
            orphaned = self._kill_workers(now) if child is self._zygote else []
            return [Gone(name, end, None), *orphaned, *self._next_stage(now)]
        if child is self._zygote:
            return self._zygote_gone(end, up_s, now)
        if child.leaving:
            self._forget(child)
            return [Gone(name, end, None)]
        if end.kind is EndKind.LOST:
            child.enter(Phase.WAITING)
            return [Gone(name, end, None)]
        return self._judge(child, end, up_s, now)

    def due(self, now: float) -> list[Do]:
        """Do what the time has come for. Call it when `next_due` says."""
        actions: list[Do] = []
        for child in list(self._in_order(START_ORDER)):  # one that has left is forgotten on the way
            if self._deadline(child) <= now:
                actions += self._overdue(child, now)
        return actions

    def next_due(self) -> float:
        """Return when `due` has something to do next (infinity: only after another event)."""
        return min(self._deadline(child) for child in self.children.values())

    def stop(self, now: float) -> list[Do]:
        """Stop everything in order, within `STOP_S`."""
        if self.stopping:
            return []
        self._begin_stop(now)
        return self._next_stage(now)

    def stop_now(self, now: float, exit_code: int) -> list[Do]:
        """Stop everything at once."""
        self._exit_code = exit_code
        self._begin_stop(now)
        return [*self._kill_workers(now), *self._next_stage(now)]

    def _forget(self, child: Child) -> None:
        del self.children[child.spec.name]
        family = specs.family(child.spec.name)
        if not any(specs.family(name) == family for name in self.children):
            self._last_removed = max(self._last_removed, self._last.pop(family, 0))

    # --- what an end leads to ----------------------------------------------------------------------------------------
    def _judge(self, child: Child, end: End, up_s: float, now: float) -> list[Do]:
        verdict = child.restarts.decide(end.kind, now, up_s)
        gone = Gone(child.spec.name, end, verdict)
        child.parked = verdict.action is Action.PARK
        if verdict.action is Action.STOP:
            child.enter(Phase.ENDED)
            return [gone, *(self.stop(now) if child.spec.significant else ())]
        if verdict.action is Action.ESCALATE:
            # It comes back with the next zygote, and without a past: what it fails on may lie below it.
            child.enter(Phase.WAITING)
            child.restarts = Restarts(child.spec, self._random)
            why = End(EndKind.STUCK, f"is replaced because {child.spec.name} keeps failing")
            return [gone, *self._kill(self._zygote, why, now)]
        child.enter(Phase.WAITING, now + verdict.delay_s)
        return [gone]

    def _zygote_gone(self, end: End, up_s: float, now: float) -> list[Do]:
        verdict = self._zygote.restarts.decide(end.kind, now, up_s)
        gone = Gone(self._zygote.spec.name, end, verdict)
        if verdict.action in (Action.RESTART_NOW, Action.RESTART_AFTER):
            self._zygote.enter(Phase.WAITING, now + verdict.delay_s)
            return [gone, *self._kill_workers(now)]
        self._zygote.enter(Phase.ENDED)
        return [gone, *self.stop_now(now, EXIT_GAVE_UP)]

    def _kill_workers(self, now: float) -> list[Do]:
        lost = End(EndKind.ASKED, "was stopped") if self.stopping else End(EndKind.LOST, "died with the zygote")
        return [do for child in self._workers() for do in self._kill(child, lost, now)]

    def _kill(self, child: Child, why: End, now: float) -> list[Do]:
        if child.phase not in ALIVE or child.phase is Phase.DYING:
            return []
        # One that is not forked yet can only die after it has been: the zygote's deadline stays the one that counts.
        patient = child.phase is Phase.FORKING and not self.stopping
        deadline = child.deadline if patient else now + KILL_REPORT_S
        child.charge = child.charge or why
        child.enter(Phase.DYING, deadline)
        return [Kill(child.spec.name, why)]

    # --- time --------------------------------------------------------------------------------------------------------
    def _deadline(self, child: Child) -> float:
        if child.phase is Phase.WAITING and not self._may_start(child):
            return math.inf
        return child.deadline

    def _may_start(self, child: Child) -> bool:
        if child is self._zygote:
            return not any(worker.phase in ALIVE for worker in self._workers())
        return self._zygote.phase is Phase.UP

    def _overdue(self, child: Child, now: float) -> list[Do]:
        name = child.spec.name
        match child.phase:
            case Phase.WAITING:
                return self._start_all(now) if child is self._zygote else [self._start(child, now)]
            case Phase.FORKING:
                return self._blame_zygote(child, f"did not fork {name} within {FORK_DEADLINE_S:g} s", now)
            case Phase.BOOTING:
                return self._kill(child, End(EndKind.STUCK, f"was not ready after {BOOT_DEADLINE_S:g} s"), now)
            case Phase.STOPPING:
                return self._kill(child, End(EndKind.ASKED, "did not stop in time"), now)
            case Phase.DYING:
                if child is self._zygote or self._zygote.phase not in ALIVE:
                    # The kernel does not let go of it. It can do no harm any more, and waiting longer would.
                    return self.exited(name, child.incarnation, End(EndKind.STUCK, "does not die"), now)
                return self._blame_zygote(child, f"did not report the end of {name}", now)
            case Phase.UP | Phase.ENDED:
                raise AssertionError(f"{name} has no deadline while {child.phase.value}")

    def _blame_zygote(self, child: Child, text: str, now: float) -> list[Do]:
        child.deadline = now + 2 * KILL_REPORT_S  # by then the zygote is gone, one way or the other
        return self._kill(self._zygote, End(EndKind.STUCK, text), now)

    # --- starting and stopping ---------------------------------------------------------------------------------------
    def _start_all(self, now: float) -> list[Do]:
        """Start the zygote, and every child that does not wait for a time of its own."""
        self._zygote.deadline = now
        ready = [child for child in self._in_order(START_ORDER) if child.phase is Phase.WAITING]
        return [self._start(child, now) for child in ready if child.deadline <= now or math.isinf(child.deadline)]

    def _start(self, child: Child, now: float) -> Start:
        family = specs.family(child.spec.name)
        child.incarnation = self._last[family] = self._last.get(family, self._last_removed) + 1
        child.starts += 1
        child.charge = None
        child.parked = False
        if child is self._zygote:
            child.up_since = now
            child.enter(Phase.UP)
        else:
            child.up_since = None
            child.enter(Phase.FORKING, now + FORK_DEADLINE_S)
        return Start(child.spec.name, child.incarnation)

    def _begin_stop(self, now: float) -> None:
        if not self.stopping:
            self.stopping = True
            self._stop_deadline = now + STOP_S
        for child in self.children.values():
            if child.phase is Phase.WAITING:
                child.enter(Phase.ENDED)
            elif child.leaving and child.phase is Phase.STOPPING:
                child.deadline = min(child.deadline, self._stop_deadline - STOP_RESERVE_S[child.spec.role])

    def _next_stage(self, now: float) -> list[Do]:
        """Ask the first role of `STOP_ORDER` that is still there; when none is, finish."""
        for role in STOP_ORDER:
            alive = [child for child in self.children.values() if child.spec.role is role and child.phase in ALIVE]
            if alive:
                return [self._ask(child, now) for child in alive if child.phase not in (Phase.STOPPING, Phase.DYING)]
        if self._finished:
            return []
        self._finished = True
        return [Finish(self._exit_code)]

    def _ask(self, child: Child, now: float) -> Ask:
        # One that is not even ready has nothing to finish.
        limit_s = child.spec.shutdown_s if child.phase is Phase.UP else min(child.spec.shutdown_s, WORKER_STOP_S)
        child.charge = End(EndKind.ASKED, "stopped")
        child.enter(Phase.STOPPING, min(now + limit_s, self._stop_deadline - STOP_RESERVE_S[child.spec.role]))
        return Ask(child.spec.name)

    # --- looking things up -------------------------------------------------------------------------------------------
    def _current(self, name: str, incarnation: int) -> Child | None:
        child = self.children.get(name)
        return child if child and child.incarnation == incarnation else None

    def fronts(self) -> list[Child]:
        return [child for child in self.children.values() if child.spec.role is Role.FRONT]

    def _workers(self) -> Iterator[Child]:
        return (child for child in self._in_order(START_ORDER) if child is not self._zygote)

    def _in_order(self, roles: Sequence[Role]) -> Iterator[Child]:
        return (child for role in roles for child in self.children.values() if child.spec.role is role)
