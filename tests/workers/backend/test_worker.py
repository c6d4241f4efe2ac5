"""A worker and a polite server: both eras, states, lists, and what travels untouched."""

from __future__ import annotations

import trio

from protocol.versions import Era
from tests.peers.raw_server import RawServer
from tests.workers.backend.harness import backend


async def test_a_call_of_each_era_is_answered():
    async with trio.open_nursery() as nursery:
        server = await nursery.start(RawServer().serve)
        with trio.fail_after(5):
            async with backend(server.url) as one:
                outcome = await one.front.call(arguments={"text": "hello"}).done()
                assert (outcome.text, outcome.era) == ("hello", Era.MODERN)
                outcome = await one.front.call(arguments={"text": "hello"}, era=Era.LEGACY).done()
                assert (outcome.text, outcome.era) == ("hello", Era.LEGACY)
                assert (await one.front.wait_state("ready")).detail == ""
        nursery.cancel_scope.cancel()
