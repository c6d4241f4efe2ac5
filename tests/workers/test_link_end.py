"""A link's end, against another one and against raw bytes."""

from __future__ import annotations

import os
import socket

import msgspec
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from protocol import link
from protocol.limits import (
    ANSWER_BYTES_MAX,
    FRAME_BYTES_MAX,
    LINK_CREDIT_BYTES,
    LINK_VERSION,
    LINK_WINDOW_BYTES,
)
from protocol.link import HEAD, HEAD_BYTES, Credit, Event, Header, Hello, Result, encode_frame, frame_length
from protocol.versions import Era
from tests.workers.scripted import RecordingLog, Watched, running_reactor
from workers.link_end import LARGE_FRAME_BYTES, LinkEnd
from workers.reactor import Reactor

MIB = 1024 * 1024


class End(Watched):
    """A link end and what it heard."""

    def __init__(self, reactor: Reactor, sock: socket.socket, role: str, *, incarnation: int = 1) -> None:
        super().__init__()
        self.heard: list[tuple[Header, bytes]] = []
        self.closed: list[str] = []
        self.hellos = 0
        self.end = LinkEnd(
            reactor, sock, role=role, name="front" if role == "front" else "main", incarnation=incarnation,
            calls=0 if role == "front" else 64,
            on_frame=self.on_frame, on_closed=self.on_closed, on_hello=self.on_hello,
        )  # fmt: skip

    def on_frame(self, header: Header, payload: memoryview) -> None:
        self.heard.append((header, bytes(payload)))
        self.changed()

    def on_closed(self, reason: str) -> None:
        self.closed.append(reason)
        self.changed()

    def on_hello(self) -> None:
        self.hellos += 1
        self.changed()

    def send(self, *results: tuple[int, int]) -> None:
        for number, size in results:
            self.end.send(Result(number, Era.MODERN), bytes(size))

    @property
    def numbers(self) -> list[int]:
        return [header.id for header, _ in self.heard]


def joined(reactor: Reactor) -> tuple[End, End]:
    ours, theirs = socket.socketpair()
    return End(reactor, ours, "front"), End(reactor, theirs, "worker", incarnation=7)


class Peer:
    """The other end of a front's link as raw bytes."""

    def __init__(self, reactor: Reactor) -> None:
        ours, theirs = socket.socketpair()
        self.front = End(reactor, ours, "front")
        theirs.setblocking(False)
        self.sock = trio.socket.from_stdlib_socket(theirs)

    async def say(self, *frames: bytes) -> None:
        with trio.fail_after(60):
            await trio.SocketStream(self.sock).send_all(b"".join(frames))

    async def hello(self, window: int = LINK_WINDOW_BYTES) -> None:
        await self.say(encode_frame(Hello(LINK_VERSION, "main", 7, 64, window)))
        await self.front.until(lambda: self.front.hellos)

    async def read(self) -> list[tuple[Header, int]]:
        """Return what is there to read: each header and the size of its payload."""
        await wait_all_tasks_blocked()
        data = bytearray()
        while True:
            try:
                data += self.sock._sock.recv(1 << 20)
            except BlockingIOError:
                await wait_all_tasks_blocked()
                try:
                    data += self.sock._sock.recv(1 << 20)
                except BlockingIOError:
                    break
        found: list[tuple[Header, int]] = []
        at = 0
        while at < len(data):
            length, header_length = frame_length(data, at)
            start = at + HEAD_BYTES
            found.append(
                (link.decode_from_front(data[start : start + header_length]), length - HEAD_BYTES - header_length)
            )
            at += length
        return found


# --- hello -----------------------------------------------------------------------------------------------------------
async def test_both_ends_introduce_themselves(reactor: Reactor):
    front, worker = joined(reactor)

    await worker.until(lambda: worker.hellos)
    await front.until(lambda: front.hellos)

    assert front.end.peer == Hello(LINK_VERSION, "main", 7, 64, LINK_WINDOW_BYTES)
    assert worker.end.peer == Hello(LINK_VERSION, "front", 1, 0, LINK_WINDOW_BYTES)
    assert front.heard == worker.heard == [], "hellos are the link's own business"


async def test_what_is_sent_before_the_hello_waits_for_it_in_order(reactor: Reactor):
    peer = Peer(reactor)
    with peer.sock:
        for number, payload in ((1, b"{}"), (2, b""), (3, b"[]")):
            peer.front.end.send(link.Call(number, Era.MODERN, "m", "", 1.0, b"", False, "", b""), payload)
        assert [type(header) for header, _ in await peer.read()] == [Hello]

        await peer.hello()

        assert [header.id for header, _ in await peer.read()] == [1, 2, 3]


