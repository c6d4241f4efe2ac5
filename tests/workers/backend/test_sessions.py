"""Legacy sessions: opened once, shared, recovered without the client noticing, ended."""

from __future__ import annotations

import json

import pytest
import trio
import trio.testing

from protocol.versions import Era
from tests.peers.raw_server import RawServer, Reply, Request, hang_up, with_status
from tests.workers.backend.harness import after, rig

LEGACY = Era.LEGACY


async def test_a_lost_session_is_opened_again_and_the_call_sent_again():
    async with rig(RawServer(era="legacy")) as (server, one):
        assert (await one.front.call(arguments={"text": "1"}).done()).text == "1"
        server.forget_sessions()
        assert (await one.front.call(arguments={"text": "2"}).done()).text == "2"

        assert [request.headers["mcp-session-id"] for request in server.received("tools/call")] == [
            "raw-session-1",
            "raw-session-1",
            "raw-session-2",
        ]
        assert len(server.received("initialize")) == len(server.received("notifications/initialized")) == 2


async def test_many_calls_that_lose_a_session_share_one_new_one():
    async with rig(RawServer(era="legacy")) as (server, one):
        await one.front.call().done()
        server.forget_sessions()
        calls = [one.front.call(arguments={"text": str(number)}) for number in range(20)]
        assert [(await call.done()).text for call in calls] == [str(number) for number in range(20)]

        assert len(server.received("initialize")) == 2


async def test_a_list_that_loses_the_session_opens_it_again():
    async with rig(RawServer(era="legacy")) as (server, one):
        await one.front.ask_list().done()
        server.forget_sessions()
        assert (await one.front.ask_list().done()).names == ["echo"]

        assert len(server.received("initialize")) == 2


@pytest.mark.parametrize(
    ("status", "code", "message", "own_id"),
    [
        (404, -32600, "Session not found", True),
        (404, -32001, "Session not found", False),
        (400, -32000, "Bad Request: No valid session ID provided", False),
        (400, -32600, "Bad Request: Missing session ID", True),
        (400, -32000, "Bad Request: Server not initialized", False),
    ],
)
async def test_every_way_servers_say_that_they_lost_a_session_is_understood(
    status: int, code: int, message: str, own_id: bool
):
    async def forgetful(request: Request, reply: Reply) -> None:
        if len(server.received("tools/call")) == 1:
            answer_id = request.message["id"] if own_id else None
            await reply.message(
                {"jsonrpc": "2.0", "id": answer_id, "error": {"code": code, "message": message}}, status
            )
        else:
            await reply.result({"content": []})

    server = RawServer(era="legacy", on={"tools/call": forgetful})
    async with rig(server) as (_server, one):
        assert (await one.front.call().done()).result == {"content": []}
        assert len(server.received("initialize")) == 2


async def test_a_server_that_forgets_every_session_at_once_is_given_up_after_one_more_try():
    async with rig(RawServer(era="legacy", on={"tools/call": with_status(404)})) as (server, one):
        outcome = await one.front.call().done()

        assert "HTTP 404" in outcome.fault.message
        assert len(server.received("tools/call")) == 2
        assert len(server.received("initialize")) == 2


async def test_an_unknown_method_is_no_lost_session():
    async def unknown(_request: Request, reply: Reply) -> None:
        await reply.error(-32601, "Method not found", 404)

    async with rig(RawServer(era="legacy", on={"tools/call": unknown})) as (server, one):
        assert (await one.front.call().done()).fault.code == -32601
        assert len(server.received("initialize")) == 1


async def test_a_server_without_sessions_needs_none():
    async with rig(RawServer(era="legacy", sessions=False)) as (server, one):
        await one.front.call().done()

        (request,) = server.received("tools/call")
        assert "mcp-session-id" not in request.headers
        assert request.headers["mcp-protocol-version"] == "2025-11-25"
        await one.worker.drain(0.0)
        assert not [request for request in server.requests if request.verb == "DELETE"]


