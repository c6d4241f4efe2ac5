"""The bytes of HTTP requests to a server: a head prepared once, then what is different each time."""

from __future__ import annotations

from itertools import count
from typing import Final

import msgspec

from protocol import __version__
from protocol.link import Payload
from protocol.meta import with_meta
from workers.backend.endpoint import Endpoint

CLIENT_INFO: Final = b'{"name":"mcp-bulkhead","version":"%b"}' % __version__.encode()
"""Who we say we are when the client has not said who it is, and in shared legacy sessions."""
JOIN_BYTES_MAX: Final = 64 * 1024
"""Shorter requests are joined, which is cheaper than handing many pieces to the kernel; longer ones are not copied."""

_ID: Final = b'{"jsonrpc":"2.0","id":'
_encode_name: Final = msgspec.json.Encoder().encode


def head(method: bytes, endpoint: Endpoint, *fields: tuple[bytes, bytes]) -> bytes:
    """Return a request head up to and including its last field line. Field values must hold no control characters."""
    lines = [
        b"%b %b HTTP/1.1\r\nHost: %b\r\nUser-Agent: mcp-bulkhead\r\n" % (method, endpoint.target, endpoint.authority),
        endpoint.fields,
        *(b"%b: %b\r\n" % field for field in fields),
    ]
    return b"".join(lines)


def json_head(endpoint: Endpoint, *fields: tuple[bytes, bytes]) -> bytes:
    """Return the head of a POST with a JSON message, as every revision wants it."""
    accept = (b"Accept", b"application/json, text/event-stream")
    return head(b"POST", endpoint, accept, (b"Content-Type", b"application/json"), *fields)


def with_body(request_head: bytes, *body: Payload) -> tuple[Payload, ...]:
    """Return the whole request, in as few pieces as is cheap."""
    size = sum(map(len, body))
    start = b"%bContent-Length: %d\r\n\r\n" % (request_head, size)
    if size <= JOIN_BYTES_MAX:
        return (b"".join((start, *body)),)
    return (start, *body)


def rpc(request_head: bytes, own_id: bytes, method: str, params: Payload, meta: bytes = b"") -> tuple[Payload, ...]:
    """Return the whole HTTP request for a JSON-RPC request, in as few pieces as is cheap.

    `params` is an object as `encode_object` writes it, without a `_meta` yet if there is `meta`: its members.
    """
    if len(params) + len(meta) <= JOIN_BYTES_MAX and (not meta or len(params) > len(b"{}")):
        # The fast path of nearly all requests. To join costs two thirds of what formatting does.
        name = _encode_name(method)
        if meta:
            pieces = (_ID, own_id, b',"method":', name, b',"params":', params[:-1], b',"_meta":{', meta, b"}}}")
        else:
            pieces = (_ID, own_id, b',"method":', name, b',"params":', params, b"}")
        body = b"".join(pieces)
        return (b"".join((request_head, b"Content-Length: ", str(len(body)).encode(), b"\r\n\r\n", body)),)
    start = b'%b%b,"method":%b,"params":' % (_ID, own_id, _encode_name(method))
    return with_body(request_head, start, with_meta(params, meta), b"}")


class Ids:
    """Request ids for servers: strings that no server can mistake for a number, unique in the life of this worker.

    The python SDK takes "7" for 7 when it correlates, and overwrites ids that are in flight twice (reliability.md, 7).
    """

    __slots__ = ("_beginning", "_numbers")

    def __init__(self, incarnation: int) -> None:
        self._beginning = f'"b{incarnation}-'
        self._numbers = count(1)

    def next(self) -> bytes:
        """Return a new id as raw JSON, with its quotes."""
        return f'{self._beginning}{next(self._numbers)}"'.encode()
