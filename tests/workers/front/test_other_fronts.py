"""Fronts that share clients: a connection gets to the front whose session it asks for, whatever came with it."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from protocol import link
from protocol.abilities import of_capabilities
from protocol.limits import MOVE_WAIT_S, STREAM_BUFFER_HIGH_BYTES
from tests.peers.certificates import Authority
from tests.workers.scripted import (
    Answer,
    Client,
    Front,
    Json,
    advance,
    bounded,
    envelope,
    http,
    open_descriptors,
    post,
    running_front,
)
from workers.front import crowd, other_fronts

RESULT: Json = {"content": []}
ASKING: Json = {"elicitation": {}}


class Inboxes:
    """What the root holds of two fronts."""

    def __init__(self) -> None:
        self.pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
        self.memory_fd = os.memfd_create("crowd")
        os.truncate(self.memory_fd, 16)

    def of(self, number: int) -> list[int]:
        ours = (self.pairs[number][1], *(way for way, _ in self.pairs))
        return [os.dup(self.memory_fd), *(os.dup(one.fileno()) for one in ours)]

    def close(self) -> None:
        os.close(self.memory_fd)
        for pair in self.pairs:
            for one in pair:
                one.close()


@pytest.fixture
def inboxes() -> Iterator[Inboxes]:
    before = open_descriptors()
    made = Inboxes()
    yield made
    made.close()
    assert open_descriptors() <= before, "descriptors were left open"


def one_of_two(inboxes: Inboxes, number: int, **settings: Any) -> Any:
    return running_front(fronts=2, number=number, shared=inboxes.of(number), **settings)


@asynccontextmanager
async def two_fronts(inboxes: Inboxes, **settings: Any) -> AsyncIterator[tuple[Front, Front]]:
    async with one_of_two(inboxes, 0, **settings) as first, one_of_two(inboxes, 1, **settings) as second:
        yield first, second


@pytest.fixture
async def fronts(inboxes: Inboxes) -> AsyncIterator[tuple[Front, Front]]:
    async with two_fronts(inboxes) as both:
        yield both


async def guest(front: Front, owner: Client) -> Client:
    """Return a client with the session of another, connected to this front."""
    client = await front.client()
    client.session, client.version = owner.session, owner.version
    return client


def vanish(front: Front) -> None:
    """Do as a killed front does, which does not say goodbye to others."""
    others, front.worker._doors._others = front.worker._doors._others, None
    assert others is not None
    front.reactor.forget(others._inbox.fileno())
    others._inbox.close()
    for way in others._ways.values():
        way.close()


async def served(client: Client, at: Front, request_id: Any = 1) -> Answer:
    await client.call(request_id=request_id)
    call, _ = await at.main.call()
    at.main.answer(call, RESULT)
    return await client.answer()


async def test_a_request_goes_to_the_front_that_has_its_session_and_so_do_the_next_ones(fronts: tuple[Front, Front]):
    first, second = fronts
    owner = await first.client("2025-11-25")
    client = await guest(second, owner)
    for request_id in range(3):
        assert (await served(client, first, request_id)).json == {"jsonrpc": "2.0", "id": request_id, "result": RESULT}
    assert (first.connections, second.connections) == (2, 0)
    assert second.main.calls == []

    await client.initialize()  # on this connection, so it is the first front's, too
    assert (await served(await guest(second, client), first)).status == 200


async def test_a_connection_goes_back_and_forth_with_the_sessions_that_come_on_it(fronts: tuple[Front, Front]):
    clients = [await one.client("2025-11-25") for one in fronts]
    shared = await fronts[0].client()
    for number in (1, 0, 1, 0):
        shared.session, shared.version = clients[number].session, clients[number].version
        assert (await served(shared, fronts[number], number)).json["id"] == number


async def test_requests_that_came_together_are_answered_in_order_by_whom_they_are_for(fronts: tuple[Front, Front]):
    first, second = fronts
    mine, theirs = await first.client("2025-11-25"), await second.client("2025-11-25")
    client = await first.client()
    pings = [post(envelope("ping", None, number), owner.legacy_headers) for number, owner in enumerate(
        [mine, theirs, theirs, mine, theirs]
    )]  # fmt: skip
    await client.send(b"".join(pings))
    assert [(await client.answer()).json["id"] for _ in pings] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("size", [10, 3_000_000])
async def test_a_request_that_has_not_come_whole_is_waited_for(fronts: tuple[Front, Front], size: int):
    first, second = fronts
    owner = await first.client("2025-11-25")
    client = await second.client()
    ping = post(envelope("ping", None, 1), owner.legacy_headers)
    params = {"name": "main__echo", "arguments": {"text": "x" * size}}
    large = post(envelope("tools/call", params, 2), owner.legacy_headers)
    await client.send(ping + large[:-5])
    await wait_all_tasks_blocked()
    assert second.connections == 1, "it cannot go before the rest has come"
    await client.send(large[-5:])

    assert (await client.answer()).json["id"] == 1
    call, arguments = await first.main.call()
    assert len(arguments["arguments"]["text"]) == size
    first.main.answer(call, RESULT)
    assert (await client.answer()).json["id"] == 2
    assert (first.connections, second.connections) == (2, 0)


async def test_who_does_not_send_the_rest_is_let_go(inboxes: Inboxes, mock_clock: MockClock):
    async with two_fronts(inboxes) as (first, second):
        owner = await first.client("2025-11-25")
        client = await second.client()
        ping = post(envelope("ping", None, 1), owner.legacy_headers)
        await client.send(ping + ping[:-1])
        await advance(mock_clock, MOVE_WAIT_S - 1)
        assert second.connections == 1
        await advance(mock_clock, 2)
        assert await client.closed() in (b"", b"<reset>")
        assert (first.connections, second.connections) == (1, 0)


async def test_what_breaks_the_rules_behind_such_a_request_is_refused_and_nothing_of_it_is_moved(
    fronts: tuple[Front, Front],
):
    first, second = fronts
    owner = await first.client("2025-11-25")
    client = await second.client()
    await client.send(post(envelope("ping", None, 1), owner.legacy_headers) + b"NONSENSE\r\n\r\n")
    assert (await client.answer()).status == 503
    assert (await client.answer()).status == 400
    await client.closed()
    assert first.connections == 1


async def test_the_answer_to_a_question_is_taken_on_any_connection(fronts: tuple[Front, Front]):
    first, second = fronts
    owner = await first.client()
    params = {"protocolVersion": "2025-11-25", "capabilities": ASKING, "clientInfo": {"name": "t", "version": "1"}}
    await owner.send(post(envelope("initialize", params)))
    owner.session, owner.version = (await owner.answer()).headers["mcp-session-id"], "2025-11-25"
    await owner.call()
    call, _ = await first.main.call()
    assert call.abilities == of_capabilities(b'{"elicitation":{}}', "2025-11-25")
    first.main.send(link.Ask(call.id, 7, "elicitation/create"), {"message": "Sure?", "requestedSchema": {}})
    await owner.head()
    question = None
    while question is None:
        question = await owner.event()

    client = await guest(second, owner)
    said = {"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept"}}
    await client.send(post(said, owner.legacy_headers))
    assert (await client.answer()).status == 202
    answered = await first.main.frame(link.Answered)
    assert (answered.id, answered.ask) == (call.id, 7)


async def test_a_call_is_cancelled_and_a_session_ended_on_any_connection(fronts: tuple[Front, Front]):
    first, second = fronts
    owner = await first.client("2025-11-25")
    await owner.call(request_id=5)
    call, _ = await first.main.call()
    client = await guest(second, owner)
    await client.send(post(envelope("notifications/cancelled", {"requestId": 5}, None), owner.legacy_headers))
    assert (await client.answer()).status == 202
    assert (await first.main.frame(link.Cancel)).id == call.id

    client = await guest(second, owner)
    await client.send(http("DELETE", owner.legacy_headers))
    assert (await client.answer()).status == 200
    client = await guest(second, owner)
    await client.send(post(envelope("ping"), owner.legacy_headers))
    assert (await client.answer()).status == 404


async def test_a_stream_is_opened_and_resumed_where_its_session_is(fronts: tuple[Front, Front]):
    first, second = fronts
    owner = await first.client("2025-11-25")
    listening = await guest(second, owner)
    await listening.send(http("GET", owner.legacy_headers | {"accept": "text/event-stream"}))
    assert (await listening.head()).status == 200
    first.main.send(link.ListChanged("tools"))
    assert (await listening.event() or {})["method"] == "notifications/tools/list_changed"
    assert (first.connections, second.connections) == (2, 0)

    await owner.call(_meta={"progressToken": "t"})
    call, _ = await first.main.call()
    first.main.notify(call, "notifications/progress", {"progress": 1})
    await owner.head()
    with bounded():
        piece = await owner._chunk()
    assert piece is not None
    last_id = next(line[4:] for line in piece.decode().split("\n") if line.startswith("id: "))
    owner.reset()
    client = await guest(second, owner)
    await client.send(http("GET", owner.legacy_headers | {"accept": "text/event-stream", "last-event-id": last_id}))
    assert (await client.head()).status == 200
    first.main.answer(call, RESULT)
    assert (await client.event() or {})["result"] == RESULT


async def test_a_session_of_a_front_that_has_left_is_served_where_it_is_asked_for(inboxes: Inboxes):
    async with one_of_two(inboxes, 1) as second:
        async with one_of_two(inboxes, 0) as first:
            owner = await first.client("2025-11-25")
            await owner.close()
            with bounded():
                await first.worker.drain(5.0)
        for request_id in range(2):
            client = await guest(second, owner)
            assert (await served(client, second, request_id)).json["id"] == request_id


async def test_what_is_on_its_way_to_a_front_that_is_replaced_waits_for_the_next_one(inboxes: Inboxes):
    async with one_of_two(inboxes, 1) as second:
        async with one_of_two(inboxes, 0) as first:
            owner = await first.client("2025-11-25")
            vanish(first)
            clients = [await guest(second, owner) for _ in range(3)]
        for number, client in enumerate(clients):
            await client.call(request_id=number, arguments={"text": "x" * 300_000})
        await wait_all_tasks_blocked()
        assert second.connections == 0
        async with one_of_two(inboxes, 0) as first:
            for number, client in enumerate(clients):
                call, _ = await first.main.call()
                first.main.answer(call, RESULT)
                assert (await client.answer()).json["id"] == number


async def test_who_waits_too_long_for_such_a_front_is_told_to_try_again(
    inboxes: Inboxes, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(crowd, "LEAD_MAX", 100)  # all of them come here
    async with one_of_two(inboxes, 1) as second, one_of_two(inboxes, 0) as first:
        owner = await first.client("2025-11-25")
        first.reactor.forget(first.worker._doors._others._inbox.fileno())  # it does not come to read its inbox
        inboxes.pairs[0][0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
        clients = [await guest(second, owner) for _ in range(20)]
        for client in clients:
            await client.call()
        await wait_all_tasks_blocked()
        way = second.worker._doors._others._ways[0]
        waiting = len(way.waiting)
        assert 0 < waiting < 20
        await advance(mock_clock, MOVE_WAIT_S + 2 * other_fronts.SWEEP_S)
        answers = [(await client.answer()).status for client in clients[20 - waiting :]]
        assert answers == [503] * waiting
        first.reactor.watch(first.worker._doors._others._inbox.fileno(), first.worker._doors._others, 1)
        for client in clients[: 20 - waiting]:
            call, _ = await first.main.call()
            first.main.answer(call, RESULT)
            assert (await client.answer()).status == 200


async def test_what_counts_at_a_unix_socket_counts_for_what_came_there(inboxes: Inboxes, tmp_path: Path):
    path = tmp_path / "mcp.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        async with one_of_two(inboxes, 0) as first, one_of_two(inboxes, 1, inherited=listener) as second:
            owner = await first.client("2025-11-25")
            client = Client(await trio.open_unix_socket(str(path)))  # type: ignore[arg-type]
            second.clients.append(client)
            client.session, client.version = owner.session, owner.version
            headers = {"host": "whatever.example"}
            for request_id in range(2):
                await client.send(post(envelope("ping", None, request_id), owner.legacy_headers | headers))
                assert (await client.answer()).json["id"] == request_id
            assert (first.connections, second.connections) == (2, 0)


async def test_whom_a_gateway_has_introduced_a_connection_for_is_known_wherever_it_goes(inboxes: Inboxes):
    gateways = {"trusted_proxies": ["127.0.0.1/32"], "proxy_protocol": True}
    async with one_of_two(inboxes, 0) as first, one_of_two(inboxes, 1, **gateways) as second:
        owner = await first.client("2025-11-25")
        client = await guest(second, owner)
        await client.send(b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 80\r\n")
        assert (await served(client, first)).status == 200
        await client.initialize()
        opened = [fields["client"] for event, fields in first.log.of("debug") if event == "session opened"]
        assert opened == ["", "192.0.2.1"]


@asynccontextmanager
async def tls_client(front: Front, authority: Authority, owner: Client) -> AsyncIterator[Client]:
    tcp = await trio.open_tcp_stream("127.0.0.1", front.port)
    context: ssl.SSLContext = authority.client_context()
    stream = trio.SSLStream(tcp, context, server_hostname="localhost", https_compatible=True)
    with bounded():
        await stream.do_handshake()
    client = Client(stream)  # type: ignore[arg-type]
    client.session, client.version = owner.session, owner.version
    try:
        yield client
    finally:
        await trio.aclose_forcefully(stream)


async def test_over_tls_the_same_is_done_by_relaying(inboxes: Inboxes, tmp_path: Path):
    authority = Authority(tmp_path)
    large: Json = {"content": [{"type": "text", "text": "x" * (3 * STREAM_BUFFER_HIGH_BYTES)}]}
    async with AsyncExitStack() as stack:
        first, second = await stack.enter_async_context(two_fronts(inboxes, certificate=authority.server))
        owner = await stack.enter_async_context(tls_client(first, authority, Client(None)))  # type: ignore[arg-type]
        await owner.initialize()
        client = await stack.enter_async_context(tls_client(second, authority, owner))
        assert (await served(client, first)).status == 200
        await client.call(arguments={"text": "y" * 2_000_000}, request_id=2)
        call, params = await first.main.call()
        assert len(params["arguments"]["text"]) == 2_000_000
        first.main.answer(call, large)
        assert (await client.answer()).json["result"] == large
        assert (first.connections, second.connections) == (2, 1)

        await client.stream.aclose()
        await first.log.until(lambda: True)
        with bounded():
            while (first.connections, second.connections) != (1, 0):
                await wait_all_tasks_blocked(0.01)


async def test_a_front_that_leaves_ends_what_is_relayed_to_it(inboxes: Inboxes, tmp_path: Path):
    authority = Authority(tmp_path)
    async with AsyncExitStack() as stack:
        first, second = await stack.enter_async_context(two_fronts(inboxes, certificate=authority.server))
        owner = await stack.enter_async_context(tls_client(first, authority, Client(None)))  # type: ignore[arg-type]
        await owner.initialize()
        client = await stack.enter_async_context(tls_client(second, authority, owner))
        assert (await served(client, first)).status == 200
        async with trio.open_nursery() as nursery:
            nursery.start_soon(second.worker.drain, 5.0)
            await wait_all_tasks_blocked()
            with bounded():
                await first.worker.drain(5.0)
                assert await client.stream.receive_some(1) == b""
        assert second.connections == 0


async def test_what_a_client_of_http_sse_posts_gets_to_its_stream(inboxes: Inboxes):
    async with two_fronts(inboxes, sse=True) as (first, second):
        stream = await first.client()
        await stream.send(http("GET", {"accept": "text/event-stream"}, path="/sse"))
        await stream.head()
        with bounded():
            piece = await stream._chunk()
        assert piece is not None
        address = piece.decode().split("\n")[1].removeprefix("data: ")
        for number in range(2):
            poster = await second.client()
            await poster.send(post(envelope("ping", None, number), None, address))
            assert (await poster.answer()).status == 202
            assert (await stream.event() or {})["id"] == number
        stranger = await second.client()
        await stranger.send(post(envelope("ping"), None, "/messages?session_id=0.nobody"))
        assert (await stranger.answer()).status == 404
