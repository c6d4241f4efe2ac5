"""Reference MCP server for the conformance suite, on the official Python SDK.

    python -m tests.conformance.reference_server --port 3300 --era dual|legacy|modern

A dual server speaks both eras, and a tool that needs the client asks in the way of the request's own revision; for the
others see `tests.peers.one_era`.

Every tool that needs something from the client goes through ask(): server-initiated requests in the middle
of the call on a handshake session, an input_required result (multi round trip) on a modern request.
"""

import argparse
import base64
import io
import json
import struct
import warnings
import wave
import zlib
from typing import Annotated, Any

import anyio
import uvicorn
from mcp.server import NotificationOptions
from mcp.server.caching import CacheHint
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.prompts.base import Prompt, UserMessage
from mcp.server.mcpserver.tools import Tool
from mcp.server.streamable_http import EventMessage, EventStore
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError
from mcp.shared.message import ServerMessageMetadata
from mcp.types import (
    AudioContent,
    CallToolResult,
    Completion,
    CreateMessageRequest,
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    EmbeddedResource,
    EmptyResult,
    ImageContent,
    InputRequiredResult,
    ListRootsRequest,
    ListRootsResult,
    PromptReference,
    SamplingMessage,
    SetLevelRequestParams,
    SubscribeRequestParams,
    TextContent,
    TextResourceContents,
    UnsubscribeRequestParams,
)
from mcp.types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import Field

from tests.peers.one_era import OneEra

warnings.filterwarnings("ignore", category=MCPDeprecationWarning)

INVALID_PARAMS, MISSING_CAPABILITY = -32602, -32021


# --- sample media
def red_pixel() -> bytes:
    """A 1x1 red PNG."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\x00\xff\x00\x00")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def short_silence() -> bytes:
    """Ten milliseconds of 8 kHz mono silence as WAV."""
    out = io.BytesIO()
    with wave.open(out, "wb") as w:
        w.setnchannels(1)
        w.setsampwidth(2)
        w.setframerate(8000)
        w.writeframes(b"\x00\x00" * 80)
    return out.getvalue()


PNG, WAV = red_pixel(), short_silence()
PNG64, WAV64 = base64.b64encode(PNG).decode(), base64.b64encode(WAV).decode()


def text(t: str) -> TextContent:
    return TextContent(type="text", text=t)


def image() -> ImageContent:
    return ImageContent(type="image", data=PNG64, mime_type="image/png")


def embedded(uri: str, body: str, mime: str = "text/plain") -> EmbeddedResource:
    return EmbeddedResource(type="resource", resource=TextResourceContents(uri=uri, mime_type=mime, text=body))


# --- asking the client
def form(message: str, required: list[str] | None = None, **properties: Any) -> ElicitRequest:
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    if required is None:
        required = list(properties)
    if required:
        schema["required"] = required
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema))


def completion(prompt: str, max_tokens: int = 100) -> CreateMessageRequest:
    return CreateMessageRequest(
        params=CreateMessageRequestParams(
            messages=[SamplingMessage(role="user", content=text(prompt))], max_tokens=max_tokens
        )
    )


STRING, BOOLEAN = {"type": "string"}, {"type": "boolean"}
RESULT_OF = {
    "elicitation/create": ElicitResult,
    "sampling/createMessage": CreateMessageResult,
    "roots/list": ListRootsResult,
}
CAPABILITY_OF = {
    "elicitation/create": "elicitation",
    "sampling/createMessage": "sampling",
    "roots/list": "roots",
}


def modern(ctx: Context) -> bool:
    return ctx.protocol_version in MODERN_PROTOCOL_VERSIONS


def declared(ctx: Context, capability: str) -> bool:
    return getattr(ctx.client_capabilities, capability, None) is not None


def require(ctx: Context, capability: str) -> None:
    if not declared(ctx, capability):
        raise MCPError(
            code=MISSING_CAPABILITY,
            message=f"Client did not declare the {capability} capability",
            data={"requiredCapabilities": {capability: {}}},
        )


def usable(question: Any, answer: Any) -> bool:
    """Whether a client's answer is of the kind that was asked for and, for a form, complete."""
    if not isinstance(answer, RESULT_OF[question.method]):
        return False
    if isinstance(answer, ElicitResult) and answer.action == "accept":
        return set(question.params.requested_schema.get("required", [])) <= set(answer.content or {})
    return True


