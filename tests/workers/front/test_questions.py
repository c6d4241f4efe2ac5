"""A worker asks the legacy client of one of its calls; the client answers, vanishes, or is not asked any more."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from protocol import link, request_state
from protocol.errors import INVALID_PARAMS
from protocol.link import AnswerKind
from tests.workers.scripted import KEY, Client, Front, Json, post, running_front
from workers.front import kept_streams

RESULT: Json = {"content": []}


async def asking(front: Front) -> tuple[Client, link.Call, Json]:
    """Have a client call and its server ask; return the question as the client got it."""
    client = await front.client("2025-11-25")
    await client.call()
    header, _params = await front.main.call()
    front.main.send(link.Ask(header.id, 5, "elicitation/create"), {"message": "?"})
    await client.head()
    question = await client.event()
    assert question is not None
    assert (question["method"], question["params"]) == ("elicitation/create", {"message": "?"})
    return client, header, question


async def respond(front: Front, client: Client, request_id: Any, session: str = "") -> None:
    """Post a response to a question, as a client does beside the stream of its call."""
    message = {"jsonrpc": "2.0", "id": request_id, "result": {"action": "decline"}}
    other = await front.client()
    headers = {**client.legacy_headers, **({"mcp-session-id": session} if session else {})}
    await other.send(post(message, headers))
    assert (await other.answer()).status == 202


async def test_the_answer_of_the_client_goes_to_the_call_that_asked():
    async with running_front("main") as front:
        client, header, question = await asking(front)
        await respond(front, client, question["id"])
        answered = await front.main.frame(link.Answered)
        assert (answered.id, answered.ask, answered.outcome) == (header.id, 5, AnswerKind.RESULT)

        front.main.answer(header, RESULT)
        assert (await client.event() or {})["result"] == RESULT


async def test_what_the_clients_revision_has_no_words_for_is_refused_in_its_name():
    async with running_front("main") as front:
        client = await front.client("2025-06-18")
        await client.call()
        header, _ = await front.main.call()
        chosen: Json = {"type": "array", "items": {"type": "string", "enum": ["a", "b"]}}
        form = {"message": "?", "requestedSchema": {"type": "object", "properties": {"x": chosen}}}
        front.main.send(link.Ask(header.id, 5, "elicitation/create"), form)
        answered = await front.main.frame(link.Answered)
        assert (answered.id, answered.ask, answered.outcome) == (header.id, 5, AnswerKind.ERROR)
        front.main.answer(header, RESULT)
        assert (await client.answer()).json["result"] == RESULT


@pytest.mark.case("D-07")
async def test_nobody_answers_for_another_client_or_twice():
    async with running_front("main") as front:
        client, header, question = await asking(front)
        stranger = await front.client("2025-11-25")
        await respond(front, client, question["id"], stranger.session)
        await respond(front, client, 5)
        await respond(front, client, question["id"])
        await respond(front, client, question["id"])
        front.main.answer(header, RESULT)
        assert (await client.event() or {})["result"] == RESULT
        await front.main.frame_round_trip()
        assert sum(isinstance(frame, link.Answered) for frame in front.main.frames) == 1


@pytest.mark.case("A-27")
async def test_a_client_that_vanishes_while_it_is_asked_answers_nothing_and_its_call_goes_on(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(kept_streams, "RESUME_S", 0.0)
    monkeypatch.setattr(kept_streams, "SWEEP_S", 0.01)
    async with running_front("main") as front:
        client, header, _question = await asking(front)
        client.reset()
        answered = await front.main.frame(link.Answered)
        assert (answered.id, answered.ask, answered.outcome) == (header.id, 5, AnswerKind.NOBODY)
        front.main.send(link.Ask(header.id, 6, "roots/list"), {})
        assert (await front.main.frame(link.Answered)).outcome is AnswerKind.NOBODY


async def test_a_question_is_taken_back_when_its_server_or_its_worker_is_gone():
    async with running_front("main") as front:
        client, header, first = await asking(front)
        front.main.send(link.Unask(header.id, 5))
        taken_back = await client.event()
        assert taken_back is not None
        assert (taken_back["method"], taken_back["params"]["requestId"]) == ("notifications/cancelled", first["id"])

        front.main.send(link.Ask(header.id, 6, "roots/list"), {})
        second = await client.event()
        assert second is not None
        front.main.die()
        taken_back = await client.event()
        assert taken_back is not None
        assert taken_back["params"]["requestId"] == second["id"] != first["id"]
        error = (await client.event() or {})["error"]
        assert "main" in error["message"]


async def test_a_call_that_was_cancelled_before_its_questions_came_is_not_held_for_anybody():
    async with running_front("main") as front:
        client = await front.client()
        await client.modern_call()
        header, _params = await front.main.call()
        client.reset()
        await front.main.frame(link.Cancel)
        front.main.send(link.NeedInput(header.id, 77), {"resultType": "input_required", "inputRequests": {}})
        assert (await front.main.frame(link.Abandon)).interaction == 77


async def test_a_client_is_told_that_a_page_which_only_we_gave_an_id_has_served_its_purpose():
    async with running_front("main") as front:
        client = await front.client("2025-11-25")
        await client.call()
        header, _params = await front.main.call()
        page = {"mode": "url", "message": "Sign in", "url": "https://x.test/"}
        front.main.send(link.Ask(header.id, 1, "elicitation/create"), page)
        await client.head()
        question = await client.event() or {}
        assert question["params"] == page | {"elicitationId": question["id"]}
        await respond(front, client, question["id"])
        await front.main.frame(link.Answered)

        front.main.answer(header, RESULT)
        told = await client.event() or {}
        assert told["method"] == "notifications/elicitation/complete"
        assert told["params"] == {"elicitationId": question["id"]}
        assert (await client.event() or {})["result"] == RESULT


@pytest.mark.parametrize(("action", "goes_on"), [("accept", True), ("decline", False)])
async def test_a_modern_client_that_has_visited_a_page_has_its_request_made_again_as_it_was(action: str, goes_on: bool):
    async with running_front("main") as front:
        client = await front.client()
        call = {"name": "main__echo", "arguments": {"text": "x"}}
        await client.modern("tools/call", call)
        header, params = await front.main.call()
        needed = {"resultType": "input_required", "inputRequests": {"elicitation-1": {"method": "elicitation/create"}}}
        front.main.send(link.NeedInput(header.id, link.AGAIN), needed)
        asked = (await client.answer()).json["result"]

        responses = {"elicitation-1": {"action": action}}
        more = {"inputResponses": responses, "requestState": asked["requestState"]}
        await client.modern("tools/call", call | more, 2)
        if goes_on:
            again, same = await front.main.call()
            assert same == params
            front.main.answer(again, RESULT)
            assert (await client.answer()).status == 200
        else:
            assert "page" in (await client.answer()).json["error"]["message"]


@pytest.mark.case("D-08")
@pytest.mark.case("B-23")
async def test_a_state_is_good_for_its_own_principal_request_server_and_time_only():
    async with running_front("main", "other") as front:
        client = await front.client()
        await client.modern_call()
        header, _ = await front.main.call()
        needed = {"resultType": "input_required", "inputRequests": {}, "requestState": "its own"}
        front.main.send(link.NeedInput(header.id, 0), needed)
        given = (await client.answer()).json["result"]["requestState"]
        facts = request_state.unseal(KEY, given)
        assert facts is not None

        def sealed(**changed: object) -> str:
            return request_state.seal(KEY, msgspec.structs.replace(facts, **changed))

        async def go_on(state: str, tool: str = "main__echo", **arguments: str) -> None:
            params = {"name": tool, "arguments": arguments, "requestState": state, "inputResponses": {}}
            await client.modern("tools/call", params)

        for state, tool, arguments in (
            (sealed(principal="somebody else"), "main__echo", {}),
            (sealed(request=bytes(32)), "main__echo", {}),
            (sealed(server="other"), "main__echo", {}),
            (sealed(expires_at=1), "main__echo", {}),
            (given, "other__echo", {}),
            (given, "main__other", {}),
            (given, "main__echo", {"text": "more"}),
        ):
            await go_on(state, tool, **arguments)
            assert (await client.answer()).json["error"]["code"] == INVALID_PARAMS
        assert front.main.calls == front.servers["other"].calls == []
        await go_on(given)
        header, params = await front.main.call()
        assert params["requestState"] == "its own"
        front.main.answer(header, {"resultType": "complete", **RESULT})
        assert (await client.answer()).json["result"]["content"] == []
