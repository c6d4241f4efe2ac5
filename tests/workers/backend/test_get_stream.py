"""What a legacy server says on the GET stream of its session."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from protocol.versions import Era
from tests.peers.raw_server import RawServer, Reply, Request
from tests.workers.backend.harness import Backend, backend, rig

CHANGED = "notifications/tools/list_changed"


class Streams:
    """The GET streams that a server has been asked for."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.replies: list[Reply] = []
        self.hang_up = trio.Event()
        self._changed = trio.Event()

    async def __call__(self, request: Request, reply: Reply) -> None:
        await reply.start_events()
        self.requests.append(request)
        self.replies.append(reply)
        hang_up = self.hang_up = trio.Event()
        self._changed.set()
        self._changed = trio.Event()
        await hang_up.wait()
        await reply.end_events()

    async def wait_for(self, count: int) -> Reply:
        while len(self.replies) < count:
            await self._changed.wait()
        return self.replies[-1]


def legacy(streams: Any) -> RawServer:
    return RawServer(era="legacy", on={"GET": streams})


async def opened(one: Backend) -> None:
    await one.front.call(era=Era.LEGACY).done()


async def test_a_session_has_its_stream_opened_with_its_own_headers():
    streams = Streams()
    async with rig(legacy(streams)) as (_, _one):
        await streams.wait_for(1)
        headers = streams.requests[0].headers
        assert headers["accept"] == "text/event-stream"
        assert headers["mcp-session-id"] == "raw-session-1"
        assert headers["mcp-protocol-version"] == "2025-11-25"
        assert "last-event-id" not in headers
        streams.hang_up.set()


async def test_a_change_of_a_list_that_is_said_there_reaches_the_front():
    streams = Streams()
    async with rig(legacy(streams)) as (_, one):
        reply = await streams.wait_for(1)
        await reply.notify(CHANGED, {})
        await one.front.wait_list_change()
        assert one.front.list_changes == ["tools"]
        streams.hang_up.set()


async def test_a_request_that_comes_there_is_answered():
    streams = Streams()
    async with rig(legacy(streams)) as (server, _one):
        reply = await streams.wait_for(1)
        await reply.event({"jsonrpc": "2.0", "id": "theirs", "method": "ping"})
        while not (answers := [each.message for each in server.requests if each.body and "result" in each.message]):
            async with server._changed:
                await server._changed.wait()
        assert answers == [{"jsonrpc": "2.0", "id": "theirs", "result": {}}]
        streams.hang_up.set()


async def test_log_lines_that_belong_to_no_call_reach_nobody():
    """Nobody can tell whose call they are about, and one client's must not reach another."""
    streams = Streams()
    async with rig(legacy(streams)) as (_, one):
        reply = await streams.wait_for(1)
        await reply.notify("notifications/message", {"level": "emergency", "data": "secret"})
        await reply.notify(CHANGED, {})
        await one.front.wait_list_change()
        assert one.front.unexpected == []
        streams.hang_up.set()


@pytest.mark.parametrize("status", [405, 404, 400])
async def test_a_server_without_such_a_stream_is_asked_once_in_a_session(mock_clock: MockClock, status: int):
    async def refuse(_request: Request, reply: Reply) -> None:
        await reply.status(status)

    server = legacy(refuse)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        async with backend(server.url) as one:
            await one.front.wait_state("ready")
            await wait_all_tasks_blocked(0.01)
            mock_clock.jump(100)
            await opened(one)
            assert len([each for each in server.requests if each.verb == "GET"]) == 1
            assert len(server.received("initialize")) == 1
        nursery.cancel_scope.cancel()


@pytest.mark.case("B-09")
async def test_a_stream_that_ends_is_resumed_after_a_pause_of_ours(autojump_clock: MockClock):
    streams = Streams()
    server = legacy(streams)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        async with backend(server.url) as one:
            reply = await streams.wait_for(1)
            await reply.chunk(b'id: e-7\nretry: 0\ndata: {"jsonrpc":"2.0","method":"%s"}\n\n' % CHANGED.encode())
            await one.front.wait_list_change()
            ended_at = trio.current_time()
            streams.hang_up.set()
            await streams.wait_for(2)
            assert trio.current_time() - ended_at >= 1
            assert streams.requests[1].headers["last-event-id"] == "e-7"
            # What was said in between may be lost, so everything may have changed.
            while len(one.front.list_changes) < 2:
                await one.front._changed.wait()
            streams.hang_up.set()
        nursery.cancel_scope.cancel()


async def test_a_session_that_the_server_has_forgotten_is_opened_again_for_its_stream(autojump_clock: MockClock):
    streams = Streams()
    server = legacy(streams)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        async with backend(server.url):
            await streams.wait_for(1)
            server.forget_sessions()

            async def unknown(_request: Request, reply: Reply) -> None:
                if _request.headers["mcp-session-id"] in server.known_sessions:
                    await streams(_request, reply)
                else:
                    await reply.status(404)

            server.on["GET"] = unknown
            streams.hang_up.set()
            await streams.wait_for(2)
            assert streams.requests[1].headers["mcp-session-id"] == "raw-session-2"
            streams.hang_up.set()
        nursery.cancel_scope.cancel()


async def test_an_idle_stream_keeps_no_sweep_awake():
    streams = Streams()
    async with rig(legacy(streams)) as (_, one):
        await streams.wait_for(1)
        await one.front.ask_list(Era.LEGACY).done()
        one.worker._channel.drop_idle()
        await wait_all_tasks_blocked()
        assert one.worker._channel.next_due == float("inf")
        streams.hang_up.set()
