"""One client whose messages come and go one after the other on a stream: on stdio, or over WebSocket.

There is one client and no session header: the first `initialize` makes the session, which lasts as long as the stream.
Requests of the stateless era need none, and both may come.
"""

from __future__ import annotations

import abc
from typing import Protocol

from protocol.clients import number_of
from protocol.errors import INTERNAL_ERROR, INVALID_REQUEST
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
from protocol.link import Payload
from protocol.meta import PROTOCOL_VERSION_KEY
from protocol.versions import Era
from workers.front.batch import serve_batch
from workers.front.calls import FrontCall, sse_payload
from workers.front.endpoint import Endpoint
from workers.front.sessions import Session
from workers.logs import Log
from workers.transport import Stream


class Conversation(abc.ABC):
    """Serves one client (most of a `workers.transport.StreamHandler`)."""

    stream: Stream
    client = ""
    """Its address, if that is what tells it from others (`workers.front.calls.Reply`)."""

    def __init__(self, endpoint: Endpoint, in_flight: dict[bytes, FrontCall], log: Log, identity: bytes) -> None:
        """`identity`: what no other client has."""
        self._endpoint = endpoint
        self._log = log
        self._session: Session | None = None
        self._number = number_of(identity, Era.MODERN)
        """By which workers know the client in requests that belong to no session."""
        self._notifications = _Notifications(self)
        self._in_flight = in_flight
        self._owed: dict[MessageReply, None] = {}
        self._paused: dict[MessageReply, None] = {}
        self._ended = False
        """Nothing more will be read."""

    # --- what differs ---------------------------------------------------------------------------------------
    @abc.abstractmethod
    def _put(self, *parts: Payload) -> None:
        """Write one message, which these are the parts of."""

    @abc.abstractmethod
    def _finish(self) -> None:
        """All that was owed has been written, and nothing more will come: close."""

    @abc.abstractmethod
    def _answered(self) -> None:
        """An answer has been written."""

    def _opened(self, session: Session) -> None:
        """The client has initialized a session."""
        del session

    # --- incoming -------------------------------------------------------------------------------------------
    def take(self, text: bytes) -> None:
        """The client has sent this message."""
        try:
            self._take(text)
        except RpcError as error:
            self.write(error_message(error.id, error.code, error.message, error.data))
        except Exception as error:  # noqa: BLE001 - a defect that shows in one message must not end the only stream
            self._log.error("a message could not be served", error=type(error).__name__, exc_info=error)

    def into_filled(self, count: int) -> None:
        raise AssertionError("messages are never read into a buffer")

    def buffer_drained(self) -> None:
        if not self._ended:
            self.stream.resume_reading()
        paused, self._paused = self._paused, {}
        for reply in paused:
            reply.resume()

    def _gone(self) -> None:
        """The stream is closed: nobody waits for anything any more."""
        for reply in list(self._owed):
            reply.client_gone()
        self._owed.clear()
        for call in list(self._in_flight.values()):  # those of batches
            call.cancel("the client has gone")
        self._endpoint.sessions.gone(self._number)
        if self._session is not None:
            self._endpoint.sessions.gone(self._session.number)  # nobody else knows its id

    def _end_input(self) -> None:
        self._ended = True
        self._endpoint.subscriptions.end_all(self._in_flight)
        self.stream.pause_reading()
        if not self._owed:
            self._finish()

    def _take(self, text: bytes) -> None:
        if is_array(text):
            if self._session is None:
                raise RpcError(INVALID_REQUEST, "A batch needs an initialized 2025-03-26 session")
            self._batch(text, self._session)
            return
        message = decode_message(text)
        if message.is_response:
            answer = decode_reply(text)
            if self._session is None or not self._session.questions.answered(answer):
                self._log.debug("a response to nothing was ignored")
        elif message.id is None:
            if message.method == "notifications/cancelled":
                self._endpoint.cancelled(message, self._in_flight)
        else:
            reply = MessageReply(self, message.id)
            try:
                self._request(message, reply)
            except Exception:
                reply.error(INTERNAL_ERROR, "Internal error; the log of the proxy says more")
                raise

    def _batch(self, text: bytes, session: Session) -> None:
        reply = MessageReply(self, b"null")
        answers_follow = False
        try:
            answers_follow = serve_batch(text, session, self._endpoint, reply)
        finally:
            if not answers_follow:
                reply.nothing()

    def _request(self, message: Message, reply: MessageReply) -> None:
        meta = message.params.get("_meta")
        if message.method == "initialize":
            self._initialize(message, reply)
        elif (meta is not None and PROTOCOL_VERSION_KEY.encode() in bytes(meta)) or message.method == "server/discover":
            self._endpoint.modern(message, reply, headers=None, in_flight=self._in_flight, client=self._number)
        elif self._session is not None:
            self._endpoint.legacy(message, self._session, reply)
        elif message.method == "ping":
            reply.result(b"{}")
        else:
            reply.error(INVALID_REQUEST, "Initialize first (or send the _meta of a stateless request)")

    def _initialize(self, message: Message, reply: MessageReply) -> None:
        try:
            session, result = self._endpoint.initialize(message)
        except RpcError as error:
            reply.error(error.code, error.message, error.data)
            return
        self._adopt(session)
        self._opened(session)
        reply.result(result)

    def _adopt(self, session: Session) -> None:
        sessions = self._endpoint.sessions
        if self._session is not None:
            sessions.set_stream(self._session, None)
            sessions.gone(self._session.number)
        self._session = session
        session.in_flight = self._in_flight
        sessions.set_stream(session, self._notifications)

    def _leave_session(self) -> None:
        if self._session is not None:
            self._endpoint.sessions.stream_gone(self._session, self._notifications)

    # --- outgoing -------------------------------------------------------------------------------------------
    def write(self, *parts: Payload) -> None:
        self._put(*parts)
        if self.backed_up:
            self.stream.pause_reading()  # who does not read answers gets to send nothing more until it does

    @property
    def backed_up(self) -> bool:
        return self.stream.buffered > STREAM_BUFFER_HIGH_BYTES

    def header(self, name: bytes) -> bytes:
        """A message has no header fields of its own."""
        del name
        return b""

    def began(self, reply: MessageReply) -> None:
        self._owed[reply] = None

    def paused(self, reply: MessageReply) -> None:
        self._paused[reply] = None

    def ended(self, reply: MessageReply) -> None:
        self._owed.pop(reply, None)
        self._paused.pop(reply, None)
        self._answered()
        if self._ended and not self._owed:
            self._finish()


