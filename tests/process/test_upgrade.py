"""SIGUSR2: a new version takes the place of the old one and no client can tell; or it does not, and none can either."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trio

from tests.peers.raw_server import RawServer, Reply, Request
from tests.peers.wire import MODERN, Wire
from tests.process.harness import Root, children, command_line, descendants, refused, root, state, wait_gone
from tests.process.test_admin import GET, ask, door, post
from tests.processes import free_port
from tests.waiting import eventually

TWO = {"main": "mcp", "other": "mcp"}
REAL = "workers.main:run"
IS_NEW = "import os, sys, time; is_new = 'MCP_BULKHEAD_HANDOVER' in os.environ\n"
NOT_THERE = """
import sys, types
from supervisor import successor
successor.sys = types.SimpleNamespace(executable="/no/such/interpreter", orig_argv=sys.orig_argv)
"""
SHORT_STOPS = "from protocol import limits; limits.WORKER_STOP_S = 0.3"
NEVER_READY = IS_NEW + "if is_new: time.sleep(1000)\n"
IMPATIENT = "from protocol import limits; limits.UPGRADE_S = 1.0\n"
EARLY_SIGNAL = """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
os.kill(os.getpid(), signal.SIGUSR2)
"""
"""It waits until the root can hear it."""
CALLERS = 32


async def upgrade(proxy: Root) -> int:
    """Upgrade, and return the process that has been replaced."""
    proxy.signal(signal.SIGUSR2)
    return await proxy.upgraded()


async def new_version(proxy: Root) -> int:
    """Return the process that is to take over, as soon as there is one."""

    async def look() -> int:
        zygote = proxy.process_of("zygote")
        return next((pid for pid in children(proxy.pid) if pid != zygote), 0)

    return await eventually(look, "a new version is started")


# --- clients ---------------------------------------------------------------------------------------------------------
class Caller:
    """A client that calls again and again on a connection that it keeps."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.calls = 0
        self.failures: list[str] = []

    async def call(self) -> None:
        text = f"{id(self)} {self.calls}"
        self.calls += 1
        try:
            answer = await self.wire.post(
                self.wire.envelope("tools/call", {"name": "main__echo", "arguments": {"text": text}})
            )
            if answer.json()["result"]["content"][0]["text"] != text:
                self.failures.append(answer.text)
        except Exception as error:  # noqa: BLE001 - whatever a client can see of an upgrade is a failure
            self.failures.append(repr(error))


@asynccontextmanager
async def callers(url: str) -> AsyncIterator[list[Caller]]:
    """Clients of both eras that have done what a client does first."""
    clients = [httpx.AsyncClient(timeout=10) for _ in range(CALLERS)]
    try:
        wires = [Wire(http, url, MODERN if index % 2 else "2025-11-25") for index, http in enumerate(clients)]
        for wire in wires:
            await wire.open()
        yield [Caller(wire) for wire in wires]
    finally:
        for http in clients:
            await http.aclose()


@pytest.mark.slow
@pytest.mark.case("C-06")
@pytest.mark.promise("R11", "R13")
async def test_an_upgrade_under_load_fails_no_call_and_keeps_every_session():
    async with trio.open_nursery() as nursery:
        server = await nursery.start(RawServer().serve)
        async with (
            root({"main": server.url}, entry=REAL) as proxy,
            callers(f"http://127.0.0.1:{proxy.port}/mcp") as clients,
        ):
            enough = trio.Event()

            async def call_on(caller: Caller) -> None:
                while not enough.is_set():
                    await caller.call()

            async with trio.open_nursery() as calling:
                for caller in clients:
                    calling.start_soon(call_on, caller)
                before = sum(caller.calls for caller in clients)
                old = await upgrade(proxy)
                during = sum(caller.calls for caller in clients)
                assert await proxy.ended(35, pid=old) == 0

                async def went_on() -> bool:
                    return sum(caller.calls for caller in clients) >= during + 5 * CALLERS

                await eventually(went_on, "clients call the new version", 10)
                enough.set()

            assert [failure for caller in clients for failure in caller.failures] == []
            assert during > before
            assert proxy.roles() == ["zygote", "front", "server main"]
        nursery.cancel_scope.cancel()


