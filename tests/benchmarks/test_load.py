"""python -m benchmarks load: what a user starts, with everything real, and a stand-in where a proxy is needed."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.runs import Start, finished, members
from tests.processes import assert_gone
from tests.waiting import wait_until

SMALL = ("--connections", "4", "--sizes", "100", "--eras", "legacy", "--rounds", "2", "--seconds", "0.05")

STAND_IN = '''
"""Does what the benchmark needs of a proxy (relays bytes, or lines to POSTs) and leaves a daemon behind."""
import argparse, http.client, os, socket, sys, threading
from urllib.parse import urlsplit
from setproctitle import setproctitle

parser = argparse.ArgumentParser()
for flag in ("--http", "--stdio"):
    parser.add_argument(flag, action="store_true")
parser.add_argument("--port", type=int)
parser.add_argument("--servers")
options = parser.parse_args()
url = urlsplit(options.servers.removeprefix("main="))
if os.fork() == 0:
    os.setsid()
    setproctitle("mcp-bulkhead: zygote")
    threading.Event().wait()
setproctitle("mcp-bulkhead: front")

def relay(source, sink):
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        sink.close()

def serve(client):
    server = socket.create_connection((url.hostname, url.port))
    threading.Thread(target=relay, args=(client, server), daemon=True).start()
    relay(server, client)

if options.http:
    listener = socket.create_server(("127.0.0.1", options.port), backlog=64)
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
session = {}
connection = http.client.HTTPConnection(url.hostname, url.port)
for line in sys.stdin.buffer:
    connection.request("POST", url.path, line, {"Content-Type": "application/json", **session})
    response = connection.getresponse()
    answer = response.read()
    if response.getheader("Mcp-Session-Id"):
        session = {"Mcp-Session-Id": response.getheader("Mcp-Session-Id")}
    if answer:
        sys.stdout.buffer.write(answer + b"\\n")
        sys.stdout.buffer.flush()
'''


@pytest.fixture
def start(start_run: Start) -> Start:
    return functools.partial(start_run, "load")


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """A checkout whose proxy is the stand-in."""
    package = tmp_path / "checkout" / "supervisor"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(STAND_IN)
    return package.parent


def figures(text: str) -> dict[str, Any]:
    document = json.loads(text)
    for case in document["cases"]:
        for name, subject in case["subjects"].items():
            assert subject["failed"] == 0, (name, subject["faults"])
            assert subject["calls"] >= case["connections"]
            assert 0 < subject["p50_ms"] <= subject["p99_ms"]
            assert 0 < subject["cpu_us_per_call"]["client"] < 100_000
            assert 0 < subject["cpu_us_per_call"]["backend"] < 100_000
    return document


def test_the_backend_alone_is_measured_in_both_eras_and_all_sizes(start: Start) -> None:
    code, out, err = finished(
        start("--subjects", "direct", "--connections", "1,8", "--rounds", "2", "--seconds", "0.05", "--json", "-")
    )

    assert code == 0, err
    document = figures(out)
    measured = {(case["connections"], case["size_bytes"], case["era"]) for case in document["cases"]}
    assert measured == {
        (connections, size, era)
        for connections in (1, 8)
        for size in (100, 10_000, 1_000_000)
        for era in ("legacy", "modern")
    }
    assert "1 connection, 100 B, legacy" in err, "the tables are on the other output"
    assert "round 2, calls/s: direct" in err


def test_nginx_is_measured_where_it_is_installed_and_said_to_be_missing_where_not(start: Start) -> None:
    installed = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin")

    code, out, err = finished(start(*SMALL, "--sizes", "100,1m", "--subjects", "direct,nginx", "--json", "-"))

    assert code == 0, err
    document = figures(out)
    if installed:
        assert [set(case["subjects"]) for case in document["cases"]] == [{"direct", "nginx"}] * 2
        assert document["cases"][0]["subjects"]["nginx"]["cpu_us_per_call"]["nginx"] > 0
        assert document["memory_per_large_answer"]["nginx"]["nginx"] < 2
    else:
        assert document["skipped"] == {"nginx": "nginx is not installed"}


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="a single processor cannot be divided")
def test_what_is_measured_has_processors_that_the_ends_leave_alone(start: Start, stand_in: Path) -> None:
    """The stand-in says where it runs by failing with it."""
    (stand_in / "supervisor" / "__main__.py").write_text(
        "import os, sys; sys.exit(f'it may run on {sorted(os.sched_getaffinity(0))}')"
    )
    known = sorted(os.sched_getaffinity(0))
    arguments = (*SMALL, "--fronts", "http", "--subjects", "direct", "--base", str(stand_in), "--json", "-")

    _, apart, _ = finished(start(*arguments))
    _, free, _ = finished(start(*arguments, "--place", "free"))

    assert f"it may run on {known[len(known) // 2 :]}" in json.loads(apart)["broken"]["base"]
    assert f"it may run on {known}" in json.loads(free)["broken"]["base"]
    assert "client and backend have processor" in json.loads(apart)["placement"]


def test_the_relay_made_of_the_sdk_is_measured_in_both_eras(start: Start) -> None:
    arguments = (*SMALL, "--eras", "legacy,modern", "--subjects", "direct,sdk-relay", "--json", "-")

    code, out, err = finished(start(*arguments))

    assert code == 0, err
    for case in figures(out)["cases"]:
        relay = case["subjects"]["sdk-relay"]
        assert relay["cpu_us_per_call"]["sdk-relay"] > 100
        assert 0 < relay["speed_ratio_to"]["direct"] < 1


def test_the_proxy_with_tls_on_either_side_and_before_a_command_is_measured(start: Start) -> None:
    wanted = ("--fronts", "http", "--subjects", "proxy-tls,proxy-tls-front,proxy-command", "--json", "-")

    code, out, err = finished(start(*SMALL, "--sizes", "20k", "--eras", "modern", *wanted))

    assert code == 0, err
    (case,) = figures(out)["cases"]
    assert case["subjects"]["proxy-tls"]["cpu_us_per_call"]["worker"] > 0
    assert case["subjects"]["proxy-tls-front"]["cpu_us_per_call"]["front"] > 0
    assert case["subjects"]["proxy-command"]["cpu_us_per_call"]["backend"] > 0


def test_a_second_checkout_is_measured_beside_over_http_and_stdio(start: Start, stand_in: Path, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"

    code, out, err = finished(
        start(*SMALL, "--sizes", "100,200k", "--subjects", "direct", "--base", str(stand_in), "--json", str(file))
    )

    assert code == 0, err
    for case in figures(file.read_text())["cases"]:
        assert set(case["subjects"]) == {"direct", "base", "base-stdio"}
        assert case["subjects"]["base"]["cpu_us_per_call"]["front"] > 0
        assert case["subjects"]["base-stdio"]["cpu_us_per_call"]["front"] > 0
    assert "/base" in out


def test_a_proxy_that_does_not_start_is_reported_with_its_last_words_and_fails_the_run(
    start: Start, stand_in: Path
) -> None:
    (stand_in / "supervisor" / "__main__.py").write_text("raise SystemExit('no such option: --http')")

    code, out, err = finished(start(*SMALL, "--fronts", "http", "--subjects", "direct", "--base", str(stand_in)))

    assert code == 1
    assert "base could not be measured: base has ended" in out
    assert "no such option: --http" in out
    assert "direct" in out, "the others are measured all the same"
    assert "Traceback" not in err


def test_a_check_that_could_check_nothing_fails(start: Start) -> None:
    assert finished(start(*SMALL, "--subjects", "direct", "--check"))[0] == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_shows_what_it_has_and_leaves_nothing(
    start: Start, stand_in: Path, number: signal.Signals, mark: str, tmp_path: Path
) -> None:
    process = start("--subjects", "direct", "--connections", "2", "--base", str(stand_in), "--seconds", "0.1")
    wait_until(lambda: len(members(mark)) >= 4, "the subjects are started", 20)
    for line in process.stderr:
        if "round 2" in line:
            break

    process.send_signal(number)
    code, out, err = finished(process)

    assert code == 128 + number
    assert "interrupted" in err
    assert list(tmp_path.iterdir()) == [stand_in]
    assert "Traceback" not in err + out


def test_a_run_that_is_killed_leaves_no_process_that_ends_when_it_is_told_to(start: Start, mark: str) -> None:
    process = start("--subjects", "direct", "--connections", "2", "--seconds", "0.1", "--rounds", "100")
    for line in process.stderr:
        if "round 1" in line:
            break
    started = members(mark)
    assert len(started) == 2

    process.kill()
    process.communicate(timeout=5)

    assert_gone(started)
