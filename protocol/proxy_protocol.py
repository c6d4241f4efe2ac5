"""Reads the header that a load balancer sends before a client's bytes: PROXY protocol, versions 1 and 2. Pure.

Source: https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from protocol.forwarded import address_of

V1_BYTES_MAX: Final = 107
"""Section 2.1: the longest line there can be, with its end."""
V2_BYTES_MAX: Final = 2048
"""Addresses, and what senders add about the connection (section 2.2)."""
_V1: Final = b"PROXY "
_V1_LINE: Final = re.compile(rb"PROXY (TCP4|TCP6) ([0-9a-fA-F:.]+) ([0-9a-fA-F:.]+) (\d{1,5}) (\d{1,5})")
_SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_V2_HEAD: Final = 16
_LOCAL, _PROXY = 0, 1
_INET, _INET6 = 1, 2


class ProxyProtocolError(ValueError):
    """This is no such header."""


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    client: str
    """Its address; "" if the sender speaks for itself, or does not say."""
    size: int
    """Bytes of the header."""


def read(data: bytes) -> ProxyHeader | None:
    """Return the header at the beginning of `data`, None if more is needed to tell. Errors: `ProxyProtocolError`."""
    if data.startswith(_SIGNATURE[: len(data)]):
        return _v2(data) if len(data) >= _V2_HEAD else None
    if data.startswith(_V1[: len(data)]):
        return _v1(data)
    raise ProxyProtocolError("the connection does not begin with a header of the PROXY protocol")


def _v1(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\r\n", 0, V1_BYTES_MAX)
    if end < 0:
        if len(data) >= V1_BYTES_MAX:
            raise ProxyProtocolError("the line of the PROXY protocol is too long")
        return None
    line = data[:end]
    if line == b"PROXY UNKNOWN" or line.startswith(b"PROXY UNKNOWN "):
        return ProxyHeader("", end + 2)
    found = _V1_LINE.fullmatch(line)
    address = address_of(found[2].decode()) if found else None
    if not found or address is None or max(int(found[4]), int(found[5])) > 65535:
        raise ProxyProtocolError("the line of the PROXY protocol cannot be read")
    return ProxyHeader(str(address), end + 2)


def _v2(data: bytes) -> ProxyHeader | None:
    version, command, family = data[12] >> 4, data[12] & 15, data[13] >> 4
    size = _V2_HEAD + int.from_bytes(data[14:16], "big")
    if version != 2 or command not in (_LOCAL, _PROXY):
        raise ProxyProtocolError("unknown version or command of the PROXY protocol")
    if size > V2_BYTES_MAX:
        raise ProxyProtocolError("the header of the PROXY protocol is too long")
    if len(data) < size:
        return None
    addresses = data[_V2_HEAD:size]
    if command == _LOCAL:
        return ProxyHeader("", size)
    if family == _INET and len(addresses) >= 12:
        return ProxyHeader(str(IPv4Address(addresses[:4])), size)
    if family == _INET6 and len(addresses) >= 36:
        address = IPv6Address(addresses[:16])
        return ProxyHeader(str(address.ipv4_mapped or address), size)
    if family in (_INET, _INET6):
        raise ProxyProtocolError("the header of the PROXY protocol is too short for its addresses")
    return ProxyHeader("", size)
