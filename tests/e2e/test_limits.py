"""Limits of single servers, as a client meets them: more calls than a server takes, and calls that take too long."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest
import trio

from protocol.errors import CALL_TIMEOUT, OVERLOADED
from tests.conftest import StartProxy
from tests.peers.raw_server import RawServer, Reply, Request, never
from tests.peers.wire import MODERN, Answer, wire
from tests.workers.scripted import Answer as Refusal
from tests.workers.scripted import Client

IN_FLIGHT, QUEUE, CLIENTS = 2, 3, 50
"""Ten times as many clients as there are places."""
REVISIONS = ("2025-11-25", MODERN)


class Busy:
    """Answers calls only when it is told to, and counts how many it has at a time."""

    def __init__(self) -> None:
        self.released = trio.Event()
        self.now = 0
        self.most = 0

    async def answer(self, request: Request, reply: Reply) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        await self.released.wait()
        self.now -= 1
        await reply.result({"content": [{"type": "text", "text": "done"}]})


@pytest.mark.promise("R01", "R09")
@pytest.mark.parametrize("revision", REVISIONS)
async def test_ten_times_the_calls_a_server_takes_are_served_or_refused_at_once(
    proxy: StartProxy, nursery: trio.Nursery, revision: str
):
    busy = Busy()
    server = await nursery.start(RawServer(on={"tools/call": busy.answer}).serve)
    other = await nursery.start(RawServer().serve)
    limits = ("--in-flight", f"main={IN_FLIGHT}", "--queue", f"main={QUEUE}")
    started = await proxy({"main": server.url, "other": other.url}, *limits)
    refusals: list[Refusal] = []
    all_refused = trio.Event()

    async def call(client: Client) -> None:
        await (client.modern_call() if revision == MODERN else client.call())
        answer = await client.answer()
        if "error" in answer.json:
            refusals.append(answer)
        if len(refusals) == CLIENTS - IN_FLIGHT - QUEUE:
            all_refused.set()

    async with AsyncExitStack() as stack:
        clients = [Client(await trio.open_tcp_stream("127.0.0.1", started.port)) for _ in range(CLIENTS)]
        for client in clients:
            await stack.enter_async_context(client)
            if revision != MODERN:
                await client.initialize(revision)
        bystander = await stack.enter_async_context(Client(await trio.open_tcp_stream("127.0.0.1", started.port)))
        async with wire(started.url, MODERN) as early:
            there = {tool["name"] for tool in await early.tools()}
            assert {"main__echo", "other__echo"} <= there, "both servers are there before the rush"
        async with trio.open_nursery() as calls:
            for client in clients:
                calls.start_soon(call, client)
            with trio.fail_after(5):
                await all_refused.wait()
                await server.wait_for("tools/call", IN_FLIGHT)
                await bystander.modern("tools/call", {"name": "other__echo", "arguments": {"text": "well"}})
                assert (await bystander.answer()).json["result"]["content"][0]["text"] == "well"
            busy.released.set()

    assert len(refusals) == CLIENTS - IN_FLIGHT - QUEUE
    for refusal in refusals:
        error = refusal.json["error"]
        assert error["code"] == OVERLOADED
        assert f'"main" is overloaded: {IN_FLIGHT} calls in flight and {QUEUE} waiting' in error["message"], "at once"
        assert error["data"] == {"server": "main", "sent": False, "retryable": True, "retryAfterMs": 1000}
        assert refusal.headers["retry-after"] == "1"
    assert len(server.received("tools/call")) == IN_FLIGHT + QUEUE
    assert busy.most == IN_FLIGHT


@pytest.mark.case("B-02")
@pytest.mark.parametrize("revision", REVISIONS)
async def test_a_tool_has_the_time_that_was_configured_for_it_and_its_error_says_so(
    proxy: StartProxy, nursery: trio.Nursery, revision: str
):
    server = await nursery.start(RawServer(on={"tools/call": never}).serve)
    limits = ("--call-timeout", "0", "--call-timeout", "main=30", "--call-timeout", "main.echo=0.5")
    started = await proxy({"main": server.url}, *limits)

    async with wire(started.url, revision) as client:
        await client.open()
        begun = trio.current_time()
        with trio.fail_after(5):
            error = (await client.call("main__echo", text="x")).error
    assert 0.5 <= trio.current_time() - begun < 2
    assert error["code"] == CALL_TIMEOUT
    assert error["message"] == (
        'server "main" did not answer within 0.5 s; the call was cancelled, but may have been executed '
        '(tool "echo"; --call-timeout main.echo=SECONDS allows it more)'
    )
    assert error["data"] == {"server": "main", "sent": True, "retryable": False}
    (request,) = server.received("tools/call")
    if request.is_modern:
        await server.wait_until_closed(request.connection)
    else:
        await server.wait_for("notifications/cancelled")


async def test_the_time_of_one_tool_is_not_that_of_another(proxy: StartProxy, nursery: trio.Nursery):
    released = trio.Event()

    async def answer(request: Request, reply: Reply) -> None:
        await released.wait()
        await reply.result({"content": [{"type": "text", "text": request.params["name"]}]})

    server = await nursery.start(RawServer(on={"tools/call": answer}).serve)
    started = await proxy({"main": server.url}, "--call-timeout", "main.quick=0.3")

    async with wire(started.url, MODERN) as client:
        slow: list[Answer] = []

        async def call_slow() -> None:
            slow.append(await client.call("main__slow"))

        async with trio.open_nursery() as calls:
            calls.start_soon(call_slow)
            await server.wait_for("tools/call")
            assert (await client.call("main__quick")).error["code"] == CALL_TIMEOUT
            released.set()
    assert slow[0].result["content"][0]["text"] == "slow"
