"""Give workers their orders: the boot order, links with one another, and who is down."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import trio

from protocol import control, limits
from protocol.control import Attach, Drain, EndedSessions, Serve, ServerDown, Stop, ToWorker
from supervisor import plan
from supervisor.channel import ChannelFull
from supervisor.config import Server, Settings
from supervisor.lives import Life
from supervisor.machine import Machine
from supervisor.memory import ClientMemory
from supervisor.plan import FRONT, Holdings, child_name
from supervisor.tree import Phase, Tree

NOT_SOON_S: Final = -1.0
"""In `ServerDown`: no restart is due soon."""


class Orders:
    """`lives`: the current ones, by the names of the tree. `blame`: replaces a worker that broke a rule."""

    def __init__(
        self,
        machine: Machine,
        settings: Settings,
        holdings: Holdings,
        memory: ClientMemory,
        tree: Tree,
        lives: Mapping[str, Life],
        blame: Callable[[Life, str], None],
    ) -> None:
        self._machine = machine
        self._settings = settings
        self._holdings = holdings
        self._memory = memory
        self._tree = tree
        self._lives = lives
        self._blame = blame

    def boot_front(self, front: Life, *, stdio: bool, held: bool) -> None:
        """Tell a front what it is, and give it a link with each worker.

        `stdio`: it serves the client there. `held`: nobody may connect before `serve`.
        """
        stdio_session = self._memory.stdio_session if stdio else None
        newest, *older = self._memory.ended_parts()
        boot, fds = plan.front_boot(self._settings, self._holdings, front.incarnation, stdio_session, newest, held=held)
        self._tell(front, boot, [*fds, front.page_fd])
        for part in older:
            self._tell(front, EndedSessions(part))
        for server in self._settings.servers:
            name = child_name(server)
            if life := self._lives.get(name):
                self._connect(front, life)
            elif (down_s := self._down_s(name)) is not None:
                self._tell(front, ServerDown(server.name, down_s))

    def boot_server(self, life: Life, server: Server) -> None:
        """Tell a backend worker what it is, and give it a link with the front."""
        boot, fds = plan.server_boot(self._settings, self._holdings, life.incarnation, server)
        self._tell(life, boot, [*fds, life.page_fd])
        if front := self._lives.get(FRONT):
            self._connect(front, life)

    def serve(self) -> None:
        """Let clients connect to a front that was held."""
        if front := self._lives.get(FRONT):
            self._tell(front, Serve())

    def sessions_ended(self, session_ids: list[str]) -> None:
        """Tell the front of sessions that ended at the front of another root."""
        if front := self._lives.get(FRONT):
            self._tell(front, EndedSessions(session_ids))

    def leave(self, life: Life, *, idle_s: float) -> None:
        """Ask it to leave. `idle_s`: of a front, how long clients may still begin a request on a connection."""
        self._tell(life, Stop() if life.server else Drain(limits.DRAIN_S, idle_s))

    def server_down(self, server: Server, retry_after_s: float | None) -> None:
        """Tell the front that a worker is gone, and when the next one comes (None: not soon)."""
        if front := self._lives.get(FRONT):
            self._tell(front, ServerDown(server.name, NOT_SOON_S if retry_after_s is None else retry_after_s))

    def _connect(self, front: Life, life: Life) -> None:
        """Give a front and a backend worker a link with each other."""
        assert life.server is not None
        try:
            front_end, server_end = self._machine.link_pair()
        except OSError as error:  # out of descriptors: without its link the worker is of no use, so it is tried again
            self._blame(life, f"could not be linked to the front: {error.strerror}")
            return
        with front_end, server_end:
            self._tell(front, Attach(life.server.name, life.incarnation), [front_end.fileno(), life.page_fd])
            self._tell(life, Attach(FRONT, front.incarnation), [server_end.fileno()])

    def _tell(self, life: Life, message: ToWorker, fds: Sequence[int] = ()) -> None:
        try:
            life.channel.send(control.encode(message), fds)
        except ChannelFull:
            self._blame(life, "does not read what the root tells it")
        except OSError as error:
            self._blame(life, f"could not be given an order: {error.strerror}")

    def _down_s(self, name: str) -> float | None:
        """Return in how many seconds a server gets the worker it lacks, or `NOT_SOON_S`; None before its first."""
        child = self._tree.children[name]
        if child.phase is Phase.ENDED or child.parked:
            return NOT_SOON_S
        waits = child.phase is Phase.WAITING and child.incarnation > 0
        return max(0.0, child.deadline - trio.current_time()) if waits else None
