"""What one front tells another of a connection that it hands over."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import moving
from protocol.http1 import Request

FIELDS = st.dictionaries(st.binary(min_size=1, max_size=20), st.binary(max_size=40), max_size=5)
REQUESTS = st.builds(
    Request,
    method=st.sampled_from([b"GET", b"POST", b"DELETE"]),
    target=st.binary(min_size=1, max_size=30),
    headers=FIELDS,
    repeated=st.just((b"x",)),
    keep_alive=st.booleans(),
    expect_continue=st.just(False),
    content_length=st.none() | st.integers(0, 100),
    body=st.binary(max_size=100) | st.binary(max_size=100).map(bytearray),
    notes=st.just({}),
)


def parts(request: Request) -> tuple[object, ...]:
    return (
        request.method, request.target, request.headers, request.repeated, request.keep_alive, request.expect_continue,
        request.content_length, request.http11, bytes(request.body),
    )  # fmt: skip


@given(st.lists(REQUESTS, max_size=3), st.booleans(), st.binary(max_size=50))
def test_requests_arrive_as_they_came(requests: list[Request], is_local: bool, unsent: bytes):
    message = moving.moved("192.0.2.1", requests, is_local=is_local, unsent=unsent)
    data, memory = moving.packet(message)
    assert memory == b""
    found = moving.read(data)
    assert found is not None
    assert (found.client, found.is_local, found.unsent) == ("192.0.2.1", is_local, unsent)
    arrived = moving.requests(found)
    assert [parts(one) for one in arrived] == [parts(one) for one in requests]
    assert len({id(one.notes) for one in arrived}) == len(arrived), "notes are about a head, and not shared"


def test_what_is_too_large_for_a_packet_is_attached_to_it():
    body = bytes(3 * moving.PACKET_BYTES_MAX)
    request = Request(b"POST", b"/mcp", {}, (), True, False, len(body), True, body)
    data, memory = moving.packet(moving.moved("", [request]))
    assert len(data) < 100
    found = moving.read(memory)
    assert found is not None
    assert moving.requests(found)[0].body == body


@pytest.mark.parametrize("data", [b"", b"\x93nonsense", b"\x94\xa0\xc2\xc4\x00\x91\x90"])
def test_what_makes_no_sense_is_no_message(data: bytes):
    assert moving.read(data) is None
