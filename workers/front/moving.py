"""A connection on its way to another front: wait until all that has come of it is whole requests, then hand it over.

Requests are served in the order in which they came, so that nothing is being answered when one is found that another
front has to serve, and all that follow it wait. Most clients send nothing more before they have their answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from protocol.limits import BODY_BYTES_MAX
from workers.reactor import SocketStream
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
    """Stands before the connection as handler of its stream until it can leave."""

    def __init__(
        self, connection: Leaving, front: int, defer: Callable[[Callable[[OSError | None], None], OSError | None], None]
    ) -> None:
        """`defer`: calls back when the stack of now has unwound (`workers.reactor.Reactor.defer`)."""
        self._connection = connection
        self._front = front
        self._defer = defer
        self._is_over = False
        connection.stream.handler = self
        defer(self._look, None)  # the parser may be in the middle of what has come

    def _look(self, _: OSError | None) -> None:
        connection = self._connection
        if self._is_over:
            return
        if connection.may_leave():
            self._is_over = True
            connection.stream.handler = connection
            connection.leave(self._front)
        elif connection.waiting_bytes() > WAITING_BYTES_MAX:
            connection.stream.abort()  # nothing of it was served
        else:
            connection.stream.resume_reading()

    # --- workers.transport.StreamHandler ----------------------------------------------------------------------
    def data_received(self, data: bytes) -> None:
        self._connection.data_received(data)
        self._defer(self._look, None)

    def into_filled(self, count: int) -> None:
        self._connection.into_filled(count)
        self._defer(self._look, None)

    def eof_received(self) -> None:
        self._connection.eof_received()

    def buffer_drained(self) -> None:
        """Nothing: what is not written yet goes along."""

    def stream_closed(self, error: OSError | None) -> None:
        self._is_over = True
        self._connection.stream_closed(error)