# --- frames ----------------------------------------------------------------------------------------------------------
FRAMES = [
    encode_frame(Event(1, "notifications/progress"), 2) + b"{}",
    encode_frame(link.ListChanged("tools")),
    encode_frame(Result(1, Era.LEGACY), 11) + b'{"a":[1,2]}',
]
HEARD = [
    (Event(1, "notifications/progress"), b"{}"),
    (link.ListChanged("tools"), b""),
    (Result(1, Era.LEGACY), b'{"a":[1,2]}'),
]


@pytest.mark.parametrize("size", [1, 2, 7, 40, 1000])
async def test_frames_are_found_however_the_bytes_are_cut(reactor: Reactor, size: int):
    peer = Peer(reactor)
    with peer.sock:
        stream = encode_frame(Hello(LINK_VERSION, "main", 7, 64, LINK_WINDOW_BYTES)) + b"".join(FRAMES * 3)
        for at in range(0, len(stream), size):
            await peer.say(stream[at : at + size])
            await wait_all_tasks_blocked()

        assert peer.front.heard == HEARD * 3


@pytest.mark.parametrize(
    "size", [LARGE_FRAME_BYTES - 40, LARGE_FRAME_BYTES, LARGE_FRAME_BYTES + 1, MIB, ANSWER_BYTES_MAX]
)
async def test_large_payloads_arrive_whole_and_in_their_place(reactor: Reactor, size: int):
    front, worker = joined(reactor)
    payload = os.urandom(1000) + bytes(size - 2000) + os.urandom(1000)

    for number in (1, 3, 5):
        worker.end.send(Result(number, Era.MODERN), b"{}")
        worker.end.send(Result(number + 1, Era.MODERN), payload)
    await front.until(lambda: len(front.heard) == 6)

    assert front.numbers == [1, 2, 3, 4, 5, 6]
    assert [content for _, content in front.heard] == [b"{}", payload] * 3


async def test_a_large_frame_may_come_in_any_pieces(reactor: Reactor):
    peer = Peer(reactor)
    await peer.hello()
    payload = os.urandom(300_000)
    stream = FRAMES[0] + encode_frame(Result(2, Era.MODERN), len(payload)) + payload + FRAMES[1]
    with peer.sock:
        for at, end in [(0, 3), (3, 60), (60, 61), (61, 70_000), (70_000, 299_000), (299_000, len(stream))]:
            await peer.say(stream[at:end])
            await wait_all_tasks_blocked()

        assert peer.front.heard == [HEARD[0], (Result(2, Era.MODERN), payload), HEARD[1]]


async def test_frames_of_one_batch_leave_in_one_write(reactor: Reactor, monkeypatch: pytest.MonkeyPatch):
    front, worker = joined(reactor)
    await front.until(lambda: front.hellos)
    writes: list[int] = []
    write = type(worker.end._stream).write
    monkeypatch.setattr(
        type(worker.end._stream), "write", lambda self, *chunks: (writes.append(len(chunks)), write(self, *chunks))
    )

    def answer_all(header: Header, payload: memoryview) -> None:
        for number in range(50):
            worker.end.send(Result(number, Era.MODERN), b"{}")

    worker.on_frame = answer_all
    worker.end._on_frame = answer_all
    front.end.send(link.PauseEvents(1))
    await front.until(lambda: len(front.heard) == 50)

    assert writes == [1, 1], "the request of one side and all answers of the other"


# --- the window -------------------------------------------------------------------------------------------------------
async def test_payload_beyond_the_window_waits_for_credit_and_keeps_its_order(reactor: Reactor):
    peer = Peer(reactor)
    with peer.sock:
        await peer.hello(window=10 * MIB)
        sizes = [4 * MIB, 4 * MIB, 4 * MIB, 0, 10]
        for number, size in enumerate(sizes):
            peer.front.end.send(link.Call(number, Era.MODERN, "m", "", 1.0, b"", False, "", b""), bytes(size))
        assert [size for header, size in await peer.read() if not isinstance(header, Hello)] == [4 * MIB, 4 * MIB]
        assert peer.front.end.queued_bytes == 4 * MIB + 10

        await peer.say(encode_frame(Credit(MIB)))
        assert await peer.read() == []
        await peer.say(encode_frame(Credit(2 * MIB)))

        assert [(header.id, size) for header, size in await peer.read()] == [(2, 4 * MIB), (3, 0), (4, 10)]
        assert peer.front.end.queued_bytes == 0


