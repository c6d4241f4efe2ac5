"""benchmarks.timeline: what recorded calls say about a fault."""

from __future__ import annotations

import math

import pytest

from benchmarks import timeline
from benchmarks.timeline import Call, Fault, Window, analyse, observe, percentile

MS = 1_000_000
KILLED = 10_000 * MS
WINDOW = Window(before_s=1.0, after_s=2.0)


def call(server: int, started_ms: float, ended_ms: float, fault: str = "") -> Call:
    """Times in ms since the kill."""
    return Call(server, KILLED + int(started_ms * MS), KILLED + int(ended_ms * MS), fault)


def worker_killed(noticed_ms: float | None = 4, replaced_ms: float | None = 12) -> Fault:
    def at(ms: float | None) -> int | None:
        return None if ms is None else KILLED + int(ms * MS)

    return Fault("worker", 0, KILLED, at(noticed_ms), at(replaced_ms))


def test_times_count_from_the_kill() -> None:
    calls = [call(0, -1, 4, "lost"), call(0, 5, 20), call(0, 5, 25)]

    outcome = analyse(calls, worker_killed(), WINDOW)

    assert (outcome.noticed_ms, outcome.replaced_ms, outcome.first_good_ms) == (4, 12, 20)
    assert outcome.failed_here == 1


def test_a_good_answer_to_a_call_made_before_the_kill_proves_nothing() -> None:
    assert analyse([call(0, -2, 1), call(0, 3, 30)], worker_killed(), WINDOW).first_good_ms == 30


def test_what_was_answered_by_those_that_outlived_the_kill_for_a_while_proves_nothing() -> None:
    zygote = Fault("zygote", None, KILLED, KILLED + 10 * MS, KILLED + 100 * MS, outlived_until_ns=KILLED + 100 * MS)

    assert analyse([call(0, 1, 3), call(0, 4, 9, "reset"), call(0, 15, 140)], zygote, WINDOW).first_good_ms == 140


def test_what_never_came_is_nan() -> None:
    outcome = analyse([call(0, 1, 2, "refused")], worker_killed(None, None), WINDOW)

    assert outcome.noticed_ms == 2, "the first failed call is when our own child is missed"
    assert math.isnan(outcome.replaced_ms)
    assert math.isnan(outcome.first_good_ms)


def test_failures_are_counted_where_they_happened_and_only_after_the_kill() -> None:
    calls = [
        call(0, -9, -8, "before"),
        call(0, -1, 3, "here"),
        call(1, -1, 3, "elsewhere"),
        call(1, 100, 200, "elsewhere"),
        call(1, 2_000, 2_100, "after the window"),
    ]

    outcome = analyse(calls, worker_killed(), WINDOW)

    assert (outcome.failed_here, outcome.failed_elsewhere) == (1, 2)


def test_a_call_of_the_window_that_is_given_up_long_after_it_counts() -> None:
    assert analyse([call(1, 500, 10_500, "no answer")], worker_killed(), WINDOW).failed_elsewhere == 1


def test_the_p99_of_the_others_is_compared_before_and_after() -> None:
    before = [call(1, -500 + n, -500 + n + 2) for n in range(100)]
    during = [call(2, 100 + n, 100 + n + (2 if n < 90 else 9)) for n in range(100)]
    of_the_hit = [call(0, 100, 1_100)]

    outcome = analyse([*before, *during, *of_the_hit], worker_killed(), WINDOW)

    assert (outcome.p99_before_ms, outcome.p99_during_ms, outcome.p99_rise_ms) == (2, 9, 7)


def test_where_all_are_hit_the_last_server_to_come_back_counts() -> None:
    calls = [call(0, 5, 30), call(1, 5, 80), call(1, 90, 95), call(0, -5, 2, "reset")]

    outcome = analyse(calls, Fault("front", None, KILLED), WINDOW)

    assert outcome.first_good_ms == 80
    assert (outcome.failed_here, outcome.failed_elsewhere) == (1, 0)
    assert math.isnan(outcome.p99_before_ms)


def test_a_server_that_does_not_come_back_is_not_hidden_by_one_that_does() -> None:
    calls = [call(0, 5, 30), call(1, -5, -2), call(1, 5, 8, "refused")]

    assert math.isnan(analyse(calls, Fault("front", None, KILLED), WINDOW).first_good_ms)


def test_an_observation_keeps_the_calls_around_its_fault() -> None:
    near, far = call(0, 5, 30), call(0, 5_000, 5_001)

    assert observe([near, far], worker_killed(), WINDOW).calls == [near]


def test_bins_hold_good_and_failed_calls_by_the_time_they_ended() -> None:
    calls = [call(0, -0.6e3, -0.5e3), call(0, 100, 103), call(0, 100, 105), call(0, 100, 110, "no"), call(0, 0, 9e3)]

    found = list(timeline.bins(calls, KILLED, WINDOW, 1.0))

    assert [each.middle_s for each in found] == pytest.approx([-0.5, 0.5, 1.5])
    assert [each.calls_per_s for each in found] == [1, 2, 0]
    assert [each.failed_per_s for each in found] == [0, 1, 0]
    assert found[1].p99_ms == 5
    assert math.isnan(found[2].p99_ms)


@pytest.mark.parametrize(
    ("values", "percent", "expected"), [([3, 1, 2], 50, 2), ([5], 99, 5), (range(1, 101), 99, 99), ([1, 2], 50, 1)]
)
def test_percentiles_are_values_that_occurred(values: list[float], percent: float, expected: float) -> None:
    assert percentile(values, percent) == expected


def test_one_missing_value_leaves_no_median_and_no_percentile() -> None:
    assert math.isnan(percentile([1, math.nan], 50))
    assert math.isnan(timeline.median([1, math.nan, 2]))
    assert math.isnan(timeline.median([]))
    assert timeline.median([1, 4, 2]) == 2


def test_reasons_are_the_same_whatever_server_and_number_they_name() -> None:
    assert timeline.kind_of('server "s1" failed after 2.5 s') == timeline.kind_of('server "s23" failed after 10 s')
