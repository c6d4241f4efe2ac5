"""What stays with one replica of a group because nobody else knows of it, and what becomes of it when that one dies."""

from __future__ import annotations

from collections import Counter

import pytest
from trio.testing import MockClock, wait_all_tasks_blocked

from protocol import link
from protocol.control import AddServer, ServerDown, ServerInfo
from protocol.errors import INVALID_PARAMS, OUTCOME_UNKNOWN, OVERLOADED, SERVER_UNAVAILABLE
from protocol.limits import QUEUE_DEADLINE_S, RECALL_S, RESTART_WAIT_S
from tests.workers.front.test_group import REPLICAS, call, error_of, holders, names, running_group, serve_all
from tests.workers.front.test_subscriptions import OFFERS, event, session, update
from tests.workers.front.test_tasks import CREATED, DECLARED, DONE, asks, offering
from tests.workers.scripted import Client, Front, Json, ScriptedWorker, advance, http
from workers.front import homes

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
ISOLATED: Json = {"is_isolated": True, "sessions_max": 8}
CLIENTS = 12


async def served_by(front: Front, *clients: Client) -> list[str]:
    """Have each of them make a call; return who has answered them."""
    found: list[str] = []
    for client in clients:
        await client.call("search__write")
        await wait_all_tasks_blocked()
        await serve_all(front)
        found.append((await client.answer()).json["result"]["from"])
    return found


async def test_the_calls_of_a_session_whose_replica_dies_go_on_together_at_another_one():
    async with running_group(policy="sticky") as front:
        clients = [await front.client("2025-11-25") for _ in range(CLIENTS)]
        before = await served_by(front, *clients)
        gone = before[0]
        await crash(front, gone)
        after = await served_by(front, *clients)
        assert gone not in after
        assert await served_by(front, *clients) == after
        kept = [number for number, name in enumerate(before) if name != gone]
        assert [after[number] for number in kept] == [before[number] for number in kept]


@pytest.mark.parametrize("policy", ["least_loaded", "round_robin", "sticky"])
async def test_where_clients_have_sessions_of_their_own_each_stays_with_its_replica_whatever_the_policy(policy: str):
    async with running_group(policy=policy, limits=ISOLATED) as front:
        clients = [await front.client("2025-11-25") for _ in range(CLIENTS)]
        begun = await served_by(front, *clients)
        assert len(set(begun)) > 1
        front.worker.obey(AddServer(ServerInfo("late", "", group="search", is_isolated=True), 2))
        late = front.servers["late"] = ScriptedWorker(front.reactor, "late")
        late.attach(front.worker)
        await wait_all_tasks_blocked()
        assert await served_by(front, *clients) == begun, "a replica more moves nobody"

        gone = begun[0]
        worker = await crash(front, gone)
        after = await served_by(front, *clients)
        assert gone not in after
        kept = [number for number, name in enumerate(begun) if name != gone]
        assert [after[number] for number in kept] == [begun[number] for number in kept]
        worker.attach(front.worker)
        await wait_all_tasks_blocked()
        assert await served_by(front, *clients) == after, "their sessions are elsewhere now"


async def test_a_client_with_a_session_of_its_own_waits_for_its_replica_instead_of_beginning_anew_at_another(
    mock_clock: MockClock,
):
    async with running_group("one", "two", calls=1, limits=ISOLATED) as front:
        client = await front.client("2025-11-25")
        (home,) = await served_by(front, client)
        first, second = [await front.client() for _ in range(2)]

        async def call_twice() -> None:
            for number, one in enumerate((first, second)):
                one.session, one.version = client.session, client.version
                await one.call("search__write", request_id=number)
                await wait_all_tasks_blocked()

        await call_twice()
        await advance(mock_clock, RECALL_S + 0.3, step_s=0.1)
        assert holders(front) == [home], "the second waits for a place"
        assert not [frame for frame in front.servers[home].frames if isinstance(frame, link.Recall)]
        assert await serve_all(front) + await serve_all(front) == {home: 2}
        for one in (first, second):
            assert (await one.answer()).json["result"]["from"] == home

        await call_twice()
        await advance(mock_clock, QUEUE_DEADLINE_S + 0.3, step_s=0.1)
        assert holders(front) == [home]
        refused = error_of(await second.answer())
        assert (refused["code"], refused["data"]["server"]) == (OVERLOADED, home)


async def test_a_client_whose_replica_cannot_serve_it_begins_anew_where_it_was_served():
    async with running_group(limits=ISOLATED) as front:
        client = await front.client("2025-11-25")
        (home,) = await served_by(front, client)
        await client.call("search__write")
        header, _ = await front.servers[home].call()
        front.servers[home].fault(header, SERVER_UNAVAILABLE, "refused the connection", sent=False)
        await wait_all_tasks_blocked()
        ((new, _),) = (await serve_all(front)).items()
        assert new != home
        assert (await client.answer()).json["result"]["from"] == new
        assert await served_by(front, *[client] * 3) == [new] * 3


async def test_the_next_front_sends_clients_where_they_were():
    async with running_group(limits=ISOLATED) as front:
        clients = [await front.client("2025-11-25") for _ in range(CLIENTS)]
        found = await served_by(front, *clients)
        sessions = [client.session for client in clients]
    async with running_group(limits=ISOLATED) as front:
        clients = [await front.client() for _ in range(CLIENTS)]
        for client, session_id in zip(clients, reversed(sessions), strict=True):
            client.session, client.version = session_id, "2025-11-25"
        assert await served_by(front, *clients) == found[::-1]


async def test_who_cannot_be_told_from_others_is_served_by_all():
    async with running_group(limits=ISOLATED) as front:
        for number in range(6):
            await call(front, request_id=number)
        assert Counter(holders(front)) == dict.fromkeys(REPLICAS, 2)


def test_homes_are_bounded_and_forgotten_with_their_clients(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(homes, "HOMES_MAX", 3)
    kept = homes.Homes()
    for client in range(1, 5):
        kept.answered(client, f"replica {client}", ())
    assert [kept.of(client) for client in range(1, 5)] == ["", "replica 2", "replica 3", "replica 4"]
    kept.answered(2, "late", ())
    kept.answered(3, "taker", ("replica 3",))
    kept.leave(4)
    assert [kept.of(client) for client in (2, 3, 4)] == ["replica 2", "taker", ""]


async def test_a_client_that_ends_its_session_leaves_no_trace():
    async with running_group(limits=ISOLATED) as front:
        client = await front.client("2025-11-25")
        await served_by(front, client)
        known = front.worker._groups["search"]._choice._homes._by_client
        assert len(known) == 1
        await client.send(http("DELETE", client.legacy_headers))
        await client.answer()
        assert known == {}
