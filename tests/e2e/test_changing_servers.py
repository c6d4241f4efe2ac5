"""Servers whose tools change under their clients, and tools whose schemas are made to hurt whoever reads them."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio

from protocol.limits import BODY_BYTES_MAX
from tests.conftest import StartProxy
from tests.peers.raw_server import ECHO, RawServer, Reply, Request
from tests.peers.wire import MODERN, Wire, wire

LEGACY = "2025-11-25"
GONE = ECHO | {"name": "gone"}
STRICTER = ECHO | {"inputSchema": {"type": "object", "properties": {"text": {"type": "string", "maxLength": 3}}}}
CHANGED = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}


async def changing(request: Request, reply: Reply) -> None:
    """What a server does with calls once it has changed; it says so on the first stream it gets."""
    if request.params["name"] == "gone":
        await reply.error(-32602, "Unknown tool: gone")
    elif len(request.params["arguments"]["text"]) > 3:
        await reply.error(-32602, "text: at most 3 characters")
    else:
        await reply.start_events()
        await reply.event(CHANGED)
        await reply.event({"jsonrpc": "2.0", "id": request.message["id"], "result": {"content": []}})
        await reply.end_events()


async def told_of_change(client: Wire, port: int, listening: trio.Event) -> None:
    """Return when the client's own stream says that the list has changed."""
    headers = client.headers({}) | {"Host": "127.0.0.1", "Accept": "text/event-stream"}
    lines = ["GET /mcp HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    received = b""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all("\r\n".join(lines).encode())
        while CHANGED["method"].encode() not in received:
            data = await stream.receive_some()
            assert data, received
            received += data
            if b"HTTP/1.1 200 OK" in received:
                listening.set()


@pytest.mark.case("B-17")
async def test_a_tool_that_changes_between_list_and_call_gets_the_servers_own_answer_and_clients_are_told(
    proxy: StartProxy, nursery: trio.Nursery
):
    server = await nursery.start(RawServer(era="legacy", tools=[ECHO, GONE]).serve)
    started = await proxy({"main": server.url}, "--no-management")
    with trio.fail_after(60):
        async with wire(started.url, LEGACY) as client, wire(started.url, MODERN) as other:
            await client.open()
            await other.open()
            for each in (client, other):
                assert [tool["name"] for tool in await each.tools()] == ["main__echo", "main__gone"]
            server.tools = [STRICTER]
            server.on["tools/call"] = changing

            for each in (client, other):
                error = (await each.call("main__gone", text="x")).error
                assert (error["code"], error["message"]) == (-32602, "Unknown tool: gone")
                error = (await each.call("main__echo", text="too long")).error
                assert (error["code"], error["message"]) == (-32602, "text: at most 3 characters")

            listening = trio.Event()
            async with trio.open_nursery() as streams:
                streams.start_soon(told_of_change, client, started.port, listening)
                await listening.wait()
                assert (await other.call("main__echo", text="x")).result["content"] == []
            for each in (client, other):
                (tool,) = await each.tools()
                assert tool["inputSchema"] == STRICTER["inputSchema"]


def hostile_schemas(host: str) -> dict[str, Any]:
    """Return schemas that cost whoever evaluates them, by what they do."""
    chain = {f"d{number}": {"$ref": f"#/$defs/d{number + 1}"} for number in range(10_000)}
    return {
        "many": {"anyOf": [{"required": [f"key{number}"]} for number in range(10_000)]},
        "chain": {"$ref": "#/$defs/d0", "$defs": {**chain, "d10000": {"type": "object"}}},
        "itself": {"$ref": "#"},
        "remote": {"$ref": f"http://{host}/schema.json", "$schema": f"http://{host}/meta.json", "$id": f"//{host}"},
        "local": {"$ref": "file:///etc/passwd", "properties": {"text": {"$ref": "../../secrets.json"}}},
        "regex": {"properties": {"text": {"type": "string", "pattern": "^(a+)+$"}}},
        "exponential": {"allOf": [{"anyOf": [{"allOf": [{"pattern": "(.*)*x"}] * 30}] * 30}] * 3},
    }


@pytest.mark.case("B-19", "D-18")
async def test_no_schema_is_evaluated_or_fetched_whatever_it_says(proxy: StartProxy, nursery: trio.Nursery):
    fetched: list[bytes] = []

    async def note(stream: trio.SocketStream) -> None:
        fetched.append(await stream.receive_some())

    listeners = await nursery.start(trio.serve_tcp, note, 0)
    host = f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"
    schemas = hostile_schemas(host)
    tools = [ECHO | {"name": name, "inputSchema": {"type": "object", **rest}} for name, rest in schemas.items()]
    tools += [tool | {"name": f"{tool['name']}_out", "outputSchema": tool["inputSchema"]} for tool in tools]
    assert len(json.dumps(tools)) < BODY_BYTES_MAX
    server = await nursery.start(RawServer(tools=tools).serve)
    started = await proxy({"main": server.url})

    with trio.fail_after(30):
        async with wire(started.url, MODERN) as client:
            await client.open()
            listed = await client.request("tools/list")
            cpu = time_of(started)
            listed = await client.request("tools/list")
            for tool in tools:
                answer = await client.call(f"main__{tool['name']}", text="a" * 60)
                assert answer.result["content"]
            spent_s = time_of(started) - cpu

    found = {tool["name"].removeprefix("main__"): tool for tool in listed.result["tools"]}
    for tool in tools:
        assert found[tool["name"]]["inputSchema"] == tool["inputSchema"]
        assert found[tool["name"]].get("outputSchema") == tool.get("outputSchema")
    assert fetched == []
    assert spent_s < 1.0


def time_of(started: Any) -> float:
    """Return the CPU seconds that the proxy has used so far."""
    return sum(sum(process.cpu_times()[:2]) for process in started.family())
