"""The spare that the zygote keeps: it becomes the next worker, it is missed by nobody, and it is never left behind."""

from __future__ import annotations

import os
import signal

import pytest
import trio

from tests.process.harness import Root, command_line, root, state, wait_gone
from tests.waiting import eventually

TWO = {"main": "mcp", "other": "mcp"}
WARM = "tests.process.fake_worker:warm_up"


async def spare_of(proxy: Root) -> int:
    """Return the pid of the spare as soon as there is one that waits for its order."""

    async def look() -> int:
        pid = proxy.process_of("spare")
        return pid if pid and state(pid) == "S" else 0

    return await eventually(look, "there is a spare")


@pytest.mark.case("C-01")
@pytest.mark.promise("R05")
async def test_the_spare_becomes_the_next_worker_and_another_takes_its_place():
    async with root(TWO, warm_up=WARM) as proxy:
        main, other = await proxy.server("main"), await proxy.server("other")
        spare = await spare_of(proxy)

        proxy.kill("server main")
        again = await proxy.server("main", 2)

        assert (again["pid"], again["incarnation"]) == (spare, 2)
        assert command_line(spare) == "mcp-bulkhead: server main"
        assert len({main["random"], other["random"], again["random"]}) == 3
        assert sorted(os.listdir(f"/proc/{spare}/fd")) == ["0", "1", "2", "3", "4"], "as those that were forked"
        assert await spare_of(proxy) != spare
        proxy.kill("server main")
        await proxy.line("server main: worker was killed by SIGKILL", number=2)


@pytest.mark.promise("R05")
async def test_a_spare_that_was_killed_is_not_missed():
    async with root(TWO, warm_up=WARM) as proxy:
        await proxy.server("main")
        spare = await spare_of(proxy)
        os.kill(spare, signal.SIGKILL)
        await wait_gone(spare)

        proxy.kill("server main")

        assert (await proxy.server("main", 2))["pid"] != spare
        assert await spare_of(proxy) != spare
        assert not [line for line in proxy.lines if "spare" in line]


@pytest.mark.case("C-05")
@pytest.mark.promise("R15")
@pytest.mark.parametrize("killed", ["root", "zygote"])
async def test_the_spare_dies_with_the_zygote_and_with_the_root(killed: str):
    async with root(TWO, warm_up=WARM) as proxy:
        await proxy.server("main")
        spare = await spare_of(proxy)

        if killed == "root":
            proxy.signal(signal.SIGKILL)
        else:
            proxy.kill("zygote")

        await wait_gone(spare, 2.0)
        if killed == "root":
            await proxy.ended()
        else:
            assert (await proxy.server("main", 2))["incarnation"] == 2


async def test_a_program_that_cannot_be_warmed_up_runs_cold():
    async with root(TWO, warm_up="tests.process.fake_worker:fail_to_warm_up") as proxy:
        await proxy.server("main")
        await proxy.line("zygote: could not warm up: RuntimeError: no stage")
        spare = await spare_of(proxy)

        proxy.kill("server main")

        assert (await proxy.server("main", 2))["pid"] == spare


async def test_without_anything_to_warm_up_there_is_no_spare():
    async with root(TWO) as proxy:
        await proxy.server("main")
        proxy.kill("server main")
        await proxy.server("main", 2)
        await trio.sleep(1.0)  # twice as long as a spare is waited for

        assert not proxy.process_of("spare")
