"""Requests that a task makes and waits for: handshakes, lists, pings, and messages that only need to be delivered."""

from __future__ import annotations

from collections.abc import Callable

import trio

from protocol.http1 import ResponseHead
from protocol.jsonrpc import Reply
from protocol.link import Payload
from protocol.sse import Event
from workers.backend.answers import ANSWERED, Answer, read_body, read_event
from workers.backend.channel import Channel
from workers.backend.exchange import Exchange
from workers.backend.faults import Failure, Faults, Unanswered


class Fetch(Exchange):
    """An exchange that wakes a task when it has ended."""

    __slots__ = ("_faults", "_on_message", "answer", "done", "failure")

    def __init__(
        self,
        request: tuple[Payload, ...],
        own_id: bytes,
        faults: Faults,
        on_message: Callable[[Reply], None],
        method: bytes,
    ) -> None:
        super().__init__(repeatable=True)
        self.request = request
        self.method = method
        self.own_id = own_id
        self._faults = faults
        self._on_message = on_message
        self.done = trio.Event()
        self.answer: Answer | None = None
        self.failure: Failure | None = None

    def answered(self, head: ResponseHead, body: Payload) -> bool:
        self.answer = Answer(head, read_body(head, body), self.own_id, is_empty=not len(body))
        self.done.set()
        return self.answer.is_own or (not self.own_id and head.status == 202)

    def streamed(self, event: Event) -> None:
        reply = read_event(event)
        if reply is None:
            return
        if reply.method is not None:
            self._on_message(reply)
        elif reply.id == self.own_id and self.connection is not None and self.connection.head is not None:
            self.answer = Answer(self.connection.head, reply, self.own_id, is_empty=False)
            self.connection.release_early()
            self.done.set()

    def stream_ended(self) -> None:
        self.failed(self._faults.broke_off("after a stream that held no answer"))

    def replied(self, reply: Reply) -> None:
        self.answer = Answer(ANSWERED, reply, self.own_id, is_empty=False)
        self.done.set()

    def failed(self, failure: Failure) -> None:
        self.failure = failure
        self.done.set()


class Fetcher:
    """Lets tasks make requests through the channel."""

    def __init__(self, channel: Channel, faults: Faults) -> None:
        self.channel = channel
        self.faults = faults

    async def fetch(
        self,
        request: tuple[Payload, ...],
        own_id: bytes,
        timeout_s: float,
        on_message: Callable[[Reply], None],
        *,
        method: bytes = b"POST",
    ) -> Answer:
        """Exchange one request that is safe to repeat. Other messages on its stream go to `on_message`.

        Errors: `Unanswered` if neither an answer nor an event with the answer comes within `timeout_s`.
        """
        exchange = Fetch(request, own_id, self.faults, on_message, method)
        try:
            with trio.move_on_after(timeout_s):
                self.channel.submit(exchange)
                await exchange.done.wait()
        finally:
            if not exchange.done.is_set():
                self.channel.abandon(exchange)
        if exchange.answer is not None:
            return exchange.answer
        raise Unanswered(exchange.failure or self.faults.silent(timeout_s))
