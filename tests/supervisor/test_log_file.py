"""The log file: where it may stand, and who may read it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from supervisor.log_file import LogFileError, open_file


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def opened(request: pytest.FixtureRequest):
    def start(path: Path) -> int:
        fd = open_file(str(path))
        request.addfinalizer(lambda: os.close(fd))
        return fd

    return start


def test_a_new_file_is_for_its_user_alone_whatever_the_umask(tmp_path: Path, opened):
    before = os.umask(0)
    try:
        opened(tmp_path / "log")
    finally:
        os.umask(before)

    assert mode(tmp_path / "log") == 0o600


def test_an_old_file_is_appended_to_and_closed_to_others(tmp_path: Path, opened):
    path = tmp_path / "log"
    path.write_text("old\n")
    path.chmod(0o666)

    os.write(opened(path), b"new\n")

    assert path.read_text() == "old\nnew\n"
    assert mode(path) == 0o600


def test_a_symbolic_link_is_refused_and_its_target_untouched(tmp_path: Path):
    (tmp_path / "target").write_text("precious")
    (tmp_path / "log").symlink_to(tmp_path / "target")
    (tmp_path / "dangling").symlink_to(tmp_path / "missing")

    for name in ("log", "dangling"):
        with pytest.raises(LogFileError, match="symbolic link"):
            open_file(str(tmp_path / name))
    assert (tmp_path / "target").read_text() == "precious"
    assert not (tmp_path / "missing").exists()


def test_a_hard_link_is_refused(tmp_path: Path):
    (tmp_path / "precious").write_text("precious")
    os.link(tmp_path / "precious", tmp_path / "log")

    with pytest.raises(LogFileError, match="second name"):
        open_file(str(tmp_path / "log"))


def test_a_file_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "log").write_text("theirs")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)

    with pytest.raises(LogFileError, match="another user"):
        open_file(str(tmp_path / "log"))


def test_a_pipe_is_refused_without_waiting_for_its_reader(tmp_path: Path):
    os.mkfifo(tmp_path / "log")

    with pytest.raises(LogFileError, match="cannot be written"):
        open_file(str(tmp_path / "log"))


def test_a_pipe_somebody_reads_is_refused_too(tmp_path: Path):
    os.mkfifo(tmp_path / "log")
    reader = os.open(tmp_path / "log", os.O_RDONLY | os.O_NONBLOCK)

    with pytest.raises(LogFileError, match="not a plain file"):
        open_file(str(tmp_path / "log"))
    os.close(reader)


def test_a_folder_that_is_missing_is_told(tmp_path: Path):
    with pytest.raises(LogFileError, match=r"cannot be written: No such file or directory; .*--log-file"):
        open_file(str(tmp_path / "missing" / "log"))
