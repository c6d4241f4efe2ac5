"""Understands the files in which MCP clients keep their servers, and says what of them cannot be used. Pure.

Claude Desktop, Claude Code, Cursor, Windsurf and others: `{"mcpServers": {"name": {...}}}`. VS Code:
`{"servers": {"name": {"type": ...}}}` in mcp.json, or the same within `"mcp"` in settings.json.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, cast

from protocol.names import SERVER_NAME_CHARACTERS_MAX
from supervisor.configuration.document import Document, Format
from supervisor.configuration.problems import Path

_URL_KEYS: Final = ("url", "serverUrl", "httpUrl")
_HTTP_TYPES: Final = frozenset({"", "http", "streamable-http", "streamable_http", "streamablehttp"})
_INPUT: Final = re.compile(r"\$\{input:")
_SHELL: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
"""Claude Code's way to name a variable of the environment."""
_FOREIGN: Final = re.compile(r"[^A-Za-z0-9_-]+")
_VSCODE_KEYS: Final = frozenset({"servers", "inputs", "$schema"})


@dataclass(frozen=True, slots=True)
class Found:
    """A server as a client has it."""

    name: str
    """Made of the letters that our names may have."""
    path: Path
    values: Mapping[str, object]
    """By our keys; empty if it cannot be used."""
    obstacle: str
    """Why it cannot be used; "" if it can, as far as its shape tells."""


def is_clients(document: Document) -> bool:
    """Whether the file is one of a client's."""
    return _where(document) is not None


def found_servers(document: Document) -> tuple[Found, ...]:
    """Return all servers of a client's file, in its order, each under a name of its own."""
    where = _where(document) or ()
    members = document.values
    for part in where:
        members = cast("dict[str, dict[str, object]]", members)[part]
    taken: set[str] = set()
    return tuple(_found(name, (*where, name), value, taken) for name, value in members.items())


def _where(document: Document) -> tuple[str, ...] | None:
    if document.format is not Format.JSON:
        return None
    values = document.values
    if isinstance(values.get("mcpServers"), dict):
        return ("mcpServers",)
    inner = values.get("mcp")
    if isinstance(inner, dict) and isinstance(cast("dict[str, object]", inner).get("servers"), dict):
        return ("mcp", "servers")
    if set(values) <= _VSCODE_KEYS and ("inputs" in values or any(map(_is_vscode, _tables(values.get("servers"))))):
        return ("servers",) if isinstance(values.get("servers"), dict) else None
    return None


def _tables(value: object) -> Iterator[dict[str, object]]:
    if isinstance(value, dict):
        for item in cast("dict[str, object]", value).values():
            if isinstance(item, dict):
                yield cast("dict[str, object]", item)


def _is_vscode(server: dict[str, object]) -> bool:
    return "type" in server


def _found(name: str, path: Path, value: object, taken: set[str]) -> Found:
    fitted = _fitted(name, taken)
    taken.add(fitted)
    if not isinstance(value, dict):
        return Found(fitted, path, {}, "is no table")
    values, obstacle = _ours(cast("dict[str, object]", value))
    return Found(fitted, path, values, obstacle)


def _fitted(name: str, taken: set[str]) -> str:
    """Return a name that we take, as like this one as possible, and none that is taken."""
    plain = _FOREIGN.sub("-", name)
    plain = re.sub(r"_{2,}", "_", plain).strip("-_")[:SERVER_NAME_CHARACTERS_MAX].rstrip("-_") or "server"
    fitted, number = plain, 2
    while fitted in taken:
        suffix = f"-{number}"
        fitted = plain[: SERVER_NAME_CHARACTERS_MAX - len(suffix)] + suffix
        number += 1
    return fitted


def _ours(server: dict[str, object]) -> tuple[dict[str, object], str]:
    """Return the server by our keys, or why there is none."""
    kind = str(server.get("type", server.get("transport", ""))).lower()
    url_key = next((key for key in _URL_KEYS if key in server), "")
    if kind == "stdio" or (not url_key and "command" in server):
        return _command(server)
    if kind == "sse":
        return {}, "uses the old HTTP+SSE transport, which is not supported by this version yet"
    if kind not in _HTTP_TYPES:
        return {}, "uses a transport that is not supported by this version"
    if not url_key:
        return {}, "has no url"
    values: dict[str, object] = {"url": server[url_key]}
    if server.get("disabled") is True or server.get("enabled") is False:
        values["enabled"] = False
    if server.get("headers"):
        values["headers"] = server["headers"]
    return _with_references(values)


def _command(server: dict[str, object]) -> tuple[dict[str, object], str]:
    """The same of one that is started by a command."""
    file = server.get("envFile", "")
    if not str(file).startswith(("/", "~/")) and file:
        return {}, "takes variables from a file (envFile) whose path is not absolute; write the whole path"
    values = {
        key: server[key] for key in ("command", "args", "env", "cwd") if server.get(key) not in (None, "", {}, [])
    }
    if file:
        values["env_file"] = file
    if server.get("disabled") is True or server.get("enabled") is False:
        values["enabled"] = False
    return _with_references(values)


def _with_references(values: dict[str, object]) -> tuple[dict[str, object], str]:
    """Return the values with references written as ours are, or why that is not possible."""
    if any(_INPUT.search(text) for value in values.values() for text in _texts(value)):
        return {}, "asks its user for a value (${input:...}); set a variable, and write ${env:NAME} instead"
    return {key: _references(value) for key, value in values.items()}, ""


def _texts(value: object) -> Iterator[str]:
    match value:
        case str():
            yield value
        case list():
            for item in cast("list[object]", value):
                yield from _texts(item)
        case dict():
            for item in cast("dict[str, object]", value).values():
                yield from _texts(item)
        case _:
            pass


def _references(value: object) -> object:
    match value:
        case str():
            return _SHELL.sub(r"${env:\1}", value)
        case list():
            return [_references(item) for item in cast("list[object]", value)]
        case dict():
            return {name: _references(item) for name, item in cast("dict[str, object]", value).items()}
        case _:
            return value
