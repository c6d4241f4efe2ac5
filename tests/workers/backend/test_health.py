"""A server that keeps failing is left alone, found again, and looked after while nobody calls it."""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from protocol.control import Check, Checked, WorkerState
from protocol.errors import SERVER_UNAVAILABLE
from protocol.health import health_status
from protocol.versions import Era
from tests.peers.raw_server import RawServer, Reply, Request, hang_up, never, with_id, with_result, with_status
from tests.waiting import eventually
from tests.workers.backend.harness import Backend, Outcome, after, backend
from workers.backend.breaker import CONSECUTIVE_MAX, JITTER, PENALTY_MIN_S
from workers.backend.health import INTERVAL_S, TIMEOUT_S

QUESTION = {"legacy": "ping", "modern": "server/discover"}


@asynccontextmanager
async def served(server: RawServer, *, minutes: float = 5.0) -> AsyncIterator[Backend]:
    """Run a server and a worker for it, for some minutes of virtual time."""
    with trio.fail_after(minutes * 60):
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve)
            async with backend(server.url) as one:
                await one.front.wait_state("ready")
                await one.front.ask_list().done()
                yield one
            nursery.cancel_scope.cancel()


async def call_one_by_one(one: Backend, count: int, timeout_s: float = 1.0) -> list[Outcome]:
    return [await one.front.call(timeout_s=timeout_s).done() for _ in range(count)]


async def refused(_request: Request, reply: Reply) -> None:
    await reply.error(-32603, "not today")


def with_advice(status: int) -> object:
    async def answer(_request: Request, reply: Reply) -> None:
        reply.headers.append(("Retry-After", "1"))
        await reply.status(status)

    return answer


# --- the breaker -----------------------------------------------------------------------------------------------------
@pytest.mark.case("B-34", "B-12", "B-02")
@pytest.mark.promise("R08")
@pytest.mark.parametrize(
    "answer",
    [with_status(500), with_status(503), with_status(200, b"<html>"), with_status(202), hang_up, never, with_id("x")],
    ids=["500", "503", "html", "202", "hangs up", "never", "wrong id"],
)
async def test_a_server_that_fails_often_enough_is_not_asked_for_a_while(autojump_clock: object, answer):
    server = RawServer(era="modern", on={"tools/call": answer})
    async with served(server) as one:
        failed = await call_one_by_one(one, CONSECUTIVE_MAX)
        state = await one.front.wait_state("open")
        assert state.detail == failed[-1].fault.message
        asked = len(server.received("tools/call"))

        started = trio.current_time()
        fault = (await one.front.call().done()).fault
        assert trio.current_time() - started <= 0.005
        assert len(server.received("tools/call")) == asked == CONSECUTIVE_MAX
        assert (fault.code, fault.sent) == (SERVER_UNAVAILABLE, False)
        assert 0 < fault.retry_after_ms <= 1000 * PENALTY_MIN_S * (1 + JITTER)
        assert fault.message.startswith('server "main" keeps failing, so the call was not sent; try again in ')
        assert failed[-1].fault.message.removeprefix('server "main" ') in fault.message


@pytest.mark.case("B-34", "B-12")
@pytest.mark.parametrize(
    "answer",
    [
        with_result({"content": [], "isError": True}), refused, with_status(429), with_status(400, b"no"),
        with_status(401), with_advice(503), with_advice(429),
    ],
    ids=["isError", "JSON-RPC error", "429", "400", "401", "503 with advice", "429 with advice"],
)  # fmt: skip
async def test_a_server_that_answers_is_asked_on_whatever_it_says(autojump_clock: object, answer):
    server = RawServer(era="modern", on={"tools/call": answer})
    async with served(server) as one:
        await call_one_by_one(one, 4 * CONSECUTIVE_MAX)
        assert len(server.received("tools/call")) == 4 * CONSECUTIVE_MAX
        assert one.reported[-1][0] == "ready"


