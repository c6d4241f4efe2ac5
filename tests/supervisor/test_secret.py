"""The key of client sessions."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from supervisor import secret
from supervisor.secret import FILE_NAME, KEY_BYTES, SecretError, load_or_create


@pytest.mark.case("D-13")
def test_a_key_is_made_once_and_only_for_its_user(tmp_path: Path):
    folder = tmp_path / "new" / "folder"

    key = load_or_create(folder / FILE_NAME)

    assert len(key) == KEY_BYTES
    assert load_or_create(folder / FILE_NAME) == key
    assert stat.S_IMODE((folder / FILE_NAME).stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert os.listdir(folder) == [FILE_NAME]


def test_two_folders_have_different_keys(tmp_path: Path):
    assert load_or_create(tmp_path / "a" / FILE_NAME) != load_or_create(tmp_path / "b" / FILE_NAME)


@pytest.mark.case("C-27")
def test_the_key_of_a_faster_process_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real_link = os.link

    def slow_link(source: Path, target: Path) -> None:
        """Another process puts its key there first."""
        monkeypatch.setattr(os, "link", real_link)
        theirs.append(load_or_create(tmp_path / FILE_NAME))
        real_link(source, target)

    theirs: list[bytes] = []
    monkeypatch.setattr(os, "link", slow_link)

    assert [load_or_create(tmp_path / FILE_NAME)] == theirs
    assert os.listdir(tmp_path) == [FILE_NAME]


@pytest.mark.case("D-13")
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o620, 0o602, 0o606])
def test_a_key_that_others_could_know_or_choose_is_refused(tmp_path: Path, mode: int):
    load_or_create(tmp_path / FILE_NAME)
    (tmp_path / FILE_NAME).chmod(mode)

    with pytest.raises(SecretError, match="others"):
        load_or_create(tmp_path / FILE_NAME)


@pytest.mark.case("D-13")
def test_a_symbolic_link_is_refused_also_when_it_leads_nowhere(tmp_path: Path):
    (tmp_path / FILE_NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SecretError, match="symbolic link"):
        load_or_create(tmp_path / FILE_NAME)

    (tmp_path / "elsewhere").write_bytes(bytes(KEY_BYTES))
    (tmp_path / "elsewhere").chmod(0o600)
    with pytest.raises(SecretError, match="symbolic link"):
        load_or_create(tmp_path / FILE_NAME)


@pytest.mark.case("D-13")
@pytest.mark.parametrize("content", [b"", b"short", bytes(KEY_BYTES + 1)])
def test_a_file_that_is_no_key_is_refused_and_left_alone(tmp_path: Path, content: bytes):
    path = tmp_path / FILE_NAME
    path.write_bytes(content)
    path.chmod(0o600)

    with pytest.raises(SecretError, match="32 bytes"):
        load_or_create(tmp_path / FILE_NAME)
    assert path.read_bytes() == content


@pytest.mark.case("D-13")
def test_a_pipe_in_its_place_is_refused_without_waiting_for_it(tmp_path: Path):
    os.mkfifo(tmp_path / FILE_NAME, 0o600)

    with pytest.raises(SecretError, match="not a plain file"):
        load_or_create(tmp_path / FILE_NAME)


@pytest.mark.case("D-13")
def test_a_file_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    load_or_create(tmp_path / FILE_NAME)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)

    with pytest.raises(SecretError, match="another user"):
        load_or_create(tmp_path / FILE_NAME)


@pytest.mark.case("C-17")
def test_a_folder_that_cannot_be_made_is_an_os_error(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(OSError, match=r"Not a directory"):
        load_or_create(tmp_path / "file" / "folder" / FILE_NAME)


@pytest.mark.case("C-17")
def test_a_failed_write_leaves_no_draft_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(OSError, match="No space left"):
        load_or_create(tmp_path / FILE_NAME)
    assert os.listdir(tmp_path) == []


def test_the_usual_folder_is_named_after_us():
    assert secret.usual_state_dir().name == "mcp-bulkhead"
