"""Finds the tool arguments that a modern client repeats in headers, writes those headers and checks them (2026-07-28).

A property of a tool's `inputSchema` may carry `x-mcp-header: Name`; the argument then travels a second time as
`Mcp-Param-Name`, so that gateways can route without reading bodies. A server that trusted such a header without
comparing it would let a gateway see one value and the tool another (server/tools, "x-mcp-header").
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final, cast

import msgspec

from protocol.headers import decode_value, encode_value
from protocol.jsonrpc import DECODE_ERRORS, Raw, RpcError, decode_object

_ANNOTATION: Final = "x-mcp-header"
_PREFIX: Final = b"mcp-param-"
_TYPES: Final = frozenset({"string", "integer", "boolean"})
"""`number` is left out by the specification: implementations write fractions differently."""
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
"""RFC 9110 section 5.6.2."""
_DECIMAL: Final = re.compile(r"(-?[0-9]+)(?:\.(0+))?")
_DIGITS_MAX: Final = 4300
"""Integers beyond CPython's limit for text are not repeated: the official SDK's clients cannot write them either."""

# Keywords of JSON Schema 2020-12 below which there are schemas again, by the shape of their value. `properties` is not
# among them: it alone keeps an argument in its place. `$ref` is never followed, and data (`default`, `enum`, `const`,
# `examples`) is no schema.
_ONE_SCHEMA: Final = frozenset(
    {
        "additionalProperties",
        "contains",
        "contentSchema",
        "else",
        "if",
        "items",
        "not",
        "propertyNames",
        "then",
        "unevaluatedItems",
        "unevaluatedProperties",
    }
)
_SCHEMA_LISTS: Final = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_SCHEMA_MAPS: Final = frozenset({"$defs", "definitions", "dependentSchemas", "patternProperties"})


class ParamHeader(msgspec.Struct, frozen=True):
    """One argument that is repeated in a header."""

    path: tuple[str, ...]
    """Names of the properties from the root of the arguments to the value."""
    header: str
    """What follows `Mcp-Param-`."""
    type: str
    """string, integer or boolean."""

    @property
    def field(self) -> bytes:
        """The header's whole name, in lower case."""
        return _PREFIX + self.header.lower().encode()


# --- declarations --------------------------------------------------------------------------------------------------
def find_param_headers(input_schema: bytes) -> list[ParamHeader]:
    """Return what a schema declares, in its order.

    Errors: `ValueError` with the reason if one annotation is invalid. Clients over HTTP must then drop the whole tool.
    """
    # Nearly no tool has annotations; an escaped spelling of the word needs a backslash and a "u".
    if _ANNOTATION.encode() not in input_schema and b"\\u" not in input_schema:
        return []
    try:
        schema = msgspec.json.decode(input_schema)
    except DECODE_ERRORS:
        raise ValueError("the input schema cannot be read") from None
    found: dict[str, ParamHeader] = {}
    for path, node in _schemas(schema):
        if _ANNOTATION in node:
            declared = _declaration(path, node)
            if found.setdefault(declared.header.lower(), declared) is not declared:
                raise ValueError(f"{_ANNOTATION} {declared.header} is used twice")
    return list(found.values())


def _schemas(root: object) -> Iterator[tuple[tuple[str, ...] | None, dict[str, Any]]]:
    """Yield every schema within a schema, with its path if only `properties` lead there, else None."""
    waiting: list[tuple[tuple[str, ...] | None, object]] = [((), root)]
    while waiting:
        path, node = waiting.pop()
        if isinstance(node, dict):
            schema = cast("dict[str, Any]", node)
            yield path, schema
            waiting.extend(reversed(list(_below(path, schema))))


def _below(path: tuple[str, ...] | None, schema: dict[str, Any]) -> Iterator[tuple[tuple[str, ...] | None, object]]:
    for keyword, value in schema.items():
        if keyword == "properties" and isinstance(value, dict):
            for name, child in cast("dict[str, object]", value).items():
                yield None if path is None else (*path, name), child
        elif keyword in _ONE_SCHEMA:
            yield None, value
        elif keyword in _SCHEMA_LISTS and isinstance(value, list):
            yield from ((None, child) for child in cast("list[object]", value))
        elif keyword in _SCHEMA_MAPS and isinstance(value, dict):
            yield from ((None, child) for child in cast("dict[str, object]", value).values())


