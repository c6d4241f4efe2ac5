"""benchmarks.messages: only the right answer is a good one."""

from __future__ import annotations

import json

import pytest

from benchmarks import messages
from benchmarks.messages import Workload
from protocol.versions import Era

TEXT = messages.payload_text(100)


def answer(**changes: object) -> bytes:
    result = {"content": [{"type": "text", "text": TEXT}], "resultType": "complete", "_meta": {"more": [1, None]}}
    return json.dumps({"jsonrpc": "2.0", "id": 1_000_000_007, "result": result} | changes).encode()


def test_the_expected_answer_has_no_fault_however_it_is_written() -> None:
    assert messages.fault_in_answer(answer(), b"1000000007", TEXT) == ""
    assert messages.fault_in_answer(answer().replace(b" ", b"\n"), b"1000000007", TEXT) == ""


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b"", "not a JSON-RPC answer"),
        (b"<html>", "not a JSON-RPC answer"),
        (answer(id=1_000_000_008), "answer to id 1000000008 instead of 1000000007"),
        (answer(id="1000000007"), "answer to id '1000000007'"),
        (answer(jsonrpc="1.0"), "no complete result"),
        (answer(error={"code": -32603, "message": "broken"}), "error answer: "),
        (answer(result={"content": [{"type": "text", "text": TEXT}], "isError": True}), "the tool failed"),
        (answer(result={"content": [{"type": "text", "text": TEXT[1:]}]}), "wrong payload, 99 bytes"),
        (answer(result={"content": [{"type": "text", "text": TEXT[1:] + "?"}]}), "wrong payload, 100 bytes"),
        (answer(result={"content": [{"type": "text", "text": TEXT}] * 2}), "wrong payload, 200 bytes"),
        (answer(result={"content": []}), "wrong payload, 0 bytes"),
        (answer(result={"resultType": "input_required", "requestState": "x"}), "no complete result"),
    ],
)
def test_any_other_answer_is_named_for_what_is_wrong_with_it(body: bytes, fault: str) -> None:
    assert messages.fault_in_answer(body, b"1000000007", TEXT).startswith(fault)


@pytest.mark.parametrize("era", Era)
@pytest.mark.parametrize(("size", "tool"), [(100, "echo"), (1_000_000, "blob")])
def test_all_calls_of_one_kind_have_the_same_length_and_differ_in_their_id_only(era: Era, size: int, tool: str) -> None:
    before, after = messages.call_parts(Workload(size, era), "main__" + tool)
    call = json.loads(before + b"%d" % messages.CALL_IDS_FROM + after)

    assert call["id"] == messages.CALL_IDS_FROM
    assert len(str(messages.CALL_IDS_FROM)) == messages.CALL_ID_BYTES
    assert call["params"]["name"] == "main__" + tool
    assert call["params"]["arguments"] in ({"text": messages.payload_text(size)}, {"size": size})
    assert ("_meta" in call["params"]) is (era is Era.MODERN)


@pytest.mark.parametrize("offered", ["echo", "main__echo", "main.echo", "a-echo"])
def test_a_tool_is_found_under_the_name_a_proxy_gives_it(offered: str) -> None:
    listed = json.dumps({"jsonrpc": "2.0", "id": 2, "result": {"tools": [{"name": "my_tool"}, {"name": offered}]}})

    assert messages.public_tool_name(listed.encode(), "echo") == offered


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b'{"result":{"tools":[{"name":"reecho"},{"name":"blob"}]}}', "no tool 'echo' is offered, only reecho, blob"),
        (b'{"error":{"code":-32601,"message":"no"}}', "tools/list failed"),
        (b"", "not answered with a list"),
    ],
)
def test_a_missing_tool_is_an_error_that_says_what_there_is(body: bytes, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        messages.public_tool_name(body, "echo")


def test_only_answers_have_an_id_to_wait_for() -> None:
    assert messages.id_of_answer(answer()) == b"1000000007"
    assert messages.id_of_answer(b'{"jsonrpc":"2.0","id":"7","error":{"code":1,"message":""}}') == b"7"
    assert messages.id_of_answer(b'{"jsonrpc":"2.0","method":"notifications/message","params":{}}') is None
    assert messages.id_of_answer(b'{"jsonrpc":"2.0","id":1,"method":"ping"}') is None
    assert messages.id_of_answer(b"no JSON") is None
