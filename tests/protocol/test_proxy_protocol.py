"""Headers of the PROXY protocol: read whole or in pieces, and nothing that only looks like one."""

from __future__ import annotations

import contextlib
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.proxy_protocol import V1_BYTES_MAX, V2_BYTES_MAX, ProxyHeader, ProxyProtocolError, read

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"


def v2(source: str, *, command: int = 1, more: bytes = b"", family: int | None = None) -> bytes:
    address = ipaddress.ip_address(source)
    packed = address.packed
    body = packed + packed + b"\x10\x00\x00\x50" + more
    kind = family if family is not None else (0x11 if address.version == 4 else 0x21)
    return SIGNATURE + bytes([0x20 | command, kind]) + len(body).to_bytes(2, "big") + body


HEADERS = [
    (b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 80\r\n", "192.0.2.1"),
    (b"PROXY TCP6 2001:db8::1 ::1 65535 0\r\n", "2001:db8::1"),
    (b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n", "192.0.2.1"),
    (b"PROXY UNKNOWN\r\n", ""),
    (b"PROXY UNKNOWN 1.2.3.4 whatever is here\r\n", ""),
    (v2("192.0.2.1"), "192.0.2.1"),
    (v2("2001:db8::1"), "2001:db8::1"),
    (v2("::ffff:192.0.2.1"), "192.0.2.1"),
    (v2("192.0.2.1", more=b"\x04\x00\x01x" * 50), "192.0.2.1"),
    (v2("192.0.2.1", command=0), ""),
    (v2("192.0.2.1", family=0x31), ""),
    (v2("192.0.2.1", family=0x00), ""),
    (SIGNATURE + b"\x20\x00\x00\x00", ""),
]


@pytest.mark.parametrize(("header", "client"), HEADERS)
def test_a_header_ends_where_the_client_begins_however_it_comes(header: bytes, client: str):
    whole = ProxyHeader(client, len(header))
    assert read(header + b"GET / HTTP/1.1\r\n") == whole
    assert read(header) == whole
    assert [read(header[:cut]) for cut in range(len(header))] == [None] * len(header)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"proxy TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
        b"PROXY TCP4 1.2.3.4\r\n",
        b"PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n",
        b"PROXY TCP4 1.2.3.4  1.2.3.4 1 2\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
        b"PROXY TCP9 1.2.3.4 1.2.3.4 1 2\r\n",
        b"PROXY UNKNOWNX\r\n",
        b"PROXY UNKNOWN " + b"x" * V1_BYTES_MAX,
        SIGNATURE + b"\x31\x11\x00\x0c" + bytes(12),
        SIGNATURE + b"\x22\x11\x00\x0c" + bytes(12),
        SIGNATURE + b"\x21\x11\x00\x0b" + bytes(11),
        SIGNATURE + b"\x21\x21\x00\x0c" + bytes(12),
        SIGNATURE + b"\x21\x11" + V2_BYTES_MAX.to_bytes(2, "big"),
        b"\x16\x03\x01\x02\x00",
        b"\x00",
    ],
)
@pytest.mark.case("A-14")
def test_what_is_no_header_is_refused(data: bytes):
    with pytest.raises(ProxyProtocolError):
        read(data)


@pytest.mark.case("D-31")
@given(st.binary(max_size=200), st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"\x21\x11"]))
def test_no_bytes_raise_anything_else(data: bytes, beginning: bytes):
    with contextlib.suppress(ProxyProtocolError):
        read(beginning + data)
