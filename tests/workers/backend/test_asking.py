"""Questions on no call's stream, through a pipe or on the GET stream: whose they are, and who must not see them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from protocol import link
from protocol.abilities import EVERYTHING, FORM, ROOTS
from protocol.link import AnswerKind
from protocol.versions import Era
from tests.peers.raw_server import RawServer, Reply, Request
from tests.workers.backend.harness import Backend, Json, Pending, rig
from tests.workers.backend.test_commands import hostile, told, worker
from tests.workers.backend.test_watches import Hearing
from workers.backend import asking, leased_sessions

FORM_PARAMS: Json = {"message": "Who?", "requestedSchema": {"type": "object", "properties": {}}}
ACCEPTED: Json = {"action": "accept", "content": {"n": 1}}
ELICITATION, ROOTS_LIST = "elicitation/create", "roots/list"


def call(
    one: Backend,
    name: str,
    method: str = ELICITATION,
    *,
    era: Era = Era.LEGACY,
    client: int = 1,
    able: int = EVERYTHING,
    tool: str = "question",
    **more: object,
) -> Pending:
    """Call a tool that asks; `name` tells the question from others."""
    arguments = {"text": name, "method": method, "params": FORM_PARAMS if method == ELICITATION else {}, **more}
    return one.front.call(tool, arguments, era=era, abilities=able, client=client)


async def asked(pending: Pending, count: int = 1) -> list[tuple[link.Ask, Json]]:
    while len(pending.questions) < count:
        await pending.changed.wait()
    return pending.questions


async def answer(one: Backend, pending: Pending) -> None:
    header, _ = (await asked(pending))[-1]
    one.front.send(link.Answered(pending.id, header.ask, AnswerKind.RESULT), json.dumps(ACCEPTED).encode())


async def heard(pending: Pending) -> Json:
    """Return what the server was told."""
    return json.loads((await pending.done()).text)


# --- commands --------------------------------------------------------------------------------------------------------
async def test_a_command_is_told_of_everything_that_clients_can_be_asked():
    async with worker(hostile()) as one:
        await told(one, 'client can {"sampling": {"tools": {}, "context": {}}')
        await told(one, '"elicitation": {"form": {}, "url": {}}, "roots": {}}')


async def test_a_legacy_client_answers_what_a_command_asks():
    async with worker(hostile()) as one:
        pending = call(one, "a")
        header, params = (await asked(pending))[0]
        assert (header.method, params) == (ELICITATION, FORM_PARAMS)
        await answer(one, pending)
        assert await heard(pending) == {"jsonrpc": "2.0", "id": "q-a", "result": ACCEPTED}


async def test_a_modern_client_answers_what_a_command_asks_while_its_call_is_held():
    async with worker(hostile()) as one:
        pending = call(one, "a", era=Era.MODERN, client=0)
        outcome = await pending.done()
        assert isinstance(outcome.header, link.NeedInput)
        assert list(json.loads(outcome.payload)["inputRequests"]) == ["elicitation-1"]
        again = one.front.resume(outcome.header.interaction, json.dumps({"elicitation-1": ACCEPTED}).encode())
        assert (await heard(again))["result"] == ACCEPTED


@pytest.mark.case("B-22")
async def test_a_client_that_cannot_be_asked_is_not():
    async with worker(hostile()) as one:
        assert (await heard(call(one, "a", able=0)))["error"]["code"] == -32601
        assert (await heard(call(one, "b", able=ROOTS)))["error"]["code"] == -32601
        assert (await heard(call(one, "c", ROOTS_LIST, able=0)))["result"] == {"roots": []}


async def test_a_question_that_the_command_withdraws_is_withdrawn_at_the_client():
    async with worker(hostile()) as one:
        pending = call(one, "a", withdraw=True)
        assert (await pending.done()).text == "withdrawn"
        assert pending.withdrawn == [1]


@pytest.mark.case("D-07")
async def test_calls_of_one_client_side_by_side_may_ask():
    async with worker(hostile()) as one:
        others = [call(one, str(number), tool="silent") for number in range(3)]
        pending = call(one, "a")
        await answer(one, pending)
        assert (await heard(pending))["result"] == ACCEPTED
        assert not any(other.questions for other in others)


@pytest.mark.case("D-07")
async def test_with_calls_of_several_clients_in_one_session_nobody_is_asked_until_it_is_clear_who(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(leased_sessions, "LEASED_SESSIONS_MAX", 0)  # so many have all been taken
    async with worker(hostile()) as one:
        other = call(one, "other", tool="late", client=2)
        pending = call(one, "a", client=1)
        await one.front.call("echo", {"text": "x"}, client=2).done()  # the question has come by now
        assert not pending.questions
        assert not other.questions
        one.front.call("release", client=1)
        await other.done()
        await answer(one, pending)
        assert (await heard(pending))["result"] == ACCEPTED


@pytest.mark.case("D-07")
async def test_a_question_that_stays_unclear_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(asking, "UNCLEAR_QUESTION_S", 0.2)
    monkeypatch.setattr(leased_sessions, "LEASED_SESSIONS_MAX", 0)
    async with worker(hostile()) as one:
        other = call(one, "other", tool="silent", client=2)
        pending = call(one, "a", client=1)
        error = (await heard(pending))["error"]
        assert error["code"] == -32603
        assert "several clients" in error["message"]
        assert not pending.questions
        assert not other.questions


@pytest.mark.case("D-07")
async def test_of_two_questions_that_are_unclear_one_is_refused_soon_so_that_the_other_is_asked(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(asking, "UNCLEAR_FURTHER_S", 0.1)
    monkeypatch.setattr(leased_sessions, "FIRST_CALL_S", 0.0)
    monkeypatch.setattr(leased_sessions, "LEASED_SESSIONS_MAX", 0)
    async with worker(hostile()) as one:
        pending = [call(one, str(client), client=client) for client in (1, 2)]
        error = (await heard(pending[1]))["error"]
        assert (error["code"], "several clients" in error["message"]) == (-32603, True)
        assert not pending[1].questions
        await answer(one, pending[0])
        assert (await heard(pending[0]))["result"] == ACCEPTED


@pytest.mark.case("D-07")
async def test_what_the_server_still_asks_for_a_call_that_was_given_up_reaches_no_other_client(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(asking, "UNCLEAR_QUESTION_S", 0.3)
    async with worker(hostile()) as one:
        given_up = call(one, "x", tool="silent", client=2)
        await one.front.call("echo", {"text": "x"}, client=2).done()
        one.front.cancel(given_up, "enough")
        pending = call(one, "a", client=1)
        await one.front.call("echo", {"text": "x"}, client=1).done()
        assert not pending.questions  # it could be the other's
        await answer(one, pending)
        assert (await heard(pending))["result"] == ACCEPTED


async def test_modern_clients_are_told_apart_by_their_calls(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(leased_sessions, "LEASED_SESSIONS_MAX", 0)
    async with worker(hostile()) as one:
        other = call(one, "other", tool="late", client=0, era=Era.MODERN)
        pending = call(one, "a", client=0, era=Era.MODERN)
        await one.front.call("release", client=0).done()
        await other.done()
        assert isinstance((await pending.done()).header, link.NeedInput)
        assert isinstance(other.outcome and other.outcome.header, link.Result)


async def test_calls_of_a_modern_client_that_can_be_told_from_others_may_ask_side_by_side():
    async with worker(hostile()) as one:
        other = call(one, "other", tool="silent", client=7, era=Era.MODERN)
        outcome = await call(one, "a", client=7, era=Era.MODERN).done()
        assert isinstance(outcome.header, link.NeedInput)
        assert other.outcome is None
        one.front.cancel(other, "enough")
        await other.done()
        one.front.send(link.Abandon(outcome.header.interaction))


# --- modern commands -------------------------------------------------------------------------------------------------
async def test_a_modern_command_is_listened_to_with_what_is_wanted_now():
    async with worker(hostile("modern")) as one:
        await one.front.wait_state("ready")
        hearing = Hearing(one.front)
        assert (await hearing.watch("file:///a", 1)).code == 0
        assert (await hearing.watch("file:///b", 2)).code == 0
        await told(one, "listening ['file:///a', 'file:///b']")
        await told(one, "cancelled")  # the stream before
        for uri in ("file:///c", "file:///b"):
            await one.front.call("touch", {"text": uri}).done()
        assert await hearing.heard(1) == ["file:///b"]


async def test_a_modern_command_that_comes_back_is_listened_to_again():
    async with worker(hostile("modern")) as one:
        await one.front.wait_state("ready")
        hearing = Hearing(one.front)
        await hearing.watch("file:///a")
        await one.front.call("exit").done()
        assert await hearing.heard(1) == ["file:///a"]  # something may have been missed
        await one.front.call("touch", {"text": "file:///a"}).done()
        assert await hearing.heard(2) == ["file:///a"] * 2


# --- GET streams -----------------------------------------------------------------------------------------------------
class OnGet:
    """A legacy server that asks on the GET stream of the session that a call came in."""

    def __init__(self) -> None:
        self.streams: dict[str, Reply] = {}
        self.begun = trio.Event()
        self.calls: dict[str, trio.Event] = {}
        self.answers: list[Json] = []
        self.server = RawServer(era="legacy", on={"GET": self._get, "tools/call": self._call, "POST": self._answer})

    async def _get(self, request: Request, reply: Reply) -> None:
        await reply.start_events()
        self.streams[request.headers["mcp-session-id"]] = reply
        self.begun.set()
        await trio.sleep_forever()

    async def _call(self, request: Request, reply: Reply) -> None:
        session = request.headers["mcp-session-id"]
        done = self.calls[session] = trio.Event()
        await self.begun.wait()
        message = {"jsonrpc": "2.0", "id": "q1", "method": ELICITATION, "params": FORM_PARAMS}
        await self.streams[session].event(message)
        await done.wait()
        await reply.result({"content": []})

    async def _answer(self, request: Request, reply: Reply) -> None:
        self.answers.append(request.message)
        await reply.status(202)
        self.calls[request.headers["mcp-session-id"]].set()


@asynccontextmanager
async def asking_on_get() -> AsyncIterator[tuple[OnGet, Backend]]:
    on_get = OnGet()
    async with rig(on_get.server) as (_, one):
        yield on_get, one


async def test_what_is_asked_on_the_stream_of_a_session_reaches_the_client_whose_call_is_under_way():
    async with asking_on_get() as (server, one):
        pending = call(one, "", able=FORM)
        await answer(one, pending)
        assert (await pending.done()).result == {"content": []}
        assert server.answers == [{"jsonrpc": "2.0", "id": "q1", "result": ACCEPTED}]


async def test_the_stream_of_the_session_that_all_clients_share_asks_nobody():
    async with asking_on_get() as (server, one):
        pending = call(one, "", able=0)
        assert (await pending.done()).result == {"content": []}
        assert [answer["error"]["code"] for answer in server.answers] == [-32601]
