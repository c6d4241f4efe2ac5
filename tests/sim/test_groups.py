"""One of three replicas under load is killed, hangs, becomes slow or answers rubbish: what that costs, in virtual time.

Time is simulated, so that the times of the promises are judged exactly, whatever the machine has to do.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import trio

from protocol.limits import EJECTION_BASE_S, EJECTION_FAILURES
from tests.sim.checkers import check
from tests.sim.history import Call, History
from tests.sim.server import SimServer
from tests.sim.world import GROUP, Plan, World, run

BROKEN = "s1"
PAUSE_S = 0.1
WAIT_S = 30.0
BROKEN_AT_S, SETTLED_S, HEALED_AFTER_S, WATCHED_S = 2.0, 2.0, 4.5, 5.0
CALL_TIMEOUT_S = 1.0
GETS_NONE, GETS_SOME = "a replica gets no calls for a while", "a replica gets calls again"
RUBBISH = ("garbage", "html", "wrong id", "reset half way", "500")


def kill(server: SimServer) -> None:
    server.crash()


def hang(server: SimServer) -> None:
    server.troubles, server.trouble = ("hang",), 1.0


def slow_down(server: SimServer) -> None:
    server.troubles, server.trouble, server.slow_s = ("slow",), 1.0, 0.5


def corrupt(server: SimServer) -> None:
    server.troubles, server.trouble = RUBBISH, 1.0


class Run:
    """What became of the calls, by when they were made: times are seconds after the fault."""

    def __init__(self, history: History, broken_at: float) -> None:
        self.history = history
        self._broken_at = broken_at

    def made(self, since: float = -math.inf, until: float = math.inf) -> list[Call]:
        """Those that ended, of these seconds."""
        calls = [call for call in self.history.calls if call.server == GROUP and call.outcome]
        return [call for call in calls if since <= call.sent_at - self._broken_at < until]

    def p99_s(self, since: float, until: float = math.inf) -> float:
        """Of good calls."""
        taken = sorted(call.ended_at - call.sent_at for call in self.made(since, until) if call.outcome == "result")
        return taken[int(0.99 * len(taken))]

    def served(self, since: float = -math.inf, until: float = math.inf) -> list[float]:
        """When calls were carried out by the broken one."""
        places = [place for places in self.history.executed.values() for place in places]
        times = [at - self._broken_at for who, at in places if who == BROKEN]
        return sorted(at for at in times if since <= at < until)

    def told(self, event: str) -> int:
        """How often the log says so of the broken one."""
        return sum(said == event and BROKEN in fields for _, _, said, fields in self.history.logs)

    @property
    def failed(self) -> list[Call]:
        return [call for call in self.made() if call.outcome != "result"]


def run_broken(break_it: Callable[[SimServer], None], policy: str, lanes: int) -> Run:
    """Run three replicas under load, of which one is broken for a while."""
    plan = Plan(
        seed=f"{break_it.__name__} {policy}", eras=("modern", "legacy", "both", "modern"), grouped=3, policy=policy,
        http_clients=(), call_timeout_s=CALL_TIMEOUT_S,
    )  # fmt: skip
    broken_at = 0.0

    async def story(world: World) -> None:
        nonlocal broken_at
        await world.start()
        server = world.servers[1]
        is_over = False

        async def lane(number: int) -> None:
            client = world.new_client("modern")
            await trio.sleep(0.5 + number * PAUSE_S / lanes)
            tool = "read"
            while not is_over:
                await client.probe(GROUP, WAIT_S, tool)
                tool = "act" if tool == "read" else "read"
                await trio.sleep(PAUSE_S)

        async with trio.open_nursery() as nursery:
            for number in range(lanes):
                nursery.start_soon(world.as_user, lane, number)
            await trio.sleep(BROKEN_AT_S)
            broken_at = trio.current_time()
            world.history.cause("by the test", HEALED_AFTER_S, frozenset({BROKEN}), effects_s=30.0)
            break_it(server)
            await trio.sleep(HEALED_AFTER_S)
            server.heal()
            await trio.sleep(WATCHED_S)
            is_over = True
        await world.finish()

    history = run(plan, story)
    assert check(history) == []
    return Run(history, broken_at)


@pytest.mark.promise("R01", "R04", "R07")
@pytest.mark.case("B-01", "B-02", "B-12")
@pytest.mark.parametrize(
    ("break_it", "policy", "lanes"),
    [
        (kill, "round_robin", 6), (hang, "round_robin", 6), (slow_down, "round_robin", 6), (corrupt, "round_robin", 6),
        (hang, "sticky", 4),  # without keys, so by load: nothing tells that one call alone hangs
    ],
)  # fmt: skip
def test_a_broken_replica_costs_no_safe_call_and_after_two_seconds_no_time(
    break_it: Callable[[SimServer], None], policy: str, lanes: int
):
    found = run_broken(break_it, policy, lanes)

    assert {call.tool for call in found.failed} <= {"act"}, "what only reads, or was not sent, is served by others"
    assert all(call.data["sent"] for call in found.failed)
    assert len(found.failed) <= lanes + EJECTION_FAILURES
    before_s = found.p99_s(-1.0, 0.0)
    assert found.p99_s(SETTLED_S, HEALED_AFTER_S) <= 2 * before_s
    assert found.p99_s(HEALED_AFTER_S + SETTLED_S) <= 2 * before_s
    assert found.served(SETTLED_S, HEALED_AFTER_S) == []
    if policy != "round_robin":
        return  # it is not ejected, but avoided for a while, unless the others have much to do
    back = found.served(HEALED_AFTER_S)
    assert back, "it gets calls again"
    is_ejected = break_it in (hang, slow_down)  # else its worker says itself that the server cannot be used
    assert found.told(GETS_NONE) == found.told(GETS_SOME) == is_ejected
    if is_ejected:
        last = found.served(0.0, SETTLED_S)[-1]
        assert back[0] - last >= EJECTION_BASE_S - CALL_TIMEOUT_S
