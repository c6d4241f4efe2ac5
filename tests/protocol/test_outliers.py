"""A replica that fails again and again gets no calls for a while, longer each time; never most of a group at once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from protocol.limits import EJECTION_BASE_S, EJECTION_FAILURES, EJECTION_MAX_S, EJECTION_PARDON_S
from protocol.outliers import Outliers


def group(count: int) -> Outliers:
    outliers = Outliers()
    outliers.keep(frozenset(f"replica {number}" for number in range(count)))
    return outliers


def fail(outliers: Outliers, name: str, now: float) -> list[bool]:
    return [outliers.failed(name, now) for _ in range(EJECTION_FAILURES)]


def test_only_failures_in_a_row_count():
    outliers = group(3)
    for _ in range(100):
        for _ in range(EJECTION_FAILURES - 1):
            assert not outliers.failed("replica 0", 0.0)
        outliers.answered("replica 0")
    assert fail(outliers, "replica 0", 0.0) == [False] * (EJECTION_FAILURES - 1) + [True]
    assert outliers.is_ejected("replica 0", EJECTION_BASE_S - 0.01)
    assert not outliers.is_ejected("replica 0", EJECTION_BASE_S)
    assert not outliers.is_ejected("replica 1", 0.0)
    assert outliers.ejections("replica 0") == 1


def test_each_ejection_is_longer_than_the_one_before_up_to_a_limit_and_good_conduct_is_rewarded():
    outliers, now, lengths = group(2), 0.0, []
    for _ in range(14):
        assert fail(outliers, "replica 0", now)[-1]
        lengths.append(outliers.returned_at("replica 0") - now)
        now = outliers.returned_at("replica 0") + 1.0
    assert lengths[:3] == [EJECTION_BASE_S, 2 * EJECTION_BASE_S, 3 * EJECTION_BASE_S]
    assert lengths[-1] == EJECTION_MAX_S
    now += EJECTION_PARDON_S
    assert fail(outliers, "replica 0", now)[-1]
    assert outliers.returned_at("replica 0") - now == EJECTION_BASE_S


@given(st.integers(0, 7), st.lists(st.tuples(st.integers(0, 9), st.floats(0, 20)), max_size=200))
def test_never_more_than_half_are_ejected_at_once(count: int, events: list[tuple[int, float]]):
    outliers, now = group(count), 0.0
    for number, pause_s in events:
        now += pause_s
        fail(outliers, f"replica {number}", now)
        assert sum(outliers.is_ejected(f"replica {one}", now) for one in range(10)) <= count / 2


def test_a_replica_that_leaves_the_group_and_comes_again_begins_anew():
    outliers = group(2)
    fail(outliers, "replica 0", 0.0)
    outliers.keep(frozenset({"replica 1"}))
    outliers.keep(frozenset({"replica 0", "replica 1"}))
    assert not outliers.is_ejected("replica 0", 0.0)
    assert outliers.ejections("replica 0") == 0
