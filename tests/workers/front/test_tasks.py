"""Tasks of servers as clients of a front see them: handles, whose they are, and what is told of them unasked."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from protocol import link
from protocol.abilities import FORM, TASKS
from protocol.control import DropServer
from protocol.errors import INVALID_PARAMS, METHOD_NOT_FOUND, MISSING_CAPABILITY, SERVER_UNAVAILABLE
from protocol.task_handle import unseal
from protocol.tasks import EXTENSION, RELATED_KEY, topic
from protocol.versions import Era
from tests.workers.front.test_group import running_group
from tests.workers.front.test_subscriptions import acknowledged, event, open_stream
from tests.workers.scripted import KEY, META, Client, Front, Json, ScriptedWorker, http, modern_post, running_front

OFFERS = ["tools", f"extensions.{EXTENSION}", "tasks"]
DECLARED = {META + "clientCapabilities": {"extensions": {EXTENSION: {}}}}
WORKING: Json = {"taskId": "t-1", "status": "working", "createdAt": "x", "lastUpdatedAt": "x", "ttlMs": None}
DONE: Json = {**WORKING, "status": "completed", "result": {"content": []}}
CREATED: Json = {"resultType": "task", **WORKING}


async def offering(front: Front) -> None:
    for server in front.servers.values():
        server.offers = OFFERS
        server.state("ready")
    await wait_all_tasks_blocked()


async def created(front: Front, client: Client, tool: str = "main__echo", server: str = "main") -> str:
    """Have a call become a task; return the handle that its client got."""
    await client.modern_call(tool, **DECLARED)
    header, _ = await front.servers[server].call()
    assert header.abilities == TASKS
    front.servers[server].send(link.TaskCreated(header.id), CREATED)
    result = (await client.answer()).json["result"]
    assert result == {**CREATED, "taskId": result["taskId"]}
    return result["taskId"]


async def asks(client: Client, method: str, handle: str, **more: Any) -> None:
    await client.modern(f"tasks/{method}", {"taskId": handle, **more}, **DECLARED)


async def refused(client: Client) -> Json:
    return (await client.answer()).json["error"]


# --- modern clients --------------------------------------------------------------------------------------------------
@pytest.mark.case("D-08")
async def test_what_is_asked_about_a_task_goes_to_its_server_alone_and_comes_back_under_the_handle():
    async with running_front("main", "other") as front:
        await offering(front)
        client = await front.client()
        handle = await created(front, client)
        assert "t-1" not in handle
        for method, more, answer in (
            ("get", {}, {**DONE, "resultType": "complete"}),
            ("update", {"inputResponses": {"q": {"action": "accept"}}}, {"resultType": "complete"}),
            ("cancel", {}, {"resultType": "complete"}),
        ):
            await asks(client, method, handle, **more)
            header, params = await front.main.call()
            assert (header.method, header.name, params) == (f"tasks/{method}", "t-1", {"taskId": "t-1", **more})
            front.main.answer(header, answer)
            result = (await client.answer()).json["result"]
            assert result == answer | ({"taskId": handle} if "taskId" in answer else {})
        assert front.servers["other"].calls == []


@pytest.mark.case("C-02")
async def test_a_handle_is_good_at_the_front_that_comes_after_the_one_that_gave_it_out():
    async with running_front("main") as front:
        await offering(front)
        handle = await created(front, await front.client())
    async with running_front("main") as front:
        client = await front.client()
        await asks(client, "get", handle)
        header, _ = await front.main.call()
        front.main.answer(header, {**DONE, "resultType": "complete"})
        assert (await client.answer()).json["result"]["taskId"] == handle


@pytest.mark.case("D-08")
async def test_what_is_no_handle_of_this_client_is_unknown_and_nobody_is_asked():
    async with running_front("main", "other") as front:
        await offering(front)
        client, legacy = await front.client(), await front.client("2025-11-25")
        handle = await created(front, client)
        for wrong in ("t-1", handle[:-2], "mbt1.AAAA"):
            await asks(client, "get", wrong)
            assert (await refused(client))["code"] == INVALID_PARAMS
        await legacy.legacy("tasks/get", {"taskId": handle})
        assert (await refused(legacy))["code"] == INVALID_PARAMS
        await client.modern("tasks/get", {}, **DECLARED)
        assert (await refused(client))["code"] == INVALID_PARAMS
        assert front.main.calls == front.servers["other"].calls == []


async def test_a_client_without_the_extension_gets_no_task_and_is_told_what_it_lacks():
    async with running_front("main") as front:
        await offering(front)
        client = await front.client()
        handle = await created(front, client)
        await client.modern_call()
        assert (await front.main.call())[0].abilities == 0
        other = await front.client()
        for method in ("tasks/get", "tasks/update", "tasks/cancel"):
            await other.modern(method, {"taskId": handle, "inputResponses": {}})
            error = await refused(other)
            assert error["code"] == MISSING_CAPABILITY
            assert EXTENSION in error["data"]["requiredCapabilities"]["extensions"]
        await other.modern("subscriptions/listen", {"notifications": {"taskIds": [handle]}})
        assert (await refused(other))["code"] == MISSING_CAPABILITY


async def test_where_no_server_has_tasks_there_are_no_such_methods_and_nothing_is_offered():
    async with running_front("main") as front:
        client, legacy = await front.client(), await front.client("2025-11-25")
        for method in ("tasks/get", "tasks/list", "tasks/result"):
            await client.modern(method, {"taskId": "x"}, **DECLARED)
            assert (await refused(client))["code"] == METHOD_NOT_FOUND
            await legacy.legacy(method, {"taskId": "x"})
            assert (await refused(legacy))["code"] == METHOD_NOT_FOUND
        await client.modern("server/discover")
        assert "extensions" not in (await client.answer()).json["result"]["capabilities"]


async def test_tasks_are_offered_where_some_server_has_them_to_each_era_in_its_own_words():
    async with running_front("main", "other") as front:
        front.main.offers = OFFERS
        front.main.state("ready")
        await wait_all_tasks_blocked()
        client = await front.client()
        await client.modern("server/discover")
        capabilities = (await client.answer()).json["result"]["capabilities"]
        assert capabilities["extensions"] == {EXTENSION: {}}
        assert "tasks" not in capabilities
        capabilities = (await (await front.client()).initialize()).json["result"]["capabilities"]
        assert capabilities["tasks"] == {"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}}
        assert "extensions" not in capabilities


async def test_a_task_of_a_server_that_is_not_there_any_more_is_refused_by_name():
    async with running_front("main", "other") as front:
        await offering(front)
        client = await front.client()
        handle = await created(front, client)
        front.worker.obey(DropServer("main"))
        await asks(client, "get", handle)
        error = await refused(client)
        assert error["code"] == INVALID_PARAMS
        assert '"main"' in error["message"]


async def test_a_question_about_a_task_outlives_a_worker_and_a_parked_server_says_so():
    async with running_front("main") as front:
        await offering(front)
        client = await front.client()
        handle = await created(front, client)
        await asks(client, "get", handle)
        await front.main.call()
        front.main.die()
        await front.main.until(lambda: front.main.closed)
        front.main.attach(front.worker)
        header, _ = await front.main.call()
        front.main.answer(header, {**DONE, "resultType": "complete"})
        assert (await client.answer()).json["result"]["status"] == "completed"
        front.main.die()
        await wait_all_tasks_blocked()
        front.worker.server_down("main", -1.0)
        await asks(client, "get", handle)
        assert (await refused(client))["code"] == SERVER_UNAVAILABLE


async def test_a_task_id_that_cannot_be_used_is_told_as_the_servers_fault():
    async with running_front("main") as front:
        await offering(front)
        client = await front.client()
        await client.modern_call(**DECLARED)
        header, _ = await front.main.call()
        front.main.send(link.TaskCreated(header.id), {"resultType": "task", "status": "working"})
        assert "fault of that server" in (await refused(client))["message"]


async def test_the_task_of_a_replica_is_asked_for_nowhere_else():
    async with running_group() as front:
        await offering(front)
        client = await front.client()
        await client.modern_call("search__write", **DECLARED)
        await wait_all_tasks_blocked()
        name = next(name for name, server in front.servers.items() if server.calls)
        header, _ = await front.servers[name].call()
        front.servers[name].send(link.TaskCreated(header.id), CREATED)
        handle = (await client.answer()).json["result"]["taskId"]
        facts = unseal(KEY, handle)
        assert facts is not None
        assert (facts.server, facts.replica) == ("search", name)
        for number in range(4):
            await asks(client, "get", handle)
            header, _ = await front.servers[name].call()
            front.servers[name].answer(header, {**DONE, "resultType": "complete"})
            assert (await client.answer()).json["result"]["taskId"] == handle, number
        listening = await listen_for(front, handle)
        assert (await front.servers[name].frame(link.Watch)).uri == topic(name, "t-1")
        listening.reset()
        front.worker.obey(DropServer(name))
        await asks(client, "get", handle)
        error = await refused(client)
        assert (error["code"], name in error["message"]) == (INVALID_PARAMS, True)


@pytest.mark.case("C-02")
async def test_a_task_that_the_worker_keeps_is_asked_for_there_and_not_at_the_server():
    async with running_front("main") as front:
        await offering(front)
        client = await front.client()
        await client.modern_call(**DECLARED)
        header, _ = await front.main.call()
        front.main.send(link.TaskCreated(header.id, is_kept=True), {**CREATED, "taskId": "kept:1.2.3"})
        handle = (await client.answer()).json["result"]["taskId"]
        assert "kept" not in handle
        for method in ("get", "cancel", "update"):
            await asks(client, method, handle, **({"inputResponses": {}} if method == "update" else {}))
            asked = await front.main.frame(link.TaskAsk)
            assert (asked.task, asked.method) == ("kept:1.2.3", f"tasks/{method}")
            front.main.send(link.Result(asked.id, Era.MODERN), {**DONE, "taskId": "kept:1.2.3"})
            assert (await client.answer()).json["result"]["taskId"] == handle
        await asks(client, "get", handle)
        await front.main.frame(link.TaskAsk)
        front.main.die()
        await front.main.until(lambda: front.main.closed)
        front.main.attach(front.worker)
        asked = await front.main.frame(link.TaskAsk)  # whoever is there now says what became of it
        lost = {"code": INVALID_PARAMS, "message": "gone"}
        front.main.send(link.Fault(asked.id, INVALID_PARAMS, "gone", True, 0, Era.MODERN), lost)
        assert await refused(client) == lost
        assert front.main.calls == []


async def test_a_task_that_the_worker_keeps_may_have_changed_unheard_too():
    async with running_front("main") as front:
        await offering(front)
        client = await front.client()
        await client.modern_call(**DECLARED)
        header, _ = await front.main.call()
        front.main.send(link.TaskCreated(header.id, is_kept=True), {**CREATED, "taskId": "kept:1.2.3"})
        handle = (await client.answer()).json["result"]["taskId"]
        listening = await listen_for(front, handle)
        await agree(front.main)
        await acknowledged(listening)
        front.main.send(link.Updated(topic("", "kept:1.2.3")), b"")
        asked = await front.main.frame(link.TaskAsk)
        front.main.send(link.Result(asked.id, Era.MODERN), {**DONE, "taskId": "kept:1.2.3"})
        assert (await event(listening))["params"]["taskId"] == handle


# --- what is told of tasks -------------------------------------------------------------------------------------------
async def listen_for(front: Front, *handles: str) -> Client:
    client = await front.client()
    notifications = {"notifications": {"taskIds": list(handles)}}
    await client.send(modern_post("subscriptions/listen", notifications, 5, **DECLARED))
    await wait_all_tasks_blocked()
    return client


async def agree(server: ScriptedWorker, code: int = 0) -> None:
    watch = await server.frame(link.Watch)
    server.send(link.Watching(watch.id, code, ""))


async def test_who_listens_for_a_task_is_told_of_it_and_nobody_else_is():
    async with running_front("main", "other") as front:
        await offering(front)
        client = await front.client()
        one, two = await created(front, client), await created(front, client, "other__echo", "other")
        listening, other = await listen_for(front, one, "not a handle"), await listen_for(front, two)
        await agree(front.main)
        await agree(front.servers["other"])
        assert (await acknowledged(listening))["notifications"] == {"taskIds": [one]}
        assert (await acknowledged(other))["notifications"] == {"taskIds": [two]}
        front.main.send(link.Updated(topic("", "t-1")), {**DONE, "odd": [1.5]})
        message = await event(listening)
        assert message["method"] == "notifications/tasks"
        tag = {META + "subscriptionId": 5}
        assert message["params"] == {**DONE, "odd": [1.5], "taskId": one, "_meta": tag}
        front.servers["other"].send(link.Updated(topic("", "t-1")), WORKING)
        assert (await event(other))["params"]["taskId"] == two
        listening.reset()
        assert (await front.main.frame(link.Unwatch)).uri == topic("", "t-1")


async def test_a_server_that_does_not_tell_of_tasks_leaves_them_out_of_the_acknowledgement():
    async with running_front("main") as front:
        await offering(front)
        handle = await created(front, await front.client())
        listening = await listen_for(front, handle)
        await agree(front.main, METHOD_NOT_FOUND)
        assert (await acknowledged(listening))["notifications"] == {}


async def test_a_task_that_may_have_changed_unheard_is_asked_for_and_its_listeners_are_told():
    async with running_front("main") as front:
        await offering(front)
        handle = await created(front, await front.client())
        listening = await listen_for(front, handle)
        await agree(front.main)
        await acknowledged(listening)
        front.main.send(link.Updated(topic("", "t-1")), b"")
        header, params = await front.main.call()
        assert (header.method, header.abilities, params) == ("tasks/get", TASKS, {"taskId": "t-1"})
        front.main.answer(header, {**DONE, "resultType": "complete", "_meta": {META + "serverInfo": {}}})
        params = (await event(listening))["params"]
        assert params == {**DONE, "taskId": handle, "_meta": {META + "subscriptionId": 5}}


async def test_a_task_is_asked_for_as_its_listener_would_ask():
    async with running_front("main") as front:
        await offering(front)
        handle = await created(front, await front.client())
        listening = await front.client()
        info = {"name": "listener", "version": "1"}
        able = {META + "clientCapabilities": {"extensions": {EXTENSION: {}}, "elicitation": {}}}
        filter_: Json = {"notifications": {"taskIds": [handle]}}
        await listening.send(modern_post("subscriptions/listen", filter_, 5, **able, **{META + "clientInfo": info}))
        await wait_all_tasks_blocked()
        await agree(front.main)
        await acknowledged(listening)
        front.main.send(link.Updated(topic("", "t-1")), b"")
        header, _ = await front.main.call()
        assert header.abilities == TASKS | FORM
        assert json.loads(header.client_info) == info


async def test_the_filter_of_a_listen_stream_names_tasks_by_strings():
    async with running_front("main") as front:
        await offering(front)
        client = await front.client()
        await client.modern("subscriptions/listen", {"notifications": {"taskIds": [7]}}, **DECLARED)
        error = await refused(client)
        assert (error["code"], "taskIds" in error["message"]) == (INVALID_PARAMS, True)


# --- legacy clients --------------------------------------------------------------------------------------------------
LEGACY_TASK: Json = {"taskId": "t-1", "status": "working", "createdAt": "x", "lastUpdatedAt": "x", "ttl": None}


async def legacy_created(front: Front, client: Client) -> str:
    await client.call(task={"ttl": 1000})
    header, params = await front.main.call()
    assert params["task"] == {"ttl": 1000}
    front.main.answer(header, {"task": LEGACY_TASK, "_meta": {RELATED_KEY: {"taskId": "t-1"}}})
    result = (await client.answer()).json["result"]
    handle = result["task"]["taskId"]
    assert result == {"task": {**LEGACY_TASK, "taskId": handle}, "_meta": {RELATED_KEY: {"taskId": handle}}}
    return handle


@pytest.mark.case("D-08")
async def test_a_legacy_client_asks_for_tasks_of_its_own_session_only():
    async with running_front("main") as front:
        await offering(front)
        client, other = await front.client("2025-11-25"), await front.client("2025-11-25")
        handle = await legacy_created(front, client)
        await other.legacy("tasks/get", {"taskId": handle})
        assert (await refused(other))["code"] == INVALID_PARAMS
        for method, answer in (
            ("get", LEGACY_TASK),
            ("result", {"content": [], "_meta": {RELATED_KEY: {"taskId": "t-1"}}}),
            ("cancel", {**LEGACY_TASK, "status": "cancelled"}),
        ):
            await client.legacy(f"tasks/{method}", {"taskId": handle})
            header, params = await front.main.call()
            assert (header.method, params) == (f"tasks/{method}", {"taskId": "t-1"})
            assert (header.timeout_s > 3000) is (method == "result")
            front.main.answer(header, answer)
            assert (await client.answer()).json["result"] == json.loads(json.dumps(answer).replace("t-1", handle))
        await client.legacy("tasks/update", {"taskId": handle})
        assert (await refused(client))["code"] == METHOD_NOT_FOUND


async def test_what_a_server_asks_or_tells_while_a_result_is_waited_for_names_the_handle():
    async with running_front("main") as front:
        await offering(front)
        client = await front.client("2025-11-25")
        handle = await legacy_created(front, client)
        await client.legacy("tasks/result", {"taskId": handle, "_meta": {"progressToken": 3}})
        header, _ = await front.main.call()
        related = {"_meta": {RELATED_KEY: {"taskId": "t-1"}}}
        front.main.send(link.Ask(header.id, 5, "elicitation/create"), {"message": "?", **related})
        front.main.notify(header, "notifications/message", {"level": "info", "data": 1, **related})
        await client.head()
        for _ in range(2):
            message = await client.event()
            assert message is not None
            assert message["params"]["_meta"] == {RELATED_KEY: {"taskId": handle}}


async def test_a_client_that_asks_for_a_task_where_there_are_none_gets_a_result():
    async with running_front("main") as front:
        client = await front.client("2025-11-25")
        await client.call(task={"ttl": 1000})
        header, params = await front.main.call()
        assert "task" not in params
        front.main.answer(header, {"content": []})
        assert (await client.answer()).json["result"] == {"content": []}
        await offering(front)
        old = await front.client("2025-06-18")
        await old.call(task={"ttl": 1000})
        assert "task" not in (await front.main.call())[1]
        await old.close()
        modern = await front.client()
        await modern.modern("tools/call", {"name": "main__echo", "task": {"ttl": 1}}, **DECLARED)
        assert "task" not in (await front.main.call())[1]


async def test_the_status_of_a_task_is_told_to_the_session_that_has_it_until_it_is_final(autojump_clock: MockClock):
    async with running_front("main") as front:
        await offering(front)
        client, other = await front.client("2025-11-25"), await front.client("2025-11-25")
        streams = [await front.client(), await front.client()]
        for stream, owner in zip(streams, (client, other), strict=True):
            stream.session, stream.version = owner.session, owner.version
            await open_stream(stream)
        await trio.sleep(0.2)  # on the mock clock: the news of the start has been told
        handle = await legacy_created(front, client)
        assert (await front.main.frame(link.Watch)).uri == topic("", "t-1")
        front.main.send(link.Updated(topic("", "t-1")), LEGACY_TASK)
        front.main.send(link.Updated(topic("", "t-1")), {**LEGACY_TASK, "status": "completed"})
        front.main.send(link.Updated(topic("", "t-1")), {**LEGACY_TASK, "status": "late"})
        for status in ("working", "completed"):
            message = await event(streams[0])
            while message["method"] != "notifications/tasks/status":
                message = await event(streams[0])
            assert message["params"] == {**LEGACY_TASK, "taskId": handle, "status": status}
        assert (await front.main.frame(link.Unwatch)).uri == topic("", "t-1")
        front.main.send(link.ListChanged("tools"))
        for stream in streams:  # nothing of the task came before this
            assert (await event(stream))["method"] == "notifications/tools/list_changed"


@pytest.mark.parametrize("path", ["/mcp", "/mcp/main"])
async def test_a_task_is_followed_until_its_session_has_ended(path: str):
    async with running_front("main") as front:
        await offering(front)
        client = await front.client("2025-11-25", path)
        await legacy_created(front, client)
        assert (await front.main.frame(link.Watch)).uri == topic("", "t-1")
        await client.send(http("DELETE", client.legacy_headers, path=path))
        await client.answer()
        assert (await front.main.frame(link.Unwatch)).uri == topic("", "t-1")
