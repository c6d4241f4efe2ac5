"""Speaks 2025-11-25 and before to a server: a handshake, then a session that all calls share.

A session belongs to one set of client capabilities (architecture.md, section 4). What the proxy needs for itself, and
calls of clients that cannot be asked anything, go over a session that declares none (this file); those of others over
one that declares what they can (able_sessions.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import msgspec

from protocol import jsonrpc, link
from protocol.abilities import ROOTS, as_capabilities
from protocol.errors import METHOD_NOT_FOUND
from protocol.input_required import unasked_answer
from protocol.jsonrpc import Reply
from protocol.link import AnswerKind, Payload
from protocol.meta import join_meta, with_meta
from protocol.versions import LATEST_LEGACY, Era
from workers.backend.answers import Answer
from workers.backend.endpoint import Endpoint
from workers.backend.era import Verdict, contradicts, judge_initialize
from workers.backend.faults import Unanswered
from workers.backend.fetch import Fetcher
from workers.backend.leg import HANDSHAKE_TIMEOUT_S, Counters, Leg, Opening
from workers.backend.requests import CLIENT_INFO, Ids, head, json_head, rpc, with_body
from workers.reactor import Reactor

END_TIMEOUT_S: Final = 1.0
COURTESY_TIMEOUT_S: Final = 5.0  # the official SDK gives such messages as long
ANSWERS_MAX: Final = 16
"""Answers to requests of the server under way. One that floods us with requests must not make us flood it back."""
_SESSION_ID: Final = re.compile(rb"[\x21-\x7e]{1,1024}")
"""Visible ASCII (2025-11-25, transports, "Session Management")."""


class LegacyLeg(Leg):
    """The era of sessions."""

    era = Era.LEGACY

    def __init__(
        self,
        fetcher: Fetcher,
        ids: Ids,
        counters: Counters,
        list_changed: Callable[[str], None],
        endpoint: Endpoint,
        reactor: Reactor,
        abilities: int,
    ) -> None:
        super().__init__(fetcher, ids, counters, list_changed)
        self._endpoint = endpoint
        self._reactor = reactor
        self._abilities = abilities
        """What clients of this session can be asked."""
        self._head = b""
        self._session_id = b""
        self._answers_under_way = 0
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
            return Opening(Verdict.NO)
        session_id = answer.head.headers.get(b"mcp-session-id", b"")
        if session_id and not _SESSION_ID.fullmatch(session_id):
            return Opening(Verdict.UNSURE, self.faults.malformed("a session id of forbidden characters"))
        self._enter(judged.version, session_id)
        await self._notify("notifications/initialized", b"{}")
        assert answer.reply is not None
        self._learn(judged.version, answer.reply.result)
        self._lost = False
        return Opening(Verdict.YES)

    async def end(self) -> None:
        """Tell the server that the session is over; it need not hear it."""
        if self._lost or not self._session_id:
            return
        self._lost = True
        fields = [(b"MCP-Protocol-Version", self.version.encode()), (b"Mcp-Session-Id", self._session_id)]
        request = with_body(head(b"DELETE", self._endpoint, *fields))
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
        return rpc(self._head, own_id, call.method, with_meta(params, meta))

    def plain_request(self, own_id: bytes, method: str, params: bytes) -> tuple[Payload, ...]:
        return rpc(self._head, own_id, method, params)

    def cancel(self, own_id: bytes, reason: str) -> None:
        params = b'{"requestId":%b,"reason":%b}' % (own_id, msgspec.json.encode(reason))
        self._reactor.start_soon(self._deliver, jsonrpc.notification("notifications/cancelled", params))

    def on_request(self, reply: Reply) -> None:
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
        self._head = json_head(self._endpoint)  # there is no session now, also not for what the server asks meanwhile
        request = rpc(self._head, own_id, "initialize", params)
        return await self._fetcher.fetch(request, own_id, HANDSHAKE_TIMEOUT_S, self.on_message)

    def _enter(self, version: str, session_id: bytes) -> None:
        fields = [(b"MCP-Protocol-Version", version.encode())]
        if session_id:
            fields.append((b"Mcp-Session-Id", session_id))
        self._session_id = session_id
        self._head = json_head(self._endpoint, *fields)

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
