"""What becomes of calls whose worker died, by what its flight page says of them."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from trio.testing import MockClock, wait_all_tasks_blocked

from protocol import link
from protocol.control import LinkBroken
from protocol.errors import OUTCOME_UNKNOWN, SERVER_UNAVAILABLE
from protocol.flight import PAGE_BYTES, FlightPage
from protocol.limits import LINK_NEWS_S, RESTART_WAIT_S, RETRIES
from protocol.link import Call, encode_frame
from protocol.versions import Era
from tests.workers.scripted import Client, Front, Json, advance, running_front

RESULT = {"content": []}
READ_ONLY = {"readOnlyHint": True}
FRONT_INCARNATION = 1


class Life:
    """One life of the worker of server "main", whose flight page the test writes."""

    def __init__(self, front: Front) -> None:
        self.front = front
        self._shared = bytearray(PAGE_BYTES)
        self.flight = FlightPage(memoryview(self._shared))
        self.flight.begin(1, 1)
        self.link = self.flight.open_link(FRONT_INCARNATION)
        front.main.attach(self)  # type: ignore[arg-type]

    def attach(self, sock: socket.socket, peer: str, incarnation: int, *, gently: bool) -> None:
        self.front.worker.attach(sock, peer, incarnation, self, gently=gently)  # type: ignore[arg-type]

    # What a front needs of `workers.pages.PeerPage`.
    def read(self) -> FlightPage:
        return FlightPage(memoryview(bytes(self._shared)))

    def close(self) -> None:
        """There is no descriptor."""

    async def take(self, *steps: str) -> Call:
        """Read the next call and bring it so far."""
        call, _ = await self.front.main.call()
        slot = self.flight.claim(self.link, call.id)
        for step in steps:
            getattr(self.flight, step)(slot)
        return call

    async def die(self) -> None:
        self.front.main.die()
        await wait_all_tasks_blocked()


@asynccontextmanager
async def a_front(annotations: object = None, *, listed: bool = True, **settings: Any) -> AsyncIterator[Front]:
    async with running_front(attach=False, **settings) as front:
        described = {} if annotations is None else {"annotations": annotations}
        front.main.tools = [{"name": "echo", "inputSchema": {"type": "object"}, **described}]
        if listed:
            front.main.attach(front.worker)
            async with await front.client() as client:
                await client.modern("tools/list")
                await client.answer()
            front.main.die()
            await wait_all_tasks_blocked()
        yield front


async def called(front: Front, number: int = 1) -> Client:
    client = await front.client()
    await client.modern_call(request_id=number)
    await wait_all_tasks_blocked()
    return client


async def error_of(client: Client) -> Json:
    return (await client.answer()).final["error"]


async def assert_unknown(client: Client) -> None:
    error = await error_of(client)
    assert (error["code"], error["data"]) == (OUTCOME_UNKNOWN, {"server": "main", "sent": True, "retryable": False})


async def assert_not_sent_again(front: Front, client: Client) -> None:
    """The call is given to no other worker, and its outcome is unknown."""
    front.main.calls.clear()
    Life(front)
    await wait_all_tasks_blocked()
    assert front.main.calls == []
    await assert_unknown(client)


# --- never sent ------------------------------------------------------------------------------------------------------
@pytest.mark.promise("R04")
@pytest.mark.case("C-01")
async def test_calls_that_were_never_sent_go_to_the_next_worker_in_their_order():
    async with a_front() as front:
        life = Life(front)
        clients = [await called(front, number) for number in range(4)]
        for _ in range(2):
            await life.take()
        await life.die()
        late = await called(front, 9)
        front.main.calls.clear()
        life = Life(front)
        for client in (*clients, late):
            front.main.answer(await life.take(), {"marker": id(client)})
            assert (await client.answer()).json["result"] == {"marker": id(client)}


@pytest.mark.case("C-01")
async def test_a_worker_that_never_began_to_serve_has_sent_nothing():
    async with a_front() as front:
        life = Life(front)
        life.flight.close_link(life.link)
        client = await called(front)
        await life.die()
        front.main.calls.clear()
        front.main.answer(await Life(front).take(), RESULT)

        assert (await client.answer()).json["result"] == RESULT


@pytest.mark.promise("R04")
async def test_a_call_that_each_worker_dies_of_before_it_is_sent_is_given_up(mock_clock: MockClock):
    async with a_front() as front:
        life = Life(front)
        client = await called(front)
        for _ in range(RETRIES):
            await life.take()
            await life.die()
            life = Life(front)
        await life.take()
        await life.die()

        error = await error_of(client)
        assert (error["code"], error["data"]["sent"]) == (SERVER_UNAVAILABLE, False)


async def test_a_server_without_retries_gets_no_call_that_a_worker_before_it_had(mock_clock: MockClock):
    async with a_front(READ_ONLY, limits={"retries_max": 0}) as front:
        life = Life(front)
        client = await called(front)
        await life.take("sent")
        await life.die()

        await assert_not_sent_again(front, client)


async def test_a_call_that_no_worker_came_to_read_is_given_to_the_next_however_many_died():
    async with a_front() as front:
        life = Life(front)
        client = await called(front)
        for _ in range(RETRIES + 2):
            await life.die()
            life = Life(front)
            await wait_all_tasks_blocked()
        front.main.calls[:-1] = []
        await life.take()
        await life.die()
        front.main.answer(await Life(front).take(), RESULT)

        assert (await client.answer()).json["result"] == RESULT


async def test_a_call_that_waits_for_the_next_worker_waits_no_longer_than_others(mock_clock: MockClock):
    async with a_front() as front:
        life = Life(front)
        client = await called(front)
        await life.take()
        await advance(mock_clock, 0.5, 0.1)
        await life.die()
        await advance(mock_clock, RESTART_WAIT_S + 0.2, 0.1)

        error = await error_of(client)
        assert (error["code"], error["data"]["sent"]) == (SERVER_UNAVAILABLE, False)


async def test_a_call_cancelled_while_it_waits_for_the_next_worker_is_not_sent_again():
    async with a_front() as front:
        life = Life(front)
        gone, client = await called(front, 1), await called(front, 2)
        for _ in range(2):
            await life.take()
        await life.die()
        await gone.close()
        await wait_all_tasks_blocked()
        front.main.answer(await Life(front).take(), RESULT)

        assert (await client.answer()).json["result"] == RESULT
        assert front.main.calls == []


# --- sent ------------------------------------------------------------------------------------------------------------
@pytest.mark.promise("R04", "R07")
@pytest.mark.parametrize("steps", [("sent",), ("sent", "release")])
@pytest.mark.parametrize(
    "annotations", [None, {}, {"destructiveHint": False}, {"readOnlyHint": False}, {"readOnlyHint": "yes"}, "read-only"]
)
async def test_a_call_that_was_sent_is_answered_once_and_not_sent_again(annotations: object, steps: tuple[str, ...]):
    async with a_front(annotations) as front:
        life = Life(front)
        client = await called(front)
        await life.take(*steps)
        await life.die()

        await assert_not_sent_again(front, client)


@pytest.mark.promise("R04", "R07")
@pytest.mark.parametrize("steps", [("sent",), ("sent", "release")])
@pytest.mark.parametrize("annotations", [READ_ONLY, {"idempotentHint": True}])
async def test_a_call_of_a_tool_that_does_no_harm_twice_is_sent_again(annotations: Json, steps: tuple[str, ...]):
    async with a_front(annotations) as front:
        life = Life(front)
        client = await called(front)
        await life.take(*steps)
        await life.die()
        front.main.answer(await Life(front).take(), RESULT)

        assert (await client.answer()).json["result"] == RESULT


async def test_annotations_are_not_believed_if_the_user_says_so():
    async with a_front(READ_ONLY, limits={"trust_annotations": False}) as front:
        life = Life(front)
        client = await called(front)
        await life.take("sent")
        await life.die()

        await assert_not_sent_again(front, client)


async def test_a_tool_nobody_has_described_is_taken_for_one_that_does_harm():
    async with a_front(READ_ONLY, listed=False) as front:
        life = Life(front)
        client = await called(front)
        await life.take("sent")
        await life.die()

        await assert_not_sent_again(front, client)


async def test_of_two_tools_of_the_same_name_the_more_harmful_counts():
    async with running_front(attach=False) as front:
        front.main.tools = [{"name": "echo", "annotations": READ_ONLY}, {"name": "echo"}]
        front.main.attach(front.worker)
        async with await front.client() as lister:
            await lister.modern("tools/list")
            await lister.answer()
        await Life(front).die()
        life = Life(front)
        client = await called(front)
        await life.take("sent")
        await life.die()

        await assert_not_sent_again(front, client)


@pytest.mark.promise("R04", "R07")
@pytest.mark.case("B-27")
async def test_a_call_that_each_worker_dies_of_is_not_sent_for_ever():
    async with a_front(READ_ONLY) as front:
        life = Life(front)
        client = await called(front)
        for _ in range(RETRIES):
            await life.take("sent")
            await life.die()
            life = Life(front)
        await life.take("sent")
        await life.die()

        await assert_not_sent_again(front, client)


async def test_a_call_whose_client_has_heard_of_its_execution_is_not_sent_again():
    async with a_front(READ_ONLY) as front:
        life = Life(front)
        client = await front.client()
        await client.modern_call(progressToken="p")
        call = await life.take("sent")
        front.main.notify(call, "notifications/progress", {"progressToken": 1, "progress": 1})
        await wait_all_tasks_blocked()
        await life.die()

        await assert_not_sent_again(front, client)


@pytest.mark.promise("R07")
async def test_no_more_calls_are_sent_again_than_the_budget_allows():
    async with a_front(READ_ONLY) as front:
        life = Life(front)
        clients = [await called(front, number) for number in range(10)]
        for _ in clients:
            await life.take("sent")
        await life.die()
        life = Life(front)
        for client in clients[:5]:  # a fifth of ten, and three
            front.main.answer(await life.take("sent"), RESULT)
            assert (await client.answer()).json["result"] == RESULT
        for client in clients[5:]:
            await assert_unknown(client)
        assert front.main.calls == []


@pytest.mark.parametrize("parked", [False, True])
async def test_a_sent_call_for_which_no_worker_comes_is_not_said_to_be_unsent(mock_clock: MockClock, parked: bool):
    async with a_front(READ_ONLY) as front:
        life = Life(front)
        client = await called(front)
        await life.take("sent")
        await life.die()
        front.worker.server_down("main", -1.0 if parked else 60.0)
        await advance(mock_clock, RESTART_WAIT_S + 0.2, 0.1)

        await assert_unknown(client)


async def test_a_call_that_could_not_be_sent_again_is_not_said_to_be_unsent():
    async with a_front(READ_ONLY) as front:
        life = Life(front)
        client = await called(front)
        await life.take("sent")
        await life.die()
        front.main.fault(await Life(front).take(), SERVER_UNAVAILABLE, "cannot be reached", sent=False)

        await assert_unknown(client)


# --- how much the page can be believed -------------------------------------------------------------------------------
@pytest.mark.case("C-10")
async def test_the_page_of_a_worker_that_still_lives_is_not_believed():
    async with a_front() as front:
        life = Life(front)
        client = await called(front)
        await life.take()
        assert front.main.end is not None
        front.main.end._stream.write(encode_frame(link.Hello(1, "main", 1, 64, 1)))

        await assert_unknown(client)
        assert front.log.take_errors()


@pytest.mark.case("C-01", "C-02")
async def test_a_new_worker_announced_before_the_end_of_the_old_one_gets_what_that_had_not_sent():
    async with a_front() as front:
        life = Life(front)
        unsent, sent = await called(front, 1), await called(front, 2)
        await life.take()
        old_call = await life.take("sent")
        old_end = front.main.end
        assert old_end is not None
        life = Life(front)

        await assert_unknown(sent)
        old_end.send(link.Result(old_call.id, Era.MODERN), b'{"late":true}')
        front.main.answer(await life.take(), RESULT)
        assert (await unsent.answer()).json["result"] == RESULT


# --- links that end without their worker -----------------------------------------------------------------------------
@pytest.mark.parametrize("news", ["none", "it is gone", "a new one"])
async def test_a_worker_of_which_only_the_link_has_ended_is_to_be_replaced(mock_clock: MockClock, news: str):
    async with a_front(listed=False) as front:
        life = Life(front)
        incarnation = front.main.incarnation
        await life.die()
        if news == "it is gone":
            front.worker.server_down("main", 30.0)
        elif news == "a new one":
            Life(front)
        await advance(mock_clock, LINK_NEWS_S + 0.1)

        accused = [(one.peer, one.incarnation) for one in front.reports if isinstance(one, LinkBroken)]
        assert accused == ([("main", incarnation)] if news == "none" else [])


# --- the server's process ended, its worker did not ------------------------------------------------------------------
def lost(call: Call) -> link.Fault:
    return link.Fault(call.id, OUTCOME_UNKNOWN, "it has ended", True, 0, Era.LEGACY, lost=True)


@pytest.mark.case("B-27")
async def test_a_harmless_call_whose_command_ended_under_it_is_sent_to_the_next():
    async with a_front(READ_ONLY) as front:
        life = Life(front)
        client = await called(front)
        front.main.send(lost(await life.take("sent")))
        front.main.answer(await life.take("sent"), RESULT)

        assert (await client.answer()).json["result"] == RESULT


@pytest.mark.case("B-27")
async def test_a_harmless_call_that_each_command_dies_of_is_given_up():
    async with a_front(READ_ONLY) as front:
        life = Life(front)
        client = await called(front)
        for _ in range(1 + RETRIES):
            front.main.send(lost(await life.take("sent")))

        await assert_unknown(client)
        assert front.main.calls == []


@pytest.mark.case("B-27")
async def test_any_other_call_whose_command_ended_under_it_is_answered():
    async with a_front() as front:
        life = Life(front)
        client = await called(front)
        front.main.send(lost(await life.take("sent")))

        await assert_unknown(client)
        assert front.main.calls == []
