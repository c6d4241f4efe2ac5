"""A connection on its way to another front: wait until all that has come of it is whole requests, then hand it over.

Requests are served in the order in which they came, so that nothing is being answered when one is found that another
front has to serve, and all that follow it wait. Most clients send nothing more before they have their answer.
"""

from __future__ import annotations

from typing import Final, Protocol

import trio

from protocol.limits import BODY_BYTES_MAX, MOVE_WAIT_S
from workers.reactor import Reactor, SocketStream
from workers.tls import TlsStream

WAITING_BYTES_MAX: Final = 2 * BODY_BYTES_MAX
"""Of bodies of requests that have come before the connection can be handed over."""


class Leaving(Protocol):
    """What a connection that is to be handed over is to this file."""

    stream: SocketStream | TlsStream

    def data_received(self, data: bytes) -> None: ...

    def into_filled(self, count: int) -> None: ...

    def eof_received(self) -> None: ...

    def buffer_drained(self) -> None: ...

    def stream_closed(self, error: OSError | None) -> None: ...

    def may_leave(self) -> bool:
        """All that has come of it is whole requests."""
        ...

    def leave(self, front: int) -> None:
        """Hand it over to this front."""
        ...

    def waiting_bytes(self) -> int:
        """Return how much has come that waits to be handed over."""
        ...


class Departure:
    """Stands before the connection as handler of its stream until it can leave; at most for `MOVE_WAIT_S`."""

    def __init__(self, connection: Leaving, front: int, reactor: Reactor) -> None:
        self._connection = connection
        self._front = front
        self._reactor = reactor
        self._is_over = False
        self._is_timed = False
        connection.stream.handler = self
        reactor.defer(self._look, None)  # the parser may be in the middle of what has come

    def _look(self, _: OSError | None) -> None:
        connection = self._connection
        if self._is_over:
            return
        if connection.may_leave():
            self._is_over = True
            connection.stream.handler = connection
            connection.leave(self._front)
        elif connection.waiting_bytes() > WAITING_BYTES_MAX:
            self._give_up()
        else:
            connection.stream.resume_reading()
            if not self._is_timed:
                self._is_timed = True
                self._reactor.start_soon(self._give_up_later)

    async def _give_up_later(self) -> None:
        await trio.sleep(MOVE_WAIT_S)
        if not self._is_over:
            self._give_up()

    def _give_up(self) -> None:
        """Close: nothing of what waits was served, and it may be asked for again."""
        self._connection.stream.abort()

    # --- workers.transport.StreamHandler ----------------------------------------------------------------------
    def data_received(self, data: bytes) -> None:
        self._connection.data_received(data)
        self._reactor.defer(self._look, None)

    def into_filled(self, count: int) -> None:
        self._connection.into_filled(count)
        self._reactor.defer(self._look, None)

    def eof_received(self) -> None:
        self._connection.eof_received()

    def buffer_drained(self) -> None:
        """Nothing: what is not written yet goes along."""

    def stream_closed(self, error: OSError | None) -> None:
        self._is_over = True
        self._connection.stream_closed(error)
