"""Speaks 2025-11-25 and before to a server: a handshake, then a session that all calls share.

A session belongs to one set of client capabilities (architecture.md, section 4). What the proxy needs for itself, and
calls of clients that cannot be asked anything, go over a session that declares none (this file); those of others over
one that declares what they can (able_sessions.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable
from typing import TYPE_CHECKING, Final

import msgspec

from protocol import jsonrpc, link
from protocol.abilities import KINDS, ROOTS, as_capabilities
from protocol.errors import METHOD_NOT_FOUND
from protocol.input_required import unasked_answer
from protocol.jsonrpc import Raw, Reply
from protocol.link import AnswerKind, Payload
from protocol.meta import DEFAULT_LOG_LEVEL, join_meta, log_level_passes
from protocol.tasks import CANCEL, LEGACY_CAPABILITY
from protocol.versions import LATEST_LEGACY, Era
from workers.backend.answers import Answer
from workers.backend.asking import Asking
from workers.backend.endpoint import Endpoint
from workers.backend.era import Verdict, contradicts, judge_initialize
from workers.backend.faults import Unanswered
from workers.backend.fetch import Fetcher
from workers.backend.leg import HANDSHAKE_TIMEOUT_S, Counters, Leg, Opening
from workers.backend.requests import CLIENT_INFO, Ids, head, json_head, rpc, with_body
from workers.backend.talk import ELICITATION_OVER
from workers.reactor import Reactor

if TYPE_CHECKING:
    from workers.backend.calls import BackendCall

END_TIMEOUT_S: Final = 1.0
COURTESY_TIMEOUT_S: Final = 5.0  # the official SDK gives such messages as long
ANSWERS_MAX: Final = 16
"""Answers to requests of the server under way. One that floods us with requests must not make us flood it back."""
_SESSION_ID: Final = re.compile(rb"[\x21-\x7e]{1,1024}")
"""Visible ASCII (2025-11-25, transports, "Session Management")."""


class LegacyLeg(Leg):
    """The era of sessions."""

    era = Era.LEGACY
    _write = staticmethod(rpc)
    _initialize_timeout_s = HANDSHAKE_TIMEOUT_S

    def __init__(
        self,
        fetcher: Fetcher,
        ids: Ids,
        counters: Counters,
        list_changed: Callable[[str], None],
        updated: Callable[[Raw], None],
        endpoint: Endpoint,
        reactor: Reactor,
        abilities: int,
        calls: Callable[[Leg], Iterable[BackendCall]],
    ) -> None:
        """`calls` returns what is under way on a leg."""
        super().__init__(fetcher, ids, counters, list_changed, updated)
        self._endpoint = endpoint
        self._reactor = reactor
        self._abilities = abilities
        """What clients of this session can be asked."""
        self._asking = Asking(reactor, lambda: calls(self), unasked=self.unasked, refuse=self.refuse)
        self.asked: Callable[[Leg], None] = _nothing
        """Told of each question that came on no call's stream, and that it was this leg's."""
        self.asks_apart = False
        """There is such a stream, on which the server can ask."""
        self._head = b""
        self._session_id = b""
        self._answers_under_way = 0
        self._log_level = ""
        """What the server was told in this session; "" if nothing: then it logs as it likes."""
        self._level_waiters: list[Callable[[], None]] = []
        self._lost = True
        """The server has said that it does not know our session, or there never was one."""

    async def open(self) -> Opening:
        if not self._lost and self._session_id and await self._session_lives():
            return Opening(Verdict.YES)
        answer = await self._initialize()
        judged = judge_initialize(answer)
        if judged.verdict is Verdict.UNSURE:
            return Opening(Verdict.UNSURE, self.faults.of_status(answer))
        if judged.verdict is Verdict.NO:
            return Opening(Verdict.NO, status=answer.status)
        session_id = answer.head.headers.get(b"mcp-session-id", b"")
        if session_id and not _SESSION_ID.fullmatch(session_id):
            return Opening(Verdict.UNSURE, self.faults.malformed("a session id of forbidden characters"))
        self._enter(judged.version, session_id)
        await self._notify("notifications/initialized", b"{}")
        assert answer.reply is not None
        self._learn(judged.version, answer.reply.result)
        self.has_tasks = self.capabilities is not None and LEGACY_CAPABILITY in self.capabilities
        self._lost = False
        return Opening(Verdict.YES)

    async def end(self) -> None:
        """Tell the server that the session is over; it need not hear it."""
        if self._lost or not self._session_id:
            return
        self._lost = True
        request = with_body(head(b"DELETE", self._endpoint, *self._session_fields()))
        try:
            await self._fetcher.fetch(request, b"", END_TIMEOUT_S, self.on_message, method=b"DELETE")
        except Unanswered:
            return

    def was_forgotten(self) -> None:
        self._lost = True

    def call_request(self, own_id: bytes, call: link.Call, params: Payload) -> tuple[Payload, ...]:
        meta = call.meta
        if call.progress:
            meta = join_meta((call.meta, b'"progressToken":' + own_id))[1:-1]
        return self._write(self._head, own_id, call.method, params, meta)

    def plain_request(self, own_id: bytes, method: str, params: bytes) -> tuple[Payload, ...]:
        return self._write(self._head, own_id, method, params)

    def stream_request(self, last_event_id: str) -> tuple[Payload, ...]:
        """Return the request for the session's GET stream, from after an event on if one is named."""
        fields = [(b"Accept", b"text/event-stream"), *self._session_fields()]
        if last_event_id:
            fields.append((b"Last-Event-ID", last_event_id.encode()))
        return (head(b"GET", self._endpoint, *fields) + b"\r\n",)

    def cancel(self, own_id: bytes, reason: str) -> None:
        params = b'{"requestId":%b,"reason":%b}' % (own_id, msgspec.json.encode(reason))
        self._reactor.start_soon(self._deliver, jsonrpc.notification("notifications/cancelled", params))

    def cancel_task(self, task_id: str) -> None:
        """Tell the server that nobody waits for this task of its any more."""
        self._reactor.start_soon(self._cancel_task, b'{"taskId":%b}' % msgspec.json.encode(task_id))

    async def _cancel_task(self, params: bytes) -> None:
        try:
            await self.ask(CANCEL, params, COURTESY_TIMEOUT_S)
        except Unanswered:
            return

    def logs_from(self, level: str) -> bool:
        offers_it = self.capabilities is not None and "logging" in self.capabilities
        return not offers_it or log_level_passes(level, self._log_level)

    def have_logged(self, level: str, done: Callable[[], None]) -> None:
        """Lower the level of the session, which all calls share, if need be; what a call does not want is filtered.

        It is never raised again: somebody else may want the lines, and to log one too many does no harm.
        """
        self._level_waiters.append(done)
        if len(self._level_waiters) == 1:
            self._reactor.start_soon(self._lower_level, level)

    async def _lower_level(self, level: str) -> None:
        least = DEFAULT_LOG_LEVEL if log_level_passes(level, DEFAULT_LOG_LEVEL) else level
        opening = self.opening
        try:
            await self.ask("logging/setLevel", b'{"level":"%b"}' % least.encode(), COURTESY_TIMEOUT_S)
        except Unanswered:
            pass
        finally:
            if self.opening == opening:
                self._log_level = least  # also if it was refused: no call is to wait for it again
            waiters, self._level_waiters = self._level_waiters, []
        for done in waiters:
            done()

    def on_request(self, reply: Reply) -> None:
        if self._abilities and reply.method in KINDS:
            self._asking.asked(reply)
            self.asked(self)
        else:
            self.unasked(reply)

    def given_up(self, call: BackendCall) -> None:
        if self._abilities:
            self._asking.given_up(call)

    def is_left_to(self, client: Hashable) -> bool:
        """Whether the server is at no call any more that somebody else has given up, as far as can be known."""
        return self._asking.is_left_to(client)

    def on_message(self, reply: Reply) -> None:
        if reply.id is None and reply.method == ELICITATION_OVER:
            self._asking.page_is_over(reply)
        elif reply.id is None and reply.method == "notifications/cancelled":
            self._asking.withdrawn(reply.params)
        else:
            super().on_message(reply)

    def unasked(self, reply: Reply) -> None:
        """Answer at once, so that the call on whose stream it came is not held up."""
        assert reply.id is not None
        result = unasked_answer(reply.method or "") if self._abilities & ROOTS else None
        if reply.method == "ping":
            result = b"{}"
        if result is not None:
            self._answer_soon(jsonrpc.result_parts(reply.id) + result + b"}")
        else:
            self.refuse(reply.id, METHOD_NOT_FOUND, f"{(reply.method or '')[:100]} is not supported by this client")

    def refuse(self, request_id: bytes, code: int, message: str) -> None:
        self._answer_soon(jsonrpc.error_message(request_id, code, message))

    def respond(self, request_id: bytes, kind: AnswerKind, payload: bytes) -> None:
        name = b"result" if kind is AnswerKind.RESULT else b"error"
        message = b'{"jsonrpc":"2.0","id":%b,"%b":%b}' % (request_id, name, payload)
        self._reactor.start_soon(self._deliver, message)

    async def _session_lives(self) -> bool:
        """Ask whether the server still knows us after it could not be reached."""
        answer = await self.ask("ping")
        return answer.status < 500 and not contradicts(Era.LEGACY, answer)

    async def _initialize(self) -> Answer:
        own_id = self._ids.next()
        params = b'{"protocolVersion":"%b","capabilities":%b,"clientInfo":%b}' % (
            LATEST_LEGACY.encode(),
            as_capabilities(self._abilities),
            CLIENT_INFO,
        )
        self._head = self._new_head()  # there is no session now, also not for what the server asks meanwhile
        request = self._write(self._head, own_id, "initialize", params)
        return await self._fetcher.fetch(request, own_id, self._initialize_timeout_s, self.on_message)

    def _enter(self, version: str, session_id: bytes) -> None:
        self._session_id = session_id
        self._log_level = ""
        self.version = version
        self._head = self._new_head(*self._session_fields())

    def _new_head(self, *fields: tuple[bytes, bytes]) -> bytes:
        return json_head(self._endpoint, *fields)

    def _session_fields(self) -> list[tuple[bytes, bytes]]:
        fields = [(b"MCP-Protocol-Version", self.version.encode())]
        if self._session_id:
            fields.append((b"Mcp-Session-Id", self._session_id))
        return fields

    # --- messages that nobody waits for ------------------------------------------------------------------------------
    def _answer_soon(self, message: bytes) -> None:
        if self._answers_under_way >= ANSWERS_MAX:
            self._counters.messages += 1
            return
        self._answers_under_way += 1
        self._reactor.start_soon(self._answer, message)

    async def _answer(self, message: bytes) -> None:
        try:
            await self._deliver(message)
        finally:
            self._answers_under_way -= 1

    async def _deliver(self, message: bytes) -> None:
        """Send a message if that is possible."""
        try:
            await self._post(message, COURTESY_TIMEOUT_S)
        except Unanswered:
            return

    async def _notify(self, method: str, params: bytes) -> None:
        await self._post(jsonrpc.notification(method, params), HANDSHAKE_TIMEOUT_S)

    async def _post(self, message: bytes, timeout_s: float) -> None:
        await self._fetcher.fetch(with_body(self._head, message), b"", timeout_s, self.on_message)


def _nothing(leg: Leg) -> None:
    del leg
