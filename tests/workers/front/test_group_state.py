"""What stays with one replica of a group because nobody else knows of it, and what becomes of it when that one dies."""

from __future__ import annotations

import pytest
from trio.testing import MockClock, wait_all_tasks_blocked

from protocol import link
from protocol.control import ServerDown
from protocol.errors import INVALID_PARAMS, OUTCOME_UNKNOWN, SERVER_UNAVAILABLE
from protocol.limits import RESTART_WAIT_S
from tests.workers.front.test_group import call, error_of, holders, names, running_group, serve_all
from tests.workers.front.test_subscriptions import OFFERS, event, session, update
from tests.workers.front.test_tasks import CREATED, DECLARED, DONE, asks, offering
from tests.workers.scripted import Client, Front, Json, ScriptedWorker, advance

RESULT: Json = {"content": []}
UPDATED = "notifications/resources/updated"


async def crash(front: Front, name: str, *, retry_after_s: float = 0.5) -> ScriptedWorker:
    """Let the worker of a replica die, and return it: its next life can be attached. Negative: it is parked."""
    worker = front.servers[name]
    worker.die()
    await worker.until(lambda: worker.closed)
    front.worker.obey(ServerDown(name, retry_after_s))
    await wait_all_tasks_blocked()
    return worker


# --- tasks -----------------------------------------------------------------------------------------------------------
@pytest.mark.case("C-02")
async def test_a_question_about_a_task_waits_for_the_next_worker_of_its_replica_and_goes_to_no_other(
    mock_clock: MockClock,
):
    async with running_group() as front:
        await offering(front)
        client = await front.client()
        await client.modern_call("search__write", **DECLARED)
        await wait_all_tasks_blocked()
        (name,) = holders(front)
        header, _ = await front.servers[name].call()
        front.servers[name].send(link.TaskCreated(header.id), CREATED)
        handle = (await client.answer()).json["result"]["taskId"]

        for before in (True, False):  # it dies with the question, or has died before it
            if before:
                await asks(client, "get", handle)
                await front.servers[name].call()
            worker = await crash(front, name)
            if not before:
                await asks(client, "get", handle)
                await wait_all_tasks_blocked()
            assert holders(front) == []
            worker.closed.clear()
            worker.attach(front.worker)
            header, _ = await worker.call()
            worker.answer(header, {**DONE, "resultType": "complete"})
            assert (await client.answer()).json["result"]["status"] == "completed"

        await crash(front, name, retry_after_s=-1.0)
        await asks(client, "get", handle)
        refused = error_of(await client.answer())
        assert (refused["code"], refused["data"]["server"]) == (SERVER_UNAVAILABLE, name)
        assert f'server "{name}" is parked' in refused["message"]
        assert holders(front) == []


# --- interactions ----------------------------------------------------------------------------------------------------
async def held(front: Front, interaction: int) -> tuple[Client, str, Json]:
    """Have a replica ask a modern client; return who asked, and the request that goes on with it."""
    client = await call(front, "read")
    (name,) = holders(front)
    header, _ = await front.servers[name].call()
    needed: Json = {"resultType": "input_required", "inputRequests": {"q": {"method": "elicitation/create"}}}
    front.servers[name].send(link.NeedInput(header.id, interaction), needed)
    state = (await client.answer()).json["result"]["requestState"]
    return client, name, {"name": "search__read", "arguments": {}, "requestState": state, "inputResponses": {}}


