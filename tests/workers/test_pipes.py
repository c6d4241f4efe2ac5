"""Standard input and output as a stream, over pipes, files, terminals and sockets."""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import socket
import tty
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from protocol.limits import STREAM_BUFFER_HIGH_BYTES, STREAM_BUFFER_LOW_BYTES
from tests.workers.scripted import Recorder, RecordingLog, open_descriptors
from workers.pipes import PipeStream
from workers.reactor import Reactor


class Rig:
    """A stream on two pipes; the test holds the other ends."""

    def __init__(self, reactor: Reactor) -> None:
        read, self.stdin = os.pipe()
        self.stdout, write = os.pipe()
        self.handler = Recorder()
        self.stream = PipeStream(reactor, read, write, self.handler)

    async def say(self, data: bytes) -> None:
        await trio.to_thread.run_sync(os.write, self.stdin, data)

    def hang_up(self) -> None:
        os.close(self.stdin)
        os.close(self.stdout)


def blocks(fd: int) -> bool:
    return not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK


async def read_until(fd: int, count: int) -> bytes:
    found = bytearray()
    with trio.fail_after(60):
        while len(found) < count:
            await trio.lowlevel.wait_readable(fd)
            found += os.read(fd, 65536)
    return bytes(found)


async def settled() -> None:
    """Wait until nobody has anything to do; a loop that spins never gets there."""
    with trio.fail_after(60):
        await wait_all_tasks_blocked(0.01)


async def test_bytes_come_and_go(reactor: Reactor):
    rig = Rig(reactor)
    await rig.say(b"a line\n")
    assert await rig.handler.until_received(7) == b"a line\n"

    rig.stream.writelines((b"an ", b"", memoryview(b"answer"), b"\n"))

    assert os.read(rig.stdout, 100) == b"an answer\n"
    rig.hang_up()


async def test_a_slow_reader_gets_everything_in_order_and_the_producer_is_told(reactor: Reactor):
    rig = Rig(reactor)
    pieces = [os.urandom(size) for size in [500_000, 1, 900_000] + [1000] * 100]
    for piece in pieces:
        rig.stream.write(piece)
    assert rig.stream.buffered > STREAM_BUFFER_HIGH_BYTES
    assert rig.handler.told == []

    found = await read_until(rig.stdout, rig.stream.buffered - STREAM_BUFFER_LOW_BYTES - 65536)
    await wait_all_tasks_blocked()
    assert rig.handler.told == []
    found += await read_until(rig.stdout, sum(map(len, pieces)) - len(found))

    assert found == b"".join(pieces)
    assert rig.handler.told == ["drained"]
    assert rig.stream.buffered == 0
    rig.hang_up()


async def test_closing_writes_what_is_buffered_first(reactor: Reactor):
    rig = Rig(reactor)
    rig.stream.write(bytes(300_000))
    rig.stream.close()
    rig.stream.close()
    rig.stream.write(b"not any more")
    await rig.say(b"not heard")
    await settled()
    assert rig.handler.told == []

    assert await read_until(rig.stdout, 300_000) == bytes(300_000)
    await rig.handler.until_told("closed")
    assert os.read(rig.stdout, 10) == b""
    assert rig.handler.told.count("closed") == 1
    assert rig.handler.error is None
    assert not rig.handler.received
    rig.hang_up()


async def test_aborting_writes_nothing_more_and_gives_all_descriptors_back(reactor: Reactor):
    before = open_descriptors()
    rig = Rig(reactor)
    rig.stream.write(bytes(300_000))
    rig.stream.abort()
    await rig.handler.until_told("closed")

    assert len(await read_until(rig.stdout, 1)) <= 65536
    rig.hang_up()
    assert open_descriptors() == before


async def test_the_end_of_input_is_told_once_and_answers_can_still_be_written(reactor: Reactor):
    rig = Rig(reactor)
    await rig.say(b"last words")
    os.close(rig.stdin)
    await rig.handler.until_told("eof")
    await settled()
    assert rig.handler.received == b"last words"
    assert rig.handler.told == ["eof"]

    rig.stream.resume_reading()
    rig.stream.write(b"an answer")
    assert os.read(rig.stdout, 100) == b"an answer"
    rig.stream.close()
    await rig.handler.until_told("closed")
    os.close(rig.stdout)


async def test_a_reader_that_has_gone_breaks_the_stream(reactor: Reactor):
    for is_waiting in (False, True):
        rig = Rig(reactor)
        if is_waiting:
            rig.stream.write(bytes(300_000))
        os.close(rig.stdout)
        rig.stream.write(b"nobody is there")
        assert rig.handler.told == [], "nobody is told inside their own call"

        await rig.handler.until_told("closed")

        assert rig.handler.error is not None
        os.close(rig.stdin)


async def test_a_paused_stream_is_not_read_and_does_not_spin_when_the_other_side_hangs_up(reactor: Reactor):
    rig = Rig(reactor)
    rig.stream.pause_reading()
    rig.stream.pause_reading()
    await rig.say(b"later")
    os.close(rig.stdin)
    await settled()
    assert not rig.handler.received
    assert rig.handler.told == []

    rig.stream.resume_reading()

    assert await rig.handler.until_received(5) == b"later"
    await rig.handler.until_told("eof")
    os.close(rig.stdout)


