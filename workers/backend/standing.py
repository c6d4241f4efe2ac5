"""A request whose answer is an event stream that is meant to stay open, on which the server says things unasked."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final

import trio

from protocol.http1 import ResponseHead
from protocol.jsonrpc import Reply
from protocol.limits import STANDING_PAUSE_MAX_S, STANDING_PAUSE_MIN_S, STREAM_IDLE_S
from protocol.link import Payload
from protocol.sse import Event
from workers.backend.answers import Answer, read_body, read_event
from workers.backend.channel import Channel
from workers.backend.exchange import Exchange
from workers.backend.faults import Failure

PROBES: Final = 5
PROBE_S: Final = 10
"""A peer that was silent for the rest of `STREAM_IDLE_S` is asked by the kernel so often, so many seconds apart."""


class Standing(Exchange):
    """One such stream. `on_message` gets every message on it, as it comes."""

    __slots__ = (
        "_channel", "_on_message", "_told_ended", "answer", "changed", "ended", "failure", "has_begun",
        "last_event_id", "retry_s",
    )  # fmt: skip

    is_standing = True

    def __init__(
        self,
        channel: Channel,
        request: tuple[Payload, ...],
        own_id: bytes,
        on_message: Callable[[Reply], None],
        *,
        method: bytes,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(repeatable=True)
        self._channel = channel
        self.request = request
        self.method = method
        self.own_id = own_id
        self._on_message = on_message
        self._told_ended = ended
        self.has_begun = False
        """The server has answered with a stream."""
        self.ended = trio.Event()
        self.changed = trio.Event()
        """Set when it begins and when it ends, and replaced after it has begun."""
        self.answer: Answer | None = None
        """What came in place of a stream."""
        self.failure: Failure | None = None
        """Why there is neither, or why the stream broke; None if it ended in good order."""
        self.last_event_id = ""
        self.retry_s = 0.0
        """How long the server wants us to wait before the next one; 0 for no wish."""

    def begin(self) -> None:
        """Send the request."""
        self._channel.standing += 1
        self._channel.submit(self)

    def close(self) -> bool:
        """End the stream, if it has not ended by itself. Return whether the server may still be at it."""
        if self.ended.is_set():
            return False
        may_be_sent = self._channel.abandon(self)
        self._end()
        return may_be_sent

    def stream_began(self) -> None:
        self.has_begun = True
        if self.connection is not None:
            self.connection.probe_peer(int(STREAM_IDLE_S) - PROBES * PROBE_S, PROBE_S, PROBES)
        self._poke()

    def answered(self, head: ResponseHead, body: Payload) -> bool:
        self.answer = Answer(head, read_body(head, body), self.own_id, is_empty=not len(body))
        self._end()
        return self.answer.is_own and not self._channel.is_overfull

    def streamed(self, event: Event) -> None:
        if event.id is not None:
            self.last_event_id = event.id
        if event.retry_ms is not None:
            self.retry_s = event.retry_ms / 1000
        reply = read_event(event)
        if reply is not None:
            self._on_message(reply)

    def stream_ended(self) -> None:
        self._end()

    def noted(self, notification: Reply) -> None:
        self.has_begun = True
        self._on_message(notification)

    def replied(self, reply: Reply) -> None:
        self._on_message(reply)
        self._end()

    def failed(self, failure: Failure) -> None:
        self.failure = failure
        self._end()

    async def settled(self) -> None:
        """Wait until it has begun or ended."""
        while not self.has_begun and not self.ended.is_set():
            await self.changed.wait()

    def _end(self) -> None:
        self._channel.standing -= 1
        self.ended.set()
        self._told_ended()
        self._poke()

    def _poke(self) -> None:
        changed, self.changed = self.changed, trio.Event()
        changed.set()


class Pauses:
    """How long to wait before a stream that has ended is opened again: longer each time, until one has lasted.

    A server's own wish (`retry`) can make the pause longer, never shorter.
    """

    __slots__ = ("_last_s", "_random")

    def __init__(self, random: Random) -> None:
        self._random = random
        self._last_s = 0.0

    def next(self, lasted_s: float, wished_s: float) -> float:
        """Return the seconds to wait after a stream that has lasted so long."""
        if lasted_s > STANDING_PAUSE_MAX_S:
            self._last_s = 0.0
        longest_s = min(STANDING_PAUSE_MAX_S, max(STANDING_PAUSE_MIN_S, self._last_s * 3))
        self._last_s = self._random.uniform(STANDING_PAUSE_MIN_S, longest_s)
        return max(self._last_s, min(wished_s, STANDING_PAUSE_MAX_S))
