"""Messages that are written one after the other on one stream of bytes: a pipe, a WebSocket.

Rule 1: a request is written only when everything before it has been taken by the kernel. So what a server that reads
nothing has not got is known, and goes to its next life instead.
Rule 2: all that one turn of the reactor brings is written at once.
"""

from __future__ import annotations

import abc
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar

from protocol.limits import QUEUE_PER_SERVER_MAX
from protocol.link import Payload
from workers.backend.exchange import Exchange
from workers.backend.faults import Failure
from workers.backend.leg import Counters
from workers.backend.message_faults import MessageFaults
from workers.backend.messages import Life, MessageChannel
from workers.logs import Log
from workers.reactor import Reactor

WRITTEN_TOGETHER_BYTES: Final = 64 * 1024
"""As much as a pipe takes."""


class OrderedLife(Life):
    """One life of such a stream."""

    @property
    @abc.abstractmethod
    def is_full(self) -> bool:
        """Not everything written so far has been taken; `OrderedChannel.drained` is called when it has."""

    @abc.abstractmethod
    def write(self, messages: Sequence[Payload]) -> bool:
        """Write these in order. Return whether some of it may reach the server."""


L = TypeVar("L", bound=OrderedLife)


class OrderedChannel(MessageChannel[L]):
    """A channel of messages that has one stream in each life."""

    def __init__(
        self,
        reactor: Reactor,
        faults: MessageFaults,
        counters: Counters,
        log: Log,
        *,
        used: Callable[[], None],
        ended: Callable[[Failure], None],
    ) -> None:
        super().__init__(reactor, faults, counters, log, used=used, ended=ended)
        self._waiting: deque[Exchange | bytes] = deque()
        """What is to be written, but nothing of it has been."""
        self._is_flush_due = False

    @property
    def next_due(self) -> float | None:
        is_full = self.life is not None and self.life.is_full
        return None if self._waiting or is_full else super().next_due

    def abandon(self, exchange: Exchange) -> bool:
        if self.life is not None and self.life.sent.get(exchange.own_id) is exchange:
            del self.life.sent[exchange.own_id]
            return True
        if exchange in self._waiting:
            self._waiting.remove(exchange)
        return False

    def drained(self) -> None:
        """What was written last has been taken."""
        self._flush()

    def _send(self, life: L, item: Exchange | bytes) -> None:
        if isinstance(item, bytes):
            if len(self._waiting) >= 2 * QUEUE_PER_SERVER_MAX:
                return
        elif len(self._waiting) >= QUEUE_PER_SERVER_MAX:
            item.failed(self.faults.queue_full())
            return
        self._waiting.append(item)
        if not self._is_flush_due:
            self._is_flush_due = True
            self._reactor.at_batch_end(self._flush)

    def _take_unsent(self, life: L) -> Iterable[Exchange]:
        waiting, self._waiting = self._waiting, deque()
        return [item for item in waiting if not isinstance(item, bytes)]

    def _flush(self) -> None:
        self._is_flush_due = False
        life = self.life
        while self._waiting and life is not None and life is self.life and not life.is_full:
            batch: list[Exchange | bytes] = []
            messages: list[Payload] = []
            size = 0
            while self._waiting and size < WRITTEN_TOGETHER_BYTES:
                item = self._waiting.popleft()
                batch.append(item)
                if isinstance(item, bytes):
                    messages.append(item)
                else:
                    life.sent[item.own_id] = item
                    item.writing()
                    messages += item.request
                size += len(messages[-1])  # a request is one message
            if not life.write(messages):
                self._take_back(life, batch)
                return

    def _take_back(self, life: L, batch: list[Exchange | bytes]) -> None:
        """The server has closed its end before any of this: it waits for what becomes of that."""
        for item in reversed(batch):
            if not isinstance(item, bytes):
                del life.sent[item.own_id]
                item.unwritten()
                self._waiting.appendleft(item)
