"""A replica that does worse than the others gets no calls for a while, longer each time; never most of a group."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.limits import (
    EJECTION_BASE_S,
    EJECTION_CALLS_MIN,
    EJECTION_EXCESS,
    EJECTION_FAILURES,
    EJECTION_KINDS_MAX,
    EJECTION_MAX_S,
    EJECTION_PARDON_S,
    EJECTION_PERIOD_S,
    EJECTION_SLOWER_S,
    EJECTION_SLOWNESS,
)
from protocol.outliers import MORE_THAN_OTHERS, TOO_SLOW, Outliers

ONE, TWO, THREE = "replica 0", "replica 1", "replica 2"


def group(count: int) -> Outliers:
    outliers = Outliers()
    outliers.keep(frozenset(f"replica {number}" for number in range(count)))
    outliers.judge(0.0)  # the first period begins
    return outliers


def fail(outliers: Outliers, name: str, now: float) -> list[bool]:
    return [outliers.failed(name, now) for _ in range(EJECTION_FAILURES)]


def serve(outliers: Outliers, name: str, good: int, bad: int = 0, kind: str = "echo", seconds: float = 0.01) -> None:
    """Answer and fail calls in such turns that the failures are never many in a row."""
    for number in range(good + bad):
        if number * bad // (good + bad) != (number + 1) * bad // (good + bad):
            outliers.failed(name, 0.0)
        else:
            outliers.answered(name, kind, seconds)


# --- failures in a row -----------------------------------------------------------------------------------------------
def test_only_failures_in_a_row_count():
    outliers = group(3)
    for _ in range(100):
        for _ in range(EJECTION_FAILURES - 1):
            assert not outliers.failed(ONE, 0.0)
        outliers.answered(ONE)
    assert fail(outliers, ONE, 0.0) == [False] * (EJECTION_FAILURES - 1) + [True]
    assert outliers.is_ejected(ONE, EJECTION_BASE_S - 0.01)
    assert not outliers.is_ejected(TWO, 0.0)
    assert outliers.ejections(ONE) == 1


def test_each_ejection_is_longer_than_the_one_before_up_to_a_limit_and_good_conduct_is_rewarded():
    outliers, now, lengths = group(2), 0.0, []
    for _ in range(14):
        assert any(fail(outliers, ONE, now))
        lengths.append(outliers.returned_at(ONE) - now)
        now = outliers.returned_at(ONE) + 1.0
        outliers.checked(ONE, now, works=True)
    assert lengths[:3] == [EJECTION_BASE_S, 2 * EJECTION_BASE_S, 3 * EJECTION_BASE_S]
    assert lengths[-1] == EJECTION_MAX_S
    now += EJECTION_PARDON_S + 1.0
    assert any(fail(outliers, ONE, now))
    assert outliers.returned_at(ONE) - now == EJECTION_BASE_S


@given(
    st.integers(0, 7),
    st.lists(st.tuples(st.integers(0, 9), st.floats(0, 20), st.sampled_from(["fail", "slow", "check"])), max_size=200),
)
def test_never_more_than_half_are_ejected_at_once(count: int, events: list[tuple[int, float, str]]):
    outliers, now = group(count), 0.0
    for number, pause_s, what in events:
        now += pause_s
        name = f"replica {number}"
        match what:
            case "fail":
                fail(outliers, name, now)
            case "slow":
                for one in range(10):
                    serve(outliers, f"replica {one}", EJECTION_CALLS_MIN, seconds=100.0 if one == number else 0.01)
                outliers.judge(now)
            case _ if outliers.is_due(name, now):
                outliers.checked(name, now, works=number % 2 == 0)
            case _:
                pass
        assert sum(outliers.is_ejected(f"replica {one}", now) for one in range(10)) <= count / 2


def test_a_replica_that_leaves_the_group_and_comes_again_begins_anew():
    outliers = group(2)
    fail(outliers, ONE, 0.0)
    outliers.keep(frozenset({TWO}))
    outliers.keep(frozenset({ONE, TWO}))
    assert not outliers.is_ejected(ONE, 0.0)
    assert outliers.ejections(ONE) == 0


# --- the way back ----------------------------------------------------------------------------------------------------
def test_an_ejected_replica_comes_back_only_when_its_server_has_been_found_well():
    outliers = group(2)
    fail(outliers, ONE, 0.0)
    assert not outliers.is_due(ONE, EJECTION_BASE_S - 0.01)
    assert outliers.is_due(ONE, EJECTION_BASE_S)
    assert outliers.is_ejected(ONE, 100.0), "nobody has checked it"
    outliers.checked(ONE, EJECTION_BASE_S + 1.0, works=True)
    assert not outliers.is_ejected(ONE, EJECTION_BASE_S + 1.0)
    assert outliers.returned_at(ONE) == EJECTION_BASE_S + 1.0, "its slow start begins now"


@pytest.mark.parametrize("works", [True, False])
def test_a_check_before_its_time_is_over_makes_an_ejection_neither_shorter_nor_longer(works: bool):
    outliers = group(2)
    fail(outliers, ONE, 0.0)
    outliers.checked(ONE, EJECTION_BASE_S - 0.1, works=works)
    assert outliers.returned_at(ONE) == EJECTION_BASE_S
    assert outliers.is_due(ONE, EJECTION_BASE_S)


def test_one_that_fails_its_check_stays_away_for_longer():
    outliers = group(2)
    fail(outliers, ONE, 0.0)
    outliers.checked(ONE, EJECTION_BASE_S, works=False)
    assert not outliers.is_due(ONE, 3 * EJECTION_BASE_S - 0.01)
    assert outliers.is_due(ONE, 3 * EJECTION_BASE_S)
    assert outliers.ejections(ONE) == 1


def test_one_that_is_back_is_on_trial_until_it_has_answered_a_call():
    outliers = group(2)
    fail(outliers, ONE, 0.0)
    outliers.checked(ONE, EJECTION_BASE_S, works=True)
    assert outliers.is_on_trial(ONE)
    assert outliers.failed(ONE, EJECTION_BASE_S), "the first failure is enough"
    outliers.checked(ONE, 4 * EJECTION_BASE_S, works=True)
    outliers.answered(ONE)
    assert not outliers.is_on_trial(ONE)
    assert not outliers.failed(ONE, 4 * EJECTION_BASE_S)


def test_what_becomes_of_calls_from_before_it_came_back_says_nothing_of_how_it_is_now():
    outliers, back_at = group(2), EJECTION_BASE_S + 1.0
    fail(outliers, ONE, 0.0)
    outliers.checked(ONE, back_at, works=True)
    for _ in range(EJECTION_FAILURES):
        assert not outliers.failed(ONE, back_at + 1.0, back_at - 0.01)
    outliers.answered(ONE, "", 60.0, back_at - 0.01)
    assert outliers.is_on_trial(ONE)
    assert outliers.failed(ONE, back_at + 1.0, back_at)


# --- failures compared -----------------------------------------------------------------------------------------------
def test_a_replica_that_fails_a_far_larger_part_of_its_calls_than_the_others_is_ejected():
    outliers = group(3)
    for name in (ONE, TWO, THREE):
        serve(outliers, name, 30, 20 if name == ONE else 1)
    assert outliers.judge(1.0) == [(ONE, MORE_THAN_OTHERS)]
    assert outliers.is_ejected(ONE, 1.0)
    assert outliers.judge(1.5) == [], "that is no news"


@given(st.integers(2, 6), st.integers(0, 60), st.integers(0, 15))
def test_what_happens_to_all_is_no_reason_to_eject_one(count: int, good: int, bad: int):
    outliers = group(count)
    for number in range(count):
        serve(outliers, f"replica {number}", good, min(bad, good))
    assert outliers.judge(1.0) == []


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))
def test_who_is_ejected_fails_more_by_the_bound_and_was_called_often_enough(a: int, b: int, c: int, d: int):
    outliers = group(2)
    serve(outliers, ONE, a, min(a, b))
    serve(outliers, TWO, c, min(c, d))
    one, two = (a + min(a, b), min(a, b)), (c + min(c, d), min(c, d))
    shares = [bad / max(1, calls) for calls, bad in (one, two)]
    enough = min(one[0], two[0]) >= EJECTION_CALLS_MIN
    expected = [
        (name, MORE_THAN_OTHERS)
        for name, excess in ((ONE, shares[0] - shares[1]), (TWO, shares[1] - shares[0]))
        if enough and excess >= EJECTION_EXCESS
    ]
    assert outliers.judge(1.0) == expected


def test_what_was_long_ago_does_not_count():
    outliers = group(3)
    serve(outliers, ONE, 15, 15)
    outliers.judge(EJECTION_PERIOD_S)  # the others have done nothing that it could be compared with
    for name in (TWO, THREE):
        serve(outliers, name, 30)
    assert outliers.judge(EJECTION_PERIOD_S + 1.0) == []


# --- times compared --------------------------------------------------------------------------------------------------
def test_a_replica_that_is_many_times_slower_than_the_others_is_ejected():
    outliers = group(3)
    for name in (ONE, TWO, THREE):
        serve(outliers, name, EJECTION_CALLS_MIN, seconds=0.5 if name == TWO else 0.02)
    assert outliers.judge(1.0) == [(TWO, TOO_SLOW)]


TOOLS = ("quick", "usual", "slow", "slowest")


@given(
    st.lists(st.lists(st.integers(0, 60), min_size=4, max_size=4), min_size=2, max_size=5),
    st.lists(st.floats(0.001, 100), min_size=4, max_size=4),
)
def test_who_is_given_the_slow_tools_is_not_taken_to_be_slow(counts: list[list[int]], seconds: list[float]):
    """Replicas that are equally fast, whatever each of them is called for."""
    outliers = group(len(counts))
    for number, calls in enumerate(counts):
        for tool, count, each in zip(TOOLS, calls, seconds, strict=True):
            serve(outliers, f"replica {number}", count, kind=tool, seconds=each)
    assert outliers.judge(1.0) == []


@given(st.floats(1.0, 50.0), st.floats(0.0001, 1.0), st.integers(1, 60))
def test_the_bound_of_slowness_is_both_a_ratio_and_a_time(ratio: float, usual: float, count: int):
    outliers = group(3)
    for name in (ONE, TWO, THREE):
        serve(outliers, name, count, seconds=usual * ratio if name == ONE else usual)
    is_slow = ratio > EJECTION_SLOWNESS * 1.001 and usual * (ratio - 1) > EJECTION_SLOWER_S * 1.001
    is_fine = ratio < EJECTION_SLOWNESS / 1.001 or usual * (ratio - 1) < EJECTION_SLOWER_S / 1.001
    found = outliers.judge(1.0)
    if count < EJECTION_CALLS_MIN or is_fine:
        assert found == []
    elif is_slow:
        assert found == [(ONE, TOO_SLOW)]


def test_a_client_that_makes_up_names_of_tools_does_not_fill_the_memory():
    outliers = group(2)
    for number in range(10 * EJECTION_KINDS_MAX):
        outliers.answered(ONE, f"made up {number}", 0.1)
    assert len(outliers._records[ONE].times) == EJECTION_KINDS_MAX
