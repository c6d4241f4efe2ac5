"""Following the file: what it asks for is done once, a bad one changes nothing, and writers may write as they like."""

from __future__ import annotations

import dataclasses
import os
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog
import trio
from trio.testing import MockClock

from supervisor import cli
from supervisor.config import Group, Server, Settings
from supervisor.configuration import reloading
from supervisor.configuration.reloading import Reloading

A = '[servers.a]\nurl = "http://a/"\n'
B = '[servers.b]\nurl = "http://b/"\n'
ON_OFF = ["true", "false"]
HEAD = "http = true\n"


class Refused(Exception):
    pass


class FakeChanges:
    """The servers that run, and what has been asked of them."""

    def __init__(self, servers: tuple[Server, ...]) -> None:
        self.running = {server.name: server for server in servers}
        self.asked: list[str] = []
        self.refuse: set[str] = set()

    def servers(self) -> Mapping[str, Server]:
        return self.running

    def _note(self, what: str, name: str) -> None:
        if name in self.refuse:
            raise Refused(f"{name} is being changed")
        self.asked.append(f"{what} {name}")

    async def add(self, server: Server, *, force: bool) -> None:
        assert force
        self._note("add", server.name)
        self.running[server.name] = server

    def remove(self, name: str) -> None:
        self._note("remove", name)
        del self.running[name]

    def _switch(self, name: str, enabled: bool) -> bool:
        self._note("enable" if enabled else "disable", name)
        self.running[name] = dataclasses.replace(self.running[name], enabled=enabled)
        return True

    def enable(self, name: str) -> bool:
        return self._switch(name, True)

    def disable(self, name: str) -> bool:
        return self._switch(name, False)

    async def replace(self, server: Server, *, force: bool) -> None:
        assert force
        await trio.sleep(0.05)
        self._note("replace", server.name)
        self.running[server.name] = server

    def regroup(self, groups: Sequence[Group], servers: Mapping[str, Server]) -> None:
        self._note("regroup", " ".join(group.name for group in groups))
        for server in servers.values():
            if server.name in self.running and self.running[server.name].group != server.group:
                self.running[server.name] = server


class Follower:
    """A file, and who follows it."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        path.write_text(text)
        arguments = ["--config", str(path)]
        settings = cli.parse(arguments)
        self.changes = FakeChanges(settings.servers)
        self.loads = 0
        self.lines: list[str] = []

        async def load() -> Settings:
            self.loads += 1
            return cli.parse(arguments)

        log = structlog.wrap_logger(None, processors=[self._keep])
        self.reloading = Reloading(settings, load, self.changes, Refused, log)

    def _keep(self, _: object, level: str, event: Mapping[str, object]) -> str:
        self.lines.append(f"{level}: {event['event']}")
        raise structlog.DropEvent

    def put(self, text: str) -> None:
        """Put the text in the file's place, as careful editors do."""
        draft = self.path.with_suffix(".draft")
        draft.write_text(text)
        draft.rename(self.path)

    def write(self, data: bytes) -> None:
        self.path.write_bytes(data)

    def allow(self, mode: int) -> None:
        self.path.chmod(mode)

    async def reached(self, condition: Callable[[], object]) -> None:
        with trio.fail_after(60):
            while not condition():  # noqa: ASYNC110 - on a clock that jumps
                await trio.sleep(0.1)

    async def until(self, *asked: str) -> None:
        """Wait until exactly this has been asked since the last time."""
        await self.reached(lambda: len(self.changes.asked) >= len(asked))
        assert sorted(self.changes.asked) == sorted(asked)
        self.changes.asked.clear()

    async def looks(self, count: int = 3) -> None:
        await trio.sleep(count * (reloading.LOOK_S + reloading.PAUSE_S + 2.5))


@asynccontextmanager
async def following(path: Path, text: str = HEAD + A + B) -> AsyncIterator[Follower]:
    follower = Follower(path, text)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follower.reloading.run)
        yield follower
        nursery.cancel_scope.cancel()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "c.toml"


