"""Tasks that servers make of calls: what of them goes to the front, and how tasks are asked for."""

from __future__ import annotations

import json

from protocol import link
from protocol.abilities import FORM, TASKS, UI, UI_EXTENSION, UI_MIME_TYPE
from protocol.errors import INTERNAL_ERROR
from protocol.tasks import EXTENSION
from protocol.versions import Era
from tests.peers.raw_server import META, RawServer, Reply, Request
from tests.workers.backend.harness import Json, rig

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
