"""What the server asks of the client in the middle of one call, until the call is over.

Two kinds of servers ask in two ways, and so do two kinds of clients answer:

* a legacy server asks on the stream of the call, which stays open; a legacy client is asked at once, a modern one gets
  the questions of a moment together as the result of its call, which is then held (interactions.py);
* a modern server ends the request with its questions; a modern client gets them as they are (nothing is kept here), for
  a legacy client the questions are put one by one and the request is made again with the answers.

Rule 1: a client is asked only what it declared.
Rule 2: everything is bounded: questions, bytes, rounds, time.
Rule 3: a server whose question gets no answer is told so.
"""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from protocol import link
from protocol.abilities import check_question
from protocol.errors import INTERNAL_ERROR
from protocol.input_required import Needed, Question, key_of, refusal, result_of, with_answers
from protocol.jsonrpc import DECODE_ERRORS, Object, Raw, Reply, RpcError, decode_object, encode_object
from protocol.limits import (
    GATHER_S,
    INTERACTIVE_CALLS_MAX,
    QUESTION_BYTES_MAX,
    QUESTIONS_OPEN_MAX,
    QUESTIONS_PER_CALL_MAX,
    ROUNDS_MAX,
)
from protocol.link import AnswerKind, Payload
from protocol.versions import Era
from workers.backend.answers import ErrorObject
from workers.backend.faults import Failure
from workers.backend.interactions import Shelf
from workers.backend.leg import Leg

if TYPE_CHECKING:
    from workers.backend.calls import BackendCall, Desk

ELICITATION_OVER: Final = "notifications/elicitation/complete"
_PAGE: Final = "elicitationId"
_AGAIN_MIN_S: Final = 0.05
_AGAIN_MAX_S: Final = 0.25
"""Between two requests to a server that only wants to be asked again."""
_NOT_ANSWERED: Final = "the client did not answer"


class _Open(msgspec.Struct):
    """A question that has no answer yet."""

    question: Question
    origin: str
    """The server's name for it: its JSON-RPC id as raw JSON, or its key."""


class Talk(abc.ABC):
    """The questions of one call."""

    def __init__(self, desk: Desk, call: BackendCall) -> None:
        self._desk = desk
        self._call = call
        self._open: dict[int, _Open] = {}
        self._count = 0
        self._rounds = 0

    @property
    def is_waiting(self) -> bool:
        """The client has something to answer."""
        return bool(self._open)

    @abc.abstractmethod
    def answered(self, number: int, kind: AnswerKind, payload: bytes) -> None:
        """The client has answered a question. `payload`: its result or error, raw JSON."""

    def questions(self) -> dict[str, Question]:
        """Return what has no answer yet, under keys that are unique in this call."""
        return {key_of(each.question.method, number): each.question for number, each in self._open.items()}

    def take_answers(self, given: Object) -> None:
        """The client has answered some of `questions`: results, raw JSON, by their keys."""
        for number, each in list(self._open.items()):
            answer = given.get(key_of(each.question.method, number))
            if answer is not None:
                self.answered(number, AnswerKind.RESULT, bytes(answer))

    @abc.abstractmethod
    def refuse_open(self, why: str) -> None:
        """No answer will come any more; the call is being cancelled."""

    def over(self) -> None:
        """The call has ended."""
        self._open.clear()
        self._desk.interactions.leave(self._call)

    def _put(self, question: Question, origin: str) -> int:
        self._count += 1
        self._open[self._count] = _Open(question, origin)
        self._call.wait_for_client()
        return self._count

    def _ask(self, number: int) -> None:
        question = self._open[number].question
        self._call.front.send(link.Ask(self._call.header.id, number, question.method), question.params)

    def _next_round(self) -> bool:
        """Return whether there may be one more round; end the call if not."""
        self._rounds += 1
        if self._rounds > ROUNDS_MAX:
            self._call.give_up(self._desk.faults.too_many_rounds(ROUNDS_MAX))
            return False
        return True


