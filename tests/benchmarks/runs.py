"""Whole runs of the benchmarks as a user starts them, and finding everything that belongs to one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

import psutil
import pytest

RUN_S_MAX = 50

Start = Callable[..., subprocess.Popen[str]]
"""Starts `python -m benchmarks` with these arguments; the fixture `start_run` is one."""


def members(mark: str) -> list[psutil.Process]:
    """Return the processes of the run with this mark.

    They have inherited the mark in their environment or, where the environment was cleared (the proxy's workers), the
    session of one that has.
    """
    marked: set[psutil.Process] = set()
    sessions: dict[psutil.Process, int] = {}
    for process in psutil.process_iter():
        try:
            sessions[process] = os.getsid(process.pid)
            if process.environ().get("MARK") == mark:
                marked.add(process)
        except (OSError, psutil.Error):
            continue
    theirs = {sessions[process] for process in marked} | _SESSIONS.get(mark, set())
    _SESSIONS[mark] = theirs
    return [process for process, session in sessions.items() if process in marked or session in theirs]


_SESSIONS: dict[str, set[int]] = {}
"""The sessions seen of each run: a worker may outlive everything that had the mark."""


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Return the exit code and what was said on both outputs."""
    try:
        out, err = process.communicate(timeout=RUN_S_MAX)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate(timeout=5)
        pytest.fail(f"not done within {RUN_S_MAX} s:\n{out}\n{err}")
    return process.returncode, out, err
