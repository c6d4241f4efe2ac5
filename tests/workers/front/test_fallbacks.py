"""A call that its server cannot serve goes to the tool that the user has named for that: once each, if it may."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from trio.testing import wait_all_tasks_blocked

from protocol.control import AddServer, GroupInfo, ServerDown, ServerInfo
from protocol.errors import OUTCOME_UNKNOWN, SERVER_UNAVAILABLE
from tests.workers.scripted import Client, Front, Json, running_front

READ: Json = {"name": "read", "inputSchema": {}, "annotations": {"readOnlyHint": True}}
WRITE: Json = {"name": "write", "inputSchema": {}}
FALLBACKS = {"read": ("backup", "look"), "write": ("pool", "put")}


@asynccontextmanager
async def running() -> AsyncIterator[Front]:
    """Run a front for "main", whose tools have fallbacks at "backup" and at the group "pool" of "one" and "two"."""
    async with running_front(
        "main", "backup", "one", "two", groups=[GroupInfo("pool", "round_robin", fallbacks={"put": ("backup", "put")})],
        groups_of=dict.fromkeys(("one", "two"), "pool"),
    ) as front:  # fmt: skip
        front.worker.obey(AddServer(ServerInfo("main", "", fallbacks=FALLBACKS), 0))
        front.main.tools = [READ, WRITE]
        for name in ("backup", "one", "two"):
            front.servers[name].tools = [WRITE | {"name": "put"}, READ | {"name": "look"}]
        client = await front.client()
        await client.modern("tools/list")
        await client.answer()
        yield front


async def call(front: Front, tool: str) -> Client:
    client = await front.client()
    await client.modern("tools/call", {"name": f"main__{tool}", "arguments": {"text": "x"}})
    await wait_all_tasks_blocked()
    return client


async def fail(front: Front, name: str, *, sent: bool = False) -> None:
    header, _ = await front.servers[name].call()
    code = OUTCOME_UNKNOWN if sent else SERVER_UNAVAILABLE
    front.servers[name].fault(header, code, "no", sent=sent)
    await wait_all_tasks_blocked()


@pytest.mark.promise("R04")
async def test_what_was_not_sent_goes_to_the_other_tool_with_the_same_arguments():
    async with running() as front:
        client = await call(front, "read")
        await fail(front, "main")
        header, params = await front.servers["backup"].call()
        assert (header.name, params["name"], params["arguments"]) == ("look", "look", {"text": "x"})
        front.servers["backup"].answer(header, {"from": "backup"})
        assert (await client.answer()).json["result"]["from"] == "backup"


@pytest.mark.promise("R04", "R07")
async def test_what_may_have_been_executed_goes_there_only_if_its_tool_says_that_this_does_no_harm():
    async with running() as front:
        read, write = await call(front, "read"), await call(front, "write")
        await fail(front, "main", sent=True)
        await fail(front, "main", sent=True)
        assert (await write.answer()).json["error"]["code"] == OUTCOME_UNKNOWN
        assert [len(front.servers[name].calls) for name in ("backup", "one", "two")] == [1, 0, 0]
        header, _ = await front.servers["backup"].call()
        front.servers["backup"].answer(header, {"from": "backup"})
        assert (await read.answer()).json["result"]["from"] == "backup"


async def test_a_group_is_tried_whole_before_its_own_fallback_and_the_last_error_is_the_answer():
    async with running() as front:
        client = await call(front, "write")
        await fail(front, "main")
        for _ in range(2):
            (name,) = [name for name in ("one", "two") if front.servers[name].calls]
            await fail(front, name)
        (header, params) = front.servers["backup"].calls[0]
        assert (header.name, params["name"]) == ("put", "put")
        await fail(front, "backup")
        error = (await client.answer()).json["error"]
        assert (error["code"], error["data"]["server"]) == (SERVER_UNAVAILABLE, "backup")


@pytest.mark.case("C-01")
async def test_calls_of_a_server_that_is_parked_go_there_at_once():
    async with running() as front:
        front.main.die()
        front.worker.obey(ServerDown("main", -1.0))
        await wait_all_tasks_blocked()
        await call(front, "read")
        assert len(front.servers["backup"].calls) == 1


async def test_an_error_of_the_server_itself_and_other_tools_fall_back_on_nobody():
    async with running() as front:
        client = await call(front, "read")
        header, _ = await front.main.call()
        front.main.fault(header, -32000, "no", sent=True, error={"code": -32000, "message": "no"})
        assert (await client.answer()).json["error"]["code"] == -32000
        front.worker.obey(AddServer(ServerInfo("main", "", fallbacks={"other": ("backup", "look")}), 0))
        client = await call(front, "read")
        await fail(front, "main")
        assert (await client.answer()).json["error"]["code"] == SERVER_UNAVAILABLE
        assert front.servers["backup"].calls == []


async def test_a_fallback_that_is_not_there_leaves_the_call_to_its_error():
    async with running() as front:
        front.worker.obey(AddServer(ServerInfo("main", "", fallbacks={"read": ("gone", "look")}), 0))
        client = await call(front, "read")
        await fail(front, "main")
        assert (await client.answer()).json["error"]["data"]["server"] == "main"


async def test_a_circle_which_no_configuration_may_have_ends_all_the_same():
    async with running() as front:
        front.worker.obey(AddServer(ServerInfo("main", "", fallbacks={"read": ("backup", "look")}), 0))
        front.worker.obey(AddServer(ServerInfo("backup", "", fallbacks={"look": ("main", "read")}), 1))
        client = await call(front, "read")
        for name in ("main", "backup", "main", "backup"):
            await fail(front, name)
        assert (await client.answer()).json["error"]["code"] == SERVER_UNAVAILABLE
