"""A machine that has no more room on its disk, no more descriptors, no more processes: calls go on, and it recovers."""

from __future__ import annotations

import errno
import json
import os
import resource
import socket
from collections.abc import Iterable
from pathlib import Path

import psutil
import pytest
import trio
from mcp import MCPError

from tests.conftest import StartProxy
from tests.peers.clients import Client, modern_client
from tests.peers.raw_server import RawServer, Reply, Request
from tests.process.harness import root
from tests.processes import LOOPBACK, Proxy, is_running
from tests.waiting import eventually

ALIVE = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
LOG_BYTES = 256 * 1024
SHORT_DELAYS = "from protocol import limits; limits.RESTART_BACKOFF_MIN_S, limits.RESTART_BACKOFF_MAX_S = 0.01, 0.1"


def limit(processes: Iterable[psutil.Process], what: int, value: int) -> None:
    for process in processes:
        _, hard = resource.prlimit(process.pid, what)
        resource.prlimit(process.pid, what, (hard if value < 0 else value, hard))


def no_more_descriptors(process: psutil.Process) -> None:
    """Let it keep what it has open, and open nothing else."""
    limit([process], resource.RLIMIT_NOFILE, 3)


async def is_answered(client: Client, text: str) -> bool:
    try:
        return await client.text("main__echo", text=text) == text
    except MCPError:
        return False


async def answered_again(client: Client, timeout_s: float = 10.0) -> None:
    async def look() -> bool:
        return await is_answered(client, "again")

    await eventually(look, "calls are answered", timeout_s)


