"""Upgrade: when one version of the root may replace another, and what each side does. The root owns one of these.

Rule 1: there are never more than two versions, and never two that clients can connect to for longer than it takes the
old one to hear that the new one has taken over.
Rule 2: whatever goes wrong before that, the old version is the service and stays it.
"""

from __future__ import annotations

import math
import os
import signal
from typing import Final, Protocol

import trio

from protocol import limits
from supervisor import notify
from supervisor.config import Server
from supervisor.herald import Herald
from supervisor.inheritance import Inherited
from supervisor.logs import Log
from supervisor.memory import ClientMemory
from supervisor.plan import Holdings
from supervisor.predecessor import Predecessor
from supervisor.successor import Successor, UpgradeFailed

HELD_BACK: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
"""Signals that wait until a root can obey them."""


class Host(Protocol):
    """What the root does for an upgrade."""

    def begin_serving(self) -> None:
        """The new version: let clients connect."""
        ...

    def retire(self, why: str) -> None:
        """The old version: finish what has begun, then leave."""
        ...

    def give_up(self, why: str) -> None:
        """The new version: leave, because it cannot take over."""
        ...

    def sessions_ended(self, session_ids: list[str]) -> None:
        """Clients of the other version have ended these sessions."""
        ...

    def changed_servers(self) -> list[Server] | None:
        """The old version: return the servers as they are now; None if the new one can read them in a file."""
        ...

    def hold_changes(self, *, hold: bool) -> None:
        """The old version: refuse changes of servers from now on, or allow them again."""
        ...


