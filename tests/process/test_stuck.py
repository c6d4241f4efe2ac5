"""Workers that are there and do nothing: noticed by their heartbeat, told from a root that was late, and replaced."""

from __future__ import annotations

import json
import os
import shlex
import signal
from pathlib import Path

import psutil
import pytest
import trio

from protocol.limits import ABORT_S, SILENCE_S
from tests.conftest import StartProxy
from tests.e2e.test_commands import HOSTILE
from tests.peers.clients import legacy_client, modern_client
from tests.peers.raw_server import RawServer, Reply, Request
from tests.process.harness import root
from tests.process.moving_clock import MovingClock
from tests.processes import Proxy, is_running
from workers.backend.health import WAKE_SPREAD_S

NOTICED_S = SILENCE_S + ABORT_S
"""R03. A busy machine adds a little."""
SLACK_S = 1.0
RECOVERED_S = 5.0
"""R21: after a sleep, until everything serves again."""


async def gone_after(process: psutil.Process) -> float:
    """Return in how many seconds the process is gone."""
    begun = trio.current_time()
    with trio.fail_after(NOTICED_S + 5):
        pidfd = os.pidfd_open(process.pid)
        try:
            await trio.lowlevel.wait_readable(pidfd)
        finally:
            os.close(pidfd)
    return trio.current_time() - begun


def logged(proxy: Proxy, **wanted: object) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in proxy.log_file.read_text().splitlines()]
    return [line for line in lines if wanted.items() <= line.items()]


@pytest.mark.slow
@pytest.mark.promise("R03")
@pytest.mark.case("C-03")
async def test_a_worker_whose_loop_stands_still_is_replaced_and_what_it_did_is_kept(tmp_path: Path):
    """In four ways: at work in Python, waiting in Python, in C code that lets nobody else run, deaf to signals."""
    ways = ("busy", "blocked", "native", "deaf")
    log = tmp_path / "log"
    async with root({way: way for way in ways} | {"other": "mcp"}, "--log-file", str(log)) as proxy:
        other = (await proxy.server("other"))["pid"]
        begun = trio.current_time()
        for way in ways:
            line = await proxy.line(f"server {way}: worker was stuck", within_s=NOTICED_S + SLACK_S)
            assert "its loop stood still for 5 s; a new one starts now" in line
        assert trio.current_time() - begun < NOTICED_S + SLACK_S
        for way in ways:
            await proxy.server(way, 2)
        assert (await proxy.server("other"))["pid"] == other

    events = [json.loads(line) for line in log.read_text().splitlines()]
    stacks = {event["who"]: event["stack"] for event in events if "stack" in event}
    assert set(stacks) == {"server busy", "server blocked", "server native"}
    for who, stack in stacks.items():
        assert f"in {who.removeprefix('server ')}\\n" in stack
    assert [event["end"] for event in events if "stuck" in event["event"]] == ["stuck"] * len(ways)


@pytest.mark.slow
@pytest.mark.promise("R01", "R03")
@pytest.mark.case("C-02")
async def test_who_is_stopped_for_long_is_replaced_and_who_goes_on_in_time_is_left_alone(
    proxy: StartProxy, nursery: trio.Nursery
):
    server = await nursery.start(RawServer().serve)
    names = ("stopped", "paused", "well")
    started = await proxy(dict.fromkeys(names, server.url))
    workers = {name: started.worker(f"server {name}") for name in names}

    async with modern_client(started.url) as client:
        for name in names:
            assert await client.text(f"{name}__echo", text=name) == name
        workers["stopped"].suspend()
        workers["paused"].suspend()
        async with trio.open_nursery() as waiting:
            waiting.start_soon(_resume_after, 3.0, workers["paused"])
            took_s = await gone_after(workers["stopped"])
        await trio.to_thread.run_sync(started.replacement, "server stopped", workers["stopped"].pid)
        for name in names:
            assert await client.text(f"{name}__echo", text=name) == name

    assert SILENCE_S - 1 <= took_s <= NOTICED_S + SLACK_S
    assert {name for name in names if is_running(workers[name])} == {"paused", "well"}
    (end,) = logged(started, end="stuck")
    assert end["who"] == "server stopped"


