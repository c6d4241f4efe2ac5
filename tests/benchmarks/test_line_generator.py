"""benchmarks.line_generator: the same checks on the pipes of a process."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks import line_generator
from benchmarks.line_generator import LineClient, LineLoad, LineReader
from benchmarks.messages import Workload
from benchmarks.wire import ExchangeError
from protocol.versions import Era
from tests.catalogue import CHECKOUT

pytestmark = pytest.mark.alone  # what is measured is compared with something

SERVER = """
import json, sys
from benchmarks.messages import payload_text
calls = 0
def say(message):
    sys.stdout.write(message if isinstance(message, str) else json.dumps(message) + "\\n")
    sys.stdout.flush()
for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message:
        continue
    answer = {"jsonrpc": "2.0", "id": message["id"]}
    if message["method"] == "tools/list":
        say({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})
        answer["result"] = {"tools": [{"name": "x__echo"}, {"name": "x__blob"}]}
    elif message["method"] == "tools/call":
        calls += 1
        arguments = message["params"]["arguments"]
        text = arguments["text"] if "text" in arguments else payload_text(arguments["size"])
        answer["result"] = {"content": [{"type": "text", "text": text}]}
        CHANGE
    else:
        answer["result"] = {}
    say(answer)
"""

StartLines = Callable[..., LineClient]


@pytest.fixture
def lines() -> Iterator[StartLines]:
    """Start a stdio server; `change` are statements that run for each call before it is answered."""
    with contextlib.ExitStack() as stack:

        def start(change: str = "pass", era: Era = Era.LEGACY) -> LineClient:
            process = subprocess.Popen(
                [sys.executable, "-c", SERVER.replace("CHANGE", change)],
                cwd=CHECKOUT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
            )
            stack.callback(process.wait, 5)
            stack.callback(process.kill)
            stack.callback(process.stdin.close)
            stack.callback(process.stdout.close)
            return LineClient(process, era)

        yield start


def run(client: LineClient, workload: Workload, *, in_flight: int = 8, seconds: float = 0.1):
    with contextlib.closing(LineLoad(client, workload, in_flight)) as load:
        return load.run(seconds)


@pytest.mark.parametrize("era", Era)
@pytest.mark.parametrize("size", [100, 60_000, 1_000_000])
def test_all_answers_of_a_correct_server_are_good(lines: StartLines, era: Era, size: int) -> None:
    client = lines(era=era)

    rounds = [run(client, Workload(size, era)) for _ in range(2)]

    for result in rounds:
        assert result.failed == 0, result.faults
        assert result.calls >= 8
        assert sum(result.latencies.counts) == result.calls


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("answer['result']['content'][0]['text'] += '?'", "wrong payload"),
        ("answer['result']['content'][0]['text'] = text[:-1] + '?'", "wrong payload, 100 bytes"),
        ("answer['jsonrpc'] = '2.1'", "no complete result"),
        ("answer['result']['isError'] = True", "the tool failed"),
        ("answer.update(error=dict(code=1, message='no'))", "error answer"),
        ("answer['result']['content'][0]['annotations'] = {}", ""),
        ("say({'jsonrpc': '2.0', 'method': 'notifications/message', 'params': {}})", ""),
        ("say({'jsonrpc': '2.0', 'id': 5, 'result': {}})", "an answer to no call in flight"),
    ],
)
def test_each_wrong_answer_among_good_ones_is_counted_once_with_its_reason(
    lines: StartLines, change: str, reason: str
) -> None:
    result = run(lines(f"if calls in (3, 11): {change}"), Workload(100, Era.LEGACY))

    assert result.failed == (2 if reason else 0), result.faults
    assert all(reason in fault for fault in result.faults)
    assert result.calls >= 8


def test_a_call_that_is_never_answered_has_failed_and_the_client_is_not_used_again(
    lines: StartLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_generator, "ANSWER_WAIT_S", 0.3)
    client = lines("if calls == 3: continue")

    result = run(client, Workload(100, Era.LEGACY))

    assert result.faults == {"no answer within 0 s after the round": 1}
    assert client.broken


def test_a_process_that_ends_fails_all_calls_in_flight(lines: StartLines) -> None:
    client = lines("if calls == 20: sys.exit(0)")

    result = run(client, Workload(100, Era.LEGACY), in_flight=4, seconds=5.0)

    assert result.calls == 19
    assert result.failed == 4
    assert client.broken
    assert run(client, Workload(100, Era.LEGACY), in_flight=4).failed == 4


def test_a_process_that_says_nothing_is_an_error(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    try:
        with pytest.raises(ExchangeError, match=r"closed its output|cannot write"):
            LineClient(process, Era.LEGACY)
    finally:
        process.communicate(timeout=5)


@pytest.mark.parametrize("step", [1, 3, 100])
def test_lines_are_whole_however_the_pipe_cuts_them(step: int) -> None:
    reader, data = LineReader(), b"one\n\ntwo two\nthree"

    found = [line for start in range(0, len(data), step) for line in reader.feed(data[start : start + step])]

    assert found == [b"one", b"", b"two two"]
    assert reader.feed(b"!\n") == [b"three!"]
