"""Connecting to servers: what need not be looked up is connected to directly."""

from __future__ import annotations

import socket

import pytest
import trio

from workers.machine import LinuxMachine


def listening(family: socket.AddressFamily, address: str, port: int = 0) -> socket.socket:
    sock = socket.socket(family)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((address, port))
    sock.listen()
    return sock


@pytest.mark.parametrize(
    ("host", "family", "address"),
    [
        ("127.0.0.1", socket.AF_INET, "127.0.0.1"),
        ("::1", socket.AF_INET6, "::1"),
        ("localhost", socket.AF_INET, "127.0.0.1"),
        ("LocalHost", socket.AF_INET6, "::1"),
    ],
)
async def test_a_server_on_this_machine_is_found_without_a_look_up(
    monkeypatch, host: str, family: socket.AddressFamily, address: str
):
    async def look_up(*_: object) -> None:
        raise AssertionError("looked up")

    monkeypatch.setattr(trio, "open_tcp_stream", look_up)
    with listening(family, address) as listener:
        with trio.fail_after(5):
            sock = await LinuxMachine().connect(host, listener.getsockname()[1])
        with sock:
            assert sock.getpeername()[0] == address
            assert not sock.getblocking()
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.case("B-01")
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_server_that_is_not_there_refuses(host: str):
    with listening(socket.AF_INET, "127.0.0.1") as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ConnectionRefusedError), trio.fail_after(5):
        await LinuxMachine().connect(host, port)
