"""What the flight page says of a call at each point of its life."""

from __future__ import annotations

import pytest
import trio
import trio.lowlevel

from protocol.flight import FlightPage, Stage
from protocol.versions import Era
from tests.peers.raw_server import RawServer, Reply, Request, never
from tests.workers.backend.harness import Backend, Pending, after, rig

FRONT_INCARNATION = 1


def stage(one: Backend, call: Pending) -> Stage:
    return one.worker._desk.flight.stages(FRONT_INCARNATION, [call.id])[call.id]


def taken(page: FlightPage) -> int:
    """Return how many places are not free."""
    return page._used_slots - len(page._free_slots)


async def answer(_request: Request, reply: Reply) -> None:
    await reply.result({"content": []})


@pytest.mark.promise("R07")
async def test_a_call_is_sent_while_the_server_has_it_and_done_afterwards():
    released = trio.Event()
    async with rig(RawServer(on={"tools/call": after(released, answer)})) as (server, one):
        call = one.front.call()
        await server.wait_for("tools/call")
        assert stage(one, call) is Stage.SENT
        released.set()
        await call.done()
        assert stage(one, call) is Stage.DONE


@pytest.mark.promise("R07")
async def test_a_call_that_waits_for_the_server_to_be_greeted_is_queued():
    async with rig(RawServer(on={"server/discover": never, "initialize": never})) as (server, one):
        await server.wait_for("server/discover")
        call = one.front.call()
        sent = one.front.call()
        while stage(one, sent) is Stage.NONE:
            await trio.lowlevel.checkpoint()
        assert stage(one, call) is stage(one, sent) is Stage.QUEUED
        assert server.received("tools/call") == []


@pytest.mark.promise("R07")
async def test_a_call_that_the_server_refused_to_execute_is_queued_again_until_it_is_sent_again():
    async with rig(RawServer(era="legacy")) as (server, one):
        await one.front.call(era=Era.LEGACY).done()
        released = trio.Event()
        server.forget_sessions()
        server.on["initialize"] = after(released, server._initialize)
        call = one.front.call(era=Era.LEGACY)
        await server.wait_for("initialize", 2)
        while stage(one, call) is not Stage.QUEUED:  # its refusal may come after that of a stream of our own
            await trio.lowlevel.checkpoint()
        server.on["tools/call"] = never
        released.set()
        await server.wait_for("tools/call", 3)
        assert stage(one, call) is Stage.SENT


async def test_cancelled_and_refused_calls_leave_their_places_on_the_page():
    async with rig(RawServer(on={"tools/call": never})) as (server, one):
        page = one.worker._desk.flight
        assert taken(page) == 0
        calls = [one.front.call() for _ in range(3)]
        await server.wait_for("tools/call", 3)
        assert taken(page) == 3
        for call in calls:
            one.front.cancel(call, "enough")
            await call.done()
        assert taken(page) == 0
