"""The loop, with real sockets whose other ends the tests hold."""

from __future__ import annotations

import errno
import os
import resource
import socket
import struct

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from protocol.limits import STREAM_BUFFER_HIGH_BYTES, STREAM_BUFFER_LOW_BYTES
from tests.workers.scripted import Recorder, RecordingLog, advance
from workers.reactor import ACCEPT_PAUSE_S, AWAY_EVENTS_MAX, BATCH_EVENTS_MAX, SEND_CHUNKS_MAX, Reactor, SocketStream

PAIRS = ["unix", "tcp"]


def connected(reactor: Reactor, kind: str = "unix") -> tuple[SocketStream, Recorder, trio.socket.SocketType]:
    """Return a stream on the reactor, its handler, and the other end."""
    if kind == "unix":
        ours, theirs = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            theirs = socket.create_connection(listener.getsockname())
            ours, _ = listener.accept()
    handler = Recorder()
    theirs.setblocking(False)
    return reactor.add_stream(ours, handler), handler, trio.socket.from_stdlib_socket(theirs)


async def read_all(sock: trio.socket.SocketType, count: int = 1 << 62) -> bytes:
    """Read until the end, or so many bytes."""
    with trio.fail_after(60):
        found = bytearray()
        while len(found) < count and (data := await sock.recv(65536)):
            found += data
        return bytes(found)


async def settled() -> None:
    """Wait until nobody has anything to do; a loop that spins never gets there."""
    with trio.fail_after(60):
        await wait_all_tasks_blocked(0.01)


