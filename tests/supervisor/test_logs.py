"""How the root writes its log."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from supervisor import logs
from supervisor.logs import Sink


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


def test_an_event_is_a_sentence_on_standard_error_and_an_object_in_the_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    path = tmp_path / "log"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    log = logs.configure(debug=True, file_fd=fd)

    log.info("ready", who="server main", incarnation=2)
    log.debug("only for the file")
    os.close(fd)

    assert capfd.readouterr().err == "mcp-bulkhead: server main: ready\n"
    first, second = (msgspec.json.decode(line) for line in path.read_text().splitlines())
    assert first.items() >= {"event": "ready", "who": "server main", "incarnation": 2, "level": "info"}.items()
    assert first["timestamp"].endswith("Z")
    assert second["event"] == "only for the file"


def test_without_debug_the_file_has_no_debug_lines(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    path = tmp_path / "log"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    log = logs.configure(debug=False, file_fd=fd)

    log.debug("not for you")
    os.close(fd)

    assert path.read_text() == ""
    assert capfd.readouterr().err == ""


@pytest.mark.case("C-18")
@pytest.mark.promise("R22")
def test_a_pipe_that_nobody_reads_loses_lines_and_never_blocks(pipe: tuple[int, int]):
    reader, writer = pipe
    sink = Sink(writer)
    line = b"x" * 4000 + b"\n"

    begin = time.monotonic()
    for _ in range(1000):
        sink.write(line)
    assert time.monotonic() - begin < 2
    assert sink.dropped > 900

    written = os.read(reader, 1 << 20)
    assert set(written.splitlines()) == {b"x" * 4000}


@pytest.mark.case("C-18")
def test_what_was_lost_is_told_as_soon_as_there_is_room(pipe: tuple[int, int]):
    reader, writer = pipe
    sink = Sink(writer)
    while not sink.dropped:
        sink.write(b"x" * 4000 + b"\n")
    os.read(reader, 1 << 20)

    sink.write(b"again\n")

    assert os.read(reader, 1 << 20) == b"again\nmcp-bulkhead: 1 log lines were dropped before this one\n"
    assert sink.dropped == 0


@pytest.mark.case("C-18")
def test_others_who_write_to_the_same_pipe_may_go_on_waiting(pipe: tuple[int, int]):
    _, writer = pipe
    Sink(writer)

    assert os.get_blocking(writer)


@pytest.mark.case("C-18")
def test_a_socket_that_nobody_reads_is_not_waited_for_either():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sink = Sink(ours.fileno())
        for _ in range(1000):
            sink.write(b"x" * 4000 + b"\n")

        assert sink.dropped > 0


def test_lines_in_a_file_that_others_write_too_are_not_overwritten(tmp_path: Path):
    """Standard error may be a file opened without O_APPEND, whose position all processes share."""
    path = tmp_path / "stderr"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    sink = Sink(fd)

    sink.write(b"one\n")
    os.write(fd, b"two\n")
    sink.write(b"three\n")
    os.close(fd)

    assert path.read_text() == "one\ntwo\nthree\n"


@pytest.mark.case("C-17")
def test_a_full_disk_loses_lines_and_nothing_else():
    fd = os.open("/dev/full", os.O_WRONLY)
    sink = Sink(fd)

    sink.write(b"one\n")
    sink.write(b"two\n")
    os.close(fd)

    assert sink.dropped == 2


@pytest.mark.case("C-17")
@pytest.mark.promise("R22")
def test_what_a_full_disk_has_cost_is_told_in_the_file_as_a_line_like_all_others(tmp_path: Path):
    file_fd = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    full = os.open("/dev/full", os.O_WRONLY)
    room = os.dup(file_fd)
    log = logs.configure(debug=False, file_fd=file_fd)
    os.dup2(full, file_fd)
    log.info("lost")
    os.dup2(room, file_fd)
    log.info("kept")
    for fd in (file_fd, full, room):
        os.close(fd)

    lines = [msgspec.json.decode(line) for line in (tmp_path / "log").read_bytes().splitlines()]
    assert [line["event"] for line in lines] == ["kept", "1 log lines were dropped before this one"]
