"""benchmarks.rounds: latencies are kept to within 1.6 %, and faults are counted."""

from __future__ import annotations

import itertools
import math

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.rounds import BUCKETS, FAULT_KINDS_MAX, Histogram, LoadResult, bounds_of, bucket_of


@given(st.integers(min_value=0, max_value=2**39 - 1))
def test_every_latency_lies_in_a_bucket_no_wider_than_a_sixty_fourth_of_it(latency_ns: int) -> None:
    low, high = bounds_of(bucket_of(latency_ns))

    assert low <= latency_ns < high
    assert high - low <= max(1, latency_ns / 64)


def test_buckets_follow_one_another_without_gap_or_overlap() -> None:
    bounds = [bounds_of(index) for index in range(BUCKETS)]

    assert bounds[0][0] == 0
    assert all(high == following for (_, high), (following, _) in itertools.pairwise(bounds))


def test_latencies_beyond_the_last_bucket_are_counted_in_it() -> None:
    assert bucket_of(2**60) == BUCKETS - 1


def test_percentiles_are_those_of_the_latencies_added() -> None:
    histogram, other = Histogram(), Histogram()
    for microseconds in range(1, 501):
        histogram.add(microseconds * 1000)
        other.add((microseconds + 500) * 1000)
    histogram.merge(other)

    assert math.isclose(histogram.percentile_ns(50), 500_000, rel_tol=0.016)
    assert math.isclose(histogram.percentile_ns(99), 990_000, rel_tol=0.016)
    assert math.isclose(histogram.percentile_ns(100), 1_000_000, rel_tol=0.016)


def test_a_percentile_of_nothing_is_not_a_number() -> None:
    assert math.isnan(Histogram().percentile_ns(50))


def test_all_failures_are_counted_also_those_whose_reason_is_not_kept() -> None:
    result = LoadResult()
    for number in range(100):
        result.fail(f"reason {number}")
        result.fail("reason 0")

    assert result.failed == 200
    assert len(result.faults) == FAULT_KINDS_MAX
    assert result.faults["reason 0"] == 101
