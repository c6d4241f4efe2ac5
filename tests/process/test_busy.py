"""A machine whose only core others use to the full: everything of ours is late, and nobody is taken for stuck."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio

from protocol.limits import SILENCE_S
from tests.conftest import StartProxy
from tests.peers.clients import modern_client
from tests.peers.raw_server import RawServer

HOGS = 4
BUSY_S = SILENCE_S + 1.5
NICE = 19


@contextmanager
def hogs(core: int) -> Iterator[None]:
    code = f"import os; os.sched_setaffinity(0, [{core}])\nwhile True: pass"
    running = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(HOGS)]
    try:
        yield
        assert all(hog.poll() is None for hog in running)
    finally:
        for hog in running:
            hog.kill()
            hog.wait()


@pytest.mark.slow
@pytest.mark.case("C-25")
@pytest.mark.promise("R03")
async def test_nobody_is_taken_for_stuck_on_a_busy_core_where_the_root_comes_last(
    proxy: StartProxy, nursery: trio.Nursery
):
    server = await nursery.start(RawServer().serve)
    started = await proxy({"main": server.url, "other": server.url})
    core = max(os.sched_getaffinity(0))
    answered = 0
    async with modern_client(started.url) as client:
        assert await client.text("main__echo", text="early") == "early"
        started.worker("spare")  # the last to come, with which all are there
        family = started.family()
        for process in family:
            os.sched_setaffinity(process.pid, [core])
        os.setpriority(os.PRIO_PROCESS, started.pid, NICE)
        with hogs(core), trio.move_on_after(BUSY_S):
            while True:
                answered += await client.text("main__echo", text="late") == "late"
        with trio.fail_after(10):
            assert await client.text("other__echo", text="after") == "after"

    assert answered > 10
    assert {process.pid for process in started.family()} == {process.pid for process in family}
    assert '"end":' not in started.log_file.read_text()
