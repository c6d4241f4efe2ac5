"""Clients of either era reach servers of either era, over HTTP and over stdio, and notice no difference."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from mcp import MCPError

from protocol.management import TOOL_NAMES
from tests.conftest import StartProxy
from tests.e2e.conftest import ConnectClient
from tests.peers.clients import ERAS, NEWEST, http_client, stdio_proxy_client
from tests.peers.raw_server import RawServer, never

SERVERS = ("dual", "legacy", "modern")
TOOLS = ("echo", "whoami", "slow", "big", "fail", "structured", "crash")
ODD_TEXTS = (
    "",
    "zwölf Boxkämpfer",
    "日本語 🦉 e\u0301",
    'quotes " and \\ and /',
    "line\nbreak\r\ttab",
    "\u0000\u001f\u2028",
)

pytestmark = pytest.mark.parametrize("era", ERAS)


async def test_a_client_sees_the_tools_of_all_servers_in_configured_order(connect_client: ConnectClient, era: str):
    with trio.fail_after(60):
        async with connect_client(era) as client:
            assert client.sdk.protocol_version == NEWEST[era]
            await client.lists(*TOOL_NAMES, *(f"{server}__{tool}" for server in SERVERS for tool in TOOLS))


async def test_calls_reach_the_server_whose_name_they_carry(connect_client: ConnectClient, era: str):
    with trio.fail_after(60):
        async with connect_client(era) as client:
            for server in SERVERS:
                assert await client.text(f"{server}__whoami") == server


async def test_any_text_arrives_as_it_was_sent(connect_client: ConnectClient, era: str):
    with trio.fail_after(60):
        async with connect_client(era) as client:
            for server in SERVERS:
                assert [await client.text(f"{server}__echo", text=text) for text in ODD_TEXTS] == list(ODD_TEXTS)


async def test_large_results_arrive_whole(connect_client: ConnectClient, era: str):
    with trio.fail_after(60):
        async with connect_client(era) as client:
            for server in SERVERS:
                assert await client.text(f"{server}__big", size=3_000_000) == "x" * 3_000_000


async def test_structured_content_arrives_with_its_text(connect_client: ConnectClient, era: str):
    with trio.fail_after(60):
        async with connect_client(era) as client:
            for server in SERVERS:
                result = await client.call(f"{server}__structured", city="Ulm")
                assert result.structured_content == {"city": "Ulm", "celsius": -1.5, "winds": ["NW", "Föhn"]}
                assert "Föhn" in result.content[0].text


async def test_a_tool_that_fails_is_a_result_and_not_an_error_of_the_proxy(connect_client: ConnectClient, era: str):
    with trio.fail_after(60):
        async with connect_client(era) as client:
            for server in SERVERS:
                result = await client.call(f"{server}__fail")
                assert result.is_error
                assert "this tool always fails" in result.content[0].text


@pytest.mark.parametrize("name", ["nobody__echo", "echo", "dual__", "__echo", "dual_echo"])
async def test_a_name_that_leads_nowhere_is_refused_as_invalid(connect_client: ConnectClient, era: str, name: str):
    with trio.fail_after(60):
        async with connect_client(era) as client:
            with pytest.raises(MCPError) as refused:
                await client.call(name, text="x")
            assert refused.value.code == -32602
            assert await client.text("dual__whoami") == "dual"


async def test_progress_and_log_lines_arrive_in_order_before_the_result(connect_client: ConnectClient, era: str):
    with trio.fail_after(60):
        async with connect_client(era) as client:
            for server in SERVERS:
                client.progressed.clear()
                client.logged.clear()
                result = await client.watch(f"{server}__slow", seconds=0.2)
                assert result.content[0].text == f"{server} slept"
                assert client.progressed == [(step, 10, f"step {step}") for step in range(1, 11)]
                assert [line.data for line in client.logged] == [f"{server} starts", f"{server} is done"]


@pytest.mark.parametrize("front", ["http", "stdio"])
@pytest.mark.case("A-21")
async def test_cancelling_a_call_cancels_it_at_the_server(
    proxy: StartProxy, nursery: trio.Nursery, tmp_path: Path, era: str, front: str
):
    servers = {server_era: await nursery.start(RawServer(era=server_era).serve) for server_era in ERAS}
    urls = {server_era: server.url for server_era, server in servers.items()}
    if front == "http":
        connection = http_client((await proxy(urls)).url, era)
    else:
        connection = stdio_proxy_client(urls, era, tmp_path)

    with trio.fail_after(15):
        async with connection as client:
            for server_era, server in servers.items():
                server.on["tools/call"] = never
                async with trio.open_nursery() as calls:
                    calls.start_soon(client.call, f"{server_era}__echo")
                    (call,) = await server.wait_for("tools/call")
                    calls.cancel_scope.cancel()
                if server_era == "legacy":
                    (cancelled,) = await server.wait_for("notifications/cancelled")
                    assert cancelled.params["requestId"] == call.message["id"]
                else:
                    await server.wait_until_closed(call.connection)
                del server.on["tools/call"]
                assert await client.text(f"{server_era}__echo", text="still here") == "still here"
