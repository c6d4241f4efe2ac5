"""Changes of servers at run time, with a real tree and everything it would do noted instead of done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from protocol.control import Checked
from protocol.limits import CALL_CEILING_S, CHECK_DEADLINE_S
from supervisor.changes import CHECK_GRACE_S, RETIRE_EXTRA_S, Changes, Refused, UnknownServer, Unreachable
from supervisor.config import SERVERS_MAX, ConfigError, Group, Portion, Server, Settings
from supervisor.plan import FRONT, child_specs
from supervisor.restart import End, EndKind
from supervisor.roster import Roster
from supervisor.tree import Ask, Do, Gone, Kill, Phase, Start, Tree

A, B, NEW = Server("a", "http://a/"), Server("b", "http://b/"), Server("new", "http://new/")
CALL_S = 60.0
WORKS = Checked(1, "", False, True, 1.5, 2, ["x", "y"])
REFUSES = Checked(1, "refused", True, False, 0.0, -1, [])


@dataclass
class Life:
    name: str
    server: Server | None
    incarnation: int


class World:
    """What the root is made of, as far as changes need it. Orders and news are notes."""

    def __init__(self, *servers: Server, fronts: int = 1) -> None:
        settings = Settings(servers or (A, B), (Group("g"),), http=True, fronts=fronts)
        self.roster = Roster(settings.servers, settings.groups)
        self.tree = Tree(child_specs(settings), Random(0))
        self.lives: dict[str, Any] = {}
        self.notes: list[str] = []
        self.changes = Changes(
            settings, self.roster, self.tree, self.lives, self, self, self.do,  # type: ignore[arg-type]
        )  # fmt: skip
        self.do(self.tree.start(0.0))
        for name in list(self.tree.children):
            self.ready(name)
        self.notes.clear()

    # --- the root ----------------------------------------------------------------------------------------------------
    def do(self, actions: Sequence[Do]) -> None:
        for action in actions:
            match action:
                case Start(name, incarnation):
                    self.lives[name] = Life(name, self.roster.children.get(name), incarnation)
                    self.notes.append(f"start {name} {incarnation}")
                case Ask(name):
                    self.notes.append(f"ask {name}")
                case Kill(name, _):
                    self.notes.append(f"kill {name}")
                case Gone(name, _, _):
                    life = self.lives.pop(name)
                    self.notes.append(f"gone {name}")
                    self.changes.gone(name, life.incarnation)
                case _:
                    self.notes.append("finish")

    def ready(self, name: str) -> None:
        if name != "zygote":
            self.tree.ready(name, self.tree.children[name].incarnation, 0.0)

    def ends(self, name: str, kind: EndKind = EndKind.CRASH) -> None:
        self.do(self.tree.exited(name, self.tree.children[name].incarnation, End(kind, "ended"), trio.current_time()))

    def says(self, name: str, checked: Checked) -> None:
        self.ready(name)
        self.changes.checked(self.lives[name], checked)

    # --- orders ------------------------------------------------------------------------------------------------------
    def add_server(self, server: Server, place: int) -> None:
        self.notes.append(f"front: add {server.name} at {place}")

    def regroup(self) -> None:
        self.notes.append(f"front: regroup {' '.join(self.roster.groups)}")

    def drop_server(self, server: Server) -> None:
        self.notes.append(f"front: drop {server.name}")

    def connect(self, life: Life, *, gently: bool = False) -> None:
        self.notes.append(f"connect {life.name}{' gently' if gently else ''}")

    def check(self, life: Life, number: int, deadline_s: float) -> None:
        self.notes.append(f"check {life.name}")

    def leave(self, life: Life) -> None:
        self.notes.append(f"leave {life.name}")

    # --- news --------------------------------------------------------------------------------------------------------
    def watch(self, child: str) -> None: ...
    def forget(self, child: str) -> None:
        self.notes.append(f"forget {child}")

    def forget_server(self, name: str) -> None: ...
    def note(self, name: str, what: str) -> None: ...


@pytest.fixture
async def world() -> World:
    return World()


class Outcome:
    """What became of a change that runs in the background."""

    def __init__(self) -> None:
        self.result: object = None
        self.error: Refused | None = None
        self.done = False

    async def of(self, change: Any, *args: Any, **options: Any) -> None:
        try:
            self.result = await change(*args, **options)
        except Refused as error:
            self.error = error
        self.done = True


async def begin(nursery: trio.Nursery, change: Any, *args: Any, **options: Any) -> Outcome:
    outcome = Outcome()
    nursery.start_soon(lambda: outcome.of(change, *args, **options))
    await wait_all_tasks_blocked()
    return outcome


# --- replicas of a group ---------------------------------------------------------------------------------------------
async def test_a_drained_replica_keeps_its_worker_and_the_front_is_told():
    world = World(Server("one", "http://a/", group="g"), Server("two", "http://b/", group="g"), B)
    assert world.changes.drain("one")
    assert not world.changes.drain("one")
    assert world.roster.drained() == {"one"}
    assert world.notes == ["front: add one at 0"]
    with pytest.raises(Refused, match="last replica of the group 'g'"):
        world.changes.drain("two")
    assert world.changes.undrain("one")
    assert not world.changes.undrain("one")
    assert world.changes.drain("two")


async def test_only_what_is_a_replica_and_has_a_worker_can_be_drained():
    world = World(Server("one", "http://a/", group="g"), Server("two", "http://b/", group="label"))
    with pytest.raises(Refused, match="no replica of a group; disable it instead"):
        world.changes.drain("two")
    world.changes.disable("one")
    with pytest.raises(Refused, match="is disabled"):
        world.changes.drain("one")
    with pytest.raises(UnknownServer):
        world.changes.drain("nobody")


async def test_a_replica_that_is_disabled_and_enabled_again_is_not_drained_any_more():
    world = World(Server("one", "http://a/", group="g"), Server("two", "http://b/", group="g"))
    world.changes.drain("one")
    world.changes.disable("one")
    world.changes.enable("one")
    assert world.roster.drained() == set()


async def test_a_replica_is_given_another_portion_of_the_calls_until_it_is_said_otherwise():
    world = World(Server("one", "http://a/", group="g"), Server("two", "http://b/", group="g"))
    assert world.changes.weigh("one", "5%") == Portion(percent=5.0)
    assert world.notes == ["front: add one at 0"]
    replica = world.roster.replica("one")
    assert replica is not None
    assert replica.portion == Portion(percent=5.0)
    assert world.changes.weigh("two", "3") == Portion(3.0)
    with pytest.raises(Refused, match="the last of the group 'g' that shares what is left"):
        world.changes.weigh("two", "5%")
    assert world.changes.weigh("one", "default") == Portion()


async def test_portions_that_cannot_be_are_refused():
    world = World(
        *(Server(name, f"http://{name}/", group="g") for name in ("one", "two", "three")), B,
    )  # fmt: skip
    world.changes.weigh("one", "60%")
    with pytest.raises(Refused, match="at most 90 together"):
        world.changes.weigh("two", "31%")
    with pytest.raises(Refused, match="is no replica of a group"):
        world.changes.weigh("b", "2")
    with pytest.raises(ConfigError):
        world.changes.weigh("two", "a lot")
    with pytest.raises(UnknownServer):
        world.changes.weigh("nobody", "2")


async def test_groups_that_come_and_go_move_only_the_servers_that_belong_to_them():
    one, two = Server("one", "http://a/", group="h"), Server("two", "http://b/", group="g")
    world = World(one, two, B)
    world.changes.regroup([Group("g"), Group("h")], {"one": one, "two": two, "b": B})
    assert world.notes == [
        "front: drop one", "front: regroup g h", "front: add one at 0", "start server one #2 2", "front: add two at 1",
    ]  # fmt: skip
    assert world.tree.children["server one"].phase is not Phase.UP, "its calls end there"
    world.notes.clear()
    world.changes.regroup([Group("h", ("one",), "priority")], {"one": one, "two": Server("two", "http://b/"), "b": B})
    assert [note for note in world.notes if note.startswith("front")] == [
        "front: drop two", "front: regroup h", "front: add two at 1", "front: add one at 0",
    ]  # fmt: skip
    assert world.changes.servers()["two"].group == ""


async def test_a_server_that_is_disabled_stays_so_when_it_comes_to_a_group():
    world = World(A, B)
    world.changes.disable("a")
    world.notes.clear()
    joined = Server("a", "http://a/", group="h")
    world.changes.regroup([Group("h")], {"a": joined, "b": B})
    assert world.notes == ["front: regroup h"]
    assert (world.changes.servers()["a"].group, world.changes.servers()["a"].enabled) == ("h", False)


async def test_a_group_cannot_take_the_name_of_a_server_nor_one_that_is_being_changed(nursery: trio.Nursery):
    world = World(A, B)
    with pytest.raises(Refused, match="'b' is the name of a server"):
        world.changes.regroup([Group("b")], {})
    await begin(nursery, world.changes.replace, A)
    with pytest.raises(Refused, match="'a' is being changed right now"):
        world.changes.regroup([Group("h")], {"a": Server("a", "http://a/", group="h")})
    assert world.roster.groups == {"g": Group("g")}


async def test_a_server_that_joins_a_group_is_offered_anew():
    world = World(A, Server("two", "http://b/", group="g"))
    await world.changes.replace(Server("a", "http://a/", group="g"), force=True)
    told = [note for note in world.notes if note.startswith(("front", "start"))]
    assert told == ["front: drop a", "front: add a at 0", "start server a #2 2"]
    assert world.roster.entries["a"].server.group == "g"


async def test_the_name_of_a_group_is_taken(world: World):
    with pytest.raises(Refused, match="is the name of a group"):
        await world.changes.add(Server("g", "http://x/"), force=True)


# --- add -------------------------------------------------------------------------------------------------------------
async def test_a_server_is_offered_only_after_it_has_been_found_to_answer(world: World, nursery: trio.Nursery):
    adding = await begin(nursery, world.changes.add, NEW)
    assert world.notes == ["start server new 1", "check server new"]
    assert "new" not in world.roster.entries
    world.says("server new", WORKS)
    await wait_all_tasks_blocked()

    assert adding.result == WORKS
    assert world.notes[2:] == ["front: add new at 2", "connect server new"]
    assert list(world.roster.entries) == ["a", "b", "new"]


@pytest.mark.parametrize("dry_run", [False, True])
async def test_a_server_that_does_not_answer_or_is_only_tried_leaves_no_worker(
    world: World, nursery: trio.Nursery, dry_run: bool
):
    adding = await begin(nursery, world.changes.add, NEW, dry_run=dry_run)
    world.says("server new", WORKS if dry_run else REFUSES)
    await wait_all_tasks_blocked()

    if dry_run:
        assert adding.result == WORKS
    else:
        assert isinstance(adding.error, Unreachable)
        assert adding.error.checked == REFUSES
    assert world.notes[2:] == ["ask server new"]
    world.ends("server new", EndKind.CLEAN)
    assert world.notes[3:] == ["gone server new", "forget server new"]
    assert set(world.roster.children) == {"server a", "server b"}
    assert list(world.roster.entries) == ["a", "b"]


async def test_a_worker_that_dies_while_its_server_is_tried_ends_the_trial(world: World, nursery: trio.Nursery):
    adding = await begin(nursery, world.changes.add, NEW)
    world.ends("server new")
    await wait_all_tasks_blocked()

    assert isinstance(adding.error, Unreachable)
    assert "server new" not in world.tree.children


async def test_a_worker_that_never_says_how_its_server_is_is_given_up(
    world: World, nursery: trio.Nursery, mock_clock: MockClock
):
    adding = await begin(nursery, world.changes.add, NEW)
    mock_clock.jump(CHECK_DEADLINE_S + 2 * CHECK_GRACE_S)
    await wait_all_tasks_blocked()

    assert isinstance(adding.error, Unreachable)
    assert adding.error.checked.number == 0
    assert world.notes[-1] == "kill server new"


async def test_with_force_nothing_is_waited_for(world: World):
    with trio.fail_after(0):
        assert await world.changes.add(NEW, force=True) is None

    assert world.notes == ["front: add new at 2", "start server new 1"]


async def test_one_name_is_changed_by_one_at_a_time(world: World, nursery: trio.Nursery):
    adding = await begin(nursery, world.changes.add, NEW)
    with pytest.raises(Refused, match="is being changed right now"):
        await world.changes.add(NEW)
    world.says("server new", WORKS)
    await wait_all_tasks_blocked()
    assert adding.done
    with pytest.raises(Refused, match="exists already"):
        await world.changes.add(NEW)


async def test_there_is_a_bound_on_servers_and_on_what_they_are_called():
    world = World(*(Server(f"s{number}", "http://x/") for number in range(SERVERS_MAX)))
    with pytest.raises(Refused, match="at most 200"):
        await world.changes.add(NEW, force=True)
    long = World(*(Server(f"s{number}", "http://x/" + "u" * 2000) for number in range(24)))
    with pytest.raises(Refused, match="longer than"):
        await long.changes.add(Server("long", "http://x/" + "u" * 2000), force=True)


async def test_a_stop_while_a_server_is_tried_refuses_it(world: World, nursery: trio.Nursery):
    adding = await begin(nursery, world.changes.add, NEW)
    world.do(world.tree.stop(0.0))
    world.says("server new", WORKS)
    await wait_all_tasks_blocked()

    assert str(adding.error) == "The proxy is stopping"
    assert "new" not in world.roster.entries
    with pytest.raises(Refused, match="The proxy is stopping"):
        world.changes.remove("a")


# --- remove, disable, enable -----------------------------------------------------------------------------------------
async def test_a_server_that_is_removed_finishes_its_calls_and_then_leaves(world: World, mock_clock: MockClock):
    removed_at = trio.current_time()
    world.changes.remove("a")
    assert world.notes == ["front: drop a"]
    assert world.tree.next_due() - removed_at == CALL_S + RETIRE_EXTRA_S, "it is killed when its calls must be over"
    world.changes.released(FRONT, "a", 1)
    assert world.notes[1:] == ["leave server a"]
    world.ends("server a", EndKind.CLEAN)
    assert world.notes[2:] == ["gone server a", "forget server a"]
    assert set(world.tree.children) == {"zygote", "front", "server b"}
    with pytest.raises(UnknownServer):
        world.changes.remove("a")


@pytest.mark.parametrize(
    ("own", "longest_s"),
    [
        ({"call_timeout_s": 5.0}, 5.0),
        ({"tool_timeouts": (("report", 600.0), ("quick", 1.0))}, 600.0),
        ({"call_timeout_s": 0.0}, CALL_CEILING_S),
    ],
)
async def test_a_worker_that_leaves_has_the_time_that_the_longest_of_its_calls_may_take(
    own: dict[str, Any], longest_s: float, mock_clock: MockClock
):
    world = World(Server("a", "http://a/", **own), B)
    world.changes.remove("a")
    assert world.tree.next_due() - trio.current_time() == longest_s + RETIRE_EXTRA_S


async def test_a_worker_leaves_when_all_fronts_have_released_it_or_are_gone():
    world = World(fronts=3)
    world.changes.remove("a")
    world.changes.released("front #2", "a", 1)
    world.changes.released("front #2", "a", 1)
    world.ends(FRONT)
    assert world.notes[1:] == ["gone front"]
    world.changes.released("front #3", "a", 1)
    assert world.notes[1:] == ["gone front", "leave server a"]


async def test_a_front_that_dies_has_no_calls_in_flight_any_more(world: World):
    world.changes.remove("a")
    world.ends(FRONT)

    assert world.notes[1:] == ["gone front", "leave server a"]
    world.changes.released(FRONT, "a", 1)
    assert world.notes[1:] == ["gone front", "leave server a"], "it has been asked already"


async def test_a_server_whose_worker_waits_for_its_restart_is_gone_at_once(world: World):
    world.ends("server a")
    world.notes.clear()
    world.changes.remove("a")

    assert world.notes == ["front: drop a", "forget server a"]
    assert "server a" not in world.tree.children


async def test_a_disabled_server_keeps_its_place_and_comes_back_with_a_new_worker(world: World):
    assert world.changes.disable("a")
    assert not world.changes.disable("a")
    assert not world.roster.entries["a"].server.enabled
    assert world.changes.enable("a"), "also while the old worker still finishes its calls"
    assert not world.changes.enable("a")

    assert world.notes == ["front: drop a", "front: add a at 0", "start server a #2 2"]
    assert list(world.roster.entries) == ["a", "b"]
    world.changes.released(FRONT, "a", 1)
    assert world.notes[3:] == ["leave server a"]
    world.ends("server a", EndKind.CLEAN)
    assert world.roster.is_offered("server a #2")


# --- replace, restart ------------------------------------------------------------------------------------------------
CHANGED = Server("a", "http://elsewhere/")


@pytest.mark.promise("R12")
async def test_a_replacement_is_ready_before_the_old_worker_gets_no_more_calls(world: World, nursery: trio.Nursery):
    replacing = await begin(nursery, world.changes.replace, CHANGED)
    assert world.notes == ["start server a #2 2", "check server a #2"]
    assert world.roster.entries["a"].server == A
    world.says("server a #2", WORKS)
    await wait_all_tasks_blocked()

    assert replacing.result == WORKS
    assert world.notes[2:] == ["front: add a at 0", "connect server a #2 gently"]
    assert world.roster.entries["a"].server == CHANGED
    assert world.roster.offering("server a") is None
    world.changes.released(FRONT, "a", 1)
    assert world.notes[4:] == ["leave server a"]


@pytest.mark.promise("R12")
@pytest.mark.parametrize("died", [False, True])
async def test_a_replacement_that_does_not_work_changes_nothing(world: World, nursery: trio.Nursery, died: bool):
    replacing = await begin(nursery, world.changes.replace, CHANGED, force=died)
    if died:
        world.ends("server a #2")
    else:
        world.says("server a #2", REFUSES)
    await wait_all_tasks_blocked()

    assert isinstance(replacing.error, Unreachable)
    assert world.roster.entries["a"].server == A
    assert world.roster.is_offered("server a")
    assert not [note for note in world.notes if "connect" in note or "front" in note]


async def test_a_forced_replacement_takes_over_whatever_its_server_says(world: World, nursery: trio.Nursery):
    replacing = await begin(nursery, world.changes.replace, CHANGED, force=True)
    world.says("server a #2", REFUSES)
    await wait_all_tasks_blocked()

    assert replacing.result == REFUSES
    assert world.roster.is_offered("server a #2")


async def test_replacing_can_also_disable_and_enable(world: World):
    off = Server("a", "http://elsewhere/", enabled=False)
    await world.changes.replace(off)
    assert world.notes == ["front: drop a"]
    assert world.roster.entries["a"].server == off
    await world.changes.replace(CHANGED)
    assert world.notes[1:] == ["front: add a at 0", "start server a #2 2"]
    assert world.roster.entries["a"].server == CHANGED


async def test_a_restart_by_hand_replaces_a_worker_that_runs_and_starts_one_that_waits(
    world: World, nursery: trio.Nursery
):
    restarting = await begin(nursery, world.changes.restart, "a")
    world.says("server a #2", WORKS)
    await wait_all_tasks_blocked()
    assert restarting.error is None
    assert world.roster.is_offered("server a #2")

    world.ends("server b")
    world.notes.clear()
    await world.changes.restart("b")
    assert world.notes == ["start server b 2"]
    await world.changes.restart("b")
    assert world.notes == ["start server b 2"], "it is being started already"
    world.changes.disable("b")
    with pytest.raises(Refused, match="is disabled; enable it instead"):
        await world.changes.restart("b")


# --- checks ----------------------------------------------------------------------------------------------------------
async def test_a_check_is_shared_by_all_who_want_to_know(world: World, nursery: trio.Nursery):
    asking = [await begin(nursery, world.changes.check, "a") for _ in range(3)]
    assert world.notes == ["check server a"]
    world.says("server a", WORKS)
    await wait_all_tasks_blocked()

    assert [one.result for one in asking] == [WORKS] * 3
    late = await begin(nursery, world.changes.check, "a")
    assert world.notes == ["check server a", "check server a"], "an old answer is no answer"
    world.ends("server a")
    await wait_all_tasks_blocked()
    assert isinstance(late.result, Checked)
    assert late.result.number == 0


async def test_who_has_no_worker_cannot_be_checked(world: World):
    world.changes.disable("a")
    assert await world.changes.check("a") is None
    world.ends("server b")
    assert await world.changes.check("b") is None
    with pytest.raises(UnknownServer, match="Server 'c' not found"):
        await world.changes.check("c")
