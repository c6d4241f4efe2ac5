"""A connection over TLS that belongs to another front: what comes is decrypted here and served there.

The keys of a TLS connection are in the memory of this process, so that its socket alone would be of no use to another.
The other front is given the end of a socketpair in its place.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Final

from protocol.limits import STREAM_BUFFER_HIGH_BYTES, WRITE_IDLE_S
from workers.reactor import Reactor, SocketStream
from workers.tls import TlsStream

_Streams = TlsStream | SocketStream
_BUFFER_BYTES_MAX: Final = STREAM_BUFFER_HIGH_BYTES


class Relay:
    """Hands on what comes, both ways (`workers.front.http_connection.Connected`)."""

    def __init__(
        self, reactor: Reactor, outside: TlsStream, inner: socket.socket, gone: Callable[[Relay], None]
    ) -> None:
        """`inner`: our end of the socketpair. `gone`: told when all is over."""
        self._gone = gone
        self._open = 2
        client, front = _Side(self), _Side(self)
        client.stream, front.stream = outside, reactor.add_stream(inner, front)
        client.other, front.other = front, client
        outside.into = None
        outside.handler = client
        self._streams: tuple[_Streams, ...] = (client.stream, front.stream)

    def drain(self, idle_s: float) -> None:
        """Nothing: the front that serves the connection drains, too, and ends it."""

    def sweep(self, now: float) -> None:
        if any(one.buffered and now - one.stalled_since > WRITE_IDLE_S for one in self._streams):
            for one in self._streams:
                one.abort()

    def side_closed(self) -> None:
        self._open -= 1
        if not self._open:
            self._gone(self)


class _Side:
    """One of the two streams (its `workers.transport.StreamHandler`)."""

    stream: _Streams
    other: _Side

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    def data_received(self, data: bytes) -> None:
        self.other.stream.write(data)
        if self.other.stream.buffered > _BUFFER_BYTES_MAX:
            self.stream.pause_reading()

    def into_filled(self, count: int) -> None:
        raise AssertionError(f"{count} bytes where nobody has made room")

    def eof_received(self) -> None:
        self.other.stream.finish()

    def buffer_drained(self) -> None:
        self.other.stream.resume_reading()

    def stream_closed(self, error: OSError | None) -> None:
        if error is None:
            self.other.stream.close()
        else:
            self.other.stream.abort()
        self._relay.side_closed()
