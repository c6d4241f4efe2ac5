"""python -m benchmarks overload: what is promised of its figures, and a small real run."""

from __future__ import annotations

import dataclasses
import json
import math
import select
import socket
import time

import pytest

from benchmarks import overload
from benchmarks.backend import Server, _Connection
from benchmarks.messages import CALL_IDS_FROM
from benchmarks.overload import Memory, Phase
from benchmarks.timeline import NS_PER_MS, NS_PER_S, Call
from tests.benchmarks.runs import Start, finished

pytestmark = pytest.mark.alone  # what is measured is compared with something

REFUSAL = (
    'error answer: {"code":-31004,"message":"server \\"s1\\" is overloaded: 8 calls in flight and 4 waiting",'
    '"data":{"server":"s1","sent":false,"retryable":true,"retryAfterMs":1000}}'
)
PEAK = Phase(80.0, 80.0, 150.0, 160.0, 0.0, math.nan, math.nan, 0, 0, ())
BENT = Phase(900.0, 79.0, 155.0, 170.0, 821.0, 1.0, 4.0, 0, 0, ())
STEADY = {"front": Memory(12.0, 12.5, 12.1), "server s1": Memory(12.0, 12.1, 12.0)}


def call(at_ms: float, ms: float, fault: str = "") -> Call:
    return Call(0, int((at_ms - ms) * NS_PER_MS), int(at_ms * NS_PER_MS), fault)


def missed(memory: dict[str, Memory] = STEADY, **changed: float) -> list[str]:
    phases = {"peak": PEAK, "overload": dataclasses.replace(BENT, **changed), "other, overload": PEAK}
    return [verdict.what for verdict in overload.verdicts(phases, memory) if not verdict.kept]


def test_calls_are_good_refused_or_failed_and_each_kind_has_its_own_times():
    calls = [
        call(100, 50),
        call(200, 60),
        call(300, 2, REFUSAL),
        call(400, 3, REFUSAL.replace('"retryAfterMs":1000', '"x":1')),
        call(500, 9, "the connection failed: 104"),
        call(5_000, 1, "after the end"),
    ]
    phase = Phase.of(calls, 0, NS_PER_S)

    assert (phase.offered_per_s, phase.good_per_s, phase.refused_per_s) == (5.0, 2.0, 2.0)
    assert (phase.good_p50_ms, phase.good_p99_ms) == (50.0, 60.0)
    assert (phase.refused_p50_ms, phase.refused_p99_ms) == (2.0, 3.0)
    assert (phase.unadvised, phase.failed, phase.reasons) == (1, 1, ["the connection failed: N"])


def test_a_proxy_that_bends_keeps_every_promise():
    assert missed() == []


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"offered_per_s": 700.0}, "calls offered, as a multiple of the peak"),
        ({"good_per_s": 71.0}, "goodput, as a multiple of the peak"),
        ({"good_p99_ms": 330.0}, "p99 of calls that are accepted, as a multiple of the peak"),
        ({"good_p99_ms": math.nan}, "p99 of calls that are accepted, as a multiple of the peak"),
        ({"refused_p99_ms": 11.0}, "ms until a refusal, p99 of 821/s"),
        ({"unadvised": 1}, "refusals without advice"),
        ({"failed": 1}, "calls that failed otherwise"),
    ],
)
def test_one_that_breaks_misses_one(changed: dict[str, float], what: str):
    assert missed(**changed) == [what]


def test_memory_that_grows_is_a_missed_promise_but_noise_is_none():
    assert missed({"front": Memory(12.0, 14.1, 12.0)}) == ["MiB that the front grows under overload"]
    assert missed({"front": Memory(100.0, 104.0, 104.0)}) == []


def test_the_backend_answers_calls_late_and_everything_else_at_once():
    ours, theirs = socket.socketpair()
    with ours, theirs, socket.create_server(("127.0.0.1", 0)) as listener:
        server = Server(listener, delay_s=0.2)
        theirs.setblocking(False)
        connection = _Connection(theirs)
        call_body = b'{"jsonrpc":"2.0","id":%d,"method":"tools/call"}' % CALL_IDS_FROM
        for body in (b'{"jsonrpc":"2.0","id":1,"method":"initialize"}', call_body):
            ours.sendall(b"POST /mcp HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        begun = time.monotonic()
        assert server._serve(connection, select.EPOLLIN)

        assert b'"id":1' in (first := ours.recv(65536))
        assert str(CALL_IDS_FROM).encode() not in first
        wait_s = server._wait_s()
        assert wait_s is not None
        time.sleep(wait_s)  # as its loop does
        server._send_due()
        assert time.monotonic() - begun >= 0.2
        assert str(CALL_IDS_FROM).encode() in ours.recv(65536)
        assert server._wait_s() is None


@pytest.mark.slow
def test_a_small_run_measures_everything(start_run: Start):
    code, out, err = finished(start_run("overload", "--seconds", "1", "--json", "-"))

    assert code == 0, err
    found = json.loads(out)
    assert set(found["phases"]) == {"peak", "overload", "other, peak", "other, overload"}
    peak, load = found["phases"]["peak"], found["phases"]["overload"]
    assert peak["refused_per_s"] == 0, "there is a place for each of these clients"
    assert peak["good_per_s"] > 20
    assert load["refused_per_s"] > peak["good_per_s"]
    assert (load["failed"], load["unadvised"], found["phases"]["other, overload"]["failed"]) == (0, 0, 0)
    assert set(found["memory_mib"]) == {"front", "server s1"}
    assert {target["what"] for target in found["targets"]} >= {"refusals without advice"}
