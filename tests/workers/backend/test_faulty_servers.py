"""Servers that break off, stall, lie, flood, or are no MCP servers: one clear fault each, and no other call harmed."""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

import pytest
import trio
import trio.testing

from protocol.errors import CALL_TIMEOUT, INTERNAL_ERROR, OUTCOME_UNKNOWN, OVERLOADED, SERVER_UNAVAILABLE
from protocol.limits import ANSWER_BYTES_MAX, POOL_CONNECTIONS_MAX
from protocol.versions import Era
from tests.peers.raw_server import (
    RawServer,
    Reply,
    Request,
    hang_up,
    hang_up_half_way,
    never,
    with_id,
    with_result,
    with_status,
)
from tests.workers.backend.harness import Backend, after, backend, rig

BOTH = pytest.mark.parametrize("era", [Era.LEGACY, Era.MODERN], ids=["legacy", "modern"])
ONE_ERA = pytest.mark.parametrize("era", ["legacy", "modern"])


async def assert_still_works(server: RawServer, one: Backend) -> None:
    server.on.pop("tools/call", None)
    assert (await one.front.call(arguments={"text": "next"}).done()).text == "next"
    assert (await one.front.ask_list().done()).names == ["echo"]


# --- silence ---------------------------------------------------------------------------------------------------------
@pytest.mark.case("B-02")
async def test_a_call_that_gets_no_answer_is_cancelled_at_a_modern_server_by_hanging_up():
    async with rig(RawServer(era="modern", on={"tools/call": never}), tool_timeouts={"echo": 0.1}) as (server, one):
        call = one.front.call(timeout_s=0.1)
        (request,) = await server.wait_for("tools/call")
        await server.wait_until_closed(request.connection)

        fault = (await call.done()).fault
        assert (fault.code, fault.sent) == (CALL_TIMEOUT, True)
        assert fault.message.startswith('server "main" did not answer within 0.1 s')
        await assert_still_works(server, one)


@pytest.mark.case("B-02")
async def test_a_call_that_gets_no_answer_is_cancelled_at_a_legacy_server_by_a_notification():
    async with rig(RawServer(era="legacy", on={"tools/call": never})) as (server, one):
        call = one.front.call(timeout_s=0.1)
        (request,) = await server.wait_for("tools/call")
        (notice,) = await server.wait_for("notifications/cancelled")

        assert notice.params["requestId"] == request.message["id"]
        assert (await call.done()).fault.code == CALL_TIMEOUT
        await assert_still_works(server, one)


@pytest.mark.case("B-02")
async def test_a_call_is_not_said_to_be_sent_while_the_server_is_only_being_asked_who_it_is():
    async with rig(RawServer(on={"server/discover": never})) as (server, one):
        fault = (await one.front.call(timeout_s=0.1).done()).fault

        assert (fault.code, fault.sent) == (CALL_TIMEOUT, False)
        assert not server.received("tools/call")


async def test_progress_keeps_a_call_alive_but_not_beyond_its_silence(autojump_clock: object):
    async def slow(request: Request, reply: Reply) -> None:
        await reply.start_events()
        for step in range(5):
            await trio.sleep(0.7)
            await reply.notify("notifications/progress", {"progressToken": request.message["id"], "progress": step})
        if request.params["name"] == "endless":
            await trio.sleep(100)
        await reply.event({"jsonrpc": "2.0", "id": request.message["id"], "result": {"content": []}})
        await reply.end_events()

    server = RawServer(era="legacy", on={"tools/call": slow})
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve)
            async with backend(server.url, tool_timeouts={"echo": 1.0, "endless": 1.0}) as one:
                outcome = await one.front.call(timeout_s=1.0, progress=True).done()
                assert outcome.result == {"content": []}
                assert len(outcome.events) == 5
                started = trio.current_time()
                outcome = await one.front.call("endless", timeout_s=1.0, progress=True).done()
                assert outcome.fault.code == CALL_TIMEOUT
                assert len(outcome.events) == 5
                assert trio.current_time() - started < 10
            nursery.cancel_scope.cancel()


# --- broken connections ----------------------------------------------------------------------------------------------
async def reset(_request: Request, reply: Reply) -> None:
    """Not even a polite end of the connection."""
    reply.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await hang_up(_request, reply)


