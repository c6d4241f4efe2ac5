"""Tasks that servers make of calls: what of them goes to the front, and how tasks are asked for."""

from __future__ import annotations

import json

import pytest
import trio

from protocol import link
from protocol.abilities import FORM, TASKS, UI, UI_EXTENSION, UI_MIME_TYPE
from protocol.errors import INTERNAL_ERROR
from protocol.tasks import EXTENSION
from protocol.versions import Era
from tests.peers.raw_server import META, RawServer, Reply, Request
from tests.workers.backend.harness import Backend, Json, rig
from tests.workers.backend.test_kept_tasks import ask, kept, until
from tests.workers.backend.test_questions import question

CREATED: Json = {"resultType": "task", "taskId": "t-1", "status": "working", "odd": 1.5}


async def becomes_task(request: Request, reply: Reply) -> None:
    await reply.result(CREATED)


async def test_a_task_goes_to_the_front_if_its_client_takes_one():
    async with rig(RawServer(era="modern", on={"tools/call": becomes_task})) as (server, one):
        outcome = await one.front.call(abilities=TASKS).done()
        assert isinstance(outcome.header, link.TaskCreated)
        assert json.loads(outcome.payload) == CREATED
        (request,) = server.received("tools/call")
        declared = request.params["_meta"][META + "clientCapabilities"]
        assert declared == {"extensions": {EXTENSION: {}}}


async def test_a_task_that_nobody_asked_for_is_the_servers_fault():
    async with rig(RawServer(era="modern", on={"tools/call": becomes_task, "prompts/get": becomes_task})) as (_, one):
        for call in (
            one.front.call(),
            one.front.call(abilities=FORM),
            one.front.call(era=Era.LEGACY, abilities=TASKS),
            one.front.call(method="prompts/get", abilities=TASKS),
        ):
            fault = (await call.done()).fault
            assert (fault.code, "task" in fault.message) == (INTERNAL_ERROR, True)


async def test_a_modern_server_finds_the_task_it_is_asked_for_in_the_header_too():
    async def get(request: Request, reply: Reply) -> None:
        await reply.result({"taskId": request.params["taskId"], "status": "working"})

    async with rig(RawServer(era="modern", on={"tasks/get": get})) as (server, one):
        for task_id in ("t-1", "täsk"):
            params = json.dumps({"taskId": task_id}).encode()
            outcome = await one.front.call(task_id, method="tasks/get", params=params, abilities=TASKS).done()
            assert outcome.result["taskId"] == task_id
        names = [request.headers["mcp-name"] for request in server.received("tasks/get")]
        assert names == ["t-1", "=?base64?dMOkc2s=?="]


async def test_a_legacy_server_has_one_session_for_clients_that_take_tasks_and_those_that_do_not():
    async with rig(RawServer(era="legacy")) as (server, one):
        await one.front.call(abilities=TASKS).done()
        await one.front.call(abilities=TASKS | FORM).done()
        await one.front.call(abilities=FORM).done()
        declared = [request.params["capabilities"] for request in server.received("initialize")]
        assert declared == [{}, {"elicitation": {"form": {}}}]


async def test_a_modern_server_lists_everything_and_is_told_of_pages_where_the_client_of_a_call_shows_them():
    async with rig(RawServer(era="modern")) as (server, one):
        await one.front.ask_list().done()
        await one.front.call(abilities=UI).done()
        await one.front.call().done()
        pages = {"extensions": {UI_EXTENSION: {"mimeTypes": [UI_MIME_TYPE]}}}
        for method, declared in (("tools/list", [pages]), ("tools/call", [pages, {}])):
            requests = server.received(method)[-2:] if method == "tools/call" else server.received(method)[:1]
            assert [each.params["_meta"][META + "clientCapabilities"] for each in requests] == declared


