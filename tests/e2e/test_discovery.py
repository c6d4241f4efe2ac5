"""Replicas that are found by looking up a name, with everything real but for what one name resolves to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio

from protocol.limits import DISCOVER_MISSES
from protocol.management import TOOL_NAMES
from tests.conftest import StartProxy
from tests.e2e.test_management import answer
from tests.peers.clients import modern_client
from tests.peers.raw_server import RawServer
from tests.waiting import eventually

FIRST, SECOND, THIRD = "127.0.0.1", "127.0.0.2", "127.0.0.3"
# Python loads a module of this name at its start. Nothing but the root looks the name up.
RESOLVER = """\
import json, pathlib, socket
real, told = socket.getaddrinfo, pathlib.Path(__file__).with_name("told.json")

def getaddrinfo(host, *rest, **more):
    if host != "search.test":
        return real(host, *rest, **more)
    addresses = json.loads(told.read_text())
    if not addresses:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in addresses]

socket.getaddrinfo = getaddrinfo
"""


@pytest.mark.case("B-01", "B-03")
@pytest.mark.promise("R12")
async def test_the_addresses_of_a_name_are_its_replicas_and_calls_follow_them_when_they_change(
    proxy: StartProxy, nursery: trio.Nursery, tmp_path: Path
):
    folder = tmp_path / "resolver"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(RESOLVER)

    def resolve(*addresses: str) -> None:
        draft = folder / "draft"
        draft.write_text(json.dumps(addresses))
        draft.rename(folder / "told.json")

    servers = {FIRST: await nursery.start(RawServer(host=FIRST).serve)}
    port = servers[FIRST].port
    for address in (SECOND, THIRD):
        servers[address] = await nursery.start(RawServer(host=address, port=port).serve)
    resolve(FIRST, SECOND)
    config = tmp_path / "c.json"
    search = {"url": f"http://search.test:{port}/mcp", "discover": "dns", "group": "search"}
    config.write_text(json.dumps({"servers": {"search": search}, "groups": {"search": {"policy": "round_robin"}}}))
    near = {"near": f"dns+http://localhost:{port}/mcp"}
    started = await proxy(near, "--config", str(config), env={"PYTHONPATH": str(folder)})

    with trio.fail_after(40):
        async with modern_client(started.url) as client:

            async def found(name: str = "search") -> dict[str, str]:
                """Return the replicas that work, by address."""
                rows = (await answer(client, operation="list"))["servers"]
                rows = [row for row in rows if row["name"].startswith(f"{name}-") and row["state"] == "ready"]
                assert {row["group"] for row in rows} <= {name}
                return {row["address"]: row["name"] for row in rows}

            async def are_found(**addresses: str) -> None:
                wanted = {address: name.replace("_", "-") for name, address in addresses.items()}

                async def so() -> bool:
                    return await found() == wanted

                await eventually(so, f"the replicas are {addresses}", 15)

            async def are_called(*addresses: str) -> None:
                """Wait until calls go to these, to all of them, and to nobody else. None of the calls fails."""

                async def so() -> bool:
                    before = {one: len(server.received("tools/call")) for one, server in servers.items()}
                    for number in range(12):  # one that is new gets fewer at first
                        assert await client.text("search__echo", text=f"call {number}") == f"call {number}"
                    called = {
                        one for one, server in servers.items() if len(server.received("tools/call")) > before[one]
                    }
                    return called == set(addresses)

                await eventually(so, f"{addresses} are called", 15)

            async def look_again() -> None:
                assert (await answer(client, operation="restart", name="search"))["success"] is True

            await are_found(search_1=FIRST, search_2=SECOND)

            async def all_is_there() -> bool:  # the name on this machine may have an address at which nobody listens
                return set(await found("near")) == {FIRST} and len(await client.names()) == len(TOOL_NAMES) + 2

            await eventually(all_is_there, "both names have been looked up", 15)
            assert await client.names() == [*TOOL_NAMES, "search__echo", "near__echo"]
            await are_called(FIRST, SECOND)
            pid = started.worker("server search-2").pid

            resolve(SECOND, THIRD)
            for _ in range(DISCOVER_MISSES):
                await look_again()

                async def is_looked_up() -> bool:
                    return THIRD in await found()

                await eventually(is_looked_up, "the third is found", 15)
            await are_found(search_2=SECOND, search_3=THIRD)
            await are_called(SECOND, THIRD)

            resolve()
            await look_again()

            async def is_told() -> bool:
                (row,) = [row for row in (await answer(client, operation="list"))["servers"] if row["name"] == "search"]
                return row["state"] == "degraded" and "Temporary failure" in row["last_error"]

            await eventually(is_told, "the failure is told", 15)
            await are_called(SECOND, THIRD)
            assert started.worker("server search-2").pid == pid
            refused = await answer(client, operation="remove", name="search-2")
            assert "would be found again at the next look-up" in refused["error"]
    hosts = {request.headers["host"] for server in servers.values() for request in server.received("tools/call")}
    assert hosts == {f"search.test:{port}"}
