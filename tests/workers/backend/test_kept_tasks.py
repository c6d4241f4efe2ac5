"""Calls that become tasks of their worker, because they take long and their server has no tasks."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from protocol import limits, link
from protocol.abilities import FORM, TASKS
from protocol.errors import CALL_TIMEOUT, INVALID_PARAMS, OUTCOME_UNKNOWN, OVERLOADED
from protocol.limits import INTERACTION_S, KEPT_FETCHED_S, KEPT_S
from protocol.tasks import EXTENSION, KEPT, topic
from protocol.versions import Era
from tests.peers.raw_server import RawServer, Reply, Request
from tests.workers.backend.harness import Backend, FakeFront, Json, Pending, backend
from tests.workers.backend.test_questions import Asking, question
from tests.workers.backend.test_watches import Hearing
from workers.backend import calls, kept_tasks

AFTER_S = 10.0
BOTH = pytest.mark.parametrize("era", ["legacy", "modern"])
DONE: Json = {"content": [{"type": "text", "text": "done"}], "odd": 1.5}


class Slow:
    """A server of one era whose tool takes as long as the test says."""

    def __init__(self, era: str, result: Json | None = None, **more: Any) -> None:
        self.finish = trio.Event()
        self.result = DONE if result is None else result
        self.server = RawServer(era=era, on={"tools/call": self._call}, **more)

    async def _call(self, request: Request, reply: Reply) -> None:
        await self.finish.wait()
        await reply.result(self.result)


class Late(Asking):
    """A legacy server that asks once it is told to."""

    def __init__(self, *messages: Json, answers: int = 1) -> None:
        super().__init__(*messages, answers=answers)
        self.released = trio.Event()

    async def _call(self, request: Request, reply: Reply) -> None:
        await self.released.wait()
        await super()._call(request, reply)


@asynccontextmanager
async def worker(server: RawServer, **limits: Any) -> AsyncIterator[tuple[RawServer, Backend]]:
    """Run a worker that keeps calls after ten seconds, on the mock clock."""
    with trio.fail_after(30_000):
        async with trio.open_nursery() as nursery:
            running = await nursery.start(server.serve)
            async with backend(running.url, **({"durable_after_s": AFTER_S} | limits)) as one:
                await one.front.wait_state("ready")
                yield running, one
            nursery.cancel_scope.cancel()


async def kept(call: Pending) -> str:
    """Wait until a call has become a task; return its id."""
    outcome = await call.done()
    assert isinstance(outcome.header, link.TaskCreated), outcome
    assert outcome.header.is_kept
    task = json.loads(outcome.payload)
    assert (task["resultType"], task["status"]) == ("task", "working")
    assert task["ttlMs"] == KEPT_S * 1000
    assert task["createdAt"] <= task["lastUpdatedAt"]
    return task["taskId"]


async def ask(front: FakeFront, task_id: str, what: str = "get", **params: Any) -> Json:
    pending = front._new()
    front.send(link.TaskAsk(pending.id, task_id, f"tasks/{what}"), json.dumps(params).encode())
    outcome = await pending.done()
    return json.loads(outcome.payload)


async def until(front: FakeFront, task_id: str, status: str) -> Json:
    while (task := await ask(front, task_id))["status"] != status:
        assert task["status"] not in ("completed", "failed", "cancelled"), task
        await trio.sleep(0.1)
    assert (task["taskId"], task["resultType"]) == (task_id, "complete")
    return task


# --- from call to task -----------------------------------------------------------------------------------------------
@BOTH
async def test_a_call_that_takes_long_becomes_a_task_and_its_result_is_kept(era: str, autojump_clock: MockClock):
    slow = Slow(era)
    async with worker(slow.server) as (_, one):
        began = trio.current_time()
        task_id = await kept(one.front.call(abilities=TASKS, timeout_s=60.0))
        assert AFTER_S <= trio.current_time() - began < AFTER_S + 1
        assert (await ask(one.front, task_id))["status"] == "working"
        await trio.sleep(600.0)  # far longer than the call would have had
        slow.finish.set()
        task = await until(one.front, task_id, "completed")
        assert task["result"] == {**DONE, "resultType": "complete"}


async def test_a_task_outlives_the_front_that_its_call_came_from(autojump_clock: MockClock):
    slow = Slow("legacy")
    async with worker(slow.server) as (_, one):
        task_id = await kept(one.front.call(abilities=TASKS, timeout_s=60.0))
        one.front.end.close()
        await one.front.closed.wait()
        other = one.attach()
        slow.finish.set()
        assert (await until(other, task_id, "completed"))["result"]["content"] == DONE["content"]


@BOTH
async def test_who_takes_no_tasks_waits_as_ever(era: str, autojump_clock: MockClock):
    slow = Slow(era)
    async with worker(slow.server) as (_, one):
        calls = [one.front.call(timeout_s=60.0), one.front.call(era=Era.LEGACY, abilities=TASKS, timeout_s=60.0)]
        quick = one.front.call(method="prompts/get", abilities=TASKS, timeout_s=60.0)
        await trio.sleep(AFTER_S * 2)
        assert [call.outcome for call in calls] == [None, None]
        slow.finish.set()
        for call in calls:
            assert (await call.done()).result["content"] == DONE["content"]
        assert isinstance((await quick.done()).header, link.Fault)


async def test_a_server_that_has_tasks_decides_by_itself(autojump_clock: MockClock):
    slow = Slow("modern")

    async def discover(request: Request, reply: Reply) -> None:
        capabilities = {"tools": {}, "extensions": {EXTENSION: {}}}
        await reply.result({"supportedVersions": ["2026-07-28"], "capabilities": capabilities, "ttlMs": 0})

    slow.server.on["server/discover"] = discover
    async with worker(slow.server) as (_, one):
        call = one.front.call(abilities=TASKS, timeout_s=60.0)
        await trio.sleep(AFTER_S * 2)
        assert call.outcome is None
        slow.finish.set()
        await call.done()


async def test_without_being_told_to_no_worker_keeps_anything(autojump_clock: MockClock):
    slow = Slow("modern")
    async with worker(slow.server, durable_after_s=0.0) as (_, one):
        assert f"extensions.{EXTENSION}" not in (one.front.states[-1].offers or [])
        call = one.front.call(abilities=TASKS, timeout_s=60.0)
        assert (await call.done()).fault.code == CALL_TIMEOUT
    async with worker(Slow("modern").server) as (_, one):
        assert f"extensions.{EXTENSION}" in (one.front.states[-1].offers or [])


# --- how tasks end ---------------------------------------------------------------------------------------------------
@BOTH
async def test_a_task_that_is_cancelled_is_cancelled_at_the_server(era: str, autojump_clock: MockClock):
    slow = Slow(era)
    async with worker(slow.server) as (server, one):
        task_id = await kept(one.front.call(abilities=TASKS, timeout_s=60.0))
        (request,) = server.received("tools/call")
        assert await ask(one.front, task_id, "cancel") == {"resultType": "complete"}
        assert (await ask(one.front, task_id))["status"] == "cancelled"
        assert await ask(one.front, task_id, "cancel") == {"resultType": "complete"}
        if era == "legacy":
            (cancelled,) = await server.wait_for("notifications/cancelled")
            assert cancelled.params["requestId"] == request.message["id"]
        else:
            slow.finish.set()
            await server.wait_until_closed(request.connection)


async def test_an_error_of_the_server_fails_the_task(autojump_clock: MockClock):
    released = trio.Event()

    async def fail(request: Request, reply: Reply) -> None:
        await released.wait()
        await reply.error(-32002, "no such thing", data={"odd": 1.5})

    async with worker(RawServer(era="legacy", on={"tools/call": fail})) as (_, one):
        task_id = await kept(one.front.call(abilities=TASKS, timeout_s=60.0))
        released.set()
        task = await until(one.front, task_id, "failed")
        assert task["error"] == {"code": INVALID_PARAMS, "message": "no such thing", "data": {"odd": 1.5}}


async def test_a_task_ends_after_as_long_as_a_call_may_take_and_is_forgotten_in_the_end(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(calls, "CALL_CEILING_S", 200.0)  # an hour is long, also on this clock
    slow = Slow("modern")
    async with worker(slow.server) as (_, one):
        task_id = await kept(one.front.call(abilities=TASKS, timeout_s=60.0))
        await trio.sleep(200.0)
        task = await until(one.front, task_id, "failed")
        assert (task["error"]["code"], "main" in task["statusMessage"]) == (CALL_TIMEOUT, True)
        await trio.sleep(KEPT_FETCHED_S / 2)
        assert (await ask(one.front, task_id))["ttlMs"] < KEPT_S * 1000
        await trio.sleep(KEPT_FETCHED_S)
        error = await ask(one.front, task_id)
        assert (error["code"], "not found" in error["message"]) == (INVALID_PARAMS, True)


async def test_a_task_of_a_worker_that_is_gone_has_failed_and_nobody_knows_what_became_of_it():
    async with worker(RawServer()) as (_, one):
        lost = f"{KEPT}1f.2a.{1_700_000_000_000:x}"
        task = await ask(one.front, lost)
        assert (task["status"], task["error"]["code"]) == ("failed", OUTCOME_UNKNOWN)
        assert task["createdAt"] == "2023-11-14T22:13:20.000Z"
        assert '"main"' in task["error"]["message"]
        for what in ("cancel", "update"):
            assert (await ask(one.front, lost, what, inputResponses={}))["code"] == INVALID_PARAMS


# --- questions -------------------------------------------------------------------------------------------------------
async def test_what_a_legacy_server_asks_is_input_that_its_task_requires(autojump_clock: MockClock):
    asking = Late(question(7), question(8), answers=2)
    async with worker(asking.server) as (_, one):
        task_id = await kept(one.front.call(abilities=TASKS | FORM, timeout_s=60.0))
        asking.released.set()
        task = await until(one.front, task_id, "input_required")
        while len(task["inputRequests"]) < 2:
            task = await ask(one.front, task_id)
        first, second = task["inputRequests"]
        assert task["inputRequests"][first]["method"] == "elicitation/create"
        await ask(one.front, task_id, "update", inputResponses={first: {"action": "decline"}, "other": {}})
        assert list((await ask(one.front, task_id))["inputRequests"]) == [second]
        await ask(one.front, task_id, "update", inputResponses={first: {}, second: {"action": "cancel"}})
        assert (await until(one.front, task_id, "completed"))["result"]["content"] == []
        assert [(each["id"], each["result"]["action"]) for each in asking.answers] == [(7, "decline"), (8, "cancel")]


async def test_what_a_modern_server_asks_is_answered_by_making_the_request_again(autojump_clock: MockClock):
    released = trio.Event()

    async def call(request: Request, reply: Reply) -> None:
        await released.wait()
        given = request.params.get("inputResponses", {})
        if len(given) == 0:
            asked = {"key": {"method": "elicitation/create", "params": {"message": "?", "requestedSchema": {}}}}
            await reply.result({"resultType": "input_required", "inputRequests": asked, "requestState": "s1"})
            return
        assert request.params["requestState"] == "s1"
        await reply.result({"content": [], "given": given})

    async with worker(RawServer(era="modern", on={"tools/call": call})) as (server, one):
        task_id = await kept(one.front.call(abilities=TASKS | FORM, timeout_s=60.0))
        released.set()
        task = await until(one.front, task_id, "input_required")
        (key,) = task["inputRequests"]
        await ask(one.front, task_id, "update", inputResponses={key: {"action": "accept", "content": {"a": 1}}})
        task = await until(one.front, task_id, "completed")
        assert task["result"]["given"] == {"key": {"action": "accept", "content": {"a": 1}}}
        assert len(server.received("tools/call")) == 2


async def test_a_question_that_nobody_answers_ends_the_task(autojump_clock: MockClock):
    asking = Late(question())
    async with worker(asking.server) as (_, one):
        task_id = await kept(one.front.call(abilities=TASKS | FORM, timeout_s=60.0))
        asking.released.set()
        await until(one.front, task_id, "input_required")
        await trio.sleep(INTERACTION_S + 1)
        assert (await until(one.front, task_id, "failed"))["error"]["code"] == OUTCOME_UNKNOWN
        assert await asking.answered() == {"jsonrpc": "2.0", "id": "s1", "result": {"action": "cancel"}}


# --- what is told ----------------------------------------------------------------------------------------------------
async def test_who_listens_is_told_of_each_change_and_of_what_has_ended_before(autojump_clock: MockClock):
    slow = Slow("modern")
    async with worker(slow.server) as (server, one):
        task_id = await kept(one.front.call(abilities=TASKS, timeout_s=60.0))
        hearing = Hearing(one.front)
        assert (await hearing.watch(topic("", task_id))).code == 0
        slow.finish.set()
        await hearing.heard(1)
        ((where, task),) = hearing.told
        assert where == topic("", task_id)
        assert (task["taskId"], task["status"], "resultType" in task) == (task_id, "completed", False)
        assert task["result"]["content"] == DONE["content"]
        hearing.told.clear()
        other = Hearing(one.attach())
        await other.watch(topic("", task_id))
        await other.watch(topic("", f"{KEPT}1.2.3"), 2)
        assert sorted(await other.heard(2)) == sorted([topic("", task_id), topic("", f"{KEPT}1.2.3")])
        assert [task for _, task in other.told] == [None, None]
        assert not [each for each in server.received("subscriptions/listen") if "taskIds" in str(each.params)]


async def test_progress_is_told_in_the_words_of_the_server(autojump_clock: MockClock):
    release = trio.Event()

    async def call(request: Request, reply: Reply) -> None:
        await reply.start_events()
        await release.wait()
        token = request.params["_meta"]["progressToken"]
        await reply.notify("notifications/progress", {"progressToken": token, "progress": 1, "message": "half way"})
        await trio.sleep_forever()

    async with worker(RawServer(era="modern", on={"tools/call": call})) as (_, one):
        task_id = await kept(one.front.call(abilities=TASKS, progress=True, timeout_s=60.0))
        hearing = Hearing(one.front)
        await hearing.watch(topic("", task_id))
        release.set()
        await hearing.heard(1)
        task = await ask(one.front, task_id)
        assert (task["status"], task["statusMessage"]) == ("working", "half way")
        await ask(one.front, task_id, "cancel")


# --- bounds ----------------------------------------------------------------------------------------------------------
async def test_where_there_is_no_room_for_a_task_the_call_stays_a_call(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(kept_tasks, "KEPT_RUNNING_MAX", 1)
    slow = Slow("modern")
    async with worker(slow.server) as (_, one):
        calls = [one.front.call(abilities=TASKS, timeout_s=60.0) for _ in range(2)]
        await kept(calls[0])
        await trio.sleep(AFTER_S)
        assert calls[1].outcome is None
        slow.finish.set()
        assert (await calls[1].done()).result["content"] == DONE["content"]


async def test_results_that_were_fetched_make_room_and_others_do_not(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(kept_tasks, "KEPT_BYTES_MAX", 2500)
    slow = Slow("modern", {"content": [], "pad": "x" * 1000})
    async with worker(slow.server) as (_, one):
        ids = [await kept(one.front.call(abilities=TASKS, timeout_s=60.0)) for _ in range(2)]
        slow.finish.set()
        await until(one.front, ids[0], "completed")
        slow.finish = trio.Event()
        third = await kept(one.front.call(abilities=TASKS, timeout_s=60.0))
        slow.finish.set()
        await until(one.front, third, "completed")
        assert (await ask(one.front, ids[0]))["code"] == INVALID_PARAMS, "it was fetched, and has made room"
        slow.finish = trio.Event()
        monkeypatch.setattr(kept_tasks, "KEPT_BYTES_MAX", 100)
        fourth = await kept(one.front.call(abilities=TASKS, timeout_s=60.0))
        slow.finish.set()
        task = await until(one.front, fourth, "failed")
        assert task["error"]["code"] == OVERLOADED
        assert one.worker._kept.held_bytes < 2 * 1000


async def test_a_worker_that_leaves_cancels_what_it_keeps(autojump_clock: MockClock):
    slow = Slow("legacy")
    async with worker(slow.server) as (server, one):
        await kept(one.front.call(abilities=TASKS, timeout_s=60.0))
        await one.worker.drain(0.0)
        assert len(await server.wait_for("notifications/cancelled")) == 1


def test_the_bounds_leave_room_for_other_calls():
    assert limits.KEPT_RUNNING_MAX < limits.POOL_CONNECTIONS_MAX
    assert limits.KEPT_BYTES_MAX >= limits.ANSWER_BYTES_MAX
    assert limits.KEPT_BYTES_MAX < limits.MEMORY_LIMIT_BYTES