async def hang_up_in_head(_request: Request, reply: Reply) -> None:
    await reply.raw(b"HTTP/1.1 200 OK\r\nContent-")
    await hang_up(_request, reply)


async def hang_up_in_chunk(_request: Request, reply: Reply) -> None:
    await reply.head(200, ("Content-Type", "application/json"), ("Transfer-Encoding", "chunked"))
    await reply.raw(b'10\r\n{"jsonrpc":')
    await hang_up(_request, reply)


@BOTH
@pytest.mark.parametrize("how", [hang_up, reset, hang_up_in_head, hang_up_half_way, hang_up_in_chunk])
@pytest.mark.case("B-03")
async def test_a_connection_that_breaks_ends_the_call_once_and_it_is_not_sent_again(era: Era, how: Any):
    async with rig(RawServer(on={"tools/call": how})) as (server, one):
        await one.front.ask_list(era).done()
        fault = (await one.front.call(era=era).done()).fault

        assert (fault.code, fault.sent) == (OUTCOME_UNKNOWN, True)
        assert 'server "main" closed the connection' in fault.message
        assert len(server.received("tools/call")) == 1
        await assert_still_works(server, one)


@BOTH
@pytest.mark.case("B-03")
async def test_what_was_said_before_a_stream_breaks_stands(era: Era):
    async def half(request: Request, reply: Reply) -> None:
        await reply.start_events()
        await reply.notify("notifications/progress", {"progressToken": request.message["id"], "progress": 1})
        await hang_up(request, reply)

    async with rig(RawServer(on={"tools/call": half})) as (server, one):
        outcome = await one.front.call(era=era, progress=True).done()

        assert (outcome.fault.code, outcome.fault.sent) == (OUTCOME_UNKNOWN, True)
        assert len(outcome.events) == 1
        assert len(server.received("tools/call")) == 1


@BOTH
@pytest.mark.case("B-03")
async def test_a_stream_that_ends_without_an_answer_is_a_fault(era: Era):
    async def empty(_request: Request, reply: Reply) -> None:
        await reply.start_events()
        await reply.end_events()

    async with rig(RawServer(on={"tools/call": empty})) as (_server, one):
        fault = (await one.front.call(era=era).done()).fault
        assert (fault.code, fault.sent) == (OUTCOME_UNKNOWN, True)
        assert "a stream that held no answer" in fault.message


async def test_a_connection_closed_while_idle_harms_no_call():
    async with rig() as (server, one):
        for number in range(5):
            reused = await one.front.call(arguments={"text": str(number)}).done()
            assert reused.text == str(number)
            server.close_each = True
            last = await one.front.call(arguments={"text": "last"}).done()
            assert last.text == "last"
            await server.wait_until_closed(server.requests[-1].connection)
            await trio.testing.wait_all_tasks_blocked()
            server.close_each = False


async def test_a_server_that_closes_after_each_answer_without_saying_so_harms_no_call():
    async with rig(RawServer(close_each=True)) as (server, one):
        for number in range(10):
            assert (await one.front.call(arguments={"text": str(number)}).done()).text == str(number)
        assert len(server.received("tools/call")) == 10


async def test_a_list_lost_on_a_stale_connection_is_asked_for_again():
    async with rig() as (server, one):
        await one.front.ask_list().done()
        server.close_each = True
        asked = len(server.received("tools/list"))
        server.on["tools/list"] = hang_up_once(server)
        assert (await one.front.ask_list().done()).names == ["echo"]
        assert len(server.received("tools/list")) == asked + 2


def hang_up_once(server: RawServer) -> Any:
    async def answer(request: Request, reply: Reply) -> None:
        del server.on["tools/list"]
        await hang_up(request, reply)

    return answer


# --- wrong, double and late answers ----------------------------------------------------------------------------------
@BOTH
@pytest.mark.parametrize("wrong", [7, "b3-999999", "", True], ids=repr)
@pytest.mark.case("B-06")
async def test_a_json_answer_under_another_id_is_no_answer(era: Era, wrong: Any):
    async with rig(RawServer(on={"tools/call": with_id(wrong)})) as (server, one):
        fault = (await one.front.call(era=era).done()).fault

        assert (fault.code, fault.sent) == (INTERNAL_ERROR, True)
        assert "no answer to the request" in fault.message
        await assert_still_works(server, one)


