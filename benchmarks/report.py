"""Shows what a run has found: tables for people, JSON for programs."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from typing import Any, Final

from benchmarks import subjects
from benchmarks.cpu import FRONT, ROOT, WORKER, ZYGOTE
from benchmarks.options import Options
from benchmarks.results import BACKEND_PART, CaseResult, RunResult, SubjectResult
from benchmarks.targets import Verdict

REFERENCES: Final = {
    subjects.DIRECT: "/direct",
    subjects.NGINX: "/nginx",
    subjects.SDK_RELAY: "/sdk",
    subjects.BASE: "/base",
}
COLUMNS: Final = (
    "", "calls/s", "p50 ms", "p99 ms", "front", "worker", "hop", "backend", "client", *REFERENCES.values(), "failed"
)  # fmt: skip
IDLE: Final = (ROOT, ZYGOTE)
"""Parts no answer passes."""
PACKAGES: Final = ("mcp-bulkhead", "trio", "msgspec", "httptools", "mcp", "uvicorn")


def tables(run: RunResult, verdicts: Sequence[Verdict]) -> str:
    """Return the whole report as text."""
    blocks = [_case_block(result) for result in run.cases if result.subjects or result.errors]
    notes = [f"{name} was skipped: {reason}" for name, reason in run.skipped.items()]
    notes += [f"{name} could not be measured: {reason}" for name, reason in run.broken.items()]
    for name, multiples in run.memory.items():
        figures = ", ".join(f"{part} {figure(multiple)}" for part, multiple in multiples.items() if part not in IDLE)
        if figures:
            notes.append(f"Memory touched for a large answer, in multiples of its size: {name}: {figures}")
    if verdicts:
        notes += ["Promised numbers:", *(f"  {verdict.sentence}" for verdict in verdicts)]
    legend = (
        "front, worker, hop (all between client and backend), backend, client (the generator): CPU µs per call. "
        "/direct and so on: calls/s as a multiple of that subject's, median of the ratios of each round."
    )
    if run.placement:
        legend += f" In this run {run.placement}."
    return "\n\n".join([*blocks, legend, *(["\n".join(notes)] if notes else [])])


def _case_block(result: CaseResult) -> str:
    references = [name for name in REFERENCES if name in result.subjects]
    rows = [COLUMNS, *(_row(result, name, subject, references) for name, subject in result.subjects.items())]
    return "\n".join([result.case.title, columns(rows), *(f"  {note}" for note in _case_notes(result))])


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as text; the first one has the headings, and columns that are empty below it are left out."""
    shown = [index for index in range(len(rows[0])) if index == 0 or any(row[index] for row in rows[1:])]
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    lines: list[str] = []
    for row in rows:
        cells = [row[index].rjust(widths[index]) if index else row[index].ljust(widths[index]) for index in shown]
        lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join(lines)


def _row(result: CaseResult, name: str, subject: SubjectResult, references: list[str]) -> tuple[str, ...]:
    ratios = {
        reference: figure(result.speed_ratio(name, reference)) if name != reference and reference in references else ""
        for reference in REFERENCES
    }
    return (
        name,
        f"{subject.calls_per_s:,.0f}",
        figure(subject.latency_ms(50)),
        figure(subject.latency_ms(99)),
        figure(subject.part_us(FRONT)),
        figure(subject.part_us(WORKER)),
        figure(subject.hop_us) if subject.hop_us > 0 else "",
        figure(subject.part_us(BACKEND_PART)),
        figure(subject.generator_us),
        *ratios.values(),
        str(subject.failed) if subject.failed else "",
    )