async def ask(
    ctx: Context, questions: dict[str, Any], state: str | None = None
) -> dict[str, Any] | InputRequiredResult:
    """The client's answers by key, or (modern, not answered yet) the result that asks for them."""
    for q in questions.values():
        require(ctx, CAPABILITY_OF[q.method])
    if modern(ctx):
        given = ctx.input_responses or {}
        if all(usable(q, given.get(key)) for key, q in questions.items()):
            return {key: given[key] for key in questions}
        return InputRequiredResult(input_requests=questions, request_state=state)

    answers: dict[str, Any] = {}
    failures: list[MCPError] = []

    async def one(key: str, question: Any) -> None:
        try:
            answers[key] = await ctx.session.send_request(
                question,
                RESULT_OF[question.method],
                metadata=ServerMessageMetadata(related_request_id=ctx.request_id),
            )
        except MCPError as e:
            failures.append(e)

    async with anyio.create_task_group() as tg:
        for key, question in questions.items():
            tg.start_soon(one, key, question)
    if failures:
        raise ToolError(f"client refused: {failures[0]}")
    return answers


def field(answer: ElicitResult, name: str) -> Any:
    return (answer.content or {}).get(name)


def outcome(answer: ElicitResult) -> str:
    return f"action={answer.action}, content={json.dumps(answer.content or {})}"


# --- sessions (handshake era)
LEVELS = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"]
log_level: dict[str | None, str] = {}  # session -> level chosen with logging/setLevel
watchers: dict[tuple[str | None, str], Any] = {}  # (session, resource) -> where to send updates


def session_key(headers: Any) -> str | None:
    return headers.get("mcp-session-id") if headers is not None else None


async def log(ctx: Context, level: str, message: str) -> None:
    """On a modern request the SDK sends it only if the request opted in; a session filters by its own level."""
    floor = log_level.get(session_key(ctx.headers), "debug")
    if modern(ctx) or LEVELS.index(level) >= LEVELS.index(floor):
        await ctx.log(level, message, logger_name="everything")


class Replay(EventStore):
    """Events of all streams in memory, so that a client can resume a stream after its Last-Event-ID."""

    def __init__(self, keep: int = 10_000) -> None:
        self.keep, self.counter, self.events = keep, 0, {}

    async def store_event(self, stream_id, message):
        self.counter += 1
        self.events[str(self.counter)] = (stream_id, message)
        self.events.pop(str(self.counter - self.keep), None)
        return str(self.counter)

    async def replay_events_after(self, last_event_id, send_callback):
        if last_event_id not in self.events:
            return None
        stream = self.events[last_event_id][0]
        for n in range(int(last_event_id) + 1, self.counter + 1):
            stream_id, message = self.events.get(str(n), (None, None))
            if stream_id == stream and message is not None:
                await send_callback(EventMessage(message, str(n)))
        return stream


