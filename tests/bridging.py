"""What gets through the proxy between which eras: every feature tried with the official SDK on both ends.

    python -m tests.bridging > docs/bridging.md

Each feature is a function that uses it and fails if it does not work; what it returns stands in the table instead of
"yes". A combination is a pair of eras, the way to the proxy and the way to the server: HTTP or pipes, but not pipes on
both sides, since that shows nothing new and every official server takes seconds to start. All messages to clients and
servers are held against the schema of their revision.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
import tempfile
import warnings
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import mcp
import trio
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPDeprecationWarning
from mcp.types import (
    ClientCapabilities,
    CreateMessageResult,
    ElicitResult,
    Implementation,
    InitializeRequest,
    InitializeRequestParams,
    InitializeResult,
    ListRootsResult,
    PromptReference,
    ResourceTemplateReference,
    Root,
    TextContent,
)

from tests.catalogue import CHECKOUT
from tests.peers.clients import ERAS, NEWEST
from tests.peers.everything_server import PAGE
from tests.peers.tapped import Tapped
from tests.processes import Proxy, Server, servers_option

MODULE: Final = "tests.peers.everything_server"
SERVERS: Final = {"old": ("legacy", "HTTP"), "new": ("modern", "HTTP"), "oldpipe": ("legacy", "pipes"),
                  "newpipe": ("modern", "pipes")}  # fmt: skip
"""By name: the server's era, and how it is reached."""
FRONTS: Final = ("HTTP", "stdio")
WAYS: Final = {front: [name for name, (_, way) in SERVERS.items() if "HTTP" in (front, way)] for front in FRONTS}
"""By front, the servers behind it."""
PAIRS: Final = tuple((client, server) for client in ERAS for server in ERAS)
YES: Final = "yes"
NOT_THERE: Final = "not there"
FEATURE_S_MAX: Final = 30.0
START_S_MAX: Final = 60.0
PAGE_SIZE: Final = 30
TRACE: Final = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "a=1"}


@dataclass
class Heard:
    """What a client was told and asked."""

    notifications: list[Any] = field(default_factory=list)
    logged: list[str] = field(default_factory=list)
    pages: list[tuple[str, str | None]] = field(default_factory=list)

    async def message(self, message: Any) -> None:
        self.notifications.append(message)

    async def log(self, params: Any) -> None:
        self.logged.append(params.data)

    async def elicitation(self, _context: Any, params: Any) -> ElicitResult:
        if getattr(params, "mode", "form") == "url":
            self.pages.append((params.url, params.elicitation_id))
            return ElicitResult(action="accept")
        return ElicitResult(action="accept", content={"name": "Ada"})

    async def sampling(self, _context: Any, _params: Any) -> CreateMessageResult:
        return CreateMessageResult(role="assistant", content=TextContent(type="text", text="Paris"), model="m")

    async def roots(self, _context: Any) -> ListRootsResult:
        return ListRootsResult(roots=[Root.model_validate({"uri": "file:///home/ada", "name": "ada"})])

    def of_kind(self, kind: str) -> list[Any]:
        return [message for message in self.notifications if type(message).__name__ == kind]


@dataclass
class Cell:
    """One client, one server."""

    sdk: mcp.Client
    heard: Heard
    era: str
    front: str
    server: str

    @property
    def client(self) -> str:
        """A name that no other client has."""
        return f"{self.era} client on {self.front}"

    @property
    def server_era(self) -> str:
        return SERVERS[self.server][0]

    def name(self, own: str) -> str:
        return f"{self.server}__{own}"

    def uri(self, rest: str) -> str:
        return f"{self.server}://{rest}"

    async def call(self, tool: str, arguments: dict[str, Any] | None = None, **options: Any) -> Any:
        return await self.sdk.call_tool(self.name(tool), arguments or {}, **options)

    async def text(self, tool: str, **arguments: Any) -> str:
        result = await self.call(tool, arguments)
        assert not result.is_error, result
        return result.content[0].text

    async def pages(self, ask: Callable[..., Awaitable[Any]], member: str) -> list[Any]:
        found: list[Any] = []
        cursor: str | None = None
        while True:
            page = await ask(cursor=cursor)
            found += getattr(page, member)
            cursor = page.next_cursor
            if cursor is None:
                return found

    async def tools(self) -> dict[str, Any]:
        return {tool.name: tool for tool in await self.pages(self.sdk.list_tools, "tools")}


