"""Relays MCP with the official SDK's own server and client: what the proxy is compared with.

`python -m benchmarks.sdk_relay --fd N --server URL`. It is the plain relay one would write with the SDK, with the
choices that are fastest for it: JSON answers instead of event streams, the low-level server, one client session per era
that all calls share (the session, not the high-level client), the era of the client also towards the server, so that
nothing is translated.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
from collections.abc import Sequence
from typing import Any, Final

import mcp_types as types
import uvicorn
from mcp import Client
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server

from protocol.versions import MODERN_VERSIONS

MESSAGE_BYTES_MAX: Final = 16 * 1024 * 1024
KEEP_ALIVE_S: Final = 300


class Relay:
    """Forwards lists and calls to the server, in the era of who asks."""

    def __init__(self, legacy: Client, modern: Client) -> None:
        self._legacy = legacy
        self._modern = modern

    def _client(self, context: ServerRequestContext[Any]) -> Client:
        return self._modern if context.protocol_version in MODERN_VERSIONS else self._legacy

    async def list_tools(
        self, context: ServerRequestContext[Any], params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        return await self._client(context).session.list_tools(params=params)

    async def call_tool(
        self, context: ServerRequestContext[Any], params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        return await self._client(context).session.call_tool(params.name, params.arguments)


async def serve(listener: socket.socket, server_url: str) -> None:
    """Serve until the process is told to end."""
    async with (
        Client(server_url, mode="legacy") as legacy,
        Client(server_url, mode=MODERN_VERSIONS[-1]) as modern,
    ):
        relay = Relay(legacy, modern)
        server = Server("sdk-relay", version="1", on_list_tools=relay.list_tools, on_call_tool=relay.call_tool)
        app = server.streamable_http_app(json_response=True, max_request_body_size=MESSAGE_BYTES_MAX)
        config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_keep_alive=KEEP_ALIVE_S)
        await uvicorn.Server(config).serve(sockets=[listener])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sdk_relay", description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="the listening socket, inherited")
    parser.add_argument("--server", required=True, metavar="URL", help="the MCP server behind")
    options = parser.parse_args(argv)
    asyncio.run(serve(socket.socket(fileno=options.fd), options.server))


if __name__ == "__main__":
    main()