async def test_credit_is_given_back_in_portions(reactor: Reactor):
    peer = Peer(reactor)
    with peer.sock:
        await peer.hello()
        await peer.read()
        frame = encode_frame(Result(1, Era.MODERN), 500_000) + bytes(500_000)
        for _ in range(4):
            await peer.say(frame)
        assert await peer.read() == []
        await peer.say(frame)

        assert await peer.read() == [(Credit(2_500_000), 0)]


@pytest.mark.parametrize("first", [0, 1, LINK_CREDIT_BYTES - 1, LINK_CREDIT_BYTES])
@pytest.mark.parametrize("size", [LINK_WINDOW_BYTES - 1, LINK_WINDOW_BYTES, LINK_WINDOW_BYTES + 1, ANSWER_BYTES_MAX])
async def test_a_payload_larger_than_what_is_left_of_the_window_gets_through(reactor: Reactor, first: int, size: int):
    """Credit comes in portions, so the window is hardly ever entirely open when nothing is under way."""
    front, worker = joined(reactor)
    await worker.until(lambda: worker.hellos)
    if first:
        worker.send((1, first))
        await front.until(lambda: front.heard)

    worker.send((2, size), (3, 5))
    await front.until(lambda: front.numbers[-2:] == [2, 3])

    assert [len(payload) for _, payload in front.heard][-2:] == [size, 5]
    assert worker.end.queued_bytes == 0


SIZES = st.one_of(
    st.integers(0, 100),
    st.integers(0, 3 * MIB),
    st.sampled_from(
        [LINK_CREDIT_BYTES - 1, LINK_CREDIT_BYTES, LINK_WINDOW_BYTES - MIB, LINK_WINDOW_BYTES, ANSWER_BYTES_MAX]
    ),
)


@given(st.lists(SIZES, max_size=12), st.lists(SIZES, max_size=12))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_is_sent_both_ways_at_once_arrives_in_order(forth: list[int], back: list[int]):
    async def exchange() -> None:
        async with running_reactor() as (reactor, _):
            front, worker = joined(reactor)
            for number in range(max(len(forth), len(back))):
                if number < len(forth):
                    front.end.send(
                        link.Call(number, Era.MODERN, "m", "", 1.0, b"", False, "", b""), bytes(forth[number])
                    )
                if number < len(back):
                    worker.send((number, back[number]))
            await front.until(lambda: len(front.heard) == len(back))
            await worker.until(lambda: len(worker.heard) == len(forth))
            assert [(header.id, len(payload)) for header, payload in front.heard] == list(enumerate(back))
            assert [(header.id, len(payload)) for header, payload in worker.heard] == list(enumerate(forth))
            assert front.end.queued_bytes == worker.end.queued_bytes == 0

    trio.run(exchange)


# --- broken rules -----------------------------------------------------------------------------------------------------
HELLO = encode_frame(Hello(LINK_VERSION, "main", 7, 64, LINK_WINDOW_BYTES))


@pytest.mark.case("C-10")
@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        pytest.param(FRAMES[0], "before the hello", id="no hello"),
        pytest.param(HELLO + HELLO, "second hello", id="two hellos"),
        pytest.param(encode_frame(Hello(LINK_VERSION + 1, "main", 7, 64, 1)), "version", id="another version"),
        pytest.param(HELLO + HEAD.pack(FRAME_BYTES_MAX + 1, 5) + b"12345", "impossible frame", id="oversize length"),
        pytest.param(HELLO + HEAD.pack(5, 50) + b"12345", "impossible frame", id="header longer than the frame"),
        pytest.param(HELLO + HEAD.pack(7, 5) + b"\xc1\xc1\xc1\xc1\xc1", "does not decode", id="garbage"),
        pytest.param(HELLO + HEAD.pack(2, 0), "does not decode", id="no header"),
        pytest.param(HELLO + encode_frame(link.Cancel(1, "")), "does not decode", id="a frame of the other direction"),
        pytest.param(
            HELLO + HEAD.pack(5, 3) + msgspec.msgpack.encode([99])[:3] + b"\0", "does not decode", id="unknown tag"
        ),
        pytest.param(
            HELLO + encode_frame(link.ListChanged("tools")).replace(b"tools", b"t\xff\xff\xffs"),
            "does not decode",
            id="no UTF-8",
        ),
        pytest.param(HELLO + encode_frame(Credit(1)), "credit", id="credit for nothing"),
        pytest.param(HELLO + encode_frame(Credit(0)), "credit", id="no credit"),
        pytest.param(HELLO + encode_frame(Credit(-5)), "credit", id="less than no credit"),
    ],
)
async def test_a_broken_rule_closes_the_link_and_says_which(reactor: Reactor, stream: bytes, reason: str):
    peer = Peer(reactor)
    with peer.sock:
        await peer.say(stream + FRAMES[0])
        await peer.front.until(lambda: peer.front.closed)

    (told,) = peer.front.closed
    assert told.startswith("protocol error: ")
    assert reason in told
    assert peer.front.end.broken
    assert peer.front.heard == [], "nothing after the broken rule is heard"


