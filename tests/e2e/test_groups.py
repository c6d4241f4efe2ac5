"""Three replicas behind one name, under load: one dies, hangs or is slow, and clients hardly notice.

Every call has a text of its own, so the servers can tell how often each has reached them.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
from mcp import MCPError

from protocol.errors import CALL_TIMEOUT, INTERNAL_ERROR, OUTCOME_UNKNOWN
from protocol.limits import EJECTION_FAILURES
from protocol.management import TOOL_NAMES
from tests.catalogue import CHECKOUT
from tests.conftest import StartProxy
from tests.e2e.test_management import answer
from tests.peers.clients import Client, modern_client
from tests.peers.raw_server import ECHO, Json, RawServer, Reply, Request, never, with_status
from tests.peers.stoppable import Stoppable
from tests.processes import Proxy
from tests.waiting import eventually

READ = ECHO | {"name": "read", "annotations": {"readOnlyHint": True}}
WRITE = ECHO | {"name": "write"}
AT_ONCE = 12
ROUNDS = 10


class Replica(Stoppable[RawServer]):
    """One server, which can be killed and started again on its port, and kept from greeting anybody."""

    def __init__(self, nursery: trio.Nursery, name: str) -> None:
        super().__init__(nursery, RawServer(tools=[READ, WRITE], name=name))
        self.name = name
        self.server.on["tools/call"] = self.echo
        self.server.on["server/discover"] = self.server.on["initialize"] = self.greet
        self.greets = trio.Event()
        self.greets.set()
        self.delay_s = 0.002

    async def greet(self, request: Request, reply: Reply) -> None:
        await self.greets.wait()
        await self.server.polite(request, reply)

    async def echo(self, request: Request, reply: Reply) -> None:
        await trio.sleep(self.delay_s)
        text = f"{self.name} {request.params['arguments']['text']}"
        await reply.result({"content": [{"type": "text", "text": text}]})

    @property
    def seen(self) -> list[str]:
        return [request.params["arguments"]["text"] for request in self.server.received("tools/call")]


COMMAND = [sys.executable, str(CHECKOUT / "tests" / "peers" / "hostile_command.py")]


@dataclass
class Call:
    text: str
    began: float
    client: int
    ended: float = 0.0
    served_by: str = ""
    error: int = 0


@dataclass
class Load:
    """Clients that call without a pause, reads and writes in turn, until they are told to stop."""

    replicas: list[Replica]
    calls: list[Call] = field(default_factory=list)
    stopped: bool = False
    _event: trio.Event = field(default_factory=trio.Event)

    async def client(self, client: Client, number: int) -> None:
        for count in itertools.count():
            if self.stopped:
                return
            tool = ("read", "write")[count % 2]
            call = Call(f"{tool} {number} {count}", trio.current_time(), number)
            self.calls.append(call)
            try:
                call.served_by, _, told = (await client.text(f"search__{tool}", text=call.text)).partition(" ")
                assert told == call.text, "the answer of another call"
            except MCPError as error:
                call.error = error.code
            call.ended = trio.current_time()
            event, self._event = self._event, trio.Event()
            event.set()

    async def until(self, look: Callable[[], bool]) -> None:
        """Look again whenever a call has been answered."""
        while not look():
            await self._event.wait()

    async def more(self, count: int) -> None:
        """Wait for so many more calls to be answered."""
        wanted = self.answered + count
        await self.until(lambda: self.answered >= wanted)

    async def all_go_on(self) -> None:
        """Wait until each client has had answers to so many calls that it has made since now."""
        before = len(self.calls)

        def look() -> bool:
            ended = Counter(call.client for call in self.calls[before:] if call.ended)
            return all(ended[number] >= ROUNDS for number in range(AT_ONCE))

        await self.until(look)

    async def served_again(self, replica: Replica) -> None:
        before = len(self.calls)
        await self.until(lambda: any(call.served_by == replica.name for call in self.calls[before:]))

    @property
    def answered(self) -> int:
        return sum(call.ended > 0 for call in self.calls)

    def errors(self) -> Counter[tuple[str, int]]:
        return Counter((call.text.split()[0], call.error) for call in self.calls if call.error)

    def shares(self, since: float) -> Counter[str]:
        return Counter(call.served_by for call in self.calls if call.began >= since)

    def check_at_most_once(self) -> None:
        """No write was executed twice, and each that was answered was executed."""
        seen = Counter(text for replica in self.replicas for text in replica.seen)
        assert {text: count for text, count in seen.items() if text.startswith("write") and count > 1} == {}
        assert {call.text for call in self.calls if not call.error} <= set(seen)


@asynccontextmanager
async def loaded(
    proxy: StartProxy, nursery: trio.Nursery, *options: str
) -> AsyncIterator[tuple[Load, list[Replica], Proxy]]:
    """Three replicas under load. At the end every call has been answered, once, and no write was executed twice."""
    replicas = [Replica(nursery, name) for name in ("search-1", "search-2", "search-3")]
    for replica in replicas:
        await replica.start()
    started = await proxy({"search": "|".join(replica.server.url for replica in replicas)}, *options)
    load = Load(replicas)
    async with modern_client(started.url) as one, modern_client(started.url) as two:
        await one.lists(*TOOL_NAMES, "search__read", "search__write")
        async with trio.open_nursery() as callers:
            for number in range(AT_ONCE):
                callers.start_soon(load.client, (one, two)[number % 2], number)
            await load.more(100)
            yield load, replicas, started
            load.stopped = True
    load.check_at_most_once()


@pytest.mark.promise("R01", "R04", "R07")
@pytest.mark.case("B-01", "B-03")
async def test_a_replica_that_is_killed_costs_only_calls_that_may_have_done_something(
    proxy: StartProxy, nursery: trio.Nursery
):
    with trio.fail_after(50):
        async with loaded(proxy, nursery) as (load, replicas, _):
            connected = len(replicas[1].server.open_now)
            replicas[1].kill()
            await load.all_go_on()
            await replicas[1].start()
            await load.served_again(replicas[1])

    assert set(load.errors()) <= {("write", OUTCOME_UNKNOWN)}
    # One on each connection may have been written when the server had closed it, or before it had read that.
    assert load.errors().total() <= connected


@pytest.mark.slow
@pytest.mark.promise("R01", "R03", "R04", "R07")
@pytest.mark.case("C-01", "C-02")
async def test_a_worker_of_a_replica_that_is_killed_or_stands_still_fails_no_read(
    proxy: StartProxy, nursery: trio.Nursery
):
    with trio.fail_after(80):
        async with loaded(proxy, nursery) as (load, replicas, started):
            replicas[0].greets = trio.Event()  # the next worker will not be ready before we say so
            await trio.to_thread.run_sync(started.kill_worker, "server search-1")
            reached = len(replicas[0].seen)
            await load.all_go_on()
            assert len(replicas[0].seen) == reached, "a call went to a replica that was not known to work"
            early = load.errors()
            replicas[0].greets.set()
            await load.served_again(replicas[0])
            worker = started.worker("server search-2")
            worker.suspend()
            await load.all_go_on()
            await trio.to_thread.run_sync(started.replacement, "server search-2", worker.pid, 30.0)
            await load.served_again(replicas[1])

    assert set(early) <= {("write", OUTCOME_UNKNOWN)}
    assert set(load.errors()) <= {("write", OUTCOME_UNKNOWN)}
    assert load.errors().total() <= 2 * AT_ONCE


@pytest.mark.slow
@pytest.mark.promise("R01", "R04", "R07")
@pytest.mark.case("B-02")
async def test_a_replica_that_hangs_is_given_up_and_its_reads_are_answered_by_others(
    proxy: StartProxy, nursery: trio.Nursery
):
    with trio.fail_after(50):
        async with loaded(proxy, nursery, "--call-timeout", "6") as (load, replicas, started):
            read_hangs = trio.Event()

            async def hang(request: Request, reply: Reply) -> None:
                """Hang, but let writes pass until a read hangs: if only writes did, others could take over nothing."""
                if request.params["name"] == "read":
                    read_hangs.set()
                await (never if read_hangs.is_set() else replicas[2].echo)(request, reply)

            replicas[2].server.on["tools/call"] = hang
            await read_hangs.wait()
            async with modern_client(started.url) as manager:

                async def is_ejected() -> bool:
                    rows = (await answer(manager, operation="list"))["servers"]
                    return rows[2]["replica"]["ejected"] is True

                while not await is_ejected():
                    await load.more(10)
                reached = len(replicas[2].seen)
                await load.more(200)
                assert len(replicas[2].seen) == reached, "it has been given calls"
                replicas[2].server.on["tools/call"] = replicas[2].echo
                await load.served_again(replicas[2])
                row: Json = (await answer(manager, operation="list"))["servers"][2]

    assert row["group"] == "search"
    assert row["replica"]["ejections"] >= 1
    assert row["replica"]["failovers"] >= 1
    assert '"reason":"it answers nothing"' in started.log_file.read_text(), (
        "it was not waited for until calls timed out"
    )
    assert set(load.errors()) <= {("write", CALL_TIMEOUT)}
    assert load.errors().total() <= AT_ONCE


@pytest.mark.promise("R01", "R04", "R07")
@pytest.mark.case("B-12")
async def test_a_replica_that_answers_rubbish_costs_no_read_and_few_writes(proxy: StartProxy, nursery: trio.Nursery):
    with trio.fail_after(50):
        async with loaded(proxy, nursery) as (load, replicas, _):
            replicas[0].server.on["tools/call"] = with_status(200, b'{"jsonrpc')
            corrupt_at = trio.current_time()
            await load.more(250)
            settled_at = trio.current_time()
            replicas[0].server.on["tools/call"] = replicas[0].echo
            await load.served_again(replicas[0])

    assert set(load.errors()) <= {("write", INTERNAL_ERROR)}
    lost = [call for call in load.calls if call.error]
    assert len(lost) <= AT_ONCE + EJECTION_FAILURES
    assert [call for call in load.calls if corrupt_at < call.began < settled_at and not call.error]


@pytest.mark.alone
async def test_a_slow_replica_gets_few_calls_and_a_drained_one_none(proxy: StartProxy, nursery: trio.Nursery):
    with trio.fail_after(50):
        async with loaded(proxy, nursery) as (load, replicas, started):
            replicas[0].delay_s = 1.0
            await load.more(100)
            slow_since = trio.current_time()
            await load.more(400)
            shares = load.shares(slow_since)
            async with modern_client(started.url) as manager:
                assert (await answer(manager, operation="drain", name="search-2"))["success"] is True
                reached = len(replicas[1].seen)
                await load.more(100)
                assert len(replicas[1].seen) <= reached + AT_ONCE
                rows = (await answer(manager, operation="list"))["servers"]
                assert [row["replica"]["drained"] for row in rows] == [False, True, False]
                assert (await answer(manager, operation="undrain", name="search-2"))["success"] is True
                assert (await answer(manager, operation="weight", name="search-2", weight="10%"))["success"] is True
                set_apart = trio.current_time()
                await load.more(300)
                rows = (await answer(manager, operation="list"))["servers"]
                assert [(row["replica"]["weight"], row["replica"]["percent"]) for row in rows] == [
                    (1.0, 0.0), (1.0, 10.0), (1.0, 0.0),
                ]  # fmt: skip
                canary = load.shares(set_apart)
            await load.served_again(replicas[1])

    assert 0.02 < canary["search-2"] / canary.total() < 0.25
    assert shares["search-1"] < 0.1 * shares.total()
    assert load.errors() == Counter()


@pytest.mark.promise("R01", "R12")
@pytest.mark.case("B-03", "C-06")
async def test_commands_and_a_server_elsewhere_are_replicas_of_one_another_and_a_file_may_regroup_them(
    proxy: StartProxy, nursery: trio.Nursery, tmp_path: Path
):
    far = await nursery.start(RawServer(tools=[ECHO]).serve)
    config = tmp_path / "c.json"
    here = {"command": COMMAND[0], "args": COMMAND[1:], "replicas": 2}
    group = {"servers": ["files", "far"], "policy": "round_robin"}

    def write(**groups: object) -> None:
        draft = config.with_suffix(".new")
        draft.write_text(json.dumps({"servers": {"files": here, "far": {"url": far.url}}, "groups": groups}))
        draft.rename(config)

    write(both=group)
    started = await proxy({}, "--config", str(config), "--no-management")
    with trio.fail_after(50):
        async with modern_client(started.url) as client:

            async def is_spread() -> bool:
                before = len(far.received("tools/call"))
                texts = [await client.text("both__echo", text=f"call {number}") for number in range(6)]
                assert texts == [f"call {number}" for number in range(6)]
                return len(far.received("tools/call")) == before + 2

            await eventually(is_spread, "all three replicas are called", 20)
            front = started.worker("front").pid
            (child,) = started.worker("server files-1").children()
            child.kill()
            for number in range(30):
                assert await client.text("both__echo", text=f"after {number}") == f"after {number}"

            write(both=group | {"servers": ["files"]})  # far is a server of its own again

            async def is_regrouped() -> bool:
                names = await client.names()
                return "far__echo" in names and "both__echo" in names

            await eventually(is_regrouped, "the file is followed", 10)
            assert await client.text("far__echo", text="alone") == "alone"
            before = len(far.received("tools/call"))
            for number in range(6):
                assert await client.text("both__echo", text=f"own {number}") == f"own {number}"
            assert len(far.received("tools/call")) == before
            assert started.worker("front").pid == front


@pytest.mark.promise("R04")
async def test_a_read_that_hangs_at_one_replica_is_answered_by_another_where_that_is_wanted(
    proxy: StartProxy, nursery: trio.Nursery, tmp_path: Path
):
    replicas = [Replica(nursery, name) for name in ("one", "two")]
    for replica in replicas:
        await replica.start()
    config = tmp_path / "c.json"
    servers = {replica.name: {"url": replica.server.url} for replica in replicas}
    group = {"servers": ["one", "two"], "policy": "round_robin", "hedge": True}
    config.write_text(json.dumps({"servers": servers, "groups": {"search": group}}))
    started = await proxy({}, "--config", str(config), "--no-management")
    with trio.fail_after(50):
        async with modern_client(started.url) as client:
            await client.names()
            for number in range(30):
                await client.text("search__read", text=f"read {number}")
                await client.text("search__write", text=f"write {number}")
            replicas[0].delay_s = 20.0
            for number in range(4):
                assert await client.text("search__read", text=f"late {number}") == f"two late {number}"
            replicas[0].delay_s = 0.0
            seen = Counter(replicas[0].seen + replicas[1].seen)
    assert max(count for text, count in seen.items() if text.startswith("late")) == 2, "none has hung"
    assert max(count for text, count in seen.items() if text.startswith("write")) == 1
