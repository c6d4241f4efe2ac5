"""Servers that the protocol's authors publish on npm and PyPI, and that most people have: TypeScript and Python."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio

from tests import nodejs
from tests.conftest import StartProxy
from tests.e2e.test_commands import ctl, wait_for_tools
from tests.peers.clients import ERAS, http_client
from tests.processes import START_S_MAX, answers, free_port
from tests.waiting import wait_until

pytestmark = pytest.mark.slow  # the first time, those of npm are installed

MODES = {"streamableHttp": "/mcp", "sse": "/sse"}
"""Of the server that has everything, with where its endpoint is. The third one is that of a command, "stdio"."""


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """URLs of the running server in each of its modes."""
    program = nodejs.reference_server_or_skip("everything")
    folder = tmp_path_factory.mktemp("everything")
    with ExitStack() as stack:
        ports: dict[str, int] = {}
        for mode in MODES:
            ports[mode] = free_port()
            with (folder / mode).open("wb") as sink:
                environment = os.environ | {"PORT": str(ports[mode])}
                process = subprocess.Popen(
                    [*program, mode], env=environment, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink
                )
            stack.callback(process.wait, 5)
            stack.callback(process.kill)
        for mode, port in ports.items():
            said = (folder / mode).read_text(encoding="utf-8", errors="replace")[-2000:]
            wait_until(lambda port=port: answers(port), f"it listens in the mode {mode}; it said: {said}", START_S_MAX)
        yield {mode: f"http://localhost:{ports[mode]}{path}" for mode, path in MODES.items()}


async def test_the_typescript_server_that_has_everything_works_behind_the_proxy(
    proxy: StartProxy, everything: dict[str, str]
):
    started = await proxy({"every": everything["streamableHttp"], "old": everything["sse"]}, "--no-management")
    with trio.fail_after(60):
        async with http_client(everything["streamableHttp"], "legacy") as direct:
            expected = await direct.names()
        for era in ERAS:
            async with http_client(started.url, era) as client:
                names = await client.names()
                assert [name for name in names if name.startswith("every__")] == [f"every__{name}" for name in expected]
                assert {f"old__{name}" for name in expected} <= set(names)
                for server in ("every", "old"):
                    assert await client.text(f"{server}__echo", message="grüße") == "Echo: grüße"
                    assert "5" in await client.text(f"{server}__get-sum", a=2, b=3)
                    client.progressed.clear()
                    result = await client.watch(f"{server}__trigger-long-running-operation", duration=0.3, steps=3)
                    assert "completed" in result.content[0].text
                    assert [progress for progress, _, _ in client.progressed] == [1, 2, 3]
                    structured = await client.call(f"{server}__get-structured-content", location="New York")
                    assert set(structured.structured_content) == {"temperature", "conditions", "humidity"}


async def test_the_servers_that_most_people_have_work_as_a_client_has_configured_them(
    proxy: StartProxy, tmp_path: Path
):
    folder, graph = tmp_path / "data", tmp_path / "graph.jsonl"
    folder.mkdir()
    (folder / "hello.txt").write_text("grüße", encoding="utf-8")
    await trio.run_process(["git", "init", "-q", "-b", "trunk", str(folder)])
    commands = {
        "every": [*nodejs.reference_server_or_skip("everything"), "stdio"],
        "files": [*nodejs.reference_server_or_skip("filesystem"), str(folder)],
        "memory": nodejs.reference_server_or_skip("memory"),
        "thinking": nodejs.reference_server_or_skip("sequential-thinking"),
        "time": [sys.executable, "-m", "mcp_server_time", "--local-timezone", "Europe/Berlin"],
        "fetch": [sys.executable, "-m", "mcp_server_fetch", "--ignore-robots-txt", "--allow-private-ips"],
        "git": [sys.executable, "-m", "mcp_server_git", "--repository", str(folder)],
    }
    servers = {
        name: {"command": program, "args": args, "env": {"MEMORY_FILE_PATH": str(graph)}}
        for name, (program, *args) in commands.items()
    }
    config = tmp_path / "claude_desktop_config.json"
    config.write_text(json.dumps({"globalShortcut": "", "mcpServers": servers}))
    started = await proxy({}, "--no-management", "--config", str(config))
    await wait_for_tools(started, *commands)

    with trio.fail_after(60):
        for era in ERAS:
            async with http_client(started.url, era) as client:
                assert {name.partition("__")[0] for name in await client.names()} == set(commands)
                assert await client.text("every__echo", message="hi") == "Echo: hi"
                client.progressed.clear()
                result = await client.watch("every__trigger-long-running-operation", duration=0.3, steps=3)
                assert "completed" in result.content[0].text
                assert [progress for progress, _, _ in client.progressed] == [1, 2, 3]

                assert "grüße" in await client.text("files__read_text_file", path=str(folder / "hello.txt"))
                entity = {"name": f"Ada {era}", "entityType": "person", "observations": ["wrote the first program"]}
                await client.call("memory__create_entities", entities=[entity])
                assert f"Ada {era}" in await client.text("memory__search_nodes", query=era)
                thought = {"thought": "why?", "thoughtNumber": 1, "totalThoughts": 2, "nextThoughtNeeded": True}
                considered = await client.call("thinking__sequentialthinking", **thought)
                assert considered.structured_content["totalThoughts"] == 2

                moment = {"source_timezone": "Europe/Berlin", "time": "12:00", "target_timezone": "Asia/Tokyo"}
                assert "Asia/Tokyo" in await client.text("time__convert_time", **moment)
                page = await client.text("fetch__fetch", url=f"http://127.0.0.1:{started.port}/healthz", raw=True)
                assert "/healthz" in page
                assert "hello.txt" in await client.text("git__git_status", repo_path=str(folder))

    assert graph.read_text(encoding="utf-8").count("person") == len(ERAS)
    _, logs = await ctl(started, "logs", "files")
    assert "said: " in logs
    assert "Secure MCP Filesystem Server" in logs
