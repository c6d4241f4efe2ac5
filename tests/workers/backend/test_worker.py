"""A worker and a server that behaves: eras, lists, states, and what travels untouched."""

from __future__ import annotations

import json
import socket

import pytest
import trio

from protocol.errors import OVERLOADED, SERVER_UNAVAILABLE
from protocol.limits import IN_FLIGHT_PER_SERVER_MAX, POOL_IDLE_S
from protocol.link import Call
from protocol.versions import Era
from tests.peers.raw_server import ECHO, RawServer, Reply, Request, never, with_result
from tests.workers.backend.harness import INCARNATION, Json, after, backend, rig
from workers.backend import health


async def life_of(server: RawServer, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
    """Run a server until the scope it starts with is cancelled."""
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve)
            task_status.started(scope)


async def no_connection_left(server: RawServer) -> bool:
    for connection in range(1, server.connections + 1):
        await server.wait_until_closed(connection)
    return True


META = "io.modelcontextprotocol/"


# --- eras ------------------------------------------------------------------------------------------------------------
async def test_a_dual_server_is_spoken_to_in_the_era_of_each_client():
    async with rig() as (server, one):
        modern = await one.front.call(arguments={"text": "hello"}).done()
        legacy = await one.front.call(arguments={"text": "hello"}, era=Era.LEGACY).done()

        assert (modern.text, modern.era) == ("hello", Era.MODERN)
        assert (legacy.text, legacy.era) == ("hello", Era.LEGACY)
        assert [request.is_modern for request in server.received("tools/call")] == [True, False]


async def test_the_second_era_is_asked_for_only_when_a_client_needs_it():
    async with rig() as (server, one):
        await one.front.wait_state("ready")
        await one.front.call().done()
        assert not server.received("initialize")

        await one.front.call(era=Era.LEGACY).done()
        await one.front.call(era=Era.LEGACY).done()
        assert len(server.received("initialize")) == 1
        assert len(server.received("server/discover")) == 1


@pytest.mark.parametrize(("era", "served_as"), [("modern", Era.MODERN), ("legacy", Era.LEGACY)])
async def test_clients_of_both_eras_are_served_by_a_server_of_one(era: str, served_as: Era):
    async with rig(RawServer(era=era)) as (_server, one):
        for client in Era:
            outcome = await one.front.call(arguments={"text": "hi"}, era=client).done()
            assert (outcome.text, outcome.era) == ("hi", served_as)


async def test_first_calls_share_one_handshake():
    async with rig() as (server, one):
        calls = [one.front.call(era=Era.LEGACY) for _ in range(10)] + [one.front.call() for _ in range(10)]
        for call in calls:
            await call.done()

        assert len(server.received("initialize")) == 1
        assert len(server.received("server/discover")) == 1


@pytest.mark.case("B-33")
async def test_a_server_that_comes_back_with_the_other_era_is_asked_again():
    async with rig(RawServer(era="modern")) as (server, one):
        assert (await one.front.call().done()).era is Era.MODERN

        for era, served_as in (("legacy", Era.LEGACY), ("modern", Era.MODERN), ("legacy", Era.LEGACY)):
            server.era = era
            server.forget_sessions()
            outcome = await one.front.call(arguments={"text": "again"}).done()
            assert (outcome.text, outcome.era) == ("again", served_as)

        assert len(server.received("tools/call")) == 1 + 3 * 2  # each was refused once, and then executed


@pytest.mark.case("B-33")
async def test_a_list_of_a_server_that_comes_back_with_the_other_era_is_had_at_once():
    async with rig(RawServer(era="modern")) as (server, one):
        await one.front.ask_list().done()

        for era, leg in (("legacy", Era.LEGACY), ("modern", Era.MODERN)):
            server.era = era
            server.tools = [ECHO | {"name": era}]
            server.forget_sessions()
            outcome = await one.front.ask_list().done()
            assert (outcome.names, outcome.listing.leg) == ([era], leg)


