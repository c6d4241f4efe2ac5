"""The tree's decisions, without a process: orders, deadlines, and what an end leads to."""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from protocol.limits import BOOT_DEADLINE_S, PARK_RETRY_S, RESTART_INTENSITY, STOP_S, TREE_INTENSITY, WORKER_STOP_S
from supervisor.config import Server, Settings
from supervisor.plan import child_specs
from supervisor.restart import Action, End, EndKind
from supervisor.spec import ChildSpec, Role, SpecError
from supervisor.tree import (
    ALIVE,
    FORK_DEADLINE_S,
    KILL_REPORT_S,
    Ask,
    Do,
    Finish,
    Gone,
    Kill,
    Phase,
    Start,
    Tree,
)

CRASH = End(EndKind.CRASH, "failed with exit status 3")
CLEAN = End(EndKind.CLEAN, "ended by itself")
LOST = End(EndKind.LOST, "died with the zygote")
SERVERS = (Server("a", "http://a/"), Server("b", "http://b/"))


class World:
    """A tree and the processes it believes in. Does at once what the tree says, and notes it."""

    def __init__(self, **options: bool) -> None:
        self.tree = Tree(child_specs(Settings(SERVERS, **(options or {"http": True}))), Random(0))
        self.now = 0.0
        self.running: dict[str, int] = {}
        self.killed: set[str] = set()
        self.asked: set[str] = set()
        self.notes: list[str] = []
        self.verdicts: list[Gone] = []
        self.exit_code: int | None = None

    def note(self, actions: list[Do]) -> list[str]:
        """Carry out the actions; return and remember them in short form."""
        notes = [self.carry_out(action) for action in actions]
        self.notes += notes
        return notes

    def carry_out(self, action: Do) -> str:
        match action:
            case Start(name, incarnation):
                assert name not in self.running, f"{name} is started a second time"
                assert name == "zygote" or "zygote" in self.running
                self.running[name] = incarnation
                return f"start {name} {incarnation}"
            case Ask(name):
                self.asked.add(name)
                return f"ask {name}"
            case Kill(name, _):
                assert name in self.running
                self.killed.add(name)
                return f"kill {name}"
            case Gone(name, end, verdict):
                self.verdicts.append(action)
                self.running.pop(name, None)  # given up: the kernel does not let go of it
                return f"gone {name}: {end.kind.value}, {verdict.action.value if verdict else 'nothing'}"
            case Finish(code):
                assert not self.running, f"finished with {self.running} running"
                assert self.exit_code is None
                self.exit_code = code
                return f"finish {code}"

    def start(self) -> list[str]:
        return self.note(self.tree.start(self.now))

    def ready(self, *names: str) -> None:
        for name in names or tuple(self.running):
            if name != "zygote":
                self.tree.forked(name, self.running[name], self.now)
                self.tree.ready(name, self.running[name], self.now)

    def exits(self, name: str, end: End = CRASH) -> list[str]:
        incarnation = self.running.pop(name)
        self.killed.discard(name)
        self.asked.discard(name)
        return self.note(self.tree.exited(name, incarnation, end, self.now))

    def wait(self, seconds: float = 0.0) -> list[str]:
        self.now += seconds
        return self.note(self.tree.due(self.now))

    def phase(self, name: str) -> Phase:
        return self.tree.children[name].phase


@pytest.fixture
def world() -> World:
    """A tree whose children are all up."""
    world = World()
    world.start()
    world.ready()
    world.notes.clear()
    return world


# --- start and restart -----------------------------------------------------------------------------------------------
@pytest.mark.case("C-15")
def test_the_zygote_starts_first_then_the_front_then_the_servers_as_configured():
    assert World().start() == ["start zygote 1", "start front 1", "start server a 1", "start server b 1"]


def test_specifications_that_make_no_tree_are_refused():
    with pytest.raises(SpecError):
        Tree([], Random(0))


@pytest.mark.promise("R01")
def test_a_worker_that_ends_is_replaced_alone(world: World):
    assert world.exits("server a") == ["gone server a: crash, restart now"]
    assert world.wait() == ["start server a 2"]
    assert [world.phase(name) for name in ("front", "server b", "zygote")] == [Phase.UP] * 3


def test_an_event_about_an_earlier_incarnation_changes_nothing(world: World):
    world.exits("server a")
    world.wait()

    assert world.tree.exited("server a", 1, CRASH, world.now) == []
    assert world.tree.blame("server a", 1, "is late", world.now) == []
    assert not world.tree.ready("server a", 1, world.now)
    assert world.phase("server a") is Phase.FORKING