# --- the server
SCHEMA_2020_12 = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": STRING, "city": STRING},
        }
    },
    "properties": {
        "name": STRING,
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": STRING,
        "email": STRING,
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


def accepts_anything() -> str:
    return "schema accepted"


schema_tool = Tool.from_function(
    accepts_anything,
    name="json_schema_2020_12_tool",
    description="Has an input schema that uses JSON Schema 2020-12 vocabulary",
    structured_output=False,
).model_copy(update={"parameters": SCHEMA_2020_12})

mcp = MCPServer(
    "conformance-everything",
    version="1.0.0",
    instructions="Answers everything the conformance suite asks for.",
    log_level="WARNING",
    tools=[schema_tool],
    cache_hints={
        "tools/list": CacheHint(ttl_ms=0, scope="public"),
        "prompts/list": CacheHint(ttl_ms=0, scope="public"),
        "resources/list": CacheHint(ttl_ms=0, scope="public"),
        "resources/templates/list": CacheHint(ttl_ms=0, scope="public"),
        "resources/read": CacheHint(ttl_ms=0, scope="private"),
    },
)


def tool(description: str, name: str | None = None):
    return mcp.tool(name=name, description=description, structured_output=False)


# --- content
@tool("Returns one text")
def test_simple_text() -> str:
    return "This is a simple text response for testing."


@tool("Returns one image")
def test_image_content() -> list[ImageContent]:
    return [image()]


@tool("Returns one sound")
def test_audio_content() -> list[AudioContent]:
    return [AudioContent(type="audio", data=WAV64, mime_type="audio/wav")]


@tool("Returns one embedded resource")
def test_embedded_resource() -> list[EmbeddedResource]:
    return [embedded("test://embedded-resource", "This is an embedded resource content.")]


@tool("Returns a text, an image and an embedded resource")
def test_multiple_content_types() -> list[TextContent | ImageContent | EmbeddedResource]:
    document = json.dumps({"test": "data", "value": 123})
    return [
        text("Multiple content types test:"),
        image(),
        embedded("test://mixed-content-resource", document, "application/json"),
    ]


@tool("Always fails as a tool (isError)")
def test_error_handling() -> CallToolResult:
    return CallToolResult(content=[text("This tool intentionally returns an error for testing")], is_error=True)


@tool("Echoes a value that HTTP clients must also send as a header")
def test_header_parameter(
    region: Annotated[str, Field(description="Where to run", json_schema_extra={"x-mcp-header": "Region"})],
) -> str:
    return f"region={region}"


# --- notifications during a call
@tool("Sends three log messages")
async def test_tool_with_logging(ctx: Context) -> str:
    await log(ctx, "info", "Tool execution started")
    await anyio.sleep(0.05)
    await log(ctx, "info", "Tool processing data")
    await anyio.sleep(0.05)
    await log(ctx, "info", "Tool execution completed")
    return "logged three times"


@tool("Sends one log message of every level; a request that did not opt in must see none")
async def test_logging_tool(ctx: Context) -> str:
    for level in LEVELS:
        await log(ctx, level, f"a message at {level}")
    return "logged"


@tool("Reports progress 0, 50, 100 of 100")
async def test_tool_with_progress(ctx: Context) -> str:
    for done in (0, 50, 100):
        if done:
            await anyio.sleep(0.05)
        await ctx.report_progress(done, 100, f"{done} of 100")
    return "progress complete"


@tool("Closes its own response stream before answering; the client resumes it")
async def test_reconnection(ctx: Context) -> str:
    await ctx.close_sse_stream()
    await anyio.sleep(0.1)
    return "answered after the stream was closed"


# --- changes
def dynamic_tool() -> str:
    return "here for now"


def dynamic_prompt() -> str:
    return "here for now"


@tool("Adds or removes test_dynamic_tool, so that the list of tools changes")
async def test_trigger_tool_change(ctx: Context) -> str:
    if any(t.name == "test_dynamic_tool" for t in await mcp.list_tools()):
        mcp.remove_tool("test_dynamic_tool")
    else:
        mcp.add_tool(dynamic_tool, name="test_dynamic_tool", description="Comes and goes", structured_output=False)
    await ctx.notify_tools_changed()  # to modern listeners
    if not modern(ctx):
        await ctx.session.send_tool_list_changed()  # to this session's own stream
    return "tools changed"


@tool("Adds or removes test_dynamic_prompt, so that the list of prompts changes")
async def test_trigger_prompt_change(ctx: Context) -> str:
    if any(p.name == "test_dynamic_prompt" for p in await mcp.list_prompts()):
        mcp.remove_prompt("test_dynamic_prompt")
    else:
        mcp.add_prompt(Prompt.from_function(dynamic_prompt, name="test_dynamic_prompt", description="Comes and goes"))
    await ctx.notify_prompts_changed()
    if not modern(ctx):
        await ctx.session.send_prompt_list_changed()
    return "prompts changed"


@tool("Announces an update of test://watched-resource to everyone who watches it")
async def test_trigger_resource_update(ctx: Context) -> str:
    uri = "test://watched-resource"
    await ctx.notify_resource_updated(uri)
    for (_, watched), session in list(watchers.items()):
        if watched == uri:
            await session.send_resource_updated(uri)
    return "update announced"


# --- asking the client
Asked = str | InputRequiredResult


@tool("Needs sampling and refuses clients without it")
async def test_missing_capability(ctx: Context) -> str:
    require(ctx, "sampling")
    return "the client can sample"


@tool("Lets the client's model answer a prompt")
async def test_sampling(prompt: str, ctx: Context) -> Asked:
    got = await ask(ctx, {"sample": completion(prompt)})
    if isinstance(got, InputRequiredResult):
        return got
    return f"LLM response: {got['sample'].content.text}"


@tool("Asks the user for a name and an address")
async def test_elicitation(message: str, ctx: Context) -> Asked:
    username = {"type": "string", "description": "User's response"}
    email = {"type": "string", "description": "User's email address"}
    got = await ask(ctx, {"user": form(message, username=username, email=email)})
    return got if isinstance(got, InputRequiredResult) else f"User response: {outcome(got['user'])}"


@tool("Asks with a default value for every primitive type")
async def test_elicitation_sep1034_defaults(ctx: Context) -> Asked:
    question = form(
        "Please review the defaults",
        required=[],
        name={"type": "string", "default": "John Doe"},
        age={"type": "integer", "default": 30},
        score={"type": "number", "default": 95.5},
        status={"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        verified={"type": "boolean", "default": True},
    )
    got = await ask(ctx, {"defaults": question})
    return got if isinstance(got, InputRequiredResult) else f"Elicitation completed: {outcome(got['defaults'])}"


@tool("Asks with every kind of enumeration")
async def test_elicitation_sep1330_enums(ctx: Context) -> Asked:
    plain = ["option1", "option2", "option3"]

    def titled(word: str) -> list[dict[str, str]]:
        return [
            {"const": f"value{i}", "title": f"{nth} {word}"} for i, nth in enumerate(("First", "Second", "Third"), 1)
        ]

    question = form(
        "Please choose",
        required=[],
        untitledSingle={"type": "string", "enum": plain},
        titledSingle={"type": "string", "oneOf": titled("Option")},
        legacyEnum={
            "type": "string",
            "enum": ["opt1", "opt2", "opt3"],
            "enumNames": ["Option One", "Option Two", "Option Three"],
        },
        untitledMulti={"type": "array", "items": {"type": "string", "enum": plain}},
        titledMulti={"type": "array", "items": {"anyOf": titled("Choice")}},
    )
    got = await ask(ctx, {"choice": question})
    return got if isinstance(got, InputRequiredResult) else f"Elicitation completed: {outcome(got['choice'])}"


@tool("Reports progress, then asks: the stream may carry notifications but no request on a modern connection")
async def test_streaming_elicitation(ctx: Context) -> Asked:
    await ctx.report_progress(0, 1)
    got = await ask(ctx, {"user_name": form("What is your name?", name=STRING)})
    return got if isinstance(got, InputRequiredResult) else f"streamed: {outcome(got['user_name'])}"


@tool("One question: elicitation")
async def test_input_required_result_elicitation(ctx: Context) -> Asked:
    got = await ask(ctx, {"user_name": form("What is your name?", name=STRING)})
    return got if isinstance(got, InputRequiredResult) else f"Hello, {field(got['user_name'], 'name')}!"


@tool("One question: sampling")
async def test_input_required_result_sampling(ctx: Context) -> Asked:
    got = await ask(ctx, {"capital_question": completion("What is the capital of France?")})
    return got if isinstance(got, InputRequiredResult) else f"The model says: {got['capital_question'].content.text}"


@tool("One question: the client's roots")
async def test_input_required_result_list_roots(ctx: Context) -> Asked:
    got = await ask(ctx, {"client_roots": ListRootsRequest()})
    if isinstance(got, InputRequiredResult):
        return got
    return "Roots: " + ", ".join(str(r.uri) for r in got["client_roots"].roots)


async def confirmed(ctx: Context, state: str) -> Asked:
    got = await ask(ctx, {"confirm": form("Please confirm", ok=BOOLEAN)}, state)
    if isinstance(got, InputRequiredResult):
        return got
    if modern(ctx) and ctx.request_state != state:  # the SDK has checked that it is one of ours
        raise MCPError(code=INVALID_PARAMS, message="requestState does not belong to this call")
    return f"state-ok: {outcome(got['confirm'])}"


@tool("One question, with state that the client must give back")
async def test_input_required_result_request_state(ctx: Context) -> Asked:
    return await confirmed(ctx, "waiting for confirmation")


@tool("One question, with state that the client must not change")
async def test_input_required_result_tampered_state(ctx: Context) -> Asked:
    return await confirmed(ctx, "protected")


@tool("Three questions at once")
async def test_input_required_result_multiple_inputs(ctx: Context) -> Asked:
    questions = {
        "user_name": form("What is your name?", name=STRING),
        "greeting": completion("Generate a greeting", 50),
        "client_roots": ListRootsRequest(),
    }
    got = await ask(ctx, questions, "waiting for three answers")
    if isinstance(got, InputRequiredResult):
        return got
    name, greeting = field(got["user_name"], "name"), got["greeting"].content.text
    return f"{greeting} {name}, you have {len(got['client_roots'].roots)} root(s)."


@tool("Two questions, one after the other")
async def test_input_required_result_multi_round(ctx: Context) -> Asked:
    step1 = {"step1": form("Step 1: What is your name?", name=STRING)}
    step2 = {"step2": form("Step 2: What is your favorite color?", color=STRING)}
    if not modern(ctx):
        name = field((await ask(ctx, step1))["step1"], "name")
        color = field((await ask(ctx, step2))["step2"], "color")
        return f"{name} likes {color}."
    state = json.loads(ctx.request_state or '{"step": 1}')
    if state["step"] == 1:
        got = await ask(ctx, step1, json.dumps({"step": 1}))
        if isinstance(got, InputRequiredResult):
            return got
        return InputRequiredResult(
            input_requests=step2, request_state=json.dumps({"step": 2, "name": field(got["step1"], "name")})
        )
    got = await ask(ctx, step2, ctx.request_state)
    return got if isinstance(got, InputRequiredResult) else f"{state['name']} likes {field(got['step2'], 'color')}."


@tool("Asks only for what the client declared that it can do")
async def test_input_required_result_capabilities(ctx: Context) -> Asked:
    questions = {
        "sample": completion("Say hello"),
        "user_name": form("What is your name?", name=STRING),
        "client_roots": ListRootsRequest(),
    }
    able = {key: q for key, q in questions.items() if declared(ctx, CAPABILITY_OF[q.method])}
    if not able:
        return "the client declared nothing to ask for"
    got = await ask(ctx, able)
    return got if isinstance(got, InputRequiredResult) else "asked for: " + ", ".join(sorted(got))


# --- resources
@mcp.resource("test://static-text", name="static-text", description="A fixed text", mime_type="text/plain")
def static_text() -> str:
    return "This is the content of the static text resource."


@mcp.resource("test://static-binary", name="static-binary", description="A fixed image", mime_type="image/png")
def static_binary() -> bytes:
    return PNG


@mcp.resource("test://watched-resource", name="watched-resource", description="Can be watched", mime_type="text/plain")
def watched_resource() -> str:
    return "Watched resource content"


@mcp.resource("test://template/{id}/data", name="template", description="Data by number", mime_type="application/json")
def template_data(id: str) -> str:  # noqa: A002  the template names it so
    return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})