Feature = Callable[[Cell], Awaitable[str | None]]
FEATURES: Final[dict[str, Feature]] = {}


def feature(name: str) -> Callable[[Feature], Feature]:
    def register(function: Feature) -> Feature:
        FEATURES[name] = function
        return function

    return register


async def until(look: Callable[[], object]) -> None:
    while not look():  # noqa: ASYNC110 - the SDK tells a callback, and not when
        await trio.sleep(0.01)


async def refused(request: Awaitable[Any]) -> mcp.MCPError:
    try:
        result = await request
    except mcp.MCPError as error:
        return error
    raise AssertionError(f"not refused: {result}")


def initialize(able: ClientCapabilities) -> InitializeRequest:
    info = Implementation(name="client", version="1")
    params = InitializeRequestParams(protocol_version=NEWEST["legacy"], capabilities=able, client_info=info)
    return InitializeRequest(params=params)


# --- opening -------------------------------------------------------------------------------------------------------
@feature("instructions of the server")
async def _instructions(cell: Cell) -> None:
    session: Any = cell.sdk.session
    if cell.era == "modern":
        told = (await session.send_discover(NEWEST["modern"]))["instructions"]
    elif cell.front == "stdio":  # where a client comes before any server has been reached
        request = initialize(session._build_capabilities(NEWEST["legacy"]))
        told = (await session.send_request(request, InitializeResult)).instructions
    else:
        told = cell.sdk.instructions
    assert f"Ask {cell.server} anything." in told


@feature("ping")
async def _ping(cell: Cell) -> str | None:
    if cell.era == "modern":
        return NOT_THERE
    await cell.sdk.send_ping()
    return None


# --- tools ---------------------------------------------------------------------------------------------------------
@feature("tools/list in pages, with schemas of results")
async def _tools(cell: Cell) -> None:
    first = await cell.sdk.list_tools()
    assert len(first.tools) == PAGE_SIZE
    assert first.next_cursor is not None
    listed = await cell.tools()
    assert {cell.name(own) for own in ("echo", "weather", "grow")} <= set(listed)
    assert set(listed[cell.name("weather")].output_schema["properties"]) == {"city", "celsius"}


@feature("tools/call: text")
async def _call(cell: Cell) -> None:
    assert await cell.text("echo", text="zwölf 日本 🦉\n\u2028") == "zwölf 日本 🦉\n\u2028"


@feature("tools/call: structured content")
async def _structured(cell: Cell) -> None:
    result = await cell.call("weather", {"city": "Ulm"})
    assert result.structured_content == {"city": "Ulm", "celsius": -1.5}


@feature("tools/call: images")
async def _picture(cell: Cell) -> None:
    (block,) = (await cell.call("picture")).content
    assert (block.type, block.mime_type) == ("image", "image/png")


@feature("tools/call: a tool that fails")
async def _fail(cell: Cell) -> None:
    result = await cell.call("fail")
    assert result.is_error
    assert "this tool always fails" in result.content[0].text


@feature("errors of a server: code, message, data")
async def _errors(cell: Cell) -> None:
    error = await refused(cell.call("refuse"))
    assert (error.code, error.error.message, error.error.data) == (-12345, "not like this", {"why": "because"})


@feature("a tool that nobody has")
async def _unknown_tool(cell: Cell) -> str:
    error = await refused(cell.sdk.call_tool("nobody__nothing", {}))
    return f"{error.code}"


