"""Pages of tools (MCP Apps) through the front: whose page it is, who sees which tools, and what pages call."""

from __future__ import annotations

import pytest

from protocol import link
from protocol.abilities import UI, UI_EXTENSION, UI_MIME_TYPE
from protocol.errors import INVALID_PARAMS
from tests.workers.scripted import META, Client, Front, Json, envelope, post, running_front

DECLARED = {META + "clientCapabilities": {"extensions": {UI_EXTENSION: {"mimeTypes": [UI_MIME_TYPE]}}}}
SHOWN: Json = {"name": "show", "inputSchema": {}, "_meta": {"ui": {"resourceUri": "ui://board/main.html"}}}
REFRESH: Json = {"name": "refresh", "inputSchema": {}, "_meta": {"ui": {"visibility": ["app"]}}}


def prepare(front: Front) -> None:
    for server in front.servers.values():
        server.tools = [SHOWN, REFRESH]
        server.offers = ["tools", "resources", f"extensions.{UI_EXTENSION}"]
        server.state("ready")


async def tools(client: Client, **meta: Json) -> dict[str, Json]:
    await client.modern("tools/list", **meta)
    return {tool["name"]: tool for tool in (await client.answer()).json["result"]["tools"]}


async def test_each_tool_leads_to_the_page_of_its_own_server():
    async with running_front("main", "other") as front:
        prepare(front)
        client = await front.client()
        listed = await tools(client, **DECLARED)
        for name, server in front.servers.items():
            uri = listed[f"{name}__show"]["_meta"]["ui"]["resourceUri"]
            assert uri == f"ui://mcp-bulkhead.{name}/board/main.html"
            await client.modern("resources/read", {"uri": uri}, **DECLARED)
            header, params = await server.call()
            assert params == {"uri": "ui://board/main.html"}
            contents = [{"uri": "ui://board/main.html", "mimeType": UI_MIME_TYPE, "text": name}]
            server.answer(header, {"contents": contents})
            assert (await client.answer()).json["result"]["contents"] == contents


async def test_a_single_server_keeps_the_uris_of_its_pages():
    async with running_front("main") as front:
        prepare(front)
        listed = await tools(await front.client(), **DECLARED)
        assert listed["main__show"]["_meta"] == SHOWN["_meta"]


async def test_tools_that_only_pages_may_call_are_listed_to_clients_that_show_pages():
    async with running_front("main") as front:
        prepare(front)
        client = await front.client()
        assert set(await tools(client, **DECLARED)) == {"main__show", "main__refresh"}
        assert set(await tools(client)) == {"main__show"}
        assert set(await tools(client)) == {"main__show"}


async def test_a_page_calls_tools_of_its_server_by_the_names_that_the_server_gave_them():
    async with running_front("main", "other") as front:
        prepare(front)
        front.servers["other"].tools = [SHOWN]
        client = await front.client()
        await client.modern_call("refresh", **DECLARED)  # also if the front has not listed anything yet
        header, params = await front.main.call()
        assert (header.name, params["name"], header.abilities) == ("refresh", "refresh", UI)
        front.main.answer(header, {"content": []})
        await client.answer()
        await client.modern_call("refresh", **DECLARED)
        front.main.answer((await front.main.call())[0], {"content": []})
        await client.answer()
        for name, meta in (("show", DECLARED), ("refresh", {})):  # two have it; the client shows no pages
            await client.modern_call(name, **meta)
            assert (await client.answer()).json["error"]["code"] == INVALID_PARAMS
        assert front.main.calls == front.servers["other"].calls == []


@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_the_extension_is_offered_to_clients_of_both_eras_where_a_server_has_it(era: str):
    async with running_front("main", "other") as front:
        prepare(front)
        front.servers["other"].offers = ["tools"]
        front.servers["other"].state("ready")
        await front.main.frame_round_trip()
        client = await front.client()
        if era == "legacy":
            answer = await client.initialize()
        else:
            await client.modern("server/discover")
            answer = await client.answer()
        assert answer.json["result"]["capabilities"]["extensions"] == {UI_EXTENSION: {}}


async def test_a_call_declares_to_its_server_what_its_own_client_has_declared():
    async with running_front("main") as front:
        prepare(front)
        capabilities = DECLARED[META + "clientCapabilities"]
        legacy, other = await front.client(), await front.client("2025-11-25")
        await legacy.send(_initialize(capabilities))
        answer = await legacy.answer()
        legacy.session, legacy.version = answer.headers["mcp-session-id"], "2025-11-25"
        for client, abilities in ((legacy, UI), (other, 0)):
            await client.call("main__show")
            header, _ = await front.main.call()
            assert header.abilities == abilities
            front.main.send(link.Result(header.id, header.era), {"content": []})
            await client.answer()


def _initialize(capabilities: Json) -> bytes:
    params = {"protocolVersion": "2025-11-25", "capabilities": capabilities, "clientInfo": {"name": "x", "version": ""}}
    return post(envelope("initialize", params))
