"""python -m benchmarks failover, recovery, soak: small real runs, and what is promised of their figures."""

from __future__ import annotations

import json
import math
import signal
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import failover_report
from benchmarks.faults import SERVER_KIND, WORKER_KIND
from benchmarks.stand import FRONT
from benchmarks.timeline import Fault, Observation, Outcome
from tests.benchmarks.runs import Start, finished, members
from tests.waiting import wait_until


def seen(
    kind: str, first_good_ms: float = 10.0, here: int = 1, elsewhere: int = 0, rise_ms: float = 0.0
) -> Observation:
    server = None if kind == FRONT else 0
    return Observation(Fault(kind, server, 0), Outcome(3, 9, first_good_ms, here, elsewhere, 2.0, 2.0 + rise_ms), [])


def missed(*found: Observation) -> list[str]:
    return [verdict.what for verdict in failover_report.verdicts(found, connections=12) if not verdict.kept]


def test_what_is_kept_is_not_missed() -> None:
    assert missed(seen(WORKER_KIND), seen(SERVER_KIND, first_good_ms=900), seen(FRONT, here=12)) == []


def test_a_failed_call_elsewhere_is_a_missed_promise() -> None:
    assert missed(seen(SERVER_KIND, elsewhere=1)) == ["failed calls on other servers while a server is killed"]


def test_a_worker_that_never_serves_again_is_a_missed_promise() -> None:
    assert missed(seen(WORKER_KIND), seen(WORKER_KIND, first_good_ms=math.nan)) == [
        "ms from killing a worker to the next good call, p50",
        "ms from killing a worker to the next good call, p99",
    ]


def test_others_that_get_slower_and_a_front_that_costs_a_connection_two_calls_are_missed_promises() -> None:
    assert missed(seen(WORKER_KIND, rise_ms=1.5), seen(FRONT, here=13)) == [
        "ms the p99 of other servers rises while a worker is killed",
        "failed calls when the front is killed (one per connection)",
    ]


@pytest.mark.slow
def test_each_process_is_killed_once_and_comes_back(start_run: Start, tmp_path: Path) -> None:
    plots = tmp_path / "plots"

    code, out, err = finished(
        start_run("failover", "--repeat", "1", "--servers", "2", "--clients", "2", "--plots", str(plots), "--json", "-")
    )

    assert code == 0, err
    found = json.loads(out)["faults"]
    assert {kind: len(of["observations"]) for kind, of in found.items()} == {
        "worker": 2,
        "server": 1,
        "front": 1,
        "zygote": 1,
    }
    for kind, of in found.items():
        for each in of["observations"]:
            assert 0 < each["replaced_ms"] < 3000, kind  # seen by looking again and again, so maybe after that call
            assert 0 < each["first_good_ms"] < 3000, kind
            assert each["failed_elsewhere"] == 0
        drawing = ElementTree.parse(plots / f"failover-{kind}.svg").getroot()
        assert drawing.tag.endswith("svg")
    assert "kept         failed calls on other servers while a worker is killed" in err


@pytest.mark.slow
def test_starting_resting_and_stopping_are_measured(start_run: Start) -> None:
    code, out, err = finished(start_run("recovery", "--repeat", "1", "--many", "4", "--rest", "0.5", "--json", "-"))

    assert code == 0, err
    document = json.loads(out)
    assert [start["servers"] for start in document["starts"]] == [2, 4]
    for start in document["starts"]:
        assert 0 < start["answering_ms"] < start["served_ms"]
        assert start["stop_ms"] > 0
    assert document["rest"]["pss_mib"].keys() == {"root", "zygote", "front", "worker", "spare"}
    assert 1 < document["rest"]["pss_mib"]["worker"] < 100
    assert 0 <= document["rest"]["cpu_percent"]["worker"] < 100


@pytest.mark.slow
@pytest.mark.case("C-31")
def test_a_soak_ends_with_a_verdict_on_leaks(start_run: Start, tmp_path: Path) -> None:
    arguments = (
        "--minutes",
        "0.1",
        "--every",
        "1",
        "--servers",
        "2",
        "--seed",
        "3",
        "--plots",
        str(tmp_path / "plots"),
    )

    code, out, err = finished(start_run("soak", *arguments, "--json", "-"))

    assert code == 0, err
    document = json.loads(out)
    assert document["calls"] > 100
    assert document["faults"]
    assert document["before"]["processes"] == document["after"]["processes"] == 6
    verdicts = {verdict["what"]: verdict["kept"] for verdict in document["targets"]}
    assert verdicts["calls that were never answered"]
    assert verdicts["failed calls that no fault explains"]
    assert verdicts["descriptors more or fewer"]
    assert (tmp_path / "plots" / "soak.svg").exists()


def test_an_interrupted_run_leaves_nothing(start_run: Start, mark: str, tmp_path: Path) -> None:
    process = start_run("failover", "--servers", "2", "--clients", "1")
    wait_until(lambda: len(members(mark)) >= 9, "servers, proxy and load are started", 20)

    process.send_signal(signal.SIGINT)
    code, out, err = finished(process)

    assert code == 128 + signal.SIGINT
    assert "Traceback" not in out + err
    assert list(tmp_path.iterdir()) == []