@pytest.mark.case("C-06")
@pytest.mark.promise("R11")
async def test_a_call_in_flight_is_finished_by_the_version_that_began_it_and_streams_end_as_they_should():
    go_on = trio.Event()

    async def wait(request: Request, reply: Reply) -> None:
        if request.params["arguments"]["text"] == "wait":
            await go_on.wait()
        await reply.result({"content": [{"type": "text", "text": "done"}]})

    async with trio.open_nursery() as nursery:
        server = await nursery.start(RawServer(on={"tools/call": wait}).serve)
        async with (
            root({"main": server.url}, entry=REAL) as proxy,
            httpx.AsyncClient(timeout=20) as http,
            httpx.AsyncClient(timeout=20) as http_2,
            httpx.AsyncClient(timeout=20) as http_3,
        ):
            url = f"http://127.0.0.1:{proxy.port}/mcp"
            wire, other, idle = Wire(http, url, MODERN), Wire(http_2, url, "2025-11-25"), Wire(http_3, url, MODERN)
            for one in (wire, other, idle):
                await one.open()
            answers: list[httpx.Response] = []
            stream_ended = trio.Event()

            async def call() -> None:
                arguments = {"name": "main__echo", "arguments": {"text": "wait"}}
                answers.append(await wire.post(wire.envelope("tools/call", arguments)))

            async def listen() -> None:
                headers = {**other.headers({}), "Accept": "text/event-stream"}
                async with http_2.stream("GET", url, headers=headers) as response:
                    assert response.status_code == 200
                    async for _ in response.aiter_lines():
                        pass  # raises if the last chunk is missing
                stream_ended.set()

            nursery.start_soon(call)
            nursery.start_soon(listen)
            await server.wait_for("tools/call")
            old = await upgrade(proxy)
            with trio.fail_after(5):
                await stream_ended.wait()
            last = await idle.post(idle.envelope("server/discover", None))
            assert last.headers["connection"] == "close", "the connection it had was still served"
            after = await other.post(other.envelope("tools/call", {"name": "main__echo", "arguments": {"text": "go"}}))
            assert after.json()["result"]["content"][0]["text"] == "done"
            assert state(old) in ("S", "R"), "it still has a call in flight"

            go_on.set()
            assert await proxy.ended(10, pid=old) == 0
            assert [answer.json()["result"]["content"][0]["text"] for answer in answers] == ["done"]
            assert answers[0].headers["connection"] == "close"
        nursery.cancel_scope.cancel()


async def test_a_session_that_a_client_ends_at_the_new_version_is_ended_at_the_old_one_too():
    hang = trio.Event()

    async def wait(request: Request, reply: Reply) -> None:
        await hang.wait()

    async with trio.open_nursery() as nursery:
        server = await nursery.start(RawServer(on={"tools/call": wait}).serve)
        async with (
            root({"main": server.url}, entry=REAL) as proxy,
            httpx.AsyncClient(timeout=20) as http,
        ):
            url = f"http://127.0.0.1:{proxy.port}/mcp"
            wire = Wire(http, url, "2025-11-25")
            await wire.open()
            answered = trio.Event()

            async def call() -> None:
                arguments = {"name": "main__echo", "arguments": {"text": "wait"}}
                answer = await wire.post(wire.envelope("tools/call", arguments))
                assert "result" not in answer.text
                answered.set()

            nursery.start_soon(call)
            await server.wait_for("tools/call")
            old = await upgrade(proxy)
            assert (await http.delete(url, headers=wire.headers({}))).status_code == 200

            with trio.fail_after(5):
                await answered.wait()
            assert await proxy.ended(5, pid=old) == 0
            assert (await wire.post(wire.envelope("ping", None))).status_code == 404
        nursery.cancel_scope.cancel()


