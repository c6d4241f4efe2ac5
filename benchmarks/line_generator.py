"""Keeps N calls in flight on the pipes of a stdio front: one client, one JSON-RPC message per line.

The rules are those of `generator`: every answer is checked to its last byte, nothing fails silently, no wait
is endless.
"""

from __future__ import annotations

import os
import select
import subprocess
import time
from typing import Final

from benchmarks import messages
from benchmarks.messages import CALL_ID_BYTES, Workload
from benchmarks.rounds import LoadResult
from benchmarks.wire import ANSWER_WAIT_S, ExchangeError
from protocol.versions import Era

READ_BYTES: Final = 256 * 1024


class LineReader:
    """Cuts what comes from a pipe into lines; long ones are put together only once."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that have become complete, without their ends."""
        if b"\n" not in data:
            self._pieces.append(data)
            return []
        *lines, rest = (b"".join([*self._pieces, data]) if self._pieces else data).split(b"\n")
        self._pieces = [rest] if rest else []
        return lines


class LineClient:
    """A client of one era on the pipes of a started process: greets it, and knows its tools.

    Raises ExchangeError if the process does not answer."""

    def __init__(self, process: subprocess.Popen[bytes], era: Era) -> None:
        assert process.stdin is not None, "a stdio front is started with pipes"
        assert process.stdout is not None, "a stdio front is started with pipes"
        self.process = process
        self.era = era
        self.write_fd = process.stdin.fileno()
        self.read_fd = process.stdout.fileno()
        os.set_blocking(self.write_fd, False)
        os.set_blocking(self.read_fd, False)
        self.lines = LineReader()
        self.last_id = messages.CALL_IDS_FROM
        self.broken = ""
        """Why this client cannot be used any more."""
        self._ask(messages.DISCOVER if era is Era.MODERN else messages.INITIALIZE, messages.OPEN_ID)
        if era is Era.LEGACY:
            self._write(messages.INITIALIZED)
        self._tools = self._ask(messages.list_tools(era), messages.LIST_ID)

    def public_name(self, workload: Workload) -> str:
        """Return the name of the tool a workload calls. Raises ValueError if there is none."""
        return messages.public_tool_name(self._tools, workload.tool)

    def _write(self, message: bytes) -> None:
        try:
            os.write(self.write_fd, message + b"\n")  # a handshake fits into an empty pipe
        except OSError as error:
            raise ExchangeError(f"cannot write to the process: {error}") from None

    def _ask(self, request: bytes, request_id: bytes) -> bytes:
        self._write(request)
        deadline = time.monotonic() + ANSWER_WAIT_S
        while (left := deadline - time.monotonic()) > 0:
            if select.select([self.read_fd], [], [], left)[0]:
                data = os.read(self.read_fd, READ_BYTES)
                if not data:
                    raise ExchangeError("the process closed its output before it answered")
                for line in self.lines.feed(data):
                    if messages.id_of_answer(line) == request_id:
                        return line
        raise ExchangeError(f"no answer within {ANSWER_WAIT_S:.0f} s")


class LineLoad:
    """`in_flight` calls at a time through one client. Raises ValueError if the tool is not offered."""

    def __init__(self, client: LineClient, workload: Workload, in_flight: int) -> None:
        self._client = client
        self._in_flight_wanted = in_flight
        before, after = messages.call_parts(workload, client.public_name(workload))
        self._before_id, self._after_id = before, after + b"\n"
        self._expected_text = messages.payload_text(workload.size)
        self._before = b"\0"  # no line begins so: nothing is good before a pattern was learned
        self._after = b""
        self._started_ns: dict[bytes, int] = {}
        """When each call in flight was handed over, by its id."""
        self._unsent = memoryview(b"")
        self._poll = select.epoll()
        self._waits_to_write = False

    def close(self) -> None:
        """Stop; the process and its client stay as they are."""
        self._poll.close()

    def run(self, seconds: float) -> LoadResult:
        result = LoadResult()
        cpu = time.process_time_ns()
        started = time.perf_counter_ns()
        self._loop(result, started + int(seconds * 1e9))
        result.seconds = (time.perf_counter_ns() - started) / 1e9
        result.generator_cpu_ns = time.process_time_ns() - cpu
        return result

    def _loop(self, result: LoadResult, deadline_ns: int) -> None:
        client = self._client
        self._poll.register(client.read_fd, select.EPOLLIN)
        self._call(self._in_flight_wanted)
        give_up_ns = deadline_ns + int(ANSWER_WAIT_S * 1e9)
        while self._started_ns and not client.broken and time.perf_counter_ns() < give_up_ns:
            for fd, _ in self._poll.poll(1.0):
                if fd == client.write_fd:
                    self._flush()
                    continue
                answered = self._receive(result)
                if answered and time.perf_counter_ns() < deadline_ns:
                    self._call(answered)
        self._poll.unregister(client.read_fd)
        if self._started_ns:
            # Half a line may be in the pipe, and answers may still come: this client cannot be used again.
            client.broken = client.broken or f"no answer within {ANSWER_WAIT_S:.0f} s after the round"
            for _ in self._started_ns:
                result.fail(client.broken)
            self._started_ns.clear()

    def _call(self, count: int) -> None:
        """Hand over the next calls, all in one write as far as the pipe takes them."""
        now = time.perf_counter_ns()
        pieces: list[bytes | memoryview] = [self._unsent]
        first = self._client.last_id + 1
        self._client.last_id += count
        for number in range(first, first + count):
            call_id = b"%d" % number
            self._started_ns[call_id] = now
            pieces += (self._before_id, call_id, self._after_id)
        self._unsent = memoryview(b"".join(pieces))
        if not self._waits_to_write:
            self._flush()

    def _flush(self) -> None:
        try:
            written = os.write(self._client.write_fd, self._unsent)
        except BlockingIOError:
            written = 0
        except OSError as error:
            self._client.broken = f"cannot write to the process: {error}"
            return
        self._unsent = self._unsent[written:]
        if self._waits_to_write and not self._unsent:
            self._poll.unregister(self._client.write_fd)
        elif not self._waits_to_write and self._unsent:
            self._poll.register(self._client.write_fd, select.EPOLLOUT)
        self._waits_to_write = bool(self._unsent)

    def _receive(self, result: LoadResult) -> int:
        """Read and judge what has come. Returns the number of calls that have ended."""
        try:
            data = os.read(self._client.read_fd, READ_BYTES)
        except BlockingIOError:
            return 0
        if not data:
            self._client.broken = "the process closed its output"
            return 0
        now = time.perf_counter_ns()
        answered = 0
        for line in self._client.lines.feed(data):
            before, after = self._before, self._after
            call_id = line[len(before) : len(before) + CALL_ID_BYTES]
            same = (
                len(line) == len(before) + CALL_ID_BYTES + len(after)
                and line.startswith(before)
                and line.endswith(after)
                and call_id in self._started_ns
            )
            if not same:
                call_id = messages.id_of_answer(line)
                if call_id is None:
                    continue  # a notification
                if call_id not in self._started_ns:
                    result.fail(f"an answer to no call in flight: {messages.excerpt(line)}")
                    continue
            begun = self._started_ns.pop(call_id)
            answered += 1
            fault = "" if same else self._judge(line, call_id)
            if fault:
                result.fail(fault)
            else:
                result.calls += 1
                result.latencies.add(now - begun)
        return answered

    def _judge(self, line: bytes, call_id: bytes) -> str:
        fault = messages.fault_in_answer(line, call_id, self._expected_text)
        if not fault and line.count(call_id) == 1:
            self._before, self._after = line.split(call_id)
        return fault
