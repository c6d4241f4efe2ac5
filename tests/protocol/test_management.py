"""What may be asked of the management tools, and how they and their answers look on the wire."""

from __future__ import annotations

import json

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import management
from protocol.jsonrpc import Raw
from protocol.limits import MANAGE_ARGUMENTS_BYTES_MAX
from protocol.management import MANAGE, TOOL_NAMES, TOOLS, ArgumentError, Request, request_from, result


def test_arguments_become_a_request_and_null_counts_as_absent():
    arguments = b'{"operation":"add","name":"a","url":"http://a/","group":null,"headers":{"X":"y"},"force":true}'

    assert request_from(MANAGE, Raw(arguments)) == Request(
        "add", name="a", url="http://a/", headers={"X": "y"}, force=True
    )
    assert request_from("proxy_status", b"{}") == Request("proxy_status")


@pytest.mark.parametrize(
    ("tool", "arguments", "named"),
    [
        (MANAGE, b"{}", "operation is missing"),
        (MANAGE, b'{"operation":null}', "operation is missing"),
        (MANAGE, b'{"operation":"proxy_status"}', "operation must be one of"),
        (MANAGE, b'{"operation":"list","nmae":"a"}', "nmae"),
        (MANAGE, b'{"operation":7}', "Expected `str`"),
        (MANAGE, b'{"operation":"add","headers":["a"]}', "headers"),
        (MANAGE, b'{"operation":"list","operation":"add"}', "member twice"),
        (MANAGE, b"[]", "arguments"),
        (MANAGE, b'"list"', "arguments"),
        (MANAGE, b'{"operation":"%b"}' % (b"x" * MANAGE_ARGUMENTS_BYTES_MAX), "longer than"),
        ("proxy_health", b'{"verbose":true}', "takes no arguments"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_with_a_reason(tool: str, arguments: bytes, named: str):
    with pytest.raises(ArgumentError, match=named):
        request_from(tool, arguments)


@given(st.dictionaries(st.text(max_size=10), st.none() | st.booleans() | st.integers() | st.text(max_size=10)))
def test_any_object_is_a_request_or_refused(members: dict[str, object]):
    try:
        request = request_from(MANAGE, json.dumps(members).encode())
    except ArgumentError:
        return
    assert request.operation in management.OPERATIONS


@pytest.mark.parametrize("tool", TOOL_NAMES)
def test_every_tool_has_sound_schemas_and_says_honestly_what_it_does(tool: str):
    for schema in (TOOLS[tool].input_schema, TOOLS[tool].output_schema):
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema["type"] == "object"
    item = json.loads(management.render(tool, "p_" + tool, with_output_schema=True))
    assert item["name"] == "p_" + tool
    assert item["annotations"]["readOnlyHint"] is (tool != MANAGE)
    assert item["annotations"]["destructiveHint"] is (tool == MANAGE)
    assert "outputSchema" not in json.loads(management.render(tool, tool, with_output_schema=False))


def test_every_argument_that_is_described_is_understood_and_the_other_way_round():
    assert set(TOOLS[MANAGE].input_schema["properties"]) == set(Request.__struct_fields__)


@pytest.mark.parametrize("structured", [True, False])
def test_an_answer_is_text_and_structured_content_and_an_error_if_it_says_so(structured: bool):
    good = json.loads(result(b'{"success":true,"name":"\\u00fc"}', structured=structured))
    bad = json.loads(result(b'{"success":false}', structured=structured))
    other = json.loads(result(b'{"proxy_healthy":false}', structured=structured))

    assert json.loads(good["content"][0]["text"]) == {"success": True, "name": "ü"}
    assert good.get("structuredContent") == ({"success": True, "name": "ü"} if structured else None)
    assert [one["isError"] for one in (good, bad, other)] == [False, True, False]
