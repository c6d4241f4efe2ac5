"""A server of the official SDK over Streamable HTTP: the independent peer behind the proxy in end-to-end tests.

    python -m tests.peers.sdk_server --port 8000 --era dual --name main --tools 3
    python -m tests.peers.sdk_server --stdio
    python -m tests.peers.sdk_server --port 8443 --certificate server.pem

It is told its name, and says it in `whoami`, so that a test can tell by content which server has answered. Of an era it
does not speak it knows as little as a server deployed before, or written after, that era.
"""

from __future__ import annotations

import argparse
import os
import warnings
from typing import Any

import anyio
import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.shared.exceptions import MCPDeprecationWarning
from pydantic import BaseModel

from tests.peers.one_era import OneEra


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


def main() -> None:
    warnings.filterwarnings("ignore", category=MCPDeprecationWarning)
    parser = argparse.ArgumentParser(description="A server of the official SDK, for tests.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--stdio", action="store_true", help="speak on standard input and output; of both eras")
    parser.add_argument("--era", choices=["dual", "legacy", "modern"], default="dual")
    parser.add_argument("--name", default="main")
    parser.add_argument("--tools", type=int, default=0, help="so many tools more than the usual ones")
    parser.add_argument("--certificate", help="speak https, with the certificate and key in this file")
    arguments = parser.parse_args()
    if arguments.stdio:
        build(arguments.name, arguments.tools).run("stdio")
        return
    app = build(arguments.name, arguments.tools).streamable_http_app(host="127.0.0.1")
    if arguments.era != "dual":
        app = OneEra(app, arguments.era)
    uvicorn.run(
        app, host="127.0.0.1", port=arguments.port, log_level="error", timeout_graceful_shutdown=1,
        ssl_certfile=arguments.certificate,
    )  # fmt: skip


if __name__ == "__main__":
    main()
