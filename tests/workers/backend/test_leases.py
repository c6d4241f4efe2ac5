"""Servers that ask without naming a call: calls that may be asked something are kept apart, in sessions they lease."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from protocol import link
from protocol.abilities import FORM
from protocol.limits import SESSION_IDLE_S
from protocol.link import AnswerKind
from protocol.versions import Era
from tests.peers.raw_server import RawServer, Reply, Request
from tests.waiting import eventually
from tests.workers.backend.harness import Backend, Pending, rig
from tests.workers.backend.test_asking import ACCEPTED, FORM_PARAMS, answer, asked, asking_on_get, call, heard
from tests.workers.backend.test_commands import hostile, running, worker
from workers.backend import askers, leased_sessions
from workers.backend.askers import Askers


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


async def have_known(one: Backend) -> None:
    """Have tools called once, which shows that they do not ask."""
    once = call(one, "x", tool="late")
    await call(one, "x", tool="release").done()
    await once.done()
    await call(one, "x", tool="remember").done()


async def under_way(one: Backend, clients: list[int], era: Era) -> list[Pending]:
    """Have calls of these clients under way that end with one of "release", after one that came later has ended."""
    waiting = [call(one, str(number), tool="late", era=era, client=client) for number, client in enumerate(clients)]
    assert (await call(one, "x", tool="remember", era=era, client=clients[0]).done()).text
    return waiting


@pytest.mark.parametrize("has_asked", [False, True])
async def test_calls_of_modern_clients_of_tools_that_do_not_ask_are_one_process_s(has_asked: bool):
    async with worker(hostile()) as one:
        await have_known(one)
        if has_asked:
            await ask_once(one)
        waiting = await under_way(one, [0, 0, 0], Era.MODERN)
        assert len(running()) == 1
        await call(one, "x", tool="release", era=Era.MODERN, client=0).done()
        for each in waiting:
            await each.done()


@pytest.mark.parametrize("era", Era)
async def test_a_server_that_has_not_asked_yet_is_one_process_however_many_call(
    era: Era, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(leased_sessions, "FIRST_CALL_S", 0.0)
    async with worker(hostile()) as one:
        waiting = await under_way(one, [1, 2, 3, 4] if era is Era.LEGACY else [0] * 4, era)
        assert len(running()) == 1
        await call(one, "x", tool="release", era=era).done()
        for each in waiting:
            await each.done()


@pytest.mark.parametrize("era", Era)
async def test_first_calls_of_several_clients_that_end_soon_are_one_process_s(
    era: Era, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(leased_sessions, "FIRST_CALL_S", 60.0)
    async with worker(hostile()) as one:
        clients = [1, 2, 3] if era is Era.LEGACY else [0, 0, 0]
        calls = [call(one, str(n), tool="remember", era=era, client=client) for n, client in enumerate(clients)]
        told = [(await each.done()).text.partition(": ")[2] for each in calls]
        assert told == ["0", "0 1", "0 1 2"]
        assert len(running()) == 1


@pytest.mark.case("D-07")
async def test_the_first_questions_of_a_server_that_come_together_are_asked_at_once():
    async with worker(hostile()) as one:
        pending = {client: call(one, str(client), client=client) for client in (1, 2, 3)}
        for client, each in pending.items():
            header, _ = (await asked(each))[0]
            told = json.dumps({"action": "accept", "content": {"who": client}}).encode()
            one.front.send(link.Answered(each.id, header.ask, AnswerKind.RESULT), told)
        for client, each in pending.items():
            told = await heard(each)
            assert (told["id"], told["result"]["content"]) == (f"q-{client}", {"who": client})


@pytest.mark.case("D-07")
@pytest.mark.parametrize("has_asked", [False, True])
async def test_questions_of_modern_clients_that_come_together_are_asked_at_once(has_asked: bool):
    async with worker(hostile()) as one:
        if has_asked:
            await ask_once(one)
        names = ("a", "b", "c")
        pending = [call(one, name, era=Era.MODERN, client=0) for name in names]
        for name, each in zip(names, pending, strict=True):
            held = (await each.done()).header
            assert isinstance(held, link.NeedInput)
            again = one.front.resume(held.interaction, json.dumps({"elicitation-1": ACCEPTED}).encode())
            assert await heard(again) == {"jsonrpc": "2.0", "id": f"q-{name}", "result": ACCEPTED}


async def test_a_call_that_is_cancelled_while_it_waits_for_another_one_is_over_at_once(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(leased_sessions, "FIRST_CALL_S", 60.0)
    async with worker(hostile()) as one:
        first, second = (call(one, str(client), tool="silent", client=client) for client in (1, 2))
        await one.front.call("echo", {"text": "x"}, client=2).done()
        one.front.cancel(second, "enough")
        assert not (await second.done()).fault.sent
        one.front.cancel(first, "enough")
        await first.done()
        assert len(running()) == 1


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


def test_what_is_known_of_tools_is_bounded_and_what_has_asked_once_counts_as_asking():
    def of(name: str, method: str = "tools/call") -> Any:
        return SimpleNamespace(header=SimpleNamespace(method=method, name=name))

    known = Askers()
    for asks in (False, True, False):
        known.note(of("asking"), asks=asks)
    known.note(of("file:///a", "resources/read"), asks=False)
    assert known.asks(of("asking"))
    assert not known.asks(of("other"))
    assert not known.is_known(of("asking", "prompts/get"))
    assert known.is_known(of("file:///b", "resources/read"))
    for number in range(askers.KNOWN_MAX):
        known.note(of(f"tool {number}"), asks=False)
    assert not known.is_known(of("asking"))
    assert known.is_known(of("tool 0"))


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


@pytest.mark.case("D-07")
async def test_the_first_questions_on_get_streams_that_come_together_are_asked_at_once():
    async with asking_on_get() as (_, one):
        both = [call(one, "", able=FORM, client=client) for client in (1, 2)]
        for each in both:
            await answer(one, each)
        for each in both:
            await each.done()


async def test_a_server_that_asks_on_the_streams_of_its_calls_has_one_session_for_all_of_them():
    answered: dict[str, trio.Event] = {}

    async def on_get(request: Request, reply: Reply) -> None:
        await reply.start_events()
        await trio.sleep_forever()

    async def on_call(request: Request, reply: Reply) -> None:
        name = request.message["params"]["arguments"]["text"]
        done = answered[name] = trio.Event()
        await reply.start_events()
        question = {"jsonrpc": "2.0", "id": name, "method": "elicitation/create", "params": FORM_PARAMS}
        await reply.event(question)
        await done.wait()
        await reply.event({"jsonrpc": "2.0", "id": request.message["id"], "result": {"content": []}})

    async def on_answer(request: Request, reply: Reply) -> None:
        await reply.status(202)
        answered[request.message["id"]].set()

    server = RawServer(era="legacy", on={"GET": on_get, "tools/call": on_call, "POST": on_answer})
    async with rig(server) as (_, one):
        calls = [call(one, str(client), able=FORM, client=client) for client in (1, 2, 3)]
        for each in calls:
            await asked(each)  # all of them at the same time
        for each in calls:
            await answer(one, each)
            await each.done()
        assert sum(request.method == "initialize" for request in server.requests) == 2  # with that of nobody
