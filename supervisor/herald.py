"""Keep the service manager informed: decide what it is told when, and tell it from the root's own loop.

Rule 1: signs of life come from the loop that does the root's work, never from a thread or a process of their own. A
root that is stuck must fall silent, or the manager could not see it.
Rule 2: what people read changes at most once in `STATUS_PAUSE_S`, however often servers come and go.
Rule 3: while another version of us speaks for the service, this one is silent.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

import trio

from protocol.health import HEALTH_STATUSES
from supervisor import notify
from supervisor.notify import Manager, Sender

STATUS_PAUSE_S: Final = 1.0
RETRY_S: Final = 1.0
"""After a message that did not get through."""
NEWS_MAX: Final = 16
"""More than that are owed only to a manager that has not listened for long, and need not hear them all."""
PINGS_PER_PERIOD: Final = 2
"""sd_watchdog_enabled(3) recommends a sign of life every half of the time allowed."""


class Reports:
    """What the manager has been told and what it is still owed. Pure; times are monotonic seconds.

    `watchdog_s`: as in `notify.Manager`.
    """

    def __init__(self, watchdog_s: float) -> None:
        self._ping_s = watchdog_s / PINGS_PER_PERIOD if watchdog_s else math.inf
        self._ping_at = 0.0 if watchdog_s else math.inf
        self._news: list[str] = []
        self._status_changed = False
        self._told_status = ""
        self._status_at = 0.0
        self._retry_at = 0.0
        self._parting = False
        self.silent = False

    def tell(self, message: str) -> None:
        """Owe the manager a message of its own."""
        if len(self._news) < NEWS_MAX and not self._parting:
            self._news.append(message)

    def tell_last(self, message: str) -> None:
        """Owe the manager this message, and nothing once it has got through."""
        self._news.append(message)
        self._parting = True

    def status_changed(self) -> None:
        """The line for people may not be true any more."""
        self._status_changed = True

    def due(self, now: float, status: Callable[[], str]) -> str:
        """Return what is to be sent now, "" for nothing. `status`: makes the line for people."""
        if self.silent or now < self._retry_at:
            return ""
        parts = list(self._news)
        if self._status_changed and not self._parting and (parts or now >= self._status_at):
            self._status_changed = False
            line = notify.status(status())
            if line != self._told_status:
                self._told_status = line
                self._status_at = now + STATUS_PAUSE_S
                parts.append(line)
        if now >= self._ping_at:
            parts.append(notify.WATCHDOG)
        return "\n".join(parts)

    def sent(self, now: float, *, ok: bool) -> None:
        """Note what became of the message that `due` returned."""
        if ok:
            self._news.clear()
            self.silent = self._parting
            if now >= self._ping_at:
                self._ping_at = now + self._ping_s
        else:
            self._retry_at = now + RETRY_S
            self._status_changed = True
            self._told_status = ""

    @property
    def next_due(self) -> float:
        """When `due` has something to say if nothing new happens; infinity for never."""
        if self.silent:
            return math.inf
        due = 0.0 if self._news else math.inf
        if self._status_changed:
            due = min(due, self._status_at)
        return max(min(due, self._ping_at), self._retry_at)


class Herald:
    """Speaks to the manager, if there is one. What it is asked to say is said at once if it can be.

    `status`: makes one line for people about how things are.
    """

    def __init__(
        self, manager: Manager | None, status: Callable[[], str], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.manager = manager
        self._status = status
        self._clock = clock
        self._reports = Reports(manager.watchdog_s if manager else 0.0)
        self._sender = Sender(manager.address) if manager else None
        self._changed = trio.Event()

    async def run(self) -> None:
        """Give signs of life, and say later what could not be said at once."""
        if self._sender is None:
            return
        with contextlib.closing(self._sender):
            while True:
                self._changed = trio.Event()
                self._speak()
                with trio.move_on_after(max(0.0, self._reports.next_due - self._clock())):
                    await self._changed.wait()

    def serving(self) -> None:
        """Clients can connect; or a reload, or an attempt to upgrade, is over."""
        self._say(notify.READY)

    def reloading(self) -> None:
        """A change of the configuration or an upgrade begins; `serving` ends it."""
        self._say(notify.reloading(time.clock_gettime_ns(time.CLOCK_MONOTONIC)))

    def stopping(self) -> None:
        self._say(notify.STOPPING)

    def status_changed(self) -> None:
        """The line for people may not be true any more."""
        if self._sender:
            self._reports.status_changed()
            self._changed.set()

    def hand_over(self, pid: int) -> None:
        """Another process is the service from now on, and the only one to speak for it."""
        self._reports.tell_last(f"{notify.main_pid(pid)}\n{notify.READY}")
        self._speak()
        self._changed.set()

    def be_silent(self) -> None:
        """Say nothing before `begin`: another process is the service."""
        self._reports.silent = True

    def begin(self) -> None:
        """Speak for the service, if that is new."""
        if self._reports.silent:
            self._reports.silent = False
            self.serving()

    def _say(self, message: str) -> None:
        if self._sender and not self._reports.silent:
            self._reports.tell(message)
            self._reports.status_changed()
            self._speak()
            self._changed.set()

    def _speak(self) -> None:
        now = self._clock()
        if self._sender and (message := self._reports.due(now, self._status)):
            self._reports.sent(now, ok=self._sender.send(message))


def servers_line(statuses: Iterable[str]) -> str:
    """Return one line about servers with these health statuses: "3 servers: 2 healthy, 1 error"."""
    counts = Counter(statuses)
    total = counts.total()
    if not total:
        return "no servers"
    told = ", ".join(f"{counts[status]} {status}" for status in _BEST_FIRST if counts[status])
    return f"{total} server{'' if total == 1 else 's'}: {told}"


_BEST_FIRST: Final = (*HEALTH_STATUSES[1:], HEALTH_STATUSES[0])
