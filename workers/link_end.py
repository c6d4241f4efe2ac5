"""One end of a link: frames over a stream, flushed once per batch, within the window the other side grants.

What cannot be sent for want of window waits here in order; nothing is dropped and nothing blocks. Whoever produces
frames looks at `queued_bytes` and pauses its source when that grows (protocol/link.py, Rule 4).
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from typing import Final, Literal

import msgspec

from protocol import link
from protocol.limits import LINK_CREDIT_BYTES, LINK_VERSION, LINK_WINDOW_BYTES
from protocol.link import (
    HEAD_BYTES,
    LENGTH_BYTES,
    Credit,
    Header,
    Hello,
    LinkError,
    Payload,
    encode_frame,
    frame_length,
    unpack_head,
)
from workers.reactor import Reactor

LARGE_FRAME_BYTES: Final = 64 * 1024
"""Longer frames are received straight into a buffer of their own, so that their payload is never copied."""
SMALL_PAYLOAD_BYTES: Final = 4 * 1024
"""Payloads up to this size are handed on as copies, which cost less than views."""

_DECODERS: Final[dict[str, Callable[[Payload], Header]]] = {
    "front": link.decode_from_worker,
    "worker": link.decode_from_front,
}


class LinkEnd:
    """One end of a link. `on_frame` gets every frame but `Hello` and `Credit`, with its payload.

    `on_room`: some of what was queued may have been sent.
    """

    def __init__(
        self,
        reactor: Reactor,
        sock: socket.socket,
        *,
        role: Literal["front", "worker"],
        name: str,
        incarnation: int,
        calls: int,
        on_frame: Callable[[Header, Payload], None],
        on_closed: Callable[[str], None],
        on_hello: Callable[[], None] | None = None,
        on_room: Callable[[], None] | None = None,
    ) -> None:
        self.peer: Hello | None = None
        self.queued_bytes = 0
        self.broken = False
        """The other end broke the protocol (as opposed to having gone)."""
        self._decode = _DECODERS[role]
        self._on_frame = on_frame
        self._on_closed = on_closed
        self._on_hello = on_hello
        self._on_room = on_room
        self._reason = "the process at the other end is gone"
        self._reactor = reactor
        self._open = True
        self._flows = False
        """Frames go out as they come: the other side has said hello, and nothing waits."""
        self._granted = 0
        self._window = 0
        """Payload bytes the other side still accepts; nothing but our hello is sent before its hello says how many."""
        self._consumed = 0
        self._outgoing: list[Payload] = []
        self._waiting: deque[tuple[Header, Payload]] = deque()
        self._pending = b""
        self._large: bytearray | None = None
        self._large_filled = 0
        self._stream = reactor.add_stream(sock, self)
        self._put(encode_frame(Hello(LINK_VERSION, name, incarnation, calls, LINK_WINDOW_BYTES)))

    def send(self, header: Header, payload: Payload = b"") -> None:
        """Queue a frame. Its payload must not change afterwards. Nothing happens if the link is closed."""
        size = len(payload)
        if not (self._flows and size <= self._window) and not self._may_go(header, payload):
            return
        self._window -= size
        outgoing = self._outgoing
        is_first = not outgoing
        outgoing.append(encode_frame(header, size))
        if size:
            outgoing.append(payload)
        if is_first:
            self._reactor.at_batch_end(self._flush)

    def close(self) -> None:
        """Say and hear nothing more and leave. `on_closed` follows."""
        if self._open:
            self._open = self._flows = False
            self._reason = "closed by this side"
            self._flush()
            self._stream.close()

    # --- outgoing -------------------------------------------------------------------------------------------
    def _may_go(self, header: Header, payload: Payload) -> bool:
        """Tell whether this frame may be sent now; let it wait if it may later."""
        if self._flows and self._fits(len(payload)):
            return True
        if self._open:
            # Frames keep their order, also those without a payload: a result must not overtake its events.
            self._flows = False
            self._waiting.append((header, payload))
            self.queued_bytes += len(payload)
        return False

    def _put(self, frame: bytes) -> None:
        """Queue a frame of the link's own, which nothing holds up."""
        self._outgoing.append(frame)
        if len(self._outgoing) == 1:
            self._reactor.at_batch_end(self._flush)

    def _flush(self) -> None:
        outgoing, self._outgoing = self._outgoing, []
        if not outgoing:
            return
        if len(outgoing) == 1:
            self._stream.write(outgoing[0])
        elif sum(map(len, outgoing)) <= LARGE_FRAME_BYTES:
            self._stream.write(b"".join(outgoing))
        else:
            for start in range(0, len(outgoing), 64):
                self._stream.writelines(outgoing[start : start + 64])

    def _release(self) -> None:
        while self._waiting and self._fits(len(self._waiting[0][1])):
            header, payload = self._waiting.popleft()
            self.queued_bytes -= len(payload)
            self._flows = True
            self.send(header, payload)
        self._flows = self._open and not self._waiting
        if self._on_room is not None:
            self._on_room()

    def _fits(self, size: int) -> bool:
        """May a payload of this size be sent now?

        A payload may be larger than the window, and the other side keeps credit back until it has a portion of
        `LINK_CREDIT_BYTES`. One that does not fit goes once all before it may have been consumed; else it never could.
        """
        return not size or size <= self._window or self._granted - self._window < LINK_CREDIT_BYTES

    # --- incoming (workers.transport.StreamHandler) ---------------------------------------------------------
    def data_received(self, data: bytes) -> None:
        if self._pending:
            data = self._pending + data
            self._pending = b""
        at, end = 0, len(data)
        try:
            while end - at >= HEAD_BYTES and self._open:
                length, header_length = unpack_head(data, at)
                start = at + HEAD_BYTES + header_length
                stop = at + LENGTH_BYTES + length
                if stop > end or start > stop:
                    if frame_length(data, at)[0] > LARGE_FRAME_BYTES:  # which refuses the impossible
                        self._begin_large(data, at, stop - at)
                        return
                    break
                if stop - start <= SMALL_PAYLOAD_BYTES:
                    self._frame(data[at + HEAD_BYTES : start], data[start:stop])
                else:
                    self._frame(data[at + HEAD_BYTES : start], memoryview(data)[start:stop])
                at = stop
        except LinkError as error:
            self._protocol_error(error)
            return
        if at < end:
            self._pending = data[at:] if at else data

    def into_filled(self, count: int) -> None:
        large = self._large
        assert large is not None
        self._large_filled += count
        if self._large_filled < len(large):
            self._stream.into = memoryview(large)[self._large_filled :]
            return
        self._stream.into = None
        self._large = None
        try:
            _, header_length = frame_length(large)
            start = HEAD_BYTES + header_length
            view = memoryview(large)
            self._frame(view[HEAD_BYTES:start], view[start:])
        except LinkError as error:
            self._protocol_error(error)

    def eof_received(self) -> None:
        self._stream.abort()

    def buffer_drained(self) -> None:
        """Nothing to do: what waits here waits for window, not for the kernel."""

    def stream_closed(self, error: OSError | None) -> None:
        if error is not None and self._open:
            self._reason = f"the link broke: {error.strerror}"
        self._open = self._flows = False
        self._waiting.clear()
        self.queued_bytes = 0
        self._on_closed(self._reason)

    def _begin_large(self, data: bytes, at: int, length: int) -> None:
        large = bytearray(length)
        self._large_filled = len(data) - at
        large[: self._large_filled] = memoryview(data)[at:]
        self._large = large
        self._stream.into = memoryview(large)[self._large_filled :]

    def _frame(self, head: Payload, payload: Payload) -> None:
        try:
            header = self._decode(head)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:  # an unknown tag is one of the former
            raise LinkError(f"a frame that does not decode: {error}") from None
        kind = type(header)
        if kind is Hello:
            self._hello(header)  # pyright: ignore[reportArgumentType] - `kind` says so
            return
        if self.peer is None:
            raise LinkError("a frame before the hello")
        if kind is Credit:
            self._credit(header)  # pyright: ignore[reportArgumentType] - `kind` says so
            return
        self._on_frame(header, payload)
        self._consumed += len(payload)
        if self._consumed >= LINK_CREDIT_BYTES:
            self._put(encode_frame(Credit(self._consumed)))
            self._consumed = 0

    def _credit(self, credit: Credit) -> None:
        outstanding = self._granted - self._window
        if not 0 < credit.payload_bytes <= outstanding:
            raise LinkError(f"credit for {credit.payload_bytes} bytes while {outstanding} are outstanding")
        self._window += credit.payload_bytes
        self._release()

    def _hello(self, hello: Hello) -> None:
        if self.peer is not None:
            raise LinkError("a second hello")
        if hello.version != LINK_VERSION:
            raise LinkError(f"link version {hello.version}, this side speaks {LINK_VERSION}")
        self.peer = hello
        self._window = self._granted = hello.window
        self._release()
        if self._on_hello is not None:
            self._on_hello()

    def _protocol_error(self, error: Exception) -> None:
        self._open = self._flows = False
        self.broken = True
        self._reason = f"protocol error: {error}"[:200]
        self._stream.abort()