def test_the_end_of_one_incarnation_counts_once(world: World):
    world.exits("server a")

    assert world.tree.exited("server a", 1, CRASH, world.now) == []


@pytest.mark.case("C-14")
def test_a_failed_restart_is_queued_and_never_made_while_the_failure_is_handled(world: World):
    for _ in range(RESTART_INTENSITY):
        assert not [note for note in world.exits("server a") if note.startswith("start")]
        world.wait(30.0)


@pytest.mark.case("C-14")
def test_a_stop_overtakes_a_restart_that_is_queued(world: World):
    world.exits("server a")
    world.note(world.tree.stop(world.now))

    assert world.wait(1000.0)[:1] != ["start server a 2"]
    assert not [note for note in world.notes if note.startswith("start")]


@pytest.mark.case("C-14")
def test_a_child_that_fails_during_a_stop_is_not_restarted(world: World):
    world.note(world.tree.stop(world.now))
    world.exits("server a")
    for name in ("front", "server b", "zygote"):
        world.exits(name, CLEAN)

    assert world.exit_code == 0
    assert not [note for note in world.notes if note.startswith("start")]


def test_a_worker_that_is_not_ready_in_time_is_killed_and_counts_as_a_failure(world: World):
    world.exits("server a")
    world.wait()
    world.tree.forked("server a", 2, world.now)

    assert world.wait(BOOT_DEADLINE_S - 0.01) == []
    assert world.wait(0.01) == ["kill server a"]
    assert world.exits("server a", End(EndKind.SIGNAL, "was killed by SIGKILL")) == [
        "gone server a: stuck, restart after a delay"
    ]
    assert world.verdicts[-1].end.text == "was not ready after 10 s"


def test_a_worker_may_be_ready_before_the_zygote_says_that_it_is_forked(world: World):
    world.exits("server a")
    world.wait()

    assert world.tree.ready("server a", 2, world.now)
    world.tree.forked("server a", 2, world.now)

    assert world.phase("server a") is Phase.UP
    assert not world.tree.ready("server a", 2, world.now)


def test_a_worker_that_is_blamed_is_killed_once_and_restarted(world: World):
    assert world.note(world.tree.blame("server a", 1, "broke its link", world.now)) == ["kill server a"]
    assert world.note(world.tree.blame("server a", 1, "broke its link", world.now)) == []

    assert world.exits("server a", End(EndKind.SIGNAL, "was killed by SIGKILL")) == [
        "gone server a: stuck, restart now"
    ]


@pytest.mark.case("C-13", "B-28")
def test_a_server_that_keeps_failing_is_parked_and_harms_nobody(world: World):
    for _ in range(RESTART_INTENSITY + 1):
        notes = world.exits("server a")
        if world.phase("server a") is Phase.WAITING and not world.tree.children["server a"].parked:
            world.now = world.tree.next_due()
            world.wait()

    assert notes == ["gone server a: crash, park"]
    assert world.tree.children["server a"].parked
    assert world.wait(PARK_RETRY_S - 1.0) == []
    assert world.wait(1.0) == [f"start server a {RESTART_INTENSITY + 2}"]
    assert [world.phase(name) for name in ("front", "server b", "zygote")] == [Phase.UP] * 3


def test_a_front_that_ends_in_peace_stops_everything_where_it_had_the_only_client():
    world = World(stdio=True)
    world.start()
    world.ready()

    assert world.exits("front", CLEAN) == ["gone front: clean, stop", "ask server a", "ask server b"]
    for name in ("server a", "server b", "zygote"):
        world.exits(name, CLEAN)
    assert world.exit_code == 0


def test_a_front_that_crashes_is_replaced_also_where_it_has_the_only_client():
    world = World(stdio=True)
    world.start()
    world.ready()

    assert world.exits("front", CRASH) == ["gone front: crash, restart now"]
    assert world.wait() == ["start front 2"]


# --- workers that come and go ----------------------------------------------------------------------------------------
C = ChildSpec("server c", Role.SERVER)


def test_a_worker_that_is_added_starts_at_once_and_is_kept_like_all_others(world: World):
    assert world.note(world.tree.add(C, world.now)) == ["start server c 1"]
    world.ready("server c")

    assert world.exits("server c") == ["gone server c: crash, restart now"]
    assert world.wait() == ["start server c 2"]
    assert [world.phase(name) for name in ("front", "server a", "server b")] == [Phase.UP] * 3


