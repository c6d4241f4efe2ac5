"""Servers over HTTP/2: many exchanges on one connection, and what becomes of them when it, or a stream, ends."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from hyperframe.frame import ContinuationFrame, DataFrame, GoAwayFrame, HeadersFrame, PingFrame, SettingsFrame

from protocol import link
from protocol.control import Route
from protocol.errors import OUTCOME_UNKNOWN, OVERLOADED, SERVER_UNAVAILABLE
from protocol.limits import HTTP2_CONTROL_FRAMES_MAX, HTTP2_STREAM_WINDOW_BYTES, MIB
from protocol.versions import Era
from tests.peers.certificates import Authority
from tests.peers.http2_server import Http2Server, any_reply, never
from tests.peers.raw_server import Answer, HangUpError, RawServer, Reply, Request
from tests.waiting import eventually
from tests.workers.backend.harness import Backend, after, backend, rig
from workers.backend import http2, http2_stream
from workers.backend import pool as pool_module
from workers.backend.pool import Pool

BOTH = pytest.mark.parametrize("era", [Era.LEGACY, Era.MODERN], ids=["legacy", "modern"])


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def trusting(authority: Authority) -> Route:
    return Route(ca_file=authority.file, http2=True)


def context(authority: Authority, *protocols: str) -> ssl.SSLContext:
    made = authority.server_context()
    if protocols:
        made.set_alpn_protocols(list(protocols))
    return made


@asynccontextmanager
async def over_http2(authority: Authority, **fields: Any) -> AsyncIterator[tuple[Http2Server, Backend]]:
    """Run a server that speaks HTTP/2, and a worker for it."""
    server = Http2Server(tls=context(authority, "h2"), **fields)
    async with rig(server, route=Route(ca_file=authority.file, http2=True)) as (_, one):
        yield server, one


def pool_of(one: Backend) -> Pool:
    pool = one.worker._access.pool
    assert pool is not None
    return pool


def gives(text: str) -> Answer:
    async def answer(_request: Request, reply: Reply) -> None:
        await reply.result({"content": [{"type": "text", "text": text}]})

    return answer


def first_and_then(first: Answer, then: Answer) -> Answer:
    """Answer the first request so, and all others so."""
    answers = [first]

    async def answer(request: Request, reply: Reply) -> None:
        await (answers.pop() if answers else then)(request, reply)

    return answer


# --- as over HTTP/1.1 ------------------------------------------------------------------------------------------------
@BOTH
@pytest.mark.parametrize("events", [False, True], ids=["JSON", "events"])
async def test_calls_lists_and_sessions_go_over_one_connection(authority: Authority, era: Era, events: bool):
    async with over_http2(authority, events=events) as (server, one):
        for text in ("first", "x" * 300_000, "third"):
            assert (await one.front.call(era=era, arguments={"text": text}).done()).text == text
        assert (await one.front.ask_list(era).done()).names == ["echo"]

    assert server.connections == 1
    for request in server.requests:
        assert request.headers[":authority"] == f"127.0.0.1:{server.port}"
        assert (request.headers[":scheme"], request.headers[":path"]) == ("https", "/mcp")
        assert not {"host", "connection", "transfer-encoding"} & set(request.headers)
        assert request.headers.get("content-length", "0") == str(len(request.body))
    if era is Era.LEGACY:
        session = {request.headers.get("mcp-session-id") for request in server.received("tools/call")}
        (ended,) = server.received("DELETE")
        assert session == {ended.headers["mcp-session-id"]}
    assert server.peers[0].goaways == [0]


async def test_what_a_server_says_on_its_get_stream_is_heard(authority: Authority):
    said = trio.Event()

    async def listen(request: Request, reply: Reply) -> None:
        await reply.start_events()
        await said.wait()
        await reply.notify("notifications/tools/list_changed", {})
        await never(request, reply)

    async with over_http2(authority, era="legacy", on={"GET": listen}) as (server, one):
        assert (await one.front.call(era=Era.LEGACY, arguments={"text": "a"}).done()).text == "a"
        (request,) = await server.wait_for("GET")
        one.front.list_changes.clear()
        said.set()
        await one.front.wait_list_change("tools")
        assert (await one.front.call(era=Era.LEGACY, arguments={"text": "b"}).done()).text == "b"

        assert request.headers["accept"] == "text/event-stream"
        assert server.connections == 1


async def test_events_of_a_call_come_as_they_are_sent(authority: Authority):
    released = trio.Event()

    async def tell(request: Request, reply: Reply) -> None:
        await reply.start_events()
        await reply.notify("notifications/progress", {"progressToken": request.message["id"], "progress": 1})
        await released.wait()
        await reply.event({"jsonrpc": "2.0", "id": request.message["id"], "result": {"content": []}})

    async with over_http2(authority, era="legacy", on={"tools/call": tell}) as (_, one):
        call = one.front.call(era=Era.LEGACY, progress=True)
        await call.wait_events(1)
        released.set()

        assert (await call.done()).result == {"content": []}


@pytest.mark.parametrize("protocols", [("http/1.1",), ()], ids=["HTTP/1.1", "no ALPN"])
async def test_a_server_that_does_not_choose_http_2_is_spoken_to_as_ever(
    authority: Authority, trusting: Route, protocols: tuple[str, ...]
):
    released = trio.Event()
    server = RawServer(tls=context(authority, *protocols))
    server.on["tools/call"] = after(released, server.polite)
    async with rig(server, route=trusting) as (server, one):
        calls = [one.front.call(arguments={"text": str(number)}) for number in range(5)]
        await server.wait_for("tools/call", 5)
        released.set()

        assert [(await call.done()).text for call in calls] == ["0", "1", "2", "3", "4"]
        assert len({request.connection for request in server.received("tools/call")}) == 5


async def test_http_2_is_not_offered_unless_it_is_configured(authority: Authority):
    server = RawServer(tls=context(authority, "h2", "http/1.1"))
    async with rig(server, route=Route(ca_file=authority.file)) as (_, one):
        assert (await one.front.call(arguments={"text": "hello"}).done()).text == "hello"


async def test_a_long_request_is_sent_as_far_as_the_server_lets_us(authority: Authority):
    text = "x" * 3_000_000
    async with over_http2(authority) as (server, one):
        long = one.front.call(arguments={"text": text}, timeout_s=60)
        short = one.front.call(arguments={"text": "short"})

        assert (await short.done()).text == "short"
        assert (await long.done()).text == text
        assert server.connections == 1


async def test_a_status_that_is_no_success_says_what_it_always_says(authority: Authority):
    async def misdirected(_request: Request, reply: Reply) -> None:
        await reply.status(421)

    async def later(_request: Request, reply: Reply) -> None:
        await reply.head(503, ("Retry-After", "7"))

    async def elsewhere(_request: Request, reply: Reply) -> None:
        await reply.head(307, ("Location", "https://other.example/mcp"))

    async with over_http2(authority) as (server, one):
        for answer, code, words in (
            (misdirected, -32603, "failed with HTTP 421"),
            (later, SERVER_UNAVAILABLE, "is unavailable for now (HTTP 503): try again in 7 s"),
            (elsewhere, SERVER_UNAVAILABLE, "redirects elsewhere (HTTP 307), which is not followed"),
        ):
            server.on["tools/call"] = answer
            fault = (await one.front.call().done()).fault
            assert (fault.code, fault.sent) == (code, True)
            assert words in fault.message
        assert server.connections == 1


async def test_interim_answers_and_trailers_change_nothing(authority: Authority):
    async def chatty(request: Request, reply: Reply) -> None:
        raw = any_reply(reply)
        await raw.fields((":status", "103"), ("link", "</x>"))
        await raw.fields((":status", "102"))
        await raw.fields((":status", "200"), ("content-type", "application/json"))
        result = {"content": [], "resultType": "complete"}
        await raw.raw(json.dumps({"jsonrpc": "2.0", "id": request.message["id"], "result": result}).encode())
        await raw.fields(("checksum", "1"), is_end=True)

    async with over_http2(authority, on={"tools/call": chatty}) as (_, one):
        assert (await one.front.call().done()).result["content"] == []


def test_who_has_no_such_server_does_not_load_the_library():
    program = "import sys, workers.backend.worker; sys.exit('h2' in sys.modules or 'hpack' in sys.modules)"

    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


# --- side by side ----------------------------------------------------------------------------------------------------
async def test_many_calls_share_a_connection_and_none_waits_for_another(authority: Authority):
    released = trio.Event()

    async def answer(request: Request, reply: Reply) -> None:
        if request.params["arguments"]["text"] == "0":
            await released.wait()
        await reply.server.polite(request, reply)

    async with over_http2(authority, on={"tools/call": answer}) as (server, one):
        calls = [one.front.call(arguments={"text": str(number)}) for number in range(50)]
        for number in range(49, 0, -1):
            assert (await calls[number].done()).text == str(number)
        released.set()

        assert (await calls[0].done()).text == "0"
        assert server.connections == 1


async def test_a_server_is_given_no_more_streams_than_it_takes_and_then_another_connection(authority: Authority):
    released = trio.Event()
    async with over_http2(authority, settings={SettingCodes.MAX_CONCURRENT_STREAMS: 2}) as (server, one):
        await one.front.call().done()
        server.on["tools/call"] = after(released, server.polite)
        calls = [one.front.call(arguments={"text": str(number)}) for number in range(5)]
        requests = (await server.wait_for("tools/call", 6))[1:]
        by_connection = sorted(sum(r.connection == number for r in requests) for number in (1, 2, 3))
        released.set()

        assert by_connection == [1, 2, 2]
        assert [(await call.done()).text for call in calls] == ["0", "1", "2", "3", "4"]


async def test_a_server_cannot_have_us_remember_its_fields_without_bound(authority: Authority):
    async with over_http2(authority, settings={SettingCodes.HEADER_TABLE_SIZE: 2**30}) as (_, one):
        for name in ("a", "b"):
            await one.front.call(name).done()
        (connection,) = pool_of(one)._shared

        assert connection._h2.encoder.header_table_size == 4096


async def test_a_server_that_takes_no_stream_at_all_is_overloaded(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pool_module, "QUEUE_DEADLINE_S", 0.05)
    async with over_http2(authority, settings={SettingCodes.MAX_CONCURRENT_STREAMS: 0}) as (server, one):
        fault = (await one.front.call(timeout_s=30).done()).fault

        assert not fault.sent
        assert server.connections == 1


async def test_a_client_that_takes_nothing_holds_up_its_own_stream_alone(authority: Authority):
    sent: dict[str, int] = {}
    size = 2 * MIB
    count = 6  # whose windows together are larger than the connection's
    progressed = trio.Event()

    async def flood(request: Request, reply: Reply) -> None:
        name = request.params["arguments"]["text"]
        result = {"content": [{"type": "text", "text": name * size}], "resultType": "complete"}
        body = json.dumps({"jsonrpc": "2.0", "id": request.message["id"], "result": result}).encode()
        await reply.head(200, ("Content-Type", "application/json"))
        for start in range(0, len(body), 8192):
            await reply.raw(body[start : start + 8192])
            sent[name] = start
            if sum(value > HTTP2_STREAM_WINDOW_BYTES - 16384 for value in sent.values()) == count:
                progressed.set()

    async with over_http2(authority) as (server, one):
        await one.front.call().done()
        server.on["tools/call"] = flood
        slow = [one.front.call(arguments={"text": str(number)}, timeout_s=60) for number in range(count)]
        for call in slow:
            one.front.send(link.PauseEvents(call.id))
        await progressed.wait()

        assert (await one.front.call(arguments={"text": "z"}, timeout_s=60).done()).text == "z" * size
        assert all(sent[str(number)] <= HTTP2_STREAM_WINDOW_BYTES for number in range(count))
        assert server.connections == 1
        for call in slow:
            one.front.send(link.ResumeEvents(call.id))
        for number, call in enumerate(slow):
            assert (await call.done()).text == str(number) * size


async def test_a_whole_answer_that_nobody_takes_survives_the_end_of_the_connection(authority: Authority):
    answered = trio.Event()

    async def answer(request: Request, reply: Reply) -> None:
        await gives("kept")(request, reply)
        answered.set()

    async with over_http2(authority) as (server, one):
        await one.front.call().done()
        server.on["tools/call"] = after(released := trio.Event(), answer)
        call = one.front.call()
        await server.wait_for("tools/call", 2)
        one.front.send(link.PauseEvents(call.id))
        await one.front.call(method="tools/list", params=b"{}").done()  # the pause has been heard of
        released.set()
        await answered.wait()
        await one.front.call(method="tools/list", params=b"{}").done()  # and so has the answer, which came before
        await server.peers[0].stream.aclose()
        await server.wait_until_closed(1)
        one.front.send(link.ResumeEvents(call.id))

        assert (await call.done()).text == "kept"


@pytest.mark.case("B-02")
@pytest.mark.parametrize("how", ["cancelled", "timed out"])
async def test_a_call_that_is_given_up_resets_its_stream_and_no_other(authority: Authority, how: str):
    released = trio.Event()

    async def answer(request: Request, reply: Reply) -> None:
        if request.params["arguments"]["text"] == "given up":
            await never(request, reply)
        await released.wait()
        await reply.server.polite(request, reply)

    async with over_http2(authority, era="modern") as (server, one):
        await one.front.call().done()
        server.on["tools/call"] = answer
        other = one.front.call(arguments={"text": "other"}, timeout_s=30)
        given_up = one.front.call(arguments={"text": "given up"}, timeout_s=0.3 if how == "timed out" else 30)
        await server.wait_for("tools/call", 3)
        if how == "cancelled":
            one.front.cancel(given_up, "enough")
        assert (await given_up.done()).fault.sent
        (peer,) = server.peers
        await peer.until_reset()
        released.set()

        assert (await other.done()).text == "other"
        assert [code for _, code in peer.resets] == [ErrorCodes.CANCEL]
        assert server.connections == 1


# --- what was not sent -----------------------------------------------------------------------------------------------
async def refuse(_request: Request, reply: Reply) -> None:
    await any_reply(reply).reset(ErrorCodes.REFUSED_STREAM)


async def go_away_unread(_request: Request, reply: Reply) -> None:
    """Say that this stream has not been looked at."""
    await any_reply(reply).peer.go_away(max(0, any_reply(reply).id - 2))
    await never(_request, reply)


UNREAD = pytest.mark.parametrize("answer", [refuse, go_away_unread], ids=["REFUSED_STREAM", "GOAWAY"])


@UNREAD
@pytest.mark.case("B-03")
async def test_what_the_server_has_not_looked_at_is_sent_again(authority: Authority, answer: Answer):
    async with over_http2(authority) as (server, one):
        await one.front.call().done()
        await eventually(lambda: quiet(pool_of(one)), "nothing else keeps the connection busy")
        server.on["tools/call"] = first_and_then(answer, gives("done"))

        assert (await one.front.call().done()).text == "done"
        assert len(server.received("tools/call")) == 3
        assert server.connections == (1 if answer is refuse else 2)


@UNREAD
@pytest.mark.case("B-03")
async def test_what_it_never_looks_at_is_not_sent_for_ever(authority: Authority, answer: Answer):
    async with over_http2(authority, on={"tools/call": answer}) as (server, one):
        fault = (await one.front.call().done()).fault

        assert (fault.code, fault.sent) == (OVERLOADED, False)
        assert 'server "main" does not take the request now (HTTP/2 ' in fault.message
        assert len(server.received("tools/call")) == 2


async def close_idle(server: Http2Server, peer_at: int, *, says_goodbye: bool) -> None:
    peer = server.peers[peer_at]
    if says_goodbye:
        await peer.go_away()
    await peer.stream.aclose()
    await server.wait_until_closed(peer_at + 1)


@pytest.mark.parametrize("says_goodbye", [True, False], ids=["GOAWAY", "closed"])
@pytest.mark.case("B-33")
async def test_a_call_after_the_server_has_closed_an_idle_connection_goes_on_a_new_one(
    authority: Authority, says_goodbye: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(http2, "PROMPT_S", -1.0)
    async with over_http2(authority) as (server, one):
        for number in range(3):
            assert (await one.front.call(arguments={"text": str(number)}).done()).text == str(number)
            await close_idle(server, number, says_goodbye=says_goodbye)
        assert [request.connection for request in server.received("tools/call")] == [1, 2, 3]


async def test_an_idle_connection_is_read_before_it_is_used_again(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
):
    """What the loop has not got to yet may be goodbye, behind something else."""
    monkeypatch.setattr(http2, "PROMPT_S", -1.0)
    async with over_http2(authority) as (server, one):
        await one.front.call().done()
        pool = pool_of(one)
        (connection,) = pool._shared
        peer = server.peers[0]
        connection.tls.pause_reading()  # as if the loop were busy with something else
        await trio.testing.wait_all_tasks_blocked()
        peer.state.ping(b"12345678")
        await peer.flush()
        await peer.go_away()
        with trio.fail_after(5):
            await trio.lowlevel.wait_readable(connection.sock)
        connection.tls.resume_reading()

        assert not connection.has_room()


# --- what was --------------------------------------------------------------------------------------------------------
async def break_connection(_request: Request, _reply: Reply) -> None:
    raise HangUpError


async def break_half_way(_request: Request, reply: Reply) -> None:
    await reply.head(200, ("Content-Type", "application/json"))
    await reply.raw(b'{"jsonrpc":')
    raise HangUpError


def resets(code: ErrorCodes) -> Answer:
    async def answer(_request: Request, reply: Reply) -> None:
        await any_reply(reply).reset(code)

    return answer


async def reset_half_way(_request: Request, reply: Reply) -> None:
    await reply.head(200, ("Content-Type", "application/json"))
    await reply.raw(b'{"jsonrpc":')
    await any_reply(reply).reset(ErrorCodes.REFUSED_STREAM)  # which it cannot mean any more


async def go_away_in_anger(_request: Request, reply: Reply) -> None:
    await any_reply(reply).peer.go_away(code=ErrorCodes.ENHANCE_YOUR_CALM)
    await never(_request, reply)


UNKNOWN: dict[str, tuple[Answer, str]] = {
    "closed": (break_connection, "closed the connection before it answered"),
    "closed half way": (break_half_way, "closed the connection in the middle of its answer"),
    "INTERNAL_ERROR": (resets(ErrorCodes.INTERNAL_ERROR), "broke the request off (HTTP/2 error INTERNAL_ERROR)"),
    "HTTP_1_1_REQUIRED": (
        resets(ErrorCodes.HTTP_1_1_REQUIRED),
        "broke the request off (HTTP/2 error HTTP_1_1_REQUIRED: set http2 = false for it)",
    ),
    "reset half way": (reset_half_way, "broke the request off (HTTP/2 error REFUSED_STREAM)"),
    "GOAWAY": (go_away_in_anger, "broke the request off (HTTP/2 error ENHANCE_YOUR_CALM)"),
}


@pytest.mark.parametrize("what", UNKNOWN)
@pytest.mark.case("B-03")
async def test_what_may_have_been_looked_at_is_not_sent_again(authority: Authority, what: str):
    answer, words = UNKNOWN[what]
    async with over_http2(authority) as (server, one):
        await one.front.call().done()
        server.on["tools/call"] = first_and_then(answer, gives("later"))
        fault = (await one.front.call().done()).fault

        assert (fault.code, fault.sent) == (OUTCOME_UNKNOWN, True)
        assert words in fault.message
        assert (await one.front.call().done()).text == "later"
        assert len(server.received("tools/call")) == 3


async def test_a_server_that_goes_away_finishes_what_it_has_begun_and_new_calls_go_elsewhere(authority: Authority):
    released = trio.Event()

    async def slow(request: Request, reply: Reply) -> None:
        for last in (2**31 - 1, any_reply(reply).id):  # as RFC 9113, section 6.8, wants it
            await any_reply(reply).peer.go_away(last)
        await released.wait()
        await gives("finished")(request, reply)

    async with over_http2(authority) as (server, one):
        server.on["tools/call"] = first_and_then(slow, gives("elsewhere"))
        under_way = one.front.call()
        await eventually(lambda: warned(pool_of(one)), "the worker has heard that the server goes away")
        assert (await one.front.call().done()).text == "elsewhere"
        released.set()

        assert (await under_way.done()).text == "finished"
        await server.wait_until_closed(1)
        assert [request.connection for request in server.received("tools/call")] == [1, 2]
        assert (await one.front.call().done()).text == "elsewhere"
        assert server.connections == 2


async def quiet(pool: Pool) -> bool:
    """Whether nothing is under way."""
    return not pool._open


async def warned(pool: Pool) -> bool:
    """Whether a server has said goodbye on a connection that is still open."""
    return any(not shared.takes_streams for shared in pool._shared)


async def test_a_connection_on_which_nothing_is_heard_gets_no_more_calls(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(http2, "SILENCE_S", 0.0)
    async with over_http2(authority) as (server, one):
        await one.front.call().done()
        await eventually(lambda: quiet(pool_of(one)), "all that the worker asks for itself has been answered")
        server.on["tools/call"] = first_and_then(never, gives("heard"))
        assert (await one.front.call(timeout_s=0.2).done()).fault.sent

        assert (await one.front.call().done()).text == "heard"
        assert [request.connection for request in server.received("tools/call")] == [1, 1, 2]


async def test_after_the_machine_was_asleep_calls_go_on_a_new_connection(authority: Authority):
    async def listen(request: Request, reply: Reply) -> None:
        await reply.start_events()
        await never(request, reply)

    async with over_http2(authority, era="legacy", on={"GET": listen}) as (server, one):
        await one.front.call(era=Era.LEGACY).done()
        await server.wait_for("GET")
        one.worker._channel.drop_idle()
        await one.front.call(era=Era.LEGACY).done()

        assert [request.connection for request in server.received("tools/call")] == [1, 2]
        assert server.open_now == {1, 2}  # the stream that stays open is left alone


async def test_a_connection_nobody_uses_is_closed_with_a_goodbye(authority: Authority):
    async with over_http2(authority) as (server, one):
        await one.front.call().done()
        pool = pool_of(one)
        pool._idle_s = -1.0
        pool.sweep()
        await server.wait_until_closed(1)

        assert server.peers[0].goaways == [0]
        assert (await one.front.call(arguments={"text": "again"}).done()).text == "again"


async def test_a_connection_that_has_carried_many_requests_is_replaced(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(http2, "HTTP2_REQUESTS_MAX", 4)
    async with over_http2(authority, era="modern") as (server, one):
        for number in range(12):
            assert (await one.front.call(arguments={"text": str(number)}).done()).text == str(number)
        assert server.connections > 2


# --- what no server may do -------------------------------------------------------------------------------------------
Script = Callable[[Request, Reply], Awaitable[None]]


def floods(frame: bytes, count: int = 2 * HTTP2_CONTROL_FRAMES_MAX) -> Script:
    async def answer(_request: Request, reply: Reply) -> None:
        await any_reply(reply).peer.raw(frame * count)

    return answer


async def send_empty_pieces(request: Request, reply: Reply) -> None:
    await reply.head(200, ("Content-Type", "application/json"))
    await floods(DataFrame(any_reply(reply).id, b"").serialize())(request, reply)


async def send_endless_head(_request: Request, reply: Reply) -> None:
    number = any_reply(reply).id
    frames = HeadersFrame(number, b"").serialize() + ContinuationFrame(number, b"").serialize() * 100
    await any_reply(reply).peer.raw(frames)


async def send_too_many_fields(_request: Request, reply: Reply) -> None:
    await any_reply(reply).fields((":status", "200"), *((f"x-{number}", "y" * 1000) for number in range(30)))


async def send_data_first(_request: Request, reply: Reply) -> None:
    await any_reply(reply).peer.raw(DataFrame(any_reply(reply).id, b"x").serialize())


async def push(_request: Request, reply: Reply) -> None:
    await any_reply(reply).peer.raw(b"\0\0\x05\x05\x04" + any_reply(reply).id.to_bytes(4, "big") + b"\0\0\0\2\x88")


HOSTILE: dict[str, tuple[Script, str]] = {
    "pings": (floods(PingFrame(0, b"12345678").serialize()), "a flood of frames that carry no answer"),
    "settings": (floods(SettingsFrame(0).serialize()), "a flood of frames that carry no answer"),
    "empty pieces": (send_empty_pieces, "a flood of frames that carry no answer"),
    "a head without end": (send_endless_head, "a breach of its rules, ProtocolError"),
    "a long head": (send_too_many_fields, "header fields of more than 19584 bytes"),
    "a piece first": (send_data_first, "a breach of its rules, ProtocolError"),
    "a pushed stream": (push, "a breach of its rules, ProtocolError"),
}


@pytest.mark.parametrize("what", HOSTILE)
async def test_a_connection_that_breaks_rules_or_bounds_is_ended_and_the_server_named(authority: Authority, what: str):
    answer, words = HOSTILE[what]
    async with over_http2(authority) as (server, one):
        await one.front.call().done()
        server.on["tools/call"] = first_and_then(answer, gives("later"))
        fault = (await one.front.call().done()).fault

        assert fault.sent
        assert fault.message == (
            f'server "main" answered with something unusable (HTTP/2: {words}): this is a fault of that server'
        )
        await server.wait_until_closed(1)
        assert (await one.front.call().done()).text == "later"


async def test_a_server_cannot_send_more_than_the_window_of_a_stream(authority: Authority):
    async def flood(_request: Request, reply: Reply) -> None:
        raw = any_reply(reply)
        await reply.head(200, ("Content-Type", "text/event-stream"))
        await paused.wait()
        frames = HTTP2_STREAM_WINDOW_BYTES // 16384 + 1
        await raw.peer.raw(DataFrame(raw.id, b":" * 16384).serialize() * frames)

    paused = trio.Event()
    async with over_http2(authority, on={"tools/call": flood}) as (server, one):
        call = one.front.call()
        await server.wait_for("tools/call")
        one.front.send(link.PauseEvents(call.id))
        await one.front.call(method="tools/list", params=b"{}").done()
        paused.set()

        assert "(HTTP/2: a breach of its rules, FlowControlError)" in (await call.done()).fault.message


async def test_a_server_that_takes_nothing_any_more_loses_its_connection(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
):
    size = 2**26
    async with over_http2(authority, settings={SettingCodes.INITIAL_WINDOW_SIZE: size}, window=size) as (server, one):
        await one.front.call().done()
        await eventually(lambda: quiet(pool_of(one)), "nothing else is under way")
        server.reads = trio.Event()
        long = [one.front.call(arguments={"text": "x" * 3_000_000}, timeout_s=60) for _ in range(4)]
        (connection,) = pool_of(one)._shared
        await eventually(lambda: stuck(connection, len(long)), "all calls are under way, and the kernel takes no more")
        monkeypatch.setattr(http2, "WRITE_IDLE_S", -1.0)
        pool_of(one).sweep()
        server.reads.set()

        for call in long:
            fault = (await call.done()).fault
            assert "(HTTP/2: it has taken nothing of what it was sent for -1 s)" in fault.message


async def stuck(connection: http2.Http2Connection, calls: int) -> bool:
    return connection.tls.buffered > 0 and len(connection._streams) == calls


def malformed(*fields: tuple[str, str]) -> Script:
    async def answer(_request: Request, reply: Reply) -> None:
        await any_reply(reply).fields(*fields)

    return answer


async def send_too_much(_request: Request, reply: Reply) -> None:
    await reply.head(200, ("Content-Type", "application/json"))
    for _ in range(5):
        await reply.raw(b" " * 300)


async def switch_protocols(_request: Request, reply: Reply) -> None:
    await any_reply(reply).fields((":status", "101"))


STREAM_FAULTS: dict[str, tuple[Script, str]] = {
    "no status": (malformed(("server", "x")), "an HTTP/2 response without a status"),
    "capitals": (malformed((":status", "200"), ("Server", "x")), "a malformed HTTP/2 response: header fields"),
    "connection": (malformed((":status", "200"), ("connection", "close")), "fields that are for connections"),
    "compressed": (malformed((":status", "200"), ("content-encoding", "br")), "compressed its answer"),
    "too long": (send_too_much, "the answer is longer than 1000 bytes"),
    "101": (switch_protocols, "the server changes the protocol"),
}


@pytest.mark.parametrize("what", STREAM_FAULTS)
@pytest.mark.case("B-11", "B-16")
async def test_a_malformed_answer_ends_its_stream_alone(
    authority: Authority, what: str, monkeypatch: pytest.MonkeyPatch
):
    answer, words = STREAM_FAULTS[what]
    async with over_http2(authority) as (server, one):
        await one.front.call().done()
        monkeypatch.setattr(http2_stream, "ANSWER_BYTES_MAX", 1000)
        server.on["tools/call"] = first_and_then(never, first_and_then(answer, gives("later")))
        waiting = one.front.call(timeout_s=30)
        await server.wait_for("tools/call", 2)
        fault = (await one.front.call().done()).fault

        assert words in fault.message
        assert fault.message.startswith('server "main" answered with something unusable (')
        assert (await one.front.call().done()).text == "later"
        assert server.connections == 1
        one.front.cancel(waiting, "enough")


GOODBYE = GoAwayFrame(0).serialize()


@pytest.mark.case("B-15")
@pytest.mark.parametrize(
    ("greeting", "words"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "it does not begin as HTTP/2 does"),
        (GOODBYE, "it does not begin as HTTP/2 does"),
        (b"\0\0\0\4\0\0\0\0\0" + GOODBYE, "it closed the connection"),
        (b"hang up", "it closed the connection"),
        (b"", "it said nothing within 0.2 s"),
    ],
    ids=["HTTP/1.1", "goodbye", "settings and goodbye", "nothing", "silence"],
)
async def test_a_server_that_has_chosen_http_2_and_does_not_speak_it_is_said_to_be_so(
    authority: Authority, greeting: bytes, words: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(http2, "TLS_HANDSHAKE_S", 0.2)

    async def greet(stream: trio.SocketStream) -> None:
        secured = trio.SSLStream(stream, context(authority, "h2"), server_side=True)
        async with secured:
            await secured.do_handshake()
            await secured.send_all(greeting.removesuffix(b"hang up"))
            if greeting.endswith(b"hang up"):
                return
            while await secured.receive_some():
                pass

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            port = listener.socket.getsockname()[1]
            nursery.start_soon(trio.serve_listeners, greet, [listener])
            async with backend(f"https://127.0.0.1:{port}/mcp", route=Route(ca_file=authority.file, http2=True)) as one:
                fault = (await one.front.call().done()).fault
            nursery.cancel_scope.cancel()
    assert (fault.code, fault.sent) == (SERVER_UNAVAILABLE, False)
    hint = ", or client_cert if it wants a certificate" if greeting == b"hang up" else ""
    assert fault.message == (
        f'server "main" has chosen HTTP/2 and does not speak it (127.0.0.1:{port}: {words}): '
        f"set http2 = false for it{hint}"
    )
