"""What a server asks its client in the middle of a call reaches the client, and the answer the server, of any eras."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import mcp
import pytest
import trio
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CreateMessageResult, ElicitResult, ListRootsResult, Root, TextContent

from tests.catalogue import CHECKOUT
from tests.conformance.legs import reference_server
from tests.peers.clients import ERAS, NEWEST
from tests.peers.tapped import sdk_client
from tests.peers.wire import Wire, wire
from tests.processes import Proxy, Server, servers_option

PAIRS = [(client, server) for client in ERAS for server in ERAS]


async def on_elicitation(_context: Any, _params: Any) -> ElicitResult:
    return ElicitResult(action="accept", content={"name": "Ada", "username": "ada", "email": "a@b.example"})


async def on_sampling(_context: Any, _params: Any) -> CreateMessageResult:
    return CreateMessageResult(role="assistant", content=TextContent(type="text", text="Paris"), model="m")


async def on_roots(_context: Any) -> ListRootsResult:
    return ListRootsResult(roots=[Root.model_validate({"uri": "file:///home/ada", "name": "ada"})])


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Server]]:
    folder = tmp_path_factory.mktemp("asking")
    running = {era: reference_server(era, folder / f"{era}.log") for era in ERAS}
    yield running
    for server in running.values():
        server.destroy()


@pytest.fixture(scope="module")
def asking_proxy(servers: dict[str, Server], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    urls = {era: server.url for era, server in servers.items()}
    proxy = Proxy(urls, tmp_path_factory.mktemp("asked") / "proxy.log")
    try:
        yield proxy
        proxy.stop()
    finally:
        proxy.destroy()


@asynccontextmanager
async def client_of(transport: Any, era: str, **callbacks: Any) -> AsyncGenerator[mcp.Client]:
    async with sdk_client(transport, era, **callbacks) as client:
        yield client


def answering(transport: Any, era: str) -> Any:
    return client_of(
        transport, era,
        elicitation_callback=on_elicitation, sampling_callback=on_sampling, list_roots_callback=on_roots,
    )  # fmt: skip


async def check_all_kinds(client: mcp.Client, server: str) -> None:
    """Have the server ask one thing of each kind, then several in one call."""
    for tool, arguments, words in (
        ("test_input_required_result_elicitation", {}, "Hello, Ada!"),
        ("test_sampling", {"prompt": "What is the capital of France?"}, "LLM response: Paris"),
        ("test_input_required_result_list_roots", {}, "file:///home/ada"),
        ("test_input_required_result_multiple_inputs", {}, "Ada"),
    ):
        result = await client.call_tool(f"{server}__{tool}", arguments)
        assert not result.is_error, (tool, result)
        assert words in str(result.content), (tool, result)


@pytest.mark.parametrize(("client_era", "server_era"), PAIRS)
async def test_a_server_gets_the_answers_of_its_client_over_http(asking_proxy: Proxy, client_era: str, server_era: str):
    with trio.fail_after(60):
        async with answering(streamable_http_client(asking_proxy.url), client_era) as client:
            await check_all_kinds(client, server_era)


@pytest.mark.parametrize("client_era", ERAS)
async def test_a_server_gets_the_answers_of_its_client_over_stdio(
    servers: dict[str, Server], tmp_path: Path, client_era: str
):
    urls = {era: server.url for era, server in servers.items()}
    files = ["--state-dir", str(tmp_path / "state"), "--log-file", str(tmp_path / "log.jsonl")]
    command = ["-m", "supervisor", "--stdio", *files, *servers_option(urls)]
    parameters = StdioServerParameters(command=sys.executable, args=command, cwd=CHECKOUT)
    with trio.fail_after(60):
        async with answering(stdio_client(parameters), client_era) as client:
            for server_era in ERAS:
                await check_all_kinds(client, server_era)


@pytest.mark.parametrize(("client_era", "server_era"), PAIRS)
@pytest.mark.case("B-22")
async def test_a_client_that_declares_nothing_is_asked_nothing(asking_proxy: Proxy, client_era: str, server_era: str):
    with trio.fail_after(60):
        async with client_of(streamable_http_client(asking_proxy.url), client_era) as client:
            try:
                result = await client.call_tool(f"{server_era}__test_sampling", {"prompt": "x"})
            except mcp.MCPError as error:
                said = str(error)
            else:
                assert result.is_error, result
                said = str(result.content)
            assert "sampling" in said


def asking_wire(proxy: Proxy) -> Any:
    return wire(proxy.url, NEWEST["modern"], capabilities={"elicitation": {}, "sampling": {}, "roots": {}})


async def begin(client: Wire, tool: str) -> dict[str, Any]:
    """Call a tool, and return the result that asks for input."""
    result = (await client.request("tools/call", {"name": tool, "arguments": {}})).result
    assert result["resultType"] == "input_required", result
    return result


async def go_on(client: Wire, tool: str, asked: dict[str, Any], **changed: Any) -> Any:
    accepted = {"action": "accept", "content": {"name": "Ada", "ok": True}}
    responses = dict.fromkeys(asked["inputRequests"], accepted)
    params = {"name": tool, "arguments": {}, "inputResponses": responses, "requestState": asked["requestState"]}
    return await client.request("tools/call", params | changed)


@pytest.mark.case("D-08")
async def test_what_a_client_carries_is_good_once_unchanged_and_for_its_own_request_only(asking_proxy: Proxy):
    tool = "legacy__test_input_required_result_elicitation"
    with trio.fail_after(60):
        async with asking_wire(asking_proxy) as client:
            asked = await begin(client, tool)
            state = asked["requestState"]
            changed = state[:-2] + ("A" if state[-2] != "A" else "B") + state[-1]
            for refused in (
                await go_on(client, tool, asked, requestState=changed),
                await go_on(client, tool, asked, requestState="made up"),
                await go_on(client, tool, asked, arguments={"other": 1}),
                await go_on(client, "modern__test_input_required_result_elicitation", asked),
                await go_on(client, tool, asked, inputResponses={"elicitation-1": "accept"}),
            ):
                assert refused.error["code"] == -32602
            assert (await go_on(client, tool, asked)).result["content"][0]["text"] == "Hello, Ada!"
            again = await go_on(client, tool, asked)
            assert again.error["code"] == -32602
            assert 'server "legacy"' in again.error["message"]


async def test_a_modern_servers_own_state_comes_back_to_it_as_it_was(asking_proxy: Proxy):
    tool = "modern__test_input_required_result_request_state"
    with trio.fail_after(60):
        async with asking_wire(asking_proxy) as client:
            asked = await begin(client, tool)
            refused = await go_on(client, tool, asked, requestState="made up")
            assert refused.error["code"] == -32602
            assert "state" in (await go_on(client, tool, asked)).result["content"][0]["text"]


@pytest.mark.case("C-01")
async def test_a_worker_that_is_killed_while_it_holds_a_call_costs_that_call_and_says_so(asking_proxy: Proxy):
    tool = "legacy__test_input_required_result_elicitation"
    with trio.fail_after(60):
        async with asking_wire(asking_proxy) as client:
            asked = await begin(client, tool)
            old = await trio.to_thread.run_sync(asking_proxy.kill_worker, "server legacy")
            await trio.to_thread.run_sync(asking_proxy.replacement, "server legacy", old)
            refused = await go_on(client, tool, asked)
            assert refused.error["code"] == -32602
            assert 'server "legacy" does not wait for this answer any more' in refused.error["message"]
            asked = await begin(client, tool)
            assert (await go_on(client, tool, asked)).result["content"][0]["text"] == "Hello, Ada!"