# --- prompts
@mcp.prompt(description="Has no arguments")
def test_simple_prompt() -> str:
    return "This is a simple prompt for testing."


@mcp.prompt(description="Has two arguments, both completable")
def test_prompt_with_arguments(
    arg1: Annotated[str, Field(description="First test argument")],
    arg2: Annotated[str, Field(description="Second test argument")],
) -> str:
    return f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"


@mcp.prompt(description="Embeds a resource")
def test_prompt_with_embedded_resource(
    resourceUri: Annotated[str, Field(description="URI of the resource to embed")],  # noqa: N803  the suite sends it so
) -> list[UserMessage]:
    return [
        UserMessage(content=embedded(resourceUri, "Embedded resource content for testing.")),
        UserMessage(content=text("Please process the embedded resource above.")),
    ]


@mcp.prompt(description="Contains an image")
def test_prompt_with_image() -> list[UserMessage]:
    return [UserMessage(content=image()), UserMessage(content=text("Please analyze the image above."))]


@mcp.prompt(description="Asks the user before it answers")
async def test_input_required_result_prompt(ctx: Context) -> list[UserMessage] | InputRequiredResult:
    got = await ask(ctx, {"user_context": form("What context should the prompt use?", context=STRING)})
    if isinstance(got, InputRequiredResult):
        return got
    return [UserMessage(content=text(f"Use this context: {field(got['user_context'], 'context')}"))]


