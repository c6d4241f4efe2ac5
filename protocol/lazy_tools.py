"""Three small tools in place of a flood: find tools by words, read their definitions, call one.

A model that is given hundreds of definitions pays for all of them in every request and chooses worse. With these it
reads only what it asks for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgspec

from protocol.errors import INVALID_PARAMS
from protocol.jsonrpc import Object, Raw, RpcError, decode_object

T = TypeVar("T")
TOOL_SEARCH: Final = "tool_search"
TOOL_SCHEMA: Final = "tool_schema"
TOOL_CALL: Final = "tool_call"
TOOL_NAMES: Final = frozenset({TOOL_SEARCH, TOOL_SCHEMA, TOOL_CALL})
FOUND_USUALLY: Final = 8
FOUND_MAX: Final = 50
SCHEMAS_MAX: Final = 20
SUMMARY_CHARACTERS_MAX: Final = 200


class Search(msgspec.Struct, frozen=True):
    """Arguments of `tool_search`."""

    query: str
    limit: int = FOUND_USUALLY


class Schemas(msgspec.Struct, frozen=True):
    """Arguments of `tool_schema`."""

    names: list[str]


class Described(msgspec.Struct):
    """A tool, as far as words can be found in it."""

    name: str
    title: str = ""
    description: str = ""
    inputSchema: Raw = Raw(b"{}")  # noqa: N815 - as it is named on the wire


class Found(msgspec.Struct):
    """A tool that was found."""

    name: str
    description: str
    score: float


def search_from(params: Object) -> Search:
    """Return the arguments of a call of `tool_search`. Errors: `RpcError` -32602."""
    search = _arguments(params, Search, "query (words that say what the tool should do) and perhaps limit")
    if not 1 <= search.limit <= FOUND_MAX:
        raise RpcError(INVALID_PARAMS, f"limit must be 1 to {FOUND_MAX}")
    return search


def schemas_from(params: Object) -> Schemas:
    """Return the arguments of a call of `tool_schema`. Errors: `RpcError` -32602."""
    schemas = _arguments(params, Schemas, "names (a list of names of tools)")
    if not 1 <= len(schemas.names) <= SCHEMAS_MAX:
        raise RpcError(INVALID_PARAMS, f"names must have 1 to {SCHEMAS_MAX} names")
    return schemas


def call_from(params: Object) -> Object:
    """Return the parameters of the call that a call of `tool_call` asks for. Errors: `RpcError` -32602."""
    advice = "tool_call needs name (of a tool, as tool_search gives it) and perhaps arguments (an object)"
    wanted = decode_object(params.get("arguments", Raw(b"{}")), "arguments")
    name, arguments = wanted.pop("name", None), wanted.pop("arguments", None)
    if name is None or wanted or not bytes(name).startswith(b'"'):
        raise RpcError(INVALID_PARAMS, advice)
    inner = dict(params)
    inner["name"] = name
    if arguments is None:
        del inner["arguments"]
    elif bytes(arguments).startswith(b"{"):
        inner["arguments"] = arguments
    else:
        raise RpcError(INVALID_PARAMS, advice)
    return inner


def fields(tool: bytes) -> list[tuple[str, float]]:
    """Return the texts of a tool and how much each weighs in a search."""
    try:
        described = msgspec.json.decode(tool, type=Described)
        properties = decode_object(described.inputSchema, "inputSchema").get("properties")
        names = " ".join(decode_object(properties, "properties")) if properties is not None else ""
    except (msgspec.MsgspecError, RpcError, UnicodeDecodeError):
        return []
    return [(described.name, 3.0), (described.title, 2.0), (described.description, 1.0), (names, 0.5)]


def found(tool: bytes, score: float) -> Found:
    """Return what a search says of a tool."""
    described = msgspec.json.decode(tool, type=Described)
    words = " ".join(described.description.split())
    if len(words) > SUMMARY_CHARACTERS_MAX:
        words = words[: SUMMARY_CHARACTERS_MAX - 3] + "..."
    return Found(described.name, words, round(score, 2))


def items(*, with_output_schema: bool) -> list[tuple[str, bytes]]:
    """Return names and items for `tools/list`. Revisions before 2025-06-18 have no output schemas, and no titles."""
    return [(name, _item(name, with_output_schema=with_output_schema)) for name in _TOOLS]


def _item(name: str, *, with_output_schema: bool) -> bytes:
    title, description, input_schema, output_schema, annotations = _TOOLS[name]
    item: dict[str, Any] = {
        "name": name,
        "description": description,
        "inputSchema": input_schema,
        "annotations": {"title": title, **annotations},
    }
    if with_output_schema:
        item["title"] = title
        if output_schema is not None:
            item["outputSchema"] = output_schema
    return msgspec.json.encode(item)


def answer(value: object, *, structured: bool) -> bytes:
    """Return a value as the result of `tools/call`. `structured`: the client's revision has `structuredContent`."""
    encoded = msgspec.json.encode(value)
    parts = [b'"content":[{"type":"text","text":%b}]' % msgspec.json.encode(encoded.decode())]
    if structured:
        parts.append(b'"structuredContent":' + encoded)
    return b"{%b}" % b",".join(parts)


def _arguments(params: Object, kind: type[T], needs: str) -> T:
    try:
        return msgspec.json.decode(params.get("arguments", Raw(b"{}")), type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise RpcError(INVALID_PARAMS, f"the arguments are not as they should be: {needs}") from None


# --- schemas --------------------------------------------------------------------------------------------------------
def _object(properties: Mapping[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": dict(properties), "required": list(required)}


_LOOKS_ONLY: Final = {"readOnlyHint": True, "destructiveHint": False, "idempotentHint": True, "openWorldHint": False}
_NAMES: Final = {"type": "array", "items": {"type": "string"}}
_TOOLS: Final[Mapping[str, tuple[str, str, dict[str, Any], dict[str, Any] | None, dict[str, bool]]]] = {
    TOOL_SEARCH: (
        "Find tools",
        "Find the tools that can do something, among all tools of all servers behind this proxy. Returns names and "
        "short descriptions, best first. Then read a definition with tool_schema, and call the tool with tool_call.",
        _object(
            {
                "query": {"type": "string", "description": "Words that say what the tool should do."},
                "limit": {"type": "integer", "minimum": 1, "maximum": FOUND_MAX, "default": FOUND_USUALLY},
            },
            "query",
        ),
        _object(
            {
                "tools": {
                    "type": "array",
                    "items": _object(
                        {"name": {"type": "string"}, "description": {"type": "string"}, "score": {"type": "number"}},
                        "name",
                    ),
                },
                "total": {"type": "integer", "description": "How many tools there are to be found."},
            },
            "tools",
            "total",
        ),
        _LOOKS_ONLY,
    ),
    TOOL_SCHEMA: (
        "Read definitions of tools",
        "Return the whole definitions, with the schemas of their arguments, of tools that tool_search has found.",
        _object({"names": {**_NAMES, "minItems": 1, "maxItems": SCHEMAS_MAX}}, "names"),
        _object({"tools": {"type": "array", "items": {"type": "object"}}, "missing": _NAMES}, "tools", "missing"),
        _LOOKS_ONLY,
    ),
    TOOL_CALL: (
        "Call a tool",
        "Call a tool that tool_search has found, with arguments as tool_schema says. The answer is the tool's own.",
        _object({"name": {"type": "string"}, "arguments": {"type": "object"}}, "name"),
        None,
        {"readOnlyHint": False, "destructiveHint": True, "idempotentHint": False, "openWorldHint": True},
    ),
}