# --- in calls ------------------------------------------------------------------------------------------------------
@feature("progress")
async def _progress(cell: Cell) -> None:
    steps: list[tuple[float, float | None, str | None]] = []

    async def keep(progress: float, total: float | None, message: str | None) -> None:
        steps.append((progress, total, message))

    await cell.call("progress", progress_callback=keep)
    assert steps == [(1, 3, "step 1"), (2, 3, "step 2"), (3, 3, "step 3")]


@feature("log lines from a level on")
async def _logs(cell: Cell) -> None:
    meta: Any = None
    if cell.era == "legacy":
        await cell.sdk.set_logging_level("warning")
    else:
        meta = {"io.modelcontextprotocol/logLevel": "warning"}
    cell.heard.logged.clear()
    await cell.call("speak", meta=meta)
    assert cell.heard.logged == ["a line at warning", "a line at error"]


@feature("cancellation by the client")
async def _cancellation(cell: Cell) -> None:
    async with trio.open_nursery() as calls:
        calls.start_soon(cell.call, "hang", {"name": cell.client})
        while await cell.text("hung", name=cell.client) != "hanging":  # noqa: ASYNC110 - the server tells nobody
            await trio.sleep(0.01)
        calls.cancel_scope.cancel()
    while await cell.text("hung", name=cell.client) != "cancelled":  # noqa: ASYNC110
        await trio.sleep(0.01)


@feature("trace context and other `_meta` of requests")
async def _meta(cell: Cell) -> None:
    sent: Any = {**TRACE, "baggage": "user=ada", "com.example/odd": {"n": 1.5}}
    told = json.loads((await cell.call("meta", meta=sent)).content[0].text)
    assert {key: told.get(key) for key in sent} == sent


@feature("`_meta` of results")
async def _meta_of_results(cell: Cell) -> None:
    result = await cell.call("tagged")
    assert (result.meta or {})["com.example/odd"] == {"n": 1.5, "nothing": None}


# --- what else there is to read ------------------------------------------------------------------------------------
@feature("resources/list, resources/templates/list")
async def _resources(cell: Cell) -> None:
    uris = {str(one.uri) for one in await cell.pages(cell.sdk.list_resources, "resources")}
    assert cell.uri("text") in uris
    templates = await cell.pages(cell.sdk.list_resource_templates, "resource_templates")
    assert cell.uri("item/{number}") in {one.uri_template for one in templates}


@feature("resources/read: listed, by template")
async def _read(cell: Cell) -> None:
    for rest, text in (("text", f"The text of {cell.server}."), ("item/7", f"Item 7 of {cell.server}.")):
        (content,) = (await cell.sdk.read_resource(cell.uri(rest))).contents
        assert (str(content.uri), content.text) == (cell.uri(rest), text)  # type: ignore[union-attr]


@feature("pages of tools (`ui://`)")
async def _pages(cell: Cell) -> None:
    page = (await cell.tools())[cell.name("board")].meta["ui"]["resourceUri"]
    (content,) = (await cell.sdk.read_resource(page)).contents
    assert content.mime_type == "text/html;profile=mcp-app"
    assert content.text == f"<p>{cell.server}</p>"  # type: ignore[union-attr]


@feature("a resource that is not there")
async def _no_resource(cell: Cell) -> str:
    return f"{(await refused(cell.sdk.read_resource(cell.uri('nothing')))).code}"


@feature("prompts/list, prompts/get")
async def _prompts(cell: Cell) -> None:
    listed = {one.name: one for one in await cell.pages(cell.sdk.list_prompts, "prompts")}
    assert [argument.name for argument in listed[cell.name("greet")].arguments or []] == ["who"]
    got = await cell.sdk.get_prompt(cell.name("greet"), {"who": "Grace"})
    assert got.messages[0].content.text == "Greet Grace."  # type: ignore[union-attr]


