"""Reads how much CPU time processes have used, and which part each of them plays."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from benchmarks.processes import child_pids

TITLE_PREFIX: Final = "mcp-bulkhead: "
FRONT: Final = "front"
WORKER: Final = "worker"
ROOT: Final = "root"
ZYGOTE: Final = "zygote"
OTHER: Final = "other"
BACKEND: Final = "backend"
COMMAND_BACKEND: Final = "benchmarks.command_backend"
"""The module of the backend that the proxy starts itself."""
_TICK_NS: Final = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def cpu_ns(pid: int) -> int | None:
    """Return the CPU time a process has used, in ns, or None if it is gone.

    `schedstat` is exact to the nanosecond but counts one thread, and only kernels with CONFIG_SCHED_INFO have it;
    `stat` counts in ticks of 10 ms (proc(5))."""
    total = 0
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            # A thread that ends meanwhile takes its share with it; the processes measured here have one thread each.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                total += int((task / "schedstat").read_text().split()[0])
        return total or _ticks_ns(pid)
    except (FileNotFoundError, ProcessLookupError):
        return None


def _ticks_ns(pid: int) -> int:
    # The second field, a name in parentheses, may contain anything; the fields meant are 14 and 15.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_NS


def family(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    found = [pid]
    for parent in found:  # grows while it is read
        found += child_pids(parent)
    return found


def proxy_parts(root: int) -> dict[int, str]:
    """Return the part of each process of a running proxy, by their titles (`mcp-bulkhead: front`, `…: server NAME`)."""
    parts: dict[int, str] = {}
    for pid in family(root):
        title = process_title(pid).removeprefix(TITLE_PREFIX)
        if title.startswith("front"):
            parts[pid] = FRONT
        elif title.startswith("server "):
            parts[pid] = WORKER
        elif COMMAND_BACKEND.encode() in _command_line(pid):
            parts[pid] = BACKEND
        else:
            parts[pid] = title if title in (ROOT, ZYGOTE) else OTHER
    return parts


def process_title(pid: int) -> str:
    """Return what `ps` shows of a process that has set its title, or "" if it is gone."""
    return _command_line(pid).split(b"\0")[0].decode("utf-8", "replace").strip()


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


class CpuUse:
    """CPU time by part, from the moment of creation until `end`."""

    def __init__(self, parts: Mapping[int, str]) -> None:
        self._parts = parts
        self._before = {pid: cpu_ns(pid) for pid in parts}

    def end(self) -> tuple[dict[str, int], bool]:
        """Return ns by part, and whether a process ended meanwhile (then its part is incomplete)."""
        used = dict.fromkeys(self._parts.values(), 0)
        lost = False
        for pid, part in self._parts.items():
            before, after = self._before[pid], cpu_ns(pid)
            if before is None or after is None:
                lost = True
            else:
                used[part] += after - before
        return used, lost
