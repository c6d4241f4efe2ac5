"""What the proxy adds to a call, and that probes are answered however many calls there are."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.stand import FRONT, Stand
from benchmarks.subjects import HOST
from tests.benchmarks.runs import Start, finished
from tests.catalogue import CHECKOUT

pytestmark = pytest.mark.alone  # what is measured is compared with something

ADDED_P50_MS_MAX = 1.0
ADDED_P99_MS_MAX = 5.0
USUAL_P50_MS = 0.1
USUAL_P99_MS = 0.5
"""What a call without the proxy takes on an idle machine."""
CALLERS = 400
"""Each calls again as soon as it is answered: more than may be in flight and in the queue, and as fast as it goes."""
PROBES = 40
PROBE_S_MAX = 0.1


@pytest.mark.slow
@pytest.mark.promise("R23")
def test_the_proxy_adds_a_millisecond_to_a_small_call_at_most(start_run: Start) -> None:
    """One caller keeps about half of what the proxy could do busy. The best round counts, as neighbours only add to it.

    How slow they make the machine is seen in the calls that do without the proxy.
    """
    arguments = (
        "--connections 1 --sizes 100 --eras modern --fronts http --subjects direct,proxy --rounds 4 --seconds 0.3"
        " --place free"  # as users have it, also when something else wants one of the processors
    )

    code, out, err = finished(start_run("load", *arguments.split(), "--json", "-"))

    assert code == 0, err
    (case,) = json.loads(out)["cases"]
    direct, proxied = (case["subjects"][name]["rounds"] for name in ("direct", "proxy"))
    for of, added_ms_max, usual_ms in (
        ("p50_ms", ADDED_P50_MS_MAX, USUAL_P50_MS),
        ("p99_ms", ADDED_P99_MS_MAX, USUAL_P99_MS),
    ):
        slow = max(1.0, min(each[of] for each in direct) / usual_ms)
        added_ms = min(through[of] - bare[of] for bare, through in zip(direct, proxied, strict=True))
        print(f"{of}: {added_ms:.2f} added on a machine that is {slow:.1f} times slower than when it is idle")
        assert added_ms <= slow * added_ms_max


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    with Stand(tmp_path / "stand", print, 1, CHECKOUT) as one:
        yield one


@pytest.mark.promise("R20")
def test_probes_are_answered_at_once_under_ten_times_the_load(stand: Stand) -> None:
    load = stand.start_load(CALLERS, 0.0)
    front = stand.find(FRONT)
    took_s: list[float] = []
    for number in range(PROBES):
        begun, worked_s = time.perf_counter(), on_cpu_s(front)
        connection = http.client.HTTPConnection(HOST, stand.port, timeout=5)
        connection.request("GET", ("/healthz", "/readyz")[number % 2])
        assert connection.getresponse().status == 200
        connection.close()
        took_s.append(min(time.perf_counter() - begun, on_cpu_s(front) - worked_s))
    assert load.alive
    load.end()

    took_s.sort()
    print(f"median {took_s[PROBES // 2] * 1000:.1f} ms, longest {took_s[-1] * 1000:.1f} ms")
    assert took_s[-1] <= PROBE_S_MAX


def on_cpu_s(pid: int | None) -> float:
    """Return how long a process has run so far, which neighbours on the machine do not lengthen."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
