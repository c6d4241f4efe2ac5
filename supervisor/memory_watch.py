"""Keep workers within their memory limits: look at how much each has, and say why one that has too much is ended.

There are two bounds. The limit, which is what the user configured, is compared with resident memory in each look. The
cap above it is the kernel's (RLIMIT_DATA) and holds at any moment, so that a worker that grows by gigabytes between two
looks does not take the machine along. Who is refused memory there leaves by itself (`EXIT_OUT_OF_MEMORY`): an
allocation that failed may have left anything half done. (docs/decisions/0009-memory-limits.md)
"""

from __future__ import annotations

from collections.abc import Callable

from protocol.limits import MEMORY_CAP_EXTRA_BYTES, MEMORY_CAP_SHARE, MIB
from supervisor.config import Server
from supervisor.lives import Life
from supervisor.machine import Machine
from supervisor.restart import End, EndKind


class MemoryWatch:
    """`default`: bytes for workers of servers that have no limit of their own; 0 for none. `end`: ends a worker."""

    def __init__(self, machine: Machine, default: int, end: Callable[[Life, End], None]) -> None:
        self._machine = machine
        self._default = default
        self._end = end

    def limit(self, server: Server | None) -> int:
        """Return how many bytes a server's worker may have; 0 for no limit. The front (None) has none."""
        if server is None:
            return 0
        return self._default if server.memory_limit is None else server.memory_limit

    def cap(self, server: Server | None) -> int:
        """Return how many bytes of private memory the kernel may grant this worker; 0 for any number."""
        limit = self.limit(server)
        return int(limit * MEMORY_CAP_SHARE) + MEMORY_CAP_EXTRA_BYTES if limit else 0

    def look(self, life: Life) -> None:
        """End a worker that has more than it may have."""
        limit = self.limit(life.server)
        if limit and life.pid and not life.kill_wanted:
            used = self._machine.resident_bytes(life.pid)
            if used > limit:
                self._end(life, End(EndKind.OOM, f"had {_mib(used)} of memory, {self._advice(life, limit)}"))

    def refused(self, life: Life, peak: int) -> End:
        """Say how a worker ended that was refused memory, and had at most `peak` bytes."""
        limit = self.limit(life.server)
        advice = self._advice(life, limit) if limit else "and the system had no more"
        return End(EndKind.OOM, f"ran out of memory with {_mib(peak)}, {advice}")

    def _advice(self, life: Life, limit: int) -> str:
        server = life.server.name if life.server else ""
        return f"over its limit of {_mib(limit)} (--memory-limit {server}=SIZE allows more)"


def _mib(size: int) -> str:
    return f"{size / MIB:.0f} MiB"
