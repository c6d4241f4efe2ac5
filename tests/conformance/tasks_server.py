"""Reference server for the io.modelcontextprotocol/tasks extension, revision 2026-07-28 only.

    python -m tests.conformance.tasks_server --port 3330

Plain JSON over Starlette, no SDK models: what is written here is exactly what goes over the wire. Beside what the suite
asks for it tells of its tasks on `subscriptions/listen`.
"""

import argparse
import base64
import hashlib
import hmac
import json
import os
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import anyio
import uvicorn
from anyio.streams.memory import MemoryObjectSendStream
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

VERSION = "2026-07-28"
PREFIX = "io.modelcontextprotocol/"
EXTENSION = PREFIX + "tasks"
SERVER_INFO = {"name": "conformance-tasks", "version": "1.0.0"}
CACHE = {"ttlMs": 0, "cacheScope": "public"}
TTL_MS, POLL_MS = 600_000, 100
KEY = os.urandom(32)
NAMED_BY = {  # method -> the parameter that the Mcp-Name header repeats
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
    "tasks/get": "taskId",
    "tasks/update": "taskId",
    "tasks/cancel": "taskId",
}


def tool(name: str, description: str, /, **properties: str) -> dict:
    schema = {"type": "object", "properties": {k: {"type": v} for k, v in properties.items()}}
    return {"name": name, "description": description, "inputSchema": schema}


TOOLS = [
    tool("greet", "Answers at once, never a task", name="string"),
    tool("slow_compute", "A task that sleeps", seconds="number"),
    tool("failing_job", "Only as a task; its result is a tool error"),
    tool("protocol_error_job", "A task that ends in a protocol error"),
    tool("confirm_delete", "A task that asks once", filename="string"),
    tool("multi_input", "A task that asks two things at once"),
    tool("test_tool_with_task", "Asks first, then only as a task"),
]
NEEDS_TASK = {"failing_job", "test_tool_with_task"}


class Failure(Exception):
    """A JSON-RPC error and the HTTP status it travels with."""

    def __init__(self, code: int, message: str, data: dict | None = None, status: int = 200) -> None:
        self.code, self.message, self.data, self.status = code, message, data, status


def now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def complete(**fields) -> dict:
    return {"resultType": "complete", **fields}


def answer(text: str, error: bool = False) -> dict:
    return {"content": [{"type": "text", "text": text}], "isError": error}


def question(message: str, name: str, kind: str) -> dict:
    schema = {"type": "object", "properties": {name: {"type": kind}}, "required": [name]}
    return {"method": "elicitation/create", "params": {"mode": "form", "message": message, "requestedSchema": schema}}


# ------------------------------------------------------------------------------------------ tasks
class Task:
    def __init__(self) -> None:
        self.id = secrets.token_urlsafe(24)
        self.status = "working"
        self.created = self.updated = now()
        self.outcome: dict = {}  # result or error, once there is one
        self.pending: dict = {}  # questions not answered yet, by key
        self.answers: dict = {}
        self.answered = anyio.Event()
        self.scope = anyio.CancelScope()
        self.listeners: set[MemoryObjectSendStream] = set()

    def become(self, status: str, **outcome) -> None:
        self.status, self.updated, self.outcome = status, now(), outcome
        for listener in self.listeners:
            listener.send_nowait(self.view())

    def view(self) -> dict:
        fields = {
            "taskId": self.id,
            "status": self.status,
            "createdAt": self.created,
            "lastUpdatedAt": self.updated,
            "ttlMs": TTL_MS,
            "pollIntervalMs": POLL_MS,
            **self.outcome,
        }
        return fields | {"inputRequests": self.pending} if self.status == "input_required" else fields

    async def ask(self, *questions: dict) -> list[dict]:
        """Parks the task until every question is answered."""
        self.pending = {"q-" + secrets.token_hex(4): q for q in questions}
        self.answers, self.answered = {}, anyio.Event()
        self.become("input_required")
        await self.answered.wait()
        self.become("working")
        return list(self.answers.values())

    def deliver(self, answers: dict) -> None:
        for key in list(answers):
            if self.pending.pop(key, None) is not None:
                self.answers[key] = answers[key]
        if self.status == "input_required" and not self.pending:
            self.answered.set()

    async def run(self, name: str, arguments: dict, user: str | None) -> None:
        with self.scope:
            try:
                self.become("completed", result=await work(self, name, arguments, user))
            except Failure as e:
                self.become("failed", error={"code": e.code, "message": e.message})
        if self.scope.cancelled_caught:
            self.become("cancelled")