@pytest.mark.case("B-33")
async def test_a_probe_that_hangs_does_not_keep_a_legacy_server_from_being_used(autojump_clock: object):
    server = RawServer(era="legacy", on={"server/discover": never})
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        with trio.fail_after(60):
            async with backend(server.url) as one:
                assert (await one.front.call(timeout_s=15).done()).era is Era.LEGACY
        nursery.cancel_scope.cancel()


@pytest.mark.case("B-33")
async def test_a_modern_server_that_refuses_a_call_like_a_stranger_is_asked_once_and_not_called_twice():
    async def refuse(_request: Request, reply: Reply) -> None:
        await reply.error(-32000, "Bad Request", 400)

    async with rig(RawServer(era="modern", on={"tools/call": refuse})) as (server, one):
        outcome = await one.front.call().done()

        assert (outcome.fault.code, json.loads(outcome.payload)["message"]) == (-32000, "Bad Request")
        assert len(server.received("tools/call")) == 1
        assert len(server.received("server/discover")) == 2
        assert (await one.front.call(method="ping", params=b"{}").done()).result["resultType"] == "complete"


# --- what is sent ----------------------------------------------------------------------------------------------------
async def test_a_modern_request_carries_what_the_revision_demands():
    async with rig() as (server, one):
        await one.front.call(
            "echo",
            {"text": "ä"},
            meta=b'"traceparent":"00-1","x.y/z":[1.0]',
            progress=True,
            log_level="debug",
            client_info=b'{"name":"c","version":"2"}',
        ).done()

        (request,) = server.received("tools/call")
        own_id = request.message["id"]
        assert own_id.startswith(f"b{INCARNATION}-")
        assert request.params["_meta"] == {
            META + "protocolVersion": "2026-07-28",
            META + "clientCapabilities": {},
            META + "clientInfo": {"name": "c", "version": "2"},
            META + "logLevel": "debug",
            "progressToken": own_id,
            "traceparent": "00-1",
            "x.y/z": [1.0],
        }
        assert b'"x.y/z":[1.0]' in request.body
        headers = request.headers
        assert headers["mcp-protocol-version"] == "2026-07-28"
        assert (headers["mcp-method"], headers["mcp-name"]) == ("tools/call", "echo")
        assert headers["accept"] == "application/json, text/event-stream"
        assert headers["content-type"] == "application/json"
        assert headers["host"] == f"127.0.0.1:{server.port}"
        assert "mcp-session-id" not in headers


async def test_a_version_refused_is_agreed_on_again_and_the_call_sent_again():
    async def refuse_once(request: Request, reply: Reply) -> None:
        if len(server.received("tools/call")) == 1:
            await reply.error(-32022, "Unsupported protocol version", 400, data={"supported": ["2026-07-28"]})
        else:
            await reply.result({"content": []})

    server = RawServer(era="modern", on={"tools/call": refuse_once})
    async with rig(server) as (_server, one):
        assert (await one.front.call().done()).result["content"] == []
        assert len(server.received("server/discover")) == 2


async def test_a_modern_request_says_no_more_than_it_must():
    async with rig() as (server, one):
        await one.front.call().done()

        (request,) = server.received("tools/call")
        assert set(request.params["_meta"]) == {
            META + "protocolVersion",
            META + "clientCapabilities",
            META + "clientInfo",
        }
        assert request.params["_meta"][META + "clientInfo"]["name"] == "mcp-bulkhead"


async def test_a_legacy_client_hears_what_a_modern_server_logs():
    async with rig(RawServer(era="modern")) as (server, one):
        await one.front.call(era=Era.LEGACY).done()
        await one.front.call(era=Era.LEGACY, log_level="error").done()

        levels = [request.params["_meta"][META + "logLevel"] for request in server.received("tools/call")]
        assert levels == ["info", "error"]


async def test_a_name_that_no_header_can_carry_is_encoded():
    async with rig() as (server, one):
        await one.front.call("größe\r\nX-Evil: 1").done()

        (request,) = server.received("tools/call")
        assert request.headers["mcp-name"].startswith("=?base64?")
        assert "x-evil" not in request.headers


