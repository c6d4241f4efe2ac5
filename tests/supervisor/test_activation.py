"""Sockets that a service manager has opened for us: which are taken, which are ignored, which end the start."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from supervisor import activation
from supervisor.activation import SOCKETS_MAX, ActivationError
from supervisor.config import Server, Settings
from supervisor.listen import endpoint
from supervisor.wording import announcement, exposure_warning

PID = 42
Make = Callable[[], socket.socket]


def environ(count: object, pid: int = PID, names: str | None = None) -> dict[str, str]:
    given = {"LISTEN_FDS": str(count), "LISTEN_PID": str(pid), "PATH": "/bin"}
    return given if names is None else {**given, "LISTEN_FDNAMES": names}


def take(given: dict[str, str], first_fd: int) -> list[socket.socket]:
    try:
        return activation.take_from(given, PID, first_fd)
    finally:
        assert given == {"PATH": "/bin"}, "no child may take the sockets for its own"


def handed_over(sock: socket.socket) -> int:
    """Return the descriptor of the socket as a child would inherit it."""
    sock.setblocking(True)
    os.set_inheritable(sock.fileno(), True)
    return sock.detach()


def on_ipv4() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def on_ipv6() -> socket.socket:
    return socket.create_server(("::1", 0), family=socket.AF_INET6)


def abstract() -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(f"\0mcp-bulkhead-activation-{os.getpid()}")
    sock.listen()
    return sock


@pytest.mark.parametrize("make", [on_ipv4, on_ipv6, abstract])
def test_a_listening_socket_of_any_family_is_taken(make: Make):
    fd = handed_over(make())
    with take(environ(1, names="web"), fd)[0] as sock:
        assert sock.fileno() == fd
        assert not sock.getblocking()
        assert not os.get_inheritable(fd)
        with socket.socket(sock.family, socket.SOCK_STREAM) as client:
            client.connect(sock.getsockname())


@pytest.mark.parametrize("given", [{}, {"LISTEN_FDS": "1"}, environ(1, pid=43), environ("", PID)])
def test_what_is_not_meant_for_this_process_is_ignored(given: dict[str, str]):
    assert take({"PATH": "/bin", **given}, 3) == []


@pytest.mark.case("C-26")
@pytest.mark.parametrize("count", ["0", "-1", "many", "1.0", "999999999999", "²", str(SOCKETS_MAX + 1)])
def test_a_number_of_sockets_that_cannot_be_is_told_with_advice(count: str):
    with pytest.raises(ActivationError, match=r"LISTEN_FDS is .* where 1 to 8 sockets are expected; correct"):
        take(environ(count), 3)


@pytest.mark.case("C-26")
def test_names_that_do_not_fit_the_sockets_are_told():
    with pytest.raises(ActivationError, match="LISTEN_FDNAMES has 2 names for 1 sockets"):
        take(environ(1, names="a:b"), 3)


def not_listening() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM)


def datagrams() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    return sock


def connected() -> socket.socket:
    return socket.socketpair()[0]


@pytest.mark.case("C-26")
@pytest.mark.parametrize("make", [not_listening, datagrams, connected])
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_socket_nobody_can_connect_to_is_told_by_number_and_name(make: Make):
    fd = handed_over(make())
    with pytest.raises(ActivationError, match=rf"descriptor {fd} \('web'\) .* does not listen for connections"):
        take(environ(1, names="web"), fd)
    os.close(fd)


@pytest.mark.case("C-26")
def test_a_descriptor_that_is_no_socket_or_is_not_there_is_told():
    fd = os.open("/dev/null", os.O_RDONLY)
    with pytest.raises(ActivationError, match=f"descriptor {fd} from LISTEN_FDS is not a socket; give the socket unit"):
        take(environ(1), fd)
    os.close(fd)
    with pytest.raises(ActivationError, match=f"descriptor {fd} from LISTEN_FDS is not open"):
        take(environ(1), fd)


def test_people_are_told_where_such_sockets_are(tmp_path: Path):
    settings = Settings((Server("main", "http://localhost:8000/mcp"),), http=True)
    with ExitStack() as stack:
        unix = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        unix.bind(str(tmp_path / "s"))
        hidden = stack.enter_context(abstract())

        assert endpoint(unix) == (str(tmp_path / "s"), 0)
        assert endpoint(hidden)[0].startswith("@mcp-bulkhead-activation-")
        assert f"ready on /mcp of the Unix socket {tmp_path}/s and /mcp of" in announcement(settings, [unix, hidden])
        assert exposure_warning([unix, hidden]) == ""