# --- what is handed over ---------------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.case("C-06")
@pytest.mark.promise("R13", "R14")
async def test_one_upgrade_after_another_leaves_the_same_port_key_and_ended_sessions_and_nothing_else():
    sessions = [f"mb1.{number:05}{'x' * 60}" for number in range(1500)]
    async with root(TWO) as proxy:
        for begin in range(0, len(sessions), 500):
            await proxy.ask(f"end {','.join(sessions[begin : begin + 500])}")
        key = (await proxy.ask())["session_key"]
        for _ in range(2):
            family = descendants(proxy.pid)
            old = await upgrade(proxy)
            assert await proxy.ended(pid=old) == 0
            for pid in family:
                await wait_gone(pid)

            status = await proxy.ask("main 1")
            assert status["session_key"] == key
            assert sorted(status["ended"]) == sessions
            assert command_line(proxy.pid) == "mcp-bulkhead: root"
            assert proxy.roles() == ["zygote", "front", "server main", "server other"]
            assert children(proxy.pid) == [proxy.process_of("zygote")]
        assert len([line for line in proxy.lines if "ready on" in line]) == 3


@pytest.mark.promise("R15")
async def test_the_new_version_is_as_good_a_root_as_the_old_one_was():
    async with root(TWO) as proxy:
        old = await upgrade(proxy)
        assert await proxy.ended(pid=old) == 0
        proxy.kill("server main")
        assert (await proxy.server("main", 2))["incarnation"] == 2
        proxy.kill("front")
        assert (await proxy.ask("main 2"))["incarnation"] == 2

        family = descendants(proxy.pid)
        proxy.signal(signal.SIGKILL)
        for pid in family:
            await wait_gone(pid, 2.0)
        assert await proxy.ended() == -signal.SIGKILL


async def test_both_versions_serve_while_the_old_one_finishes_and_a_stop_waits_for_both():
    async with root(TWO) as proxy:
        await proxy.ask("drain 1")
        old_front = proxy.process_of("front")
        old = await upgrade(proxy)

        async def is_served_by_the_new_one() -> bool:
            return (await proxy.ask())["pid"] != old_front

        await eventually(is_served_by_the_new_one, "the old version has heard that it accepts nobody any more", 5)
        assert state(old_front) in ("S", "R")

        proxy.signal(signal.SIGUSR2)
        await proxy.line("no upgrade: the version before this one is still finishing its calls")
        proxy.signal(signal.SIGTERM)
        await wait_gone(proxy.pid)
        await wait_gone(old, 0.5)  # a service manager would kill what is left of it
        assert await proxy.ended(pid=old) == 0
        assert await proxy.ended() == 0


async def test_a_second_signal_stops_without_waiting_for_the_old_version():
    async with root() as proxy:
        await proxy.ask("drain 2")
        old = await upgrade(proxy)
        proxy.signal(signal.SIGTERM)
        await proxy.line("SIGTERM: finishing")
        begin = time.monotonic()
        while state(proxy.pid) not in ("", "Z"):
            proxy.signal(signal.SIGTERM)
            await trio.sleep(0.02)
            assert time.monotonic() - begin < 2.0
        assert state(old) in ("S", "R")
        assert await proxy.ended(pid=old) == 0


# --- configuration and the admin door --------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.case("C-06")
async def test_servers_changed_at_run_time_and_the_admin_socket_are_handed_on(tmp_path: Path):
    path = tmp_path / "admin.sock"
    async with root(TWO, *door(tmp_path)) as proxy:
        new = b'{"name":"new","url":"http://fake.test/mcp","force":true,"headers":{"X-Key":"a \\" b"}}'
        assert (await ask(tmp_path, post("/v1/servers", new)))[0] == 201
        assert (await ask(tmp_path, post("/v1/servers/other/disable", b"")))[0] == 200
        for _ in range(2):
            await proxy.ask("drain 1")
            old = await upgrade(proxy)
            status = (await ask(tmp_path, GET % b"/v1/status"))[1]
            assert status["processes"]["root"]["pid"] == proxy.pid, "the new version, also while the old one finishes"
            rows = [(row["name"], row["enabled"]) for row in status["servers"]["servers"]]
            assert rows == [("main", True), ("other", False), ("new", True)]
            assert await proxy.ended(pid=old) == 0
            await proxy.server("new")
            assert (await ask(tmp_path, GET % b"/v1/health"))[0] == 200
            assert proxy.roles() == ["zygote", "front", "server main", "server new"]
    assert not path.exists(), "the last version has removed it"


