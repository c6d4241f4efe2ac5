"""A server of the official SDK over Streamable HTTP: the independent peer behind the proxy in end-to-end tests.

    python -m tests.peers.sdk_server --port 8000 --era dual --name main --tools 3

It is told its name, and says it in `whoami`, so that a test can tell by content which server has answered. Of an era it
does not speak it knows as little as a server deployed before, or written after, that era.
"""

from __future__ import annotations

import argparse
import json
import os
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.shared.exceptions import MCPDeprecationWarning
from mcp.types.version import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS
from pydantic import BaseModel

VERSION_KEY = "io.modelcontextprotocol/protocolVersion"
UNSUPPORTED_VERSION = -32022
SERVER_ERROR = -32000

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


class Weather(BaseModel):
    """A result with a schema of its own."""

    city: str
    celsius: float
    winds: list[str]


def build(name: str, extra_tools: int) -> MCPServer:
    server = MCPServer(name, version="1.0.0", instructions=f"I am {name}.", log_level="CRITICAL")

    @server.tool(structured_output=False)
    def echo(text: str) -> str:
        """Gives back its argument."""
        return text

    @server.tool(structured_output=False)
    def whoami() -> str:
        """Tells the name of this server."""
        return name

    @server.tool(structured_output=False)
    async def slow(seconds: float, ctx: Context[Any]) -> str:
        """Takes its time; reports progress at ten steps, logs at the first and at the last."""
        await ctx.info(f"{name} starts")
        for step in range(1, 11):
            await anyio.sleep(seconds / 10)
            await ctx.report_progress(step, 10, f"step {step}")
        await ctx.info(f"{name} is done")
        return f"{name} slept"

    @server.tool(structured_output=False)
    def big(size: int) -> str:
        """Answers with so many characters."""
        return "x" * size

    @server.tool(structured_output=False)
    def fail() -> str:
        """Fails, as a tool may."""
        raise ToolError("this tool always fails")

    @server.tool()
    def structured(city: str) -> Weather:
        """Answers with structured content."""
        return Weather(city=city, celsius=-1.5, winds=["NW", "Föhn"])

    @server.tool(structured_output=False)
    def crash() -> str:
        """Takes the whole process down in the middle of the call."""
        os._exit(3)

    for number in range(extra_tools):
        server.add_tool(lambda: "extra", name=f"extra_{number:03}", description=f"Extra tool number {number}")
    return server


class OneEra:
    """Refuses the other era before the SDK, which always speaks both, gets to see it."""

    def __init__(self, app: Any, era: str) -> None:
        self.app = app
        self.era = era

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        header = dict(scope["headers"]).get(b"mcp-protocol-version", b"").decode("latin-1")
        body = await read_all(receive)
        refusal = self.refusal(scope["method"], header, body)
        if refusal is None:
            await self.app(scope, replay(body, receive), send)
            return
        status, error = refusal
        await respond(send, status, error and {"jsonrpc": "2.0", "id": None, "error": error})

    def refusal(self, method: str, header: str, body: bytes) -> tuple[int, dict[str, Any] | None] | None:
        if self.era == "modern":
            if method != "POST":
                return 405, None
            if header in MODERN_PROTOCOL_VERSIONS:
                return None
            data = {"supported": list(MODERN_PROTOCOL_VERSIONS), "requested": header}
            return 400, {"code": UNSUPPORTED_VERSION, "message": "Unsupported protocol version", "data": data}
        if (header in HANDSHAKE_PROTOCOL_VERSIONS or not header) and VERSION_KEY.encode() not in body:
            return None
        return 400, {"code": SERVER_ERROR, "message": f"Bad Request: Unsupported protocol version: {header}"}


async def read_all(receive: Receive) -> bytes:
    body = b""
    while True:
        event = await receive()
        if event["type"] != "http.request":
            return body
        body += event.get("body", b"")
        if not event.get("more_body", False):
            return body


def replay(body: bytes, receive: Receive) -> Receive:
    pending = [body]

    async def again() -> Any:
        if pending:
            return {"type": "http.request", "body": pending.pop(), "more_body": False}
        return await receive()

    return again


async def respond(send: Send, status: int, message: dict[str, Any] | None) -> None:
    body = json.dumps(message).encode() if message else b""
    headers = [(b"content-type", b"application/json")] if message else [(b"allow", b"POST")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def main() -> None:
    warnings.filterwarnings("ignore", category=MCPDeprecationWarning)
    parser = argparse.ArgumentParser(description="A server of the official SDK, for tests.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--era", choices=["dual", "legacy", "modern"], default="dual")
    parser.add_argument("--name", default="main")
    parser.add_argument("--tools", type=int, default=0, help="so many tools more than the usual ones")
    arguments = parser.parse_args()
    app = build(arguments.name, arguments.tools).streamable_http_app(host="127.0.0.1")
    if arguments.era != "dual":
        app = OneEra(app, arguments.era)
    uvicorn.run(app, host="127.0.0.1", port=arguments.port, log_level="error", timeout_graceful_shutdown=1)


if __name__ == "__main__":
    main()
