"""Replicas that are found by looking a name up: which there are to be, and what becomes of them while names change."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from protocol.limits import (
    DISCOVER_EVERY_MIN_S,
    DISCOVER_EVERY_S,
    DISCOVER_MISSES,
    DISCOVERED_MAX,
    LOOK_UP_S,
    LOOK_UPS_MAX,
)
from supervisor import linux
from supervisor.changes import Refused
from supervisor.cli import UsageError, parse
from supervisor.config import ConfigError, Group, Server, Settings
from supervisor.configuration import document, edits, reading
from supervisor.configuration.plan import diff
from supervisor.configuration.problems import ConfigFileError
from supervisor.configuration.reading import FileSettings
from supervisor.discovery import SPREAD, Discovery, decide
from supervisor.egress import route
from supervisor.lookups import LookUp
from supervisor.machine import LinuxMachine
from supervisor.plan import FRONT
from tests.supervisor.test_changes import World
from tests.waiting import eventually

SOURCE = Server("s", "http://s.test:8000/mcp", group="g", call_timeout_s=9.0, discover="dns")
EVERY = DISCOVER_EVERY_S * (1 + 2 * SPREAD)


def found(number: int, address: str, *, enabled: bool = True, source: Server = SOURCE) -> Server:
    return replace(
        source, name=f"s-{number}", discover="", found_for="s", address=address, enabled=enabled,
        discover_every_s=DISCOVER_EVERY_S,
    )  # fmt: skip


# --- which there are to be -------------------------------------------------------------------------------------------
A, B, C = found(1, "10.0.0.1"), found(2, "10.0.0.2"), found(3, "10.0.0.3")


@pytest.mark.parametrize(
    ("running", "addresses", "missed", "wanted", "misses"),
    [
        ([], ["10.0.0.1"], {}, [A], {}),
        ([], ["10.0.0.1", "10.0.0.2", "10.0.0.1"], {}, [A, B], {}),
        ([A, B], ["10.0.0.2", "10.0.0.1"], {}, [A, B], {}),
        ([A, B], ["10.0.0.2", "10.0.0.3"], {}, [A, B, C], {"10.0.0.1": 1}),
        ([A, B], ["10.0.0.2", "10.0.0.3"], {"10.0.0.1": 1}, [B, C], {}),
        ([A, B], ["10.0.0.1", "10.0.0.2"], {"10.0.0.1": 1}, [A, B], {}),
        ([B, C], ["10.0.0.2", "10.0.0.3", "10.0.0.9"], {}, [B, C, found(1, "10.0.0.9")], {}),
        ([replace(A, enabled=False)], ["10.0.0.1"], {}, [replace(A, enabled=False)], {}),
        ([found(1, "10.0.0.1", source=replace(SOURCE, url="http://old/"))], ["10.0.0.1"], {}, [A], {}),
        ([], ["2001:db8::1"], {}, [found(1, "2001:db8::1")], {}),
    ],
)
def test_addresses_become_replicas_that_keep_their_names(
    running: list[Server], addresses: list[str], missed: dict[str, int], wanted: list[Server], misses: dict[str, int]
):
    taken = {"s", *(one.name for one in running)}
    assert decide(SOURCE, running, addresses, missed, taken) == (tuple(wanted), misses)


def test_a_name_that_another_server_has_is_left_to_it():
    wanted, _ = decide(SOURCE, [], ["10.0.0.1", "10.0.0.2"], {}, {"s", "s-1", "s-3"})
    assert [one.name for one in wanted] == ["s-2", "s-4"]


@given(st.lists(st.lists(st.integers(1, 40), max_size=30), max_size=8))
def test_whatever_a_resolver_tells_there_are_never_too_many_and_nobody_is_moved(told: list[list[int]]):
    running: tuple[Server, ...] = ()
    missed: dict[str, int] = {}
    for numbers in told:
        addresses = [f"10.0.0.{number}" for number in numbers]
        before = {one.address: one.name for one in running}
        wanted, missed = decide(SOURCE, running, addresses, missed, set(before.values()))
        assert len(wanted) <= DISCOVERED_MAX
        assert len({one.name for one in wanted}) == len({one.address for one in wanted}) == len(wanted)
        assert all(one.name == before.get(one.address, one.name) for one in wanted)
        assert {one.address for one in wanted} >= set(addresses) & before.keys()
        kept = {step.server.name for step in diff(Settings(running), Settings(wanted)).steps}
        assert kept == {one.name for one in (*running, *wanted) if (one in running) != (one in wanted)}
        running = wanted


# --- what becomes of them --------------------------------------------------------------------------------------------
class Resolver:
    """Answers as the test says; an `OSError` is raised, and None means that no answer comes."""

    def __init__(self, *addresses: str) -> None:
        self.answer: Sequence[str] | OSError | None = addresses
        self.asked: list[tuple[str, float]] = []

    async def look_up(self, host: str) -> Sequence[str]:
        self.asked.append((host, trio.current_time()))
        if self.answer is None:
            await trio.sleep_forever()
        if isinstance(self.answer, OSError):
            raise self.answer
        return self.answer  # type: ignore[return-value]


class RecordingLog:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, line: str, **fields: object) -> None:
        self.lines.append(line)

    warning = info

    def looked_up(self, name: str, line: str, *, is_wrong: bool = False) -> None:
        assert name == "s" or "t.test" in line
        self.lines.append(line)


class Searching:
    """The real changes of servers, a discovery that makes them, and a resolver that is played."""

    def __init__(self, nursery: trio.Nursery, *addresses: str, servers: Sequence[Server] = (SOURCE,)) -> None:
        self.world = World(*servers)
        self.changes = self.world.changes
        self.resolver = Resolver(*addresses)
        self.lookups: dict[str, LookUp] = {}
        self.log = RecordingLog()
        self.told = 0
        self.discovery = Discovery(
            self.changes, Refused, self.resolver.look_up, self.lookups, self.log, self.log,  # type: ignore[arg-type]
            random=Random(0), wall_time=lambda: 5.0, told=self._told,
        )  # fmt: skip
        self.changes.looked_up = self.discovery.changed
        nursery.start_soon(self.discovery.run)

    def _told(self) -> None:
        self.told += 1

    async def after(self, seconds: float = 0.0) -> list[str]:
        """Return the replicas that there are then, as NAME@ADDRESS, those that are disabled in brackets."""
        await trio.sleep(seconds)
        await wait_all_tasks_blocked()
        for child in list(self.world.tree.children):
            if child in self.world.lives:
                self.world.ready(child)
        found = [one for one in self.changes.servers().values() if one.found_for]
        return [f"{one.name}@{one.address}" if one.enabled else f"({one.name}@{one.address})" for one in found]

    async def settle(self) -> list[str]:
        await wait_all_tasks_blocked()
        return await self.after()


@pytest.fixture
async def searching(nursery: trio.Nursery) -> Searching:
    return Searching(nursery, "10.0.0.1", "10.0.0.2")


async def test_each_address_gets_a_worker_of_its_own_and_the_name_itself_none(
    autojump_clock: MockClock, searching: Searching
):
    assert await searching.after() == ["s-1@10.0.0.1", "s-2@10.0.0.2"]
    assert [note for note in searching.world.notes if note.startswith(("start", "front: add"))] == [
        "front: add s-1 at 0", "start server s-1 1", "front: add s-2 at 1", "start server s-2 1",
    ]  # fmt: skip
    assert searching.resolver.asked == [("s.test", 0.0)]
    assert {life.server.call_timeout_s for name, life in searching.world.lives.items() if "s-" in name} == {9.0}
    assert searching.lookups["s"] == LookUp(at=5.0)
    assert not searching.discovery.is_undecided
    assert searching.changes.own_servers() == [SOURCE], "a new version looks the name up itself"


async def test_a_name_is_looked_up_again_and_again_and_the_others_notice_nothing_of_what_changes(
    autojump_clock: MockClock, searching: Searching
):
    await searching.after()
    searching.world.notes.clear()
    await searching.after(10 * DISCOVER_EVERY_S)
    assert 9 <= len(searching.resolver.asked) - 1 <= 12
    assert searching.world.notes == []

    searching.resolver.answer = ["10.0.0.2", "10.0.0.3"]
    for _ in range(DISCOVER_MISSES - 1):
        await searching.changes.restart("s")  # which looks it up now
        assert await searching.after() == ["s-1@10.0.0.1", "s-2@10.0.0.2", "s-3@10.0.0.3"]
    await searching.changes.restart("s")
    assert await searching.after() == ["s-2@10.0.0.2", "s-3@10.0.0.3"]
    notes = [note for note in searching.world.notes if "s-2" in note]
    assert notes == []
    # The one that is gone ends its calls first: it leaves when the front has released it.
    assert "front: drop s-1" in searching.world.notes
    assert "leave server s-1" not in searching.world.notes
    searching.changes.released(FRONT, "s-1", 1)
    assert "leave server s-1" in searching.world.notes


@pytest.mark.case("B-01")
@pytest.mark.parametrize("failure", [socket.gaierror(-3, "Temporary failure"), OSError(24, "Too many"), (), None])
async def test_a_look_up_that_fails_or_hangs_leaves_all_as_it_is_and_is_told_once(
    autojump_clock: MockClock, searching: Searching, failure: OSError | None
):
    before = await searching.after()
    searching.resolver.answer = failure
    asked = len(searching.resolver.asked)
    assert await searching.after(3 * EVERY) == before
    assert searching.lookups["s"].problem.startswith('the name "s.test" ')
    assert searching.lookups["s"].failures >= 3
    longest_s = (LOOK_UP_S if failure is None else 0.0) + DISCOVER_EVERY_MIN_S * (1 + SPREAD)
    assert len(searching.resolver.asked) - asked >= 2 * EVERY / longest_s - 1, "it is tried again soon"
    assert len([line for line in searching.log.lines if line.endswith("; what is known of it stays")]) == 1

    searching.resolver.answer = ["10.0.0.1"]
    await searching.after(LOOK_UP_S + EVERY * DISCOVER_MISSES)
    assert searching.lookups["s"].problem == ""
    assert await searching.after() == ["s-1@10.0.0.1"]


@pytest.mark.case("B-01")
async def test_a_resolver_that_hangs_for_one_name_holds_up_no_other(autojump_clock: MockClock, nursery: trio.Nursery):
    other = replace(SOURCE, name="t", url="http://t.test/")
    searching = Searching(nursery, servers=(SOURCE, other))

    async def look_up(host: str) -> Sequence[str]:
        if host == "s.test":
            await trio.sleep_forever()
        return ["10.0.0.9"]

    searching.resolver.look_up = searching.discovery._look_up = look_up  # type: ignore[method-assign]
    assert await searching.after(LOOK_UP_S / 2) == ["t-1@10.0.0.9"]
    assert searching.discovery.is_undecided
    await searching.after(LOOK_UP_S)
    assert not searching.discovery.is_undecided
    assert "within 10 s" in searching.lookups["s"].problem


async def test_more_addresses_than_there_may_be_replicas_are_left_out_and_that_is_told_once(
    autojump_clock: MockClock, searching: Searching
):
    searching.resolver.answer = [f"10.0.1.{number}" for number in range(DISCOVERED_MAX + 5)]
    await searching.after(5 * EVERY)
    assert len(await searching.after()) == DISCOVERED_MAX
    told = [line for line in searching.log.lines if "addresses; 16 of them become replicas" in line]
    assert len(told) == 1


async def test_a_replica_that_somebody_disabled_stays_so(autojump_clock: MockClock, searching: Searching):
    await searching.after()
    searching.changes.disable("s-1")
    assert await searching.after(3 * EVERY) == ["(s-1@10.0.0.1)", "s-2@10.0.0.2"]


async def test_who_restarts_the_name_has_it_looked_up_now(autojump_clock: MockClock, searching: Searching):
    await searching.after()
    searching.resolver.answer = ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    await searching.changes.restart("s")
    assert len(await searching.after()) == 3
    assert searching.resolver.asked[-1][1] == 0.0


async def test_replicas_go_with_their_name_when_it_is_removed_or_disabled(
    autojump_clock: MockClock, searching: Searching
):
    await searching.after()
    assert searching.changes.disable("s")
    assert not searching.changes.disable("s")
    assert await searching.after(3 * EVERY) == []
    assert searching.lookups == {}
    assert searching.changes.enable("s")
    assert not searching.changes.enable("s")
    assert len(await searching.after()) == 2
    searching.changes.remove("s")
    assert await searching.after(3 * EVERY) == []
    assert searching.changes.servers() == {}


async def test_an_edited_name_gives_its_replicas_new_workers_and_one_that_is_busy_lets_it_wait(
    autojump_clock: MockClock, searching: Searching
):
    await searching.after()
    searching.world.notes.clear()
    await searching.changes.replace(replace(SOURCE, url="http://s.test:9000/mcp"), force=True)
    await searching.settle()
    with pytest.raises(Refused, match="Server 's-1' is being changed right now"):
        searching.changes.remove("s")
    await searching.after(60.0)
    assert {one.url for one in searching.changes.servers().values()} == {"http://s.test:9000/mcp"}
    assert len(await searching.after()) == 2
    searching.changes.remove("s")


async def test_a_server_becomes_one_that_is_looked_up_and_back(autojump_clock: MockClock, nursery: trio.Nursery):
    plain = replace(SOURCE, discover="", group="")
    searching = Searching(nursery, "10.0.0.1", servers=(plain,))
    assert await searching.after() == []
    searching.changes.regroup([Group("s")], {"s": replace(SOURCE, group="s")})
    assert await searching.after() == ["s-1@10.0.0.1"]
    assert searching.world.roster.entries["s"].child == ""
    searching.changes.regroup([], {"s": plain})
    await searching.changes.replace(plain, force=True)
    assert await searching.after(EVERY) == []
    assert searching.world.roster.entries["s"].child


async def test_replicas_stand_where_their_name_stands_however_long_it_takes_to_look_it_up(
    autojump_clock: MockClock, nursery: trio.Nursery
):
    last = Server("last", "http://last/")
    searching = Searching(nursery, "10.0.0.1", servers=(SOURCE, last))
    await searching.after()
    searching.resolver.answer = ["10.0.0.1", "10.0.0.2"]
    await searching.changes.restart("s")
    await searching.after()
    assert list(searching.changes.servers()) == ["s", "s-1", "s-2", "last"]
    places = [note for note in searching.world.notes if note.startswith("front: add")]
    assert places == ["front: add s-1 at 0", "front: add s-2 at 1"]


async def test_a_name_is_no_replica_itself(autojump_clock: MockClock, searching: Searching):
    await searching.after()
    with pytest.raises(Refused, match="is no replica of a group"):
        searching.changes.drain("s")
    with pytest.raises(Refused, match="is no replica of a group"):
        searching.changes.weigh("s", "2")
    assert searching.changes.drain("s-1")
    with pytest.raises(Refused, match="is the last replica"):
        searching.changes.drain("s-2")
    assert await searching.changes.check("s") is None


async def test_nothing_is_looked_up_when_the_proxy_stops(autojump_clock: MockClock, searching: Searching):
    await searching.after()
    searching.resolver.answer = None
    await trio.sleep(EVERY)
    searching.discovery.end()
    asked = len(searching.resolver.asked)
    await trio.sleep(10 * EVERY)
    assert len(searching.resolver.asked) == asked


@pytest.mark.case("B-01")
async def test_a_resolver_that_hangs_takes_only_so_many_threads(monkeypatch: pytest.MonkeyPatch):
    entered: list[str] = []
    released = threading.Event()

    def hang(host: str) -> list[str]:
        entered.append(host)
        released.wait(30)
        return [host]

    monkeypatch.setattr(linux, "addresses", hang)
    machine = LinuxMachine()
    with trio.fail_after(30):
        try:
            async with trio.open_nursery() as nursery:
                for number in range(2 * LOOK_UPS_MAX):
                    nursery.start_soon(machine.look_up, f"h{number}")

                async def are_taken() -> bool:
                    return len(entered) == LOOK_UPS_MAX

                await eventually(are_taken, "all threads hang")
                nursery.cancel_scope.cancel()
            with trio.move_on_after(0.1) as given_up:  # those before it count as long as they hang
                await machine.look_up("late")
            assert given_up.cancelled_caught
            assert len(entered) == LOOK_UPS_MAX
        finally:
            released.set()
        assert await machine.look_up("after") == ["after"]


def test_the_system_tells_each_address_once():
    assert linux.addresses("127.0.0.1") == ["127.0.0.1"]
    assert set(linux.addresses("localhost")) <= {"127.0.0.1", "::1"}
    with pytest.raises(OSError, match="no name of a host"):
        linux.addresses(f"{'a' * 64}.test")


# --- ways to say it --------------------------------------------------------------------------------------------------
def read(text: str) -> FileSettings:
    return reading.read(document.parse("c.toml", text), lambda reference: "secret")


def test_a_name_in_short_makes_a_group_of_its_own():
    settings = parse(["--http", "--servers", "s=dns+http://s.test:8000/mcp", "--call-timeout", "s=9"])
    assert settings.servers == (replace(SOURCE, group="s"),)
    assert settings.groups == (Group("s"),)


def test_a_name_in_short_can_be_one_of_several():
    settings = parse(["--http", "--servers", "s=dns+http://a.test/mcp|http://b.test/mcp"])
    assert [(one.name, one.discover, one.group) for one in settings.servers] == [
        ("s-1", "dns", "s"), ("s-2", "", "s"),
    ]  # fmt: skip
    assert settings.groups == (Group("s", ("s-2",)),)


def test_the_file_says_it_with_keys_and_what_clients_see_belongs_to_the_group():
    text = '[servers.s]\nurl = "http://s.test:8000/mcp"\ndiscover = "dns"\n'
    settings = read(f'{text}discover_every = 7\ndeny = ["x"]\npriority = 2\n')
    (server,), (group,) = settings.servers, settings.groups
    assert (server.group, server.discover_every_s, server.priority) == ("s", 7.0, 0)
    assert (group.name, group.servers, group.priority, group.rules.deny) == ("s", (), 2, ("x",))
    settings = read(f'{text}[servers.t]\nurl = "http://t/"\n[groups.g]\nservers = ["s", "t"]\npolicy = "priority"\n')
    assert [server.group for server in settings.servers] == ["g", "g"]
    assert settings.groups == (Group("g", ("t",), "priority"),)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('url = "http://10.0.0.1/"\ndiscover = "dns"', "looks up a name, and the URL has none"),
        ('url = "http://[::1]/"\ndiscover = "dns"', "looks up a name, and the URL has none"),
        ('url = "unix:///run/x"\ndiscover = "dns"', "looks up a name, and the URL has none"),
        ('command = "x"\ndiscover = "dns"', "is for servers with a url; this one is a command"),
        ('url = "http://a/"\ndiscover = "mdns"', "'mdns' is not possible; write \"dns\""),
        ('url = "http://a/"\ndiscover_every = 30', "is there without discover"),
        ('url = "http://a/"\ndiscover = "dns"\ndiscover_every = 4', "is not a time between look-ups; give 5 to 3600"),
        ('url = "http://a/"\ndiscover = "dns"\ndiscover_every = 3601', "is not a time between look-ups"),
        ('url = "http://a/"\ndiscover = "dns"\nproxy = "http://p:1"', "before a server whose addresses are looked up"),
        ('url = "http://a/"\ndiscover = "dns"\n[groups.s]\nservers = ["s"]\nweights = { s = 2 }', "no server of it"),
    ],
)
def test_names_that_cannot_be_looked_up_are_told(text: str, told: str):
    with pytest.raises(ConfigFileError) as caught:
        read(f"[servers.s]\n{text}\n")
    assert told in str(caught.value)


@pytest.mark.parametrize(
    "text", ["s=dns+http://10.0.0.1/", "s=dns+http://", "s=dns+unix:///run/x", "s=dns+http://a/,s=http://b/"]
)
def test_what_is_no_name_in_short_is_refused(text: str):
    with pytest.raises(UsageError, match="--servers: "):
        parse(["--http", "--servers", text])


def test_a_name_so_long_that_replicas_could_not_be_called_after_it_is_refused():
    name = "n" * 30
    with pytest.raises(ConfigFileError, match=f"would make servers up to '{name}-16'"):
        read(f'[servers.{name}]\nurl = "http://a/"\ndiscover = "dns"\n')
    with pytest.raises(UsageError, match=f"would make servers up to '{name}-16'"):
        parse(["--http", "--servers", f"{name}=dns+http://a/"])


def test_an_edit_of_the_name_is_one_step_and_its_replicas_are_in_no_file():
    one, other = Settings((SOURCE,), (Group("g"),)), Settings((replace(SOURCE, discover_every_s=60.0),), (Group("g"),))
    assert diff(one, other).lines() == ["replace s (discover_every)"]
    assert edits.values_of(SOURCE) == {
        "url": "http://s.test:8000/mcp", "group": "g", "call_timeout": 9.0, "discover": "dns",
    }  # fmt: skip
    with pytest.raises(ConfigError, match="has no server 's-1'"):
        edits.set_enabled("c.toml", '[servers.s]\nurl = "http://a/"\ndiscover = "dns"\n', "s-1", enabled=False)


def test_the_environments_proxy_does_not_stand_before_an_address_that_was_looked_up():
    environment = {"http_proxy": "http://proxy.test:3128"}
    assert route(SOURCE, environment, lambda _: "").proxy is not None
    found_route = route(A, environment, lambda _: "")
    assert (found_route.proxy, found_route.address) == (None, "10.0.0.1")
