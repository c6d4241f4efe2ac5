"""What a new version takes from the old one, and what it does not take from anybody else."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence

import pytest

from protocol.tool_rules import Override, ToolRules
from supervisor import handover, inheritance
from supervisor.config import Server
from supervisor.handover import Announced, Configured, Ended, Inheritance, Prepared, Taken, TakeOver
from supervisor.inheritance import VARIABLE
from tests.catalogue import CHECKOUT

INHERIT = """
import os, sys
from supervisor import inheritance
try:
    found = inheritance.inherit_from(os.environ)
except inheritance.InheritanceError as error:
    sys.exit(str(error))
admin = found and found.admin and found.admin.sock.fileno() > 2 and str(found.admin.path)
what = found and [len(found.listeners), found.session_key, found.ended_sessions]
print(what, found and found.servers, admin, "MCP_BULKHEAD_HANDOVER" in os.environ)
"""


def inherit(*packets: bytes, listener: socket.socket | None = None, between: Sequence[str] = ()) -> tuple[str, str]:
    """Return what a child that is handed these packets makes of them: its output, and its last words.

    `between`: a Python program that runs the child's instead.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        first, *others = packets
        socket.send_fds(ours, [first], [listener.fileno()] if listener else [])
        for packet in others:
            ours.send(packet)
        ended = subprocess.run(
            [sys.executable, *(between or ["-c"]), INHERIT],
            cwd=CHECKOUT,
            env={**os.environ, VARIABLE: str(theirs.fileno())},
            pass_fds=[theirs.fileno()],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    return ended.stdout.strip(), ended.stderr.strip()


def test_sockets_key_and_ended_sessions_arrive_and_the_environment_forgets():
    parts = [handover.encode(Ended(["a", "b"])), handover.encode(Ended(["c"]))]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        found, said = inherit(handover.encode(Inheritance(b"key", 2)), *parts, listener=listener)

    assert said == ""
    assert found == "[1, b'key', ['a', 'b', 'c']] None None False"


def test_servers_arrive_with_all_that_is_known_of_them_and_the_admin_socket_is_no_listener():
    rules = ToolRules(("a*",), (), {"a": "b"}, {"a": Override("A", "", b"{}")})
    server = Server(
        "main", "http://a/?k=${env:K}", headers=(("X-Key", 'a " b'),), rules=rules, call_timeout_s=1.5,
        tool_timeouts=(("report", 600.0),), memory_limit=0, queue_max=4,
    )  # fmt: skip
    packets = [handover.encode(Configured(one)) for one in (server, Server("off", "http://b/", enabled=False))]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        found, said = inherit(handover.encode(Inheritance(b"key", 0, 2, "/x/s")), *packets, listener=listener)

    assert said == ""
    assert found == f"[0, b'key', []] {(server, Server('off', 'http://b/', enabled=False))} /x/s False"
    assert inherit(handover.encode(Inheritance(b"key", 0, 0)))[0] == "[0, b'key', []] () None False"


def test_what_a_later_version_adds_is_ignored():
    packet = b'{"is":"inheritance","session_key":"a2V5","ended_parts":0,"moon_phase":"full"}'

    assert inherit(packet)[0] == "[0, b'key', []] None None False"


@pytest.mark.case("C-28")
@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (handover.encode(Inheritance(b"key", 0, version=2)), "in a way that is not understood; restart instead"),
        (handover.encode(TakeOver()), "did not say what there is to take over"),
        (b"nonsense", "did not say what there is to take over"),
    ],
)
def test_what_is_not_understood_is_not_taken_over(packet: bytes, reason: str):
    assert reason in inherit(packet)[1]


@pytest.mark.parametrize("number", ["", "-1", "three", "99999999999", "1", "²"])
def test_a_variable_that_names_nothing_of_ours_is_ignored_and_forgotten(number: str):
    environ = {VARIABLE: number}

    assert inheritance.inherit_from(environ) is None
    assert environ == {}


def test_a_socket_of_another_kind_is_left_alone():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        assert inheritance.inherit_from({VARIABLE: str(theirs.fileno())}) is None
        assert theirs.send(b"still open") == len(b"still open")


def test_nothing_is_taken_over_from_whoever_is_not_the_parent():
    code = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', sys.argv[1]], close_fds=False))"
    found, said = inherit(handover.encode(Inheritance(b"key", 0)), between=["-c", code])

    assert (found, said) == ("", "the old version that was to be replaced is gone")


@pytest.mark.parametrize("message", [Inheritance(b"\0\xff key", 3), Ended(["a"]), TakeOver(), Announced()])
def test_what_the_old_version_says_comes_back_as_it_was_sent(message: handover.FromOld):
    assert handover.decode_from_old(handover.encode(message)) == message


@pytest.mark.parametrize("message", [Ended(["a"]), Prepared(), Taken()])
def test_what_the_new_version_says_comes_back_as_it_was_sent(message: handover.FromNew):
    assert handover.decode_from_new(handover.encode(message)) == message
