"""One of several fronts is killed, or all are replaced by another number of them."""

from __future__ import annotations

import itertools
import os
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio

from tests.fronts import FRONTS, NAMES, SeveralFronts, at_each_front
from tests.peers.raw_server import RawServer, Reply, Request
from tests.process.harness import root
from tests.workers.scripted import Client

PLACES = 2


class Counting(RawServer):
    """Counts how many calls it has at a time."""

    at_once = 0
    most = 0

    async def slow_echo(self, request: Request, reply: Reply) -> None:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        await trio.sleep(0.01)
        self.at_once -= 1
        text = request.params["arguments"]["text"]
        await reply.result({"content": [{"type": "text", "text": text}]})


async def calls_until(client: Client, enough: trio.Event, failures: list[object]) -> None:
    """Call again and again, and note what is not answered as it should be."""
    for number in itertools.count():
        await client.call(request_id=number, arguments={"text": str(number)})
        answer = await client.answer()
        if answer.status != 200 or answer.final.get("result", {}).get("content", [{}])[0].get("text") != str(number):
            failures.append(answer)
        if enough.is_set():
            return


@pytest.mark.promise("R13")
async def test_a_front_that_is_killed_under_load_takes_only_its_own_connections_along(
    tmp_path: Path, nursery: trio.Nursery
):
    server = Counting()
    server.on["tools/call"] = server.slow_echo
    await nursery.start(server.serve)
    proxy = await trio.to_thread.run_sync(
        lambda: SeveralFronts(
            {"main": server.url}, tmp_path / "proxy.log", "--fronts", str(FRONTS), "--in-flight", str(PLACES)
        )
    )
    try:
        async with at_each_front(proxy) as clients, AsyncExitStack() as stack:
            for client in clients.values():
                await client.initialize("2025-11-25")
            killed, *others = proxy.fronts
            lost = clients[killed]
            enough = trio.Event()
            failures: list[object] = []
            async with trio.open_nursery() as calling:
                for pid in others:
                    calling.start_soon(calls_until, clients[pid], enough, failures)
                await lost.call(arguments={"text": "x"})
                os.kill(killed, signal.SIGKILL)
                await lost.closed()
                # Its session goes on wherever its client connects, also before there is another front in its place.
                for number in range(2 * FRONTS):
                    client = await stack.enter_async_context(await proxy.client())
                    client.session, client.version = lost.session, lost.version
                    await client.call(request_id=number, arguments={"text": "y"})
                    assert (await client.answer()).final["result"]["content"][0]["text"] == "y"
                enough.set()
            assert failures == []
            assert server.most == PLACES, "all fronts together have no more calls in flight than one would"

            await trio.to_thread.run_sync(proxy.replacement, "front", killed)
            proxy.fronts[0] = proxy.worker("front").pid
            assert [proxy.worker(name).pid for name in NAMES[1:]] == others
            async with at_each_front(proxy) as again:
                assert len(again) == FRONTS
    finally:
        await trio.to_thread.run_sync(proxy.stop)


@pytest.mark.case("C-06")
async def test_an_upgrade_to_another_number_of_fronts_keeps_the_sessions(tmp_path: Path, nursery: trio.Nursery):
    server = await nursery.start(RawServer().serve)
    file = tmp_path / "c.toml"
    file.write_text("fronts = 3\n[servers]\n")
    async with (
        root({"main": server.url}, "--config", str(file), entry="workers.main:run") as proxy,
        AsyncExitStack() as stack,
    ):

        async def connect() -> Client:
            return await stack.enter_async_context(Client(await trio.open_tcp_stream("127.0.0.1", proxy.port)))

        owners = [await connect() for _ in range(6)]
        for owner in owners:
            await owner.initialize("2025-11-25")
        file.write_text("fronts = 2\n[servers]\n")
        proxy.signal(signal.SIGUSR2)
        await proxy.upgraded()
        assert [role for role in proxy.roles() if role.startswith("front")] == list(NAMES[:2])
        for owner in owners:
            client = await connect()
            client.session, client.version = owner.session, owner.version
            await client.call(arguments={"text": "z"})
            assert (await client.answer()).final["result"]["content"][0]["text"] == "z"
            await owner.close()