# --- modern clients of legacy servers --------------------------------------------------------------------------------
class Tasking:
    """A legacy server with tasks: one tool demands to be one, one may be one, and one may not."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.asks: Json | None = None
        tools = [
            {"name": name, "inputSchema": {"type": "object"}, "execution": {"taskSupport": name}}
            for name in ("required", "optional", "forbidden")
        ]
        handlers = {"initialize": self._initialize, "tools/call": self._call, "tasks/result": self._result}
        handlers |= {"tasks/cancel": self._cancel}
        self.server = RawServer(era="legacy", tools=tools, on=handlers, sessions=False)
        self.cancelled = trio.Event()

    async def _initialize(self, request: Request, reply: Reply) -> None:
        tasks = {"cancel": {}, "requests": {"tools": {"call": {}}}}
        result = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}, "tasks": tasks}}
        await reply.result({**result, "serverInfo": {"name": "x", "version": "1"}})

    async def _call(self, request: Request, reply: Reply) -> None:
        if "task" in request.params:
            await reply.result({"task": {"taskId": "t-1", "status": "working"}})
        else:
            await reply.result({"content": [], "plain": True})

    async def _result(self, request: Request, reply: Reply) -> None:
        assert request.params == {"taskId": "t-1"}
        await reply.start_events()
        if self.asks is not None:
            await reply.event(self.asks)
        await self.done.wait()
        meta = {"io.modelcontextprotocol/related-task": {"taskId": "t-1"}, "a": 1}
        result = {"content": [], "isError": True, "_meta": meta}
        await reply.event({"jsonrpc": "2.0", "id": request.message["id"], "result": result})
        await reply.end_events()

    async def _cancel(self, request: Request, reply: Reply) -> None:
        assert request.params == {"taskId": "t-1"}
        self.cancelled.set()
        await reply.result({"taskId": "t-1", "status": "cancelled"})


async def listed(one: Backend) -> None:
    """Wait until the worker knows what its tools say."""
    await one.front.ask_list().done()


@pytest.mark.parametrize("tool", ["required", "optional"])
async def test_a_task_of_a_legacy_server_is_one_for_a_modern_client_that_takes_tasks(tool: str):
    tasking = Tasking()
    async with rig(tasking.server) as (server, one):
        await listed(one)
        assert f"extensions.{EXTENSION}" in ((await one.front.wait_state("ready")).offers or [])
        task_id = await kept(one.front.call(tool, abilities=TASKS))
        await server.wait_for("tasks/result")
        assert (await ask(one.front, task_id))["status"] == "working"
        tasking.done.set()
        task = await until(one.front, task_id, "completed")
        assert task["result"] == {"content": [], "isError": True, "_meta": {"a": 1}, "resultType": "complete"}
        assert len(server.received("tools/call")) == 1


async def test_who_takes_no_tasks_waits_for_that_of_a_tool_that_demands_one():
    tasking = Tasking()
    async with rig(tasking.server) as (server, one):
        await listed(one)
        tasking.done.set()
        result = (await one.front.call("required").done()).result
        assert result == {"content": [], "isError": True, "_meta": {"a": 1}}
        for tool, abilities in (("optional", 0), ("forbidden", TASKS)):
            assert (await one.front.call(tool, abilities=abilities).done()).result["plain"] is True
        legacy = one.front.call("required", era=Era.LEGACY)
        assert (await legacy.done()).result["plain"] is True, "whoever speaks its language decides for himself"
        assert len(server.received("tasks/result")) == 1


async def test_a_legacy_task_that_is_cancelled_is_cancelled_at_its_server():
    tasking = Tasking()
    async with rig(tasking.server) as (server, one):
        await listed(one)
        task_id = await kept(one.front.call("required", abilities=TASKS))
        await server.wait_for("tasks/result")
        await ask(one.front, task_id, "cancel")
        await tasking.cancelled.wait()
        assert (await ask(one.front, task_id))["status"] == "cancelled"


async def test_what_a_legacy_server_asks_for_its_task_is_input_that_the_task_requires():
    tasking = Tasking()
    tasking.asks = question(7)
    async with rig(tasking.server) as (server, one):
        await listed(one)
        task_id = await kept(one.front.call("required", abilities=TASKS | FORM))
        ((key, _),) = (await until(one.front, task_id, "input_required"))["inputRequests"].items()
        await ask(one.front, task_id, "update", inputResponses={key: {"action": "decline"}})
        await server.wait_for("")  # the answer to the question
        tasking.done.set()
        await until(one.front, task_id, "completed")


async def test_a_server_that_forgets_its_task_is_not_asked_to_begin_it_again():
    tasking = Tasking()

    async def forgotten(request: Request, reply: Reply) -> None:
        await reply.error(-32600, "Session not found", 404)

    tasking.server.on["tasks/result"] = forgotten
    async with rig(tasking.server) as (server, one):
        await listed(one)
        assert isinstance((await one.front.call("required").done()).header, link.Fault)
        assert len(server.received("tools/call")) == 1
