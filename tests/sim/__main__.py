"""Run many seeds, on all cores, and say which fail and what they saw: `python -m tests.sim --seeds 10000 --first 1`."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tests.catalogue import CHECKOUT
from tests.sim.checkers import check
from tests.sim.world import places, plan_of, run

STUCK_S = 30.0
"""Real seconds. A seed takes a fraction of one."""
FAILURES_SHOWN = 20


@dataclass
class Outcome:
    """What one seed came to."""

    seed: int
    wrong: list[str]
    digest: str
    virtual_s: float
    real_s: float
    calls: int
    executed: int
    outcomes: Counter[str]
    faults: Counter[str]


class StuckError(BaseException):
    """A seed takes longer than any should."""


def _stuck(_number: int, _frame: object) -> None:
    raise StuckError(f"still running after {STUCK_S:g} s")


def run_watched(seed: int) -> Outcome:
    """Run one seed, and give it up if it takes too long."""
    signal.signal(signal.SIGALRM, _stuck)
    signal.setitimer(signal.ITIMER_REAL, STUCK_S)
    try:
        return run_seed(seed)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def run_seed(seed: int) -> Outcome:
    """Run one seed and check its history."""
    began = time.perf_counter()
    try:
        history = run(plan_of(seed))
        wrong = check(history)
    except (Exception, StuckError) as error:  # noqa: BLE001 - whatever escapes is a failure of this seed
        return Outcome(seed, [f"raised {error!r} {places(error)}"], "", 0.0, 0.0, 0, 0, Counter(), Counter())
    executed = sum(map(len, history.executed.values()))
    outcomes = Counter(call.outcome for call in history.calls)
    real_s = time.perf_counter() - began
    virtual_s = history.kernel.times.now()
    calls = len(history.calls)
    return Outcome(seed, wrong, history.kernel.digest(), virtual_s, real_s, calls, executed, outcomes, history.faults)


def commit() -> str:
    """Return the commit this is, as far as git knows."""
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"


def failure(seed: int, wrong: Sequence[str]) -> str:
    """Return what to say about a seed that failed."""
    lines = "\n".join(f"    {line}" for line in wrong[:FAILURES_SHOWN])
    more = f"\n    and {len(wrong) - FAILURES_SHOWN} more" if len(wrong) > FAILURES_SHOWN else ""
    return (
        f"seed {seed} failed at commit {commit()}:\n{lines}{more}\n"
        f"  again: python -m tests.sim --seeds 1 --first {seed} --trace"
    )


def show(seed: int) -> list[str]:
    """Run one seed and print all that happened in it; return what was wrong."""
    trace: list[str] = []
    plan = plan_of(seed)
    history = run(plan, trace=trace)
    print(plan)
    for line in trace:
        print(line[:400])
    print(f"digest {history.kernel.digest()}")
    return check(history)


def _report(done: list[Outcome], failed: list[Outcome], began: float) -> None:
    hours = sum(one.virtual_s for one in done) / 3600
    busy_s = sum(one.real_s for one in done)
    faults: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    for one in done:
        faults += one.faults
        outcomes += one.outcomes
    calls = sum(one.calls for one in done)
    took_s = time.perf_counter() - began
    print(f"\n{len(done)} seeds, {len(failed)} failed; {took_s:.0f} s, {busy_s / len(done):.3f} s each")
    print(f"{hours:.1f} simulated hours; {calls} calls, {sum(one.executed for one in done)} carried out")
    print("calls: " + ", ".join(f"{count} {name or 'open'}" for name, count in outcomes.most_common()))
    print(f"{sum(faults.values())} faults:")
    for name, count in faults.most_common():
        print(f"{count:8} {name}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many seeds to run (%(default)s)")
    parser.add_argument("--first", type=int, default=1, help="the first of them (%(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (%(default)s: one per core)")
    parser.add_argument("--trace", action="store_true", help="print everything that happens")
    options = parser.parse_args()
    seeds = range(options.first, options.first + options.seeds)
    if options.trace:
        wrong = {seed: show(seed) for seed in seeds}
        for seed, lines in wrong.items():
            if lines:
                print(failure(seed, lines))
        return int(any(wrong.values()))
    began = time.perf_counter()
    done: list[Outcome] = []
    failed: list[Outcome] = []
    with multiprocessing.Pool(options.jobs) as pool:
        for outcome in pool.imap_unordered(run_watched, seeds, chunksize=4):
            done.append(outcome)
            if outcome.wrong:
                failed.append(outcome)
                print(failure(outcome.seed, outcome.wrong), flush=True)
            if len(done) % 500 == 0:
                print(f"{len(done)} of {len(seeds)} seeds, {len(failed)} failed", flush=True)
    _report(done, failed, began)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
