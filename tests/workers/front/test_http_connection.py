"""One client connection: order, deadlines, back-pressure, and every way a client can leave."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from protocol import link
from protocol.http1 import Request
from protocol.limits import (
    BODY_BYTES_MAX,
    BODY_GRACE_S,
    CONNECTIONS_MAX,
    HEADERS_DEADLINE_S,
    KEEP_ALIVE_IDLE_S,
    PIPELINED_REQUESTS_MAX,
    STREAM_BUFFER_HIGH_BYTES,
    STREAM_KEEP_ALIVE_S,
    WRITE_IDLE_S,
)
from tests.workers.scripted import (
    Client,
    Front,
    Json,
    advance,
    envelope,
    http,
    modern_post,
    post,
    running_front,
)
from workers.front.http_connection import LINGER_S, HttpConnection, HttpReply

RESULT: Json = {"content": []}
CALL = {"name": "main__echo"}


async def gone(front: Front, count: int = 0) -> None:
    """Wait until the front has no more than so many connections left."""
    await wait_all_tasks_blocked()
    assert front.connections == count


# --- requests that break the rules -----------------------------------------------------------------------------------
SMUGGLED = http("POST", {"content-length": "2"}, b"{}")


def chunked(*lines: bytes) -> bytes:
    return http("POST", {"content-length": "", "transfer-encoding": "chunked"}) + b"\r\n".join(lines)


@pytest.mark.case("A-14")
@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        pytest.param(http("POST", {"transfer-encoding": "chunked"}, b"0\r\n\r\n"), 400, id="coding and length"),
        pytest.param(http("POST", {"content-length": "2\r\ncontent-length: 3"}, b"{}x"), 400, id="two lengths"),
        pytest.param(http("POST", {"content-length": "+2"}, b"{}"), 400, id="signed length"),
        pytest.param(http("POST", {"content-length": "", "transfer-encoding": "gzip"}), 501, id="another coding"),
        pytest.param(
            http("POST", {"content-length": "", "transfer-encoding": "chunked, chunked"}), 501, id="coded twice"
        ),
        pytest.param(http("POST", {"content-length": "", "transfer-encoding": "\x0bchunked"}), 400, id="hidden coding"),
        pytest.param(chunked(b"2", b"{}x", b"0", b"", b""), 400, id="bad end of a chunk"),
        pytest.param(chunked(b"-2", b"{}", b"0", b"", b""), 400, id="signed chunk"),
        pytest.param(http("POST", {}, b"{}").replace(b"\r\n", b"\n"), 400, id="bare line feeds"),
        pytest.param(http("POST", {"x": "a\r\n folded"}, b"{}"), 400, id="folded header"),
        pytest.param(http("POST", {"content-length ": "2"}, b"{}"), 400, id="space before the colon"),
        pytest.param(http("POST", {"x": "a\x00b"}, b"{}"), 400, id="NUL"),
        pytest.param(http("POST", {"x": "a\x01b"}, b"{}"), 400, id="control byte"),
        pytest.param(http("POST", {"host": "a\r\nhost: b"}, b"{}"), 400, id="two hosts"),
        pytest.param(http("POST", {"host": ""}, b"{}"), 400, id="no host"),
    ],
)
async def test_a_request_that_could_be_read_in_two_ways_ends_the_connection(
    front: Front, request_bytes: bytes, status: int
):
    async with await front.client() as client:
        await client.send(request_bytes + SMUGGLED)
        answer = await client.answer()
        rest = await client.closed()

    assert answer.status == status
    assert answer.headers["connection"] == "close"
    assert answer.json["error"]["code"] == -32600
    assert rest == b"", "no second request was seen"


@pytest.mark.case("A-16")
@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        pytest.param(b"GET /mcp\r\n\r\n", 400, id="HTTP/0.9"),
        pytest.param(b"GET /mcp HTTP/1.0\r\nhost: localhost\r\n\r\n", 505, id="HTTP/1.0"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, id="HTTP/2 preface"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, id="TLS hello"),
        pytest.param(http("GET", path="http://evil.com/mcp"), 400, id="another host in the target"),
        pytest.param(http("OPTIONS", path="*"), 400, id="asterisk"),
        pytest.param(http("GET", path="/" + "x" * 10_000), 414, id="a long target"),
        pytest.param(http("CONNECT", path="evil.com:443"), 405, id="CONNECT"),
        pytest.param(http("BREW", path="/mcp"), 405, id="an unknown method"),
        pytest.param(b"\r\n" * 10, 400, id="nothing but line ends"),
    ],
)
async def test_what_is_not_http_1_1_is_refused_and_the_connection_closed(
    front: Front, request_bytes: bytes, status: int
):
    async with await front.client() as client:
        await client.send(request_bytes)
        answer = await client.answer()
        assert await client.closed() == b""

    assert answer.status == status


@pytest.mark.case("A-16", "D-32")
@pytest.mark.parametrize("method", ["PUT", "PATCH", "OPTIONS", "TRACE", "HEAD"])
async def test_other_methods_are_answered_with_those_allowed(front: Front, method: str):
    async with await front.client() as client:
        for _ in range(2):  # an answer to HEAD must not have a body, or the second answer would not be found
            await client.send(http(method))
            answer = await (client.head() if method == "HEAD" else client.answer())
            assert (answer.status, answer.headers["allow"]) == (405, "POST, GET, DELETE")


@pytest.mark.case("A-08", "A-24")
@pytest.mark.parametrize("expect", ["", "100-continue"])
async def test_a_body_that_is_announced_too_large_is_refused_unread(front: Front, expect: str):
    async with await front.client() as client:
        await client.send(http("POST", {"content-length": str(BODY_BYTES_MAX + 1), "expect": expect}))
        answer = await client.answer()
        assert await client.closed() == b""

    assert answer.status == 413


@pytest.mark.case("A-08")
async def test_a_client_that_sends_all_of_a_refused_body_still_gets_to_read_why(front: Front):
    """Closing at once would reset the connection, and a reset may destroy the answer before it is read."""
    async with await front.client() as client:
        size = 3 * BODY_BYTES_MAX
        await client.send(http("POST", {"content-length": str(size)}))
        with trio.fail_after(60):
            await client.stream.send_all(bytes(size))
            await client.stream.send_eof()
        assert (await client.answer()).status == 413
        assert await client.closed() == b"", "closed in good order"
    await gone(front)


async def test_a_refused_client_that_neither_leaves_nor_stops_is_dropped(mock_clock: MockClock, front: Front):
    async with await front.client() as client:
        await client.send(http("POST", {"content-length": str(BODY_BYTES_MAX + 1)}))
        assert (await client.answer()).status == 413
        for _ in range(int(LINGER_S)):
            await client.send(bytes(100_000))
            await advance(mock_clock, 1)
            assert front.connections == 1
        await advance(mock_clock, 2)
        await gone(front)


@pytest.mark.case("A-09")
async def test_a_chunked_body_is_refused_where_it_gets_too_large(front: Front):
    async with await front.client() as client:
        await client.send(http("POST", {"content-length": "", "transfer-encoding": "chunked"}))
        piece = b"%x\r\n%b\r\n" % (256 * 1024, bytes(256 * 1024))
        for _ in range(BODY_BYTES_MAX // (256 * 1024)):
            await client.send(piece)
        await wait_all_tasks_blocked()
        assert front.connections == 1
        await client.send(piece)
        assert (await client.answer()).status == 413
    await gone(front)


@pytest.mark.case("A-24")
async def test_a_client_that_waits_for_leave_to_send_gets_it_or_the_answer(front: Front):
    async with await front.client() as client:
        body = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
        await client.send(http("POST", {"content-length": str(len(body)), "expect": "100-continue"}))
        assert (await client.head()).status == 100
        await client.send(body)
        assert (await client.answer()).status == 400  # no session, which is only known now
        await client.send(http("POST", {"content-length": "5", "expect": "100-continue", "origin": "http://evil.com"}))
        assert (await client.head()).status == 403


# --- slow clients ----------------------------------------------------------------------------------------------------
@pytest.mark.case("A-18")
@pytest.mark.promise("R17")
async def test_a_head_that_takes_too_long_is_given_up(mock_clock: MockClock, front: Front):
    async with await front.client() as client:
        for byte in http("POST")[: int(HEADERS_DEADLINE_S)]:
            await client.send(bytes([byte]))
            await advance(mock_clock, 1)
        assert front.connections == 1
        await advance(mock_clock, 2)
        answer = await client.answer()

    assert answer.status == 408
    assert answer.headers["connection"] == "close"


@pytest.mark.case("A-18", "A-22")
@pytest.mark.promise("R17")
async def test_a_connection_that_never_says_anything_is_closed(mock_clock: MockClock, front: Front):
    async with await front.client() as client:
        await advance(mock_clock, HEADERS_DEADLINE_S)
        assert front.connections == 1
        await advance(mock_clock, 2)

        assert await client.closed() == b""


@pytest.mark.case("A-22")
@pytest.mark.promise("R17")
async def test_an_idle_connection_that_was_used_is_kept_for_longer(mock_clock: MockClock, front: Front):
    async with await front.client("2025-11-25") as client:
        for _ in range(2):
            await advance(mock_clock, KEEP_ALIVE_IDLE_S - 1)
            await client.legacy("ping")
            assert (await client.answer()).status == 200
        await advance(mock_clock, KEEP_ALIVE_IDLE_S + 2)

        assert await client.closed() == b""


@pytest.mark.case("A-19")
@pytest.mark.promise("R17")
@pytest.mark.parametrize("length", [1_000, 1_000_000])
async def test_a_body_that_stalls_at_its_last_byte_is_given_up_and_no_worker_hears_of_it(
    mock_clock: MockClock, front: Front, length: int
):
    request = modern_post("tools/call", {**CALL, "arguments": {"a": "x" * length}})
    async with await front.client() as client:
        await client.send(request[:-1])
        await wait_all_tasks_blocked()
        # What has come already buys time at the minimum rate.
        step_s = max(0.5, length / 20_000)
        await advance(mock_clock, BODY_GRACE_S + len(request) / 1024 + 2 + 2 * step_s, step_s)
        answer = await client.answer()

    assert answer.status == 408
    assert front.main.calls == []


@pytest.mark.case("A-19")
async def test_a_body_that_is_slow_but_not_too_slow_is_waited_for(mock_clock: MockClock, front: Front):
    request = modern_post("tools/call", {**CALL, "arguments": {"a": "x" * 30_000}})
    async with await front.client() as client:
        await client.send(request[:-30_000])
        for at in range(len(request) - 30_000, len(request), 1_200):
            await client.send(request[at : at + 1_200])
            await advance(mock_clock, 1)
        call, _ = await front.main.call()
        front.main.answer(call, RESULT)

        assert (await client.answer()).status == 200


@pytest.mark.case("A-20")
@pytest.mark.promise("R17")
async def test_a_client_that_takes_no_byte_of_its_answer_is_dropped(mock_clock: MockClock, front: Front):
    async with await front.client() as client:
        await client.modern_call()
        call, _ = await front.main.call()
        front.main.answer(call, b'{"text":"%b"}' % (b"x" * 12_000_000))
        await wait_all_tasks_blocked()
        await advance(mock_clock, WRITE_IDLE_S - 1)
        assert front.connections == 1
        await advance(mock_clock, 3)
        await gone(front)


@pytest.mark.case("A-20")
async def test_a_client_that_takes_its_answer_slowly_gets_all_of_it(mock_clock: MockClock, front: Front):
    async with await front.client() as client:
        await client.modern_call()
        call, _ = await front.main.call()
        front.main.answer(call, b'{"text":"%b"}' % (b"x" * 12_000_000))
        await wait_all_tasks_blocked()
        for part in range(1_000_000, 12_000_000, 1_000_000):
            await advance(mock_clock, WRITE_IDLE_S / 2, step_s=5)
            await client.peek(part)

        assert len((await client.answer()).json["result"]["text"]) == 12_000_000


# --- back-pressure ---------------------------------------------------------------------------------------------------
async def flooded(front: Front, client: Client, call: link.Call) -> int:
    """Send events until the worker is asked to pause; return how many it took."""
    text = b'{"data":"%b"}' % (b"x" * 100_000)
    for count in range(1, 500):
        front.main.notify(call, "notifications/message", text)
        await wait_all_tasks_blocked()
        if [frame for frame in front.main.frames if isinstance(frame, link.PauseEvents)]:
            return count
    raise AssertionError("never paused")


@pytest.mark.case("A-20")
@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_events_are_held_back_while_the_client_does_not_read_them(front: Front, era: str):
    async with await front.client("2025-11-25") as client:
        await (client.call() if era == "legacy" else client.modern_call())
        call, _ = await front.main.call()
        sent = await flooded(front, client, call)
        (connection,) = front.worker._connections
        assert connection.stream.buffered < STREAM_BUFFER_HIGH_BYTES + 200_000
        assert not [frame for frame in front.main.frames if isinstance(frame, link.ResumeEvents)]

        await client.head()
        for _ in range(sent):
            await client.event()
        assert await front.main.frame(link.ResumeEvents) == link.ResumeEvents(call.id)
        front.main.answer(call, RESULT)
        assert (await client.event())["result"] == RESULT
        assert len([frame for frame in front.main.frames if isinstance(frame, link.PauseEvents)]) == 1


@pytest.mark.case("A-20", "A-21")
async def test_a_call_that_goes_on_without_its_slow_client_is_not_held_back_any_more(
    mock_clock: MockClock, front: Front
):
    async with await front.client("2025-11-25") as client:
        await client.call()
        call, _ = await front.main.call()
        await flooded(front, client, call)
        await advance(mock_clock, WRITE_IDLE_S + 2)
        await gone(front)

        assert await front.main.frame(link.ResumeEvents) == link.ResumeEvents(call.id)
        front.main.answer(call, RESULT)
        await wait_all_tasks_blocked()
        assert front.worker._servers["main"].in_flight == 0


@pytest.mark.case("A-20", "A-23")
async def test_no_request_is_served_while_answers_to_earlier_ones_pile_up(front: Front):
    """A client that sends requests and reads nothing must not make us hoard answers."""
    requests = 60
    async with await front.client() as client:
        await client.send(b"".join(modern_post("tools/call", CALL, number) for number in range(requests)))
        served = 0
        while True:
            await wait_all_tasks_blocked()
            if not front.main.calls:
                break
            call, _ = front.main.calls.pop(0)
            front.main.answer(call, b'{"text":"%b"}' % (b"x" * 900_000))
            served += 1
        (connection,) = front.worker._connections
        assert served < requests / 2
        assert connection.stream.buffered < STREAM_BUFFER_HIGH_BYTES + 1_000_000

        for number in range(requests):
            if number >= served:
                call, _ = await front.main.call()
                front.main.answer(call, b'{"text":"%b"}' % (b"x" * 900_000))
            assert (await client.answer()).json["id"] == number


# --- one after the other ---------------------------------------------------------------------------------------------
@pytest.mark.case("A-23")
@pytest.mark.parametrize("piece", [1_000_000, 1000, 100])
async def test_requests_sent_without_waiting_are_answered_in_order_one_at_a_time(front: Front, piece: int):
    requests = b"".join(modern_post("tools/call", CALL, number) for number in range(3 * PIPELINED_REQUESTS_MAX))
    async with await front.client() as client:
        for at in range(0, len(requests), piece):
            await client.send(requests[at : at + piece])
        for number in range(3 * PIPELINED_REQUESTS_MAX):
            call, _ = await front.main.call()
            assert front.main.calls == []
            front.main.answer(call, RESULT)
            assert (await client.answer()).json["id"] == number


@pytest.mark.case("A-23")
async def test_thousands_of_requests_behind_a_slow_one_are_answered_when_it_is(front: Front):
    """They are answered inside the callback that ends the slow one, which must not nest them."""
    bad = http("GET", path="/nowhere")
    async with await front.client() as client:
        await client.send(modern_post("tools/call", CALL))
        call, _ = await front.main.call()
        await client.send(bad * 3000)
        front.main.answer(call, RESULT)
        assert (await client.answer()).status == 200
        for _ in range(3000):
            assert (await client.answer()).status == 404

    assert front.main.closed == []


@pytest.mark.case("A-23")
async def test_a_large_body_may_come_while_another_request_is_being_served(front: Front):
    large = {**CALL, "arguments": {"text": "x" * 1_000_000}}
    async with await front.client() as client:
        requests = [
            modern_post("tools/call", params, number) for number, params in enumerate((CALL, large, large, CALL))
        ]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, b"".join(requests))
            for number in range(4):
                await wait_all_tasks_blocked()
                call, params = await front.main.call()
                assert len(params.get("arguments", {}).get("text", "")) in (0, 1_000_000)
                front.main.answer(call, RESULT)
                assert (await client.answer()).json["id"] == number


@pytest.mark.case("A-23", "A-14")
async def test_nothing_after_a_request_that_ends_the_connection_is_served(front: Front):
    async with await front.client() as client:
        await client.send(
            modern_post("tools/call", CALL, 1, {"connection": "close"}) + modern_post("tools/call", CALL, 2)
        )
        call, _ = await front.main.call()
        front.main.answer(call, RESULT)
        answer = await client.answer()
        assert await client.closed() == b""

    assert answer.headers["connection"] == "close"
    assert front.main.calls == []


@pytest.mark.case("A-14", "A-23")
async def test_what_came_before_a_bad_request_is_still_answered_in_order(front: Front):
    async with await front.client() as client:
        await client.send(
            b"".join(modern_post("tools/call", CALL, number) for number in range(3)) + b"nonsense\r\n\r\n" + SMUGGLED
        )
        for number in range(3):
            call, _ = await front.main.call()
            front.main.answer(call, RESULT)
            assert (await client.answer()).json["id"] == number
        assert (await client.answer()).status == 400

        assert await client.closed() == b""
    assert front.main.calls == []


@pytest.mark.case("A-23")
async def test_the_next_request_waits_for_the_end_of_a_stream(front: Front):
    async with await front.client("2025-11-25") as client, await front.client() as second:
        get = http("GET", {**client.legacy_headers, "accept": "text/event-stream"})
        await client.send(get + post(envelope("ping", request_id="p"), client.legacy_headers))
        assert (await client.head()).headers["content-type"] == "text/event-stream"
        await second.send(get)  # another stream of the session ends this one
        await second.head()
        await client.stream_ended()

        assert (await client.answer()).json["id"] == "p"


class ScriptedStream:
    """A client's stream of which the test says what it holds."""

    def __init__(self) -> None:
        self.buffered = 0
        self.into = None

    def write(self, data: bytes) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def close(self) -> None:
        pass


