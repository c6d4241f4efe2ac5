"""Whatever is killed, and whenever: nothing of the proxy is left, and nothing that a server's worker has started.

Each round kills one process at a moment that nobody chose. `ORPHAN_ROUNDS` says how many there are (`make leak`: 100).
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from random import Random, SystemRandom

import pytest
import trio

from tests.process.harness import Root, root
from tests.processes import free_port

ROUNDS = int(os.environ.get("ORPHAN_ROUNDS", "4"))
AT_ONCE = 20
"""Rounds in one test, which has its own bound on time."""
SEED = int(os.environ.get("ORPHAN_SEED", SystemRandom().randrange(2**32)))
SHORT_STOPS = "from protocol import limits; limits.WORKER_STOP_S = 0.3"
VICTIMS = ("root", "zygote", "front", "server main")
START_S = 0.6
"""Starting takes about half of it, so a moment within it is before, while or after the worker starts its daemon."""
STOP_S = 0.05


def kill(proxy: Root, victim: str) -> bool:
    """SIGKILL it, if it is there; return whether it was."""
    pid = proxy.pid if victim == "root" else proxy.process_of(victim)
    with suppress(ProcessLookupError):
        if pid:
            os.kill(pid, signal.SIGKILL)
            return True
    return False


async def kill_at_some_time(proxy: Root, random: Random, victim: str, phase: str) -> bool:
    if phase == "start":
        await trio.sleep(random.uniform(0, START_S))  # here and below, that nobody knows the moment is the point
        with trio.fail_after(5):
            while not kill(proxy, victim):  # the moment it is there, that is, before it has begun
                await trio.lowlevel.checkpoint()
        return True
    await proxy.server("main")
    await proxy.server("other")
    if phase == "stop":
        proxy.signal(signal.SIGTERM)
        await trio.sleep(random.uniform(0, STOP_S))
    return kill(proxy, victim)


@pytest.mark.slow
@pytest.mark.case("C-05", "C-07", "B-30")
@pytest.mark.promise("R14", "R15")
@pytest.mark.parametrize("first", range(0, ROUNDS, AT_ONCE))
async def test_nothing_is_left_whatever_is_killed_and_whenever(first: int):
    killed: list[tuple[str, str]] = []
    rounds = range(first, min(first + AT_ONCE, ROUNDS))
    for number in rounds:
        random = Random(f"{SEED}/{number}")
        victim, phase = VICTIMS[number % len(VICTIMS)], random.choice(("start", "start", "up", "stop"))
        try:
            async with root(
                {"main": "orphans", "other": "mcp"}, prelude=SHORT_STOPS, wait=False, port=free_port()
            ) as proxy:
                if await kill_at_some_time(proxy, random, victim, phase):
                    killed.append((victim, phase))
                if phase == "up" and victim != "root":
                    await proxy.server("main", 1 if victim == "front" else 2)
                if proxy.process.poll() is None:
                    proxy.signal(signal.SIGTERM)
                await proxy.ended(10)
        except BaseException:
            print(f"ORPHAN_SEED={SEED}: round {number}, {victim} killed during {phase}")
            raise

    print(f"{len(killed)} kills in {len(rounds)} rounds: {sorted(set(killed))}")
    assert len(killed) >= len(rounds) / 2, "most of them came before everything had stopped"
