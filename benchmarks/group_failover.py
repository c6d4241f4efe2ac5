"""Breaks one of three replicas of a group under load, in four ways, and says which calls that costs and for how long.

Each fault has a proxy and servers of its own. Two loads call the group at once: one a tool that only reads, one a tool
that says nothing of itself. A call may take a second.
"""

from __future__ import annotations

import argparse
import signal
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from benchmarks import group_report, stand
from benchmarks.group_report import CORRUPT, HUNG, KILLED, OTHER, SAFE, SLOW, WINDOW, Observation, observe
from benchmarks.progress import Progress
from benchmarks.stand import Stand
from benchmarks.steady import read_record, server_name
from benchmarks.targets import Verdict

REPLICAS: Final = 3
GROUP: Final = REPLICAS
"""Its number: it has the name that one more server would have, so that the load can call it."""
BROKEN: Final = 1
CALL_TIMEOUT_S: Final = 1
SETTLE_S: Final = 0.5
SIGNALS: Final = {
    KILLED: signal.SIGKILL, HUNG: signal.SIGSTOP, SLOW: signal.SIGUSR1, CORRUPT: signal.SIGUSR2,
}  # fmt: skip
"""What makes the server of a replica so (backend.py)."""


class GroupFailover:
    """One run. What has been observed until then stays available if it is interrupted."""

    def __init__(self, options: argparse.Namespace, repeat: int) -> None:
        self._options = options
        self._repeat = repeat
        self.observations: list[Observation] = []

    def run(self, progress: Progress) -> None:
        """Raises StartError."""
        progress.expect(self._repeat * len(self._options.group))
        with tempfile.TemporaryDirectory(prefix="mcp-bulkhead-bench-") as name:
            for number in range(self._repeat):
                for kind in self._options.group:
                    progress.working(f"{number + 1} of {self._repeat}: a replica is {kind}")
                    self.observations.append(self._break(Path(name) / f"{kind}-{number}", kind, progress))
                    progress.step()
        progress.clear()
        if self._options.plots:
            for file in group_report.write_plots(self.observations, self._options.plots):
                progress.line(f"plot: {file}")

    def _break(self, directory: Path, kind: str, progress: Progress) -> Observation:
        replicas = ",".join(server_name(number) for number in range(REPLICAS))
        options = ("--group", f"{server_name(GROUP)}={replicas}", "--call-timeout", str(CALL_TIMEOUT_S))
        with Stand(directory, progress.line, REPLICAS, self._options.checkout, proxy_options=options) as group:
            clients = self._options.clients * REPLICAS // 2
            loads = {
                tool: group.start_load(clients, self._options.pause_ms, range(GROUP, GROUP + 1), tool)
                for tool in (SAFE, OTHER)
            }
            time.sleep(SETTLE_S + WINDOW.before_s)
            fault_ns = stand.kill(group.servers[BROKEN].child.pid, SIGNALS[kind])
            time.sleep(WINDOW.after_s)
            for load in loads.values():
                load.end()
            stand.kill(group.servers[BROKEN].child.pid, signal.SIGCONT)  # else it could not end when it is told to
            return observe(kind, fault_ns, *(read_record(loads[tool].record) for tool in (SAFE, OTHER)))

    def tables(self) -> str:
        return group_report.table(self.observations)

    def verdicts(self) -> list[Verdict]:
        return group_report.verdicts(self.observations)

    def document(self) -> dict[str, Any]:
        names = ("clients", "pause_ms")
        options = {name: getattr(self._options, name) for name in names}
        return {"options": {**options, "repeat": self._repeat}, **group_report.document(self.observations)}
