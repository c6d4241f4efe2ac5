"""A client's request on its way to a server and back, and the place its answer goes."""

from __future__ import annotations

from typing import Final, Protocol

import msgspec

from protocol.errors import OUTCOME_UNKNOWN
from protocol.input_required import Retry
from protocol.jsonrpc import one_line
from protocol.link import AnswerKind, Payload
from protocol.versions import Era


class Reply(Protocol):
    """Where the answer to one request goes. It ends exactly once: with `result`, `error` or `nothing`.

    After its end, and after the client has gone, all of these do nothing.
    """

    @property
    def call(self) -> FrontCall | None:
        """The call this reply waits for, so that a client that goes away can cancel it."""
        ...

    @call.setter
    def call(self, call: FrontCall | None) -> None: ...

    @property
    def client(self) -> str:
        """The client's address, if that is what tells it from others; else ""."""
        ...

    def header(self, name: bytes) -> bytes:
        """Return a header field (its name in lower case) that came with the request; b"" if there is none."""
        ...

    def notify(self, method: str, params: Payload) -> None:
        """Send a notification that belongs to this request, before its answer."""
        ...

    def ask(self, message: bytes) -> bool:
        """Send a request that belongs to this request, before its answer. Return whether anybody may get to read it."""
        ...

    def result(self, result: Payload) -> None: ...

    def error(self, code: int, message: str, data: bytes = b"", retry_after_s: int = 0) -> None:
        """`retry_after_s`: the advice in `data` for those who read HTTP only; 0 for none."""
        ...

    def raw_error(self, error: Payload, code: int) -> None:
        """Answer with an `error` object as a server sent it."""
        ...

    def nothing(self) -> None:
        """End without an answer, because the client cancelled the request."""
        ...


class ClientTable(dict[bytes, "FrontCall"]):
    """The calls in flight of one client, by request id, and who that is."""

    __slots__ = ("client",)

    def __init__(self, client: bytes) -> None:
        super().__init__()
        self.client = client
        """The same for each of its connections, and on every front."""


KEPT: Final = -1


class FrontCall(msgspec.Struct, eq=False):
    """One request for one server. A struct because one is made per call, and msgspec makes them three times as fast."""

    reply: Reply
    request_id: bytes
    era: Era
    version: str
    method: str
    name: str
    payload: bytes
    meta: bytes
    client_info: bytes
    progress_token: bytes
    log_level: str
    deadline: float
    """Reactor time by which the call must have ended; when it came while nobody knows yet which server's it is."""
    abilities: int = 0
    """What the client can do (protocol/abilities.py)."""
    questions: Questions | None = None
    """Where questions to a legacy client go."""
    handles: Handles | None = None
    """Who gives the client a handle if the server makes a task of this call; None if that cannot happen."""
    client: int = 0
    """Who makes it (protocol/clients.py), if it is a modern client that can be told from others."""
    in_flight: dict[bytes, FrontCall] | None = None
    """The client's table this call is in, by request id, so that `notifications/cancelled` finds it."""
    queue_deadline: float = 0.0
    link_id: int = 0
    """Its number on the link while it is there; 0 otherwise."""
    tries: int = 0
    """How many workers have been given it."""
    was_sent: bool = False
    """A worker that is gone had sent it to the server, which may have executed it."""
    heard: bool = False
    """The client has been told something about its execution."""
    tried: tuple[str, ...] = ()
    """Replicas of its group that have had it and could not serve it."""
    server: ServerSide | None = None
    asked: dict[int, bytes] | None = None
    """Those without an answer: the worker's number, and the id that the client knows it by."""
    pages: list[bytes] | None = None
    """Ids that we gave to pages which the client was asked to visit, and has answered."""
    retry: Retry | None = None
    """What a modern client sends beside a request that it makes again with answers."""
    interaction: int = 0
    """What the worker holds for this call; 0 if it begins anew, `KEPT` if it is about a task that the worker keeps."""
    replica: str = ""
    """The only one of a group that can serve it; "" if any can."""
    fallbacks: int = 0
    """How many servers have given it to another one that is no replica of theirs."""
    twin: FrontCall | None = None
    """The same request at another replica, of which whoever answers first counts (hedging.py)."""
    pair_since: float = 0.0
    """When the first of such a pair was sent; 0 if there never were two."""
    digest: bytes = b""
    """Of the request, if it is a retry, whose parameters are no longer those that a state is bound to."""

    def cancel(self, reason: str) -> None:
        """The client no longer wants the answer: tell the server and forget the call."""
        if self.server is not None:
            self.server.cancel(self, reason)
        self.leave()

    def unreachable(self) -> None:
        """The client does not read any more what belongs to this call, though it has not cancelled it."""
        if self.asked and self.questions is not None:
            self.questions.forget(self)
        asked, self.asked = self.asked, None
        for number in asked or ():
            if self.server is not None:
                self.server.answer(self, number, AnswerKind.NOBODY, b"")

    def settle(self) -> None:
        """Be what counts of two copies: take the other's place with the client, and withdraw it from its server."""
        loser, self.twin = self.twin, None
        if loser is None:
            return
        loser.twin = None
        if loser.server is not None:
            loser.server.cancel(loser, "another replica was faster")
        if loser.in_flight is not None:
            self.in_flight, loser.in_flight = loser.in_flight, None
            self.in_flight[self.request_id] = self
        self.reply.call = self

    def leave(self) -> None:
        """Take the call out of its client's table and its reply."""
        if self.asked is not None and self.questions is not None:
            self.questions.end(self)
        self.reply.call = None
        table = self.in_flight
        if table is not None:
            self.in_flight = None
            if table.get(self.request_id) is self:
                del table[self.request_id]


