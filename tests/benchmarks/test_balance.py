"""python -m benchmarks balance: what is made of calls, and a small real run."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import balance
from benchmarks.balance import DELAY_MS, Balanced
from benchmarks.timeline import NS_PER_MS, NS_PER_S, Call
from supervisor.groups import POLICIES
from tests.benchmarks.runs import Start, finished

pytestmark = pytest.mark.alone  # what is measured is compared with something


def call(at_ms: float, ms: float, fault: str = "") -> Call:
    return Call(0, int((at_ms - ms) * NS_PER_MS), int(at_ms * NS_PER_MS), fault)


def test_calls_of_the_slow_replica_are_told_by_how_long_they_took():
    calls = [call(100, 2), call(200, 3), call(300, DELAY_MS), call(400, 4), call(500, 1, "gone"), call(5000, 1)]
    found = Balanced.of(calls, 0, NS_PER_S)
    assert (found.per_s, found.slow_share, found.failed) == (4.0, 0.25, 1)
    assert found.p99_ms == DELAY_MS
    assert found.reasons == {"gone": 1}


def test_every_policy_that_is_measured_is_one():
    assert set(balance.POLICIES) <= set(POLICIES)


@pytest.mark.slow
def test_a_small_run_shows_what_a_slow_replica_costs_whom(start_run: Start, tmp_path: Path):
    code, out, err = finished(
        start_run(
            "balance", "--seconds", "1", "--policies", "least_loaded", "weighted", "--plots", str(tmp_path),
            "--json", "-",
        )
    )  # fmt: skip

    assert code == 0, err
    assert ElementTree.parse(tmp_path / "balance.svg").getroot().tag.endswith("svg")
    found = json.loads(out)["policies"]
    assert sum(one["failed"] for one in found.values()) == 0
    # Least loaded avoids it at once; weights give it what they say, and it is ejected for being so slow.
    assert found["least_loaded"]["slow_share"] < 0.1
    assert found["weighted"]["slow_share"] < 0.2