@BOTH
@pytest.mark.case("B-06", "B-07")
async def test_events_under_other_ids_are_dropped_until_the_right_one_comes(era: Era):
    async def confused(request: Request, reply: Reply) -> None:
        own_id = request.message["id"]
        await reply.start_events()
        for wrong in ("7", 7, own_id.upper(), own_id + " ", "b3-1"):
            await reply.event({"jsonrpc": "2.0", "id": wrong, "result": {"wrong": True}})
        await reply.event({"jsonrpc": "2.0", "id": None, "error": {"code": 1, "message": "whose?"}})
        for number in (1, 2):
            await reply.event({"jsonrpc": "2.0", "id": own_id, "result": {"number": number}})
        await reply.end_events()

    async with rig(RawServer(on={"tools/call": confused})) as (server, one):
        assert (await one.front.call(era=era).done()).result["number"] == 1
        assert one.worker.counters.answers == 6
        await assert_still_works(server, one)


@pytest.mark.case("B-06")
async def test_an_answer_under_the_id_of_another_live_call_reaches_neither():
    released = trio.Event()

    async def swapped(request: Request, reply: Reply) -> None:
        await released.wait()
        (other,) = (each for each in server.received("tools/call") if each is not request)
        await reply.message({"jsonrpc": "2.0", "id": other.message["id"], "result": {"content": []}})

    async with rig(RawServer(era="modern", on={"tools/call": swapped})) as (server, one):
        calls = [one.front.call("a"), one.front.call("b")]
        await server.wait_for("tools/call", 2)
        released.set()
        for call in calls:
            assert (await call.done()).fault.code == INTERNAL_ERROR
        assert one.worker.counters.answers == 2


@BOTH
@pytest.mark.case("B-07")
async def test_a_second_answer_on_the_connection_ends_the_connection_and_nothing_else(era: Era):
    async def twice(request: Request, reply: Reply) -> None:
        await reply.result({"content": []})
        await reply.result({"content": ["second"]})

    async with rig(RawServer(on={"tools/call": twice})) as (server, one):
        assert (await one.front.call(era=era).done()).result["content"] == []
        await server.wait_until_closed(server.received("tools/call")[0].connection)
        await assert_still_works(server, one)


@pytest.mark.case("B-07")
async def test_an_answer_after_the_call_timed_out_is_dropped():
    released = trio.Event()
    late = after(released, with_result({"content": ["late"]}))
    async with rig(RawServer(era="legacy", on={"tools/call": late})) as (server, one):
        fault = (await one.front.call(timeout_s=0.1).done()).fault
        assert fault.code == CALL_TIMEOUT
        released.set()
        await assert_still_works(server, one)


class HastyServer:
    """Answers a large request as soon as it has seen its head, and small ones as it should."""

    def __init__(self, *, reads_on: bool) -> None:
        self.reads_on = reads_on
        self.hasty_answers = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            received = b""
            while True:
                while b"\r\n\r\n" not in received:
                    more = await stream.receive_some(1024)
                    if not more:
                        return
                    received += more
                head, _, received = received.partition(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                if length > 1_000_000:
                    self.hasty_answers += 1
                    refusal = {"id": None, "error": {"code": -32600, "message": "too large"}}
                    await self.answer(stream, "413 Content Too Large", refusal)
                    while self.reads_on and await stream.receive_some():
                        pass
                    return
                while len(received) < length:
                    received += await stream.receive_some()
                request = json.loads(received[:length])
                received = received[length:]
                versions = {"supportedVersions": ["2026-07-28"], "capabilities": {}}
                await self.answer(stream, "200 OK", {"id": request["id"], "result": versions})

    async def answer(self, stream: trio.SocketStream, status: str, message: dict[str, Any]) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        await stream.send_all(head.encode() + body)


@pytest.mark.parametrize("reads_on", [True, False], ids=["and reads on", "and closes"])
@pytest.mark.case("B-08")
async def test_an_answer_that_comes_before_the_request_is_written_confuses_nothing(reads_on: bool):
    hasty = HastyServer(reads_on=reads_on)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, hasty.serve, [listener])
            async with backend(f"http://127.0.0.1:{listener.socket.getsockname()[1]}/mcp") as one:
                assert (await one.front.call().done()).result

                fault = (await one.front.call(arguments={"text": "x" * 15_000_000}).done()).fault

                assert hasty.hasty_answers == 1
                assert fault.sent
                assert fault.code in (-32600, OUTCOME_UNKNOWN)  # the latter if a reset overtook the answer
                assert (await one.front.call().done()).result
            nursery.cancel_scope.cancel()


