"""Reads and writes `InputRequiredResult`, and the answers to it (2026-07-28, basic, multi round-trip requests).

A server that needs something of the client ends the request with such a result; the client makes the same request again
with `inputResponses` to its `inputRequests`, and with the server's `requestState` exactly as it came.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from protocol.abilities import ELICITATION_METHOD, KINDS, ROOTS_METHOD, check_question
from protocol.errors import INTERNAL_ERROR, INVALID_PARAMS
from protocol.forms import for_2025_06_18
from protocol.jsonrpc import DECODE_ERRORS, Object, Raw, RpcError, decode_object, encode_object
from protocol.limits import QUESTION_BYTES_MAX, QUESTIONS_OPEN_MAX, REQUEST_STATE_BYTES_MAX
from protocol.link import AnswerKind, Payload

METHODS: Final = frozenset({"tools/call", "prompts/get", "resources/read"})
"""The requests that may be answered so."""
RESPONSES: Final = "inputResponses"
STATE: Final = "requestState"
_FORM_MODE_SINCE: Final = "2025-11-25"
_decode_str: Final = msgspec.json.Decoder(str).decode


class Question(msgspec.Struct, frozen=True):
    """One of `inputRequests`."""

    method: str
    params: bytes
    """A raw JSON object."""


class Needed(msgspec.Struct, frozen=True):
    """What a server needs before it goes on."""

    questions: dict[str, Question]
    """By the server's keys, in its order."""
    state: bytes
    """Its `requestState`, a raw JSON string; b"" if it gave none."""


class Retry(msgspec.Struct, frozen=True):
    """What a client says beside the request that it makes again."""

    responses: bytes
    """`inputResponses`: a raw JSON object of objects; b"" if absent."""
    state: str | None
    """`requestState` as it came back; None if absent."""


# --- results of servers ---------------------------------------------------------------------------------------------
def read(result: Payload | Raw, abilities: int) -> Needed:
    """Return what a result of type `input_required` asks for.

    Errors: `RpcError`, whose message says what is wrong, for whatever breaks the specification or our limits, and for
    what a client with these abilities must not be asked.
    """
    members = decode_object(result, "the result")
    state = members.get(STATE)
    if state is not None:
        if memoryview(state)[0] != ord('"'):
            raise _broken("a requestState that is no string")
        if len(state) > REQUEST_STATE_BYTES_MAX:
            raise _broken(f"a requestState of more than {REQUEST_STATE_BYTES_MAX} bytes")
    asked = members.get("inputRequests")
    if asked is None and state is None:
        raise _broken("neither inputRequests nor requestState in an input_required result")
    requests = decode_object(asked, "inputRequests") if asked is not None else {}
    if len(requests) > QUESTIONS_OPEN_MAX:
        raise _broken(f"more than {QUESTIONS_OPEN_MAX} inputRequests")
    if sum(map(len, requests.values())) > QUESTION_BYTES_MAX:
        raise _broken(f"inputRequests of more than {QUESTION_BYTES_MAX} bytes")
    questions = {key: _question(raw, abilities) for key, raw in requests.items()}
    return Needed(questions, bytes(state) if state is not None else b"")


def _question(raw: Raw, abilities: int) -> Question:
    members = decode_object(raw, "an inputRequest")
    try:
        method = _decode_str(members["method"])
    except (KeyError, *DECODE_ERRORS):
        raise _broken("an inputRequest without a method") from None
    params = decode_object(members["params"], "params of an inputRequest") if "params" in members else {}
    check_question(method, params, abilities)
    return Question(method, encode_object(params))


def _broken(what: str) -> RpcError:
    return RpcError(INTERNAL_ERROR, what)


def result_of(questions: Mapping[str, Question]) -> bytes:
    """Return an `InputRequiredResult` that asks these, without a state."""
    asked = {
        key: Raw(
            encode_object(
                {"method": Raw(msgspec.json.encode(question.method)), "params": Raw(_modern_params(question))}
            )
        )
        for key, question in questions.items()
    }
    return b'{"resultType":"input_required","inputRequests":%b}' % encode_object(asked)


def pages(error_data: Raw) -> dict[str, Question]:
    """Return what `data` of a legacy `URLElicitationRequiredError` asks to be visited, by keys of ours; {} if nothing.

    Each of `data.elicitations` is what `elicitation/create` has for parameters (2025-11-25, client/elicitation, "URL
    Mode With Elicitation Required Error").
    """
    try:
        asked = msgspec.json.decode(decode_object(error_data).get("elicitations", b"[]"), type=list[Raw])
        found = [encode_object(decode_object(each) | {"mode": Raw(b'"url"')}) for each in asked]
    except (RpcError, *DECODE_ERRORS):
        return {}
    if not 0 < len(found) <= QUESTIONS_OPEN_MAX:
        return {}
    return {
        key_of(ELICITATION_METHOD, number): Question(ELICITATION_METHOD, params)
        for number, params in enumerate(found, 1)
    }