class ScriptedService:
    """Takes requests and answers when the test says so; also the reactor."""

    now = 0.0
    rules = None

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.replies: list[HttpReply] = []
        self.later: list[Callable[[], None]] = []

    def head(self, request: Request) -> None:
        pass

    def request(self, request: Request, reply: HttpReply) -> None:
        self.bodies.append(bytes(request.body))
        self.replies.append(reply)

    def at_batch_end(self, what: Callable[[], None]) -> None:
        self.later.append(what)


def test_a_request_with_a_known_head_overtakes_nothing():
    stream, service = ScriptedStream(), ScriptedService()
    connection: Any = HttpConnection(cast("Any", service), cast("Any", lambda _: stream), cast("Any", service))

    def receive(body: bytes) -> None:
        connection.data_received(b"POST /mcp HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\n" + body)

    receive(b"1")
    service.replies[-1].result(b"{}")
    receive(b"2")
    receive(b"3")
    assert service.bodies == [b"1", b"2"], "one at a time"
    service.replies[-1].result(b"{}")
    receive(b"4")
    assert service.bodies == [b"1", b"2"], "the third waits for the end of the batch, and the fourth for it"
    service.later.pop()()
    assert service.bodies == [b"1", b"2", b"3"]
    service.replies[-1].result(b"{}")
    service.later.pop()()
    service.replies[-1].result(b"{}")
    stream.buffered = STREAM_BUFFER_HIGH_BYTES + 1
    receive(b"5")
    assert service.bodies == [b"1", b"2", b"3", b"4"], "the client does not take its answers"
    stream.buffered = 0
    connection.buffer_drained()
    assert service.bodies == [b"1", b"2", b"3", b"4", b"5"]
    service.replies[-1].result(b"{}")
    receive(b"6")
    assert service.bodies[-1] == b"6"
    service.replies[-1].keep_alive = False
    service.replies[-1].plain(200)
    receive(b"7")
    assert service.bodies[-1] == b"6", "nothing is served once the connection is to be closed"