async def test_arguments_that_a_tool_wants_in_headers_are_repeated_there():
    schema = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}
    async with rig(RawServer(tools=[{"name": "where", "inputSchema": schema}])) as (server, one):
        assert (await one.front.ask_list().done()).names == ["where"]

        await one.front.call("where", {"region": "eu"}).done()
        await one.front.call("where", {"region": "eu"}, era=Era.LEGACY).done()
        await one.front.call("where", {}).done()

        said = [request.headers.get("mcp-param-region") for request in server.received("tools/call")]
        assert said == ["eu", None, None]


async def test_a_header_mismatch_is_repaired_by_reading_the_list_again():
    schema = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}

    async def insist(request: Request, reply: Reply) -> None:
        if "mcp-param-region" in request.headers:
            await reply.result({"content": [{"type": "text", "text": "at last"}]})
        else:
            await reply.error(-32020, "Mcp-Param-Region is missing", 400)

    async with rig(RawServer(era="modern", on={"tools/call": insist})) as (server, one):
        await one.front.ask_list().done()
        server.tools = [{"name": "where", "inputSchema": schema}]

        assert (await one.front.call("where", {"region": "eu"}).done()).text == "at last"
        await one.front.wait_list_change()


async def test_a_header_mismatch_that_stays_is_passed_on_after_one_more_try():
    async def refuse(_request: Request, reply: Reply) -> None:
        await reply.error(-32020, "never good enough", 400)

    async with rig(RawServer(era="modern", on={"tools/call": refuse})) as (server, one):
        outcome = await one.front.call().done()

        assert outcome.fault.code == -32020
        assert json.loads(outcome.payload)["message"] == "never good enough"
        assert len(server.received("tools/call")) == 2


async def test_a_legacy_request_carries_session_and_version_and_no_modern_meta():
    async with rig(RawServer(era="legacy")) as (server, one):
        await one.front.call(meta=b'"traceparent":"00-1"', progress=True, log_level="info").done()

        (request,) = server.received("tools/call")
        assert request.params["_meta"] == {"traceparent": "00-1", "progressToken": request.message["id"]}
        assert request.headers["mcp-session-id"] == "raw-session-1"
        assert request.headers["mcp-protocol-version"] == "2025-11-25"
        assert "mcp-method" not in request.headers
        (initialize,) = server.received("initialize")
        assert "mcp-session-id" not in initialize.headers
        assert initialize.params["capabilities"] == {}
        assert server.received("notifications/initialized")[0].headers["mcp-session-id"] == "raw-session-1"


async def test_ids_are_never_used_twice_and_are_no_numbers():
    async with rig() as (server, one):
        for era in Era:
            for _ in range(3):
                await one.front.call(era=era).done()

        ids = [request.message["id"] for request in server.requests if b'"id"' in request.body]
        assert len(set(ids)) == len(ids)
        assert all(isinstance(each, str) and not each.isdigit() for each in ids)


# --- what comes back -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("era", list(Era))
async def test_results_and_arguments_travel_byte_for_byte(era: Era):
    arguments = b'{ "n" : 10000000000000000000000, "f":1.0,"z":null, "e":"\\u00e4" }'
    odd = b'{"content": [ ], "big":10000000000000000000000, "f":1.0, "x":null,\n "resultType":"complete"}'

    async def raw(request: Request, reply: Reply) -> None:
        assert arguments in request.body
        own_id = json.dumps(request.message["id"]).encode()
        body = b'{"jsonrpc": "2.0",\n "result": ' + odd + b' , "id":' + own_id + b', "x":1}\n'
        await reply.status(200, body, "Application/JSON; charset=utf-8")

    async with rig(RawServer(on={"tools/call": raw})) as (_server, one):
        params = b'{"name":"echo","arguments":' + arguments + b"}"
        outcome = await one.front.call(params=params, era=era).done()

        assert outcome.payload == odd