class Partner(Protocol):
    """What a reply needs of the client that it is for."""

    @property
    def client(self) -> str:
        """As `workers.front.calls.Reply` has it."""
        ...

    @property
    def backed_up(self) -> bool:
        """It reads too slowly."""
        ...

    def header(self, name: bytes) -> bytes: ...

    def write(self, *parts: Payload) -> None:
        """Send it one message, which these are the parts of."""
        ...

    def began(self, reply: MessageReply) -> None: ...

    def paused(self, reply: MessageReply) -> None:
        """The call of this reply is told nothing by its server until `resume`."""
        ...

    def ended(self, reply: MessageReply) -> None: ...


class _Notifications:
    """The way for messages that belong to no request (`workers.front.sessions.EventStream`)."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation

    def send(self, message: bytes) -> None:
        self._conversation.write(message)

    def end(self) -> None:
        """Nothing: it ends with the stream only."""


class MessageReply:
    """The answer to one request (`workers.front.calls.Reply`) or batch (`workers.front.batch.BatchSink`)."""

    __slots__ = ("_done", "_partner", "_request_id", "call")

    def __init__(self, partner: Partner, request_id: bytes) -> None:
        self._partner = partner
        self._request_id = request_id
        self._done = False
        self.call: FrontCall | None = None
        partner.began(self)

    @property
    def client(self) -> str:
        return self._partner.client

    @property
    def request_id(self) -> bytes:
        """As it is in JSON."""
        return self._request_id

    def header(self, name: bytes) -> bytes:
        return self._partner.header(name)

    def notify(self, method: str, params: Payload) -> None:
        if self._done:
            return
        self._partner.write(sse_payload(notification(method, params)))
        if self._partner.backed_up and self.call is not None and self.call.server is not None:
            self.call.server.pause(self.call)
            self._partner.paused(self)

    def ask(self, message: bytes) -> bool:
        if self._done:
            return False
        self._partner.write(sse_payload(message))
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
        return self._partner.backed_up

    def message(self, message: bytes) -> None:
        self._partner.write(sse_payload(message))

    def finish_batch(self, answers: list[bytes]) -> None:
        self._end(*([sse_payload(b"[", b",".join(answers), b"]")] if answers else []))

    # --- for the partner --------------------------------------------------------------------------------------------
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
            self._partner.write(*parts)
        self._partner.ended(self)
