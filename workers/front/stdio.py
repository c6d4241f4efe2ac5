"""The client on standard input and output: one JSON-RPC message a line (MCP transports, stdio).

A legacy client's session token is kept by the root, so that a front that takes over after a crash knows what was
negotiated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from protocol.errors import PARSE_ERROR
from protocol.jsonrpc import error_message
from protocol.lines import LineDecoder, LineTooLong
from protocol.link import Payload
from workers.front.conversation import Conversation
from workers.front.endpoint import Endpoint
from workers.front.sessions import Session
from workers.logs import Log
from workers.transport import Stream


class OpenPipes(Protocol):
    """Makes the stream over standard input and output."""

    def __call__(self, handler: StdioEdge) -> Stream: ...


class StdioEdge(Conversation):
    """Serves the client on stdio (a `workers.transport.StreamHandler`)."""

    def __init__(
        self,
        endpoint: Endpoint,
        log: Log,
        *,
        open_pipes: OpenPipes,
        session: Session | None,
        session_opened: Callable[[str], None],
        closed: Callable[[], None],
        answered: Callable[[], None],
    ) -> None:
        super().__init__(endpoint, {}, log, b"stdio")
        self._session_opened = session_opened
        self._closed = closed
        self._tell_answered = answered
        self._lines = LineDecoder()
        self._draining = False
        self._is_gone = False
        self.stream = open_pipes(self)
        if session is not None:
            self._adopt(session)

    @property
    def busy(self) -> bool:
        """Answers are owed or not written yet."""
        return not self._is_gone

    def drain(self) -> None:
        """Read no more, and close when all that is owed has been written. The rest stays in the pipe."""
        self._draining = True
        self._end_input()

    # --- workers.transport.StreamHandler --------------------------------------------------------------------
    def data_received(self, data: bytes) -> None:
        for line in self._lines.feed(data):
            if isinstance(line, LineTooLong):
                self.write(error_message(None, PARSE_ERROR, str(line)))
            else:
                self.take(line)

    def eof_received(self) -> None:
        """The client sends nothing more; what it is owed it still gets."""
        self._end_input()

    def stream_closed(self, error: OSError | None) -> None:
        self._is_gone = True
        if error is not None:
            self._log.info("the stdio client has gone", reason=error.strerror or str(error))
        self._gone()
        if not self._draining:
            self._closed()
        self._answered()

    # --- workers.front.conversation.Conversation ------------------------------------------------------------
    def _put(self, *parts: Payload) -> None:
        self.stream.write(*parts, b"\n")

    def _finish(self) -> None:
        self.stream.close()

    def _answered(self) -> None:
        self._tell_answered()

    def _opened(self, session: Session) -> None:
        self._session_opened(session.id)
