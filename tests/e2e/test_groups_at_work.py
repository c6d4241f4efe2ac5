"""Groups as operators have them: servers of every kind, and shares, drains and the file changed while calls go on."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from protocol.limits import EJECTION_FAILURES
from protocol.management import TOOL_NAMES
from supervisor import ctl
from tests.conftest import StartProxy
from tests.e2e.test_management import answer
from tests.peers.clients import Client, legacy_client, modern_client
from tests.peers.raw_server import ECHO, Json, RawServer, Reply, Request
from tests.peers.stoppable import Stoppable
from tests.peers.websocket_server import WebSocketPeer, Wire
from tests.waiting import eventually

READ = ECHO | {"name": "read", "annotations": {"readOnlyHint": True}}


class Replica(Stoppable[RawServer | WebSocketPeer]):
    """A server of either kind that can be killed and started again on its port."""

    @property
    def calls(self) -> int:
        """How many have reached it."""
        if isinstance(self.server, WebSocketPeer):
            return len(self.server.of("tools/call"))
        return len(self.server.received("tools/call"))


async def call_until(client: Client, tool: str, reached: Replica) -> None:
    """Call until that server gets a call; none of the calls fails."""
    before = reached.calls

    async def so() -> bool:
        for number in range(6):
            assert await client.text(tool, text=f"call {number}") == f"call {number}"
        return reached.calls > before

    await eventually(so, "it is called")


async def offer(wire: Wire, message: Json) -> None:
    await wire.result(message, {"tools": [READ], "ttlMs": 0, "cacheScope": "private"})


@pytest.mark.promise("R01", "R04")
@pytest.mark.case("B-01", "B-03")
async def test_servers_over_websocket_of_either_era_and_one_over_http_are_replicas_of_one_another(
    proxy: StartProxy, nursery: trio.Nursery
):
    old, new = [WebSocketPeer(era=era, on={"tools/list": offer}) for era in ("legacy", "modern")]
    replicas = [Replica(nursery, server) for server in (old, new, RawServer(tools=[READ]))]
    for replica in replicas:
        await replica.start()
    urls = {f"search{number}": replica.server.url for number, replica in enumerate(replicas, 1)}
    running = await proxy(urls, "--group", "search=search1,search2,search3:round_robin")
    with trio.fail_after(50):
        async with modern_client(running.url) as client, legacy_client(running.url) as legacy:
            for one in (client, legacy):
                await one.lists(*TOOL_NAMES, "search__read")
                for replica in replicas:
                    await call_until(one, "search__read", replica)

            for victim in replicas[:2]:
                peer = victim.server
                assert isinstance(peer, WebSocketPeer)
                hangs = trio.Event()

                async def hang(_wire: Wire, _message: Json, hangs: trio.Event = hangs) -> None:
                    hangs.set()

                peer.on["tools/call"] = hang
                texts: list[str] = []

                async def read(text: str, texts: list[str] = texts) -> None:
                    texts.append(await client.text("search__read", text=text))

                async with trio.open_nursery() as calls:
                    for number in range(3):
                        calls.start_soon(read, f"{number}")
                    await hangs.wait()
                    victim.kill()
                assert sorted(texts) == ["0", "1", "2"], "what it had been sent was read elsewhere"
                for number in range(6):
                    assert await client.text("search__read", text=f"{number}") == f"{number}"
                del peer.on["tools/call"]
                await victim.start()
                await call_until(client, "search__read", victim)


@pytest.mark.promise("R12")
@pytest.mark.case("B-01")
async def test_shares_drains_and_fallbacks_follow_ctl_and_the_file_and_every_number_is_told(
    proxy: StartProxy, nursery: trio.Nursery, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    tool = READ | {"name": "echo"}
    one, two, archive = [Replica(nursery, RawServer(name=name, tools=[tool])) for name in ("one", "two", "archive")]
    for server in (one, two, archive):
        await server.start()

    async def find(request: Request, reply: Reply) -> None:
        await reply.result({"content": [{"type": "text", "text": f"found {request.params['arguments']['text']}"}]})

    archive.server.on["tools/call"] = find  # type: ignore[assignment]
    servers = {"one": one, "two": two, "archive": archive}
    config = tmp_path / "c.json"

    def write(**weights: int) -> None:
        group = {"servers": ["one", "two"], "policy": "weighted", "weights": weights,
                 "fallback": {"echo": "archive__echo"}}  # fmt: skip
        urls = {name: {"url": server.server.url} for name, server in servers.items()}
        draft = config.with_suffix(".new")
        draft.write_text(json.dumps({"servers": urls, "groups": {"search": group}}))
        draft.rename(config)

    write(one=9)
    running = await proxy({}, "--config", str(config))

    async def control(*arguments: str) -> str:
        """Run `mcp-bulkhead ctl`; return what it says."""
        state = str(running.log_file.with_suffix(".state"))
        assert await trio.to_thread.run_sync(ctl.main, ["--state-dir", state, *arguments]) == 0
        return capsys.readouterr().out

    with trio.fail_after(50):
        async with modern_client(running.url) as client:

            async def shares() -> Counter[str]:
                before = {name: server.calls for name, server in servers.items()}
                for number in range(20):
                    assert (await client.text("search__echo", text=f"{number}")).endswith(f"{number}")
                return Counter({name: server.calls - before[name] for name, server in servers.items()})

            async def are(so: str, **bounds: tuple[int, int]) -> None:
                """Wait until of twenty calls each gets as many as it should."""

                async def look() -> bool:
                    found = await shares()
                    return all(least <= found[name] <= most for name, (least, most) in bounds.items())

                await eventually(look, so)

            async def replica(name: str) -> Json:
                (row,) = [row for row in (await answer(client, operation="list"))["servers"] if row["name"] == name]
                assert row["group"] == "search"
                return row["replica"]

            await are("nine of ten calls go to one", one=(17, 19), two=(1, 3), archive=(0, 0))
            pids = [running.worker(f"server {name}").pid for name in servers]

            assert "gets no new calls" in await control("drain", "one")
            await are("the other gets all", one=(0, 0), two=(20, 20))
            assert "drained" in (await control("list")).splitlines()[1]
            assert (await replica("one"))["drained"] is True
            assert "gets calls again" in await control("undrain", "one")

            assert "gets 90 % of the calls" in await control("weight", "two", "90%")
            await are("the canary gets nearly all", two=(12, 20))
            assert (await replica("two"))["percent"] == 90.0
            assert "has the weight 1" in await control("weight", "two", "default")
            await are("it is as configured again", one=(17, 19), two=(1, 3))

            write(one=1, two=4)
            await are("the file is followed", one=(3, 5), two=(15, 17))
            assert [running.worker(f"server {name}").pid for name in servers] == pids
            assert (await replica("two"))["weight"] == 4.0

            one.kill()
            two.kill()
            for number in range(2 * EJECTION_FAILURES):
                assert await client.text("search__echo", text=f"{number}") == f"found {number}"

            async def is_told() -> bool:
                """Whether status, list and metrics say the same, and everything."""
                rows = [await replica(name) for name in ("one", "two")]
                status = await answer(client, "proxy_status")
                numbers: dict[str, list[float]] = {}
                for family in text_string_to_metric_families(await control("metrics")):
                    for sample in family.samples:
                        if sample.name.startswith("mcp_bulkhead_replica_"):
                            assert (sample.labels["group"], sample.labels["server"]) in {
                                ("search", "one"), ("search", "two"),
                            }  # fmt: skip
                            numbers.setdefault(sample.name.removeprefix("mcp_bulkhead_replica_"), []).append(
                                sample.value
                            )
                return (
                    sum(row["ejections"] for row in rows) >= 1
                    and sum(row["share"] for row in rows) == pytest.approx(1.0, abs=0.01)
                    and sum(row["failovers"] for row in rows) >= 1
                    and [row["replica"] for row in status["servers"]["servers"]] == [*rows, None]
                    and numbers
                    == {
                        "share_ratio": [row["share"] for row in rows],
                        "weight": [1.0, 4.0],
                        "drained": [0.0, 0.0],
                        "ejected": [float(row["ejected"]) for row in rows],
                        "ejections_total": [row["ejections"] for row in rows],
                        "failovers_total": [row["failovers"] for row in rows],
                        "hedged_total": [0.0, 0.0],
                    }
                )

            await eventually(is_told, "status, list and metrics agree")
