"""Messages on control sockets: each comes back as it was sent, and fits into a packet."""

from __future__ import annotations

import socket
import typing

import msgspec
import pytest

from protocol import control
from protocol.control import PACKET_BYTES_MAX
from protocol.management import Request
from protocol.names import Policy
from protocol.session_token import TOKEN_BYTES_MAX
from protocol.tool_rules import Override, ToolRules

RULES = ToolRules(("a*",), ("b*",), {"a": "c"}, {"a": Override("A", "does a", b"{}")})
FRONT = control.FrontSettings(
    [control.ServerInfo("main", "http://localhost:8000/mcp", [], "m", 1, RULES)], "__", "/mcp", ["a.example"], ["https://a.example"],
    b"k" * 32, 1, True, "mb1.token", ["mb1.ended"], 100, Policy.AUTO, 128, 40,
    ["manage", "proxy_status", "proxy_health"],
)  # fmt: skip
BACKEND = control.BackendSettings(
    control.ServerInfo(
        "main",
        "http://localhost:8000/mcp",
        call_timeout_s=30.0,
        tool_timeouts={"report": 600.0},
        in_flight_max=4,
        queue_max=8,
    )
)
LOG = control.LogSettings("info", True)

TO_WORKER = [
    control.Boot("front", 1, FRONT, LOG),
    control.Boot("main", 2, BACKEND, LOG),
    control.Attach("main", 2),
    control.ServerDown("main", 0.5),
    control.AddServer(control.ServerInfo("files", "http://localhost:8001/mcp", [("X-Key", "k")]), 1),
    control.DropServer("files"),
    control.Managed(3, b'{"success":', False),
    control.Check(4, 5.0),
    control.Woke(28_800.0),
    control.EndedSessions(["mb1.a", "mb1.b"]),
    control.ReadCertificate(),
    control.SessionNotes([control.SessionNote("k", b"n")]),
    control.Serve(),
    control.Drain(25.0),
    control.Drain(25.0, 5.0),
    control.Stop(),
    control.Ping(9),
]
FROM_WORKER = [
    control.Ready(2),
    control.Pong(9),
    control.WorkerState("ready", ""),
    control.SessionEnded("mb1.token"),
    control.SessionNoted(control.SessionNote("k", b"n")),
    control.StdioSession("mb1.token"),
    control.StdioClosed(),
    control.LinkBroken("main", 2, "garbage"),
    control.Released("main", 2),
    control.GroupReport("search", [control.ReplicaReport("search-1", 0.5, True, 2, 3)]),
    control.Manage(3, Request("add", name="files", url="http://localhost:8001/mcp", headers={"X-Key": "k"})),
    control.Checked(4, "", False, True, 1.5, 2, ["echo", "add"]),
    control.Said(["a line"]),
]
TO_ZYGOTE = [control.Fork(1, "mcp-bulkhead: front"), control.Fork(2, "mcp-bulkhead: server main", 2**30)]
FROM_ZYGOTE = [control.Forked(1, 4711), control.ForkFailed(1, "EAGAIN"), control.Exited(1, 4711, -9, 2**30)]
CHANNELS = [
    (TO_WORKER, control.decode_to_worker, control.ToWorker),
    (FROM_WORKER, control.decode_from_worker, control.FromWorker),
    (TO_ZYGOTE, control.decode_to_zygote, control.ToZygote),
    (FROM_ZYGOTE, control.decode_from_zygote, control.FromZygote),
]


@pytest.mark.parametrize(("messages", "decode", "union"), CHANNELS)
def test_every_message_comes_back_as_it_was_sent(messages: list[msgspec.Struct], decode, union: object):
    assert {type(message) for message in messages} == set(typing.get_args(union) or [union])

    for message in messages:
        assert decode(control.encode(message)) == message


@pytest.mark.case("C-10", "D-29")
@pytest.mark.parametrize(("messages", "decode", "union"), CHANNELS)
def test_a_message_of_another_channel_does_not_decode(messages: list[msgspec.Struct], decode, union: object):
    strangers = [one for others, _, _ in CHANNELS if others is not messages for one in others]
    for stranger in strangers:
        with pytest.raises(msgspec.DecodeError):
            decode(control.encode(stranger))


@pytest.mark.case("C-10", "C-12")
@pytest.mark.parametrize("packet", [b"", b"\x00", b"\xc1", b"\x91\xa4boot", b"\xff" * 1000, b"\x91" * 5000])
def test_garbage_does_not_decode(packet: bytes):
    for _, decode, _ in CHANNELS:
        with pytest.raises(msgspec.DecodeError):
            decode(packet)


def test_a_message_with_a_field_too_many_does_not_decode():
    with pytest.raises(msgspec.DecodeError):
        control.decode_from_worker(msgspec.msgpack.encode(["pong", 1, 2]))


def test_the_largest_packet_fits_into_the_kernels_buffer():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.setblocking(False)

        assert ours.send(bytes(PACKET_BYTES_MAX)) == PACKET_BYTES_MAX


def test_a_report_of_the_longest_session_id_fits_into_a_packet():
    assert len(control.encode(control.SessionEnded("x" * TOKEN_BYTES_MAX))) < PACKET_BYTES_MAX
