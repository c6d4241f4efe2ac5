"""The peers, before anything is put between them: what fails here is no fault of the proxy."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
import trio
from mcp import MCPError
from mcp.types import JSONRPCNotification

from tests import schemas
from tests.peers.clients import ERAS, NEWEST, http_client, legacy_client
from tests.peers.raw_server import ECHO, RawServer, hang_up, hang_up_half_way, never, with_events, with_id
from tests.peers.received import Received
from tests.peers.tapped import Tapped
from tests.peers.wire import META, MODERN, wire


@pytest.mark.parametrize(
    ("era", "kind"), [("legacy", "dual"), ("modern", "dual"), ("legacy", "legacy"), ("modern", "modern")]
)
async def test_sdk_client_and_sdk_server_understand_each_other(sdk_servers: dict[str, str], era: str, kind: str):
    with trio.fail_after(60):
        async with http_client(sdk_servers[kind], era) as client:
            assert client.sdk.protocol_version == NEWEST[era]
            assert await client.names() == ["echo", "whoami", "slow", "big", "fail", "structured", "crash"]
            assert await client.text("echo", text="grüße 🦉") == "grüße 🦉"
            assert await client.text("whoami") == kind
            assert len(await client.text("big", size=2_000_000)) == 2_000_000
            assert (await client.call("fail")).is_error
            assert (await client.call("structured", city="Ulm")).structured_content == {
                "city": "Ulm",
                "celsius": -1.5,
                "winds": ["NW", "Föhn"],
            }
            await client.watch("slow", seconds=0.1)
            assert [progress for progress, _, _ in client.progressed] == list(range(1, 11))
            assert [message.data for message in client.logged] == [f"{kind} starts", f"{kind} is done"]


@pytest.mark.parametrize("era", ERAS)
async def test_sdk_server_of_one_era_refuses_the_other(sdk_servers: dict[str, str], era: str):
    other = "modern" if era == "legacy" else "legacy"

    with trio.fail_after(60), pytest.raises((MCPError, BaseExceptionGroup)):
        async with http_client(sdk_servers[other], era) as client:
            await client.names()


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    "habits",
    [
        {},
        {"pretty": True},
        {"events": True},
        {"events": True, "pretty": True},
        {"chunk_bytes": 3},
        {"close_each": True},
    ],
    ids=lambda habits: "-".join(habits) or "plain",
)
async def test_raw_server_is_understood_whatever_its_habits(nursery: trio.Nursery, era: str, habits: dict[str, Any]):
    server = await nursery.start(RawServer(**habits, sessions=not habits.get("close_each")).serve)

    with trio.fail_after(60):
        async with http_client(server.url, era) as client:
            assert await client.names() == ["echo"]
            assert await client.text("echo", text="zwölf\n🦉") == "zwölf\n🦉"

    assert [request.method for request in server.received("tools/call")] == ["tools/call"]


@pytest.mark.parametrize("era", ERAS)
async def test_raw_server_gives_its_list_in_pages(nursery: trio.Nursery, era: str):
    tools = [{**ECHO, "name": f"tool_{number}"} for number in range(5)]
    server = await nursery.start(RawServer(tools=tools, page_size=2).serve)

    with trio.fail_after(60):
        async with http_client(server.url, era) as client:
            assert await client.names() == [tool["name"] for tool in tools]

    assert len(server.received("tools/list")) == 3


async def test_raw_server_forgets_sessions(nursery: trio.Nursery):
    server = await nursery.start(RawServer(era="legacy").serve)

    with trio.fail_after(60):
        async with legacy_client(server.url) as client:
            await client.names()
            server.forget_sessions()
            with pytest.raises(MCPError):
                await client.names()


async def test_raw_server_sends_notifications_before_a_result(nursery: trio.Nursery):
    server = await nursery.start(RawServer().serve)
    log = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "now"}}
    server.on["tools/call"] = with_events([log], {"content": []})

    with trio.fail_after(60):
        async with legacy_client(server.url) as client:
            assert (await client.call("echo", text="x")).content == []
            assert [message.data for message in client.logged] == ["now"]


async def test_raw_server_misbehaves_when_told_to(nursery: trio.Nursery):
    server = await nursery.start(RawServer().serve)
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}

    async with httpx.AsyncClient(timeout=0.2) as http:
        with trio.fail_after(60):
            server.on["ping"] = with_id("unheard of")
            assert (await http.post(server.url, json=ping)).json()["id"] == "unheard of"
            for answer in (hang_up, hang_up_half_way):
                server.on["ping"] = answer
                with pytest.raises(httpx.RemoteProtocolError):
                    await http.post(server.url, json=ping)
            server.on["ping"] = never
            with pytest.raises(httpx.ReadTimeout):
                await http.post(server.url, json=ping)
    with trio.fail_after(60):
        for connection in range(1, server.connections + 1):
            await server.wait_until_closed(connection)
    assert server.connections >= 3


@pytest.mark.parametrize("revision", schemas.REVISIONS)
async def test_wire_client_and_sdk_server_understand_each_other(sdk_servers: dict[str, str], revision: str):
    with trio.fail_after(60):
        async with wire(sdk_servers["dual"], revision, log_level="info") as client:
            opened = await client.open()
            assert (opened.result.get("protocolVersion") or opened.result["supportedVersions"][0]) == revision
            assert "echo" in [tool["name"] for tool in await client.tools()]
            assert (await client.call("echo", text="Ω")).result["content"][0]["text"] == "Ω"
            answer = await client.call("slow", seconds=0.1, progress_token="t")
            assert answer.is_stream
            methods = [message["method"] for message in answer.notifications]
            assert methods.count("notifications/progress") == 10
            assert methods.count("notifications/message") == 2


def test_messages_that_break_the_schema_of_their_revision_are_found():
    received = Received()
    envelope = {META + "protocolVersion": MODERN, META + "clientCapabilities": {}}
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "echo"}}
    received.look(json.dumps(call))
    received.look(json.dumps(call | {"params": {"name": "echo", "_meta": envelope}}))
    received.look(json.dumps({"jsonrpc": "2.0", "id": 1, "result": {}}))
    assert (received.seen, received.faults) == (3, [])
    received.look(json.dumps(call | {"params": {}}))
    received.look(json.dumps(call | {"params": {"name": "echo", "_meta": {META + "protocolVersion": MODERN}}}))
    assert len(received.faults) == 2

    tapped = Tapped(None, MODERN)
    for level in ("info", "loud"):
        params = {"level": level, "data": 1}
        tapped.received(JSONRPCNotification(jsonrpc="2.0", method="notifications/message", params=params))
    assert (tapped.seen, len(tapped.faults)) == (2, 1)
