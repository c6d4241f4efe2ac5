"""Servers that ask without naming a call: calls that may be asked something are kept apart, in sessions they lease."""

from __future__ import annotations

import json

import pytest
from trio.testing import MockClock

from protocol import link
from protocol.abilities import FORM
from protocol.limits import SESSION_IDLE_S
from protocol.link import AnswerKind
from protocol.versions import Era
from tests.waiting import eventually
from tests.workers.backend.harness import Backend
from tests.workers.backend.test_asking import ACCEPTED, answer, asked, asking_on_get, call, heard
from tests.workers.backend.test_commands import hostile, running, worker
from workers.backend import leased_sessions


async def ask_once(one: Backend) -> None:
    """Have the command ask something, after which it is known that it does."""
    pending = call(one, "first")
    await answer(one, pending)
    await heard(pending)


async def pid_of(one: Backend, client: int) -> str:
    return (await one.front.call("remember", era=Era.LEGACY, client=client).done()).text.partition(":")[0]


@pytest.mark.case("D-07")
@pytest.mark.promise("R18")
async def test_two_clients_that_are_asked_at_once_through_a_pipe_both_get_their_questions():
    async with worker(hostile()) as one:
        await ask_once(one)
        pending = {client: call(one, str(client), client=client) for client in (1, 2)}
        for client, each in pending.items():
            header, _ = (await asked(each))[0]
            told = json.dumps({"action": "accept", "content": {"who": client}}).encode()
            one.front.send(link.Answered(each.id, header.ask, AnswerKind.RESULT), told)
        for client, each in pending.items():
            assert await heard(each) == {
                "jsonrpc": "2.0", "id": f"q-{client}", "result": {"action": "accept", "content": {"who": client}},
            }  # fmt: skip
        assert len(running()) == 2


async def test_a_modern_client_that_is_asked_is_not_in_the_way_of_another():
    async with worker(hostile()) as one:
        await ask_once(one)
        held: list[link.NeedInput] = []
        for name in ("a", "b"):
            outcome = await call(one, name, era=Era.MODERN, client=0).done()
            assert isinstance(outcome.header, link.NeedInput)
            held.append(outcome.header)
        for each in held:
            again = one.front.resume(each.interaction, json.dumps({"elicitation-1": ACCEPTED}).encode())
            assert (await heard(again))["result"] == ACCEPTED


async def test_calls_of_modern_clients_that_nobody_is_asked_in_are_one_process_s():
    async with worker(hostile()) as one:
        await ask_once(one)
        waiting = [call(one, str(number), tool="silent", era=Era.MODERN, client=0) for number in range(3)]
        told = await call(one, "x", tool="remember", era=Era.MODERN, client=0).done()
        assert told.text
        assert len(running()) == 1
        for each in waiting:
            one.front.cancel(each, "enough")
            await each.done()


async def test_a_server_that_has_not_asked_yet_is_one_process_however_many_call():
    async with worker(hostile()) as one:
        waiting = [call(one, str(client), tool="silent", client=client) for client in range(1, 5)]
        await one.front.call("echo", {"text": "x"}, era=Era.LEGACY).done()
        assert len(running()) == 1
        for each in waiting:
            one.front.cancel(each, "enough")
            await each.done()


async def test_a_client_alone_stays_where_it_is_and_one_that_was_moved_does_too():
    async with worker(hostile()) as one:
        first = await pid_of(one, 1)
        await ask_once(one)
        busy = call(one, "x", client=1)
        await asked(busy)
        other = await pid_of(one, 2)
        assert other != first
        assert await pid_of(one, 1) == first
        await answer(one, busy)
        await heard(busy)

        assert await pid_of(one, 2) == other
        assert await pid_of(one, 1) == first


async def test_calls_that_cannot_be_asked_share_a_process_and_when_all_are_taken_all_share_one(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(leased_sessions, "LEASED_SESSIONS_MAX", 1)
    async with worker(hostile()) as one:
        await ask_once(one)
        busy = call(one, "x", client=1)
        await asked(busy)
        waiting = [call(one, "w", tool="silent", client=client, able=0) for client in (2, 3)]
        await pid_of(one, 4)
        assert len(running()) == 2

        third = call(one, "y", client=5)  # for which there is no room: it is asked once that is clear
        await pid_of(one, 4)
        assert not third.questions
        await answer(one, busy)
        await heard(busy)
        await answer(one, third)
        assert (await heard(third))["id"] == "q-y"
        for each in waiting:
            one.front.cancel(each, "enough")
            await each.done()


@pytest.mark.promise("R01")
async def test_a_leased_process_that_dies_takes_along_only_what_it_was_doing():
    async with worker(hostile()) as one:
        await ask_once(one)
        busy = call(one, "x", client=1)
        await asked(busy)
        died = await call(one, "", tool="die", client=2).done()
        assert isinstance(died.header, link.Fault)
        assert died.header.lost
        await answer(one, busy)
        assert (await heard(busy))["result"] == ACCEPTED
        assert one.reported[-1] == ("ready", "")


async def test_a_leased_process_that_nobody_needs_any_more_is_ended(mock_clock: MockClock):
    mock_clock.rate = 1.0
    async with worker(hostile(), within_s=2 * SESSION_IDLE_S) as one:
        await ask_once(one)
        busy = call(one, "x", client=1)
        await asked(busy)
        await pid_of(one, 2)
        assert len(running()) == 2
        await answer(one, busy)
        await heard(busy)
        mock_clock.jump(SESSION_IDLE_S)

        async def look() -> bool:
            return len(running()) == 1

        await eventually(look, "there is one process again")


@pytest.mark.case("D-07")
async def test_two_clients_that_are_asked_at_once_on_get_streams_both_get_their_questions():
    async with asking_on_get() as (server, one):
        pending = call(one, "", able=FORM)
        await answer(one, pending)
        await pending.done()

        both = [call(one, "", able=FORM, client=client) for client in (1, 2)]
        for each in both:
            await answer(one, each)
        for each in both:
            await each.done()
        assert len(server.streams) == 3  # with that of the session that declares nothing
