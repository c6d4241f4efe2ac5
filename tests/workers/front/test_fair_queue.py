"""Clients take turns at a busy server."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from protocol.versions import Era
from tests.workers.scripted import envelope, post, running_front
from workers.front.calls import FrontCall
from workers.front.fair_queue import FairQueue


class NoReply:
    """Nobody is answered here."""

    call: Any = None

    def __init__(self, client: str = "") -> None:
        self.client = client


def call_of(client: dict[bytes, FrontCall] | None, number: int = 0, address: str = "") -> FrontCall:
    call = FrontCall(
        NoReply(address), b"%d" % number, Era.LEGACY, "", "tools/call", "echo", b"{}",  # type: ignore[arg-type]
        meta=b"", client_info=b"", progress_token=b"", log_level="", deadline=0.0,
    )  # fmt: skip
    if client is not None:
        call.in_flight = client
        client[call.request_id] = call
    return call


def drained(queue: FairQueue) -> list[FrontCall]:
    return [queue.take() for _ in range(len(queue))]


def test_clients_take_turns_and_each_ones_calls_keep_their_order():
    queue = FairQueue(100)
    greedy, modest = {}, {}
    many = [call_of(greedy, number) for number in range(5)]
    few = [call_of(modest, number) for number in range(2)]
    alone = call_of(None)
    for call in (*many, *few, alone):
        assert queue.add(call) is None
    assert list(queue) == [*many, *few, alone]
    assert drained(queue) == [many[0], few[0], alone, many[1], few[1], many[2], many[3], many[4]]
    assert not queue


def test_who_has_had_a_turn_waits_for_the_others_also_if_it_comes_back():
    queue = FairQueue(100)
    greedy, modest = {}, {}
    for number in range(3):
        queue.add(call_of(greedy, number))
    first = call_of(modest, 1)
    queue.add(first)
    assert queue.take().in_flight is greedy
    assert queue.take() is first
    again = call_of(modest, 2)
    queue.add(again)
    assert queue.take().in_flight is greedy
    assert queue.take() is again


@pytest.mark.case("D-30")
def test_in_a_full_queue_a_newcomer_takes_the_last_place_of_whoever_has_the_most():
    queue = FairQueue(10)
    greedy, modest = {}, {}
    calls = [call_of(greedy, number) for number in range(11)]
    assert [queue.add(call) for call in calls[:10]] == 10 * [None]
    assert queue.add(calls[10]) is calls[10], "who has the most gets nothing by asking for more"
    newcomers = [call_of(modest, number) for number in range(6)]
    assert [queue.add(call) for call in newcomers] == [*reversed(calls[5:10]), newcomers[5]]
    assert len(queue) == 10


def test_a_call_can_be_taken_out_after_it_has_left_its_client():
    queue = FairQueue(10)
    client = {}
    one, other = call_of(client, 1), call_of(client, 2)
    queue.add(one)
    queue.add(other)
    one.leave()
    assert one in queue
    queue.remove(one)
    assert one not in queue
    assert drained(queue) == [other]


@given(st.lists(st.tuples(st.sampled_from(["add", "take", "remove"]), st.integers(0, 4)), max_size=200))
def test_whatever_happens_calls_are_neither_lost_nor_doubled_and_nobody_waits_for_two_turns_of_another(steps):
    queue = FairQueue(12)
    clients: list[dict[bytes, FrontCall]] = [{} for _ in range(5)]
    inside: list[FrontCall] = []
    passed: Counter[int] = Counter()
    """By client that waits, how many turns in a row others have had."""
    for number, (step, which) in enumerate(steps):
        client = clients[which]
        if step == "add":
            call = call_of(client, number)
            out = queue.add(call)
            inside.append(call)
            if out is not None:
                inside.remove(out)
        elif step == "take" and inside:
            call = queue.take()
            inside.remove(call)
            own = clients.index(call.in_flight or {})
            passed[own] = 0
            for other in range(5):
                if other != own and any(one.in_flight is clients[other] for one in inside):
                    passed[other] += 1
                    assert passed[other] <= 4
                else:
                    passed[other] = 0
        elif step == "remove":
            mine = [one for one in inside if one.in_flight is client]
            if mine:
                queue.remove(mine[0])
                inside.remove(mine[0])
        assert list(queue) == inside
        assert len(queue) == len(inside) <= 12


@pytest.mark.case("D-30")
@pytest.mark.promise("R09")
async def test_a_client_with_95_percent_of_the_load_does_not_starve_another(mock_clock: MockClock):
    async with running_front(calls=2) as front:
        greedy, modest = await front.client("2025-03-26"), await front.client()
        batch = [envelope("tools/call", {"name": "main__echo", "arguments": {"by": "greedy"}}, n) for n in range(57)]
        await greedy.send(post(batch, greedy.legacy_headers))
        await wait_all_tasks_blocked()
        await modest.modern("tools/call", {"name": "main__echo", "arguments": {"by": "modest"}})
        await wait_all_tasks_blocked()

        served = []
        for _ in range(4):
            call, params = await front.main.call()
            served.append(params["arguments"]["by"])
            front.main.answer(call, {"content": []})
        assert served == [
            "greedy",
            "greedy",
            "greedy",
            "modest",
        ]  # two were under way, and it was the greedy one's turn
        assert (await modest.answer()).json["result"]["content"] == []


@pytest.mark.case("D-30", "A-22")
async def test_a_client_that_fills_the_queue_is_refused_in_favour_of_others(mock_clock: MockClock):
    async with running_front(calls=1) as front:
        greedy = await front.client("2025-03-26")
        for start in range(0, 320, 64):
            batch = [envelope("tools/call", {"name": "main__echo"}, start + number) for number in range(64)]
            one = await front.client()
            await one.send(post(batch, greedy.legacy_headers))
            await wait_all_tasks_blocked()
        modest = await front.client()
        await modest.modern("tools/call", {"name": "main__echo", "arguments": {"by": "modest"}})
        await wait_all_tasks_blocked()
        for _ in range(3):
            call, params = await front.main.call()
            front.main.answer(call, {"content": []})
        assert params["arguments"] == {"by": "modest"}
        assert (await modest.answer()).json["result"]["content"] == []


def test_calls_from_one_address_are_one_clients_whatever_sessions_it_has():
    queue = FairQueue(100)
    many = [call_of({}, number, "2001:db8::1" if number else "2001:db8::2") for number in range(3)]
    other = call_of(None, 9, "192.0.2.1")
    for call in (*many, other):
        queue.add(call)
    assert drained(queue) == [many[0], other, many[1], many[2]]