async def work(task: Task, name: str, arguments: dict, user: str | None) -> dict:
    if name == "slow_compute":
        await anyio.sleep(float(arguments.get("seconds") or 0))
        return answer("computed")
    if name == "failing_job":
        await anyio.sleep(0.5)
        return answer("the job failed", error=True)
    if name == "confirm_delete":
        [got] = await task.ask(question(f"Delete {arguments.get('filename')}?", "confirm", "boolean"))
        return answer(f"deletion: {got.get('action')}")
    if name == "multi_input":
        got = await task.ask(question("Name?", "name", "string"), question("Sure?", "confirm", "boolean"))
        return answer(f"{len(got)} answers")
    if name == "test_tool_with_task":
        return answer(f"Hello, {user}!")
    raise Failure(-32603, "the worker crashed")  # protocol_error_job


class Tasks:
    def __init__(self) -> None:
        self.by_id: dict[str, Task] = {}
        self.group: anyio.abc.TaskGroup | None = None

    def start(self, name: str, arguments: dict, user: str | None = None) -> dict:
        task = Task()
        self.by_id[task.id] = task
        created = {"resultType": "task", **task.view()}
        self.group.start_soon(task.run, name, arguments, user)
        return created

    def find(self, params: dict) -> Task:
        task = self.by_id.get(params.get("taskId"))
        if task is None:
            raise Failure(-32602, "Task not found", status=400)
        return task


tasks = Tasks()


# ------------------------------------------------------------------------------------------ requestState
def sign(content: dict) -> str:
    body = json.dumps(content).encode()
    return base64.urlsafe_b64encode(hmac.digest(KEY, body, hashlib.sha256) + body).decode()


def verify(state: str, name: str) -> None:
    try:
        raw = base64.urlsafe_b64decode(state)
        if not hmac.compare_digest(raw[:32], hmac.digest(KEY, raw[32:], hashlib.sha256)):
            raise ValueError
        content = json.loads(raw[32:])
        if content["tool"] != name or content["expires"] < time.time():
            raise ValueError
    except (ValueError, TypeError):
        raise Failure(-32602, "Invalid or expired requestState", status=400) from None


# ------------------------------------------------------------------------------------------ methods
def supports_tasks(capabilities: dict) -> bool:
    return EXTENSION in (capabilities.get("extensions") or {})


def require_tasks(capabilities: dict) -> None:
    if not supports_tasks(capabilities):
        needed = {"requiredCapabilities": {"extensions": {EXTENSION: {}}}}
        raise Failure(-32021, "Missing required client capability", needed, 400)


async def call(params: dict, capabilities: dict) -> dict:
    name, arguments = params.get("name"), params.get("arguments") or {}
    if name not in {t["name"] for t in TOOLS}:
        raise Failure(-32602, f"Unknown tool: {name}", status=400)
    if name == "greet":
        return complete(**answer(f"Hello, {arguments.get('name')}!"))
    if name in NEEDS_TASK:
        require_tasks(capabilities)
    if name == "test_tool_with_task":
        given = (params.get("inputResponses") or {}).get("user_name")
        if not isinstance(given, dict):
            return {
                "resultType": "input_required",
                "inputRequests": {"user_name": question("What is your name?", "name", "string")},
                "requestState": sign({"tool": name, "expires": time.time() + 600}),
            }
        if "requestState" in params:
            verify(params["requestState"], name)
        return tasks.start(name, arguments, (given.get("content") or {}).get("name"))
    if supports_tasks(capabilities):
        return tasks.start(name, arguments)
    if name == "slow_compute":  # the client cannot poll, so it waits
        return complete(**await work(Task(), name, arguments, None))
    return complete(**answer("done without a task"))


async def dispatch(method: str, params: dict, capabilities: dict) -> dict:
    if method == "server/discover":
        offered = {"tools": {}, "extensions": {EXTENSION: {}}}
        return complete(supportedVersions=[VERSION], capabilities=offered, **CACHE)
    if method == "tools/list":
        return complete(tools=TOOLS, **CACHE)
    if method == "tools/call":
        return await call(params, capabilities)
    if method in ("tasks/get", "tasks/update", "tasks/cancel"):
        require_tasks(capabilities)
        task = tasks.find(params)
        if method == "tasks/get":
            return complete(**task.view())
        if method == "tasks/update":
            task.deliver(params.get("inputResponses") or {})
        elif task.status in ("working", "input_required"):
            task.scope.cancel()
        return complete()
    raise Failure(-32601, "Method not found", status=404)