@pytest.mark.parametrize("era", list(Era))
@pytest.mark.parametrize("shape", ["plain", "pretty", "chunked", "events", "pretty events", "closing"])
async def test_an_answer_is_understood_in_every_shape(era: Era, shape: str):
    server = RawServer(
        pretty="pretty" in shape,
        events="events" in shape,
        chunk_bytes=7 if shape == "chunked" else 0,
        close_each=shape == "closing",
    )
    async with rig(server) as (_server, one):
        for text in ("one", "zwölf", "three"):
            assert (await one.front.call(arguments={"text": text}, era=era).done()).text == text


@pytest.mark.parametrize("era", list(Era))
@pytest.mark.parametrize("shape", ["plain", "chunked", "events"])
async def test_a_result_of_megabytes_comes_whole(era: Era, shape: str):
    text = "0123456789abcdef" * 131_072
    big: Json = {"content": [{"type": "text", "text": text}], "structuredContent": {"text": text}}
    server = RawServer(
        events=shape == "events", chunk_bytes=50_000 if shape == "chunked" else 0, on={"tools/call": with_result(big)}
    )
    async with rig(server) as (_server, one):
        calls = [one.front.call(era=era) for _ in range(4)]
        for call in calls:
            result = (await call.done()).result
            assert result["content"] == big["content"]
            assert result["structuredContent"] == big["structuredContent"]


async def test_arguments_of_megabytes_go_whole():
    text = "x" * 3_000_000
    async with rig() as (_server, one):
        for era in Era:
            assert (await one.front.call(arguments={"text": text}, era=era).done()).text == text


async def test_a_servers_own_error_is_passed_on_untouched():
    data = {"detail": [1, None], "x": 1.0}

    async def refuse(_request: Request, reply: Reply) -> None:
        await reply.error(-32602, "Unknown tool: nope", data=data)

    async with rig(RawServer(on={"tools/call": refuse})) as (_server, one):
        for era in Era:
            outcome = await one.front.call(era=era).done()
            assert (outcome.fault.code, outcome.fault.message, outcome.era) == (-32602, "Unknown tool: nope", era)
            assert json.loads(outcome.payload) == {"code": -32602, "message": "Unknown tool: nope", "data": data}


async def test_what_a_modern_server_refuses_with_an_http_status_is_its_own_error():
    async with rig(RawServer(era="modern")) as (server, one):
        outcome = await one.front.call(method="prompts/get", params=b'{"name":"x"}').done()

        assert (outcome.fault.code, json.loads(outcome.payload)["message"]) == (-32601, "Method not found")
        assert len(server.received("server/discover")) == 1


# --- connections -----------------------------------------------------------------------------------------------------
async def test_a_connection_is_used_again():
    async with rig() as (server, one):
        for era in (Era.MODERN, Era.LEGACY) * 5:
            await one.front.call(era=era).done()

        # The list may have been fetched beside the first call, and the stream of the session was refused on a third.
        assert server.connections <= 3


async def test_a_connection_nobody_needs_is_closed_before_the_server_does_it(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(health, "INTERVAL_S", 1000.0)  # a check would close it too
    server = RawServer()
    with trio.fail_after(200):
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve)
            async with backend(server.url) as one:
                await one.front.call().done()
                started = trio.current_time()
                assert await no_connection_left(server)
                assert POOL_IDLE_S - 1 < trio.current_time() - started < POOL_IDLE_S + 2
                assert (await one.front.call(arguments={"text": "new"}).done()).text == "new"
            nursery.cancel_scope.cancel()


async def test_a_front_that_breaks_the_rules_of_the_link_loses_it_and_its_calls():
    async with rig(RawServer(era="modern", on={"tools/call": never})) as (server, one):
        other = one.attach()
        call = other.call()
        (request,) = await server.wait_for("tools/call")
        other.send(Call(call.id, Era.MODERN, "tools/call", "echo", 5.0, b"", False, "", b""))
        await other.closed.wait()
        await server.wait_until_closed(request.connection)
        server.on.clear()
        assert (await one.front.call(arguments={"text": "fine"}).done()).text == "fine"


async def test_calls_run_at_the_same_time():
    released = trio.Event()
    server = RawServer(on={"tools/call": after(released, with_result({"content": []}))})
    async with rig(server) as (_server, one):
        calls = [one.front.call() for _ in range(IN_FLIGHT_PER_SERVER_MAX)]
        await server.wait_for("tools/call", len(calls))
        released.set()
        for call in calls:
            assert (await call.done()).result["content"] == []