@pytest.mark.case("C-26")
async def test_changes_are_refused_while_a_new_version_starts_and_possible_again_when_it_has_failed(tmp_path: Path):
    new = post("/v1/servers", b'{"name":"new","url":"http://fake.test/mcp","force":true}')
    async with root(TWO, *door(tmp_path), prelude=NEVER_READY + IMPATIENT) as proxy:
        proxy.signal(signal.SIGUSR2)
        await new_version(proxy)
        status, told = await ask(tmp_path, new)
        assert (status, told["error"]) == (409, "The proxy is being upgraded; try again in a moment")

        await proxy.line("this one carries on")
        assert (await ask(tmp_path, new))[0] == 201
        await proxy.server("new")


@pytest.mark.case("C-06")
async def test_a_new_version_reads_the_configuration_file_again(tmp_path: Path):
    file = tmp_path / "c.toml"
    file.write_text('[servers.filed]\nurl = "http://fake.test/mcp"\n')
    async with root({"main": "mcp"}, "--config", str(file), *door(tmp_path)) as proxy:
        added = b'{"name":"added","url":"http://fake.test/mcp","force":true}'
        assert (await ask(tmp_path, post("/v1/servers", added)))[1]["persisted"] is True
        old = await upgrade(proxy)
        assert await proxy.ended(pid=old) == 0
        listed = (await ask(tmp_path, GET % b"/v1/servers"))[1]["servers"]
        assert sorted(row["name"] for row in listed) == ["added", "filed", "main"]

        good = file.read_text()
        file.write_text("nonsense")
        proxy.signal(signal.SIGUSR2)
        await proxy.line("the new version failed with exit status 2; this one carries on")
        file.write_text(good)
        assert (await ask(tmp_path, GET % b"/v1/health"))[1]["total_servers"] == 3


# --- what goes wrong -------------------------------------------------------------------------------------------------
@pytest.mark.case("C-26", "C-28")
@pytest.mark.parametrize(
    ("prelude", "reason"),
    [
        (IS_NEW + "if is_new: sys.exit(3)", "failed with exit status 3"),
        (NEVER_READY + IMPATIENT, "was not ready after 1 s"),
        (IS_NEW + "if is_new: del os.environ['MCP_BULKHEAD_HANDOVER']", "failed with exit status 1"),
        (IS_NEW + "if is_new: sys.argv[1:] = ['--no-such-option']", "failed with exit status 2"),
        (NOT_THERE, "could not be started: No such file"),
        (
            IS_NEW + "from supervisor import handover\nif is_new: handover.encode = lambda message: b'nonsense'",
            "said something that makes no sense",
        ),
    ],
    ids=["ends", "is-late", "knows-no-upgrade", "wrong-arguments", "is-not-there", "nonsense"],
)
async def test_a_new_version_that_does_not_take_over_changes_nothing(prelude: str, reason: str):
    async with root(TWO, prelude=prelude, port=free_port()) as proxy:
        before = await proxy.server("main"), await proxy.server("other"), await proxy.ask()
        family = descendants(proxy.pid)

        for number in (1, 2) if "exit(3)" in prelude else (1,):  # one that failed does not stand in the next one's way
            proxy.signal(signal.SIGUSR2)
            await proxy.line(f"the new version {reason}.*; this one carries on", number=number, within_s=20)

        assert (await proxy.server("main"), await proxy.server("other"), await proxy.ask()) == before

        async def only_the_old_one_is_left() -> bool:
            return descendants(proxy.pid) == family

        await eventually(only_the_old_one_is_left, "nothing is left of the new version")


