"""When several servers fail together, and when that is one cause."""

from __future__ import annotations

import pytest

from supervisor.outage import OUTAGE_PERIOD_S, Outage


@pytest.mark.case("B-35")
@pytest.mark.parametrize(
    ("servers", "fail_at", "says_at"),
    [
        (1, [0], None),
        (2, [0, 1], None),  # too few to tell
        (3, [0], None),
        (3, [0, 1], 1),
        (4, [0, 1], None),  # half is not more than half
        (4, [0, 1, 2], 2),
        (4, [0, 1, OUTAGE_PERIOD_S + 0.1], None),  # one after the other is many causes
        (4, [0, 1, OUTAGE_PERIOD_S], 2),
        (50, [0] * 26, 25),
        (5, [0, 1, 2, 3, 4], 2),  # once
    ],
)
def test_it_is_general_when_more_than_half_fail_within_the_period(
    servers: int, fail_at: list[float], says_at: int | None
):
    outage = Outage(servers)
    said = [outage.failed(f"server {number}", when) for number, when in enumerate(fail_at)]
    assert [number for number, one in enumerate(said) if one] == ([] if says_at is None else [says_at])
    assert outage.is_general == (says_at is not None)


def test_one_server_that_fails_again_and_again_is_one_server():
    outage = Outage(3)
    assert not any(outage.failed("only", second) for second in range(10))


def test_it_is_over_when_half_of_them_work_and_can_be_said_again():
    outage = Outage(4)
    assert [outage.failed(name, 0.0) for name in "abc"] == [False, False, True]
    outage.works("a")
    assert not outage.is_general
    assert outage.failed("a", 1.0)


def test_a_server_that_recovered_meanwhile_does_not_count():
    outage = Outage(3)
    outage.failed("a", 0.0)
    outage.works("a")
    assert not outage.failed("b", 1.0)
    assert outage.failed("a", 2.0)
