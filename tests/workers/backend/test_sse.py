"""A backend worker and a server that speaks HTTP+SSE, the transport of 2024-11-05."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from protocol.errors import INTERNAL_ERROR, OUTCOME_UNKNOWN, SERVER_UNAVAILABLE
from protocol.versions import Era
from tests.peers.raw_server import RawServer
from tests.peers.sse_server import SsePeer, SseWire
from tests.peers.websocket_server import Json, never
from tests.waiting import eventually
from tests.workers.backend.harness import Backend, backend
from workers.backend import sse_channel


@asynccontextmanager
async def rig(peer: SsePeer | None = None, **options: Any) -> AsyncIterator[tuple[SsePeer, Backend]]:
    """Run a peer and a worker for it, for at most five seconds."""
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            running = await nursery.start((peer or SsePeer()).serve)
            async with backend(running.url, **options) as one:
                yield running, one
            nursery.cancel_scope.cancel()


async def echoed(one: Backend, text: str = "x", era: Era = Era.MODERN) -> str:
    return (await one.front.call("echo", {"text": text}, era=era).done()).text


# --- speaking ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("transport", ["", "sse"])
async def test_clients_of_both_eras_are_served(transport: str):
    async with rig(transport=transport) as (peer, one):
        for era in Era:
            outcome = await one.front.call("echo", {"text": "grüße"}, era=era).done()
            listed = await one.front.ask_list(era).done()
            assert (outcome.text, outcome.era, listed.names) == ("grüße", Era.LEGACY, ["echo"])

        assert len(peer.wires) == 1
        assert len(peer.of("initialize")) == len(peer.of("notifications/initialized")) == 1
        # The transport is found out by refused POSTs, unless it is configured.
        refused = [
            request.method for request in peer.http.requests if (request.verb, request.target) == ("POST", "/mcp")
        ]
        assert refused == ([] if transport else ["server/discover", "initialize"])


async def test_with_the_transport_configured_as_http_no_event_stream_is_looked_for():
    async with rig(transport="http") as (peer, one):
        fault = (await one.front.call("echo").done()).fault
        assert fault.code == SERVER_UNAVAILABLE
        assert peer.wires == []


async def test_headers_go_with_the_stream_and_with_each_message():
    async with rig(headers=[("Authorization", "Bearer secret")]) as (peer, one):
        await echoed(one)
        assert {request.headers["authorization"] for request in peer.http.requests} == {"Bearer secret"}


async def test_an_answer_may_come_before_its_post_is_accepted():
    async with rig(SsePeer(before_accepting=True)) as (_, one):
        assert [await echoed(one, str(number)) for number in range(3)] == ["0", "1", "2"]


async def test_calls_travel_side_by_side_with_progress_questions_and_cancellation():
    async def progress(wire: SseWire, request: Json) -> None:
        token = request["params"]["_meta"]["progressToken"]
        await wire.say({"method": "notifications/progress", "params": {"progressToken": token, "progress": 1}})
        await wire.echo(request)

    async with rig() as (peer, one):
        calls = [one.front.call("echo", {"text": str(number)}) for number in range(50)]
        assert [(await call.done()).text for call in calls] == [str(number) for number in range(50)]

        peer.on["tools/call"] = progress
        outcome = await one.front.call("echo", progress=True).done()
        assert [params["progress"] for _, params in outcome.events] == [1]

        await peer.wires[0].say({"id": 7, "method": "ping"})
        await peer.wires[0].say({"method": "notifications/tools/list_changed"})
        await one.front.wait_list_change()
        assert [answer["result"] for answer in await peer.has("")] == [{}]

        peer.on["tools/call"] = never
        silent = one.front.call("echo")
        [request] = (await peer.has("tools/call", 52))[-1:]
        one.front.cancel(silent, "not needed")
        assert (await silent.done()).fault.sent
        [cancelled] = await peer.has("notifications/cancelled")
        assert cancelled["params"]["requestId"] == request["id"]


@pytest.mark.case("B-06", "B-07", "B-09")
async def test_garbage_wrong_ids_and_second_answers_harm_nobody():
    async def confusing(wire: SseWire, request: Json) -> None:
        await wire.text("no JSON")
        await wire.event(b"endpoint", b"/elsewhere")
        await wire.event(b"unheard-of", b"x")
        await wire.say({"id": "unknown", "result": {}})
        await wire.echo(request)
        await wire.echo(request)

    async with rig() as (peer, one):
        peer.on["tools/call"] = confusing
        assert await echoed(one, "right") == "right"
        assert await echoed(one, "still there") == "still there"
        await one.front.ask_list().done()
        assert (one.worker.counters.messages, len(peer.wires)) == (2, 1)


# --- streams that end -------------------------------------------------------------------------------------------------
@pytest.mark.case("B-03")
async def test_calls_under_way_when_the_stream_ends_may_have_been_executed():
    async def leave(wire: SseWire, _request: Json) -> None:
        await wire.hang_up()

    async with rig(SsePeer(on={"tools/call": leave})) as (peer, one):
        fault = (await one.front.call("echo").done()).fault
        assert (fault.code, fault.sent, fault.lost) == (OUTCOME_UNKNOWN, True, True)
        assert 'server "main" closed its event stream' in fault.message

        del peer.on["tools/call"]
        assert await echoed(one, "again") == "again"
        assert len(peer.wires) == 2


@pytest.mark.parametrize("transport", ["", "sse"])
async def test_an_idle_stream_that_ends_is_opened_again(transport: str):
    async with rig(transport=transport) as (peer, one):
        await echoed(one)
        await peer.wires[0].hang_up()

        async def twice() -> bool:
            return len(peer.of("initialize")) == 2

        await eventually(twice, "it is initialized again")
        assert await echoed(one) == "x"


async def test_a_server_that_has_forgotten_its_session_is_opened_again():
    async with rig() as (peer, one):
        await echoed(one)
        peer.post_status = 404
        fault = (await one.front.call("echo").done()).fault
        assert (fault.code, "HTTP 404" in fault.message) == (INTERNAL_ERROR, True)

        peer.post_status = 202
        assert await echoed(one) == "x"
        assert len(peer.wires) == 2


async def test_a_refused_message_ends_its_call_alone():
    async with rig() as (peer, one):
        await echoed(one)
        peer.post_status = 413
        assert "HTTP 413" in (await one.front.call("echo").done()).fault.message
        peer.post_status = 202
        assert await echoed(one) == "x"
        assert len(peer.wires) == 1


async def test_a_server_that_has_become_another_is_found_out_anew():
    async with rig() as (peer, one):
        await echoed(one)
        successor = RawServer(era="modern")
        peer.http._answer = successor._answer
        await peer.wires[0].hang_up()

        async def modern() -> bool:
            return (await one.front.call("echo", {"text": "new"}).done()).era is Era.MODERN

        await eventually(modern, "it is spoken to as what it is now")


# --- streams that are none --------------------------------------------------------------------------------------------
@pytest.mark.case("B-14")
@pytest.mark.parametrize(
    "endpoint", ["http://example.com/post", "//example.com/post", "https:/post", "/pöst", "x" * 3000]
)
async def test_messages_are_posted_to_the_servers_own_origin_only(endpoint: str):
    async with rig(SsePeer(endpoint=endpoint), transport="sse") as (peer, one):
        fault = (await one.front.call("echo").done()).fault
        assert fault.sent is False
        assert "wants messages to be posted to another host" in fault.message
        assert [request for request in peer.http.requests if request.verb == "POST"] == []


async def test_a_stream_that_does_not_say_where_to_post_is_not_waited_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sse_channel, "CONNECT_TIMEOUT_S", 0.1)
    async with rig(SsePeer(endpoint=""), transport="sse") as (_, one):
        fault = (await one.front.call("echo").done()).fault
        assert "did not say within 0.1 s where messages are to be posted" in fault.message


async def test_a_server_without_a_stream_is_told_of_in_words():
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(RawServer().serve)
            async with backend(server.url, transport="sse") as one:
                fault = (await one.front.call("echo").done()).fault
                assert "has no event stream at /mcp (HTTP 405): check the path" in fault.message
            nursery.cancel_scope.cancel()
