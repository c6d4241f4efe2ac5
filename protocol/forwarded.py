"""Finds out who a client is that comes through proxies: `Forwarded` (RFC 7239) and `X-Forwarded-For`. Pure.

Anybody can write such a header, and each proxy adds what it sees to its end. So it is read from there, and only as far
as those who wrote it are trusted: the client is the first address that is not one of theirs.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final

UNIX: Final = "unix"
"""Stands for whoever connects to a Unix socket, among the networks that are trusted, and as a peer."""
HOPS_MAX: Final = 32
"""Addresses of a header that are looked at, from its end."""
FORWARDED: Final = b"forwarded"
X_FORWARDED_FOR: Final = b"x-forwarded-for"
_IPV6_SHARE: Final = 64
"""Bits of an IPv6 address that tell clients apart: the rest is for one of them to choose (RFC 4291, section 2.5.4)."""
_ELEMENT: Final = re.compile(r'(?:[^",]|"(?:[^"\\]|\\.)*")+')
_FOR: Final = re.compile(r'(?:^|;)\s*for=(?:"([^"\\]*)"|([^\s";,]+))\s*(?:;|$)', re.IGNORECASE)
_WITH_PORT: Final = re.compile(r"(\d+\.\d+\.\d+\.\d+)(?::[\w.-]+)?|\[([0-9A-Fa-f:.]+)\](?::[\w.-]+)?")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def address_of(text: str) -> Address | None:
    """Return an address, also one with a port or in brackets; None if it is none. IPv4 inside of IPv6 is IPv4."""
    found = _WITH_PORT.fullmatch(text)
    try:
        address = ipaddress.ip_address((found[1] or found[2]) if found else text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id:
            return None
        return address.ipv4_mapped or address
    return address


class TrustedProxies:
    """Whose word about clients counts."""

    def __init__(self, networks: Iterable[str]) -> None:
        """`networks`: such as "10.0.0.0/8"; `UNIX` for those who connect to a Unix socket. Errors: `ValueError`."""
        given = list(networks)
        self._networks: list[Network] = [ipaddress.ip_network(one) for one in given if one != UNIX]
        self._trusts_unix = UNIX in given

    def trusts(self, peer: str) -> bool:
        """`peer`: an address, or `UNIX`."""
        if peer == UNIX:
            return self._trusts_unix
        address = address_of(peer)
        return address is not None and any(address in network for network in self._networks)

    def client(self, peer: str, headers: Mapping[bytes, bytes]) -> str:
        """Return the client's address, or that of the last one on the way who can be known. `peer` is trusted."""
        listed = _listed(headers)
        known = peer
        for text in list(reversed(listed))[:HOPS_MAX]:
            address = address_of(text)
            if address is None:
                return known  # what stands before it was written by nobody whom we know
            known = str(address)
            if not self.trusts(known):
                return known
        return known


@lru_cache(maxsize=1024)
def share(address: str) -> str:
    """Return what tells clients apart by their addresses: one can have a whole network of IPv6."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if found.version == 4:
        return address
    return str(ipaddress.ip_network((address, _IPV6_SHARE), strict=False))


def _listed(headers: Mapping[bytes, bytes]) -> list[str]:
    """Return the addresses in the header, the nearest last; none if there are both.

    A proxy that writes one hands on what the client says in the other.
    """
    forwarded, addresses = headers.get(FORWARDED), headers.get(X_FORWARDED_FOR)
    if forwarded is not None and addresses is not None:
        return []
    if addresses is not None:
        return [part.strip() for part in addresses.decode("latin-1").split(",")]
    if forwarded is None:
        return []
    found = (_FOR.search(element.strip()) for element in _ELEMENT.findall(forwarded.decode("latin-1")))
    return [(one[1] or one[2] or "") if one else "" for one in found]