@pytest.mark.case("B-34")
@pytest.mark.promise("R08")
async def test_at_half_open_one_call_is_tried_and_all_others_are_refused_at_once(autojump_clock: object):
    released = trio.Event()
    server = RawServer(era="modern", on={"tools/call": with_status(500)})
    async with served(server) as one:
        await call_one_by_one(one, CONSECUTIVE_MAX)
        server.on["tools/call"] = after(released, with_result({"content": []}))
        await one.front.wait_state("half_open")

        started = trio.current_time()
        fronts = [one.front, *(one.attach() for _ in range(15))]
        calls = [front.call() for _ in range(63) for front in fronts]
        probe = calls.pop(0)
        for call in calls:
            assert (await call.done()).fault.sent is False
        assert len(calls) == 1007
        assert trio.current_time() - started <= 0.005

        await server.wait_for("tools/call", CONSECUTIVE_MAX + 1)
        released.set()
        assert (await probe.done()).result["content"] == []
        await one.front.wait_state("ready")
        assert (await one.front.call().done()).result["content"] == []
        assert len(server.received("tools/call")) == CONSECUTIVE_MAX + 2
        states = [state for state, _ in one.reported]
        assert states[-4:] == ["ready", "open", "half_open", "ready"]


@pytest.mark.case("B-34", "B-12")
@pytest.mark.parametrize("answer", [with_status(500), with_status(429), hang_up], ids=["500", "429", "hangs up"])
async def test_a_probe_that_heals_nothing_doubles_the_pause(autojump_clock: object, answer):
    server = RawServer(era="modern", on={"tools/call": with_status(500)})
    async with served(server) as one:
        await call_one_by_one(one, CONSECUTIVE_MAX)
        server.on["tools/call"] = answer
        await one.front.wait_state("half_open")
        await one.front.call().done()
        await one.front.wait_state("open")
        opened = trio.current_time()
        await one.front.wait_state("half_open")
        assert 2 * (1 - JITTER) - 0.01 <= trio.current_time() - opened <= 2 * (1 + JITTER) + 0.01


@pytest.mark.case("B-34")
async def test_a_probe_whose_client_goes_away_leaves_its_place_to_the_next_call(autojump_clock: object):
    server = RawServer(era="modern", on={"tools/call": with_status(500)})
    async with served(server) as one:
        await call_one_by_one(one, CONSECUTIVE_MAX)
        server.on["tools/call"] = never
        await one.front.wait_state("half_open")
        probe = one.front.call()
        await server.wait_for("tools/call", CONSECUTIVE_MAX + 1)
        one.front.cancel(probe, "gone")
        await probe.done()
        server.on.clear()
        assert (await one.front.call(arguments={"text": "next"}).done()).text == "next"


async def test_calls_that_clients_cancel_say_nothing_about_the_server(autojump_clock: object):
    server = RawServer(era="modern", on={"tools/call": never})
    async with served(server) as one:
        for number in range(2 * CONSECUTIVE_MAX):
            call = one.front.call()
            await server.wait_for("tools/call", number + 1)
            one.front.cancel(call, "gone")
            await call.done()
        server.on.clear()
        assert (await one.front.call(arguments={"text": "fine"}).done()).text == "fine"


@pytest.mark.case("B-01", "B-34")
@pytest.mark.promise("R08")
async def test_a_server_found_again_is_called_again_whatever_is_left_of_the_pause(autojump_clock: object):
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    with trio.fail_after(600):
        async with trio.open_nursery() as nursery:
            async with backend(f"http://127.0.0.1:{port}/mcp") as one:
                await one.front.wait_state("backoff")
                for opened in range(1, 7):
                    while one.front.states[-1].state != "open":
                        assert "is it running?" in (await one.front.call().done()).fault.message
                    if opened < 6:
                        await one.front.wait_state("half_open")
                # The pause has doubled with each probe, to about half a minute.
                assert (await one.front.call().done()).fault.retry_after_ms > 20_000

                await nursery.start(RawServer(port=port).serve)
                back = trio.current_time()
                await one.front.wait_state("ready")
                assert trio.current_time() - back < 6
                assert (await one.front.call(arguments={"text": "up"}).done()).text == "up"
            nursery.cancel_scope.cancel()


