"""Run all tests: first those that bear company, on all cores, then the others one by one. Options go to pytest.

Tests of processes, and of benchmarks that judge what they measure, look at times and at what the machine does; those
are the others (conftest.py).
Many tests wait most of their time, so there is one more of them at a time than there are cores.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Final

PROCESSES_MAX: Final = 4
NO_TESTS: Final = 5
"""What pytest says if no test was chosen, as by `-k`."""


def main(options: list[str]) -> int:
    beside = min(len(os.sched_getaffinity(0)) + 1, PROCESSES_MAX)
    codes = [
        _run("-m", "not alone", "-n", str(beside), "--dist", "loadfile", *options),
        _run("-m", "alone", *options),
    ]
    if set(codes) == {NO_TESTS}:
        return NO_TESTS
    return next((code for code in codes if code not in (0, NO_TESTS)), 0)


def _run(*options: str) -> int:
    return subprocess.call([sys.executable, "-m", "pytest", *options])


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:  # pytest has said so
        sys.exit(130)
