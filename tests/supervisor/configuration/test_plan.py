"""The plan from one configuration to another: right, smallest, and honest about what needs a restart."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from hypothesis import given

from supervisor.config import Group, Server, Settings
from supervisor.configuration.plan import ORDER, Plan, Step, What, apply, diff
from tests.supervisor.configuration import strategies

A, B, C = (Server(name, f"http://{name}/") for name in "abc")


def by_name(settings: Settings) -> dict[str, Server]:
    return {server.name: server for server in settings.servers}


@pytest.mark.promise("R12")
@strategies.many
@given(strategies.settings(), strategies.settings())
def test_a_plan_leads_to_the_servers_that_are_wanted(old: Settings, new: Settings):
    plan = diff(old, new)
    reached = apply(plan, old)

    assert by_name(reached) == by_name(new)
    assert (reached.servers == new.servers) == (ORDER not in plan.restart)
    assert replace(reached, servers=()) == replace(old, servers=())


@strategies.many
@given(strategies.settings(), strategies.settings())
def test_nothing_but_what_needs_a_restart_is_left_after_a_plan(old: Settings, new: Settings):
    plan = diff(old, new)
    again = diff(apply(plan, old), new)

    assert again.steps == ()
    assert again.restart == plan.restart
    if not plan.restart:
        assert apply(plan, old) == new


@pytest.mark.promise("R12")
@strategies.many
@given(strategies.settings(), strategies.settings())
def test_servers_that_are_as_they_were_are_never_mentioned(old: Settings, new: Settings):
    plan = diff(old, new)
    before, after = by_name(old), by_name(new)
    same = {name for name in before if before[name] == after.get(name)}

    assert set(plan.kept) == same
    assert not same & {step.server.name for step in plan.steps}
    assert len({step.server.name for step in plan.steps}) == len(plan.steps) == len(before.keys() | after) - len(same)


@strategies.many
@given(strategies.settings())
def test_there_is_nothing_to_do_from_a_configuration_to_itself(settings: Settings):
    assert diff(settings, settings).is_empty


def test_each_change_is_called_by_its_name():
    moved = replace(A, url="http://elsewhere/")
    off = replace(B, enabled=False)
    old, new = Settings((A, B, C)), Settings((moved, off, Server("d", "http://d/")))

    assert diff(old, new) == Plan(
        steps=(
            Step(What.REMOVE, C),
            Step(What.DISABLE, off),
            Step(What.REPLACE, moved, ("url",)),
            Step(What.ADD, Server("d", "http://d/")),
        ),
        restart=(),
        kept=(),
    )
    assert diff(Settings((off,)), Settings((B,))).steps == (Step(What.ENABLE, B),)


def test_a_plan_reads_as_a_list_without_values():
    secret = replace(A, headers=(("Authorization", "hunter2canary"),))

    lines = diff(Settings((A, B, C)), Settings((B, secret), port=1)).lines()

    assert lines == [
        "remove c",
        "replace a (headers)",
        "keep b",
        "only after a restart of the proxy: port, order of servers",
    ]


@pytest.mark.parametrize("field", [field.name for field in fields(Settings)])
def test_every_setting_has_an_effect_or_is_said_to_need_a_restart(field: str):
    others: dict[str, object] = {
        "servers": (A,), "groups": (Group("g"),), "config_file": "x", "config_identity": (1, 2, 3, 4), "notes": ("x",),
    }  # fmt: skip
    other = others.get(field, object())

    plan = diff(Settings(()), replace(Settings(()), **{field: other}))

    assert plan.is_empty == (field in ("config_file", "config_identity", "notes"))


def test_a_changed_limit_is_told_by_its_key_in_the_file_and_replaces_the_server_alone():
    old, other = A, B
    new = replace(old, call_timeout_s=5.0, in_flight_max=4)
    plan = diff(Settings((old, other)), Settings((new, other)))

    assert plan.lines() == ["replace a (call_timeout, in_flight)", "keep b"]
    assert diff(Settings((old,)), Settings((old,), memory_limit=2**30 + 1, queue_max=1)).restart == (
        "memory_limit",
        "queue",
    )
