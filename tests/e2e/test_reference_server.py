"""The reference server of the protocol's authors, written in TypeScript, as a server behind the proxy."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests import nodejs
from tests.conftest import StartProxy
from tests.peers.clients import ERAS, http_client
from tests.processes import START_S_MAX, answers, free_port
from tests.waiting import wait_until

NAME, VERSION = "@modelcontextprotocol/server-everything", "2026.8.31"

pytestmark = pytest.mark.slow  # the first time, it is installed


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of the running server."""
    program = nodejs.package_or_skip(NAME, VERSION) / "dist" / "index.js"
    port = free_port()
    log = tmp_path_factory.mktemp("everything") / "log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [*nodejs.node().node, str(program), "streamableHttp"],
            env=os.environ | {"PORT": str(port)},
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
        )
    try:
        wait_until(lambda: answers(port), f"the reference server listens; it said: {tail_of(log)}", START_S_MAX)
        yield f"http://localhost:{port}/mcp"
    finally:
        process.kill()
        process.wait(5)


def tail_of(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-2000:]


@pytest.mark.parametrize("era", ERAS)
async def test_the_typescript_reference_server_works_behind_the_proxy(proxy: StartProxy, everything: str, era: str):
    started = await proxy({"every": everything}, "--no-management")

    with trio.fail_after(60):
        async with http_client(everything, "legacy") as direct:
            expected = [f"every__{name}" for name in await direct.names()]
        async with http_client(started.url, era) as client:
            assert await client.names() == expected
            assert await client.text("every__echo", message="grüße") == "Echo: grüße"
            assert "5" in await client.text("every__get-sum", a=2, b=3)
            result = await client.watch("every__trigger-long-running-operation", duration=0.3, steps=3)
            assert "completed" in result.content[0].text
            assert [progress for progress, _, _ in client.progressed] == [1, 2, 3]
            structured = await client.call("every__get-structured-content", location="New York")
            assert set(structured.structured_content) == {"temperature", "conditions", "humidity"}
