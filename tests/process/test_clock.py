"""The time of day jumps while the proxy works: it is written into logs, and nothing else goes by it."""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from protocol.limits import HEARTBEAT_S
from tests.conftest import StartProxy
from tests.peers.clients import legacy_client, modern_client
from tests.peers.raw_server import RawServer, Reply, Request
from tests.process.moving_clock import MovingClock

HOUR_S = 3600
YEAR_S = 365 * 24 * HOUR_S
JUMPS_S = (HOUR_S, -HOUR_S, YEAR_S, -YEAR_S, 0)


def test_the_clock_of_a_program_can_be_moved_while_it_runs(tmp_path: Path):
    clock = MovingClock(tmp_path)
    code = (
        "import datetime, time; print(time.time(), datetime.datetime.now(datetime.UTC).timestamp(), time.monotonic())"
    )

    def times() -> list[float]:
        said = subprocess.run(
            [sys.executable, "-P", "-c", code], env=clock.env, capture_output=True, text=True, check=True
        )
        return [float(part) for part in said.stdout.split()]

    before = times()
    clock.move(YEAR_S)
    moved_s = [now - then for now, then in zip(times(), before, strict=True)]

    assert moved_s == [pytest.approx(YEAR_S, abs=5), pytest.approx(YEAR_S, abs=5), pytest.approx(0, abs=5)]


@pytest.mark.slow
@pytest.mark.case("C-23")
@pytest.mark.promise("R21")
async def test_jumps_of_the_wall_clock_move_the_times_in_the_log_and_nothing_else(
    proxy: StartProxy, nursery: trio.Nursery, tmp_path: Path
):
    server = await nursery.start(RawServer().serve)
    clock = MovingClock(tmp_path)
    started = await proxy({"main": server.url}, "--debug", "--call-timeout", "30", env=clock.env)
    released = trio.Event()

    async def answer_when_released(request: Request, reply: Reply) -> None:
        text = request.params["arguments"]["text"]
        if text == "long":
            await released.wait()
        await reply.result({"content": [{"type": "text", "text": text}]})

    answers: list[str] = []
    with trio.fail_after(30):
        async with legacy_client(started.url) as session, modern_client(started.url) as client:
            assert await session.text("main__echo", text="session") == "session"
            started.worker("spare")  # the last to come, with which all are there
            family = {process.pid for process in started.family()}
            server.on["tools/call"] = answer_when_released
            async with trio.open_nursery() as calls:

                async def long_call() -> None:
                    answers.append(await client.text("main__echo", text="long"))

                calls.start_soon(long_call)
                await server.wait_for("tools/call", 2)
                for jump_s in JUMPS_S:
                    clock.move(jump_s)
                    if abs(jump_s) == YEAR_S:  # as good as the others, and everything that goes by a clock looks at it
                        await trio.sleep(HEARTBEAT_S * 1.3)
                    assert await session.text("main__echo", text=f"at {jump_s}") == f"at {jump_s}"
                    async with legacy_client(started.url):  # which leaves a line in the log
                        pass
                assert answers == []
                released.set()

    assert answers == ["long"]
    assert {process.pid for process in started.family()} == family
    lines = [json.loads(line) for line in started.log_file.read_text().splitlines()]
    assert not [line for line in lines if "end" in line or line["event"].startswith("nothing ran")]
    times = [datetime.datetime.fromisoformat(line["timestamp"]) for line in lines]
    opened = [at for at, line in zip(times, lines, strict=True) if line["event"] == "session opened"]
    assert [round((at - times[0]).total_seconds() / HOUR_S) * HOUR_S for at in opened] == [0, *JUMPS_S]
