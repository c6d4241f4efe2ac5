"""The streams that have to be kept open for what a server says unasked."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Protocol

import trio

from protocol.versions import Era
from workers.backend.access import Access
from workers.backend.faults import Failure
from workers.backend.get_stream import GetStream
from workers.backend.leg import Leg
from workers.backend.legacy import LegacyLeg
from workers.backend.listen_stream import ListenStream
from workers.backend.requests import Ids
from workers.backend.watches import Watches
from workers.logs import Log
from workers.reactor import Reactor


class Streams(Protocol):
    """Follows what is opened."""

    @property
    def settled(self) -> trio.Event:
        """Set once nothing is missed of what the present legacy session says."""
        ...

    def opened(self, leg: Leg) -> None: ...

    def changed(self) -> None:
        """Something else is wanted now."""
        ...

    def stop(self) -> None: ...


class MessageStreams:
    """What a server says on a channel of messages comes anyway; only a modern one has to be listened to."""

    def __init__(self, legacy: LegacyLeg, listen: ListenStream) -> None:
        self._legacy = legacy
        self._listen = listen
        self.settled = trio.Event()
        self.settled.set()

    def opened(self, leg: Leg) -> None:
        if leg is self._legacy:
            self._listen.stop()
        else:
            self._listen.follow()

    def changed(self) -> None:
        self._listen.changed()

    def stop(self) -> None:
        self._listen.stop()


class HttpStreams:
    """The GET stream of each legacy session, and the stream of `subscriptions/listen`."""

    def __init__(self, legacy: LegacyLeg, listen: ListenStream, new_get: Callable[[LegacyLeg], GetStream]) -> None:
        """`new_get` returns the GET stream for the sessions of a leg; `legacy` is the one that all clients share."""
        self._listen = listen
        self._new_get = new_get
        self._shared = new_get(legacy)
        self._gets: dict[Leg, GetStream] = {legacy: self._shared}

    @property
    def settled(self) -> trio.Event:
        return self._shared.settled

    def opened(self, leg: Leg) -> None:
        if leg in self._gets:
            self._gets[leg].follow()
        elif leg.era is Era.MODERN:
            self._listen.follow()
        else:  # that of HTTP+SSE, which has a stream for everything
            self._shared.stop()
            self._shared.settled.set()

    def opened_able(self, leg: LegacyLeg) -> trio.Event:
        """The same for a session of clients that can be asked. Return what is set once no question is missed."""
        if leg not in self._gets:
            self._gets[leg] = self._new_get(leg)
        self._gets[leg].follow()
        return self._gets[leg].settled

    def changed(self) -> None:
        self._listen.changed()

    def stop(self) -> None:
        for get in self._gets.values():
            get.stop()
        self._listen.stop()


def streams_of(
    reactor: Reactor,
    access: Access,
    ids: Ids,
    log: Log,
    random: Random,
    watches: Watches,
    *,
    gap: Callable[[], None],
    unreachable: Callable[[Failure], None],
    forgotten: Callable[[Leg, int], None],
) -> Streams:
    """Return the streams of a server. The callbacks are those of `GetStream`; `forgotten` is told which leg it was."""
    pool, legacy, modern = access.pool, access.legacy, access.modern
    listen = ListenStream(
        reactor,
        modern.channel,
        modern,
        ids,
        log,
        random,
        wanted=watches.wanted,
        acknowledged=watches.acknowledged,
        on_notification=modern.on_message,
        gap=gap,
        unreachable=unreachable,
        forgotten=lambda opening: forgotten(modern, opening),
    )
    if pool is None:
        return MessageStreams(legacy, listen)

    def get_stream(leg: LegacyLeg) -> GetStream:
        is_shared = leg is legacy
        return GetStream(
            reactor,
            pool,
            leg,
            log,
            random,
            on_request=leg.on_request,
            on_notification=leg.on_message,
            gap=gap if is_shared else _nothing,  # only questions come on the others
            unreachable=unreachable,
            forgotten=lambda opening: (forgotten if is_shared else access.legs.forget)(leg, opening),
        )

    streams = HttpStreams(legacy, listen, get_stream)
    if access.legs.able is not None:
        access.legs.able.opened = streams.opened_able
    return streams


def _nothing() -> None:
    pass
