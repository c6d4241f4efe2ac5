"""Under a service manager: what it is told over its socket, and sockets that it hands to us."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from protocol.limits import FRONTS_MAX
from supervisor.activation import SOCKETS_MAX
from tests.catalogue import CHECKOUT
from tests.peers.raw_server import RawServer
from tests.process.harness import WAIT_S, Root, descendants, refused, root, state
from tests.process.test_upgrade import REAL
from tests.waiting import eventually
from tests.workers.scripted import Client

MAIN = ["--servers", "main=http://localhost:9/mcp"]
STUCK_ON_HANGUP = """
import time
from supervisor.news import News
News.hangup = lambda self, name: time.sleep(1000)
"""
LAUNCHER = """
import fcntl, os, sys
fds = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 100) for number in sys.argv[1].split(",")]
for index, fd in enumerate(fds):
    os.dup2(fd, 3 + index, inheritable=True)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execvp(sys.argv[2], sys.argv[2:])
"""
"""Does what a service manager does: descriptors from 3 on, and a variable with the number of the process to be."""


class Manager:
    """A service manager's end of its socket."""

    def __init__(self, sock: trio.socket.SocketType, address: str) -> None:
        self.sock = sock
        self.address = address
        self.heard: list[str] = []

    async def wait_for(self, pattern: str, within_s: float = WAIT_S) -> str:
        """Return the next message that matches."""
        try:
            with trio.fail_after(within_s):
                while True:
                    self.heard.append((await self.sock.recv(4096)).decode())
                    if re.search(pattern, self.heard[-1]):
                        return self.heard[-1]
        except trio.TooSlowError:
            raise AssertionError(f"nothing like {pattern!r} in {self.heard}") from None

    async def hears(self, pattern: str) -> str:
        """Return the first message that matches, which may have come already: servers and clients are not in step."""
        return next((told for told in self.heard if re.search(pattern, told)), "") or await self.wait_for(pattern)

    async def falls_silent(self, for_s: float) -> bool:
        """Return whether within a few messages there comes a time in which nothing is said."""
        for _ in range(5):
            with trio.move_on_after(for_s) as silence:
                self.heard.append((await self.sock.recv(4096)).decode())
            if silence.cancelled_caught:
                return True
        return False

    def environ(self, watchdog_s: float = 0.0) -> dict[str, str]:
        watchdog = {"WATCHDOG_USEC": str(round(watchdog_s * 1e6))} if watchdog_s else {}
        return {"NOTIFY_SOCKET": self.address, **watchdog}


@asynccontextmanager
async def manager(address: str = "") -> AsyncIterator[Manager]:
    address = address or f"@mcp-bulkhead-manager-{os.getpid()}"
    with trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        await sock.bind(address.replace("@", "\0", 1))
        yield Manager(sock, address)


