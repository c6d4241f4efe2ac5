"""Connecting to servers: what need not be looked up is connected to directly, and one bad address costs little."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from workers import dialing
from workers.dialing import STAGGER_S, Address, interleaved, race
from workers.machine import LinuxMachine

SIX, FOUR = socket.AF_INET6, socket.AF_INET


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

    monkeypatch.setattr(trio.socket, "getaddrinfo", look_up)
    with listening(family, address) as listener:
        with trio.fail_after(60):
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
    with pytest.raises(ConnectionRefusedError), trio.fail_after(60):
        await LinuxMachine().connect(host, port)


# --- names (RFC 8305) ------------------------------------------------------------------------------------------------
def addresses(*families: socket.AddressFamily) -> list[Address]:
    return [Address(family, (f"address {number}", 80)) for number, family in enumerate(families)]


@pytest.mark.parametrize(
    ("families", "order"),
    [
        ((SIX, SIX, SIX, FOUR, FOUR), [0, 3, 1, 4, 2]),
        ((FOUR, SIX, SIX), [0, 1, 2]),
        ((FOUR, FOUR, FOUR, SIX), [0, 3, 1, 2]),
        ((SIX, SIX), [0, 1]),
        ((), []),
    ],
)
def test_addresses_of_both_families_take_turns(families: tuple[socket.AddressFamily, ...], order: list[int]):
    found = addresses(*families)

    assert interleaved(found) == [found[number] for number in order]


async def test_a_name_is_looked_up_without_holding_up_the_loop(monkeypatch):
    """The look-up is trio's, which is made in a thread."""
    with listening(FOUR, "127.0.0.1") as listener:
        port = listener.getsockname()[1]

        async def look_up(host: str, port: int, **_: object) -> list[object]:
            assert host == "server.example"
            return [(FOUR, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

        monkeypatch.setattr(trio.socket, "getaddrinfo", look_up)
        with trio.fail_after(60):
            sock = await LinuxMachine().connect("server.example", port)
        with sock:
            assert sock.getpeername() == ("127.0.0.1", port)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("1.1.1.1", True), ("2606:4700::1111", True), ("::ffff:1.1.1.1", True), ("64:ff9b::1.1.1.1", True),
        ("127.0.0.1", False), ("10.1.2.3", False), ("172.16.0.1", False), ("192.168.1.1", False),
        ("169.254.169.254", False), ("100.64.0.1", False), ("0.0.0.0", False), ("224.0.0.1", False),
        ("255.255.255.255", False), ("::1", False), ("::", False), ("fe80::1", False), ("fe80::1%lo", False),
        ("fd00::1", False), ("ff02::1", False), ("::ffff:127.0.0.1", False), ("::ffff:10.0.0.1", False),
        ("64:ff9b::10.0.0.1", False), ("2002:a00:1::1", False),
    ],
)  # fmt: skip
@pytest.mark.case("D-16")
def test_public_addresses_are_told_from_those_of_networks_and_machines(address: str, public: bool):
    assert dialing.is_public(address) is public


@pytest.mark.parametrize(
    ("name", "local"),
    [
        ("search", True), ("Search.", True), ("search.local", True), ("a.b.INTERNAL", True), ("x.home.arpa", True),
        ("search.tools.svc", True), ("mcp.example.com", False), ("local.example", False), ("arpa.org", False),
        ("xlocal", True), ("a.xlocal", False), ("2130706433", False), ("0x7f.1", False), ("0x7f000001", False),
        ("127.1", False), ("", False),
    ],
)  # fmt: skip
@pytest.mark.case("D-16")
def test_names_say_whether_they_are_of_this_network(name: str, local: bool):
    assert dialing.is_local_name(name) is local


@pytest.mark.case("D-16")
async def test_a_public_name_leads_to_public_addresses_only_unless_that_is_said(monkeypatch):
    tried: list[str] = []
    found = [(FOUR, "10.0.0.1"), (SIX, "::ffff:169.254.169.254"), (FOUR, "127.0.0.1"), (FOUR, "1.1.1.1")]

    async def look_up(host: str, port: int, **_: object) -> list[object]:
        return [(family, socket.SOCK_STREAM, 6, "", (address, port)) for family, address in found]

    async def connect(address: Address) -> socket.socket:
        tried.append(str(address.sockaddr[0]))
        raise ConnectionRefusedError

    monkeypatch.setattr(trio.socket, "getaddrinfo", look_up)
    monkeypatch.setattr(dialing, "open_tcp", connect)
    with pytest.raises(ConnectionRefusedError):
        await LinuxMachine().connect("mcp.example.com", 443, private=False)
    assert tried == ["1.1.1.1"]

    tried.clear()
    del found[-1]
    with pytest.raises(dialing.PrivateAddressError):
        await LinuxMachine().connect("mcp.example.com", 443, private=False)
    assert tried == []
    for host, private in (("mcp.example.com", True), ("10.0.0.1", False), ("localhost", False)):
        with pytest.raises(ConnectionRefusedError):
            await LinuxMachine().connect(host, 443, private=private)
        assert tried
        tried.clear()


