"""Change at run time which servers there are and who serves them: add, remove, disable, enable, replace, check.

Rule 1: a new worker serves nobody until its server has been found to answer, unless that is forced. One that replaces
another takes over in one step: new calls go to it, and those in flight end where they are.
Rule 2: what does not take time is done at once; what does (trying a server out) keeps the server's name busy, and a
second change of the same server is refused meanwhile.
Rule 3: workers that nobody asked about are never touched.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Final

import trio

from protocol.control import Checked
from protocol.limits import CANARY_PERCENT_MAX, CHECK_DEADLINE_S
from supervisor.config import SERVERS_BYTES_MAX, SERVERS_MAX, Group, Portion, Server, Settings
from supervisor.groups import parse_portion, portion_of
from supervisor.lives import Life
from supervisor.news import News
from supervisor.orders import Orders
from supervisor.plan import FRONT, call_time_s, front_names
from supervisor.roster import Entry, Roster
from supervisor.spec import ChildSpec, Role, family
from supervisor.tree import Do, Phase, Tree

CHECK_GRACE_S: Final = 3.0
"""A worker that is being started gets so much longer than one that is there, and every answer this long to arrive."""
RETIRE_EXTRA_S: Final = 5.0
"""A worker that nobody calls any more is killed so long after the last of its calls must have ended."""


class Refused(Exception):
    """The change was not made. The text says why, for people."""


class UnknownServer(Refused):
    """There is no server of that name."""


class Unreachable(Refused):
    """The server did not answer as it should, so it was not made part of the proxy."""

    def __init__(self, checked: Checked) -> None:
        super().__init__(checked.problem)
        self.checked = checked


class _Question:
    """A check under way, shared by all who want to know."""

    def __init__(self) -> None:
        self.answered = trio.Event()
        self.answer: Checked | None = None


def _nobody(name: str) -> None:
    del name


class Changes:
    """`lives`: the current ones, by the names of the tree. `do`: carries out what the tree decides."""

    def __init__(
        self,
        settings: Settings,
        roster: Roster,
        tree: Tree,
        lives: Mapping[str, Life],
        orders: Orders,
        news: News,
        do: Callable[[Sequence[Do]], None],
    ) -> None:
        self._settings = settings
        self._roster = roster
        self._tree = tree
        self._lives = lives
        self._orders = orders
        self._news = news
        self._do = do
        self._busy: set[str] = set()
        self._held = False
        self._questions: dict[str, _Question] = {}
        """By the names of the tree."""
        self._numbers = itertools.count(1)
        self._retiring: dict[tuple[str, int], tuple[str, set[str]]] = {}
        """Workers that have calls to finish, and the fronts that have not released them yet, by server name and
        incarnation, as the fronts know them."""
        self.looked_up: Callable[[str], None] = _nobody
        """Told of each server that is to be looked up now, or no more (discovery.py)."""

    def servers(self) -> dict[str, Server]:
        """Return all servers as they are now, by name."""
        return {name: entry.server for name, entry in self._roster.entries.items()}

    def own_servers(self) -> list[Server]:
        """Return all but those that were found by looking names up, which whoever serves next finds again."""
        return [entry.server for entry in self._roster.entries.values() if not entry.server.found_for]

    def hold(self, *, hold: bool) -> None:
        """Refuse all changes, or no more, because another version is about to take over the servers as they are."""
        self._held = hold

    # --- the changes -------------------------------------------------------------------------------------------------
    async def add(self, server: Server, *, force: bool = False, dry_run: bool = False) -> Checked | None:
        """Take in one more server, at the end of the order, and return what its check found (None if `force`d).

        Errors: `Refused`; `Unreachable` if it does not answer.
        """
        self._require_room(server)
        with self._alone(server.name):
            if server.discover:
                self._roster.entries[server.name] = Entry(server, "")
                self._news.note(server.name, "added; its name is looked up")
                self.looked_up(server.name)
                return None
            if not server.enabled:
                self._roster.entries[server.name] = Entry(server, "")
                self._news.note(server.name, "added, disabled")
                return None
            if force and not dry_run:
                self._enter(server, f"found at {server.address}" if server.address else "added without a check")
                return None
            child = self._start(server)
            try:
                checked = await self._ask(child)
                if checked.problem:
                    raise Unreachable(checked)
                self._require_running()
            except BaseException:
                self._discard(child)
                raise
            if dry_run:
                self._discard(child)
            else:
                self._roster.entries[server.name] = Entry(server, child, starts=1)
                self._offer(server.name)
            return checked

    def remove(self, name: str) -> None:
        """Take a server out; calls in flight may end. Errors: `Refused`."""
        entry = self._entry(name)
        with self._alone(name):
            self._remove_found(name)
            self._news.note(name, "removed")
            del self._roster.entries[name]
            self._withdraw(entry)
            self._news.forget_server(name)
            if entry.server.discover:
                self.looked_up(name)

    def disable(self, name: str) -> bool:
        """Stop a server's worker but keep the server; calls in flight may end. Return whether that is news.

        Errors: `Refused`.
        """
        entry = self._entry(name)
        with self._alone(name):
            if not entry.child and not (entry.server.discover and entry.server.enabled):
                return False
            self._remove_found(name)
            self._withdraw(entry)
            entry.server = dataclasses.replace(entry.server, enabled=False)
            self._news.note(name, "disabled")
            if entry.server.discover:
                self.looked_up(name)
            return True

    def enable(self, name: str) -> bool:
        """Start a server's worker again and offer its tools. Return whether that is news. Errors: `Refused`."""
        entry = self._entry(name)
        with self._alone(name):
            if entry.child or (entry.server.discover and entry.server.enabled):
                return False
            enabled = dataclasses.replace(entry.server, enabled=True)
            if enabled.discover:
                self._look_up(entry, enabled)
            else:
                self._enter(enabled, "enabled")
            return True

    async def replace(self, server: Server, *, force: bool = False) -> Checked | None:
        """Serve a server with these settings from now on, in its place; return what its check found.

        The worker with the new settings takes over when it is ready and its server answers (with `force`: or does not),
        and then the calls in flight on the one before it may end. One that is disabled only gets other settings.
        Errors: `Refused`; `Unreachable`, and then nothing has changed.
        """
        entry = self._entry(server.name)
        with self._alone(server.name):
            if server.discover:
                if not server.enabled:
                    self._remove_found(server.name)
                self._look_up(entry, server)
                return None
            if entry.server.discover:
                self._remove_found(server.name)
            if not (server.enabled and entry.child):
                if entry.child:
                    self._withdraw(entry)
                entry.server = server
                if server.enabled:
                    self._enter(server, "enabled with other settings")
                return None
            if self._group_of(server) != self._group_of(entry.server):
                # Clients see something else now, so there is nothing that a worker could take over gently.
                self._withdraw(entry)
                self._enter(server, "has come to another group")
                return None
            child = self._start(server)
            try:
                checked = await self._ask(child)
                if (checked.problem and not force) or not self._is_up(child):
                    raise Unreachable(checked)
                self._require_running()
            except BaseException:
                self._discard(child)
                raise
            self._take_over(entry, server, child)
            return checked

    async def restart(self, name: str) -> None:
        """Give a server a new worker; one that waits or is parked is started at once. Errors: `Refused`."""
        entry = self._entry(name)
        if entry.server.discover and entry.server.enabled:
            self.looked_up(name)
            return
        if not entry.child:
            raise Refused(f"Server '{name}' is disabled; enable it instead")
        phase = self._tree.children[entry.child].phase
        if phase is Phase.UP:
            await self.replace(entry.server, force=True)
        elif phase is Phase.WAITING:
            with self._alone(name):
                self._news.note(name, "restarted by hand")
                self._do(self._tree.retry(entry.child, trio.current_time()))
        # In every other phase one worker is leaving or another is coming, and a new one follows in any case.

    def drain(self, name: str) -> bool:
        """Give a replica no new calls as long as its group has others. Return whether that is news.

        Errors: `Refused`.
        """
        entry = self._entry(name)
        group = self._group_of(entry.server)
        if not group or entry.server.discover:
            raise Refused(f"Server '{name}' is no replica of a group; disable it instead")
        if not entry.child:
            raise Refused(f"Server '{name}' is disabled")
        with self._alone(name):
            if entry.is_drained:
                return False
            others = (one for one in self._roster.offered() if one is not entry and not one.is_drained)
            if not any(self._group_of(one.server) == group for one in others):
                raise Refused(f"Server '{name}' is the last replica of the group '{group}' that takes calls")
            self._weigh(entry, "drained", is_drained=True)
            return True

    def undrain(self, name: str) -> bool:
        """Give a replica calls again. Return whether that is news. Errors: `Refused`."""
        entry = self._entry(name)
        with self._alone(name):
            if entry.is_drained:
                self._weigh(entry, "takes calls again", is_drained=False)
                return True
            return False

    def weigh(self, name: str, text: str) -> Portion:
        """Give a replica another portion of its group's calls, until the proxy ends; return it.

        `text`: as `groups.parse_portion` reads it; "default" for what is configured.
        Errors: `Refused`; `ConfigError` if the text makes no sense.
        """
        entry = self._entry(name)
        group = self._roster.groups.get(entry.server.group)
        if group is None or entry.server.discover:
            raise Refused(f"Server '{name}' is no replica of a group, so there is nothing to weigh it against")
        portion = parse_portion(text, group)
        with self._alone(name):
            others = {one: replica for one, replica in self._roster.replicas().items() if one != name}
            of_group = [replica.portion.percent for replica in others.values() if replica.group is group]
            percent = (portion or portion_of(group, name)).percent
            if percent and all(of_group):
                raise Refused(f"Server '{name}' is the last of the group '{group.name}' that shares what is left")
            if percent and percent + sum(of_group) > CANARY_PERCENT_MAX:
                raise Refused(f"Percentages in a group are at most {CANARY_PERCENT_MAX:g} together")
            entry.portion = portion
            if entry.child:
                self._orders.add_server(entry.server, self._roster.place(name))
            found = portion or portion_of(group, name)
            self._news.note(name, "gets another portion of the calls")
            return found

    def regroup(self, groups: Sequence[Group], servers: Mapping[str, Server]) -> None:
        """From now on these are the groups of replicas.

        `servers`: as they are configured with these groups. Those that join a group, leave one or change it get a new
        worker and are offered anew, because clients see something else of them; the others notice nothing.
        Errors: `Refused`, and then nothing has changed.
        """
        self._require_running()
        wanted = {group.name: group for group in groups}
        targets = {name: servers.get(name, entry.server) for name, entry in self._roster.entries.items()}
        if clash := next((name for name in wanted if name in targets and not targets[name].discover), ""):
            raise Refused(f"'{clash}' is the name of a server; choose another one for the group")
        moved = [
            name for name, target in targets.items()
            if self._group_of(self._roster.entries[name].server) != (target.group if target.group in wanted else "")
        ]  # fmt: skip
        if busy := next((name for name in moved if name in self._busy), ""):
            raise Refused(f"Server '{busy}' is being changed right now; try again in a moment")
        settled = [name for name, target in targets.items() if not target.discover and self._roster.found_for(name)]
        for name in settled:
            self._remove_found(name)
            targets = {one: target for one, target in targets.items() if one in self._roster.entries}
        moved = [name for name in moved if name in targets]
        offered = [name for name in moved if self._roster.entries[name].child]
        for name in offered:
            self._withdraw(self._roster.entries[name])
        self._roster.groups = wanted
        self._orders.regroup()
        for name in moved:
            entry, target = self._roster.entries[name], targets[name]
            if target.discover:
                self._look_up(entry, target)
            elif name not in offered:
                entry.server = dataclasses.replace(entry.server, group=target.group)
            elif target.enabled:
                where = self._group_of(target)
                self._enter(target, f"has come to the group '{where}'" if where else "has left its group")
            else:
                entry.server = target
        for name, entry in self._roster.entries.items():
            if entry.child and name not in moved and self._group_of(entry.server):
                self._orders.add_server(entry.server, self._roster.place(name))  # its weight and rank may be others

    async def check(self, name: str) -> Checked | None:
        """Find out how a server is; None if it has no worker now that could ask it. Errors: `UnknownServer`."""
        child = self._entry(name).child
        phase = self._tree.children[child].phase if child else Phase.ENDED
        return await self._ask(child) if phase in (Phase.FORKING, Phase.BOOTING, Phase.UP) else None

    # --- what the root hears -----------------------------------------------------------------------------------------
    def checked(self, life: Life, message: Checked) -> None:
        """A worker has found out how its server is."""
        if question := self._questions.get(life.name):
            question.answer = message
            question.answered.set()

    def released(self, front: str, name: str, incarnation: int) -> None:
        """A front has no calls in flight any more with this worker, which can leave once that is so of all of them."""
        child, fronts = self._retiring.get((name, incarnation), ("", set[str]()))
        fronts.discard(front)
        if fronts:
            return
        self._retiring.pop((name, incarnation), None)
        life = self._lives.get(child)
        if life and life.incarnation == incarnation:
            self._orders.leave(life)

    def gone(self, name: str, incarnation: int) -> None:
        """A child has ended. It may be about to be restarted."""
        if family(name) == FRONT:
            for server, number in list(self._retiring):
                self.released(name, server, number)
            return
        if (question := self._questions.get(name)) and not question.answered.is_set():
            question.answered.set()
        if server := self._roster.children.get(name):
            if name not in self._tree.children:
                self._retiring.pop((server.name, incarnation), None)
            self._forget_if_gone(name)

    # --- steps -------------------------------------------------------------------------------------------------------
    def _start(self, server: Server) -> str:
        """Start a worker that serves nobody yet, and return its name in the tree."""
        child = self._roster.free_child_name(server)
        self._roster.children[child] = server
        self._news.watch(child)
        self._do(self._tree.add(ChildSpec(child, Role.SERVER), trio.current_time()))
        return child

    def _discard(self, child: str) -> None:
        """Stop a worker that serves nobody."""
        if child in self._tree.children:
            self._do(self._tree.remove(child, trio.current_time()))
        self._forget_if_gone(child)

    def _enter(self, server: Server, why: str) -> None:
        """Start a worker that serves from the beginning."""
        child = self._roster.free_child_name(server)
        self._roster.enter(Entry(server, child))
        self._orders.add_server(server, self._roster.place(server.name))
        self._start(server)
        self._news.note(server.name, why)

    def _look_up(self, entry: Entry, server: Server) -> None:
        """Have the name of a server looked up from now on, which has no worker then."""
        if entry.child:
            self._withdraw(entry)
        entry.server = server
        self._news.note(server.name, "its name is looked up" if server.enabled else "disabled")
        self.looked_up(server.name)

    def _remove_found(self, name: str) -> None:
        """Take out the replicas that were found for a server. Errors: `Refused`, and then nothing has changed."""
        found = self._roster.found_for(name)
        if busy := next((one for one in found if one in self._busy), ""):
            raise Refused(f"Server '{busy}' is being changed right now; try again in a moment")
        for one in found:
            self._news.note(one, "removed")
            self._withdraw(self._roster.entries.pop(one))
            self._news.forget_server(one)

    def _weigh(self, entry: Entry, why: str, *, is_drained: bool) -> None:
        entry.is_drained = is_drained
        self._orders.add_server(entry.server, self._roster.place(entry.server.name))
        self._news.note(entry.server.name, why)

    def _group_of(self, server: Server) -> str:
        """Return the group that it is a replica of; "" if it is none."""
        return server.group if server.group in self._roster.groups else ""

    def _offer(self, name: str) -> None:
        """Offer the tools of a server whose worker runs already."""
        entry = self._roster.entries[name]
        self._orders.add_server(entry.server, self._roster.place(name))
        if life := self._lives.get(entry.child):  # else it has just ended, and the next one is connected when it starts
            self._orders.connect(life)
        self._news.note(name, "added")

    def _take_over(self, entry: Entry, server: Server, child: str) -> None:
        before, is_changed = entry.child, entry.server != server
        entry.server, entry.child = server, child
        entry.starts += 1
        if is_changed:
            self._orders.add_server(server, self._roster.place(server.name))
        self._orders.connect(self._lives[child], gently=True)
        self._let_go(before)
        self._news.note(server.name, "a new worker has taken over")

    def _withdraw(self, entry: Entry) -> None:
        """Offer the tools of a server no more, and let its worker go."""
        child, entry.child = entry.child, ""
        entry.is_drained = False
        if child:
            self._orders.drop_server(entry.server)
            self._let_go(child)

    def _let_go(self, child: str) -> None:
        """Let a worker finish its calls, which the fronts have been told to wait for, and then leave."""
        now = trio.current_time()
        life = self._lives.get(child)
        fronts = {name for name in front_names(self._settings.fronts) if name in self._lives}
        if life and self._is_up(child) and fronts:
            assert life.server
            self._retiring[life.server.name, life.incarnation] = (child, fronts)
            self._do(self._tree.retire(child, call_time_s(self._settings, life.server) + RETIRE_EXTRA_S, now))
        else:
            self._do(self._tree.remove(child, now))
        self._forget_if_gone(child)

    def _forget_if_gone(self, child: str) -> None:
        """Keep nothing of a worker that is kept no more. One that had no process is gone without an end."""
        if child not in self._tree.children and (server := self._roster.children.pop(child, None)):
            self._news.forget(child)
            if server.name not in self._roster.entries:
                self._news.forget_server(server.name)

    async def _ask(self, child: str) -> Checked:
        """Have a worker check its server. The answer to who asked too late, or of one that died, is a problem, too."""
        question = self._questions.get(child)
        if question is None:
            question = self._questions[child] = _Question()
            try:
                await self._ask_alone(child, question)
            finally:
                question.answered.set()
                del self._questions[child]
        else:
            await question.answered.wait()
        if question.answer is not None:
            return question.answer
        return Checked(0, "its worker process did not find out how the server is", False, False, 0.0, -1, [])

    async def _ask_alone(self, child: str, question: _Question) -> None:
        patience_s = CHECK_DEADLINE_S + (CHECK_GRACE_S if self._is_up(child) else 2 * CHECK_GRACE_S)
        if life := self._lives.get(child):  # one that is being started reads it when it is there
            self._orders.check(life, next(self._numbers), CHECK_DEADLINE_S)
            with trio.move_on_after(patience_s):
                await question.answered.wait()

    # --- conditions --------------------------------------------------------------------------------------------------
    @contextlib.contextmanager
    def _alone(self, name: str) -> Generator[None]:
        self._require_running()
        if name in self._busy:
            raise Refused(f"Server '{name}' is being changed right now; try again in a moment")
        self._busy.add(name)
        try:
            yield
        finally:
            self._busy.discard(name)

    def _require_running(self) -> None:
        if self._tree.stopping:
            raise Refused("The proxy is stopping")
        if self._held:
            raise Refused("The proxy is being upgraded; try again in a moment")

    def _require_room(self, server: Server) -> None:
        if server.name in self._roster.groups and not server.discover:
            raise Refused(f"'{server.name}' is the name of a group; choose another one for the server")
        if server.name in self._roster.entries:
            raise Refused(f"Server '{server.name}' exists already; remove it first, or choose another name")
        servers = [entry.server for entry in self._roster.entries.values()]
        if len(servers) + len(self._busy) >= SERVERS_MAX:
            raise Refused(f"There are {len(servers)} servers already; at most {SERVERS_MAX} are possible")
        if sum(len(one.name) + len(one.url) for one in (*servers, server)) > SERVERS_BYTES_MAX:
            raise Refused(f"Names and URLs of all servers together would be longer than {SERVERS_BYTES_MAX} characters")

    def _entry(self, name: str) -> Entry:
        entry = self._roster.entries.get(name)
        if entry is None:
            raise UnknownServer(f"Server '{name}' not found")
        return entry

    def _is_up(self, child: str) -> bool:
        known = self._tree.children.get(child)
        return known is not None and known.phase is Phase.UP
