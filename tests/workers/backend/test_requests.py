"""What is written to a server for one request, in however many pieces."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocol import link
from protocol.versions import Era
from workers.backend.calls import BackendCall
from workers.backend.exchange import Exchange
from workers.backend.requests import JOIN_BYTES_MAX, rpc

HEAD = b"POST /mcp HTTP/1.1\r\nHost: a\r\n"
MEMBERS = st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=9), max_size=3)


def compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


@given(MEMBERS, MEMBERS, st.text(max_size=9), st.sampled_from([bytes, memoryview]))
@example({}, {"a": 1}, "ping", bytes)
@example({"a": 1}, {}, "tools/call", bytes)
@example({"a": "x" * JOIN_BYTES_MAX}, {"a": 1}, "tools/call", memoryview)
def test_a_request_says_what_it_was_made_of_and_how_long_it_is(
    params: dict[str, Any], meta: dict[str, Any], method: str, kind: type[bytes] | type[memoryview]
):
    params.pop("_meta", None)
    pieces = rpc(HEAD, b'"b1-7"', method, kind(compact(params)), compact(meta)[1:-1])

    head, _, body = b"".join(pieces).partition(b"\r\n\r\n")
    assert head == HEAD + b"Content-Length: %d" % len(body)
    said = params | ({"_meta": meta} if meta else {})
    assert json.loads(body) == {"jsonrpc": "2.0", "id": "b1-7", "method": method, "params": said}


@pytest.mark.parametrize(("size", "pieces"), [(100, 1), (JOIN_BYTES_MAX + 1, 4)])
def test_only_short_requests_are_copied_into_one_piece(size: int, pieces: int):
    params = b'{"a":"%b"}' % (b"x" * size)

    assert len(rpc(HEAD, b'"b1-7"', "tools/call", params, b'"b":1')) == pieces


def test_a_call_begins_as_every_exchange_does():
    """It sets what `Exchange` would by itself, because that is made once per call."""

    class Anything:
        """Stands for the desk and the front, of which only these are looked at."""

        reactor: Any
        now = 0.0
        is_congested = False

    anything: Any = Anything()
    anything.reactor = anything
    header = link.Call(1, Era.MODERN, "tools/call", "echo", 1.0, b"", False, "", b"", 0, 0)
    call, plain = BackendCall(anything, anything, header, b"{}"), Exchange(repeatable=False)

    for name in Exchange.__slots__:
        if hasattr(plain, name):
            assert getattr(call, name) == getattr(plain, name), name