@feature("completion/complete: of a prompt, of a template")
async def _completion(cell: Cell) -> None:
    prompt = PromptReference(type="ref/prompt", name=cell.name("greet"))
    template = ResourceTemplateReference(type="ref/resource", uri=cell.uri("item/{number}"))
    for reference, name in ((prompt, "who"), (template, "number")):
        found = await cell.sdk.complete(reference, {"name": name, "value": "A"})
        assert found.completion.values == ["Ada", "Alan"]


# --- what is said unasked ------------------------------------------------------------------------------------------
@feature("updates of a resource that was subscribed to")
async def _updates(cell: Cell) -> None:
    wanted, other = cell.uri("text"), cell.uri("item/1")
    if cell.era == "legacy":
        await cell.sdk.subscribe_resource(wanted)
        for uri in (other, wanted):
            await cell.text("touch", uri=uri)
        await until(lambda: cell.heard.of_kind("ResourceUpdatedNotification"))
        heard = {str(each.params.uri) for each in cell.heard.of_kind("ResourceUpdatedNotification")}
        await cell.sdk.unsubscribe_resource(wanted)
    else:
        async with cell.sdk.listen(resource_subscriptions=[wanted]) as stream:
            assert stream.honored.resource_subscriptions == [wanted]
            for uri in (other, wanted):
                await cell.text("touch", uri=uri)
            heard = {getattr(await anext(stream), "uri", "")}
    cell.heard.notifications.clear()
    assert heard == {wanted}


@feature("lists that change: tools, prompts, resources")
async def _lists(cell: Cell) -> None:
    kinds = ("Tool", "Prompt", "Resource")
    if cell.era == "legacy":
        cell.heard.notifications.clear()
        grown = await cell.text("grow")
        await until(lambda: all(cell.heard.of_kind(f"{kind}ListChangedNotification") for kind in kinds))
    else:
        flags: Any = {f"{kind.lower()}s_list_changed": True for kind in kinds}
        async with cell.sdk.listen(**flags) as stream:
            grown = await cell.text("grow")
            missing = {f"{kind}sListChanged" for kind in kinds}
            while missing:
                missing.discard(type(await anext(stream)).__name__)
    assert cell.name(grown) in await cell.tools()


# --- questions of the server ---------------------------------------------------------------------------------------
@feature("sampling")
async def _sampling(cell: Cell) -> None:
    assert await cell.text("ask_model") == "It is Paris."


@feature("elicitation by form")
async def _form(cell: Cell) -> None:
    assert await cell.text("ask_person") == "Hello, Ada!"


@feature("roots")
async def _roots(cell: Cell) -> None:
    assert await cell.text("ask_roots") == "file:///home/ada"


@feature("several questions at once")
async def _all(cell: Cell) -> None:
    assert await cell.text("ask_all") == "Ada, Paris, 1"


@feature("questions of resources/read and prompts/get")
async def _asked_reading(cell: Cell) -> None:
    (content,) = (await cell.sdk.read_resource(cell.uri("asked/7"))).contents
    assert content.text == "Item 7 for Ada."  # type: ignore[union-attr]
    got = await cell.sdk.get_prompt(cell.name("greet_asked"))
    assert got.messages[0].content.text == "Greet Ada."  # type: ignore[union-attr]


@feature("elicitation by URL")
async def _page(cell: Cell) -> None:
    cell.heard.pages.clear()
    cell.heard.notifications.clear()
    assert await cell.text("ask_page") == "The page was answered with accept."
    ((url, elicitation_id),) = cell.heard.pages
    assert url == PAGE
    assert (elicitation_id is not None) == (cell.era == "legacy")
    if cell.era == "legacy":
        await until(lambda: cell.heard.of_kind("ElicitCompleteNotification"))
        (told,) = cell.heard.of_kind("ElicitCompleteNotification")
        assert told.params.elicitation_id == elicitation_id


