"""One replica of a group: the link of a server that gives calls which it cannot serve to the other replicas.

What may be given away is what may be sent again at all (server_link.py, rules 1 to 4): a call that was never sent,
whatever it is; one that may have been executed only if its tool says that this does no harm, the client has heard
nothing of it yet, and the retry budget allows it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection
from typing import Final, Protocol

from protocol.control import ServerInfo
from protocol.errors import OVERLOADED
from protocol.flight import Stage
from protocol.limits import RECALL_S
from protocol.link import (
    Ask,
    Cancel,
    Event,
    Fault,
    Header,
    NeedInput,
    Payload,
    Probe,
    Probed,
    Recall,
    Result,
    State,
    TaskCreated,
)  # fmt: skip
from workers.front.calls import FrontCall, TakesOver
from workers.front.rounds import Rounds
from workers.front.server_link import READING_METHODS, UNDECIDED_STATES, ServerLink
from workers.logs import Log
from workers.reactor import Reactor

NEVER: Final = float("-inf")


class Standing(enum.IntEnum):
    """How much can be expected of a replica, best first."""

    READY = 0
    DOUBTFUL = 1
    """Its server failed the last health check."""
    UNDECIDED = 2
    """Its worker does not know yet."""
    UNUSABLE = 3
    """Its worker knows that the server cannot be used now."""
    ABSENT = 4
    """It has no worker, but will have one soon."""
    GONE = 5


class Siblings(Protocol):
    """What a replica needs of its group."""

    @property
    def name(self) -> str: ...

    def placed(self, replica: Replica, call: FrontCall) -> None:
        """A call was sent to its worker."""
        ...

    def answered(self, replica: Replica, call: FrontCall, seconds: float) -> None: ...

    def outpaced(self, replica: Replica, seconds: float) -> None:
        """Another has answered in its place, after it had the call for so long."""
        ...

    def probed(self, replica: Replica, *, works: bool) -> None:
        """Its server has been checked, as `probe` asked for."""
        ...

    def failed(self, replica: Replica, sent_at: float) -> None:
        """It did not answer a call as it should that it was sent at that time."""
        ...

    def changed(self, replica: Replica) -> None:
        """Its standing may have changed."""
        ...

    def taker(self, call: FrontCall, origin: Replica, *, failed: bool) -> Replica | None:
        """Return the replica that takes a call of this one. `failed`: this one cannot serve it; else it might yet."""
        ...

    def has_taker(self, call: FrontCall, origin: Replica) -> bool:
        """Whether another one would send a call at once that this one gave up."""
        ...

    def is_at_home(self, call: FrontCall, replica: Replica) -> bool:
        """Whether the replica works, and has the session of the call's client."""
        ...