def pattern(size: int) -> bytes:
    return (b"%08d" % size + os.urandom(1 << 16)) * (size // ((1 << 16) + 8) + 1)


# --- streams ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", PAIRS)
async def test_bytes_travel_both_ways(reactor: Reactor, kind: str):
    stream, handler, peer = connected(reactor, kind)
    with peer:
        await peer.send(b"to the stream")
        assert await handler.until_received(13) == b"to the stream"
        stream.writelines((b"and ", bytearray(b"back "), memoryview(b"again")))

        assert await peer.recv(100) == b"and back again"


@pytest.mark.parametrize("kind", PAIRS)
async def test_what_the_kernel_does_not_take_at_once_is_sent_later_in_order(reactor: Reactor, kind: str):
    stream, handler, peer = connected(reactor, kind)
    chunks = [pattern(size)[:size] for size in (9_000_000, 1, 700_000, 10) + (5_000,) * 3 * SEND_CHUNKS_MAX]
    with peer:
        for chunk in chunks:
            stream.write(chunk)
        assert stream.buffered > STREAM_BUFFER_HIGH_BYTES
        stream.close()

        assert await read_all(peer) == b"".join(chunks)
    await handler.until_told("closed")
    assert handler.told[-1] == "closed"
    assert handler.error is None
    assert stream.buffered == 0


async def test_the_producer_is_told_once_when_a_buffer_that_was_too_full_has_emptied(reactor: Reactor):
    stream, handler, peer = connected(reactor)
    with peer:
        while stream.buffered <= STREAM_BUFFER_HIGH_BYTES:
            stream.write(bytes(100_000))
        assert handler.told == []
        while stream.buffered >= STREAM_BUFFER_LOW_BYTES:
            assert handler.told == []
            await peer.recv(65536)
            await wait_all_tasks_blocked()

        assert handler.told == ["drained"]
        stream.write(b"more")
        assert handler.told == ["drained"]


async def test_progress_of_a_slow_reader_is_visible_and_a_stall_too(mock_clock: MockClock, reactor: Reactor):
    stream, _, peer = connected(reactor)
    with peer:
        stream.write(bytes(2_000_000))
        begun = stream.stalled_since
        await advance(mock_clock, 5)
        assert stream.stalled_since == begun

        reactor.every(1, lambda: None)  # a sweep, as every worker has: it keeps `now` up to date
        await advance(mock_clock, 2)
        await peer.recv(400_000)
        await wait_all_tasks_blocked()

        assert stream.stalled_since > begun + 5
        assert 0 < stream.buffered < 2_000_000


async def test_closing_ends_reading_at_once(reactor: Reactor):
    stream, handler, peer = connected(reactor)
    with peer:
        stream.write(bytes(3_000_000))
        stream.close()
        stream.close()
        stream.write(b"not any more")
        await peer.send(b"not heard")
        await settled()
        assert not handler.received

        assert await read_all(peer, 3_000_000) == bytes(3_000_000)
        await handler.until_told("closed")
    assert handler.told.count("closed") == 1


async def test_aborting_drops_what_is_buffered(reactor: Reactor):
    stream, handler, peer = connected(reactor)
    with peer:
        stream.write(bytes(3_000_000))
        stream.abort()
        stream.abort()
        assert "closed" not in handler.told, "nobody is told inside their own call"

        await handler.until_told("closed")
        assert handler.told == ["closed"]
        assert len(await read_all(peer)) < 3_000_000


@pytest.mark.parametrize("kind", PAIRS)
async def test_the_end_of_input_is_told_once_and_output_goes_on(reactor: Reactor, kind: str):
    stream, handler, peer = connected(reactor, kind)
    with peer:
        await peer.send(b"last words")
        peer.shutdown(socket.SHUT_WR)
        await handler.until_told("eof")
        assert handler.received == b"last words"
        await settled()
        assert handler.told == ["eof"]

        stream.write(b"an answer")
        assert await peer.recv(100) == b"an answer"
        stream.close()
        assert await read_all(peer) == b""
    await handler.until_told("closed")
    assert handler.told == ["eof", "closed"]


async def test_finishing_ends_our_direction_when_all_is_written_and_reading_goes_on(reactor: Reactor):
    stream, handler, peer = connected(reactor, "tcp")
    with peer:
        stream.write(bytes(3_000_000))
        stream.finish()
        stream.write(b"nothing may follow")

        assert await read_all(peer) == bytes(3_000_000)
        await peer.send(b"still heard")
        assert await handler.until_received(11) == b"still heard"
    await handler.until_told("eof")
    stream.close()
    await handler.until_told("closed")


async def test_a_reset_is_reported_with_its_reason(reactor: Reactor):
    _, handler, peer = connected(reactor, "tcp")
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()

    await handler.until_told("closed")

    assert handler.told == ["closed"]
    assert handler.error is not None
    assert handler.error.errno == errno.ECONNRESET


@pytest.mark.case("C-01")
async def test_what_a_killed_peer_had_sent_before_is_still_received(reactor: Reactor):
    stream, handler, peer = connected(reactor)
    stream.write(b"never read, so that the kernel reports a reset")
    await peer.send(b"sent before its death")
    peer.close()

    await handler.until_told("closed")

    assert handler.received == b"sent before its death"
    assert handler.error is not None
    assert handler.error.errno == errno.ECONNRESET


async def test_a_failing_write_is_reported_after_the_writer_has_returned(reactor: Reactor):
    stream, handler, peer = connected(reactor)
    told_inside: list[list[str]] = []

    def answer(_data: bytes) -> None:
        peer.close()
        stream.write(b"nobody is there")
        stream.write(b"and this is dropped")
        told_inside.append(list(handler.told))

    handler.on_data = answer
    await peer.send(b"go")
    await handler.until_told("closed")

    assert told_inside == [[]]
    assert handler.told == ["closed"]
    assert handler.error is not None
    assert handler.error.errno == errno.EPIPE


async def test_large_bodies_are_received_straight_into_their_buffer(reactor: Reactor):
    stream, handler, peer = connected(reactor)
    place = bytearray(10)
    filled = 0

    def move_on(count: int) -> None:
        nonlocal filled
        filled += count
        stream.into = memoryview(place)[filled:] if filled < len(place) else None

    handler.on_into = move_on
    stream.into = memoryview(place)
    with peer:
        await peer.send(b"0123")
        await handler.until_told("into 4")
        await peer.send(b"456789, and what does not fit any more")

        assert await handler.until_received(32) == b", and what does not fit any more"
    assert place == b"0123456789"
    assert handler.told[:2] == ["into 4", "into 6"]


async def test_a_paused_stream_is_not_read(reactor: Reactor):
    stream, handler, peer = connected(reactor)
    with peer:
        stream.pause_reading()
        await peer.send(b"later")
        await settled()
        assert not handler.received

        stream.resume_reading()
        assert await handler.until_received(5) == b"later"


@pytest.mark.parametrize("kind", PAIRS)
async def test_a_peer_that_hangs_up_on_a_paused_stream_does_not_keep_the_loop_busy(reactor: Reactor, kind: str):
    stream, handler, peer = connected(reactor, kind)
    stream.pause_reading()
    await peer.send(b"last words")
    peer.close()
    await settled()
    assert handler.told == []

    stream.resume_reading()

    assert await handler.until_received(10) == b"last words"
    await handler.until_told("eof")
    stream.close()
    await handler.until_told("closed")


@pytest.mark.parametrize("end", ["close", "abort"])
async def test_a_stream_whose_peer_hung_up_while_it_was_paused_can_be_closed(reactor: Reactor, end: str):
    stream, handler, peer = connected(reactor)
    stream.pause_reading()
    peer.close()
    await settled()

    getattr(stream, end)()

    await handler.until_told("closed")
    assert handler.told == ["closed"]


async def test_a_stream_paused_by_another_callback_of_the_same_batch_is_not_read(reactor: Reactor):
    streams = [connected(reactor) for _ in range(2)]
    for (_, handler, _), (other, _, _) in zip(streams, reversed(streams), strict=True):
        handler.on_data = lambda _, other=other: other.pause_reading()
    for _, _, peer in streams:
        peer._sock.send(b"ready")  # without a checkpoint, so that both are ready in one batch
    await settled()

    assert sorted(bytes(handler.received) for _, handler, _ in streams) == [b"", b"ready"]
    for _, _, peer in streams:
        peer.close()


# --- callbacks that fail ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "error", [ValueError("a defect"), BlockingIOError("a defect"), ConnectionResetError("a defect")]
)
async def test_a_failing_callback_loses_its_own_stream_only(reactor: Reactor, log: RecordingLog, error: Exception):
    _, failing, failing_peer = connected(reactor)
    _, healthy, healthy_peer = connected(reactor)

    def fail(_data: bytes) -> None:
        raise error

    failing.on_data = fail
    with failing_peer, healthy_peer:
        await failing_peer.send(b"x")
        await failing.until_told("closed")
        await healthy_peer.send(b"still served")

        assert await healthy.until_received(12) == b"still served"
    assert log.take_errors() == ["a defect"]
    assert failing.error is not None


