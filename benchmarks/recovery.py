"""Starts the proxy with few and with many servers, lets it rest, and stops it: how long that takes, what it costs."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks import clients, footprint, steady, wire
from benchmarks.cpu import CpuUse
from benchmarks.options import number_within
from benchmarks.progress import Progress
from benchmarks.report import columns, figure, finite
from benchmarks.stand import Stand, is_there
from benchmarks.steady import SteadyLoad
from benchmarks.subjects import HOST, StartError
from benchmarks.targets import Verdict
from benchmarks.timeline import NS_PER_MS, NS_PER_S, median, percentile

FEW: Final = 2
MANY: Final = 50
REPEAT: Final = 10
REPEAT_QUICK: Final = 3
REST_S: Final = 20.0
"""Longer than the pause between two health checks of a server, so that each worker makes at least one."""
REST_S_QUICK: Final = 3.0
SETTLE_S: Final = 1.0
LOOK_PAUSE_S: Final = 0.002
ANSWERING_MS_MAX: Final = 600.0
ALL_READY_MS_MAX: Final = 2000.0
WORKER_PSS_MIB_MAX: Final = 6.0
IDLE_PERCENT_MAX: Final = 1.0
MIB: Final = 1024 * 1024


@dataclasses.dataclass(frozen=True, slots=True)
class Start:
    """One start and stop. Times in ms; the first three since just before fork and exec."""

    servers: int
    answering_ms: float
    """The port is open and an HTTP client has had the answer to its first request."""
    served_ms: float
    """A tool of every server has answered well."""
    stop_ms: float
    """From SIGTERM until every process is gone."""


@dataclasses.dataclass(frozen=True, slots=True)
class Rest:
    """What the proxy costs while nobody calls."""

    servers: int
    seconds: float
    cpu_percent: dict[str, float]
    """Of one core, by kind of process."""
    pss_mib: dict[str, float]
    """By kind of process; of the workers, the mean."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--many", type=number_within(1, 200, int), default=MANY, help=f"servers, default {MANY}")
    parser.add_argument(
        "--repeat", type=number_within(1, 1000, int), help=f"starts with {FEW} servers, default {REPEAT}"
    )
    parser.add_argument("--rest", type=number_within(0.5, 600, float), help=f"seconds at rest, default {REST_S:g}")
    parser.add_argument("--quick", action="store_true", help=f"{REPEAT_QUICK} starts, {REST_S_QUICK:g} s at rest")