@pytest.mark.case("A-01")
async def test_a_connection_is_used_again_after_any_answer(front: Front):
    async with await front.client("2025-11-25") as client:
        for _ in range(50):
            await client.send(post(b"{not json", client.legacy_headers))
            assert (await client.answer()).status == 400
            await client.legacy("ping")
            assert (await client.answer()).status == 200
    await gone(front)


# --- streams ---------------------------------------------------------------------------------------------------------
async def test_an_answer_that_takes_long_becomes_a_stream_with_comments(mock_clock: MockClock, front: Front):
    async with await front.client() as client:
        await client.modern_call()
        call, _ = await front.main.call()
        await advance(mock_clock, 3 * STREAM_KEEP_ALIVE_S + 3)
        front.main.fault(call, -31003, "too slow", sent=True)
        answer = await client.answer()

        assert answer.status == 200
        assert answer.headers["x-accel-buffering"] == "no"
        assert answer.comments in (2, 3)
        assert answer.final["error"]["code"] == -31003
        await client.modern_call(request_id=2)  # and the connection goes on
        call, _ = await front.main.call()
        front.main.answer(call, RESULT)
        assert (await client.answer()).json["id"] == 2


async def test_a_quick_answer_is_plain_json(front: Front):
    async with await front.client() as client:
        await client.modern_call()
        call, _ = await front.main.call()
        front.main.answer(call, RESULT)
        answer = await client.answer()

    assert answer.headers["content-type"] == "application/json"
    assert "transfer-encoding" not in answer.headers


