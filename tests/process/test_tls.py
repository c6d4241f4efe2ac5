"""HTTPS on the port of a whole proxy: one certificate after another, whatever happens to fronts and versions."""

from __future__ import annotations

import signal
import ssl
from pathlib import Path

import httpx
import pytest
import trio

from tests.peers.certificates import Authority
from tests.peers.raw_server import RawServer
from tests.peers.wire import MODERN, Wire
from tests.process.harness import root
from tests.process.test_upgrade import REAL
from tests.waiting import eventually


@pytest.mark.promise("R13")
async def test_a_certificate_is_exchanged_while_clients_call_and_outlives_fronts_and_versions(tmp_path: Path, nursery):
    authority = Authority(tmp_path)
    shown = authority.issue("shown", "127.0.0.1")
    server = await nursery.start(RawServer().serve)
    async with root({"main": server.url}, "--tls-cert", shown, entry=REAL) as proxy:
        assert f"ready on https://127.0.0.1:{proxy.port}/mcp" in await proxy.line("ready on")
        url = f"https://127.0.0.1:{proxy.port}/mcp/main"

        async def call() -> None:
            async with httpx.AsyncClient(timeout=10, verify=authority.client_context()) as http:
                wire = Wire(http, url, MODERN)
                await wire.open()
                answer = await wire.post(wire.envelope("tools/call", {"name": "echo", "arguments": {"text": "x"}}))
                assert answer.json()["result"]["content"][0]["text"] == "x"

        async def certificate() -> str:
            return await trio.to_thread.run_sync(ssl.get_server_certificate, ("127.0.0.1", proxy.port))

        await call()
        first = await certificate()
        authority.issue("shown", "127.0.0.1")
        proxy.signal(signal.SIGHUP)
        await proxy.line("SIGHUP: reading the certificate again")

        async def is_another() -> bool:
            return await certificate() != first

        await eventually(is_another, "the new certificate is shown")
        await call()
        front = proxy.kill("front")

        async def is_replaced() -> bool:
            return proxy.process_of("front") not in (0, front)

        await eventually(is_replaced, "the front is replaced")
        await call()
        proxy.signal(signal.SIGUSR2)
        old = await proxy.upgraded()
        await call()
        assert await proxy.ended(pid=old) == 0
