"""What servers say unasked reaches clients that asked for it: either era on either side, over HTTP and over stdio."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client

from tests.catalogue import CHECKOUT
from tests.conftest import StartProxy, StartServer
from tests.peers.clients import ERAS
from tests.peers.tapped import sdk_client
from tests.peers.wire import wire
from tests.processes import servers_option

TELLING = "tests.peers.telling_server"
SERVERS = ("dual", "legacy", "modern")
pytestmark = pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")
"""What is deprecated has to work all the same."""
fronts = pytest.mark.parametrize("front", ["http", "stdio"])


async def until(look: Callable[[], object]) -> None:
    with trio.fail_after(60):
        while not look():  # noqa: ASYNC110 - the SDK tells a callback, and not when
            await trio.sleep(0.02)


class Heard:
    """What one client was told."""

    def __init__(self) -> None:
        self.updated: list[str] = []
        self.changed = 0
        self.logged: list[str] = []

    async def message(self, message: Any) -> None:
        kind = type(message).__name__
        if kind == "ResourceUpdatedNotification":
            self.updated.append(str(message.params.uri))
        elif kind == "ToolListChangedNotification":
            self.changed += 1

    async def log(self, params: Any) -> None:
        self.logged.append(params.data)


@asynccontextmanager
async def client(url: str, servers: dict[str, str], era: str, front: str, folder: Path) -> AsyncIterator[Any]:
    heard = Heard()
    if front == "http":
        transport: Any = streamable_http_client(url)
    else:
        files = ["--state-dir", str(folder / "stdio.state"), "--log-file", str(folder / "stdio.jsonl")]
        command = ["-m", "supervisor", "--stdio", *files, *servers_option(servers)]
        transport = stdio_client(StdioServerParameters(command=sys.executable, args=command, cwd=CHECKOUT))
    async with sdk_client(transport, era, message_handler=heard.message, logging_callback=heard.log) as sdk:
        yield sdk, heard


@fronts
@pytest.mark.parametrize("era", ERAS)
async def test_updates_and_changes_reach_the_client_that_asked(
    proxy: StartProxy, server: StartServer, tmp_path: Path, era: str, front: str
):
    servers = {each: (await server(module=TELLING, era=each, name=each)).url for each in SERVERS}
    url = (await proxy(servers)).url if front == "http" else ""
    with trio.fail_after(30):
        async with client(url, servers, era, front, tmp_path) as (sdk, heard):
            before = {tool.name for tool in (await sdk.list_tools()).tools}
            wanted = [f"{each}:1" for each in SERVERS]

            async def touch() -> None:
                for each in SERVERS:
                    for number in (2, 1):
                        await sdk.call_tool(f"{each}__touch", {"uri": f"{each}:{number}"})

            if era == "legacy":
                for uri in wanted:
                    await sdk.subscribe_resource(uri)
                await touch()
                await until(lambda: set(heard.updated) == set(wanted))
                heard.changed = 0
                for each in SERVERS:
                    await sdk.call_tool(f"{each}__grow", {})
                await until(lambda: heard.changed > 0)
                for uri in wanted:
                    await sdk.unsubscribe_resource(uri)
            else:
                async with sdk.listen(tools_list_changed=True, resource_subscriptions=wanted) as stream:
                    assert set(stream.honored.resource_subscriptions or []) == set(wanted)
                    await touch()
                    missing = set(wanted)
                    while missing:
                        missing.discard(getattr(await anext(stream), "uri", ""))
                    for each in SERVERS:
                        await sdk.call_tool(f"{each}__grow", {})
                    while type(await anext(stream)).__name__ != "ToolsListChanged":
                        pass
            assert f"{SERVERS[0]}:2" not in heard.updated
            after = {tool.name for tool in (await sdk.list_tools()).tools}
            assert after - before == {f"{each}__grown_3" for each in SERVERS}


async def test_a_legacy_clients_level_reaches_the_server_and_is_its_own(
    proxy: StartProxy, server: StartServer, tmp_path: Path
):
    servers = {"main": (await server(module=TELLING, era="legacy", name="main")).url}
    url = (await proxy(servers)).url
    with trio.fail_after(60):
        async with (
            client(url, servers, "legacy", "http", tmp_path) as (one, heard),
            client(url, servers, "legacy", "http", tmp_path) as (other, other_heard),
        ):
            await one.set_logging_level("debug")
            for sdk in (one, other):
                await sdk.call_tool("main__speak", {})
            assert heard.logged == ["main debug", "main info", "main warning", "main error"]
            assert other_heard.logged == ["main info", "main warning", "main error"]


@pytest.mark.case("C-04")
async def test_the_level_of_a_session_survives_the_front(proxy: StartProxy, server: StartServer):
    started = await proxy({"main": (await server(module=TELLING, era="legacy", name="main")).url})
    with trio.fail_after(60):
        async with wire(started.url, "2025-11-25") as one:
            await one.open()
            assert (await one.request("logging/setLevel", {"level": "error"})).result == {}
            old = await trio.to_thread.run_sync(started.kill_worker, "front")
            await trio.to_thread.run_sync(started.replacement, "front", old)
        async with wire(started.url, "2025-11-25", session=one.session) as again:
            answer = await again.call("main__speak")
            assert [note["params"]["data"] for note in answer.notifications] == ["main error"]
