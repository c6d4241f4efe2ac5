"""A read-only call that takes long is given to a second replica: one answer, and nothing is written twice."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from trio.testing import MockClock, wait_all_tasks_blocked

from protocol import link
from protocol.control import GroupInfo, GroupReport, Groups
from protocol.errors import OUTCOME_UNKNOWN, SERVER_UNAVAILABLE
from protocol.limits import HEDGE_FLOOR, HEDGE_SAMPLES_MIN, HEDGE_SHARE, RETRIES
from tests.workers.scripted import Client, Front, Json, ScriptedWorker, advance, running_front

USUAL_S = 0.1
TOOLS: list[Json] = [
    {"name": "read", "inputSchema": {}, "annotations": {"readOnlyHint": True}},
    {"name": "idempotent", "inputSchema": {}, "annotations": {"idempotentHint": True}},
    {"name": "write", "inputSchema": {}},
]


@asynccontextmanager
async def hedging(clock: MockClock, *tools: str, hedge: bool = True, trust: bool = True) -> AsyncIterator[Front]:
    """Run a group of two of which these tools ("read" if none is named) are known to take `USUAL_S`."""
    async with running_front(
        "one",
        "two",
        groups=[GroupInfo("search", "round_robin", hedge=hedge)],
        groups_of=dict.fromkeys(("one", "two"), "search"),
        limits={"trust_annotations": trust},
    ) as front:
        for worker in front.servers.values():
            worker.tools = TOOLS
        client = await front.client()
        await client.modern("tools/list")
        await client.answer()
        for tool in tools or ("read",):
            clients = [await call(front, tool) for _ in range(HEDGE_SAMPLES_MIN)]
            await advance(clock, USUAL_S, step_s=USUAL_S)
            for worker in front.servers.values():
                for header, _ in worker.calls:
                    worker.answer(header, {"content": []})
                worker.calls.clear()
            for one in clients:
                await one.answer()
        yield front


async def call(front: Front, tool: str = "read", **meta: object) -> Client:
    client = await front.client()
    await client.modern_call(f"search__{tool}", **meta)
    await wait_all_tasks_blocked()
    return client


def holding(front: Front) -> list[ScriptedWorker]:
    return [worker for worker in front.servers.values() if worker.calls]


async def hedged(front: Front, clock: MockClock, **meta: object) -> tuple[Client, ScriptedWorker, ScriptedWorker]:
    """Return a client whose call has become late, the replica that has it, and the one that has the copy."""
    client = await call(front, **meta)
    (first,) = holding(front)
    await advance(clock, USUAL_S - 0.01, step_s=0.005)
    assert holding(front) == [first], "it is not late yet"
    await advance(clock, 0.03, step_s=0.005)
    (second,) = [worker for worker in holding(front) if worker is not first]
    return client, first, second


async def answer(worker: ScriptedWorker) -> None:
    header, _ = await worker.call()
    worker.answer(header, {"from": worker.name})
    await wait_all_tasks_blocked()


@pytest.mark.promise("R04")
@pytest.mark.parametrize("winner", ["first", "second"])
async def test_the_first_answer_counts_and_the_other_replica_is_told_to_stop(mock_clock: MockClock, winner: str):
    async with hedging(mock_clock) as front:
        client, first, second = await hedged(front, mock_clock)
        quick, slow = (first, second) if winner == "first" else (second, first)
        (late, _), *_ = slow.calls
        await answer(quick)
        assert (await client.answer()).json["result"]["from"] == quick.name
        assert (await slow.frame(link.Cancel)).id == late.id
        slow.answer(late, {"from": slow.name})  # what was on its way already
        await wait_all_tasks_blocked()
        await client.modern("tools/list", request_id=2)
        assert (await client.answer()).json["id"] == 2, "no second answer has come in between"
        assert not [frame for frame in quick.frames if isinstance(frame, link.Cancel)]


@pytest.mark.promise("R04", "R07")
@pytest.mark.parametrize("tool", ["write", "idempotent"])
async def test_what_may_change_something_is_never_given_to_two(mock_clock: MockClock, tool: str):
    async with hedging(mock_clock, tool) as front:
        await call(front, tool)
        (first,) = holding(front)
        await advance(mock_clock, 20 * USUAL_S, step_s=0.05)
        assert holding(front) == [first]


@pytest.mark.parametrize("settings", [{"hedge": False}, {"trust": False}])
async def test_it_is_off_unless_wanted_and_tools_that_are_not_believed_are_not_hedged(
    mock_clock: MockClock, settings: dict[str, bool]
):
    async with hedging(mock_clock, **settings) as front:
        await call(front)
        await advance(mock_clock, 5 * USUAL_S, step_s=0.05)
        assert len(holding(front)) == 1


async def test_it_can_be_switched_off_while_calls_are_under_way(mock_clock: MockClock):
    async with hedging(mock_clock) as front:
        await call(front)
        front.worker.obey(Groups([GroupInfo("search", "round_robin")]))
        await advance(mock_clock, 5 * USUAL_S, step_s=0.05)
        assert len(holding(front)) == 1


@pytest.mark.promise("R04")
async def test_if_one_fails_the_other_is_what_is_left_of_the_call(mock_clock: MockClock):
    async with hedging(mock_clock) as front:
        client, first, second = await hedged(front, mock_clock)
        header, _ = await first.call()
        first.fault(header, OUTCOME_UNKNOWN, "closed the connection", sent=True)
        await wait_all_tasks_blocked()
        assert holding(front) == [second]
        await answer(second)
        assert (await client.answer()).json["result"]["from"] == second.name


@pytest.mark.promise("R04")
async def test_if_both_fail_there_is_one_error(mock_clock: MockClock):
    async with hedging(mock_clock) as front:
        client, first, second = await hedged(front, mock_clock)
        for worker, sent in ((second, True), (first, False)):
            header, _ = await worker.call()
            worker.fault(header, OUTCOME_UNKNOWN if sent else SERVER_UNAVAILABLE, "closed", sent=sent)
            await wait_all_tasks_blocked()
        error = (await client.answer()).json["error"]
        assert error["code"] == OUTCOME_UNKNOWN, "the other one may have executed it"
        assert holding(front) == []


@pytest.mark.promise("R04")
@pytest.mark.case("C-01")
async def test_if_the_worker_of_one_dies_the_other_answers(mock_clock: MockClock):
    async with hedging(mock_clock) as front:
        client, first, second = await hedged(front, mock_clock)
        first.die()
        first.calls.clear()
        await wait_all_tasks_blocked()
        await answer(second)
        assert (await client.answer()).json["result"]["from"] == second.name
        first.attach(front.worker)
        await wait_all_tasks_blocked()
        assert first.calls == [], "it does not wait for the next worker any more"


@pytest.mark.promise("R04", "R07")
@pytest.mark.case("C-01")
async def test_a_call_is_not_tried_more_often_because_there_were_two_copies(mock_clock: MockClock):
    async with hedging(mock_clock) as front:
        client, first, second = await hedged(front, mock_clock)
        tries = 1
        for worker in (first, second, *([first] * (RETRIES - 1))):
            worker.die()
            worker.calls.clear()
            worker.attach(front.worker)
            await wait_all_tasks_blocked()
            tries += sum(len(one.calls) for one in holding(front))
        assert tries == 1 + RETRIES
        assert (await client.answer()).json["error"]["code"] == OUTCOME_UNKNOWN


async def test_a_client_that_gives_up_gives_up_both(mock_clock: MockClock):
    async with hedging(mock_clock) as front:
        client, first, second = await hedged(front, mock_clock)
        await client.close()
        await wait_all_tasks_blocked()
        for worker in (first, second):
            (header, _), *_ = worker.calls
            assert (await worker.frame(link.Cancel)).id == header.id


async def test_who_speaks_first_is_the_one_that_the_client_hears(mock_clock: MockClock):
    async with hedging(mock_clock) as front:
        client, first, second = await hedged(front, mock_clock, progressToken="p")
        header, _ = second.calls[0]
        (late, _), *_ = first.calls
        second.notify(header, "notifications/progress", {"progressToken": header.id, "progress": 1})
        assert (await first.frame(link.Cancel)).id == late.id
        await answer(second)
        told = await client.answer()
        assert [event.get("method") for event in told.events] == ["notifications/progress", None]


async def test_a_session_that_cancels_after_the_copy_has_spoken_cancels_the_copy(mock_clock: MockClock):
    async with hedging(mock_clock) as front:
        client = await front.client("2025-11-25")
        lister = await front.client()
        lister.session, lister.version = client.session, client.version
        await lister.legacy("tools/list", {})
        await lister.answer()
        await client.call("search__read", request_id=5, _meta={"progressToken": "p"})
        await wait_all_tasks_blocked()
        (first,) = holding(front)
        await advance(mock_clock, USUAL_S + 0.02, step_s=0.005)
        (second,) = [worker for worker in holding(front) if worker is not first]
        header, _ = second.calls[0]
        second.notify(header, "notifications/progress", {"progressToken": header.id, "progress": 1})
        await first.frame(link.Cancel)
        canceller = await front.client()
        canceller.session, canceller.version = client.session, client.version
        await canceller.legacy("notifications/cancelled", {"requestId": 5}, None)
        assert (await second.frame(link.Cancel)).id == header.id


async def test_a_call_of_which_the_client_has_heard_is_not_hedged(mock_clock: MockClock):
    async with hedging(mock_clock) as front:
        await call(front, progressToken="p")
        (first,) = holding(front)
        header, _ = first.calls[0]
        first.notify(header, "notifications/progress", {"progressToken": header.id, "progress": 1})
        await advance(mock_clock, 5 * USUAL_S, step_s=0.05)
        assert holding(front) == [first]


async def test_no_more_than_a_share_of_the_calls_is_hedged(mock_clock: MockClock):
    async with hedging(mock_clock) as front:
        for number in range(40):
            await call(front, request_id=number)
        await advance(mock_clock, 3 * USUAL_S, step_s=0.05)
        copies = sum(len(worker.calls) for worker in front.servers.values()) - 40
        assert 1 <= copies <= HEDGE_SHARE * (HEDGE_SAMPLES_MIN + 40) + HEDGE_FLOOR
        await advance(mock_clock, 1.5, step_s=0.25)
        report = [one for one in front.reports if isinstance(one, GroupReport)][-1]
        assert sum(replica.hedged for replica in report.replicas) == copies


async def test_nobody_is_given_a_copy_if_no_other_would_send_it(mock_clock: MockClock):
    async with hedging(mock_clock) as front:
        await call(front)
        (first,) = holding(front)
        (other,) = [worker for worker in front.servers.values() if worker is not first]
        other.state("degraded")
        await advance(mock_clock, 5 * USUAL_S, step_s=0.05)
        assert holding(front) == [first]
