"""One call on its way to the server and back.

Rule 1: a call ends exactly once, with `Result` or `Fault`; whatever comes for it afterwards is dropped.
Rule 2: a call is sent a second time only if the server certainly did not execute the first: it did not know our
session, our revision or our headers. Each of these reasons counts once per call.
Rule 3: nothing here waits. What takes time (connecting, opening a leg, fetching a list again) calls back.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Final, Protocol

import msgspec
import trio

from protocol import input_required, link
from protocol.abilities import EVERYTHING, KINDS, OF_SESSIONS, TASKS, URL
from protocol.errors import HEADER_MISMATCH, INTERNAL_ERROR, UNSUPPORTED_VERSION, URL_ELICITATION_REQUIRED
from protocol.flight import FlightPage
from protocol.http1 import ResponseHead
from protocol.jsonrpc import Reply, RpcError, decode_object, encode_object, read_result
from protocol.limits import CALL_CEILING_S, INTERACTION_S, KIB, STREAM_IDLE_S
from protocol.link import Payload
from protocol.meta import DEFAULT_LOG_LEVEL, log_level_passes
from protocol.sse import Event
from protocol.tasks import EXTENSION, OPTIONAL, REQUIRED, RESULT, augmented, created_id, without_related
from protocol.versions import Era
from workers.backend.answers import ANSWERED, JSON, Answer, read_body, read_error, read_event
from workers.backend.breaker import Breaker
from workers.backend.channel import Channel
from workers.backend.era import contradicts
from workers.backend.exchange import Exchange
from workers.backend.faults import Failure, Faults, quoted
from workers.backend.interactions import Ending, Front, Interactions, Shelf
from workers.backend.kept_tasks import KeptTask, KeptTasks
from workers.backend.leg import Counters, Leg
from workers.backend.legacy import LegacyLeg
from workers.backend.legs import Legs
from workers.backend.progress import Progress
from workers.backend.requests import Ids
from workers.backend.talk import ELICITATION_OVER, RoundsTalk, StreamTalk, Talk
from workers.backend.trail import Trail
from workers.logs import Log
from workers.out_of_memory import leave_if_out_of_memory
from workers.reactor import Reactor

if TYPE_CHECKING:
    from workers.backend.client_sessions import ClientSession, ClientSessions
    from workers.backend.front_link import FrontLink

REPEATABLE_METHODS: Final = frozenset(
    {"ping", "tools/list", "prompts/list", "resources/list", "resources/templates/list", "server/discover"}
)
"""Reading a list or a ping twice does no harm; a call of a tool may."""
_TASKS: Final = f"extensions.{EXTENSION}"
_PROGRESS: Final = "notifications/progress"
TASKABLE_METHOD: Final = "tools/call"
"""The only method that a task may come of ("Supported Methods")."""
SHORT_BYTES_MAX: Final = 16 * KIB
"""Answers that are copied rather than kept for a view of the result in them."""
_LEGACY: Final = Era.LEGACY  # a member of an enum is slow to reach through its class


class First(Protocol):
    """What a call needs of the place where it is watched as the first of its kind (leased_sessions.py)."""

    def named(self, call: BackendCall) -> None:
        """The server asks on the stream of the call."""
        ...

    def over(self, call: BackendCall, header: Ending) -> None:
        """The call has ended."""
        ...


class Desk:
    """What all calls of a worker share."""

    __slots__ = (
        "admit", "answered", "breaker", "channel", "counters", "failed", "faults", "flight", "ids", "interactions",
        "keep_apart", "kept", "legs", "log", "reactor", "refusal", "relist", "sessions", "task_support", "timeout_s",
    )  # fmt: skip

    def __init__(
        self,
        reactor: Reactor,
        legs: Legs,
        channel: Channel,
        ids: Ids,
        counters: Counters,
        log: Log,
        *,
        breaker: Breaker,
        admit: Callable[[], int],
        refusal: Callable[[], Failure],
        answered: Callable[[int], None],
        failed: Callable[[int, Failure], None],
        relist: Callable[[Leg, Callable[[Failure | None], None]], None],
        task_support: Callable[[str], str],
        flight: FlightPage,
        timeout_s: Callable[[str, str], float],
        kept: KeptTasks,
        keep_apart: Callable[[], None],
        sessions: ClientSessions | None = None,
    ) -> None:
        self.reactor = reactor
        self.legs = legs
        self.sessions = sessions
        """What single clients have at the server; None if all share a session."""
        self.keep_apart = keep_apart
        """A legacy server is about to be called for a client that it may ask something: see to it that `sessions` is
        there, which decides whether others' calls may be under way beside it."""
        self.channel = channel
        self.faults: Faults = channel.faults
        self.ids = ids
        self.counters = counters
        self.log = log
        self.breaker = breaker
        self.admit = admit
        """Is the server to be asked at all? Returns a ticket to report the outcome with; 0 for no. To be called if the
        breaker has no ticket for all."""
        self.refusal = refusal
        """Why it is not."""
        self.answered = answered
        """The server works: it has answered the call of this ticket."""
        self.failed = failed
        """The call of this ticket has ended without an answer, or with one that says more of the server than of it."""
        self.relist = relist
        """Fetch the tools of this leg again, then call back."""
        self.task_support = task_support
        """What a legacy tool of this name says of tasks (`protocol.tasks.support`)."""
        self.interactions = Interactions(reactor.machine.random)
        self.kept = kept
        self.flight = flight
        """Shows how far each call has come to those who outlive this worker."""
        self.timeout_s = timeout_s
        """How long a call of this tool may go without an answer or progress."""

    def hold(self, *, is_held: bool) -> None:
        """A front takes what it is sent too slowly (True), or again fast enough; once for each that does."""
        self.channel.hold(is_held=is_held)
        if self.sessions is not None:
            self.sessions.hold(is_held=is_held)


