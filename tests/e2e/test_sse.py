"""The official SDK's client of HTTP+SSE in front of servers of every era."""

from __future__ import annotations

from pathlib import Path

import trio
from mcp.client.sse import sse_client

from protocol.management import TOOL_NAMES
from tests.conftest import StartProxy
from tests.e2e.test_eras import SERVERS, TOOLS
from tests.peers.clients import connect


async def test_a_client_that_knows_no_other_transport_is_served_by_servers_of_every_era(
    proxy: StartProxy, sdk_servers: dict[str, str], tmp_path: Path
):
    started = await proxy(sdk_servers, "--sse")
    url = f"http://127.0.0.1:{started.port}/sse"
    with trio.fail_after(30):
        async with connect(sse_client(url), "legacy") as client:
            assert await client.names() == [*TOOL_NAMES, *(f"{server}__{tool}" for server in SERVERS for tool in TOOLS)]
            for server in SERVERS:
                assert await client.text(f"{server}__echo", text="zwölf 🦉") == "zwölf 🦉"
                client.progressed.clear()
                client.logged.clear()
                await client.watch(f"{server}__slow", seconds=0.2)
                assert [step for step, _, _ in client.progressed] == list(range(1, 11))
                assert [line.data for line in client.logged] == [f"{server} starts", f"{server} is done"]
            assert await client.text("modern__big", size=1_000_000) == "x" * 1_000_000
        async with connect(sse_client(f"{url}/legacy"), "legacy") as client:
            assert await client.names() == list(TOOLS)
            assert await client.text("whoami") == "legacy"