def _declaration(path: tuple[str, ...] | None, schema: dict[str, Any]) -> ParamHeader:
    if not path:
        raise ValueError(f"{_ANNOTATION} stands where only `properties` may lead, and they do not")
    where, header, kind = ".".join(path), schema[_ANNOTATION], schema.get("type")
    if not isinstance(header, str) or not _TOKEN.fullmatch(header):
        raise ValueError(f"{_ANNOTATION} of property {where} is not a header name (RFC 9110 token)")
    if not isinstance(kind, str) or kind not in _TYPES:
        raise ValueError(f"{_ANNOTATION} of property {where} needs a type of string, integer or boolean")
    return ParamHeader(path, header, kind)


# --- values --------------------------------------------------------------------------------------------------------
def render(arguments: bytes, declared: Sequence[ParamHeader]) -> list[tuple[bytes, bytes]]:
    """Return the headers that go with these arguments (a raw JSON object; b"" if there are none).

    What is absent or null has no header, nor has what no header can say (objects, arrays, huge numbers). Errors:
    `RpcError` -32600 if an argument on the way is there twice.
    """
    headers: list[tuple[bytes, bytes]] = []
    for param in declared:
        plain = _scalar(_value_at(arguments, param.path))
        if isinstance(plain, float) and param.type == "integer" and plain.is_integer():
            plain = int(plain)
        if plain is not None:
            headers.append((param.field, encode_value(_text(plain))))
    return headers


def check(
    arguments: bytes,
    declared: Sequence[ParamHeader],
    headers: Mapping[bytes, bytes],
    repeated: Collection[bytes],
) -> str | None:
    """Return where headers and arguments differ, None if they agree: there together and equal, or absent together.

    `headers` has lower-case names, `repeated` the names that came more than once. Other `Mcp-Param-*` do not matter.
    """
    for param in declared:
        try:
            value = _value_at(arguments, param.path)
        except RpcError as error:
            return error.message
        if param.field in repeated:
            return f"the Mcp-Param-{param.header} header is there more than once"
        if not _agrees(headers.get(param.field), value, param.type):
            return f"the Mcp-Param-{param.header} header does not repeat the argument {'.'.join(param.path)}"
    return None


def _value_at(arguments: bytes, path: Sequence[str]) -> Raw | None:
    """Return an argument; None if it is absent or null, or if something on the way to it is no object."""
    node = msgspec.Raw(arguments) if arguments else None
    for name in path:
        if node is None or memoryview(node)[0] != ord("{"):
            return None
        node = decode_object(node, "arguments").get(name)
    return None if node is None or node == _NULL else node


def _scalar(value: Raw | None) -> str | int | float | None:
    """Return a value that a header can say, else None."""
    if value is None or memoryview(value)[0] in b"[{":
        return None
    if memoryview(value)[0] != ord('"') and len(value) > _DIGITS_MAX:
        return None
    try:
        return cast("str | int | float", msgspec.json.decode(value))
    except DECODE_ERRORS:
        # A number that no float can hold, such as 1e999.
        return None


def _text(plain: str | int | float) -> str:
    if isinstance(plain, bool):
        return "true" if plain else "false"
    return str(plain)


def _agrees(header: bytes | None, value: Raw | None, kind: str) -> bool:
    plain = _scalar(value)
    if header is None or plain is None:
        # A header for an argument that is not there is the very thing this check is for.
        return header is None and plain is None
    told = decode_value(header)
    if told is None:
        return False
    return told == _text(plain) or (kind == "integer" and _same_integer(told, plain))


def _same_integer(told: str, plain: str | int | float) -> bool:
    """Tell whether a decimal says this integer: 42 and 42.0 are one (server/tools, "x-mcp-header")."""
    if isinstance(plain, (str, bool)) or plain != plain // 1:
        return False
    decimal = _DECIMAL.fullmatch(told)
    return decimal is not None and len(told) <= _DIGITS_MAX and int(decimal[1]) == int(plain)


_NULL: Final = msgspec.Raw(b"null")
