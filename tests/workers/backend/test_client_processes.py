"""Clients that have a process of a command for themselves: what it remembers, how it ends, and what it leaves."""

from __future__ import annotations

import ctypes
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import psutil
import pytest
import trio
import trio.testing
from trio.testing import MockClock

from protocol import link
from protocol.abilities import FORM
from protocol.clients import number_of
from protocol.errors import OVERLOADED
from protocol.limits import SESSION_IDLE_S
from protocol.link import AnswerKind
from protocol.uris import of_client
from protocol.versions import Era
from tests.waiting import eventually
from tests.workers.backend.harness import Backend, Outcome, Pending, backend
from tests.workers.backend.test_client_sessions import asked, updates
from tests.workers.backend.test_commands import HOSTILE, hostile
from workers.backend import child as processes
from workers.backend import client_sessions
from workers.backend.message_legs import MessageModernLeg

LEGACY = Era.LEGACY
ALICE, BOB = number_of(b"alice", LEGACY), number_of(b"bob", LEGACY)
PR_SET_CHILD_SUBREAPER = 36
FORM_PARAMS = {"message": "?", "requestedSchema": {"type": "object", "properties": {}}}


def running() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if HOSTILE in " ".join(child.cmdline())]


@asynccontextmanager
async def isolated(*habits: str, sessions_max: int = 4, within_s: float = 10.0) -> AsyncIterator[Backend]:
    with trio.fail_after(within_s):
        async with backend("", command=hostile(*habits), is_isolated=True, sessions_max=sessions_max) as one:
            await one.front.wait_state("ready")
            yield one
    assert running() == []


def call(one: Backend, client: int, name: str, text: str = "", era: Era = LEGACY, **arguments: object) -> Pending:
    return one.front.call(name, {"text": text, **arguments}, client=client, era=era, abilities=FORM)


async def remembered(one: Backend, client: int, text: str, era: Era = LEGACY) -> tuple[int, str]:
    """Return the process that was called, and all that it remembers."""
    pid, _, texts = (await call(one, client, "remember", text, era).done()).text.partition(": ")
    return int(pid), texts


async def gone(pid: int) -> None:
    async def look() -> bool:
        return not psutil.pid_exists(pid)

    await eventually(look, f"process {pid} is gone")


@pytest.mark.promise("R18")
async def test_each_client_has_a_process_that_knows_nothing_of_the_others():
    async with isolated() as one:
        first, texts = await remembered(one, ALICE, "a1")
        assert texts == "a1"
        other, texts = await remembered(one, BOB, "b1")
        assert texts == "b1"
        assert await remembered(one, ALICE, "a2") == (first, "a1 a2")
        assert {child.pid for child in running()} > {first, other}
        assert len(running()) == 3  # one has been asked for the lists
        assert one.vitals[-1].sessions == 2


async def test_a_modern_command_has_a_process_for_each_client_that_can_be_told_from_others_and_one_for_the_rest():
    async with isolated("modern") as one:
        known, _ = await remembered(one, ALICE, "a1", Era.MODERN)
        assert await remembered(one, ALICE, "a2", Era.MODERN) == (known, "a1 a2")
        shared, _ = await remembered(one, 0, "x", Era.MODERN)
        assert await remembered(one, 0, "y", Era.MODERN) == (shared, "x y")
        assert shared != known


@pytest.mark.promise("R18")
async def test_a_client_that_cannot_be_told_from_others_has_a_process_for_one_call():
    async with isolated() as one:
        first, texts = await remembered(one, 0, "1", Era.MODERN)
        assert texts == "1"
        assert (await remembered(one, 0, "2", Era.MODERN))[1] == "2"
        await gone(first)


@pytest.mark.promise("R01")
async def test_a_process_that_dies_fails_the_calls_of_its_client_alone():
    async with isolated() as one:
        await remembered(one, ALICE, "a1")
        bobs, _ = await remembered(one, BOB, "b1")
        of_alice, of_bob = call(one, ALICE, "silent"), call(one, BOB, "late")

        died = await call(one, ALICE, "die").done()
        assert isinstance(died.header, link.Fault)
        assert died.header.lost
        assert (await of_alice.done()).fault.lost
        await call(one, BOB, "release").done()
        assert (await of_bob.done()).text == "late"
        assert await remembered(one, BOB, "b2") == (bobs, "b1 b2")
        assert (await remembered(one, ALICE, "a2"))[1] == "a2"
        assert {state for state, _ in one.reported[one.reported.index(("ready", "")) :]} == {"ready"}


