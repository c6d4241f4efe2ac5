"""benchmarks.wire: responses are read whole, however they are framed and split."""

from __future__ import annotations

import pytest

from benchmarks.wire import ExchangeError, Response, event_data

JSON_RESPONSE = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n{"a":1}'
EVENTS = b': hello\r\n\r\nevent: message\r\nid: 1\r\ndata:\r\n\r\ndata: {"n":1}\r\n\r\ndata: {"n":\ndata: 2}\n\n'
EVENT_RESPONSE = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    + b"%x\r\n%s\r\n" % (40, EVENTS[:40])
    + b"%x\r\n%s\r\n0\r\n\r\n" % (len(EVENTS) - 40, EVENTS[40:])
)
CASES = [
    pytest.param(JSON_RESPONSE, [b'{"a":1}'], id="length"),
    pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" + JSON_RESPONSE, [b'{"a":1}'], id="interim response first"),
    pytest.param(EVENT_RESPONSE, [b'{"n":1}', b'{"n":\n2}'], id="events in chunks"),
]


@pytest.mark.parametrize("step", [1, 7, 100_000])
@pytest.mark.parametrize(("raw", "messages"), CASES)
def test_a_response_is_complete_with_its_last_byte_and_not_before(raw: bytes, messages: list[bytes], step: int) -> None:
    response = Response()
    for start in range(0, len(raw), step):
        assert not response.complete
        response.feed(raw[start : start + step])

    assert response.complete
    assert (response.status, response.keep_alive) == (200, True)
    assert response.messages() == messages


@pytest.mark.parametrize("more", [JSON_RESPONSE, b"x"])
def test_bytes_after_the_end_of_a_response_are_an_error(more: bytes) -> None:
    response = Response()
    response.feed(JSON_RESPONSE)

    with pytest.raises(ExchangeError):
        response.feed(more)
    with pytest.raises(ExchangeError):
        Response().feed(JSON_RESPONSE + more)


def test_a_response_that_closes_the_connection_says_so() -> None:
    response = Response()
    response.feed(JSON_RESPONSE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))

    assert response.complete
    assert not response.keep_alive


def test_an_event_without_its_empty_line_was_not_sent_whole() -> None:
    assert event_data(b"data: 1\n\ndata: 2\n") == [b"1"]