class StreamTalk(Talk):
    """The questions of a legacy server, on the stream of the call."""

    def __init__(self, desk: Desk, call: BackendCall, leg: Leg) -> None:
        super().__init__(desk, call)
        self._leg = leg
        self._gathering = False
        self._pages: set[bytes] = set()
        """Ids of pages that the client was asked to visit."""

    def asked(self, request: Reply) -> None:
        """The server asks something."""
        assert request.id is not None
        assert request.method is not None
        origin = request.id.decode()
        if any(each.origin == origin for each in self._open.values()):
            self._desk.counters.messages += 1  # one answer cannot be told from the other
            return
        params = bytes(request.params) if request.params is not None else b"{}"
        try:
            members = decode_object(params, "params")
            check_question(request.method, members, self._call.header.abilities)
            self._check_room(params)
        except RpcError as error:
            self._leg.refuse(request.id, error.code, error.message)
            return
        number = self._put(Question(request.method, params), origin)
        if _PAGE in members:
            self._pages.add(bytes(members[_PAGE]))
        if self._call.header.era is Era.LEGACY:
            self._ask(number)
        else:
            self._gather_soon()

    def has_asked_page(self, params: Object) -> bool:
        """Whether this is about a page that the client was asked to visit."""
        return bytes(params.get(_PAGE, b"")) in self._pages

    def withdrawn(self, params: Raw | None) -> bool:
        """The server cancels something; return whether it was one of its questions."""
        try:
            origin = bytes(decode_object(params or Raw(b"{}")).get("requestId", Raw(b""))).decode()
        except (RpcError, *DECODE_ERRORS):
            return False
        for number, each in self._open.items():
            if each.origin == origin:
                del self._open[number]
                self._call.front.send(link.Unask(self._call.header.id, number))
                self._go_on_if_answered()
                return True
        return False

    def answered(self, number: int, kind: AnswerKind, payload: bytes) -> None:
        each = self._open.pop(number, None)
        if each is None:
            return  # withdrawn meanwhile
        if kind is AnswerKind.NOBODY:
            kind, payload = refusal(each.question.method, _NOT_ANSWERED)
        self._leg.respond(each.origin.encode(), kind, payload)
        self._go_on_if_answered()

    def resumed(self, responses: bytes) -> None:
        """The client has come back with these `inputResponses`. What it left out is asked again."""
        self.take_answers(decode_object(responses, "inputResponses"))
        if self._open:
            self._call.wait_for_client()
            self._gather_soon()

    def refuse_open(self, why: str) -> None:
        for each in self._open.values():
            self._leg.respond(each.origin.encode(), *refusal(each.question.method, why))
        self._open.clear()

    def _go_on_if_answered(self) -> None:
        if not self._open:
            self._call.go_on()

    def _check_room(self, params: bytes) -> None:
        held = sum(len(each.question.params) for each in self._open.values())
        if len(self._open) >= QUESTIONS_OPEN_MAX or self._count >= QUESTIONS_PER_CALL_MAX:
            raise RpcError(INTERNAL_ERROR, "too many questions in one call")
        if held + len(params) > QUESTION_BYTES_MAX:
            raise RpcError(INTERNAL_ERROR, f"questions of more than {QUESTION_BYTES_MAX} bytes in one call")
        if not self._desk.interactions.admit(self._call):
            raise RpcError(INTERNAL_ERROR, f"{INTERACTIVE_CALLS_MAX} calls wait for answers already; try again later")

    # --- modern clients ----------------------------------------------------------------------------------------------
    def _gather_soon(self) -> None:
        if self._call.kept is not None:
            self._call.kept.asked()
        elif not self._gathering:
            self._gathering = True
            self._desk.reactor.start_soon(self._gather)

    async def _gather(self) -> None:
        """Wait for questions that come together with the first, then end the client's request with all of them."""
        await trio.sleep(GATHER_S)
        self._gathering = False
        if self._open and not self._call.ended and self._call.kept is None and self._next_round():
            self._hold(result_of(self.questions()))

    def _hold(self, result: bytes) -> None:
        call = self._call
        interaction = self._desk.interactions.hold(call)
        call.wait_for_client()
        front, call.front = call.front, Shelf()
        front.part(call, link.NeedInput(call.header.id, interaction), result)
        call.update_reading()


class RoundsTalk(Talk):
    """The questions of a modern server to a legacy client."""

    def __init__(self, desk: Desk, call: BackendCall, params: Payload) -> None:
        super().__init__(desk, call)
        self._params = params
        """Of the request as the client made it."""
        self._answers: dict[str, Raw] = {}
        self._state = b""
        self._pause_s = _AGAIN_MIN_S

    def needed(self, needed: Needed) -> None:
        """The server has ended the request with these questions."""
        if not self._desk.interactions.admit(self._call):
            self._call.give_up(self._desk.faults.too_many_interactions(INTERACTIVE_CALLS_MAX))
            return
        if not self._next_round():
            return
        self._answers, self._state = {}, needed.state
        for number in [self._put(question, key) for key, question in needed.questions.items()]:
            self._ask(number)
        if not needed.questions:
            self._desk.reactor.start_soon(self._again_later)

    def answered(self, number: int, kind: AnswerKind, payload: bytes) -> None:
        each = self._open.pop(number, None)
        if each is None:
            return
        if kind is AnswerKind.RESULT:
            self._answers[each.origin] = Raw(payload)
            if not self._open:
                self._again()
        elif kind is AnswerKind.ERROR:
            # The modern era has no word for it: a client that refuses does not make its request again.
            error = msgspec.json.decode(payload, type=ErrorObject)
            self._call.give_up(Failure(error.code, error.message, sent=True, payload=payload))
        else:
            self._call.give_up(self._desk.faults.client_silent())

    def refuse_open(self, why: str) -> None:
        """The server waits for nothing."""
        self._open.clear()

    async def _again_later(self) -> None:
        await trio.sleep(self._pause_s)
        self._pause_s = min(self._pause_s * 2, _AGAIN_MAX_S)
        if not self._call.ended:
            self._again()

    def _again(self) -> None:
        answers = encode_object(self._answers) if self._answers else b""
        self._call.ask_again(with_answers(self._params, answers, self._state))