async def test_a_worker_says_how_many_calls_it_takes_and_refuses_those_beyond():
    released = trio.Event()
    server = RawServer(on={"tools/call": after(released, with_result({"content": []}))})
    async with rig(server, in_flight_max=2) as (_server, one):
        calls = [one.front.call() for _ in range(2)]
        await server.wait_for("tools/call", 2)
        assert one.front.end.peer is not None
        assert one.front.end.peer.calls == 2
        fault = (await one.front.call().done()).fault
        assert (fault.code, fault.sent) == (OVERLOADED, False)
        assert "more than 2 calls in flight" in fault.message
        released.set()
        for call in calls:
            assert (await call.done()).result["content"] == []


async def test_the_answer_of_a_slow_call_comes_after_that_of_a_fast_one():
    released = trio.Event()

    async def by_name(request: Request, reply: Reply) -> None:
        if request.params["name"] == "slow":
            await released.wait()
        await reply.result({"content": [{"type": "text", "text": request.params["name"]}]})

    async with rig(RawServer(on={"tools/call": by_name})) as (_server, one):
        slow = one.front.call("slow")
        assert (await one.front.call("fast").done()).text == "fast"
        assert slow.outcome is None
        released.set()
        assert (await slow.done()).text == "slow"


# --- lists -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("era", "leg"), [("dual", None), ("modern", Era.MODERN), ("legacy", Era.LEGACY)])
async def test_a_list_comes_over_the_leg_that_serves_the_client(era: str, leg: Era | None):
    async with rig(RawServer(era=era, tools=[ECHO | {"name": f"t{n}"} for n in range(5)], page_size=2)) as (
        _server,
        one,
    ):
        for client in Era:
            outcome = await one.front.ask_list(client).done()
            assert outcome.names == ["t0", "t1", "t2", "t3", "t4"]
            assert outcome.listing.leg is (client if leg is None else leg)
            assert outcome.listing.era is client


async def test_a_list_the_front_already_has_is_not_sent_again():
    async with rig() as (server, one):
        first = await one.front.ask_list().done()
        again = await one.front.ask_list(have=first.listing.generation).done()
        assert (again.listing.generation, again.payload) == (first.listing.generation, b"")

        server.tools = [*server.tools, ECHO | {"name": "more"}]
        changed = await one.front.ask_list(have=first.listing.generation).done()
        assert changed.names == ["echo", "more"]
        assert changed.listing.generation > first.listing.generation


async def test_a_list_is_served_from_memory_while_it_is_fresh():
    async def hinted(request: Request, reply: Reply) -> None:
        await reply.result({"tools": [], "ttlMs": 60_000, "cacheScope": "public"})

    async with rig(RawServer(era="modern", on={"tools/list": hinted})) as (server, one):
        first = await one.front.ask_list().done()
        for _ in range(3):
            again = await one.front.ask_list().done()
            assert (again.listing.generation, again.payload) == (first.listing.generation, first.payload)
            assert again.listing.ttl_ms <= first.listing.ttl_ms
        assert len(server.received("tools/list")) == 1
        assert 50_000 < first.listing.ttl_ms <= 60_000
        assert not first.listing.private


@pytest.mark.case("D-21")
async def test_a_list_is_asked_for_in_our_own_name_whoever_has_called_before():
    async with rig(headers=[("Authorization", "Bearer ours")]) as (server, one):
        await one.front.ask_list().done()
        await one.front.call(client_info=b'{"name":"canary","version":"1"}', meta=b'"canary":1').done()
        await one.front.ask_list().done()

        *_, before, after = server.received("tools/list")
        assert after.headers == before.headers
        assert after.params == before.params
        assert after.headers["authorization"] == "Bearer ours"
        assert "canary" not in str(after.message)