async def test_the_version_the_server_chose_is_spoken():
    async def old(request: Request, reply: Reply) -> None:
        await reply.result({"protocolVersion": "2025-03-26", "capabilities": {"tools": {}}, "serverInfo": {}})

    async with rig(RawServer(era="legacy", sessions=False, on={"initialize": old})) as (server, one):
        await one.front.call().done()
        assert server.received("tools/call")[0].headers["mcp-protocol-version"] == "2025-03-26"


async def test_calls_wait_until_the_server_knows_that_the_session_is_open():
    told = trio.Event()

    async def accept(_request: Request, reply: Reply) -> None:
        await reply.status(202)

    async with rig(RawServer(era="legacy", on={"notifications/initialized": after(told, accept)})) as (server, one):
        call = one.front.call()
        await server.wait_for("notifications/initialized")
        await trio.testing.wait_all_tasks_blocked()
        assert not server.received("tools/call")
        told.set()
        await call.done()


@pytest.mark.case("B-22")
async def test_what_a_server_asks_while_it_is_initialized_is_answered():
    async def curious(request: Request, reply: Reply) -> None:
        await reply.start_events()
        await reply.event({"jsonrpc": "2.0", "id": "s-1", "method": "ping"})
        await reply.event(
            {
                "jsonrpc": "2.0",
                "id": request.message["id"],
                "result": {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {}},
            }
        )
        await reply.end_events()

    async with rig(RawServer(era="legacy", sessions=False, on={"initialize": curious})) as (server, one):
        await one.front.call().done()
        (answer,) = await server.wait_for("")
        assert answer.message == {"jsonrpc": "2.0", "id": "s-1", "result": {}}


async def test_a_handshake_that_is_cut_off_is_made_once_more():
    async def cut_once(request: Request, reply: Reply) -> None:
        if len(server.received("initialize")) == 1:
            await hang_up(request, reply)
        await server._initialize(request, reply)

    server = RawServer(era="legacy", on={"initialize": cut_once})
    async with rig(server) as (_server, one):
        assert (await one.front.call(arguments={"text": "there"}).done()).text == "there"


@pytest.mark.case("B-16")
async def test_a_session_id_no_header_can_carry_is_refused():
    async def odd(_request: Request, reply: Reply) -> None:
        reply.headers.append(("Mcp-Session-Id", "a b"))
        await reply.result({"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {}})

    async with rig(RawServer(era="legacy", on={"initialize": odd})) as (_server, one):
        assert "session id of forbidden characters" in (await one.front.call().done()).fault.message


async def test_a_cancelled_call_is_cancelled_at_the_server_under_the_id_it_has_there():
    released = trio.Event()

    async def slow(request: Request, reply: Reply) -> None:
        await released.wait()
        await reply.result({"content": []})

    async with rig(RawServer(era="legacy", on={"tools/call": slow})) as (server, one):
        call = one.front.call()
        (request,) = await server.wait_for("tools/call")
        one.front.cancel(call, "the user changed her mind")
        (notice,) = await server.wait_for("notifications/cancelled")

        assert notice.params == {"requestId": request.message["id"], "reason": "the user changed her mind"}
        assert notice.headers["mcp-session-id"] == "raw-session-1"
        assert (await call.done()).fault.sent
        released.set()
        assert (await one.front.call().done()).result == {"content": []}


async def test_a_legacy_error_with_an_odd_id_still_reaches_the_client():
    async def refuse(_request: Request, reply: Reply) -> None:
        body = {"jsonrpc": "2.0", "id": "server-error", "error": {"code": -32602, "message": "too many arguments"}}
        await reply.message(body, 422)

    async with rig(RawServer(era="legacy", on={"tools/call": refuse})) as (_server, one):
        outcome = await one.front.call(era=LEGACY).done()
        assert json.loads(outcome.payload)["message"] == "too many arguments"
