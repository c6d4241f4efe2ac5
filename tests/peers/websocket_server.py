"""A server that speaks MCP over WebSocket as a test tells it to; made with trio-websocket, in the test's own process.

By default it is a polite server of one era with one tool, that echoes:

    peer = await nursery.start(WebSocketPeer(era="legacy").serve)
    peer.on["tools/call"] = never

A handler is an async function of the connection and the message. What no library would send goes out through
`Wire.raw`, and a server that is no WebSocket at all is `raw_peer`.
"""

from __future__ import annotations

import contextlib
import json
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

from tests.waiting import eventually

Json = dict[str, Any]
MODERN = "2026-07-28"
TOOLS = [{"name": "echo", "inputSchema": {"type": "object", "properties": {"text": {"type": "string"}}}}]
MESSAGE_BYTES_MAX = 64 * 1024 * 1024


@dataclass
class Wire:
    """One connection to a peer."""

    peer: Peer
    number: int
    """Counted from 1."""

    async def text(self, text: str | bytes) -> None:
        """Send this as one message."""
        raise NotImplementedError

    async def hang_up(self) -> None:
        """End the connection without a word."""
        raise NotImplementedError

    async def say(self, message: Json) -> None:
        await self.text(json.dumps({"jsonrpc": "2.0", **message}))

    async def result(self, request: Json, result: Json) -> None:
        if self.peer.era == "modern":
            result = {"resultType": "complete", **result}
        await self.say({"id": request["id"], "result": result})

    async def error(self, request: Json, code: int, text: str) -> None:
        await self.say({"id": request["id"], "error": {"code": code, "message": text}})

    async def echo(self, request: Json) -> None:
        text = request["params"].get("arguments", {}).get("text", "")
        await self.result(request, {"content": [{"type": "text", "text": text}]})


@dataclass
class WebSocketWire(Wire):
    """One WebSocket. Bytes as `text` make a binary frame."""

    websocket: WebSocketConnection

    async def text(self, text: str | bytes) -> None:
        await self.websocket.send_message(text)

    async def raw(self, data: bytes) -> None:
        """Send these bytes and no others."""
        await self.websocket._stream.send_all(data)

    async def close(self, code: int, reason: str = "") -> None:
        """End the connection as one should, also if reading from it has just ended with it."""
        with trio.move_on_after(2, shield=True):
            await self.websocket.aclose(code, reason)

    async def hang_up(self) -> None:
        await self.websocket._stream.aclose()


Handler = Callable[[Any, Json], Awaitable[None]]


@dataclass
class Peer:
    """What scriptable servers have in common. Fields may be changed at any time."""

    era: str = "legacy"
    on: dict[str, Handler] = field(default_factory=dict)
    """By method, "" for responses; in place of what it would do."""
    received: list[Json] = field(default_factory=list)
    port: int = 0

    def of(self, method: str) -> list[Json]:
        """Return what was received of one method."""
        return [message for message in self.received if message.get("method", "") == method]

    async def has(self, method: str, count: int = 1) -> list[Json]:
        """Wait until so many messages of a method have come."""

        async def look() -> list[Json] | None:
            found = self.of(method)
            return found if len(found) >= count else None

        return await eventually(look, f"{count} of {method or 'responses'}")

    async def take(self, wire: Wire, message: Json) -> None:
        """Do what is to be done with a message."""
        self.received.append(message)
        method = message.get("method", "")
        if handler := self.on.get(method):
            await handler(wire, message)
        elif "id" in message and method:
            await self._polite(wire, message, method)

    async def _polite(self, wire: Wire, message: Json, method: str) -> None:
        info = {"serverInfo": {"name": "peer", "version": "1"}, "capabilities": {"tools": {"listChanged": True}}}
        if method == "server/discover" and self.era == "modern":
            await wire.result(message, {"supportedVersions": [MODERN], **info})
        elif method == "initialize" and self.era == "legacy":
            await wire.result(message, {"protocolVersion": "2024-11-05", **info})
        elif method == "tools/list":
            await wire.result(message, {"tools": TOOLS, "ttlMs": 0, "cacheScope": "private"})
        elif method == "tools/call":
            await wire.echo(message)
        elif method == "ping":
            await wire.result(message, {})
        else:
            await wire.error(message, -32601, "unknown method")


@dataclass
class WebSocketPeer(Peer):
    """A scriptable server over WebSocket."""

    asked_for: list[list[str]] = field(default_factory=list)
    """The subprotocols that each connection has offered."""
    headers: list[dict[str, str]] = field(default_factory=list)
    """Of each handshake, names in lower case."""
    wires: list[WebSocketWire] = field(default_factory=list)
    """Connections so far."""
    tls: ssl.SSLContext | None = None

    @property
    def url(self) -> str:
        return f"{'wss' if self.tls else 'ws'}://127.0.0.1:{self.port}/mcp"

    async def serve(self, task_status: trio.TaskStatus[WebSocketPeer] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            serve = partial(
                serve_websocket, self._accept, "127.0.0.1", self.port, self.tls, max_message_size=MESSAGE_BYTES_MAX,
                message_queue_size=1000, handler_nursery=nursery,
            )  # fmt: skip
            server = await nursery.start(serve)
            self.port = server.port
            task_status.started(self)

    async def _accept(self, request: WebSocketRequest) -> None:
        offered = list(request.proposed_subprotocols)
        self.asked_for.append(offered)
        self.headers.append({bytes(name).decode(): bytes(value).decode() for name, value in request.headers})
        websocket = await request.accept(subprotocol="mcp" if "mcp" in offered else None)
        wire = WebSocketWire(self, len(self.wires) + 1, websocket)
        self.wires.append(wire)
        try:
            async with trio.open_nursery() as nursery:
                while True:
                    nursery.start_soon(self.take, wire, json.loads(await websocket.get_message()))
        except* (ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError):
            pass


async def never(wire: Wire, message: Json) -> None:
    """Give no answer."""


async def raw_peer(
    converse: Callable[[trio.SocketStream], Awaitable[None]],
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Listen, and have each connection served so; the URL is told when it does."""

    async def handler(stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await converse(stream)

    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    task_status.started(f"ws://127.0.0.1:{listener.socket.getsockname()[1]}/mcp")
    await trio.serve_listeners(handler, [listener])
