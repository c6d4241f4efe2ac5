"""Metrics of a whole proxy: the numbers are those of the calls that were made, also when processes have died since."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest
import trio
from mcp import MCPError
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from tests.conftest import StartProxy
from tests.peers.clients import legacy_client, modern_client
from tests.peers.raw_server import ECHO, RawServer, hang_up, never
from tests.processes import Proxy
from tests.waiting import eventually, wait_until

CANARY = "canary-hunter2"
Numbers = dict[tuple[str, ...], float]


class Scraper:
    """As a Prometheus would, over the admin port."""

    def __init__(self, proxy: Proxy) -> None:
        found = wait_until(
            lambda: re.search(r"admin port is open on 127.0.0.1 port (\d+)", proxy.said()), "the admin port is open"
        )
        self.url = f"http://127.0.0.1:{found[1]}/metrics"
        token = proxy.log_file.with_suffix(".state") / "admin-token"
        self.headers = {"Authorization": f"Bearer {token.read_text().strip()}"}
        self.text = ""

    async def numbers(self, accept: str = "text/plain") -> Numbers:
        async with httpx.AsyncClient() as client:
            answer = await client.get(self.url, headers={**self.headers, "Accept": accept})
        assert answer.headers["content-type"].startswith(accept)
        self.text = answer.text
        read: Any = read_openmetrics if "openmetrics" in accept else read_text
        found: Numbers = {}
        for one in read(answer.text):
            for sample in one.samples:
                key = (sample.name.removeprefix("mcp_bulkhead_"), *sample.labels.values())
                assert key not in found
                found[key] = sample.value
        return found


@pytest.mark.alone
@pytest.mark.case("D-12", "D-25")
@pytest.mark.promise("R19")
async def test_the_numbers_are_those_of_the_calls_that_were_made(proxy: StartProxy, nursery: trio.Nursery):
    one, two, bad = [await nursery.start(RawServer(tools=[ECHO]).serve) for _ in range(3)]
    bad.on["tools/call"] = hang_up
    urls = {"search": f"{one.url}?token={CANARY}|{two.url}", "bad": bad.url}
    started = await proxy(urls, "--admin-listen", "0")
    with trio.fail_after(30):
        scraper = Scraper(started)
        async with legacy_client(started.url) as old, modern_client(started.url) as client:
            for knows in (old, client):  # who does not would ask for the tools when it has called one
                assert "search__echo" in await knows.names()
            before = await scraper.numbers()
            for number in range(6):
                await client.text("search__echo", text=f"modern {number}")
            for number in range(4):
                await old.text("search__echo", text=f"legacy {number}")
            with pytest.raises(MCPError):
                await client.call("bad__echo", text="x")
            async with httpx.AsyncClient() as plain:
                assert (await plain.put(started.url)).status_code == 405
            after = await scraper.numbers()

            def grown(*key: str) -> float:
                return after[key] - before[key]

            reached = [len(server.received("tools/call")) for server in (one, two)]
            assert sum(reached) == 10
            duration = "server_call_duration_seconds"
            assert [grown(f"{duration}_count", name) for name in ("search-1", "search-2", "bad")] == [*reached, 1]
            assert 0 < grown(f"{duration}_sum", "search-1") + grown(f"{duration}_sum", "search-2") < 30
            assert (grown("server_errors_total", "search-1"), grown("server_errors_total", "bad")) == (0, 1)
            assert grown("front_requests_total", "front", "modern") == 7
            assert grown("front_requests_total", "front", "legacy") == 4
            assert grown("front_http_errors_total", "front") == 1
            assert grown("front_calls_failed_total", "front", "other") == 1
            assert grown("front_calls_failed_total", "front", "overloaded") == 0
            assert after["front_connections", "front"] >= 2
            assert after["front_connections_accepted_total", "front"] >= after["front_connections", "front"] + 1
            assert after["server_state", "search-1", "ready"] == 1
            assert after["server_state", "search-1", "starting"] == 0
            assert after["server_health", "search-1", "healthy"] == 1
            assert after["server_tools", "search-1"] == 1
            assert after["replica_weight", "search", "search-2"] == 1
            assert after["process_resident_memory_bytes", "server bad"] > 1_000_000
            assert after["process_cpu_seconds_total", "root"] > 0

            two.on["tools/call"] = one.on["tools/call"] = never
            async with trio.open_nursery() as calls:
                calls.start_soon(lambda: client.call("search__echo", text="hangs"))
                names = ("search-1", "search-2")

                async def is_counted() -> bool:
                    now = await scraper.numbers()
                    return sum(now["server_calls_in_flight", name] for name in names) == 1

                await eventually(is_counted, "the call is in flight")
                calls.cancel_scope.cancel()

        await trio.to_thread.run_sync(started.kill_worker, "server search-1")
        await trio.to_thread.run_sync(started.kill_worker, "front")

        async def is_replaced() -> bool:
            now = await scraper.numbers()
            return (
                now["server_restarts_total", "search-1"] == now["process_restarts_total", "front"] == 1
                and now["front_connections", "front"] == 0
            )

        await eventually(is_replaced, "both have been replaced")
        last = await scraper.numbers("application/openmetrics-text")
        for key, number in after.items():
            if key[0].endswith(("_total", "_count", "_sum")) and not key[0].startswith(("process_cpu", "replica")):
                assert last[key] >= number, key
        assert CANARY not in scraper.text
        assert one.url not in scraper.text
