"""The listening sockets."""

from __future__ import annotations

import os
import socket

import pytest

from supervisor import listen
from supervisor.listen import ListenError, bind, endpoint


@pytest.fixture
def bound(request: pytest.FixtureRequest):
    def start(*arguments: object) -> list[socket.socket]:
        socks = bind(*arguments)  # type: ignore[arg-type]
        for sock in socks:
            request.addfinalizer(sock.close)
        return socks

    return start


def has_ipv6_loopback() -> bool:
    with socket.socket(socket.AF_INET6) as sock:
        try:
            sock.bind(("::1", 0))
        except OSError:
            return False
    return True


def test_a_bound_port_takes_connections_that_nobody_accepts_yet(bound):
    (sock,) = bound(["127.0.0.1"], 0)

    with socket.create_connection(endpoint(sock), timeout=5) as client:
        assert client.getpeername() == endpoint(sock)


def test_localhost_is_both_loopback_addresses_on_one_port(bound):
    socks = bound(["localhost"], 0)

    expected = ["127.0.0.1", "::1"] if has_ipv6_loopback() else ["127.0.0.1"]
    assert [endpoint(sock)[0] for sock in socks] == expected
    assert len({endpoint(sock)[1] for sock in socks}) == 1


def test_several_hosts_share_one_port_and_none_is_bound_twice(bound):
    socks = bound(["127.0.0.1", "127.0.0.2", "127.0.0.1"], 0)

    assert [endpoint(sock)[0] for sock in socks] == ["127.0.0.1", "127.0.0.2"]
    assert len({endpoint(sock)[1] for sock in socks}) == 1


@pytest.mark.case("C-26")
def test_a_port_in_use_is_refused_with_its_owner_and_advice(bound):
    (sock,) = bound(["127.0.0.1"], 0)
    port = endpoint(sock)[1]

    with pytest.raises(ListenError) as caught:
        bind(["127.0.0.1"], port)

    message = str(caught.value)
    assert f"port {port} on 127.0.0.1 is already in use" in message
    assert f"process {os.getpid()})" in message
    assert "--port" in message
    socket.create_connection(("127.0.0.1", port), timeout=5).close()


@pytest.mark.case("C-26")
def test_an_address_of_another_machine_is_refused_with_advice():
    with pytest.raises(ListenError, match=r"192\.0\.2\.1 is not an address of this machine.*--host"):
        bind(["192.0.2.1"], 0)


def test_an_unknown_host_name_is_refused_with_its_name():
    with pytest.raises(ListenError, match=r"cannot listen on 'no-such-host\.invalid'"):
        bind(["no-such-host.invalid"], 0)


@pytest.mark.case("C-29")
def test_a_failure_on_the_second_address_gives_back_the_first(bound):
    (sock,) = bound(["127.0.0.2"], 0)
    port = endpoint(sock)[1]
    before = len(os.listdir("/proc/self/fd"))

    with pytest.raises(ListenError):
        bind(["127.0.0.3", "127.0.0.2"], port)

    assert len(os.listdir("/proc/self/fd")) == before


def test_connections_of_an_earlier_run_do_not_block_its_port(bound):
    (sock,) = bound(["127.0.0.1"], 0)
    address = endpoint(sock)
    with socket.create_connection(address, timeout=5):
        sock.setblocking(True)
        server_side, _ = sock.accept()
        server_side.close()  # closes first, so this side is the one in TIME_WAIT
    sock.close()

    assert endpoint(bound(["127.0.0.1"], address[1])[0]) == address


@pytest.mark.parametrize(
    ("address", "expected"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("0.0.0.0", False), ("::", False)],
)
def test_loopback_is_told_from_what_others_can_reach(address: str, expected: bool):
    assert listen.is_loopback(address) is expected