# --- checks ----------------------------------------------------------------------------------------------------------
def status(told_: WorkerState) -> str:
    return health_status(told_.state, answers=told_.answers)


@pytest.mark.parametrize("era", ["legacy", "modern", "dual"])
async def test_a_server_that_nobody_calls_is_asked_four_times_a_minute_in_an_era_that_is_open(
    autojump_clock: object, era: str
):
    server = RawServer(era=era)
    async with served(server) as one:
        greeted, asked = len(server.received("initialize")), len(server.requests)
        await trio.sleep(10 * INTERVAL_S)
        questions = [request.method for request in server.requests[asked:]]
        assert set(questions) == {QUESTION["legacy" if era == "legacy" else "modern"]}
        assert 10 / (1 + JITTER) - 1 <= len(questions) <= 10 / (1 - JITTER) + 1
        assert len(server.received("initialize")) == greeted
        last = one.vitals[-1]
        assert (last.state, last.answers, last.error_count, last.last_error) == ("ready", True, 0, "")
        assert status(last) == "healthy"
        assert abs(last.checked_at - time.time()) < 60
        assert last.response_ms >= 0
        assert len(server.open_now) <= 1, "checks use the one connection that is kept, and open no other"


async def test_a_server_that_is_called_is_not_asked(autojump_clock: object):
    server = RawServer(era="modern")
    async with served(server) as one:
        asked = len(server.received("server/discover"))
        before = len(one.vitals)
        for _ in range(60):
            await one.front.call().done()
            await trio.sleep(1)
        assert len(server.received("server/discover")) == asked
        assert len(one.vitals) - before >= 3, "the root is told all the same"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [(with_status(500), "unhealthy"), (with_status(401), "unhealthy"), (never, "error"), (hang_up, "error")],
    ids=["500", "401", "never", "hangs up"],
)
async def test_a_check_that_fails_is_told_and_so_is_one_that_succeeds_again(
    autojump_clock: object, answer, expected: str
):
    server = RawServer(era="modern")
    async with served(server) as one:
        server.on["server/discover"] = answer
        state = await one.front.wait_state("degraded")
        last = one.vitals[-1]
        assert (last.detail, last.last_error, last.error_count) == (state.detail, state.detail, 1)
        assert 'server "main"' in state.detail
        assert status(last) == expected

        server.on.clear()
        await one.front.wait_state("ready")
        assert (status(one.vitals[-1]), one.vitals[-1].error_count >= 1) == ("healthy", True)


async def test_a_server_that_does_not_know_ping_is_healthy(autojump_clock: object):
    async def unknown(_request: Request, reply: Reply) -> None:
        await reply.error(-32601, "Method not found")

    async with served(RawServer(era="legacy", on={"ping": unknown})) as one:
        await trio.sleep(2.5 * INTERVAL_S)
        assert (one.vitals[-1].state, one.vitals[-1].error_count) == ("ready", 0)


async def test_a_call_that_succeeds_ends_what_a_failed_check_began(autojump_clock: object):
    server = RawServer(era="modern")
    async with served(server) as one:
        server.on["server/discover"] = never
        await one.front.wait_state("degraded")
        await one.front.call().done()
        assert (await one.front.wait_state("ready")).detail == ""
        assert status(one.vitals[-1]) == "healthy"


async def test_a_front_that_wants_to_know_is_told_whether_the_server_answers_now(autojump_clock: object):
    server = RawServer(era="modern")
    async with served(server) as one:
        asked = len(server.received("server/discover"))
        assert await one.front.probe() is True
        assert len(server.received("server/discover")) == asked + 1
        server.on["server/discover"] = never
        started = trio.current_time()
        assert await one.front.probe() is False
        assert trio.current_time() - started <= TIMEOUT_S + 0.1
        assert one.front.states[-1].state == "degraded"
        server.on["server/discover"] = with_status(500)
        assert await one.front.probe() is False
        server.on.clear()
        assert await one.front.probe() is True
        assert one.front.states[-1].state == "ready"


