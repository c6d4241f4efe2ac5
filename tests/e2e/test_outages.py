"""Servers that go away while they are called: their calls fail fast, nobody else notices, and they are found again."""

from __future__ import annotations

import pytest
import trio
from mcp import MCPError

from tests.conftest import StartProxy, StartServer
from tests.peers.clients import Client, modern_client
from tests.processes import free_port, tail
from tests.waiting import eventually, wait_until

CALLERS = 6


class Caller:
    """Calls one server again and again."""

    def __init__(self, client: Client, name: str) -> None:
        self.client = client
        self.name = name
        self.answered = 0
        self.failed_after_s: list[float] = []
        self.messages: list[str] = []
        self.has_enough = False

    async def run(self) -> None:
        """Call until there has been enough. To be cancelled in a call would be as good, but for the SDK: it does not
        stand an answer that comes while its client is being closed."""
        while not self.has_enough:
            began = trio.current_time()
            try:
                assert await self.client.text(f"{self.name}__whoami") == self.name
                self.answered += 1
            except MCPError as error:
                self.failed_after_s.append(trio.current_time() - began)
                self.messages.append(error.error.message)
            await trio.sleep(0.02)


async def more_answered(callers: list[Caller], what: str, timeout_s: float) -> None:
    """Wait until each caller has been answered again."""
    before = [caller.answered for caller in callers]

    async def look() -> bool:
        return all(caller.answered > count for caller, count in zip(callers, before, strict=True))

    await eventually(look, what, timeout_s)


async def all_refused(callers: list[Caller]) -> None:
    """Wait until each caller has been told that the server is not asked for now."""

    async def look() -> bool:
        return all(any("keeps failing" in text for text in caller.messages) for caller in callers)

    await eventually(look, "calls are refused", 10.0)


@pytest.mark.case("B-01", "B-34")
@pytest.mark.promise("R01", "R08")
async def test_a_server_that_goes_down_under_load_fails_fast_and_is_used_again_as_soon_as_it_is_back(
    proxy: StartProxy, server: StartServer
):
    main, well = await server(name="main"), await server(name="well")
    started = await proxy({"main": main.url, "well": well.url})

    with trio.fail_after(40):
        async with modern_client(started.url) as client, trio.open_nursery() as nursery:
            victims = [Caller(client, "main") for _ in range(CALLERS)]
            others = [Caller(client, "well") for _ in range(2)]
            for caller in (*victims, *others):
                nursery.start_soon(caller.run)
            await more_answered([*victims, *others], "everybody is answered", 10)

            await trio.to_thread.run_sync(main.kill)
            await all_refused(victims)
            await more_answered(others, "the other server works on", 5)
            await trio.to_thread.run_sync(main.start)
            await trio.to_thread.run_sync(main.wait_for_port, main.port)
            await more_answered(victims, "the server is used again", 2)
            for caller in (*victims, *others):
                caller.has_enough = True

    failed_after_s = sorted(second for one in victims for second in one.failed_after_s)
    assert failed_after_s[len(failed_after_s) // 2] < 0.5, "refusals are fast: nobody waits for the server"
    assert not any(one.failed_after_s for one in others)


@pytest.mark.case("B-35")
async def test_that_most_servers_fail_at_once_is_said_once(proxy: StartProxy, server: StartServer):
    well = await server(name="well")
    gone = {f"gone{number}": f"http://127.0.0.1:{free_port()}/mcp" for number in range(4)}
    started = await proxy({"well": well.url, **gone})

    with trio.fail_after(60):
        hint = "more than half of the servers fail at once: is it this machine's network?"
        await trio.to_thread.run_sync(wait_until, lambda: hint in started.said(), hint)
        async with modern_client(started.url) as client:
            assert await client.text("well__whoami") == "well"
    assert tail(started.stderr).count(hint) == 1
