"""What a client can do for a server, as one small number, and whether a question may be put to it.

Clients declare it in their capabilities (`ClientCapabilities`, all revisions). Only what is named here can be relayed,
so only this is declared to servers: an unknown capability would promise what nobody keeps. The same holds for
extensions (SEP-2133): what both the client of a call and the server name, and we can carry, is used in that call.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from protocol.errors import INVALID_PARAMS, METHOD_NOT_FOUND
from protocol.jsonrpc import DECODE_ERRORS, Object, RpcError
from protocol.tasks import EXTENSION as TASKS_EXTENSION
from protocol.versions import MODERN_VERSIONS

SAMPLING_METHOD: Final = "sampling/createMessage"
ELICITATION_METHOD: Final = "elicitation/create"
ROOTS_METHOD: Final = "roots/list"

SAMPLING: Final = 1
SAMPLING_TOOLS: Final = 2
SAMPLING_CONTEXT: Final = 4
FORM: Final = 8
URL: Final = 16
ROOTS: Final = 32
TASKS: Final = 64
"""It takes a task for the result of a call (extension io.modelcontextprotocol/tasks)."""
UI: Final = 128
"""It shows pages that belong to tools (extension io.modelcontextprotocol/ui, "MCP Apps")."""
NOTHING: Final = 0
EVERYTHING: Final = SAMPLING | SAMPLING_TOOLS | SAMPLING_CONTEXT | FORM | URL | ROOTS
"""All that questions can be about."""
OF_SESSIONS: Final = EVERYTHING | UI
"""What a legacy server is told when a session begins; the others are modern."""

UI_EXTENSION: Final = "io.modelcontextprotocol/ui"
UI_MIME_TYPE: Final = "text/html;profile=mcp-app"
"""The only one that the extension defines; a client names those that it can show."""
EXTENSIONS: Final = (TASKS_EXTENSION, UI_EXTENSION)
"""Those that can be carried."""

KINDS: Final[Mapping[str, str]] = MappingProxyType(
    {SAMPLING_METHOD: "sampling", ELICITATION_METHOD: "elicitation", ROOTS_METHOD: "roots"}
)
"""By method: the name of the capability that a client needs to be asked so."""
_NEEDED: Final = {SAMPLING_METHOD: SAMPLING, ELICITATION_METHOD: FORM | URL, ROOTS_METHOD: ROOTS}
_ELICITATION_SINCE: Final = "2025-06-18"
_VARIANTS_SINCE: Final = "2025-11-25"
_SHOWN_CHARACTERS_MAX: Final = 100

_members: Final = msgspec.json.Decoder(Object).decode
_decode_str: Final = msgspec.json.Decoder(str).decode


@functools.lru_cache(maxsize=256)
def of_capabilities(capabilities: bytes, version: str) -> int:
    """Return what a client of this revision can do, from its `ClientCapabilities` (raw JSON, or b"").

    What its revision does not know is left out, whatever it says. What cannot be read counts as not declared.
    """
    declared = _object(capabilities)
    abilities = NOTHING
    if (sampling := declared.get("sampling")) is not None:
        variants = _object(sampling) if version >= _VARIANTS_SINCE else {}
        abilities |= SAMPLING
        abilities |= SAMPLING_TOOLS if "tools" in variants else NOTHING
        abilities |= SAMPLING_CONTEXT if "context" in variants else NOTHING
    if (elicitation := declared.get("elicitation")) is not None and version >= _ELICITATION_SINCE:
        modes = _object(elicitation) if version >= _VARIANTS_SINCE else {}
        abilities |= FORM if "form" in modes or "url" not in modes else NOTHING  # an empty object means forms
        abilities |= URL if "url" in modes else NOTHING
    if "roots" in declared:
        abilities |= ROOTS
    extensions = _object(declared["extensions"]) if "extensions" in declared else {}
    if TASKS_EXTENSION in extensions and version in MODERN_VERSIONS:
        abilities |= TASKS
    if UI_EXTENSION in extensions and _shows_pages(extensions[UI_EXTENSION]):
        abilities |= UI
    return abilities


@functools.lru_cache(maxsize=256)
def as_capabilities(abilities: int) -> bytes:
    """Return the `ClientCapabilities` that declare this, raw JSON, the same in every revision.

    `roots.listChanged` is never among them: such a notification could not be told to the right calls.
    """
    declared: dict[str, dict[str, dict[str, list[str]]]] = {}
    if abilities & SAMPLING:
        declared["sampling"] = _named(abilities, {"tools": SAMPLING_TOOLS, "context": SAMPLING_CONTEXT})
    if abilities & (FORM | URL):
        declared["elicitation"] = _named(abilities, {"form": FORM, "url": URL})
    if abilities & ROOTS:
        declared["roots"] = {}
    if abilities & (TASKS | UI):
        declared["extensions"] = _named(abilities, {TASKS_EXTENSION: TASKS, UI_EXTENSION: UI})
    if abilities & UI:
        declared["extensions"][UI_EXTENSION] = {"mimeTypes": [UI_MIME_TYPE]}
    return msgspec.json.encode(declared)


def check_question(method: str, params: Object, abilities: int) -> None:
    """Check that a server may ask this of a client that declared `abilities`.

    Errors: `RpcError` as 2025-11-25 wants it (client/sampling, client/elicitation, client/roots, "error handling"):
    -32601 if the client has not declared the capability, -32602 if not this variant of it.
    """
    if not abilities & _NEEDED.get(method, NOTHING):
        raise RpcError(METHOD_NOT_FOUND, f"{method[:_SHOWN_CHARACTERS_MAX]} is not supported by this client")
    if method == SAMPLING_METHOD and not abilities & SAMPLING_TOOLS and ("tools" in params or "toolChoice" in params):
        raise RpcError(INVALID_PARAMS, "this client does not support tools in sampling (sampling.tools)")
    if method == ELICITATION_METHOD and not abilities & (URL if _mode(params) == "url" else FORM):
        raise RpcError(INVALID_PARAMS, f"this client does not support elicitation in mode {_mode(params)}")


def _mode(params: Object) -> str:
    """Return the mode of an elicitation; 2025-06-18 had only forms and did not name them."""
    try:
        mode = _decode_str(params["mode"]) if "mode" in params else "form"
    except DECODE_ERRORS:
        mode = ""
    if mode not in ("form", "url"):
        raise RpcError(INVALID_PARAMS, "the mode of an elicitation is form or url")
    return mode


def _shows_pages(settings: msgspec.Raw) -> bool:
    try:
        return UI_MIME_TYPE in msgspec.json.decode(_object(settings)["mimeTypes"], type=list[str])
    except (KeyError, *DECODE_ERRORS):
        return False


def _named(abilities: int, variants: Mapping[str, int]) -> dict[str, dict[str, list[str]]]:
    return {name: {} for name, bit in variants.items() if abilities & bit}


def _object(raw: bytes | msgspec.Raw) -> Object:
    try:
        found = _members(raw)
    except DECODE_ERRORS:
        return {}
    return {name: value for name, value in found.items() if bytes(value) != b"null"}
