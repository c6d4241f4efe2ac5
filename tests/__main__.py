"""Run all tests: first those that bear company, on all cores, then the others one by one. Options go to pytest.

Tests of processes, and of benchmarks that judge what they measure, look at times and at what the machine does; those
are the others (conftest.py). They leave most of a core unused, so tests that do nothing but compute run meanwhile, with
what nobody else wants.
Many tests wait most of their time, so there is one more of them at a time than there are cores.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Final

PROCESSES_MAX: Final = 4
NO_TESTS: Final = 5
"""What pytest says if no test was chosen, as by `-k`."""
STOP_S: Final = 10.0
"""How long those in the background may take to stop after Ctrl-C."""


def main(options: list[str]) -> int:
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # hundreds of processes would compile the same files again
    beside = min(len(os.sched_getaffinity(0)) + 1, PROCESSES_MAX)
    codes = [_run("-m", "not alone and not computing", "-n", str(beside), "--dist", "loadfile", *options)]
    with _in_background("-m", "computing and not alone", *options) as background:
        codes.append(_run("-m", "alone", *options))
        codes.append(background.wait())
    if set(codes) == {NO_TESTS}:
        return NO_TESTS
    return next((code for code in codes if code not in (0, NO_TESTS)), 0)


def _run(*options: str) -> int:
    return subprocess.call([sys.executable, "-m", "pytest", *options])


@contextlib.contextmanager
def _in_background(*options: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run tests with what time others leave, and show what they said when they have ended."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *options], stdout=said, stderr=said, preexec_fn=_step_back
        )
        try:
            yield process
        finally:
            try:
                process.wait(0 if sys.exc_info()[0] is None else STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            said.seek(0)
            sys.stdout.buffer.write(said.read())
            sys.stdout.flush()


def _step_back() -> None:
    """Give way to every other process. Where the system knows no idle class, politeness has to do."""
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except OSError:
        os.nice(19)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:  # pytest has said so
        sys.exit(130)
