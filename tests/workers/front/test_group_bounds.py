"""How far a group of replicas goes: who gets calls when few are left, and how long and how often a call moves on."""

from __future__ import annotations

from collections import Counter

import pytest
from trio.testing import MockClock, wait_all_tasks_blocked

from protocol import link
from protocol.errors import CALL_TIMEOUT, OUTCOME_UNKNOWN, SERVER_UNAVAILABLE
from protocol.limits import (
    EJECTION_BASE_S,
    EJECTION_FAILURES,
    FAIL_BACK_S,
    REPLAY_FLOOR,
    REPLAY_SHARE,
    SLOW_START_S,
    STALL_CALLS_MIN,
    STALL_S,
)
from tests.workers.front.test_group import call, error_of, holders, names, report_of, running_group, serve_all
from tests.workers.scripted import Client, Front, advance


async def fail(front: Front, name: str, *, sent: bool = False) -> None:
    """Let a replica fail the oldest call that it has."""
    header, _ = await front.servers[name].call()
    code = OUTCOME_UNKNOWN if sent else SERVER_UNAVAILABLE
    front.servers[name].fault(header, code, f'server "{name}": no', sent=sent)
    await wait_all_tasks_blocked()


# --- who gets calls when few are left --------------------------------------------------------------------------------
async def eject(front: Front, *failing: str) -> None:
    """Let these fail until they get no calls."""
    for _ in range(8 * EJECTION_FAILURES):
        await call(front, "read")
        for name in failing:
            while front.servers[name].calls:
                await fail(front, name)
        await serve_all(front)


async def test_when_too_few_are_left_those_that_were_ejected_get_calls_again(mock_clock: MockClock):
    async with running_group("a", "b", "c", "d") as front:
        await names(front)
        await eject(front, "a", "b")
        await advance(mock_clock, 1.0, step_s=0.25)
        assert [one.ejected for one in report_of(front).replicas] == [True, True, False, False]
        for number in range(8):
            await call(front, "read", number)
        assert Counter(holders(front)) == {"c": 4, "d": 4}
        await serve_all(front)

        front.servers["d"].state("backoff")
        await wait_all_tasks_blocked()
        for number in range(9):
            await call(front, "read", number)
        assert Counter(holders(front)) == {"a": 3, "b": 3, "c": 3}, "one of four would have to bear everything"
        await serve_all(front)

        front.servers["d"].state("ready")
        await advance(mock_clock, SLOW_START_S - 6.0, step_s=1.0)
        await call(front, "read")
        assert holders(front)[0] in ("c", "d")


async def test_the_preferred_replica_gets_its_calls_back_when_it_has_worked_for_a_while(mock_clock: MockClock):
    async with running_group(policy="priority") as front:

        async def served() -> dict[str, int]:
            for number in range(4):
                await call(front, request_id=number)
            return await serve_all(front)

        assert await served() == {"one": 4}
        front.servers["one"].state("backoff")
        await wait_all_tasks_blocked()
        assert await served() == {"two": 4}
        front.servers["one"].state("ready")
        await advance(mock_clock, FAIL_BACK_S - 1.0)
        assert await served() == {"two": 4}
        front.servers["one"].state("backoff")
        await wait_all_tasks_blocked()
        front.servers["one"].state("ready")
        await advance(mock_clock, FAIL_BACK_S - 1.0)
        assert await served() == {"two": 4}, "it has been away once more"
        await advance(mock_clock, 1.5)
        assert await served() == {"one": 4}


# --- what was before an ejection -------------------------------------------------------------------------------------
@pytest.mark.parametrize("late", ["fails", "is answered"])
async def test_a_call_that_hangs_since_before_an_ejection_is_not_held_against_a_replica_that_is_back(
    mock_clock: MockClock, late: str
):
    async with running_group() as front:
        await names(front)
        one = front.servers["one"]
        for number in range(3 * STALL_CALLS_MIN):
            await call(front, "write", number)
        hung = [header for header, _ in one.calls]
        assert len(hung) == STALL_CALLS_MIN
        one.calls.clear()

        async def go_on(seconds: float) -> None:
            """Let the others answer everything meanwhile."""
            for _ in range(int(seconds / 0.25)):
                await call(front, "write")
                await serve_all_but(front, "one")
                await advance(mock_clock, 0.25, step_s=0.25)

        await go_on(STALL_S + 1.0)
        assert report_of(front).replicas[0].ejected
        await go_on(EJECTION_BASE_S + 1.0)
        assert not report_of(front).replicas[0].ejected
        for header in hung:
            if late == "fails":
                one.fault(header, CALL_TIMEOUT, "did not answer", sent=True)
            else:
                one.answer(header, {"from": "one"})
        await wait_all_tasks_blocked()
        one.calls.clear()
        while not one.calls:
            await call(front, "write")
            await serve_all_but(front, "one")
        await advance(mock_clock, 1.0, step_s=0.25)
        assert (report_of(front).replicas[0].ejected, report_of(front).replicas[0].ejections) == (False, 1)
        await fail(front, "one", sent=True)
        await advance(mock_clock, 1.0, step_s=0.25)
        assert report_of(front).replicas[0].ejections == 2, "it had not shown yet that it works"


