"""What workers of servers with `isolation = "session"` hear of clients: who calls, who listens, and who has gone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from protocol import link
from protocol.clients import abilities_of, era_of
from protocol.uris import of_client, read_client
from protocol.versions import Era
from tests.workers.front.test_stdio import CALL, stdio_front
from tests.workers.front.test_subscriptions import (
    agree,
    event,
    listen,
    open_stream,
    prepare,
    update,
    watches,
)
from tests.workers.front.test_websocket import Client as WebSocketClient
from tests.workers.front.test_websocket import connected
from tests.workers.scripted import Client, Front, Json, envelope, http, modern_params, running_front

ISOLATED: Json = {"is_isolated": True, "sessions_max": 8}


@asynccontextmanager
async def isolated() -> AsyncIterator[Front]:
    async with running_front(limits=ISOLATED) as front:
        prepare(front)
        await trio.sleep(0.2)  # on the mock clock: the news of the start has been told
        yield front


async def client_of(front: Front, client: Client) -> int:
    """Return by which number the worker knows this client."""
    await client.legacy("tools/call", {"name": "main__echo", "arguments": {}})
    call, _ = await front.main.call()
    front.main.answer(call, b'{"content":[]}')
    await client.answer()
    return call.client


async def wanted(front: Front, client: Client, uri: str) -> str:
    """Have a session subscribe; return what the worker is asked to watch."""
    await client.legacy("resources/subscribe", {"uri": uri})
    watch = await front.main.until(lambda: next(iter(watches(front.main)), None))
    await agree(front.main, watch.uri)
    assert (await client.answer()).json["result"] == {}
    return watch.uri


@pytest.mark.promise("R18")
async def test_a_session_has_one_number_that_says_what_its_client_can_do():
    async with running_front(limits=ISOLATED) as front:
        one, two = await front.client("2025-11-25"), await front.client("2025-11-25")
        numbers = [await client_of(front, each) for each in (one, two, one)]

        assert numbers[0] == numbers[2] != numbers[1]
        assert era_of(numbers[0]) is Era.LEGACY
        session = front.worker._sessions.find(one.session)
        assert session is not None
        assert abilities_of(numbers[0]) == session.abilities


async def test_workers_that_keep_clients_apart_are_told_that_a_session_has_ended():
    async with running_front("main", "other", limits=ISOLATED) as front:
        client = await front.client("2025-11-25")
        number = await client_of(front, client)
        await client.send(http("DELETE", client.legacy_headers))
        for server in front.servers.values():
            assert (await server.frame(link.ClientGone)).client == number


async def test_other_workers_are_not_bothered_with_who_has_gone():
    async with running_front() as front:
        client = await front.client("2025-11-25")
        await client_of(front, client)
        await client.send(http("DELETE", client.legacy_headers))
        await client_of(front, await front.client("2025-11-25"))
        assert not [frame for frame in front.main.frames if isinstance(frame, link.ClientGone)]


async def test_the_client_on_stdio_is_one_client_also_without_a_session_and_again_on_the_next_front():
    numbers: list[int] = []
    for _ in range(2):
        async with stdio_front(limits=ISOLATED) as (front, client):
            for request_id in (1, 2):
                await client.send(envelope("tools/call", modern_params(CALL), request_id))
                call, _ = await front.main.call()
                numbers.append(call.client)
                front.main.answer(call, b'{"resultType":"complete","content":[]}')
                await client.line()
    assert len(set(numbers)) == 1
    assert era_of(numbers[0]) is Era.MODERN


async def test_clients_over_websocket_are_told_from_one_another_and_end_with_their_connections():
    async with running_front(limits=ISOLATED, websocket_path="/ws") as front, trio.open_nursery() as nursery:
        numbers: list[int] = []
        for _ in range(2):
            connection = await connected(front, nursery)
            await WebSocketClient(connection).request("tools/call", modern_params(CALL))
            call, _ = await front.main.call()
            numbers.append(call.client)
            await connection.aclose()
            assert (await front.main.frame(link.ClientGone)).client == call.client
        assert len(set(numbers)) == 2
        nursery.cancel_scope.cancel()


async def test_modern_clients_over_http_are_nobody_in_particular():
    async with running_front(limits=ISOLATED) as front:
        client = await front.client()
        await client.modern("tools/call", {"name": "main__echo", "arguments": {}})
        call, _ = await front.main.call()
        assert call.client == 0
        front.main.answer(call, b'{"resultType":"complete","content":[]}')
        await client.answer()


@pytest.mark.promise("R18")
@pytest.mark.case("D-07")
async def test_each_session_hears_of_what_its_own_session_at_the_server_tells(autojump_clock: MockClock):
    async with isolated() as front:
        clients = [await front.client("2025-11-25") for _ in range(2)]
        streams = [await front.client() for _ in clients]
        targets: list[str] = []
        for client, stream in zip(clients, streams, strict=True):
            stream.session, stream.version = client.session, client.version
            await open_stream(stream)
            targets.append(await wanted(front, client, "a:1"))
        assert [read_client(each) for each in targets] == [(await client_of(front, each), "a:1") for each in clients]

        update(front.main, f"{targets[1]}/part", number=1)
        update(front.main, targets[0], number=2)
        assert (await event(streams[0]))["params"]["number"] == 2
        assert (await event(streams[1]))["params"] == {"uri": "a:1/part", "number": 1}


async def test_who_listens_without_a_name_cannot_listen_for_another(autojump_clock: MockClock):
    async with isolated() as front:
        victim = await front.client("2025-11-25")
        target = await wanted(front, victim, "a:1")
        front.main.resources = [*front.main.resources, {"uri": target, "name": "odd"}]
        await listen(front, {"resourceSubscriptions": [target, "a:1"]})
        mine = of_client(0, "a:1")
        await front.main.until(lambda: any(watch.uri == mine for watch in watches(front.main)) or None)
        assert {read_client(watch.uri)[0] for watch in watches(front.main)} == {0}
