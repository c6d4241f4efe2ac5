"""The start: what refuses to start, with which words, and what a start leaves behind."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from supervisor import __main__ as start
from supervisor.secret import FILE_NAME
from tests.catalogue import CHECKOUT
from tests.process.harness import command_line, descendants, refused, root
from tests.processes import free_port

MAIN = ["--servers", "main=http://localhost:9/mcp"]


def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run the proxy as a user does, to its end."""
    command = [sys.executable, "-m", "supervisor", *arguments]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=20, check=False, **options)  # type: ignore[call-overload, no-any-return]


def assert_one_line(ended: subprocess.CompletedProcess[str], status: int, named: str) -> None:
    assert ended.returncode == status, ended.stderr
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith("mcp-bulkhead: ")
    assert named in ended.stderr
    assert "Traceback" not in ended.stderr


# --- refusals --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "--stdio"),
        (["--http"], "--servers"),
        (["--http", "--servers", "main"], "no '='"),
        (["--http", "--servers", "ma\nin\x1b[2J=http://x/"], "'ma\\nin\\x1b[2J'"),
        (["--http", *MAIN, "--port", "eighty"], "--port"),
        (["--http", *MAIN, "--unknown", "token=hunter2"], "--unknown"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_arguments_are_told_in_one_line(arguments: list[str], named: str):
    ended = run(*arguments)

    assert_one_line(ended, 2, named)
    assert "hunter2" not in ended.stderr


@pytest.mark.case("C-26")
def test_a_port_in_use_is_told_with_advice_and_its_owner_is_unharmed():
    with socket.create_server(("127.0.0.1", 0)) as owner:
        port = owner.getsockname()[1]

        assert_one_line(run("--http", "--port", str(port), *MAIN), 1, f"port {port} on 127.0.0.1 is already in use by")
        socket.create_connection(("127.0.0.1", port), timeout=5).close()


def test_a_log_file_behind_a_symbolic_link_is_refused(tmp_path: Path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "log").symlink_to(tmp_path / "precious")

    assert_one_line(run("--http", "--port", "0", *MAIN, "--log-file", str(tmp_path / "log")), 1, "symbolic link")
    assert (tmp_path / "precious").read_text() == "precious"


@pytest.mark.case("D-13")
def test_a_session_key_that_others_may_read_is_refused_and_the_zygote_does_not_stay(tmp_path: Path):
    (tmp_path / FILE_NAME).write_bytes(bytes(32))
    (tmp_path / FILE_NAME).chmod(0o644)

    assert_one_line(
        run("--http", "--port", "0", *MAIN, "--state-dir", str(tmp_path)), 1, "can be read or written by others"
    )


@pytest.mark.parametrize("how", ["shadowed", "ours"])
def test_the_other_package_named_supervisor_is_told_from_ours(tmp_path: Path, how: str):
    (tmp_path / "supervisor").mkdir()
    (tmp_path / "supervisor" / "__init__.py").write_text("")
    path = [str(tmp_path), str(CHECKOUT)] if how == "shadowed" else [str(CHECKOUT), str(tmp_path)]
    command = [sys.executable, "-P", "-c", "import sys, mcp_bulkhead; sys.exit(mcp_bulkhead.main())"]

    ended = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )

    if how == "shadowed":
        assert_one_line(ended, 1, f"the package 'supervisor' in {tmp_path / 'supervisor'} is another one")
        assert "pip uninstall supervisor" in ended.stderr
    else:
        assert_one_line(ended, 2, "--stdio")


# --- what a start does -----------------------------------------------------------------------------------------------
def test_nothing_heavy_is_loaded_before_the_port_is_bound():
    check = (
        "import sys, supervisor.__main__; print(sorted({'trio', 'msgspec', 'structlog', 'asyncio'} & set(sys.modules)))"
    )

    ended = subprocess.run(
        [sys.executable, "-c", check], cwd=CHECKOUT, capture_output=True, text=True, timeout=20, check=True
    )

    assert ended.stdout == "[]\n"


async def test_one_line_tells_where_to_connect_and_to_what():
    async with root({"main": "mcp", "other": "mcp?token=hunter2"}) as proxy:
        assert await proxy.line("ready on") == (
            f"mcp-bulkhead: ready on http://127.0.0.1:{proxy.port}/mcp; "
            "servers: main (http://fake.test/mcp), other (http://fake.test/mcp?token=[redacted])"
        )
        await proxy.line("^mcp-bulkhead: server main: ready")


async def test_localhost_answers_on_both_loopback_addresses():
    async with root(None, "--host", "localhost") as proxy:
        assert (await proxy.ask())["pid"] == (await proxy.ask(host="::1"))["pid"]


async def test_an_address_that_others_reach_is_warned_about_and_one_of_ours_is_not():
    async with root(None, "--host", "0.0.0.0") as proxy:
        await proxy.line(r"listening on 0\.0\.0\.0: whoever reaches that address can call every tool")
    async with root() as proxy:
        assert not any("whoever" in line for line in proxy.lines)


async def test_the_log_file_is_for_its_user_alone_and_the_workers_write_to_it_too(tmp_path: Path):
    path = tmp_path / "log"
    async with root(None, "--debug", "--log-file", str(path)) as proxy:
        await proxy.server("main")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    lines = [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]
    assert "written by the front" in [line["event"] for line in lines]
    assert {"event": "stopped", "who": "server main", "level": "debug"}.items() <= next(
        line for line in lines if line["event"] == "stopped" and line["who"] == "server main"
    ).items()


