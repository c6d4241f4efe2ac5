"""A worker's end of its control socket, with the test as the root."""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Iterator

import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from protocol import control
from protocol.control import PACKET_BYTES_MAX
from tests.workers.scripted import open_descriptors
from workers.control_end import DESCRIPTORS_MAX, ControlEnd, RootLost, receive_boot

BOOT = control.Boot(
    "main", 3, control.BackendSettings(control.ServerInfo("main", "http://localhost/mcp")),
    control.LogSettings("info", False),
)  # fmt: skip


class Root:
    """The root's end."""

    def __init__(self) -> None:
        self.sock, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def send(self, packet: bytes | msgspec.Struct, *descriptors: int) -> None:
        data = packet if isinstance(packet, bytes) else control.encode(packet)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        self.sock.sendmsg([data], rights)

    def close(self) -> None:
        self.sock.close()
        self.theirs.close()


@pytest.fixture
def root() -> Iterator[Root]:
    one = Root()
    yield one
    one.close()


async def received(end: ControlEnd) -> tuple[object, list[int]]:
    with trio.fail_after(60):
        return await end.receive()


# --- the first packet ------------------------------------------------------------------------------------------------
def test_the_boot_order_comes_with_its_descriptors_in_order(root: Root):
    before = open_descriptors()
    pipes = [os.pipe() for _ in range(3)]
    root.send(BOOT, *(read for read, _ in pipes))

    boot, descriptors = receive_boot(root.theirs)

    assert boot == BOOT
    for (_, write), read in zip(pipes, descriptors, strict=True):
        os.write(write, b"%d" % write)
        assert os.read(read, 10) == b"%d" % write
        assert not os.get_inheritable(read), "a server started later must not get it"
    for fd in [fd for pipe in pipes for fd in pipe] + descriptors:
        os.close(fd)
    assert open_descriptors() == before


@pytest.mark.parametrize("first", [control.encode(control.Ping(1)), b"\xc1", b"\x93\xa4boot\xa1\xff\x01"])
def test_anything_else_first_means_that_there_is_no_root_to_serve(root: Root, first: bytes):
    root.send(first)

    with pytest.raises(RootLost):
        receive_boot(root.theirs)


@pytest.mark.case("C-05")
def test_a_root_that_is_gone_before_it_said_anything_is_noticed(root: Root):
    root.sock.close()

    with pytest.raises(RootLost, match="has ended"):
        receive_boot(root.theirs)


# --- orders ----------------------------------------------------------------------------------------------------------
async def test_orders_arrive_one_by_one_with_what_is_attached_to_each(root: Root):
    end = ControlEnd(root.theirs)
    read, write = os.pipe()
    root.send(control.Ping(1))
    root.send(control.Attach("main", 4), read)
    root.send(control.Stop())

    assert await received(end) == (control.Ping(1), [])
    order, (attached,) = await received(end)
    assert order == control.Attach("main", 4)
    assert os.fstat(attached).st_ino == os.fstat(read).st_ino
    assert await received(end) == (control.Stop(), [])
    for fd in (read, write, attached):
        os.close(fd)


async def test_waiting_for_an_order_holds_up_nothing(root: Root):
    end = ControlEnd(root.theirs)
    orders: list[object] = []

    async def obey() -> None:
        orders.append(await received(end))

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(obey)
            await wait_all_tasks_blocked()
            assert orders == []
            root.send(control.Ping(7))
    assert orders == [(control.Ping(7), [])]


@pytest.mark.case("C-05")
async def test_the_end_of_the_root_ends_the_wait_also_if_reports_lay_unread(root: Root):
    for leave_unread in (False, True):
        one = Root()
        end = ControlEnd(one.theirs)
        if leave_unread:
            end.send(control.Pong(1))
        one.sock.close()

        with pytest.raises(RootLost):
            await received(end)
        one.close()


@pytest.mark.case("C-10")
@pytest.mark.parametrize(
    "packet", [b"\xc1", b"\x92\xa4ping", control.encode(control.Pong(1)), b"\x93\xa6attach\xa1\xff\x01"]
)
async def test_an_order_that_makes_no_sense_means_that_the_root_is_lost(root: Root, packet: bytes):
    end = ControlEnd(root.theirs)
    root.send(packet)

    with pytest.raises(RootLost, match="does not decode"):
        await received(end)


@pytest.mark.case("C-10")
async def test_an_order_that_was_cut_off_is_not_obeyed(root: Root):
    end = ControlEnd(root.theirs)
    root.send(control.Ping(1), *[root.sock.fileno()] * (DESCRIPTORS_MAX + 40))

    with pytest.raises(RootLost, match="cut off"):
        await received(end)


# --- reports ---------------------------------------------------------------------------------------------------------
async def test_reports_arrive(root: Root):
    end = ControlEnd(root.theirs)
    end.send(control.Ready(3))
    end.send(control.StdioClosed())

    assert control.decode_from_worker(root.sock.recv(PACKET_BYTES_MAX)) == control.Ready(3)
    assert control.decode_from_worker(root.sock.recv(PACKET_BYTES_MAX)) == control.StdioClosed()
    assert end.dropped == 0


@pytest.mark.case("C-11")
async def test_a_root_that_does_not_read_costs_reports_but_no_time(root: Root):
    end = ControlEnd(root.theirs)
    for _ in range(1000):  # a megabyte, several times what the kernel holds for us
        end.send(control.WorkerState("ready", "x" * 1000))
    dropped = end.dropped
    assert dropped

    assert control.decode_from_worker(root.sock.recv(PACKET_BYTES_MAX)) == control.WorkerState("ready", "x" * 1000)
    root.sock.close()
    end.send(control.Pong(1))
    assert end.dropped == dropped + 1