async def test_a_handler_that_fails_even_when_told_of_its_end_does_not_end_the_loop(
    reactor: Reactor, log: RecordingLog
):
    _, failing, failing_peer = connected(reactor)
    _, healthy, healthy_peer = connected(reactor)

    def fail(*_: object) -> None:
        raise ValueError("a defect")

    failing.on_data = failing.stream_closed = fail
    with failing_peer, healthy_peer:
        await failing_peer.send(b"x")
        assert await read_all(failing_peer) == b""
        await healthy_peer.send(b"still served")

        assert await healthy.until_received(12) == b"still served"
    assert log.take_errors() == ["a defect", "a defect"]


async def test_a_failing_task_or_sweep_ends_only_itself(mock_clock: MockClock, reactor: Reactor, log: RecordingLog):
    swept: list[float] = []

    async def fail() -> None:
        raise ValueError("in a task")

    def sweep() -> None:
        swept.append(trio.current_time())
        raise ValueError("in a sweep")

    begun = trio.current_time()
    reactor.start_soon(fail)
    reactor.every(1.0, sweep)
    await wait_all_tasks_blocked()
    await advance(mock_clock, 2.5)

    assert swept == [begun + 1, begun + 2]
    assert reactor.now == begun + 2
    assert log.take_errors() == ["in a task", "in a sweep", "in a sweep"]


