"""Verdicts on answers, and who serves whom: tables, without a socket."""

from __future__ import annotations

import json
from typing import Any

import pytest

from protocol.http1 import ResponseHead
from protocol.jsonrpc import decode_reply
from protocol.versions import Era
from workers.backend.answers import Answer
from workers.backend.era import (
    UNSURE_S,
    EraTable,
    Judgement,
    Step,
    Verdict,
    contradicts,
    judge_discover,
    judge_initialize,
)

OWN = b'"b1-1"'
MODERN = "2026-07-28"


def answer(status: int, outcome: dict[str, Any] | None = None, answer_id: Any = "b1-1") -> Answer:
    head = ResponseHead(status, {}, None, keep_alive=True)
    if outcome is None:
        return Answer(head, None, OWN, is_empty=True)
    message = {"jsonrpc": "2.0", **({} if answer_id is ... else {"id": answer_id}), **outcome}
    return Answer(head, decode_reply(json.dumps(message).encode()), OWN, is_empty=False)


def error(code: int, message: str = "no", **more: Any) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, **more}}


def discovered(*versions: str) -> dict[str, Any]:
    return {"result": {"supportedVersions": list(versions), "capabilities": {}}}


YES, NO, UNSURE = Judgement(Verdict.YES, MODERN), Judgement(Verdict.NO), Judgement(Verdict.UNSURE)
AGAIN = Judgement(Verdict.YES, MODERN, ask_again=True)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param(answer(200, discovered(MODERN)), YES, id="it discovers"),
        pytest.param(answer(200, discovered("2025-11-25", MODERN, "2027-01-01")), YES, id="it lists ours among others"),
        pytest.param(answer(200, discovered("2025-11-25")), NO, id="it lists handshake revisions only"),
        pytest.param(answer(200, discovered("2027-01-01")), NO, id="it lists none of ours"),
        pytest.param(answer(200, {"result": {}}), NO, id="a result that is no discovery"),
        pytest.param(answer(200, discovered(MODERN), "b1-2"), NO, id="an answer to something else"),
        pytest.param(answer(400, error(-32020)), YES, id="it misses a header, so it knows them"),
        pytest.param(answer(400, error(-32021)), YES, id="it misses a capability"),
        pytest.param(answer(400, error(-32022, data={"supported": ["2025-11-25"]})), NO, id="it supports legacy only"),
        pytest.param(answer(400, error(-32022, data={"supported": [MODERN]})), AGAIN, id="it refuses what it supports"),
        pytest.param(answer(400, error(-32022)), NO, id="it does not say what it supports"),
        pytest.param(answer(400, error(-32000), None), NO, id="a typescript server of before"),
        pytest.param(answer(400, error(-32600), "server-error"), NO, id="a python server of before"),
        pytest.param(answer(200, error(-32601)), NO, id="the method is unknown"),
        pytest.param(answer(404), NO, id="nothing there"),
        pytest.param(answer(405), NO, id="no POST there"),
        pytest.param(answer(406), NO, id="not acceptable"),
        pytest.param(answer(200), NO, id="a page"),
        pytest.param(answer(401), UNSURE, id="it wants authorization"),
        pytest.param(answer(403, error(-32000)), UNSURE, id="it forbids"),
        pytest.param(answer(429), UNSURE, id="it is asked too often"),
        pytest.param(answer(500, error(-32603)), UNSURE, id="it fails"),
        pytest.param(answer(502), UNSURE, id="its gateway fails"),
        pytest.param(answer(307), UNSURE, id="it is elsewhere"),
    ],
)
@pytest.mark.case("B-33")
def test_an_answer_to_discover_is_a_verdict_only_if_the_server_gave_it(given: Answer, expected: Judgement):
    assert judge_discover(given, MODERN) == expected


def test_another_version_the_server_names_is_the_one_to_ask_for():
    named = answer(400, error(-32022, data={"supported": [MODERN]}))

    assert judge_discover(named, "2026-01-01") == AGAIN


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (answer(200, {"result": {"protocolVersion": "2025-06-18"}}), Judgement(Verdict.YES, "2025-06-18")),
        (answer(200, {"result": {"protocolVersion": "2024-11-05"}}), Judgement(Verdict.YES, "2024-11-05")),
        (answer(200, {"result": {"protocolVersion": MODERN}}), NO),
        (answer(200, {"result": {}}), NO),
        (answer(400, error(-32022, data={"supported": [MODERN]})), NO),
        (answer(404), NO),
        (answer(401), UNSURE),
        (answer(503), UNSURE),
    ],
)
def test_an_answer_to_initialize_is_a_verdict_only_if_the_server_gave_it(given: Answer, expected: Judgement):
    assert judge_initialize(given) == expected


