"""A server of the official SDK behind hypercorn, which speaks HTTP/2 if it is offered it."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import hypercorn.trio
import pytest
import trio
from hypercorn.config import Config
from mcp.shared.exceptions import MCPDeprecationWarning

from protocol.control import Route
from protocol.versions import Era
from tests.peers.certificates import Authority
from tests.peers.one_era import OneEra
from tests.peers.sdk_server import build
from tests.workers.backend.harness import Backend, backend


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


class Versions:
    """An application that notes which version of HTTP it is asked in."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.seen: set[tuple[str, str]] = set()
        """Methods and versions."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            self.seen.add((scope["method"], scope["http_version"]))
        await self.app(scope, receive, send)


@asynccontextmanager
async def behind_hypercorn(authority: Authority, era: str, *, http2: bool) -> AsyncIterator[tuple[Versions, Backend]]:
    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.certfile = config.keyfile = authority.server
    config.graceful_timeout = 0.1
    config.errorlog = None
    app = build("main", 0).streamable_http_app(host="127.0.0.1")
    versions = Versions(app if era == "dual" else OneEra(app, era))
    stop = trio.Event()
    with trio.fail_after(60), warnings.catch_warnings():
        warnings.simplefilter("ignore", MCPDeprecationWarning)
        async with trio.open_nursery() as nursery:

            async def serve(task_status: trio.TaskStatus[list[str]]) -> None:
                await hypercorn.trio.serve(versions, config, shutdown_trigger=stop.wait, task_status=task_status)

            (bound,) = await nursery.start(serve)
            url = f"https://127.0.0.1:{urlsplit(bound).port}/mcp"
            async with backend(url, route=Route(ca_file=authority.file, http2=http2)) as one:
                yield versions, one
            stop.set()


@pytest.mark.parametrize("http2", [True, False], ids=["HTTP/2", "HTTP/1.1"])
@pytest.mark.parametrize("era", [Era.LEGACY, Era.MODERN], ids=["legacy", "modern"])
async def test_the_official_sdk_is_called_in_the_version_that_is_configured(
    authority: Authority, era: Era, http2: bool
):
    async with behind_hypercorn(authority, era.name.lower(), http2=http2) as (versions, one):
        assert {"echo", "whoami", "slow"} <= set((await one.front.ask_list(era).done()).names)
        text = "Grüße " + "x" * 300_000
        calls = [one.front.call("echo", {"text": f"{number} {text}"}, era=era, timeout_s=30) for number in range(8)]
        for number, call in enumerate(calls):
            assert (await call.done()).text == f"{number} {text}"
        slow = await one.front.call("slow", {"seconds": 0.05}, era=era, progress=True, timeout_s=30).done()
        assert slow.text == "main slept"
        assert [params["progress"] for method, params in slow.events if method == "notifications/progress"]
        assert "echo" in (await one.front.ask_list(era).done()).names

    assert {version for _, version in versions.seen} == {"2" if http2 else "1.1"}
    if era is Era.LEGACY:
        assert {method for method, _ in versions.seen} == {"POST", "GET", "DELETE"}
