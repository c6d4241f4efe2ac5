"""The table of metrics, and what docs/metrics.md says of it."""

from __future__ import annotations

import re

import pytest

from protocol.counts import COUNTS
from supervisor.exposition import TOTAL, Kind
from supervisor.lives import Life
from supervisor.metrics import FAMILIES
from supervisor.tallies import Tallies
from tests.catalogue import CHECKOUT

_UNITS = ("_seconds", "_bytes", "_ratio")


def test_every_metric_is_explained_and_every_one_that_is_explained_is_there():
    text = (CHECKOUT / "docs" / "metrics.md").read_text()
    named = {word.removesuffix("_sum").removesuffix("_count") for word in re.findall(r"\bmcp_bulkhead_\w+", text)}
    assert named == {family.name for family in FAMILIES.values()}


@pytest.mark.parametrize("name", FAMILIES)
def test_names_are_as_those_of_other_programs(name: str):
    family = FAMILIES[name]
    assert re.fullmatch("[a-z][a-z_]*", family.name)
    assert family.name.endswith(TOTAL) == (family.kind is Kind.COUNTER)
    assert (family.kind is Kind.SUMMARY) <= family.name.endswith(_UNITS)
    assert family.help.endswith(".")


class PlayedLife:
    """What `Tallies` asks of a `supervisor.lives.Life`."""

    def __init__(self, title: str, *counts: int, in_flight: int = 0) -> None:
        self.title = title
        self.counts = [*counts, *[0] * (COUNTS - len(counts))]
        self.in_flight = in_flight

    def counted(self) -> tuple[list[int], int]:
        return self.counts, self.in_flight


def test_what_a_worker_has_counted_stays_counted_when_another_takes_its_place():
    lives: dict[str, Life] = {}
    tallies = Tallies(lives)
    old = lives["server a"] = PlayedLife("server a", 5, 100, in_flight=2)  # type: ignore[assignment]
    lives["server a #2"] = PlayedLife("server a", 1, 10, in_flight=1)  # type: ignore[assignment]
    both = tallies.now({"server a"})["server a"]
    assert (both.counts[:2], both.in_flight, both.connections) == ([6, 110], 3, 6)

    del lives["server a"]
    tallies.ended(old)
    for _ in range(2):
        left = tallies.now({"server a"})["server a"]
        assert (left.counts[:2], left.in_flight, left.connections) == ([6, 110], 1, 1)


def test_what_is_removed_is_forgotten():
    tallies = Tallies({})
    tallies.ended(PlayedLife("server a", 5))  # type: ignore[arg-type]
    assert tallies.now(set()) == {}
    assert tallies.now({"server a"}) == {}
