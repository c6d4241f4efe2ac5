"""How the root tells that nothing has run for a while."""

from __future__ import annotations

import pytest

from protocol.limits import HEARTBEAT_S, SILENCE_S
from supervisor.machine import LinuxMachine
from supervisor.wake import WakeWatch


@pytest.mark.case("C-24", "C-25")
@pytest.mark.parametrize(
    ("gap_s", "told_s"), [(HEARTBEAT_S, 0.0), (HEARTBEAT_S + SILENCE_S, 0.0), (6.1, 6.1), (8 * 3600.0, 8 * 3600.0)]
)
def test_a_gap_is_told_once_and_only_if_a_busy_machine_does_not_explain_it(gap_s: float, told_s: float):
    watch = WakeWatch(100.0)

    assert watch.look(100.0 + gap_s) == pytest.approx(told_s)
    assert watch.look(100.0 + gap_s + HEARTBEAT_S) == 0.0


def test_the_clock_counts_the_time_a_machine_is_asleep():
    """proc(5): the first number of /proc/uptime includes time spent in suspend."""
    with open("/proc/uptime", encoding="ascii") as file:
        uptime_s = float(file.read().split()[0])

    assert LinuxMachine().uptime() == pytest.approx(uptime_s, abs=1.0)
