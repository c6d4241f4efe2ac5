"""All that the commands of one worker have started: notices what has ended, and makes an end of what was left behind.

A command may run several times at once, and what one run leaves behind must not take along what another still needs.
Nothing but a variable of its environment says whose a process is that has left its group and lost its parent.
Rule 1: what carries the mark of a run that is over is killed; what says nothing is taken for the unmarked run's.
Rule 2: once no run is left, everything is killed that this worker has become the parent of.
"""

from __future__ import annotations

import os
import signal
from itertools import count
from typing import Final, Protocol

import trio

from workers.backend import child as processes
from workers.reactor import Reactor

ORPHANS_S: Final = 0.5
ORPHANS_LOOK_S: Final = 0.01


class Parent(Protocol):
    """One command, which has one run at a time, beside those that are told to end."""

    @property
    def mark(self) -> str:
        """Of its processes; "" if they have none."""
        ...

    def pids(self) -> set[int]:
        """Return its own children that have not been reaped."""
        ...

    def look(self) -> None:
        """Some child has ended."""
        ...


class Brood:
    """What those in it have started."""

    def __init__(self, reactor: Reactor) -> None:
        self._parents: dict[Parent, None] = {}
        self._marks = count(1)
        self.is_ours = processes.is_subreaper()
        """All children of this process are, also those that it did not start."""
        reactor.start_soon(self._watch)

    def new_mark(self) -> str:
        """Return a mark that no other run on this machine has."""
        return f"{os.getpid()}-{next(self._marks)}"

    def join(self, parent: Parent) -> None:
        self._parents[parent] = None

    def leave(self, parent: Parent) -> None:
        """It starts nothing more, and all that it has started has ended."""
        self._parents.pop(parent, None)

    async def end_orphans(self, parent: Parent) -> None:
        """Kill what it started and did not end itself. Nothing of it runs."""
        if not self.is_ours:
            return
        with trio.move_on_after(ORPHANS_S):
            while processes.sweep_orphans(self._known(), self._mark(parent)):  # noqa: ASYNC110 - whose orphans come next, nobody tells
                await trio.sleep(ORPHANS_LOOK_S)

    def are_more_than(self, most: int, parent: Parent) -> bool:
        """Whether it has more processes than that, with all that descends from them; no more of them are looked at."""
        if not self._others_run(parent):
            return processes.are_more_than(most, processes.children())
        others = self._known() - parent.pids()
        own = [pid for pid in processes.children() if pid not in others]
        return processes.are_more_than(
            most, [pid for pid in own if pid in parent.pids() or processes.mark_of(pid) == parent.mark]
        )

    def _mark(self, parent: Parent) -> str | None:
        """Return whose orphans are this parent's; None: all are."""
        return parent.mark if self._others_run(parent) else None

    def _others_run(self, parent: Parent) -> bool:
        return any(other.pids() for other in self._parents if other is not parent)

    def _known(self) -> set[int]:
        return {pid for parent in self._parents for pid in parent.pids()}

    async def _watch(self) -> None:
        with trio.open_signal_receiver(signal.SIGCHLD) as signals:
            async for _ in signals:
                for parent in list(self._parents):
                    parent.look()
                if self.is_ours:
                    processes.reap_orphans(self._known())