def are_accepted(responses: bytes) -> bool:
    """Tell whether all of `inputResponses`, which are answers to elicitations, agree. `responses`: a JSON object."""
    try:
        answers = [decode_object(each) for each in decode_object(responses or b"{}", RESPONSES).values()]
    except RpcError:
        return False
    return bool(answers) and all(bytes(each.get("action", b"")) == b'"accept"' for each in answers)


def key_of(method: str, number: int) -> str:
    """Return the key of a question that a legacy server asked, which names none itself."""
    return f"{KINDS[method]}-{number}"


def with_state(result: Payload, state: str, server_info: bytes = b"") -> bytes:
    """Return the result with this `requestState` in place of the server's.

    `server_info`: members for a `_meta` that the result does not have yet, or b"".
    """
    members = decode_object(result, "the result")
    members[STATE] = Raw(msgspec.json.encode(state))
    if server_info and "_meta" not in members:
        members["_meta"] = Raw(b"{%b}" % server_info)
    return encode_object(members)


# --- requests of clients --------------------------------------------------------------------------------------------
def take_retry(params: Object) -> Retry | None:
    """Remove from `params` what makes a request a retry, and return it; None if nothing does.

    Errors: `RpcError` -32602 if it has not the shape of the specification.
    """
    responses, state = params.pop(RESPONSES, None), params.pop(STATE, None)
    if responses is None and state is None:
        return None
    if responses is not None:
        _check_responses(responses)
    try:
        text = _decode_str(state) if state is not None else None
    except DECODE_ERRORS:
        raise RpcError(INVALID_PARAMS, "requestState must be the string that came in the result") from None
    return Retry(bytes(responses) if responses is not None else b"", text)


def _check_responses(responses: Raw) -> None:
    try:
        items = decode_object(responses, RESPONSES)
    except RpcError as error:
        raise RpcError(INVALID_PARAMS, error.message) from None
    if any(memoryview(item)[0] != ord("{") for item in items.values()):
        raise RpcError(INVALID_PARAMS, "each of inputResponses must be an object: the result of its inputRequest")


def with_answers(params: Payload, responses: bytes, state: bytes) -> bytes:
    """Return the parameters of a request that is made again. `responses`, `state`: raw JSON, or b"" to leave it out."""
    members = decode_object(params, "params")
    if responses:
        members[RESPONSES] = Raw(responses)
    if state:
        members[STATE] = Raw(state)
    return encode_object(members)


# --- between the eras -----------------------------------------------------------------------------------------------
def _modern_params(question: Question) -> bytes:
    """Legacy elicitations by URL have an id, and requests may ask to be tasks; 2026-07-28 has neither."""
    members = decode_object(question.params, "params")
    for name in ("elicitationId", "task"):
        members.pop(name, None)
    return encode_object(members)


def legacy_params(method: str, params: Payload, version: str, elicitation_id: bytes) -> Payload:
    """Return the parameters of a question as a legacy client of this revision knows them.

    `elicitation_id`: a raw JSON string for an elicitation by URL that has no id yet. Errors: `RpcError` -32602 if the
    revision has no words for the question.
    """
    if method != ELICITATION_METHOD:
        return params
    members = decode_object(params, "params")
    mode = bytes(members.get("mode", b'"form"'))
    if mode == b'"url"' and "elicitationId" not in members:
        members["elicitationId"] = Raw(elicitation_id)
        return encode_object(members)
    if mode != b'"form"' or version >= _FORM_MODE_SINCE:
        return params
    form = members.get("requestedSchema", Raw(b""))
    older = for_2025_06_18(form)
    if "mode" not in members and older is form:
        return params
    members.pop("mode", None)
    if form:
        members["requestedSchema"] = older
    return encode_object(members)


# --- questions that get no answer -----------------------------------------------------------------------------------
def refusal(method: str, why: str) -> tuple[AnswerKind, bytes]:
    """Return what to tell a legacy server in place of an answer: of an elicitation, that it was dismissed."""
    if method == ELICITATION_METHOD:
        return AnswerKind.RESULT, b'{"action":"cancel"}'
    return AnswerKind.ERROR, msgspec.json.encode({"code": INTERNAL_ERROR, "message": why})


def unasked_answer(method: str) -> bytes | None:
    """Return the result of a question that belongs to no call, if it has one that is true of every client.

    A server may ask for the roots as soon as it is connected; those of one client are none of another's business.
    """
    return b'{"roots":[]}' if method == ROOTS_METHOD else None
