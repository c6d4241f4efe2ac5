"""When a command that has ended may be started again."""

from __future__ import annotations

import pytest

from protocol.limits import PARK_RETRY_S, RESTART_INTENSITY, RESTART_PERIOD_S, RESTART_RESET_S
from workers.backend.starts import Starts


@pytest.mark.case("B-28")
@pytest.mark.promise("R06")
def test_one_that_ends_at_once_is_started_five_times_more_and_then_once_in_five_minutes():
    starts = Starts()
    for _ in range(RESTART_INTENSITY):
        starts.ended(0.0, 0.0)
        assert starts.wait_s(0.0) == 0.0
    starts.ended(0.0, 0.0)
    assert starts.wait_s(0.0) == PARK_RETRY_S
    assert starts.wait_s(PARK_RETRY_S - 1) == 1.0
    assert starts.wait_s(PARK_RETRY_S) == 0.0

    starts.ended(PARK_RETRY_S, PARK_RETRY_S)  # one try
    assert starts.wait_s(PARK_RETRY_S) == PARK_RETRY_S


def test_one_that_lasts_for_a_while_starts_with_a_clean_slate():
    starts = Starts()
    for _ in range(RESTART_INTENSITY + 1):
        starts.ended(0.0, 0.0)
    ended_at = PARK_RETRY_S + RESTART_RESET_S
    starts.ended(PARK_RETRY_S, ended_at)
    assert starts.wait_s(ended_at) == 0.0


def test_ends_that_are_far_apart_are_no_crash_loop():
    starts = Starts()
    for number in range(50):
        now = number * RESTART_PERIOD_S / RESTART_INTENSITY
        starts.ended(now, now)
        assert starts.wait_s(now) == 0.0
