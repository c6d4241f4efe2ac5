"""`logging/setLevel` of legacy clients: kept in their sessions, also across the life of a front."""

from __future__ import annotations

import pytest

from protocol.control import SessionNoted, SessionNotes
from tests.workers.front.test_stdio import stdio_front
from tests.workers.scripted import Client, Front, http, running_front


async def level_of_a_call(front: Front, client: Client) -> str:
    await client.call()
    call, _ = await front.main.call()
    front.main.answer(call, {"content": []})
    await client.answer()
    return call.log_level


async def set_level(client: Client, level: object) -> dict[str, object]:
    await client.legacy("logging/setLevel", {"level": level})
    return (await client.answer()).json


@pytest.mark.case("D-07")
async def test_a_level_is_for_the_calls_of_that_session_alone():
    async with running_front() as front:
        front.main.offers = ["tools", "logging"]
        front.main.state("ready")
        one, other = await front.client("2025-11-25"), await front.client("2025-03-26")
        assert await set_level(one, "warning") == {"jsonrpc": "2.0", "id": 1, "result": {}}
        assert [await level_of_a_call(front, client) for client in (one, other)] == ["warning", ""]
        await set_level(one, "debug")
        assert await level_of_a_call(front, one) == "debug"


@pytest.mark.parametrize("level", ["verbose", "", None, 3, "Info"])
async def test_a_level_that_there_is_not_is_refused(level: object):
    async with running_front() as front:
        front.main.offers = ["tools", "logging"]
        front.main.state("ready")
        client = await front.client("2025-11-25")
        answer = await set_level(client, level)
        assert isinstance(answer["error"], dict)
        assert answer["error"]["code"] == -32602
        assert "debug, info, notice" in answer["error"]["message"]
        assert await level_of_a_call(front, client) == ""


async def test_without_a_server_that_logs_there_is_no_level_to_set():
    async with running_front() as front:
        client = await front.client()
        assert "logging" not in (await client.initialize()).json["result"]["capabilities"]
        answer = await set_level(client, "info")
        assert isinstance(answer["error"], dict)
        assert answer["error"]["code"] == -32601


@pytest.mark.case("C-04")
async def test_the_next_front_knows_the_level_of_a_session():
    async with running_front() as front:
        front.main.offers = ["tools", "logging"]
        front.main.state("ready")
        client = await front.client("2025-11-25")
        await set_level(client, "error")
        await set_level(client, "error")
        (note,) = [report.note for report in front.reports if isinstance(report, SessionNoted)]
    async with running_front() as front:
        front.worker.obey(SessionNotes([note]))
        again, stranger = await front.client(), await front.client("2025-11-25")
        again.session, again.version = client.session, client.version
        assert await level_of_a_call(front, again) == "error"
        assert await level_of_a_call(front, stranger) == ""


async def test_the_level_of_a_session_that_ends_is_forgotten_by_all():
    async with running_front() as front:
        front.main.offers = ["tools", "logging"]
        front.main.state("ready")
        client = await front.client("2025-11-25")
        await set_level(client, "error")
        await client.send(http("DELETE", client.legacy_headers))
        assert (await client.answer()).status == 200
        notes = [report.note for report in front.reports if isinstance(report, SessionNoted)]
        assert [bool(note.note) for note in notes] == [True, False]


async def test_a_client_on_stdio_sets_its_level_too():
    async with stdio_front() as (front, client):
        front.main.offers = ["tools", "logging"]
        front.main.state("ready")
        await client.initialize()
        await client.send({"jsonrpc": "2.0", "id": 2, "method": "logging/setLevel", "params": {"level": "critical"}})
        assert (await client.answer())["result"] == {}
        await client.send(
            {"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": {"name": "main__echo", "arguments": {}}}
        )
        call, _ = await front.main.call()
        assert call.log_level == "critical"
        front.main.answer(call, {"content": []})
        await client.answer()
