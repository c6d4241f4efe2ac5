"""The configuration file as its users meet it: secrets that stay secret, reloads under load, changes that are kept."""

from __future__ import annotations

import functools
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
from mcp import MCPError

from tests.catalogue import CHECKOUT
from tests.conftest import StartProxy
from tests.peers.clients import Client, modern_client
from tests.peers.raw_server import RawServer, with_status
from tests.peers.wire import MODERN, wire
from tests.processes import Proxy, title
from tests.waiting import eventually

CANARY = "canary-7d1f-hunter2"
FILE_CANARY = "canary-9a3c-swordfish"
RELOADS = int(os.environ.get("RELOADS", "50"))
"""The release criterion is 1000, which takes some minutes."""


def put(path: Path, text: str) -> None:
    """Put the text in the file's place in one step."""
    draft = path.with_name("draft")
    draft.write_text(text)
    draft.rename(path)


def block(name: str, url: str, more: str = "") -> str:
    return f'[servers.{name}]\nurl = "{url}"\n{more}\n'


def log_of(proxy: Proxy) -> str:
    return proxy.log_file.read_text(encoding="utf-8") + proxy.stderr.read_text(encoding="utf-8")


def environment(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


async def in_log(proxy: Proxy, words: str) -> None:
    async def look() -> bool:
        return words in log_of(proxy)

    await eventually(look, f"the log says {words!r}", 10)


async def manage(client: Client, **arguments: Any) -> dict[str, Any]:
    result = await client.sdk.call_tool("manage", arguments)
    assert result.structured_content is not None
    return result.structured_content


# --- secrets ---------------------------------------------------------------------------------------------------------
@pytest.mark.case("D-15", "D-25")
@pytest.mark.promise("R19")
async def test_secrets_reach_the_server_they_are_for_and_nothing_else(
    proxy: StartProxy, nursery: trio.Nursery, tmp_path: Path
):
    servers = [await nursery.start(RawServer(era=era).serve) for era in ("modern", "legacy", "legacy")]
    (tmp_path / "key").write_text(f"{FILE_CANARY}\n")
    config = tmp_path / "c.toml"
    config.write_text(
        block("one", f"{servers[0].url}?key=${{env:QUERY}}", 'headers.Authorization = "Bearer ${env:TOKEN}"')
        + block("two", servers[1].url, f'headers.X-Api-Key = "${{file:{tmp_path}/key}}"')
        + block("three", servers[2].url)
    )
    env = {"TOKEN": CANARY, "QUERY": f"{CANARY}&/x"}

    with trio.fail_after(30):
        started = await proxy({}, "--config", str(config), "--debug", env=env)
        async with modern_client(started.url) as client:
            for name in ("one", "two", "three"):
                assert await client.text(f"{name}__echo", text="hello") == "hello"
            leak = f"<p>Authorization: Bearer {CANARY} is wrong</p>".encode()
            servers[0].on["tools/call"] = with_status(500, leak)  # it is no friend
            status = await client.call("proxy_status")
            listed = await manage(client, operation="list")
            with pytest.raises(MCPError) as caught:
                await client.text("one__echo", text="hello")
        one, two, three = (server.requests for server in servers)
        assert {request.headers.get("authorization") for request in one} == {f"Bearer {CANARY}"}
        assert {request.headers.get("x-api-key") for request in two} == {FILE_CANARY}
        assert not [request for request in three if {"authorization", "x-api-key"} & request.headers.keys()]

        family = started.family()
        command_lines = "".join(title(process) for process in family)
        environments = b"".join(environment(process.pid) for process in family if process.pid != started.pid)
        shown = status.model_dump_json() + json.dumps(listed) + log_of(started) + str(caught.value)
        for secret in (CANARY, FILE_CANARY):
            assert secret not in command_lines
            assert secret.encode() not in environments
            assert secret not in shown


async def test_a_secret_that_has_gone_is_told_and_the_worker_comes_back_with_it(
    proxy: StartProxy, nursery: trio.Nursery, tmp_path: Path
):
    server = await nursery.start(RawServer().serve)
    key, config = tmp_path / "key", tmp_path / "c.toml"
    put(key, "old-key")
    put(config, block("main", server.url, f'headers.X-Api-Key = "${{file:{key}}}"'))

    with trio.fail_after(40):
        started = await proxy({}, "--config", str(config))
        async with modern_client(started.url) as client:
            assert await client.text("main__echo", text="a") == "a"
            os.rename(key, tmp_path / "away")
            await trio.to_thread.run_sync(started.kill_worker, "server main")
            await in_log(started, "header X-Api-Key cannot be used")
            put(key, "new-key")
            await eventually(functools.partial(called_well, client), "the server is called again", 30)
        assert server.requests[-1].headers["x-api-key"] == "new-key"
        assert "old-key" not in log_of(started)


async def called_well(client: Client) -> bool:
    try:
        return await client.text("main__echo", text="b") == "b"
    except MCPError:  # refused while there is no worker
        return False


# --- following the file ----------------------------------------------------------------------------------------------
class Load:
    """Calls one after the other, until it is told to stop; every answer must be right."""

    def __init__(self, url: str, name: str) -> None:
        self.calls = 0
        self.failed: list[str] = []
        self._url, self._name = url, name
        self.stop = False

    async def run(self) -> None:
        async with wire(self._url, MODERN) as client:
            while not self.stop:
                self.calls += 1
                answer = await client.request("tools/call", {"name": f"{self._name}__echo", "arguments": {"text": "x"}})
                if "result" not in answer.final or answer.final["result"]["content"][0]["text"] != "x":
                    self.failed.append(str(answer.final))


@pytest.mark.slow(limit_s=RELOADS * 2 + 90)
@pytest.mark.promise("R01", "R12")
@pytest.mark.case("C-06", "C-19")
async def test_random_reloads_under_load_cost_no_call(proxy: StartProxy, nursery: trio.Nursery, tmp_path: Path):
    """One server is never touched, one is replaced again and again, others come, go and are switched; some files are
    broken."""
    servers = [await nursery.start(RawServer().serve) for _ in range(3)]
    spread = random.Random(12)
    config = tmp_path / "c.toml"

    def text(number: int) -> str:
        moving = f'headers.X-Number = "{number}"'
        parts = [block("steady", servers[0].url), block("moving", servers[number % 2].url, moving)]
        parts += [
            block(name, servers[2].url, f"enabled = {spread.choice(['true', 'false'])}")
            for name in ("a", "b", "c")
            if spread.random() < 0.5
        ]
        return f"# {number}\n" + "".join(parts)

    put(config, text(0))
    with trio.fail_after(RELOADS * 2 + 60):
        started = await proxy({}, "--config", str(config))
        steady, front = started.worker("server steady").pid, started.worker("front").pid
        loads = [Load(started.url, name) for name in ("steady", "steady", "moving", "moving")]
        async with trio.open_nursery() as calling:
            for load in loads:
                calling.start_soon(load.run)
            for number in range(1, RELOADS + 1):
                if spread.random() < 0.1:
                    put(config, "[servers.half")
                    started.process.send_signal(signal.SIGHUP)
                put(config, text(number))
                started.process.send_signal(signal.SIGHUP)
                await eventually(functools.partial(seen_number, servers, number), f"reload {number} is in effect", 20)
            for load in loads:
                load.stop = True

        assert [load.failed for load in loads] == [[], [], [], []]
        assert min(load.calls for load in loads) > RELOADS
        assert started.worker("server steady").pid == steady
        assert started.worker("front").pid == front
        last = {name for name in ("steady", "moving", "a", "b", "c") if f"[servers.{name}]" in config.read_text()}
        async with modern_client(started.url) as client:
            listed = await manage(client, operation="list")
        assert {server["name"] for server in listed["servers"]} == last
        assert listed["enabled_count"] == len(last) - config.read_text().count("enabled = false")


async def seen_number(servers: list[RawServer], number: int) -> bool:
    """Whether a call has come with the header that this version of the file asks for."""
    return any(
        request.headers.get("x-number") == str(number)
        for server in servers
        for request in reversed(server.requests[-50:])
        if request.method == "tools/call"
    )


async def test_a_file_that_is_edited_is_followed_without_being_told(
    proxy: StartProxy, nursery: trio.Nursery, tmp_path: Path
):
    server = await nursery.start(RawServer().serve)
    config = tmp_path / "c.yaml"
    put(config, f"servers:\n  one:\n    url: {server.url}\n")

    with trio.fail_after(30):
        started = await proxy({}, "--config", str(config))
        put(config, f"servers:\n  one:\n    url: {server.url}\n  two:\n    url: {server.url}\n")
        await trio.to_thread.run_sync(started.worker, "server two")
        put(config, "servers:\n  one:\n    ulr: x\n")
        await in_log(started, "did you mean 'url'?")
        async with modern_client(started.url) as client:
            assert await client.text("two__echo", text="still here") == "still here"


# --- keeping what is changed -----------------------------------------------------------------------------------------
async def test_what_is_changed_while_it_runs_is_there_after_a_restart(
    proxy: StartProxy, nursery: trio.Nursery, tmp_path: Path
):
    server = await nursery.start(RawServer().serve)
    config = tmp_path / "c.toml"
    put(config, "# ours\n" + block("one", server.url) + "# the second\n" + block("two", server.url))

    with trio.fail_after(40):
        started = await proxy({}, "--config", str(config))
        async with modern_client(started.url) as client:
            added = await manage(client, operation="add", name="new", url=server.url, headers={"X-Key": "k"})
            assert added["persisted"] is True, added
            assert (await manage(client, operation="disable", name="two"))["persisted"] is True
            assert (await manage(client, operation="remove", name="one"))["persisted"] is True
        pid = started.worker("server new").pid
        await trio.sleep(2)  # so that the file is looked at: what was written by us must not be done once more
        assert started.worker("server new").pid == pid
        assert "has changed" not in log_of(started)
        await trio.to_thread.run_sync(started.stop)

        text = config.read_text()
        assert text.startswith("# ours\n")
        assert "# the second\n[servers.two]" in text
        again = await proxy({}, "--config", str(config))
        async with modern_client(again.url) as client:
            listed = await manage(client, operation="list")
            assert await client.text("new__echo", text="kept") == "kept"
        assert {one["name"]: one["enabled"] for one in listed["servers"]} == {"two": False, "new": True}
        assert server.requests[-1].headers["x-key"] == "k"


async def test_what_cannot_be_kept_is_done_all_the_same_and_said(
    proxy: StartProxy, nursery: trio.Nursery, tmp_path: Path
):
    server = await nursery.start(RawServer().serve)
    config = tmp_path / "claude_desktop_config.json"
    text = json.dumps({"mcpServers": {"one": {"type": "http", "url": server.url}}})
    put(config, text)

    with trio.fail_after(30):
        started = await proxy({}, "--config", str(config))
        async with modern_client(started.url) as client:
            added = await manage(client, operation="add", name="new", url=server.url)
            assert await client.text("new__echo", text="there") == "there"
    assert added["success"] is True
    assert added["persisted"] is False
    assert "belongs to another program" in added["message"]
    assert config.read_text() == text


# --- what it costs those who have none -------------------------------------------------------------------------------
def test_who_has_no_file_does_not_load_what_reads_files():
    code = (
        "import sys; from supervisor import cli; cli.parse(['--http', '--servers', 'a=http://x/']);"
        "import supervisor.root;"
        "print(*[name for name in sys.modules if name.split('.')[0] in ('tomllib', 'tomlkit', 'ruamel')"
        " or name.startswith('supervisor.configuration')])"
    )

    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, timeout=30)

    assert (done.stdout, done.stderr) == ("\n", "")