@feature("a URL that has to be visited before the call")
async def _page_first(cell: Cell) -> str | None:
    cell.heard.pages.clear()
    user = cell.client
    if cell.era == cell.server_era == "legacy":
        error = await refused(cell.call("need_page", {"user": user}))
        assert error.error.data["elicitations"][0]["url"] == PAGE
        assert await cell.text("need_page", user=user) == f"{user} is signed in"
        return f"{error.code}, and the client calls again"
    assert await cell.text("need_page", user=user) == f"{user} is signed in"
    assert [url for url, _ in cell.heard.pages] == [PAGE]
    return None


# --- clients and servers -------------------------------------------------------------------------------------------
class Setting:
    """The servers, and a proxy over HTTP in front of them; those for clients on stdio are started by each client."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stack = contextlib.ExitStack()
        self.urls: dict[str, str] = {}
        started: list[Server] = []
        for name, (era, reached) in SERVERS.items():
            if reached == "HTTP":
                server = Server(folder / f"{name}.log", module=MODULE, era=era, name=name, wait=False)
                self._stack.callback(server.destroy)
                started.append(server)
                self.urls[name] = server.url
            else:
                command = [sys.executable, "-m", MODULE, "--stdio", "--era", era, "--name", name]
                self.urls[name] = shlex.join(command)
        for server in started:
            server.wait_for_port(server.port)
        self.proxy = Proxy(self.urls, folder / "proxy.log", *self.options)
        self._stack.callback(self.proxy.destroy)

    options = ("--no-management", "--page-size", str(PAGE_SIZE))

    def stop(self) -> None:
        with self._stack:
            self.proxy.stop()

    def destroy(self) -> None:
        self._stack.close()

    def behind(self, front: str) -> dict[str, str]:
        return {name: self.urls[name] for name in WAYS[front]}

    def transport(self, front: str, era: str) -> Any:
        if front == "HTTP":
            return streamable_http_client(self.proxy.url)
        base = self.folder / f"stdio-{era}"
        files = ["--state-dir", str(base.with_suffix(".state")), "--log-file", str(base.with_suffix(".jsonl"))]
        command = ["-m", "supervisor", "--stdio", *files, *self.options, *servers_option(self.behind(front))]
        return stdio_client(StdioServerParameters(command=sys.executable, args=command, cwd=CHECKOUT))

    @asynccontextmanager
    async def client(self, front: str, era: str) -> AsyncGenerator[tuple[mcp.Client, Heard, Tapped]]:
        heard = Heard()
        tapped = Tapped(self.transport(front, era), NEWEST[era])
        sdk = mcp.Client(
            tapped,  # type: ignore[arg-type]
            mode="legacy" if era == "legacy" else NEWEST["modern"],  # type: ignore[arg-type]
            cache=None,
            message_handler=heard.message,
            logging_callback=heard.log,
            elicitation_callback=heard.elicitation,
            sampling_callback=heard.sampling,
            list_roots_callback=heard.roots,
        )
        async with sdk:
            yield sdk, heard, tapped


@contextlib.contextmanager
def setting(folder: Path) -> Iterator[Setting]:
    one = Setting(folder)
    try:
        yield one
        one.stop()
    finally:
        one.destroy()


@dataclass(frozen=True)
class Combination:
    feature: str
    client_era: str
    server: str
    front: str

    def __str__(self) -> str:
        return f"{self.feature}: {self.client_era} client on {self.front}, {self.server}"


@dataclass
class Outcomes:
    """What came of all combinations."""

    told: dict[Combination, str] = field(default_factory=dict)
    failures: dict[Combination, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    """Messages that broke the schema of their revision."""
    messages: int = 0
    """Messages to clients that were held against a schema."""
    received: int = 0
    """Messages to servers that were; those of one server count again with each client."""


async def try_all(one: Setting) -> Outcomes:
    """Try every feature in every combination.

    The clients over HTTP come one after the other: through one pipe, what is said and asked in calls of several clients
    at the same time reaches none of them.
    """
    outcomes = Outcomes()

    async def over_http() -> None:
        async with one.client("HTTP", "legacy") as (sdk, heard, _):
            await _all_listed(Cell(sdk, heard, "legacy", "HTTP", ""))
        for era in ERAS:
            await _try_client(one, "HTTP", era, outcomes)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MCPDeprecationWarning)  # what is deprecated has to work all the same
        async with trio.open_nursery() as nursery:
            nursery.start_soon(over_http)
            for era in ERAS:
                nursery.start_soon(_try_client, one, "stdio", era, outcomes)
    return outcomes


async def _try_client(one: Setting, front: str, era: str, outcomes: Outcomes) -> None:
    async with one.client(front, era) as (sdk, heard, tapped):
        await _all_listed(Cell(sdk, heard, era, front, ""))
        for server in WAYS[front]:
            cell = Cell(sdk, heard, era, front, server)
            for name, function in FEATURES.items():
                combination = Combination(name, era, server, front)
                try:
                    with trio.fail_after(FEATURE_S_MAX):
                        outcomes.told[combination] = await function(cell) or YES
                except Exception as error:  # noqa: BLE001 - a failure is an outcome
                    outcomes.failures[combination] = f"{type(error).__name__}: {error}"
            received = json.loads(await cell.text("received"))
            outcomes.faults += received["faults"]
            outcomes.received += received["seen"]
        outcomes.faults += tapped.faults
        outcomes.messages += tapped.seen


async def _all_listed(cell: Cell) -> None:
    """Wait until every server has been reached: commands take a moment to start."""
    with trio.fail_after(START_S_MAX):
        while not {f"{server}__echo" for server in WAYS[cell.front]} <= set(await cell.tools()):  # noqa: ASYNC110
            await trio.sleep(0.05)


# --- the table -----------------------------------------------------------------------------------------------------
_HEAD: Final = """# What gets through, between which eras

