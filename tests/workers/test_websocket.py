"""WebSocket without I/O: both sides of the handshake, messages in pieces, and the rules that end a connection."""

from __future__ import annotations

import random

import pytest
from wsproto.connection import Connection, ConnectionType
from wsproto.events import Ping, TextMessage

from protocol.http1 import HttpError
from workers.websocket import FRAMES_TOGETHER_MAX, Closed, Opening, Refused, WebSocket, acceptance, serving

MAX = 1000
HANDSHAKE = {
    b"connection": b"keep-alive, Upgrade",
    b"upgrade": b"websocket",
    b"sec-websocket-version": b"13",
    b"sec-websocket-key": b"dGhlIHNhbXBsZSBub25jZQ==",
    b"sec-websocket-protocol": b"other, mcp",
}


def client() -> Connection:
    """The frames of a client, which are masked."""
    return Connection(ConnectionType.CLIENT)


def pair() -> tuple[Connection, WebSocket]:
    return client(), WebSocket(serving(), MAX)


def test_both_sides_of_a_handshake_fit_together():
    opening = Opening("host:80", "/mcp?a=b", [(b"X-Key", b"1")])
    lines = opening.request.split(b"\r\n")
    assert lines[0] == b"GET /mcp?a=b HTTP/1.1"
    assert {b"X-Key: 1", b"Sec-WebSocket-Protocol: mcp"} <= set(lines)
    fields = {name.lower(): value for name, value in (line.split(b": ", 1) for line in lines[1:-2])}

    answer = acceptance(fields)
    assert opening.feed(answer[:20]) is None
    frames = opening.feed(answer[20:] + serving().send(TextMessage("early")))

    assert frames is not None
    assert WebSocket(frames, MAX).feed(b"") == [b"early"]


def test_the_answer_to_the_example_of_the_rfc_is_that_of_the_rfc():
    assert b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in acceptance(HANDSHAKE)
    assert b"sec-websocket-protocol: mcp\r\n" in acceptance(HANDSHAKE)


def test_a_client_that_offers_no_subprotocol_is_given_none():
    fields = {name: value for name, value in HANDSHAKE.items() if name != b"sec-websocket-protocol"}
    assert b"sec-websocket-protocol" not in acceptance(fields)


@pytest.mark.parametrize(
    ("field", "value", "status"),
    [
        (b"connection", b"close", 400),
        (b"upgrade", b"h2c", 400),
        (b"sec-websocket-version", b"8", 426),
        (b"sec-websocket-key", b"short", 400),
        (b"sec-websocket-protocol", b"graphql-ws", 400),
    ],
)
def test_a_handshake_that_is_none_is_refused(field: bytes, value: bytes, status: int):
    with pytest.raises(HttpError) as caught:
        acceptance(HANDSHAKE | {field: value})
    assert caught.value.status == status


def test_a_refusal_says_what_the_server_said():
    with pytest.raises(Refused) as caught:
        Opening("h", "/", []).feed(b"HTTP/1.1 429 No\r\nRetry-After: 3\r\nContent-Length: 0\r\n\r\n")
    assert (caught.value.status, caught.value.headers[b"retry-after"]) == (429, b"3")

    with pytest.raises(Refused) as caught:
        Opening("h", "/", []).feed(b"\x00\x01garbage\r\n\r\n")
    assert caught.value.status == 0


def test_messages_arrive_whole_whatever_pieces_they_come_in():
    dice = random.Random(7)
    texts = ["", "a", "ü" * 300, '{"jsonrpc":"2.0"}', "x" * MAX]
    for _ in range(20):
        frames, socket = pair()
        sent = b""
        for text in texts:
            cuts = sorted(dice.sample(range(len(text) + 1), min(len(text), 3)))
            pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
            for number, piece in enumerate(pieces):
                sent += frames.send(TextMessage(piece, message_finished=number == len(pieces) - 1))
                sent += frames.send(Ping(b"between")) if dice.random() < 0.3 else b""
        got: list[bytes | Closed] = []
        at = 0
        while at < len(sent):
            step = dice.randint(1, 50)
            got += socket.feed(sent[at : at + step])
            at += step
        assert got == [text.encode() for text in texts]


def test_what_is_sent_can_be_read_by_the_other_side():
    ours, theirs = WebSocket(client(), MAX), WebSocket(serving(), MAX)
    assert theirs.feed(ours.message("grüße".encode()) + ours.message(memoryview(b"{}"))) == ["grüße".encode(), b"{}"]


@pytest.mark.parametrize("pieces", [[MAX + 1], [MAX, 1], [1] * (MAX + 1)])
def test_a_message_may_be_as_long_as_the_limit_and_no_longer(pieces: list[int]):
    frames, socket = pair()
    assert socket.feed(frames.send(TextMessage("x" * MAX))) == [b"x" * MAX]
    found: list[bytes | Closed] = []
    for number, size in enumerate(pieces):
        found += socket.feed(frames.send(TextMessage("x" * size, message_finished=number == len(pieces) - 1)))
    assert [item.code for item in found if isinstance(item, Closed)] == [1009]


def test_of_many_pings_the_last_is_answered():
    frames, socket = pair()
    socket.feed(b"".join(frames.send(Ping(b"%d" % number)) for number in range(100)))
    assert socket.take_pong() == b"\x8a\x0299"
    assert socket.take_pong() == b""


@pytest.mark.parametrize("first", ["ping", "empty"])
def test_a_flood_of_frames_that_say_nothing_ends_the_connection(first: str):
    frames, socket = pair()
    if first == "empty":
        socket.feed(frames.send(TextMessage("", message_finished=False)))
    flood = Ping() if first == "ping" else TextMessage("", message_finished=False)
    [closed] = socket.feed(b"".join(frames.send(flood) for _ in range(FRAMES_TOGETHER_MAX + 1)))
    assert isinstance(closed, Closed)
    assert (closed.code, closed.is_ours) == (1008, True)
    assert socket.feed(frames.send(TextMessage("more"))) == []


def test_what_was_said_before_the_end_is_heard():
    frames, socket = pair()
    said, closed = socket.feed(frames.send(TextMessage("last")) + b"\x88\x82\0\0\0\0\x03\xe9")
    assert said == b"last"
    assert isinstance(closed, Closed)
    assert (closed.code, closed.is_ours, str(closed)) == (1001, False, "code 1001: it is going away")
    assert socket.close(1001) == b"\x88\x02\x03\xe9"
    assert socket.close(1001) == b""


def test_a_close_code_of_somebodys_own_is_told_without_his_words():
    _, socket = pair()
    [closed] = socket.feed(b"\x88\x88\0\0\0\0" + (4321).to_bytes(2, "big") + b"secret")
    assert isinstance(closed, Closed)
    assert (str(closed), closed.reason) == ("code 4321: a reason of its own", "secret")
