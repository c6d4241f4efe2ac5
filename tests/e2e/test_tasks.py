"""Tasks of a server behind the whole proxy: answered, told of and cancelled, also after the front has been killed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from protocol.errors import OUTCOME_UNKNOWN
from protocol.tasks import EXTENSION
from tests import schemas
from tests.conftest import StartProxy, StartServer
from tests.peers.wire import META, MODERN, Json, Wire, read, wire
from tests.workers.scripted import Client

CAPABILITIES = {"elicitation": {}, "extensions": {EXTENSION: {}}}


async def ask(client: Wire, method: str, **params: Any) -> Json:
    """Make a request whose answer the core schema does not know."""
    return read(await client.post(client.envelope(method, params))).result


@asynccontextmanager
async def listening(port: int, handles: list[str]) -> AsyncIterator[Client]:
    """Open a listen stream for these tasks."""
    async with Client(await trio.open_tcp_stream("127.0.0.1", port)) as client:
        declared = {META + "clientCapabilities": CAPABILITIES}
        await client.modern("subscriptions/listen", {"notifications": {"taskIds": handles}}, 77, **declared)
        assert (await client.head()).status == 200
        yield client


async def told(client: Client) -> Json:
    """Return the next message on a stream."""
    while (message := await client.event()) is None:
        pass
    return message


async def until(client: Wire, handle: str, status: str) -> Json:
    with trio.fail_after(60):
        while True:
            task = await ask(client, "tasks/get", taskId=handle)
            assert task["taskId"] == handle
            if task["status"] == status:
                return task
            await trio.sleep(0.05)  # the server's own advice is twice as long


@pytest.mark.case("C-02")
async def test_a_task_goes_on_and_is_told_of_whatever_happens_to_the_front(proxy: StartProxy, server: StartServer):
    tasks = await server(module="tests.conformance.tasks_server")
    running = await proxy({"main": tasks.url})
    async with wire(running.url, MODERN, capabilities=CAPABILITIES) as client:
        created = await ask(client, "tools/call", name="main__confirm_delete", arguments={"filename": "x"})
        assert created["resultType"] == "task"
        handle = created["taskId"]
        ((key, question),) = (await until(client, handle, "input_required"))["inputRequests"].items()
        assert question["params"]["message"] == "Delete x?"

        old = await trio.to_thread.run_sync(running.kill_worker, "front")
        await trio.to_thread.run_sync(running.replacement, "front", old)

        async with listening(running.port, [handle, "none"]) as stream:
            assert (await told(stream))["params"]["notifications"] == {"taskIds": [handle]}
            answers = {key: {"action": "accept", "content": {"confirm": True}}}
            await ask(client, "tasks/update", taskId=handle, inputResponses=answers)
            while (message := await told(stream))["params"]["status"] != "completed":
                assert message["method"] == "notifications/tasks"
            assert message["params"]["taskId"] == handle
            assert message["params"]["_meta"] == {META + "subscriptionId": 77}
            assert message["params"]["result"]["content"][0]["text"] == "deletion: accept"

        created = await ask(client, "tools/call", name="main__slow_compute", arguments={"seconds": 60})
        assert await ask(client, "tasks/cancel", taskId=created["taskId"]) is not None
        await until(client, created["taskId"], "cancelled")


async def test_a_long_call_of_a_server_without_tasks_outlives_its_client_and_the_front_but_not_its_worker(
    proxy: StartProxy, server: StartServer
):
    slow = await server(era="legacy", name="main")
    running = await proxy({"main": slow.url}, "--durable-after", "0.2")
    async with wire(running.url, MODERN, capabilities=CAPABILITIES) as client:
        assert (await client.call("main__slow", seconds=0)).result["resultType"] == "complete"
        tasks = [await ask(client, "tools/call", name="main__slow", arguments={"seconds": s}) for s in (2, 60, 60)]
        handles = [task["taskId"] for task in tasks]

    old = await trio.to_thread.run_sync(running.kill_worker, "front")
    await trio.to_thread.run_sync(running.replacement, "front", old)
    async with wire(running.url, MODERN, capabilities=CAPABILITIES) as client:
        async with listening(running.port, handles[:1]) as stream:
            assert (await told(stream))["params"]["notifications"] == {"taskIds": handles[:1]}
            message = await told(stream)
            assert (message["params"]["status"], message["params"]["taskId"]) == ("completed", handles[0])
        task = await until(client, handles[0], "completed")
        schemas.validate_answer(MODERN, "tools/call", {"jsonrpc": "2.0", "id": 1, "result": task["result"]})
        await ask(client, "tasks/cancel", taskId=handles[1])
        await until(client, handles[1], "cancelled")

        old = await trio.to_thread.run_sync(running.kill_worker, "server main")
        await trio.to_thread.run_sync(running.replacement, "server main", old)
        task = await until(client, handles[2], "failed")
        assert task["error"]["code"] == OUTCOME_UNKNOWN
        assert '"main"' in task["error"]["message"]
