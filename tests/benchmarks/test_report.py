"""benchmarks.results, .targets, .report and .progress: figures are medians, misses are seen, nothing is hidden."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import pytest

from benchmarks import report, targets
from benchmarks.options import Options
from benchmarks.progress import Progress
from benchmarks.results import Case, CaseResult, Round, RunResult, SubjectResult
from benchmarks.rounds import LoadResult
from benchmarks.targets import Verdict
from protocol.versions import Era

SMALL = Case(64, 100, Era.LEGACY)
OPTIONS = Options((SMALL,), ("http",), ("proxy",), 3, 1.0, None, "apart", "", False)


def round_of(calls: int, cpu_us: dict[str, float], *, failed: int = 0, ended: bool = False) -> Round:
    """One second with so many calls of 1 ms each, and this CPU per call by part."""
    load = LoadResult(calls=calls, seconds=1.0, generator_cpu_ns=calls * 9_000)
    for _ in range(calls):
        load.latencies.add(1_000_000)
    for _ in range(failed):
        load.fail("HTTP 500: no")
    return Round(load, {part: int(us * 1e3 * calls) for part, us in cpu_us.items()}, ended)


def subject(*rounds: Round) -> SubjectResult:
    return SubjectResult(list(rounds), LoadResult())


def run_with(**proxy: float) -> RunResult:
    """A run in which the proxy makes 600 calls/s, nginx 1000, the SDK relay 20; `proxy` are CPU µs by part."""
    parts = {"front": 40.0, "worker": 30.0, "root": 0.1, "backend": 11.0} | proxy
    result = CaseResult(SMALL)
    result.subjects["nginx"] = subject(*[round_of(1000, {"nginx": 20.0, "backend": 10.0})] * 3)
    result.subjects["proxy"] = subject(*[round_of(600, parts)] * 3)
    result.subjects["sdk-relay"] = subject(*[round_of(20, {"sdk-relay": 3000.0, "backend": 90.0})] * 3)
    run = RunResult()
    run.cases.append(result)
    run.memory["proxy"] = {"front": 1.04, "worker": 1.95, "root": 0.0}
    return run


def missed(run: RunResult) -> list[str]:
    return [verdict.what for verdict in targets.check(run) if verdict.kept is False]


def test_figures_are_medians_over_the_rounds() -> None:
    result = subject(round_of(100, {"front": 10}), round_of(300, {"front": 50}), round_of(200, {"front": 20}))

    assert result.calls_per_s == 200
    assert result.part_us("front") == pytest.approx(20)
    assert result.hop_us == pytest.approx(20)
    assert result.part_us("worker") is None
    assert result.generator_us == pytest.approx(9)
    assert result.latency_ms(50) == pytest.approx(1, rel=0.02)
    assert result.calls == 600


def test_a_ratio_is_the_median_of_the_ratios_of_rounds_that_ran_side_by_side() -> None:
    result = CaseResult(SMALL)
    result.subjects["a"] = subject(*(round_of(calls, {}) for calls in (100, 10, 1000)))
    result.subjects["b"] = subject(*(round_of(calls, {}) for calls in (400, 20, 1000)))

    assert result.speed_ratio("a", "b") == 0.5
    assert result.speed_ratio("a", "unknown") is None


def test_a_subject_without_a_good_answer_has_figures_all_the_same() -> None:
    result = CaseResult(SMALL)
    result.subjects["proxy"] = subject(round_of(0, {"front": 0}, failed=3))
    run = RunResult()
    run.cases.append(result)

    assert result.subjects["proxy"].calls_per_s == 0
    assert math.isnan(result.subjects["proxy"].latency_ms(50))
    assert "3 times HTTP 500: no" in report.tables(run, [])
    assert json.loads(report.as_json(run, OPTIONS, []))["cases"][0]["subjects"]["proxy"]["p50_ms"] is None


def test_a_run_that_keeps_every_promise_has_no_miss() -> None:
    verdicts = targets.check(run_with())

    assert [verdict.kept for verdict in verdicts] == [True] * len(verdicts)
    assert len(verdicts) == 7
    assert targets.all_kept(verdicts)


@pytest.mark.parametrize(
    ("cpu", "what"),
    [({"front": 45.5}, "front CPU µs per call"), ({"worker": 40.5}, "worker CPU µs per call")],
)
def test_too_much_cpu_is_a_miss(cpu: dict[str, float], what: str) -> None:
    assert missed(run_with(**cpu)) == [f"{what} (64 connections, 100 B, legacy)"]


@pytest.mark.parametrize(
    ("name", "parts", "kept"),
    [
        ("proxy-tls", {"front": 90.0, "worker": 41.9}, True),
        ("proxy-tls", {"front": 40.0, "worker": 42.1}, False),
        ("proxy-tls-front", {"front": 51.9, "worker": 90.0}, True),
        ("proxy-tls-front", {"front": 52.1, "worker": 30.0}, False),
    ],
)
def test_what_tls_adds_to_a_call_is_measured_on_its_side(name: str, parts: dict[str, float], kept: bool) -> None:
    run = run_with()
    run.cases[0].subjects[name] = subject(*[round_of(500, parts)] * 3)

    found = {verdict.what: verdict.kept for verdict in targets.check(run) if "TLS" in verdict.what}

    assert list(found.values()) == [kept]


@pytest.mark.parametrize(("reference", "calls"), [("nginx", 1201), ("sdk-relay", 31)])
def test_too_few_calls_beside_another_subject_are_a_miss(reference: str, calls: int) -> None:
    run = run_with()
    run.cases[0].subjects[reference] = subject(*[round_of(calls, {})] * 3)

    assert len(missed(run)) == 1
    assert "relative to" in missed(run)[0]


def test_failed_calls_further_copies_and_a_proxy_that_does_not_answer_are_misses() -> None:
    run = run_with()
    run.cases[0].subjects["proxy"] = subject(*[round_of(600, {"front": 1.0, "worker": 1.0}, failed=1)] * 3)
    run.memory["proxy"] = {"front": 2.6, "worker": math.inf}
    other = CaseResult(Case(1, 100, Era.LEGACY))
    other.errors["proxy"] = "no answer"
    run.cases.append(other)

    assert missed(run) == [
        "copies of a large answer in the front of proxy",
        "copies of a large answer in the worker of proxy",
        "failed calls of proxy in all cases",
    ]
    assert targets.check(run)[-1].measured == 4
    assert json.loads(report.as_json(run, OPTIONS, targets.check(run)))["targets"][-1]["kept"] is False


def test_what_was_not_measured_is_neither_kept_nor_missed_and_nothing_measured_is_no_success() -> None:
    run = run_with()
    del run.cases[0].subjects["nginx"]

    assert [verdict.kept for verdict in targets.check(run)].count(None) == 1
    assert targets.all_kept(targets.check(run))
    assert not targets.all_kept([])
    assert not targets.all_kept([Verdict("speed", 1, True, None)])


def test_the_tables_show_subjects_ratios_skips_and_misses() -> None:
    run = run_with(front=50.0)
    run.skipped["nginx"] = "nginx is not installed"
    run.cases[0].errors["proxy-stdio"] = "no answer"
    text = report.tables(run, targets.check(run))

    line = next(line for line in text.splitlines() if line.split()[:1] == ["proxy"])
    assert line.split() == ["proxy", "600", "1.00", "1.00", "50.0", "30.0", "80.1", "11.0", "9.00", "0.60", "30.0"]
    for expected in (
        "nginx was skipped: nginx is not installed",
        "proxy-stdio: not measured: no answer",
        "MISSED       front CPU µs per call (64 connections, 100 B, legacy) ≤ 45: 50",
        "proxy: front 1.04, worker 1.95",
    ):
        assert expected in text


def test_a_second_checkout_is_compared_in_speed_and_cpu() -> None:
    run = run_with()
    run.cases[0].subjects["base"] = subject(*[round_of(500, {"front": 60.0, "worker": 40.1, "backend": 1.0})] * 3)

    text = report.tables(run, [])

    assert "/base" in text
    assert "CPU per call of proxy relative to base: 0.700" in text


def test_the_json_has_every_round() -> None:
    options = Options((SMALL,), ("http",), ("proxy",), 3, 1.0, Path("/base"), "apart", "", False)
    run = run_with()
    document = json.loads(report.as_json(run, options, targets.check(run)))

    proxy = document["cases"][0]["subjects"]["proxy"]
    assert [each["calls"] for each in proxy["rounds"]] == [600, 600, 600]
    assert proxy["cpu_us_per_call"]["front"] == pytest.approx(40)
    assert proxy["speed_ratio_to"] == {"nginx": pytest.approx(0.6), "sdk-relay": pytest.approx(30)}
    assert document["options"]["base"] == "/base"
    assert document["memory_per_large_answer"]["proxy"]["worker"] == 1.95
    assert all(verdict["kept"] for verdict in document["targets"])


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_a_line_per_round_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    progress = Progress(stream)
    progress.expect(4)
    progress.measuring("case", "proxy", "round 1 of 2")
    progress.step()
    progress.round_done("case", 1, {"direct": 12345.6, "proxy": 100.0})

    assert stream.getvalue().startswith("[1/4] case, round 1, calls/s: direct 12,346, proxy 100, ")
    assert stream.getvalue().count("\n") == 1


def test_progress_is_one_changing_line_on_a_terminal() -> None:
    stream = Terminal()
    progress = Progress(stream)
    progress.expect(4)
    progress.measuring("case", "proxy", "round 1 of 2")
    progress.step()
    progress.round_done("case", 1, {"proxy": 100.0})
    progress.line("nginx is skipped")
    progress.clear()

    assert stream.getvalue() == ("\r\x1b[K[0/4] case: proxy, round 1 of 2\r\x1b[Knginx is skipped\n\r\x1b[K")
