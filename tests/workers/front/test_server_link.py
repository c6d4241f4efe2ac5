"""One server as a front sees it: waiting, refusing, and that every call ends exactly once."""

from __future__ import annotations

import json
import random

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from protocol import link
from protocol.control import LinkBroken
from protocol.errors import OUTCOME_UNKNOWN, OVERLOADED, SERVER_UNAVAILABLE
from protocol.limits import QUEUE_DEADLINE_S, QUEUE_PER_SERVER_MAX, RESTART_WAIT_S
from protocol.link import encode_frame
from protocol.versions import Era
from tests.workers.front.test_other_fronts import Inboxes, inboxes  # noqa: F401
from tests.workers.scripted import Client, Front, Json, advance, envelope, post, running_front

RESULT = {"content": []}


async def error_of(client: Client) -> Json:
    answer = await client.answer()
    return answer.final["error"]


async def many(front: Front, count: int) -> list[Client]:
    """Return so many clients, each with a call of its own under way."""
    clients = [await front.client() for _ in range(count)]
    for number, client in enumerate(clients):
        await client.modern_call(request_id=number)
        await wait_all_tasks_blocked()
    return clients


# --- waiting for a place ---------------------------------------------------------------------------------------------
async def test_calls_beyond_what_the_worker_accepts_wait_for_a_place_in_order(mock_clock: MockClock):
    async with running_front(calls=2) as front:
        clients = await many(front, 5)
        assert [call.id for call, _ in front.main.calls] == [1, 2]
        for number, client in enumerate(clients):
            call, _ = await front.main.call()
            front.main.answer(call, {"marker": number})
            assert (await client.answer()).json["result"]["marker"] == number


@pytest.mark.case("A-22")
@pytest.mark.promise("R09")
async def test_a_call_that_gets_no_place_in_time_is_refused_and_was_not_sent(mock_clock: MockClock):
    async with running_front(calls=1) as front:
        clients = await many(front, 3)
        await advance(mock_clock, QUEUE_DEADLINE_S + 0.2, 0.1)
        for client in clients[1:]:
            error = await error_of(client)
            assert error["code"] == OVERLOADED
            assert error["data"] == {"server": "main", "sent": False, "retryable": True, "retryAfterMs": 1000}
        call, _ = await front.main.call()
        front.main.answer(call, RESULT)
        assert (await clients[0].answer()).json["result"] == RESULT
        assert front.main.calls == []


async def test_a_call_over_the_length_of_the_queue_is_refused_at_once(front: Front):
    server = front.worker._servers["main"]
    server._limit = 0
    async with await front.client("2025-03-26") as client, await front.client() as late:
        for start in range(0, QUEUE_PER_SERVER_MAX, 64):
            batch = [envelope("tools/call", {"name": "main__echo"}, start + number) for number in range(64)]
            one = await front.client()
            await one.send(post(batch, client.legacy_headers))
            await wait_all_tasks_blocked()
        assert len(server._queue) == QUEUE_PER_SERVER_MAX
        await late.send(post(envelope("tools/call", {"name": "main__echo"}, 1000), client.legacy_headers))

        error = await error_of(late)
        assert error["code"] == OVERLOADED
        assert error["data"]["sent"] is False
        server._limit = 64


@pytest.mark.case("C-11", "A-21")
@pytest.mark.promise("R10")
async def test_clients_that_come_and_go_do_not_pile_up_calls_for_a_worker_that_does_not_read(mock_clock: MockClock):
    async with running_front() as front:
        stuck = front.main
        assert stuck.end is not None
        stuck.end._stream.pause_reading()
        server = front.worker._servers["main"]
        for _ in range(10):
            client = await front.client()
            await client.modern("tools/call", {"name": "main__echo", "arguments": {"text": "x" * 3_000_000}})
            await wait_all_tasks_blocked()
            client.reset()
            front.clients.clear()
            await wait_all_tasks_blocked()
        assert server._end is not None
        assert server._end.queued_bytes < 5_000_000

        client = await front.client()
        await client.modern_call()
        await wait_all_tasks_blocked()
        stuck.end._stream.resume_reading()
        await wait_all_tasks_blocked()
        await advance(mock_clock, 0.2, 0.1)
        while (one := await stuck.call())[1].get("arguments"):
            pass
        stuck.answer(one[0], RESULT)
        assert (await client.answer()).json["result"] == RESULT