async def test_a_server_that_comes_back_with_lists_it_did_not_have_is_asked_for_them():
    lists: Json = {"tools": {}}

    async def initialize(request: Request, reply: Reply) -> None:
        session = f"session-{len(server.received('initialize'))}"
        server.known_sessions.add(session)
        reply.headers.append(("Mcp-Session-Id", session))
        said = {"protocolVersion": "2025-11-25", "capabilities": lists, "serverInfo": {"name": "raw", "version": "1"}}
        await reply.result(said)

    async def prompts(request: Request, reply: Reply) -> None:
        await reply.result({"prompts": [{"name": "hello"}]})

    on = {"initialize": initialize, "prompts/list": prompts}
    async with rig(RawServer(era="legacy", on=on)) as (server, one):
        assert (await one.front.ask_list(kind="prompts").done()).items == []
        lists["prompts"] = {}
        server.forget_sessions()
        await one.front.call().done()  # from which the worker learns that its session is gone
        await one.front.wait_list_change("prompts")
        assert (await one.front.ask_list(kind="prompts").done()).names == ["hello"]


async def test_a_server_without_tools_has_an_empty_list():
    async def discover(_request: Request, reply: Reply) -> None:
        await reply.result({"supportedVersions": ["2026-07-28"], "capabilities": {"prompts": {}}})

    async with rig(RawServer(era="modern", on={"server/discover": discover})) as (server, one):
        assert (await one.front.ask_list().done()).items == []
        assert not server.received("tools/list")


async def test_a_server_that_does_not_know_its_own_list_has_an_empty_one():
    async with rig() as (_server, one):
        assert (await one.front.ask_list(kind="prompts").done()).items == []
        fault = (await one.front.ask_list(kind="nonsense").done()).header
        assert 'no list of "nonsense"' in fault.message


async def test_a_list_that_fails_says_why_and_the_next_one_works():
    async def fail(_request: Request, reply: Reply) -> None:
        await reply.error(-32603, "no list today\n")

    async with rig(RawServer(on={"tools/list": fail})) as (server, one):
        outcome = await one.front.ask_list().done()
        assert outcome.header.message == 'server "main" refused with error -32603: no list today '

        del server.on["tools/list"]
        assert (await one.front.ask_list().done()).names == ["echo"]


async def test_every_front_is_told_that_the_list_may_have_changed():
    async def changing(_request: Request, reply: Reply) -> None:
        await reply.start_events()
        await reply.notify("notifications/tools/list_changed", {})
        await reply.event({"jsonrpc": "2.0", "id": _request.message["id"], "result": {"content": []}})
        await reply.end_events()

    async with rig(RawServer(era="legacy", on={"tools/call": changing})) as (_server, one):
        other = one.attach()
        await one.front.call().done()
        await one.front.wait_list_change()
        await other.wait_list_change()
        assert one.front.list_changes == other.list_changes == ["tools"]


# --- states ----------------------------------------------------------------------------------------------------------
async def test_the_states_of_a_good_start_are_told_in_order():
    async def discover(_request: Request, reply: Reply) -> None:
        capabilities: Json = {"tools": {}}
        await reply.result(
            {"supportedVersions": ["2026-07-28"], "capabilities": capabilities, "instructions": "Ask nicely."}
        )

    async with rig(RawServer(on={"server/discover": discover})) as (_server, one):
        state = await one.front.wait_state("ready")
        assert (state.detail, state.instructions) == ("", "Ask nicely.")
        assert [name for name, _ in one.reported] == ["starting", "connecting", "negotiating", "ready"]
        late = one.attach()
        assert (await late.wait_state("ready")).instructions == "Ask nicely."


async def test_instructions_too_long_for_a_frame_are_cut():
    async def discover(_request: Request, reply: Reply) -> None:
        await reply.result({"supportedVersions": ["2026-07-28"], "capabilities": {}, "instructions": "ä" * 1_000_000})

    async with rig(RawServer(on={"server/discover": discover})) as (_server, one):
        assert len((await one.front.wait_state("ready")).instructions) == 8192


