"""A server of the official SDK, of one era or both, that tells clients of its resources and tools when it is told to.

    python -m tests.peers.telling_server --port 8000 --era dual --name main

`touch` says that a resource has changed, `grow` adds a tool and says so; `speak` logs a line of each level.
"""

from __future__ import annotations

import argparse
import contextlib
import warnings
from typing import Any

import uvicorn
from mcp import types
from mcp.server.lowlevel import Server
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ResourceUpdated, ToolsListChanged
from mcp.shared.exceptions import MCPDeprecationWarning

from tests.peers.one_era import OneEra

LEVELS = ("debug", "info", "warning", "error")


class Telling:
    """What the server knows: its tools, and who is to be told of what."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.tools = ["touch", "grow", "speak"]
        self.sessions: dict[str, list[Any]] = {}
        self.everybody: list[Any] = []
        self.level = "info"
        self.bus = InMemorySubscriptionBus()

    async def list_tools(self, ctx: Any, params: Any) -> types.ListToolsResult:
        self.remember(ctx)
        schema = {"type": "object"}
        return types.ListToolsResult(tools=[types.Tool(name=name, input_schema=schema) for name in self.tools])

    async def list_resources(self, ctx: Any, params: Any) -> types.ListResourcesResult:
        uris = [f"{self.name}:{number}" for number in (1, 2)]
        return types.ListResourcesResult(resources=[types.Resource(uri=uri, name=uri) for uri in uris])

    async def call(self, ctx: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        self.remember(ctx)
        if params.name == "touch":
            uri = (params.arguments or {})["uri"]
            for session in self.sessions.get(uri, []):
                with contextlib.suppress(Exception):  # one that has ended
                    await session.send_resource_updated(uri)
            await self.bus.publish(ResourceUpdated(uri=uri))
        elif params.name == "grow":
            self.tools.append(f"grown_{len(self.tools)}")
            for session in self.everybody:
                with contextlib.suppress(Exception):
                    await session.send_tool_list_changed()
            await self.bus.publish(ToolsListChanged())
        else:
            for level in LEVELS[LEVELS.index(self.level) :]:
                await ctx.session.send_log_message(level, f"{self.name} {level}", related_request_id=ctx.request_id)
        return types.CallToolResult(content=[types.TextContent(type="text", text=self.level)])

    async def subscribe(self, ctx: Any, params: types.SubscribeRequestParams) -> types.EmptyResult:
        self.sessions.setdefault(str(params.uri), []).append(ctx.session)
        return types.EmptyResult()

    async def unsubscribe(self, ctx: Any, params: types.UnsubscribeRequestParams) -> types.EmptyResult:
        self.sessions.pop(str(params.uri), None)
        return types.EmptyResult()

    async def set_level(self, ctx: Any, params: types.SetLevelRequestParams) -> types.EmptyResult:
        self.level = params.level
        return types.EmptyResult()

    def remember(self, ctx: Any) -> None:
        if ctx.session not in self.everybody:
            self.everybody.append(ctx.session)


def main() -> None:
    warnings.filterwarnings("ignore", category=MCPDeprecationWarning)
    parser = argparse.ArgumentParser(description="A server of the official SDK that tells of changes, for tests.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--era", choices=["dual", "legacy", "modern"], default="dual")
    parser.add_argument("--name", default="main")
    arguments = parser.parse_args()
    telling = Telling(arguments.name)
    server = Server(
        arguments.name,
        version="1.0.0",
        on_list_tools=telling.list_tools,
        on_call_tool=telling.call,
        on_list_resources=telling.list_resources,
        on_subscribe_resource=telling.subscribe,
        on_unsubscribe_resource=telling.unsubscribe,
        on_set_logging_level=telling.set_level,
        on_subscriptions_listen=ListenHandler(telling.bus),
    )
    app: Any = server.streamable_http_app(host="127.0.0.1")
    if arguments.era != "dual":
        app = OneEra(app, arguments.era)
    uvicorn.run(app, host="127.0.0.1", port=arguments.port, log_level="error", timeout_graceful_shutdown=1)


if __name__ == "__main__":
    main()