async def test_clients_that_listen_are_told_when_the_tools_change(mock_clock: MockClock, front: Front):
    async with await front.client("2025-11-25") as client:
        await advance(mock_clock, 1)
        await client.send(http("GET", {**client.legacy_headers, "accept": "text/event-stream"}))
        await client.head()
        for _ in range(5):
            front.main.send(link.ListChanged("tools"))
        await wait_all_tasks_blocked()
        await advance(mock_clock, 0.2, 0.1)

        assert await client.event() == {"jsonrpc": "2.0", "method": "notifications/tools/list_changed", "params": {}}
        await advance(mock_clock, STREAM_KEEP_ALIVE_S + 2)
        assert await client.event() is None, "told once, then only a comment"


# --- leaving ---------------------------------------------------------------------------------------------------------
async def leave(client: Client, how: str) -> None:
    if how == "reset":
        client.reset()
    elif how == "half":
        await client.stream.send_eof()
    else:
        await client.close()


@pytest.mark.case("A-21")
@pytest.mark.parametrize("how", ["close", "reset", "half"])
async def test_a_stateless_client_that_goes_cancels_its_call(front: Front, how: str):
    async with await front.client() as client:
        await client.modern_call()
        call, _ = await front.main.call()
        await leave(client, how)

        assert (await front.main.frame(link.Cancel)).id == call.id
        await gone(front)
        assert front.worker._servers["main"].in_flight == 0
        front.main.answer(call, RESULT)  # too late


