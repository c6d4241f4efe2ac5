"""Reads what processes hold: memory, descriptors, connections (proc(5)). A process that is gone holds nothing."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

KIB: Final = 1024
_LISTENING: Final = "0A"
_SOCKET: Final = re.compile(r"socket:\[(\d+)\]")


def pss_bytes(pid: int) -> int:
    """Return the memory of a process, pages shared with others counted in part (proportional set size)."""
    return _kilobytes(Path(f"/proc/{pid}/smaps_rollup"), "Pss:") * KIB


def rss_bytes(pid: int) -> int:
    """Return the memory of a process, pages shared with others counted in full."""
    return _kilobytes(Path(f"/proc/{pid}/status"), "VmRSS:") * KIB


def _kilobytes(file: Path, field: str) -> int:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for line in file.read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1])
    return 0


def descriptors(pids: Iterable[int]) -> tuple[int, int]:
    """Return how many descriptors some processes have open in all, and how many further ones are TCP connections.

    Connections come and go with the load and stay open in a pool for a while; the others should not change."""
    connected = _connections()
    others = tcp = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for entry in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    found = _SOCKET.match(os.readlink(entry))
                    if found and found[1] in connected:
                        tcp += 1
                    else:
                        others += 1
    return others, tcp


def _connections() -> set[str]:
    """Return the inodes of all TCP sockets that do not listen."""
    inodes: set[str] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(FileNotFoundError):
            rows = [line.split() for line in Path(table).read_text().splitlines()[1:]]
            inodes |= {row[9] for row in rows if row[3] != _LISTENING}
    return inodes
