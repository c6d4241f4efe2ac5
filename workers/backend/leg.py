"""What both ways of speaking to a server have in common: how it is opened, and what is known once it is."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec

from protocol import link, tasks
from protocol.abilities import EXTENSIONS
from protocol.jsonrpc import Raw, Reply, RpcError, decode_object
from protocol.limits import KIB
from protocol.link import AnswerKind, Payload
from protocol.versions import Era
from workers.backend.answers import Answer
from workers.backend.era import Verdict
from workers.backend.faults import Failure, Faults
from workers.backend.fetch import Fetcher
from workers.backend.requests import Ids

if TYPE_CHECKING:
    from workers.backend.calls import BackendCall

HANDSHAKE_TIMEOUT_S: Final = 10.0  # the official SDK waits as long for its probe
INSTRUCTIONS_CHARACTERS_MAX: Final = 8 * KIB
"""They travel in a frame's header, which is at most 64 KiB, and are read by models."""
_LIST_CHANGED_KINDS: Final = {
    "notifications/tools/list_changed": "tools",
    "notifications/prompts/list_changed": "prompts",
    "notifications/resources/list_changed": "resources",
}
_UPDATES: Final = frozenset({"notifications/resources/updated", *tasks.STATUS.values()})
_EXTENSIONS: Final = "extensions"


class Counters(msgspec.Struct):
    """What was dropped because it belonged to nothing, since the worker started."""

    answers: int = 0
    """Answers with a wrong, unknown or used id."""
    messages: int = 0
    """Messages that cannot be read, or that this era does not know."""


class Opening(msgspec.Struct, frozen=True):
    """What became of an attempt to open a leg."""

    verdict: Verdict
    failure: Failure | None = None
    """Why there is no verdict, if UNSURE."""
    status: int = 0
    """Of HTTP, in the answer that says NO."""


class Leg(abc.ABC):
    """One era's way of speaking to the server. `era` is fixed; the rest is as of its last opening."""

    era: Era

    def __init__(
        self,
        fetcher: Fetcher,
        ids: Ids,
        counters: Counters,
        list_changed: Callable[[str], None],
        updated: Callable[[Raw], None],
    ) -> None:
        self._fetcher = fetcher
        self.channel = fetcher.channel
        """What its requests go through."""
        self._ids = ids
        self._counters = counters
        self._list_changed = list_changed
        self._updated = updated
        self.opening = 0
        """Grows with each opening, so that a late complaint about an earlier one can be told from a new one."""
        self.version = ""
        self.capabilities: frozenset[str] | None = None
        """Names of the server's capabilities, and "extensions." + those we can carry; None if it has not said."""
        self.flags: frozenset[str] = frozenset()
        """What of its capabilities is true, such as "resources.subscribe", and extensions as above."""
        self.instructions = ""
        self.has_tasks = False
        """It has the tasks of 2025-11-25, for calls of tools."""

    @property
    def faults(self) -> Faults:
        return self._fetcher.faults

    @abc.abstractmethod
    async def open(self) -> Opening:
        """Find out whether the server speaks this era, and get ready to.

        Errors: `Unanswered` if the server gave no answer.
        """

    @abc.abstractmethod
    def was_forgotten(self) -> None:
        """The server has shown that it knows nothing of what was opened."""

    @abc.abstractmethod
    def call_request(self, own_id: bytes, call: link.Call, params: Payload) -> tuple[Payload, ...]:
        """Return the HTTP request for a client's call."""

    @abc.abstractmethod
    def plain_request(self, own_id: bytes, method: str, params: bytes) -> tuple[Payload, ...]:
        """Return the HTTP request for a request of our own; `params` is an object as `encode_object` writes it."""

    @abc.abstractmethod
    def cancel(self, own_id: bytes, reason: str) -> None:
        """Tell the server that nobody waits for this call any more. Its connection has been closed already."""

    def logs_from(self, level: str) -> bool:
        """Whether the server sends what it logs from this level on, as far as it ever will."""
        del level
        return True

    def have_logged(self, level: str, done: Callable[[], None]) -> None:
        """Have the server send what it logs from this level on, then call back, also if it refused."""
        del level
        done()

    def is_complete(self, result: bytes) -> bool:
        """Whether nothing more is to be done with a result (which is an object) but to hand it on."""
        del result
        return True

    def result_fault(self, result: Raw) -> Failure | None:
        """Say what is wrong with a result (which is an object), if anything is."""
        del result
        return None

    @abc.abstractmethod
    def on_request(self, reply: Reply) -> None:
        """The server asks something of its client, on no call's stream."""

    def unasked(self, reply: Reply) -> None:
        """Answer what no client can be asked."""
        raise NotImplementedError  # only one era has such questions

    def given_up(self, call: BackendCall) -> None:
        """Nobody waits for this call any more, but the server may still be at it."""
        del call

    def respond(self, request_id: bytes, kind: AnswerKind, payload: bytes) -> None:
        """Answer a question that the server asked in the middle of a call. `payload`: the result or error object."""
        raise NotImplementedError  # only one era has such questions

    def refuse(self, request_id: bytes, code: int, message: str) -> None:
        """Answer a question with an error, unless there have been too many of them."""
        raise NotImplementedError

    async def ask(self, method: str, params: bytes = b"{}", timeout_s: float = HANDSHAKE_TIMEOUT_S) -> Answer:
        """Make a request of our own that is safe to repeat. Errors: `Unanswered`."""
        own_id = self._ids.next()
        return await self._fetcher.fetch(self.plain_request(own_id, method, params), own_id, timeout_s, self.on_message)

    def on_message(self, reply: Reply) -> None:
        """Take note of a message that is neither an answer nor about a call."""
        if reply.id is not None:
            self.on_request(reply)
        elif reply.method in _LIST_CHANGED_KINDS:
            self._list_changed(_LIST_CHANGED_KINDS[reply.method])
        elif reply.method in _UPDATES and reply.params is not None:
            self._updated(reply.params)

    def _learn(self, version: str, result: Raw | None) -> None:
        """Remember what the server says of itself."""
        self.opening += 1
        self.version = version
        self.capabilities = None
        self.flags = frozenset()
        self.instructions = ""
        if result is None:
            return
        members = decode_object(result)
        self.capabilities = _names(members.get("capabilities"))
        self.flags = _flags(members.get("capabilities"))
        self.instructions = _text(members.get("instructions"))[:INSTRUCTIONS_CHARACTERS_MAX]


def _names(raw: Raw | None) -> frozenset[str] | None:
    try:
        found = decode_object(raw or Raw(b"{}"))
    except RpcError:
        return None
    names = frozenset(name for name, value in found.items() if bytes(value) != b"null")
    return names | _extensions(found[_EXTENSIONS]) if _EXTENSIONS in names else names


def _flags(raw: Raw | None) -> frozenset[str]:
    found: set[str] = set()
    try:
        for name, value in decode_object(raw or Raw(b"{}")).items():
            if bytes(value).startswith(b"{"):
                found |= {f"{name}.{flag}" for flag, is_set in decode_object(value).items() if bytes(is_set) == b"true"}
            if name == _EXTENSIONS:
                found |= _extensions(value)
    except RpcError:
        pass
    return frozenset(found)


def _extensions(raw: Raw) -> frozenset[str]:
    try:
        return frozenset(f"{_EXTENSIONS}.{name}" for name in decode_object(raw) if name in EXTENSIONS)
    except RpcError:
        return frozenset()


def _text(raw: Raw | None) -> str:
    try:
        return msgspec.json.decode(raw, type=str) if raw is not None else ""
    except msgspec.MsgspecError:
        return ""
