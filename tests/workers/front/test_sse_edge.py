"""HTTP+SSE of 2024-11-05: what is posted is answered on the stream, and ends with it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from protocol import link
from protocol.control import DropServer
from protocol.errors import INVALID_REQUEST, PARSE_ERROR
from protocol.limits import STREAM_BUFFER_HIGH_BYTES
from protocol.link import AnswerKind
from tests.workers.scripted import Answer, Client, Front, Json, bounded, envelope, http, post, running_front

RESULT: Json = {"content": []}


class Old:
    """A client that knows HTTP+SSE only: a stream, and another connection to post on."""

    def __init__(self, stream: Client, poster: Client, address: str) -> None:
        self.stream = stream
        self.poster = poster
        self.address = address

    async def post(self, message: Any, headers: Json | None = None) -> Answer:
        await self.poster.send(post(message, headers, self.address))
        return await self.poster.answer()

    async def say(self, method: str, params: Json | None = None, request_id: Any = 1) -> None:
        answer = await self.post(envelope(method, params, request_id))
        assert (answer.status, answer.body) == (202, b"")

    async def heard(self) -> Json:
        while (found := await self.stream.event()) is None:
            pass
        return found

    async def answer(self) -> Json:
        """Return the next message that does not just say that lists have changed, which a start alone causes."""
        while (message := await self.heard()).get("method", "").endswith("/list_changed"):
            pass
        return message

    async def initialize(self, version: str = "2024-11-05", **capabilities: Any) -> Json:
        info = {"name": "test", "version": "1"}
        params = {"protocolVersion": version, "capabilities": capabilities, "clientInfo": info}
        await self.say("initialize", params, "i")
        answer = await self.answer()
        await self.say("notifications/initialized", None, None)
        return answer["result"]

    async def call(self, name: str = "main__echo", request_id: Any = 1, **meta: Any) -> None:
        await self.say("tools/call", {"name": name, "arguments": {}, "_meta": meta}, request_id)


async def connect(front: Front, path: str = "/sse") -> Old:
    stream = await front.client()
    await stream.send(http("GET", {"accept": "text/event-stream"}, path=path))
    head = await stream.head()
    assert (head.status, head.headers["content-type"]) == (200, "text/event-stream")
    with bounded():
        piece = await stream._chunk()
    assert piece is not None
    event, data, *_ = piece.decode().split("\n")
    assert event == "event: endpoint"
    return Old(stream, await front.client(), data.removeprefix("data: "))


@asynccontextmanager
async def old_client(*servers: str, **settings: Any) -> AsyncIterator[tuple[Front, Old]]:
    async with running_front(*servers, sse=True, **settings) as front:
        client = await connect(front)
        await client.initialize()
        yield front, client


async def test_what_is_posted_is_answered_on_the_stream_in_the_order_in_which_answers_come():
    async with running_front(sse=True) as front:
        client = await connect(front)
        assert (await client.initialize())["protocolVersion"] == "2024-11-05"
        await client.call(request_id="a", progressToken="t")
        first, _ = await front.main.call()
        await client.call(request_id="b")
        second, _ = await front.main.call()
        front.main.answer(second, RESULT)
        front.main.notify(first, "notifications/progress", {"progress": 1})
        front.main.answer(first, RESULT)
        assert await client.answer() == {"jsonrpc": "2.0", "id": "b", "result": RESULT}
        assert (await client.answer())["params"] == {"progressToken": "t", "progress": 1}
        assert await client.answer() == {"jsonrpc": "2.0", "id": "a", "result": RESULT}
        await client.say("nonsense")
        assert (await client.answer())["error"]["code"] == -32601


async def test_each_server_has_a_stream_of_its_own_there_too(autojump_clock: MockClock):
    async with running_front("main", "files", sse=True) as front:
        client = await connect(front, "/sse/files")
        await client.initialize()
        await client.say("tools/list")
        assert [tool["name"] for tool in (await client.answer())["result"]["tools"]] == ["echo"]
        stranger = await front.client()
        await stranger.send(http("GET", path="/sse/nobody"))
        answer = await stranger.answer()
        assert answer.status == 404
        assert "the servers are main, files" in answer.json["error"]["message"]
        front.worker.obey(DropServer("files"))
        await client.stream.stream_ended()


async def test_a_session_is_needed_but_for_ping():
    async with running_front(sse=True) as front:
        client = await connect(front)
        await client.say("tools/list")
        assert (await client.answer())["error"] == {"code": INVALID_REQUEST, "message": "Initialize first"}
        await client.say("ping", request_id=2)
        assert await client.answer() == {"jsonrpc": "2.0", "id": 2, "result": {}}


@pytest.mark.case("D-08")
async def test_nobody_else_can_post_to_a_client_and_each_hears_its_own():
    async with old_client() as (front, one):
        other = await connect(front)
        await other.initialize()
        assert other.address != one.address
        for client in (one, other):
            await client.call()  # with the same id
        for client in (one, other):
            call, _ = await front.main.call()
            front.main.answer(call, {"for": client.address})
        for client in (one, other):
            assert (await client.answer())["result"]["for"] == client.address
        for forged in ("", "?session_id=", one.address[9:-1], one.address[9:] + "A", "?session=" + one.address[-22:]):
            await other.poster.send(post(envelope("ping"), path="/messages" + forged))
            assert (await other.poster.answer()).status == 404


@pytest.mark.case("A-01", "A-16", "A-17")
async def test_what_is_no_message_is_refused_where_it_is_posted():
    async with old_client() as (_, client):
        assert (await client.post(b"{nonsense")).json["error"]["code"] == PARSE_ERROR
        assert (await client.post({"jsonrpc": "2.0", "id": None, "method": "ping"})).status == 400
        assert (await client.post(envelope("ping"), {"content-type": "text/plain"})).status == 415
        for method, path in (("POST", "/sse"), ("DELETE", "/sse"), ("GET", client.address)):
            await client.poster.send(http(method, path=path))
            assert (await client.poster.answer()).status == 405
        await client.say("ping")
        assert (await client.answer())["result"] == {}


async def test_without_the_option_nothing_is_served_there(front: Front):
    client = await front.client()
    for method, path in (("GET", "/sse"), ("POST", "/messages"), ("GET", "/sse/main")):
        await client.send(http(method, path=path))
        assert (await client.answer()).status == 404


@pytest.mark.case("A-21")
async def test_what_is_under_way_ends_with_the_stream_and_nothing_is_left():
    async with old_client() as (front, client):
        await client.call()
        call, _ = await front.main.call()
        await client.stream.close()
        assert (await front.main.frame(link.Cancel)).id == call.id
        await client.poster.send(post(envelope("ping"), path=client.address))
        assert (await client.poster.answer()).status == 404
        assert not front.worker._sessions._known
        assert front.reports == [], "nobody else needs to know of a session whose id was never told"


async def test_a_call_can_be_cancelled_and_changes_of_lists_are_told(autojump_clock: MockClock):
    async with old_client() as (front, client):
        await trio.sleep(1)
        await client.call(request_id=7)
        call, _ = await front.main.call()
        await client.say("notifications/cancelled", {"requestId": 7}, None)
        assert (await front.main.frame(link.Cancel)).id == call.id
        front.main.send(link.ListChanged("tools"))
        while (heard := await client.heard())["method"] != "notifications/tools/list_changed":
            pass
        assert "id" not in heard


async def test_a_server_can_ask_and_the_answer_is_posted():
    async with running_front(sse=True) as front:
        client = await connect(front)
        await client.initialize(roots={})
        await client.call()
        call, _ = await front.main.call()
        front.main.send(link.Ask(call.id, 3, "roots/list"), {})
        question = await client.answer()
        assert question["method"] == "roots/list"
        answer = {"jsonrpc": "2.0", "id": question["id"], "result": {"roots": []}}
        assert (await client.post(answer)).status == 202
        answered = await front.main.frame(link.Answered)
        assert (answered.ask, answered.outcome) == (3, AnswerKind.RESULT)
        assert (await client.post(answer)).status == 202, "to nothing any more"


@pytest.mark.case("A-04")
async def test_a_batch_of_2025_03_26_is_answered_as_one():
    async with running_front(sse=True) as front:
        client = await connect(front)
        early = await client.post([envelope("ping")])
        assert early.status == 400
        await client.initialize("2025-03-26")
        assert (await client.post([envelope("ping", request_id=1), envelope("ping", request_id=2)])).status == 202
        data: Any = {}
        with bounded():
            while not isinstance(data, list):  # and so no note that the lists have changed
                piece = await client.stream._chunk()
                assert piece is not None
                data = json.loads(piece.decode().split("data: ")[1])
        assert [one["id"] for one in data] == [1, 2]


@pytest.mark.case("A-20")
async def test_a_client_that_does_not_read_gets_no_more_and_goes_on_when_it_does(autojump_clock: MockClock):
    async with old_client() as (front, client):
        assert (await client.heard())["method"] == "notifications/tools/list_changed", "as after any start"
        await client.call(progressToken="t")
        call, _ = await front.main.call()
        line = {"progress": 1, "message": "x" * 100_000}
        sent = 0
        while not any(isinstance(frame, link.PauseEvents) for frame in front.main.frames):
            front.main.notify(call, "notifications/progress", line)
            await front.main.frame_round_trip()
            sent += 1
            assert sent * 100_000 < 40 * STREAM_BUFFER_HIGH_BYTES
        refused = await client.post(envelope("ping"))
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        for _ in range(sent):
            assert (await client.answer())["method"] == "notifications/progress"
        await front.main.frame(link.ResumeEvents)
        front.main.answer(call, RESULT)
        assert (await client.answer())["result"] == RESULT


@pytest.mark.promise("R11")
async def test_a_front_that_leaves_gives_what_is_owed_first(nursery: trio.Nursery):
    async with old_client() as (front, client):
        idle = await connect(front)
        await client.call()
        call, _ = await front.main.call()
        nursery.start_soon(front.worker.drain, 5.0)
        await idle.stream.stream_ended()
        front.main.answer(call, RESULT)
        assert (await client.answer())["result"] == RESULT
        await client.stream.stream_ended()
