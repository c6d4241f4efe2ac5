"""What a byte stream looks like to protocol code: the seam between logic and I/O.

Handlers are callbacks and never wait. The reactor implements `Stream` on sockets; tests and the simulator implement it
in memory. The split is the one of asyncio's transports and protocols, which keeps the hot path free of task switches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from protocol.link import Payload


class StreamHandler(Protocol):
    """The logic behind one stream. Callbacks run on the reactor and must neither block nor raise."""

    def data_received(self, data: bytes) -> None:
        """Some bytes have arrived (never empty)."""
        ...

    def into_filled(self, count: int) -> None:
        """`count` bytes have been received straight into `Stream.into`; move it on, or set it to None when full."""
        ...

    def eof_received(self) -> None:
        """The peer will send no more. The stream stays open for writing until somebody closes it."""
        ...

    def buffer_drained(self) -> None:
        """The write buffer has fallen below its low mark after having been above its high mark."""
        ...

    def stream_closed(self, error: OSError | None) -> None:
        """The stream is gone. Called exactly once, last, whoever closed it; `error` if the world broke it."""
        ...


class Stream(Protocol):
    """One bidirectional byte stream."""

    handler: StreamHandler
    """Who is told what happens."""
    into: memoryview | None
    """If set, incoming bytes go straight there instead of through `data_received` (large bodies, copied once)."""

    @property
    def buffered(self) -> int:
        """Bytes accepted by `write` and not yet taken by the kernel."""
        ...

    @property
    def stalled_since(self) -> float:
        """Reactor time at which `buffered` last made progress (meaningful while `buffered` > 0)."""
        ...

    def write(self, data: Payload) -> None:
        """Send this, now as far as the kernel takes it, the rest when it can. Never fails: a broken stream reports
        itself through `stream_closed`. `data` must not be changed afterwards."""
        ...

    def writelines(self, chunks: Sequence[Payload]) -> None:
        """Send the chunks in order, as if they had been joined."""
        ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def close(self) -> None:
        """Stop reading, write what is buffered, then close. Idempotent."""
        ...

    def abort(self) -> None:
        """Close at once and drop what is buffered. Idempotent."""
        ...


class ConnectionStream(Stream, Protocol):
    """A stream over a connection."""

    def tell_when_empty(self) -> None:
        """From now on `StreamHandler.buffer_drained` says that all that was buffered has been taken by the kernel."""
        ...
