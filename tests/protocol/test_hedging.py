"""How late is unusually late: what nineteen calls of twenty are not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from protocol.hedging import SORT_EVERY, Lateness
from protocol.limits import HEDGE_KINDS_MAX, HEDGE_SAMPLES, HEDGE_SAMPLES_MIN


def observed(seconds: list[float], kind: str = "echo") -> Lateness:
    lateness = Lateness()
    for each in seconds:
        lateness.observe(kind, each)
    return lateness


@given(st.lists(st.floats(0, 100), min_size=HEDGE_SAMPLES_MIN, max_size=HEDGE_SAMPLES))
def test_about_one_call_in_twenty_is_late(seconds: list[float]):
    known = seconds[: len(seconds) - (len(seconds) - HEDGE_SAMPLES_MIN) % SORT_EVERY]
    late_s = observed(seconds).late_s("echo")
    assert late_s in known
    assert sum(each > late_s for each in known) <= 0.05 * len(known)
    assert sum(each >= late_s for each in known) >= 0.05 * len(known) - 1


def test_nothing_is_late_until_enough_is_known_of_a_tool():
    lateness = observed([0.01] * (HEDGE_SAMPLES_MIN - 1))
    assert lateness.late_s("echo") is None
    lateness.observe("echo", 0.01)
    assert lateness.late_s("echo") == 0.01
    assert lateness.late_s("other") is None


def test_what_was_long_ago_does_not_count():
    lateness = observed([10.0] * HEDGE_SAMPLES)
    for _ in range(HEDGE_SAMPLES + SORT_EVERY):
        lateness.observe("echo", 0.01)
    assert lateness.late_s("echo") == 0.01


def test_a_client_that_makes_up_names_of_tools_does_not_fill_the_memory():
    lateness = Lateness()
    for number in range(10 * HEDGE_KINDS_MAX):
        lateness.observe(f"made up {number}", 0.1)
    assert len(lateness._kinds) == HEDGE_KINDS_MAX
