"""Both eras over a channel of messages: no HTTP around them, and one era for everybody.

A server decides with the first request what it speaks on a pipe or a WebSocket, and refuses the other era from then on
(the official SDK does). So clients of both eras are served in one, the modern one if the server has it.

Rule 1: silence is no answer, but has to be taken for one: many old servers say nothing to `server/discover`, and some
end. They are asked to initialize then; if they refuse that, they were only slow, and are asked again (specification
2026-07-28, transports: stdio, era negotiation).
Rule 2: a server that did so is asked the other way round in its next life.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from protocol.abilities import EVERYTHING
from protocol.jsonrpc import Raw, notification, one_line
from protocol.limits import PROBE_S
from protocol.link import Payload
from protocol.meta import with_meta
from protocol.versions import Era
from workers.backend.calls import BackendCall
from workers.backend.endpoint import NOWHERE
from workers.backend.era import Verdict
from workers.backend.faults import Failure, Faults, Says, Unanswered
from workers.backend.fetch import Fetcher
from workers.backend.leg import Counters, Leg, Opening
from workers.backend.legacy import LegacyLeg
from workers.backend.legs import Legs, Waiter
from workers.backend.messages import Life, MessageChannel
from workers.backend.modern import ModernLeg
from workers.backend.requests import Ids
from workers.logs import Log
from workers.reactor import Reactor

_NOT_SAID: Final = "does not answer"


Channel = MessageChannel[Any]


def plain(head: bytes, own_id: bytes, method: str, params: Payload, meta: bytes = b"") -> tuple[Payload, ...]:
    """Return a request as one message (requests.py, `rpc`). `head` is for HTTP."""
    del head
    request = b'{"jsonrpc":"2.0","id":%b,"method":%b,"params":' % (own_id, msgspec.json.encode(method))
    # What clients send may be spread over several lines, which in a pipe would be several messages to the server.
    return (one_line(b"".join((request, with_meta(params, meta), b"}"))),)


class MessageModernLeg(ModernLeg):
    """The stateless era."""

    _write = staticmethod(plain)
    _discover_timeout_s = PROBE_S

    def __init__(
        self,
        fetcher: Fetcher,
        ids: Ids,
        counters: Counters,
        list_changed: Callable[[str], None],
        updated: Callable[[Raw], None],
        channel: Channel,
    ) -> None:
        super().__init__(fetcher, ids, counters, list_changed, updated, NOWHERE)
        self._messages = channel
        self.was_silent = False
        """It has not answered when it was asked the last time."""

    async def open(self) -> Opening:
        if self.was_silent or not self._messages.speaks_modern:
            return Opening(Verdict.NO)
        await self._messages.start()
        self._messages.speaker = self
        try:
            return await super().open()
        except Unanswered:
            self.was_silent = True
            return Opening(Verdict.NO)

    def cancel(self, own_id: bytes, reason: str) -> None:
        self._messages.say(_cancelled(own_id, reason))

    def _head(self, method: str, name: str) -> bytes:
        del method, name
        return b""


class MessageLegacyLeg(LegacyLeg):
    """The era of sessions; a session is a life of the channel."""

    _write = staticmethod(plain)

    def __init__(
        self,
        fetcher: Fetcher,
        ids: Ids,
        counters: Counters,
        list_changed: Callable[[str], None],
        updated: Callable[[Raw], None],
        channel: Channel,
        reactor: Reactor,
        calls: Callable[[Leg], Iterable[BackendCall]],
        abilities: int = EVERYTHING,
    ) -> None:
        super().__init__(fetcher, ids, counters, list_changed, updated, NOWHERE, reactor, abilities, calls)
        self._initialize_timeout_s = channel.initialize_s
        self.asks_apart = True
        self._messages = channel
        self._initialized: Life | None = None

    async def open(self) -> Opening:
        await self._messages.start()
        if not self._lost and self._initialized is self._messages.life:
            return Opening(Verdict.YES)
        self._messages.speaker = self
        try:
            opening = await super().open()
        except Unanswered:
            self._messages.replace(_NOT_SAID)  # one that hangs in its start does not get over it
            raise
        if opening.verdict is Verdict.YES:
            self._initialized = self._messages.life
        return opening

    def cancel(self, own_id: bytes, reason: str) -> None:
        self._messages.say(_cancelled(own_id, reason))

    def _new_head(self, *fields: tuple[bytes, bytes]) -> bytes:
        del fields
        return b""

    async def _post(self, message: bytes, timeout_s: float) -> None:
        await self._messages.deliver(bytes(one_line(message)), timeout_s)


class MessageLegs(Legs):
    """Both ways of speaking, of which one is used."""

    def __init__(
        self,
        reactor: Reactor,
        modern: MessageModernLeg,
        legacy: MessageLegacyLeg,
        faults: Faults,
        log: Log,
        opened: Callable[[Leg], None],
    ) -> None:
        legs: Mapping[Era, Leg] = {Era.MODERN: modern, Era.LEGACY: legacy}
        # One channel is one session, for clients of all kinds.
        super().__init__(reactor, legs, None, faults, log, opened)
        self._modern = modern

    def serving(self, era: Era) -> Leg | None:
        del era
        return super().serving(Era.MODERN)

    def wait(self, era: Era, waiter: Waiter) -> None:
        del era
        super().wait(Era.MODERN, waiter)

    async def _find(self, wanted: Era) -> Failure | None:
        failure = await super()._find(wanted)
        if failure is not None and self._modern.was_silent:
            self._modern.was_silent = False
            if failure.says is Says.BROKEN:  # it has refused to initialize
                return await super()._find(wanted)
        return failure


def _cancelled(own_id: bytes, reason: str) -> bytes:
    params = b'{"requestId":%b,"reason":%b}' % (own_id, msgspec.json.encode(reason))
    return notification("notifications/cancelled", params)