@pytest.mark.case("A-21")
@pytest.mark.parametrize("how", ["close", "reset", "half"])
async def test_a_call_of_a_session_goes_on_without_its_connection(front: Front, how: str):
    """2025-11-25, transports: disconnection should not be interpreted as the client cancelling its request."""
    async with await front.client("2025-11-25") as client:
        await client.call()
        call, _ = await front.main.call()
        await leave(client, how)
        await wait_all_tasks_blocked()
        front.main.answer(call, RESULT)
        await wait_all_tasks_blocked()
        if how == "half":
            assert (await client.answer()).json["result"] == RESULT
            assert await client.closed() == b"", "there is nothing more to come from either side"
        await gone(front)

    assert not [frame for frame in front.main.frames if isinstance(frame, link.Cancel)]
    assert front.worker._servers["main"].in_flight == 0


@pytest.mark.case("A-21", "A-23")
async def test_requests_sent_before_the_end_of_input_are_all_answered(front: Front):
    async with await front.client("2025-11-25") as client:
        for number in range(3):
            await client.call(request_id=number)
        await client.stream.send_eof()
        for number in range(3):
            call, _ = await front.main.call()
            front.main.answer(call, RESULT)
            assert (await client.answer()).json["id"] == number

        assert await client.closed() == b""


