"""python -m benchmarks failover --group: what is made of calls around a fault, and a small real run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import group_report
from benchmarks.backend import RUBBISH
from benchmarks.group_report import CORRUPT, HUNG, KILLED, KINDS, SLOW, Observation, Outcome, observe
from benchmarks.timeline import NS_PER_MS, NS_PER_S, Call
from tests.benchmarks.runs import Start, finished

pytestmark = pytest.mark.alone  # what is measured is compared with something

FAULT_NS = 10 * NS_PER_S


def call(at_ms: float, ms: float = 5.0, fault: str = "") -> Call:
    """Return a call that was made so long after the fault."""
    started_ns = FAULT_NS + int(at_ms * NS_PER_MS)
    return Call(3, started_ns, started_ns + int(ms * NS_PER_MS), fault)


def outcome(kind: str, safe_lost: int = 0, shifted_ms: float = 10.0, then_ms: float = 6.0) -> Observation:
    return Observation(Outcome(kind, safe_lost, 3, shifted_ms, 5.0, 50.0, then_ms, {}), 0, [])


def missed(*found: Observation) -> list[str]:
    return [verdict.what for verdict in group_report.verdicts(found) if not verdict.kept]


def test_what_is_lost_is_counted_by_whether_it_was_safe():
    before = [call(at) for at in range(-900, -100, 10)]
    safe = [*before, call(-5, 400.0), call(5), call(50, 1.0, "gone"), call(9000, 1.0, "long after")]
    other = [*before, call(10, 1000.0, "timed out"), call(20, 1000.0, "timed out"), call(-500, 1.0, "before")]
    found = observe(KILLED, FAULT_NS, safe, other).outcome
    assert (found.safe_lost, found.other_lost) == (1, 2)
    assert found.reasons == {"gone": 1, "timed out": 2}


def test_calls_have_shifted_when_the_last_one_was_made_that_was_held_up():
    before = [call(at) for at in range(-900, -100, 10)]
    held_up = [call(-5, 400.0), call(120, 300.0), call(80, 1.0, "gone")]
    fine = [call(at) for at in range(0, 3900, 10)]
    assert observe(HUNG, FAULT_NS, [*before, *held_up], fine).outcome.shifted_ms == 120.0
    assert observe(HUNG, FAULT_NS, [*before, *held_up[:1]], fine).outcome.shifted_ms == 0.0


def test_the_tail_is_told_for_before_the_first_two_seconds_and_then():
    calls = [call(at, 5.0) for at in range(-900, -100, 10)]
    calls += [call(at, 50.0) for at in range(0, 2000, 10)] + [call(at, 7.0) for at in range(2000, 3900, 10)]
    found = observe(SLOW, FAULT_NS, calls, []).outcome
    assert (found.p99_before_ms, found.p99_first_ms, found.p99_then_ms) == (5.0, 50.0, 7.0)


def test_what_is_kept_is_not_missed_and_what_never_recovers_is():
    assert missed(*(outcome(kind) for kind in KINDS)) == []
    assert missed(outcome(SLOW, shifted_ms=3000.0)) == [], "nothing is promised of it but that nothing is lost"
    assert missed(outcome(KILLED, shifted_ms=101.0)) == ["ms until no call is held up, replica killed"]
    assert missed(outcome(HUNG), outcome(HUNG, shifted_ms=1001.0)) == ["ms until no call is held up, replica hung"]
    assert missed(outcome(CORRUPT, safe_lost=1)) == ["failed safe calls while a replica is corrupt"]
    for then_ms in (15.1, math.nan):
        assert missed(outcome(SLOW, then_ms=then_ms)) == ["p99 in ms 2 s after a replica was slow"]


def test_nothing_measured_is_said():
    assert group_report.table([]) == "nothing was measured"
    assert group_report.verdicts([]) == []


def test_rubbish_is_http_but_no_answer():
    head, body = RUBBISH.split(b"\r\n\r\n")
    assert b"Content-Length: %d" % len(body) in head
    with pytest.raises(json.JSONDecodeError):
        json.loads(body)


@pytest.mark.slow
def test_a_replica_that_hangs_costs_no_safe_call(start_run: Start, tmp_path: Path):
    plots = tmp_path / "plots"
    arguments = ("failover", "--group", "hung", "--repeat", "1", "--plots", str(plots), "--json", "-")
    code, out, err = finished(start_run(*arguments))

    assert code == 0, err
    (each,) = json.loads(out)["faults"]["hung"]
    assert each["safe_lost"] == 0
    assert ElementTree.parse(plots / "failover-replica-hung.svg").getroot().tag.endswith("svg")
    assert "kept         failed safe calls while a replica is hung" in err