class Replica(ServerLink):
    """A front's side of one server of a group."""

    def __init__(
        self,
        reactor: Reactor,
        info: ServerInfo,
        log: Log,
        *,
        group: Siblings,
        list_changed: Callable[[Collection[str]], None],
        link_broken: Callable[[str, int, str], None],
        updated: Callable[[str, str, Payload], None],
        rounds: Rounds,
        fallback: Callable[[str, FrontCall], TakesOver | None] | None = None,
        is_shared: bool = False,
    ) -> None:
        self._group = group
        self._sent_at: dict[int, float] = {}
        """When calls in flight were sent, oldest first, by their numbers on the link."""
        self._asked_back: set[int] = set()
        """Calls in flight that the worker is to give back if it has not sent them."""
        self._heard_at = NEVER
        self.weight = info.weight
        self.percent = info.percent
        self.ready_since = reactor.now
        self.failovers = 0
        self.hedged = 0
        """Calls that another was given as well because they took long here."""
        self._is_probing = False
        super().__init__(
            reactor, info, log, list_changed=list_changed, link_broken=link_broken, updated=updated,
            rounds=rounds, fallback=fallback, is_shared=is_shared,
        )  # fmt: skip

    @property
    def standing(self) -> Standing:
        if self._end is None:
            return Standing.GONE if self._retry_after_s < 0 else Standing.ABSENT
        if self.state in UNDECIDED_STATES or not self._is_open:
            return Standing.UNDECIDED
        if self.state == "ready":
            return Standing.READY
        return Standing.DOUBTFUL if self.state == "degraded" else Standing.UNUSABLE

    @property
    def is_half_open(self) -> bool:
        """Its worker refuses calls because the server kept failing, and would try whether it does still."""
        return self.state == "half_open"

    @property
    def has_place(self) -> bool:
        """It would send one more call at once."""
        return not self._queue and not self._returned and self._has_place()

    def has_answered(self, since: float) -> bool:
        """Whether it has said anything about a call since then."""
        return self._heard_at >= since

    def has_stalled(self, since: float, calls_min: int, back_at: float) -> bool:
        """Whether so many calls wait for it and it has said nothing about any since then.

        `back_at`: when it last came back; what hangs since before that says nothing of how it is now.
        """
        waiting = [sent_at for sent_at in self._sent_at.values() if sent_at >= back_at]
        return len(waiting) >= calls_min and max(self._heard_at, waiting[0]) < since

    def only_reads(self, call: FrontCall) -> bool:
        """Whether the call's tool says of itself that it changes nothing, and is believed."""
        if call.method != "tools/call" or not self._trust_annotations:
            return False
        snapshot = self.known(call.era, "tools")
        return snapshot is not None and call.name in snapshot.read_only_tools()

    def late_reads(self, now: float) -> list[FrontCall]:
        """Return calls that only read, and have used half of their time without a word about any call from here."""
        late: list[FrontCall] = []
        for link_id, sent_at in self._sent_at.items():
            call = self._in_flight.get(link_id)
            if call is None or self._heard_at >= sent_at or 2 * (now - sent_at) < call.deadline - sent_at:
                continue
            is_new = not (call.pair_since or call.tried or call.replica or call.interaction)
            if is_new and (self.only_reads(call) or call.method in READING_METHODS):
                late.append(call)
        return late

    def may_repeat(self) -> bool:
        """Whether one more call of this replica may be executed twice now; it counts as such then."""
        return self._budget.allows(self._reactor.now)

    def is_serving(self, call: FrontCall, link_id: int) -> bool:
        """Whether a call is still in flight here under this number."""
        return self._in_flight.get(link_id) is call

    def sent_at(self, link_id: int) -> float:
        """Return when a call that is in flight was sent."""
        return self._sent_at[link_id]

    def probe(self) -> None:
        """Have the worker check its server. The group is told the result, unless the worker ends meanwhile."""
        can_be_asked = self.standing <= Standing.DOUBTFUL or self.is_half_open
        if can_be_asked and not self._is_probing and self._end is not None:
            self._is_probing = True
            self._end.send(Probe())

    # --- calls that others take -----------------------------------------------------------------------------
    def give_away_waiting(self) -> None:
        """Give those calls that wait here to replicas that would send them now."""
        for call in (*self._returned, *self._queue):
            if (taker := self._group.taker(call, self, failed=False)) is None:
                continue
            if call in self._queue:
                self._queue.remove(call)
            else:
                self._returned.remove(call)
            self._hand_over(call, taker)

    def give_away_sent(self) -> None:
        """Give those calls to others that may be sent twice, because there is little hope of an answer here."""
        for link_id, call in list(self._in_flight.items()):
            # One that comes from another replica may be what makes them silent.
            if call.tried or (taker := self._group.taker(call, self, failed=True)) is None:
                continue
            if self._may_try_again(call, Stage.SENT):
                del self._in_flight[link_id]
                self._sent_at.pop(link_id, None)
                if self._end is not None:
                    self._end.send(Cancel(link_id, "another replica is asked"))
                call.was_sent = True
                call.tried = (*call.tried, self.name)
                self._hand_over(call, taker)
        self._pump()

    def recall_unsent(self, now: float) -> None:
        """Ask the worker to give back what it has had for a while and not sent, as far as others would send it.

        It may wait for a connection, or for a server that is slow to greet it. It answers with a fault if it has not
        sent the call, and with nothing if it has.
        """
        self._asked_back &= self._sent_at.keys()
        for link_id, sent_at in self._sent_at.items():
            if sent_at > now - RECALL_S:
                return
            if link_id in self._asked_back or (call := self._in_flight.get(link_id)) is None:
                continue
            if self._end is not None and self._group.has_taker(call, self):
                self._asked_back.add(link_id)
                self._end.send(Recall(link_id))

    def _hand_over(self, call: FrontCall, taker: Replica) -> None:
        self.failovers += 1
        call.link_id = 0
        taker.submit(call)

    def _given_away(self, call: FrontCall, code: int, *, sent: bool) -> bool:
        """Give a call that would be answered with an error to another replica; return whether one takes it."""
        if call.deadline <= self._reactor.now or not self.may_try_once_more(call):
            return False
        if code == OVERLOADED and not call.link_id and self._group.is_at_home(call, self):
            return False  # its client has to wait: what this one keeps for it is nowhere else
        taker = self._group.taker(call, self, failed=True)
        if taker is None:
            return False
        if sent or call.was_sent:
            if not self._may_try_again(call, Stage.SENT):
                return False
            call.was_sent = True
        elif call.link_id:
            call.tries -= 1  # its worker is alive, and the server has not seen it
        call.tried = (*call.tried, self.name)
        self._hand_over(call, taker)
        return True

    # --- what is done differently from a link of its own -----------------------------------------------------
    def _may_try_again(self, call: FrontCall, stage: Stage) -> bool:
        # Its copy is under way: that is its second try.
        return call.twin is None and super()._may_try_again(call, stage)

    def _fail(self, call: FrontCall, code: int, message: str, *, sent: bool, retry_after_ms: int = 0) -> None:
        if (twin := call.twin) is not None:
            twin.was_sent = twin.was_sent or sent or call.was_sent
            twin.settle()
        elif not self._given_away(call, code, sent=sent):
            super()._fail(call, code, message, sent=sent, retry_after_ms=retry_after_ms)

    def _settle_queue(self) -> None:
        self.give_away_waiting()
        super()._settle_queue()

    def _sweep_queue(self) -> bool:
        if self._queue or self._returned:
            self.give_away_waiting()
        return super()._sweep_queue()

    def _lost(self, reason: str, *, is_gone: bool = True) -> None:
        self._sent_at.clear()
        self._is_probing = False
        super()._lost(reason, is_gone=is_gone)
        self._group.changed(self)

    def _send(self, call: FrontCall) -> None:
        super()._send(call)
        self._sent_at[call.link_id] = self._reactor.now
        self._group.placed(self, call)

    def cancel(self, call: FrontCall, reason: str) -> None:
        if (twin := call.twin) is not None:
            call.twin = twin.twin = None
            if twin.server is not None:
                twin.server.cancel(twin, reason)
        self._sent_at.pop(call.link_id, None)
        super().cancel(call, reason)

    def _result(self, header: Result, payload: Payload) -> None:
        self._note_answer(header.id)
        super()._result(header, payload)

    def _event(self, header: Event, payload: Payload) -> None:
        self._heard_of(header.id)
        super()._event(header, payload)

    def _ask_client(self, header: Ask, payload: Payload) -> None:
        self._heard_of(header.id)
        super()._ask_client(header, payload)

    def _need_input(self, header: NeedInput, payload: Payload) -> None:
        self._note_answer(header.id)
        super()._need_input(header, payload)

    @property
    def place(self) -> tuple[str, str]:
        return self._group.name, self.name

    def _task_created(self, header: TaskCreated, payload: Payload) -> None:
        self._note_answer(header.id)
        super()._task_created(header, payload)

    def _fault(self, header: Fault, payload: Payload) -> None:
        if payload:
            self._note_answer(header.id)  # an error of the server's own is an answer
        elif (sent_at := self._sent_at.pop(header.id, None)) is not None and header.code != OVERLOADED:
            self._group.failed(self, sent_at)
        if header.id in self._asked_back and not header.sent and (call := self._in_flight.get(header.id)) is not None:
            # A worker that reads late gets our wish together with the call, and would have begun it with all its time.
            call.deadline = max(call.deadline, self._reactor.now + RECALL_S)
        super()._fault(header, payload)

    def _note_answer(self, link_id: int) -> None:
        sent_at = self._sent_at.pop(link_id, None)
        if sent_at is not None:
            self._heard_of(link_id)
            self._group.answered(self, self._in_flight[link_id], self._heard_at - sent_at)

    def _heard_of(self, link_id: int) -> None:
        self._heard_at = self._reactor.now
        call = self._in_flight.get(link_id)
        if call is None or (twin := call.twin) is None:
            return
        slower = twin.server
        if isinstance(slower, Replica) and (sent_at := slower._sent_at.get(twin.link_id)) is not None:
            self._group.outpaced(slower, self._heard_at - sent_at)
        call.settle()

    def _frame(self, header: Header, payload: Payload) -> None:
        if isinstance(header, Probed):
            self._is_probing = False
            self._group.probed(self, works=header.works)
        else:
            super()._frame(header, payload)

    def _state(self, header: State) -> None:
        before = self.standing
        super()._state(header)
        if self.standing is Standing.READY and before is not Standing.READY:
            self.ready_since = self._reactor.now
        self._group.changed(self)
