"""The listening sockets."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from supervisor import listen
from supervisor.listen import ListenError, adopt_unix, bind, bind_unix, endpoint


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


# --- Unix sockets ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_a_unix_socket_is_open_to_whom_its_mode_says_and_is_removed_in_the_end(tmp_path: Path, mode: int):
    path = tmp_path / "mcp.sock"
    bound = bind_unix(str(path), mode)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert endpoint(bound.sock) == (str(path), 0)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    bound.close()
    assert not path.exists()


def test_a_unix_socket_takes_the_place_of_one_that_nobody_listens_on_and_of_no_other(tmp_path: Path):
    path = tmp_path / "mcp.sock"
    killed = bind_unix(str(path), 0o600)
    killed.sock.close()
    bound = bind_unix(str(path), 0o600)
    with pytest.raises(ListenError, match=r"another program listens on .*mcp.sock; stop that one, or name another"):
        bind_unix(str(path), 0o600)
    killed.close()
    assert path.exists(), "it is another one's now"
    bound.close()

    path.write_text("precious")
    with pytest.raises(ListenError, match=r"mcp.sock is there and is no socket; remove it"):
        bind_unix(str(path), 0o600)
    assert path.read_text() == "precious"


def test_where_no_unix_socket_can_be_is_told(tmp_path: Path):
    with pytest.raises(ListenError, match=r"cannot listen on .*mcp.sock: No such file or directory; name another"):
        bind_unix(str(tmp_path / "nowhere" / "mcp.sock"), 0o600)


def test_a_unix_socket_that_is_handed_over_is_known_by_its_path(tmp_path: Path):
    path = tmp_path / "mcp.sock"
    bound = bind_unix(str(path), 0o600)
    with socket.create_server(("127.0.0.1", 0)) as other:
        assert adopt_unix(str(tmp_path / "other.sock"), [other, bound.sock]) is None
        adopted = adopt_unix(str(path), [other, bound.sock])
    assert adopted is not None
    adopted.close()
    assert not path.exists()
