"""Sessions that clients have ended, in a file that outlives the proxy."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from supervisor import ended_file
from supervisor.ended_file import FILE_NAME, EndedFile
from supervisor.memory import ENDED_BYTES_MAX, ENDED_MAX, ID_CHARS_MAX


class Told:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.log: Any = SimpleNamespace(warning=self.lines.append)

    def file(self, folder: Path) -> EndedFile:
        return EndedFile(folder / FILE_NAME, self.log)


@pytest.fixture
def told() -> Told:
    return Told()


async def written(file: EndedFile, *session_ids: str) -> None:
    for session_id in session_ids:
        file.add(session_id)
    await file.finish()


async def test_what_ended_is_there_for_the_next_run_once_in_order_and_for_nobody_else_to_read(
    tmp_path: Path, told: Told
):
    assert told.file(tmp_path).load() == []
    await written(told.file(tmp_path), "mb1.a", "mb1.b")
    await written(told.file(tmp_path), "mb1.c", "mb1.a")

    assert told.file(tmp_path).load() == ["mb1.b", "mb1.c", "mb1.a"]
    assert stat.S_IMODE((tmp_path / FILE_NAME).stat().st_mode) == 0o600
    assert told.lines == []


async def test_what_ends_together_is_written_together_and_the_first_at_once(
    tmp_path: Path, told: Told, autojump_clock: trio.abc.Clock, monkeypatch: pytest.MonkeyPatch
):
    writes: list[tuple[str, ...]] = []

    async def write(_append: object, _path: Path, session_ids: tuple[str, ...], **_options: object) -> None:
        writes.append(session_ids)

    monkeypatch.setattr(trio.to_thread, "run_sync", write)
    file = told.file(tmp_path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(file.run)
        file.add("mb1.first")
        await trio.sleep(0.1)
        assert writes == [("mb1.first",)]
        for number in range(3):
            file.add(f"mb1.{number}")
        await trio.sleep(10)
        nursery.cancel_scope.cancel()

    assert writes == [("mb1.first",), ("mb1.0", "mb1.1", "mb1.2")]


@pytest.mark.case("C-17")
async def test_a_line_that_was_cut_short_costs_only_itself(tmp_path: Path, told: Told):
    (tmp_path / FILE_NAME).write_bytes(b"mb1.a\n\nmb1.\xff\nwith blank\n" + b"x" * (ID_CHARS_MAX + 1) + b"\nmb1.to")
    (tmp_path / FILE_NAME).chmod(0o600)
    assert told.file(tmp_path).load() == ["mb1.a"]

    await written(told.file(tmp_path), "mb1.b")

    assert told.file(tmp_path).load() == ["mb1.a", "mb1.to", "mb1.b"]


@pytest.mark.case("C-17")
async def test_a_disk_that_takes_nothing_is_told_once_and_nothing_is_lost_when_it_does_again(
    tmp_path: Path, told: Told
):
    folder = tmp_path / "state"
    file = told.file(folder)
    await written(file, "mb1.a")
    await written(file, "mb1.b")
    assert len(told.lines) == 1
    assert "No such file or directory): after a restart of the proxy they are good again" in told.lines[0]

    folder.mkdir()
    await written(file, "mb1.c")

    assert file.load() == ["mb1.a", "mb1.b", "mb1.c"]


@pytest.mark.parametrize("how", ["link", "folder", "open to others"])
async def test_a_file_that_others_may_have_made_is_neither_believed_nor_written(tmp_path: Path, told: Told, how: str):
    path = tmp_path / FILE_NAME
    if how == "folder":
        path.mkdir()
    else:
        (tmp_path / "there").write_text("mb1.a\n")
        (tmp_path / "there").chmod(0o622)
        os.symlink(tmp_path / "there", path) if how == "link" else (tmp_path / "there").rename(path)

    file = told.file(tmp_path)
    assert file.load() == []
    await written(file, "mb1.b")

    assert len(told.lines) == 1
    assert how == "folder" or path.read_text() == "mb1.a\n"


async def test_a_file_that_has_grown_too_long_is_replaced_by_its_newest_ids(
    tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ended_file, "FILE_BYTES_MAX", 10 * (ENDED_MAX + 100))
    file = told.file(tmp_path)
    ids = [f"mb1.{number:05}" for number in range(ENDED_MAX + 200)]
    await written(file, *ids[:ENDED_MAX])
    size = (tmp_path / FILE_NAME).stat().st_size
    await written(file, *ids[ENDED_MAX:])

    assert (tmp_path / FILE_NAME).stat().st_size == size
    assert file.load() == ids[200:]
    assert os.listdir(tmp_path) == [FILE_NAME]


async def test_no_more_is_loaded_than_the_bound_on_memory_allows(tmp_path: Path, told: Told):
    ids = [f"{number:0{ID_CHARS_MAX}}" for number in range(ENDED_BYTES_MAX // ID_CHARS_MAX + 5)]
    await written(told.file(tmp_path), *ids)
    assert told.file(tmp_path).load() == ids[5:]


async def test_what_could_be_no_session_id_gets_into_no_file(tmp_path: Path, told: Told):
    await written(told.file(tmp_path), "", "two\nlines", "mb1 a", "grüß", "x" * (ID_CHARS_MAX + 1))
    assert os.listdir(tmp_path) == []