# --- the disk --------------------------------------------------------------------------------------------------------
@pytest.mark.case("C-17")
@pytest.mark.promise("R22")
async def test_a_disk_that_is_full_costs_log_lines_and_no_call(proxy: StartProxy, nursery: trio.Nursery):
    """A file that may not grow stands for it: nothing that a test may do everywhere fills a disk."""
    server = await nursery.start(RawServer().serve)
    started = await proxy({"main": server.url}, "--debug")
    async with modern_client(started.url) as client:
        assert await is_answered(client, "before")
        limit(started.family(), resource.RLIMIT_FSIZE, LOG_BYTES)
        with started.log_file.open("ab") as log:
            log.write(b"{}\n" * ((LOG_BYTES - log.tell()) // 3 + 1))
        full = started.log_file.read_bytes()

        for number in range(20):
            assert await is_answered(client, f"full {number}")
        old = await trio.to_thread.run_sync(started.kill_worker, "server main")
        await trio.to_thread.run_sync(started.replacement, "server main", old)
        await answered_again(client)
        assert started.log_file.read_bytes() == full, "nothing is cut off, nothing is written over"

        limit(started.family(), resource.RLIMIT_FSIZE, -1)
        started.worker("server main").kill()
        await answered_again(client)

    since = [json.loads(line) for line in started.log_file.read_bytes()[len(full) :].splitlines()]
    notes = [line for line in since if line.get("event", "").endswith("log lines were dropped before this one")]
    assert [line["process"] for line in notes if "process" in line] == ["root"]


@pytest.mark.case("C-17")
@pytest.mark.promise("R22")
@pytest.mark.parametrize("folder", ["/proc/sys/mcp-bulkhead", "/dev/full/state"])
async def test_a_state_folder_where_nobody_can_write_costs_a_warning_only(folder: str):
    """What is kept there is only that clients need not connect again after a restart."""
    async with root(None, "--state-dir", folder) as proxy:
        await proxy.line("the key of client sessions cannot be kept in ")
        await proxy.server("main")


# --- descriptors -----------------------------------------------------------------------------------------------------
async def ask(sock: socket.socket) -> bytes:
    with trio.fail_after(5):
        await trio.lowlevel.wait_readable(sock)
    return sock.recv(1000)


@pytest.mark.case("C-21")
@pytest.mark.promise("R22")
async def test_a_front_without_descriptors_serves_whom_it_has_and_takes_the_others_as_soon_as_it_can(
    proxy: StartProxy,
):
    started = await proxy({"main": "http://127.0.0.1:9/mcp"})
    address = (LOOPBACK, started.port)
    with socket.create_connection(address) as early:
        early.send(ALIVE)
        assert b"200 OK" in await ask(early)
        front = started.worker("front")
        no_more_descriptors(front)

        late = [socket.create_connection(address) for _ in range(20)]  # the kernel has taken them, and keeps them
        for sock in late:
            sock.send(ALIVE)
        for _ in range(5):
            early.send(ALIVE)
            assert b"200 OK" in await ask(early)
        for sock in late:
            with pytest.raises(BlockingIOError):
                sock.recv(1, socket.MSG_DONTWAIT)

        limit([front], resource.RLIMIT_NOFILE, -1)
        begun = trio.current_time()
        for sock in late:
            with sock:
                assert b"200 OK" in await ask(sock)
        assert trio.current_time() - begun < 1.0, "it looks every 100 ms"
    assert is_running(front)


@pytest.mark.case("C-21")
@pytest.mark.promise("R22")
async def test_a_worker_without_descriptors_keeps_its_calls_and_refuses_those_that_need_a_connection(
    proxy: StartProxy, nursery: trio.Nursery
):
    server = await nursery.start(RawServer().serve)
    started = await proxy({"main": server.url})
    released, held = trio.Event(), dict[int, bool]()

    async def answer_when_released(request: Request, reply: Reply) -> None:
        text = request.params["arguments"]["text"]
        if text.startswith("held"):
            await released.wait()
        await reply.result({"content": [{"type": "text", "text": text}]})

    server.on["tools/call"] = answer_when_released
    with trio.fail_after(20):
        async with modern_client(started.url) as client:
            await answered_again(client)
            worker = started.worker("server main")
            no_more_descriptors(worker)

            async def hold(number: int) -> None:
                held[number] = await is_answered(client, f"held {number}")

            async def some_are_refused() -> bool:
                return len(held) > 0

            async with trio.open_nursery() as calls:
                for number in range(5):  # more than there are connections now
                    calls.start_soon(hold, number)
                await eventually(some_are_refused, "calls for which there is no connection are refused")
                assert set(held.values()) == {False}
                limit([worker], resource.RLIMIT_NOFILE, -1)
                released.set()
            await answered_again(client)

    assert any(held.values()), "those that had a connection kept it"
    assert is_running(worker)


@pytest.mark.case("C-21")
@pytest.mark.promise("R01", "R22")
async def test_a_root_without_descriptors_harms_no_call_and_replaces_workers_when_it_can(
    proxy: StartProxy, nursery: trio.Nursery
):
    server = await nursery.start(RawServer().serve)
    started = await proxy({"main": server.url, "other": server.url})
    process = psutil.Process(started.pid)
    async with modern_client(started.url) as client:
        await answered_again(client)
        family = {one.pid for one in started.family()}
        no_more_descriptors(process)
        await trio.to_thread.run_sync(started.kill_worker, "server main")
        await said(started, "server main: worker could not be started: Too many open files")
        assert await client.text("other__echo", text="well") == "well"

        limit([process], resource.RLIMIT_NOFILE, -1)
        await answered_again(client)
        assert len(family & {one.pid for one in started.family()}) == len(family) - 1


@pytest.mark.case("C-21")
async def test_a_zygote_without_descriptors_starts_nobody_and_lives_on():
    async with root({"main": "mcp", "other": "mcp"}, prelude=SHORT_DELAYS) as proxy:
        await proxy.server("main")
        other = await proxy.server("other")
        zygote = psutil.Process(proxy.process_of("zygote"))
        no_more_descriptors(zygote)
        proxy.kill("server main")
        await proxy.line("server main: worker could not be started: Too many open files; ", number=2)

        limit([zygote], resource.RLIMIT_NOFILE, -1)
        assert (await proxy.server("main", 3))["name"] == "main"
        assert await proxy.server("other") == other
        assert proxy.process_of("zygote") == zygote.pid


@pytest.mark.case("C-21", "A-22")
@pytest.mark.promise("R22")
async def test_a_front_that_may_open_little_keeps_room_for_the_next_worker(proxy: StartProxy, nursery: trio.Nursery):
    server = await nursery.start(RawServer().serve)
    started = await proxy({"main": server.url})
    resource.prlimit(started.worker("zygote").pid, resource.RLIMIT_NOFILE, (100, 100))
    old = await trio.to_thread.run_sync(started.kill_worker, "front")
    front = await trio.to_thread.run_sync(started.replacement, "front", old)
    async with modern_client(started.url) as client:
        await answered_again(client)
        crowd = [socket.create_connection((LOOPBACK, started.port)) for _ in range(200)]
        refused = 0
        for sock in crowd:
            sock.send(ALIVE)
        for sock in crowd:
            refused += b"503 Service Unavailable" in await ask(sock)
        assert 100 < refused < 200
        old = await trio.to_thread.run_sync(started.kill_worker, "server main")
        await trio.to_thread.run_sync(started.replacement, "server main", old)
        await answered_again(client)
        for sock in crowd:
            sock.close()

    assert is_running(front)


async def said(started: Proxy, text: str) -> None:
    async def look() -> bool:
        return text in started.said()

    await eventually(look, text)


# --- processes -------------------------------------------------------------------------------------------------------
@pytest.mark.case("C-22")
async def test_a_fork_that_fails_is_a_failed_start_that_is_tried_again(tmp_path: Path):
    sign = tmp_path / "forkless"
    reason = os.strerror(errno.ENOMEM)
    async with root(
        {"main": "mcp", "other": "mcp"},
        prelude=SHORT_DELAYS,
        entry="tests.process.forkless_worker:run",
        wrap=["env", f"TMPDIR={tmp_path}"],
    ) as proxy:
        await proxy.server("main")
        other = await proxy.server("other")
        sign.write_text(str(errno.ENOMEM))
        proxy.kill("server main")
        await proxy.line(f"server main: worker could not be started: {reason}; a new one starts in")
        await proxy.line(f"server main: worker could not be started: {reason}; ", number=2)
        assert (await proxy.ask())["servers"] == {"other": other}

        sign.unlink()
        assert (await proxy.server("main", 3))["name"] == "main"
        assert await proxy.server("other") == other
        assert not any("crashed" in line for line in proxy.lines)


@pytest.mark.case("C-22")
async def test_a_machine_that_is_full_for_long_costs_the_server_its_place_and_not_the_proxy_its_life(tmp_path: Path):
    sign = tmp_path / "forkless"
    async with root(
        {"main": "mcp", "other": "mcp"},
        prelude=SHORT_DELAYS,
        entry="tests.process.forkless_worker:run",
        wrap=["env", f"TMPDIR={tmp_path}"],
    ) as proxy:
        await proxy.server("main")
        await proxy.server("other")
        sign.write_text(str(errno.EAGAIN))
        proxy.kill("server main")
        await proxy.line("server main: worker could not be started: .*; it keeps failing, and is tried again in 5 min")
        assert (await proxy.ask("parked main"))["down"] == {"main": -1.0}
        assert (await proxy.server("other"))["incarnation"] == 1


@pytest.mark.case("C-22")
async def test_a_zygote_that_cannot_be_started_again_at_once_is_started_later():
    second_fails = (
        SHORT_DELAYS
        + """
import errno, os, subprocess
from supervisor import zygote_process
Popen, started = subprocess.Popen, []
def popen(command, **options):
    started.extend(["zygote"] if any("supervisor.zygote" in part for part in command) else [])
    if len(started) in (2, 3):
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return Popen(command, **options)
zygote_process.subprocess.Popen = popen
"""
    )
    async with root(prelude=second_fails) as proxy:
        await proxy.server("main")
        proxy.kill("zygote")
        await proxy.line("zygote: could not be started: Resource temporarily unavailable; ", number=2)
        assert (await proxy.server("main", 2))["name"] == "main"
