"""One exchange on a stream of an HTTP/2 connection: takes in an answer as far as somebody wants it now."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from protocol.http1 import ResponseError
from protocol.http2_fields import response_head
from protocol.limits import ANSWER_BYTES_MAX, HTTP2_STREAM_WINDOW_BYTES
from workers.backend.exchange import Carrier, Exchange

if TYPE_CHECKING:
    from workers.backend.http2 import Http2Connection
    from workers.backend.pool import Pool

INTERIM_MAX: Final = 1000
"""Interim answers (RFC 9110, section 15.2) before the final one, as over HTTP/1.1."""
_SWITCHING: Final = (b":status", b"101")


class Stream(Carrier):
    """A stream that we have begun."""

    __slots__ = (
        "_connection", "_held", "_interim", "_is_paused", "_owed", "_received", "began_at", "end_due", "id", "unsent",
    )  # fmt: skip

    def __init__(self, pool: Pool, connection: Http2Connection, stream_id: int) -> None:
        super().__init__(pool, connection.sock, connection.tls)
        self._connection = connection
        self.id = stream_id
        self.began_at = pool.reactor.now
        self.unsent: deque[memoryview] = deque()
        """What the server's windows have not let us send of the request."""
        self._is_paused = False
        self._held: deque[tuple[bytes, int]] = deque()
        """What has come while nobody wanted it, each with what it takes of the window; no more than the window."""
        self.end_due = False
        """The answer has come to its end, of which the exchange has not been told."""
        self._owed = 0
        """Of the window, not given back yet."""
        self._received = 0
        self._interim = 0

    @property
    def is_touched(self) -> bool:
        """Some byte of the answer has come."""
        return self._touched

    def pause_reading(self) -> None:
        self._is_paused = True

    def resume_reading(self) -> None:
        if self._is_paused:
            self._is_paused = False
            if self._held or self.end_due:
                self._pool.reactor.defer(self._go_on, None)

    def abort(self) -> None:
        self._detach()
        self._held.clear()
        self._connection.cancel(self)
        self.end_due = False
        self._pool.forget(self)

    def give_up(self) -> Exchange | None:
        """The connection cannot go on with it; return who is to be told so."""
        exchange = self.exchange
        self._detach()
        self._held.clear()
        self._pool.forget(self)
        return exchange

    def _over(self, *, may_reuse: bool) -> None:
        del may_reuse  # no stream is ever used again
        self._connection.finished(self)
        self._pool.forget(self)

    # --- for the connection ------------------------------------------------------------------------------------------
    def head_received(self, fields: Iterable[tuple[bytes, bytes]]) -> None:
        self._touched = True
        try:
            head = response_head(fields)
        except ResponseError as error:
            self._break(str(error))
            return
        self.response_head(head)
        self.heard_at = self._pool.reactor.now

    def interim_received(self, fields: Iterable[tuple[bytes, bytes]]) -> None:
        self._touched = True
        self._interim += 1
        if self._interim > INTERIM_MAX or _SWITCHING in fields:
            self._break("the server changes the protocol or never comes to an answer")

    def data_received(self, data: bytes, size: int) -> None:
        """`size`: of the window."""
        if self._is_paused or self._held:
            self._held.append((data, size))
        else:
            self._take(data, size)

    def ended(self) -> None:
        self.end_due = True
        if not self._is_paused and not self._held:
            self._finish()

    # --- handing on --------------------------------------------------------------------------------------------------
    def _take(self, data: bytes, size: int) -> None:
        if self._decoder is None:
            self._received += len(data)
            if self._received > ANSWER_BYTES_MAX:
                self._break(f"the answer is longer than {ANSWER_BYTES_MAX} bytes")
                return
        if data:
            self.response_body(data)
            self._deliver("")
        self._owed += size
        if self._owed >= HTTP2_STREAM_WINDOW_BYTES // 2:
            self._connection.give_back(self, self._owed)
            self._owed = 0

    def _go_on(self, _: OSError | None) -> None:
        while self._held and not self._is_paused:
            self._take(*self._held.popleft())
        if self.end_due and not self._held and not self._is_paused:
            self._finish()

    def _finish(self) -> None:
        self.response_end()
        self._deliver("")
        self.end_due = False