@pytest.mark.case("B-34")
async def test_a_probe_of_a_front_heals_a_breaker_or_doubles_its_pause(autojump_clock: object):
    server = RawServer(era="modern", on={"tools/call": with_status(500)})
    async with served(server) as one:
        server.on["server/discover"] = with_status(500)
        await call_one_by_one(one, CONSECUTIVE_MAX)
        asked = len(server.requests)
        assert await one.front.probe() is False
        assert len(server.requests) == asked, "the server is left alone as long as the breaker is open"
        await one.front.wait_state("half_open")
        assert await one.front.probe() is False
        opened = trio.current_time()
        await one.front.wait_state("half_open")
        assert trio.current_time() - opened >= 2 * (1 - JITTER) * PENALTY_MIN_S - 0.01
        server.on.clear()
        assert await one.front.probe() is True
        assert one.front.states[-1].state == "ready"


async def test_a_server_that_cannot_be_reached_does_not_pass_a_probe(autojump_clock: object):
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        async with backend(f"http://127.0.0.1:{reserved.getsockname()[1]}/mcp") as one:
            await one.front.wait_state("backoff")
            assert await one.front.probe() is False


async def test_a_check_waits_no_longer_than_it_may_and_is_alone(autojump_clock: object):
    asked: list[float] = []

    async def count(request: Request, reply: Reply) -> None:
        asked.append(trio.current_time())
        await never(request, reply)

    server = RawServer(era="modern")
    async with served(server) as one:
        server.on["server/discover"] = count
        await one.front.wait_state("degraded")
        assert trio.current_time() - asked[0] == pytest.approx(TIMEOUT_S, abs=0.1)
        await trio.sleep(4 * INTERVAL_S)
        pauses = [later - earlier for earlier, later in itertools.pairwise(asked)]
        assert min(pauses) > INTERVAL_S * (1 - JITTER) + TIMEOUT_S - 0.1


@pytest.mark.case("B-34")
async def test_a_check_that_is_answered_ends_the_refusals(autojump_clock: object):
    server = RawServer(era="modern", on={"tools/call": with_status(500)})
    async with served(server) as one:
        await call_one_by_one(one, CONSECUTIVE_MAX)
        server.on.clear()
        await one.front.wait_state("half_open")
        await one.front.wait_state("ready")
        assert (await one.front.call(arguments={"text": "again"}).done()).text == "again"


@pytest.mark.case("B-01")
async def test_a_server_that_is_gone_when_checked_is_looked_for_at_once(autojump_clock: object):
    server = RawServer()
    with trio.fail_after(600):
        async with trio.open_nursery() as nursery:
            life = trio.CancelScope()

            async def live(task_status: trio.TaskStatus[RawServer]) -> None:
                with life:
                    await server.serve(task_status)

            await nursery.start(live)
            async with backend(server.url) as one:
                await one.front.wait_state("ready")
                await server.wait_for("subscriptions/listen")  # nothing is under way any more that could break
                life.cancel()
                state = await one.front.wait_state("backoff")
                assert "is it running?" in state.detail
                assert status(one.vitals[-1]) == "error"

                life = trio.CancelScope()
                await nursery.start(live)
                await one.front.wait_state("ready")
                assert status(one.vitals[-1]) == "healthy"
                life.cancel()


async def test_a_session_forgotten_between_calls_is_opened_again_by_the_check(autojump_clock: object):
    server = RawServer(era="legacy")
    async with served(server) as one:
        server.forget_sessions()
        await server.wait_for("initialize", 2)
        await trio.sleep(INTERVAL_S)
        assert one.vitals[-1].error_count == 0
        assert (await one.front.call(arguments={"text": "same"}, era=Era.LEGACY).done()).text == "same"


# --- when the root asks ----------------------------------------------------------------------------------------------
TOOLS = [{"name": name, "inputSchema": {"type": "object"}} for name in ("read", "write")]


@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_the_root_is_told_at_once_how_a_server_is_and_what_it_offers(era: str):
    async with served(RawServer(era=era, tools=TOOLS)) as one:
        for number in (1, 2):
            one.worker.check(Check(number, 5.0))
            found = await one.checks.receive()
            assert found.response_ms > 0
            assert found == Checked(number, "", False, True, found.response_ms, 2, ["read", "write"])
        assert (one.vitals[-1].era, one.vitals[-1].tool_count) == (era, 2)


