"""Peers made with the official SDK 1.x: a server over WebSocket or HTTP+SSE, and a client over WebSocket.

    python tests/peers/sdk1_peer.py server --port 8000      # ws://127.0.0.1:8000/ws, http://127.0.0.1:8000/sse
    python tests/peers/sdk1_peer.py client ws://127.0.0.1:8001/ws main__echo '{"text": "x"}'

The client prints one JSON object with what it has seen. Imports nothing of ours: the SDK beside ours is another.
"""

# No annotations as text: the SDK looks their names up at the top of the file, where it is not imported.

import json
import sys
from typing import Any

import anyio


def serve(port: int) -> None:
    import uvicorn
    from mcp.server.fastmcp import Context, FastMCP
    from mcp.server.websocket import websocket_server
    from starlette.applications import Starlette
    from starlette.routing import Mount, WebSocketRoute
    from starlette.websockets import WebSocket

    server = FastMCP("old", instructions="I am old.", log_level="CRITICAL")

    @server.tool(structured_output=False)
    def echo(text: str) -> str:
        """Gives back its argument."""
        return text

    @server.tool(structured_output=False)
    async def slow(seconds: float, ctx: Context[Any, Any, Any]) -> str:
        """Takes its time, and reports progress."""
        for step in (1, 2):
            await anyio.sleep(seconds / 2)
            await ctx.report_progress(step, 2)
        return "slept"

    async def websocket(socket: WebSocket) -> None:
        core = server._mcp_server
        async with websocket_server(socket.scope, socket.receive, socket._send) as (read, write):
            await core.run(read, write, core.create_initialization_options())

    routes = [WebSocketRoute("/ws", websocket), Mount("/", app=server.sse_app())]
    uvicorn.run(Starlette(routes=routes), host="127.0.0.1", port=port, log_level="error", timeout_graceful_shutdown=1)


async def visit(url: str, tool: str, arguments: dict[str, Any]) -> None:
    from mcp import ClientSession
    from mcp.client.websocket import websocket_client

    progress: list[float] = []

    async def note(now: float, _total: float | None, _message: str | None) -> None:
        progress.append(now)

    async with websocket_client(url) as (read, write), ClientSession(read, write) as session:
        opened = await session.initialize()
        tools = [each.name for each in (await session.list_tools()).tools]
        answer = await session.call_tool(tool, arguments, progress_callback=note)
    seen = {
        "version": opened.protocolVersion,
        "tools": tools,
        "text": answer.content[0].text,
        "is_error": answer.isError,
        "progress": progress,
    }
    print(json.dumps(seen))


if __name__ == "__main__":
    if sys.argv[1] == "server":
        serve(int(sys.argv[3]))
    else:
        anyio.run(visit, sys.argv[2], sys.argv[3], json.loads(sys.argv[4]))