class BackendCall(Exchange):
    """One client's request for this server."""

    __slots__ = (
        "_desk", "_is_client_slow", "_leg", "_opening", "_params", "_progress", "_refusal", "_relisted",
        "_reopened", "_server_task", "_ticket", "_trail", "begun_at", "came_at", "deadline", "ended", "first", "front",
        "header", "kept", "session", "slot", "talk",
    )  # fmt: skip
    is_call = True

    def __init__(self, desk: Desk, front: FrontLink, header: link.Call, params: Payload) -> None:
        # What Exchange.__init__ sets; to call it for each call would cost as much as all of this.
        self.request = ()
        self.own_id = b""
        self.method = b"POST"
        self.repeatable = header.method in REPEATABLE_METHODS
        self.repeated = False
        self.connection = None
        self.is_paused = front.is_congested
        now = desk.reactor.now
        self._desk = desk
        self.front: Front = front
        """Who waits for the answer."""
        self.header = header
        self._params = params
        self.slot = -1
        """Its place on the flight page; -1 if it was refused before it got one."""
        self.came_at = now
        """When its front began to wait for it."""
        self.deadline = now + header.timeout_s
        """Reactor time by which it must have ended."""
        self.begun_at = now
        """When the first front that waited for it began to."""
        self._leg: Leg | None = None
        self._opening = 0
        """The leg's opening it was sent in."""
        self._reopened = False
        self._refusal: Failure | None = None
        """How a modern server refused it; final if modern is what it still is, as there was nothing to forget then."""
        self._relisted = False
        self._is_client_slow = False
        self._server_task: str | None = None
        """The task that a legacy server makes of it, by its id; "" before it has done so; None if it does not."""
        self._ticket = 0
        """Of the breaker; 0 if it refused, or has been told how the call ended."""
        self.ended = False
        self.talk: Talk | None = None
        """What the server asks of the client; None until it does."""
        self._trail: Trail | None = None
        """How far its event stream has come; None until an event has had an id."""
        self._progress: Progress | None = None
        """What it has told of its progress; None until it does."""
        self.kept: KeptTask | None = None
        """The task that has been made of it; None if a front waits for the answer."""
        self.session: ClientSession | None = None
        """In which it is made; None if that is the one that all share."""
        self.first: First | None = None
        """Who wants to know whether the server asks in it, as it is the first of its kind; None if nobody does."""

    # --- to the server -----------------------------------------------------------------------------------------------
    def begin(self) -> None:
        """Send the call, if the server is worth asking now."""
        desk = self._desk
        self._ticket = desk.breaker.pass_ticket or desk.admit()
        if self._ticket:
            self.dispatch()
        else:
            self.failed(desk.refusal())

    def dispatch(self) -> None:
        """Send the call, as soon as there is a leg for it."""
        try:
            desk, header = self._desk, self.header
            legs = desk.legs if desk.sessions is None else desk.sessions.legs_of(self)
            if legs is None:
                return  # it has been told to wait, or refused
            leg = legs.serving(header.era)
            if leg is None:
                legs.wait(header.era, self._retry)
                return
            if self._refusal is not None and leg is self._leg:
                self.failed(self._refusal)
                return
            abilities = header.abilities & OF_SESSIONS
            if abilities and leg.era is _LEGACY:
                if desk.sessions is None:
                    desk.keep_apart()
                    self.dispatch()
                    return
                if (able := legs.able) is not None:
                    session = able.serving(abilities)
                    if session is None:
                        able.wait(abilities, self._retry)
                        return
                    leg = session
            self._leg = leg
            self._opening = leg.opening
            level = header.log_level
            if level and not leg.logs_from(level):
                leg.have_logged(level, self._go_on)
                return
            own_id = self.own_id = desk.ids.next()  # a new one each time it is sent
            params = self._params
            if leg.has_tasks and self._wants_task():
                self._server_task = ""
                params = augmented(params)
            self.request = leg.call_request(own_id, header, params)
            leg.channel.submit(self)
        except Exception as error:  # a defect that shows in one call must not take the link with it
            leave_if_out_of_memory(error)
            self._desk.log.error("a call could not be sent", error=type(error).__name__, exc_info=error)
            self.failed(self._desk.faults.internal())

    def cancel(self, reason: str) -> None:
        """Nobody waits for the answer any more."""
        self.failed(self._desk.faults.cancelled(sent=self._withdraw(reason)))

    def recall(self) -> None:
        """The front wants it back for another server, unless it has been sent."""
        if self.slot < 0 or self._desk.flight.is_sent(self.slot):
            return
        faults = self._desk.faults
        sent = self._withdraw("another replica is asked")
        self.failed(faults.cancelled(sent=True) if sent else faults.recalled())

    def expire(self) -> None:
        """The time it had is over."""
        if self.talk is not None and self.talk.is_waiting:
            self.give_up(self._desk.faults.client_silent())
            return
        faults = self._desk.faults
        # What it had in all, of which the header says only what was left when it was sent.
        timeout_s = self._timeout_s() if self.deadline < self._ceiling else CALL_CEILING_S
        sent = self._withdraw("the call timed out")
        self.failed(faults.timed_out(timeout_s) if sent else faults.not_ready(timeout_s))

    def fell_silent(self) -> None:
        """The server has stopped in the middle of its answer, although the call still has time."""
        if self.talk is not None and self.talk.is_waiting:
            return  # it is waiting for the client
        self._withdraw("the server fell silent")
        self.failed(self._desk.faults.fell_silent(STREAM_IDLE_S))

    def set_client_slow(self, is_slow: bool) -> None:
        """The client takes the events of this call too slowly, or again fast enough."""
        self._is_client_slow = is_slow
        self.update_reading()

    def update_reading(self) -> None:
        """Read the answer only while somebody can take it."""
        self.is_paused = self._is_client_slow or self.front.is_congested
        if self._progress is not None:
            self._pass_progress(self._progress)
        if self.connection is None:
            return
        if self.is_paused:
            self.connection.pause_reading()
        else:
            self.connection.resume_reading()

    def over(self, header: Ending) -> None:
        """It has ended like this; whoever has to do with it lets go of it. It may be told so twice."""
        self.ended = True
        if self._progress is not None:
            progress, self._progress = self._progress, None
            self._send_progress(progress)
        if self.talk is not None:
            self.talk.over()
        if self.session is not None:
            self.session.over(self)
        if self.first is not None:
            self.first.over(self, header)

    def _withdraw(self, reason: str) -> bool:
        """Take the call back from wherever it is. Return whether it may be executed all the same."""
        if self.talk is not None:
            self.talk.refuse_open(reason)
        leg = self._leg
        # Between two streams it is nowhere, but the server has it.
        sent = leg is not None and (leg.channel.abandon(self) or self.method == b"GET")
        if sent and leg is not None:
            leg.given_up(self)
            leg.cancel(self.own_id, reason)
        if self._server_task and isinstance(leg, LegacyLeg):
            leg.cancel_task(self._server_task)
        return sent

    def _go_on(self) -> None:
        if not self.ended:
            self.dispatch()

    def _retry(self, failure: Failure | None) -> None:
        """What it has been waiting for has happened, or failed. Either way nothing of it has been executed."""
        if self.ended:
            return
        if failure is not None:
            self.failed(msgspec.structs.replace(failure, sent=False))
        else:
            self.dispatch()

    # --- from the server (workers.backend.exchange.Exchange) ---------------------------------------------------------
    def writing(self) -> None:
        if self.slot >= 0:  # nobody asks how far a call is that no front waits for
            self._desk.flight.sent(self.slot)

    def unwritten(self) -> None:
        if self.slot >= 0 and self.method != b"GET":  # GET is for the rest of the answer to what was sent
            self._desk.flight.unsent(self.slot)

    def answered(self, head: ResponseHead, body: Payload) -> bool:
        leg = self._leg
        is_usual = (
            head.status == 200 and head.media_type == JSON and self._server_task is None and self.method == b"POST"
        )
        if is_usual and leg is not None and isinstance(body, bytes) and len(body) <= SHORT_BYTES_MAX:
            # The fast path of nearly all answers: a result, and nothing but to hand it on.
            result = read_result(body, self.own_id)
            if result is not None and leg.is_complete(result):
                self._desk.answered(self._ticket)
                self._ticket = 0
                self.front.finish(self, link.Result(self.header.id, leg.era), result)
                return True
        if self.method == b"GET":
            self.failed(self._desk.faults.broke_off(f"and did not go on with its answer (HTTP {head.status})"))
            return False
        reply = read_body(head, body)
        if head.status == 200 and reply is not None and reply.id == self.own_id and reply.method is None:
            self._conclude(head, reply)
            return True
        if reply is not None and reply.id != self.own_id:
            self._desk.counters.answers += 1
        answer = Answer(head, reply, self.own_id, is_empty=not len(body))
        if answer.reply is None:
            self._desk.log.info("unusable answer", http=head.status, method=self.header.method, beginning=quoted(body))
        self._refused(answer)
        return answer.is_own

    def streamed(self, event: Event) -> None:
        if event.id is not None or self._trail is not None:
            self._trail = self._trail or Trail()
            self._trail.note(event)
        reply = read_event(event)
        if reply is None:
            self._desk.counters.messages += bool(event.data)
        elif reply.method is None:
            self._response_streamed(reply)
        elif reply.id is not None:
            if self.first is not None:
                self.first.named(self)
            self.asked(reply)
        else:
            self._notified(reply)

    def stream_ended(self) -> None:
        self.broken(self._desk.faults.broke_off("after a stream that held no answer"))

    def broken(self, failure: Failure) -> None:
        """Go on with the stream if the server has said how, else fail."""
        pause_s = self._trail.next_pause_s() if self._trail is not None else None
        if self.ended or pause_s is None or not isinstance(self._leg, LegacyLeg):
            self.failed(failure)
            return
        self.method = b"GET"
        self.repeatable = True
        self._desk.reactor.start_soon(self._take_up, self._leg, pause_s)

    async def _take_up(self, leg: LegacyLeg, pause_s: float) -> None:
        await trio.sleep(pause_s)
        if not self.ended and self._trail is not None:
            self.request = leg.stream_request(self._trail.last_event_id)
            leg.channel.submit(self)

    def replied(self, reply: Reply) -> None:
        self._conclude(ANSWERED, reply)

    def noted(self, notification: Reply) -> None:
        self._notified(notification)

    def returned(self, failure: Failure) -> None:
        if not self.ended:
            self.dispatch()  # there is a leg for it only if the server can be had again

    def failed(self, failure: Failure) -> None:
        if self.ended:
            return
        if not failure.sent and self.method == b"GET":
            # The call was sent; this is about the rest of its answer.
            failure = self._desk.faults.broke_off("and could not be reached for the rest of its answer")
        if self._ticket:
            self._desk.failed(self._ticket, failure if self.session is None else self.session.as_news(failure))
        era = self._leg.era if self._leg is not None else self.header.era
        fault = link.Fault(
            self.header.id, failure.code, failure.message, failure.sent, failure.retry_after_ms, era, failure.lost
        )
        self.front.finish(self, fault, failure.payload)

    def _response_streamed(self, reply: Reply) -> None:
        connection = self.connection
        if reply.id != self.own_id or connection is None or connection.head is None:
            self._desk.counters.answers += 1
            return
        head = connection.head
        connection.release_early()
        self._conclude(head, reply)

    def _conclude(self, head: ResponseHead, reply: Reply) -> None:
        """The server has answered this very request."""
        leg, result = self._leg, reply.result
        assert leg is not None
        self._desk.answered(self._ticket)
        self._ticket = 0
        if result is None:
            self._refused(Answer(head, reply, self.own_id, is_empty=False))
            return
        failure = leg.result_fault(result)
        if self._server_task is not None:
            self._task_answered(leg, result)
        elif failure is None:
            self.front.finish(self, link.Result(self.header.id, leg.era), memoryview(result))
        elif failure.needs_input:
            self._needs_input(result)
        elif failure.untyped:
            typed = decode_object(result) | {"resultType": msgspec.Raw(b'"complete"')}
            self.front.finish(self, link.Result(self.header.id, leg.era), encode_object(typed))
        elif failure.became_task and self._takes_task():
            self.front.finish(self, link.TaskCreated(self.header.id), memoryview(result))
        else:
            self.failed(failure)

    def _takes_task(self) -> bool:
        header = self.header
        return header.method == TASKABLE_METHOD and header.abilities & TASKS != 0 and header.era is not _LEGACY

    def _refused(self, answer: Answer) -> None:
        leg = self._leg
        assert leg is not None
        failure = self._desk.faults.of_answer(answer)
        error = read_error(answer.reply)
        if error is not None and error.code == URL_ELICITATION_REQUIRED and self._needs_pages(error.data):
            return
        if self.talk is not None or self._server_task:  # then the server has begun to execute the call
            self.failed(failure)
            return
        if not self._reopened and contradicts(leg.era, answer):
            self._reopened = True
            if leg.era is Era.MODERN and (error is None or error.code != UNSUPPORTED_VERSION):
                self._refusal = failure
            self.unwritten()
            self._legs.forget(leg, self._opening)
            self.dispatch()
            return
        is_mismatch = error is not None and error.code == HEADER_MISMATCH and leg.era is Era.MODERN
        if is_mismatch and not self._relisted:
            # The tool's schema has changed since we read it, and with it the headers it wants.
            self._relisted = True
            self.unwritten()
            self._desk.relist(leg, lambda list_failure: self._retry(list_failure and failure))
            return
        self.failed(failure)

    # --- questions to the client -------------------------------------------------------------------------------------
    def give_up(self, failure: Failure) -> None:
        """End the call here and at the server."""
        self._withdraw(failure.message)
        self.failed(failure)

    def abandon(self, reason: str) -> None:
        """End a held call, which nobody will ask for any more."""
        if not self.ended:
            self.cancel(reason)
        if self.talk is not None:
            self.talk.over()

    def wait_for_client(self) -> None:
        """The client, which is a person mostly, has to answer something first."""
        self.deadline = min(self._desk.reactor.now + INTERACTION_S, self._ceiling)

    def go_on(self) -> None:
        """It is the server's turn again."""
        self.deadline = min(self._desk.reactor.now + self._timeout_s(), self._ceiling)

    def ask_again(self, params: bytes) -> None:
        """Make the request again, with what the client has answered."""
        leg = self._legs.serving(self.header.era)
        if leg is not None and leg is not self._leg:
            self.failed(
                self._desk.faults.broke_off("and came back as a server of another era, before the call was over")
            )
            return
        self._params = params
        self.go_on()
        self.begin()

    def answered_by_client(self, header: link.Answered, payload: bytes) -> None:
        if self.talk is not None:
            self.talk.answered(header.ask, header.outcome, payload)

    # --- calls that become tasks of ours -----------------------------------------------------------------------------
    @property
    def _ceiling(self) -> float:
        """Reactor time after which it is never going on, whatever it does."""
        return self.begun_at + CALL_CEILING_S

    def may_be_kept(self) -> bool:
        """Whether its client takes a task for an answer that its server does not give."""
        leg = self._leg
        return self._takes_task() and (leg is None or leg.capabilities is None or _TASKS not in leg.capabilities)

    def be_kept(self, task: KeptTask) -> None:
        """Go on for a client that asks later. It has all the time that a call may take."""
        self.front = self.kept = task
        self.deadline = self._ceiling
        self.set_client_slow(False)

    # --- calls that become tasks of a legacy server ------------------------------------------------------------------
    def _wants_task(self) -> bool:
        """Whether a call of a modern client is to become a task: if its tool demands it, or its client takes one."""
        if self.header.era is _LEGACY or self.header.method != TASKABLE_METHOD:
            return False
        support = self._desk.task_support(self.header.name)
        return support == REQUIRED or (support == OPTIONAL and self._takes_task())

    def _task_answered(self, leg: Leg, result: msgspec.Raw) -> None:
        """The server has made a task of the call, or has answered after all; or this is what the task has come to."""
        try:
            task_id = created_id(result, _LEGACY) if not self._server_task else None
        except RpcError as error:
            self.failed(self._desk.faults.malformed(error.message))
            return
        if task_id is None:
            self.front.finish(self, link.Result(self.header.id, leg.era), without_related(result))
            return
        self._server_task = task_id
        if self._takes_task() and self.kept is None:
            self._desk.kept.keep(self)
        self.own_id = self._desk.ids.next()
        self.request = leg.plain_request(self.own_id, RESULT, b'{"taskId":%b}' % msgspec.json.encode(task_id))
        leg.channel.submit(self)

    # --- held calls ---------------------------------------------------------------------------------------------------
    def resume(self, front: Front, header: link.Resume, responses: bytes) -> None:
        """The client of this held call has come back, to this front."""
        shelf, talk = self.front, self.talk
        assert isinstance(shelf, Shelf)
        assert isinstance(talk, StreamTalk)
        self.front = front
        self.header = msgspec.structs.replace(
            self.header, id=header.id, timeout_s=header.timeout_s, progress=header.progress, log_level=header.log_level
        )
        self.came_at = self._desk.reactor.now
        self.go_on()
        shelf.hand_over(front, self)
        if not self.ended:
            talk.resumed(responses)
            self.update_reading()

    @property
    def client(self) -> Hashable:
        """The same for all calls of one client; of clients that cannot be told apart, each call counts as one."""
        if self.session is not None and not self.session.is_leased:
            return self.session  # nobody else's calls are in it
        return self.header.client or self

    @property
    def can_be_asked(self) -> bool:
        """Its client can be asked something."""
        return self.header.abilities & EVERYTHING != 0

    @property
    def _legs(self) -> Legs:
        return self._desk.legs if self.session is None else self.session.legs

    def is_at(self, leg: Leg) -> bool:
        """The server has it, or is about to get it, over this leg."""
        return self._leg is leg and not self.ended

    def asked(self, request: Reply) -> None:
        """The server asks something in the middle of this call, or of its client when the session has just begun."""
        leg = self._leg
        if leg is None:
            assert self.session is not None
            leg = self.session.legacy
        if leg.era is not _LEGACY:
            leg.on_request(request)
            return
        if request.method not in KINDS or not self.header.abilities & EVERYTHING:
            leg.unasked(request)
            return
        if self.talk is None:
            self.talk = StreamTalk(self._desk, self, leg)
        assert isinstance(self.talk, StreamTalk)
        self.talk.asked(request)

    def _needs_pages(self, error_data: msgspec.Raw) -> bool:
        """A legacy server wants pages to be visited before the call is made again: have a modern client asked for it.

        Return whether it can be.
        """
        header = self.header
        if header.era is _LEGACY or not header.abilities & URL or header.method not in input_required.METHODS:
            return False
        if self.kept is not None or self._server_task:
            return False  # nobody makes this call again
        pages = input_required.pages(error_data)
        if pages:
            self.front.finish(self, link.NeedInput(header.id, link.AGAIN), input_required.result_of(pages))
        return bool(pages)

    def is_question_withdrawn(self, params: msgspec.Raw | None) -> bool:
        """The server cancels something; return whether it was a question of this call."""
        return isinstance(self.talk, StreamTalk) and self.talk.withdrawn(params)

    def _needs_input(self, result: msgspec.Raw) -> None:
        header = self.header
        try:
            if header.method not in input_required.METHODS:
                raise RpcError(INTERNAL_ERROR, f"an input_required result, which {header.method} does not have")
            needed = input_required.read(result, header.abilities)
        except RpcError as error:
            self.failed(self._desk.faults.malformed(error.message))
            return
        if header.era is not _LEGACY and self.kept is None:
            self.front.finish(self, link.NeedInput(header.id, 0), memoryview(result))
            return
        if self.talk is None:
            self.talk = RoundsTalk(self._desk, self, self._params)
        assert isinstance(self.talk, RoundsTalk)
        self.talk.needed(needed)

    # --- notifications -----------------------------------------------------------------------------------------------
    def _notified(self, notification: Reply) -> None:
        if notification.method == _PROGRESS:
            relay = self._is_own_progress
        elif notification.method == "notifications/message":
            relay = self._is_wanted_log
        elif notification.method == ELICITATION_OVER:
            relay = self._is_own_page
        else:
            assert self._leg is not None
            if notification.method != "notifications/cancelled" or not self.is_question_withdrawn(notification.params):
                self._leg.on_message(notification)
            return
        try:
            params = notification.params
            if params is None or not relay(decode_object(params)):
                return
            if notification.method == _PROGRESS:
                self._progressed(bytes(params))
            elif not self._is_left_out:
                self.front.send(link.Event(self.header.id, notification.method), memoryview(params))
        except (RpcError, msgspec.MsgspecError):
            self._desk.counters.messages += 1

    @property
    def _is_left_out(self) -> bool:
        """On a pipe one slow client must not hold up the others, so what it is too slow for is left out."""
        return self.is_paused and not self.connection

    def _progressed(self, params: bytes) -> None:
        progress = self._progress
        if progress is None:
            progress = self._progress = Progress(self._desk.reactor.now)
        progress.held = params
        self._pass_progress(progress)

    def _pass_progress(self, progress: Progress) -> None:
        """Send what was told last, now or as soon as it may be."""
        if progress.held is None or progress.is_waiting or self._is_left_out:
            return
        pause_s = progress.wait_s(self._desk.reactor.now)
        if pause_s:
            progress.is_waiting = True
            self._desk.reactor.start_soon(self._pass_later, progress, pause_s)
        else:
            self._send_progress(progress)

    async def _pass_later(self, progress: Progress, pause_s: float) -> None:
        await trio.sleep(pause_s)
        progress.is_waiting = False
        if not self.ended:
            self._pass_progress(progress)

    def _send_progress(self, progress: Progress) -> None:
        if progress.held is not None:
            held, progress.held = progress.held, None
            self.front.send(link.Event(self.header.id, _PROGRESS), held)

    def _timeout_s(self) -> float:
        """Return how long it may go without an answer or progress."""
        if self.kept is not None:
            return CALL_CEILING_S
        return self._desk.timeout_s(self.header.method, self.header.name)

    def _is_own_progress(self, params: dict[str, msgspec.Raw]) -> bool:
        token = params.get("progressToken")
        if not self.header.progress or token is None or bytes(token) != self.own_id:
            self._desk.counters.messages += 1
            return False
        extended = self._desk.reactor.now + self._timeout_s()
        self.deadline = min(max(self.deadline, extended), self._ceiling)
        return True

    def _is_own_page(self, params: dict[str, msgspec.Raw]) -> bool:
        """A page that the client was asked to visit has served its purpose. The modern era does not tell of that."""
        talk = self.talk
        return self.header.era is _LEGACY and isinstance(talk, StreamTalk) and talk.has_asked_page(params)

    def _is_wanted_log(self, params: dict[str, msgspec.Raw]) -> bool:
        # Legacy clients are sent logs without having asked for them; modern ones must not be.
        wanted = self.header.log_level or (DEFAULT_LOG_LEVEL if self.header.era is Era.LEGACY else "")
        level = params.get("level")
        return level is not None and log_level_passes(msgspec.json.decode(level, type=str), wanted)
