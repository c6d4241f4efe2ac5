"""The admin door of a real root: who gets in, what is refused, and that `ctl` finds its way."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from protocol.limits import ADMIN_CONNECTIONS_MAX, MANAGE_ARGUMENTS_BYTES_MAX
from tests.catalogue import CHECKOUT
from tests.process.harness import Root, root, wait_gone
from tests.waiting import eventually, wait_until

Json = dict[str, Any]
GET = b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n"


def door(folder: Path) -> list[str]:
    return ["--admin-socket", str(folder / "admin.sock")]


def converse(path: Path, *parts: bytes) -> bytes:
    """Send the parts, say no more, and return everything that comes back."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(10)
        sock.connect(str(path))
        with contextlib.suppress(BrokenPipeError):  # it may have hung up on us already
            for part in parts:
                sock.sendall(part)
            sock.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: sock.recv(65_536), b""))


async def ask(folder: Path, *parts: bytes) -> tuple[int, Json]:
    """Return status and body of the last answer."""
    answer = await trio.to_thread.run_sync(converse, folder / "admin.sock", *parts)
    head, _, body = answer.rpartition(b"\r\n\r\n")
    return int(head.rpartition(b"HTTP/1.1 ")[2].split()[0]), json.loads(body)


def post(path: str, body: bytes, method: str = "POST") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def ctl(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `mcp-bulkhead ctl` as a user does, to its end."""
    command = [sys.executable, "-m", "supervisor", "ctl", *arguments]
    return await trio.run_process(  # type: ignore[return-value]
        command, cwd=CHECKOUT, capture_stdout=True, capture_stderr=True, check=False
    )


# --- the API ---------------------------------------------------------------------------------------------------------
async def test_servers_are_managed_over_the_socket_and_workers_nobody_asked_about_stay(tmp_path: Path):
    async with root({"main": "mcp"}, *door(tmp_path)) as proxy:
        main = await proxy.server("main")
        assert (await ask(tmp_path, GET % b"/v1/health"))[0] == 200
        listed = (await ask(tmp_path, GET % b"/v1/servers"))[1]
        assert [(row["name"], row["pid"]) for row in listed["servers"]] == [("main", main["pid"])]

        new = b'{"name":"new","url":"http://fake.test/mcp","force":true}'
        status, told = await ask(tmp_path, post("/v1/servers", new))
        assert (status, told["success"], told["persisted"]) == (201, True, False)
        first = await proxy.server("new")
        assert (await ask(tmp_path, post("/v1/servers/new/disable", b"")))[0] == 200
        await proxy.line("server new: disabled")
        assert (await ask(tmp_path, post("/v1/servers/new/enable", b"")))[0] == 200
        second = await proxy.server("new", int(str(first["incarnation"])) + 1)
        assert second["pid"] != first["pid"]
        assert (await ask(tmp_path, post("/v1/servers/new", b"", "DELETE")))[0] == 200
        status, told = await ask(tmp_path, post("/v1/servers/new", b"", "DELETE"))
        assert (status, told["available_servers"]) == (404, ["main"])
        status, told = await ask(tmp_path, GET % b"/v1/servers/main/logs?lines=1")
        assert (status, len(told["lines"])) == (200, 1)
        assert await proxy.server("main") == main


@pytest.fixture
async def shared_root(tmp_path: Path):
    async with root({"main": "mcp"}, *door(tmp_path)):
        yield tmp_path


WRONG = [
    (b"nonsense\r\n\r\n", 400),
    (b"GET /v1/servers HTTP/1.1\r\n\r\n", 400),
    (GET % b"/", 404),
    (GET % b"/v1/servers/main", 404),
    (post("/v1/servers/main/health", b""), 404),
    (post("/v1/servers", b"{"), 400),
    (post("/v1/servers", b'{"operation":"remove","name":"main"}'), 400),
    (post("/v1/servers", b'{"name":"x","url":"http://x/","command":"sh"}'), 400),
    (post("/v1/servers", b'{"name":"x","url":"http://x/","transport":"stdio"}'), 400),
    (post("/v1/servers", b" " * 10 * MANAGE_ARGUMENTS_BYTES_MAX), 413),
    (GET % b"/v1/servers/main/logs?lines=many", 400),
]


@pytest.mark.case("D-12")
async def test_what_makes_no_sense_is_refused_and_harms_nobody(shared_root: Path):
    for request_bytes, status in WRONG:
        found, told = await ask(shared_root, request_bytes)
        assert (found, told["success"]) == (status, False), request_bytes[:80]

    assert (await ask(shared_root, GET % b"/v1/health"))[1]["total_servers"] == 1


@pytest.mark.promise("R14")
async def test_servers_that_come_and_go_leave_no_process_and_no_descriptor(tmp_path: Path):
    async with root({"main": "mcp"}, *door(tmp_path)) as proxy:
        main = await proxy.server("main")
        await ask(tmp_path, GET % b"/v1/health")
        pids = [proxy.pid, proxy.process_of("zygote"), proxy.process_of("server main")]
        before = [len(os.listdir(f"/proc/{pid}/fd")) for pid in pids]
        incarnation = 0
        for _ in range(15):
            new = b'{"name":"new","url":"http://fake.test/mcp","force":true}'
            assert (await ask(tmp_path, post("/v1/servers", new)))[0] == 201
            there = await proxy.server("new", incarnation + 1)
            incarnation = int(str(there["incarnation"]))
            assert (await ask(tmp_path, post("/v1/servers/new", b"", "DELETE")))[0] == 200
            await wait_gone(int(str(there["pid"])))

        await ask(tmp_path, GET % b"/v1/health")

        async def as_before() -> bool:  # the root hears of the last end a moment after us
            return [len(os.listdir(f"/proc/{pid}/fd")) for pid in pids] == before

        await eventually(as_before, "every descriptor is closed")
        assert proxy.roles() == ["zygote", "front", "server main"]
        assert await proxy.server("main") == main


async def test_requests_come_byte_by_byte_and_many_on_one_connection(shared_root: Path):
    whole = (GET % b"/v1/health") * 3
    answer = await trio.to_thread.run_sync(converse, shared_root / "admin.sock", *(bytes([one]) for one in whole))

    assert answer.count(b"HTTP/1.1 200 OK") == 3


async def test_more_connections_than_allowed_are_turned_away_and_the_root_goes_on(shared_root: Path):
    idle = []
    for _ in range(ADMIN_CONNECTIONS_MAX):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(str(shared_root / "admin.sock"))
        sock.sendall(b"GET /v1/he")  # and nothing more
        idle.append(sock)

    status, told = await ask(shared_root, b"")
    assert status == 503
    assert "too many connections" in told["error"]
    for sock in idle:
        sock.close()

    async def free() -> bool:
        return (await ask(shared_root, GET % b"/v1/health"))[0] == 200

    with trio.fail_after(5):
        while not await free():  # noqa: ASYNC110 - nothing tells when the root has seen them go
            await trio.sleep(0.01)


async def test_what_was_added_comes_back_with_a_new_zygote_and_what_was_disabled_does_not(tmp_path: Path):
    async with root({"main": "mcp", "off": "mcp"}, *door(tmp_path)) as proxy:
        await proxy.server("off")
        new = b'{"name":"new","url":"http://fake.test/mcp","force":true}'
        assert (await ask(tmp_path, post("/v1/servers", new)))[0] == 201
        assert (await ask(tmp_path, post("/v1/servers/off/disable", b"")))[0] == 200
        first = await proxy.server("new")
        proxy.kill("zygote")
        again = await proxy.server("new", int(str(first["incarnation"])) + 1)
        await proxy.server("main", 2)

        assert again["front"] == 2
        assert sorted(proxy.roles()) == ["front", "server main", "server new", "zygote"]
        listed = (await ask(tmp_path, GET % b"/v1/servers"))[1]
        assert [(row["name"], row["enabled"]) for row in listed["servers"]] == [
            ("main", True), ("off", False), ("new", True),
        ]  # fmt: skip


# --- the socket ------------------------------------------------------------------------------------------------------
@pytest.mark.case("D-12")
async def test_only_its_owner_may_use_the_socket_and_it_goes_with_the_proxy(tmp_path: Path):
    async with root(None, *door(tmp_path)) as proxy:
        status = (tmp_path / "admin.sock").stat()
        assert stat.S_ISSOCK(status.st_mode)
        assert stat.S_IMODE(status.st_mode) == 0o600
        proxy.signal(signal.SIGTERM)
        assert await proxy.ended() == 0

    assert os.listdir(tmp_path) == []


@pytest.mark.case("D-12")
async def test_another_user_is_turned_away_before_a_byte_is_read(tmp_path: Path):
    prelude = "from supervisor import admin; admin.peer_uid = lambda sock: 4711"
    async with root(None, *door(tmp_path), prelude=prelude) as proxy:
        answer = await trio.to_thread.run_sync(converse, tmp_path / "admin.sock", b"")

        assert answer == b""
        await proxy.line("user 4711 was turned away from the admin socket")
        assert (await proxy.ask())["incarnation"] == 1


@pytest.mark.case("C-27")
async def test_a_second_proxy_on_one_socket_is_refused_and_the_first_is_unharmed(tmp_path: Path):
    async with root(None, *door(tmp_path)) as first:
        async with root(None, *door(tmp_path), wait=False) as second:
            assert await second.ended() == 1
            await second.line("another program listens on .*admin.sock; stop that one, or name another")
        assert (await ask(tmp_path, GET % b"/v1/status"))[1]["processes"]["root"]["pid"] == first.pid


@pytest.mark.case("C-27")
async def test_a_first_proxy_that_is_stopped_still_has_its_socket(tmp_path: Path):
    async with root(None, *door(tmp_path)) as first:
        first.signal(signal.SIGSTOP)
        async with root(None, *door(tmp_path), wait=False) as second:
            assert await second.ended() == 1
        first.signal(signal.SIGCONT)
        assert (await ask(tmp_path, GET % b"/v1/health"))[0] == 200


@pytest.mark.case("C-27")
async def test_the_socket_of_a_killed_proxy_is_replaced(tmp_path: Path):
    async with root(None, *door(tmp_path)) as first:
        first.signal(signal.SIGKILL)
        await first.ended()
        assert os.listdir(tmp_path) == ["admin.sock"]
        async with root(None, *door(tmp_path)) as second:
            assert (await ask(tmp_path, GET % b"/v1/status"))[1]["processes"]["root"]["pid"] == second.pid


@pytest.mark.case("C-17", "C-27")
async def test_what_is_in_the_way_of_the_socket_is_never_removed(tmp_path: Path):
    (tmp_path / "admin.sock").write_text("precious")
    async with root(None, *door(tmp_path), wait=False) as proxy:
        assert await proxy.ended() == 1
        await proxy.line("admin.sock is there and is no socket; remove it, or name another")

    assert (tmp_path / "admin.sock").read_text() == "precious"


@pytest.mark.case("C-17")
async def test_a_place_where_no_socket_can_be_made_costs_a_warning_unless_it_was_asked_for(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    async with root(None, "--state-dir", str(tmp_path / "file")) as proxy:
        await proxy.line("the admin socket cannot be made at .*(File exists|Not a directory).*--admin-socket")
        await proxy.ask()
    async with root(None, "--admin-socket", str(tmp_path / "file" / "x"), wait=False) as proxy:
        assert await proxy.ended() == 1


# --- ctl -------------------------------------------------------------------------------------------------------------
async def run_of(proxy: Root, tmp_path: Path, *arguments: str) -> tuple[int, str, str]:
    ended = await ctl("--state-dir", str(tmp_path), *arguments)
    return ended.returncode, ended.stdout.decode(), ended.stderr.decode()  # type: ignore[attr-defined]


async def test_ctl_finds_the_proxy_and_shows_people_tables_and_scripts_json(tmp_path: Path):
    async with root({"main": "mcp?token=hunter2"}, "--state-dir", str(tmp_path)) as proxy:
        main = await proxy.server("main")
        status, out, err = await run_of(proxy, tmp_path, "list")
        assert (status, err) == (0, "")
        assert out.splitlines()[0].split() == [
            "NAME", "STATE", "HEALTH", "TOOLS", "ERRORS", "RESTARTS", "UPTIME", "PID", "URL/COMMAND",
        ]  # fmt: skip
        row = out.splitlines()[1].split()
        assert row[:3] == ["main", "ready", "healthy"]
        assert row[-2:] == [str(main["pid"]), "http://fake.test/mcp?token=[redacted]"]
        status, out, err = await run_of(proxy, tmp_path, "list", "--json")
        assert json.loads(out)["servers"][0]["pid"] == main["pid"]

        assert (await run_of(proxy, tmp_path, "add", "new", "http://fake.test/mcp", "--force"))[:2] == (
            0, "Server 'new' added without a check\n",
        )  # fmt: skip
        assert (await run_of(proxy, tmp_path, "disable", "new"))[0] == 0
        status, out, err = await run_of(proxy, tmp_path, "remove", "nobody")
        assert (status, out) == (1, "")
        assert err == ("mcp-bulkhead ctl: Server 'nobody' not found\nmcp-bulkhead ctl: the servers are: main, new\n")
        status, out, err = await run_of(proxy, tmp_path, "status")
        assert status == 0
        assert out.startswith("Multi-Server MCP Proxy ")
        assert (await run_of(proxy, tmp_path, "logs", "main", "-n", "1"))[1].endswith(f" ready: pid {main['pid']}\n")


async def test_ctl_says_what_to_do_when_there_is_no_proxy_or_more_than_one(tmp_path: Path):
    status, out, err = await run_of(None, tmp_path, "list")  # type: ignore[arg-type]
    assert (status, out) == (3, "")
    assert f"no running proxy was found (looked in {tmp_path}); start one with mcp-bulkhead --http" in err
    async with (
        root(None, "--state-dir", str(tmp_path)) as one,
        root(None, "--state-dir", str(tmp_path)) as other,
    ):
        status, out, err = await run_of(one, tmp_path, "list")
        assert (status, out) == (3, "")
        assert f"admin-{one.port}.sock" in err
        assert f"admin-{other.port}.sock" in err
        status, out, err = await run_of(one, tmp_path, "--port", str(other.port), "status", "--json")
        assert json.loads(out)["processes"]["root"]["pid"] == other.pid


async def test_ctl_tells_wrong_arguments_in_one_line():
    wrong = {
        "": "COMMAND",
        "explode": "explode",
        "add x": "URL",
        "add x y --header z": "NAME:VALUE",
        "add x y --command z": "its URL",
    }
    for arguments, named in wrong.items():
        ended = await ctl(*arguments.split())
        err = ended.stderr.decode()  # type: ignore[attr-defined]
        assert (ended.returncode, err.count("\n")) == (2, 1), err
        assert named in err


async def test_a_proxy_on_standard_input_is_found_too_and_leaves_no_socket(tmp_path: Path):
    arguments = ["--stdio", "--state-dir", str(tmp_path)]
    async with root(None, *arguments, http=False, stdin=subprocess.PIPE) as proxy:
        await proxy.line("ready on standard input")
        assert (await run_of(proxy, tmp_path, "status"))[0] == 0

    await trio.to_thread.run_sync(wait_until, lambda: not os.listdir(tmp_path), "nothing is left")


# --- the port --------------------------------------------------------------------------------------------------------
async def knock(port: int, request: bytes) -> tuple[int, Json, bytes]:
    """Return status, body and everything of the one answer."""
    with trio.fail_after(10):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(request)
            await stream.send_eof()
            answer = b"".join([part async for part in stream])
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body), answer


@pytest.mark.case("D-12")
async def test_the_port_opens_to_the_token_alone_and_ctl_brings_it(tmp_path: Path):
    async with root({"main": "mcp"}, "--state-dir", str(tmp_path), "--admin-listen", "0") as proxy:
        said = await proxy.line("the admin port is open on 127.0.0.1 port")
        port, token = int(said.rpartition(" ")[2]), (tmp_path / "admin-token").read_text().strip()
        for field in ("", "Authorization: Bearer wrong\r\n", f"Authorization: Basic {token}\r\n"):
            request = f"DELETE /v1/servers/main HTTP/1.1\r\nHost: x\r\n{field}\r\n".encode()
            status, told, whole = await knock(port, request)
            assert (status, told["success"]) == (401, False)
            assert b'www-authenticate: Bearer realm="mcp-bulkhead"' in whole
        field = f"Authorization: Bearer {token}\r\n"
        status, told, _ = await knock(port, f"GET /v1/servers HTTP/1.1\r\nHost: x\r\n{field}\r\n".encode())
        assert (status, [row["name"] for row in told["servers"]]) == (200, ["main"])

        url = ["--url", f"http://127.0.0.1:{port}"]
        done = await ctl(*url, "--token-file", str(tmp_path / "admin-token"), "list", "--json")
        assert (done.returncode, json.loads(done.stdout)["total_count"]) == (0, 1)
        done = await ctl(*url, "--token-file", str(tmp_path / "none"), "list")
        assert done.returncode == 3
        assert b"no token for the admin port" in done.stderr
        assert token not in "\n".join(proxy.lines)


async def test_a_port_that_is_taken_is_named_with_its_option(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "supervisor", "--http", "--port", "0", "--state-dir", str(tmp_path)]
        command += ["--servers", "main=http://localhost:1/mcp", "--admin-listen", str(port)]
        with trio.fail_after(20):
            done = await trio.run_process(command, cwd=CHECKOUT, capture_stdout=True, capture_stderr=True, check=False)
        assert done.returncode == 1
        assert f"the admin port: port {port} on 127.0.0.1 is already in use".encode() in done.stderr
        assert b"--admin-listen" in done.stderr