Legacy is 2024-11-05 to 2025-11-25 (a session that begins with `initialize`), modern is 2026-07-28 (stateless requests).
Every cell was tried with clients and servers of the official SDK, over HTTP and pipes, and every message to a client or
a server was held against the official schema of its revision. `python -m tests.bridging > docs/bridging.md` writes this
page, and `tests/e2e/test_bridging_table.py` fails if it says something else than what happens.

"""


def render(outcomes: Outcomes) -> str:
    """Return the page. Where fronts or ways to the server differ, a cell names all of them."""
    heads = [f"{client} client, {server} server" for client, server in PAIRS]
    lines = [f"| feature | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for name in FEATURES:
        cells = [_cell(outcomes, name, client, server) for client, server in PAIRS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return _HEAD + "\n".join(lines) + "\n\n" + _FOOT


def _cell(outcomes: Outcomes, name: str, client_era: str, server_era: str) -> str:
    told: dict[str, list[str]] = {}
    for front in FRONTS:
        for server in WAYS[front]:
            era, reached = SERVERS[server]
            if era == server_era:
                what = outcomes.told.get(Combination(name, client_era, server, front), "no")
                told.setdefault(what, []).append(f"{front} to {reached}")
    if len(told) == 1:
        return next(iter(told))
    return "; ".join(f"{what} ({', '.join(where)})" for what, where in told.items())


_FOOT: Final = """`not there`: the client's revision has no such thing. Numbers are error codes.

How the pieces are translated: [questions of servers](questions.md), [what they say unasked](protocol.md). What has no
place in the other era does not reach it: `roots/list_changed` and progress of clients, extensions but tasks and `ui`.
"""


def main() -> int:
    with tempfile.TemporaryDirectory() as name, setting(Path(name)) as one:
        outcomes = trio.run(try_all, one)
    for combination, why in outcomes.failures.items():
        print(f"{combination}: {why}", file=sys.stderr)
    for fault in outcomes.faults:
        print(fault, file=sys.stderr)
    print(render(outcomes), end="")
    return 1 if outcomes.failures or outcomes.faults else 0


if __name__ == "__main__":
    sys.exit(main())
