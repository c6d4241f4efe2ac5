"""Child specifications: what cannot be obeyed is refused, each with its own message."""

from __future__ import annotations

import math

import pytest

from protocol.limits import STOP_S
from supervisor.spec import ChildSpec, Restart, Role, SpecError, check


@pytest.mark.case("C-15")
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": ""}, "a child needs a name"),
        ({"shutdown_s": math.inf}, "a stop that may take for ever is none"),
        ({"shutdown_s": math.nan}, "shutdown_s must be between"),
        ({"shutdown_s": -0.1}, "shutdown_s must be between"),
        ({"shutdown_s": STOP_S + 0.1}, "shutdown_s must be between 0 and 30"),
        ({"significant": True}, "a permanent child never ends for good"),
        ({"intensity": 0}, "intensity must be at least 1"),
        ({"period_s": 0.0}, "period_s must be a positive number"),
        ({"period_s": math.inf}, "period_s must be a positive number"),
        ({"delay_s_max": -1.0}, "delay_s_max must be a positive number"),
    ],
)
def test_a_specification_that_cannot_be_obeyed_is_refused_with_its_own_message(values: dict[str, object], message: str):
    with pytest.raises(SpecError, match=message) as caught:
        ChildSpec(**{"name": "server main", "role": Role.SERVER} | values)  # type: ignore[arg-type]

    assert values.get("name", "server main") in str(caught.value)


def test_a_stop_may_take_no_time_or_all_there_is():
    assert ChildSpec("a", Role.SERVER, shutdown_s=0).shutdown_s == 0
    assert ChildSpec("a", Role.SERVER, shutdown_s=STOP_S).shutdown_s == STOP_S
    assert ChildSpec("a", Role.SERVER, Restart.TRANSIENT, significant=True).significant


def test_a_tree_needs_one_zygote_and_different_names():
    zygote, server = ChildSpec("zygote", Role.ZYGOTE), ChildSpec("server main", Role.SERVER)

    check([zygote, server])
    with pytest.raises(SpecError, match="exactly one zygote, not 0"):
        check([server])
    with pytest.raises(SpecError, match="exactly one zygote, not 2"):
        check([zygote, ChildSpec("second", Role.ZYGOTE)])
    with pytest.raises(SpecError, match="two children are called 'server main'"):
        check([zygote, server, server])
