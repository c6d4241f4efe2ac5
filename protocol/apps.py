"""What the proxy has to know of MCP Apps: which page belongs to a tool, and which tools are for pages alone.

Source: extension io.modelcontextprotocol/ui (SEP-1865). A tool names its page, a resource with a URI of scheme `ui`, in
`_meta.ui.resourceUri`; in early implementations in `_meta["ui/resourceUri"]`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from protocol.jsonrpc import DECODE_ERRORS, Object, Raw, RpcError, decode_object, encode_object

_MEMBER: Final = "ui"
_PAGE: Final = "resourceUri"
_FLAT_PAGE: Final = "ui/resourceUri"


class _Ui(msgspec.Struct):
    visibility: tuple[str, ...] = ("model", "app")


def is_for_pages_only(tool: Object) -> bool:
    """Whether a client that shows no pages must not offer this tool to its model."""
    meta = tool.get("_meta")
    if meta is None or b"visibility" not in bytes(meta):
        return False
    try:
        return "model" not in msgspec.json.decode(decode_object(meta)[_MEMBER], type=_Ui).visibility
    except (KeyError, *DECODE_ERRORS):
        return False


def has_page(tool: Object) -> bool:
    """Whether this tool names a page in a way that can be read."""
    meta = tool.get("_meta")
    if meta is None or b"resourceUri" not in bytes(meta):
        return False
    try:
        with_page(tool, str)
    except (RpcError, *DECODE_ERRORS):
        return False
    return True


def with_page(tool: Object, rename: Callable[[str], str]) -> Object:
    """Return the tool with another URI for its page."""

    def renamed(raw: Raw) -> Raw:
        return Raw(msgspec.json.encode(rename(msgspec.json.decode(raw, type=str))))

    meta = decode_object(tool["_meta"], "_meta")
    if _MEMBER in meta:
        ui = decode_object(meta[_MEMBER], _MEMBER)
        if _PAGE in ui:
            ui[_PAGE] = renamed(ui[_PAGE])
            meta[_MEMBER] = Raw(encode_object(ui))
    if _FLAT_PAGE in meta:
        meta[_FLAT_PAGE] = renamed(meta[_FLAT_PAGE])
    return tool | {"_meta": Raw(encode_object(meta))}
