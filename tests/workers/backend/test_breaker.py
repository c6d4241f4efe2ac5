"""The breaker: its table of transitions, and what holds whatever calls do, under random histories."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from workers.backend.breaker import (
    CONSECUTIVE_MAX,
    JITTER,
    OUTCOMES_KEPT_MAX,
    PENALTY_MAX_S,
    PENALTY_MIN_S,
    RETRY_MIN_S,
    SAMPLE_MIN,
    WINDOW_S,
    Breaker,
    Position,
)

NOW = 1000.0


class Middle(Random):
    """No jitter."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


def closed() -> tuple[Breaker, int, float]:
    """Return a closed breaker one failure away from opening, the ticket of a call under way, and the time."""
    breaker = Breaker(Middle())
    ticket = breaker.admit(NOW)
    for _ in range(CONSECUTIVE_MAX - 1):
        breaker.failed(ticket, NOW)
    return breaker, ticket, NOW


def opened() -> tuple[Breaker, int, float]:
    breaker, ticket, now = closed()
    breaker.failed(ticket, now)
    return breaker, ticket, now + PENALTY_MIN_S / 2


def half_open() -> tuple[Breaker, int, float]:
    breaker, ticket, _ = opened()
    return breaker, ticket, NOW + PENALTY_MIN_S


def probing() -> tuple[Breaker, int, float]:
    breaker, _, now = half_open()
    return breaker, breaker.admit(now), now


def stale_while_probing() -> tuple[Breaker, int, float]:
    breaker, ticket, now = half_open()
    assert breaker.admit(now)
    return breaker, ticket, now


def do(breaker: Breaker, event: str, ticket: int, now: float) -> None:
    match event:
        case "abandoned":
            breaker.abandoned(ticket)
        case "recovered":
            breaker.recovered(now)
        case _:
            getattr(breaker, event)(ticket, now)


CLOSED, OPEN, HALF_OPEN = Position.CLOSED, Position.OPEN, Position.HALF_OPEN
TABLE = [
    # begins as, event, ends as, and then admits
    (closed, "succeeded", CLOSED, True),
    (closed, "failed", OPEN, False),
    (closed, "throttled", CLOSED, True),
    (closed, "abandoned", CLOSED, True),
    (closed, "recovered", CLOSED, True),
    (opened, "succeeded", OPEN, False),
    (opened, "failed", OPEN, False),
    (opened, "throttled", OPEN, False),
    (opened, "abandoned", OPEN, False),
    (opened, "recovered", CLOSED, True),
    (half_open, "succeeded", HALF_OPEN, True),
    (half_open, "failed", HALF_OPEN, True),
    (half_open, "throttled", HALF_OPEN, True),
    (half_open, "abandoned", HALF_OPEN, True),
    (half_open, "recovered", CLOSED, True),
    (probing, "succeeded", CLOSED, True),
    (probing, "failed", OPEN, False),
    (probing, "throttled", OPEN, False),
    (probing, "abandoned", HALF_OPEN, True),
    (probing, "recovered", CLOSED, True),
    (stale_while_probing, "succeeded", HALF_OPEN, False),
    (stale_while_probing, "failed", HALF_OPEN, False),
    (stale_while_probing, "throttled", HALF_OPEN, False),
    (stale_while_probing, "abandoned", HALF_OPEN, False),
    (stale_while_probing, "recovered", CLOSED, True),
]


@pytest.mark.case("B-34")
@pytest.mark.parametrize(("begin", "event", "position", "admits"), TABLE)
def test_every_event_in_every_position_does_what_the_table_says(begin, event, position, admits):
    breaker, ticket, now = begin()
    do(breaker, event, ticket, now)
    assert (breaker.position(now), bool(breaker.admit(now))) == (position, admits)


def fail_until_open(breaker: Breaker, now: float) -> None:
    ticket = breaker.admit(now)
    while breaker.is_closed:
        breaker.failed(ticket, now)


@pytest.mark.case("B-34")
def test_a_success_begins_the_count_of_failures_in_a_row_again():
    breaker = Breaker(Middle())
    ticket = breaker.admit(NOW)
    for _ in range(40):  # so many that the share of successes stays good throughout
        breaker.succeeded(ticket, NOW)
    for _ in range(CONSECUTIVE_MAX - 1):
        breaker.failed(ticket, NOW)
    breaker.succeeded(ticket, NOW)
    for _ in range(CONSECUTIVE_MAX - 1):
        breaker.failed(ticket, NOW)
    assert breaker.is_closed
    breaker.failed(ticket, NOW)
    assert not breaker.is_closed


@pytest.mark.case("B-34")
@pytest.mark.parametrize(("good", "opens"), [(SAMPLE_MIN - 2, True), (4 * SAMPLE_MIN, False)])
def test_a_poor_share_of_successes_opens_it_though_no_failures_follow_one_another(good: int, opens: bool):
    breaker = Breaker(Middle())
    ticket = breaker.admit(NOW)
    for _ in range(good):
        breaker.succeeded(ticket, NOW)
    breaker.failed(ticket, NOW)
    breaker.succeeded(ticket, NOW)
    breaker.failed(ticket, NOW)
    assert breaker.is_closed is not opens