def test_a_worker_that_is_added_while_there_is_no_zygote_starts_with_the_next(world: World):
    world.exits("zygote")

    assert world.note(world.tree.add(C, world.now)) == []
    for name in ("front", "server a", "server b"):
        world.exits(name, LOST)
    assert "start server c 1" in world.wait()


def test_a_name_that_is_taken_cannot_be_added(world: World):
    with pytest.raises(SpecError, match="two children are called 'server a'"):
        world.tree.add(ChildSpec("server a", Role.SERVER), world.now)
    with pytest.raises(SpecError, match="exactly one zygote"):
        world.tree.add(ChildSpec("another", Role.ZYGOTE), world.now)
    assert world.running == {"zygote": 1, "front": 1, "server a": 1, "server b": 1}


def end_of(world: World, phase: Phase) -> None:
    """Bring "server a" into a phase."""
    if phase is Phase.UP:
        return
    if phase is Phase.STOPPING:
        world.note(world.tree.remove("server a", world.now))
        return
    world.exits("server a")
    if phase is not Phase.WAITING:
        world.wait()
    if phase is Phase.BOOTING:
        world.tree.forked("server a", 2, world.now)
    if phase is Phase.DYING:
        world.note(world.tree.blame("server a", 2, "broke a rule", world.now))


@pytest.mark.parametrize(
    ("phase", "notes"),
    [
        (Phase.WAITING, []),
        (Phase.FORKING, ["kill server a"]),
        (Phase.BOOTING, ["kill server a"]),
        (Phase.UP, ["ask server a"]),
        (Phase.STOPPING, []),
        (Phase.DYING, []),
    ],
    ids=lambda value: value.value if isinstance(value, Phase) else "",
)
def test_a_worker_that_is_removed_leaves_and_does_not_come_back(world: World, phase: Phase, notes: list[str]):
    end_of(world, phase)
    assert world.phase("server a") is phase

    assert world.note(world.tree.remove("server a", world.now)) == notes
    if "server a" in world.running:
        assert world.exits("server a", CLEAN)[0].endswith("nothing")

    assert "server a" not in world.tree.children
    assert world.wait(1000.0) == []
    assert [world.phase(name) for name in ("front", "server b", "zygote")] == [Phase.UP] * 3


def test_a_removed_worker_that_does_not_obey_is_killed_and_one_that_the_kernel_keeps_is_forgotten_with_the_zygote(
    world: World,
):
    world.note(world.tree.remove("server a", world.now))

    assert world.wait(WORKER_STOP_S) == ["kill server a"]
    assert world.wait(KILL_REPORT_S) == ["kill zygote"]
    world.exits("zygote")
    assert "gone server a: asked, nothing" in world.wait(2 * KILL_REPORT_S)
    assert "server a" not in world.tree.children


def test_a_worker_that_retires_is_neither_asked_nor_restarted_and_killed_only_when_its_time_is_over(world: World):
    assert world.note(world.tree.retire("server a", 25.0, world.now)) == []
    assert world.note(world.tree.retire("server b", 25.0, world.now)) == []

    assert world.exits("server b") == ["gone server b: asked, nothing"]
    assert world.wait(24.9) == []
    assert world.wait(0.1) == ["kill server a"]
    world.exits("server a", End(EndKind.SIGNAL, "was killed by SIGKILL"))
    assert world.wait(1000.0) == []
    assert set(world.tree.children) == {"zygote", "front"}


def test_a_worker_that_retires_does_not_hold_up_a_stop(world: World):
    world.note(world.tree.retire("server a", 1000.0, world.now))
    world.note(world.tree.stop(world.now))
    world.exits("front", CLEAN)
    world.exits("server b", CLEAN)

    assert world.wait(STOP_S - 1.0) == ["kill server a"]


def test_a_worker_that_is_not_up_retires_at_once(world: World):
    world.exits("server a")

    assert world.note(world.tree.retire("server a", 25.0, world.now)) == []
    assert "server a" not in world.tree.children