@pytest.mark.case("C-06")
async def test_a_new_version_that_is_killed_before_it_has_taken_over_is_cleared_away_with_all_it_started():
    async with root({"main": "mcp", "slow": "hang"}, prelude=SHORT_STOPS) as proxy:  # "hang" makes it wait
        before = await proxy.server("main")
        proxy.signal(signal.SIGUSR2)
        new = await new_version(proxy)

        async def has_workers() -> bool:
            return len(descendants(new)) == 4

        await eventually(has_workers, "the new version has started its workers", 20)
        family = descendants(new)
        os.kill(new, signal.SIGKILL)
        await proxy.line("the new version was killed by SIGKILL; this one carries on")
        for pid in family:
            await wait_gone(pid, 2.0)

        assert await proxy.server("main") == before
        assert children(proxy.pid) == [proxy.process_of("zygote")]
        proxy.kill("server main")
        assert (await proxy.server("main", 2))["incarnation"] == 2


@pytest.mark.promise("R15")
async def test_a_new_version_does_not_outlive_the_old_one_before_it_has_taken_over():
    async with root({"slow": "hang"}) as proxy:
        proxy.signal(signal.SIGUSR2)
        new = await new_version(proxy)

        async def has_workers() -> bool:
            return len(descendants(new)) == 3

        await eventually(has_workers, "the new version has started its workers", 20)
        family = [new, *descendants(new)]
        proxy.signal(signal.SIGKILL)
        for pid in family:
            await wait_gone(pid, 2.0)
        await proxy.ended()


@pytest.mark.promise("R15")
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_new_version_that_has_hardly_begun_does_not_outlive_the_old_one_either(when: str):
    """Before and after it has taken over the sockets, by which it ties its life to the old one's."""
    stop = IS_NEW + "if is_new: import signal; from supervisor import linux\nstop = lambda: os.kill(os.getpid(), 19)\n"
    prelude = stop + ("if is_new: stop()" if when == "before" else "if is_new: linux.set_limits = stop")
    async with root(prelude=prelude) as proxy:
        proxy.signal(signal.SIGUSR2)
        new = await new_version(proxy)

        async def has_stopped() -> bool:
            return state(new) == "T"

        await eventually(has_stopped, "the new version has come to where it stops")
        proxy.signal(signal.SIGKILL)
        await proxy.ended()
        if when == "before":
            os.kill(new, signal.SIGCONT)
        await wait_gone(new, 2.0)

        async def is_closed() -> bool:
            return refused(proxy.port)

        await eventually(is_closed, "the old front, which holds the socket too, has ended", 2.0)


async def test_a_stop_during_an_upgrade_stops_both():
    async with root({"slow": "hang"}, prelude=SHORT_STOPS) as proxy:
        proxy.signal(signal.SIGUSR2)
        new = await new_version(proxy)
        proxy.signal(signal.SIGTERM)

        await wait_gone(new)
        assert await proxy.ended() == 0


async def test_there_is_one_upgrade_at_a_time():
    async with root(prelude=NEVER_READY) as proxy:
        proxy.signal(signal.SIGUSR2)
        new = await new_version(proxy)
        proxy.signal(signal.SIGUSR2)
        await proxy.line("SIGUSR2: no upgrade: one is under way")

        assert state(new) in ("S", "R", "D")


async def test_who_does_not_serve_yet_has_nothing_to_hand_over():
    async with root(TWO, prelude=EARLY_SIGNAL, wait=False) as proxy:
        await proxy.line("SIGUSR2: no upgrade: this version is not ready itself", within_s=20)
        await proxy.line("ready on", within_s=20)


async def test_an_upgrade_is_refused_to_whom_a_client_has_started():
    async with root({"main": "mcp"}, "--stdio", stdin=subprocess.PIPE) as proxy:
        await proxy.server("main")
        before = descendants(proxy.pid)
        proxy.signal(signal.SIGUSR2)
        await proxy.line("SIGUSR2: no upgrade: the client on standard input started this process")

        assert descendants(proxy.pid) == before


@pytest.mark.case("C-06")
async def test_an_upgrade_that_the_whole_group_is_told_of_is_for_the_root_alone_to_make():
    async with root(TWO) as proxy:
        await proxy.server("main")
        os.killpg(proxy.pid, signal.SIGUSR2)
        old = await proxy.upgraded()

        assert await proxy.ended(pid=old) == 0
        assert not [line for line in proxy.lines if "killed" in line]
