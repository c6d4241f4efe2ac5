"""Restart policy: the table of ends, the window, the delays."""

from __future__ import annotations

import itertools
import signal
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.limits import PARK_RETRY_S, RESTART_INTENSITY, RESTART_PERIOD_S, RESTART_RESET_S
from supervisor.restart import Action, Backoff, EndKind, Restarts, RestartWindow, classify
from supervisor.spec import ChildSpec, Excess, Restart, Role


def history(restart: Restart = Restart.PERMANENT, excess: Excess = Excess.PARK) -> Restarts:
    return Restarts(ChildSpec("server main", Role.SERVER, restart, excess=excess), Random(0))


MATRIX = {
    ("permanent", "clean"): Action.RESTART_NOW,
    ("permanent", "asked"): Action.STOP,
    ("permanent", "crash"): Action.RESTART_NOW,
    ("permanent", "signal"): Action.RESTART_NOW,
    ("permanent", "oom"): Action.RESTART_NOW,
    ("transient", "clean"): Action.STOP,
    ("transient", "asked"): Action.STOP,
    ("transient", "crash"): Action.RESTART_NOW,
    ("transient", "signal"): Action.RESTART_NOW,
    ("transient", "oom"): Action.RESTART_NOW,
    ("temporary", "clean"): Action.STOP,
    ("temporary", "asked"): Action.STOP,
    ("temporary", "crash"): Action.STOP,
    ("temporary", "signal"): Action.STOP,
    ("temporary", "oom"): Action.STOP,
}


@pytest.mark.case("C-16")
@pytest.mark.parametrize(("restart", "kind"), MATRIX, ids="-".join)
def test_every_way_to_end_is_answered_as_the_table_says(restart: str, kind: str):
    verdict = history(Restart(restart)).decide(EndKind(kind), now=0.0, up_s=1.0)

    assert verdict.action is MATRIX[restart, kind]


@pytest.mark.parametrize(
    ("exit_code", "out_of_memory", "kind", "text"),
    [
        (0, False, EndKind.CLEAN, "ended by itself"),
        (3, False, EndKind.CRASH, "failed with exit status 3"),
        (-signal.SIGSEGV, False, EndKind.SIGNAL, "was killed by SIGSEGV"),
        (-signal.SIGKILL, False, EndKind.SIGNAL, "was killed by SIGKILL"),
        (-signal.SIGKILL, True, EndKind.OOM, "memory ran out"),
        (-signal.SIGSEGV, True, EndKind.SIGNAL, "SIGSEGV"),
        (-63, False, EndKind.SIGNAL, "signal 63"),
    ],
)
def test_an_exit_status_is_put_into_words(exit_code: int, out_of_memory: bool, kind: EndKind, text: str):
    end = classify(exit_code, out_of_memory=out_of_memory)

    assert end.kind is kind
    assert text in end.text


@pytest.mark.case("C-13")
def test_a_window_allows_a_burst_of_its_intensity_and_no_more():
    window = RestartWindow(5, 30.0)

    assert [window.allows(0.0) for _ in range(7)] == [True] * 5 + [False] * 2


@pytest.mark.case("C-13")
def test_a_window_allows_one_restart_every_sixth_second_for_ever():
    window = RestartWindow(5, 30.0)

    assert all(window.allows(6.0 * number) for number in range(1000))


@pytest.mark.case("C-13")
def test_a_restart_exactly_one_period_old_counts_no_more():
    just_before, exactly = RestartWindow(1, 30.0), RestartWindow(1, 30.0)
    just_before.allows(0.0)
    exactly.allows(0.0)

    assert not just_before.allows(29.999)
    assert exactly.allows(30.0)


@pytest.mark.case("C-13")
@given(st.lists(st.floats(0, 10), max_size=60), st.integers(1, 6))
def test_a_window_never_allows_more_than_its_intensity_in_any_period(gaps: list[float], intensity: int):
    window, now, allowed = RestartWindow(intensity, 30.0), 0.0, []
    for gap in gaps:
        now += gap
        if window.allows(now):
            allowed.append(now)

    for begin in allowed:
        assert sum(begin <= time < begin + 30.0 for time in allowed) <= intensity


@given(st.integers())
def test_delays_begin_at_nothing_grow_with_jitter_and_stay_below_their_bound(seed: int):
    backoff = Backoff(30.0, Random(seed))
    delays = [backoff.next_s() for _ in range(40)]

    assert delays[0] == 0.0
    assert 0.1 <= delays[1] <= 0.3
    assert all(0.1 <= delay <= 30.0 for delay in delays[1:])
    assert all(later <= max(0.3, 3 * earlier) for earlier, later in itertools.pairwise(delays[1:]))


@pytest.mark.case("C-13", "B-28")
@pytest.mark.promise("R06")
def test_a_server_that_keeps_failing_is_parked_and_tried_once_per_interval():
    restarts = history()
    actions = [restarts.decide(EndKind.CRASH, now=0.0, up_s=0.0).action for _ in range(RESTART_INTENSITY + 1)]
    assert actions == [Action.RESTART_NOW, *[Action.RESTART_AFTER] * (RESTART_INTENSITY - 1), Action.PARK]

    for attempt in range(1, 20):
        verdict = restarts.decide(EndKind.CRASH, now=attempt * PARK_RETRY_S, up_s=RESTART_RESET_S - 1)
        assert verdict.action is Action.PARK
        assert verdict.delay_s == PARK_RETRY_S


def test_a_parked_server_that_has_been_up_for_long_is_trusted_again():
    restarts = history()
    for _ in range(RESTART_INTENSITY + 1):
        restarts.decide(EndKind.CRASH, now=0.0, up_s=0.0)

    verdict = restarts.decide(EndKind.CRASH, now=1000.0, up_s=RESTART_RESET_S)

    assert verdict.action is Action.RESTART_NOW


def test_delays_begin_anew_after_a_long_life_only():
    restarts = history()
    restarts.decide(EndKind.CRASH, now=0.0, up_s=0.0)

    assert restarts.decide(EndKind.CRASH, now=100.0, up_s=RESTART_RESET_S - 0.1).action is Action.RESTART_AFTER
    assert restarts.decide(EndKind.CRASH, now=200.0, up_s=RESTART_RESET_S).action is Action.RESTART_NOW


@pytest.mark.case("C-13")
def test_one_whose_failure_concerns_everybody_escalates_instead():
    restarts = history(excess=Excess.ESCALATE)

    actions = [restarts.decide(EndKind.SIGNAL, now=0.0, up_s=0.0).action for _ in range(RESTART_INTENSITY + 1)]

    assert actions[-1] is Action.ESCALATE
    assert Action.ESCALATE not in actions[:-1]


def test_ends_that_call_for_no_restart_use_up_no_intensity():
    restarts = history(Restart.TRANSIENT)
    for _ in range(100):
        assert restarts.decide(EndKind.CLEAN, now=0.0, up_s=0.0).action is Action.STOP

    assert restarts.decide(EndKind.CRASH, now=RESTART_PERIOD_S, up_s=0.0).action is Action.RESTART_NOW