def test_a_name_that_comes_back_never_has_an_incarnation_again(world: World):
    world.exits("server a")
    world.wait()
    world.ready("server a")
    world.note(world.tree.remove("server a", world.now))
    world.exits("server a", CLEAN)

    assert world.note(world.tree.add(ChildSpec("server a", Role.SERVER), world.now)) == ["start server a 3"]
    assert world.note(world.tree.add(C, world.now)) == ["start server c 3"]


def test_a_parked_worker_can_be_started_by_hand_and_has_no_past_then(world: World):
    while not world.tree.children["server a"].parked:
        world.exits("server a")
        if not world.tree.children["server a"].parked:
            world.now = world.tree.next_due()
            world.wait()

    assert world.note(world.tree.retry("server a", world.now))[0].startswith("start server a")
    world.ready("server a")
    assert world.exits("server a") == ["gone server a: crash, restart now"]
    world.wait()
    assert world.tree.retry("server a", world.now) == []


def test_a_worker_that_waits_is_started_by_hand_with_the_next_zygote_if_there_is_none(world: World):
    world.exits("server a")
    world.wait()
    world.exits("server a")
    world.exits("zygote")

    assert world.note(world.tree.retry("server a", world.now)) == []
    world.exits("front", LOST)
    world.exits("server b", LOST)
    assert "start server a 3" in world.wait()


def test_a_worker_that_is_leaving_when_everything_stops_is_waited_for(world: World):
    world.note(world.tree.remove("server a", world.now))
    world.note(world.tree.stop(world.now))
    world.exits("front", CLEAN)

    assert world.exits("server b", CLEAN) == ["gone server b: asked, nothing"]
    assert world.exits("server a", CLEAN) == ["gone server a: asked, nothing", "ask zygote"]


# --- the zygote ------------------------------------------------------------------------------------------------------
def lose_zygote(world: World) -> None:
    """The zygote ends, and its workers with it."""
    world.exits("zygote")
    for name in [name for name in world.running if name != "zygote"]:
        world.exits(name, LOST)


@pytest.mark.case("C-05")
def test_when_the_zygote_ends_all_workers_are_made_sure_of_and_then_all_start_again(world: World):
    assert world.exits("zygote") == ["gone zygote: crash, restart now", "kill front", "kill server a", "kill server b"]
    world.exits("front", LOST)
    world.exits("server a", LOST)
    assert world.wait() == [], "a worker of the old zygote is still there"
    world.exits("server b", LOST)

    assert world.wait() == ["start zygote 2", "start front 2", "start server a 2", "start server b 2"]


def test_workers_that_died_with_the_zygote_are_not_held_responsible(world: World):
    lose_zygote(world)
    world.wait()
    world.ready()

    assert world.exits("server a") == ["gone server a: crash, restart now"]


def test_a_server_that_waits_its_time_goes_on_waiting_when_the_zygote_is_replaced(world: World):
    world.exits("server a")
    world.wait()
    world.exits("server a")
    due = world.tree.children["server a"].deadline
    world.exits("zygote")
    world.exits("front", LOST)
    world.exits("server b", LOST)

    assert world.wait() == ["start zygote 2", "start front 2", "start server b 2"]
    assert world.wait(due - world.now) == ["start server a 3"]


def test_no_worker_is_started_while_there_is_no_zygote(world: World):
    world.exits("server a")
    world.exits("zygote")
    world.exits("front", LOST)

    assert world.wait(1.0) == []
    assert math.isinf(world.tree.next_due()) or world.tree.next_due() > world.now
    world.exits("server b", LOST)
    assert world.wait() == ["start zygote 2", "start front 2", "start server a 2", "start server b 2"]


@pytest.mark.case("C-13")
def test_a_zygote_that_keeps_failing_ends_the_run_with_an_error(world: World):
    for _ in range(TREE_INTENSITY):
        lose_zygote(world)
        world.now = world.tree.next_due()
        world.wait()
    lose_zygote(world)

    assert world.verdicts[-4].verdict is not None
    assert world.verdicts[-4].verdict.action is Action.ESCALATE
    assert world.exit_code == 1


def fail_until_escalation(world: World, name: str) -> None:
    for _ in range(RESTART_INTENSITY + 1):
        world.exits(name)
        if world.phase("zygote") is Phase.DYING:
            return
        world.now = world.tree.next_due()
        world.wait()
        world.ready(name)
    raise AssertionError("never escalated")