@pytest.mark.case("A-21")
async def test_the_end_of_input_does_not_cut_off_an_answer_that_is_being_sent(front: Front):
    async with await front.client() as client:
        await client.modern_call()
        call, _ = await front.main.call()
        front.main.answer(call, b'{"text":"%b"}' % (b"x" * 12_000_000))
        await wait_all_tasks_blocked()
        await client.stream.send_eof()
        await wait_all_tasks_blocked()

        assert len((await client.answer()).json["result"]["text"]) == 12_000_000
        assert await client.closed() == b""


@pytest.mark.case("A-21")
@pytest.mark.parametrize("part", [0, 10, 200, -1])
async def test_a_client_that_goes_before_its_request_is_complete_leaves_no_trace(front: Front, part: int):
    request = modern_post("tools/call", {**CALL, "arguments": {"a": "x" * 500_000}})
    for how in ("close", "reset", "half"):
        client = await front.client()
        await client.send(request[:part])
        await leave(client, how)
        await gone(front)

    assert front.main.calls == []


@pytest.mark.case("A-21")
async def test_a_client_that_goes_in_the_middle_of_a_stream_cancels_and_is_sent_nothing_more(front: Front):
    async with await front.client() as client:
        await client.modern_call(progressToken=1)
        call, _ = await front.main.call()
        front.main.notify(call, "notifications/message", {})
        await client.head()
        await client.event()
        client.reset()
        assert (await front.main.frame(link.Cancel)).id == call.id
        front.main.notify(call, "notifications/message", {})
        front.main.answer(call, RESULT)
        await gone(front)


