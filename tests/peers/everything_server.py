"""A server of the official SDK with something of everything, of one era, over HTTP or as a command.

    python -m tests.peers.everything_server --port 8000 --era legacy --name old
    python -m tests.peers.everything_server --stdio --era modern --name new

Its resources have URIs that begin with its name. What it needs of the client it asks in the way of its era. It
remembers which messages that it got were not as the schema of their revision says.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import AsyncIterator
from typing import Annotated, Any

import anyio
import uvicorn
from mcp.server import NotificationOptions
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.prompts.base import UserMessage
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError, UrlElicitationRequiredError
from mcp.types import (
    CallToolResult,
    Completion,
    ElicitRequest,
    ElicitRequestURLParams,
    EmptyResult,
    ImageContent,
    InputRequiredResult,
    ListRootsRequest,
    SetLevelRequestParams,
    SubscribeRequestParams,
    TextContent,
    UnsubscribeRequestParams,
)
from pydantic import BaseModel, Field

from tests.conformance.reference_server import STRING, ask, completion, form, modern
from tests.peers.one_era import OneEra
from tests.peers.received import Received

LEVELS = ("debug", "info", "warning", "error")
PAGE = "https://pages.example/sign-in"
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
Asked = str | InputRequiredResult


class Weather(BaseModel):
    city: str
    celsius: float


class State:
    """What the server remembers."""

    def __init__(self) -> None:
        self.level = "debug"
        self.hanging: dict[str, str] = {}
        self.remembered: dict[str | None, list[str]] = {}
        """By session."""
        """By the name a client has given its call: hanging, or cancelled."""
        self.visited: set[str] = set()
        self.grown = 0
        self.watching: dict[str, dict[str | None, Any]] = {}
        """By URI, who has subscribed: sessions by their ids, of which pipes have none."""


def build(name: str, received: Received) -> MCPServer:
    server = MCPServer(name, version="1.0.0", instructions=f"Ask {name} anything.", log_level="CRITICAL")
    state = State()
    _content(server, name, received)
    _during_calls(server, state)
    _asking(server, state)
    _reading(server, name)
    _telling(server, state, name)
    return server


def _content(server: MCPServer, name: str, received: Received) -> None:
    @server.tool(name="received", structured_output=False)
    def tell_received() -> str:
        """Tells how many messages came, and what was wrong with some."""
        return json.dumps({"seen": received.seen, "faults": received.faults})

    @server.tool(structured_output=False)
    def tagged() -> CallToolResult:
        """Says something in `_meta` of its result."""
        return CallToolResult(content=[], _meta={"com.example/odd": {"n": 1.5, "nothing": None}})

    @server.tool(structured_output=False, meta={"ui": {"resourceUri": f"ui://{name}/board"}})
    def board() -> str:
        """Has a page."""
        return "see the page"

    @server.resource(f"ui://{name}/board", name="board", mime_type="text/html;profile=mcp-app")
    def board_page() -> str:
        return f"<p>{name}</p>"

    @server.tool(structured_output=False)
    def echo(text: str) -> str:
        return text

    @server.tool()
    def weather(city: str) -> Weather:
        return Weather(city=city, celsius=-1.5)

    @server.tool(structured_output=False)
    def picture() -> list[ImageContent]:
        return [ImageContent(type="image", data=PIXEL, mime_type="image/png")]

    @server.tool(structured_output=False)
    def fail() -> str:
        raise ToolError("this tool always fails")

    @server.tool(structured_output=False)
    def refuse() -> str:
        raise MCPError(code=-12345, message="not like this", data={"why": "because"})

    @server.tool(structured_output=False)
    def meta(ctx: Context[Any]) -> str:
        """Tells what came in `_meta`."""
        found: Any = ctx.request_context.meta or {}
        return json.dumps({key: found[key] for key in found if key != "progress_token"})


def _during_calls(server: MCPServer, state: State) -> None:
    @server.tool(structured_output=False)
    async def progress(ctx: Context[Any]) -> str:
        for step in (1, 2, 3):
            await ctx.report_progress(step, 3, f"step {step}")
        return "progressed"

    @server.tool(structured_output=False)
    async def speak(ctx: Context[Any]) -> str:
        """Logs one line of each level, as far as the session wants them."""
        for level in LEVELS:
            if modern(ctx) or LEVELS.index(level) >= LEVELS.index(state.level):
                await ctx.log(level, f"a line at {level}")  # type: ignore[arg-type]
        return "spoken"

    @server.tool(structured_output=False)
    async def hang(name: str) -> str:
        state.hanging[name] = "hanging"
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            state.hanging[name] = "cancelled"
            raise
        return "never"

    @server.tool(structured_output=False)
    def remember(text: str, ctx: Context[Any]) -> str:
        """Tells all that this session was told to remember."""
        texts = state.remembered.setdefault(session_id(ctx.request_context), [])
        texts.append(text)
        return " ".join(texts)

    @server.tool(structured_output=False)
    def hung(name: str) -> str:
        """Tells what has become of the call of `hang`."""
        return state.hanging.get(name, "")


def _asking(server: MCPServer, state: State) -> None:
    def page(ctx: Context[Any]) -> ElicitRequestURLParams:
        return ElicitRequestURLParams(
            message="Please sign in", url=PAGE, elicitation_id=None if modern(ctx) else f"page-{ctx.request_id}"
        )

    @server.tool(structured_output=False)
    async def ask_model(ctx: Context[Any]) -> Asked:
        got = await ask(ctx, {"answer": completion("What is the capital of France?")})
        return got if isinstance(got, InputRequiredResult) else f"It is {got['answer'].content.text}."

    @server.tool(structured_output=False)
    async def ask_person(ctx: Context[Any]) -> Asked:
        got = await ask(ctx, {"name": form("Who are you?", name=STRING)}, state="a state of its own")
        return got if isinstance(got, InputRequiredResult) else f"Hello, {got['name'].content['name']}!"

    @server.tool(structured_output=False)
    async def ask_roots(ctx: Context[Any]) -> Asked:
        got = await ask(ctx, {"roots": ListRootsRequest()})
        return got if isinstance(got, InputRequiredResult) else ", ".join(str(r.uri) for r in got["roots"].roots)

    @server.tool(structured_output=False)
    async def ask_all(ctx: Context[Any]) -> Asked:
        questions = {
            "name": form("Who are you?", name=STRING),
            "answer": completion("A greeting?"),
            "roots": ListRootsRequest(),
        }
        got = await ask(ctx, questions)
        if isinstance(got, InputRequiredResult):
            return got
        return f"{got['name'].content['name']}, {got['answer'].content.text}, {len(got['roots'].roots)}"

    @server.tool(structured_output=False)
    async def ask_page(ctx: Context[Any]) -> Asked:
        """Has a page visited in the middle of the call."""
        if modern(ctx):
            given = (ctx.input_responses or {}).get("page")
            if given is None:
                return InputRequiredResult(input_requests={"page": ElicitRequest(params=page(ctx))})
            return f"The page was answered with {given.action}."
        params = page(ctx)
        assert params.elicitation_id is not None
        answer = await ctx.elicit_url(params.message, params.url, params.elicitation_id)
        await ctx.session.send_elicit_complete(params.elicitation_id, related_request_id=ctx.request_id)
        return f"The page was answered with {answer.action}."

    @server.tool(structured_output=False)
    async def need_page(user: str, ctx: Context[Any]) -> Asked:
        """Works only once the page has been visited, which it takes the second call of a user to show."""
        if user not in state.visited:
            state.visited.add(user)
            if modern(ctx):
                return InputRequiredResult(input_requests={"page": ElicitRequest(params=page(ctx))})
            raise UrlElicitationRequiredError([page(ctx)])
        return f"{user} is signed in"


def _reading(server: MCPServer, name: str) -> None:
    @server.resource(f"{name}://text", name="text", mime_type="text/plain")
    def text() -> str:
        return f"The text of {name}."

    @server.resource(f"{name}://item/{{number}}", name="item", mime_type="text/plain")
    def item(number: str) -> str:
        return f"Item {number} of {name}."

    @server.resource(f"{name}://asked/{{number}}", name="asked", mime_type="text/plain")
    async def asked(number: str, ctx: Context[Any]) -> Any:
        got = await ask(ctx, {"name": form("Who are you?", name=STRING)})
        return got if isinstance(got, InputRequiredResult) else f"Item {number} for {got['name'].content['name']}."

    @server.prompt(description="Greets somebody")
    def greet(who: Annotated[str, Field(description="Whom")]) -> str:
        return f"Greet {who}."

    @server.prompt(description="Asks who it is for")
    async def greet_asked(ctx: Context[Any]) -> Any:
        got = await ask(ctx, {"name": form("Who are you?", name=STRING)})
        if isinstance(got, InputRequiredResult):
            return got
        return [UserMessage(content=TextContent(type="text", text=f"Greet {got['name'].content['name']}."))]

    @server.completion()
    async def complete(_ref: Any, argument: Any, _context: Any) -> Completion:
        values = [word for word in ("Ada", "Alan", "Grace") if word.startswith(argument.value)]
        return Completion(values=values, total=len(values), has_more=False)


def grown() -> str:
    return "grown"


def session_id(ctx: Any) -> str | None:
    return None if ctx.request is None else ctx.request.headers.get("mcp-session-id")


def _telling(server: MCPServer, state: State, name: str) -> None:
    @server.tool(structured_output=False)
    async def touch(uri: str, ctx: Context[Any]) -> str:
        """Says that a resource has changed."""
        await ctx.notify_resource_updated(uri)
        for session in list(state.watching.get(uri, {}).values()):
            await session.send_resource_updated(uri)
        return "touched"

    @server.tool(structured_output=False)
    async def grow(ctx: Context[Any]) -> str:
        """Adds a tool, a prompt and a resource, and says so."""
        state.grown += 1
        server.add_tool(grown, name=f"grown_{state.grown}", structured_output=False)
        server.prompt(name=f"grown_{state.grown}")(grown)
        server.resource(f"{name}://grown/{state.grown}")(grown)
        await ctx.notify_tools_changed()
        await ctx.notify_prompts_changed()
        await ctx.notify_resources_changed()
        if not modern(ctx):
            await ctx.session.send_tool_list_changed()
            await ctx.session.send_prompt_list_changed()
            await ctx.session.send_resource_list_changed()
        return f"grown_{state.grown}"

    async def subscribe(ctx: Any, params: SubscribeRequestParams) -> EmptyResult:
        state.watching.setdefault(str(params.uri), {})[session_id(ctx)] = ctx.session
        return EmptyResult()

    async def unsubscribe(ctx: Any, params: UnsubscribeRequestParams) -> EmptyResult:
        state.watching.get(str(params.uri), {}).pop(session_id(ctx), None)
        return EmptyResult()

    async def set_level(ctx: Any, params: SetLevelRequestParams) -> EmptyResult:
        del ctx
        state.level = params.level
        return EmptyResult()

    lowlevel: Any = server._lowlevel_server
    lowlevel.add_request_handler("resources/subscribe", SubscribeRequestParams, subscribe)
    lowlevel.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, unsubscribe)
    lowlevel.add_request_handler("logging/setLevel", SetLevelRequestParams, set_level)
    options = lowlevel.create_initialization_options
    everything = NotificationOptions(prompts_changed=True, resources_changed=True, tools_changed=True)
    lowlevel.create_initialization_options = lambda: options(everything)


class Input:
    """Standard input. A server that was deployed before 2026-07-28 refuses what it would not know."""

    def __init__(self, era: str, received: Received) -> None:
        self._lines = anyio.wrap_file(sys.stdin)
        self._era = era
        self._received = received

    def __aiter__(self) -> AsyncIterator[str]:
        return self._known()

    async def _known(self) -> AsyncIterator[str]:
        async for line in self._lines:
            message = json.loads(line)
            self._received.look(line)
            if self._era == "modern" or message.get("method") != "server/discover":
                yield line
                continue
            error = {"code": -32601, "message": "Method not found"}
            print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "error": error}), flush=True)


async def serve_pipes(server: MCPServer, era: str, received: Received) -> None:
    lowlevel: Any = server._lowlevel_server
    own_input: Any = Input(era, received)
    async with stdio_server(own_input, anyio.wrap_file(sys.stdout)) as (reading, writing):
        await lowlevel.run(reading, writing, lowlevel.create_initialization_options())


def main() -> None:
    warnings.filterwarnings("ignore", category=MCPDeprecationWarning)
    parser = argparse.ArgumentParser(description="A server of the official SDK with something of everything.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--stdio", action="store_true")
    parser.add_argument("--era", choices=["legacy", "modern"], required=True)
    parser.add_argument("--name", required=True)
    arguments = parser.parse_args()
    received = Received()
    server = build(arguments.name, received)
    if arguments.stdio:
        anyio.run(serve_pipes, server, arguments.era, received)
        return
    app = OneEra(server.streamable_http_app(host="127.0.0.1"), arguments.era, received.look)
    uvicorn.run(app, host="127.0.0.1", port=arguments.port, log_level="error", timeout_graceful_shutdown=1)


if __name__ == "__main__":
    main()
