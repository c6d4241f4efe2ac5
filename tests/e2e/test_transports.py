"""Servers and clients over other transports than Streamable HTTP and stdio: those of the official SDK 1.x."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from trio_websocket import open_websocket_url

from tests import sdk1
from tests.catalogue import CHECKOUT
from tests.conftest import StartProxy
from tests.e2e.test_stdio import Lines, stdio_proxy
from tests.peers.certificates import Authority
from tests.peers.clients import ERAS, http_client
from tests.peers.raw_server import RawServer
from tests.processes import Program, free_port
from tests.workers.scripted import Client as WireClient

PEER = str(CHECKOUT / "tests" / "peers" / "sdk1_peer.py")


@pytest.fixture(scope="module")
def old_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a server of the SDK 1.x: WebSocket on /ws, HTTP+SSE on /sse."""
    port = free_port()
    one = Program(
        [PEER, "server", "--port", str(port)], tmp_path_factory.mktemp("sdk1") / "server.log", env=sdk1.environment()
    )
    try:
        one.wait_for_port(port)
        yield port
    finally:
        one.destroy()


async def test_clients_of_both_eras_use_servers_over_websocket_and_http_with_sse(proxy: StartProxy, old_server: int):
    running = await proxy({"ws": f"ws://127.0.0.1:{old_server}/ws", "sse": f"http://127.0.0.1:{old_server}/sse"})

    for era in ERAS:
        async with http_client(running.url, era) as client:
            assert {"ws__echo", "sse__echo"} <= set(await client.names())
            for name in ("ws", "sse"):
                assert await client.text(f"{name}__echo", text="grüße") == "grüße"
                client.progressed.clear()
                await client.watch(f"{name}__slow", seconds=0.1)
                assert [progress for progress, _, _ in client.progressed] == [1, 2]

    async with http_client(running.url, "modern") as client:
        listed = (await client.call("manage", operation="list")).structured_content
        assert listed is not None
        assert {row["name"]: row["transport"] for row in listed["servers"]} == {"ws": "ws", "sse": "sse"}


async def test_a_client_of_the_sdk_connects_over_websocket(proxy: StartProxy, old_server: int):
    running = await proxy({"old": f"ws://127.0.0.1:{old_server}/ws"}, "--ws")
    url = f"ws://127.0.0.1:{running.port}/ws"

    visit = [sys.executable, PEER, "client", url, "old__slow", '{"seconds": 0.1}']
    done = await trio.run_process(visit, capture_stdout=True, env=sdk1.environment())

    seen = json.loads(done.stdout)
    assert (seen["version"], seen["text"], seen["progress"]) == ("2025-11-25", "slept", [1, 2])
    assert "old__echo" in seen["tools"]


async def listed(pipes: Lines) -> str:
    """Ask for the tools; what else is told meanwhile does not matter."""
    await pipes.send({"jsonrpc": "2.0", "id": "tools", "method": "tools/list"})
    while (message := await pipes.receive()).get("id") != "tools":
        pass
    return str(message)


async def test_all_ways_to_the_proxy_can_be_used_at_once(nursery: trio.Nursery, tmp_path: Path):
    """Two fronts, so that a session is also asked for through sockets of both kinds, with TLS and without."""
    authority, path, port = Authority(tmp_path), str(tmp_path / "mcp.sock"), free_port()
    certificate, context = authority.issue("front", "127.0.0.1"), authority.client_context()
    server = await nursery.start(RawServer(era="legacy").serve)
    http = ["--http", "--port", str(port), "--tls-cert", certificate]
    more = ["--listen-unix", path, "--sse", "--ws", "--fronts", "2", "--no-management"]

    async def over_tls() -> WireClient:
        stream = trio.SSLStream(
            await trio.open_tcp_stream("127.0.0.1", port), context, server_hostname="127.0.0.1", https_compatible=True
        )
        return WireClient(stream)  # type: ignore[arg-type]

    async def echoed(client: WireClient, text: str, tool: str = "main__echo") -> str:
        await client.call(tool, arguments={"text": text})
        return (await client.answer()).final["result"]["content"][0]["text"]

    async with stdio_proxy({"main": server.url}, tmp_path, *http, *more) as pipes:
        await pipes.initialize()
        assert "main__echo" in await listed(pipes)
        async with await over_tls() as https, WireClient(await trio.open_unix_socket(path)) as local:  # type: ignore[arg-type]
            await https.initialize()
            assert await echoed(https, "https") == "https"
            local.session, local.version = https.session, https.version
            assert await echoed(local, "unix") == "unix"
        async with WireClient(await trio.open_unix_socket(path)) as own:  # type: ignore[arg-type]
            own.path = "/mcp/main"
            await own.initialize()
            assert await echoed(own, "own", "echo") == "own"
        async with open_websocket_url(
            f"wss://127.0.0.1:{port}/ws", ssl_context=context, subprotocols=["mcp"]
        ) as websocket:
            await websocket.send_message('{"jsonrpc":"2.0","id":1,"method":"ping"}')
            assert json.loads(await websocket.get_message()) == {"jsonrpc": "2.0", "id": 1, "result": {}}
        async with await over_tls() as sse:
            await sse.send(b"GET /sse HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n")
            assert (await sse.head()).headers["content-type"] == "text/event-stream"
        assert "main__echo" in await listed(pipes)
        pipes.process.terminate()
