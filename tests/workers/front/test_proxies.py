"""Clients behind gateways: whose word counts, and that every client gets its turn."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from protocol.limits import HEADERS_DEADLINE_S
from tests.peers.certificates import Authority
from tests.protocol.test_proxy_protocol import v2
from tests.workers.scripted import (
    Client,
    Front,
    Json,
    advance,
    bounded,
    envelope,
    http,
    modern_post,
    post,
    running_front,
)

RESULT: Json = {"content": []}
LINE = b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 80\r\n"
HEALTH = http("GET", path="/healthz")


async def opened_by(front: Front, client: Client, headers: dict[str, str] | None = None) -> str:
    """Open a session, and return whom the log says it is of."""
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    await client.send(post(envelope("initialize", params), headers))
    assert (await client.answer()).status == 200
    return [fields["client"] for event, fields in front.log.of("debug") if event == "session opened"][-1]


# --- headers ---------------------------------------------------------------------------------------------------------
@pytest.mark.case("D-11")
@pytest.mark.parametrize(
    ("trusted", "client"), [([], ""), (["10.0.0.0/8", "unix"], ""), (["127.0.0.0/8"], "192.0.2.1")]
)
async def test_only_a_trusted_proxy_says_who_a_client_is(trusted: list[str], client: str):
    async with running_front(trusted_proxies=trusted) as front:
        for header in ({"x-forwarded-for": "6.6.6.6, 192.0.2.1"}, {"forwarded": "for=192.0.2.1"}):
            assert await opened_by(front, await front.client(), header) == client


async def test_each_request_of_a_proxys_connection_has_a_client_of_its_own():
    async with running_front(trusted_proxies=["127.0.0.1/32"]) as front:
        client = await front.client()
        for address in ("192.0.2.1", "192.0.2.2", "192.0.2.2", "192.0.2.1"):
            assert await opened_by(front, client, {"x-forwarded-for": address}) == address
        assert await opened_by(front, client) == "127.0.0.1", "the proxy itself"


@pytest.mark.case("D-30")
async def test_clients_behind_one_proxy_take_turns_whatever_connections_they_have(
    autojump_clock: MockClock,
):
    async with running_front(calls=1, trusted_proxies=["127.0.0.1/32"]) as front:
        clients: list[tuple[str, Client]] = []
        for number in range(7):
            address = "192.0.2.1" if number != 5 else "192.0.2.2"
            client = await front.client()
            params = {"name": "main__echo", "arguments": {}}
            await client.send(modern_post("tools/call", params, number, {"x-forwarded-for": address}))
            await front.main.frame_round_trip()
            clients.append((address, client))
        order: list[int] = []
        for _ in clients:
            call, _ = await front.main.call()
            front.main.answer(call, RESULT)
            order += [
                number for number, (_, client) in enumerate(clients) if number not in order and await answered(client)
            ]
        assert order == [0, 1, 5, 2, 3, 4, 6], "the one call of the other is served second among those that wait"


async def answered(client: Client) -> bool:
    with trio.move_on_after(0.01):
        await client.peek(1)
        return True
    return False


async def test_who_connects_to_the_unix_socket_may_be_a_proxy(tmp_path: Path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "mcp.sock"))
        listener.listen()
        async with running_front(inherited=listener, trusted_proxies=["unix"]) as front:
            client = Client(await trio.open_unix_socket(str(tmp_path / "mcp.sock")))  # type: ignore[arg-type]
            front.clients.append(client)
            assert await opened_by(front, client, {"x-forwarded-for": "192.0.2.1"}) == "192.0.2.1"


# --- the PROXY protocol ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("header", [LINE, v2("192.0.2.1")])
async def test_a_connection_of_a_load_balancer_is_its_clients(header: bytes):
    async with running_front(trusted_proxies=["127.0.0.1/32"], proxy_protocol=True) as front:
        for cut in (0, 1, len(header) - 1, len(header)):
            client = await front.client()
            await client.send(header[:cut])
            await front.main.frame_round_trip()
            await client.send(header[cut:] + HEALTH)
            assert (await client.answer()).status == 200
            assert await opened_by(front, client, {"x-forwarded-for": "6.6.6.6"}) == "192.0.2.1", "it speaks for itself"


async def test_a_load_balancer_that_speaks_for_itself_or_for_another_proxy_is_believed():
    async with running_front(trusted_proxies=["127.0.0.1/32", "192.0.2.1/32"], proxy_protocol=True) as front:
        client = await front.client()
        await client.send(v2("6.6.6.6", command=0))
        assert await opened_by(front, client) == "127.0.0.1"
        client = await front.client()
        await client.send(LINE)
        assert await opened_by(front, client, {"x-forwarded-for": "198.51.100.7"}) == "198.51.100.7"


@pytest.mark.case("A-14", "D-11")
async def test_a_header_from_anybody_else_is_no_http():
    for settings in ({}, {"trusted_proxies": ["10.0.0.0/8"], "proxy_protocol": True}):
        async with running_front(**settings) as front:
            client = await front.client()
            await client.send(LINE + HEALTH)
            assert (await client.answer()).status == 400
            assert front.connections == 1


@pytest.mark.case("A-16", "A-18")
async def test_a_connection_without_the_header_is_closed_and_so_is_one_that_is_late(mock_clock: MockClock):
    async with running_front(trusted_proxies=["127.0.0.1/32"], proxy_protocol=True) as front:
        client = await front.client()
        await client.send(HEALTH)
        assert await client.closed() in (b"", b"<reset>")
        gone = await front.client()
        await gone.close()
        slow = await front.client()
        await slow.send(LINE[:10])
        await advance(mock_clock, HEADERS_DEADLINE_S + 2)
        assert await slow.closed() == b""
        assert not front.worker._doors._prefaces
        reasons = [fields["reason"] for event, fields in front.log.of("debug") if event == "a connection was refused"]
        assert reasons == [
            "the connection does not begin with a header of the PROXY protocol",
            "the connection ended before a header of the PROXY protocol",
            "no header of the PROXY protocol came in time",
        ]


async def test_tls_follows_the_header(tmp_path: Path):
    authority = Authority(tmp_path)
    settings = {"trusted_proxies": ["127.0.0.1/32"], "proxy_protocol": True, "certificate": authority.server}
    async with running_front(**settings) as front:
        tcp = await trio.open_tcp_stream("127.0.0.1", front.port)
        await tcp.send_all(LINE)
        stream = trio.SSLStream(tcp, authority.client_context(), server_hostname="localhost", https_compatible=True)
        async with Client(stream) as client:  # type: ignore[arg-type]
            with bounded():
                await stream.do_handshake()
            assert await opened_by(front, client) == "192.0.2.1"


async def test_connections_that_wait_for_their_header_are_let_go_when_the_front_leaves():
    async with running_front(trusted_proxies=["127.0.0.1/32"], proxy_protocol=True) as front:
        client = await front.client()
        await client.send(LINE[:5])
        await front.main.frame_round_trip()
        with bounded():
            await front.worker.drain(1.0)
        assert await client.closed() in (b"", b"<reset>")
