"""Rewrites the form of an elicitation to what 2025-06-18 knows of enumerations (SEP-1330 changed that in 2025-11-25).

There, the names of what can be chosen stand in `enumNames` beside `enum`, and one thing can be chosen only. Everything
else that later revisions added to forms is more than a client of 2025-06-18 reads, and does no harm.
"""

from __future__ import annotations

import msgspec

from protocol.errors import INVALID_PARAMS
from protocol.jsonrpc import DECODE_ERRORS, Object, Raw, RpcError, decode_object, encode_object

_ARRAY = b'"array"'


class _Option(msgspec.Struct):
    const: str
    title: str


def for_2025_06_18(schema: Raw) -> Raw:
    """Return a `requestedSchema` as that revision has it; the same if it is none that can be read.

    Errors: `RpcError` -32602 if several things can be chosen in it, for which that revision has no words.
    """
    try:
        members = decode_object(schema)
        properties = {name: decode_object(each) for name, each in decode_object(members["properties"]).items()}
    except (KeyError, RpcError):
        return schema
    changed = False
    for name, each in properties.items():
        if bytes(each.get("type", b"")) == _ARRAY:
            shown = name[:100]
            raise RpcError(INVALID_PARAMS, f"a client of 2025-06-18 cannot choose several things in a form ({shown})")
        changed |= _name_options(each)
    if not changed:
        return schema
    members["properties"] = Raw(encode_object({name: Raw(encode_object(each)) for name, each in properties.items()}))
    return Raw(encode_object(members))


def _name_options(members: Object) -> bool:
    """Put `enum` and `enumNames` in place of `oneOf`; return whether there was one."""
    try:
        options = msgspec.json.decode(members.get("oneOf", b"[]"), type=list[_Option])
    except DECODE_ERRORS:
        return False
    if not options:
        return False
    del members["oneOf"]
    members["enum"] = Raw(msgspec.json.encode([option.const for option in options]))
    members["enumNames"] = Raw(msgspec.json.encode([option.title for option in options]))
    return True
