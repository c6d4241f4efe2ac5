"""The management tools, as users of clients of either era meet them, over HTTP and stdio, also under load and kills."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import mcp
import psutil
import pytest
import trio
from mcp import MCPError
from mcp.client.streamable_http import streamable_http_client

from protocol.management import TOOL_NAMES, TOOLS
from tests import schemas
from tests.conftest import StartProxy
from tests.peers.clients import ERAS, Client, http_client, modern_client, stdio_proxy_client
from tests.peers.raw_server import ECHO, Json, RawServer, Reply, Request
from tests.peers.tapped import sdk_client
from tests.peers.wire import MODERN, wire
from tests.processes import LOOPBACK, Proxy, free_port
from tests.waiting import eventually, wait_until

SERVER_FIELDS = {
    "name", "url", "enabled", "health_status", "last_health_check", "tool_count", "error_count", "last_error",
    "state", "pid", "restarts", "uptime", "response_time_ms", "era", "sessions", "transport", "group",
    "command",
    "replica", "address",
}  # fmt: skip
CANARY = "canary-hunter2"


async def raw_server(nursery: trio.Nursery, **habits: Any) -> RawServer:
    return await nursery.start(RawServer(**habits).serve)


async def answer(client: Client, tool: str = "manage", /, **arguments: Any) -> Json:
    """Call a management tool, and return its answer: the same as text and as structured content."""
    result = await client.call(tool, **arguments)
    (block,) = result.content
    assert block.type == "text"
    assert json.loads(block.text) == result.structured_content
    assert result.structured_content is not None
    assert result.is_error is (result.structured_content.get("success") is False)
    return result.structured_content


async def refusal(client: Client, **arguments: Any) -> str:
    told = await answer(client, **arguments)
    assert told["success"] is False
    return told["error"]


@pytest.fixture(params=["http", "stdio"])
def transport(request: pytest.FixtureRequest) -> str:
    return request.param


@asynccontextmanager
async def client_of(
    transport: str, era: str, servers: dict[str, str], proxy: StartProxy, folder: Path
) -> AsyncIterator[Client]:
    if transport == "stdio":
        async with stdio_proxy_client(servers, era, folder) as client:
            yield client
    else:
        async with http_client((await proxy(servers)).url, era) as client:
            yield client


# --- every operation, both eras, both transports ---------------------------------------------------------------------
@pytest.mark.parametrize("era", ERAS)
async def test_a_server_is_added_used_disabled_enabled_restarted_and_removed(
    proxy: StartProxy, nursery: trio.Nursery, tmp_path: Path, transport: str, era: str
):
    main = await raw_server(nursery)
    files = await raw_server(nursery, tools=[{**ECHO, "name": "read"}, {**ECHO, "name": "write"}])

    with trio.fail_after(60):
        async with client_of(transport, era, {"main": main.url}, proxy, tmp_path) as client:
            await client.text("main__echo", text="x")
            tried = await answer(client, operation="add", name="files", url=files.url, dry_run=True)
            assert tried.pop("response_time_ms") > 0
            assert tried == {
                "success": True, "message": "Server 'files' can be added; it has 2 tools", "name": "files",
                "url": files.url, "persisted": False, "dry_run": True, "tool_count": 2, "tools": ["read", "write"],
            }  # fmt: skip
            assert "files__read" not in await client.names()

            added = await answer(client, operation="add", name="files", url=files.url, group="storage")
            assert added.pop("response_time_ms") > 0
            assert added == {
                "success": True, "message": "Server 'files' added; it has 2 tools", "name": "files",
                "url": files.url, "persisted": False, "tool_count": 2, "tools": ["read", "write"],
            }  # fmt: skip
            assert await client.names() == [*TOOL_NAMES, "main__echo", "files__read", "files__write"]
            assert await client.text("files__read", text="y") == "y"

            listed = await answer(client, operation="list")
            assert {key: listed[key] for key in listed if key != "servers"} == {
                "success": True, "total_count": 2, "enabled_count": 2, "healthy_count": 2,
            }  # fmt: skip
            assert [set(server) for server in listed["servers"]] == [SERVER_FIELDS] * 2
            row = listed["servers"][1]
            assert row["name"] == "files"
            assert (row["health_status"], row["state"], row["tool_count"], row["group"]) == (
                "healthy",
                "ready",
                2,
                "storage",
            )
            assert (row["enabled"], row["error_count"], row["last_error"], row["restarts"]) == (True, 0, None, 0)
            assert row["transport"] == "http"
            assert "modern" in row["era"]
            assert psutil.pid_exists(row["pid"])

            disabled = {"success": True, "message": "Server 'files' disabled; calls in flight may end", "name": "files"}
            assert await answer(client, operation="disable", name="files") == {**disabled, "persisted": False}
            assert await client.names() == [*TOOL_NAMES, "main__echo"]
            with pytest.raises(MCPError, match="Tool 'files__read' not found"):
                await client.text("files__read", text="y")
            row = (await answer(client, operation="list"))["servers"][1]
            assert (row["enabled"], row["state"], row["health_status"], row["pid"]) == (
                False,
                "disabled",
                "unknown",
                None,
            )

            enabled = await answer(client, operation="enable", name="files")
            assert enabled == {
                "success": True,
                "message": "Server 'files' enabled",
                "name": "files",
                "persisted": False,
            }
            assert await client.text("files__write", text="z") == "z"
            restarted = await answer(client, operation="restart", name="main")
            assert restarted == {"success": True, "message": "Server 'main' restarted", "name": "main"}
            assert await client.text("main__echo", text="again") == "again"
            assert (await answer(client, operation="list"))["servers"][0]["restarts"] == 1
            lines = (await answer(client, operation="logs", name="main", lines=1))["lines"]
            assert [line.partition(" ")[2] for line in lines] == ["a new worker has taken over"]

            removed = {"success": True, "message": "Server 'files' removed; calls in flight may end", "name": "files"}
            assert await answer(client, operation="remove", name="files") == {**removed, "persisted": False}
            assert await client.names() == [*TOOL_NAMES, "main__echo"]
            assert (await answer(client, operation="list"))["total_count"] == 1


@pytest.mark.case("D-12")
@pytest.mark.parametrize("era", ERAS)
async def test_answers_and_refusals_have_the_shapes_that_users_know_and_mistakes_change_nothing(
    proxy: StartProxy, nursery: trio.Nursery, tmp_path: Path, transport: str, era: str
):
    main = await raw_server(nursery)
    servers = {"main": main.url, "backup": f"http://{LOOPBACK}:{free_port()}/mcp"}

    with trio.fail_after(60):
        async with client_of(transport, era, servers, proxy, tmp_path) as client:
            await look_at_health(client)
            await make_mistakes(client, main)


async def look_at_health(client: Client) -> None:
    """Of "main", which works, and "backup", where nobody is."""
    one = await answer(client, operation="health", name="main")
    assert one.pop("response_time_ms") > 0
    assert one.pop("last_health_check").startswith("20")
    assert one == {"success": True, "name": "main", "health_status": "healthy", "error": None}

    every = await answer(client, operation="health", name="all")
    assert every["summary"] == {"total_count": 2, "enabled_count": 2, "healthy_count": 1}
    assert list(every["results"]) == ["main", "backup"]
    assert every["results"]["main"]["success"] is True
    found = every["results"]["backup"]
    assert (found["success"], found["health_status"], found["error"]) == (False, "error", "Connection refused")

    status = await answer(client, "proxy_status")
    assert status["proxy_info"].pop("version")
    assert status["proxy_info"] == {
        "name": "Multi-Server MCP Proxy", "type": "multi_server", "debug_mode": False,
    }  # fmt: skip
    assert {"success", "servers", "total_count", "enabled_count", "healthy_count"} == set(status["servers"])
    assert status["capabilities"] == {
        "dynamic_server_management": True, "health_monitoring": True, "server_isolation": True,
        "transport_modes": ["stdio", "http"],
    }  # fmt: skip
    assert set(status["processes"]) == {"root", "front", "zygote"}
    assert status["crash_reports"] == []

    health = await answer(client, "proxy_health")
    assert health.pop("timestamp").startswith("20")
    assert health == {
        "proxy_healthy": True, "total_servers": 2, "enabled_servers": 2, "healthy_servers": 1,
        "status": "degraded",
    }  # fmt: skip


async def make_mistakes(client: Client, main: RawServer) -> None:
    """Every one there is."""
    nobody = f"http://{LOOPBACK}:{free_port()}/mcp"
    unknown = {
        "success": False, "error": "Server 'unknown' not found", "available_servers": ["main", "backup"],
    }  # fmt: skip
    for operation in ("remove", "enable", "disable", "restart", "health", "logs"):
        assert await answer(client, operation=operation, name="unknown") == unknown
    refused = {"success": False, "error": "Connection refused", "status": "error"}
    assert await answer(client, operation="add", name="new", url=nobody) == refused
    assert (await answer(client, operation="add", name="new", url=nobody, force=True))["success"] is True
    assert await answer(client, operation="health", name="new") == refused
    assert (await answer(client, operation="remove", name="new"))["success"] is True

    assert "exists already" in await refusal(client, operation="add", name="main", url=main.url)
    assert "name is missing" in await refusal(client, operation="add", url=main.url)
    assert "url is missing" in await refusal(client, operation="add", name="new")
    assert "letters, digits" in await refusal(client, operation="add", name="ne w", url=main.url)
    assert "http://" in await refusal(client, operation="add", name="new", url="ftp://x/")
    assert "cannot be added" in await refusal(client, operation="add", name="n", url="x", transport="stdio")
    assert "--allow-stdio-add" in await refusal(client, operation="add", name="n", url="unix:///run/docker.sock")
    assert "is not auto" in await refusal(client, operation="add", name="n", url="x", transport="smoke")
    assert "does not fit" in await refusal(client, operation="add", name="n", url="http://x/", transport="ws")
    stolen = {"X-Key": "${env:HOME}"}
    assert "configuration files" in await refusal(client, operation="add", name="new", url=main.url, headers=stolen)
    assert "set by the proxy" in await refusal(client, operation="add", name="new", url=main.url, headers={"Host": "x"})
    assert "one of add, remove" in await refusal(client, operation="explode")
    assert "operation is missing" in await refusal(client)
    assert "unknown field `nmae`" in await refusal(client, operation="remove", nmae="main")
    assert "--allow-stdio-add" in await refusal(client, operation="add", name="new", command="sh", args=["-c", "id"])
    assert "Expected `bool`" in await refusal(client, operation="add", force="yes")
    assert "lines" in await refusal(client, operation="logs", name="main", lines=0)
    told = await client.call("proxy_status", verbose=True)
    assert told.is_error
    with pytest.raises(MCPError, match="Tool 'unknown_tool' not found"):
        await client.call("unknown_tool")
    with pytest.raises(MCPError, match="Tool 'mannage' not found; did you mean manage"):
        await client.call("mannage")

    assert [row["name"] for row in (await answer(client, operation="list"))["servers"]] == ["main", "backup"]
    assert await client.names() == [*TOOL_NAMES, "main__echo"]


# --- what is on the wire ---------------------------------------------------------------------------------------------
async def test_every_revision_gets_what_it_knows_and_every_message_fits_its_schema(
    proxy: StartProxy, nursery: trio.Nursery
):
    main = await raw_server(nursery)
    started = await proxy({"main": main.url})

    with trio.fail_after(60):
        for revision in schemas.REVISIONS:
            async with wire(started.url, revision) as client:
                await client.open()
                ours = (await client.tools())[: len(TOOL_NAMES)]
                assert [tool["name"] for tool in ours] == list(TOOL_NAMES)
                results = [
                    (await client.call("manage", operation="list")).result,
                    (await client.call("manage", operation="remove", name="unknown")).result,
                    (await client.call("proxy_status")).result,
                    (await client.call("proxy_health")).result,
                ]
            knows = revision >= "2025-06-18"
            assert all(("outputSchema" in tool) is knows for tool in ours)
            assert all(("structuredContent" in result) is knows for result in results)
            assert [result["isError"] for result in results] == [False, True, False, False]


async def test_answers_fit_the_schemas_that_the_tools_declare(proxy: StartProxy, nursery: trio.Nursery):
    main = await raw_server(nursery)
    started = await proxy({"main": main.url})
    import jsonschema

    with trio.fail_after(60):
        async with modern_client(started.url) as client:
            for tool, arguments in (
                ("manage", {"operation": "list"}),
                ("manage", {"operation": "health"}),
                ("manage", {"operation": "health", "name": "main"}),
                ("manage", {"operation": "logs", "name": "main"}),
                ("manage", {"operation": "add", "name": "x", "url": main.url, "dry_run": True}),
                ("manage", {"operation": "add", "name": "main", "url": main.url}),
                ("proxy_status", {}),
                ("proxy_health", {}),
            ):
                told = await answer(client, tool, **arguments)
                schema = closed(TOOLS[tool].output_schema)
                jsonschema.validate(arguments, TOOLS[tool].input_schema)
                jsonschema.validate(told, schema)


def closed(schema: Any) -> Any:
    """Return the schema with every object that names its members allowing no others: each member is to be declared."""
    if not isinstance(schema, dict):
        return [closed(one) for one in schema] if isinstance(schema, list) else schema
    inner = {key: closed(value) for key, value in schema.items()}
    return {**inner, "additionalProperties": False} if isinstance(schema.get("properties"), dict) else inner


@pytest.mark.case("D-25")
@pytest.mark.promise("R19")
async def test_secrets_of_a_server_reach_that_server_and_nobody_else(proxy: StartProxy, nursery: trio.Nursery):
    main, keyed = await raw_server(nursery), await raw_server(nursery)
    started = await proxy({"main": main.url}, "--debug")
    url = f"{keyed.url}?key={CANARY}-query"

    with trio.fail_after(60):
        async with modern_client(started.url) as client:
            told = [await answer(client, operation="add", name="keyed", url=url, headers={"X-Key": f"{CANARY}-header"})]
            assert await client.text("keyed__echo", text="x") == "x"
            wrong = {"X-Key": f"{CANARY}-\nsplit"}
            told += [
                await answer(client, operation="list"),
                await answer(client, operation="health"),
                await answer(client, operation="logs", name="keyed"),
                await answer(client, "proxy_status"),
                await answer(client, operation="add", name="b", url=url, headers=wrong),
                await answer(client, operation="add", name="b", url=f"http://user:{CANARY}@x/"),
            ]
            assert told[0]["url"] == f"{keyed.url}?key=[redacted]"
            assert CANARY not in json.dumps(told)
    assert {request.headers["x-key"] for request in keyed.requests} == {f"{CANARY}-header"}
    assert CANARY not in started.said()
    assert CANARY not in started.log_file.read_text()


# --- names -----------------------------------------------------------------------------------------------------------
async def test_the_tools_can_be_switched_off_or_renamed(proxy: StartProxy, nursery: trio.Nursery):
    main = await raw_server(nursery)
    without = await proxy({"main": main.url}, "--no-management")
    renamed = await proxy({"main": main.url}, "--management-prefix", "proxy-")

    with trio.fail_after(15):
        async with modern_client(without.url) as client:
            await client.lists("main__echo")
            with pytest.raises(MCPError, match="Tool 'manage' not found"):
                await client.call("manage", operation="list")
        async with modern_client(renamed.url) as client:
            await client.lists(*(f"proxy-{name}" for name in TOOL_NAMES), "main__echo")
            assert (await answer(client, "proxy-manage", operation="list"))["total_count"] == 1


@pytest.mark.parametrize("arguments", [("--namespace", "none"), ("--separator", "_")])
async def test_no_server_can_take_the_name_of_a_management_tool(
    proxy: StartProxy, nursery: trio.Nursery, arguments: tuple[str, str]
):
    names = ["manage", "proxy_status", "status", "proxy_health", "free"]
    impostor = await raw_server(nursery, tools=[{**ECHO, "name": name} for name in names])
    started = await proxy({"proxy": impostor.url}, *arguments)

    with trio.fail_after(60):
        async with modern_client(started.url) as client:
            listed = await client.names()
            assert listed[: len(TOOL_NAMES)] == list(TOOL_NAMES)
            assert len(set(listed)) == len(listed)
            assert (await answer(client, "proxy_status"))["proxy_info"]["type"] == "multi_server"
            assert await client.text("free" if arguments[1] == "none" else "proxy_free", text="x") == "x"
    assert [call.params["name"] for call in impostor.received("tools/call")] == ["free"]


# --- who is told -----------------------------------------------------------------------------------------------------
async def test_every_client_that_can_hear_it_is_told_that_the_list_has_changed(
    proxy: StartProxy, nursery: trio.Nursery, tmp_path: Path
):
    main, more = await raw_server(nursery), await raw_server(nursery)
    told: dict[str, int] = {"http": 0, "stdio": 0}

    def counting(name: str) -> Any:
        async def count(message: Any) -> None:
            if type(message).__name__ == "ToolListChangedNotification":
                told[name] += 1

        return count

    started = await proxy({"main": main.url})
    with trio.fail_after(60):
        async with listening_client(started.url, counting("http")), modern_client(started.url) as other:
            before = await settled(told, "http")
            await answer(other, operation="add", name="more", url=more.url)
            await told_again(told, "http", before)
        async with stdio_proxy_client({"main": main.url}, "legacy", tmp_path) as client:
            client.sdk.session._message_handler = counting("stdio")
            before = await settled(told, "stdio")
            await answer(client, operation="disable", name="main")
            await told_again(told, "stdio", before)


@asynccontextmanager
async def listening_client(url: str, handler: Any) -> AsyncIterator[mcp.Client]:
    async with sdk_client(streamable_http_client(url), "legacy", message_handler=handler) as client:
        yield client


async def settled(told: dict[str, int], name: str) -> int:
    """Return how often a client has been told, once the news of the start are over."""
    while True:
        before = told[name]
        await trio.sleep(0.3)  # the front gathers changes for 0.1 s, so there is nothing else to wait for
        if told[name] == before:
            return before


async def told_again(told: dict[str, int], name: str, before: int) -> None:
    async def look() -> bool:
        return told[name] > before

    await eventually(look, "the client is told")


# --- under load ------------------------------------------------------------------------------------------------------
class Load:
    """Callers of one tool who keep calling, and count what became of it."""

    def __init__(self) -> None:
        self.answered = 0
        self.failed: list[str] = []
        self._stop = False
        self._more = trio.Condition()

    async def caller(self, url: str, era: str, tool: str) -> None:
        async with http_client(url, era) as client:
            while not self._stop:
                try:
                    assert await client.text(tool, text=tool) == tool
                    self.answered += 1
                except MCPError as error:
                    self.failed.append(str(error))
                async with self._more:
                    self._more.notify_all()

    async def more(self, count: int) -> None:
        """Wait for so many more answers."""
        goal = self.answered + count
        async with self._more:
            while self.answered < goal:
                await self._more.wait()

    def stop(self) -> None:
        self._stop = True


@pytest.mark.promise("R01", "R12")
async def test_servers_come_go_and_are_replaced_and_killed_under_load_and_no_other_call_fails(
    proxy: StartProxy, nursery: trio.Nursery
):
    main, files = await raw_server(nursery), await raw_server(nursery)
    started = await proxy({"main": main.url, "files": files.url})
    main_pid, front_pid = started.worker("server main").pid, started.worker("front").pid
    load, restarted = Load(), Load()

    with trio.fail_after(40):
        async with modern_client(started.url) as manager, trio.open_nursery() as callers:
            for era in ERAS:
                callers.start_soon(load.caller, started.url, era, "main__echo")
            for era in ERAS:
                callers.start_soon(restarted.caller, started.url, era, "files__echo")
            await load.more(20)
            await restarted.more(10)
            for _ in range(2):
                assert (await answer(manager, operation="restart", name="files"))["success"]
                await restarted.more(10)
            for number in range(2):
                name = f"extra{number}"
                assert (await answer(manager, operation="add", name=name, url=files.url))["success"]
                await trio.to_thread.run_sync(started.kill_worker, f"server {name}")
                assert await manager.text(f"{name}__echo", text="x") == "x", "a new worker is there"
                assert (await answer(manager, operation="remove", name=name))["success"]
                await load.more(20)
            load.stop()
            restarted.stop()

    assert load.failed == []
    assert restarted.failed == [], "a worker that is replaced finishes its calls"
    assert (started.worker("server main").pid, started.worker("front").pid) == (main_pid, front_pid)
    serving = ["front", "root", "server files", "server main", "spare", "zygote"]
    wait_until(lambda: titles(started) == serving, "only the processes that serve, and a spare, are left")


def titles(proxy: Proxy) -> list[str]:
    return sorted(" ".join(process.cmdline()).rpartition(": ")[2].strip() for process in proxy.family())


@pytest.mark.parametrize("operation", ["remove", "disable", "restart"])
async def test_a_call_in_flight_on_a_server_that_goes_is_answered_by_it(
    proxy: StartProxy, nursery: trio.Nursery, operation: str
):
    release = trio.Event()

    async def wait(request: Request, reply: Reply) -> None:
        await release.wait()
        await reply.result({"content": [{"type": "text", "text": "late"}]})

    slow = await raw_server(nursery, on={"tools/call": wait})
    started = await proxy({"slow": slow.url})
    old = started.worker("server slow")

    with trio.fail_after(15):
        async with modern_client(started.url) as client, trio.open_nursery() as calls:

            async def call() -> None:
                assert await client.text("slow__echo", text="x") == "late"

            calls.start_soon(call)
            await slow.wait_for("tools/call")
            assert (await answer(client, operation=operation, name="slow"))["success"]
            assert ("slow__echo" in await client.names()) is (operation == "restart")
            assert old.is_running(), "it has a call to finish"
            release.set()
        await trio.to_thread.run_sync(wait_until, lambda: not old.is_running(), "the old worker has left")


async def test_a_front_that_is_killed_knows_the_servers_that_were_added_and_not_those_removed(
    proxy: StartProxy, nursery: trio.Nursery
):
    main, more = await raw_server(nursery), await raw_server(nursery)
    started = await proxy({"main": main.url, "old": main.url})

    with trio.fail_after(15):
        async with modern_client(started.url) as client:
            await answer(client, operation="add", name="more", url=more.url)
            await answer(client, operation="remove", name="old")
        pid = await trio.to_thread.run_sync(started.kill_worker, "front")
        await trio.to_thread.run_sync(started.replacement, "front", pid)
        async with modern_client(started.url) as client:
            assert await client.names() == [*TOOL_NAMES, "main__echo", "more__echo"]
            assert await client.text("more__echo", text="x") == "x"
            assert (await answer(client, "proxy_status"))["crash_reports"][0]["reason"] == "was killed by SIGKILL"


async def test_a_client_of_one_revision_asks_while_the_root_works_on_many(proxy: StartProxy, nursery: trio.Nursery):
    """Checks of a server that never answers take their time; they are shared, bounded, and hold nobody up."""

    async def never(request: Request, reply: Reply) -> None:
        await trio.sleep_forever()

    main = await raw_server(nursery)
    started = await proxy({"main": main.url})
    async with wire(started.url, MODERN) as client:
        with trio.fail_after(60):
            await client.call("manage", operation="health", name="main")
            main.on |= dict.fromkeys(("server/discover", "ping"), never)
            async with trio.open_nursery() as asking:
                for _ in range(8):
                    asking.start_soon(ignore_answer, started.url)
                await main.wait_for("server/discover", 2)
                begun = trio.current_time()
                health = (await client.call("proxy_health")).result["structuredContent"]
                assert health["proxy_healthy"] is True
                assert (await client.call("main__echo", text="x")).result["content"][0]["text"] == "x"
                assert trio.current_time() - begun < 4.0
                asking.cancel_scope.cancel()


async def ignore_answer(url: str) -> None:
    async with wire(url, MODERN) as client:
        await client.call("manage", operation="health", name="main")