async def test_a_sweep_with_nothing_to_watch_rests_until_it_is_woken(mock_clock: MockClock, reactor: Reactor):
    left = [True, True, False]
    swept: list[float] = []

    def look() -> bool:
        swept.append(trio.current_time())
        return left.pop(0)

    begun = trio.current_time()
    sweep = reactor.every(1.0, look)
    await wait_all_tasks_blocked()
    await advance(mock_clock, 10)
    assert swept == [begun + 1, begun + 2, begun + 3]

    left += [True, False]
    sweep.wake()
    sweep.wake()
    await wait_all_tasks_blocked()
    await advance(mock_clock, 10)
    assert swept[3:] == [begun + 11, begun + 12]


async def test_a_sweep_that_knows_when_it_is_due_rests_until_then_unless_it_is_woken(
    mock_clock: MockClock, reactor: Reactor
):
    swept: list[float] = []

    def look() -> float:
        swept.append(trio.current_time())
        return reactor.now + 50

    begun = trio.current_time()
    sweep = reactor.every(1.0, look)
    await wait_all_tasks_blocked()
    await advance(mock_clock, 60)
    assert swept == [begun + 1, begun + 52]

    sweep.wake()
    await wait_all_tasks_blocked()
    await advance(mock_clock, 45)
    assert swept[2:] == [begun + 61]


# --- batches ---------------------------------------------------------------------------------------------------------
async def test_what_is_due_at_the_end_of_a_batch_runs_once_and_a_failure_there_harms_nobody_else(
    reactor: Reactor, log: RecordingLog
):
    _, handler, peer = connected(reactor)
    ran: list[str] = []

    def fail() -> None:
        raise ValueError("in a flush")

    def in_batch(_data: bytes) -> None:
        reactor.at_batch_end(fail)
        reactor.at_batch_end(lambda: (ran.append("first"), reactor.at_batch_end(lambda: ran.append("from a flush"))))
        ran.append("callback")

    handler.on_data = in_batch
    with peer:
        await peer.send(b"x")
        await handler.until(lambda: len(ran) == 3)
    assert ran == ["callback", "first", "from a flush"]
    assert log.take_errors() == ["in a flush"]

    reactor.at_batch_end(lambda: ran.append("at once"))
    assert ran[-1] == "at once"


async def test_what_came_of_some_events_is_sent_before_the_others_are_served(reactor: Reactor):
    """Else the process that it goes to would wait for all of them, and the two would never work at the same time."""
    happened: list[str] = []
    streams = [connected(reactor) for _ in range(4 * BATCH_EVENTS_MAX)]

    def serve(_data: bytes) -> None:
        if not happened or happened[-1] == "sent":
            reactor.at_batch_end(lambda: happened.append("sent"))
        happened.append("served")

    for _, handler, peer in streams:
        handler.on_data = serve
        peer._sock.send(b"x")
    with trio.fail_after(60):
        while happened.count("served") < len(streams):
            await trio.lowlevel.checkpoint()
    for _, _, peer in streams:
        peer.close()

    at_a_time = [len(run) for run in "".join("x" if what == "served" else " " for what in happened).split()]
    assert max(at_a_time) == BATCH_EVENTS_MAX
    assert happened[-1] == "sent"


