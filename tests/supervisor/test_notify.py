"""The protocol of service managers: what is read from the environment, and how messages look and travel."""

from __future__ import annotations

import os
import socket
from contextlib import closing
from pathlib import Path

import pytest

from supervisor import notify
from supervisor.notify import Manager, Sender

PID = 42


def test_the_manager_is_read_from_the_environment_which_then_names_none_to_children():
    environ = {"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "10000000", "WATCHDOG_PID": "42", "PATH": "/bin"}

    assert notify.take_from(environ, PID) == Manager("/run/notify", 10.0)
    assert environ == {"PATH": "/bin"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"NOTIFY_SOCKET": ""}, None),
        ({"NOTIFY_SOCKET": "run/notify"}, None),
        ({"NOTIFY_SOCKET": "vsock:2:1234"}, None),
        ({"NOTIFY_SOCKET": "@"}, None),
        ({"NOTIFY_SOCKET": "@name"}, Manager("@name", 0.0)),
        ({"NOTIFY_SOCKET": "@name", "WATCHDOG_USEC": "500000"}, Manager("@name", 0.5)),
        ({"NOTIFY_SOCKET": "@name", "WATCHDOG_USEC": "500000", "WATCHDOG_PID": "43"}, Manager("@name", 0.0)),
        ({"NOTIFY_SOCKET": "@name", "WATCHDOG_USEC": "soon"}, Manager("@name", 0.0)),
        ({"NOTIFY_SOCKET": "@name", "WATCHDOG_USEC": "-5"}, Manager("@name", 0.0)),
        ({"WATCHDOG_USEC": "500000"}, None),
    ],
)
def test_only_a_manager_that_can_be_spoken_to_counts_and_only_a_watchdog_that_watches_us(
    environ: dict[str, str], expected: Manager | None
):
    assert notify.take_from(environ, PID) == expected
    assert environ == {}


def test_who_is_to_become_the_service_is_told_of_the_manager_but_not_by_number():
    environ = {"PATH": "/bin"}
    notify.put_back(environ, Manager("@name", 10.0))

    assert environ == {"PATH": "/bin", "NOTIFY_SOCKET": "@name", "WATCHDOG_USEC": "10000000"}
    assert notify.take_from(environ, PID) == Manager("@name", 10.0)


def test_messages_are_lines_as_sd_notify_has_them():
    assert notify.reloading(1_234_567_890) == "RELOADING=1\nMONOTONIC_USEC=1234567"
    assert notify.main_pid(7) == "MAINPID=7"
    assert notify.status("3 servers: 2 healthy") == "STATUS=3 servers: 2 healthy"


def test_a_status_is_one_line_that_says_nothing_else_however_it_is_put():
    assert notify.status("a\nREADY=1\r\n b") == "STATUS=a READY=1 b"
    assert len(notify.status("x" * 10_000)) == len("STATUS=") + notify.STATUS_CHARS_MAX


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_a_message_arrives_at_either_kind_of_address(tmp_path: Path, kind: str):
    address = str(tmp_path / "notify") if kind == "path" else f"@mcp-bulkhead-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address.replace("@", "\0", 1))
        sender = Sender(address)

        assert sender.send("READY=1")
        assert manager.recv(100) == b"READY=1"
        sender.close()


@pytest.mark.case("C-18")
def test_a_manager_that_does_not_listen_neither_blocks_nor_fails(tmp_path: Path):
    for nobody in (str(tmp_path / "nobody"), "/" + "x" * 200):
        with closing(Sender(nobody)) as sender:
            assert not sender.send("READY=1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "deaf"))
        sender = Sender(str(tmp_path / "deaf"))
        sent = 0
        while sender.send("WATCHDOG=1"):
            sent += 1
            assert sent < 100_000
        manager.recv(100)

        assert sender.send("WATCHDOG=1"), "it works again as soon as there is room"
        sender.close()
