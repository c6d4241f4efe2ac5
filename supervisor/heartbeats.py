"""Watch the heartbeats of all workers: abort those whose loop stands still, and have killed what cannot even abort.

Whoever looks each second is also the first to notice that nobody ran for a while (wake.py); workers that rest are not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import trio

from protocol import limits
from supervisor.lives import Life
from supervisor.machine import Machine
from supervisor.pulse import Pulse
from supervisor.tree import Phase, Tree
from supervisor.wake import WakeWatch


class Heartbeats:
    """`lives`: the current ones, by the names of the tree. `blame`: replaces a worker that broke a rule.

    `woke`: is told for how many seconds nothing has run. `looked_at`: is given every worker in each look, for whoever
    else has to look at them so often.
    """

    def __init__(
        self,
        machine: Machine,
        tree: Tree,
        lives: Mapping[str, Life],
        *,
        blame: Callable[[Life, str], None],
        woke: Callable[[float], None],
        looked_at: Callable[[Life], None],
    ) -> None:
        self._machine = machine
        self._tree = tree
        self._lives = lives
        self._blame = blame
        self._woke = woke
        self._looked_at = looked_at

    async def watch(self) -> None:
        """Look at all workers until cancelled."""
        pulse = Pulse()
        wake_watch = WakeWatch(self._machine.uptime())
        while True:
            pulse.look(now := self._machine.monotonic())
            if absent_s := wake_watch.look(self._machine.uptime()):
                self._woke(absent_s)
            wake = math.inf
            for life in list(self._lives.values()):
                self._looked_at(life)
                if life.stuck:
                    due = life.abort_until
                elif (ready_s := self._ready_for_s(life)) is None or not (beat := life.last_sign(now)):
                    continue
                else:
                    due = pulse.due(beat, now - ready_s)
                if due <= now:
                    due = self._not_beating(life, now)
                wake = min(wake, due)
            await trio.sleep(max(0.0, min(wake, pulse.next_look) - self._machine.monotonic()))

    def _ready_for_s(self, life: Life) -> float | None:
        """Return for how long it has been ready; None if it is not, or not any more."""
        child = self._tree.children[life.name]
        if child.phase is not Phase.UP or child.incarnation != life.incarnation or child.up_since is None:
            return None
        return trio.current_time() - child.up_since

    def _not_beating(self, life: Life, now: float) -> float:
        """Take the next step against it, and return when the one after that is due."""
        if life.stuck:
            self._blame(life, life.stuck)
            return math.inf
        life.abort(f"was stuck: its loop stood still for {limits.SILENCE_S:g} s", now + limits.ABORT_S)
        return life.abort_until
