"""Give workers their orders: the boot order, links with one another, and who is down."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import trio

from protocol import control, limits
from protocol.control import (
    AddServer,
    Attach,
    Check,
    Drain,
    DropServer,
    EndedSessions,
    Groups,
    Managed,
    ReadCertificate,
    Serve,
    ServerDown,
    SessionNotes,
    Stop,
    ToWorker,
    Woke,
)
from protocol.ledger import LEDGER_BYTES
from supervisor import plan
from supervisor.channel import ChannelFull
from supervisor.config import ConfigError, Server, Settings
from supervisor.inboxes import Inboxes
from supervisor.lives import Life
from supervisor.machine import Machine
from supervisor.memory import ClientMemory
from supervisor.plan import FRONT, Holdings
from supervisor.roster import Roster
from supervisor.tree import Phase, Tree

PART_BYTES: Final = 64 * limits.KIB
"""Of an answer that may be longer than a packet."""
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
        roster: Roster,
        tree: Tree,
        lives: Mapping[str, Life],
        blame: Callable[[Life, str], None],
        inboxes: Inboxes | None = None,
    ) -> None:
        """`inboxes`: of the fronts, if there are several."""
        self._machine = machine
        self._settings = settings
        self._holdings = holdings
        self._memory = memory
        self._roster = roster
        self._tree = tree
        self._lives = lives
        self._blame = blame
        self._inboxes = inboxes
        self._front_names = plan.front_names(settings.fronts)
        self._ledger = machine.shared_memory(LEDGER_BYTES) if settings.stdio else -1

    def fronts(self) -> list[Life]:
        """Return the fronts that are there now."""
        return [life for name in self._front_names if (life := self._lives.get(name))]

    def boot_front(self, front: Life, *, stdio: bool, held: bool) -> None:
        """Tell a front what it is, and give it a link with each worker.

        `stdio`: it serves the client there. `held`: nobody may connect before `serve`.
        """
        stdio_session = self._memory.stdio_session if stdio else None
        newest, *older = self._memory.ended_parts()
        servers = [entry.server for entry in self._roster.offered()]
        number = self._number(front)
        boot, fds = plan.front_boot(
            self._settings, servers, self._holdings, front.incarnation, stdio_session, newest, held=held,
            groups=self._roster.groups.values(), replicas=self._roster.replicas(), number=number,
            inboxes=self._inboxes.of(number) if self._inboxes else (), ledger=self._ledger,
        )  # fmt: skip
        self._tell(front, boot, [*fds, front.page_fd])
        for notes in self._memory.note_parts():
            self._tell(front, SessionNotes(notes))
        for part in older:
            self._tell(front, EndedSessions(part))
        for entry in self._roster.offered():
            if life := self._lives.get(entry.child):
                self._link(front, life)
            elif (down_s := self._down_s(entry.child)) is not None:
                self._tell(front, ServerDown(entry.server.name, down_s))

    def boot_server(self, life: Life, server: Server) -> None:
        """Tell a backend worker what it is, and give it a link with each front if clients are to be served by it."""
        try:
            boot, fds = plan.server_boot(self._settings, self._holdings, life.incarnation, server)
        except ConfigError as error:
            self._blame(life, f"could not be told its settings: {error}")
            return
        self._tell(life, boot, [*fds, life.page_fd])
        if self._roster.is_offered(life.name):
            self.connect(life)

    def serve(self) -> None:
        """Let clients connect to fronts that were held."""
        self._tell_fronts(Serve())

    def read_certificate(self) -> None:
        """Have the fronts read their certificate again."""
        self._tell_fronts(ReadCertificate())

    def sessions_ended(self, session_ids: list[str]) -> None:
        """Tell the fronts of sessions that ended at a front of another root."""
        self._tell_fronts(EndedSessions(session_ids))

    def leave(self, life: Life, *, idle_s: float = 0.0) -> None:
        """Ask it to leave. `idle_s`: of a front, how long clients may still begin a request on a connection."""
        self._tell(life, Stop() if life.server else Drain(limits.DRAIN_S, idle_s))

    def server_down(self, server: Server, retry_after_s: float | None) -> None:
        """Tell the fronts that a worker is gone, and when the next one comes (None: not soon)."""
        self._tell_fronts(ServerDown(server.name, NOT_SOON_S if retry_after_s is None else retry_after_s))

    def add_server(self, server: Server, place: int) -> None:
        """Have the fronts offer one more server, or one that they know with other settings.

        Its headers stay here: they are secrets, and no business of a front.
        """
        replica = self._roster.replica(server.name)
        for front in self.fronts():
            info = plan.offered_info(self._settings, server, replica, self._number(front))
            self._tell(front, AddServer(info, place))

    def regroup(self) -> None:
        """Tell the fronts which groups there are."""
        groups = self._roster.groups.values()
        self._tell_fronts(Groups([plan.group_info(self._settings, group) for group in groups]))

    def drop_server(self, server: Server) -> None:
        """Have the fronts offer a server no more."""
        self._tell_fronts(DropServer(server.name))

    def check(self, life: Life, number: int, deadline_s: float) -> None:
        """Have a worker find out how its server is."""
        self._tell(life, Check(number, deadline_s))

    def woke(self, absent_s: float) -> None:
        """Tell all backend workers that nothing has run for so long."""
        for life in self._lives.values():
            if life.server is not None:
                self._tell(life, Woke(absent_s))

    def managed(self, front: Life, number: int, answer: bytes) -> None:
        """Give a front the answer to a client's management request."""
        parts = [answer[at : at + PART_BYTES] for at in range(0, len(answer), PART_BYTES)]
        for part in parts:
            self._tell(front, Managed(number, part, part is parts[-1]))

    def connect(self, life: Life, *, gently: bool = False) -> None:
        """Give each front and a backend worker a link with each other; a front that is not there gets it when it comes.

        `gently`: the worker it replaces has calls to finish.
        """
        for front in self.fronts():
            self._link(front, life, gently=gently)

    def _link(self, front: Life, life: Life, *, gently: bool = False) -> None:
        assert life.server is not None
        try:
            front_end, server_end = self._machine.link_pair()
        except OSError as error:  # out of descriptors: without its link the worker is of no use, so it is tried again
            self._blame(life, f"could not be linked to the front: {error.strerror}")
            return
        with front_end, server_end:
            attach = Attach(life.server.name, life.incarnation, gently)
            self._tell(front, attach, [front_end.fileno(), life.page_fd])
            self._tell(life, Attach(FRONT, front.incarnation), [server_end.fileno()])

    def _number(self, front: Life) -> int:
        return self._front_names.index(front.name)

    def _tell_fronts(self, message: ToWorker) -> None:
        for front in self.fronts():
            self._tell(front, message)

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
