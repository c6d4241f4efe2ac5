"""What several fronts tell becomes one answer."""

from __future__ import annotations

from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from protocol.control import GroupReport, ReplicaReport
from supervisor.config import Group, Server, Settings
from supervisor.plan import child_specs
from supervisor.restart import End, EndKind
from supervisor.roster import Roster
from supervisor.status import Status
from supervisor.tree import Tree

SETTINGS = Settings(
    (Server("a", "http://a/mcp", group="g"), Server("b", "http://b/mcp", group="g")),
    (Group("g", ("a", "b")),), http=True, fronts=2,
)  # fmt: skip


@pytest.fixture
async def tree() -> Tree:
    return Tree(child_specs(SETTINGS), Random(0))


@pytest.fixture
async def status(tree: Tree) -> Status:
    machine: Any = SimpleNamespace(monotonic=lambda: 0.0, wall_time=lambda: 0.0)
    news: Any = SimpleNamespace(states={}, crash_reports=())
    roster = Roster(SETTINGS.servers, SETTINGS.groups)
    return Status(machine, SETTINGS, roster, tree, {}, news, lambda: None)


async def test_how_a_replica_does_is_the_sum_over_the_fronts(status: Status):
    status.heard("front", GroupReport("g", [ReplicaReport("a", 0.5, False, 2, 3, hedged=1)]))
    status.heard("front", GroupReport("g", [ReplicaReport("a", 0.2, False, 3, 4, hedged=1)]))
    both = [ReplicaReport("a", 0.4, True, 1, 1), ReplicaReport("b", 1.0, False, 0, 0)]
    status.heard("front #2", GroupReport("g", both))
    replica = status.server("a").replica
    assert replica is not None
    assert (replica.share, replica.ejected, replica.ejections, replica.failovers, replica.hedged) == (
        0.3,
        True,
        4,
        5,
        1,
    )
    other = status.server("b").replica
    assert other is not None
    assert other.share == 1.0


async def test_each_front_is_told_with_its_own_restarts_and_one_of_them_is_enough_to_be_well(
    status: Status, tree: Tree
):
    tree.start(0.0)
    assert not status.health().proxy_healthy
    for name in ("front", "front #2"):
        tree.ready(name, tree.children[name].incarnation, 0.0)
    tree.exited("front", tree.children["front"].incarnation, End(EndKind.CRASH, "died"), 1.0)
    tree.due(2.0)
    assert status.health().proxy_healthy
    processes = status.proxy().processes
    assert (processes["front"].restarts, processes["front #2"].restarts) == (1, 0)
