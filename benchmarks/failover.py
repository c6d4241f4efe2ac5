"""Kills one process after the other under load, and says how soon the proxy is whole again and whom it has cost calls.

Each repetition has a proxy of its own, because the second restart of a process within a minute waits on purpose
(supervisor/restart.py): every process is killed once, workers first, then a server, the front, and the zygote.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from benchmarks import failover_report, faults, group_report
from benchmarks.faults import NoTargetError
from benchmarks.group_failover import GroupFailover
from benchmarks.options import comma_list, number_within, one_of
from benchmarks.progress import Progress
from benchmarks.stand import FRONT, ZYGOTE, Stand
from benchmarks.steady import read_record, server_name
from benchmarks.subjects import StartError
from benchmarks.targets import Verdict
from benchmarks.timeline import Fault, Observation, Window, observe

WINDOWS: Final = {
    faults.WORKER_KIND: Window(0.5, 1.0),
    faults.SERVER_KIND: Window(0.5, 3.0),
    FRONT: Window(0.5, 1.5),
    ZYGOTE: Window(0.5, 3.0),
}
"""How long it is calm before each kind of fault, and how long its effects are looked at."""
SETTLE_S: Final = 0.5
REPEAT: Final = 10
REPEAT_QUICK: Final = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--servers", type=number_within(2, 50, int), default=3, help="behind the proxy, default 3")
    parser.add_argument("--clients", type=number_within(1, 64, int), default=4, help="of each server, default 4")
    parser.add_argument(
        "--pause-ms", type=number_within(0, 1000, float), default=4.0, help="of a client between two calls, default 4"
    )
    parser.add_argument(
        "--faults", type=comma_list(one_of(faults.KINDS)), default=faults.KINDS, metavar="F,F",
        help=f"default {','.join(faults.KINDS)}",
    )  # fmt: skip
    parser.add_argument(
        "--group", nargs="?", type=comma_list(one_of(group_report.KINDS)), const=group_report.KINDS, metavar="F,F",
        help=f"instead, one of three replicas of a group is: {', '.join(group_report.KINDS)}; default all four",
    )  # fmt: skip
    parser.add_argument("--repeat", type=number_within(1, 1000, int), help=f"proxies to treat so, default {REPEAT}")
    parser.add_argument("--quick", action="store_true", help=f"{REPEAT_QUICK} repetitions")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="draw a plot of each kind of fault there (SVG)")


def measurement(options: argparse.Namespace) -> Failover | GroupFailover:
    """Return the run that is wanted."""
    repeat = options.repeat or (REPEAT_QUICK if options.quick else REPEAT)
    return GroupFailover(options, repeat) if options.group else Failover(options, repeat)


class Failover:
    """One run. What has been observed until then stays available if it is interrupted."""

    def __init__(self, options: argparse.Namespace, repeat: int) -> None:
        self._options = options
        self._repeat = repeat
        self.observations: list[Observation] = []

    def run(self, progress: Progress) -> None:
        """Raises StartError."""
        progress.expect(self._repeat)
        with tempfile.TemporaryDirectory(prefix="mcp-bulkhead-bench-") as name:
            for number in range(self._repeat):
                progress.working(f"proxy {number + 1} of {self._repeat}: starting")
                with Stand(
                    Path(name) / str(number), progress.line, self._options.servers, self._options.checkout
                ) as stand:
                    self._treat(stand, number, progress)
                progress.step()
        progress.clear()
        if self._options.plots:
            for file in failover_report.write_plots(self.observations, self._options.plots, WINDOWS):
                progress.line(f"plot: {file}")

    def tables(self) -> str:
        return failover_report.table(self.observations)

    def verdicts(self) -> list[Verdict]:
        connections = self._options.clients * self._options.servers
        return failover_report.verdicts(self.observations, connections)

    def document(self) -> dict[str, Any]:
        names = ("servers", "clients", "pause_ms")
        return {
            "options": {**{name: getattr(self._options, name) for name in names}, "repeat": self._repeat},
            **failover_report.document(self.observations),
        }

    def _treat(self, stand: Stand, number: int, progress: Progress) -> None:
        """Kill each process of one proxy, one after the other."""
        load = stand.start_load(self._options.clients, self._options.pause_ms)
        time.sleep(SETTLE_S)
        inflicted: list[Fault] = []
        for kind, server in self._plan(number):
            progress.working(f"proxy {number + 1} of {self._repeat}: kills {_target(kind, server)}")
            time.sleep(WINDOWS[kind].before_s)
            try:
                fault = faults.inflict(stand, kind, server)
            except NoTargetError as error:
                raise StartError(f"{error}; last words of the proxy: {stand.proxy.last_words() or 'none'}") from None
            inflicted.append(fault)
            passed_s = (time.perf_counter_ns() - fault.killed_ns) / 1e9
            time.sleep(max(WINDOWS[kind].after_s - passed_s, 0.0))
        load.end()
        calls = list(read_record(load.record))
        found = [observe(calls, fault, WINDOWS[fault.kind]) for fault in inflicted]
        self.observations += found
        progress.round_line(f"proxy {number + 1} of {self._repeat}, ms until the first good call", _soon(found))

    def _plan(self, number: int) -> list[tuple[str, int]]:
        """Return the kinds of fault and the servers they hit: each worker once, and one server in turn."""
        wanted: list[tuple[str, int]] = []
        for kind in faults.KINDS:
            if kind in self._options.faults:
                each = kind == faults.WORKER_KIND
                wanted += [(kind, server) for server in range(self._options.servers) if each or not server]
        turn = number % self._options.servers
        return [(kind, turn if kind == faults.SERVER_KIND else server) for kind, server in wanted]


def _target(kind: str, server: int) -> str:
    return f"the {kind}" + (f" {server_name(server)}" if kind in (faults.WORKER_KIND, faults.SERVER_KIND) else "")


def _soon(found: list[Observation]) -> dict[str, float]:
    return {
        _target(each.fault.kind, each.fault.server or 0).removeprefix("the "): each.outcome.first_good_ms
        for each in found
    }
