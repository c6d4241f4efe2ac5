"""A legacy server ends the event stream of a call before its answer: the rest is had where the stream left off."""

from __future__ import annotations

import pytest
import trio

from protocol.errors import OUTCOME_UNKNOWN
from protocol.sse import Event
from protocol.versions import Era
from tests.peers.raw_server import HangUpError, RawServer, Reply, Request
from tests.workers.backend.harness import rig
from workers.backend.trail import PAUSE_MAX_S, PAUSE_MIN_S, TRIES_MAX, Trail

PRIMING = b"id: e1\nretry: 20\ndata: \n\n"


class Polled:
    """A server that has its call polled for: it ends the stream of the call, and goes on with it on a GET."""

    def __init__(self, *, breaks: bool = False, goes_on: bool = True) -> None:
        self.breaks = breaks
        self.goes_on = goes_on
        self.call: Request | None = None
        self.resumed: list[str] = []
        self.server = RawServer(era="legacy", on={"tools/call": self._call, "GET": self._get})

    async def _call(self, request: Request, reply: Reply) -> None:
        self.call = request
        await reply.start_events()
        await reply.chunk(PRIMING)
        if self.breaks:
            raise HangUpError
        await reply.end_events()

    async def _get(self, request: Request, reply: Reply) -> None:
        last_event_id = request.headers.get("last-event-id")
        if last_event_id is None or not self.goes_on:
            await reply.status(405)
            return
        self.resumed.append(last_event_id)
        await reply.start_events()
        if len(self.resumed) == 1:
            await reply.chunk(b"id: e2\nretry: 20\ndata: \n\n")
        else:
            assert self.call is not None
            token = self.call.params["_meta"]["progressToken"]
            await reply.notify("notifications/progress", {"progressToken": token, "progress": 1})
            await reply.event({"jsonrpc": "2.0", "id": self.call.message["id"], "result": {"content": []}})
        await reply.end_events()


@pytest.mark.parametrize("breaks", [False, True])
async def test_the_client_notices_nothing(breaks: bool):
    polled = Polled(breaks=breaks)
    async with rig(polled.server) as (_, one):
        outcome = await one.front.call(era=Era.LEGACY, progress=True).done()
        assert outcome.result == {"content": []}
        assert [method for method, _ in outcome.events] == ["notifications/progress"]
        assert polled.resumed == ["e1", "e2"]
        assert len(polled.server.received("tools/call")) == 1


async def test_a_server_that_does_not_go_on_has_left_the_outcome_unknown():
    polled = Polled(goes_on=False)
    async with rig(polled.server) as (_, one):
        fault = (await one.front.call(era=Era.LEGACY).done()).fault
        assert (fault.code, fault.sent) == (OUTCOME_UNKNOWN, True)


@pytest.mark.case("B-03")
async def test_a_server_that_cannot_be_reached_any_more_has_left_the_outcome_unknown():
    polled = Polled(breaks=True)
    async with trio.open_nursery() as nursery:
        async with rig(polled.server) as (server, one):

            async def refuse(*_: object, **__: object) -> None:
                raise OSError(111, "refused")

            await one.front.wait_state("ready")
            pending = one.front.call(era=Era.LEGACY)
            await server.wait_for("tools/call")
            one.reactor.machine.connect = refuse  # type: ignore[method-assign]
            fault = (await pending.done()).fault
            assert (fault.code, fault.sent) == (OUTCOME_UNKNOWN, True)
        nursery.cancel_scope.cancel()


@pytest.mark.case("A-21")
async def test_a_call_that_is_cancelled_between_two_streams_is_cancelled_at_the_server():
    polled = Polled()
    async with rig(polled.server) as (server, one):
        pending = one.front.call(era=Era.LEGACY)
        await server.wait_for("tools/call")
        one.front.cancel(pending, "enough")
        (cancelled,) = await server.wait_for("notifications/cancelled")
        assert polled.call is not None
        assert cancelled.params["requestId"] == polled.call.message["id"]


@pytest.mark.case("B-09")
def test_how_soon_and_how_often_it_is_tried_is_bounded():
    trail = Trail()
    assert trail.next_pause_s() is None
    trail.note(Event("message", b"", "e", 0))
    assert trail.next_pause_s() == PAUSE_MIN_S
    trail.note(Event("message", b"", None, 10**9))
    assert trail.next_pause_s() == PAUSE_MAX_S
    for _ in range(TRIES_MAX - 2):
        trail.note(Event("message", b"", "e", None))
        assert trail.next_pause_s() is not None
    assert trail.next_pause_s() is None
    trail.note(Event("message", b"{}", "e", None))
    assert trail.next_pause_s() is not None
