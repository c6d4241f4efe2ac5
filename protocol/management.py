"""The management tools as clients see them, and the one shape of request that every door hands to the operations.

What a request does is `supervisor/operations.py`; this file only knows what may be asked, and how.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from protocol.jsonrpc import Raw, RpcError, decode_object
from protocol.limits import LOG_LINES_KEPT_MAX, MANAGE_ARGUMENTS_BYTES_MAX

MANAGE: Final = "manage"
PROXY_STATUS: Final = "proxy_status"
PROXY_HEALTH: Final = "proxy_health"
TOOL_NAMES: Final = (MANAGE, PROXY_STATUS, PROXY_HEALTH)
"""In this order they are listed, before the tools of all servers."""
LOG_LINES_USUAL: Final = 50

ADD: Final = "add"
REMOVE: Final = "remove"
LIST: Final = "list"
ENABLE: Final = "enable"
DISABLE: Final = "disable"
HEALTH: Final = "health"
RESTART: Final = "restart"
LOGS: Final = "logs"
DRAIN: Final = "drain"
UNDRAIN: Final = "undrain"
WEIGHT: Final = "weight"
OPERATIONS: Final = (ADD, REMOVE, LIST, ENABLE, DISABLE, HEALTH, RESTART, LOGS, DRAIN, UNDRAIN, WEIGHT)
"""What the tool `manage` can be asked for."""
RELOAD: Final = "reload"
ROLLBACK: Final = "rollback"
EVERY_OPERATION: Final = (*OPERATIONS, PROXY_STATUS, PROXY_HEALTH, RELOAD, ROLLBACK)
ALL: Final = "all"
"""In place of a server's name, for `health`."""


