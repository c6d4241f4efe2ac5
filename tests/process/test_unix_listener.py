"""HTTP on a Unix socket: there as long as the service is, whatever happens to fronts, and gone with it."""

from __future__ import annotations

import json
import signal
import socket
import stat
from pathlib import Path

import pytest
import trio

from tests.process.harness import Root, root


async def front_behind(path: Path) -> int:
    """Return the process that serves the socket; asks again if it dies meanwhile."""
    with trio.fail_after(5):
        while True:
            try:
                async with await trio.open_unix_socket(str(path)) as stream:
                    await stream.send_all(b"\n")
                    answer = b"".join([part async for part in stream])
                if answer:
                    return json.loads(answer)["pid"]
            except trio.BrokenResourceError:
                pass
            await trio.lowlevel.checkpoint()


def arguments(tmp_path: Path, path: Path) -> list[str]:
    return ["--listen-unix", str(path), "--state-dir", str(tmp_path), "--no-admin"]


async def stopped(proxy: Root) -> None:
    proxy.signal(signal.SIGTERM)
    assert await proxy.ended() == 0


@pytest.mark.promise("R13")
async def test_the_socket_survives_fronts_and_upgrades_and_goes_with_the_service(tmp_path: Path):
    path = tmp_path / "mcp.sock"
    async with root(None, *arguments(tmp_path, path), http=False) as proxy:
        assert f"ready on /mcp of the Unix socket {path}; servers" in await proxy.line("ready on", within_s=20)
        made = path.stat()
        assert stat.S_IMODE(made.st_mode) == 0o600
        first = await front_behind(path)
        proxy.kill("front")
        second = await front_behind(path)
        assert second != first

        proxy.signal(signal.SIGUSR2)
        old = await proxy.upgraded()
        assert await proxy.ended(pid=old) == 0
        assert await front_behind(path) not in (first, second)
        assert path.stat().st_ino == made.st_ino, "the same socket, so nobody was refused"
        await stopped(proxy)
        assert not path.exists()


async def test_a_socket_that_a_killed_proxy_has_left_is_replaced_and_one_in_use_ends_the_start(tmp_path: Path):
    path = tmp_path / "mcp.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    async with root(None, *arguments(tmp_path, path), http=False) as proxy:
        await proxy.line("ready on", within_s=20)
        async with root(None, *arguments(tmp_path, path), http=False) as second:
            await second.line(r"another program listens on .*mcp\.sock; stop that one, or name another")
            assert await second.ended() == 1
        assert await front_behind(path)
        await stopped(proxy)


async def test_both_kinds_of_socket_are_served_and_a_mode_that_lets_everybody_in_is_warned_of(tmp_path: Path):
    path = tmp_path / "mcp.sock"
    async with root(None, *arguments(tmp_path, path), "--listen-unix-mode", "666") as proxy:
        await proxy.line(rf"http://127.0.0.1:{proxy.port}/mcp and /mcp of the Unix socket")
        await proxy.line(r"lets every user of this machine call every tool; --listen-unix-mode 660")
        assert await front_behind(path) == (await proxy.ask())["pid"]
