"""A group of replicas: several servers behind one public name. Sees to it that one of them serves each call.

Who gets a call is chosen in choice.py. A call that one replica cannot serve goes to each other one at most once. Here
replicas are also compared with one another, and those that do worse are left alone for a while (protocol/outliers.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import trio

from protocol import tasks
from protocol.control import GroupInfo, GroupReport, ReplicaReport
from protocol.errors import INVALID_PARAMS
from protocol.limits import CALL_TIMEOUT_S, STALL_CALLS_MIN, STALL_S, STALL_SHARE
from protocol.outliers import TOO_OFTEN, Outliers
from protocol.versions import Era
from workers.front.calls import FrontCall, fault_data
from workers.front.choice import Choice
from workers.front.hedging import Hedging, give_copy
from workers.front.replica import Replica, Standing
from workers.front.replica_lists import KINDS, ReplicaLists
from workers.front.server_link import LIST_CAPABILITIES
from workers.front.snapshot import Snapshot
from workers.logs import Log
from workers.reactor import Reactor

LOOK_S: Final = 0.25
REPORT_EVERY: Final = 4
"""Looks."""
SHARE_KEPT: Final = 0.9
"""How much of what was counted before a report counts in the next one."""
SHARE_LEAST: Final = 0.5
"""Calls that are left of what was counted; fewer are none."""


class Group:
    """The replicas of one group. There is at least one whenever clients can see it."""

    def __init__(
        self, reactor: Reactor, info: GroupInfo, log: Log, *, tell_root: Callable[[GroupReport], None]
    ) -> None:
        self.name = info.name
        self.info = info
        self._reactor = reactor
        self._log = log
        self._tell_root = tell_root
        self.is_isolated = False
        """Each client has a session of its own."""
        self.call_timeout_s = CALL_TIMEOUT_S
        self.tool_timeouts: dict[str, float] = {}
        self._stall_s = STALL_S
        self._replicas: list[Replica] = []
        self._placed: dict[str, float] = {}
        """Calls of late, by replica; each report makes those before it count less."""
        self._outliers = Outliers()
        self._lists = ReplicaLists(info.name, log)
        self._choice = Choice(reactor, info, self._lists, self._outliers)
        self._learning: set[tuple[Era, str]] = set()
        self._looks = 0
        self._reported: GroupReport | None = None
        self._look = reactor.every(LOOK_S, self._look_after)
        self._hedging: Hedging | None = None
        self.become(info)

    def become(self, info: GroupInfo) -> None:
        """From now on it is configured so."""
        self.info = info
        self._choice.become(info)
        if info.hedge and self._hedging is None:
            self._hedging = Hedging(self._reactor, self._other_taker)
        elif not info.hedge and self._hedging is not None:
            self._hedging.end()
            self._hedging = None

    def serve(self, replicas: Sequence[Replica]) -> None:
        """From now on these are the replicas."""
        names = frozenset(replica.name for replica in replicas)
        self._replicas = list(replicas)
        self.is_isolated = any(replica.is_isolated for replica in replicas)
        self._choice.serve(replicas)
        self._placed = {name: self._placed.get(name, 0.0) for name in names}
        self._outliers.keep(names)
        # A call may come to any of them, so it has the time that the most patient one gives it.
        self.call_timeout_s = max((one.call_timeout_s for one in replicas), default=CALL_TIMEOUT_S)
        tools = {tool for one in replicas for tool in one.tool_timeouts}
        self.tool_timeouts = {
            tool: max(one.tool_timeouts.get(tool, one.call_timeout_s) for one in replicas) for tool in tools
        }
        self._stall_s = min(STALL_S, STALL_SHARE * max(self.call_timeout_s, *self.tool_timeouts.values(), 0.0))
        self._look.wake()

    # --- as a server ----------------------------------------------------------------------------------------
    @property
    def instructions(self) -> str:
        return next((replica.instructions for replica in self._replicas if replica.instructions), "")

    @property
    def offers(self) -> frozenset[str] | None:
        known = [replica.offers for replica in self._replicas if replica.offers is not None]
        return frozenset[str]().union(*known) if known else None

    @property
    def kinds(self) -> frozenset[str]:
        return LIST_CAPABILITIES if self.offers is None else LIST_CAPABILITIES & self.offers

    @property
    def is_usable(self) -> bool:
        return any(replica.is_usable for replica in self._replicas)

    def timeout_s(self, call: FrontCall) -> float:
        """Return how long this call may go without an answer or progress."""
        own = self.tool_timeouts.get(call.name) if call.method == "tools/call" else None
        return self.call_timeout_s if own is None else own

    async def snapshot(self, era: Era, kind: str) -> Snapshot | None:
        """Return what the replicas offer together, as it is now as far as they say so in time."""
        replicas = list(self._replicas)
        # Those that work, or may soon, are asked; the others are waited for only if nobody else is there.
        asked = [replica for replica in replicas if replica.standing <= Standing.UNDECIDED] or replicas
        async with trio.open_nursery() as nursery:
            for replica in asked:
                nursery.start_soon(replica.snapshot, era, kind)
        parts = [(replica.name, replica.known(era, kind)) for replica in replicas]
        return self._lists.merge(era, kind, parts, self._reactor.now)

    def submit(self, call: FrontCall) -> None:
        """Give the call to a replica."""
        key = (call.era, KINDS.get(call.method, ""))
        if key[1] and key not in self._learning and not self._lists.has(*key):
            # Who offers what, and what may be sent twice, should be known before something fails.
            self._learning.add(key)
            self._reactor.start_soon(self._learn, *key)
        self._look.wake()
        if call.replica:
            self._submit_where_it_began(call)
        else:
            self._choice.choose(call, self._replicas).submit(call)

    def _replica(self, name: str) -> Replica | None:
        return next((one for one in self._replicas if one.name == name), None)

    def _submit_where_it_began(self, call: FrontCall) -> None:
        """Nobody else knows what the server has asked."""
        replica = self._replica(call.replica)
        if replica is not None:
            replica.submit(call)
            return
        call.leave()
        if call.method in tasks.ANY:
            text = f'server "{call.replica}" is not there any more, and nobody else knows its task'
        else:
            text = (
                f'server "{call.replica}" is not there any more, and what it asked is known to nobody else: make the '
                "request again from the start, without requestState and inputResponses"
            )
        call.reply.error(INVALID_PARAMS, text, fault_data(call.replica, sent=False))

    async def watch(self, uri: str) -> tuple[int, str] | None:
        """Be told of updates of a resource; refused only if every replica refuses. Of a task its own replica tells.

        Every replica is asked, because what happens at one may be told only there.
        """
        if (task := tasks.read_topic(uri)) is not None:
            replica = self._replica(task[0])
            return await replica.watch(uri) if replica is not None else (INVALID_PARAMS, "the replica is gone")
        refusals: list[tuple[int, str] | None] = []

        async def ask(replica: Replica) -> None:
            refusals.append(await replica.watch(uri))

        async with trio.open_nursery() as nursery:
            for replica in list(self._replicas):
                nursery.start_soon(ask, replica)
        if not refusals or None in refusals:
            return None
        return refusals[0]

    def unwatch(self, uri: str) -> None:
        if (task := tasks.read_topic(uri)) is not None:
            if (replica := self._replica(task[0])) is not None:
                replica.unwatch(uri)
            return
        for replica in self._replicas:
            replica.unwatch(uri)

    def keep_watching(self, uri: str) -> None:
        if (task := tasks.read_topic(uri)) is not None:
            if (replica := self._replica(task[0])) is not None:
                replica.keep_watching(uri)
            return
        for replica in self._replicas:
            replica.keep_watching(uri)

    async def _learn(self, era: Era, kind: str) -> None:
        try:
            await self.snapshot(era, kind)
        finally:
            self._learning.discard((era, kind))

    # --- who takes over -------------------------------------------------------------------------------------
    def taker(self, call: FrontCall, origin: Replica, *, failed: bool) -> Replica | None:
        """Return the replica that takes a call of another one. `failed`: that one cannot serve it; else it might yet.

        A call that could still be served where it is goes only where it would be sent at once. One that goes on with
        what a replica has asked goes nowhere else.
        """
        if not failed and self.is_at_home(call, origin):
            return None
        others = self._takers(call, origin, failed=failed)
        return self._choice.choose(call, others) if others else None

    def has_taker(self, call: FrontCall, origin: Replica) -> bool:
        """Whether whoever would take this call would send it at once. To ask is not to choose: it takes no turn."""
        others = () if self.is_at_home(call, origin) else self._takers(call, origin, failed=True)
        found = self._choice.usable(others) if others else ()
        return any(one.standing is Standing.READY and one.has_place for one in found)

    def is_at_home(self, call: FrontCall, replica: Replica) -> bool:
        """Whether the replica works, and has the session of the call's client."""
        return self._choice.is_at_home(call, replica)

    def client_gone(self, client: int) -> None:
        """This client has ended its session."""
        self._choice.client_gone(client)

    def _takers(self, call: FrontCall, origin: Replica, *, failed: bool) -> Sequence[Replica]:
        if call.replica:
            return ()
        if failed:
            others = [one for one in self._replicas if one.name != origin.name and one.name not in call.tried]
            others = [one for one in others if one.standing <= Standing.UNDECIDED]
        else:
            others = [one for one in self._replicas if one is not origin and one.name != origin.name]
            others = [one for one in others if one.standing is Standing.READY and one.has_place]
        if (offering := self._lists.offering(call.method, call.era, call.name)) is not None:
            others = [one for one in others if one.name in offering]
        return others

    def _other_taker(self, call: FrontCall, origin: Replica) -> Replica | None:
        """Return the replica that is given a copy of a call."""
        taker = self.taker(call, origin, failed=False)
        return None if taker is None or self._outliers.is_ejected(taker.name, self._reactor.now) else taker

    # --- what replicas tell ---------------------------------------------------------------------------------
    def placed(self, replica: Replica, call: FrontCall) -> None:
        if replica.name in self._placed:
            self._placed[replica.name] += 1
        if self._hedging is not None:
            self._hedging.sent(call, replica)

    def answered(self, replica: Replica, call: FrontCall, seconds: float) -> None:
        self._outliers.answered(replica.name, call.name, seconds, self._reactor.now - seconds)
        self._choice.answered(replica, call, seconds)
        if self._hedging is not None:
            self._hedging.answered(call, seconds)

    def outpaced(self, replica: Replica, seconds: float) -> None:
        self._choice.took(replica, seconds)

    def failed(self, replica: Replica, sent_at: float) -> None:
        if self._outliers.failed(replica.name, self._reactor.now, sent_at):
            self._tell_ejected(replica.name, TOO_OFTEN)

    def probed(self, replica: Replica, *, works: bool) -> None:
        if works and self._outliers.is_due(replica.name, self._reactor.now):
            self._log.info("a replica gets calls again", group=self.name, server=replica.name)
        self._outliers.checked(replica.name, self._reactor.now, works=works)

    def changed(self, replica: Replica) -> None:
        self._look.wake()
        if replica.standing is Standing.READY:
            for other in self._replicas:
                if other.standing is not Standing.READY:
                    other.give_away_waiting()
        elif replica.in_flight and any(one.standing is Standing.READY for one in self._replicas):
            replica.give_away_sent()
            replica.give_away_waiting()

    # --- looking after them ---------------------------------------------------------------------------------
    def _look_after(self) -> bool:
        """Find replicas that have fallen silent, or back; report. Return whether anything is left to look after."""
        now = self._reactor.now
        since = now - self._stall_s
        for replica in self._replicas:
            calls_min = 1 if self._outliers.is_on_trial(replica.name) else STALL_CALLS_MIN
            back_at = self._outliers.returned_at(replica.name)
            if replica.has_stalled(since, calls_min, back_at) and self._answers_elsewhere(replica, since):
                if self._outliers.eject(replica.name, now):
                    self._tell_ejected(replica.name, "it answers nothing")
                replica.give_away_sent()
                replica.give_away_waiting()
            elif self._outliers.is_due(replica.name, now) or replica.is_half_open:
                # Nobody else tries one that is not called because others work.
                replica.probe()
            replica.recall_unsent(now)
            for call in replica.late_reads(now):
                self._copy_late(call, replica)
        self._looks += 1
        if self._looks % REPORT_EVERY == 0:
            for name, why in self._outliers.judge(now):
                self._tell_ejected(name, why)
            self._report(now)
        return any(self._placed.values()) or any(
            one.in_flight or one.is_half_open or self._outliers.is_ejected(one.name, now) for one in self._replicas
        )

    def _copy_late(self, call: FrontCall, replica: Replica) -> None:
        """Give a call to another replica as well that may soon have waited in vain; it may also just take its time."""
        taker = self._other_taker(call, replica)
        if taker is not None and replica.may_try_once_more(call) and replica.may_repeat():
            give_copy(call, replica, taker)

    def _answers_elsewhere(self, replica: Replica, since: float) -> bool:
        return any(one is not replica and one.has_answered(since) for one in self._replicas)

    def _tell_ejected(self, name: str, why: str) -> None:
        seconds = self._outliers.returned_at(name) - self._reactor.now
        self._log.warning(
            "a replica gets no calls for a while",
            group=self.name,
            server=name,
            reason=why,
            seconds=round(seconds),
        )

    def _report(self, now: float) -> None:
        total = sum(self._placed.values()) or 1.0
        lacks, differs = self._lists.differences()
        report = GroupReport(
            self.name,
            [
                ReplicaReport(
                    one.name,
                    round(self._placed[one.name] / total, 3),
                    self._outliers.is_ejected(one.name, now),
                    self._outliers.ejections(one.name),
                    one.failovers,
                    lacks.get(one.name, []),
                    differs.get(one.name, []),
                    one.hedged,
                )
                for one in self._replicas
            ],
        )
        self._placed = {
            name: left if (left := count * SHARE_KEPT) >= SHARE_LEAST else 0.0 for name, count in self._placed.items()
        }
        if report != self._reported:
            self._reported = report
            self._tell_root(report)