def _case_notes(result: CaseResult) -> list[str]:
    notes = [f"{name}: not measured: {reason}" for name, reason in result.errors.items()]
    for name, subject in result.subjects.items():
        notes += [f"{name}: {count} times {reason}" for reason, count in subject.faults.most_common()]
        if subject.process_ended:
            notes.append(f"{name}: a process ended during a round; its CPU time is not complete")
    hop_ratio = result.hop_ratio(subjects.PROXY, subjects.BASE)
    if hop_ratio is not None:
        notes.append(f"CPU per call of {subjects.PROXY} relative to {subjects.BASE}: {hop_ratio:.3f}")
    stdio_ratio = result.hop_ratio(subjects.PROXY_STDIO, subjects.BASE_STDIO)
    if stdio_ratio is not None:
        notes.append(f"CPU per call of {subjects.PROXY_STDIO} relative to {subjects.BASE_STDIO}: {stdio_ratio:.3f}")
    return notes


def figure(number: float | None) -> str:
    """Return a number with about three digits; "" for what was not measured."""
    if number is None or math.isnan(number):
        return ""
    return f"{number:,.0f}" if number >= 100 else f"{number:.1f}" if number >= 10 else f"{number:.2f}"


def as_json(run: RunResult, options: Options, verdicts: Sequence[Verdict]) -> str:
    """Return everything measured, round by round."""
    document = {
        "machine": machine(),
        "options": {"rounds": options.rounds, "seconds": options.seconds, "base": options.base and str(options.base)},
        "placement": run.placement,
        "skipped": run.skipped,
        "broken": run.broken,
        "memory_per_large_answer": {
            name: {part: finite(multiple) for part, multiple in multiples.items()}
            for name, multiples in run.memory.items()
        },
        "cases": [_case_json(result) for result in run.cases],
        "targets": [verdict_json(verdict) for verdict in verdicts],
    }
    return json.dumps(document, indent=2)


def machine() -> dict[str, Any]:
    versions: dict[str, str] = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "system": platform.platform(),
        "cpus": os.cpu_count(),
        "load_average": os.getloadavg(),
        "python": sys.version.split()[0],
        "packages": versions,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def verdict_json(verdict: Verdict) -> dict[str, Any]:
    return {**dataclasses.asdict(verdict), "measured": finite(verdict.measured), "kept": verdict.kept}


def _case_json(result: CaseResult) -> dict[str, Any]:
    case = result.case
    return {
        "connections": case.connections,
        "size_bytes": case.size,
        "era": case.era.name.lower(),
        "errors": result.errors,
        "subjects": {name: _subject_json(result, name, subject) for name, subject in result.subjects.items()},
    }


def _subject_json(result: CaseResult, name: str, subject: SubjectResult) -> dict[str, Any]:
    parts = sorted({part for each in subject.rounds for part in each.cpu_ns})
    return {
        "calls": subject.calls,
        "failed": subject.failed,
        "faults": dict(subject.faults),
        "calls_per_s": subject.calls_per_s,
        "p50_ms": finite(subject.latency_ms(50)),
        "p99_ms": finite(subject.latency_ms(99)),
        "cpu_us_per_call": {
            **{part: finite(subject.part_us(part)) for part in parts},
            "hop": finite(subject.hop_us),
            "client": finite(subject.generator_us),
        },
        "process_ended": subject.process_ended,
        "speed_ratio_to": {other: result.speed_ratio(name, other) for other in result.subjects if other != name},
        "cpu_ratio_to": {other: result.hop_ratio(name, other) for other in result.subjects if other != name},
        "rounds": [
            {
                "calls_per_s": each.calls_per_s,
                "calls": each.load.calls,
                "failed": each.load.failed,
                "seconds": each.load.seconds,
                "p50_ms": finite(each.load.latencies.percentile_ns(50) / 1e6),
                "p99_ms": finite(each.load.latencies.percentile_ns(99) / 1e6),
                "cpu_ns": each.cpu_ns,
                "client_cpu_ns": each.load.generator_cpu_ns,
            }
            for each in subject.rounds
        ],
    }


def finite(number: float | None) -> float | None:
    """JSON has no nan and no inf."""
    return number if number is not None and math.isfinite(number) else None
