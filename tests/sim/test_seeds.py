"""Every seed of a fixed range, those that once failed, and that a seed is all there is to a run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.catalogue import CHECKOUT
from tests.sim.__main__ import failure, run_seed
from tests.sim.checkers import check
from tests.sim.world import plan_of, run

SEEDS = 200
REPLAYED = (3, 16, 24)
_FOUND = (Path(__file__).parent / "seeds.txt").read_text(encoding="utf-8").splitlines()
FAILED_ONCE = [int(line.split(maxsplit=1)[0]) for line in _FOUND if line and not line.startswith("#")]


@pytest.mark.case("A-07", "C-30", "D-07")
@pytest.mark.promise("R01", "R04", "R07", "R18")
@pytest.mark.parametrize("seed", sorted({*range(1, SEEDS + 1), *FAILED_ONCE}))
def test_a_seed_breaks_no_promise(seed: int):
    wrong = check(run(plan_of(seed)))

    assert not wrong, failure(seed, wrong)


@pytest.mark.promise("R24")
@pytest.mark.parametrize("seed", REPLAYED)
def test_a_seed_always_gives_the_same_history(seed: int):
    first: list[str] = []
    again: list[str] = []
    digests = [run(plan_of(seed), trace=trace).kernel.digest() for trace in (first, again)]

    assert first == again
    assert digests[0] == digests[1]


@pytest.mark.promise("R24")
def test_a_seed_gives_the_same_history_in_another_process():
    here = [run_seed(seed).digest for seed in REPLAYED]
    program = f"from tests.sim.__main__ import run_seed; print([run_seed(seed).digest for seed in {REPLAYED}])"
    for hashes in ("1", "2"):
        there = subprocess.run(
            [sys.executable, "-c", program], cwd=CHECKOUT, env=os.environ | {"PYTHONHASHSEED": hashes},
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        assert there.stdout.strip() == repr(here)


def test_different_seeds_give_different_histories():
    assert len({run_seed(seed).digest for seed in (3, 4, 5)}) == 3