# --- too much --------------------------------------------------------------------------------------------------------
@BOTH
@pytest.mark.case("B-11")
async def test_an_endless_answer_is_cut_at_a_limit_the_fault_names(era: Era):
    async def endless(_request: Request, reply: Reply) -> None:
        await reply.head(200, ("Content-Type", "application/json"), ("Transfer-Encoding", "chunked"))
        while True:
            await reply.chunk(b" " * 500_000)

    async with rig(RawServer(on={"tools/call": endless})) as (server, one):
        fault = (await one.front.call(era=era).done()).fault
        assert str(ANSWER_BYTES_MAX) in fault.message
        await assert_still_works(server, one)


@BOTH
@pytest.mark.case("B-09", "B-11")
async def test_an_endless_event_is_cut_at_a_limit_the_fault_names(era: Era):
    async def endless(_request: Request, reply: Reply) -> None:
        await reply.start_events()
        await reply.chunk(b"data: ")
        while True:
            await reply.chunk(b"x" * 500_000)

    async with rig(RawServer(on={"tools/call": endless})) as (server, one):
        fault = (await one.front.call(era=era).done()).fault
        assert str(ANSWER_BYTES_MAX) in fault.message
        await assert_still_works(server, one)


@pytest.mark.case("B-11")
async def test_an_answer_announced_as_too_long_is_refused_at_once():
    async def boast(_request: Request, reply: Reply) -> None:
        await reply.head(200, ("Content-Type", "application/json"), ("Content-Length", str(ANSWER_BYTES_MAX + 1)))

    async with rig(RawServer(on={"tools/call": boast})) as (_server, one):
        assert str(ANSWER_BYTES_MAX) in (await one.front.call().done()).fault.message


@pytest.mark.case("B-09")
async def test_events_that_are_no_messages_are_dropped():
    async def noisy(request: Request, reply: Reply) -> None:
        await reply.start_events()
        for garbage in (
            b": comment\n" * 1000,
            b"\n\n\n",
            b"data\n\n",
            b"data: not json\n\n",
            b"data: \xff\xfe\n\n",
            b"data: []\n\n",
            b"event: other\ndata: {}\n\n",
            b"id: 1\nretry: 0\ndata:\n\n",
            b"\r\r\n",
        ):
            await reply.chunk(garbage)
        own_id = json.dumps(request.message["id"]).encode()
        await reply.chunk(b'data: {"jsonrpc":"2.0",\rdata: "id":%b,\rdata: "result":{"content":[]}}\r\r' % own_id)
        await reply.end_events()

    async with rig(RawServer(era="legacy", on={"tools/call": noisy})) as (server, one):
        assert (await one.front.call().done()).result == {"content": []}
        await assert_still_works(server, one)


# --- HTTP says no ----------------------------------------------------------------------------------------------------
def with_headers(status: int, *headers: tuple[str, str], body: bytes = b"") -> Any:
    async def answer(_request: Request, reply: Reply) -> None:
        await reply.head(status, *headers, ("Content-Length", str(len(body))))
        await reply.raw(body)

    return answer


