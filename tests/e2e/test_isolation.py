"""What breaks one server, or one of our processes, is noticed by nobody it does not concern."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
from mcp import MCPError

from tests.conftest import StartProxy, StartServer
from tests.peers.clients import ERAS, Client, http_client, legacy_client, modern_client
from tests.peers.raw_server import RawServer, never
from tests.processes import Proxy, free_port
from tests.waiting import eventually

CALLERS = 64
NAMES = ("dual", "legacy", "modern")
"""The servers of `sdk_servers`. Here their workers are harmed, not they."""


@asynccontextmanager
async def both_eras(url: str) -> AsyncIterator[tuple[Client, Client]]:
    async with legacy_client(url) as legacy, modern_client(url) as modern:
        yield legacy, modern


class Load:
    """Callers who keep calling until they are told to stop, and note whose calls were answered with what."""

    def __init__(self) -> None:
        self.answered: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.stopping = False
        self._progress = trio.Condition()

    async def caller(self, client: Client, number: int) -> None:
        round_number = 0
        while not self.stopping:
            round_number += 1
            name = NAMES[(number + round_number) % len(NAMES)]
            text = f"caller {number} round {round_number} to {name}"
            try:
                answer = await client.text(f"{name}__echo", text=text)
            except MCPError:
                self.failed[name] += 1
            else:
                self.answered[name] += 1
                if answer != text:
                    self.wrong.append(f"{text!r} was answered with {answer!r}")
            async with self._progress:
                self._progress.notify_all()

    async def wait_for_more(self, name: str, count: int) -> None:
        """Wait until `count` more calls of one server have been answered."""
        goal = self.answered[name] + count
        async with self._progress:
            while self.answered[name] < goal:
                await self._progress.wait()


@pytest.mark.promise("R18")
@pytest.mark.case("A-07")
async def test_64_callers_of_3_servers_each_get_their_own_answers(proxy: StartProxy, sdk_servers: dict[str, str]):
    started = await proxy(sdk_servers)
    answers: dict[int, list[str]] = {}

    async def caller(client: Client, number: int) -> None:
        answers[number] = [await client.text(f"{name}__echo", text=f"{number} at {name}") for name in NAMES]

    with trio.fail_after(30):
        async with both_eras(started.url) as clients, trio.open_nursery() as nursery:
            for number in range(CALLERS):
                nursery.start_soon(caller, clients[number % 2], number)

    assert answers == {number: [f"{number} at {name}" for name in NAMES] for number in range(CALLERS)}


@pytest.mark.promise("R01", "R04", "R05")
@pytest.mark.case("C-01")
async def test_a_killed_worker_harms_only_calls_of_its_own_server_and_is_replaced(
    proxy: StartProxy, sdk_servers: dict[str, str]
):
    started = await proxy(sdk_servers)
    load = Load()

    with trio.fail_after(40):
        async with both_eras(started.url) as clients, trio.open_nursery() as nursery:
            for number in range(CALLERS):
                nursery.start_soon(load.caller, clients[number % 2], number)
            await load.wait_for_more("legacy", 20)
            old = await trio.to_thread.run_sync(started.kill_worker, "server legacy")
            await trio.to_thread.run_sync(started.replacement, "server legacy", old)
            for name in NAMES:
                await load.wait_for_more(name, 20)
            load.stopping = True

    assert load.wrong == []
    assert set(load.failed) <= {"legacy"}
    assert load.failed["legacy"] <= CALLERS, "a call fails at most once for one killed worker"


@pytest.mark.promise("R04", "R07")
@pytest.mark.case("C-01")
async def test_each_call_in_flight_on_a_killed_worker_fails_once_and_is_not_sent_again(
    proxy: StartProxy, nursery: trio.Nursery
):
    server = await nursery.start(RawServer().serve)
    server.on["tools/call"] = never
    started = await proxy({"main": server.url})
    codes: dict[int, int] = {}

    async def caller(client: Client, number: int) -> None:
        with pytest.raises(MCPError, match="main") as failed:
            await client.text("main__echo", text=f"call {number}")
        codes[number] = failed.value.code

    with trio.fail_after(20):
        async with both_eras(started.url) as clients:
            async with trio.open_nursery() as callers:
                for number in range(CALLERS):
                    callers.start_soon(caller, clients[number % 2], number)
                await server.wait_for("tools/call", CALLERS)
                await trio.to_thread.run_sync(started.kill_worker, "server main")
            del server.on["tools/call"]
            assert await clients[0].text("main__echo", text="again") == "again"

    assert codes == dict.fromkeys(range(CALLERS), -31002), "sent, and their outcome is unknown"
    reached = Counter(call.params["arguments"]["text"] for call in server.received("tools/call"))
    assert set(reached.values()) == {1}


@pytest.mark.promise("R13")
@pytest.mark.case("C-04")
async def test_a_killed_front_is_replaced_on_its_port_and_a_legacy_session_goes_on(
    proxy: StartProxy, sdk_servers: dict[str, str]
):
    started = await proxy(sdk_servers)

    with trio.fail_after(20):
        async with legacy_client(started.url) as client:
            assert await client.text("dual__whoami") == "dual"
            workers = {name: started.worker(f"server {name}").pid for name in NAMES}
            old = await trio.to_thread.run_sync(started.kill_worker, "front")
            await trio.to_thread.run_sync(started.replacement, "front", old)
            assert [await client.text(f"{name}__whoami") for name in NAMES] == list(NAMES)
            assert {name: started.worker(f"server {name}").pid for name in NAMES} == workers


@pytest.mark.promise("R13")
async def test_new_connections_are_accepted_while_the_front_is_being_replaced(
    proxy: StartProxy, sdk_servers: dict[str, str]
):
    started = await proxy(sdk_servers)

    with trio.fail_after(20):
        for _ in range(3):
            await trio.to_thread.run_sync(started.kill_worker, "front")
            async with modern_client(started.url) as client:
                assert await client.text("modern__whoami") == "modern"


async def test_a_server_that_starts_late_is_found(proxy: StartProxy, server: StartServer):
    early, port = await server(name="early"), free_port()
    started = await proxy({"early": early.url, "late": f"http://127.0.0.1:{port}/mcp"})

    with trio.fail_after(30):
        async with modern_client(started.url) as client:
            assert not [name for name in await client.names() if name.startswith("late__")]
            assert await client.text("early__whoami") == "early"
            await server(name="late", port=port)

            async def is_listed() -> bool:
                return "late__whoami" in await client.names()

            await eventually(is_listed, "the late server's tools are listed", timeout_s=20)
            assert await client.text("late__whoami") == "late"


@pytest.mark.parametrize("server_era", ERAS)
async def test_a_server_that_restarts_is_used_again_without_its_clients_noticing(
    proxy: StartProxy, server: StartServer, server_era: str
):
    main = await server(name="main", era=server_era)
    started = await proxy({"main": main.url})

    with trio.fail_after(30):
        async with both_eras(started.url) as clients:
            for client in clients:
                assert await client.text("main__whoami") == "main"
            await trio.to_thread.run_sync(main.restart)
            for client in clients:
                assert await client.text("main__whoami") == "main"


async def test_a_server_that_forgets_its_sessions_is_greeted_again(proxy: StartProxy, nursery: trio.Nursery):
    server = await nursery.start(RawServer(era="legacy").serve)
    started = await proxy({"main": server.url})

    with trio.fail_after(15):
        async with legacy_client(started.url) as client:
            assert await client.text("main__echo", text="one") == "one"
            server.forget_sessions()
            assert await client.text("main__echo", text="two") == "two"

    executed = [call for call in server.received("tools/call") if call.params["arguments"]["text"] == "two"]
    assert [call.headers["mcp-session-id"] for call in executed] == ["raw-session-1", "raw-session-2"]


@pytest.mark.promise("R01")
@pytest.mark.case("B-02", "B-20")
@pytest.mark.parametrize("era", ERAS)
async def test_a_server_that_never_answers_delays_nobody(
    proxy: StartProxy, server: StartServer, nursery: trio.Nursery, era: str
):
    silent = await nursery.start(RawServer().serve)
    for method in ("initialize", "server/discover", "tools/list", "tools/call"):
        silent.on[method] = never
    quick = await server(name="quick")
    started = await proxy({"silent": silent.url, "quick": quick.url})

    async with http_client(started.url, era) as client:
        with trio.fail_after(5):
            names = await client.names()
        assert "quick__whoami" in names
        assert not [name for name in names if name.startswith("silent__")]
        async with trio.open_nursery() as calls:
            calls.start_soon(partial(client.call, "silent__echo", text="x"))
            with trio.fail_after(5):
                for _ in range(20):
                    assert await client.text("quick__whoami") == "quick"
            calls.cancel_scope.cancel()


@pytest.mark.promise("R04")
@pytest.mark.case("B-03")
async def test_a_server_that_dies_during_a_call_fails_that_call_once_and_says_so(
    proxy: StartProxy, server: StartServer, sdk_servers: dict[str, str]
):
    servers = {
        "one": (await server(name="one")).url,
        "two": (await server(name="two")).url,
        "well": sdk_servers["dual"],
    }
    started = await proxy(servers)

    with trio.fail_after(15):
        async with both_eras(started.url) as clients:
            for client, name in zip(clients, ("one", "two"), strict=True):
                with pytest.raises(MCPError, match=name) as failed:
                    await client.call(f"{name}__crash")
                assert failed.value.code == -31002, "sent, and its outcome is unknown"
                assert await client.text("well__whoami") == "dual"


@pytest.mark.promise("R06")
async def test_a_worker_that_keeps_being_killed_is_given_up_without_taking_anything_along(
    proxy: StartProxy, sdk_servers: dict[str, str]
):
    started = await proxy(sdk_servers)
    front = started.worker("front").pid

    with trio.fail_after(40):
        await trio.to_thread.run_sync(kill_until_parked, started, "server legacy")
        async with modern_client(started.url) as client:
            assert await client.text("dual__whoami") == "dual"
            with pytest.raises(MCPError, match="legacy"):
                await client.call("legacy__whoami")
    assert started.worker("front").pid == front


def kill_until_parked(started: Proxy, role: str) -> None:
    """Kill a worker each time it comes back, until it does not."""
    for _ in range(12):
        try:
            started.kill_worker(role)
        except AssertionError:  # no such worker for five seconds
            return
    pytest.fail(f"{role} is restarted without end")
