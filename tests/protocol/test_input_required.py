"""What servers may ask clients, and what a modern client carries between its requests."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from protocol import abilities, input_required, request_state
from protocol.abilities import (
    FORM,
    NOTHING,
    ROOTS,
    SAMPLING,
    SAMPLING_CONTEXT,
    SAMPLING_TOOLS,
    URL,
    as_capabilities,
    of_capabilities,
)
from protocol.jsonrpc import RpcError, decode_object
from protocol.limits import QUESTIONS_OPEN_MAX, REQUEST_STATE_BYTES_MAX
from protocol.link import AnswerKind
from protocol.request_state import StateFacts, digest, seal, unseal
from tests import schemas

KEY = bytes(range(32))
FACTS = StateFacts("main", "", b"d" * 32, 1_800_000_000, 7, b'"opaque"')
EVERYTHING = FORM | URL | SAMPLING | SAMPLING_TOOLS | SAMPLING_CONTEXT | ROOTS


def encoded(value: Any) -> bytes:
    return msgspec.json.encode(value)


# --- abilities -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("capabilities", "version", "expected"),
    [
        ("", "2025-11-25", NOTHING),
        ("[]", "2025-11-25", NOTHING),
        ("{}", "2025-11-25", NOTHING),
        ('{"elicitation":{}}', "2025-11-25", FORM),
        ('{"elicitation":{"url":{}}}', "2025-11-25", URL),
        ('{"elicitation":{"url":{},"form":{}}}', "2026-07-28", FORM | URL),
        ('{"elicitation":{"url":{}}}', "2025-06-18", FORM),
        ('{"elicitation":{}}', "2025-03-26", NOTHING),
        ('{"sampling":{"tools":{}}}', "2025-06-18", SAMPLING),
        ('{"sampling":{"tools":{},"context":{}}}', "2025-11-25", SAMPLING | SAMPLING_TOOLS | SAMPLING_CONTEXT),
        ('{"roots":{"listChanged":true},"sampling":null,"tasks":{}}', "2024-11-05", ROOTS),
    ],
)
def test_what_a_client_can_be_asked_depends_on_what_it_says_and_its_revision_knows(
    capabilities: str, version: str, expected: int
):
    assert of_capabilities(capabilities.encode(), version) == expected


def test_what_is_declared_to_servers_says_the_same_again():
    meaningful = [some for some in range(64) if some & SAMPLING or not some & (SAMPLING_TOOLS | SAMPLING_CONTEXT)]
    for some in meaningful:
        assert of_capabilities(as_capabilities(some), "2026-07-28") == some


@pytest.mark.parametrize(
    ("method", "params", "able", "code"),
    [
        ("sampling/createMessage", {}, SAMPLING, 0),
        ("sampling/createMessage", {}, FORM | ROOTS, -32601),
        ("sampling/createMessage", {"tools": []}, SAMPLING, -32602),
        ("sampling/createMessage", {"tools": []}, SAMPLING | SAMPLING_TOOLS, 0),
        ("elicitation/create", {}, FORM, 0),
        ("elicitation/create", {"mode": "url"}, FORM, -32602),
        ("elicitation/create", {"mode": "url"}, URL, 0),
        ("elicitation/create", {"mode": "form"}, URL, -32602),
        ("elicitation/create", {"mode": 1}, FORM | URL, -32602),
        ("elicitation/create", {}, SAMPLING, -32601),
        ("roots/list", {}, ROOTS, 0),
        ("roots/list", {}, FORM, -32601),
        ("tasks/get", {}, EVERYTHING, -32601),
    ],
)
def test_a_question_is_refused_unless_the_client_has_declared_it(
    method: str, params: dict[str, Any], able: int, code: int
):
    asked = decode_object(encoded(params))
    if not code:
        abilities.check_question(method, asked, able)
        return
    with pytest.raises(RpcError) as caught:
        abilities.check_question(method, asked, able)
    assert caught.value.code == code


# --- results ---------------------------------------------------------------------------------------------------------
def test_what_a_result_asks_for_is_read_in_order():
    asked: dict[str, Any] = {
        "b": {"method": "roots/list"},
        "a": {"method": "elicitation/create", "params": {"message": "?", "requestedSchema": {}}},
    }
    needed = input_required.read(encoded({"inputRequests": asked, "requestState": "s\u00e9"}), EVERYTHING)

    assert list(needed.questions) == ["b", "a"]
    assert needed.questions["b"].params == b"{}"
    assert json.loads(needed.state) == "sé"


@pytest.mark.case("B-23")
@pytest.mark.parametrize(
    "result",
    [
        {},
        {"requestState": 1},
        {"requestState": "x" * (REQUEST_STATE_BYTES_MAX + 1)},
        {"inputRequests": []},
        {"inputRequests": {"a": {}}},
        {"inputRequests": {"a": {"method": "tools/call"}}},
        {"inputRequests": {"a": {"method": "roots/list", "params": 1}}},
        {"inputRequests": {str(n): {"method": "roots/list"} for n in range(QUESTIONS_OPEN_MAX + 1)}},
    ],
)
def test_a_result_that_asks_for_nothing_or_too_much_or_wrongly_is_refused(result: Any):
    with pytest.raises(RpcError):
        input_required.read(encoded(result), EVERYTHING)


def test_a_result_that_asks_what_the_client_cannot_answer_is_refused():
    with pytest.raises(RpcError, match="roots/list"):
        input_required.read(encoded({"inputRequests": {"a": {"method": "roots/list"}}}), FORM)


def test_questions_of_a_legacy_server_lose_what_the_modern_era_does_not_have():
    question = input_required.Question("elicitation/create", b'{"mode":"url","elicitationId":"e","task":{},"url":"u"}')
    result = json.loads(input_required.result_of({"elicitation-1": question}))

    assert result == {
        "resultType": "input_required",
        "inputRequests": {"elicitation-1": {"method": "elicitation/create", "params": {"mode": "url", "url": "u"}}},
    }


def test_questions_of_a_modern_server_become_what_a_legacy_client_knows():
    def told(params: Any, version: str) -> Any:
        return json.loads(bytes(input_required.legacy_params("elicitation/create", encoded(params), version, b'"e"')))

    assert told({"mode": "form"}, "2025-06-18") == {}
    assert told({"mode": "form"}, "2025-11-25") == {"mode": "form"}
    assert told({"mode": "url"}, "2025-11-25") == {"mode": "url", "elicitationId": "e"}
    assert told({"mode": "url", "elicitationId": "own"}, "2025-11-25") == {"mode": "url", "elicitationId": "own"}
    assert input_required.legacy_params("roots/list", b"{}", "2025-06-18", b'"e"') == b"{}"


def test_a_form_becomes_one_that_a_client_of_2025_06_18_knows():
    def form(**properties: Any) -> Any:
        return {"message": "?", "requestedSchema": {"type": "object", "properties": properties, "required": ["a"]}}

    def told(params: Any, version: str) -> Any:
        return json.loads(bytes(input_required.legacy_params("elicitation/create", encoded(params), version, b'"e"')))

    options = [{"const": "r", "title": "Red"}, {"const": "g", "title": "Green"}]
    color = {"type": "string", "title": "Color", "oneOf": options, "default": "g"}
    known = {"type": "string", "title": "Color", "enum": ["r", "g"], "enumNames": ["Red", "Green"], "default": "g"}
    asked, other = form(a=color, b={"type": "integer"}), form(a={"type": "string", "enum": ["x"]})
    older = told({"mode": "form", **asked}, "2025-06-18")
    assert older == form(a=known, b={"type": "integer"})
    question = {"jsonrpc": "2.0", "id": 1, "method": "elicitation/create", "params": older}
    schemas.validate("2025-06-18", "ElicitRequest", question)
    assert told(asked, "2025-11-25") == asked
    assert told(other, "2025-06-18") == other
    for odd in (form(a=5), form(a={"oneOf": 5}), form(a={"oneOf": [{"const": 5}]}), {"requestedSchema": []}, {}):
        assert told(odd, "2025-06-18") == odd
    several = form(a={"type": "array", "items": {"anyOf": options}})
    assert told(several, "2025-11-25") == several
    with pytest.raises(RpcError, match="several things in a form") as caught:
        told(several, "2025-06-18")
    assert caught.value.code == -32602


def test_a_legacy_server_that_gets_no_answer_is_told_so_in_its_own_terms():
    assert input_required.refusal("elicitation/create", "why") == (AnswerKind.RESULT, b'{"action":"cancel"}')
    kind, error = input_required.refusal("sampling/createMessage", "why")
    assert (kind, json.loads(error)["message"]) == (AnswerKind.ERROR, "why")


# --- retries ---------------------------------------------------------------------------------------------------------
def test_what_makes_a_request_a_retry_is_taken_out_of_it():
    params = decode_object(b'{"name":"t","inputResponses":{"a":{"x":1.0}},"requestState":"s"}')
    retry = input_required.take_retry(params)

    assert retry == input_required.Retry(b'{"a":{"x":1.0}}', "s")
    assert list(params) == ["name"]
    assert input_required.take_retry(params) is None
    assert input_required.with_answers(b'{"name":"t"}', b"{}", b'"s"') == (
        b'{"name":"t","inputResponses":{},"requestState":"s"}'
    )


@pytest.mark.parametrize("wrong", [{"requestState": 1}, {"inputResponses": []}, {"inputResponses": {"a": "accept"}}])
def test_a_malformed_retry_is_refused(wrong: Any):
    with pytest.raises(RpcError) as caught:
        input_required.take_retry(decode_object(encoded(wrong)))
    assert caught.value.code == -32602


# --- states ----------------------------------------------------------------------------------------------------------
def test_a_sealed_state_says_what_was_put_into_it():
    assert unseal(KEY, seal(KEY, FACTS)) == FACTS


@pytest.mark.case("D-08")
def test_a_state_changed_anywhere_or_made_with_another_key_is_none_of_ours():
    text = seal(KEY, FACTS)
    for at in range(len(text)):
        changed = text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :]
        assert unseal(KEY, changed) in (None, FACTS)  # the last character has bits that say nothing
        assert at == len(text) - 1 or unseal(KEY, changed) is None
    for other in ("", "mbs1.", "mb1." + text[5:], text + "é", "mbs1." + "A" * request_state.SEALED_CHARACTERS_MAX):
        assert unseal(KEY, other) is None
    assert unseal(bytes(32), text) is None


@pytest.mark.case("B-23")
def test_a_state_belongs_to_one_request_however_its_arguments_are_written():
    own = digest("tools/call", "t", b'{"name":"t","arguments":{"a":1,"b":[2]}}')
    assert own == digest("tools/call", "t", b'{"arguments": {"b": [2], "a": 1}, "requestState": "s"}')
    others = {
        digest("prompts/get", "t", b'{"arguments":{"a":1,"b":[2]}}'),
        digest("tools/call", "u", b'{"arguments":{"a":1,"b":[2]}}'),
        digest("tools/call", "t", b'{"arguments":{"a":2,"b":[2]}}'),
        digest("tools/call", "t", b"{}"),
    }
    assert len(others) == 4
    assert own not in others
