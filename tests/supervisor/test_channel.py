"""The root's end of a control socket."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

import pytest
import trio

from supervisor import channel
from supervisor.allowance import Allowance
from supervisor.channel import Channel, ChannelFull
from supervisor.linux import control_pair
from supervisor.machine import LinuxMachine


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Our end, which a `Channel` takes over, and the other one."""
    ours, theirs = control_pair()
    yield ours, theirs
    theirs.close()


@pytest.fixture
def root(ends: tuple[socket.socket, socket.socket]) -> Iterator[Channel]:
    one = Channel(ends[0], fds_max=1)
    yield one
    one._sock.close()


@pytest.fixture
def worker(ends: tuple[socket.socket, socket.socket]) -> socket.socket:
    ends[1].settimeout(5)
    return ends[1]


async def test_packets_arrive_whole_in_order_and_with_their_descriptors(root: Channel, worker: socket.socket):
    reader, writer = os.pipe()
    root.send(b"one")
    root.send(b"two", [writer])
    os.close(writer)

    assert worker.recv(100) == b"one"
    data, (copy,), _, _ = socket.recv_fds(worker, 100, 1)
    assert data == b"two"
    os.write(copy, b"through")
    assert os.read(reader, 100) == b"through"
    os.close(copy)
    os.close(reader)


async def test_what_does_not_fit_waits_and_arrives_in_order_with_copies_of_its_descriptors(
    root: Channel, worker: socket.socket, nursery: trio.Nursery
):
    nursery.start_soon(root.flush_forever)
    before = len(os.listdir("/proc/self/fd"))
    reader, writer = os.pipe()
    for number in range(1000):
        root.send(b"%d" % number + b"x" * 1000, [writer])
    os.close(writer)

    def read_all() -> list[int]:
        numbers = []
        for _ in range(1000):
            data, fds, _, _ = socket.recv_fds(worker, 2000, 1)
            numbers.append(int(data.rstrip(b"x")))
            os.close(fds[0])
        return numbers

    with trio.fail_after(60):
        assert await trio.to_thread.run_sync(read_all) == list(range(1000))
    os.close(reader)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.case("C-11")
async def test_a_worker_that_does_not_read_is_found_out_in_bounded_memory(
    root: Channel, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(channel, "QUEUED_PACKETS_MAX", 10)

    def send_without_end() -> None:
        while True:
            root.send(b"x" * 1000)

    with pytest.raises(ChannelFull):
        send_without_end()
    assert len(root._queue) == 10


async def test_closing_gives_back_the_descriptors_that_waited(root: Channel):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(600):
        root.send(b"x" * 1000, [0])
    assert root._queue

    root.close()
    root.close()

    assert len(os.listdir("/proc/self/fd")) == before - 1
    root.send(b"into the void")
    assert await root.receive() == []


async def test_sending_to_a_worker_that_is_gone_is_no_error(root: Channel, worker: socket.socket):
    worker.close()
    root.send(b"hello?")
    root.send(b"anybody?")

    assert await root.receive() == []


async def test_receive_returns_all_that_is_there_and_nothing_at_the_end(root: Channel, worker: socket.socket):
    worker.send(b"one")
    worker.send(b"two")
    assert [packet.data for packet in await root.receive()] == [b"one", b"two"]

    worker.send(b"three")
    worker.close()
    assert [packet.data for packet in await root.receive()] == [b"three"]
    assert await root.receive() == []


@pytest.mark.case("D-29")
async def test_a_worker_cannot_make_the_root_hold_its_descriptors(ends: tuple[socket.socket, socket.socket]):
    root = Channel(ends[0])
    before = len(os.listdir("/proc/self/fd"))
    socket.send_fds(ends[1], [b"have these"], [0, 1, 2])

    (packet,) = await root.receive()

    assert packet.data == b"have these"
    assert list(packet.fds) == []
    assert len(os.listdir("/proc/self/fd")) == before
    root.close()


async def test_descriptors_that_come_are_not_inherited_by_programs_we_start(root: Channel, worker: socket.socket):
    socket.send_fds(worker, [b"one"], [0])

    (packet,) = await root.receive()

    assert not os.get_inheritable(packet.fds[0])
    os.close(packet.fds[0])


class Slow(LinuxMachine):
    """Takes a millisecond of our time for each packet that is heard."""

    def __init__(self) -> None:
        super().__init__()
        self.used_s = 0.0

    def own_cpu_seconds(self) -> float:
        return self.used_s


@pytest.mark.case("C-12")
async def test_a_flood_is_listened_to_only_as_far_as_the_worker_has_an_allowance(
    ends: tuple[socket.socket, socket.socket], autojump_clock: trio.abc.Clock
):
    machine = Slow()
    root, worker = Channel(ends[0], machine, allowance=Allowance(trio.current_time())), ends[1]
    worker.setblocking(False)
    begin = trio.current_time()
    while root.received < 2000:
        with contextlib.suppress(BlockingIOError):
            while True:
                worker.send(b"x")
        machine.used_s += 0.001 * len(await root.receive())
    took = trio.current_time() - begin

    assert machine.used_s <= 0.05 * took
    assert root.paused_s == pytest.approx(took)
    root.close()


async def test_without_an_allowance_everything_is_heard_at_once(root: Channel, worker: socket.socket, autojump_clock: trio.abc.Clock):  # fmt: skip # noqa: E501
    begin = trio.current_time()
    for _ in range(1000):
        worker.send(b"x")
        await root.receive()

    assert (root.received, root.paused_s) == (1000, 0.0)
    assert trio.current_time() == begin


async def test_ending_wakes_both_sides_after_what_was_sent(root: Channel, worker: socket.socket):
    root.send(b"last words")
    root.end()

    assert worker.recv(100) == b"last words"
    assert worker.recv(100) == b""
    with trio.fail_after(60):
        assert await root.receive() == []