def environment(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


# --- what the manager is told ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["path", "abstract"])
async def test_the_manager_hears_of_the_start_the_servers_and_the_stop(tmp_path: Path, kind: str):
    async with (
        manager(str(tmp_path / "notify") if kind == "path" else "") as systemd,
        root({"main": "mcp", "other": "mcp", "bad": "hang"}, environ=systemd.environ()) as proxy,
    ):
        await systemd.wait_for("^READY=1")
        assert not refused(proxy.port), "whoever was waiting for it can connect"
        await systemd.hears("(?m)^STATUS=3 servers: 2 healthy, 1 unknown$")
        for pid in descendants(proxy.pid):
            assert b"NOTIFY_SOCKET" not in environment(pid), "a child must not speak for the service"

        async def is_there() -> bool:
            return proxy.process_of("server bad") != 0

        await eventually(is_there, "the worker that hangs has its title")
        proxy.kill("server bad")
        proxy.signal(signal.SIGTERM)
        assert "STATUS=finishing the calls in flight" in await systemd.wait_for("^STOPPING=1")
        await proxy.ended(10)


async def test_who_asks_the_manager_for_a_reload_does_not_wait_for_ever():
    async with manager() as systemd, root(environ=systemd.environ()) as proxy:
        await systemd.wait_for("^READY=1")
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        proxy.signal(signal.SIGHUP)
        reloading = await systemd.wait_for(r"^RELOADING=1\nMONOTONIC_USEC=\d+")
        await systemd.wait_for("READY=1")

        at = int(re.findall(r"MONOTONIC_USEC=(\d+)", reloading)[0])
        assert before <= at <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


async def test_the_manager_hears_of_a_reload_when_it_has_been_done(tmp_path: Path):
    file = tmp_path / "c.toml"
    file.write_text("servers = {}\n")
    async with manager() as systemd, root(None, "--config", str(file), environ=systemd.environ()) as proxy:
        await systemd.wait_for("^READY=1")
        file.write_text('[servers.filed]\nurl = "http://fake.test/mcp"\n')
        proxy.signal(signal.SIGHUP)
        await systemd.wait_for(r"^RELOADING=1\nMONOTONIC_USEC=\d+")
        await systemd.wait_for("READY=1")
        await proxy.line("server filed: added")

        file.write_text("nonsense")
        proxy.signal(signal.SIGHUP)
        await systemd.wait_for("RELOADING=1")
        await systemd.wait_for("READY=1")


@pytest.mark.case("C-02")
async def test_signs_of_life_end_when_the_loop_of_the_root_stands_still():
    async with manager() as systemd, root(prelude=STUCK_ON_HANGUP, environ=systemd.environ(watchdog_s=0.4)) as proxy:
        await systemd.wait_for("^READY=1")
        begin = time.monotonic()
        for _ in range(4):
            await systemd.wait_for("WATCHDOG=1")
        assert 0.5 < time.monotonic() - begin < 4.0, "twice in the time allowed, and no more"

        proxy.signal(signal.SIGHUP)
        assert await systemd.falls_silent(for_s=1.0)
        assert state(proxy.process_of("front")) in ("S", "R"), "only the root stands still"
        proxy.signal(signal.SIGKILL)
        await proxy.ended()


async def test_a_watchdog_of_another_process_gets_no_signs_of_life():
    environ = {"WATCHDOG_USEC": "100000", "WATCHDOG_PID": "1"}
    async with manager() as systemd, root(environ={**systemd.environ(), **environ}):
        await systemd.wait_for("^READY=1")
        await systemd.hears("STATUS=1 server: 1 healthy")
        assert await systemd.falls_silent(for_s=0.5)
        assert not [message for message in systemd.heard if "WATCHDOG" in message]


@pytest.mark.case("C-18")
async def test_a_manager_that_is_not_there_changes_nothing(tmp_path: Path):
    async with root(environ={"NOTIFY_SOCKET": str(tmp_path / "nobody"), "WATCHDOG_USEC": "100000"}) as proxy:
        assert (await proxy.server("main"))["incarnation"] == 1


@pytest.mark.case("C-06")
async def test_the_manager_hears_of_an_upgrade_and_then_from_the_new_version_alone():
    async with manager() as systemd, root(environ=systemd.environ(watchdog_s=2.0)) as proxy:
        await systemd.wait_for("^READY=1")
        await proxy.ask("drain 1")
        proxy.signal(signal.SIGUSR2)
        await systemd.wait_for("^RELOADING=1")
        told = await systemd.wait_for("^MAINPID=")
        old = await proxy.upgraded()

        assert told.split("\n")[:2] == [f"MAINPID={proxy.pid}", "READY=1"]
        await systemd.wait_for("^READY=1")
        await systemd.wait_for("WATCHDOG=1")
        assert await proxy.ended(pid=old) == 0
        await systemd.wait_for("WATCHDOG=1")
        assert not [message for message in systemd.heard if "STOPPING" in message], "the service does not stop"


async def test_the_manager_hears_of_the_end_of_an_upgrade_that_failed():
    fails = "import os, sys; 'MCP_BULKHEAD_HANDOVER' in os.environ and sys.exit(3)"
    async with manager() as systemd, root(prelude=fails, environ=systemd.environ()) as proxy:
        await systemd.wait_for("^READY=1")
        proxy.signal(signal.SIGUSR2)
        await systemd.wait_for("^RELOADING=1")
        await systemd.wait_for("^READY=1")

        assert not [message for message in systemd.heard if "MAINPID" in message]


# --- sockets from the manager ----------------------------------------------------------------------------------------
@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def launch(*socks: socket.socket, names: str = "", count: str = "") -> dict[str, object]:
    """Return the options that make `root` start with these sockets."""
    numbers = ",".join(str(sock.fileno()) for sock in socks)
    environ = {"LISTEN_FDS": count or str(len(socks)), **({"LISTEN_FDNAMES": names} if names else {})}
    return {
        "wrap": [sys.executable, "-c", LAUNCHER, numbers],
        "pass_fds": [sock.fileno() for sock in socks],
        "environ": environ,
    }


def run_activated(*arguments: str, sock: socket.socket, **names: str) -> subprocess.CompletedProcess[str]:
    """Run the proxy as a user does, with this socket, to its end."""
    given = launch(sock, **names)
    command = [*given["wrap"], sys.executable, "-m", "supervisor", *arguments]  # type: ignore[misc]
    return subprocess.run(
        command,
        cwd=CHECKOUT,
        env={**os.environ, **given["environ"]},  # type: ignore[dict-item]
        pass_fds=given["pass_fds"],  # type: ignore[arg-type]
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


@pytest.mark.promise("R13")
async def test_clients_who_came_before_the_proxy_are_served_on_the_sockets_it_was_handed(listener: socket.socket):
    port = listener.getsockname()[1]
    with socket.create_connection(("127.0.0.1", port), timeout=5) as early:
        early.sendall(b"main 1\n")
        async with root(**launch(listener, names="web"), port=1) as proxy:  # type: ignore[arg-type]
            assert proxy.port == port
            assert b'"pid"' in await trio.to_thread.run_sync(early.recv, 65536)
            for pid in (proxy.process_of("zygote"), proxy.process_of("server main")):
                assert b"LISTEN_" not in environment(pid)
            proxy.signal(signal.SIGTERM)
            assert await proxy.ended() == 0
    assert not refused(port), "the manager still has it, and starts the proxy for the next client"


@pytest.mark.promise("R13")
async def test_sockets_from_the_manager_survive_an_upgrade(listener: socket.socket):
    async with root(**launch(listener), port=1) as proxy:  # type: ignore[arg-type]
        proxy.signal(signal.SIGUSR2)
        old = await proxy.upgraded()
        assert await proxy.ended(pid=old) == 0
        assert proxy.port == listener.getsockname()[1]
        assert (await proxy.server("main"))["incarnation"] == 1


async def test_several_sockets_and_a_unix_socket_are_served_alike(tmp_path: Path):
    with (
        socket.create_server(("127.0.0.1", 0)) as first,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as second,
    ):
        second.bind(str(tmp_path / "mcp.sock"))
        second.listen()
        async with root(**launch(first, second), port=1) as proxy:  # type: ignore[arg-type]
            line = await proxy.line("ready on")
            assert f"http://127.0.0.1:{proxy.port}/mcp and /mcp of the Unix socket {tmp_path}/mcp.sock; servers" in line
            async with await trio.open_unix_socket(str(tmp_path / "mcp.sock")) as stream:
                await stream.send_all(b"\n")
                with trio.fail_after(5):
                    assert b'"pid"' in await stream.receive_some()


@pytest.mark.promise("R13")
async def test_sockets_from_the_manager_are_shared_by_all_fronts(tmp_path: Path, nursery: trio.Nursery):
    """As many of both as there may be. A session of one front is reached through the sockets of another."""
    server = await nursery.start(RawServer(era="legacy").serve)
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(SOCKETS_MAX - 1)]
        local = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        local.bind(path := str(tmp_path / "mcp.sock"))
        local.listen()
        given: dict[str, Any] = launch(*sockets, local)
        async with root({"main": server.url}, "--fronts", str(FRONTS_MAX), port=1, entry=REAL, **given) as proxy:
            await proxy.line("ready on")
            names = [f"front #{number}" if number > 1 else "front" for number in range(1, FRONTS_MAX + 1)]
            await eventually(partial(all_there, proxy, names), "all fronts are there")
            async with Client(await trio.open_unix_socket(path)) as first:  # type: ignore[arg-type]
                await first.initialize("2025-11-25")
                for number, sock in enumerate(sockets):
                    async with Client(await trio.open_tcp_stream(*sock.getsockname())) as guest:
                        guest.session, guest.version = first.session, first.version
                        await guest.call("main__echo", arguments={"text": str(number)})
                        assert (await guest.answer()).final["result"]["content"][0]["text"] == str(number)


async def all_there(proxy: Root, names: list[str]) -> bool:
    return all(proxy.process_of(name) for name in names)


async def test_sockets_that_were_meant_for_another_process_are_ignored():
    async with root(environ={"LISTEN_FDS": "1", "LISTEN_PID": "1"}) as proxy:
        assert (await proxy.server("main"))["incarnation"] == 1


@pytest.mark.case("C-26")
def test_sockets_that_cannot_be_used_end_the_start_for_good_and_say_what_to_do(listener: socket.socket):
    with socket.socket() as idle:
        wrong = run_activated("--http", *MAIN, sock=idle)
    many = run_activated("--http", *MAIN, sock=listener, count="100")
    unnamed = run_activated("--http", *MAIN, sock=listener, names="a:b")
    unwanted = run_activated("--stdio", *MAIN, sock=listener)

    for ended, named in (
        (wrong, "descriptor 3 from LISTEN_FDS does not listen for connections"),
        (many, "LISTEN_FDS is '100' where 1 to 8 sockets are expected"),
        (unnamed, "LISTEN_FDNAMES has 2 names for 1 sockets"),
        (unwanted, "add it, or start without the socket unit"),
    ):
        assert ended.returncode == 78, ended.stderr
        assert ended.stderr.count("\n") == 1, ended.stderr
        assert named in ended.stderr
    assert not refused(listener.getsockname()[1]), "whoever else has the socket is unharmed"