@pytest.mark.case("C-10")
@given(
    st.one_of(
        st.binary(max_size=200),
        st.tuples(st.sampled_from(FRAMES), st.integers(0, 40), st.integers(1, 255)).map(
            lambda drawn: bytes(b ^ drawn[2] if at == drawn[1] else b for at, b in enumerate(drawn[0]))
        ),
    )
)
@settings(max_examples=200, deadline=None)
def test_no_garbage_is_more_than_a_broken_link(garbage: bytes):
    async def hear() -> None:
        async with running_reactor() as (reactor, log):
            peer = Peer(reactor)
            with peer.sock:
                await peer.say(HELLO + garbage)
                await wait_all_tasks_blocked()
            await peer.front.until(lambda: peer.front.closed)
            assert len(peer.front.closed) == 1
            assert log.of("error") == []

    trio.run(hear)


# --- ends -------------------------------------------------------------------------------------------------------------
@pytest.mark.case("C-01")
async def test_the_end_of_the_other_process_is_told_once(reactor: Reactor):
    peer = Peer(reactor)
    await peer.hello()
    peer.front.send((1, LINK_WINDOW_BYTES), (2, 10))
    assert peer.front.end.queued_bytes
    peer.sock.close()

    await peer.front.until(lambda: peer.front.closed)

    assert len(peer.front.closed) == 1
    assert not peer.front.end.broken
    assert peer.front.end.queued_bytes == 0
    peer.front.send((3, 10), (4, 3 * LINK_WINDOW_BYTES))
    assert peer.front.end.queued_bytes == 0
    peer.front.end.close()
    await wait_all_tasks_blocked()
    assert len(peer.front.closed) == 1


@pytest.mark.case("C-01")
async def test_frames_sent_before_the_other_process_died_are_heard(reactor: Reactor):
    peer = Peer(reactor)
    await peer.hello()
    peer.front.end.send(link.PauseEvents(1))
    await wait_all_tasks_blocked()  # there it lies, and makes the kernel report a reset
    await peer.say(*FRAMES)
    peer.sock.close()

    await peer.front.until(lambda: peer.front.closed)

    assert peer.front.heard == HEARD


async def test_half_a_frame_before_the_end_is_dropped(reactor: Reactor):
    peer = Peer(reactor)
    await peer.hello()
    await peer.say(FRAMES[0], encode_frame(Result(2, Era.MODERN), MIB) + bytes(1000))
    await wait_all_tasks_blocked()
    peer.sock.close()

    await peer.front.until(lambda: peer.front.closed)

    assert peer.front.heard == HEARD[:1]


async def test_what_was_sent_before_closing_still_arrives_and_nothing_is_heard_any_more(reactor: Reactor):
    front, worker = joined(reactor)
    await worker.until(lambda: worker.hellos)

    def leave(header: Header, payload: memoryview) -> None:
        front.heard.append((header, bytes(payload)))
        front.end.send(link.ResumeEvents(9))
        front.end.close()

    front.end._on_frame = leave
    worker.send((1, 5), (2, 5), (3, 5))
    await front.until(lambda: front.closed)
    await worker.until(lambda: worker.closed)

    assert front.numbers == [1]
    assert front.closed == ["closed by this side"]
    assert worker.numbers == [9]


async def test_a_callback_that_fails_closes_the_link_but_not_the_loop(reactor: Reactor, log: RecordingLog):
    front, worker = joined(reactor)

    def fail(header: Header, payload: memoryview) -> None:
        raise ValueError("a defect")

    front.end._on_frame = fail
    worker.send((1, 5))
    await front.until(lambda: front.closed)

    assert log.take_errors() == ["a defect"]
    assert front.closed == ["the link broke: internal error: ValueError"]
    assert not front.end.broken, "it is not the other side that is to blame"
