"""The simulated kernel does what Linux does: the same steps on real sockets and on simulated ones, side by side."""

from __future__ import annotations

import select
import socket
from random import Random
from typing import Any

import pytest

from tests.sim.clockwork import Agenda
from tests.sim.kernel import SIGKILL_STATUS, Kernel, KilledError, Memory, Poll, Process, packet_pair, stream_pair
from tests.sim.sockets import as_socket

IN, OUT, HUP, ERR = select.EPOLLIN, select.EPOLLOUT, select.EPOLLHUP, select.EPOLLERR


class _Times:
    def now(self) -> float:
        return 0.0


class Simulated:
    """A simulated process and its sockets."""

    def __init__(self) -> None:
        self.kernel = Kernel(_Times(), Agenda(), Random(1))  # type: ignore[arg-type]
        self.process = Process(self.kernel, "one")

    def own(self, thing: Any) -> socket.socket:
        return as_socket(self.process, self.process.install(thing))

    def pair(self, kind: int) -> tuple[socket.socket, socket.socket]:
        if kind == socket.SOCK_SEQPACKET:
            one, other = packet_pair(self.kernel, "packets")
        else:
            one, other = stream_pair(self.kernel, "stream", 100_000)
        return self.own(one), self.own(other)

    def poll(self) -> Any:
        return Poll(self.process)


class Real:
    """The machine this runs on."""

    def pair(self, kind: int) -> tuple[socket.socket, socket.socket]:
        one, other = socket.socketpair(socket.AF_UNIX, kind)
        one.setblocking(False)
        other.setblocking(False)
        return one, other

    def poll(self) -> Any:
        return select.epoll()


@pytest.fixture(params=[Real, Simulated])
def machine(request: pytest.FixtureRequest) -> Real | Simulated:
    return request.param()


def raised(do: Any, *args: Any) -> type[BaseException] | None:
    try:
        do(*args)
    except OSError as error:
        return type(error)
    return None


def test_a_stream_ends_behind_its_last_byte(machine: Real | Simulated):
    one, other = machine.pair(socket.SOCK_STREAM)
    assert raised(other.recv, 10) is BlockingIOError
    one.send(b"hello")
    assert other.recv(2, socket.MSG_PEEK) == b"he"
    one.close()

    assert [other.recv(3), other.recv(9), other.recv(9), other.recv(9)] == [b"hel", b"lo", b"", b""]
    assert raised(other.send, b"x") is BrokenPipeError
    other.close()


def test_a_half_closed_stream_still_answers(machine: Real | Simulated):
    one, other = machine.pair(socket.SOCK_STREAM)
    one.shutdown(socket.SHUT_WR)

    assert other.recv(1) == b""
    assert raised(one.send, b"x") is BrokenPipeError
    other.sendmsg([b"an", b"swer"])
    assert one.recv(100) == b"answer"
    one.close()
    other.close()


def test_bytes_that_nobody_reads_any_more_reset_the_connection(machine: Real | Simulated):
    one, other = machine.pair(socket.SOCK_STREAM)
    one.send(b"unread")
    other.close()

    assert raised(one.recv, 1) is ConnectionResetError
    one.close()


def test_a_full_stream_takes_a_part_and_then_nothing_until_it_is_read(machine: Real | Simulated):
    one, other = machine.pair(socket.SOCK_STREAM)
    sent = 0
    while raised(one.getsockname) is None:
        try:
            sent += one.send(b"x" * 70_000)
        except BlockingIOError:
            break
    assert sent > 70_000
    received = 0
    while received < sent:
        received += len(other.recv(65_536))
    assert one.send(b"y") == 1
    one.close()
    other.close()


def test_packets_stay_whole_and_bring_descriptors_that_live_on(machine: Real | Simulated):
    one, other = machine.pair(socket.SOCK_SEQPACKET)
    left, right = machine.pair(socket.SOCK_STREAM)
    socket.send_fds(one, [b"first"], [left.fileno()])
    one.send(b"second")
    left.close()
    one.close()

    data, ancillary, flags, _ = other.recvmsg(100, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
    assert (data, len(ancillary), flags & socket.MSG_CTRUNC) == (b"first", 1, 0)
    (fd,) = memoryview(ancillary[0][2]).cast("i")
    passed = socket.socket(fileno=fd) if isinstance(machine, Real) else as_socket(machine.process, fd)
    assert [other.recvmsg(100)[0], other.recvmsg(100)[0]] == [b"second", b""]
    passed.send(b"still open")
    assert right.recv(100) == b"still open"
    for sock in (other, right, passed):
        sock.close()


def test_descriptors_for_which_there_is_no_room_are_closed(machine: Real | Simulated):
    one, other = machine.pair(socket.SOCK_SEQPACKET)
    left, right = machine.pair(socket.SOCK_STREAM)
    socket.send_fds(one, [b"packet"], [left.fileno()])
    left.close()

    data, ancillary, flags, _ = other.recvmsg(100, 0)
    assert (data, ancillary, bool(flags & socket.MSG_CTRUNC)) == (b"packet", [], True)
    assert right.recv(1) == b""
    for sock in (one, other, right):
        sock.close()


def test_readiness_is_told_as_long_as_it_lasts(machine: Real | Simulated):
    one, other = machine.pair(socket.SOCK_STREAM)
    poll = machine.poll()
    poll.register(other.fileno(), IN)
    assert poll.poll(0, 10) == []
    one.send(b"ab")
    assert poll.poll(0, 10) == poll.poll(0, 10) == [(other.fileno(), IN)]
    other.recv(2)
    assert poll.poll(0, 10) == []
    poll.modify(other.fileno(), IN | OUT)
    assert poll.poll(0, 10) == [(other.fileno(), OUT)]
    poll.modify(other.fileno(), 0)
    one.close()
    assert poll.poll(0, 10) == [(other.fileno(), HUP)]
    poll.unregister(other.fileno())
    assert raised(poll.unregister, other.fileno()) is FileNotFoundError
    other.close()
    poll.close()


# --- what only the simulated one can do ------------------------------------------------------------------------------
def test_a_killed_process_lets_go_of_everything_and_its_code_changes_nothing_any_more():
    machine = Simulated()
    other = Process(machine.kernel, "other")
    here, there = stream_pair(machine.kernel, "stream", 1000)
    ours, theirs = machine.own(here), as_socket(other, other.install(there))
    memory = Memory(machine.kernel, 8)
    other.install(memory)
    machine.process.install(memory)
    machine.process.own_memory.append(memory)
    mapped = memoryview(memory.data)
    mapped[0] = 1
    ours.send(b"before")

    machine.process.die(SIGKILL_STATUS)

    assert raised(ours.send, b"after") is OSError
    mapped[1] = 1
    assert bytes(memory.data[:2]) == b"\1\0"
    assert [theirs.recv(100), theirs.recv(100)] == [b"before", b""]
    other.die(0)
    assert machine.kernel.open_things == 0


def test_a_process_can_die_in_the_middle_of_what_it_does():
    machine = Simulated()
    one, other = machine.pair(socket.SOCK_STREAM)
    machine.process.fuse = 3
    one.send(b"a")
    assert other.recv(1) == b"a"

    with pytest.raises(KilledError):
        one.send(b"b")
    assert not machine.process.is_alive
