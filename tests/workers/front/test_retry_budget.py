"""How many calls may be sent again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.limits import REPLAY_FLOOR, REPLAY_PERIOD_S, REPLAY_SHARE
from workers.front.retry_budget import RetryBudget


def granted(budget: RetryBudget, now: float, wanted: int = 1_000) -> int:
    return sum(budget.allows(now) for _ in range(wanted))


@pytest.mark.promise("R07")
def test_without_any_calls_a_few_replays_are_allowed():
    assert granted(RetryBudget(), 100.0) == REPLAY_FLOOR


@pytest.mark.promise("R07")
def test_a_fifth_of_the_calls_is_allowed_besides():
    budget = RetryBudget()
    for _ in range(100):
        budget.called(100.0)

    assert granted(budget, 100.5) == 20 + REPLAY_FLOOR
    assert granted(budget, 109.0) == 0


def test_what_is_older_than_the_period_counts_no_more():
    budget = RetryBudget()
    for _ in range(100):
        budget.called(100.0)
    assert granted(budget, 100.0) == 23

    assert granted(budget, 110.0) == REPLAY_FLOOR


@pytest.mark.promise("R07")
@given(st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=300))
def test_in_no_period_are_there_more_replays_than_promised(steps: list[tuple[float, bool]]):
    budget, now = RetryBudget(), 1_000.0
    calls: list[float] = []
    replays: list[float] = []
    for pause_s, is_call in steps:
        now += pause_s
        if is_call:
            budget.called(now)
            calls.append(now)
        elif budget.allows(now):
            replays.append(now)
        since = int(now) - REPLAY_PERIOD_S + 1
        recent = sum(one >= since for one in calls)
        if replays and replays[-1] == now and not is_call:
            assert sum(one >= since for one in replays) <= REPLAY_SHARE * recent + REPLAY_FLOOR
