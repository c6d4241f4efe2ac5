"""Speaks 2026-07-28 to a server: everything a request needs is in it, and nothing is remembered between two of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from protocol import link
from protocol.abilities import NOTHING, UI, as_capabilities
from protocol.headers import NAME_BEARING, encode_value
from protocol.jsonrpc import Raw, Reply, decode_object
from protocol.limits import KIB
from protocol.link import Payload
from protocol.meta import (
    CLIENT_CAPABILITIES_KEY,
    CLIENT_INFO_KEY,
    DEFAULT_LOG_LEVEL,
    LOG_LEVEL_KEY,
    PROTOCOL_VERSION_KEY,
)
from protocol.param_headers import ParamHeader, render
from protocol.tasks import METHODS
from protocol.versions import LATEST_MODERN, Era
from workers.backend.endpoint import Endpoint
from workers.backend.era import Verdict, judge_discover
from workers.backend.faults import Failure
from workers.backend.fetch import Fetcher
from workers.backend.leg import HANDSHAKE_TIMEOUT_S, Counters, Leg, Opening
from workers.backend.requests import CLIENT_INFO, Ids, json_head, rpc

_LEGACY: Final = Era.LEGACY  # a member of an enum is slow to reach through its class
LIST_METHODS: Final = frozenset({"tools/list", "prompts/list", "resources/list", "resources/templates/list"})
TASK_METHODS: Final = METHODS[Era.MODERN]
HEADS_KEPT_MAX: Final = 1024
"""Prepared heads, one per method and name. Names come from clients, so there is a bound."""
INFO_KEPT_BYTES_MAX: Final = 512
"""Of what a client says of itself; with more, its `_meta` is made anew for each call."""


LARGE_RESULT_BYTES: Final = 16 * KIB
_COMPLETE_FIRST: Final = b'{"resultType":"complete",'
_COMPLETE_LAST: Final = b',"resultType":"complete"}'


class _ResultKind(msgspec.Struct):
    resultType: str = "untyped"  # noqa: N815 - named as on the wire


_decode_kind: Final = msgspec.json.Decoder(_ResultKind).decode


class ModernLeg(Leg):
    """The stateless era."""

    era = Era.MODERN
    _write = staticmethod(rpc)
    _discover_timeout_s = HANDSHAKE_TIMEOUT_S

    def __init__(
        self,
        fetcher: Fetcher,
        ids: Ids,
        counters: Counters,
        list_changed: Callable[[str], None],
        updated: Callable[[Raw], None],
        endpoint: Endpoint,
    ) -> None:
        super().__init__(fetcher, ids, counters, list_changed, updated)
        self._endpoint = endpoint
        self._heads: dict[tuple[str, str], bytes] = {}
        self._metas: dict[tuple[int, bytes], bytes] = {}
        """What is always in `_meta`, by what the client can do and who it says it is."""
        self.param_headers: Mapping[str, Sequence[ParamHeader]] = {}
        """By tool name, the arguments that must be repeated in headers. Kept up to date by the catalogue."""
        self._speak(LATEST_MODERN)

    async def open(self) -> Opening:
        version = LATEST_MODERN
        for _ in range(2):  # a server may refuse the version asked for and name one, once
            self._speak(version)
            answer = await self.ask("server/discover", timeout_s=self._discover_timeout_s)
            judged = judge_discover(answer, version)
            if judged.verdict is Verdict.YES and judged.version == version and not judged.ask_again:
                self._learn(version, answer.reply.result if answer.reply is not None else None)
                return Opening(Verdict.YES)
            if judged.verdict is not Verdict.YES:
                break
            version = judged.version
        else:
            return Opening(Verdict.UNSURE, self.faults.refuses_own_version(version))
        failure = self.faults.of_status(answer) if judged.verdict is Verdict.UNSURE else None
        return Opening(judged.verdict, failure)

    def was_forgotten(self) -> None:
        """There is nothing to be forgotten."""

    def call_request(self, own_id: bytes, call: link.Call, params: Payload) -> tuple[Payload, ...]:
        method, name, info = call.method, call.name, call.client_info
        meta = self._metas.get((call.abilities, info)) or self._meta_of(call.abilities, info)
        level = call.log_level or (DEFAULT_LOG_LEVEL if call.era is _LEGACY else "")
        if level:
            meta += b',"%b":"%b"' % (LOG_LEVEL_KEY.encode(), level.encode())
        if call.progress:
            meta += b',"progressToken":' + own_id
        if call.meta:
            meta += b"," + call.meta
        head = self._heads.get((method, name)) or self._head(method, name)
        if self.param_headers and method == "tools/call" and (declared := self.param_headers.get(name)):
            head += _param_fields(params, declared)
        return self._write(head, own_id, method, params, meta)

    def plain_request(
        self, own_id: bytes, method: str, params: bytes, abilities: int | None = None
    ) -> tuple[Payload, ...]:
        if abilities is None:  # what is listed for clients that show pages alone is left out by the front
            abilities = UI if method in LIST_METHODS else NOTHING
        return self._write(self._head(method, ""), own_id, method, params, self._meta_of(abilities, b""))

    def cancel(self, own_id: bytes, reason: str) -> None:
        """Nothing to say: closing the connection was the cancellation (transports, "Cancellation")."""

    def is_complete(self, result: bytes) -> bool:
        if result.endswith(_COMPLETE_LAST):
            return True
        try:
            return _decode_kind(result).resultType == "complete"
        except msgspec.MsgspecError:
            return False

    def result_fault(self, result: Raw) -> Failure | None:
        if len(result) > LARGE_RESULT_BYTES and _is_plainly_complete(memoryview(result)):
            return None
        try:
            kind = _decode_kind(result).resultType
        except msgspec.MsgspecError:
            kind = ""
        if kind == "complete":
            return None
        if kind == "untyped":  # clients must take it for complete, but have to be sent a type (2026-07-28, basic)
            return self.faults.untyped()
        if kind == "input_required":
            return self.faults.input_required()
        return self.faults.became_task() if kind == "task" else self.faults.malformed("an unknown kind of result")

    def on_request(self, reply: Reply) -> None:
        """There are no requests from servers in this era."""
        self._counters.messages += 1

    def _speak(self, version: str) -> None:
        self.version = version
        self._heads.clear()
        self._metas.clear()

    def _meta_of(self, abilities: int, client_info: bytes) -> bytes:
        """Return the members that are always in `_meta`. `client_info`: b"" for ours."""
        meta = b'"%b":"%b","%b":%b,"%b":%b' % (
            PROTOCOL_VERSION_KEY.encode(),
            self.version.encode(),
            CLIENT_CAPABILITIES_KEY.encode(),
            as_capabilities(abilities),
            CLIENT_INFO_KEY.encode(),
            client_info or CLIENT_INFO,
        )
        if len(client_info) <= INFO_KEPT_BYTES_MAX:
            if len(self._metas) >= HEADS_KEPT_MAX:
                self._metas.clear()
            self._metas[abilities, client_info] = meta
        return meta

    def _head(self, method: str, name: str) -> bytes:
        key = (method, name)
        head = self._heads.get(key)
        if head is None:
            fields = [(b"MCP-Protocol-Version", self.version.encode()), (b"Mcp-Method", encode_value(method))]
            if method in NAME_BEARING:
                fields.append((b"Mcp-Name", encode_value(name)))
            head = json_head(self._endpoint, *fields)
            if method in TASK_METHODS:
                return head  # a task is asked for a few times, and there are ever new ones
            if len(self._heads) >= HEADS_KEPT_MAX:
                self._heads.clear()
            self._heads[key] = head
        return head


def _is_plainly_complete(result: memoryview[int]) -> bool:
    """Look where `resultType` usually is, so that a large result is not read through a second time.

    What follows the first brace or precedes the last one belongs to the result itself: within a string, its quotes
    would be escaped.
    """
    first, last = bytes(result[: len(_COMPLETE_FIRST)]), bytes(result[-len(_COMPLETE_LAST) :])
    return first == _COMPLETE_FIRST or last == _COMPLETE_LAST


def _param_fields(params: Payload, declared: Sequence[ParamHeader]) -> bytes:
    arguments = decode_object(params, "params").get("arguments")
    fields = render(bytes(arguments), declared) if arguments is not None else []
    return b"".join(b"%b: %b\r\n" % field for field in fields)
