"""Workers that take too much memory: ended at their limit, or by the kernel at their cap, and nobody else notices."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import trio
from mcp import MCPError

from protocol.errors import OUTCOME_UNKNOWN
from protocol.limits import ANSWER_BYTES_MAX, HEARTBEAT_S, MEMORY_CAP_EXTRA_BYTES, MEMORY_CAP_SHARE, MIB
from tests.conftest import StartProxy
from tests.peers.clients import Client, modern_client
from tests.peers.raw_server import RawServer, Reply, Request
from tests.process.harness import WAIT_S, root
from tests.processes import is_running

LIMIT_MIB = 64
CAP_MIB = LIMIT_MIB * MEMORY_CAP_SHARE + MEMORY_CAP_EXTRA_BYTES / MIB
MOST_MIB = CAP_MIB + 10
"""With what it shares with others (code, mostly), which the kernel does not count against the cap."""
NO_LOOKS = "from protocol import limits; limits.HEARTBEAT_S = 3600.0"
"""For a root that does not look at its workers, so that only the kernel stops them."""


def mib_of(line: str) -> int:
    """Return how much memory the root says a worker had."""
    found = re.search(r"(\d+) MiB(?: of memory)?, over its limit of 64 MiB", line)
    assert found, line
    return int(found[1])


class LargeAnswers:
    """All of a large answer but its last byte, which comes once `enough` is set."""

    def __init__(self) -> None:
        self.enough = trio.Event()

    async def __call__(self, request: Request, reply: Reply) -> None:
        await reply.head(200, ("Content-Type", "application/json"), ("Content-Length", str(ANSWER_BYTES_MAX)))
        await reply.raw(bytes(ANSWER_BYTES_MAX - 1))
        await self.enough.wait()
        await reply.raw(b"\0")


# --- a worker that has more than its limit ---------------------------------------------------------------------------
@pytest.mark.promise("R01", "R10")
async def test_a_worker_over_its_limit_is_replaced_and_the_log_says_what_to_do(tmp_path: Path):
    log = tmp_path / "log"
    options = ("--memory-limit", "1GiB", "--memory-limit", "main=64MiB", "--log-file", str(log))
    async with root({"main": "leak", "other": "leak"}, *options) as proxy:
        other = (await proxy.server("other"))["pid"]
        line = await proxy.line("server main: worker had")
        await proxy.server("main", 2)
        assert (await proxy.server("other"))["pid"] == other, "as much memory, but another limit"

    assert LIMIT_MIB < mib_of(line) < CAP_MIB
    assert "(--memory-limit main=SIZE allows more); a new one starts now" in line
    ends = [event for event in map(json.loads, log.read_text().splitlines()) if "end" in event]
    assert [(event["who"], event["end"]) for event in ends] == [("server main", "oom")]


@pytest.mark.promise("R10")
async def test_a_limit_of_zero_is_none():
    async with root({"main": "leak", "other": "leak"}, "--memory-limit", "64MiB", "--memory-limit", "main=0") as proxy:
        await proxy.line("server other: worker had")
        await proxy.server("other", 2)
        await trio.sleep(HEARTBEAT_S)  # time for one more look is what this test is about
        assert (await proxy.server("main"))["incarnation"] == 1


# --- a worker that grows between two looks ---------------------------------------------------------------------------
@pytest.mark.promise("R01", "R10")
async def test_the_kernel_stops_a_worker_that_grows_faster_than_anybody_looks():
    options = ("--memory-limit", "main=64MiB")
    async with root({"main": "gobble", "other": "mcp"}, *options, prelude=NO_LOOKS) as proxy:
        other = (await proxy.server("other"))["pid"]
        line = await proxy.line("server main: worker ran out of memory with")
        await proxy.server("main", 2)
        assert (await proxy.server("other"))["pid"] == other

    assert LIMIT_MIB < mib_of(line) < MOST_MIB
    assert "(--memory-limit main=SIZE allows more); a new one starts now" in line


@pytest.mark.promise("R01", "R04", "R10")
async def test_a_real_worker_that_is_refused_memory_leaves_instead_of_working_half(nursery: trio.Nursery):
    answers = LargeAnswers()
    server = await nursery.start(RawServer(on={"tools/call": answers}).serve)
    codes: list[int] = []
    options = ("--servers", f"large={server.url}", "--memory-limit", "64MiB")
    async with root({"away": "mcp"}, *options, prelude=NO_LOOKS, entry="workers.main:run") as proxy:
        async with modern_client(f"http://127.0.0.1:{proxy.port}/mcp") as client, trio.open_nursery() as calls:
            for _ in range(16):
                calls.start_soon(fail, client, codes)
            line = await proxy.line("server large: worker ran out of memory with", within_s=15)
            answers.enough.set()
        assert len(codes) == 16
        assert OUTCOME_UNKNOWN in codes
        assert LIMIT_MIB < mib_of(line) < MOST_MIB
        server.on.clear()
        async with modern_client(f"http://127.0.0.1:{proxy.port}/mcp") as client:
            assert await answered_when_told_to_come(client) == "again"


async def answered_when_told_to_come(client: Client) -> str:
    """Call the server, which may have been given up for a second: calls that had not been sent before its worker ended
    went to the next one, and what they were answered at last is no JSON."""
    with trio.fail_after(WAIT_S):
        while True:
            try:
                return await client.text("large__echo", text="again")
            except MCPError as refused:
                data: Any = refused.error.data
                if not data["retryable"]:
                    raise
                await trio.sleep(data.get("retryAfterMs", 100) / 1000)  # as the error says


async def fail(client: Client, codes: list[int]) -> None:
    """Make a call that fails: mostly with its worker, or later, if it had not been sent before its worker ended."""
    with pytest.raises(MCPError) as failed:
        await client.call("large__echo", text="x")
    codes.append(failed.value.code)


# --- as its clients see it -------------------------------------------------------------------------------------------
@pytest.mark.promise("R01", "R04", "R10")
async def test_a_server_with_huge_answers_costs_only_its_own_calls(proxy: StartProxy, nursery: trio.Nursery):
    answers = LargeAnswers()
    large = await nursery.start(RawServer(on={"tools/call": answers}).serve)
    codes: list[int] = []
    other = await nursery.start(RawServer().serve)
    started = await proxy({"large": large.url, "other": other.url}, "--memory-limit", "large=64MiB")
    worker, bystanders = started.worker("server large"), [started.worker("server other"), started.worker("front")]

    async with modern_client(started.url) as client, trio.open_nursery() as others:
        others.start_soon(partial(keep_calling, client, cancel := trio.Event()))
        async with trio.open_nursery() as calls:
            for _ in range(6):
                calls.start_soon(fail, client, codes)
            new = await trio.to_thread.run_sync(started.replacement, "server large", worker.pid)
            answers.enough.set()
        assert len(codes) == 6
        assert OUTCOME_UNKNOWN in codes
        large.on.clear()
        assert await answered_when_told_to_come(client) == "again"
        cancel.set()

    assert is_running(new)
    assert all(map(is_running, bystanders))
    assert psutil.Process(new.pid).memory_info().rss < LIMIT_MIB * MIB
    (end,) = [line for line in started.log_file.read_text().splitlines() if '"oom"' in line]
    assert json.loads(end)["who"] == "server large"


async def keep_calling(client: Client, enough: trio.Event) -> None:
    """Call the other server again and again. Each call must be answered, and soon."""
    while not enough.is_set():
        with trio.fail_after(2):
            assert await client.text("other__echo", text="well") == "well"
        await trio.sleep(0.01)  # a pause between calls, not a wait for anything