# ------------------------------------------------------------------------------------------ listening
async def listen(request_id: object, wanted: dict) -> AsyncIterator[str]:
    """The events of one stream, which lasts until the client ends it."""
    chosen = [task for task_id in wanted.get("taskIds", []) if (task := tasks.by_id.get(task_id))]
    tag = {PREFIX + "subscriptionId": request_id}
    send, receive = anyio.create_memory_object_stream(1000)

    def event(method: str, params: dict) -> str:
        message = {"jsonrpc": "2.0", "method": method, "params": params | {"_meta": tag}}
        return f"event: message\ndata: {json.dumps(message)}\n\n"

    honoured = {"taskIds": [task.id for task in chosen]} if chosen else {}
    yield event("notifications/subscriptions/acknowledged", {"notifications": honoured})
    for task in chosen:
        task.listeners.add(send)
    try:
        async for view in receive:
            yield event("notifications/tasks", view)
    finally:
        for task in chosen:
            task.listeners.discard(send)


# ------------------------------------------------------------------------------------------ HTTP
def decoded(header: str | None) -> str | None:
    if header and header.startswith("=?base64?") and header.endswith("?="):
        try:
            return base64.b64decode(header[9:-2], validate=True).decode()
        except ValueError:
            return None
    return header


def check(message: dict, headers) -> dict:
    """The client's capabilities, once envelope and headers have been found in order."""
    method, params = message["method"], message.get("params") or {}
    meta = params.get("_meta")
    version, capabilities = PREFIX + "protocolVersion", PREFIX + "clientCapabilities"
    if not isinstance(meta, dict) or version not in meta or capabilities not in meta:
        raise Failure(-32602, "Missing required _meta fields", status=400)
    if headers.get("mcp-protocol-version") != meta[version] or headers.get("mcp-method") != method:
        raise Failure(-32020, "Header mismatch", status=400)
    if method in NAMED_BY and decoded(headers.get("mcp-name")) != params.get(NAMED_BY[method]):
        raise Failure(-32020, "Mcp-Name mismatch", status=400)
    if meta[version] != VERSION:
        data = {"supported": [VERSION], "requested": meta[version]}
        raise Failure(-32022, "Unsupported protocol version", data, 400)
    return meta[capabilities] or {}


async def endpoint(request: Request) -> Response:
    if (request.headers.get("host") or "").rsplit(":", 1)[0] not in ("localhost", "127.0.0.1", "[::1]"):
        return Response("bad host", 421)
    if request.method != "POST":
        return Response(status_code=405, headers={"Allow": "POST"})
    reply: dict = {"jsonrpc": "2.0", "id": None}
    status = 200
    try:
        try:
            message = json.loads(await request.body())
        except ValueError:
            raise Failure(-32700, "Parse error", status=400) from None
        if not isinstance(message, dict) or not isinstance(message.get("method"), str):
            raise Failure(-32600, "Invalid Request", status=400)
        if "id" not in message:
            return Response(status_code=202)
        reply["id"] = message["id"]
        capabilities = check(message, request.headers)
        if message["method"] == "subscriptions/listen":
            wanted = message["params"]["notifications"]
            if wanted.get("taskIds"):
                require_tasks(capabilities)
            return StreamingResponse(listen(message["id"], wanted), media_type="text/event-stream")
        result = await dispatch(message["method"], message.get("params") or {}, capabilities)
        reply["result"] = result | {"_meta": {PREFIX + "serverInfo": SERVER_INFO}}
    except Failure as e:
        status = e.status
        reply["error"] = {"code": e.code, "message": e.message} | ({"data": e.data} if e.data else {})
    return Response(json.dumps(reply), status, media_type="application/json")


@asynccontextmanager
async def lifespan(app):
    async with anyio.create_task_group() as tasks.group:
        yield
        tasks.group.cancel_scope.cancel()


app = Starlette(routes=[Route("/mcp", endpoint, methods=["GET", "POST", "DELETE"])], lifespan=lifespan)


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--port", type=int, required=True, help="serve Streamable HTTP at http://127.0.0.1:PORT/mcp")
    args = ap.parse_args()
    uvicorn.run(app, host="127.0.0.1", port=args.port, log_level="error", timeout_graceful_shutdown=1)


if __name__ == "__main__":
    main()
