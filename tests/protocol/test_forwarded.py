"""Whose address a request through proxies is from, and that nobody can say it who is not trusted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.forwarded import FORWARDED, HOPS_MAX, X_FORWARDED_FOR, TrustedProxies, address_of, share

TRUSTED = TrustedProxies(["10.0.0.0/8", "2001:db8:f::/48", "unix"])


def told(**headers: str) -> str:
    return TRUSTED.client(
        "10.0.0.1", {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    )


@pytest.mark.parametrize(
    ("value", "client"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("6.6.6.6, 192.0.2.1", "192.0.2.1"),
        ("6.6.6.6, 192.0.2.1, 10.2.3.4", "192.0.2.1"),
        ("10.9.9.9, 10.2.3.4", "10.9.9.9"),
        ("192.0.2.1:4711", "192.0.2.1"),
        ("[2001:db8::1]:4711", "2001:db8::1"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("192.0.2.1, ::ffff:10.1.1.1", "192.0.2.1"),
        ("192.0.2.1, 2001:db8:f::9", "192.0.2.1"),
        ("6.6.6.6, unknown, 10.2.3.4", "10.2.3.4"),
        ("6.6.6.6, , 10.2.3.4", "10.2.3.4"),
        ("fe80::1%eth0", "10.0.0.1"),
        ("localhost", "10.0.0.1"),
        ("unix", "10.0.0.1"),
        ("", "10.0.0.1"),
        ("1" * 5000, "10.0.0.1"),
    ],
)
@pytest.mark.case("D-11")
def test_the_client_is_the_nearest_address_that_is_not_trusted(value: str, client: str):
    assert told(x_forwarded_for=value) == client


@pytest.mark.parametrize(
    ("value", "client"),
    [
        ("for=192.0.2.1", "192.0.2.1"),
        ("For=192.0.2.1;proto=https;by=10.0.0.1", "192.0.2.1"),
        ('for="192.0.2.1:4711"', "192.0.2.1"),
        ('by=10.0.0.1; for="[2001:db8::1]:4711"', "2001:db8::1"),
        ('for=6.6.6.6, for=192.0.2.1, for="10.2.3.4"', "192.0.2.1"),
        ("for=6.6.6.6, for=_hidden, for=10.2.3.4", "10.2.3.4"),
        ("for=6.6.6.6, for=unknown", "10.0.0.1"),
        ('for=192.0.2.1;host="a,for=6.6.6.6"', "192.0.2.1"),
        ('host="x;for=6.6.6.6"', "10.0.0.1"),
        ("xfor=6.6.6.6", "10.0.0.1"),
        ("for", "10.0.0.1"),
        ('for="', "10.0.0.1"),
    ],
)
@pytest.mark.case("D-11")
def test_the_header_of_the_rfc_is_read_alike(value: str, client: str):
    assert told(forwarded=value) == client


@pytest.mark.case("D-11")
def test_of_two_kinds_of_header_none_is_believed():
    assert told(forwarded="for=6.6.6.6", x_forwarded_for="192.0.2.1") == "10.0.0.1"


def test_only_so_many_hops_are_looked_at():
    assert told(x_forwarded_for=", ".join(["192.0.2.1", *["10.0.0.2"] * HOPS_MAX])) == "10.0.0.2"


@pytest.mark.parametrize(
    ("peer", "trusted"),
    [("10.1.2.3", True), ("::ffff:10.1.2.3", True), ("11.0.0.1", False), ("unix", True), ("", False), ("x", False)],
)
def test_who_is_trusted_is_told_by_address(peer: str, trusted: bool):
    assert TRUSTED.trusts(peer) is trusted
    assert TrustedProxies(["10.0.0.0/8"]).trusts("unix") is False


def test_addresses_of_one_ipv6_network_are_one_client():
    assert share("2001:db8::1") == share("2001:db8::ffff:2") != share("2001:db8:0:1::1")
    assert share("192.0.2.1") != share("192.0.2.2")
    assert share("unix") == "unix"


@pytest.mark.case("D-31")
@given(st.binary(max_size=300))
def test_whatever_is_in_the_headers_an_address_comes_out(value: bytes):
    for name in (FORWARDED, X_FORWARDED_FOR):
        assert address_of(TRUSTED.client("10.0.0.1", {name: value})) is not None
