"""What a server's answer holds: HTTP response, event or line to JSON-RPC message. No I/O."""

from __future__ import annotations

from typing import Final

import msgspec

from protocol.http1 import ResponseHead
from protocol.jsonrpc import Reply, RpcError, decode_reply
from protocol.link import Payload
from protocol.sse import Event

JSON: Final = b"application/json"
ANSWERED: Final = ResponseHead(200, {}, None, keep_alive=True)
"""What a response over a pipe has in place of an HTTP head: nothing but itself says how it is meant."""


class Answer:
    """A complete answer to a request, whether it came as JSON or in a stream."""

    __slots__ = ("head", "is_empty", "is_own", "reply")

    def __init__(self, head: ResponseHead, reply: Reply | None, own_id: bytes, *, is_empty: bool) -> None:
        self.head = head
        self.is_empty = is_empty
        self.is_own = reply is not None and reply.id == own_id and reply.method is None
        """The JSON-RPC message in it names this request."""
        is_refusal = head.status >= 400 and reply is not None and reply.error is not None
        self.reply = reply if self.is_own or is_refusal else None
        """The response to this request. An HTTP refusal can mean no other, and often names no id or an invented one."""

    @property
    def status(self) -> int:
        return self.head.status


class ErrorObject(msgspec.Struct):
    """What is read of a server's error."""

    code: int
    message: str
    data: msgspec.Raw = msgspec.Raw(b"null")


_decode_error = msgspec.json.Decoder(ErrorObject).decode


def read_error(reply: Reply | None) -> ErrorObject | None:
    """Return the error in a reply, None if it holds none."""
    if reply is None or reply.error is None:
        return None
    return _decode_error(reply.error)  # its shape was checked when the reply was read


def read_body(head: ResponseHead, body: Payload) -> Reply | None:
    """Return the JSON-RPC message in an answer, None if it holds none or says that it is something else."""
    if head.media_type != JSON or not len(body):
        return None
    try:
        return decode_reply(body)
    except RpcError:
        return None


def read_event(event: Event) -> Reply | None:
    """Return the JSON-RPC message in an event, None if it holds none (priming events have no data)."""
    if event.event != "message" or not event.data:
        return None
    try:
        return decode_reply(event.data)
    except RpcError:
        return None