async def _resume_after(seconds: float, process: psutil.Process) -> None:
    await trio.sleep(seconds)  # how long it stands still is what the test is about
    process.resume()


@pytest.mark.slow
@pytest.mark.promise("R03", "R13")
@pytest.mark.case("C-02")
async def test_a_stopped_front_is_replaced_on_its_port(proxy: StartProxy, nursery: trio.Nursery):
    server = await nursery.start(RawServer().serve)
    started = await proxy({"main": server.url})
    front, worker = started.worker("front"), started.worker("server main")
    async with modern_client(started.url) as client:  # before a front has begun to serve, its start's deadline applies
        assert await client.text("main__echo", text="first") == "first"
    front.suspend()

    assert await gone_after(front) <= NOTICED_S + SLACK_S
    async with modern_client(started.url) as client:
        assert await client.text("main__echo", text="again") == "again"
    assert is_running(worker)


@pytest.mark.slow
@pytest.mark.promise("R21")
@pytest.mark.case("C-24", "C-25")
async def test_after_the_whole_machine_was_asleep_all_is_as_it_was_within_five_seconds(
    proxy: StartProxy, nursery: trio.Nursery, tmp_path: Path
):
    """Everything stands still, commands too, the time of day jumps, and one server has been restarted meanwhile."""
    released = trio.Event()

    async def answer(request: Request, reply: Reply) -> None:
        text = request.params["arguments"]["text"]
        if text == "long":
            await released.wait()
        await reply.result({"content": [{"type": "text", "text": text}]})

    server, restarted, idle = RawServer(on={"tools/call": answer}), RawServer(), RawServer()
    first_life = trio.CancelScope()

    async def serve_until_restarted(task_status: trio.TaskStatus[RawServer]) -> None:
        with first_life:
            await restarted.serve(task_status)

    await nursery.start(server.serve)
    await nursery.start(idle.serve)
    await nursery.start(serve_until_restarted)
    clock = MovingClock(tmp_path)
    servers = {"main": server.url, "gone": restarted.url, "cmd": shlex.join(HOSTILE)}
    started = await proxy({**servers, "idle": idle.url}, env=clock.env)
    answers: list[str] = []
    async with modern_client(started.url) as client, legacy_client(started.url) as session:
        for name in (*servers, "idle"):
            assert await client.text(f"{name}__echo", text="early") == "early"
        async with trio.open_nursery() as calls:

            async def long_call() -> None:
                answers.append(await session.text("main__echo", text="long"))

            calls.start_soon(long_call)
            await server.wait_for("tools/call", 2)
            family = started.family()
            assert len(family) >= 8  # root, zygote, front, a worker for each server, the command
            for process in family:
                process.suspend()
            first_life.cancel()
            restarted.forget_sessions()
            await nursery.start(restarted.serve)
            clock.move(8 * 3600)
            await trio.sleep(SILENCE_S + 1.5)  # how long it stands still is what the test is about
            os.kill(started.pid, signal.SIGCONT)  # the root looks before the others can show that they live
            await trio.sleep(0.5)
            checked = len(idle.received("server/discover"))
            for process in family:
                process.resume()
            with trio.fail_after(RECOVERED_S):
                for name in servers:
                    assert await client.text(f"{name}__echo", text="awake") == "awake"
                    assert await session.text(f"{name}__echo", text="awake") == "awake"
            with trio.fail_after(WAKE_SPREAD_S + 2):  # sooner than the next check was due: the last is not that old
                await idle.wait_for("server/discover", checked + 1)
            released.set()

    assert answers == ["long"]
    assert {process.pid for process in started.family()} >= {process.pid for process in family}
    assert logged(started, end="stuck") == []
