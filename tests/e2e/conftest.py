"""Fixtures for whole-proxy tests: one proxy that many tests share, and clients in front of it over HTTP and stdio."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from tests.peers.clients import Client, http_client, stdio_proxy_client
from tests.processes import Proxy

ConnectClient = Callable[[str], AbstractAsyncContextManager[Client]]


@pytest.fixture(scope="session")
def shared_proxy(sdk_servers: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """One proxy over HTTP in front of a server of each era ("dual", "legacy", "modern"), for tests that harm none."""
    proxy = Proxy(sdk_servers, tmp_path_factory.mktemp("shared") / "proxy.log")
    try:
        yield proxy
        proxy.stop()
    finally:
        proxy.destroy()


@pytest.fixture(params=["http", "stdio"])
def connect_client(request: pytest.FixtureRequest, tmp_path: Path) -> ConnectClient:
    """Connect a client of an era to a proxy in front of the three servers: over HTTP to the shared one, over stdio to
    one of its own."""
    if request.param == "http":
        proxy: Proxy = request.getfixturevalue("shared_proxy")
        return lambda era: http_client(proxy.url, era)
    servers: dict[str, str] = request.getfixturevalue("sdk_servers")
    return lambda era: stdio_proxy_client(servers, era, tmp_path)