async def test_a_command_that_says_nothing_to_discovery_does_not_make_every_client_wait(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(MessageModernLeg, "_discover_timeout_s", 0.3)
    async with isolated("old") as one:
        monkeypatch.setattr(MessageModernLeg, "_discover_timeout_s", 60.0)
        assert (await remembered(one, ALICE, "a"))[1] == "a"


@pytest.mark.case("D-07")
async def test_two_clients_that_are_asked_at_once_both_get_their_own_question():
    async with isolated() as one:
        pending = {
            name: call(one, client, "question", name, method="elicitation/create", params=FORM_PARAMS)
            for name, client in (("a", ALICE), ("b", BOB))
        }
        for name, each in pending.items():
            header, _ = await asked(each)
            answer = b'{"action":"accept","content":{"who":"%b"}}' % name.encode()
            one.front.send(link.Answered(each.id, header.ask, AnswerKind.RESULT), answer)
        for name, each in pending.items():
            assert f'"who": "{name}"' in (await each.done()).text


@pytest.mark.promise("R18")
async def test_log_lines_and_updates_of_a_process_are_its_clients():
    async with isolated("tells") as one:
        one.front.send(link.Watch(100, of_client(ALICE, "note:1")))
        while not any(isinstance(each, link.Watching) for each in one.front.unexpected):
            await trio.testing.wait_all_tasks_blocked(0.01)
        waiting = call(one, ALICE, "silent")  # so that two calls of one client are under way
        logged = await call(one, ALICE, "log", "line").done()
        assert [params["data"] for _, params in logged.events] == ["line"]
        await call(one, BOB, "touch", "note:1").done()
        await call(one, ALICE, "touch", "note:1").done()
        while not updates(one):
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert updates(one) == [of_client(ALICE, "note:1")]
        one.front.cancel(waiting, "enough")
        await waiting.done()
        one.front.unexpected.clear()


async def test_there_are_so_many_processes_and_no_more(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(client_sessions, "QUEUE_DEADLINE_S", 0.1)
    async with isolated(sessions_max=2) as one:
        await remembered(one, ALICE, "a")
        await remembered(one, BOB, "b")
        fault = (await call(one, number_of(b"carol", LEGACY), "remember").done()).fault
        assert (fault.code, fault.sent) == (OVERLOADED, False)
        assert "has 2 processes of single clients already" in fault.message
        assert len(running()) == 3

        monkeypatch.setattr(client_sessions, "QUEUE_DEADLINE_S", 5.0)
        one.front.send(link.ClientGone(ALICE))
        assert (await remembered(one, number_of(b"carol", LEGACY), "c"))[1] == "c"


async def test_a_process_that_was_idle_for_long_is_ended(mock_clock: MockClock):
    mock_clock.rate = 1.0
    async with isolated(within_s=2 * SESSION_IDLE_S) as one:
        first, _ = await remembered(one, ALICE, "a")
        mock_clock.jump(SESSION_IDLE_S)
        await gone(first)
        assert (await remembered(one, ALICE, "b"))[1] == "b"


@contextmanager
def subreaper(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Be given the orphans of what is started here, as a worker is; what other tests have started is none of them."""
    children, others = processes.children, set(processes.children())
    monkeypatch.setattr(processes, "children", lambda: [pid for pid in children() if pid not in others])
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@pytest.mark.promise("R15")
async def test_what_a_client_s_process_has_left_behind_is_ended_with_it_and_that_of_others_stays(
    monkeypatch: pytest.MonkeyPatch,
):
    async def daemon(one: Backend, client: int) -> int:
        done: Outcome = await call(one, client, "daemon").done()
        return int(done.text)

    with subreaper(monkeypatch):
        async with isolated() as one:
            of_alice, of_bob = await daemon(one, ALICE), await daemon(one, BOB)
            assert processes.mark_of(of_alice) != processes.mark_of(of_bob)
            one.front.send(link.ClientGone(ALICE))
            await gone(of_alice)

            async def ended() -> bool:
                return one.vitals[-1].sessions == 1

            await eventually(ended, "nothing more is looked for")
            assert psutil.pid_exists(of_bob)
        await gone(of_bob)