@pytest.mark.case("C-13")
def test_a_front_that_keeps_failing_has_everything_replaced_and_then_ends_the_run():
    """Levels multiply (OTP): 6 failures of the front are one of the tree, and the tree gives up at its fourth."""
    world = World()
    world.start()
    world.ready()
    for escalation in range(TREE_INTENSITY + 1):
        fail_until_escalation(world, "front")
        assert world.now < 60.0
        lose_zygote(world)
        if escalation < TREE_INTENSITY:
            world.now = world.tree.next_due()
            assert f"start zygote {escalation + 2}" in world.wait()
            world.ready()

    assert world.exit_code == 1
    assert sum(note.startswith("gone front: crash") for note in world.notes) == 24


def test_a_zygote_that_does_not_fork_is_replaced(world: World):
    world.exits("server a")
    world.wait()

    assert world.wait(FORK_DEADLINE_S) == ["kill zygote"]
    assert world.exits("zygote")[0] == "gone zygote: stuck, restart now"


def test_a_zygote_that_does_not_report_an_end_is_replaced(world: World):
    world.note(world.tree.blame("server a", 1, "broke its link", world.now))

    assert world.wait(KILL_REPORT_S) == ["kill zygote"]


def test_a_process_that_the_kernel_does_not_let_go_of_is_given_up(world: World):
    world.exits("zygote")
    world.exits("front", LOST)
    world.exits("server a", LOST)

    assert world.wait(KILL_REPORT_S) == ["gone server b: lost, nothing"]
    assert world.wait() == ["start zygote 2", "start front 2", "start server a 2", "start server b 2"]


# --- stopping --------------------------------------------------------------------------------------------------------
@pytest.mark.case("C-15")
@pytest.mark.promise("R11")
def test_a_stop_goes_from_the_front_over_the_servers_to_the_zygote(world: World):
    assert world.note(world.tree.stop(world.now)) == ["ask front"]
    assert world.exits("front", CLEAN) == ["gone front: asked, nothing", "ask server a", "ask server b"]
    assert world.exits("server b", CLEAN) == ["gone server b: asked, nothing"]
    assert world.exits("server a", CLEAN) == ["gone server a: asked, nothing", "ask zygote"]
    assert world.exits("zygote", CLEAN) == ["gone zygote: asked, nothing", "finish 0"]


@pytest.mark.case("C-15", "C-06")
@pytest.mark.promise("R11")
def test_a_stop_ends_in_time_when_nobody_obeys(world: World):
    world.note(world.tree.stop(world.now))
    while world.exit_code is None:
        world.now = world.tree.next_due()
        world.wait()
        for name in list(world.killed):
            world.exits(name, End(EndKind.SIGNAL, "was killed by SIGKILL"))

    assert world.now <= STOP_S
    order = [note for note in world.notes if note.startswith("kill")]
    assert order == ["kill front", "kill server a", "kill server b", "kill zygote"]
    assert world.exit_code == 0


@pytest.mark.case("C-15")
def test_one_slow_child_uses_up_its_own_time_only(world: World):
    world.note(world.tree.stop(world.now))
    world.exits("front", CLEAN)
    world.exits("server a", CLEAN)

    assert world.wait(WORKER_STOP_S - 0.01) == []
    assert world.wait(0.01) == ["kill server b"]


def test_a_second_request_to_stop_changes_nothing(world: World):
    world.note(world.tree.stop(world.now))

    assert world.tree.stop(world.now) == []


@pytest.mark.case("C-06")
def test_a_stop_at_once_kills_the_workers_and_then_ends_the_zygote(world: World):
    world.note(world.tree.stop(world.now))

    assert world.note(world.tree.stop_now(world.now, 130)) == ["kill front", "kill server a", "kill server b"]
    for name in ("server b", "front", "server a"):
        world.exits(name, End(EndKind.SIGNAL, "was killed by SIGKILL"))
    assert world.notes[-1] == "ask zygote"
    assert world.exits("zygote", CLEAN)[-1] == "finish 130"


@pytest.mark.case("C-06")
def test_a_stop_at_once_does_not_wait_for_a_zygote_that_is_stuck():
    world = World()
    world.start()
    world.note(world.tree.stop_now(world.now, 143))
    while world.exit_code is None:
        world.now = world.tree.next_due()
        world.wait()
        if "zygote" in world.killed:
            lose_zygote(world)

    assert world.now <= 2 * KILL_REPORT_S


