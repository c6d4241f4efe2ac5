"""Clients over WebSocket, on a front of their own."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream

from protocol.limits import LINE_BYTES_MAX
from protocol.versions import Era
from tests.waiting import eventually
from tests.workers.scripted import META, MODERN, Front, running_front
from workers.front import websocket as edge_module

Json = dict[str, Any]
HELLO = b"GET /ws HTTP/1.1\r\nHost: localhost\r\n"
UPGRADE = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"


class Client:
    """A client that says what the test wants; trio-websocket answers pings for it."""

    def __init__(self, websocket: WebSocketConnection) -> None:
        self.websocket = websocket
        self._number = 0

    async def send(self, message: Json) -> None:
        await self.websocket.send_message(json.dumps({"jsonrpc": "2.0", **message}))

    async def request(self, method: str, params: Json | None = None, **meta: Any) -> int:
        self._number += 1
        await self.send({"id": self._number, "method": method, "params": (params or {}) | meta})
        return self._number

    async def receive(self) -> Json:
        return json.loads(await self.websocket.get_message())

    async def answer(self) -> Json:
        """Return the next message that does not just say that lists have changed, which a start alone causes."""
        while (message := await self.receive()).get("method", "").endswith("/list_changed"):
            pass
        return message

    async def ask(self, method: str, params: Json | None = None, **meta: Any) -> Json:
        """Make a request and return the next message."""
        await self.request(method, params, **meta)
        return await self.answer()

    async def initialize(self, version: str = "2025-06-18") -> Json:
        info = {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}}
        result = await self.ask("initialize", info)
        await self.send({"method": "notifications/initialized"})
        return result["result"]

    async def call(self, name: str, **arguments: Any) -> int:
        return await self.request("tools/call", {"name": name, "arguments": arguments})

    async def closed(self) -> int:
        """Wait for the end of the connection; return its code."""
        try:
            while True:
                await self.websocket.get_message()
        except ConnectionClosed as closed:
            return closed.reason.code if closed.reason else 0


def modern(**more: Any) -> Json:
    info = {"name": "c", "version": "1"}
    meta = {META + "protocolVersion": MODERN, META + "clientInfo": info, META + "clientCapabilities": {}}
    return {"_meta": meta, **more}


@asynccontextmanager
async def rig(**settings: Any) -> AsyncIterator[tuple[Front, Client]]:
    with trio.fail_after(60):
        async with running_front(websocket_path="/ws", **settings) as front, trio.open_nursery() as nursery:
            yield front, Client(await connected(front, nursery))
            nursery.cancel_scope.cancel()


async def connected(front: Front, nursery: trio.Nursery, path: str = "/ws", **options: Any) -> WebSocketConnection:
    """Connect a client, which is closed with the front."""
    options = {"subprotocols": ["mcp"], **options}
    stream = await trio.open_tcp_stream("127.0.0.1", front.port)
    front.clients.append(SimpleNamespace(stream=stream))
    return await wrap_client_stream(nursery, stream, "127.0.0.1", path, **options)


# --- both eras ----------------------------------------------------------------------------------------------
async def test_a_legacy_client_has_a_session_as_long_as_its_connection():
    async with rig() as (front, client):
        assert client.websocket.subprotocol == "mcp"
        assert (await client.ask("tools/list"))["error"]["message"].startswith("Initialize first")
        assert (await client.initialize())["protocolVersion"] == "2025-06-18"

        number = await client.call("main__echo", text="grüße")
        call, params = await front.main.call()
        assert (call.era, params["arguments"]) == (Era.LEGACY, {"text": "grüße"})
        front.main.answer(call, {"content": []})
        assert await client.answer() == {"jsonrpc": "2.0", "id": number, "result": {"content": []}}

        front.worker._sessions.broadcast(b'{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}')
        assert (await client.receive())["method"] == "notifications/tools/list_changed"


async def test_a_modern_client_needs_no_session():
    async with rig() as (front, client):
        number = await client.request("tools/call", modern(name="main__echo", arguments={}))
        call, _ = await front.main.call()
        assert call.era is Era.MODERN
        front.main.answer(call, {"content": [], "resultType": "complete"})
        assert (await client.answer())["id"] == number


async def test_requests_are_answered_side_by_side_and_can_be_cancelled():
    async with rig() as (front, client):
        await client.initialize()
        first, second = await client.call("main__echo"), await client.call("main__echo")
        slow, _ = await front.main.call()
        quick, _ = await front.main.call()
        front.main.answer(quick, {"content": []})
        assert (await client.answer())["id"] == second

        await client.send({"method": "notifications/cancelled", "params": {"requestId": first}})

        async def cancelled() -> bool:
            return any(getattr(frame, "id", 0) == slow.id for frame in front.main.frames)

        await eventually(cancelled, "the server's worker hears of it")


async def test_a_message_that_is_none_is_told_so_and_harms_nothing():
    async with rig() as (_, client):
        await client.websocket.send_message("no JSON")
        assert (await client.answer())["error"]["code"] == -32700
        await client.websocket.send_message("[]")
        assert (await client.answer())["error"]["code"] == -32600
        assert (await client.initialize())["serverInfo"]["name"] == "mcp-bulkhead"


# --- the end ------------------------------------------------------------------------------------------------
async def test_calls_of_a_client_that_leaves_are_cancelled():
    async with rig() as (front, client):
        await client.initialize()
        await client.call("main__echo")
        call, _ = await front.main.call()
        await client.websocket.aclose()

        async def cancelled() -> bool:
            return any(getattr(frame, "id", 0) == call.id for frame in front.main.frames)

        async def gone() -> bool:
            return front.connections == 0

        await eventually(cancelled, "the server's worker hears of it")
        await eventually(gone, "the connection is closed")


async def test_a_front_that_leaves_finishes_what_it_has_and_says_so():
    async with rig() as (front, client):
        await client.initialize()
        await client.call("main__echo")
        call, _ = await front.main.call()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(front.worker.drain, 5.0)
            await front.main.frame_round_trip()
            front.main.answer(call, {"content": []})
            assert "result" in await client.answer()
            assert await client.closed() == 1001


# --- who may come in ----------------------------------------------------------------------------------------
async def status_of(front: Front, head: bytes) -> int:
    async with await trio.open_tcp_stream("127.0.0.1", front.port) as stream:
        await stream.send_all(head)
        return int((await stream.receive_some(4096)).split(b" ")[1])


@pytest.mark.case("D-32")
async def test_without_a_path_for_it_there_is_no_websocket():
    with trio.fail_after(60):
        async with running_front() as front:
            assert await status_of(front, HELLO + UPGRADE + KEY + b"\r\n") == 404
            assert await status_of(front, HELLO.replace(b"/ws", b"/mcp") + UPGRADE + KEY + b"\r\n") == 400


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (HELLO + b"\r\n", 400),
        (HELLO + UPGRADE + b"\r\n", 400),
        (HELLO + UPGRADE.replace(b"13", b"8") + KEY + b"\r\n", 426),
        (HELLO.replace(b"localhost", b"evil.example") + UPGRADE + KEY + b"\r\n", 421),
        (HELLO.replace(b"GET", b"POST") + UPGRADE + KEY + b"Content-Length: 0\r\n\r\n", 405),
        (HELLO + UPGRADE + KEY + b"\r\n", 101),
        (HELLO + UPGRADE + KEY + b"Origin: https://evil.example\r\n\r\n", 403),
        (HELLO + UPGRADE + KEY + b"Origin: http://localhost:3000\r\n\r\n", 101),
    ],
    ids=["no upgrade", "no key", "old version", "foreign host", "POST", "all of it", "other page", "own page"],
)
async def test_a_handshake_is_checked(head: bytes, status: int):
    async with rig() as (front, _):
        assert await status_of(front, head) == status


# --- rules --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("bad", "code"),
    [(b"\x82\x80\0\0\0\0", 1003), (b"\x81\x01x", 1002), (b"\x81\x81\0\0\0\0\xff", 1007), (b"\x83\x80\0\0\0\0", 1002)],
    ids=["binary", "unmasked", "no UTF-8", "unknown"],
)
async def test_who_breaks_the_rules_is_told_so_and_let_go(bad: bytes, code: int):
    async with rig() as (front, client):
        await client.websocket._stream.send_all(bad)
        assert await client.closed() == code

        async def gone() -> bool:
            return front.connections == 0

        await eventually(gone, "the connection is closed")


async def test_a_message_may_be_as_long_as_a_line_and_no_longer():
    async with rig() as (_, client):
        padding = "x" * (LINE_BYTES_MAX - 100)
        assert "error" in await client.ask("nonsense", {"pad": padding})
        await client.websocket.send_message("x" * (LINE_BYTES_MAX + 1))
        assert await client.closed() == 1009


async def test_who_has_too_many_answers_to_get_is_not_read_from(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(edge_module, "WEBSOCKET_REQUESTS_MAX", 3)
    async with rig() as (front, client), trio.open_nursery() as nursery:
        await client.initialize()
        other = Client(await connected(front, nursery))
        for _ in range(3):
            await client.call("main__echo")
        calls = [(await front.main.call())[0] for _ in range(3)]

        await client.call("main__echo")
        await other.initialize()  # was sent later, and has been served
        assert front.main.calls == []

        front.main.answer(calls[0], {"content": []})
        await client.answer()
        await front.main.call()
        nursery.cancel_scope.cancel()


async def test_a_client_that_answers_no_ping_is_gone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(edge_module, "WEBSOCKET_PING_S", 0.1)
    monkeypatch.setattr(edge_module, "WEBSOCKET_PONG_S", 0.1)
    monkeypatch.setattr("workers.front.doors.CONNECTION_SWEEP_S", 0.05)
    with trio.fail_after(60):
        async with running_front(websocket_path="/ws") as front:
            stream = await trio.open_tcp_stream("127.0.0.1", front.port)
            await stream.send_all(HELLO + UPGRADE + KEY + b"\r\n")
            heard = b"".join([data async for data in stream])
            await stream.aclose()
            assert heard.endswith(b"\x89\x00")  # a ping, and no word of goodbye


async def test_a_client_that_never_says_anything_is_let_go(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(edge_module, "KEEP_ALIVE_IDLE_S", 0.1)
    monkeypatch.setattr("workers.front.doors.CONNECTION_SWEEP_S", 0.05)
    async with rig() as (_, client):
        assert await client.closed() == 1008
