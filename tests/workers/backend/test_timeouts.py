"""How long a call may take: its own timeout, progress that extends it, the ceiling, and servers that stop half-way."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from protocol import link
from protocol.errors import CALL_TIMEOUT, OUTCOME_UNKNOWN, SERVER_UNAVAILABLE
from protocol.limits import CALL_CEILING_S, STREAM_IDLE_S
from protocol.versions import Era
from tests.peers.raw_server import Answer, RawServer, Reply, Request, never
from tests.workers.backend.harness import Backend, Pending, backend, rig
from workers.machine import LinuxMachine

SWEEP_S = 0.25
ERAS = pytest.mark.parametrize("era", [Era.LEGACY, Era.MODERN], ids=["legacy", "modern"])


@asynccontextmanager
async def patient(answer: Answer, **limits: object) -> AsyncIterator[tuple[RawServer, Backend]]:
    """A server that answers calls so, and a worker for it, for hours of the clock that jumps."""
    with trio.fail_after(3 * CALL_CEILING_S):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(RawServer(on={"tools/call": answer}).serve)
            async with backend(server.url, **limits) as one:
                yield server, one
            nursery.cancel_scope.cancel()


async def took_s(call: Pending) -> float:
    started = trio.current_time()
    await call.done()
    return trio.current_time() - started


def unhurried(one: Backend, name: str = "echo", *, era: Era = Era.MODERN, progress: bool = False) -> Pending:
    """A call with all the time there is."""
    return one.front.call(name, era=era, timeout_s=CALL_CEILING_S, progress=progress)


# --- timeouts --------------------------------------------------------------------------------------------------------
async def test_the_fault_names_the_time_the_call_had_in_all(autojump_clock: MockClock):
    async with patient(never, call_timeout_s=120.0, tool_timeouts={"quick": 2.0}) as (_, one):
        waited = one.front.call(timeout_s=119.4)  # it had waited in the front for a while
        assert 119.4 <= await took_s(waited) <= 119.4 + 2 * SWEEP_S
        assert "did not answer within 120 s; the call was cancelled" in (await waited.done()).fault.message
        quick = one.front.call("quick", timeout_s=2.0)
        assert "did not answer within 2 s;" in (await quick.done()).fault.message


async def test_progress_gives_a_call_the_time_of_its_tool_once_more(autojump_clock: MockClock):
    async def one_step(request: Request, reply: Reply) -> None:
        await reply.start_events()
        await trio.sleep(5)
        await reply.notify("notifications/progress", {"progressToken": request.message["id"], "progress": 1})
        await never(request, reply)

    async with patient(one_step, call_timeout_s=1.0, tool_timeouts={"report": 20.0}) as (_, one):
        call = one.front.call("report", timeout_s=19.5, progress=True)  # it had waited for half a second

        assert 25 <= await took_s(call) <= 25 + 2 * SWEEP_S
        assert (await call.done()).fault.code == CALL_TIMEOUT


async def test_progress_does_not_extend_a_call_beyond_the_ceiling(autojump_clock: MockClock):
    async def busy(request: Request, reply: Reply) -> None:
        await reply.start_events()
        while True:
            await reply.notify("notifications/progress", {"progressToken": request.message["id"], "progress": 1})
            await trio.sleep(40)

    async with patient(busy, call_timeout_s=60.0) as (server, one):
        call = one.front.call(timeout_s=60.0, progress=True)

        assert CALL_CEILING_S <= await took_s(call) <= CALL_CEILING_S + 2 * SWEEP_S
        fault = (await call.done()).fault
        assert (fault.code, fault.sent) == (CALL_TIMEOUT, True)
        assert "within 3600 s, which is as long as a call may take" in fault.message
        await server.wait_until_closed(server.received("tools/call")[0].connection)


async def test_a_server_that_has_not_begun_to_answer_may_take_all_the_time_the_call_has(autojump_clock: MockClock):
    async def slow(request: Request, reply: Reply) -> None:
        await trio.sleep(4 * STREAM_IDLE_S)
        await reply.result({"content": []})

    async with patient(slow, call_timeout_s=CALL_CEILING_S) as (_, one):
        assert await took_s(unhurried(one)) == pytest.approx(4 * STREAM_IDLE_S, abs=1)


# --- silence in the middle of an answer ------------------------------------------------------------------------------
@ERAS
@pytest.mark.case("B-04")
async def test_a_stream_that_falls_silent_ends_its_call_long_before_the_calls_time_is_over(
    autojump_clock: MockClock, era: Era
):
    async def stops(request: Request, reply: Reply) -> None:
        await reply.start_events()
        await trio.sleep(100)
        await reply.notify("notifications/progress", {"progressToken": request.message["id"], "progress": 1})
        await never(request, reply)

    async with patient(stops, call_timeout_s=CALL_CEILING_S) as (server, one):
        call = unhurried(one, era=era, progress=True)

        assert 100 + STREAM_IDLE_S <= await took_s(call) <= 100 + STREAM_IDLE_S + 2 * SWEEP_S
        outcome = await call.done()
        assert (outcome.fault.code, outcome.fault.sent) == (OUTCOME_UNKNOWN, True)
        assert 'server "main" sent nothing more of its answer for 300 s' in outcome.fault.message
        assert len(outcome.events) == 1
        (request,) = server.received("tools/call")
        await server.wait_until_closed(request.connection)
        if era is Era.LEGACY:
            (notice,) = await server.wait_for("notifications/cancelled")
            assert notice.params["requestId"] == request.message["id"]


@pytest.mark.case("B-04")
async def test_an_answer_that_stops_half_way_ends_its_call_too(autojump_clock: MockClock):
    async def stops(request: Request, reply: Reply) -> None:
        await reply.head(200, ("Content-Type", "application/json"), ("Content-Length", "200000"))
        await reply.raw(b'{"jsonrpc":"2.0",' + b" " * 100_000)
        await never(request, reply)

    async with patient(stops, call_timeout_s=CALL_CEILING_S) as (_, one):
        call = unhurried(one)

        assert STREAM_IDLE_S <= await took_s(call) <= STREAM_IDLE_S + 2 * SWEEP_S
        assert (await call.done()).fault.code == OUTCOME_UNKNOWN


@pytest.mark.case("B-05")
async def test_an_answer_that_drips_in_ends_with_the_time_of_the_call(autojump_clock: MockClock):
    async def drips(request: Request, reply: Reply) -> None:
        await reply.head(200, ("Content-Type", "application/json"), ("Content-Length", "10000"))
        while True:
            await reply.raw(b" ")
            await trio.sleep(1)

    async with patient(drips, call_timeout_s=60.0) as (server, one):
        call = one.front.call(timeout_s=60.0)

        assert 60 <= await took_s(call) <= 60 + 2 * SWEEP_S
        assert (await call.done()).fault.code == CALL_TIMEOUT
        await server.wait_until_closed(server.received("tools/call")[0].connection)


async def test_any_byte_keeps_a_stream_alive(autojump_clock: MockClock):
    async def keeps_alive(request: Request, reply: Reply) -> None:
        await reply.start_events()
        for _ in range(5):
            await trio.sleep(STREAM_IDLE_S - 1)
            await reply.chunk(b": still there\n\n")
        await reply.event({"jsonrpc": "2.0", "id": request.message["id"], "result": {"content": []}})
        await reply.end_events()

    async with patient(keeps_alive, call_timeout_s=CALL_CEILING_S) as (_, one):
        call = unhurried(one, era=Era.LEGACY)

        assert await took_s(call) == pytest.approx(5 * (STREAM_IDLE_S - 1), abs=1)
        assert (await call.done()).result == {"content": []}


async def test_a_stream_is_not_silent_while_nobody_reads_it(autojump_clock: MockClock):
    async def one_step(request: Request, reply: Reply) -> None:
        await reply.start_events()
        await reply.notify("notifications/progress", {"progressToken": request.message["id"], "progress": 1})
        await never(request, reply)

    async with patient(one_step, call_timeout_s=CALL_CEILING_S) as (_, one):
        call = unhurried(one, progress=True)
        await call.wait_events(1)
        one.front.send(link.PauseEvents(call.id))
        with trio.move_on_after(2 * STREAM_IDLE_S):
            await call.done()
        assert call.outcome is None, "its client is slow, and who knows what the server has said meanwhile"
        one.front.send(link.ResumeEvents(call.id))

        assert STREAM_IDLE_S - 1 <= await took_s(call) <= STREAM_IDLE_S + 1


@pytest.mark.case("B-04")
async def test_connections_to_servers_are_probed_by_the_kernel():
    """The only way to tell that the machine of a server that has not begun to answer is gone."""
    async with trio.open_nursery() as nursery:
        server = await nursery.start(RawServer().serve)
        with await LinuxMachine().connect("127.0.0.1", server.port) as sock:
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            probes = [
                sock.getsockopt(socket.IPPROTO_TCP, option)
                for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            ]
        nursery.cancel_scope.cancel()
    first_s, each_s, count = probes
    assert first_s + each_s * count == STREAM_IDLE_S


# --- calls that the front wants back ---------------------------------------------------------------------------------
async def test_a_call_that_was_not_sent_yet_is_given_back_when_another_replica_would_send_it():
    """The server accepts connections and greets nobody."""
    async with rig(RawServer(era="modern", on={"server/discover": never})) as (server, one):
        call = one.front.call()
        await server.wait_for("server/discover")
        one.front.send(link.Recall(call.id))
        fault = (await call.done()).fault
        assert (fault.code, fault.sent) == (SERVER_UNAVAILABLE, False)
        assert "was not ready when another replica was" in fault.message
        assert not server.received("tools/call")


async def test_a_call_that_was_sent_is_not_given_back():
    released = trio.Event()

    async def late(_request: Request, reply: Reply) -> None:
        await released.wait()
        await reply.result({"content": []})

    async with rig(RawServer(era="modern", on={"tools/call": late})) as (server, one):
        call = one.front.call()
        await server.wait_for("tools/call")
        one.front.send(link.Recall(call.id))
        assert (await one.front.call(method="ping", params=b"{}").done()).result is not None
        released.set()
        assert (await call.done()).result["content"] == []
