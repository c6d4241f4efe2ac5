"""A legacy server asks its client in the middle of a call: what goes to the front, what comes back, what ends it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio

from protocol import link
from protocol.abilities import FORM, ROOTS, URL
from protocol.limits import INTERACTION_S, QUESTIONS_OPEN_MAX
from protocol.link import AnswerKind
from protocol.versions import Era
from tests.peers.raw_server import RawServer, Reply, Request
from tests.workers.backend.harness import Backend, Json, Pending, rig

FORM_PARAMS: Json = {"message": "Who?", "requestedSchema": {"type": "object", "properties": {}}}
ACCEPTED = b'{"action":"accept","content":{"n":1.0}}'


def question(request_id: Any = "s1", method: str = "elicitation/create", params: Json | None = None) -> Json:
    return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": FORM_PARAMS if params is None else params}


class Asking:
    """A legacy server that asks, and ends its call once it has been answered as often as it asked."""

    def __init__(self, *messages: Json, answers: int = 1) -> None:
        self.messages = messages
        self.answers: list[Json] = []
        self._wanted = answers
        self._answered = trio.Event()
        self.server = RawServer(era="legacy", on={"tools/call": self._call, "POST": self._answer})

    async def _call(self, request: Request, reply: Reply) -> None:
        await reply.start_events()
        for message in self.messages:
            await reply.event(message)
        await self._answered.wait()
        await reply.event({"jsonrpc": "2.0", "id": request.message["id"], "result": {"content": []}})
        await reply.end_events()

    async def _answer(self, request: Request, reply: Reply) -> None:
        self.answers.append(request.message)
        if len(self.answers) >= self._wanted:
            self._answered.set()
        await reply.status(202)

    async def answered(self) -> Json:
        await self._answered.wait()
        return self.answers[-1]


def call(one: Backend, era: Era, able: int = FORM) -> Pending:
    return one.front.call(era=era, abilities=able)


async def asked(pending: Pending, count: int = 1) -> list[tuple[link.Ask, Json]]:
    while len(pending.questions) < count:
        await pending.changed.wait()
    return pending.questions


async def needed(pending: Pending) -> tuple[int, Json]:
    outcome = await pending.done()
    assert isinstance(outcome.header, link.NeedInput), outcome.header
    return outcome.header.interaction, json.loads(outcome.payload)


def resume(one: Backend, interaction: int, responses: Json) -> Pending:
    return one.front.resume(interaction, json.dumps(responses).encode())


# --- legacy clients --------------------------------------------------------------------------------------------------
async def test_a_question_reaches_the_client_and_its_answer_the_server_byte_for_byte():
    asking = Asking(question(7))
    async with rig(asking.server) as (server, one):
        pending = call(one, Era.LEGACY)
        ((header, params),) = await asked(pending)
        assert (header.method, params) == ("elicitation/create", FORM_PARAMS)
        one.front.send(link.Answered(pending.id, header.ask, AnswerKind.RESULT), ACCEPTED)

        assert (await pending.done()).result == {"content": []}
        assert asking.answers == [{"jsonrpc": "2.0", "id": 7, "result": json.loads(ACCEPTED)}]
        declared = [request.params["capabilities"] for request in server.received("initialize")]
        assert declared == [{}, {"elicitation": {"form": {}}}]


@pytest.mark.parametrize(
    ("kind", "payload", "told"),
    [
        (AnswerKind.ERROR, b'{"code":-1,"message":"no"}', {"error": {"code": -1, "message": "no"}}),
        (AnswerKind.NOBODY, b"", {"result": {"action": "cancel"}}),
    ],
)
@pytest.mark.case("A-27")
async def test_a_server_is_told_of_a_client_that_refuses_or_has_vanished(kind: AnswerKind, payload: bytes, told: Json):
    asking = Asking(question())
    async with rig(asking.server) as (_server, one):
        pending = call(one, Era.LEGACY)
        ((header, _params),) = await asked(pending)
        one.front.send(link.Answered(pending.id, header.ask, kind), payload)
        assert await asking.answered() == {"jsonrpc": "2.0", "id": "s1", **told}
        await pending.done()


@pytest.mark.case("B-22")
async def test_what_the_client_has_not_declared_is_refused_and_it_is_not_bothered():
    asking = Asking(
        question(1, "sampling/createMessage"), question(2, "elicitation/create", {"mode": "url"}), answers=2
    )
    async with rig(asking.server) as (_server, one):
        pending = call(one, Era.LEGACY, FORM | ROOTS)
        await pending.done()
        assert {answer["id"]: answer["error"]["code"] for answer in asking.answers} == {1: -32601, 2: -32602}
        assert pending.questions == []


async def test_a_question_that_the_server_takes_back_is_taken_back_from_the_client():
    withdrawn = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "s1"}}
    asking = Asking(question("s1"), withdrawn, question("s2"))
    async with rig(asking.server) as (_server, one):
        pending = call(one, Era.LEGACY)
        first, second = await asked(pending, 2)
        assert pending.withdrawn == [first[0].ask]
        one.front.send(link.Answered(pending.id, first[0].ask, AnswerKind.RESULT), ACCEPTED)
        one.front.send(link.Answered(pending.id, second[0].ask, AnswerKind.RESULT), ACCEPTED)
        assert (await asking.answered())["id"] == "s2"
        await pending.done()


async def test_one_call_may_have_so_many_open_questions_and_no_more():
    asking = Asking(*(question(number) for number in range(QUESTIONS_OPEN_MAX + 1)))
    async with rig(asking.server) as (_server, one):
        pending = call(one, Era.LEGACY)
        refused = await asking.answered()
        assert (refused["id"], refused["error"]["code"]) == (QUESTIONS_OPEN_MAX, -32603)
        assert len(await asked(pending, QUESTIONS_OPEN_MAX)) == QUESTIONS_OPEN_MAX
        await pending.done()
        assert one.worker.interactions.active == 0


async def test_a_call_cancelled_while_its_server_waits_is_cancelled_there_and_the_question_answered():
    asking = Asking(question())
    async with rig(asking.server) as (server, one):
        pending = call(one, Era.LEGACY)
        await asked(pending)
        one.front.cancel(pending, "enough")
        assert (await asking.answered())["result"] == {"action": "cancel"}
        await server.wait_for("notifications/cancelled")
        assert one.worker.interactions.active == 0


# --- modern clients --------------------------------------------------------------------------------------------------
async def test_questions_that_come_together_end_the_request_which_is_resumed_with_the_answers():
    asking = Asking(question("s1"), question("s2", "roots/list", {}), answers=2)
    async with rig(asking.server) as (_server, one):
        interaction, result = await needed(call(one, Era.MODERN, FORM | ROOTS))
        assert {key: asked["method"] for key, asked in result["inputRequests"].items()} == {
            "elicitation-1": "elicitation/create",
            "roots-2": "roots/list",
        }
        assert one.worker.interactions.held == 1

        # What is left out is asked again.
        interaction, result = await needed(resume(one, interaction, {"roots-2": {"roots": []}, "odd": {}}))
        assert list(result["inputRequests"]) == ["elicitation-1"]
        done = await resume(one, interaction, {"elicitation-1": {"action": "decline"}}).done()

        assert done.result == {"content": []}
        assert {answer["id"]: answer["result"] for answer in asking.answers} == {
            "s1": {"action": "decline"},
            "s2": {"roots": []},
        }
        assert (one.worker.interactions.held, one.worker.interactions.active) == (0, 0)


@pytest.mark.case("D-08")
async def test_a_held_call_is_resumed_once_and_no_other_number_means_anything():
    asking = Asking(question())
    async with rig(asking.server) as (_server, one):
        interaction, _result = await needed(call(one, Era.MODERN))
        answers = {"elicitation-1": {"action": "accept"}}
        strange = await resume(one, interaction + 2, answers).done()
        done = await resume(one, interaction, answers).done()
        again = await resume(one, interaction, answers).done()

        assert done.result == {"content": []}
        for refused in (strange, again):
            assert refused.fault.code == -32602
            assert 'server "main" does not wait for this answer any more' in refused.fault.message


async def test_a_held_call_that_nobody_comes_back_for_is_cancelled_at_the_server():
    asking = Asking(question())
    async with rig(asking.server) as (server, one):
        await needed(call(one, Era.MODERN))
        assert one.worker.interactions.sweep(one.reactor.now + INTERACTION_S + 1) is False
        assert (await asking.answered())["result"] == {"action": "cancel"}
        await server.wait_for("notifications/cancelled")
        assert (one.worker.interactions.held, one.worker.interactions.active) == (0, 0)


async def test_a_held_call_outlives_the_front_it_came_over_and_is_resumed_by_another():
    asking = Asking(question())
    async with rig(asking.server) as (_server, one):
        interaction, _result = await needed(call(one, Era.MODERN))
        other = one.attach()
        one.front.end.close()
        await one.front.closed.wait()
        pending = other.resume(interaction, b'{"elicitation-1":{"action":"accept"}}')
        assert (await pending.done()).result == {"content": []}


# --- modern servers --------------------------------------------------------------------------------------------------
async def test_a_modern_server_is_asked_again_with_the_answers_of_a_legacy_client():
    calls: list[Json] = []

    async def answer(request: Request, reply: Reply) -> None:
        calls.append(request.params)
        if "inputResponses" in request.params:
            await reply.result({"content": [], "resultType": "complete"})
            return
        wanted: Json = {"who": {"method": "elicitation/create", "params": FORM_PARAMS}}
        await reply.result({"resultType": "input_required", "inputRequests": wanted, "requestState": "st\u00e4te"})

    async with rig(RawServer(era="modern", on={"tools/call": answer})) as (_server, one):
        pending = call(one, Era.LEGACY)
        ((header, params),) = await asked(pending)
        assert params == FORM_PARAMS
        one.front.send(link.Answered(pending.id, header.ask, AnswerKind.RESULT), ACCEPTED)
        assert (await pending.done()).result["content"] == []
        assert calls[1]["inputResponses"] == {"who": json.loads(ACCEPTED)}
        assert calls[1]["requestState"] == "stäte"
        assert calls[0]["arguments"] == calls[1]["arguments"]


async def test_a_modern_server_that_never_has_enough_is_given_up():
    async def answer(_request: Request, reply: Reply) -> None:
        await reply.result({"resultType": "input_required", "inputRequests": {"r": {"method": "roots/list"}}})

    async with rig(RawServer(era="modern", on={"tools/call": answer})) as (_server, one):
        pending = call(one, Era.LEGACY, ROOTS)
        answered = 0
        while pending.outcome is None:
            for header, _params in pending.questions[answered:]:
                answered += 1
                one.front.send(link.Answered(pending.id, header.ask, AnswerKind.RESULT), b'{"roots":[]}')
            await pending.changed.wait()
        assert "more than 20 times" in (await pending.done()).fault.message
        assert one.worker.interactions.active == 0


async def test_a_legacy_client_that_refuses_ends_the_call_of_a_modern_server_with_its_error():
    async def answer(_request: Request, reply: Reply) -> None:
        await reply.result({"resultType": "input_required", "inputRequests": {"r": {"method": "roots/list"}}})

    async with rig(RawServer(era="modern", on={"tools/call": answer})) as (_server, one):
        pending = call(one, Era.LEGACY, ROOTS)
        ((header, _params),) = await asked(pending)
        one.front.send(link.Answered(pending.id, header.ask, AnswerKind.ERROR), b'{"code":-1,"message":"no"}')
        outcome = await pending.done()
        assert (outcome.fault.code, json.loads(outcome.payload)["message"]) == (-1, "no")


# --- pages to visit --------------------------------------------------------------------------------------------------
PAGE: Json = {"mode": "url", "message": "Sign in", "url": "https://x.test/", "elicitationId": "e1"}


def over(elicitation_id: str) -> Json:
    params = {"elicitationId": elicitation_id}
    return {"jsonrpc": "2.0", "method": "notifications/elicitation/complete", "params": params}


async def test_a_legacy_client_is_told_that_a_page_it_was_asked_to_visit_has_served_its_purpose_and_of_no_other():
    asking = Asking(question(params=PAGE), over("another's"), over("e1"))
    async with rig(asking.server) as (_server, one):
        pending = call(one, Era.LEGACY, URL)
        ((header, params),) = await asked(pending)
        assert params == PAGE
        assert await pending.wait_events(1) == [("notifications/elicitation/complete", {"elicitationId": "e1"})]
        one.front.send(link.Answered(pending.id, header.ask, AnswerKind.RESULT), b'{"action":"accept"}')
        await pending.done()
        assert len(pending.events) == 1


@pytest.mark.parametrize(("era", "able"), [(Era.MODERN, URL), (Era.MODERN, FORM), (Era.LEGACY, URL)])
async def test_pages_that_a_legacy_server_wants_visited_first_become_questions_to_a_modern_client(era: Era, able: int):
    async def refuse(_request: Request, reply: Reply) -> None:
        await reply.error(-32042, "sign in first", data={"elicitations": [PAGE]})

    async with rig(RawServer(era="legacy", on={"tools/call": refuse})) as (_server, one):
        outcome = await call(one, era, able).done()
        if (era, able) != (Era.MODERN, URL):
            assert outcome.fault.code == -32042
            return
        assert outcome.header == link.NeedInput(1, link.AGAIN)
        (asked,) = json.loads(outcome.payload)["inputRequests"].values()
        assert asked == {
            "method": "elicitation/create",
            "params": {"mode": "url", "message": "Sign in", "url": "https://x.test/"},
        }