@pytest.mark.case("A-21")
async def test_a_call_cancelled_while_it_waits_never_reaches_the_server(mock_clock: MockClock):
    async with running_front(calls=1) as front:
        clients = await many(front, 3)
        await clients[1].close()
        await wait_all_tasks_blocked()
        first, _ = await front.main.call()
        front.main.answer(first, RESULT)
        third, _ = await front.main.call()
        front.main.answer(third, {"marker": 3})

        assert (await clients[2].answer()).json["result"] == {"marker": 3}
        assert not [frame for frame in front.main.frames if isinstance(frame, link.Cancel)]


async def test_no_call_waits_longer_than_its_own_time(mock_clock: MockClock):
    async with running_front(attach=False, limits={"call_timeout_s": 0.5}) as front, await front.client() as client:
        await client.modern_call()
        await wait_all_tasks_blocked()
        await advance(mock_clock, 0.7, 0.1)

        assert (await error_of(client))["code"] == SERVER_UNAVAILABLE


async def test_those_who_came_while_the_worker_was_away_do_not_keep_later_ones_waiting_too_long(mock_clock: MockClock):
    async with running_front(calls=1, attach=False) as front:
        await many(front, 2)  # these may wait for two seconds, for the worker
        await advance(mock_clock, 0.1, 0.1)
        front.main.attach(front.worker)
        await wait_all_tasks_blocked()
        late = await many(front, 1)  # and this one for a second, for its turn
        await advance(mock_clock, QUEUE_DEADLINE_S + 0.2, 0.1)

        assert (await error_of(late[0]))["code"] == OVERLOADED


# --- a worker that comes and goes ------------------------------------------------------------------------------------
@pytest.mark.case("C-01")
@pytest.mark.promise("R04")
async def test_a_call_waits_a_moment_for_a_worker_that_is_being_replaced(mock_clock: MockClock, front: Front):
    front.main.die()
    await wait_all_tasks_blocked()
    front.worker.server_down("main", 0.1)
    (client,) = await many(front, 1)
    await advance(mock_clock, RESTART_WAIT_S - 0.5)
    front.main.attach(front.worker)
    call, _ = await front.main.call()
    front.main.answer(call, RESULT)

    assert (await client.answer()).json["result"] == RESULT


async def test_a_call_that_waited_in_vain_is_told_that_it_was_not_sent(mock_clock: MockClock, front: Front):
    front.main.die()
    await wait_all_tasks_blocked()
    front.worker.server_down("main", 7.5)
    (client,) = await many(front, 1)
    await advance(mock_clock, RESTART_WAIT_S + 0.5)

    error = await error_of(client)
    assert error["code"] == SERVER_UNAVAILABLE
    assert error["data"] == {"server": "main", "sent": False, "retryable": True, "retryAfterMs": 7500}
    assert 'server "main"' in error["message"]


@pytest.mark.promise("R01")
async def test_a_parked_server_refuses_at_once_and_the_others_do_not_notice(mock_clock: MockClock):
    async with running_front("main", "other") as front, await front.client() as client:
        front.main.die()
        await wait_all_tasks_blocked()
        (waiting,) = await many(front, 1)
        front.worker.server_down("main", -1.0)
        for one in (waiting, client):
            if one is client:
                await client.modern_call()
            error = await error_of(one)
            assert (error["code"], error["data"]["sent"]) == (SERVER_UNAVAILABLE, False)
            assert "parked" in error["message"]
        await client.modern_call("other__echo")
        call, _ = await front.servers["other"].call()
        front.servers["other"].answer(call, RESULT)

        assert (await client.answer()).json["result"] == RESULT


async def test_a_server_that_came_back_from_parking_is_waited_for_again_when_it_dies(
    mock_clock: MockClock, front: Front
):
    front.main.die()
    await wait_all_tasks_blocked()
    front.worker.server_down("main", -1.0)
    front.main.attach(front.worker)
    await wait_all_tasks_blocked()
    front.main.die()
    await wait_all_tasks_blocked()
    (client,) = await many(front, 1)
    front.main.attach(front.worker)
    call, _ = await front.main.call()
    front.main.answer(call, RESULT)

    assert (await client.answer()).json["result"] == RESULT