class Upgrade:
    """`inherited`: what came from the version before this one; None if there was none."""

    def __init__(
        self,
        host: Host,
        holdings: Holdings,
        memory: ClientMemory,
        herald: Herald,
        log: Log,
        *,
        inherited: Inherited | None,
        stdio: bool,
    ) -> None:
        self._host = host
        self._holdings = holdings
        self._memory = memory
        self._herald = herald
        self._log = log
        self._stdio = stdio
        self._predecessor = Predecessor(inherited) if inherited else None
        left = inherited.admin if inherited else None
        self._unwanted_admin = left if left is not holdings.admin else None
        """The old version's, of which the configuration says nothing any more."""
        self._successor: Successor | None = None
        self._attempt = trio.CancelScope()
        self._front_ready = trio.Event()
        self._settled = trio.Event()
        self._taken_at = -math.inf
        self._serving = False
        self._stopping = False
        if self._predecessor:
            herald.be_silent()

    # --- the new version ---------------------------------------------------------------------------------------------
    @property
    def held(self) -> bool:
        """Whether the old version is still the service, so that nobody may connect here."""
        return self._predecessor is not None and not self._predecessor.taken

    def front_ready(self) -> None:
        """The front could serve."""
        self._front_ready.set()

    def settled(self) -> None:
        """Of each server it is known whether it can be reached."""
        self._settled.set()

    async def follow(self) -> None:
        """Take over from the version before this one, if there is one, and return when it is gone."""
        if self._predecessor is None:
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._report_prepared, self._predecessor)
            await self._predecessor.listen(self)
            nursery.cancel_scope.cancel()
        if self.held:
            self._host.give_up("the old version is gone, or goes on without an upgrade: stopping")
        else:
            self._herald.begin()  # if it was not told before, nobody is left to tell it

    async def predecessor_gone(self) -> None:
        """Wait until the old version has finished its calls, as long as that may take (see `forget_predecessor`).

        A service manager takes the service for stopped when its main process ends, and kills what is left of it.
        """
        if self._predecessor and self._predecessor.taken:
            with trio.move_on_at(self._taken_at + limits.STOP_S):
                await self._predecessor.gone.wait()

    def forget_predecessor(self) -> None:
        """Do not wait for it any more."""
        if self._predecessor:
            self._predecessor.gone.set()

    async def _report_prepared(self, predecessor: Predecessor) -> None:
        await self._front_ready.wait()
        with trio.move_on_after(limits.UPGRADE_SETTLE_S):
            await self._settled.wait()  # so that no call waits for servers to be connected to
        predecessor.prepared()

    def take_over(self) -> None:
        """We are the service now (`supervisor.predecessor.Listener`)."""
        self._taken_at = trio.current_time()
        if self._unwanted_admin:
            self._unwanted_admin.close()
        self._host.begin_serving()

    def announced(self) -> None:
        """The service manager knows that (`supervisor.predecessor.Listener`)."""
        self._herald.begin()

    def sessions_ended(self, session_ids: list[str]) -> None:
        """Clients of the other version ended these sessions (`supervisor.predecessor.Listener`)."""
        self._host.sessions_ended(session_ids)

    @property
    def is_service(self) -> bool:
        """Whether this version is the one that clients and users meet."""
        return not self.held and not (self._successor and self._successor.taken)

    # --- the old version ---------------------------------------------------------------------------------------------
    @property
    def children(self) -> set[int]:
        """Our child that is no orphan: the new version."""
        return {self._successor.pid} if self._successor else set()

    async def replace(self, cause: str) -> None:
        """Let the version that is installed now take over, unless that is not possible. Returns when it is gone."""
        if refusal := self._refusal():
            self._log.warning(f"{cause}: no upgrade: {refusal}")
            return
        self._log.info(f"{cause}: starting the version that is installed now")
        self._herald.reloading()
        self._host.hold_changes(hold=True)
        environ = dict(os.environ)
        if self._herald.manager:
            notify.put_back(environ, self._herald.manager)
        try:
            self._successor = successor = Successor(environ, HELD_BACK)
        except OSError as error:
            self._failed(f"could not be started: {error.strerror}")
            return
        with trio.CancelScope() as self._attempt:
            await self._lead(successor)
        if not successor.taken:
            self._successor = None

    def serving(self) -> None:
        """Clients can connect to this version."""
        self._serving = True

    def stopping(self) -> None:
        """This version stops, whoever asked for it; one that has not taken over goes with it."""
        self._stopping = True
        if self._successor and not self._successor.taken:
            self._attempt.cancel()

    def tell_ended(self, session_id: str) -> None:
        """A client of ours has ended this session."""
        if self._successor:
            self._successor.tell_ended(session_id)
        if self._predecessor:
            self._predecessor.tell_ended(session_id)

    def _refusal(self) -> str:
        if self._stopping:
            return "this version is stopping"
        if not self._serving:
            return "this version is not ready itself"
        if self._successor:
            return "one is under way"
        if self._predecessor and not self._predecessor.gone.is_set() and not self._is_overdue():
            return "the version before this one is still finishing its calls"
        if self._stdio:
            return "the client on standard input started this process and would take its end for ours; restart it there"
        if os.getpid() == 1:
            return "process 1 of a container cannot be replaced; start a new container"
        return ""

    def _is_overdue(self) -> bool:
        """Whether the old version should have been gone long ago. It may be suspended, and must not matter any more."""
        return not self.held and trio.current_time() > self._taken_at + 2 * limits.STOP_S

    async def _lead(self, successor: Successor) -> None:
        oldest_first = list(self._memory.ended_parts())[::-1]
        successor.bequeath(self._holdings, oldest_first, self._host.changed_servers())
        try:
            await successor.lead(taken=lambda: self._taken(successor), ended=self.sessions_ended)
        except UpgradeFailed as failure:
            self._failed(str(failure))
            return
        self._log.warning("the new version is gone while this one was finishing its calls")

    def _taken(self, successor: Successor) -> None:
        self._herald.hand_over(successor.pid)
        self._host.retire(f"process {successor.pid} has taken over: finishing the calls in flight")

    def _failed(self, why: str) -> None:
        self._log.error(f"the new version {why}; this one carries on")
        self._host.hold_changes(hold=False)
        self._herald.serving()