async def serve_all_but(front: Front, silent: str) -> None:
    """Have the others answer; what this one has stays there."""
    kept, front.servers[silent].calls = front.servers[silent].calls, []
    await serve_all(front)
    front.servers[silent].calls = kept


# --- how far a call goes ---------------------------------------------------------------------------------------------
@pytest.mark.promise("R04")
async def test_a_call_that_moves_has_the_time_that_is_left_and_moves_no_more_when_it_is_over(mock_clock: MockClock):
    async with running_group(policy="priority", limits={"call_timeout_s": 0.4}) as front:
        client = await call(front)
        header, _ = front.servers["one"].calls[0]
        assert header.timeout_s == 0.4
        await advance(mock_clock, 0.3)
        await fail(front, "one")
        header, _ = front.servers["two"].calls[0]
        assert header.timeout_s == pytest.approx(0.1)
        await advance(mock_clock, 0.15)
        await fail(front, "two")
        assert front.servers["three"].calls == []
        assert error_of(await client.answer())["code"] == SERVER_UNAVAILABLE


@pytest.mark.promise("R04")
@pytest.mark.case("B-02")
@pytest.mark.parametrize(("tool", "is_copied"), [("read", True), ("write", False)])
async def test_a_read_that_hangs_alone_is_read_elsewhere_before_its_time_is_over(
    mock_clock: MockClock, tool: str, is_copied: bool
):
    """One call that hangs is no stall: it may take its time, and so goes on where it is, too."""
    async with running_group("one", "two", policy="priority", limits={"call_timeout_s": 8.0}) as front:
        await names(front)
        client = await call(front, tool)
        await advance(mock_clock, 3.5, step_s=0.25)
        assert holders(front) == ["one"]
        await advance(mock_clock, 1.0, step_s=0.25)
        assert holders(front) == (["one", "two"] if is_copied else ["one"])
        header, _ = front.servers["one"].calls[0]
        if is_copied:
            header, _ = await front.servers["two"].call()
            assert header.timeout_s <= 4.0
            front.servers["two"].answer(header, {"from": "two"})
            assert (await client.answer()).json["result"]["from"] == "two"
            await front.servers["one"].frame(link.Cancel)


@pytest.mark.promise("R07")
async def test_reads_that_take_long_while_others_of_their_replica_are_answered_are_read_once(mock_clock: MockClock):
    async with running_group("one", "two", policy="priority", limits={"call_timeout_s": 8.0}) as front:
        await names(front)
        slow = await call(front, "read", 1)
        header, _ = await front.servers["one"].call()
        for number in range(2, 9):
            quick = await call(front, "read", number)
            assert await serve_all(front) == {"one": 1}
            await quick.answer()
            await advance(mock_clock, 1.0, step_s=0.25)
        front.servers["one"].answer(header, {"from": "one"})
        assert (await slow.answer()).json["result"]["from"] == "one"


@pytest.mark.promise("R07")
async def test_no_more_calls_that_were_sent_go_to_others_than_the_budget_allows(mock_clock: MockClock):
    async with running_group(policy="priority") as front:
        await names(front)
        count = 40
        clients = [await call(front, "read", number) for number in range(count)]
        for _ in range(count):
            await fail(front, "one", sent=True)
        moved = len(front.servers["two"].calls)
        assert moved == REPLAY_SHARE * count + REPLAY_FLOOR
        served = await serve_all(front)
        answers = [await client.answer() for client in clients]
        assert served == {"two": moved}
        assert sum("result" in answer.json for answer in answers) == moved
        assert {error_of(answer)["code"] for answer in answers if "error" in answer.json} == {OUTCOME_UNKNOWN}


async def test_what_was_sent_to_one_and_not_to_the_next_is_said_to_be_unknown_and_not_that_a_worker_died():
    async with running_group("one", "two", policy="priority") as front:
        await names(front)
        client: Client = await call(front, "read")
        await fail(front, "one", sent=True)
        await fail(front, "two")
        error = error_of(await client.answer())
        assert (error["code"], error["data"]["sent"], error["data"]["server"]) == (OUTCOME_UNKNOWN, True, "two")
        assert error["message"].startswith('server "two": it could not take over the call, which had been sent before')
