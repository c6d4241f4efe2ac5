"""The streams that have to be kept open for what a server says unasked. Elsewhere all comes on its own."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Protocol

import trio

from workers.backend.access import Access
from workers.backend.faults import Failure
from workers.backend.get_stream import GetStream
from workers.backend.leg import Leg
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


class NoStreams:
    """There is nothing to be kept open."""

    def __init__(self) -> None:
        self.settled = trio.Event()
        self.settled.set()

    def opened(self, leg: Leg) -> None: ...

    def changed(self) -> None: ...

    def stop(self) -> None: ...


class HttpStreams:
    """The GET stream of a legacy session, and the stream of `subscriptions/listen`."""

    def __init__(
        self,
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
    ) -> None:
        """The callbacks are those of `GetStream`; `forgotten` is told of which leg it was."""
        assert access.pool is not None
        legacy, modern = access.legacy, access.modern
        self._legacy = legacy
        self._get = GetStream(
            reactor,
            access.pool,
            legacy,
            log,
            random,
            on_request=legacy.on_request,
            on_notification=legacy.on_message,
            gap=gap,
            unreachable=unreachable,
            forgotten=lambda opening: forgotten(legacy, opening),
        )
        self._listen = ListenStream(
            reactor,
            access.pool,
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

    @property
    def settled(self) -> trio.Event:
        return self._get.settled

    def opened(self, leg: Leg) -> None:
        if leg is self._legacy:
            self._get.follow()
        else:
            self._listen.follow()

    def changed(self) -> None:
        self._listen.changed()

    def stop(self) -> None:
        self._get.stop()
        self._listen.stop()
