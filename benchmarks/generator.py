"""Keeps N HTTP clients busy in a closed loop: the next call of a client is sent when its last one is answered.

Speed is what this file is about, because whatever the generator needs is missing on the machine for the subject:

* Rule 1: the first answer is decoded and judged in full (`messages.fault_in_answer`). Its bytes are then the pattern:
  an answer that differs from it in nothing but the id is good by comparison alone, and so is checked to its last byte
  for the price of three comparisons. Any other answer is decoded and judged in full again, and becomes the pattern if
  it is good (nginx changes its Date header each second).
* Rule 2: nothing is silent. What is not a good answer is counted as failed, with the reason.
* Rule 3: no wait is unbounded: calls that are unanswered ANSWER_WAIT_S after the end of the round have failed.
"""

from __future__ import annotations

import select
import time
from typing import Final

from benchmarks import clients, messages
from benchmarks.clients import Client, Endpoint
from benchmarks.messages import CALL_ID_BYTES, Workload
from benchmarks.rounds import BUCKETS, SUB_BUCKET_BITS, LoadResult
from benchmarks.wire import ANSWER_WAIT_S, ExchangeError, Response

LOST_MAX: Final = 100
"""Connections a subject may lose in one round; those lost after that are not opened again."""
EVENTS_PER_POLL_MAX: Final = 128


class Pattern:
    """The bytes of a good answer before and after its id; nothing matches before the first one was learned."""

    __slots__ = ("after", "before", "expected_text", "known_length")

    def __init__(self, workload: Workload) -> None:
        self.expected_text = messages.payload_text(workload.size)
        self.before = b"\0"
        self.after = b""
        self.known_length = False
        """The head says how long the answer is, so that a beginning as expected must be followed by the rest."""

    def begins(self, memory: bytearray, filled: int) -> bool:
        """Tell whether an answer, incomplete as it is, agrees with the pattern up to its id."""
        if filled < len(self.before):
            return self.before.startswith(memory[:filled])
        return memory.startswith(self.before)

    def judge(self, client: Client) -> str | None:
        """Decode an answer that differs. Returns None while it is incomplete, "" if it is good, else its fault."""
        response = client.response
        try:
            if response is None:
                client.response = response = Response()
                client.fed = 0
            response.feed(bytes(client.view[client.fed : client.filled]))
            client.fed = client.filled
        except ExchangeError as error:
            client.closing = True
            return str(error)
        if not response.complete:
            return None
        client.closing = not response.keep_alive
        fault = self._fault(response, client.call_id)
        if not fault and response.keep_alive:
            self._learn(bytes(client.view[: client.filled]), client.call_id, response)
        return fault

    def _fault(self, response: Response, call_id: bytes) -> str:
        if response.status != 200:
            return f"HTTP {response.status}: {messages.excerpt(response.body)}"
        # Notifications may come before the answer on an event stream; the answer is the last message.
        found = response.messages()
        return messages.fault_in_answer(found[-1] if found else b"", call_id, self.expected_text)

    def _learn(self, answer: bytes, call_id: bytes, response: Response) -> None:
        if answer.count(call_id) == 1:
            self.before, self.after = answer.split(call_id)
            self.known_length = b"content-length" in response.headers


class HttpLoad:
    """`connections` clients of one subject, each with a connection and (legacy) a session of its own.

    Raises ExchangeError or ValueError if the subject does not answer the handshakes as it should."""

    def __init__(self, endpoint: Endpoint, workload: Workload, connections: int) -> None:
        self.clients = clients.open_clients(endpoint, workload, connections)
        self._pattern = Pattern(workload)
        self._last_id = messages.CALL_IDS_FROM

    def close(self) -> None:
        clients.close_clients(self.clients)

    def run(self, seconds: float) -> LoadResult:
        result = LoadResult()
        ready = [client for client in self.clients if _usable(client, result)]
        cpu = time.process_time_ns()
        started = time.perf_counter_ns()
        with select.epoll() as poll:
            loop = _Loop(self._pattern, result, poll, self._last_id, started + int(seconds * 1e9))
            loop.run(ready)
        result.seconds = (time.perf_counter_ns() - started) / 1e9
        result.generator_cpu_ns = time.process_time_ns() - cpu
        self._last_id = loop.last_id
        return result


def _usable(client: Client, result: LoadResult) -> bool:
    """Replace a connection that the subject has closed since the last round: keep-alive has its limits."""
    if client.closing or client.lost:
        try:
            client.reconnect()
        except ExchangeError as error:
            result.fail(str(error))
            return False
    return True


