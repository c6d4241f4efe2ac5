"""Every checker can fail: each is given a history that breaks its rule, and a sound proxy that is broken on purpose."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest

from protocol import errors, limits
from protocol.flight import FlightPage, Stage
from supervisor import tree
from supervisor.spec import Role
from tests.sim.checkers import CHECKERS, check
from tests.sim.history import Call, Cause, Ended, History
from tests.sim.world import PARKED, SESSION_KEY, Plan, World, run
from workers.backend.pool import Pool
from workers.front.server_link import ServerLink


class _Clock:
    class times:  # noqa: N801 - stands for an attribute
        @staticmethod
        def now() -> float:
            return 5.0

    def note(self, *_: object) -> None:
        """Nothing is replayed here."""


def sound(calls: int = 1) -> tuple[History, list[Call]]:
    """Return a history in which nothing is wrong, and its calls."""
    history = History(_Clock())  # type: ignore[arg-type]
    for number in range(calls):
        call = Call(f"~c0.{number}.", "~c0", "http", "s0", "act", 1, 1.0, outcome="result", ended_at=2.0, finals=1)
        call.text = f"{call.uid}|s0|act|x"
        history.calls.append(call)
        history.executed[call.uid] = [("s0", 1.5)]
    history.starts = [("zygote", 0.0), ("front", 0.1), ("server s0", 0.1)]
    history.healed_at, history.stopped_at, history.finished_at = 5.0, 6.0, 7.0
    history.quiet_stop, history.exit_status = True, 0
    history.ends = [Ended("front", 6.1, 0), Ended("server s0", 6.2, 0), Ended("zygote", 6.3, 0)]
    history.probes = [("s0", 15.0, 5.5, "result")]
    return history, history.calls


def never_ended(history: History, call: Call) -> None:
    call.outcome, history.stopped_at = "", math.inf


def fail(call: Call, code: int, **data: Any) -> None:
    call.outcome, call.code, call.data, call.text = "error", code, data, "failed"


BREAKS: dict[str, list[Callable[[History, Call], object]]] = {
    "C1": [
        lambda history, call: setattr(call, "finals", 2),
        never_ended,
        lambda history, call: setattr(call, "outcome", "none"),
        lambda history, call: setattr(call, "outcome", "lost"),
    ],
    "C2": [
        lambda history, call: setattr(call, "text", "~c0.0.|s1|act|x"),
        lambda history, call: setattr(call, "text", "~c0.9.|s0|act|x"),
        lambda history, call: history.executed.clear(),
        lambda history, call: fail(call, errors.OUTCOME_UNKNOWN, server="s1", sent=True),
    ],
    "C3": [lambda history, call: history.wrong("a message after the last")],
    "C4": [
        lambda history, call: history.received.append(("~c1", 1.0, "about ~c0.0.")),
        lambda history, call: history.executed.update({"~c7.1.": [("s0", 1.0)]}),
        lambda history, call: history.executed.update({call.uid: [("s1", 1.0)]}),
    ],
    "C5": [
        lambda history, call: history.executed[call.uid].append(("s0", 1.6)),
        lambda history, call: fail(call, errors.SERVER_UNAVAILABLE, server="s0", sent=False),
    ],
    "C6": [
        lambda history, call: history.executed.update(
            {one.uid: [("s0", 1.0), ("s0", 2.0)] for one in history.calls}
        ),
    ],
    "C7": [
        lambda history, call: history.peaks.update({"in flight": limits.IN_FLIGHT_PER_SERVER_MAX + 1}),
        lambda history, call: history.peaks.update({"processes": 4}),
    ],
    "C8": [lambda history, call: history.rest.update({"a socket": 1})],
    "C9": [
        lambda history, call: history.starts.extend([("server s0", at / 10) for at in range(6)]),
        lambda history, call: history.starts.extend([("zygote", at / 10) for at in range(4)]),
    ],
    "C10": [
        lambda history, call: fail(call, errors.SERVER_UNAVAILABLE, server="s0", sent=True),
        lambda history, call: setattr(call, "outcome", "http"),
    ],
    "C11": [
        lambda history, call: history.logs.append(("front#1", "info", "a call", f"{{'uid': '{call.uid}'}}")),
        lambda history, call: history.logs.append(("root#1", "info", "the key", SESSION_KEY.hex())),
    ],
    "liveness": [
        lambda history, call: history.probes.append(("s1", 15.0, math.inf, "error")),
        lambda history, call: history.probes.append(("s1", 15.0, 16.0, "result")),
        lambda history, call: setattr(history, "finished_at", 4.0),
    ],
    "stop": [
        lambda history, call: setattr(history, "finished_at", 60.0),
        lambda history, call: setattr(history, "exit_status", 1),
        lambda history, call: history.ends.reverse(),
        lambda history, call: history.ends.insert(0, history.ends.pop(1)),
        lambda history, call: history.ends.append(Ended("server s0", 6.4, 0)),
        lambda history, call: history.ends.insert(1, Ended("server s1", 6.2, -9)),
        lambda history, call: history.ends.clear(),
    ],
}  # fmt: skip


def test_a_sound_history_passes_every_checker():
    assert check(sound(20)[0]) == []
    assert set(BREAKS) == set(CHECKERS)


@pytest.mark.parametrize(("name", "number"), [(name, number) for name in BREAKS for number in range(len(BREAKS[name]))])
def test_a_history_that_breaks_a_rule_is_found_out(name: str, number: int):
    history, calls = sound(20)
    BREAKS[name][number](history, calls[0])

    assert list(CHECKERS[name](history)) != []


def test_what_a_fault_explains_is_not_held_against_the_proxy():
    history, (call,) = sound()
    fail(call, errors.SERVER_UNAVAILABLE, server="s0", sent=True)
    history.causes.append(Cause("worker killed", 0.5, 1.2, frozenset({"s0"})))
    assert check(history) == []

    history.causes[0] = Cause("worker killed", 0.5, 1.2, frozenset({"s1"}))
    assert check(history) != []
    history.causes[0] = Cause("worker killed", 2.5, 3.0, frozenset({"s0"}))
    assert check(history) != []


def test_a_parked_server_need_not_serve():
    history, _ = sound()
    history.probes.append(("s1", math.inf, math.inf, PARKED))

    assert check(history) == []


# --- a proxy that is broken on purpose ------------------------------------------------------------------------------
STORMY = Plan(
    seed="broken on purpose",
    eras=("modern", "legacy"),
    http_clients=(("modern", 3), ("legacy", 3)),
    stdio="modern",
    kinds=("kill worker", "kill worker in a call"),
    mean_pause_s=0.4,
    pause_s=0.1,
    ms_max=20,
    load_s=3.0,
)


def finds(*names: str, plan: Plan = STORMY) -> bool:
    """Tell whether one of these checkers has something to say of one of a few runs."""
    for number in range(6):
        wrong = check(run(replace(plan, seed=f"{plan.seed} {number}")))
        if any(line.partition(":")[0] in names for line in wrong):
            return True
    return False


def test_the_storm_itself_is_weathered():
    for number in range(2):
        assert check(run(replace(STORMY, seed=f"{STORMY.seed} {number}"))) == []


def test_a_worker_that_does_not_note_what_it_sends_is_found_out():
    with mock.patch.object(FlightPage, "sent", return_value=None):
        assert finds("C5")


def test_a_front_that_believes_nothing_was_sent_is_found_out():
    with mock.patch.object(FlightPage, "stages", lambda self, front, ids: dict.fromkeys(ids, Stage.NONE)):
        assert finds("C5")


def test_a_front_that_forgets_the_calls_of_a_dead_worker_is_found_out():
    with mock.patch.object(ServerLink, "_settle_lost", return_value=None):
        assert finds("C1")


def test_a_pool_that_leaks_connections_is_found_out():
    def give(self: Pool, connection: Any) -> None:
        connection.idle_since = self.reactor.now
        if self._waiting:
            connection.start(self._waiting.popleft())

    with mock.patch.multiple(Pool, _give=give, release=give):
        assert finds("C8", "C10", plan=replace(STORMY, seed="leak", kinds=()))


def test_a_front_that_gives_answers_to_the_wrong_call_is_found_out():
    result = ServerLink._result

    def crossed(self: ServerLink, header: Any, payload: memoryview) -> None:
        calls = self._in_flight
        other = next((link_id for link_id in calls if link_id != header.id), None)
        if other is not None and header.id in calls:
            calls[header.id], calls[other] = calls[other], calls[header.id]
        result(self, header, payload)

    with mock.patch.object(ServerLink, "_result", crossed):
        assert finds("C2", "C3", plan=replace(STORMY, seed="crossed", kinds=(), ms_max=200))


def test_a_root_that_stops_servers_first_is_found_out():
    async def story(world: World) -> None:
        await world.start()
        await world.load()
        await world.as_user(world.probe_all)
        await world.come_to_rest()
        await world.finish()

    with mock.patch.object(tree, "STOP_ORDER", (Role.SERVER, Role.FRONT, Role.ZYGOTE)):
        wrong = check(run(Plan(seed="order", load_s=1.0), story))
    assert [line for line in wrong if line.startswith("stop:")]
