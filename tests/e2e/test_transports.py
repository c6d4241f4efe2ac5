"""Servers and clients over other transports than Streamable HTTP and stdio: those of the official SDK 1.x."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

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


async def test_clients_of_both_eras_use_a_server_over_websocket(proxy: StartProxy, old_server: int):
    running = await proxy({"old": f"ws://127.0.0.1:{old_server}/ws"})

    for era in ERAS:
        async with http_client(running.url, era) as client:
            assert "old__echo" in await client.names()
            assert await client.text("old__echo", text="grüße") == "grüße"
            await client.watch("old__slow", seconds=0.1)
            assert [progress for progress, _, _ in client.progressed] == [1, 2]
