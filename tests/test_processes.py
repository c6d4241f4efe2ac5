"""The harness can say no: a program that does not stop as it should fails its test, and nothing of it is left."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from tests.processes import Program, free_port, is_running
from tests.waiting import wait_until

OBEYS = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit({status})); print('ready', flush=True)"
WAITS = "\nwhile True: signal.pause()"
HAS_A_CHILD = """
import subprocess
print(subprocess.Popen(["sleep", "60"], start_new_session=True).pid, flush=True)
"""


def program(code: str, folder: Path) -> Program:
    started = Program(["-c", code], folder / "stderr")
    wait_until(lambda: "ready" in started.said(), "the program is ready")
    return started


def test_a_program_that_stops_when_asked_passes(tmp_path: Path):
    program(OBEYS.format(status=0) + WAITS, tmp_path).stop()


def test_an_exit_status_other_than_zero_fails(tmp_path: Path):
    with pytest.raises(AssertionError, match="exit status 3"):
        program(OBEYS.format(status=3) + WAITS, tmp_path).stop()


def test_a_program_that_ended_by_itself_fails_and_its_last_words_are_shown(tmp_path: Path):
    started = program(OBEYS.format(status=0) + "\nprint('my last words', flush=True); sys.exit(5)", tmp_path)
    wait_until(lambda: started.process.poll() is not None, "it ends")

    with pytest.raises(AssertionError, match=r"(?s)ended by itself, with 5.*my last words"):
        started.stop()


def test_a_process_left_behind_fails_and_is_removed(tmp_path: Path):
    started = program(HAS_A_CHILD + OBEYS.format(status=0) + WAITS, tmp_path)
    child = psutil.Process(int(started.said().split()[0]))

    with pytest.raises(AssertionError, match=f"left behind: {child.pid} sleep 60"):
        started.stop()
    wait_until(lambda: not is_running(child), "the child is gone")


def test_a_program_that_ends_instead_of_listening_fails_with_its_reason(tmp_path: Path):
    started = Program(["-c", "raise SystemExit('no such option')"], tmp_path / "stderr")

    with pytest.raises(AssertionError, match=r"(?s)ended with 1 instead of starting.*no such option"):
        started.wait_for_port(free_port())
