"""The pace of one call's progress."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.limits import PROGRESS_AT_ONCE, PROGRESS_PER_S
from workers.backend.progress import Progress


@pytest.mark.case("B-10")
@given(st.lists(st.floats(0, 0.1), max_size=300))
def test_no_more_than_the_rate_goes_on_and_who_waits_as_told_need_not_wait_again(gaps: list[float]):
    now, sent, pace = 100.0, 0, Progress(100.0)
    for gap in gaps:
        now += gap
        sent += pace.wait_s(now) == 0.0

    assert sent <= PROGRESS_AT_ONCE + PROGRESS_PER_S * (now - 100.0) + 1e-6
    assert pace.wait_s(now + pace.wait_s(now) + 1e-6) == 0.0