# --- the command line of who runs it ---------------------------------------------------------------------------------
def ctl(proxy: Proxy, *arguments: str) -> tuple[int, str]:
    state = proxy.stderr.with_suffix(".state")
    done = subprocess.run(
        [sys.executable, "-m", "supervisor", "ctl", "--port", str(proxy.port), "--state-dir", str(state), *arguments],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=30,
    )
    return done.returncode, done.stdout + done.stderr


async def test_who_runs_it_sees_a_change_before_it_is_made_and_takes_one_back(
    proxy: StartProxy, nursery: trio.Nursery, tmp_path: Path
):
    server = await nursery.start(RawServer().serve)
    config = tmp_path / "c.toml"
    put(config, "admin = true\n" + block("one", server.url))

    async def ask(*arguments: str) -> tuple[int, str]:
        return await trio.to_thread.run_sync(ctl, started, *arguments)

    with trio.fail_after(50):
        started = await proxy({}, "--config", str(config))
        await in_log(started, "ready on")
        code, text = await ask("rollback")
        assert code == 1
        assert "nothing has been changed from here" in text
        assert await ask("disable", "one") == (0, "Server 'one' disabled; calls in flight may end\n")
        assert await ask("reload") == (0, "no server has changed\n  keep one\n")
        assert await ask("rollback") == (0, "done\n  enable one\n")
        assert "enabled" not in config.read_text()

        put(config, "page_size = 5\n" + block("one", server.url))
        needs = "  keep one\n  only after a restart of the proxy: page_size\n"
        assert await ask("reload", "--dry-run") == (0, f"no server has changed\n{needs}")
        put(config, "admin = true\n[servers.half")
        code, text = await ask("reload")
        assert code == 1
        assert f"{config}:2: this is no TOML" in text


async def test_the_status_says_what_is_wrong_with_the_file_until_it_is_mended(
    proxy: StartProxy, nursery: trio.Nursery, tmp_path: Path
):
    server, config = await nursery.start(RawServer().serve), tmp_path / "c.toml"
    put(config, block("main", server.url))

    async def told(client: Client) -> dict[str, Any]:
        status = await client.call("proxy_status")
        assert status.structured_content is not None
        return status.structured_content["configuration"]

    with trio.fail_after(30):
        started = await proxy({}, "--config", str(config))
        async with modern_client(started.url) as client:
            assert await told(client) == {"file": str(config), "problem": None, "restart_needed": []}
            put(config, block("main", server.url, "call_timout = 3"))

            async def is_wrong() -> bool:
                return "call_timout" in ((await told(client))["problem"] or "")

            await eventually(is_wrong, "the mistake is told", 10)
            put(config, 'separator = "--"\n' + block("main", server.url))

            async def is_mended() -> bool:
                return await told(client) == {"file": str(config), "problem": None, "restart_needed": ["separator"]}

            await eventually(is_mended, "the mended file is told", 10)
            code, text = await trio.to_thread.run_sync(ctl, started, "status")
            assert (code, "only after a restart of the proxy: separator" in text) == (0, True)