async def test_the_root_is_told_that_a_server_refuses_before_anybody_has_reached_it():
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        with trio.fail_after(60):
            async with backend(f"http://127.0.0.1:{port}/mcp") as one:
                one.worker.check(Check(1, 5.0))
                found = await one.checks.receive()

    assert (found.refused, found.answers, found.tool_count, found.tools) == (True, False, -1, [])
    assert "refused the connection" in found.problem


async def test_a_server_that_is_silent_costs_the_root_no_more_than_the_deadline(autojump_clock: MockClock):
    server = RawServer()
    async with served(server) as one:
        server.on |= dict.fromkeys(("server/discover", "ping"), never)
        begun = trio.current_time()
        one.worker.check(Check(1, 2.0))
        found = await one.checks.receive()

    assert trio.current_time() - begun == pytest.approx(2.0, abs=0.1)
    assert (found.refused, found.answers) == (False, False)
    assert "did not answer within 2 s" in found.problem


async def test_headers_of_the_configuration_are_sent_with_every_request():
    server = RawServer()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve)
            async with backend(server.url, headers=[("X-Api-Key", "k"), ("X-Other", "o")]) as one:
                await one.front.wait_state("ready")
                await one.front.call().done()
            nursery.cancel_scope.cancel()

    assert {(request.headers["x-api-key"], request.headers["x-other"]) for request in server.requests} == {("k", "o")}


# --- after the machine was asleep ------------------------------------------------------------------------------------
@pytest.mark.case("C-24")
@pytest.mark.promise("R21")
async def test_after_a_sleep_old_connections_are_closed_and_the_server_is_checked_soon(autojump_clock: object):
    server = RawServer(era="modern")
    async with served(server) as one:
        await one.front.call().done()
        (call,) = server.received("tools/call")
        checked = len(server.received("server/discover"))
        await trio.sleep(1)
        asleep_until = trio.current_time()

        one.worker.woke(8 * 3600.0)

        await server.wait_until_closed(call.connection)
        assert trio.current_time() == asleep_until, "not after the idle time, which did not pass while it was asleep"
        await server.wait_for("server/discover", checked + 1)
        assert trio.current_time() - asleep_until <= 5.0
        assert one.log.fields_of("nothing ran for a while; the server is checked") == [{"seconds": 8 * 3600}]
        assert one.reported[-1][0] == "ready"


@pytest.mark.case("C-24")
@pytest.mark.promise("R21")
async def test_workers_that_wake_up_together_do_not_come_back_together(autojump_clock: object):
    server, workers = RawServer(era="modern"), 40
    came_after_s: list[float] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve)

        async def sleeper() -> None:
            async with backend(server.url) as one:
                await one.front.wait_state("ready")
                one.worker.woke(600.0)
                woken_at, known = trio.current_time(), one.vitals[-1].checked_at

                async def is_checked() -> bool:
                    return one.vitals[-1].checked_at > known

                await eventually(is_checked, "the server is checked", 6.0)
                came_after_s.append(trio.current_time() - woken_at)

        async with trio.open_nursery() as sleepers:
            for _ in range(workers):
                sleepers.start_soon(sleeper)
        nursery.cancel_scope.cancel()

    assert len(came_after_s) == workers
    assert max(came_after_s) <= 5.1
    assert max(came_after_s) - min(came_after_s) > 3.0
    in_each_second = [sum(second <= at < second + 1 for at in came_after_s) for second in range(5)]
    assert max(in_each_second) < workers / 2


@pytest.mark.case("C-24")
async def test_a_server_that_was_lost_while_the_machine_slept_is_not_called_ready_for_long(autojump_clock: object):
    server = RawServer(era="modern")
    async with served(server) as one:
        server.on["server/discover"] = never
        await trio.sleep(1)
        one.worker.woke(600.0)
        begun = trio.current_time()
        await one.front.wait_state("degraded")
        assert trio.current_time() - begun <= 5.0 + TIMEOUT_S