@pytest.mark.case("B-23")
async def test_a_call_that_is_held_for_an_answer_goes_on_at_its_replica_or_is_refused_by_name(mock_clock: MockClock):
    async with running_group() as front:
        await names(front)
        client, name, retry = await held(front, 77)
        worker = await crash(front, name)
        await client.modern("tools/call", retry)
        await wait_all_tasks_blocked()
        worker.closed.clear()
        worker.attach(front.worker)
        resume = await worker.frame(link.Resume)
        assert resume.interaction == 77
        worker.send(link.Fault(resume.id, INVALID_PARAMS, f'server "{name}" does not wait', True, 0, 1), b"")
        assert error_of(await client.answer())["message"] == f'server "{name}" does not wait'
        assert holders(front) == []

        client, name, retry = await held(front, 78)
        await crash(front, name)
        await client.modern("tools/call", retry)
        await advance(mock_clock, RESTART_WAIT_S + 0.5)
        refused = error_of(await client.answer())
        assert (refused["code"], refused["data"]["server"]) == (SERVER_UNAVAILABLE, name)
        assert refused["data"]["retryable"] is True
        assert f'server "{name}": its worker process is being restarted' in refused["message"]

        front.worker.obey(ServerDown(name, -1.0))
        await client.modern("tools/call", retry)
        assert f'server "{name}" is parked' in error_of(await client.answer())["message"]
        assert holders(front) == []


@pytest.mark.case("B-23")
async def test_a_call_in_which_a_legacy_client_was_asked_ends_with_its_replica_though_it_only_reads():
    async with running_group() as front:
        await names(front)
        client = await front.client("2025-11-25")
        await client.call("search__read")
        await wait_all_tasks_blocked()
        (name,) = holders(front)
        header, _ = await front.servers[name].call()
        front.servers[name].send(link.Ask(header.id, 5, "elicitation/create"), {"message": "?"})
        await client.head()
        question = await client.event()
        assert question is not None
        await crash(front, name)
        told = [await event(client), await event(client)]
        assert (told[0]["method"], told[0]["params"]["requestId"]) == ("notifications/cancelled", question["id"])
        assert (told[1]["error"]["code"], told[1]["error"]["data"]["server"]) == (OUTCOME_UNKNOWN, name)
        assert holders(front) == []


# --- subscriptions ---------------------------------------------------------------------------------------------------
async def test_when_a_replica_dies_the_others_go_on_telling_and_its_next_worker_is_asked_to(autojump_clock: MockClock):
    async with running_group("one", "two") as front:
        one, two = front.servers["one"], front.servers["two"]
        for worker in (one, two):
            worker.resources = [{"uri": "a:1", "name": "a"}]
            worker.offers = OFFERS
            worker.state("ready")
        client, stream = await session(front)
        await client.legacy("resources/subscribe", {"uri": "a:1"})
        for worker in (one, two):
            watch = await worker.frame(link.Watch)
            worker.send(link.Watching(watch.id, 0, ""))
        assert (await client.answer()).json["result"] == {}

        async def told(number: int) -> None:
            while (message := await event(stream))["method"] != UPDATED:
                pass
            assert message["params"]["number"] == number

        await crash(front, "one")
        update(two, "a:1", number=1)
        await told(1)
        one.closed.clear()
        one.attach(front.worker)
        watch = await one.frame(link.Watch)
        assert watch.uri == "a:1"
        one.send(link.Watching(watch.id, 0, ""))
        update(one, "a:1", number=2)
        await told(2)
        await crash(front, "two")
        update(one, "a:1", number=3)
        await told(3)


# --- sessions --------------------------------------------------------------------------------------------------------
async def test_the_calls_of_a_session_whose_replica_dies_go_on_together_at_another_one():
    async with running_group(policy="sticky") as front:
        clients = [await front.client("2025-11-25") for _ in range(9)]

        async def served_by(client: Client) -> str:
            await client.call("search__write")
            await wait_all_tasks_blocked()
            await serve_all(front)
            return (await client.answer()).json["result"]["from"]

        before = [await served_by(client) for client in clients]
        gone = before[0]
        await crash(front, gone)
        after = [await served_by(client) for client in clients]
        assert gone not in after
        assert [await served_by(client) for client in clients] == after
        assert [new for old, new in zip(before, after, strict=True) if old != gone] == [
            old for old in before if old != gone
        ]
