"""Handles of tasks, and what is read and rewritten of tasks in both eras."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import tasks
from protocol.abilities import FORM, TASKS, UI, UI_MIME_TYPE, as_capabilities, of_capabilities
from protocol.errors import MISSING_CAPABILITY
from protocol.jsonrpc import RpcError, decode_object
from protocol.limits import TASK_ID_CHARACTERS_MAX
from protocol.sealing import Seal
from protocol.task_handle import TaskFacts, seal, unseal
from protocol.versions import Era

KEY, OTHER_KEY = bytes(range(32)), bytes(32)
FACTS = TaskFacts("main", "", "", "t-1")
RELATED = tasks.RELATED_KEY


# --- handles ---------------------------------------------------------------------------------------------------------
@given(st.text(), st.text(), st.text(max_size=600))
def test_a_handle_says_what_was_put_into_it(server: str, replica: str, task_id: str):
    facts = TaskFacts(server[:100], replica[:100], "owner", task_id[:TASK_ID_CHARACTERS_MAX])
    try:
        handle = seal(KEY, facts)
    except UnicodeEncodeError:  # a lone surrogate, which no message of a server can have
        return
    assert handle.isascii()
    assert unseal(KEY, handle) == facts


@pytest.mark.case("D-08")
def test_a_handle_that_is_not_ours_or_was_changed_says_nothing():
    handle = seal(KEY, FACTS)
    for number in range(len(handle)):
        changed = handle[:number] + ("A" if handle[number] != "A" else "B") + handle[number + 1 :]
        assert unseal(KEY, changed) is None, f"character {number}"
    assert unseal(OTHER_KEY, handle) is None
    assert unseal(KEY, handle + "=") is None
    assert unseal(KEY, handle + "A" * 10_000) is None
    assert unseal(KEY, "mbt1.") is None
    assert unseal(KEY, "t-1") is None


def test_what_was_sealed_for_one_purpose_is_nothing_for_another():
    one, two = Seal("a.", b"one\0", 1000), Seal("a.", b"two\0", 1000)
    assert one.open(KEY, one.close(KEY, b"x")) == b"x"
    assert two.open(KEY, one.close(KEY, b"x")) is None


def test_topics_are_no_uris_and_say_which_task_of_which_replica():
    assert tasks.read_topic(tasks.topic("r", "a\0b")) == ("r", "a\0b")
    assert tasks.read_topic("task:a") is None


# --- what servers answer ---------------------------------------------------------------------------------------------
def test_a_created_task_is_renamed_where_its_era_has_its_id_and_nothing_else_is_touched():
    modern = b'{"resultType":"task","taskId":"t-1","status":"working","ttlMs":1.50,"odd":null}'
    assert tasks.created_id(modern, Era.MODERN) == "t-1"
    assert tasks.created_renamed(modern, "H", Era.MODERN) == modern.replace(b"t-1", b"H")
    legacy = b'{"task":{"taskId":"t-1","status":"working","ttl":null},"_meta":{"%b":{"taskId":"t-1"},"a":1}}'
    legacy %= RELATED.encode()
    assert tasks.created_id(legacy, Era.LEGACY) == "t-1"
    assert tasks.created_renamed(legacy, "H", Era.LEGACY) == legacy.replace(b"t-1", b"H")


def test_a_legacy_result_that_is_no_task_is_none():
    assert tasks.created_id(b'{"content":[],"task":{"taskId":"x"}}', Era.LEGACY) is None
    assert tasks.created_id(b'{"content":[]}', Era.LEGACY) is None


@pytest.mark.parametrize("result", [b"{}", b'{"taskId":7}', b'{"taskId":""}', b'{"taskId":"%b"}' % (b"x" * 513)])
def test_a_task_without_an_id_that_can_be_used_is_the_servers_fault(result: bytes):
    with pytest.raises(RpcError, match="the server answered with a task"):
        tasks.created_id(result, Era.MODERN)


def test_answers_about_a_task_name_it_by_its_handle_and_results_of_tools_are_left_alone():
    rename = tasks.answer_renamer(tasks.GET, "H")
    got = json.loads(rename(b'{"taskId":"t","status":"completed","result":{"taskId":"t","content":[]}}'))
    assert got == {"taskId": "H", "status": "completed", "result": {"taskId": "t", "content": []}}
    assert json.loads(rename(b'{"resultType":"complete"}')) == {"resultType": "complete"}
    result = b'{"taskId":"its own","content":[],"_meta":{"%b":{"taskId":"t"}}}' % RELATED.encode()
    got = json.loads(tasks.answer_renamer(tasks.RESULT, "H")(result))
    assert got == {"taskId": "its own", "content": [], "_meta": {RELATED: {"taskId": "H"}}}


def test_the_missing_extension_is_named_as_the_specification_wants_it():
    error = tasks.missing_extension()
    assert error.code == MISSING_CAPABILITY
    assert json.loads(error.data) == {"requiredCapabilities": {"extensions": {tasks.EXTENSION: {}}}}


# --- what clients declare --------------------------------------------------------------------------------------------
def test_extensions_that_can_be_carried_are_declared_to_servers_as_clients_declare_them():
    declared = {
        "elicitation": {},
        "extensions": {
            tasks.EXTENSION: {"a": 1},
            "io.modelcontextprotocol/ui": {"mimeTypes": ["x/y", UI_MIME_TYPE]},
            "com.example/other": {},
        },
    }
    abilities = of_capabilities(json.dumps(declared).encode(), "2026-07-28")
    assert abilities == FORM | TASKS | UI
    assert json.loads(as_capabilities(abilities)) == {
        "elicitation": {"form": {}},
        "extensions": {tasks.EXTENSION: {}, "io.modelcontextprotocol/ui": {"mimeTypes": [UI_MIME_TYPE]}},
    }


def test_legacy_clients_have_no_tasks_of_the_extension_but_may_show_pages():
    declared = {"extensions": {tasks.EXTENSION: {}, "io.modelcontextprotocol/ui": {"mimeTypes": [UI_MIME_TYPE]}}}
    assert of_capabilities(json.dumps(declared).encode(), "2025-11-25") == UI


@pytest.mark.parametrize("settings", [{}, {"mimeTypes": ["text/html"]}, {"mimeTypes": 7}, 7, None])
def test_a_client_that_cannot_show_the_pages_of_the_extension_does_not_have_it(settings: object):
    declared = {"extensions": {"io.modelcontextprotocol/ui": settings}}
    assert of_capabilities(json.dumps(declared).encode(), "2026-07-28") == 0


# --- tools of legacy servers -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("tool", "said"),
    [
        (b'{"name":"a"}', "forbidden"),
        (b'{"name":"a","execution":{}}', "forbidden"),
        (b'{"name":"a","execution":{"taskSupport":"required"}}', "required"),
        (b'{"name":"a","execution":{"taskSupport":7}}', "forbidden"),
    ],
)
def test_what_a_tool_says_of_tasks(tool: bytes, said: str):
    assert tasks.support(decode_object(tool)) == said


def test_a_result_loses_what_says_which_task_it_is_of_and_nothing_else():
    result = b'{"content":[1.50],"_meta":{"%b":{"taskId":"t"},"a":1}}' % RELATED.encode()
    assert tasks.without_related(result) == b'{"content":[1.50],"_meta":{"a":1}}'
    assert tasks.without_related(b'{"content":[1.50]}') == b'{"content":[1.50]}'
    assert tasks.augmented(b'{"name":"t","arguments":{}}') == b'{"name":"t","arguments":{},"task":{}}'
