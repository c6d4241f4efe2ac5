"""benchmarks.generator: every answer is checked, and every fault is counted with its reason."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest

from benchmarks import generator
from benchmarks.clients import Endpoint
from benchmarks.generator import HttpLoad
from benchmarks.messages import Workload
from benchmarks.wire import ExchangeError
from protocol.versions import Era
from tests.benchmarks.conftest import Change, Last, ScriptedServer

StartScripted = Callable[[Change], ScriptedServer]
SMALL = Workload(100, Era.LEGACY)


def run(endpoint: Endpoint, workload: Workload = SMALL, *, connections: int = 4, seconds: float = 0.1):
    with contextlib.closing(HttpLoad(endpoint, workload, connections)) as load:
        return load.run(seconds)


@pytest.mark.parametrize("era", Era)
@pytest.mark.parametrize("size", [1, 100, 10_000, 300_000])
def test_all_answers_of_a_correct_server_are_good(backend: Endpoint, era: Era, size: int) -> None:
    result = run(backend, Workload(size, era))

    assert result.failed == 0, result.faults
    assert result.calls >= 8
    assert sum(result.latencies.counts) == result.calls
    assert 0.1 <= result.seconds < 5
    assert 0 < result.generator_cpu_ns < 5e9


def test_rounds_follow_one_another_on_the_same_connections(backend: Endpoint) -> None:
    with contextlib.closing(HttpLoad(backend, SMALL, 3)) as load:
        rounds = [load.run(0.02) for _ in range(3)]

    assert all(each.calls >= 3 and not each.failed for each in rounds)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda response: response.replace(b'"id":1', b'"id":2'), "answer to id 2"),
        (lambda response: response.replace(b"abcdef", b"abcdeF"), "wrong payload"),
        (lambda response: response.replace(b'"text"}', b'"text" }'), ""),
        (lambda response: response.replace(b"200 OK", b"500 No"), "HTTP 500"),
        (lambda response: response.replace(b'"jsonrpc"', b'"jsonRPC"'), "not a JSON-RPC answer"),
        (lambda response: b"SMTP ready\r\n", "malformed HTTP response"),
        (lambda response: response + b"more", "more bytes|malformed HTTP response"),
        (lambda response: None, "closed before the answer was complete|the connection failed"),
        (lambda response: response[:-10], "no answer within"),
    ],
)
def test_each_wrong_answer_among_good_ones_is_counted_once_with_its_reason(
    scripted: StartScripted, monkeypatch: pytest.MonkeyPatch, change: Callable[[bytes], bytes | None], reason: str
) -> None:
    monkeypatch.setattr(generator, "ANSWER_WAIT_S", 0.3)
    server = scripted(lambda number, response: change(response) if number in (5, 9) else response)

    result = run(server.endpoint)

    assert result.failed == (2 if reason else 0), result.faults
    assert sum(result.faults.values()) == result.failed
    for fault in result.faults:
        assert any(part in fault for part in reason.split("|")), fault
    assert result.calls >= 4
    assert server.calls == result.attempts


def as_events(response: bytes, number: int) -> bytes:
    """The same answer on an event stream, after a notification."""
    body = response.partition(b"\r\n\r\n")[2]
    events = b'data: {"jsonrpc":"2.0","method":"notifications/x"}\n\nid: %d\ndata: %s\n\n' % (number, body)
    chunks = [events[:30], events[30:]]
    return b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n" + b"".join(
        b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in [*chunks, b""]
    )


@pytest.mark.parametrize("size", [100, 100_000])
def test_answers_on_event_streams_are_good_also_when_no_two_are_alike(scripted: StartScripted, size: int) -> None:
    server = scripted(lambda number, response: as_events(response, number))

    result = run(server.endpoint, Workload(size, Era.MODERN))

    assert result.failed == 0, result.faults
    assert result.calls >= 4


def test_an_event_stream_that_ends_early_after_a_pattern_was_learned_is_a_fault(
    scripted: StartScripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generator, "ANSWER_WAIT_S", 0.3)

    def change(number: int, response: bytes) -> bytes:
        whole = as_events(response, 7)
        return whole if number != 6 else whole[: whole.rindex(b"\r\n0\r\n\r\n") - 40]

    result = run(scripted(change).endpoint)

    assert result.faults == {"no answer within 0 s after the round": 1}


def test_an_event_stream_that_ends_early_and_properly_is_judged_by_what_it_says(scripted: StartScripted) -> None:
    def change(number: int, response: bytes) -> bytes:
        body = response.partition(b"\r\n\r\n")[2]
        events = b"data: %s\n\n" % (body if number != 6 else body.replace(b"abc", b""))
        after_id = events.index(b'"id":1') + 20
        chunks = [events[:after_id], events[after_id:], b""]
        return b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n" + b"".join(
            b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks
        )

    result = run(scripted(change).endpoint)

    assert result.failed == 1
    assert next(iter(result.faults)).startswith("wrong payload")


def test_a_connection_closed_after_its_last_answer_of_the_round_is_no_fault(scripted: StartScripted) -> None:
    def change(number: int, response: bytes) -> bytes:
        if number == 2:
            assert server.closed.wait(5)
        return Last(response) if number == 1 else response

    server = scripted(change)

    result = run(server.endpoint, connections=2, seconds=0.0)

    assert result.failed == 0, result.faults
    assert result.calls == 2


def test_answers_that_grow_beyond_the_buffer_are_read_and_judged(scripted: StartScripted) -> None:
    padding = b"X-Padding: " + b"p" * 40_000 + b"\r\n"
    server = scripted(lambda number, response: response.replace(b"Content-Type", padding + b"Content-Type"))

    result = run(server.endpoint)

    assert result.failed == 0, result.faults
    assert result.calls >= 4


def test_a_server_that_closes_after_each_answer_is_connected_to_anew(scripted: StartScripted) -> None:
    closing = b"\r\nConnection: close\r\n\r\n"
    server = scripted(lambda number, response: response.replace(b"\r\n\r\n", closing, 1))

    result = run(server.endpoint, connections=2, seconds=0.2)

    assert result.failed == 0, result.faults
    assert result.calls >= 4
    assert result.seconds >= 0.2


def test_a_connection_closed_between_two_rounds_is_replaced_without_fault(scripted: StartScripted) -> None:
    server = scripted(lambda number, response: response)
    with contextlib.closing(HttpLoad(server.endpoint, SMALL, 2)) as load:
        assert load.run(0.02).failed == 0
        for client in load.clients:
            client.peer.shutdown(2)
        result = load.run(0.02)

    assert result.failed == 0, result.faults
    assert result.calls >= 2


def test_a_server_that_has_gone_fails_the_round_and_does_not_hang_it(scripted: StartScripted) -> None:
    server = scripted(lambda number, response: None)
    with contextlib.closing(HttpLoad(server.endpoint, SMALL, 3)) as load:
        server.shutdown()
        server.server_close()
        result = load.run(0.2)

    assert result.calls == 0
    assert result.failed >= 3
    assert result.seconds < 3


def test_a_server_that_closes_every_connection_does_not_keep_a_round_busy_for_ever(scripted: StartScripted) -> None:
    result = run(scripted(lambda number, response: None).endpoint, connections=3, seconds=5.0)

    assert result.calls == 0
    assert 3 <= result.failed <= generator.LOST_MAX + 3
    assert result.seconds < 5


def test_a_handshake_that_is_refused_is_an_error_with_the_reason(backend: Endpoint) -> None:
    with pytest.raises(ExchangeError, match="cannot connect"):
        HttpLoad(Endpoint(("127.0.0.1", 1), "/mcp"), SMALL, 1)


def test_sessions_are_ended_when_a_load_is_closed(scripted: StartScripted) -> None:
    server = scripted(lambda number, response: response)

    run(server.endpoint, connections=3, seconds=0.01)

    assert server.answers.open_sessions == 0
