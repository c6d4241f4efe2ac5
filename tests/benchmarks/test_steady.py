"""benchmarks.steady: every call is written down with what became of it, whatever happens to the connections."""

from __future__ import annotations

import io
import itertools
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import clients, steady
from benchmarks.clients import Endpoint
from benchmarks.messages import Workload
from benchmarks.steady import Caller, SteadyLoad
from benchmarks.timeline import Call
from protocol.versions import Era
from tests.benchmarks.conftest import Change, Last, ScriptedServer

pytestmark = pytest.mark.alone  # what is measured is compared with something

WORKLOAD = Workload(20, Era.MODERN)


def run(endpoint: Endpoint, callers: int, calls: int, tmp_path: Path, pause_s: float = 0.01) -> list[Call]:
    """Let so many clients make so many calls together, and return what they wrote down."""
    opened = [
        Caller(server, client, WORKLOAD)
        for server, client in enumerate(clients.open_clients(endpoint, WORKLOAD, callers, "echo"))
    ]
    record = io.StringIO()
    try:
        load = SteadyLoad(opened, pause_s, record)
        deadline = time.monotonic() + 10
        while record.getvalue().count("\n") < calls:
            assert time.monotonic() < deadline, record.getvalue()
            load.turn(calling=True)
        load.finish()
    finally:
        clients.close_clients([caller.client for caller in opened])
    file = tmp_path / "record"
    file.write_text(record.getvalue())
    return list(steady.read_record(file))


def test_calls_are_recorded_with_their_server_and_times(backend: Endpoint, tmp_path: Path) -> None:
    began = time.perf_counter_ns()

    calls = run(backend, 3, 30, tmp_path)

    assert {call.server for call in calls} == {0, 1, 2}
    assert not any(call.fault for call in calls)
    assert all(began < call.started_ns < call.ended_ns < time.perf_counter_ns() for call in calls)


def test_a_client_pauses_between_its_calls(backend: Endpoint, tmp_path: Path) -> None:
    calls = run(backend, 1, 5, tmp_path, pause_s=0.02)

    gaps = [later.started_ns - earlier.ended_ns for earlier, later in itertools.pairwise(calls)]
    assert min(gaps) >= 20_000_000


def test_connections_that_the_server_closes_between_calls_are_opened_again_unnoticed(
    scripted: Callable[[Change], ScriptedServer], tmp_path: Path
) -> None:
    server = scripted(lambda number, right: Last(right))

    calls = run(server.endpoint, 6, 60, tmp_path)

    assert {call.fault for call in calls} == {""}
    assert min([call.server for call in calls].count(server) for server in range(6)) >= 5, "none has been forgotten"


def test_wrong_answers_and_lost_connections_are_failed_calls(
    scripted: Callable[[Change], ScriptedServer], tmp_path: Path
) -> None:
    def change(number: int, right: bytes) -> bytes | None:
        return {2: right.replace(b"abc", b"xyz"), 3: None}.get(number, right)

    calls = run(scripted(change).endpoint, 1, 5, tmp_path)

    assert [bool(call.fault) for call in calls[:5]] == [False, True, True, False, False]
    assert "closed" in calls[2].fault


def test_a_fault_survives_the_record_and_an_unfinished_line_is_left_out(tmp_path: Path) -> None:
    call = Call(2, 5, 9, 'error answer: {"code":1}\n two')
    file = tmp_path / "record"
    file.write_text(steady.line_of(call) + "1 17 1")

    assert list(steady.read_record(file)) == [Call(2, 5, 9, 'error answer: {"code":1} two')]
