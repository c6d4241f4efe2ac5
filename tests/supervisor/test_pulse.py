"""When a silent worker counts as stuck, and when the root suspects itself instead."""

from __future__ import annotations

import pytest

from protocol.limits import HEARTBEAT_S, SILENCE_S
from supervisor.pulse import LATE_S, Pulse


@pytest.mark.promise("R03")
def test_silence_is_counted_from_the_last_heartbeat():
    pulse = Pulse()
    pulse.look(100.0)

    assert pulse.due(99.5, ready_since=10.0) == 99.5 + SILENCE_S


def test_a_worker_that_has_just_become_ready_has_the_full_time():
    pulse = Pulse()
    pulse.look(100.0)

    assert pulse.due(90.0, ready_since=99.9) == 99.9 + SILENCE_S


@pytest.mark.promise("R03")
def test_the_next_look_is_when_the_first_may_be_due_and_never_late():
    pulse = Pulse()
    pulse.look(100.0)
    assert pulse.next_look == 100.0 + HEARTBEAT_S
    pulse.due(95.3, ready_since=0.0)
    pulse.due(99.9, ready_since=0.0)

    assert pulse.next_look == pytest.approx(100.3)


@pytest.mark.case("C-24", "C-25")
def test_who_looks_too_late_gives_everybody_the_full_time_once_more():
    pulse = Pulse()
    pulse.look(100.0)
    pulse.look(8 * 3600.0)
    assert pulse.due(99.9, ready_since=0.0) == 8 * 3600.0 + SILENCE_S
    for second in range(1, 6):
        pulse.look(8 * 3600.0 + second)

    assert pulse.due(99.9, ready_since=0.0) == 8 * 3600.0 + SILENCE_S, "and only once"


def test_a_look_that_is_a_little_late_changes_nothing():
    pulse = Pulse()
    pulse.look(100.0)
    pulse.look(100.0 + HEARTBEAT_S + LATE_S)

    assert pulse.due(96.5, ready_since=0.0) == 96.5 + SILENCE_S