@pytest.mark.case("C-01", "C-10")
@pytest.mark.promise("R04")
async def test_a_new_worker_that_is_announced_before_the_end_of_the_old_one_was_seen(front: Front):
    """The news comes over another socket, so the order is anybody's guess."""
    async with await front.client() as client, await front.client() as other:
        await client.modern_call()
        old_call, _ = await front.main.call()
        old_end = front.main.end
        assert old_end is not None
        front.main.attach(front.worker)
        assert (await error_of(client))["code"] == OUTCOME_UNKNOWN
        await other.modern_call()
        new_call, _ = await front.main.call()
        old_end.send(link.Result(old_call.id, Era.MODERN), b'{"late":true}')
        old_end.send(link.Result(new_call.id, Era.MODERN), b'{"forged":true}')
        await wait_all_tasks_blocked()
        front.main.answer(new_call, RESULT)

        assert (await other.answer()).json["result"] == RESULT
        await client.modern_call()
        call, _ = await front.main.call()
        front.main.answer(call, RESULT)
        assert (await client.answer()).json["result"] == RESULT


@pytest.mark.case("C-10")
async def test_a_worker_that_breaks_the_link_protocol_is_reported_and_its_calls_are_answered(front: Front):
    async with await front.client() as client:
        await client.modern_call()
        await front.main.call()
        assert front.main.end is not None
        front.main.end._stream.write(encode_frame(link.Hello(1, "main", 1, 64, 1)))

        assert (await error_of(client))["code"] == OUTCOME_UNKNOWN
    (report,) = front.reports
    assert isinstance(report, LinkBroken)
    assert (report.peer, report.incarnation) == ("main", 1)
    assert "second hello" in report.reason
    assert front.log.take_errors()


@pytest.mark.case("B-07")
async def test_answers_to_nothing_are_dropped(front: Front):
    async with await front.client() as client:
        await client.modern_call()
        call, _ = await front.main.call()
        stranger = link.Call(999, Era.MODERN, "tools/call", "x", 1.0, b"", False, "", b"")
        front.main.answer(stranger, RESULT)
        front.main.notify(stranger, "notifications/message", {})
        front.main.fault(stranger, -32603, "no", sent=True)
        front.main.send(link.ListFault(999, "no"))
        front.main.answer(call, RESULT)
        front.main.answer(call, {"second": True})
        front.main.fault(call, -32603, "third", sent=True)

        assert (await client.answer()).json["result"] == RESULT
        await client.modern_call(request_id=2)
        call, _ = await front.main.call()
        front.main.answer(call, {"fourth": True})
        assert (await client.answer()).json == {"jsonrpc": "2.0", "id": 2, "result": {"fourth": True}}
    assert front.main.closed == []


async def test_a_link_for_a_server_nobody_configured_is_closed(front: Front):
    import socket

    ours, theirs = socket.socketpair()
    with ours:
        front.worker.attach(theirs, "stranger", 1)
        assert ours.recv(10) == b""
    front.worker.server_down("stranger", 1.0)


