"""One server as a front sees it: its link, the calls in flight, those waiting, and its lists.

Rule 1: a call that was accepted ends exactly once, whatever happens to the worker.
Rule 2: a call waits here only while there is hope: for a place among the calls in flight (`QUEUE_DEADLINE_S`), or for a
worker that is being replaced (`RESTART_WAIT_S`). A server that is parked refuses at once.
Rule 3: what becomes of the calls on a link that broke is told by the flight page of the worker, which outlives it. What
was certainly never sent goes back to the head of the queue. What was sent is sent again only if its tool says that this
does no harm, the client has heard nothing of it yet, and the retry budget allows it; else its outcome is unknown.
Rule 4: a call that each of its workers died of is not given to another (`ServerInfo.retries_max`).
Rule 5: a worker without a link is of no use to anybody. If the root does not say that it is gone, it has to go.
"""

from __future__ import annotations

import math
import socket
from collections import deque
from collections.abc import Callable, Collection, Mapping
from typing import Final

import trio

from protocol import bridge, link, tasks
from protocol.control import ServerInfo
from protocol.counts import FAILED_CALLS, OVERLOADED_CALLS
from protocol.errors import CALL_TIMEOUT, OUTCOME_UNKNOWN, OVERLOADED, SERVER_UNAVAILABLE
from protocol.flight import Stage
from protocol.jsonrpc import RpcError, decode_object, encode_object
from protocol.limits import (
    CALL_CEILING_S,
    FALLBACKS_MAX,
    LINK_NEWS_S,
    LIST_WAIT_S,
    QUEUE_DEADLINE_S,
    RESTART_WAIT_S,
    STREAM_BUFFER_HIGH_BYTES,
)
from protocol.link import (
    Abandon,
    Answered,
    AnswerKind,
    Ask,
    Call,
    Cancel,
    Event,
    Fault,
    Header,
    ListChanged,
    ListFault,
    Listing,
    NeedInput,
    Result,
    Resume,
    State,
    TaskAsk,
    TaskCreated,
    Unask,
)
from protocol.versions import Era
from workers.front.calls import KEPT, FrontCall, TakesOver, fault_data
from workers.front.fair_queue import FairQueue
from workers.front.retry_budget import RetryBudget
from workers.front.rounds import Rounds
from workers.front.server_lists import ServerLists
from workers.front.snapshot import Snapshot
from workers.front.watched import Watched
from workers.link_end import LinkEnd
from workers.logs import Log
from workers.pages import PeerPage
from workers.reactor import Reactor

import msgspec  # isort: skip

QUEUE_SWEEP_S: Final = 0.1
LIST_CAPABILITIES: Final = frozenset({"tools", "prompts", "resources"})
READING_METHODS: Final = frozenset(
    {"prompts/get", "resources/read", "completion/complete", tasks.GET, tasks.RESULT, tasks.CANCEL}
)
"""They change nothing, or nothing more when they come twice, by what they are, so that a server may be asked again."""
REMAINING_MIN_S: Final = 0.001
"""What a worker is told that a call has left if that is less."""
NEVER_S: Final = -1.0
"""In place of the time until the next worker: none will follow."""
NAME_SHOWN_MAX: Final = 80
SETTLED_STATES: Final = frozenset({"ready", "degraded"})
"""States in which a list can be had; in the others what was last known is used without waiting."""
UNDECIDED_STATES: Final = frozenset({"starting", "connecting", "negotiating"})


class _Coded(msgspec.Struct):
    """An error object, as far as the HTTP status depends on it."""

    code: int


