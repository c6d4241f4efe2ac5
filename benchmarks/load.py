"""Runs the load comparison: all subjects side by side, in short rounds taken in turn.

Turns matter more than length: what else the machine does changes from second to second, and a ratio of two rounds that
followed each other is true although neither of them is.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from benchmarks import memory, placement, subjects
from benchmarks.cpu import FRONT, WORKER, CpuUse
from benchmarks.messages import Workload
from benchmarks.options import HTTP, STDIO, Options
from benchmarks.processes import Children
from benchmarks.progress import Progress
from benchmarks.results import BACKEND_PART, Case, CaseResult, Round, RunResult, SubjectResult
from benchmarks.rounds import Load, LoadResult
from benchmarks.subjects import PROJECT, Backend, Starter, StartError, Subject, UnavailableError
from benchmarks.wire import ExchangeError

WARM_UP_S: Final = 0.3
LARGE_BYTES: Final = 500_000
"""A run with answers of this size also measures how much memory large answers take."""


def run(options: Options, result: RunResult, progress: Progress) -> None:
    """Measure everything asked for, into `result` case by case. Raises StartError if there is no backend to call."""
    place = placement.chosen(options.place, os.sched_getaffinity(0))
    result.placement = place.sentence
    progress.line(place.sentence)
    with tempfile.TemporaryDirectory(prefix="mcp-bulkhead-bench-") as name, placement.at_the_end(place):
        directory = Path(name)
        children = Children(directory, progress.line)
        try:
            starter = Starter(children, directory, place.between)
            progress.show("starting the backend")
            backend = starter.backend()
            chosen = _start_subjects(options, starter, backend, result, progress)
            if any(case.size >= LARGE_BYTES for case in options.cases):
                _measure_memory(chosen, result, progress)
            gc.freeze()  # what exists now is never garbage, and need not be looked at between calls
            progress.expect(len(options.cases) * len(chosen) * (options.rounds + 1))
            for case in options.cases:
                measurement = _Measurement(options, case, chosen, backend, progress)
                result.cases.append(measurement.result)
                measurement.run()
                if not backend.child.alive:
                    raise StartError(f"the backend has ended: {backend.child.last_words() or 'no reason known'}")
        finally:
            progress.show("stopping")
            children.stop()
            gc.unfreeze()
            progress.clear()


def _measure_memory(chosen: list[Subject], result: RunResult, progress: Progress) -> None:
    """Measure what large answers take, before any other has passed the subjects."""
    for subject in chosen:
        progress.show(f"{subject.name}: memory of large answers")
        try:
            result.memory[subject.name] = memory.per_large_answer(subject)
        except (ExchangeError, ValueError) as error:
            # A subject that cannot do it has not kept any promise about it.
            result.memory[subject.name] = dict.fromkeys((FRONT, WORKER), math.inf)
            progress.line(f"{subject.name}: a large answer was not given: {error}")


def _start_subjects(
    options: Options, starter: Starter, backend: Backend, result: RunResult, progress: Progress
) -> list[Subject]:
    """Start what is asked for; what cannot be started is noted in `result`."""
    started: list[Subject] = []
    for name, start in _wanted(options, starter, backend):
        progress.show(f"starting {name}")
        try:
            started.append(start())
        except UnavailableError as error:
            result.skipped[name] = str(error)
            progress.line(f"{name} is skipped: {error}")
        except StartError as error:
            result.broken[name] = str(error)
            progress.line(f"{name} is not measured: {error}")
    return started


def _wanted(options: Options, starter: Starter, backend: Backend) -> list[tuple[str, Callable[[], Subject]]]:
    """Return the name of each subject asked for and how it is started, in the order of their turns."""
    wanted: list[tuple[str, Callable[[], Subject]]] = []
    if subjects.DIRECT in options.subjects:
        wanted.append((subjects.DIRECT, lambda: starter.direct(backend)))
    if subjects.NGINX in options.subjects:
        wanted.append((subjects.NGINX, lambda: starter.nginx(backend)))
    proxies = [(subjects.PROXY, subjects.PROXY_STDIO, PROJECT)] if subjects.PROXY in options.subjects else []
    tls = [(subjects.PROXY_TLS, subjects.PROXY_TLS_FRONT, PROJECT)]
    if options.base is not None:
        proxies.append((subjects.BASE, subjects.BASE_STDIO, options.base))
        tls.append((subjects.BASE_TLS, subjects.BASE_TLS_FRONT, options.base))
    for http_name, stdio_name, checkout in proxies:
        if HTTP in options.fronts:
            wanted.append((http_name, _proxy_starter(starter.proxy, http_name, checkout, backend)))
        if STDIO in options.fronts:
            wanted.append((stdio_name, _proxy_starter(starter.proxy_stdio, stdio_name, checkout, backend)))
    for behind, before, checkout in tls if HTTP in options.fronts else []:
        if subjects.PROXY_TLS in options.subjects:
            wanted.append((behind, functools.partial(starter.proxy_tls, behind, checkout)))
        if subjects.PROXY_TLS_FRONT in options.subjects:
            wanted.append((before, _proxy_starter(starter.proxy_tls_front, before, checkout, backend)))
    if subjects.PROXY_COMMAND in options.subjects:
        name = subjects.PROXY_COMMAND
        wanted.append((name, _proxy_starter(starter.proxy_command, name, PROJECT, backend)))
    if subjects.PROXY_WEBSOCKET in options.subjects:
        name = subjects.PROXY_WEBSOCKET
        wanted.append((name, _proxy_starter(starter.proxy_websocket, name, PROJECT, backend)))
    if subjects.PROXY_FRONTS in options.subjects:
        name = subjects.PROXY_FRONTS
        wanted.append((name, _proxy_starter(starter.proxy_fronts, name, PROJECT, backend)))
    if subjects.SDK_RELAY in options.subjects:
        wanted.append((subjects.SDK_RELAY, lambda: starter.sdk_relay(backend)))
    return wanted


def _proxy_starter(
    start: Callable[[str, Path, Backend], Subject], name: str, checkout: Path, backend: Backend
) -> Callable[[], Subject]:
    return lambda: start(name, checkout, backend)


class _Measurement:
    """One case: its loads stay open over all rounds."""

    def __init__(
        self, options: Options, case: Case, chosen: list[Subject], backend: Backend, progress: Progress
    ) -> None:
        self._options = options
        self._case = case
        self._chosen = chosen
        self._backend = backend
        self._progress = progress
        self._loads: dict[str, Load] = {}
        self._warm_ups: dict[str, LoadResult] = {}
        self._rounds: dict[str, list[Round]] = {}
        self.result = CaseResult(case)

    def run(self) -> None:
        with contextlib.ExitStack() as stack:
            for subject in self._chosen:
                self._open(subject, stack)
            measured = [subject for subject in self._chosen if subject.name in self._loads]
            for number in range(self._options.rounds):
                # Each second round goes backwards, so that nobody always follows the same neighbour.
                for subject in measured if number % 2 == 0 else reversed(measured):
                    self._measure(subject, number)
                self._progress.round_done(self._case.title, number + 1, self._last_speeds())
        for name, rounds in self._rounds.items():
            self.result.subjects[name] = SubjectResult(rounds, self._warm_ups[name])

    def _open(self, subject: Subject, stack: contextlib.ExitStack) -> None:
        """Open and warm up the load on one subject."""
        name = subject.name
        self._progress.measuring(self._case.title, name, "opening connections")
        try:
            load = subject.open_load(Workload(self._case.size, self._case.era), self._case.connections)
        except (ExchangeError, ValueError) as error:
            self.result.errors[name] = str(error)
            self._progress.line(f"{self._case.title}: {name} is not measured: {error}")
            return
        stack.callback(load.close)
        self._warm_ups[name] = load.run(min(WARM_UP_S, self._options.seconds))
        self._loads[name] = load
        self._rounds[name] = []
        self._progress.step()

    def _measure(self, subject: Subject, number: int) -> None:
        name = subject.name
        self._progress.measuring(self._case.title, name, f"round {number + 1} of {self._options.rounds}")
        use = CpuUse({self._backend.child.pid: BACKEND_PART, **subject.parts()})
        load = self._loads[name].run(self._options.seconds)
        cpu_ns, process_ended = use.end()
        self._rounds[name].append(Round(load, cpu_ns, process_ended))
        self._progress.step()

    def _last_speeds(self) -> dict[str, float]:
        return {name: rounds[-1].calls_per_s for name, rounds in self._rounds.items()}
