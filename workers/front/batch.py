"""A JSON-RPC batch (2025-03-26 only): several messages in one array, answered as one array or, once anything precedes
an answer, as separate messages on the stream."""

from __future__ import annotations

from typing import Final, Protocol

from protocol.errors import INVALID_REQUEST
from protocol.jsonrpc import RpcError, decode_batch, error_message, notification, result_parts
from protocol.link import Payload
from workers.front.calls import FrontCall
from workers.front.endpoint import Endpoint
from workers.front.sessions import Session

BATCH_VERSION: Final = "2025-03-26"
"""The one revision whose clients may send arrays."""


class BatchSink(Protocol):
    """Where a batch's answers go."""

    @property
    def client(self) -> str: ...

    @property
    def streaming(self) -> bool:
        """Single messages are on their way already, so that no array can follow."""
        ...

    @property
    def backed_up(self) -> bool: ...

    def message(self, message: bytes) -> None: ...

    def finish_batch(self, answers: list[bytes]) -> None: ...


def serve_batch(body: bytes | bytearray, session: Session, endpoint: Endpoint, sink: BatchSink) -> bool:
    """Serve every message of the array; False if none of them is owed an answer.

    Errors: `RpcError` -32600 if the session's revision has no batches, or the array is empty or too long.
    """
    if session.facts.version != BATCH_VERSION:
        raise RpcError(INVALID_REQUEST, f"JSON-RPC batches exist in {BATCH_VERSION} only; send one message at a time")
    messages = decode_batch(body)
    owed = sum(isinstance(item, RpcError) or (item.id is not None and not item.is_response) for item in messages)
    batch = _Batch(sink, owed)
    for item in messages:
        if isinstance(item, RpcError):
            _BatchItem(batch, item.id or b"null").error(item.code, item.message, item.data)
        elif item.id is not None and not item.is_response:
            endpoint.legacy(item, session, _BatchItem(batch, item.id))
        elif not item.is_response:
            endpoint.legacy_notification(item, session.in_flight)
    return owed > 0


class _Batch:
    """Collects the answers."""

    def __init__(self, sink: BatchSink, owed: int) -> None:
        self._sink = sink
        self._owed = owed
        self._answers: list[bytes] = []

    @property
    def client(self) -> str:
        return self._sink.client

    def notify(self, message: bytes) -> None:
        # Progress and log lines are advice; a client that does not read them in time must not make us hoard them.
        if not self._sink.backed_up:
            self._sink.message(message)

    def ask(self, message: bytes) -> bool:
        """Send a question. Once it is on its way, no array can follow."""
        if self._sink.backed_up:
            return False
        self._sink.message(message)
        return True

    def answered(self, answer: bytes) -> None:
        """One request has ended; b"" if without an answer."""
        self._owed -= 1
        if answer and self._sink.streaming:
            self._sink.message(answer)
        elif answer:
            self._answers.append(answer)
        if not self._owed:
            self._sink.finish_batch(self._answers)


class _BatchItem:
    """The answer to one request of a batch (`workers.front.calls.Reply`)."""

    __slots__ = ("_batch", "_done", "_request_id", "call")

    def __init__(self, batch: _Batch, request_id: bytes) -> None:
        self._batch = batch
        self._request_id = request_id
        self._done = False
        self.call: FrontCall | None = None

    @property
    def client(self) -> str:
        return self._batch.client

    def notify(self, method: str, params: Payload) -> None:
        if not self._done:
            self._batch.notify(notification(method, params))

    def ask(self, message: bytes) -> bool:
        if self._done:
            return False
        return self._batch.ask(message)

    def result(self, result: Payload) -> None:
        self._end(result_parts(self._request_id) + bytes(result) + b"}")

    def error(self, code: int, message: str, data: bytes = b"", retry_after_s: int = 0) -> None:
        self._end(error_message(self._request_id, code, message, data))

    def raw_error(self, error: Payload, code: int) -> None:
        del code
        self._end(b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (self._request_id, error))

    def nothing(self) -> None:
        self._end(b"")

    def _end(self, answer: bytes) -> None:
        if not self._done:
            self._done = True
            self.call = None
            self._batch.answered(answer)
