"""Servers with `isolation = "session"`: what they remember of one client of the official SDK no other gets to see."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import mcp
import psutil
import pytest
import trio
from mcp.client.streamable_http import streamable_http_client
from mcp.types import ElicitResult

from tests.peers.tapped import sdk_client
from tests.processes import Proxy, Server
from tests.waiting import eventually
from tests.workers.backend.test_commands import HOSTILE

pytestmark = pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")
QUESTION = {
    "method": "elicitation/create",
    "params": {"message": "?", "requestedSchema": {"type": "object", "properties": {}}},
}


@pytest.fixture(scope="module")
def proxy_of_isolated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("isolated")
    server = Server(folder / "book.log", module="tests.peers.everything_server", era="legacy", name="book")
    config = folder / "c.toml"
    config.write_text(
        f'[servers.book]\nurl = "{server.url}"\nisolation = "session"\n'
        f"[servers.pad]\ncommand = {json.dumps(sys.executable)}\nargs = [{json.dumps(HOSTILE)}]\n"
        'isolation = "session"\nsession_limit = 2\n'
        f'[servers.shelf]\ncommand = {json.dumps(sys.executable)}\nargs = [{json.dumps(HOSTILE)}, "shelf"]\n'
        'isolation = "session"\nreplicas = 3\n'
        f'[servers.all]\ncommand = {json.dumps(sys.executable)}\nargs = [{json.dumps(HOSTILE)}, "all"]\n'
    )
    proxy = Proxy({}, folder / "proxy.log", "--config", str(config))
    try:
        yield proxy
        proxy.stop()
    finally:
        proxy.destroy()
        server.destroy()


@asynccontextmanager
async def client(proxy: Proxy, era: str, **callbacks: Any) -> AsyncGenerator[mcp.Client]:
    async with sdk_client(streamable_http_client(proxy.url), era, **callbacks) as sdk:
        yield sdk


async def text(sdk: mcp.Client, tool: str, **arguments: Any) -> str:
    result = await sdk.call_tool(tool, arguments)
    assert not result.is_error, result
    (block,) = result.content
    assert block.type == "text"
    return block.text.rpartition(": ")[2]  # without the number of the process


async def remembers_apart(one: mcp.Client, other: mcp.Client, server: str) -> None:
    tool = f"{server}__remember"
    assert await text(one, tool, text="a1") == "a1"
    assert await text(other, tool, text="b1") == "b1"
    assert await text(one, tool, text="a2") == "a1 a2"
    assert await text(other, tool, text="b2") == "b1 b2"


def pads(proxy: Proxy) -> list[psutil.Process]:
    """Return the processes of the command that is called pad."""
    found: list[psutil.Process] = []
    for each in proxy.family():
        with contextlib.suppress(psutil.NoSuchProcess):  # which one is that has ended meanwhile
            if each.cmdline()[-1:] == [HOSTILE]:
                found.append(each)
    return found


async def sessions(sdk: mcp.Client) -> dict[str, int | None]:
    told = await sdk.call_tool("proxy_status", {})
    rows = json.loads(told.content[0].text)["servers"]["servers"]  # type: ignore[union-attr]
    return {row["name"]: row["sessions"] for row in rows}


@asynccontextmanager
async def two_clients(proxy: Proxy) -> AsyncGenerator[tuple[mcp.Client, mcp.Client]]:
    """Connect two legacy clients, of which none answers a question before both have been asked."""
    both = [trio.Event(), trio.Event()]

    def asked(number: int) -> Any:
        async def answer(_context: Any, _params: Any) -> ElicitResult:
            both[number].set()
            await both[1 - number].wait()
            return ElicitResult(action="accept", content={"who": number})

        return answer

    async with (
        client(proxy, "legacy", elicitation_callback=asked(0)) as one,
        client(proxy, "legacy", elicitation_callback=asked(1)) as other,
    ):
        yield one, other


async def are_both_asked(one: mcp.Client, other: mcp.Client, server: str) -> None:
    answers: dict[int, str] = {}

    async def ask(number: int, sdk: mcp.Client) -> None:
        result = await sdk.call_tool(f"{server}__question", {"text": str(number), **QUESTION})
        answers[number] = str(result.content)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, 0, one)
        nursery.start_soon(ask, 1, other)
    assert '"who": 0' in answers[0]
    assert '"who": 1' in answers[1]


@pytest.mark.promise("R18")
@pytest.mark.case("D-07")
async def test_what_a_server_remembers_of_one_client_is_not_told_to_another(proxy_of_isolated: Proxy):
    with trio.fail_after(30):
        async with two_clients(proxy_of_isolated) as (one, other):
            await remembers_apart(one, other, "book")
            await remembers_apart(one, other, "pad")
            await remembers_apart(one, other, "shelf")
            await are_both_asked(one, other, "pad")
            held = await sessions(one)
            on_shelves = [held.pop(f"shelf-{number}") for number in (1, 2, 3)]
            assert sum(count or 0 for count in on_shelves) == 2, "each has one, at one of the replicas"
            assert held == {"book": 2, "pad": 2, "all": None}
            assert len(pads(proxy_of_isolated)) == 3

        async def look() -> bool:
            return len(pads(proxy_of_isolated)) == 1

        await eventually(look, "the processes of clients that have gone are gone")


@pytest.mark.case("D-07")
async def test_two_clients_that_share_a_server_are_both_asked_at_once_also_the_first_time(proxy_of_isolated: Proxy):
    with trio.fail_after(30):
        async with two_clients(proxy_of_isolated) as (one, other):
            await are_both_asked(one, other, "all")


@pytest.mark.promise("R18")
async def test_modern_clients_over_http_find_nothing_that_anybody_has_left(proxy_of_isolated: Proxy):
    with trio.fail_after(30):
        async with client(proxy_of_isolated, "modern") as one, client(proxy_of_isolated, "modern") as other:
            for server in ("book", "pad"):
                for each, said in ((one, "a"), (other, "b"), (one, "c")):
                    assert await text(each, f"{server}__remember", text=said) == said
