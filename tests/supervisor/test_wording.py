"""What people read."""

from __future__ import annotations

import pytest

from supervisor.listen import bind
from supervisor.restart import Action, Verdict
from supervisor.spec import Role
from supervisor.wording import consequence, exposure_warning


@pytest.mark.parametrize(
    ("role", "verdict", "text"),
    [
        (Role.SERVER, Verdict(Action.RESTART_NOW), "a new one starts now"),
        (Role.SERVER, Verdict(Action.RESTART_AFTER, 0.25), "a new one starts in 0.2 s"),
        (Role.SERVER, Verdict(Action.PARK, 300.0), "it keeps failing, and is tried again in 5 minutes"),
        (Role.SERVER, Verdict(Action.STOP), "it is not started again"),
        (Role.FRONT, Verdict(Action.ESCALATE), "it keeps failing: everything is replaced"),
        (Role.ZYGOTE, Verdict(Action.RESTART_NOW), "all workers are replaced"),
        (Role.ZYGOTE, Verdict(Action.RESTART_AFTER, 1.0), "all workers are replaced in 1.0 s"),
        (Role.ZYGOTE, Verdict(Action.ESCALATE), "it keeps failing: giving up"),
    ],
)
def test_every_consequence_has_words(role: Role, verdict: Verdict, text: str):
    assert consequence(role, verdict) == text


@pytest.mark.parametrize(("host", "warned"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_people_are_warned_of_addresses_that_others_reach(host: str, warned: bool):
    (sock,) = bind([host], 0)
    with sock:
        assert (host in exposure_warning([sock])) is warned
