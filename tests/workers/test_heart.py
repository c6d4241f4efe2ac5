"""How a worker shows that its loop runs: every second while it has something to do, seldom while it has not."""

from __future__ import annotations

import socket

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from protocol.flight import HEADER_BYTES, SHARED_BYTES, FlightPage, heartbeat
from protocol.limits import HEARTBEAT_S, REST_S
from tests.workers.scripted import advance
from workers.heart import Heart
from workers.reactor import Reactor


class Beats(FlightPage):
    """Remembers when it was written to, by the clock of the test."""

    def __init__(self) -> None:
        self.shared = memoryview(bytearray(SHARED_BYTES))
        super().__init__(self.shared)
        self.begin(1, 1)
        self.beats: list[float] = []
        self.rests: list[float] = []

    def beat(self, now_ns: int) -> None:
        super().beat(now_ns)
        self.beats.append(trio.current_time())

    def rest(self, now_ns: int) -> None:
        super().rest(now_ns)
        self.rests.append(trio.current_time())

    @property
    def says_rests(self) -> bool:
        return heartbeat(bytes(self.shared[:HEADER_BYTES]))[1]


class Reader:
    """A handler of a stream that only notes that something came."""

    def __init__(self) -> None:
        self.got = trio.Event()

    def data_received(self, data: bytes) -> None:
        self.got.set()

    def into_filled(self, count: int) -> None: ...

    def eof_received(self) -> None: ...

    def buffer_drained(self) -> None: ...

    def stream_closed(self, error: OSError | None) -> None: ...


@pytest.mark.promise("R03")
async def test_a_worker_that_serves_nothing_says_that_it_rests_and_beats_seldom(
    mock_clock: MockClock, reactor: Reactor
):
    page = Beats()
    begun = trio.current_time()
    Heart(reactor, page)
    await wait_all_tasks_blocked()

    await advance(mock_clock, 50)

    assert page.beats == [begun + HEARTBEAT_S]
    assert page.rests == [begun + 2 * HEARTBEAT_S + turn * REST_S for turn in range(3)]


@pytest.mark.promise("R03")
async def test_the_first_thing_it_serves_ends_the_rest(mock_clock: MockClock, reactor: Reactor):
    page = Beats()
    Heart(reactor, page)
    ours, theirs = socket.socketpair()
    reader = Reader()
    reactor.add_stream(theirs, reader)
    await wait_all_tasks_blocked()
    await advance(mock_clock, 5)
    assert page.says_rests
    page.beats.clear()

    with ours:
        ours.send(b"x")
        await reader.got.wait()
        begun = trio.current_time()
        assert page.beats == [begun]
        assert not page.says_rests
        await wait_all_tasks_blocked()
        await advance(mock_clock, 3)

    assert page.beats == [begun]
    assert page.rests[-1] == begun + HEARTBEAT_S


@pytest.mark.promise("R03")
async def test_it_beats_every_second_while_it_has_something_to_serve(mock_clock: MockClock, reactor: Reactor):
    page = Beats()
    Heart(reactor, page)
    ours, theirs = socket.socketpair()
    reader = Reader()
    reactor.add_stream(theirs, reader)
    await wait_all_tasks_blocked()
    await advance(mock_clock, 5)
    page.beats.clear()
    page.rests.clear()

    begun = trio.current_time()
    with ours:
        for _ in range(10):
            reader.got = trio.Event()
            ours.send(b"x")
            await reader.got.wait()
            await wait_all_tasks_blocked()
            await advance(mock_clock, 0.5)

    assert page.beats == [begun + second for second in range(6)]
    assert page.rests == []
