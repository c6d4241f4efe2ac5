"""Servers and clients over other transports than Streamable HTTP and stdio: those of the official SDK 1.x."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import pytest
import trio

from tests import sdk1
from tests.catalogue import CHECKOUT
from tests.conftest import StartProxy
from tests.peers.clients import ERAS, http_client
from tests.processes import Program, free_port

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
