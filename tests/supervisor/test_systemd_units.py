"""The example units for systemd say of the program what is true of it."""

from __future__ import annotations

import configparser
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from protocol import limits
from supervisor import __main__ as start
from supervisor import cli, listen
from tests.catalogue import CHECKOUT

UNITS = CHECKOUT / "examples" / "systemd"
ANALYZE = shutil.which("systemd-analyze")
SYSTEM_CALLS = (
    "memfd_create",
    "pidfd_open",
    "pidfd_send_signal",
    "prctl",
    "setrlimit",
    "clone",
    "socketpair",
    "accept4",
)
"""What the program needs beside what every program does."""


def unit(name: str) -> configparser.ConfigParser:
    """Parse a unit file; a directive that is there twice is an error."""
    parser = configparser.ConfigParser(interpolation=None, comment_prefixes=("#",), delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string((UNITS / name).read_text(encoding="utf-8"))
    return parser


SERVICE = unit("mcp-bulkhead.service")["Service"]
SOCKET = unit("mcp-bulkhead.socket")["Socket"]


def test_the_command_of_the_service_is_one_that_the_program_takes():
    program, *arguments = shlex.split(SERVICE["ExecStart"])
    settings = cli.parse([argument.replace("${STATE_DIRECTORY}", "/var/lib/mcp-bulkhead") for argument in arguments])

    assert Path(program).name == "mcp-bulkhead"
    assert settings.http
    assert not settings.stdio, "then it could not be upgraded"
    assert settings.state_dir == f"/var/lib/{SERVICE['StateDirectory']}"


def test_what_starting_again_cannot_heal_is_not_started_again():
    statuses = {int(status) for status in SERVICE["RestartPreventExitStatus"].split()}

    assert statuses == {start.EXIT_USAGE, start.EXIT_CONFIGURATION}
    assert SERVICE["Restart"] == "on-failure"
    assert SERVICE["OOMPolicy"] == "continue"


def test_systemd_waits_longer_for_a_stop_than_one_takes_and_for_the_root_alone():
    assert float(SERVICE["TimeoutStopSec"]) > limits.STOP_S
    assert SERVICE["KillMode"] == "mixed"


def test_what_the_program_tells_systemd_is_what_systemd_waits_for():
    assert SERVICE["Type"] == "notify"
    assert SERVICE["NotifyAccess"] == "main"
    assert SERVICE["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert float(SERVICE["WatchdogSec"]) > limits.SILENCE_S, "the root waits so long for a worker at times"


def test_the_socket_unit_opens_what_the_program_would_open_itself():
    assert SOCKET["ListenStream"] == f"127.0.0.1:{cli.parse(['--http', '--servers', 'a=http://b/']).port}"
    assert int(SOCKET["Backlog"]) == listen.BACKLOG
    assert SOCKET["Accept"] == "no"


@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")
def test_systemd_itself_finds_no_fault_with_the_units(tmp_path: Path):
    assert ANALYZE
    for name in ("mcp-bulkhead.service", "mcp-bulkhead.socket"):
        text = (UNITS / name).read_text(encoding="utf-8")
        (tmp_path / name).write_text(text.replace("/usr/local/bin/mcp-bulkhead", "/bin/true"), encoding="utf-8")
    files = [str(path) for path in sorted(tmp_path.iterdir())]
    ended = subprocess.run([ANALYZE, "verify", "--man=no", *files], capture_output=True, text=True, check=False)

    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")
def test_the_system_calls_that_the_program_makes_are_allowed():
    assert ANALYZE
    allowed: set[str] = set()
    groups = [SERVICE["SystemCallFilter"]]
    while groups:
        listing = subprocess.run(
            [ANALYZE, "syscall-filter", groups.pop()], capture_output=True, text=True, check=True
        ).stdout
        for name in map(str.strip, listing.splitlines()[1:]):
            (groups.append if name.startswith("@") else allowed.add)(name)

    assert not set(SYSTEM_CALLS) - allowed
