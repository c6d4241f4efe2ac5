"""Calls across the death of their worker: each is answered once, and executed again only if that does no harm."""

from __future__ import annotations

from collections import Counter

import psutil
import pytest
import trio
from mcp import MCPError

from protocol.errors import OUTCOME_UNKNOWN
from protocol.limits import IN_FLIGHT_PER_SERVER_MAX
from protocol.management import TOOL_NAMES
from tests.conftest import StartProxy
from tests.peers.clients import Client, legacy_client, modern_client
from tests.peers.raw_server import ECHO, RawServer, Reply, Request, never
from tests.processes import Proxy

READ = ECHO | {"name": "read", "annotations": {"readOnlyHint": True}}
WRITE = ECHO | {"name": "write"}
READS_IN_FLIGHT = 10
"""Within the budget: a fifth of 64, and three."""
WAITING = 40


class Outcomes:
    """What became of each call, by the text that tells it from all others."""

    def __init__(self, server: RawServer) -> None:
        self.answers: dict[str, list[str]] = {}
        self._server = server

    async def call(self, client: Client, tool: str, text: str) -> None:
        try:
            answer = await client.text(f"main__{tool}", text=text)
        except MCPError as error:
            answer = f"error {error.code}"
        self.answers.setdefault(text, []).append(answer)

    def seen(self) -> Counter[str]:
        """How often each call has reached the server."""
        return Counter(request.params["arguments"]["text"] for request in self._server.received("tools/call"))


async def kill(started: Proxy) -> None:
    await trio.to_thread.run_sync(started.kill_worker, "server main")


@pytest.mark.promise("R01", "R04", "R07")
@pytest.mark.case("C-01")
async def test_a_worker_killed_under_load_loses_only_calls_that_may_have_done_something(
    proxy: StartProxy, nursery: trio.Nursery
):
    server = await nursery.start(RawServer(tools=[READ, WRITE]).serve)
    started = await proxy({"main": server.url})
    outcomes = Outcomes(server)
    reads = [f"read {number}" for number in range(READS_IN_FLIGHT)]
    writes = [f"write {number}" for number in range(IN_FLIGHT_PER_SERVER_MAX - READS_IN_FLIGHT)]
    waiting = [f"waiting {number}" for number in range(WAITING)]
    held: set[str] = set()

    async def hold_once(request: Request, reply: Reply) -> None:
        text = request.params["arguments"]["text"]
        if text in held or text in waiting:
            await reply.result({"content": [{"type": "text", "text": text}]})
        else:
            held.add(text)
            await never(request, reply)

    with trio.fail_after(30):
        async with legacy_client(started.url) as one, modern_client(started.url) as two:
            clients = (one, two)
            for client in clients:
                await client.lists(*TOOL_NAMES, "main__read", "main__write")
            server.on["tools/call"] = hold_once
            async with trio.open_nursery() as calls:
                for number, text in enumerate([*reads, *writes]):
                    calls.start_soon(outcomes.call, clients[number % 2], text.split()[0], text)
                await server.wait_for("tools/call", IN_FLIGHT_PER_SERVER_MAX)
                for number, text in enumerate(waiting):
                    calls.start_soon(outcomes.call, clients[number % 2], "write", text)
                await kill(started)

    lost = [f"error {OUTCOME_UNKNOWN}"]
    expected = {text: [text] for text in (*reads, *waiting)} | dict.fromkeys(writes, lost)
    assert outcomes.answers == expected
    seen = outcomes.seen()
    assert {seen[text] for text in reads} == {2}
    assert {seen[text] for text in (*writes, *waiting)} == {1}


@pytest.mark.promise("R04", "R07")
@pytest.mark.case("C-01")
async def test_calls_that_a_killed_worker_had_but_not_sent_are_sent_by_the_next_one(
    proxy: StartProxy, nursery: trio.Nursery
):
    """They wait in it, because the server has not been greeted yet."""
    server = await nursery.start(RawServer(tools=[WRITE]).serve)
    for method in ("server/discover", "initialize"):
        server.on[method] = never
    started = await proxy({"main": server.url})
    outcomes = Outcomes(server)
    texts = [f"call {number}" for number in range(20)]

    with trio.fail_after(30):
        async with legacy_client(started.url) as one, modern_client(started.url) as two:
            await server.wait_for("server/discover")
            async with trio.open_nursery() as calls:
                for number, text in enumerate(texts):
                    calls.start_soon(outcomes.call, (one, two)[number % 2], "write", text)
                await kill(started)
                await server.wait_for("server/discover", 2)
                await kill(started)
                server.on.clear()

    assert outcomes.answers == {text: [text] for text in texts}
    assert outcomes.seen() == dict.fromkeys(texts, 1)


@pytest.mark.promise("R04", "R07")
@pytest.mark.case("C-01")
async def test_without_trust_in_annotations_nothing_that_was_sent_is_sent_again(
    proxy: StartProxy, nursery: trio.Nursery
):
    server = await nursery.start(RawServer(tools=[READ]).serve)
    started = await proxy({"main": server.url}, "--no-trust-annotations")
    outcomes = Outcomes(server)
    server.on["tools/call"] = never

    with trio.fail_after(60):
        async with modern_client(started.url) as client:
            await client.names()
            async with trio.open_nursery() as calls:
                calls.start_soon(outcomes.call, client, "read", "once")
                await server.wait_for("tools/call")
                await kill(started)

    assert outcomes.answers == {"once": [f"error {OUTCOME_UNKNOWN}"]}
    assert outcomes.seen() == {"once": 1}


@pytest.mark.promise("R03", "R04", "R07")
@pytest.mark.case("C-02", "C-03")
async def test_calls_of_a_worker_that_stands_still_are_answered_once_and_not_by_its_late_answers(
    proxy: StartProxy, nursery: trio.Nursery
):
    """The server answers while the worker is stopped, so the answers come to a worker that will never read them."""
    server = await nursery.start(RawServer(tools=[READ, WRITE]).serve)
    started = await proxy({"main": server.url})
    outcomes = Outcomes(server)
    released = trio.Event()

    async def answer_late(request: Request, reply: Reply) -> None:
        await released.wait()
        await reply.result({"content": [{"type": "text", "text": request.params["arguments"]["text"]}]})

    with trio.fail_after(60):
        async with modern_client(started.url) as client:
            await client.names()
            server.on["tools/call"] = answer_late
            async with trio.open_nursery() as calls:
                for tool in ("read", "write"):
                    calls.start_soon(outcomes.call, client, tool, tool)
                await server.wait_for("tools/call", 2)
                worker: psutil.Process = started.worker("server main")
                worker.suspend()
                released.set()

    assert outcomes.answers == {"read": ["read"], "write": [f"error {OUTCOME_UNKNOWN}"]}
    assert outcomes.seen() == {"read": 2, "write": 1}
