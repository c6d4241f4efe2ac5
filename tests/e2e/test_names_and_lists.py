"""Which tools a client sees, under which names, in which order, on how many pages; and that nothing of them is lost."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from mcp import MCPError

from protocol.management import TOOL_NAMES
from tests import schemas
from tests.conftest import StartProxy
from tests.peers.clients import ERAS, http_client
from tests.peers.raw_server import ECHO, Json, RawServer, with_result
from tests.peers.wire import META, MODERN, wire
from tests.processes import Proxy

RICH: Json = {
    "name": "rich",
    "title": "Rich Tool, Ünïcode",
    "description": "Everything a tool may have, and more.\nOn two lines.",
    "inputSchema": {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 1, "x-vendor": {"deep": [1, 2.50, None]}}},
        "allOf": [{"if": {"required": ["n"]}, "then": {"properties": {"n": {"const": 9007199254740993}}}}],
        "additionalProperties": False,
    },
    "outputSchema": {"type": "object", "properties": {"r": {"type": "number"}}},
    "annotations": {"readOnlyHint": True, "openWorldHint": False, "futureHint": "yes"},
    "icons": [{"src": "https://example.com/i.png", "mimeType": "image/png", "sizes": ["48x48"]}],
    "_meta": {"com.example/key": {"nested": [True, None]}, "plain": 1},
    "x-unknown": {"kept": ["as", "it", "is"]},
}


def named(*names: str) -> list[Json]:
    return [{**ECHO, "name": name} for name in names]


async def raw_server(nursery: trio.Nursery, **habits: Any) -> RawServer:
    return await nursery.start(RawServer(**habits).serve)


@pytest.mark.parametrize("era", ERAS)
async def test_a_tool_can_also_be_called_with_a_dot(shared_proxy: Proxy, era: str):
    with trio.fail_after(60):
        async with http_client(shared_proxy.url, era) as client:
            assert await client.text("legacy.whoami") == "legacy"
            assert await client.text("legacy__whoami") == "legacy"


@pytest.mark.parametrize("separator", ["-", "_", ".", "/"])
async def test_the_separator_can_be_chosen(proxy: StartProxy, nursery: trio.Nursery, separator: str):
    server = await raw_server(nursery, name="main")
    started = await proxy({"main": server.url}, f"--separator={separator}")

    with trio.fail_after(60):
        async with http_client(started.url, "modern") as client:
            await client.lists(*TOOL_NAMES, f"main{separator}echo")
            assert await client.text(f"main{separator}echo", text="x") == "x"
    assert server.received("tools/call")[0].params["name"] == "echo"


@pytest.mark.case("B-21")
async def test_without_prefixes_names_are_the_servers_own_and_the_first_server_wins(
    proxy: StartProxy, nursery: trio.Nursery
):
    one = await raw_server(nursery, name="one", tools=named("shared", "only_one"))
    two = await raw_server(nursery, name="two", tools=named("shared", "only_two"))
    started = await proxy({"one": one.url, "two": two.url}, "--namespace", "none")

    with trio.fail_after(60):
        async with http_client(started.url, "modern") as client:
            await client.lists(*TOOL_NAMES, "shared", "only_one", "only_two")
            assert await client.text("shared") == "one"
            assert await client.text("only_two") == "two"


@pytest.mark.case("B-21")
async def test_with_auto_only_names_that_collide_have_a_prefix_also_for_a_front_that_has_just_begun(
    proxy: StartProxy, nursery: trio.Nursery
):
    one = await raw_server(nursery, name="one", tools=named("shared", "only_one"))
    two = await raw_server(nursery, name="two", tools=named("shared", "only_two"))
    started = await proxy({"one": one.url, "two": two.url}, "--namespace", "auto", "--no-management")

    with trio.fail_after(60):
        async with http_client(started.url, "modern") as client:
            assert await client.text("only_two") == "two"  # before anybody has listed anything
            with pytest.raises(MCPError, match=r"did you mean .*one__shared"):
                await client.call("shared")
            assert await client.names() == ["one__shared", "only_one", "two__shared", "only_two"]
            assert await client.text("two__shared") == "two"


async def test_many_tools_can_be_searched_and_called_by_the_official_client(proxy: StartProxy, nursery: trio.Nursery):
    tools = [*named(*(f"tool_{number}" for number in range(60))), {**ECHO, "description": "Repeat what I say"}]
    server = await raw_server(nursery, tools=tools)
    started = await proxy({"main": server.url}, "--tools", "lazy", "--no-management")

    with trio.fail_after(60):
        for era in ERAS:
            async with http_client(started.url, era) as client:
                assert await client.names() == ["tool_search", "tool_schema", "tool_call"]
                found = await client.call("tool_search", query="repeat my words")
                assert found.structured_content["tools"][0]["name"] == "main__echo"
                inner = {"name": "main__echo", "arguments": {"text": "x"}}
                assert (await client.sdk.call_tool("tool_call", inner)).content[0].text == "x"


@pytest.mark.case("B-18")
async def test_a_name_that_a_server_gives_twice_is_listed_once(proxy: StartProxy, nursery: trio.Nursery):
    server = await raw_server(nursery, tools=[{**ECHO, "description": "first"}, {**ECHO, "description": "second"}])
    started = await proxy({"main": server.url})

    with trio.fail_after(60):
        async with wire(started.url, MODERN) as client:
            assert [tool["description"] for tool in (await client.tools())[len(TOOL_NAMES) :]] == ["first"]


async def test_the_order_is_the_configured_one_and_the_servers_own_every_time(proxy: StartProxy, nursery: trio.Nursery):
    names = ["zeta", "alpha", "Mid", "beta"]
    servers = {name: (await raw_server(nursery, tools=named(*names))).url for name in ("z", "a", "m")}
    started = await proxy(servers)
    expected = [*TOOL_NAMES, *(f"{server}__{name}" for server in ("z", "a", "m") for name in names)]

    with trio.fail_after(60):
        for era in (*ERAS, *ERAS):
            async with http_client(started.url, era) as client:
                assert await client.names() == expected


@pytest.mark.parametrize("server_pages", [0, 3])
async def test_pages_have_the_configured_size_and_lose_and_repeat_nothing(
    proxy: StartProxy, nursery: trio.Nursery, server_pages: int
):
    names = [f"tool_{number}" for number in range(7)]
    one = await raw_server(nursery, tools=named(*names), page_size=server_pages)
    two = await raw_server(nursery, tools=named(*names), page_size=server_pages)
    started = await proxy({"one": one.url, "two": two.url}, "--page-size", "4")

    with trio.fail_after(60):
        for revision in schemas.REVISIONS:
            async with wire(started.url, revision) as client:
                await client.open()
                assert len((await client.request("tools/list")).result["tools"]) == 4
                everything = [tool["name"] for tool in await client.tools()]
                assert everything == [
                    *TOOL_NAMES,
                    *(f"{server}__{name}" for server in ("one", "two") for name in names),
                ]


async def test_without_a_page_size_everything_is_on_one_page(proxy: StartProxy, nursery: trio.Nursery):
    names = [f"tool_{number}" for number in range(250)]
    server = await raw_server(nursery, tools=named(*names), page_size=100)
    started = await proxy({"main": server.url})

    with trio.fail_after(60):
        for revision in schemas.REVISIONS:
            async with wire(started.url, revision) as client:
                await client.open()
                page = (await client.request("tools/list")).result
                assert len(page["tools"]) == len(TOOL_NAMES) + 250
                assert "nextCursor" not in page


@pytest.mark.case("A-30")
async def test_a_cursor_we_never_gave_is_refused(proxy: StartProxy, nursery: trio.Nursery):
    server = await raw_server(nursery, tools=named("a", "b", "c"))
    started = await proxy({"main": server.url}, "--page-size", "2")

    with trio.fail_after(60):
        async with wire(started.url, MODERN) as client:
            for cursor in ("nonsense", "0", "\u0000", "x" * 100_000):
                assert (await client.request("tools/list", {"cursor": cursor})).error["code"] == -32602


@pytest.mark.parametrize("server_era", ERAS)
async def test_every_field_of_a_tool_is_kept_as_the_server_sent_it(
    proxy: StartProxy, nursery: trio.Nursery, server_era: str
):
    plain = await raw_server(nursery, era=server_era, tools=[RICH])
    pretty = await raw_server(nursery, era=server_era, tools=[RICH], pretty=True)
    started = await proxy({"plain": plain.url, "pretty": pretty.url})

    with trio.fail_after(60):
        for revision in schemas.REVISIONS:
            async with wire(started.url, revision) as client:
                await client.open()
                assert (await client.tools())[len(TOOL_NAMES) :] == [
                    {**RICH, "name": f"{name}__rich"} for name in ("plain", "pretty")
                ]


@pytest.mark.parametrize("server_era", ERAS)
async def test_every_field_of_a_result_is_kept_as_the_server_sent_it(
    proxy: StartProxy, nursery: trio.Nursery, server_era: str
):
    result: Json = {
        "content": [
            {"type": "text", "text": "Grüße\n🦉", "annotations": {"audience": ["user"], "priority": 0.50, "new": None}},
            {"type": "resource_link", "uri": "x:y", "name": "link", "size": 9007199254740993, "_meta": {"a": [None]}},
        ],
        "structuredContent": {"n": 9007199254740993, "f": 1.0, "nothing": None, "ü": "\u2028"},
        "isError": False,
        "x-unknown": {"kept": True},
        "_meta": {"com.example/trace": "abc"},
    }
    server = await raw_server(nursery, era=server_era)
    server.on["tools/call"] = with_result(result)
    started = await proxy({"main": server.url})

    with trio.fail_after(60):
        for revision in ("2025-06-18", "2025-11-25", MODERN):  # the older ones' schemas know no resource links
            async with wire(started.url, revision) as client:
                await client.open()
                received = (await client.call("main__echo", text="x")).result
                received.pop("resultType", None)
                received["_meta"].pop(META + "serverInfo", None)
                assert received == result


@pytest.mark.parametrize("server_era", ERAS)
async def test_every_argument_reaches_the_server_as_the_client_sent_it(
    proxy: StartProxy, nursery: trio.Nursery, server_era: str
):
    arguments: Json = {
        "text": "ü🦉\n",
        "big": 9007199254740993,
        "float": 1.0,
        "none": None,
        "": [],
        "deep": [[{"a": {}}]],
    }
    server = await raw_server(nursery, era=server_era)
    started = await proxy({"main": server.url})

    with trio.fail_after(60):
        for revision in schemas.REVISIONS:
            async with wire(started.url, revision) as client:
                await client.open()
                params = {"name": "main__echo", "arguments": arguments, "x-unknown": [1]}
                await client.request("tools/call", params)

    calls = server.received("tools/call")
    assert len(calls) == len(schemas.REVISIONS)
    for call in calls:
        sent = {name: value for name, value in call.params.items() if name != "_meta"}
        assert sent == {"name": "echo", "arguments": arguments, "x-unknown": [1]}
        assert b'"float":1.0' in call.body.replace(b" ", b"")


async def test_one_bad_tool_does_not_spoil_the_list(proxy: StartProxy, nursery: trio.Nursery):
    tools: list[Any] = [ECHO, {"description": "nameless"}, 7, {**ECHO, "name": "good"}, {"name": 3}]
    server = await raw_server(nursery, tools=tools)
    started = await proxy({"main": server.url})

    with trio.fail_after(60):
        for era in ERAS:
            async with http_client(started.url, era) as client:
                await client.lists(*TOOL_NAMES, "main__echo", "main__good")


async def test_a_call_to_a_tool_that_is_gone_gets_the_servers_own_error(proxy: StartProxy, nursery: trio.Nursery):
    server = await raw_server(nursery)

    async def refuse(_request: Any, reply: Any) -> None:
        await reply.error(-32602, "Unknown tool: echo", 400, data={"why": "gone"})

    server.on["tools/call"] = refuse
    started = await proxy({"main": server.url})

    with trio.fail_after(60):
        async with http_client(started.url, "modern") as client:
            with pytest.raises(MCPError, match="Unknown tool") as refused:
                await client.call("main__echo")
    assert refused.value.code == -32602
