"""Servers that go silent without a word, as behind a network that drops packets, and those that talk ever so slowly."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import pytest
import trio

from protocol import link
from protocol.errors import CALL_TIMEOUT
from protocol.limits import CALL_TIMEOUT_S, PROGRESS_AT_ONCE, PROGRESS_PER_S
from protocol.versions import Era
from tests.peers.raw_server import RawServer, Reply, Request
from tests.workers.backend.harness import Backend, backend
from workers.backend import calls
from workers.backend.health import INTERVAL_S, JITTER, TIMEOUT_S

DRIP_BYTES = 1000
CEILING_S = 600.0
Receive = Callable[[], Awaitable[bytes]]


class Network:
    """Carries bytes between a worker and a server until the test cuts it; neither end hears of that."""

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._uncut = 0
        """The first connection that is not cut."""
        self.carried = 0
        """Connections so far."""
        self.port = 0

    def cut(self) -> None:
        """Drop whatever is sent on the connections of now, in both directions, also that they end."""
        self._uncut = self.carried

    async def run(self, task_status: trio.TaskStatus[Network] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(trio.serve_tcp, self._carry, 0)
            self.port = listeners[0].socket.getsockname()[1]
            task_status.started(self)

    async def _carry(self, client: trio.SocketStream) -> None:
        number = self.carried
        self.carried += 1
        server = await trio.open_tcp_stream("127.0.0.1", self._server_port)
        async with server, trio.open_nursery() as nursery:
            nursery.start_soon(self._copy, number, client, server)
            nursery.start_soon(self._copy, number, server, client)

    async def _copy(self, number: int, source: trio.SocketStream, target: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await source.receive_some():
                if number >= self._uncut:
                    await target.send_all(data)
            if number >= self._uncut:
                await target.send_eof()
            else:
                await trio.sleep_forever()


@asynccontextmanager
async def behind_network(server: RawServer) -> AsyncIterator[tuple[Network, Backend]]:
    """Run a worker for a server that it reaches over a network, for some minutes of virtual time."""
    with trio.fail_after(600 + 3 * CEILING_S):
        async with trio.open_nursery() as nursery:
            running = await nursery.start(server.serve)
            network = await nursery.start(Network(running.port).run)
            async with backend(f"http://127.0.0.1:{network.port}/mcp") as one:
                await one.front.wait_state("ready")
                await one.front.ask_list().done()
                yield network, one
            nursery.cancel_scope.cancel()


async def three_connections(one: Backend, server: RawServer) -> None:
    """Make calls at the same time, so that several connections are left to be used again."""
    for call in [one.front.call() for _ in range(3)]:
        assert (await call.done()).text == "raw"


@pytest.mark.case("B-04")
async def test_a_call_on_a_dead_connection_ends_in_time_and_the_next_one_does_not_meet_another(
    autojump_clock: object,
):
    server = RawServer(era="modern")
    async with behind_network(server) as (network, one):
        await three_connections(one, server)
        network.cut()
        received = len(server.received("tools/call"))

        started = trio.current_time()
        outcome = await one.front.call(timeout_s=CALL_TIMEOUT_S).done()
        assert outcome.fault.code == CALL_TIMEOUT
        assert trio.current_time() - started <= CALL_TIMEOUT_S + 1

        started = trio.current_time()
        assert (await one.front.call().done()).text == "raw"
        assert trio.current_time() - started < 1
        assert len(server.received("tools/call")) == received + 1


@pytest.mark.case("B-04")
async def test_a_dead_connection_is_found_while_nobody_calls(autojump_clock: object):
    server = RawServer(era="modern")
    async with behind_network(server) as (network, one):
        await three_connections(one, server)
        network.cut()

        started = trio.current_time()
        await one.front.wait_state("degraded")
        assert trio.current_time() - started <= 2 * INTERVAL_S * (1 + JITTER) + TIMEOUT_S
        started = trio.current_time()
        assert (await one.front.call().done()).text == "raw"
        assert trio.current_time() - started < 1


async def slowly(pause_s: float, request: Request, reply: Reply) -> None:
    """Give a good answer a byte at a time."""
    text = "x" * DRIP_BYTES
    message = {"jsonrpc": "2.0", "id": request.message["id"], "result": {"content": [{"type": "text", "text": text}]}}
    body = reply.server.encode(message)
    await reply.head(200, ("Content-Type", "application/json"), ("Content-Length", str(len(body))))
    for byte in body:
        await reply.raw(bytes([byte]))
        await trio.sleep(pause_s)


@pytest.mark.case("B-05")
async def test_an_answer_that_drips_is_cut_at_the_calls_time_and_not_before(autojump_clock: object):
    server = RawServer(era="modern", on={"tools/call": partial(slowly, 1.0)})
    async with behind_network(server) as (_network, one):
        started = trio.current_time()
        outcome = await one.front.call(timeout_s=CALL_TIMEOUT_S).done()
        assert outcome.fault.code == CALL_TIMEOUT
        assert CALL_TIMEOUT_S <= trio.current_time() - started <= CALL_TIMEOUT_S + 1

        server.on["tools/call"] = partial(slowly, 0.01)
        assert (await one.front.call(timeout_s=CALL_TIMEOUT_S).done()).text == "x" * DRIP_BYTES


@pytest.mark.case("B-05", "B-10")
async def test_progress_for_ever_does_not_keep_a_call_for_ever(autojump_clock: object, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(calls, "CALL_CEILING_S", CEILING_S)  # an hour of sweeps takes seconds, also in virtual time

    async def progress(request: Request, reply: Reply) -> None:
        await reply.start_events()
        step = 0
        while True:
            step += 1
            await reply.notify("notifications/progress", {"progressToken": request.message["id"], "progress": step})
            await trio.sleep(30)

    server = RawServer(era="legacy", on={"tools/call": progress})
    async with behind_network(server) as (_network, one):
        started = trio.current_time()
        outcome = await one.front.call(timeout_s=CALL_TIMEOUT_S, progress=True, era=Era.LEGACY).done()
        assert outcome.fault.code == CALL_TIMEOUT
        assert CEILING_S <= trio.current_time() - started <= CEILING_S + 1
        assert len(outcome.events) == CEILING_S / 30


@pytest.mark.parametrize("is_answered", [True, False])
@pytest.mark.case("B-10")
async def test_of_a_flood_of_progress_the_newest_gets_through_and_before_the_answer(
    autojump_clock: object, is_answered: bool
):
    flood = 20 * int(PROGRESS_AT_ONCE)

    async def tell(request: Request, reply: Reply) -> None:
        own_id = request.message["id"]
        await reply.start_events()
        for step in range(1, flood + 1):
            await reply.notify("notifications/progress", {"progressToken": own_id, "progress": step})
        if not is_answered:
            await trio.sleep_forever()
        await reply.event({"jsonrpc": "2.0", "id": own_id, "result": {"content": []}})
        await reply.end_events()

    server = RawServer(era="legacy", on={"tools/call": tell})
    async with behind_network(server) as (_network, one):
        await one.front.ask_list().done()
        started = trio.current_time()
        outcome = await one.front.call(timeout_s=CALL_TIMEOUT_S, progress=True, era=Era.LEGACY).done()
        took = trio.current_time() - started

    steps = [params["progress"] for _, params in outcome.events]
    assert steps == sorted(set(steps))
    assert steps[-1] == flood
    assert len(steps) <= PROGRESS_AT_ONCE + PROGRESS_PER_S * took + 1
    assert isinstance(outcome.header, link.Result) == is_answered
