"""Single faults, one at a time, where what has to follow can be said exactly."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable

import pytest
import trio

from protocol.errors import SERVER_UNAVAILABLE
from protocol.limits import HEARTBEAT_S, REST_S
from supervisor.wording import GENERAL_OUTAGE
from tests.sim.checkers import check
from tests.sim.history import History
from tests.sim.kernel import SIGKILL_STATUS
from tests.sim.world import Plan, World, run, whole_life

QUICK = Plan(seed="quick", eras=("both", "modern"), latency_s=0.0, jitter_s=0.0, http_clients=())
PROBE_S = 8.0

Story = Callable[[World], Awaitable[None]]


def run_well(plan: Plan, story: Story) -> History:
    """Run a story that begins with a started world and ends with a stop; nothing may be wrong with its history."""

    async def whole(world: World) -> None:
        await world.start()
        await serves(world, *[server.name for server in world.servers])
        await story(world)
        await world.finish()

    history = run(plan, whole)
    assert check(history) == []
    return history


async def serves(world: World, *servers: str, within_s: float = 10.0) -> None:
    """Wait until calls of these servers go well."""
    client = world.new_client("modern")
    with trio.fail_after(within_s):
        for server in servers:
            while (await client.probe(server, PROBE_S)).outcome != "result":  # noqa: ASYNC110 - it looks again
                await trio.sleep(0.05)


def starts(history: History, name: str) -> int:
    return sum(name == started for started, _ in history.starts)


def harm(world: World, *servers: str, lasts_s: float = 0.0, front: bool = False) -> None:
    """Say in the history that these servers' calls may suffer from now on for a while; "" for everybody's."""
    some = frozenset(servers) if servers else None
    world.history.cause("by the test", lasts_s, some, front=front, effects_s=30.0)


# --- processes -------------------------------------------------------------------------------------------------------
@pytest.mark.case("C-22")
@pytest.mark.parametrize("what", ["fork", "memory", "control_pair", "descriptors", "link_pair", "duplicate"])
def test_what_cannot_be_had_for_a_worker_is_a_failed_start_and_tried_again(what: str):
    async def story(world: World) -> None:
        harm(world, "s0")
        world.scarcity.next_fail[what] = 3
        worker, bystander = world.process("server s0"), world.process("server s1")
        assert worker is not None
        worker.die(SIGKILL_STATUS)
        await serves(world, "s1")
        await serves(world, "s0", within_s=30.0)
        assert world.process("server s1") is bystander
        assert world.scarcity.next_fail[what] == 0 or what == "duplicate"  # which only a full socket needs

    run_well(QUICK, story)


@pytest.mark.case("C-22")
def test_a_zygote_that_cannot_be_started_is_tried_again():
    async def story(world: World) -> None:
        harm(world, front=True)
        world.scarcity.next_fail["launch"] = 1
        zygote = world.process("zygote")
        assert zygote is not None
        zygote.die(SIGKILL_STATUS)
        await serves(world, "s0", "s1")

    assert starts(run_well(QUICK, story), "zygote") == 2


def calls_in_a_worker(tool: str) -> int:
    """Return in how many system calls of its worker one call of a tool consists."""
    counted: list[int] = []

    async def story(world: World) -> None:
        worker = world.process("server s0")
        assert worker is not None
        worker.fuse = 10_000
        await world.new_client("modern").probe("s0", PROBE_S, tool)
        counted.append(10_000 - worker.fuse)

    run_well(QUICK, story)
    return counted[0]


@pytest.mark.case("C-01")
@pytest.mark.promise("R04")
@pytest.mark.parametrize("tool", ["act", "read"])
def test_a_worker_may_die_in_any_system_call_and_its_call_is_answered_once_and_not_made_twice(tool: str):
    def killed_in(fuse: int) -> History:
        async def story(world: World) -> None:
            harm(world, "s0")
            assert (await world.new_client("modern").probe("s0", PROBE_S, with_list=True)).outcome == "result"
            worker = world.process("server s0")
            assert worker is not None
            worker.fuse = fuse
            call = await world.new_client("modern").probe("s0", PROBE_S, tool)
            executed = len(world.history.executed.get(call.uid, ()))
            assert call.outcome in ("result", "error"), call
            if tool == "act":
                assert executed <= 1
            if call.outcome == "error" and call.code == SERVER_UNAVAILABLE:
                assert executed == 0
            if tool == "read":
                assert call.outcome == "result"  # there is always a worker that can do it, or do it again
            await serves(world, "s0")

        return run_well(QUICK, story)

    count = calls_in_a_worker(tool)
    assert count > 4
    outcomes = {history.calls[3].outcome for history in map(killed_in, range(1, count + 1))}
    assert outcomes == ({"result"} if tool == "read" else {"result", "error"})


def stopped(*moments: float) -> list[str]:
    """Start, make one call, and stop at each of these moments; return the trace."""
    plan = Plan(seed="stop", eras=("modern",), latency_s=0.002, jitter_s=0.0, http_clients=())
    trace: list[str] = []

    async def story(world: World) -> None:
        await world.start()
        client = world.new_client("modern")

        async def stop(moment: float) -> None:
            await trio.sleep_until(moment)
            world.stop()

        async with trio.open_nursery() as nursery:
            for moment in moments:
                nursery.start_soon(stop, moment)
            await client.probe("s0", PROBE_S)
            await trio.sleep_until(max(moments, default=0.0))
        await world.finish()

    history = run(plan, story, trace=trace)
    assert check(history) == [], moments
    return trace


def moments_of(trace: list[str], since: float = 0.0) -> list[float]:
    """Return when something happened, and moments shortly after."""
    at = {float(line.split(" ", 1)[0]) for line in trace}
    found = sorted(moment + more for moment in at if moment >= since for more in (0.0, 0.0001))
    assert len(found) > 6
    return found


@pytest.mark.case("C-32")
@pytest.mark.promise("R11")
def test_a_stop_at_any_moment_of_a_start_and_a_call_leaves_nothing():
    for moment in moments_of(stopped()):
        stopped(moment)


@pytest.mark.case("C-32")
@pytest.mark.promise("R11")
def test_a_second_signal_at_any_moment_of_a_stop_leaves_nothing():
    begins_at = 0.2485  # in the middle of the call
    for moment in moments_of(stopped(begins_at), since=begins_at):
        stopped(begins_at, moment + 0.1001)  # sooner, it would count as the same signal


@pytest.mark.promise("R11")
def test_a_second_signal_stops_at_once():
    async def story(world: World) -> None:
        harm(world, front=True)
        front = world.process("front")
        assert front is not None
        front.stop()  # it would take its whole time to stop
        world.stop()
        await trio.sleep(1.0)
        world.machine.send_signal(signal.SIGTERM)
        await trio.sleep(0.5)

    history = run_well(QUICK, story)

    assert history.finished_at - history.stopped_at < 2.0
    assert history.exit_status == 128 + signal.SIGTERM


# --- time ------------------------------------------------------------------------------------------------------------
@pytest.mark.case("C-23")
@pytest.mark.promise("R21")
@pytest.mark.parametrize("shift_s", [3600.0, -3600.0, 365 * 86_400.0, -365 * 86_400.0])
def test_setting_the_wall_clock_moves_nothing(shift_s: float):
    plan = Plan(seed="wall", eras=("legacy", "modern"), stdio="legacy", load_s=4.0, ms_max=1000)

    def played(shift_s: float) -> list[tuple[str, str, float]]:
        async def story(world: World) -> None:
            for number in range(8):
                sign = 1 if number % 2 else -1
                world.agenda.at(number / 2, lambda sign=sign: setattr(world.times, "wall_shift", sign * shift_s))
            await whole_life(world)

        history = run(plan, story)
        assert check(history) == []
        assert all(end.at >= history.stopped_at for end in history.ends), "somebody was killed"
        return [(call.uid, call.outcome, call.ended_at) for call in history.calls]

    assert played(shift_s) == played(0.0)


@pytest.mark.case("C-24")
@pytest.mark.promise("R21")
@pytest.mark.parametrize("lasts_s", [10.0, 8 * 3600.0])
def test_a_machine_that_slept_kills_nobody_when_it_wakes(lasts_s: float):
    async def story(world: World) -> None:
        harm(world, lasts_s=lasts_s, front=True)
        before = [process.label for process in world.kernel.processes if process.is_alive]
        world.suspend(lasts_s)
        await trio.sleep(lasts_s)
        await serves(world, "s0", "s1", within_s=5.0)
        await trio.sleep(30.0)
        assert [process.label for process in world.kernel.processes if process.is_alive] == before

    run_well(QUICK, story)


@pytest.mark.case("C-24")
@pytest.mark.promise("R21")
def test_workers_that_rest_are_told_that_the_machine_slept_and_check_their_servers_soon():
    async def story(world: World) -> None:
        await trio.sleep(REST_S + 5.0)  # all rest by now
        harm(world, lasts_s=600.0, front=True)
        world.suspend(600.0)
        await trio.sleep(600.0 - 0.01)
        told_before = told(world.history)
        await trio.sleep(0.01 + HEARTBEAT_S)
        assert told(world.history) - told_before == len(world.servers)

    run_well(QUICK, story)


def told(history: History) -> int:
    return sum(event == "nothing ran for a while; the server is checked" for _, _, event, _ in history.logs)


@pytest.mark.promise("R03")
def test_one_stopped_worker_is_replaced_and_the_others_are_not():
    async def story(world: World) -> None:
        harm(world, "s0")
        worker, bystander = world.process("server s0"), world.process("server s1")
        assert worker is not None
        worker.stop()
        began = trio.current_time()
        await serves(world, "s0")
        assert trio.current_time() - began < 9.0
        assert world.process("server s1") is bystander

    assert starts(run_well(QUICK, story), "server s0") == 2


# --- links -----------------------------------------------------------------------------------------------------------
@pytest.mark.case("C-30")
@pytest.mark.parametrize("number", range(6))
def test_links_that_stop_one_by_one_and_go_on_in_another_order_lose_nothing(number: int):
    plan = Plan(
        seed=f"swizzle {number}",
        eras=("both", "modern", "legacy", "modern"),
        kinds=("swizzle",),
        mean_pause_s=0.3,
        stdio="modern",
        pause_s=0.2,
        link_capacity=(4_000, 200_000)[number % 2],
    )
    history = run(plan)

    assert check(history) == []
    assert history.faults["links swizzled"] > 3
    assert {end.at >= history.stopped_at for end in history.ends} == {True}, "a clogged link is no reason to kill"


@pytest.mark.case("C-10")
@pytest.mark.parametrize("fault", ["cut", "flip to the worker", "flip to the front"])
def test_a_damaged_link_costs_its_worker_and_no_more(fault: str):
    async def story(world: World) -> None:
        harm(world, "s0")
        (end,) = [end for name, end in world.open_links() if name == "s0"]
        bystanders = [world.process("server s1"), world.process("front")]
        if fault == "cut":
            end.outgoing.cut()
        else:
            flow = end.outgoing if fault == "flip to the worker" else end.incoming
            flow.mangle = lambda data: bytes([data[0] ^ 0x80]) + data[1:]
        await world.new_client("modern").probe("s0", PROBE_S)
        await serves(world, "s0")
        assert [world.process("server s1"), world.process("front")] == bystanders

    assert starts(run_well(QUICK, story), "server s0") == 2


# --- servers ---------------------------------------------------------------------------------------------------------
@pytest.mark.case("B-34")
@pytest.mark.promise("R08")
@pytest.mark.parametrize("probe_fails", [True, False])
def test_a_half_open_breaker_lets_exactly_one_call_through(probe_fails: bool):
    waiting = 100

    async def story(world: World) -> None:
        harm(world, "s0")
        server = world.servers[0]
        server.troubles, server.trouble = ("500",), 1.0
        client = world.new_client("modern")
        opened = None
        while opened is None:
            call = await client.probe("s0", PROBE_S)
            assert call.outcome == "error"
            opened = call if call.code == SERVER_UNAVAILABLE and call.data["sent"] is False else None
        await trio.sleep(opened.data["retryAfterMs"] / 1000 + 0.01)
        server.troubles, server.slow_s = ("slow",), 0.5
        before = server.requests
        async with trio.open_nursery() as nursery:
            for _ in range(waiting):
                nursery.start_soon(world.new_client("modern").probe, "s0", PROBE_S)
            await trio.sleep(0.25)
            assert server.requests == before + 1
            refused = [one for one in world.history.calls[-waiting:] if one.outcome == "error"]
            assert len(refused) == waiting - 1
            assert all(one.ended_at - one.sent_at <= 0.005 for one in refused)
            if probe_fails:
                server.reset_connections()
        after = await client.probe("s0", PROBE_S)
        assert after.outcome == ("error" if probe_fails else "result")
        assert server.requests == before + (1 if probe_fails else 2)
        server.trouble = 0.0
        await serves(world, "s0")

    run_well(QUICK, story)


@pytest.mark.case("B-35")
def test_when_most_servers_fail_at_once_it_is_said_once_and_nobody_is_restarted():
    plan = Plan(seed="outage", eras=("modern", "legacy", "both", "modern"), http_clients=(), latency_s=0.001)

    async def story(world: World) -> None:
        harm(world, lasts_s=60.0)
        for server in world.servers:
            server.crash()
        client = world.new_client("modern")
        for _ in range(3):
            for server in world.servers:
                await client.probe(server.name, PROBE_S)
        await trio.sleep(20.0)
        for server in world.servers:
            server.heal()
        await serves(world, *[server.name for server in world.servers], within_s=60.0)

    history = run_well(plan, story)

    assert [event for _, _, event, _ in history.logs].count(GENERAL_OUTAGE) == 1
    assert len(history.starts) == 2 + len(plan.eras)


# --- clients ---------------------------------------------------------------------------------------------------------
@pytest.mark.case("A-07", "D-07")
@pytest.mark.promise("R18")
@pytest.mark.parametrize("number", range(3))
def test_clients_that_use_the_same_ids_and_tokens_each_get_what_is_theirs(number: int):
    clients = (("modern", 4), ("legacy", 4), ("modern", 4), ("legacy", 4))
    history = run(Plan(seed=f"same ids {number}", http_clients=clients, stdio="legacy", load_s=4.0, pause_s=0.05))

    assert check(history) == []
    under_way = [(call.sent_at, call.ended_at, repr(call.id)) for call in history.calls]
    colliding = sum(
        one[2] == other[2] and one[0] < other[1] and other[0] < one[1]
        for at, one in enumerate(under_way)
        for other in under_way[at + 1 : at + 40]
    )
    assert len(history.calls) > 300
    assert colliding > 300