@pytest.mark.promise("R12")
async def test_what_the_file_asks_for_is_done_and_nothing_else(autojump_clock: MockClock, path: Path):
    async with following(path) as follower:
        follower.put(HEAD + A + B.replace("//b", "//bb") + B.replace(".b]", ".c]"))
        await follower.until("replace b", "add c")
        follower.put(HEAD + A + "enabled = false\n" + B.replace("//b", "//bb"))
        await follower.until("disable a", "remove c")
        follower.put(HEAD + A + "enabled = true\n" + B.replace("//b", "//bb"))
        await follower.until("enable a")
        loads = follower.loads
        await follower.looks()

        assert follower.loads == loads
        assert follower.changes.asked == []


@pytest.mark.promise("R12")
async def test_groups_come_after_what_leaves_and_are_tried_again_if_they_cannot_come_now(
    autojump_clock: MockClock, path: Path
):
    group = '[groups.g]\nservers = ["a"]\n'
    async with following(path) as follower:
        follower.changes.refuse.add("g")
        follower.put(HEAD + A + group)
        await follower.reached(lambda: any("regroup g has to wait" in line for line in follower.lines))
        assert follower.changes.asked[0] == "remove b"
        follower.changes.refuse.clear()
        await follower.reached(lambda: "regroup g" in follower.changes.asked)
        assert follower.changes.running["a"].group == "g"
        follower.changes.asked.clear()
        await follower.looks()
        assert follower.changes.asked == [], "it is so now"
        follower.put(HEAD + A)
        await follower.until("regroup ")
        assert follower.changes.running["a"].group == ""
        assert follower.reloading.restart_needed == ()


@pytest.mark.case("C-19")
@pytest.mark.promise("R12")
@pytest.mark.parametrize(
    "text",
    ["", HEAD, HEAD + A + "[servers.b", HEAD + A + 'x = "y"\n', HEAD + A + A, "\xff", "port = 0\n[servers]\n"],
)
async def test_a_bad_file_changes_nothing_and_is_told_once(autojump_clock: MockClock, path: Path, text: str):
    async with following(path) as follower:
        follower.write(text.encode("latin-1"))
        await follower.reached(lambda: follower.reloading.problem)
        for _ in range(3):
            follower.reloading.hangup()
            await follower.looks(1)

        assert follower.changes.asked == []
        assert sum("has not been changed" in line for line in follower.lines) == 1
        assert all(line.startswith("error: ") for line in follower.lines)

        follower.put(HEAD + A)
        await follower.until("remove b")
        assert follower.reloading.problem == ""


@pytest.mark.case("C-19")
async def test_a_file_that_everybody_may_write_is_not_believed_any_more(autojump_clock: MockClock, path: Path):
    async with following(path) as follower:
        follower.put(HEAD + A)
        follower.allow(0o666)
        await follower.looks()

        assert follower.changes.asked == []
        assert "chmod o-w" in follower.reloading.problem
        follower.allow(0o600)
        follower.reloading.hangup()
        await follower.until("remove b")


async def test_a_file_that_is_gone_changes_nothing_until_it_is_back(autojump_clock: MockClock, path: Path):
    async with following(path) as follower:
        os.unlink(path)
        await follower.looks()
        assert follower.changes.asked == []
        assert "No such file" in follower.reloading.problem

        follower.put(HEAD + B)
        await follower.until("remove a")


@pytest.mark.case("C-19")
async def test_a_link_that_is_turned_to_another_file_is_followed(autojump_clock: MockClock, path: Path, tmp_path: Path):
    """As in Kubernetes, where a folder of the path is a link that is replaced."""
    for name, text in (("one", HEAD + A), ("two", HEAD + B)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "c.toml").write_text(text)
        os.utime(tmp_path / name / "c.toml", (1, 1))
    data = tmp_path / "data"
    data.symlink_to("one")
    settings_path = data / "c.toml"

    async with following(settings_path, HEAD + A) as follower:
        (tmp_path / "new").symlink_to("two")
        (tmp_path / "new").rename(data)

        await follower.until("remove a", "add b")


@pytest.mark.case("C-19")
async def test_a_file_that_is_written_in_pieces_is_read_when_it_is_whole(autojump_clock: MockClock, path: Path):
    whole = HEAD + A + B.replace(".b]", ".c]") + B
    async with following(path) as follower:
        await follower.looks(1)
        with path.open("w") as file:
            for at in range(0, len(whole), 7):
                file.write(whole[at : at + 7])
                file.flush()
                await trio.sleep(0.05)

        await follower.until("add c")
        assert follower.lines[0] == f"info: {path} has changed: add c"
        assert not follower.reloading.problem


