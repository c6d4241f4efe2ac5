"""benchmarks.placement: what is compared has the same processors for itself, whatever it is made of."""

from __future__ import annotations

import os

import pytest

from benchmarks import placement
from benchmarks.placement import Placement


@pytest.mark.parametrize(
    ("processors", "ends", "between"),
    [({0, 1}, {0}, {1}), ({5, 3, 4}, {3}, {4, 5}), (range(8), {0, 1, 2, 3}, {4, 5, 6, 7})],
)
def test_the_ends_have_one_half_and_what_is_between_them_the_other(
    processors: set[int], ends: set[int], between: set[int]
) -> None:
    assert placement.chosen("apart", processors) == Placement(frozenset(ends), frozenset(between))


def test_a_single_processor_is_not_divided_nor_are_many_if_nobody_wishes_it() -> None:
    assert placement.chosen("apart", {3}) == Placement()
    assert placement.chosen("free", range(8)) == Placement()
    assert "free to run on any" in Placement().sentence


def test_this_process_works_where_the_ends_do_until_the_run_is_over() -> None:
    before = os.sched_getaffinity(0)
    one = frozenset({max(before)})

    with placement.at_the_end(Placement(one, one)):
        assert os.sched_getaffinity(0) == one
    assert os.sched_getaffinity(0) == before
