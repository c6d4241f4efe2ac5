"""What users are told of a server's health."""

from __future__ import annotations

import pytest

from protocol.health import HEALTH_STATUSES, health_status


@pytest.mark.parametrize(
    ("state", "if_it_answers", "if_it_does_not"),
    [
        ("starting", "unknown", "unknown"),
        ("connecting", "unknown", "unknown"),
        ("negotiating", "unknown", "unknown"),
        ("ready", "healthy", "healthy"),
        ("degraded", "unhealthy", "error"),
        ("auth_required", "unhealthy", "unhealthy"),
        ("open", "unhealthy", "error"),
        ("half_open", "unhealthy", "error"),
        ("backoff", "unhealthy", "error"),
        ("parked", "error", "error"),
        ("disabled", "unknown", "unknown"),
        ("draining", "unknown", "unknown"),
        ("stopped", "unknown", "unknown"),
        ("a state of a later version", "unknown", "unknown"),
    ],
)
def test_every_state_has_a_status(state: str, if_it_answers: str, if_it_does_not: str):
    told = (health_status(state, answers=True), health_status(state, answers=False))
    assert told == (if_it_answers, if_it_does_not)
    assert set(told) <= set(HEALTH_STATUSES)