class _Loop:
    """One round."""

    def __init__(
        self, pattern: Pattern, result: LoadResult, poll: select.epoll, last_id: int, deadline_ns: int
    ) -> None:
        self._pattern = pattern
        self._result = result
        self._poll = poll
        self._deadline_ns = deadline_ns
        self._by_fd: dict[int, Client] = {}
        self._lost_connections = 0
        self.last_id = last_id

    def run(self, ready: list[Client]) -> None:
        in_flight = len(ready)
        for client in ready:
            self._watch(client)
            in_flight -= self._call(client)
        give_up_ns = self._deadline_ns + int(ANSWER_WAIT_S * 1e9)
        while in_flight and time.perf_counter_ns() < give_up_ns:
            in_flight -= self._serve(self._poll.poll(1.0, EVENTS_PER_POLL_MAX))
        for client in ready:
            if client.call_id:
                self._result.fail(f"no answer within {ANSWER_WAIT_S:.0f} s after the round")
                client.call_id = b""
                client.closing = True

    def _serve(self, events: list[tuple[int, int]]) -> int:
        """Take answers and make the next calls. Returns how many calls fewer are in flight.

        One long function on purpose: each call of a Python function here would cost every call of the load 0.1 µs."""
        by_fd = self._by_fd
        pattern = self._pattern
        result = self._result
        counts = result.latencies.counts
        clock = time.perf_counter_ns
        fewer = 0
        for fd, _ in events:
            client = by_fd[fd]
            filled = client.filled
            try:
                received = client.peer.recv_into(client.view[filled:] if filled else client.view)
            except BlockingIOError:
                continue
            except OSError as error:
                fewer += self._lost(client, f"the connection failed: {error}")
                continue
            if not received:
                fewer += self._lost(client, "the connection was closed before the answer was complete")
                continue
            now = clock()
            client.filled = filled = filled + received
            if filled == len(client.memory):
                client.make_room()
            memory = client.memory
            id_at = len(pattern.before)
            after_at = id_at + CALL_ID_BYTES
            missing = after_at + len(pattern.after) - filled
            if (
                missing == 0
                and memory.startswith(client.call_id, id_at)
                and memory.startswith(pattern.before)
                and memory.startswith(pattern.after, after_at)
            ):
                fault = ""
            elif missing > 0 and pattern.known_length and pattern.begins(memory, filled):
                continue
            else:
                fault = pattern.judge(client)
                if fault is None:
                    continue
            if fault:
                result.fail(fault)
            else:
                result.calls += 1
                latency = now - client.started_ns
                exponent = max(latency.bit_length() - SUB_BUCKET_BITS - 1, 0)
                counts[min((exponent << SUB_BUCKET_BITS) + (latency >> exponent), BUCKETS - 1)] += 1
            if now >= self._deadline_ns:
                client.call_id = b""
                self._poll.unregister(fd)
                fewer += 1
            else:
                fewer += self._call(client)
        return fewer

    def _call(self, client: Client) -> int:
        """Send a client's next call. Returns 0, or 1 if that cannot be done and the client is out of the round."""
        if client.closing:
            return self._reopen_and_call(client)
        self.last_id = last_id = self.last_id + 1
        client.call_id = call_id = b"%d" % last_id
        client.filled = 0
        client.response = None
        request = client.before_id + call_id + client.after_id
        client.started_ns = time.perf_counter_ns()
        try:
            sent = client.peer.send(request)
            if sent != len(request):
                # The subject reads while we wait here and has nothing to send us, so this cannot lock up.
                client.peer.settimeout(ANSWER_WAIT_S)
                client.peer.sendall(request[sent:])
                client.peer.setblocking(False)
        except OSError as error:
            return self._lost(client, f"the connection failed: {error}")
        return 0

    def _lost(self, client: Client, reason: str) -> int:
        """The call in flight has failed with its connection. Returns like `_call`."""
        self._result.fail(reason)
        client.call_id = b""
        client.closing = True
        client.peer.close()
        self._lost_connections += 1
        if self._lost_connections > LOST_MAX or time.perf_counter_ns() >= self._deadline_ns:
            return 1
        return self._reopen_and_call(client)

    def _reopen_and_call(self, client: Client) -> int:
        client.call_id = b""
        try:
            client.reconnect()
        except ExchangeError as error:
            self._result.fail(str(error))
            return 1
        self._watch(client)
        return self._call(client)

    def _watch(self, client: Client) -> None:
        fd = client.peer.fileno()
        self._by_fd[fd] = client
        self._poll.register(fd, select.EPOLLIN)
