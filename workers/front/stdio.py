"""The client on standard input and output: one JSON-RPC message a line (MCP transports, stdio).

A legacy client's session token is kept by the root, so that a front that takes over after a crash knows what was
negotiated. Which requests that front had not answered is in the ledger (protocol/ledger.py): the next one answers them,
and goes on with a line of which that one had read the beginning only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from protocol.errors import OUTCOME_UNKNOWN, PARSE_ERROR
from protocol.jsonrpc import error_message
from protocol.ledger import NOT_NOTED, SKIPPED, Ledger
from protocol.lines import LineDecoder, LineTooLong
from protocol.link import Payload
from workers.front.conversation import Conversation, MessageReply
from workers.front.endpoint import Endpoint
from workers.front.sessions import Session
from workers.logs import Log
from workers.transport import Stream

NO_ID: Final = b"null"
"""Of an array of messages, which have ids of their own."""
LOST: Final = "The process of the proxy that had this request has ended; whether the request was carried out is unknown"
LOST_DATA: Final = b'{"sent":true,"retryable":false}'


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
        ledger: Ledger,
        session: Session | None,
        session_opened: Callable[[str], None],
        closed: Callable[[], None],
        answered: Callable[[], None],
    ) -> None:
        super().__init__(endpoint, {}, log, b"stdio")
        self._session_opened = session_opened
        self._closed = closed
        self._tell_answered = answered
        self._ledger = ledger
        self._slots: dict[MessageReply, int] = {}
        """Where in the ledger the requests are that wait for their answers."""
        self._lines = LineDecoder()
        self._is_line_kept = False
        """The ledger has the beginning of a line."""
        self._draining = False
        self._is_gone = False
        self.stream = open_pipes(self)
        if session is not None:
            self._adopt(session)
        self._go_on_with(ledger.kept_line())
        for request_id in ledger.take():
            self.write(error_message(request_id, OUTCOME_UNKNOWN, LOST, LOST_DATA))

    @property
    def busy(self) -> bool:
        """Answers are owed or not written yet."""
        return not self._is_gone

    def drain(self) -> None:
        """Read no more, and close when all that is owed has been written. The rest stays in the pipe."""
        self._draining = True
        self._end_input()

    def _go_on_with(self, beginning: bytes | None) -> None:
        """The front before this one has read that much of a line, and left the rest in the pipe."""
        if beginning is None:
            self._lines.skip()
        else:
            self._lines.feed(beginning)
        self._is_line_kept = beginning != b""

    # --- workers.transport.StreamHandler --------------------------------------------------------------------
    def data_received(self, data: bytes) -> None:
        lines = self._lines.feed(data)
        held = self._lines.held
        if held != 0 or self._is_line_kept:
            self._ledger.keep_line(SKIPPED if held is None else held, data)
            self._is_line_kept = held != 0
        for line in lines:
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
        self._slots.clear()
        self._ledger.close()
        if not self._draining:
            self._closed()
        self._answered()

    # --- workers.front.conversation.Conversation ------------------------------------------------------------
    def _put(self, *parts: Payload) -> None:
        self.stream.writelines((*parts, b"\n"))

    def _finish(self) -> None:
        self.stream.close()

    def began(self, reply: MessageReply) -> None:
        super().began(reply)
        self._slots[reply] = self._ledger.note(reply.request_id) if reply.request_id != NO_ID else NOT_NOTED

    def ended(self, reply: MessageReply) -> None:
        self._ledger.clear(self._slots.pop(reply, NOT_NOTED))
        super().ended(reply)

    def _answered(self) -> None:
        self._tell_answered()

    def _opened(self, session: Session) -> None:
        self._session_opened(session.id)
