"""What one front tells another when it hands a client's connection over to it: the bytes of one packet. Pure.

A packet is a msgpack array. The connection comes attached to it; requests that are too large for a packet are attached
as well, in a memory of their own, in the same form.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from protocol.http1 import Request
from protocol.jsonrpc import DECODE_ERRORS
from protocol.limits import KIB

PACKET_BYTES_MAX: Final = 16 * KIB
"""So that many fit into the buffer of a socket whose reader is just being replaced."""


class _Request(msgspec.Struct, array_like=True):
    """A request whose head and body have been read, and found lawful."""

    method: bytes
    target: bytes
    headers: dict[bytes, bytes]
    repeated: tuple[bytes, ...]
    keep_alive: bool
    content_length: int | None
    http11: bool
    body: bytes


class Moved(msgspec.Struct, array_like=True):
    """A connection on which some requests have come that wait for their answers."""

    client: str
    """Its address, if that is what tells it from others (`workers.front.calls.Reply`)."""
    is_local: bool
    """It came over a Unix socket."""
    unsent: bytes
    """What has to be written before anything else: the end of earlier answers."""
    requests: list[_Request]
    """In their order; in a packet none if they are in memory."""


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Moved).decode


def moved(client: str, requests: Iterable[Request], *, is_local: bool = False, unsent: bytes = b"") -> Moved:
    taken = [
        _Request(
            one.method,
            one.target,
            one.headers,
            one.repeated,
            one.keep_alive,
            one.content_length,
            one.http11,
            bytes(one.body),
        )
        for one in requests
    ]
    return Moved(client, is_local, unsent, taken)


def packet(message: Moved) -> tuple[bytes, bytes]:
    """Return the packet, and what is to be attached to it in memory; b"" if all is in the packet."""
    whole = _encode(message)
    if len(whole) <= PACKET_BYTES_MAX:
        return whole, b""
    return _encode(Moved(message.client, message.is_local, b"", [])), whole


def read(data: bytes) -> Moved | None:
    """Return what a packet or memory says; None if it makes no sense."""
    try:
        return _decode(data)
    except DECODE_ERRORS:
        return None


def requests(message: Moved) -> list[Request]:
    """Return the requests as a parser would."""
    return [
        Request(
            method=one.method,
            target=one.target,
            headers=one.headers,
            repeated=one.repeated,
            keep_alive=one.keep_alive,
            expect_continue=False,
            content_length=one.content_length,
            http11=one.http11,
            body=one.body,
            notes={},
        )
        for one in message.requests
    ]
