"""The client on standard input and output, over pipes that the test holds."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from protocol import link
from protocol.control import StdioClosed, StdioSession
from protocol.errors import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    OUTCOME_UNKNOWN,
    PARSE_ERROR,
    UNSUPPORTED_VERSION,
)
from protocol.ledger import LEDGER_BYTES
from protocol.limits import LINE_BYTES_MAX, STREAM_BUFFER_HIGH_BYTES
from supervisor.linux import shared_memory
from tests.workers.scripted import META, MODERN, Front, Json, advance, bounded, envelope, modern_params, running_front

RESULT: Json = {"content": []}
CALL: Json = {"name": "main__echo", "arguments": {}}
CHANGED: Json = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed", "params": {}}


class StdioClient:
    """The program that has started the proxy."""

    def __init__(self, stdin: int, stdout: int) -> None:
        self.stdin = trio.lowlevel.FdStream(stdin)
        self.stdout = trio.lowlevel.FdStream(stdout)
        self._buffer = bytearray()

    async def send(self, *messages: Any) -> None:
        data = b"".join(one if isinstance(one, bytes) else json.dumps(one).encode() + b"\n" for one in messages)
        with bounded():
            await self.stdin.send_all(data)

    async def line(self) -> bytes | None:
        """Return the next line; None at the end of the output."""
        with bounded():
            while b"\n" not in self._buffer:
                data = await self.stdout.receive_some(1 << 20)
                if not data:
                    assert not self._buffer, "half a line"
                    return None
                self._buffer += data
        line, _, rest = bytes(self._buffer).partition(b"\n")
        self._buffer[:] = rest
        return line

    async def message(self) -> Json:
        line = await self.line()
        assert line is not None, "the output has ended"
        return json.loads(line)

    async def answer(self) -> Json:
        """Return the next message that does not just say that the tools have changed, which a start alone causes."""
        while (message := await self.message()) == CHANGED:
            pass
        return message

    async def ended(self) -> None:
        """Wait until the output ends."""
        while (line := await self.line()) is not None:
            assert json.loads(line) == CHANGED

    async def initialize(self, version: str = "2025-11-25", request_id: Any = 0) -> Json:
        params = {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
        await self.send(envelope("initialize", params, request_id))
        return await self.answer()


@asynccontextmanager
async def stdio_front(**settings: Any) -> AsyncIterator[tuple[Front, StdioClient]]:
    read, stdin = os.pipe()
    stdout, write = os.pipe()
    async with running_front(stdio=(read, write), **settings) as front:
        client = StdioClient(stdin, stdout)
        yield front, client
        await client.stdin.aclose()
        await client.stdout.aclose()
        await wait_all_tasks_blocked()


# --- both eras -------------------------------------------------------------------------------------------------------
async def test_a_session_is_opened_and_reported_and_calls_are_answered():
    async with stdio_front() as (front, client):
        assert (await client.initialize("2025-06-18"))["result"]["protocolVersion"] == "2025-06-18"
        (report,) = front.reports
        assert isinstance(report, StdioSession)
        await client.send(envelope("notifications/initialized", request_id=None), envelope("tools/call", CALL, "c"))
        call, params = await front.main.call()
        assert params == {"name": "echo", "arguments": {}}
        assert json.loads(call.client_info) == {"name": "test", "version": "1"}
        front.main.answer(call, b'{"content":[],"odd":1.50}')

        assert await client.line() == b'{"jsonrpc":"2.0","id":"c","result":{"content":[],"odd":1.50}}'


async def test_the_next_front_knows_what_was_negotiated():
    async with stdio_front() as (front, client):
        await client.initialize("2025-03-26")
        (report,) = front.reports
    async with stdio_front(stdio_session=report.token) as (front, client):
        await client.send([envelope("ping", request_id=1)])  # only 2025-03-26 has arrays

        assert await client.line() == b'[{"jsonrpc":"2.0","id":1,"result":{}}]'


@pytest.mark.case("C-04")
@pytest.mark.promise("R04")
async def test_what_a_front_that_ended_had_not_answered_is_answered_by_the_next_one_and_once():
    memory = shared_memory(LEDGER_BYTES)
    async with stdio_front(ledger=os.dup(memory)) as (front, client):
        await client.initialize()
        await client.send(*(envelope("tools/call", CALL, request_id) for request_id in ("answered", 7, "7")))
        call, _ = await front.main.call()
        front.main.answer(call, RESULT)
        assert (await client.answer())["id"] == "answered"
        (report,) = front.reports
        at_its_end = os.pread(memory, LEDGER_BYTES, 0)
    os.pwrite(memory, at_its_end, 0)
    async with stdio_front(ledger=os.dup(memory), stdio_session=report.token) as (front, client):
        lost = [await client.answer(), await client.answer()]
        assert [one["id"] for one in lost] == [7, "7"]
        for one in lost:
            assert one["error"]["code"] == OUTCOME_UNKNOWN
            assert one["error"]["data"] == {"sent": True, "retryable": False}
        await client.send(envelope("ping", request_id="p"))
        assert await client.answer() == {"jsonrpc": "2.0", "id": "p", "result": {}}
        await client.send([envelope("ping", request_id=1)])  # refused as a whole, and never owed
        assert (await client.answer())["id"] is None
    async with stdio_front(ledger=memory, stdio_session=report.token) as (front, client):
        await client.send(envelope("ping", request_id="p"))
        assert await client.answer() == {"jsonrpc": "2.0", "id": "p", "result": {}}


@pytest.mark.case("C-04")
@pytest.mark.promise("R04")
async def test_a_line_that_a_front_had_read_in_part_is_served_by_the_one_that_reads_the_rest():
    """Three fronts, one after the other; each ends after it has read a piece."""
    memory = shared_memory(LEDGER_BYTES)
    line = json.dumps(envelope("ping", {"_meta": {"filling": "x" * 100_000}}, "torn")).encode()
    pieces = [b'{"jsonrpc":"2.0","id":"whole","method":"ping"}\n' + line[:10], line[10:70_000], line[70_000:] + b"\n"]
    got: list[Any] = []
    for piece in pieces:
        async with stdio_front(ledger=os.dup(memory)) as (_, client):
            await client.send(piece)
            if piece is not pieces[1]:
                got.append((await client.answer())["id"])
            else:
                await wait_all_tasks_blocked()
            at_its_end = os.pread(memory, LEDGER_BYTES, 0)
        os.pwrite(memory, at_its_end, 0)
    assert got == ["whole", "torn"]

    async with stdio_front(ledger=memory) as (_, client):
        await client.send(envelope("ping", request_id="next"))
        assert (await client.answer())["id"] == "next"


async def test_the_rest_of_a_line_that_was_too_long_for_a_front_is_skipped_by_the_next_one():
    memory = shared_memory(LEDGER_BYTES)
    async with stdio_front(ledger=os.dup(memory)) as (_, client):
        await client.send(b"x" * (LINE_BYTES_MAX + 1))
        assert (await client.answer())["error"]["code"] == PARSE_ERROR
    async with stdio_front(ledger=memory) as (_, client):
        await client.send(b"xxx\n", envelope("ping", request_id="next"))
        assert (await client.answer())["id"] == "next"


async def test_stateless_requests_need_no_session():
    async with stdio_front() as (front, client):
        await client.send(envelope("server/discover", modern_params(), "d"))
        assert (await client.answer())["result"]["supportedVersions"] == [MODERN]
        await client.send(envelope("tools/list", modern_params(), "l"))
        assert (await client.answer())["result"]["resultType"] == "complete"
        await client.send(envelope("tools/call", modern_params(CALL, progressToken=7), "c"))
        call, _ = await front.main.call()
        front.main.notify(call, "notifications/progress", b'{"progressToken":"b",\n"progress":1}')
        front.main.answer(call, b'{\r\n"content":[]}')
        progress = await client.answer()
        assert progress["params"] == {"progressToken": 7, "progress": 1}
        assert await client.answer() == {"jsonrpc": "2.0", "id": "c", "result": RESULT}


@pytest.mark.case("A-13")
async def test_what_a_stateless_request_lacks_is_said():
    async with stdio_front() as (_, client):
        await client.send(envelope("server/discover", {}, 1))
        assert (await client.answer())["error"]["code"] == INVALID_PARAMS
        meta = {"_meta": {META + "protocolVersion": "2030-01-01", META + "clientCapabilities": {}}}
        await client.send(envelope("tools/list", meta, 2))
        assert (await client.answer())["error"]["code"] == UNSUPPORTED_VERSION
        await client.send(envelope("ping", modern_params(), 3))
        assert (await client.answer())["error"]["code"] == METHOD_NOT_FOUND


async def test_before_initialize_only_a_ping_is_served():
    async with stdio_front() as (front, client):
        await client.send(
            envelope("ping", request_id=1), envelope("tools/call", CALL, 2), [envelope("ping", request_id=3)]
        )

        assert (await client.answer())["result"] == {}
        assert await client.answer() | {"error": None} == {"jsonrpc": "2.0", "id": 2, "error": None}
        assert (await client.answer())["error"]["code"] == INVALID_REQUEST
        assert front.main.calls == []


# --- lines that are no message ---------------------------------------------------------------------------------------
@pytest.mark.case("A-01", "A-03", "A-06", "A-10")
async def test_a_bad_line_is_answered_and_the_next_one_served():
    bad = [
        (b"{nonsense\n", PARSE_ERROR, None),
        (b'{"jsonrpc":"2.0","id":1,"method":"\xff"}\n', PARSE_ERROR, None),
        (b'{"jsonrpc":"2.0","id":7,"method":7}\n', INVALID_REQUEST, 7),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping"}\n', INVALID_REQUEST, None),
        (b'{"jsonrpc":"1.0","id":"x","method":"ping"}\n', INVALID_REQUEST, "x"),
        (b"[" * 100 + b"\n", INVALID_REQUEST, None),
    ]
    async with stdio_front() as (_, client):
        await client.initialize()
        for line, code, request_id in bad:
            await client.send(line, b"\n", b"\r\n", envelope("ping", request_id="after"))
            answer = await client.answer()
            assert (answer["error"]["code"], answer["id"]) == (code, request_id), line
            assert (await client.answer())["id"] == "after"


@pytest.mark.case("A-08")
async def test_a_line_that_is_too_long_is_answered_once_and_skipped():
    async with stdio_front() as (_, client):
        await client.initialize()
        await client.send(b"x" * (LINE_BYTES_MAX + 5) + b"\n", envelope("ping", request_id="after"))

        assert (await client.answer())["error"]["code"] == PARSE_ERROR
        assert (await client.answer())["id"] == "after"


@pytest.mark.case("A-25")
async def test_notifications_and_responses_are_never_answered():
    async with stdio_front() as (front, client):
        await client.initialize()
        await client.send(
            envelope("notifications/unknown", {}, None), envelope("tools/call", CALL, None),
            {"jsonrpc": "2.0", "id": 1, "result": {}}, envelope("notifications/cancelled", {"requestId": 99}, None),
            envelope("ping", request_id="after"),
        )  # fmt: skip

        assert (await client.answer())["id"] == "after"
        assert front.main.calls == []


async def test_a_defect_that_one_message_meets_does_not_end_the_only_stream():
    async with stdio_front() as (front, client):
        await client.initialize()
        front.worker._endpoint._catalogue.owner = lambda public: 1 // 0
        await client.send(envelope("tools/call", CALL, 1), envelope("ping", request_id=2))

        assert (await client.answer())["error"]["code"] == INTERNAL_ERROR
        assert (await client.answer())["id"] == 2
        assert front.log.take_errors()


# --- calls -----------------------------------------------------------------------------------------------------------
@pytest.mark.case("A-07", "A-26")
async def test_calls_of_both_eras_are_cancelled_by_their_id_with_its_type():
    async with stdio_front() as (front, client):
        await client.initialize()
        await client.send(envelope("tools/call", CALL, 1), envelope("tools/call", modern_params(CALL), "1"))
        calls = [(await front.main.call())[0] for _ in range(2)]
        for request_id, call in (("1", calls[1]), (1, calls[0])):
            await client.send(envelope("notifications/cancelled", {"requestId": request_id, "reason": "enough"}, None))
            assert await front.main.frame(link.Cancel) == link.Cancel(call.id, "enough")
        front.main.answer(calls[0], RESULT)  # too late
        await client.send(envelope("ping", request_id="after"))

        assert (await client.answer())["id"] == "after"
        assert not front.worker._stdio._owed


async def test_an_array_is_answered_as_an_array_and_what_precedes_its_answers_comes_before():
    async with stdio_front() as (front, client):
        await client.initialize("2025-03-26")
        with_token = envelope("tools/call", {**CALL, "_meta": {"progressToken": 7}}, 1)
        await client.send([with_token, envelope("ping", request_id=2), envelope("notifications/x", request_id=None)])
        call, _ = await front.main.call()
        front.main.notify(call, "notifications/progress", {"progressToken": "b", "progress": 1})
        front.main.answer(call, b'{"content"\n:[]}')
        assert (await client.answer())["params"]["progressToken"] == 7

        answers = await client.answer()
        assert [one["id"] for one in answers] == [2, 1]


@pytest.mark.case("A-04")
async def test_an_array_that_is_owed_nothing_keeps_nobody_waiting():
    async with stdio_front() as (front, client):
        await client.initialize("2025-03-26")
        await client.send([], [envelope("notifications/x", request_id=None)], b"[{]\n", [1] * 65)
        for code in (INVALID_REQUEST, PARSE_ERROR, INVALID_REQUEST):
            assert (await client.answer())["error"]["code"] == code
        await client.stdin.aclose()

        await client.ended()  # nothing is owed, so the output ends with the input
        assert front.reports[-1] == StdioClosed()


@pytest.mark.case("C-01")
@pytest.mark.promise("R04")
async def test_calls_are_answered_when_their_worker_dies():
    async with stdio_front() as (front, client):
        await client.initialize()
        await client.send(envelope("tools/call", CALL, 1))
        await front.main.call()
        front.main.die()

        assert (await client.answer())["error"]["code"] == OUTCOME_UNKNOWN


async def test_the_client_is_told_once_when_the_tools_change_also_if_it_initialized_twice(mock_clock: MockClock):
    async with stdio_front() as (front, client):
        await client.initialize()
        await client.initialize(request_id=1)
        front.main.send(link.ListChanged("tools"))
        await wait_all_tasks_blocked()
        await advance(mock_clock, 0.5, 0.1)
        await client.send(envelope("ping", request_id="after"))

        assert await client.message() == CHANGED
        assert (await client.message())["id"] == "after"


# --- a client that reads slowly --------------------------------------------------------------------------------------
@pytest.mark.case("A-20")
async def test_events_are_held_back_while_the_client_does_not_read():
    async with stdio_front() as (front, client):
        await client.initialize()
        await client.send(envelope("tools/call", CALL, 1))
        call, _ = await front.main.call()
        sent = 0
        while not [frame for frame in front.main.frames if isinstance(frame, link.PauseEvents)]:
            front.main.notify(call, "notifications/message", b'{"data":"%b"}' % (b"x" * 100_000))
            sent += 1
            await wait_all_tasks_blocked()
            assert sent < 100
        for _ in range(sent):
            assert (await client.answer())["method"] == "notifications/message"

        assert await front.main.frame(link.ResumeEvents) == link.ResumeEvents(call.id)
        front.main.answer(call, RESULT)
        assert (await client.answer())["id"] == 1


@pytest.mark.case("A-20")
@pytest.mark.promise("R10")
async def test_a_client_that_asks_on_without_reading_is_not_heard_until_it_reads():
    long_name = "x" * 5_000
    requests = 4000
    async with stdio_front() as (front, client):
        await client.initialize()
        async with trio.open_nursery() as nursery:
            lines = [envelope(long_name, request_id=number) for number in range(requests)]
            nursery.start_soon(client.send, *lines)
            await wait_all_tasks_blocked()
            stream = front.worker._stdio.stream
            assert stream.buffered < STREAM_BUFFER_HIGH_BYTES + 200_000
            for number in range(requests):
                assert (await client.answer())["id"] == number


# --- the end ---------------------------------------------------------------------------------------------------------
@pytest.mark.case("A-21")
async def test_what_is_owed_is_still_answered_after_the_end_of_input_and_then_it_is_reported():
    async with stdio_front() as (front, client):
        await client.initialize()
        await client.send(envelope("tools/call", CALL, 1), envelope("tools/list", request_id=2))
        call, _ = await front.main.call()
        await client.stdin.aclose()
        assert (await client.answer())["id"] == 2
        assert StdioClosed() not in front.reports
        front.main.answer(call, b'{"text":"%b"}' % (b"x" * 3_000_000))

        assert len((await client.answer())["result"]["text"]) == 3_000_000
        await client.ended()
        assert front.reports[-1] == StdioClosed()
        assert front.reports.count(StdioClosed()) == 1


@pytest.mark.case("A-21")
async def test_a_client_that_reads_no_more_has_its_calls_cancelled():
    async with stdio_front() as (front, client):
        await client.initialize("2025-03-26")
        in_array = envelope("tools/call", CALL, 3)
        await client.send(envelope("tools/call", CALL, 1), envelope("tools/call", modern_params(CALL), 2), [in_array])
        calls = [(await front.main.call())[0] for _ in range(3)]
        await client.stdout.aclose()
        await client.send(envelope("ping", request_id=4))

        cancelled = {(await front.main.frame(link.Cancel)).id for _ in range(3)}
        assert cancelled == {call.id for call in calls}
        assert front.reports[-1] == StdioClosed()
        assert front.worker._servers["main"].in_flight == 0


@pytest.mark.promise("R11")
async def test_a_drain_answers_what_is_owed_writes_it_all_and_leaves_the_rest_of_the_input_alone():
    async with stdio_front() as (front, client):
        await client.initialize()
        await client.send(envelope("tools/call", CALL, 1))
        call, _ = await front.main.call()
        drained = trio.Event()

        async def drain() -> None:
            await front.worker.drain(25.0)
            drained.set()

        front.reactor.start_soon(drain)
        await wait_all_tasks_blocked()
        await client.send(envelope("ping", request_id="for the next front"))
        front.main.answer(call, b'{"text":"%b"}' % (b"x" * 3_000_000))
        await wait_all_tasks_blocked()
        assert not drained.is_set(), "the answer is not written yet"

        assert (await client.answer())["id"] == 1
        await client.ended()
        with bounded():
            await drained.wait()
        assert StdioClosed() not in front.reports, "the client has not ended"