@pytest.mark.parametrize(
    ("era", "given", "expected"),
    [
        pytest.param(Era.LEGACY, answer(404), True, id="session unknown, without a word"),
        pytest.param(Era.LEGACY, answer(404, error(-32600, "Session not found"), None), True, id="session unknown"),
        pytest.param(Era.LEGACY, answer(404, error(-32001, "Session not found")), True, id="session unknown, own id"),
        pytest.param(Era.LEGACY, answer(404, error(-32601, "Method not found")), False, id="method unknown"),
        pytest.param(Era.LEGACY, answer(400, error(-32000, "Bad Request: No valid session ID"), None), True, id="none"),
        pytest.param(Era.LEGACY, answer(400, error(-32600, "Missing session ID")), True, id="none, own id"),
        pytest.param(
            Era.LEGACY, answer(400, error(-32602, "the session must be a date")), False, id="about an argument"
        ),
        pytest.param(Era.LEGACY, answer(400, error(-32022)), True, id="became modern"),
        pytest.param(Era.LEGACY, answer(200, error(-32020)), True, id="became modern, in a stream"),
        pytest.param(Era.LEGACY, answer(500), False, id="fails"),
        pytest.param(Era.LEGACY, answer(200, error(-32602)), False, id="an error of the tool"),
        pytest.param(Era.MODERN, answer(404, error(-32601)), False, id="method unknown"),
        pytest.param(Era.MODERN, answer(400, error(-32602)), False, id="bad params"),
        pytest.param(Era.MODERN, answer(400, error(-32020)), False, id="bad header"),
        pytest.param(Era.MODERN, answer(400, error(-32021)), False, id="capability missing"),
        pytest.param(Era.MODERN, answer(400, error(-32022)), True, id="version unsupported"),
        pytest.param(Era.MODERN, answer(400, error(-32000), None), True, id="became legacy"),
        pytest.param(Era.MODERN, answer(400, error(-32000)), True, id="became legacy, own id"),
        pytest.param(Era.MODERN, answer(404), True, id="nothing there"),
        pytest.param(Era.MODERN, answer(405), True, id="no POST there"),
        pytest.param(Era.MODERN, answer(503), False, id="fails"),
        pytest.param(Era.MODERN, answer(200, error(-32000)), False, id="an error of the tool"),
    ],
)
@pytest.mark.case("B-33")
def test_only_refusals_of_the_wrong_kind_of_server_contradict_what_is_known(era: Era, given: Answer, expected: bool):
    assert contradicts(era, given) is expected


def test_clients_are_served_in_their_own_era_and_that_is_asked_for_first():
    table = EraTable()

    assert table.step(Era.MODERN, 0) == (Step.ASK, Era.MODERN)
    table.learn(Era.MODERN, Verdict.YES, 0)
    assert table.step(Era.MODERN, 0) == (Step.USE, Era.MODERN)
    assert table.step(Era.LEGACY, 0) == (Step.ASK, Era.LEGACY)
    table.learn(Era.LEGACY, Verdict.YES, 0)
    assert table.step(Era.LEGACY, 0) == (Step.USE, Era.LEGACY)


def test_clients_of_an_era_the_server_lacks_are_served_in_the_other():
    table = EraTable()
    table.learn(Era.MODERN, Verdict.NO, 0)

    assert table.step(Era.MODERN, 0) == (Step.ASK, Era.LEGACY)
    table.learn(Era.LEGACY, Verdict.YES, 0)
    assert table.step(Era.MODERN, 0) == (Step.USE, Era.LEGACY)
    assert table.step(Era.MODERN, 1e9) == (Step.USE, Era.LEGACY)


@pytest.mark.case("B-33")
def test_a_second_era_without_a_verdict_is_asked_for_again_later():
    table = EraTable()
    table.learn(Era.MODERN, Verdict.YES, 0)
    table.learn(Era.LEGACY, Verdict.UNSURE, 0)

    assert table.step(Era.LEGACY, UNSURE_S - 1) == (Step.USE, Era.MODERN)
    assert table.step(Era.LEGACY, UNSURE_S) == (Step.ASK, Era.LEGACY)


@pytest.mark.case("B-33")
def test_a_contradicted_era_and_one_that_was_absent_are_asked_for_again():
    table = EraTable()
    table.learn(Era.MODERN, Verdict.YES, 0)
    table.learn(Era.LEGACY, Verdict.NO, 0)

    table.forget(Era.MODERN)

    assert repr(table) == "<EraTable LEGACY: UNKNOWN, MODERN: UNKNOWN>"


def test_a_contradicted_era_leaves_the_other_open():
    table = EraTable()
    table.learn(Era.MODERN, Verdict.YES, 0)
    table.learn(Era.LEGACY, Verdict.YES, 0)

    table.forget(Era.LEGACY)

    assert repr(table) == "<EraTable LEGACY: UNKNOWN, MODERN: OPEN>"


@pytest.mark.case("B-33")
def test_a_server_of_no_era_ends_the_questions():
    table = EraTable()
    table.learn(Era.MODERN, Verdict.NO, 0)
    table.learn(Era.LEGACY, Verdict.UNSURE, 0)

    assert table.step(Era.MODERN, 0) == (Step.STUCK, Era.MODERN)
    assert table.step(Era.LEGACY, 0) == (Step.STUCK, Era.LEGACY)