async def test_ordinary_tasks_get_their_turn_between_batches(reactor: Reactor):
    """One trio task would otherwise starve while many sockets are busy."""
    turns: list[str] = []
    streams = [connected(reactor) for _ in range(6 * AWAY_EVENTS_MAX)]
    for _, handler, _ in streams:
        handler.on_data = lambda _: turns.append("callback")
    for _, _, peer in streams:
        peer._sock.send(b"x")
    with trio.fail_after(60):
        while turns.count("callback") < len(streams):
            turns.append("task")
            await trio.lowlevel.checkpoint()
    for _, _, peer in streams:
        peer.close()

    in_a_row = max(len(run) for run in "".join("c" if turn == "callback" else "t" for turn in turns).split("t"))
    # trio runs what is ready in random order, so the task may come first in one round and last in the next.
    assert in_a_row <= 2 * AWAY_EVENTS_MAX


@pytest.mark.parametrize("waits_for", ["event", "socket"])
async def test_events_that_follow_one_another_closely_keep_no_task_waiting(reactor: Reactor, waits_for: str):
    """Each ping is there before the loop has looked for it, so it would never have to ask trio for more."""
    left, right = socket.socketpair()
    signal, signalled = socket.socketpair()
    pings, woken_at, ran_at = 0, AWAY_EVENTS_MAX + 10, 0
    event = trio.Event()
    players: list[SocketStream] = []

    def hit(player: int) -> None:
        nonlocal pings
        pings += 1
        if pings == woken_at:
            event.set()
            signal.send(b"x")
        if not ran_at:
            players[player].write(b"x")

    for player, sock in enumerate((left, right)):
        handler = Recorder()
        handler.on_data = lambda _, player=player: hit(player)
        players.append(reactor.add_stream(sock, handler))
    with signal, signalled, trio.fail_after(60):
        players[0].write(b"x")
        if waits_for == "event":
            await event.wait()
        else:
            await trio.lowlevel.wait_readable(signalled)
        ran_at = pings
    # Whom a callback wakes is next; whom the world wakes has to wait until the loop looks up from its events.
    assert ran_at - woken_at <= (1 if waits_for == "event" else 2 * AWAY_EVENTS_MAX)


async def test_work_given_before_the_loop_runs_is_done_when_it_does():
    log = RecordingLog()
    reactor = Reactor(log)
    done = trio.Event()

    async def work() -> None:
        done.set()

    reactor.start_soon(work)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reactor.run)
            await done.wait()
            nursery.cancel_scope.cancel()


# --- listeners -------------------------------------------------------------------------------------------------------
class OddListener(socket.socket):
    """A listening socket whose accept() fails as often as the test says."""

    failures: list[int]

    def accept(self) -> tuple[socket.socket, object]:
        if self.failures:
            raise OSError(self.failures.pop(), "made up")
        return super().accept()


def odd_listener(*failures: int) -> OddListener:
    listener = OddListener()
    listener.bind(("127.0.0.1", 0))
    listener.listen(200)
    listener.failures = list(failures)
    return listener


class Accepted(Recorder):
    def __init__(self) -> None:
        super().__init__()
        self.sockets: list[socket.socket] = []

    def __call__(self, sock: socket.socket) -> None:
        self.sockets.append(sock)
        self.changed()

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()


async def test_every_connection_of_a_burst_is_accepted(reactor: Reactor):
    accepted = Accepted()
    server = odd_listener()
    listener = reactor.add_listener(server, accepted)
    clients = [socket.create_connection(server.getsockname()) for _ in range(150)]

    await accepted.until(lambda: len(accepted.sockets) == 150)

    assert not any(sock.getblocking() for sock in accepted.sockets)
    listener.close()
    listener.close()
    for client in clients:
        client.close()
    accepted.close()
    server.close()


async def test_a_paused_or_closed_listener_leaves_connections_to_others(reactor: Reactor):
    accepted = Accepted()
    server = odd_listener()
    listener = reactor.add_listener(server, accepted)
    listener.pause()
    with socket.create_connection(server.getsockname()):
        await settled()
        assert accepted.sockets == []
        listener.resume()
        await accepted.until(lambda: accepted.sockets)
        listener.close()

        with socket.create_connection(server.getsockname()):
            await settled()
            assert len(accepted.sockets) == 1
            taken, _ = socket.socket.accept(server)  # as the next front would
            taken.close()
    accepted.close()
    server.close()