@pytest.mark.parametrize("host", ["0x7f.1", "2130706433", "127.1", "0"])
@pytest.mark.case("D-16")
async def test_an_address_in_disguise_is_looked_at_like_any_other(host: str):
    """The system reads these as addresses of this machine (inet_aton(3))."""
    with pytest.raises(dialing.PrivateAddressError), trio.fail_after(60):
        await LinuxMachine().connect(host, 443, private=dialing.is_local_name(host))


@pytest.mark.case("B-01")
async def test_a_name_that_does_not_resolve_is_an_error():
    with pytest.raises(socket.gaierror), trio.fail_after(60):
        await LinuxMachine().connect("no-such-host.invalid", 80)


class Attempts:
    """Plays connecting: each address goes as the test says."""

    def __init__(self, clock: MockClock) -> None:
        self._clock = clock
        self._begun = clock.current_time()
        self.begun: dict[str, float] = {}
        self.sockets: list[socket.socket] = []
        self.takes: dict[str, float | OSError] = {}
        """Seconds until it is connected, or what it fails with; for ever if it is not here."""
        self.is_stubborn = False
        """An attempt cannot be stopped: it has got there when somebody tries to."""

    async def __call__(self, address: Address) -> socket.socket:
        name = str(address.sockaddr[0])
        self.begun[name] = round(self._clock.current_time() - self._begun, 3)
        outcome = self.takes.get(name, 1000.0)
        if isinstance(outcome, OSError):
            raise outcome
        with trio.CancelScope(shield=self.is_stubborn):
            await trio.sleep(outcome)
        self.sockets.append(socket.socket())
        return self.sockets[-1]


async def test_an_address_that_does_not_answer_costs_a_quarter_of_a_second(autojump_clock: MockClock):
    attempts = Attempts(autojump_clock)
    attempts.takes["address 2"] = 0.1

    with await race(addresses(SIX, FOUR, SIX, FOUR), attempts) as sock:
        assert sock is attempts.sockets[0]
    assert attempts.begun == {"address 0": 0.0, "address 1": STAGGER_S, "address 2": 2 * STAGGER_S}


async def test_an_address_that_refuses_costs_nothing(autojump_clock: MockClock):
    attempts = Attempts(autojump_clock)
    attempts.takes = {"address 0": ConnectionRefusedError(), "address 1": 0.0}

    (await race(addresses(SIX, FOUR), attempts)).close()

    assert attempts.begun == {"address 0": 0.0, "address 1": 0.0}


async def test_of_two_that_connect_at_once_one_is_closed(autojump_clock: MockClock):
    attempts = Attempts(autojump_clock)
    attempts.takes = {"address 0": 2 * STAGGER_S, "address 1": STAGGER_S}
    attempts.is_stubborn = True

    with await race(addresses(SIX, FOUR), attempts):
        assert sorted(sock.fileno() == -1 for sock in attempts.sockets) == [False, True]


async def test_when_all_addresses_fail_the_reason_is_one_that_says_something_about_the_server(
    autojump_clock: MockClock,
):
    attempts = Attempts(autojump_clock)
    no_way = OSError(errno.ENETUNREACH, "we have no address of that family")
    attempts.takes = {"address 0": no_way, "address 1": ConnectionRefusedError()}

    with pytest.raises(ConnectionRefusedError):
        await race(addresses(SIX, FOUR), attempts)
    with pytest.raises(OSError, match="no address of that family"):
        await race(addresses(SIX), attempts)


async def test_giving_up_leaves_no_socket_open(autojump_clock: MockClock):
    attempts = Attempts(autojump_clock)
    with trio.move_on_after(1) as patience:
        await race(addresses(SIX, FOUR), attempts)

    assert patience.cancelled_caught
    assert len(attempts.begun) == 2


# --- Unix sockets ----------------------------------------------------------------------------------------------------
async def test_a_unix_socket_whose_queue_is_full_is_tried_until_it_has_room(tmp_path: Path):
    path = str(tmp_path / "server.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(0)
        with trio.fail_after(60), await LinuxMachine().connect_unix(path):
            async with trio.open_nursery() as nursery:

                async def one_more() -> None:
                    (await LinuxMachine().connect_unix(path)).close()

                nursery.start_soon(one_more)
                await wait_all_tasks_blocked()
                assert nursery.child_tasks, "the queue is full"
                listener.accept()[0].close()


@pytest.mark.parametrize(("make", "error"), [(False, FileNotFoundError), (True, ConnectionRefusedError)])
async def test_a_unix_socket_that_nobody_serves_is_an_error(tmp_path: Path, make: bool, error: type[OSError]):
    path = str(tmp_path / "server.sock")
    if make:
        with socket.socket(socket.AF_UNIX) as left_behind:
            left_behind.bind(path)
    before = len(os.listdir("/proc/self/fd"))

    with pytest.raises(error):
        await dialing.dial_unix(path)

    assert len(os.listdir("/proc/self/fd")) == before