WORDS = {"arg1": ["paris", "park", "party"], "arg2": ["tokyo", "toronto"], "id": ["1", "12", "123"]}


@mcp.completion()
async def complete(ref, argument, context) -> Completion:
    known = isinstance(ref, PromptReference) or ref.uri == "test://template/{id}/data"
    values = [w for w in WORDS.get(argument.name, []) if w.startswith(argument.value)] if known else []
    return Completion(values=values, total=len(values), has_more=False)


# --- handshake-era requests that MCPServer has no decorator for
def headers_of(ctx: Any) -> Any:
    return getattr(ctx.request, "headers", None)


async def subscribe(ctx: Any, params: SubscribeRequestParams) -> EmptyResult:
    watchers[session_key(headers_of(ctx)), str(params.uri)] = ctx.session
    return EmptyResult()


async def unsubscribe(ctx: Any, params: UnsubscribeRequestParams) -> EmptyResult:
    watchers.pop((session_key(headers_of(ctx)), str(params.uri)), None)
    return EmptyResult()


async def set_level(ctx: Any, params: SetLevelRequestParams) -> EmptyResult:
    log_level[session_key(headers_of(ctx))] = params.level
    return EmptyResult()


lowlevel = mcp._lowlevel_server
lowlevel.add_request_handler("resources/subscribe", SubscribeRequestParams, subscribe)
lowlevel.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, unsubscribe)
lowlevel.add_request_handler("logging/setLevel", SetLevelRequestParams, set_level)
initialization_options = lowlevel.create_initialization_options
lowlevel.create_initialization_options = lambda: initialization_options(  # announce listChanged to sessions too
    NotificationOptions(prompts_changed=True, resources_changed=True, tools_changed=True)
)


async def known_names(ctx: Any, call_next: Any) -> Any:
    """An unknown tool or prompt is a protocol error, not a failed call."""
    if ctx.method in ("tools/call", "prompts/get"):
        listed = await (mcp.list_tools() if ctx.method == "tools/call" else mcp.list_prompts())
        name = (ctx.params or {}).get("name")
        if isinstance(name, str) and name not in {entry.name for entry in listed}:
            raise MCPError(code=INVALID_PARAMS, message=f"Unknown {ctx.method.split('s/')[0]}: {name}")
    return await call_next(ctx)


mcp.middleware.append(known_names)


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--port", type=int, required=True, help="serve Streamable HTTP at http://127.0.0.1:PORT/mcp")
    ap.add_argument("--era", choices=["dual", "legacy", "modern"], default="dual")
    args = ap.parse_args()
    app = mcp.streamable_http_app(event_store=Replay(), retry_interval=100, host="127.0.0.1")
    uvicorn.run(
        app if args.era == "dual" else OneEra(app, args.era), host="127.0.0.1", port=args.port, log_level="error"
    )


if __name__ == "__main__":
    main()