@pytest.mark.case("A-27")
@pytest.mark.promise("R14")
async def test_clients_that_vanish_right_after_their_stream_has_begun_leave_nothing_behind(front: Front):
    before = len(front.reactor._sources)
    for number in range(500):
        client = await front.client()
        await client.modern_call()
        call, _ = await front.main.call()
        front.main.notify(call, "notifications/message", {})
        if number % 2:
            await client.head()
        client.reset()
        front.main.notify(call, "notifications/message", {})
        await front.main.frame(link.Cancel)
        front.clients.clear()
    await gone(front)

    assert len(front.reactor._sources) == before
    assert front.worker._servers["main"].in_flight == 0


# --- too many --------------------------------------------------------------------------------------------------------
@pytest.mark.case("A-22")
async def test_connections_over_the_limit_are_turned_away_and_places_come_free_at_once(front: Front):
    sockets = [socket.create_connection(("127.0.0.1", front.port)) for _ in range(CONNECTIONS_MAX)]
    with trio.fail_after(60):
        while front.connections < CONNECTIONS_MAX:
            await trio.lowlevel.checkpoint()
    async with await front.client() as refused:
        answer = await refused.answer()
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert await refused.closed() == b""
    sockets.pop().close()
    await wait_all_tasks_blocked()

    async with await front.client("2025-11-25"):
        pass
    for sock in sockets:
        sock.close()
    await gone(front)


# --- draining --------------------------------------------------------------------------------------------------------
@pytest.mark.promise("R11")
async def test_a_drain_finishes_what_is_under_way_and_accepts_nothing_new():
    async with running_front() as front:
        idle, busy, queued, listening = [await front.client("2025-11-25") for _ in range(4)]
        await busy.call(request_id="b")
        call, _ = await front.main.call()
        await queued.call(request_id="q1")
        await queued.call(request_id="q2")
        second, _ = await front.main.call()
        await listening.send(http("GET", {**listening.legacy_headers, "accept": "text/event-stream"}))
        await listening.head()
        drained = trio.Event()

        async def drain() -> None:
            await front.worker.drain(25.0)
            drained.set()

        front.reactor.start_soon(drain)
        assert await idle.closed() == b""
        await listening.stream_ended()
        await wait_all_tasks_blocked()
        assert not drained.is_set()
        front.main.answer(call, RESULT)
        front.main.answer(second, RESULT)
        for client, request_id in ((busy, "b"), (queued, "q1")):
            answer = await client.answer()
            assert (answer.json["id"], answer.headers["connection"]) == (request_id, "close")
            assert await client.closed() in (b"", b"<reset>")
        with trio.fail_after(60):
            await drained.wait()
        assert front.main.calls == []