@pytest.mark.case("B-01")
async def test_a_server_that_is_not_there_yet_is_waited_for(autojump_clock: object):
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    with trio.fail_after(60):
        async with backend(f"http://127.0.0.1:{port}/mcp") as one:
            state = await one.front.wait_state("backoff")
            assert f"refused the connection (127.0.0.1:{port}): is it running?" in state.detail
            outcome = await one.front.call().done()
            assert (outcome.fault.code, outcome.fault.sent) == (SERVER_UNAVAILABLE, False)
            assert outcome.fault.message == state.detail

            async with trio.open_nursery() as nursery:
                life = await nursery.start(life_of, RawServer(port=port))
                await one.front.wait_state("ready")
                assert (await one.front.call(arguments={"text": "up"}).done()).text == "up"
                assert (await one.front.ask_list().done()).names == ["echo"]
                life.cancel()


@pytest.mark.case("B-01")
async def test_a_server_that_goes_away_and_comes_back_is_found_again(autojump_clock: object):
    server = RawServer()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            first_life = await nursery.start(life_of, server)
            async with backend(server.url) as one:
                for era in Era:
                    assert (await one.front.call(arguments={"text": "1"}, era=era).done()).text == "1"
                first_life.cancel()
                await no_connection_left(server)
                outcome = await one.front.call().done()
                assert (outcome.fault.code, outcome.fault.sent) == (SERVER_UNAVAILABLE, False)
                assert "is it running?" in (await one.front.wait_state("backoff")).detail

                second_life = await nursery.start(life_of, server)
                await one.front.wait_state("ready")
                for era in Era:
                    assert (await one.front.call(arguments={"text": "2"}, era=era).done()).text == "2"
                # The session had survived; asking for it was enough.
                assert len(server.received("initialize")) == 1
                second_life.cancel()


# --- leaving ---------------------------------------------------------------------------------------------------------
async def test_a_drain_finishes_calls_refuses_new_ones_and_ends_the_session():
    released = trio.Event()
    slow = after(released, with_result({"content": []}))
    async with rig(RawServer(era="legacy", on={"tools/call": slow})) as (server, one):
        call = one.front.call()
        await server.wait_for("tools/call")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.worker.drain, 3.0)
            await one.front.wait_state("draining")
            refused = await one.front.call().done()
            assert (refused.fault.code, refused.fault.sent) == (SERVER_UNAVAILABLE, False)
            assert call.outcome is None
            released.set()
            assert (await call.done()).result["content"] == []
        assert one.front.closed.is_set()
        assert [request.headers["mcp-session-id"] for request in server.requests if request.verb == "DELETE"] == [
            "raw-session-1"
        ]
        assert await no_connection_left(server)


async def test_a_drain_does_not_wait_longer_than_it_may():
    async with rig(RawServer(era="modern", on={"tools/call": never})) as (server, one):
        call = one.front.call()
        await server.wait_for("tools/call")
        await one.worker.drain(0.05)
        assert (await call.done()).fault.sent


async def test_a_worker_that_leaves_ends_its_session_at_the_server():
    """A proxy that is restarted each night must not leave a session behind each time."""
    async with rig(RawServer(era="legacy")) as (server, one):
        await one.front.call().done()
        await one.worker.leave()
        (ended,) = [request for request in server.requests if request.verb == "DELETE"]
        assert ended.headers["mcp-session-id"] == "raw-session-1"


@pytest.mark.parametrize("how", ["drain", "leave"])
async def test_nobody_waits_for_a_server_that_does_not_care_about_its_session(autojump_clock: object, how: str):
    server = RawServer(era="legacy", on={"DELETE": never})
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve)
            async with backend(server.url) as one:
                await one.front.call().done()
                started = trio.current_time()
                await (one.worker.drain(0.0) if how == "drain" else one.worker.leave())
                assert trio.current_time() - started < 2.0
            nursery.cancel_scope.cancel()


async def test_a_modern_result_that_does_not_say_its_type_reaches_clients_as_complete():
    async def untyped(_request: Request, reply: Reply) -> None:
        await reply.final({"result": {"content": []}})

    async with rig(RawServer(era="modern", on={"tools/call": untyped})) as (_, one):
        assert (await one.front.call().done()).result == {"content": [], "resultType": "complete"}
