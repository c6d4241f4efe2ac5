"""What servers ask one legacy client in the middle of its calls: requests of ours on the stream of the call.

The client answers with a JSON-RPC response, which comes by itself (over HTTP, in a POST of its own), so all that ties
it to its question is an id. It is looked up among the questions of this client alone, so nobody answers for another.
"""

from __future__ import annotations

import secrets
from typing import Final

import msgspec

from protocol import jsonrpc
from protocol.input_required import legacy_params
from protocol.jsonrpc import Reply, RpcError
from protocol.link import AnswerKind, Payload
from workers.front.calls import FrontCall

_WITHDRAWN: Final = b'"the server does not wait for this answer any more"'


class LegacyQuestions:
    """The open questions of one client (`workers.front.calls.Questions`)."""

    __slots__ = ("_count", "_open", "_prefix", "client")

    def __init__(self, client: int) -> None:
        self.client = client
        """Its number (protocol/clients.py)."""
        self._open: dict[bytes, tuple[FrontCall, int, bool]] = {}
        """By id: the call, the worker's number, and whether the id is also that of a page to be visited."""
        self._prefix = b""
        self._count = 0

    def ask(self, call: FrontCall, number: int, method: str, params: Payload) -> bool:
        """Ask the client; return False if it cannot be reached. What it has no words for is refused in its name."""
        # An answer to what a front before this one asked must not be taken for one to what this one asks.
        self._prefix = self._prefix or secrets.token_hex(8).encode()
        self._count += 1
        question_id = b'"q%b-%d"' % (self._prefix, self._count)
        try:
            asked = legacy_params(method, params, call.version, question_id)
        except RpcError as error:
            if call.server is not None:
                refusal = msgspec.json.encode({"code": error.code, "message": error.message})
                call.server.answer(call, number, AnswerKind.ERROR, refusal)
            return True
        if not call.reply.ask(jsonrpc.request(question_id, method, asked)):
            return False
        self._open[question_id] = (call, number, asked is not params and question_id in bytes(asked))
        if call.asked is None:
            call.asked = {}
        call.asked[number] = question_id
        return True

    def answered(self, reply: Reply) -> bool:
        """Hand the client's answer to the server that asked; return False if nobody did, or does not any more."""
        question_id = reply.id or b""
        call, number, is_page = self._open.pop(question_id, (None, 0, False))
        if call is None or call.asked is None or call.asked.pop(number, None) is None or call.server is None:
            return False
        if is_page:
            call.pages = [*(call.pages or ()), question_id]
        if reply.result is not None:
            call.server.answer(call, number, AnswerKind.RESULT, bytes(reply.result))
        else:
            call.server.answer(call, number, AnswerKind.ERROR, bytes(reply.error or b""))
        return True

    def withdraw(self, call: FrontCall, number: int) -> None:
        """The server does not wait for this answer any more."""
        question_id = call.asked.pop(number, None) if call.asked is not None else None
        if question_id is not None:
            self._open.pop(question_id, None)
            params = b'{"requestId":%b,"reason":%b}' % (question_id, _WITHDRAWN)
            call.reply.notify("notifications/cancelled", params)

    def end(self, call: FrontCall) -> None:
        """The call is over, whatever was still open, and so are the pages that were visited for it."""
        for number in list(call.asked or ()):
            self.withdraw(call, number)
        pages, call.pages = call.pages, None
        for page in pages or ():
            call.reply.notify("notifications/elicitation/complete", b'{"elicitationId":%b}' % page)

    def forget(self, call: FrontCall) -> None:
        """The client does not read any more what belongs to this call."""
        for question_id in (call.asked or {}).values():
            self._open.pop(question_id, None)