@pytest.mark.case("C-04")
@pytest.mark.promise("R13")
async def test_who_connects_while_one_front_follows_another_is_served_by_the_next():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with running_front(inherited=listener) as front, await front.client("2025-11-25") as client:
            session = client.session
            await front.worker.drain(25.0)
        waiting = Client(await trio.open_tcp_stream("127.0.0.1", listener.getsockname()[1]))
        waiting.session, waiting.version = session, "2025-11-25"
        await waiting.legacy("ping", request_id="from before")
        async with running_front(inherited=listener):
            assert (await waiting.answer()).json["id"] == "from before"
        await waiting.close()


@pytest.mark.promise("R11")
async def test_a_drain_has_an_end(mock_clock: MockClock):
    async with running_front() as front, await front.client() as client:
        await client.modern_call()
        await front.main.call()
        drained = trio.Event()

        async def drain() -> None:
            await front.worker.drain(25.0)
            drained.set()

        front.reactor.start_soon(drain)
        await wait_all_tasks_blocked()
        await advance(mock_clock, 24)
        assert not drained.is_set()
        await advance(mock_clock, 2)
        assert drained.is_set()
    assert front.log.of("warning") == [("connections were closed at the end of the drain", {"connections": 1})]


@pytest.mark.case("C-06")
@pytest.mark.promise("R11")
async def test_after_an_upgrade_a_client_may_begin_one_more_request_on_a_connection_it_has(mock_clock: MockClock):
    async with running_front() as front:
        late, idle, listening = [await front.client("2025-11-25") for _ in range(3)]
        await listening.send(http("GET", {**listening.legacy_headers, "accept": "text/event-stream"}))
        await listening.head()
        drained = trio.Event()

        async def drain() -> None:
            await front.worker.drain(25.0, 2.0)
            drained.set()

        front.reactor.start_soon(drain)
        await listening.stream_ended()
        await wait_all_tasks_blocked()
        await listening.legacy("ping", request_id="on the connection of the stream")
        assert (await listening.answer()).headers["connection"] == "close"
        await late.legacy("ping", request_id="late")
        answer = await late.answer()
        assert (answer.json["id"], answer.headers["connection"]) == ("late", "close")
        assert await late.closed() == b""
        assert not drained.is_set()

        await advance(mock_clock, 4)
        assert await idle.closed() == b""
        with trio.fail_after(60):
            await drained.wait()


@pytest.mark.promise("R11")
async def test_a_request_that_is_on_its_way_when_the_drain_begins_is_served():
    async with running_front() as front, await front.client("2025-11-25") as client:
        body = b'{"jsonrpc":"2.0","id":"half","method":"ping"}'
        request = http("POST", client.legacy_headers, body)
        await client.send(request[:-10])
        await wait_all_tasks_blocked()
        front.reactor.start_soon(front.worker.drain, 25.0)
        await wait_all_tasks_blocked()
        await client.send(request[-10:])

        answer = await client.answer()
        assert (answer.json["id"], answer.headers["connection"]) == ("half", "close")


@pytest.mark.promise("R13")
async def test_a_front_that_is_held_lets_clients_wait_until_it_may_serve():
    async with running_front(held=True) as front:
        waiting = Client(await trio.open_tcp_stream("127.0.0.1", front.port))
        await waiting.send(http("GET", path="/nowhere"))
        await wait_all_tasks_blocked()
        assert front.connections == 0

        front.worker.serve()
        assert (await waiting.answer()).status == 404
        await waiting.close()


@pytest.mark.promise("R11")
async def test_after_a_drain_has_begun_nobody_waits_for_a_connection_that_never_comes():
    async with running_front() as front, await front.client() as client:
        await client.modern_call()
        call, _ = await front.main.call()
        front.reactor.start_soon(front.worker.drain, 25.0)
        await wait_all_tasks_blocked()
        with pytest.raises(OSError, match="all attempts to connect"):
            await trio.open_tcp_stream("127.0.0.1", front.port)
        front.main.answer(call, RESULT)
        await client.answer()