class ServerSide(Protocol):
    """What a call needs of the server it is bound for."""

    def cancel(self, call: FrontCall, reason: str) -> None: ...

    def pause(self, call: FrontCall) -> None: ...

    def resume(self, call: FrontCall) -> None: ...

    def answer(self, call: FrontCall, number: int, kind: AnswerKind, payload: bytes) -> None:
        """Hand on the client's answer to a question."""
        ...

    @property
    def place(self) -> tuple[str, str]:
        """Where what has begun goes on: the public name, and the replica if that is one of a group, else ""."""
        ...


class Handles(Protocol):
    """What a call needs of the place where tasks are given to clients."""

    def created(self, call: FrontCall, result: Payload, *, is_kept: bool) -> bytes:
        """Return a `CreateTaskResult` of the server, or of its worker, as the client gets it. Errors: `RpcError`."""
        ...


class TakesOver(Protocol):
    """What a server needs of the tool that takes a call which it cannot serve."""

    def take(self, call: FrontCall) -> None: ...


class Questions(Protocol):
    """What a call needs of the place where its client is asked."""

    client: int

    def ask(self, call: FrontCall, number: int, method: str, params: Payload) -> bool: ...

    def withdraw(self, call: FrontCall, number: int) -> None: ...

    def end(self, call: FrontCall) -> None: ...

    def forget(self, call: FrontCall) -> None: ...


def fault_data(server: str, *, sent: bool, retry_after_ms: int = 0, code: int = 0) -> bytes:
    """Return the `data` of an error of ours: which server, whether it may have executed the call, what to do.

    Shape: ``{"server": str, "sent": bool, "retryable": bool, "retryAfterMs"?: int}``.
    """
    retryable = not sent and code != OUTCOME_UNKNOWN
    advice = b',"retryAfterMs":%d' % retry_after_ms if retry_after_ms else b""
    # Server names are limited to letters, digits, "_" and "-", so no escaping is needed.
    return b'{"server":"%b","sent":%b,"retryable":%b%b}' % (
        server.encode(),
        b"true" if sent else b"false",
        b"true" if retryable else b"false",
        advice,
    )


def sse_payload(*parts: Payload) -> bytes:
    """Join the parts of a JSON message into one line, as an event's data and a stdio line must be."""
    return bytes(one_line(b"".join(parts)))
