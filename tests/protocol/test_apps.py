"""Pages of tools (MCP Apps): where a tool names its page, and which tools are for pages alone."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from protocol.apps import has_page, is_for_pages_only, with_page
from protocol.jsonrpc import Object, encode_object
from protocol.uris import alias, read_alias


def tool(meta: Any) -> Object:
    return msgspec.json.decode(json.dumps({"name": "t", "odd": [1.5], "_meta": meta}), type=Object)


def test_a_page_is_renamed_wherever_it_is_named_and_nothing_else_is_touched():
    meta = {"a": 1.5, "ui": {"resourceUri": "ui://x/y", "visibility": ["model"]}, "ui/resourceUri": "ui://x/y"}
    renamed = with_page(tool(meta), lambda uri: alias("main", uri))
    changed = {**meta, "ui": {**meta["ui"], "resourceUri": "ui://mcp-bulkhead.main/x/y"}}
    changed["ui/resourceUri"] = "ui://mcp-bulkhead.main/x/y"
    assert json.loads(encode_object(renamed)) == {"name": "t", "odd": [1.5], "_meta": changed}
    assert read_alias("ui://mcp-bulkhead.main/x/y") == ("main", "ui://x/y")


@pytest.mark.parametrize(
    "meta",
    [{}, {"ui": {}}, {"ui": {"resourceUri": 7}}, {"ui": "resourceUri"}, {"a": "resourceUri", "ui": [1]}, "resourceUri"],
)
def test_what_cannot_be_read_as_a_page_is_left_alone(meta: Any):
    one = tool(meta)
    assert not has_page(one) or encode_object(with_page(one, lambda uri: "changed")) == encode_object(one)
    assert not is_for_pages_only(one)


@pytest.mark.parametrize(
    ("visibility", "only"), [(["app"], True), ([], True), (["model", "app"], False), (["model"], False), (7, False)]
)
def test_a_tool_is_for_pages_only_if_models_are_not_among_those_that_may_see_it(visibility: Any, only: bool):
    assert is_for_pages_only(tool({"ui": {"visibility": visibility}})) is only
