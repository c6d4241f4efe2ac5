"""Whole runs of the benchmarks as a user starts them, and finding everything that belongs to one."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import psutil
import pytest

RUN_S_MAX = 50

Start = Callable[..., subprocess.Popen[str]]
"""Starts `python -m benchmarks` with these arguments; the fixture `start_run` is one."""


def marked(mark: str) -> list[psutil.Process]:
    """Return the processes that have inherited the mark of a run in their environment."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("MARK") == mark:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Return the exit code and what was said on both outputs."""
    try:
        out, err = process.communicate(timeout=RUN_S_MAX)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate(timeout=5)
        pytest.fail(f"not done within {RUN_S_MAX} s:\n{out}\n{err}")
    return process.returncode, out, err