def test_what_is_longer_ago_than_the_window_is_forgotten():
    breaker = Breaker(Middle())
    ticket = breaker.admit(NOW)
    for _ in range(3):
        breaker.failed(ticket, NOW)
    breaker.succeeded(ticket, NOW)
    later = NOW + WINDOW_S + 1
    breaker.failed(ticket, later)
    assert breaker.is_closed, "four failures of five, but not within the window"


@pytest.mark.case("B-34")
@pytest.mark.promise("R08")
def test_penalties_double_from_1_s_to_60_s():
    breaker, _, now = opened()
    now = NOW
    penalties = []
    for _ in range(8):
        penalties.append(breaker.open_until - now)
        now = breaker.open_until
        breaker.failed(breaker.admit(now), now)
    assert penalties == [1, 2, 4, 8, 16, 32, PENALTY_MAX_S, PENALTY_MAX_S]


def test_a_server_that_only_answers_probes_is_left_alone_for_longer_and_longer_until_it_holds():
    breaker = Breaker(Middle())
    fail_until_open(breaker, NOW)
    assert breaker.open_until == NOW + 1
    breaker.recovered(NOW)
    fail_until_open(breaker, NOW + WINDOW_S)
    assert breaker.open_until == NOW + WINDOW_S + 2
    breaker.recovered(NOW)
    fail_until_open(breaker, NOW + WINDOW_S + 1)
    assert breaker.open_until == NOW + WINDOW_S + 1 + 1


@pytest.mark.promise("R08")
def test_who_is_refused_is_told_when_to_come_back():
    breaker, _, now = opened()
    assert breaker.retry_after_s(now) == PENALTY_MIN_S / 2
    breaker, _, now = probing()
    assert breaker.retry_after_s(now) == RETRY_MIN_S


@pytest.mark.case("B-34")
def test_of_1_000_calls_that_wait_at_half_open_one_is_tried():
    breaker, _, now = half_open()
    assert [bool(breaker.admit(now)) for _ in range(1000)] == [True] + 999 * [False]


def test_the_first_penalty_differs_between_proxies_by_a_fifth_at_most():
    seen = set()
    for seed in range(50):
        breaker = Breaker(Random(seed))
        fail_until_open(breaker, NOW)
        seen.add(breaker.open_until - NOW)
    assert len(seen) == 50
    assert min(seen) >= PENALTY_MIN_S * (1 - JITTER) - 1e-6
    assert max(seen) <= PENALTY_MIN_S * (1 + JITTER) + 1e-6


class AnyHistory(RuleBasedStateMachine):
    """Calls begin and end in any order, at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker(Random(1))
        self.now = NOW
        self.under_way: list[int] = []
        self.probe = 0
        self.opened_at = NOW

    @invariant()
    def all_pass_while_it_is_closed_and_nobody_else_does(self) -> None:
        assert bool(self.breaker.pass_ticket) is self.breaker.is_closed
        if self.breaker.is_closed:
            assert self.breaker.pass_ticket == self.breaker.admit(self.now)

    @rule(seconds=st.floats(0.0, 100.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def begin(self) -> None:
        position = self.breaker.position(self.now)
        ticket = self.breaker.admit(self.now)
        assert bool(ticket) == (position is CLOSED or (position is HALF_OPEN and not self.probe))
        if ticket:
            self.under_way.append(ticket)
        if ticket and position is HALF_OPEN:
            self.probe = ticket

    @rule(
        data=st.data(),
        event=st.sampled_from(["succeeded", "failed", "failed", "failed", "throttled", "abandoned", "recovered"]),
        times=st.integers(1, 6),
    )
    def end(self, data: st.DataObject, event: str, times: int) -> None:
        for _ in range(times):
            if not self.under_way:
                return
            ticket = self.under_way.pop(data.draw(st.integers(0, len(self.under_way) - 1)))
            before, until = self.breaker.position(self.now), self.breaker.open_until
            do(self.breaker, event, ticket, self.now)
            after = self.breaker.position(self.now)
            if event == "recovered":
                assert after is CLOSED
            elif before is OPEN:
                assert after is OPEN
            elif before is HALF_OPEN and ticket != self.probe:
                assert after is HALF_OPEN
            elif before is HALF_OPEN:
                expected = {"succeeded": CLOSED, "abandoned": HALF_OPEN}.get(event, OPEN)
                assert after is expected
            elif event != "failed":
                assert after is CLOSED
            if self.breaker.open_until != until:
                penalty = self.breaker.open_until - self.now
                assert PENALTY_MIN_S * (1 - JITTER) - 1e-6 <= penalty <= PENALTY_MAX_S * (1 + JITTER) + 1e-6
            if ticket == self.probe or after is CLOSED:
                self.probe = 0

    @invariant()
    def it_always_lets_somebody_try_in_the_end(self) -> None:
        if not self.probe:
            assert self.breaker.position(self.now + PENALTY_MAX_S * (1 + JITTER) + 1e-6) is not OPEN
        assert self.breaker.retry_after_s(self.now) >= RETRY_MIN_S

    @invariant()
    def it_keeps_little(self) -> None:
        assert len(self.breaker._outcomes) <= OUTCOMES_KEPT_MAX


AnyHistory.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestAnyHistory = AnyHistory.TestCase
