"""Open sockets to servers: names are looked up in a thread, and their addresses tried side by side (RFC 8305).

A host with one dead address family costs a quarter of a second then, not a whole time-out. Nothing here blocks.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from itertools import chain, zip_longest
from typing import Final, NamedTuple

import trio

from protocol.limits import TCP_PROBE_AFTER_S, TCP_PROBES_MAX

STAGGER_S: Final = 0.25
"""Before the next address is tried as well (RFC 8305, section 5)."""
UNIX_PAUSE_S: Final = 0.02
"""Before a Unix socket whose queue is full is tried again: nothing tells when it has room (connect(2), EAGAIN)."""
_KEEP_ALIVE: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, TCP_PROBE_AFTER_S),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, TCP_PROBE_AFTER_S),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, TCP_PROBES_MAX),
)
"""A server whose machine is gone says nothing. Without probes a call would wait for all of its time."""
_NO_WAY: Final = frozenset({errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
"""We have no address of that family, which says nothing about the server."""


_LOCAL_ENDINGS: Final = frozenset(
    {"localhost", "local", "internal", "intranet", "private", "corp", "home", "lan", "svc", "test", "home.arpa"}
)
"""Of names that no public server has (RFC 6761, 6762 appendix G, 8375; "svc" is Kubernetes')."""
_MAPPED: Final = tuple(map(ipaddress.IPv6Network, ("::ffff:0:0/96", "64:ff9b::/96")))
"""IPv6 addresses with an IPv4 address at their end (RFC 4291, section 2.5.5.2; RFC 6052)."""


class PrivateAddressError(OSError):
    """A name that seems to be public leads to private addresses, and nowhere else."""


class Address(NamedTuple):
    family: socket.AddressFamily
    sockaddr: tuple[str | bytes | int, ...]


Connect = Callable[[Address], Awaitable[socket.socket]]


async def dial(host: str, port: int, *, private: bool = True) -> socket.socket:
    """Return a connected socket that does not block. Bounded by the caller. Errors: `OSError`.

    `private`: its name may lead to an address that is not public. Otherwise whoever can answer for that name could have
    us speak with services of this machine and its network that are meant for nobody else.
    """
    if known := known_addresses(host, port):
        return await race(known, open_tcp)
    found = await look_up(host, port)
    allowed = [address for address in found if private or is_public(str(address.sockaddr[0]))]
    if found and not allowed:
        raise PrivateAddressError
    return await race(allowed, open_tcp)


async def dial_unix(path: str) -> socket.socket:
    """The same for the socket at this path."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        while True:
            try:
                sock.connect(path)
            except BlockingIOError:
                await trio.sleep(UNIX_PAUSE_S)
            else:
                return sock
    except BaseException:
        sock.close()
        raise


def known_addresses(host: str, port: int) -> Sequence[Address]:
    """Return the addresses of a host that need not be looked up: a literal one, or localhost (RFC 6761, section 6.3).

    Most servers are so near. Looking up takes a thread, milliseconds and memory in a worker that does it once.
    """
    if host.lower() == "localhost":
        return Address(socket.AF_INET6, ("::1", port)), Address(socket.AF_INET, ("127.0.0.1", port))
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            socket.inet_pton(family, host)
            return (Address(family, (host, port)),)
    return ()


def is_local_name(host: str) -> bool:
    """Whether a name says by itself that it is one of this network: it has one part, or an ending of such names."""
    name = host.lower().rstrip(".")
    first, _, rest = name.partition(".")
    if not rest:
        return first[:1].isalpha()  # what begins with a digit is an address in disguise (inet_aton(3))
    return any(name.endswith(f".{ending}") for ending in _LOCAL_ENDINGS)


def is_public(text: str) -> bool:
    """Whether an address is one of the public internet, as far as its number tells (RFC 6890)."""
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address):
        if any(address in network for network in _MAPPED):
            return is_public(str(ipaddress.IPv4Address(address.packed[-4:])))
        if address.sixtofour is not None:
            return is_public(str(address.sixtofour))
    return address.is_global and not address.is_multicast


async def look_up(host: str, port: int) -> Sequence[Address]:
    """Return all addresses of a host, in the order in which they are to be tried. Errors: `socket.gaierror`."""
    found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return interleaved([Address(family, sockaddr) for family, _, _, _, sockaddr in found])


def interleaved(addresses: Sequence[Address]) -> Sequence[Address]:
    """Return the addresses with their families in turn, beginning with the preferred one (RFC 8305, section 4)."""
    families = dict.fromkeys(address.family for address in addresses)
    rows = ([address for address in addresses if address.family == family] for family in families)
    return [address for address in chain.from_iterable(zip_longest(*rows)) if address is not None]


async def race(addresses: Sequence[Address], connect: Connect) -> socket.socket:
    """Return the first socket that is connected. A later address is tried when those before it fail or take long.

    Errors: the first `OSError` that says something about the server, if all fail.
    """
    if len(addresses) == 1:
        return await connect(addresses[0])
    won: list[socket.socket] = []
    errors: list[OSError] = []

    async def attempt(address: Address, failed: trio.Event) -> None:
        try:
            won.append(await connect(address))
        except OSError as error:
            errors.append(error)
            failed.set()
        else:
            nursery.cancel_scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            for address in addresses:
                failed = trio.Event()
                nursery.start_soon(attempt, address, failed)
                with trio.move_on_after(STAGGER_S):
                    await failed.wait()
    except BaseException:
        for sock in won:
            sock.close()
        raise
    for late in won[1:]:  # two may get there at the same moment
        late.close()
    if won:
        return won[0]
    raise next((error for error in errors if error.errno not in _NO_WAY), errors[0])


async def open_tcp(address: Address) -> socket.socket:
    """Connect to one address."""
    sock = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for level, option, value in _KEEP_ALIVE:
            sock.setsockopt(level, option, value)
        try:
            sock.connect(address.sockaddr)
        except BlockingIOError:
            await trio.lowlevel.wait_writable(sock)
            if number := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(number, os.strerror(number)) from None
    except BaseException:
        sock.close()
        raise
    return sock
