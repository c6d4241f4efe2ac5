"""A worker's log: where lines go, and that they never hold anybody up."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from protocol import control
from workers import logs

SERVER = control.ServerInfo("main", "http://localhost/mcp")


class Stderr:
    """A pipe in place of standard error."""

    def __init__(self) -> None:
        self.read_fd, self.write_fd = os.pipe()
        os.set_blocking(self.read_fd, False)

    def fileno(self) -> int:
        return self.write_fd

    def written(self) -> bytes:
        found = bytearray()
        while True:
            try:
                found += os.read(self.read_fd, 65536)
            except BlockingIOError:
                return bytes(found)


@pytest.fixture
def stderr(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stderr]:
    pipe = Stderr()
    monkeypatch.setattr(logs, "sys", SimpleNamespace(stderr=pipe))
    yield pipe
    for fd in (pipe.read_fd, pipe.write_fd):
        os.close(fd)


def opened(level: str = "info", file_fd: int | None = None) -> logs.WorkerLog:
    boot = control.Boot("main", 1, control.BackendSettings(SERVER), control.LogSettings(level, file_fd is not None))
    return logs.open_log(boot, file_fd)


def test_people_are_told_of_warnings_and_errors_only(stderr: Stderr):
    log = opened()
    log.info("nothing special")
    log.warning("something odd", tool="echo")
    log.error("something wrong")

    assert stderr.written().decode().splitlines() == [
        "mcp-bulkhead: server main: something odd, tool echo",
        "mcp-bulkhead: server main: something wrong",
    ]


def test_the_file_gets_every_line_of_the_chosen_level_as_json(stderr: Stderr, tmp_path: Path):
    file_fd = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    log = opened("info", file_fd)
    log.debug("not wanted")
    log.info("begun", calls=3)
    try:
        raise ValueError("deep inside")
    except ValueError as error:
        log.error("failed", exc_info=error)
    os.close(file_fd)

    first, second = (json.loads(line) for line in (tmp_path / "log").read_text("utf-8").splitlines())
    assert (first["who"], first["event"], first["level"], first["calls"]) == ("server main", "begun", "info", 3)
    assert first["timestamp"].endswith("Z")
    assert "deep inside" in second["exception"]
    assert b"Traceback" not in stderr.written(), "people get one line"


@pytest.mark.case("D-24", "D-25")
def test_hostile_text_stays_one_harmless_line(stderr: Stderr, tmp_path: Path):
    file_fd = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    log = opened("info", file_fd)
    log.warning(
        "odd", name="a\nfake: line\x1b[31m\u202e" + "x" * 10_000_000, header="Authorization: Bearer canary-1234"
    )
    os.close(file_fd)

    for text in (stderr.written(), (tmp_path / "log").read_bytes()):
        assert text.count(b"\n") == 1
        assert len(text) <= 8192
        assert b"\x1b" not in text
        assert b"canary" not in text


@pytest.mark.case("C-18")
@pytest.mark.promise("R22")
def test_a_log_nobody_reads_holds_nobody_up(stderr: Stderr):
    fcntl.fcntl(stderr.write_fd, fcntl.F_SETPIPE_SZ, 4 * 4096)
    log = opened()
    for number in range(1000):
        log.warning("something odd", number=number)

    assert log.dropped > 500
    stderr.written()
    log.warning("heard again")
    heard, told, nothing = stderr.written().decode().split("\n")
    assert heard.endswith("heard again")
    assert re.fullmatch(r"mcp-bulkhead: server main: \d+ log lines were dropped before this one", told)
    assert nothing == ""
    assert log.dropped == 0


@pytest.mark.case("C-17")
@pytest.mark.promise("R22")
def test_a_full_disk_or_a_closed_pipe_costs_lines_only(stderr: Stderr):
    full = os.open("/dev/full", os.O_WRONLY)
    log = opened("info", full)
    log.info("lost")
    os.close(full)
    reader = os.dup(stderr.read_fd)
    os.close(stderr.read_fd)
    os.close(reader)
    log.warning("lost too")
    stderr.read_fd = os.open("/dev/null", os.O_RDONLY)

    assert log.dropped == 3


@pytest.mark.case("C-17")
@pytest.mark.promise("R22")
def test_what_a_full_disk_has_cost_is_told_in_the_file_as_a_line_like_all_others(stderr: Stderr, tmp_path: Path):
    file_fd = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    full = os.open("/dev/full", os.O_WRONLY)
    room = os.dup(file_fd)
    log = opened("info", file_fd)
    os.dup2(full, file_fd)
    for _ in range(3):
        log.info("lost")
    os.dup2(room, file_fd)
    log.info("kept")
    for fd in (file_fd, full, room):
        os.close(fd)

    lines = [json.loads(line) for line in (tmp_path / "log").read_text("utf-8").splitlines()]
    assert [(line["who"], line["event"]) for line in lines] == [
        ("server main", "kept"), ("server main", "3 log lines were dropped before this one")
    ]  # fmt: skip