class Recovery:
    """One run. What has been measured until then stays available if it is interrupted."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._checkout: Path = options.checkout
        self._many: int = options.many
        self._repeat: int = options.repeat or (REPEAT_QUICK if options.quick else REPEAT)
        self._rest_s: float = options.rest or (REST_S_QUICK if options.quick else REST_S)
        self.starts: list[Start] = []
        self.rest: Rest | None = None

    def run(self, progress: Progress) -> None:
        """Raises StartError."""
        many = max(self._repeat // 3, 1)
        progress.expect(self._repeat + many)
        with tempfile.TemporaryDirectory(prefix="mcp-bulkhead-bench-") as name:
            for number in range(self._repeat + many):
                servers = FEW if number < self._repeat else self._many
                progress.working(f"starting the proxy with {servers} servers")
                with Stand(Path(name) / str(number), progress.line, servers, self._checkout, backends=1) as stand:
                    self._measure(stand, progress)
                progress.step()
                figures = {"answering": self.starts[-1].answering_ms, "all served": self.starts[-1].served_ms}
                progress.round_line(f"{servers} servers, ms", figures)
        progress.clear()

    def _measure(self, stand: Stand, progress: Progress) -> None:
        answering_ns = _first_answer(stand)
        served_ns = _all_served(stand)
        if len(stand.names) == self._many and self.rest is None:
            progress.working(f"at rest with {self._many} servers")
            time.sleep(SETTLE_S)
            self.rest = _at_rest(stand, self._rest_s)
        progress.working("stopping the proxy")
        self.starts.append(
            Start(
                len(stand.names),
                (answering_ns - stand.executed_ns) / NS_PER_MS,
                (served_ns - stand.executed_ns) / NS_PER_MS,
                _stop(stand) / NS_PER_MS,
            )
        )

    def tables(self) -> str:
        heading = ("servers", "starts", "answering ms", "every server served ms", "stopped ms")
        rows = [heading, *(_row(servers, found) for servers, found in _by_servers(self.starts).items())]
        legend = (
            "Since just before exec, median / p99. answering: the first HTTP request is answered; served: a tool of "
            "every server has answered. stopped: from SIGTERM until every process is gone."
        )
        blocks = [columns(rows), legend] if self.starts else ["nothing was measured"]
        if self.rest:
            kinds = [("at rest", "PSS MiB", "CPU % of a core")]
            kinds += [(k, figure(self.rest.pss_mib[k]), f"{self.rest.cpu_percent[k]:.3f}") for k in self.rest.pss_mib]
            kinds.append(("all", "", f"{sum(self.rest.cpu_percent.values()):.3f}"))
            said = (
                f"With {self.rest.servers} servers, {self.rest.seconds:.0f} s without a call; PSS: mean of that kind."
            )
            blocks += [columns(kinds), said]
        return "\n\n".join(blocks)

    def verdicts(self) -> list[Verdict]:
        made: list[Verdict] = []
        by_servers = _by_servers(self.starts)
        if few := by_servers.get(FEW):
            answering = median(start.answering_ms for start in few)
            made.append(Verdict("ms from exec to the first answer", ANSWERING_MS_MAX, False, answering))
        if (many := by_servers.get(self._many)) and self._many == MANY:
            served = median(start.served_ms for start in many)
            made.append(Verdict(f"ms from exec until {MANY} servers have answered", ALL_READY_MS_MAX, False, served))
        if self.rest:
            pss, cpu = self.rest.pss_mib.get("worker", math.inf), sum(self.rest.cpu_percent.values())
            made.append(Verdict("MiB of memory (PSS) per worker", WORKER_PSS_MIB_MAX, False, pss))
            made.append(Verdict(f"% of a core at rest with {self._many} servers", IDLE_PERCENT_MAX, False, cpu))
        return made

    def document(self) -> dict[str, Any]:
        starts = [{k: finite(v) for k, v in dataclasses.asdict(start).items()} for start in self.starts]
        return {"starts": starts, "rest": dataclasses.asdict(self.rest) if self.rest else None}


def _by_servers(starts: Sequence[Start]) -> dict[int, list[Start]]:
    found: dict[int, list[Start]] = {}
    for start in starts:
        found.setdefault(start.servers, []).append(start)
    return found


def _row(servers: int, found: Sequence[Start]) -> tuple[str, ...]:
    def cell(time_of: Callable[[Start], float]) -> str:
        values = [time_of(start) for start in found]
        return f"{figure(median(values))} / {figure(percentile(values, 99))}"

    return (
        str(servers),
        str(len(found)),
        cell(lambda start: start.answering_ms),
        cell(lambda start: start.served_ms),
        cell(lambda start: start.stop_ms),
    )


def _first_answer(stand: Stand) -> int:
    """Return when the port has answered a request, whatever the answer is."""
    address = (HOST, stand.port)
    request = wire.request_head(address, "GET", "/", {}, 0)
    deadline = time.monotonic() + steady.READY_WAIT_S
    while time.monotonic() < deadline and stand.proxy.alive:
        with contextlib.suppress(wire.ExchangeError), contextlib.closing(wire.connect(address)) as connection:
            wire.exchange(connection, request)
            return time.perf_counter_ns()
        time.sleep(LOOK_PAUSE_S)
    raise StartError(f"the proxy does not answer; its last words: {stand.proxy.last_words() or 'none'}")


def _all_served(stand: Stand) -> int:
    """Return when a tool of each server has answered well."""
    try:
        callers = steady.open_callers(stand.port, range(len(stand.names)), 1)
    except (wire.ExchangeError, ValueError) as error:
        raise StartError(f"the proxy opens no sessions: {error}") from None
    record = io.StringIO()
    try:
        load = SteadyLoad(callers, LOOK_PAUSE_S, record)
        deadline = time.monotonic() + steady.READY_WAIT_S
        while not load.ready:
            if time.monotonic() > deadline:
                raise StartError(f"not every server answers calls; the last answer: {record.getvalue()[-300:]}")
            load.turn(calling=True, once=True)
        return time.perf_counter_ns()
    finally:
        clients.close_clients([caller.client for caller in callers])


def _at_rest(stand: Stand, seconds: float) -> Rest:
    kinds = {pid: role.split()[0].replace("server", "worker") for pid, role in stand.roles().items()}
    use = CpuUse(kinds)
    started = time.perf_counter_ns()
    time.sleep(seconds)
    used_ns, ended = use.end()
    passed_ns = time.perf_counter_ns() - started
    if ended:
        raise StartError(
            f"a process of the proxy has ended at rest; its last words: {stand.proxy.last_words() or 'none'}"
        )
    pss: dict[str, list[int]] = {}
    for pid, kind in kinds.items():
        pss.setdefault(kind, []).append(footprint.pss_bytes(pid))
    return Rest(
        len(stand.names),
        passed_ns / NS_PER_S,
        {kind: ns / passed_ns * 100 for kind, ns in used_ns.items()},
        {kind: sum(values) / len(values) / MIB for kind, values in pss.items()},
    )


def _stop(stand: Stand) -> int:
    """Return how long the proxy takes to be gone, in ns."""
    processes = list(stand.roles())
    started = time.perf_counter_ns()
    stand.proxy.process.terminate()
    deadline = time.monotonic() + steady.READY_WAIT_S
    stand.proxy.process.wait(steady.READY_WAIT_S + 5)
    while any(is_there(pid) for pid in processes):
        if time.monotonic() > deadline:
            raise StartError("processes of the proxy are left after it has ended")
        time.sleep(LOOK_PAUSE_S)
    return time.perf_counter_ns() - started