# --- everything at once ----------------------------------------------------------------------------------------------
@pytest.mark.case("D-07", "C-01", "B-07")
@pytest.mark.promise("R04", "R18")
@pytest.mark.parametrize("seed", range(12))
async def test_whatever_happens_every_request_gets_exactly_its_own_answer(mock_clock: MockClock, seed: int):
    """Two servers die, come back and answer in random order while clients of both eras use the same few ids."""
    chance = random.Random(seed)
    async with running_front("a", "b", calls=3) as front:
        alive = {"a": True, "b": True}
        idle = [await front.client(chance.choice([None, "2025-11-25", "2025-03-26"])) for _ in range(8)]
        asked: dict[Client, tuple[object, int]] = {}
        answered = marker = 0
        begun = trio.current_time()

        async def ask() -> None:
            nonlocal marker
            client = idle.pop(chance.randrange(len(idle)))
            marker += 1
            request_id = chance.choice([1, "1", 2])
            params = {"name": f"{chance.choice('ab')}__echo", "marker": marker}
            asked[client] = (request_id, marker)
            await (client.legacy if client.session else client.modern)("tools/call", params, request_id)

        async def listen(client: Client) -> None:
            nonlocal answered
            answer = await client.answer()
            request_id, expected = asked.pop(client)
            assert answer.final["id"] == request_id
            for event in answer.events[:-1]:
                assert event["params"]["marker"] == expected
            if "result" in answer.final:
                assert answer.final["result"]["marker"] == expected
            else:
                assert answer.final["error"]["code"] in (OUTCOME_UNKNOWN, OVERLOADED, SERVER_UNAVAILABLE)
            answered += 1
            idle.append(client)

        def serve(name: str) -> None:
            server = front.servers[name]
            if alive[name] and server.calls:
                call, params = server.calls.pop(chance.randrange(len(server.calls)))
                if chance.random() < 0.5:
                    server.notify(call, "notifications/message", {"marker": params["marker"]})
                server.answer(call, {"marker": params["marker"], "resultType": "complete"})

        def disturb(name: str) -> None:
            server = front.servers[name]
            if not alive[name]:
                server.attach(front.worker)
            elif chance.random() < 0.5:
                server.die()
            else:  # the next life begins before the end of this one was seen
                server.attach(front.worker)
                server.calls.clear()
                return
            server.calls.clear()
            alive[name] = not alive[name]

        async with trio.open_nursery() as nursery:
            for _ in range(150):
                what = chance.random()
                name = chance.choice("ab")
                if what < 0.45 and idle:
                    await ask()
                    nursery.start_soon(listen, next(reversed(asked)))
                elif what < 0.85:
                    serve(name)
                elif what < 0.93:
                    disturb(name)
                elif trio.current_time() < begun + 4:  # all waiting of clients is bounded by five seconds
                    mock_clock.jump(chance.choice([0.1, 1.0]))
                if chance.random() < 0.7:
                    await wait_all_tasks_blocked()
            for name in "ab":
                if not alive[name]:
                    disturb(name)
            while asked:
                await wait_all_tasks_blocked()
                serve("a")
                serve("b")
        assert answered == marker
        for server in front.worker._servers.values():
            assert server.in_flight == 0


async def test_large_results_pass_in_both_directions(front: Front):
    argument, text = "a" * 3_000_000, "b" * 15_000_000
    async with await front.client() as client:
        await client.modern("tools/call", {"name": "main__echo", "arguments": {"text": argument}})
        call, params = await front.main.call()
        assert params["arguments"]["text"] == argument
        front.main.answer(call, {"text": text})
        answer = await client.answer()

    assert json.loads(answer.body)["result"]["text"] == text


# --- places that other fronts share ----------------------------------------------------------------------------------
async def test_a_front_that_shares_places_asks_for_more_when_calls_wait_and_keeps_to_what_it_is_told(
    inboxes: Inboxes,  # noqa: F811
):
    async with running_front(fronts=2, number=0, shared=inboxes.of(0), calls=1) as front:
        await front.main.frame(link.Limited)
        clients = await many(front, 3)
        assert (await front.main.frame(link.Want)).wants
        assert [call.id for call, _ in front.main.calls] == [1]
        front.main.send(link.Limit(3))
        await front.main.frame(link.Limited)
        assert not (await front.main.frame(link.Want)).wants
        assert [call.id for call, _ in front.main.calls] == [1, 2, 3]
        front.main.send(link.Limit(0))
        await front.main.frame(link.Limited)
        for client in clients:
            call, _ = await front.main.call()
            front.main.answer(call, RESULT)
            assert (await client.answer()).json["result"] == RESULT
        (late,) = await many(front, 1)
        assert (await front.main.frame(link.Want)).wants
        assert front.main.calls == []
        front.main.send(link.Limit(1))
        call, _ = await front.main.call()
        front.main.answer(call, RESULT)
        assert (await late.answer()).json["result"] == RESULT


@pytest.mark.case("A-22")
async def test_a_call_that_other_fronts_leave_no_place_is_refused_as_any_that_waits_too_long(
    mock_clock: MockClock,
    inboxes: Inboxes,  # noqa: F811
):
    async with running_front(fronts=2, number=0, shared=inboxes.of(0), calls=64) as front:
        front.main.send(link.Limit(0))
        (client,) = await many(front, 1)
        await advance(mock_clock, QUEUE_DEADLINE_S + 0.2, 0.1)
        error = await error_of(client)
        assert error["code"] == OVERLOADED
        assert "waited 1 s for one of 64 places" in error["message"]
        assert not [one.wants for one in front.main.frames if isinstance(one, link.Want)][-1], "it wants none any more"
