"""A legacy client loses the event stream of a request and comes back for the rest of it; nobody else can."""

from __future__ import annotations

from typing import Any

import pytest

from protocol.errors import OUTCOME_UNKNOWN
from protocol.limits import KEPT_STREAM_BYTES_MAX
from tests.workers.scripted import Client, Front, Json, http, running_front
from workers.front import http_connection, kept_streams

RESULT: Json = {"content": []}
PROGRESS = "notifications/progress"


async def event_id(client: Client) -> tuple[str, str]:
    """Return id and data of the next event."""
    piece = await client._chunk()
    assert piece is not None
    fields = dict(line.split(": ", 1) for line in piece.decode().strip().split("\n"))
    return fields["id"], fields.get("data", "")


async def streaming(front: Front, version: str = "2025-11-25") -> tuple[Client, Any, str]:
    """Have a client call and hear of progress; return the id of that event as well."""
    client = await front.client(version)
    await client.call(request_id="seven", _meta={"progressToken": 1})
    header, _ = await front.main.call()
    progress(front, header, 1)
    await client.head()
    first, _ = await event_id(client)
    return client, header, first


def progress(front: Front, header: Any, step: int) -> None:
    front.main.notify(header, PROGRESS, {"progressToken": "worker's", "progress": step})


async def come_back(front: Front, client: Client, last_event_id: str, session: str = "") -> Client:
    """Ask for what followed an event, on a connection of its own."""
    other = await front.client()
    headers = {**client.legacy_headers, "accept": "text/event-stream", "last-event-id": last_event_id}
    await other.send(http("GET", headers | ({"mcp-session-id": session} if session else {})))
    return other


@pytest.mark.case("A-27")
async def test_what_a_client_has_missed_is_sent_to_it_again_and_nothing_twice():
    async with running_front("main") as front:
        client, header, first = await streaming(front)
        client.reset()
        await front.main.frame_round_trip()
        progress(front, header, 2)
        front.main.answer(header, RESULT)
        await front.main.frame_round_trip()

        for _ in range(2):  # also if the second connection is lost
            answer = await (await come_back(front, client, first)).answer()
            assert [event.get("method", event.get("id")) for event in answer.events] == [PROGRESS, "seven"]
            assert answer.events[0]["params"] == {"progressToken": 1, "progress": 2}
            assert answer.final["result"] == RESULT


async def test_a_stream_that_is_taken_up_again_goes_on_with_what_comes_later():
    async with running_front("main") as front:
        client, header, first = await streaming(front)
        again = await come_back(front, client, first)  # the client has noticed before we have
        await again.head()
        assert await client.closed() == b""
        progress(front, header, 2)
        second, _ = await event_id(again)
        again.reset()
        await front.main.frame_round_trip()

        third = await come_back(front, client, second)
        await third.head()
        front.main.answer(header, RESULT)
        assert (await third.event() or {})["result"] == RESULT


@pytest.mark.case("D-08")
@pytest.mark.promise("R18")
async def test_a_stream_is_found_by_its_own_session_alone():
    async with running_front("main") as front:
        client, header, first = await streaming(front)
        front.main.answer(header, {"content": [{"type": "text", "text": "secret"}]})
        await client.event()
        stranger = await front.client("2025-11-25")
        answer = await (await come_back(front, client, first, stranger.session)).answer()
        assert "secret" not in str(answer.events)
        assert answer.final["error"]["code"] == OUTCOME_UNKNOWN


@pytest.mark.case("C-04")
async def test_a_front_that_knows_nothing_of_a_stream_says_so_in_the_name_of_the_request():
    async with running_front("main") as front:
        client, _, first = await streaming(front)
    async with running_front("main") as front:
        answer = await (await come_back(front, client, first)).answer()
        assert (answer.final["id"], answer.final["error"]["code"]) == ("seven", OUTCOME_UNKNOWN)


async def test_an_answer_that_is_too_large_to_be_kept_is_said_to_be_lost():
    async with running_front("main") as front:
        client, header, first = await streaming(front)
        client.reset()
        await front.main.frame_round_trip()
        front.main.answer(header, {"content": [{"type": "text", "text": "x" * KEPT_STREAM_BYTES_MAX}]})
        await front.main.frame_round_trip()
        answer = await (await come_back(front, client, first)).answer()
        assert answer.final["error"]["code"] == OUTCOME_UNKNOWN


async def test_nothing_is_kept_for_longer_than_it_may(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kept_streams, "RESUME_S", 0.0)
    monkeypatch.setattr(kept_streams, "SWEEP_S", 0.01)
    async with running_front("main") as front:
        client, header, first = await streaming(front)
        front.main.answer(header, RESULT)
        await client.event()
        kept = front.worker._sessions.kept
        while kept._streams:
            await front.main.frame_round_trip()
        assert kept._size == 0
        answer = await (await come_back(front, client, first)).answer()
        assert answer.final["error"]["code"] == OUTCOME_UNKNOWN


@pytest.mark.case("A-30")
@pytest.mark.parametrize("odd", ["p", "p.x.1", "p.a.!.1", "p.a.eyJ9.1", "p.a.MQ.x", "1", "p.."])
async def test_an_event_id_that_is_none_of_ours_opens_the_stream_of_the_session(odd: str):
    async with running_front("main") as front:
        client = await front.client("2025-11-25")
        stream = await come_back(front, client, odd)
        assert (await stream.head()).status == 200
        front.worker._sessions.broadcast(b'{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{}}')
        assert (await stream.event() or {})["method"] == "notifications/tools/list_changed"


async def test_a_client_that_comes_back_for_the_stream_of_its_session_is_told_what_may_have_changed():
    async with running_front("main") as front:
        client = await front.client("2025-11-25")
        stream = await come_back(front, client, "")
        await stream.head()
        front.worker._sessions.broadcast(b'{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{}}')
        last, _ = await event_id(stream)
        stream.reset()
        again = await come_back(front, client, last)
        await again.head()
        told = [(await again.event() or {})["method"] for _ in range(3)]
        assert told == [f"notifications/{kind}/list_changed" for kind in ("tools", "prompts", "resources")]


@pytest.mark.parametrize(("version", "primed"), [("2025-11-25", True), ("2025-06-18", False)])
async def test_a_stream_that_begins_without_a_message_says_where_it_begins_to_those_who_understand(
    version: str, primed: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(http_connection, "STREAM_KEEP_ALIVE_S", 0.0)
    async with running_front("main") as front:
        client = await front.client(version)
        await client.call()
        await front.main.call()
        await client.head()
        piece = await client._chunk() or b""
        assert piece.startswith(b"id: p." if primed else b": keep-alive")
        assert not primed or piece.endswith(b".0\nevent: message\ndata: \n\n")
