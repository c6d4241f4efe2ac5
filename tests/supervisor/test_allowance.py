"""How much of the root's time one worker may take."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.allowance import CREDIT_S, SHARE, WAKE_S, Allowance


def test_who_says_little_is_heard_at_once():
    allowance = Allowance(100.0)
    assert [allowance.spend(0.0001, 100.0 + second) for second in range(60)] == [0.0] * 60


def test_a_worker_may_say_more_at_once_after_a_quiet_time_however_long_it_was():
    allowance = Allowance(0.0)
    assert allowance.spend(CREDIT_S - WAKE_S, 1e6) == 0.0
    assert allowance.spend(0.001, 1e6) == pytest.approx((0.001 + WAKE_S) / SHARE)


@pytest.mark.case("C-12")
@given(st.lists(st.floats(0.0, 0.02), min_size=1, max_size=200))
def test_whatever_hearing_a_worker_costs_it_takes_no_more_than_its_share(costs: list[float]):
    now, used, allowance = 0.0, 0.0, Allowance(0.0)
    for cost in costs:
        now += cost  # at least so long it takes
        used += cost
        now += allowance.spend(cost, now)

    assert used <= CREDIT_S + SHARE * now + 1e-9
