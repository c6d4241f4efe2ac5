"""The client on standard input and output: one JSON-RPC message a line (MCP transports, stdio).

There is one client and no session header. A legacy client's session token is kept by the root, so that a front that
takes over after a crash knows what was negotiated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from protocol.errors import INTERNAL_ERROR, INVALID_REQUEST, PARSE_ERROR
from protocol.jsonrpc import (
    Message,
    RpcError,
    decode_message,
    decode_reply,
    error_message,
    is_array,
    notification,
    one_line,
    result_parts,
)
from protocol.limits import STREAM_BUFFER_HIGH_BYTES
from protocol.lines import LineDecoder, LineTooLong
from protocol.link import Payload
from protocol.meta import PROTOCOL_VERSION_KEY
from workers.front.batch import serve_batch
from workers.front.calls import FrontCall, sse_payload
from workers.front.endpoint import Endpoint
from workers.front.sessions import Session
from workers.logs import Log
from workers.transport import Stream


class OpenPipes(Protocol):
    """Makes the stream over standard input and output."""

    def __call__(self, handler: StdioEdge) -> Stream: ...


class StdioEdge:
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
        self._endpoint = endpoint
        self._log = log
        self._session_opened = session_opened
        self._closed = closed
        self._answered = answered
        self._lines = LineDecoder()
        self._session: Session | None = None
        self._in_flight: dict[bytes, FrontCall] = {}
        self._owed: dict[StdioReply, None] = {}
        self._paused: dict[StdioReply, None] = {}
        self._ended = False
        """Nothing more will be read."""
        self._draining = False
        self._gone = False
        self.stream = open_pipes(self)
        if session is not None:
            self._adopt(session)

    @property
    def busy(self) -> bool:
        """Answers are owed or not written yet."""
        return not self._gone

    def drain(self) -> None:
        """Read no more, and close when all that is owed has been written. The rest stays in the pipe."""
        self._draining = True
        self._end_input()

    # --- incoming (workers.transport.StreamHandler) ---------------------------------------------------------
    def data_received(self, data: bytes) -> None:
        for line in self._lines.feed(data):
            if isinstance(line, LineTooLong):
                self.write(error_message(None, PARSE_ERROR, str(line)))
                continue
            try:
                self._line(line)
            except RpcError as error:
                self.write(error_message(error.id, error.code, error.message, error.data))
            except Exception as error:  # noqa: BLE001 - a defect that shows in one message must not end the only stream
                self._log.error("a message could not be served", error=type(error).__name__, exc_info=error)

    def into_filled(self, count: int) -> None:
        raise AssertionError("lines are never read into a buffer")

    def eof_received(self) -> None:
        """The client sends nothing more; what it is owed it still gets."""
        self._end_input()

    def buffer_drained(self) -> None:
        if not self._ended:
            self.stream.resume_reading()
        paused, self._paused = self._paused, {}
        for reply in paused:
            reply.resume()

    def stream_closed(self, error: OSError | None) -> None:
        self._gone = True
        if error is not None:
            self._log.info("the stdio client has gone", reason=error.strerror or str(error))
        for reply in list(self._owed):
            reply.client_gone()
        self._owed.clear()
        for call in list(self._in_flight.values()):  # those of batches
            call.cancel("the client has gone")
        if not self._draining:
            self._closed()
        self._answered()

    def _end_input(self) -> None:
        self._ended = True
        self._endpoint.subscriptions.end_all(self._in_flight)
        self.stream.pause_reading()
        if not self._owed:
            self.stream.close()

    def _line(self, line: bytes) -> None:
        if is_array(line):
            if self._session is None:
                raise RpcError(INVALID_REQUEST, "A batch needs an initialized 2025-03-26 session")
            self._batch(line, self._session)
            return
        message = decode_message(line)
        if message.is_response:
            answer = decode_reply(line)
            if self._session is None or not self._session.questions.answered(answer):
                self._log.debug("a response to nothing was ignored")
        elif message.id is None:
            if message.method == "notifications/cancelled":
                self._endpoint.cancelled(message, self._in_flight)
        else:
            reply = StdioReply(self, message.id)
            try:
                self._request(message, reply)
            except Exception:
                reply.error(INTERNAL_ERROR, "Internal error; the log of the proxy says more")
                raise

    def _batch(self, line: bytes, session: Session) -> None:
        reply = StdioReply(self, b"null")
        answers_follow = False
        try:
            answers_follow = serve_batch(line, session, self._endpoint, reply)
        finally:
            if not answers_follow:
                reply.nothing()

    def _request(self, message: Message, reply: StdioReply) -> None:
        meta = message.params.get("_meta")
        if message.method == "initialize":
            self._initialize(message, reply)
        elif (meta is not None and PROTOCOL_VERSION_KEY.encode() in bytes(meta)) or message.method == "server/discover":
            self._endpoint.modern(message, reply, headers=None, in_flight=self._in_flight)
        elif self._session is not None:
            self._endpoint.legacy(message, self._session, reply)
        elif message.method == "ping":
            reply.result(b"{}")
        else:
            reply.error(INVALID_REQUEST, "Initialize first (or send the _meta of a stateless request)")

    def _initialize(self, message: Message, reply: StdioReply) -> None:
        try:
            session, result = self._endpoint.initialize(message)
        except RpcError as error:
            reply.error(error.code, error.message, error.data)
            return
        self._adopt(session)
        self._session_opened(session.id)
        reply.result(result)

    def _adopt(self, session: Session) -> None:
        sessions = self._endpoint.sessions
        if self._session is not None:
            sessions.set_stream(self._session, None)
        self._session = session
        session.in_flight = self._in_flight
        sessions.set_stream(session, _Notifications(self))

    # --- outgoing -------------------------------------------------------------------------------------------
    def write(self, *parts: Payload) -> None:
        self.stream.write(*parts, b"\n")
        if self.backed_up:
            self.stream.pause_reading()  # who does not read answers gets to send nothing more until it does

    @property
    def backed_up(self) -> bool:
        return self.stream.buffered > STREAM_BUFFER_HIGH_BYTES

    def began(self, reply: StdioReply) -> None:
        self._owed[reply] = None

    def paused(self, reply: StdioReply) -> None:
        self._paused[reply] = None

    def ended(self, reply: StdioReply) -> None:
        self._owed.pop(reply, None)
        self._paused.pop(reply, None)
        self._answered()
        if self._ended and not self._owed:
            self.stream.close()


class _Notifications:
    """The way for messages that belong to no request (`workers.front.sessions.EventStream`)."""

    def __init__(self, edge: StdioEdge) -> None:
        self._edge = edge

    def send(self, message: bytes) -> None:
        self._edge.write(message)

    def end(self) -> None:
        """Nothing: stdio ends with its pipes only."""


class StdioReply:
    """The answer to one request (`workers.front.calls.Reply`) or batch (`workers.front.batch.BatchSink`)."""

    __slots__ = ("_done", "_edge", "_request_id", "call")

    def __init__(self, edge: StdioEdge, request_id: bytes) -> None:
        self._edge = edge
        self._request_id = request_id
        self._done = False
        self.call: FrontCall | None = None
        edge.began(self)

    @property
    def client(self) -> str:
        return ""

    def notify(self, method: str, params: Payload) -> None:
        if self._done:
            return
        self._edge.write(sse_payload(notification(method, params)))
        if self._edge.backed_up and self.call is not None and self.call.server is not None:
            self.call.server.pause(self.call)
            self._edge.paused(self)

    def ask(self, message: bytes) -> bool:
        if self._done:
            return False
        self._edge.write(sse_payload(message))
        return True

    def result(self, result: Payload) -> None:
        self._end(result_parts(self._request_id), one_line(result), b"}")

    def error(self, code: int, message: str, data: bytes = b"", retry_after_s: int = 0) -> None:
        self._end(error_message(self._request_id, code, message, data))

    def raw_error(self, error: Payload, code: int) -> None:
        del code
        self._end(sse_payload(b'{"jsonrpc":"2.0","id":%b,"error":' % self._request_id, error, b"}"))

    def nothing(self) -> None:
        self._end()

    # --- workers.front.batch.BatchSink ----------------------------------------------------------------------
    @property
    def streaming(self) -> bool:
        return False

    @property
    def backed_up(self) -> bool:
        return self._edge.backed_up

    def message(self, message: bytes) -> None:
        self._edge.write(sse_payload(message))

    def finish_batch(self, answers: list[bytes]) -> None:
        self._end(*([sse_payload(b"[", b",".join(answers), b"]")] if answers else []))

    # --- for the edge ---------------------------------------------------------------------------------------
    def resume(self) -> None:
        if self.call is not None and self.call.server is not None:
            self.call.server.resume(self.call)

    def client_gone(self) -> None:
        self._done = True
        if self.call is not None:
            self.call.cancel("the client has gone")

    def _end(self, *parts: Payload) -> None:
        if self._done:
            return
        self._done = True
        self.call = None
        if parts:
            self._edge.write(*parts)
        self._edge.ended(self)