async def test_a_stream_that_is_closing_does_not_read_again(reactor: Reactor):
    rig = Rig(reactor)
    rig.stream.write(bytes(300_000))
    rig.stream.close()
    rig.stream.resume_reading()
    await rig.say(b"not heard")
    await settled()

    assert not rig.handler.received
    rig.hang_up()
    await rig.handler.until_told("closed")


async def test_a_failing_callback_ends_the_stream_and_not_the_loop(reactor: Reactor, log: RecordingLog):
    rig, other = Rig(reactor), Rig(reactor)

    def fail(_data: bytes) -> None:
        raise ValueError("a defect")

    rig.handler.on_data = fail
    await rig.say(b"x")
    await rig.handler.until_told("closed")
    await other.say(b"still served")

    assert await other.handler.until_received(12) == b"still served"
    assert log.take_errors() == ["a defect"]
    rig.hang_up()
    other.hang_up()


# --- what standard input and output may be --------------------------------------------------------------------------
async def test_pipes_shared_with_others_stay_blocking_for_them(reactor: Reactor):
    read, stdin = os.pipe()
    stdout, write = os.pipe()
    kept = [os.dup(read), os.dup(write)]
    stream = PipeStream(reactor, read, write, Recorder())

    assert all(map(blocks, kept))

    stream.abort()
    await wait_all_tasks_blocked()
    for fd in (stdin, stdout, *kept):
        os.close(fd)


async def test_a_terminal_is_read_and_written_and_its_end_is_the_end_of_input(reactor: Reactor):
    master, slave = pty.openpty()
    tty.setraw(slave)
    kept = os.dup(slave)
    handler = Recorder()
    stream = PipeStream(reactor, os.dup(slave), slave, handler)
    os.write(master, b"typed")
    assert await handler.until_received(5) == b"typed"
    stream.write(b"shown")
    assert await read_until(master, 5) == b"shown"
    assert blocks(kept), "the shell after us would break"

    os.close(kept)
    os.close(master)

    await handler.until_told("eof")
    stream.close()
    await handler.until_told("closed")


async def test_files_are_read_to_their_end_and_written(reactor: Reactor, tmp_path: Path):
    source, target = tmp_path / "in", tmp_path / "out"
    source.write_bytes(b"skipped" + b"line\n" * 50_000)
    read = os.open(source, os.O_RDONLY)
    os.lseek(read, len(b"skipped"), os.SEEK_SET)
    handler = Recorder()
    stream = PipeStream(reactor, read, os.open(target, os.O_WRONLY | os.O_CREAT), handler)
    await handler.until_told("eof")
    assert handler.received == b"line\n" * 50_000

    stream.write(bytes(2_000_000))
    stream.close()

    await handler.until_told("closed")
    assert target.read_bytes() == bytes(2_000_000)


async def test_reading_a_file_can_be_paused_resumed_and_ended(reactor: Reactor, tmp_path: Path):
    source = tmp_path / "in"
    source.write_bytes(bytes(1_000_000))
    stdout, write = os.pipe()
    handler = Recorder()
    stream = PipeStream(reactor, os.open(source, os.O_RDONLY), write, handler)
    handler.on_data = lambda _: stream.pause_reading()
    await handler.until_received(1)
    await settled()
    once = len(handler.received)
    assert once < 1_000_000

    stream.resume_reading()
    await handler.until_received(once + 1)
    await settled()
    assert len(handler.received) == 2 * once
    stream.close()
    await handler.until_told("closed")
    await settled()

    assert len(handler.received) == 2 * once
    os.close(stdout)


async def test_a_failing_callback_ends_a_stream_on_a_file_too(reactor: Reactor, log: RecordingLog, tmp_path: Path):
    source = tmp_path / "in"
    source.write_bytes(b"x")
    stdout, write = os.pipe()
    handler = Recorder()

    def fail(_data: bytes) -> None:
        raise ValueError("a defect")

    handler.on_data = fail
    PipeStream(reactor, os.open(source, os.O_RDONLY), write, handler)
    await handler.until_told("closed")

    assert log.take_errors() == ["a defect"]
    os.close(stdout)


async def test_without_input_or_output_the_stream_just_ends(reactor: Reactor):
    """As under a service manager: standard input and output are /dev/null."""
    handler = Recorder()
    stream = PipeStream(reactor, os.open("/dev/null", os.O_RDONLY), os.open("/dev/null", os.O_WRONLY), handler)
    await handler.until_told("eof")
    stream.write(bytes(2_000_000))
    stream.close()

    await handler.until_told("closed")
    assert handler.error is None


@pytest.mark.case("C-17")
async def test_a_full_disk_breaks_the_stream_with_its_reason(reactor: Reactor):
    stdin_read, stdin = os.pipe()
    handler = Recorder()
    stream = PipeStream(reactor, stdin_read, os.open("/dev/full", os.O_WRONLY), handler)
    stream.write(b"x")

    await handler.until_told("closed")

    assert handler.error is not None
    assert handler.error.errno == errno.ENOSPC
    os.close(stdin)


async def test_sockets_serve_as_standard_input_and_output(reactor: Reactor):
    ours, theirs = socket.socketpair()
    handler = Recorder()
    stream = PipeStream(reactor, os.dup(ours.fileno()), ours.detach(), handler)
    with theirs:
        theirs.send(b"hello")
        assert await handler.until_received(5) == b"hello"
        stream.write(b"and back")
        assert theirs.recv(100) == b"and back"
        theirs.shutdown(socket.SHUT_WR)
        await handler.until_told("eof")
        stream.close()
        await handler.until_told("closed")
        assert theirs.recv(100) == b""