class ServerLink:
    """The front's side of one server."""

    def __init__(
        self,
        reactor: Reactor,
        info: ServerInfo,
        log: Log,
        *,
        list_changed: Callable[[Collection[str]], None],
        link_broken: Callable[[str, int, str], None],
        updated: Callable[[str, str, link.Payload], None],
        rounds: Rounds,
        fallback: Callable[[str, FrontCall], TakesOver | None] | None = None,
        is_shared: bool = False,
    ) -> None:
        """`fallback`: returns what takes a call that the server or group of this public name cannot serve.

        `is_shared`: other fronts send calls to this server, too.
        """
        self._fallback = fallback
        self._is_shared = is_shared
        self._wants_places = False
        """The worker knows that calls wait here for a place."""
        self.name = info.name
        self.call_timeout_s = info.call_timeout_s
        self.tool_timeouts = info.tool_timeouts
        self.state = "starting"
        self.detail = ""
        self.instructions = ""
        self.offers: frozenset[str] | None = None
        """Names of the server's capabilities, as of the last time that it could be asked; None if never."""
        self.incarnation = 0
        self._reactor = reactor
        self._log = log
        self._list_changed = list_changed
        self._updated = updated
        self._watched = Watched()
        self._link_broken = link_broken
        self._rounds = rounds
        self._end: LinkEnd | None = None
        self._limit = 0
        """Calls the worker accepts from us in flight; 0 while there is no link that has said hello, and while other
        fronts have all places."""
        self._next_id = 1
        self._in_flight: dict[int, FrontCall] = {}
        self._returned: deque[FrontCall] = deque()
        """Calls that a worker had when it ended and that may be given to the next one, before all that wait."""
        self._page: PeerPage | None = None
        self._own_incarnation = 0
        self._budget = RetryBudget()
        self.is_isolated = info.is_isolated
        """Each client has a session of its own there."""
        self._retries_max = info.retries_max
        self._trust_annotations = info.trust_annotations
        self._queue = FairQueue(info.queue_max)
        self._sweep = reactor.every(QUEUE_SWEEP_S, self._sweep_queue)
        self._retry_after_s = 0.0
        self._is_told_down = False
        """The root has said that this life of the worker is over."""
        self._lists = ServerLists(reactor, info.name, log, list_changed)
        self._attached = trio.Event()
        self._successor: ServerLink | None = None
        self._retired: Callable[[], None] | None = None
        """Told once nothing is in flight any more; None unless it retires."""

    @property
    def kinds(self) -> frozenset[str]:
        """The lists that the server has or may have, by the capability they belong to."""
        return LIST_CAPABILITIES if self.offers is None else LIST_CAPABILITIES & self.offers

    @property
    def is_usable(self) -> bool:
        """A call would be sent, and probably answered."""
        return self.state in SETTLED_STATES

    @property
    def in_flight(self) -> int:
        return len(self._in_flight) + len(self._returned) + len(self._queue)

    def timeout_s(self, call: FrontCall) -> float:
        """Return how long this call may go without an answer or progress."""
        own = self.tool_timeouts.get(call.name) if call.method == "tools/call" else None
        return self.call_timeout_s if own is None else own

    # --- the link's life ------------------------------------------------------------------------------------
    def attach(self, sock: socket.socket, incarnation: int, own_incarnation: int, page: PeerPage | None = None) -> None:
        """A new worker of this server is there. Without its page, all it was ever given counts as sent."""
        self._retry_after_s = 0.0
        self._is_told_down = False
        if self._end is not None:  # this news was faster than the end of the old link
            self._end.close()
            self._lost("a new worker has taken over")
        self._page = page
        self._own_incarnation = own_incarnation
        self.incarnation = incarnation
        self.state = "starting"

        # Bound to this life of the worker: what an earlier one still says is not heard (architecture.md, incarnation).
        def on_frame(header: Header, payload: link.Payload) -> None:
            if self._end is not end:
                return
            try:
                if type(header) is Result:
                    self._result(header, payload)
                else:
                    self._frame(header, payload)
            except Exception as error:  # noqa: BLE001 - a defect that shows in one call must not take the link with it
                self._log.error(
                    "a frame could not be used", server=self.name, kind=type(header).__name__,
                    error=type(error).__name__, exc_info=error,
                )  # fmt: skip

        def on_hello() -> None:
            if self._end is end and end.peer is not None and not self._is_shared:
                self._limit = end.peer.calls
                self._pump()

        def on_closed(reason: str) -> None:
            if end.broken:
                self._log.error(
                    "a worker broke the link protocol", server=self.name, incarnation=incarnation, reason=reason
                )
                self._link_broken(self.name, incarnation, reason)
            if self._end is end:
                self._lost(reason, is_gone=not end.broken)

        end = LinkEnd(
            self._reactor,
            sock,
            role="front",
            name="front",
            incarnation=own_incarnation,
            calls=0,
            on_frame=on_frame,
            on_closed=on_closed,
            on_hello=on_hello,
        )
        self._end = end
        self._wants_places = False
        self._attached.set()
        self._watched.attached(end)

    def down(self, retry_after_s: float) -> None:
        """The root says that the worker is gone; negative: and that none will follow soon."""
        self._retry_after_s = retry_after_s
        self._is_told_down = True
        if self._end is None:
            self._settle_queue()

    def retire(self, successor: ServerLink | None, retired: Callable[[], None]) -> None:
        """Take no more calls. Those in flight may end here, those that wait go to the successor if there is one.

        `retired` is called once, when the last call has ended and the link is closed.
        """
        self._retired = retired
        self._successor = successor
        self._retry_after_s = NEVER_S
        if successor is not None:
            successor.instructions = self.instructions
            self._lists.handed_to(successor._lists)
            self._watched.handed_to(successor._watched)
            self._pass_on()
        elif self._end is None:
            self._settle_queue()
        self._sweep.wake()

    def _pass_on(self) -> None:
        """Give the successor all calls that are not in flight, in their order."""
        assert self._successor is not None
        while self._returned:
            call = self._returned.popleft()
            call.server = self._successor
            self._successor._take_over(call)
        while self._queue:
            self._successor.submit(self._queue.take())
        self._successor._pump()

    def _take_over(self, call: FrontCall) -> None:
        """A call that the worker before this one could not finish goes before all that wait."""
        call.queue_deadline = min(call.deadline, self._reactor.now + RESTART_WAIT_S)
        self._returned.append(call)
        self._sweep.wake()

    def _retire_if_done(self) -> bool:
        if self.in_flight:
            return False
        assert self._retired is not None
        retired, self._retired = self._retired, None
        end, self._end = self._end, None
        if end is not None:
            end.close()
        if self._page is not None:
            self._page.close()
            self._page = None
        self._lists.give_up()
        self._sweep.end()
        retired()
        return True

    def _lost(self, reason: str, *, is_gone: bool = True) -> None:
        """`is_gone`: the worker cannot send anything any more, so that what its page says is final."""
        self._end = None
        self._attached = trio.Event()
        self._limit = 0
        self.state = "backoff"
        calls, self._in_flight = self._in_flight, {}
        page, self._page = self._page, None
        stages = page.read().stages(self._own_incarnation, calls) if page is not None and is_gone else {}
        if page is not None:
            page.close()
        self._settle_lost(calls, stages)
        self._lists.lost()
        self._watched.lost()
        self._log.info("link lost", server=self.name, incarnation=self.incarnation, reason=reason, calls=len(calls))
        if self._successor is not None:
            self._pass_on()
        else:
            self._settle_queue()
        if is_gone and not self._is_told_down and self._retired is None:
            self._reactor.start_soon(self._report_useless, self.incarnation, reason)

    async def _report_useless(self, incarnation: int, reason: str) -> None:
        """If it turns out that the worker lives on without a link, have it replaced."""
        await trio.sleep(LINK_NEWS_S)
        if self._end is None and not self._is_told_down and self.incarnation == incarnation:
            self._log.warning("a worker lives on without its link", server=self.name, incarnation=incarnation)
            self._link_broken(self.name, incarnation, reason)

    def _settle_queue(self) -> None:
        if self._retry_after_s < 0:
            while self._returned:
                self._refuse_parked(self._returned.popleft())
            while self._queue:
                self._refuse_parked(self._queue.take())
            return
        limit = self._reactor.now + RESTART_WAIT_S
        for call in (*self._returned, *self._queue):
            call.queue_deadline = min(call.deadline, limit)

    # --- calls whose worker is gone -------------------------------------------------------------------------
    def _settle_lost(self, calls: Mapping[int, FrontCall], stages: Mapping[int, Stage]) -> None:
        """Let those calls wait for the next worker that may be given to it, in their order, and answer the others."""
        again: list[FrontCall] = []
        for link_id, call in calls.items():
            stage = stages.get(link_id, Stage.SENT)
            call.was_sent = call.was_sent or stage >= Stage.SENT
            if self._may_try_again(call, stage):
                call.link_id = 0
                again.append(call)
            else:
                message = f'server "{self.name}": its worker process ended before it had sent the call'
                self._fail(call, SERVER_UNAVAILABLE, message, sent=False)
        if again:
            self._returned.extendleft(reversed(again))
            self._sweep.wake()

    def _may_try_again(self, call: FrontCall, stage: Stage) -> bool:
        if stage is Stage.NONE:
            call.tries -= 1  # the worker has not even read it, and so cannot have died of it
            return True
        if not self.may_try_once_more(call):
            return False
        if stage is Stage.QUEUED:
            return True
        # A client that has been told of progress would see it begin anew, which the specification forbids, and would
        # be told each log message twice.
        return not call.heard and self._is_repeatable(call) and self._budget.allows(self._reactor.now)

    def may_try_once_more(self, call: FrontCall) -> bool:
        """Whether the call has not been tried as often as it may be."""
        return call.tries <= self._retries_max

    def _is_repeatable(self, call: FrontCall) -> bool:
        if call.method in READING_METHODS:
            return True
        if not self._trust_annotations or call.method != "tools/call":
            return False
        snapshot = self.known(call.era, "tools")
        return snapshot is not None and call.name in snapshot.repeatable_tools()

    # --- calls ----------------------------------------------------------------------------------------------
    def submit(self, call: FrontCall) -> None:
        """Send the call to the worker, or let it wait for its turn, or refuse it."""
        call.server = self
        end = self._end
        if (
            not self._queue.calls
            and not self._returned
            # As `_has_place`, without a call more for each of them.
            and end is not None
            and len(self._in_flight) < self._limit
            and end.queued_bytes <= STREAM_BUFFER_HIGH_BYTES
        ):
            self._send(call)
        elif self._end is None and self._retry_after_s < 0:
            self._refuse_parked(call)
        else:
            patience_s = QUEUE_DEADLINE_S if self._is_open else RESTART_WAIT_S
            call.queue_deadline = min(call.deadline, self._reactor.now + patience_s)
            self._sweep.wake()
            if (displaced := self._queue.add(call)) is not None:
                self._refuse_queued(displaced)
            if self._is_shared:
                self._tell_wish()

    def cancel(self, call: FrontCall, reason: str) -> None:
        if call.link_id:
            if self._in_flight.pop(call.link_id, None) is not None and self._end is not None:
                self._end.send(Cancel(call.link_id, reason[:200]))
                self._pump()
        elif call in self._queue:
            self._queue.remove(call)
        elif call in self._returned:
            self._returned.remove(call)

    def pause(self, call: FrontCall) -> None:
        if self._end is not None and call.link_id in self._in_flight:
            self._end.send(link.PauseEvents(call.link_id))

    def resume(self, call: FrontCall) -> None:
        if self._end is not None and call.link_id in self._in_flight:
            self._end.send(link.ResumeEvents(call.link_id))

    def answer(self, call: FrontCall, number: int, kind: AnswerKind, payload: bytes) -> None:
        if self._end is not None and call.link_id in self._in_flight:
            self._end.send(Answered(call.link_id, number, kind), payload)

    @property
    def _is_open(self) -> bool:
        """The worker at the other end has said hello."""
        return self._end is not None and self._end.peer is not None

    def _has_place(self) -> bool:
        """The worker accepts one more call, and reads what it is sent.

        A call that is withdrawn frees its place, but what was sent of it still has to be read.
        """
        end = self._end
        return end is not None and len(self._in_flight) < self._limit and end.queued_bytes <= STREAM_BUFFER_HIGH_BYTES

    def _sweep_queue(self) -> bool:
        """Send the calls for which there is a place by now, refuse those that have waited too long."""
        self._pump()
        now = self._reactor.now
        late = [call for call in self._queue if call.queue_deadline <= now]
        for call in late:
            self._queue.remove(call)
            self._fail_waited(call)
        for call in [call for call in self._returned if call.queue_deadline <= now]:
            self._returned.remove(call)
            self._fail_waited(call)
        if self._is_shared:
            self._tell_wish()
        if self._retired is not None:
            return not self._retire_if_done()
        return bool(self._queue or self._returned)

    def _send(self, call: FrontCall) -> None:
        assert self._end is not None
        link_id = self._next_id
        self._next_id = link_id + 1
        call.link_id = link_id
        now = self._reactor.now
        if call.tries == 0:
            self._budget.called(now)
        call.tries += 1
        self._in_flight[link_id] = call
        if call.interaction:
            self._resume(call)
            return
        remaining_s = call.deadline - now
        if remaining_s < REMAINING_MIN_S:
            remaining_s = REMAINING_MIN_S
        questions = call.questions
        self._end.send(
            Call(
                link_id,
                call.era,
                call.method,
                call.name,
                remaining_s,
                call.meta,
                call.progress_token != b"",
                call.log_level,
                call.client_info,
                call.abilities,
                call.client if questions is None else questions.client,
            ),
            call.payload,
        )

    def _resume(self, call: FrontCall) -> None:
        """Have the worker go on with what it holds, or answer what it knows itself."""
        assert self._end is not None
        if call.interaction == KEPT:
            self._end.send(TaskAsk(call.link_id, call.name, call.method), call.payload)
            return
        remaining_s = max(REMAINING_MIN_S, call.deadline - self._reactor.now)
        frame = Resume(call.link_id, call.interaction, remaining_s, bool(call.progress_token), call.log_level)
        self._end.send(frame, call.payload)

    def _pump(self) -> None:
        queue = self._queue
        while self._returned and self._has_place():
            self._send(self._returned.popleft())
        while queue and self._has_place():
            self._send(queue.take())
        if self._is_shared:
            self._tell_wish()

    def _tell_wish(self) -> None:
        """Tell the worker, which has several fronts to serve, whether calls wait here for a place, if that is news."""
        wants = bool(self._queue or self._returned)
        if self._end is not None and self._is_open and wants is not self._wants_places:
            self._wants_places = wants
            self._end.send(link.Want(wants))

    def _limited(self, calls: int) -> None:
        self._limit = calls
        if self._end is not None:
            self._end.send(link.Limited())
        self._pump()

    def _refuse_queued(self, call: FrontCall) -> None:
        message = (
            f'server "{self.name}" is overloaded: {len(self._in_flight)} calls in flight and '
            f"{len(self._queue)} waiting; try again in a moment"
        )
        self._fail(call, OVERLOADED, message, sent=False, retry_after_ms=int(QUEUE_DEADLINE_S * 1000))

    def _fail_waited(self, call: FrontCall) -> None:
        if self._end is not None and self._end.peer is not None:
            waited_s = min(QUEUE_DEADLINE_S, self.timeout_s(call))
            message = (
                f'server "{self.name}" is overloaded: the call waited {waited_s:g} s for one of '
                f"{self._end.peer.calls} places; try again in a moment"
            )
            self._fail(call, OVERLOADED, message, sent=False, retry_after_ms=int(QUEUE_DEADLINE_S * 1000))
        else:
            retry_ms = max(100, int(self._retry_after_s * 1000))
            message = f'server "{self.name}": its worker process is being restarted; the call was not sent'
            self._fail(call, SERVER_UNAVAILABLE, message, sent=False, retry_after_ms=retry_ms)

    def _refuse_parked(self, call: FrontCall) -> None:
        if self._retired is not None:
            message = f'server "{self.name}" has been removed or disabled; the call was not sent'
            self._fail(call, SERVER_UNAVAILABLE, message, sent=False)
            return
        message = (
            f'server "{self.name}" is parked: its worker process failed too often; the call was not sent. '
            "It is tried again every five minutes"
        )
        self._fail(call, SERVER_UNAVAILABLE, message, sent=False, retry_after_ms=60_000)

    def _fell_back(self, call: FrontCall, *, sent: bool) -> bool:
        """Give a call that would be answered with an error to another server, if one is configured; say whether."""
        if call.replica or call.interaction or call.fallbacks >= FALLBACKS_MAX or call.deadline <= self._reactor.now:
            return False
        public, _ = self.place
        takes_over = self._fallback(public, call) if self._fallback is not None else None
        if takes_over is None or (sent and not self._may_try_again(call, Stage.SENT)):
            return False
        if sent:
            call.was_sent = True
        elif call.link_id:
            call.tries -= 1  # its worker is alive, and the server has not seen it
        self._log.debug("a call is given to another server", server=self.name, tool=call.name[:NAME_SHOWN_MAX])
        takes_over.take(call)
        return True

    def _fail(self, call: FrontCall, code: int, message: str, *, sent: bool, retry_after_ms: int = 0) -> None:
        if self._fell_back(call, sent=sent or call.was_sent):
            return
        if call.was_sent and not sent:  # by an earlier worker, whatever became of it with the last one
            if call.fallbacks or self.place[1]:
                what = "it could not take over the call, which had been sent before, perhaps to another server, and"
            else:
                what = "its worker process ended while the call was under way; it"
            message = f'server "{self.name}": {what} may or may not have been executed'
            code, sent, retry_after_ms = OUTCOME_UNKNOWN, True, 0
        self._reactor.counts[OVERLOADED_CALLS if code == OVERLOADED else FAILED_CALLS] += 1
        call.leave()
        data = fault_data(self.name, sent=sent, retry_after_ms=retry_after_ms, code=code)
        call.reply.error(code, message, data, math.ceil(retry_after_ms / 1000))

    # --- frames ---------------------------------------------------------------------------------------------
    def _frame(self, header: Header, payload: link.Payload) -> None:
        if isinstance(header, Event):
            self._event(header, payload)
        elif isinstance(header, Fault):
            self._fault(header, payload)
        elif isinstance(header, Listing):
            self._lists.listing(header, payload, self.incarnation)
        elif isinstance(header, ListFault):
            self._lists.fault(header)
        elif isinstance(header, State):
            self._state(header)
        elif isinstance(header, Ask):
            self._ask_client(header, payload)
        elif isinstance(header, Unask):
            if (call := self._in_flight.get(header.id)) is not None and call.questions is not None:
                call.questions.withdraw(call, header.ask)
        elif isinstance(header, NeedInput):
            self._need_input(header, payload)
        elif isinstance(header, TaskCreated):
            self._task_created(header, payload)
        elif isinstance(header, ListChanged):
            self._lists.outdate({header.kind})
            self._list_changed((header.kind,))
        elif isinstance(header, link.Watching):
            self._watched.answered(header)
        elif isinstance(header, link.Limit):
            self._limited(header.calls)
        elif isinstance(header, link.Updated) and self._retired is None:
            self._updated(self.name, header.uri, payload)

    def _result(self, header: Result, payload: link.Payload) -> None:
        call = self._in_flight.pop(header.id, None)
        if call is None:
            return  # cancelled meanwhile
        call.leave()
        try:
            call.reply.result(payload if header.era is call.era else _translated(payload, call))
        except RpcError as error:
            call.reply.error(error.code, error.message, error.data)
        if self._queue.calls or self._returned:
            self._pump()

    def _event(self, header: Event, payload: link.Payload) -> None:
        call = self._in_flight.get(header.id)
        if call is None:
            return
        call.heard = True
        if header.method == "notifications/progress":
            if call.progress_token:
                # The worker used a token of its own; the client gets its own back, with its JSON type.
                params = decode_object(payload, "progress")
                params["progressToken"] = msgspec.Raw(call.progress_token)
                call.reply.notify(header.method, encode_object(params))
        else:
            call.reply.notify(header.method, payload)

    def _ask_client(self, header: Ask, payload: link.Payload) -> None:
        call = self._in_flight.get(header.id)
        if call is None:
            return
        call.heard = True
        if call.questions is None or not call.questions.ask(call, header.ask, header.method, bytes(payload)):
            self.answer(call, header.ask, AnswerKind.NOBODY, b"")

    @property
    def place(self) -> tuple[str, str]:
        """Where what has begun goes on: the public name, and the replica if that is one of a group."""
        return self.name, ""

    def _need_input(self, header: NeedInput, payload: link.Payload) -> None:
        call = self._in_flight.pop(header.id, None)
        if call is None:  # cancelled meanwhile
            if header.interaction > 0 and self._end is not None:
                self._end.send(Abandon(header.interaction))
            return
        call.leave()
        try:
            call.reply.result(self._rounds.input_required(self.place, call, header.interaction, payload))
        except RpcError as error:
            call.reply.error(error.code, error.message, error.data)
        if self._queue.calls or self._returned:
            self._pump()

    def _task_created(self, header: TaskCreated, payload: link.Payload) -> None:
        call = self._in_flight.pop(header.id, None)
        if call is None:
            # The client that has cancelled the call will not ask for the task, nor does it know it.
            return
        call.leave()
        try:
            assert call.handles is not None
            call.reply.result(call.handles.created(call, payload, is_kept=header.is_kept))
        except RpcError as error:
            call.reply.error(error.code, error.message, error.data)
        if self._queue.calls or self._returned:
            self._pump()

    def _fault(self, header: Fault, payload: link.Payload) -> None:
        call = self._in_flight.pop(header.id, None)
        if call is None:
            return
        if header.lost and self._may_try_again(call, Stage.SENT):
            call.was_sent = True
            call.link_id = 0
            next_one = call.server = self._successor or self
            next_one._take_over(call)
            next_one._pump()
            return
        if payload:
            call.leave()
            error, code = bytes(payload), header.code
            if header.era is not call.era:
                if call.era is Era.MODERN:
                    error = bridge.error_to_modern(error)
                else:
                    error = bridge.error_to_legacy(error, call.method)
                code = msgspec.json.decode(error, type=_Coded).code
            call.reply.raw_error(error, code)
        else:
            message = header.message if header.code != CALL_TIMEOUT else header.message + self._timeout_advice(call)
            self._fail(call, header.code, message, sent=header.sent, retry_after_ms=header.retry_after_ms)
        if self._queue or self._returned:
            self._pump()

    def _timeout_advice(self, call: FrontCall) -> str:
        """Say which call took too long. Only here: what the worker says of its server reaches other clients, too."""
        is_tool = call.method == "tools/call"
        shown = call.name[:NAME_SHOWN_MAX]
        what = f'tool "{shown}"' if is_tool else f'{call.method} of "{shown}"'
        if self.timeout_s(call) >= CALL_CEILING_S:
            return f" ({what})"
        return f" ({what}; --call-timeout {self.name}{'.' + shown if is_tool else ''}=SECONDS allows it more)"

    def _state(self, header: State) -> None:
        before = self.state
        self.state = header.state
        self.detail = header.detail
        if header.offers is not None:
            self.offers = frozenset(header.offers)
        if header.instructions or header.state in SETTLED_STATES:
            self.instructions = header.instructions
        if before != header.state and header.state in SETTLED_STATES:
            self._lists.settled()
            self._list_changed(self.kinds)
        if header.state not in SETTLED_STATES | UNDECIDED_STATES:
            self._lists.give_up()

    def client_gone(self, client: int) -> None:
        """This client has ended its session."""
        if self.is_isolated and self._end is not None:
            self._end.send(link.ClientGone(client))

    # --- what the server tells unasked ----------------------------------------------------------------------
    async def watch(self, uri: str) -> tuple[int, str] | None:
        """Be told of updates of a resource from now on; return the code and message of why the server refuses.

        None means that it agreed, or could not be asked yet: then it is asked as soon as it can be.
        """
        return await self._watched.watch(uri, self._end)

    def unwatch(self, uri: str) -> None:
        """Nobody wants to be told of it any more."""
        self._watched.unwatch(uri, self._end)

    def keep_watching(self, uri: str) -> None:
        """Somebody wants to be told of it still, also if this link has not been asked for it."""
        self._watched.keep(uri, self._end)

    # --- lists ----------------------------------------------------------------------------------------------
    def known(self, era: Era, kind: str) -> Snapshot | None:
        """Return the last good list for clients of `era`, else that of the other era, else None."""
        return self._lists.known(era, kind)

    async def snapshot(self, era: Era, kind: str) -> Snapshot | None:
        """Return the list as it is now if the server says so in time, else the last good one, else None."""
        held = self._lists.held(era, kind)
        if held is not None and held.is_fresh(self._reactor.now):
            return held
        if self._end is None and self._retry_after_s >= 0 and held is None:
            await self._wait_attached()
        if self._end is not None and self.state in SETTLED_STATES | UNDECIDED_STATES:
            await self._lists.ask(era, kind, self._end, self.incarnation)
        return self._lists.known(era, kind)

    async def _wait_attached(self) -> None:
        """A worker is being started: its first list is worth a moment."""
        with trio.move_on_after(LIST_WAIT_S):
            await self._attached.wait()


def _translated(result: link.Payload, call: FrontCall) -> bytes:
    """Return a result of the other era's leg in the shape of the client's era."""
    if call.era is Era.MODERN:
        return bridge.result_to_modern(result, cacheable=call.method == "resources/read", server_info=b"")
    return bridge.result_to_legacy(result, call.version)