class Request(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One request for an operation, as the arguments of `manage` spell it. Which fields matter depends on it."""

    operation: str
    """One of `EVERY_OPERATION`. Those that `manage` has not are tools of their own, or for the admin door alone."""
    name: str = ""
    url: str = ""
    transport: str = ""
    headers: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    """Of `add`: sent with every request to the server. Values are secrets: never shown, never logged."""
    command: str = ""
    """Of `add`: the program of a server that is a command; with `args`, `env` and `cwd`, instead of a URL."""
    args: list[str] = msgspec.field(default_factory=list[str])
    env: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    """Values are secrets, as those of headers."""
    cwd: str = ""
    group: str = ""
    force: bool = False
    dry_run: bool = False
    lines: int = LOG_LINES_USUAL
    """Of `logs`: how many, at most `LOG_LINES_KEPT_MAX`."""
    weight: float | str = ""
    """Of `weight`: a number, a percentage such as "5%", or "default"."""


class ArgumentError(ValueError):
    """The arguments of a management tool make no sense. The text is for whoever sent them."""


def request_from(tool: str, arguments: Raw | bytes) -> Request:
    """Return the request that a call of a management tool makes. `tool`: one of `TOOL_NAMES`.

    Members that are null count as absent: many clients write out every optional argument.
    Errors: `ArgumentError`.
    """
    if len(arguments) > MANAGE_ARGUMENTS_BYTES_MAX:
        raise ArgumentError(f"the arguments are longer than {MANAGE_ARGUMENTS_BYTES_MAX} bytes")
    try:
        members = {
            key: value for key, value in decode_object(arguments, "arguments").items() if bytes(value) != b"null"
        }
    except RpcError as error:
        raise ArgumentError(error.message) from None
    if tool != MANAGE:
        if members:
            raise ArgumentError(f"{tool} takes no arguments")
        return Request(tool)
    if "operation" not in members:
        raise ArgumentError(f"operation is missing; it is one of {', '.join(OPERATIONS)}")
    try:
        request = msgspec.json.decode(msgspec.json.encode(members), type=Request)
    except msgspec.ValidationError as error:
        raise ArgumentError(str(error)) from None
    if request.operation not in OPERATIONS:
        raise ArgumentError(f"operation must be one of {', '.join(OPERATIONS)}")
    return request


def failure(error: str) -> bytes:
    """Return the answer to a request that could not even be made."""
    return msgspec.json.encode({"success": False, "error": error})


class Tool(msgspec.Struct, frozen=True):
    """A management tool, but for its public name."""

    title: str
    description: str
    input_schema: Mapping[str, Any]
    output_schema: Mapping[str, Any]
    annotations: Mapping[str, bool]


def render(tool: str, public: str, *, with_output_schema: bool) -> bytes:
    """Return a tool as an item of `tools/list`. Revisions before 2025-06-18 have no output schemas, and no titles."""
    known = TOOLS[tool]
    item: dict[str, Any] = {
        "name": public,
        "description": known.description,
        "inputSchema": known.input_schema,
        "annotations": {"title": known.title, **known.annotations},
    }
    if with_output_schema:
        item["title"] = known.title
        item["outputSchema"] = known.output_schema
    return msgspec.json.encode(item)


def result(answer: bytes, *, structured: bool) -> bytes:
    """Return an operation's answer (a JSON object) as the result of `tools/call`.

    It is an error to the model if it says so itself. `structured`: the client's revision has `structuredContent`.
    """
    failed = msgspec.json.decode(answer, type=_Outcome).success is False
    parts = [b'"content":[{"type":"text","text":%b}]' % msgspec.json.encode(answer.decode())]
    if structured:
        parts.append(b'"structuredContent":' + answer)
    parts.append(b'"isError":true' if failed else b'"isError":false')
    return b"{%b}" % b",".join(parts)


class _Outcome(msgspec.Struct):
    success: bool = True


# --- schemas --------------------------------------------------------------------------------------------------------
def _object(properties: Mapping[str, Any], required: Sequence[str] = ()) -> dict[str, Any]:
    return {"type": "object", "properties": dict(properties), **({"required": list(required)} if required else {})}


def _array(items: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


_TEXT: Final = {"type": "string"}
_TEXT_OR_NULL: Final = {"type": ["string", "null"]}
_COUNT: Final = {"type": "integer", "minimum": 0}
_NUMBER_OR_NULL: Final = {"type": ["number", "null"]}
_BOOL: Final = {"type": "boolean"}
_HEALTH: Final = {"type": "string", "enum": ["unknown", "healthy", "unhealthy", "error", "proxy_error"]}
_SERVER: Final = _object(
    {
        "name": _TEXT,
        "url": _TEXT,
        "enabled": _BOOL,
        "health_status": _HEALTH,
        "last_health_check": _TEXT_OR_NULL,
        "tool_count": {"type": ["integer", "null"]},
        "error_count": _COUNT,
        "last_error": _TEXT_OR_NULL,
        "state": _TEXT,
        "pid": {"type": ["integer", "null"]},
        "restarts": _COUNT,
        "uptime": _NUMBER_OR_NULL,
        "response_time_ms": _NUMBER_OR_NULL,
        "era": _TEXT_OR_NULL,
        "sessions": {"type": ["integer", "null"]},
        "transport": _TEXT,
        "group": _TEXT_OR_NULL,
        "command": _TEXT_OR_NULL,
        "address": _TEXT_OR_NULL,
        "replica": {
            "type": ["object", "null"],
            "properties": {
                "weight": {"type": "number"},
                "percent": {"type": "number"},
                "drained": _BOOL,
                "ejected": _BOOL,
                "share": {"type": "number"},
                "ejections": _COUNT,
                "failovers": _COUNT,
                "lacks": _array(_TEXT),
                "differs": _array(_TEXT),
                "hedged": _COUNT,
            },
        },
    },
    ("name", "url", "enabled", "health_status"),
)
_COUNTS: Final = {"total_count": _COUNT, "enabled_count": _COUNT, "healthy_count": _COUNT}
_CHECK: Final = {
    "name": _TEXT,
    "health_status": _HEALTH,
    "response_time_ms": _NUMBER_OR_NULL,
    "last_health_check": _TEXT_OR_NULL,
    "error": _TEXT_OR_NULL,
}

TOOLS: Final[Mapping[str, Tool]] = {
    MANAGE: Tool(
        "Manage servers",
        "Manage the MCP servers behind this proxy: list them, add or remove one, enable or disable one, check their "
        "health, restart one, or read its last log lines. Changes take effect at once and are visible to every client.",
        _object(
            {
                "operation": {
                    "type": "string",
                    "enum": list(OPERATIONS),
                    "description": "list: all servers and their state. add: needs name and url (or command). "
                    "remove, enable, disable, restart, logs: need name. health: name of one server, or 'all'. drain, "
                    "undrain: give a replica of a group no new calls, or some again; need name. weight: give it "
                    "another portion of the calls; needs name and weight.",
                },
                "name": {"type": "string", "description": "Name of a server: letters, digits, '-' and '_'."},
                "url": {"type": "string", "description": "For add: URL of the server's MCP endpoint."},
                "transport": {
                    "type": "string",
                    "enum": ["auto", "http", "sse", "ws", "stdio"],
                    "description": "For add (default auto).",
                },
                "headers": {
                    "type": "object",
                    "additionalProperties": {"type": "string"},
                    "description": "For add: HTTP headers sent to the server, for example for authorization.",
                },
                "command": {
                    "type": "string",
                    "description": "For add, in place of url, if the proxy allows it: the program to start.",
                },
                "args": {"type": "array", "items": {"type": "string"}, "description": "Arguments of the command."},
                "env": {
                    "type": "object",
                    "additionalProperties": {"type": "string"},
                    "description": "Further variables of the command's environment.",
                },
                "cwd": {"type": "string", "description": "Where the command is started."},
                "group": {"type": "string", "description": "For add: the group it joins, or a label shown in lists."},
                "force": {"type": "boolean", "description": "For add: add it even if it does not answer now."},
                "dry_run": {"type": "boolean", "description": "For add: check it and report, but do not add it."},
                "lines": {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": LOG_LINES_KEPT_MAX,
                    "description": f"For logs: how many (default {LOG_LINES_USUAL}).",
                },
                "weight": {
                    "type": ["number", "string"],
                    "description": "For weight: a number compared with the other replicas' (1 is usual), a percentage "
                    "of the group's calls such as '5%', or 'default' for what is configured.",
                },
            },
            ("operation",),
        ),
        _object(
            {
                "success": _BOOL,
                "message": _TEXT,
                "error": _TEXT_OR_NULL,
                "status": _TEXT,
                "name": _TEXT,
                "url": _TEXT,
                "persisted": _BOOL,
                "dry_run": _BOOL,
                "available_servers": _array(_TEXT),
                "servers": _array(_SERVER),
                **_COUNTS,
                "tools": _array(_TEXT),
                "tool_count": {"type": ["integer", "null"]},
                "results": {"type": "object", "additionalProperties": _object({"success": _BOOL, **_CHECK})},
                "summary": _object(_COUNTS),
                **{key: value for key, value in _CHECK.items() if key not in ("name", "error")},
                "lines": _array(_TEXT),
            },
            ("success",),
        ),
        {"readOnlyHint": False, "destructiveHint": True, "idempotentHint": False, "openWorldHint": True},
    ),
    PROXY_STATUS: Tool(
        "Proxy status",
        "Tell what this proxy is, which servers are behind it and how they do, what it can do, and what has crashed.",
        _object({}),
        _object(
            {
                "proxy_info": _object({"version": _TEXT, "name": _TEXT, "type": _TEXT, "debug_mode": _BOOL}),
                "servers": _object({"success": _BOOL, "servers": _array(_SERVER), **_COUNTS}),
                "capabilities": _object(
                    {
                        "dynamic_server_management": _BOOL,
                        "health_monitoring": _BOOL,
                        "server_isolation": _BOOL,
                        "transport_modes": _array(_TEXT),
                    }
                ),
                "processes": {"type": "object"},
                "crash_reports": _array({"type": "object"}),
                "configuration": {"type": ["object", "null"]},
            },
            ("proxy_info", "servers", "capabilities"),
        ),
        {"readOnlyHint": True, "destructiveHint": False, "idempotentHint": True, "openWorldHint": False},
    ),
    PROXY_HEALTH: Tool(
        "Proxy health",
        "Tell in a few numbers whether this proxy and the servers behind it work.",
        _object({}),
        _object(
            {
                "proxy_healthy": _BOOL,
                "total_servers": _COUNT,
                "enabled_servers": _COUNT,
                "healthy_servers": _COUNT,
                "status": {"type": "string", "enum": ["healthy", "degraded", "unhealthy"]},
                "timestamp": _TEXT,
            },
            ("proxy_healthy", "total_servers", "enabled_servers", "healthy_servers", "status", "timestamp"),
        ),
        {"readOnlyHint": True, "destructiveHint": False, "idempotentHint": True, "openWorldHint": False},
    ),
}
