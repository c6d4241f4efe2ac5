"""Comes and goes 10,000 times and kills hundreds of processes: is the proxy afterwards what it was before?

In the first half only clients come and go, so that what the front and the workers keep of them shows. In the second
half processes are killed besides, so that what the root and the zygote keep of those shows. No process is killed more
often than `supervisor/restart.py` allows, because a server that is parked is no leak.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import math
import tempfile
import time
from pathlib import Path
from random import Random, SystemRandom
from typing import Any, Final

from benchmarks import footprint
from benchmarks import stand as stands
from benchmarks.clients import Endpoint
from benchmarks.options import number_within
from benchmarks.progress import Progress
from benchmarks.report import columns
from benchmarks.stand import FRONT, ZYGOTE, Stand, wait_until, worker_role
from benchmarks.subjects import HOST, MCP_PATH, StartError
from benchmarks.targets import Verdict
from benchmarks.visits import Visitors
from benchmarks.wire import ExchangeError
from protocol.limits import RESTART_INTENSITY

CYCLES: Final = 10_000
CYCLES_QUICK: Final = 1_000
SERVERS: Final = 50
SERVERS_QUICK: Final = 3
KILLS_EACH: Final = RESTART_INTENSITY - 1
"""Of each worker and of the front; one more is killed to warm up."""
KILLS_EACH_QUICK: Final = 3
BACKENDS: Final = 3
WARM_UP: Final = 800
SETTLE_S: Final = 2.0
COMPLETE_WAIT_S: Final = 40.0
REPLACED_WAIT_S: Final = 15.0
GROWTH_PERCENT_MAX: Final = 5.0
MIB: Final = 1024 * 1024


@dataclasses.dataclass(frozen=True, slots=True)
class Held:
    """What the proxy holds at rest."""

    processes: int
    descriptors: int
    """Of all processes, without TCP connections: pools keep those to servers for a while."""
    clients: int
    """TCP connections of the front, all of which are to clients."""
    rss: dict[str, int]
    """Bytes, by role; of the workers of servers the sum."""

    def grown(self, role: str, before: Held) -> float:
        """Return by how many percent."""
        return (self.rss[role] / before.rss[role] - 1) * 100 if before.rss.get(role) else math.inf


WORKERS: Final = "workers"
ROLES: Final = ("root", ZYGOTE, FRONT, WORKERS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cycles", type=number_within(16, 10_000_000, int), help=f"default {CYCLES:,}".replace(",", " ")
    )
    parser.add_argument("--servers", type=number_within(1, 50, int), help=f"default {SERVERS}")
    parser.add_argument(
        "--kills", type=number_within(0, KILLS_EACH, int), help=f"of each worker and the front, default {KILLS_EACH}"
    )
    parser.add_argument("--seed", type=int, help="repeat the order of the kills of an earlier run")
    parser.add_argument(
        "--quick", action="store_true", help=f"{CYCLES_QUICK} cycles, {SERVERS_QUICK} servers, {KILLS_EACH_QUICK} kills"
    )


class Leak:
    """One run. What has been seen until then stays available if it is interrupted."""

    def __init__(self, options: argparse.Namespace) -> None:
        quick: bool = options.quick
        self._checkout: Path = options.checkout
        self._cycles: int = options.cycles or (CYCLES_QUICK if quick else CYCLES)
        self._servers: int = options.servers or (SERVERS_QUICK if quick else SERVERS)
        usual = KILLS_EACH_QUICK if quick else KILLS_EACH
        self._kills_each: int = usual if options.kills is None else options.kills
        self._seed: int = SystemRandom().randrange(2**32) if options.seed is None else options.seed
        self.killed: collections.Counter[str] = collections.Counter()
        self.visitors: Visitors | None = None
        self.before: Held | None = None
        self.between: Held | None = None
        self.after: Held | None = None

    def run(self, progress: Progress) -> None:
        """Raises StartError."""
        progress.line(f"seed {self._seed}")
        backends = min(BACKENDS, self._servers)
        with (
            tempfile.TemporaryDirectory(prefix="mcp-bulkhead-bench-") as name,
            Stand(Path(name) / "leak", progress.line, self._servers, self._checkout, backends) as stand,
        ):
            progress.working("warming up")
            warm = self._arrive(stand)
            self._visit(warm, WARM_UP)
            for role in (worker_role(0), FRONT):
                self._kill(stand, role)
            self._visit(warm, WARM_UP)
            self.before = _at_rest(stand)
            visitors = self.visitors = self._arrive(stand)
            progress.working("clients come and go")
            self._visit(visitors, self._cycles // 2)
            self.between = _at_rest(stand)
            progress.working("processes are killed, too")
            self._visit_among_kills(stand, visitors, self._cycles - self._cycles // 2)
            self.after = _at_rest(stand)
            stand.start_load(1, 0.0).end()  # raises if a server does not answer any more
        progress.clear()

    def _arrive(self, stand: Stand) -> Visitors:
        stand.start_load(1, 0.0).end()
        try:
            return Visitors(Endpoint((HOST, stand.port), MCP_PATH), self._servers)
        except (ExchangeError, ValueError) as error:
            raise StartError(f"the proxy does not answer: {error}") from None

    def _visit(self, visitors: Visitors, count: int) -> None:
        for _ in range(count):
            visitors.visit()

    def _visit_among_kills(self, stand: Stand, visitors: Visitors, count: int) -> None:
        roles = self._order()
        for number, role in enumerate(roles):
            self._kill(stand, role)
            self._visit(visitors, count * (number + 1) // len(roles) - count * number // len(roles))
        if not roles:
            self._visit(visitors, count)

    def _order(self) -> list[str]:
        """Return whom to kill: the zygote, then everybody once, everybody once more and so on, each time shuffled."""
        random = Random(self._seed)
        everybody = [*(worker_role(number) for number in range(self._servers)), FRONT]
        turns = [random.sample(everybody, len(everybody)) for _ in range(self._kills_each)]
        return [ZYGOTE, *(role for turn in turns for role in turn)] if turns else []

    def _kill(self, stand: Stand, role: str) -> None:
        """Kill it as soon as it is there, and go on at once: who comes while it is away is part of the matter."""
        if wait_until(lambda: stand.find(role) is not None, REPLACED_WAIT_S) is None:
            raise StartError(f"{role} is not there; last words of the proxy: {stand.proxy.last_words() or 'none'}")
        pid = stand.find(role)
        if pid is None:
            raise StartError(f"{role} has died by itself")
        dying = stand.find(FRONT) if role in (ZYGOTE, FRONT) else None  # the front dies with the zygote, a moment later
        stands.kill(pid)
        if dying is not None:  # whom it had accepted yet would be lost with it, which is not what is counted
            wait_until(lambda: not stands.is_there(dying), REPLACED_WAIT_S)
        self.killed["server's worker" if role.startswith("server ") else role] += 1

    def tables(self) -> str:
        visitors, before, between, after = self.visitors, self.before, self.between, self.after
        if visitors is None or before is None:
            return "nothing was measured"
        kills = ", ".join(f"{count} times the {role}" for role, count in self.killed.items())
        stayed = visitors.answered
        said = [
            f"{self._cycles:,} clients came and went; killed: {kills or 'nobody'}",
            f"of those who waited for their answer {stayed[True]:,} got it, {stayed[False]:,} got an error or lost "
            "their connection with the front",
        ]
        stages = {"before": before, "after clients": between, "after kills": after}
        held = {name: stage for name, stage in stages.items() if stage}
        rows = [("at rest", *held)]
        rows.append(("processes", *(f"{stage.processes}" for stage in held.values())))
        rows.append(("descriptors", *(f"{stage.descriptors}" for stage in held.values())))
        rows.append(("connections of clients", *(f"{stage.clients}" for stage in held.values())))
        rows += [
            (f"RSS of {role}, MiB", *(f"{stage.rss.get(role, 0) / MIB:.2f}" for stage in held.values()))
            for role in ROLES
        ]
        return "\n\n".join(["\n".join(said), columns(rows)])

    def verdicts(self) -> list[Verdict]:
        visitors, before, between, after = self.visitors, self.before, self.between, self.after
        if visitors is None or before is None or between is None or after is None:
            return []
        return [
            Verdict("visitors who were turned away", 0, False, visitors.turned_away),
            *compare(before, between, after),
        ]

    def document(self) -> dict[str, Any]:
        stages = {"before": self.before, "between": self.between, "after": self.after}
        answered: collections.Counter[bool] = self.visitors.answered if self.visitors else collections.Counter()
        return {
            "options": {
                "cycles": self._cycles, "servers": self._servers, "kills": self._kills_each, "seed": self._seed
            },
            "killed": dict(self.killed),
            "stayed": {"answered": answered[True], "failed": answered[False]},
            **{name: dataclasses.asdict(stage) if stage else None for name, stage in stages.items()},
        }  # fmt: skip


def compare(before: Held, between: Held, after: Held) -> list[Verdict]:
    """Judge. Memory is compared for processes that lived on: those killed in the second half say nothing about it."""
    made: list[Verdict] = []
    for when, now in (("clients came and went", between), ("processes were killed", after)):
        made.append(Verdict(f"processes more or fewer after {when}", 0, False, abs(now.processes - before.processes)))
        changed = abs(now.descriptors - before.descriptors)
        made.append(Verdict(f"descriptors more or fewer after {when}", 0, False, changed))
        made.append(Verdict(f"connections of clients left after {when}", 0, False, now.clients))
    for role in ROLES:
        grown = between.grown(role, before)
        made.append(Verdict(f"% more memory in {role} after clients came and went", GROWTH_PERCENT_MAX, False, grown))
    grown = after.grown("root", before)
    made.append(Verdict("% more memory in root after processes were killed", GROWTH_PERCENT_MAX, False, grown))
    return made


def _at_rest(stand: Stand) -> Held:
    """Return what the proxy holds when nobody calls and every process is there."""
    if wait_until(stand.complete, COMPLETE_WAIT_S) is None:
        raise StartError(f"a process of the proxy is missing; its last words: {stand.proxy.last_words() or 'none'}")
    time.sleep(SETTLE_S)
    return _held(stand.roles())


def _held(roles: dict[int, str]) -> Held:
    rss: collections.Counter[str] = collections.Counter()
    for pid, role in roles.items():
        rss[WORKERS if role.startswith("server ") else role] += footprint.rss_bytes(pid)
    fronts = [pid for pid, role in roles.items() if role == FRONT]
    return Held(
        processes=len(roles),
        descriptors=footprint.descriptors(roles)[0],
        clients=footprint.descriptors(fronts)[1],
        rss=dict(rss),
    )
