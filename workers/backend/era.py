"""Which eras a server speaks: the verdict on its answers, and what to ask next. No I/O.

Rule 1: only an answer is a verdict. A server that cannot be reached, is overloaded, wants authorization or fails
(HTTP 5xx) has said nothing about its era (specification 2026-07-28, transports: era negotiation).
Rule 2: a client is served in its own era if the server has it, otherwise in the other (architecture.md, section 4).
Rule 3: an era is asked for when the first client needs it, and never on speculation: a stray `initialize` counts as an
error with some modern servers.
Rule 4: what is remembered can be wrong, because the server may have been replaced; `contradicts` notices.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Final

import msgspec

from protocol.errors import HEADER_MISMATCH, INVALID_REQUEST, MISSING_CAPABILITY, UNSUPPORTED_VERSION, http_status
from protocol.versions import LEGACY_VERSIONS, MODERN_VERSIONS, Era
from workers.backend.answers import Answer, ErrorObject, read_error

UNSURE_S: Final = 30.0
"""How long a second era that gave no verdict is not asked for again while the first serves everybody."""
MODERN_CODES: Final = frozenset({HEADER_MISMATCH, MISSING_CAPABILITY, UNSUPPORTED_VERSION})
"""Errors that only a modern server knows; they are as good as an answer for its era."""
_NO_VERDICT_STATUSES: Final = frozenset({401, 403, 407, 408, 421, 425, 429})
_WRONG_DOOR_STATUSES: Final = frozenset({400, 404, 405})
_TRANSPORT_CODES: Final = frozenset({INVALID_REQUEST, -32000, -32001})
"""What the official SDKs say when a session is unknown or missing: python -32600, TypeScript -32000 and -32001."""


class Verdict(enum.Enum):
    """What an answer says about one era of the server."""

    YES = enum.auto()
    NO = enum.auto()
    UNSURE = enum.auto()


class Judgement(msgspec.Struct, frozen=True):
    verdict: Verdict
    version: str = ""
    """The revision to speak, if YES."""
    ask_again: bool = False
    """It refused the question as it was put, naming this revision: it is modern, but has told nothing else yet."""


class _Discovered(msgspec.Struct):
    supportedVersions: list[str]  # noqa: N815 - named as on the wire


class _Initialized(msgspec.Struct):
    protocolVersion: str  # noqa: N815


class _UnsupportedData(msgspec.Struct):
    supported: list[str]


def judge_discover(answer: Answer, asked_version: str) -> Judgement:
    """Judge the answer to `server/discover`."""
    if _says_nothing(answer.status):
        return Judgement(Verdict.UNSURE)
    error = read_error(answer.reply)
    if error is not None:
        return _judge_refusal(error, asked_version)
    result = answer.reply.result if answer.reply is not None else None
    if result is None:
        return Judgement(Verdict.NO)
    try:
        versions = msgspec.json.decode(result, type=_Discovered).supportedVersions
    except msgspec.MsgspecError:
        return Judgement(Verdict.NO)
    # A server that answers but lists handshake revisions only says in so many words that it is a legacy server.
    version = _newest_common(versions)
    return Judgement(Verdict.YES, version) if version else Judgement(Verdict.NO)


def _judge_refusal(error: ErrorObject, asked_version: str) -> Judgement:
    if error.code not in MODERN_CODES:
        return Judgement(Verdict.NO)
    if error.code != UNSUPPORTED_VERSION:
        return Judgement(Verdict.YES, asked_version)
    try:
        supported = msgspec.json.decode(error.data, type=_UnsupportedData).supported
    except msgspec.MsgspecError:
        return Judgement(Verdict.NO)
    version = _newest_common(supported)
    # Also if that is what was asked for: "retry with a mutual version", and never with initialize (versioning).
    return Judgement(Verdict.YES, version, ask_again=True) if version else Judgement(Verdict.NO)


def judge_initialize(answer: Answer) -> Judgement:
    """Judge the answer to `initialize`."""
    if _says_nothing(answer.status):
        return Judgement(Verdict.UNSURE)
    result = answer.reply.result if answer.reply is not None else None
    if result is None:
        return Judgement(Verdict.NO)
    try:
        version = msgspec.json.decode(result, type=_Initialized).protocolVersion
    except msgspec.MsgspecError:
        return Judgement(Verdict.NO)
    # The server answers with a revision of its choice; one we do not speak means that we must leave (lifecycle).
    return Judgement(Verdict.YES, version) if version in LEGACY_VERSIONS else Judgement(Verdict.NO)


def contradicts(era: Era, answer: Answer) -> bool:
    """Tell whether this answer shows that the server does not speak `era` with us, so that nothing was executed.

    Legacy servers refuse an unknown session, or a request that comes without one, with 404 or 400; modern ones name the
    version. A refusal under the request's own id was made by somebody who has read the request, and counts only if it
    is one that only the wrong kind of server makes.
    """
    error = read_error(answer.reply)
    if error is not None and error.code in MODERN_CODES:
        return era is Era.LEGACY or error.code == UNSUPPORTED_VERSION
    if answer.status not in _WRONG_DOOR_STATUSES:
        return False
    if error is None or not answer.is_own:
        return True
    if era is Era.LEGACY:
        return error.code in _TRANSPORT_CODES and (answer.status == 404 or "session" in error.message.lower())
    return http_status(error.code) != answer.status


def _says_nothing(status: int) -> bool:
    return status in _NO_VERDICT_STATUSES or status >= 500 or 300 <= status < 400


def _newest_common(versions: Iterable[str]) -> str:
    common = [version for version in MODERN_VERSIONS if version in versions]
    return common[-1] if common else ""


class Step(enum.Enum):
    """What to do for a client of some era."""

    USE = enum.auto()
    ASK = enum.auto()
    STUCK = enum.auto()


class _Knowledge(enum.Enum):
    UNKNOWN = enum.auto()
    UNSURE = enum.auto()
    """Asked, without a verdict."""
    OPEN = enum.auto()
    ABSENT = enum.auto()


_OPEN: Final = _Knowledge.OPEN  # a member of an enum is slow to reach through its class


class EraTable:
    """What is known of both eras of one server."""

    def __init__(self) -> None:
        self._known = dict.fromkeys(Era, _Knowledge.UNKNOWN)
        self._unsure_until = dict.fromkeys(Era, 0.0)

    def __repr__(self) -> str:
        return "<EraTable " + ", ".join(f"{era.name}: {known.name}" for era, known in self._known.items()) + ">"

    def step(self, wanted: Era, now: float) -> tuple[Step, Era]:
        """Return what a client of era `wanted` needs: use this era, or ask for it first; or nothing is left to ask."""
        if self._known[wanted] is _OPEN:
            return Step.USE, wanted
        own, other = self._look(wanted, now), self._look(wanted.other, now)
        if own is _Knowledge.UNKNOWN:
            return Step.ASK, wanted
        if other is _Knowledge.OPEN:
            return Step.USE, wanted.other
        if other is _Knowledge.UNKNOWN:
            return Step.ASK, wanted.other
        return Step.STUCK, wanted

    def is_unknown(self, era: Era, now: float) -> bool:
        return self._look(era, now) is _Knowledge.UNKNOWN

    def is_open(self, era: Era) -> bool:
        return self._known[era] is _OPEN

    def learn(self, era: Era, verdict: Verdict, now: float) -> None:
        """Remember a verdict."""
        self._known[era] = {
            Verdict.YES: _Knowledge.OPEN,
            Verdict.NO: _Knowledge.ABSENT,
            Verdict.UNSURE: _Knowledge.UNSURE,
        }[verdict]
        self._unsure_until[era] = now + UNSURE_S

    def forget(self, era: Era) -> None:
        """What was known of this era has been contradicted. What it was not, it may have become too."""
        self._known[era] = _Knowledge.UNKNOWN
        if self._known[era.other] is not _Knowledge.OPEN:
            self._known[era.other] = _Knowledge.UNKNOWN

    def forget_all(self) -> None:
        """The server was away: it may come back as another."""
        for era in Era:
            self._known[era] = _Knowledge.UNKNOWN

    def _look(self, era: Era, now: float) -> _Knowledge:
        known = self._known[era]
        return _Knowledge.UNKNOWN if known is _Knowledge.UNSURE and now >= self._unsure_until[era] else known