@pytest.mark.case("C-06")
def test_a_stop_during_the_start_asks_whoever_is_there_and_waits_for_none_that_never_answers():
    world = World()
    world.start()
    world.ready("server a")

    assert world.note(world.tree.stop(world.now)) == ["ask front"]
    assert world.wait(WORKER_STOP_S) == ["kill front"]


def test_a_zygote_that_dies_during_a_stop_is_not_replaced(world: World):
    world.note(world.tree.stop(world.now))

    assert world.exits("zygote", CRASH) == [
        "gone zygote: crash, nothing",
        "kill front",
        "kill server a",
        "kill server b",
    ]
    for name in ("front", "server a", "server b"):
        world.exits(name, LOST)
    assert world.exit_code == 0
    assert not [note for note in world.notes if note.startswith("start")]


# --- everything at once ----------------------------------------------------------------------------------------------
class AnyHistory(RuleBasedStateMachine):
    """Whatever happens in whatever order, the rules of the tree hold, and a stop ends in time."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.world.start()

    def pick(self, index: int) -> str:
        names = sorted(self.world.running)
        return names[index % len(names)]

    @precondition(lambda self: self.world.running)
    @rule(index=st.integers(0, 3), kind=st.sampled_from([EndKind.CRASH, EndKind.CLEAN, EndKind.SIGNAL]))
    def process_ends(self, index: int, kind: EndKind) -> None:
        name = self.pick(index)
        if name == "zygote":
            lose_zygote(self.world)
        else:
            self.world.exits(name, End(kind, "ended"))

    @precondition(lambda self: self.world.running)
    @rule(index=st.integers(0, 3))
    def worker_is_ready(self, index: int) -> None:
        self.world.ready(self.pick(index))

    @precondition(lambda self: self.world.running)
    @rule(index=st.integers(0, 3))
    def worker_is_blamed(self, index: int) -> None:
        name = self.pick(index)
        self.world.note(self.world.tree.blame(name, self.world.running[name], "broke a rule", self.world.now))

    @precondition(lambda self: not self.world.tree.stopping)
    @rule(name=st.sampled_from(["server a", "server b", "server c"]))
    def worker_comes_or_goes(self, name: str) -> None:
        tree = self.world.tree
        if name not in tree.children:
            self.world.note(tree.add(ChildSpec(name, Role.SERVER), self.world.now))
        else:
            self.world.note(tree.remove(name, self.world.now))

    @rule(name=st.sampled_from(["server a", "server b"]))
    def worker_is_started_by_hand(self, name: str) -> None:
        if name in self.world.tree.children:
            self.world.note(self.world.tree.retry(name, self.world.now))

    @rule(seconds=st.floats(0, 40))
    def time_passes(self, seconds: float) -> None:
        end = self.world.now + seconds
        while self.world.tree.next_due() <= end:
            self.world.now = max(self.world.now, self.world.tree.next_due())
            self.world.wait()
            for name in sorted(self.world.killed & set(self.world.running)):
                self.kill_is_done(name)
        self.world.now = end

    def kill_is_done(self, name: str) -> None:
        if name == "zygote":
            lose_zygote(self.world)
        elif name in self.world.running:
            self.world.exits(name, End(EndKind.SIGNAL, "was killed by SIGKILL"))

    @rule()
    def stop_is_asked_for(self) -> None:
        self.world.note(self.world.tree.stop(self.world.now))

    @rule()
    def stop_at_once_is_asked_for(self) -> None:
        self.world.note(self.world.tree.stop_now(self.world.now, 143))

    @invariant()
    def children_and_processes_agree(self) -> None:
        alive = {name for name, child in self.world.tree.children.items() if child.phase in ALIVE}
        assert alive == set(self.world.running)

    @invariant()
    def nothing_waits_for_ever(self) -> None:
        for name, child in self.world.tree.children.items():
            guarded = child.phase in (Phase.UP, Phase.ENDED) or not math.isinf(child.deadline)
            assert guarded or (child.phase is Phase.WAITING and self.world.phase("zygote") is not Phase.UP), name

    @invariant()
    def a_finished_tree_has_no_process(self) -> None:
        assert self.world.exit_code is None or not self.world.running

    def teardown(self) -> None:
        begin = self.world.now
        self.world.note(self.world.tree.stop(self.world.now))
        self.time_passes(STOP_S + 2 * KILL_REPORT_S)
        assert self.world.exit_code is not None, f"not stopped {self.world.now - begin} s after being asked"


TestAnyHistory = AnyHistory.TestCase
TestAnyHistory.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