@BOTH
@pytest.mark.parametrize(
    ("status", "retry_after", "code", "retry_after_ms"),
    [
        (429, "7", OVERLOADED, 7000),
        (429, "", OVERLOADED, 0),
        (503, "0", SERVER_UNAVAILABLE, 0),
        (503, "1000000000", SERVER_UNAVAILABLE, 60_000),
        (500, "7", INTERNAL_ERROR, 0),
        (502, "", INTERNAL_ERROR, 0),
    ],
)
@pytest.mark.case("B-12")
async def test_http_failures_are_told_with_their_advice(
    era: Era, status: int, retry_after: str, code: int, retry_after_ms: int
):
    headers = [("Retry-After", retry_after)] if retry_after else []
    async with rig(RawServer(on={"tools/call": with_headers(status, *headers, body=b"busy")})) as (server, one):
        fault = (await one.front.call(era=era).done()).fault

        assert (fault.code, fault.sent, fault.retry_after_ms) == (code, True, retry_after_ms)
        assert f"HTTP {status}" in fault.message
        assert len(server.received("tools/call")) == 1
        await assert_still_works(server, one)


@BOTH
@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.case("B-13")
async def test_a_server_that_wants_authorization_says_so_to_the_client(era: Era, status: int):
    challenge = ("WWW-Authenticate", "Bearer " + "x" * 10_000 + '="')
    async with rig(RawServer(on={"tools/call": with_headers(status, challenge)})) as (server, one):
        fault = (await one.front.call(era=era).done()).fault

        assert "needs authorization" in fault.message
        assert "xxx" not in fault.message
        assert "authorization" not in server.received("tools/call")[0].headers
        await assert_still_works(server, one)


@pytest.mark.case("B-13")
async def test_a_server_that_wants_authorization_from_the_start_is_reported_and_tried_again_later():
    async with rig(RawServer(on={"server/discover": with_status(401), "initialize": with_status(401)})) as (
        server,
        one,
    ):
        state = await one.front.wait_state("backoff")
        assert "needs authorization (HTTP 401)" in state.detail
        fault = (await one.front.call().done()).fault
        assert "needs authorization" in fault.message
        assert not fault.sent
        assert not server.received("initialize")

        server.on.clear()
        await one.front.wait_state("ready")
        await assert_still_works(server, one)


@BOTH
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.case("B-14")
async def test_a_redirect_is_not_followed(era: Era, status: int):
    async with rig() as (server, one):
        server.on["tools/call"] = with_headers(status, ("Location", f"{server.url}?canary=1"))
        fault = (await one.front.call(era=era).done()).fault

        assert "redirects to its path /mcp (HTTP" in fault.message
        assert "127.0.0.1" in fault.message
        assert "canary" not in fault.message
        assert len(server.received("tools/call")) == 1
        await assert_still_works(server, one)


HTML = b"<html>\n<body onload='steal()'>\x1b[31m" + b"x" * 1000


@BOTH
@pytest.mark.parametrize(
    ("answer", "words"),
    [
        pytest.param(with_status(200, HTML, "text/html"), "no answer to the request", id="a page"),
        pytest.param(with_status(200, HTML, "application/json"), "no answer to the request", id="a page called JSON"),
        pytest.param(with_status(200, b"", ""), "no content", id="nothing"),
        pytest.param(with_status(202), "HTTP 202 and no content", id="accepted"),
        pytest.param(with_status(204), "HTTP 204 and no content", id="no content"),
        pytest.param(
            with_status(200, b'{"jsonrpc":"2.0","result":{}}', "application/json"),
            "no answer",
            id="a result without id",
        ),
        pytest.param(
            with_status(200, b'{"jsonrpc":"2.0","error":{"code":-1,"message":"x"}}', "application/json"),
            "no answer",
            id="an error without id",
        ),
        pytest.param(with_status(200, b"[]", "application/json"), "no answer", id="a batch"),
        pytest.param(with_status(201, b"{}", "application/json"), "no answer", id="created"),
        pytest.param(with_status(500, HTML, "text/html"), "failed with HTTP 500", id="a page of errors"),
        pytest.param(with_headers(200, ("Content-Encoding", "gzip"), body=b"x"), "compressed", id="compressed"),
    ],
)
@pytest.mark.case("B-16", "D-24")
async def test_what_is_no_answer_is_described_and_quoted_in_the_log_only(era: Era, answer: Any, words: str):
    async with rig(RawServer(on={"tools/call": answer})) as (server, one):
        outcome = await one.front.call(era=era).done()

        assert words in outcome.fault.message
        assert "html" not in outcome.fault.message
        assert (outcome.fault.sent, outcome.payload) == (True, b"")
        for fields in one.log.fields_of("unusable answer"):
            beginning = fields["beginning"]
            assert isinstance(beginning, str)
            assert len(beginning) < 500
            assert beginning.isprintable()
        assert len(server.received("tools/call")) == 1
        await assert_still_works(server, one)