async def test_the_session_key_stays_the_same_over_a_restart(tmp_path: Path):
    keys = []
    for _ in range(2):
        async with root(None, "--state-dir", str(tmp_path)) as proxy:
            keys.append((await proxy.ask())["session_key"])

    assert keys[0] == keys[1] == (tmp_path / FILE_NAME).read_bytes().hex()


@pytest.mark.case("D-08")
async def test_sessions_that_were_ended_stay_so_over_an_upgrade_and_a_restart(tmp_path: Path):
    options = ("--state-dir", str(tmp_path))
    async with root(None, *options) as proxy:
        await proxy.ask("end mb1.a,mb1.b")
        proxy.signal(signal.SIGUSR2)
        assert await proxy.ended(20, pid=await proxy.upgraded()) == 0
        assert (await proxy.ask("end mb1.c"))["ended"] == ["mb1.a", "mb1.b"]
    async with root(None, *options) as proxy:
        assert (await proxy.ask())["ended"] == ["mb1.a", "mb1.b", "mb1.c"]


@pytest.mark.case("C-17")
async def test_a_state_folder_that_cannot_be_written_costs_a_warning_only(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    async with root(None, "--state-dir", str(tmp_path / "file")) as proxy:
        await proxy.line("the key of client sessions cannot be kept in .*Not a directory.*--state-dir")
        assert len(str((await proxy.ask())["session_key"])) == 64


async def test_standard_input_alone_needs_no_state_folder(tmp_path: Path):
    async with root(None, "--stdio", "--state-dir", str(tmp_path), http=False, stdin=subprocess.PIPE) as proxy:
        await proxy.line("ready on standard input and output; servers: main")
        assert os.listdir(tmp_path) == [f"admin-stdio-{proxy.pid}.sock"], "no session key"


async def test_names_of_the_addresses_we_listen_on_are_allowed():
    async with root(None, "--host", "127.0.0.1", "--allow-host", "Proxy.Example.com") as proxy:
        assert (await proxy.ask())["allowed_hosts"] == ["proxy.example.com", "127.0.0.1"]


async def test_closed_standard_descriptors_do_not_become_something_else():
    port = free_port()
    wrap = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"]
    async with root(port=port, wrap=wrap, wait=False) as proxy:
        await proxy.server("main")
        for pid in [proxy.pid, *descendants(proxy.pid)]:
            assert [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in (0, 1, 2)] == ["/dev/null"] * 3


async def test_the_arguments_are_not_left_for_everybody_to_see():
    async with root({"main": "mcp?token=hunter2"}) as proxy:
        await proxy.server("main")
        shown = [command_line(pid) for pid in [proxy.pid, *descendants(proxy.pid)]]

    assert shown == [f"mcp-bulkhead: {role}" for role in ("root", "zygote", "front", "server main")]


@pytest.mark.case("C-27")
async def test_a_second_instance_is_refused_and_the_first_is_unharmed():
    async with root() as first:
        async with root(port=first.port, wait=False) as second:
            assert await second.ended() == 1
            await second.line(rf"port {first.port} on 127\.0\.0\.1 is already in use by .*process \d+")
        assert (await first.ask())["incarnation"] == 1


@pytest.mark.case("C-27")
async def test_instances_that_share_a_state_folder_share_the_key_and_harm_each_other_in_nothing(tmp_path: Path):
    """Both start at once in an empty folder, so that both want to make the key."""
    options = ("--state-dir", str(tmp_path))
    async with root(None, *options) as first, root(None, *options) as second:
        keys = [str((await each.ask())["session_key"]) for each in (first, second)]
        assert first.port != second.port
        second.signal(signal.SIGTERM)
        assert await second.ended() == 0
        assert (await first.server("main"))["incarnation"] == 1

    assert keys == [(tmp_path / FILE_NAME).read_bytes().hex()] * 2
    assert os.listdir(tmp_path) == [FILE_NAME]


@pytest.mark.case("C-27")
async def test_what_somebody_left_in_the_state_folder_kills_nobody(tmp_path: Path):
    bystander = subprocess.Popen(["sleep", "1000"])  # noqa: ASYNC220 - takes milliseconds
    try:
        for name in ("pid", "mcp-bulkhead.pid", "lock"):
            (tmp_path / name).write_text(str(bystander.pid))
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(tmp_path / "admin.sock"))
        async with root(None, "--state-dir", str(tmp_path)) as proxy:
            await proxy.server("main")
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


async def test_a_successor_can_have_the_port_as_soon_as_we_are_gone():
    async with root() as first:
        await first.ask()
        first.signal(signal.SIGTERM)
        assert await first.ended() == 0
        assert refused(first.port)
        async with root(port=first.port) as second:
            assert second.port == first.port


def test_benchmarks_are_run_with_the_arguments_that_follow(monkeypatch: pytest.MonkeyPatch):
    seen: list[object] = []

    class Benchmarks:
        @staticmethod
        def main(arguments: list[str]) -> int:
            seen.extend(arguments)
            return 7

    monkeypatch.setitem(sys.modules, start.BENCHMARKS, Benchmarks)  # type: ignore[arg-type]

    assert start.main(["bench", "load", "--help"]) == 7
    assert seen == ["load", "--help"]
