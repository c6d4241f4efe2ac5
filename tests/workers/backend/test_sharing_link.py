"""A worker with several fronts tells each how many calls it may have in flight; places go where they are wanted."""

from __future__ import annotations

import trio
from trio.testing import wait_all_tasks_blocked

from protocol import link
from tests.peers.raw_server import RawServer, Reply, Request
from tests.workers.backend.harness import after, rig


async def answer(request: Request, reply: Reply) -> None:
    await reply.result({"content": []})


async def test_a_single_front_is_told_nothing_of_places():
    async with rig() as (_, backend):
        await backend.front.wait_state("ready")
        assert backend.front.limits == []


async def test_a_front_that_wants_places_gets_those_that_another_does_not_use_and_gives_them_back():
    released = trio.Event()
    server = RawServer()
    server.on["tools/call"] = after(released, answer)
    async with rig(server, shares=2, in_flight_max=2) as (_, backend):
        first, second = backend.front, backend.attach()
        await first.wait_limit(1)
        await second.wait_limit(1)
        calls = [first.call()]
        first.send(link.Want(True))
        await second.wait_limit(0)
        await first.wait_limit(2)
        calls.append(first.call())
        first.send(link.Want(False))

        second.send(link.Want(True))
        await wait_all_tasks_blocked()
        assert second.limits[-1] == 0, "both places are taken"
        released.set()
        for call in calls:
            await call.done()
        await second.wait_limit(2)
        assert (await second.call().done()).result["content"] == []


async def test_what_a_front_had_that_is_gone_is_there_for_the_others():
    server = RawServer()
    server.on["tools/call"] = after(trio.Event(), answer)
    async with rig(server, shares=2, in_flight_max=4) as (_, backend):
        first, second = backend.front, backend.attach()
        await second.wait_limit(2)
        for _ in range(2):
            second.call()
        first.send(link.Want(True))
        await first.wait_limit(2)
        second.end.close()
        await first.wait_limit(4)