async def test_a_connection_that_its_peer_gave_up_does_not_delay_the_next(reactor: Reactor):
    accepted = Accepted()
    server = odd_listener(errno.ECONNABORTED, errno.EPROTO)
    listener = reactor.add_listener(server, accepted)
    with socket.create_connection(server.getsockname()):
        await accepted.until(lambda: accepted.sockets)
    listener.close()
    accepted.close()
    server.close()


@pytest.mark.parametrize("number", [errno.ENFILE, errno.ENOBUFS, errno.EINVAL])
async def test_accept_that_fails_for_another_reason_is_tried_again_after_a_pause(
    mock_clock: MockClock, reactor: Reactor, number: int
):
    accepted = Accepted()
    server = odd_listener(number, number)
    listener = reactor.add_listener(server, accepted)
    with socket.create_connection(server.getsockname()):
        await settled()
        assert len(server.failures) == 1, "one try, then a pause"
        await advance(mock_clock, ACCEPT_PAUSE_S)
        assert server.failures == []
        assert accepted.sockets == []
        await advance(mock_clock, ACCEPT_PAUSE_S)
        assert len(accepted.sockets) == 1
    listener.close()
    accepted.close()
    server.close()


@pytest.mark.case("C-21")
@pytest.mark.promise("R22")
async def test_running_out_of_descriptors_delays_new_connections_and_nothing_else(
    mock_clock: MockClock, reactor: Reactor
):
    stream, handler, peer = connected(reactor)
    accepted = Accepted()
    server = odd_listener()
    listener = reactor.add_listener(server, accepted)
    clients = [socket.socket() for _ in range(3)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        for client in clients:
            client.connect(server.getsockname())
        await settled()
        assert accepted.sockets == []
        await peer.send(b"served meanwhile")
        assert await handler.until_received(16) == b"served meanwhile"
        stream.write(b"and answered")
        assert await peer.recv(100) == b"and answered"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    await advance(mock_clock, ACCEPT_PAUSE_S)

    assert len(accepted.sockets) == 3
    listener.close()
    peer.close()
    for client in clients:
        client.close()
    accepted.close()
    server.close()


@pytest.mark.promise("R14")
async def test_descriptor_numbers_that_are_used_again_meet_no_stale_events(reactor: Reactor):
    """Every connection is closed by its own callback, so the next one in the same batch may get its number."""
    server = odd_listener()
    answered = 0

    class Once(Recorder):
        def data_received(self, data: bytes) -> None:
            nonlocal answered
            answered += 1
            self.stream.write(data)
            self.stream.close()

    def accept(sock: socket.socket) -> None:
        handler = Once()
        handler.stream = reactor.add_stream(sock, handler)

    listener = reactor.add_listener(server, accept)
    for _ in range(20):
        clients = [socket.create_connection(server.getsockname()) for _ in range(20)]
        for number, client in enumerate(clients):
            client.send(b"%d" % number)
        for number, client in enumerate(clients):
            with trio.fail_after(60):
                await trio.lowlevel.wait_readable(client)
            assert client.recv(100) == b"%d" % number
            client.close()
    assert answered == 400
    listener.close()
    server.close()


async def test_what_still_unwinds_when_the_loop_has_ended_may_ask_it_for_a_task():
    """As an exchange does that is given up while the worker stops. Which moment is the wrong one is chance."""
    asked = 0

    async def unwind(reactor: Reactor, steps: int) -> None:
        nonlocal asked
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
            reactor.start_soon(trio.sleep, 0)
            asked += 1

    for _ in range(20):
        async with trio.open_nursery() as nursery:
            reactor = Reactor(RecordingLog())
            nursery.start_soon(reactor.run)
            for steps in range(4):
                nursery.start_soon(unwind, reactor, steps)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    assert asked == 80