@pytest.mark.case("B-16")
async def test_an_answer_of_the_wrong_type_is_no_answer_even_if_its_words_are_right():
    async def mistyped(request: Request, reply: Reply) -> None:
        body = json.dumps({"jsonrpc": "2.0", "id": request.message["id"], "result": {}}).encode()
        await reply.status(200, body, "text/plain")

    async with rig(RawServer(on={"tools/call": mistyped})) as (_server, one):
        assert "no answer to the request" in (await one.front.call().done()).fault.message


@pytest.mark.case("B-16")
async def test_a_url_that_leads_to_something_else_is_reported_with_what_to_check():
    page = with_status(404, HTML)
    async with rig(RawServer(on={"server/discover": page, "initialize": page})) as (_server, one):
        state = await one.front.wait_state("backoff")
        assert "check the path of the server's URL" in state.detail
        outcome = await one.front.call().done()
        assert outcome.fault.message == state.detail
        assert not outcome.fault.sent


@pytest.mark.case("B-23")
async def test_a_server_that_asks_for_input_nobody_offered_is_at_fault():
    wanted = {"name": {"method": "elicitation/create", "params": {"message": "?"}}}
    asks = with_result({"resultType": "input_required", "inputRequests": wanted})
    async with rig(RawServer(era="modern", on={"tools/call": asks})) as (server, one):
        outcome = await one.front.call().done()
        assert outcome.fault.code == INTERNAL_ERROR
        assert "elicitation/create is not supported by this client" in outcome.fault.message
        server.on["tools/call"] = with_result({"resultType": "input_required", "requestState": "x" * 1_000_000})
        assert "requestState of more than" in (await one.front.call().done()).fault.message
        server.on["completion/complete"] = with_result({"resultType": "input_required", "requestState": "x"})
        completing = one.front.call(method="completion/complete", params=b"{}")
        assert "which completion/complete does not have" in (await completing.done()).fault.message
        server.on["tools/call"] = with_result({"resultType": "surprise"})
        assert "unknown kind of result" in (await one.front.call().done()).fault.message


# --- crowds ----------------------------------------------------------------------------------------------------------
async def test_no_more_connections_are_opened_than_the_limit_and_everybody_gets_one_in_the_end():
    released = trio.Event()
    held = after(released, with_result({"content": []}))
    async with rig(RawServer(era="modern", on={"tools/call": held})) as (server, one):
        other = one.attach()
        await one.front.ask_list().done()
        calls = [front.call() for front in (one.front, other) for _ in range(40)]
        await server.wait_for("tools/call", POOL_CONNECTIONS_MAX)
        await trio.testing.wait_all_tasks_blocked()
        assert len(server.received("tools/call")) == POOL_CONNECTIONS_MAX
        assert len(server.open_now) <= POOL_CONNECTIONS_MAX
        released.set()
        for call in calls:
            assert (await call.done()).result["content"] == []
        assert len(server.received("tools/call")) == len(calls)


async def test_who_waits_too_long_for_a_connection_is_refused_unsent():
    async with rig(RawServer(era="modern", on={"tools/call": never})) as (server, one):
        other = one.attach()
        await one.front.ask_list().done()
        calls = [front.call() for front in (one.front, other) for _ in range(POOL_CONNECTIONS_MAX // 2)]
        await server.wait_for("tools/call", POOL_CONNECTIONS_MAX)
        fault = (await one.front.call().done()).fault
        assert (fault.code, fault.sent, fault.retry_after_ms) == (OVERLOADED, False, 1000)
        for call in calls:
            assert call.outcome is None


async def test_a_front_that_sends_too_many_calls_is_refused_the_surplus():
    async with rig(RawServer(era="modern", on={"tools/call": never})) as (_server, one):
        calls = [one.front.call() for _ in range(65)]
        fault = (await calls[-1].done()).fault
        assert (fault.code, fault.sent) == (OVERLOADED, False)