@pytest.mark.case("C-20")
async def test_a_hundred_edits_a_second_end_with_the_last_one_and_a_few_reloads(autojump_clock: MockClock, path: Path):
    async with following(path) as follower:
        for number in range(1000):
            follower.put(HEAD + A + B.replace("//b", f"//b{number}"))
            await trio.sleep(0.01)
        await follower.reached(lambda: follower.changes.running["b"].url == "http://b999/")

        assert follower.loads <= 10  # in ten seconds
        assert "add" not in "".join(follower.changes.asked)


@pytest.mark.case("C-06")
async def test_a_storm_of_signals_is_a_few_reloads(autojump_clock: MockClock, path: Path):
    async with following(path) as follower:
        for _ in range(1000):
            follower.reloading.hangup()
            await trio.sleep(0.001)
        await follower.looks(1)

        assert 1 <= follower.loads <= 12  # one for each pause, and not one for each signal
        assert follower.changes.asked == []


async def test_a_step_that_cannot_be_taken_now_is_taken_later_and_holds_up_no_other(
    autojump_clock: MockClock, path: Path
):
    async with following(path) as follower:
        follower.changes.refuse = {"a"}
        follower.put(HEAD + A.replace("//a", "//aa") + B.replace("//b", "//bb"))
        await follower.until("replace b")
        follower.changes.refuse = set()
        await follower.until("replace a")
        assert any("replace a (url) has to wait: a is being changed" in line for line in follower.lines)


async def test_what_another_door_has_done_and_written_is_not_done_again(autojump_clock: MockClock, path: Path):
    async with following(path) as follower:
        follower.changes.running["c"] = Server("c", "http://c/")
        del follower.changes.running["a"]
        follower.put(HEAD + B + B.replace(".b]", ".c]").replace("//b", "//c"))
        await follower.reached(lambda: follower.loads)
        await follower.looks()

        assert follower.changes.asked == []
        assert follower.lines == []


async def test_what_was_changed_at_run_time_and_is_not_in_the_file_stays(autojump_clock: MockClock, path: Path):
    async with following(path) as follower:
        follower.changes.running["mine"] = Server("mine", "http://mine/")
        follower.put(HEAD + A)
        await follower.until("remove b")

        assert set(follower.changes.running) == {"a", "mine"}


async def test_what_needs_a_restart_is_said_once(autojump_clock: MockClock, path: Path):
    async with following(path) as follower:
        for number in range(3):
            follower.put(f"# {number}\nport = 9000\n" + HEAD + A + B)
            await follower.looks()

        assert [line for line in follower.lines if "restart" in line] == [
            "warning: only after a restart of the proxy: port"
        ]
        assert follower.reloading.restart_needed == ("port",)


async def test_a_plan_can_be_asked_for_without_being_carried_out(autojump_clock: MockClock, path: Path):
    follower = Follower(path, HEAD + A + B)
    follower.put(HEAD + A)

    assert (await follower.reloading.plan()).lines() == ["remove b", "keep a"]
    assert follower.changes.asked == []


@pytest.mark.promise("R12")
async def test_random_files_are_all_followed(autojump_clock: MockClock, path: Path):
    """The second line of defence behind the properties of the plan: what runs is what the last good file says."""
    spread = random.Random(7)
    follower = Follower(path, HEAD + "[servers]\n")
    for number in range(200):
        names = [name for name in "abcdef" if spread.random() < 0.6]
        blocks = [
            f'[servers.{name}]\nurl = "http://{name}{spread.randrange(2)}/"\nenabled = {spread.choice(ON_OFF)}\n'
            for name in names
        ]
        if spread.random() < 0.1:
            follower.put(HEAD + "[servers.half")
            await follower.reloading.reload()
        follower.put(HEAD + "".join(blocks or ["[servers]\n"]) + f"# {number}")
        await follower.reloading.reload()

        wanted = {server.name: server for server in cli.parse(["--config", str(path)]).servers}
        assert follower.changes.running == wanted
