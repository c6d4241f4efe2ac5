"""Keeps the GET stream of a legacy session open, on which the server says what belongs to no request of ours.

Rule 1: a server that answers the first GET of a session with anything but a stream has none, and is not asked again in
that session (2025-11-25, transports, "Listening for Messages from the Server"); unless it says that it is in trouble.
Rule 2: whatever ends the stream later, it is opened again after a pause, as long as the session is the same.
Rule 3: what was said between two streams may be lost. Whoever relies on it is told so (`gap`).
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final

import trio

from protocol.jsonrpc import Reply
from workers.backend.faults import Failure
from workers.backend.legacy import LegacyLeg
from workers.backend.pool import Pool
from workers.backend.standing import Pauses, Standing
from workers.logs import Log
from workers.reactor import Reactor

_GONE: Final = 404
_TOO_MANY: Final = 429
_SERVER_ERRORS: Final = 500


class GetStream:
    """The GET stream of the server's session.

    `on_request` and `on_notification` get what the server says there; `gap` is called when something may have been
    missed; `unreachable` when there is no connection to be had; `forgotten` when the server does not know the session
    any more, with the opening of the leg it belonged to.
    """

    def __init__(
        self,
        reactor: Reactor,
        pool: Pool,
        leg: LegacyLeg,
        log: Log,
        random: Random,
        *,
        on_request: Callable[[Reply], None],
        on_notification: Callable[[Reply], None],
        gap: Callable[[], None],
        unreachable: Callable[[Failure], None],
        forgotten: Callable[[int], None],
    ) -> None:
        self._reactor = reactor
        self._pool = pool
        self._leg = leg
        self._log = log
        self._random = random
        self._on_request = on_request
        self._on_notification = on_notification
        self._gap = gap
        self._unreachable = unreachable
        self._forgotten = forgotten
        self._running = trio.CancelScope()
        self._has_ever_begun = False
        self.settled = trio.Event()
        """Set once it is known of the present session whether it has such a stream; from then on nothing is missed."""

    def follow(self) -> None:
        """A session has just been opened, or found to be alive still: keep its stream open from now on."""
        self.stop()
        self.settled = trio.Event()
        self._running = trio.CancelScope()
        self._reactor.start_soon(self._keep, self._running, self.settled)

    def stop(self) -> None:
        """Close the stream."""
        self._running.cancel()

    async def _keep(self, running: trio.CancelScope, settled: trio.Event) -> None:
        opening = self._leg.opening
        pauses = Pauses(self._random)
        last_event_id = ""
        begun_before = False
        with running:
            while True:
                stream = Standing(
                    self._pool, self._leg.stream_request(last_event_id), b"", self._message, method=b"GET"
                )
                began_at = trio.current_time()
                try:
                    stream.begin()
                    await stream.settled()
                    settled.set()
                    self._leg.asks_apart = stream.has_begun
                    if stream.has_begun:
                        if self._has_ever_begun:
                            self._gap()
                        begun_before = self._has_ever_begun = True
                    await stream.ended.wait()
                finally:
                    stream.close()
                status = stream.answer.status if stream.answer is not None else 0
                if stream.failure is not None and stream.failure.down:
                    self._unreachable(stream.failure)
                    return  # once the server can be reached again, its leg is opened again
                if status and status < _SERVER_ERRORS and status != _TOO_MANY and not begun_before:
                    self._log.debug("the server has no stream of its own", http=status)
                    return
                if status == _GONE:
                    self._forgotten(opening)
                    return
                last_event_id = stream.last_event_id or last_event_id
                await trio.sleep(pauses.next(trio.current_time() - began_at, stream.retry_s))

    def _message(self, message: Reply) -> None:
        if message.method is None:
            return  # an answer, but nothing was asked here
        if message.id is not None:
            self._on_request(message)
        else:
            self._on_notification(message)
