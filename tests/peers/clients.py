"""Clients of the official SDK, of either era, over HTTP and stdio: the independent peers in front of the proxy."""

from __future__ import annotations

import sys
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mcp
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPDeprecationWarning
from mcp.types import CallToolResult, LoggingMessageNotificationParams

from tests.catalogue import CHECKOUT
from tests.peers.tapped import sdk_client
from tests.processes import servers_option
from tests.waiting import eventually

warnings.filterwarnings("ignore", category=MCPDeprecationWarning)  # what is deprecated has to work all the same

ERAS = ("legacy", "modern")
NEWEST = {"legacy": "2025-11-25", "modern": "2026-07-28"}
_EVENT_BYTES_MAX = 32 * 1024 * 1024


@dataclass
class Client:
    """A connected client with what it was told between its requests and their answers."""

    sdk: mcp.Client
    era: str
    logged: list[LoggingMessageNotificationParams] = field(default_factory=list)
    progressed: list[tuple[float, float | None, str | None]] = field(default_factory=list)

    async def names(self) -> list[str]:
        """Return the names of all tools, over all pages."""
        found: list[str] = []
        cursor: str | None = None
        while True:
            page = await self.sdk.list_tools(cursor=cursor)
            found += [tool.name for tool in page.tools]
            cursor = page.next_cursor
            if cursor is None:
                return found

    async def lists(self, *names: str) -> None:
        """Wait until these are all tools: a list does not wait long for servers that the proxy does not know yet."""

        async def look() -> bool:
            return await self.names() == list(names)

        await eventually(look, f"the tools are {names}")

    async def call(self, name: str, /, **arguments: Any) -> CallToolResult:
        return await self.sdk.call_tool(name, arguments)

    async def text(self, name: str, /, **arguments: Any) -> str:
        """Call a tool that answers with one text, and return it."""
        result = await self.call(name, **arguments)
        assert not result.is_error, result
        (block,) = result.content
        assert block.type == "text", block
        return block.text

    async def watch(self, name: str, **arguments: Any) -> CallToolResult:
        """Call a tool and keep the progress it reports in `progressed`."""

        async def keep(progress: float, total: float | None, message: str | None) -> None:
            self.progressed.append((progress, total, message))

        return await self.sdk.call_tool(name, arguments, progress_callback=keep)


@asynccontextmanager
async def connect(transport: Any, era: str) -> AsyncIterator[Client]:
    """Connect over a transport of the SDK."""
    client: Client

    async def keep(params: LoggingMessageNotificationParams) -> None:
        client.logged.append(params)

    level = "info" if era == "modern" else None
    async with sdk_client(transport, era, logging_callback=keep, log_level=level) as sdk:
        client = Client(sdk, era)
        yield client


def http_client(url: str, era: str) -> Any:
    return connect(streamable_http_client(url, max_sse_event_size=_EVENT_BYTES_MAX), era)


def legacy_client(url: str) -> Any:
    return http_client(url, "legacy")


def modern_client(url: str) -> Any:
    return http_client(url, "modern")


def stdio_proxy_client(servers: dict[str, str], era: str, folder: Path, *arguments: str) -> Any:
    """Start the proxy as a client would that speaks stdio, and connect to it. Its state and log go to the folder."""
    files = ["--state-dir", str(folder / "stdio.state"), "--log-file", str(folder / "stdio.jsonl")]
    command = ["-m", "supervisor", "--stdio", *files, *arguments, *servers_option(servers)]
    parameters = StdioServerParameters(command=sys.executable, args=command, cwd=CHECKOUT)
    return connect(stdio_client(parameters), era)
