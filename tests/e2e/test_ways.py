"""Servers that are reached over https, through a Unix socket and through a proxy, as users configure them."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from mcp import MCPError

from tests.conftest import StartProxy, StartServer
from tests.peers.certificates import Authority
from tests.peers.clients import ERAS, http_client
from tests.peers.forward_proxy import ForwardProxy
from tests.peers.http2_server import Http2Server
from tests.peers.raw_server import RawServer
from tests.processes import Proxy

CANARY = "canary-5e2b-marlin"
SERVERS = """
[servers.secure]
url = "https://localhost:{secure}/mcp"
ca_file = "{ca_file}"

[servers.shared]
url = "https://localhost:{shared}/mcp"
ca_file = "{ca_file}"
http2 = true

[servers.stranger]
url = "https://localhost:{secure}/mcp"

[servers.near]
url = "unix://{socket}"

[servers.far]
url = "http://far.example:{far}/mcp"

[servers.own]
url = "http://own.example:{far}/mcp"
proxy = "http://me:${{env:PROXY_PASSWORD}}@127.0.0.1:{proxy}"
"""


def told(proxy: Proxy) -> bytes:
    """All that processes of the proxy show of themselves."""
    shown = [proxy.stderr.read_bytes(), proxy.log_file.read_bytes()]
    for process in proxy.family()[1:]:  # the first has it from us
        shown += [Path(f"/proc/{process.pid}/{file}").read_bytes() for file in ("environ", "cmdline")]
    return b"".join(shown)


@pytest.mark.case("B-15", "D-25")
async def test_every_way_to_a_server_works_in_one_proxy_for_clients_of_every_era(
    proxy: StartProxy, server: StartServer, tmp_path: Path
):
    authority = Authority(tmp_path)
    secure = await server(name="secure", certificate=authority.server)
    async with trio.open_nursery() as nursery:
        near = await nursery.start(RawServer(name="near", unix=str(tmp_path / "near.sock")).serve)
        far = await nursery.start(RawServer(name="far").serve)
        http2 = authority.server_context()
        http2.set_alpn_protocols(["h2"])
        shared = await nursery.start(Http2Server(name="shared", tls=http2).serve)
        forward = await nursery.start(ForwardProxy().serve)
        file = tmp_path / "bulkhead.toml"
        ports = {"secure": secure.port, "far": far.port, "shared": shared.port, "proxy": forward.port}
        file.write_text(SERVERS.format(ca_file=authority.file, socket=near.unix, **ports))
        environment = {"HTTP_PROXY": f"http://127.0.0.1:{forward.port}", "PROXY_PASSWORD": CANARY}
        running = await proxy({}, "--config", str(file), env=environment)
        for era in ERAS:
            with trio.fail_after(60):
                async with http_client(running.url, era) as client:
                    for name in ("secure", "shared", "near", "far", "own"):
                        assert await client.text(f"{name}__echo", text="hello") == "hello"
                    with pytest.raises(MCPError, match="certificate of an unknown authority"):
                        await client.text("stranger__echo", text="hello")
        hosts = {request.line.split(":")[1] for request in forward.requests}
        assert hosts == {"//far.example", "//own.example"}
        assert {"proxy-authorization" in request.headers for request in forward.requests} == {True, False}
        assert CANARY.encode() not in told(running)
        nursery.cancel_scope.cancel()
