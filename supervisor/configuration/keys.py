"""The table of everything a configuration file can say: each key with its type, its check and a word about it. Pure.

The reader, the JSON Schema and the reference in docs/configuration.md are all made from this table.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Protocol, cast

import msgspec

from protocol import limits
from protocol.names import SERVER_NAME_CHARACTERS_MAX, Policy
from protocol.tool_rules import Override, ToolRules
from supervisor import command, config, egress, groups
from supervisor.config import ConfigError, Group, Server
from supervisor.configuration import references

GLOBS_MAX: Final = 100
GLOB_CHARS_MAX: Final = 128
TEXT_CHARS_MAX: Final = 4096
"""Of a title or a description."""
PRIORITY_MAX: Final = 1_000_000
VARIABLES_MAX: Final = 100
_NAME_PATTERN: Final = f"^[A-Za-z0-9][A-Za-z0-9_-]{{0,{SERVER_NAME_CHARACTERS_MAX - 1}}}$"


class Tell(Protocol):
    """Takes what is wrong with the value, or with what is below it at these keys."""

    def __call__(self, text: str, *below: str | int) -> None: ...


Reader = Callable[[object, Tell], object]
"""Returns the setting of a value; what it returns after telling something is not used."""


@dataclass(frozen=True, slots=True)
class Key:
    option: str
    """Of a whole configuration: the command line's option, as argparse names it.

    Of a server or group: the field of `Server` or `Group`, or "rules." and that of its `ToolRules`.
    """
    read: Reader
    schema: Mapping[str, Any]
    about: str
    """One sentence for the reference and for editors."""


def _kind(value: object) -> str:
    names: dict[type, str] = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
        dict: "a table",
    }
    return names.get(type(value), "nothing")


def _text(parse: Callable[[str], object]) -> Reader:
    def read(value: object, tell: Tell) -> object:
        if not isinstance(value, str):
            return tell(f"must be a text in quotes, not {_kind(value)}")
        return _parsed(parse, value, tell)

    return read


def _number(parse: Callable[[str], object]) -> Reader:
    def read(value: object, tell: Tell) -> object:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return tell(f"must be a number, not {_kind(value)}")
        return _parsed(parse, str(value), tell)

    return read


def _size(value: object, tell: Tell) -> object:
    """Read a number of bytes, or a text such as "512MiB"."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return tell(f'must be a text such as "512MiB", or a number of bytes, not {_kind(value)}')
    return _parsed(config.parse_memory_limit, str(value), tell)


def _parsed(parse: Callable[[str], object], text: str, tell: Tell) -> object:
    try:
        return parse(text)
    except ConfigError as error:
        return tell(str(error))


def _flag(value: object, tell: Tell) -> object:
    return value if isinstance(value, bool) else tell(f"must be true or false, not {_kind(value)}")


def _texts(parse: Callable[[str], str], count_max: int) -> Reader:
    """Return a reader of a list of texts; a single text is a list of one."""
    one = _text(parse)

    def read(value: object, tell: Tell) -> object:
        if isinstance(value, str):
            return [one(value, tell)]
        if not isinstance(value, list):
            return tell(f"must be a list of texts, not {_kind(value)}")
        items = cast("list[object]", value)
        if len(items) > count_max:
            return tell(f"has more than {count_max} items")
        found: list[object] = []
        for at, item in enumerate(items):

            def tell_below(text: str, *below: str | int, at: int = at) -> None:
                tell(text, at, *below)

            found.append(one(item, tell_below))
        return found

    return read


def _one_of(*words: str) -> Reader:
    def parse(text: str) -> str:
        if text not in words:
            raise ConfigError(f"{config.shown(text)} is not possible; write {' or '.join(map(json.dumps, words))}")
        return text

    return _text(parse)


def _url(text: str) -> str:
    references.check_url_references(text)
    config.check_url(text)
    return text


def _named_texts(value: object, tell: Tell, check: Callable[[str, str], None]) -> list[tuple[str, str]] | None:
    """Return the members of a table of names and texts, but for those that are told; None if it is no table."""
    if not isinstance(value, dict):
        tell(f"must be a table of names and texts, not {_kind(value)}")
        return None
    found: list[tuple[str, str]] = []
    for name, item in cast("dict[str, object]", value).items():
        if not isinstance(item, str):
            tell(f"must be a text in quotes, not {_kind(item)}", name)
            continue
        try:
            check(name, item)
            references.references(item)
        except ConfigError as error:
            tell(str(error), name)
            continue
        found.append((name, item))
    return found


def _check_header(name: str, value: str) -> None:
    config.check_header_name(name)
    config.check_header_value(value)


def _headers(value: object, tell: Tell) -> object:
    found = _named_texts(value, tell, _check_header)
    if found is None:
        return None
    seen: set[str] = set()
    for name, _ in found:
        if name.lower() in seen:
            tell("is there twice (upper and lower case do not matter)", name)
        seen.add(name.lower())
    if len(found) > limits.HEADERS_PER_SERVER_MAX:
        tell(f"has more than {limits.HEADERS_PER_SERVER_MAX} headers")
    return tuple(found)


def _arguments(value: object, tell: Tell) -> object:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in cast("list[object]", value)):
        return tell("must be a list of texts, one for each argument")
    try:
        return command.check_arguments(cast("list[str]", value))
    except ConfigError as error:
        return tell(str(error))


def _environment(value: object, tell: Tell) -> object:
    found = _named_texts(value, tell, command.check_variable)
    if found is None:
        return None
    if len(found) > VARIABLES_MAX:
        tell(f"has more than {VARIABLES_MAX} variables")
    return tuple(found)


def _integer(value: object, tell: Tell) -> object:
    if not isinstance(value, int) or isinstance(value, bool) or not -PRIORITY_MAX <= value <= PRIORITY_MAX:
        return tell(f"must be a whole number from {-PRIORITY_MAX} to {PRIORITY_MAX}")
    return value


def _replicas(value: object, tell: Tell) -> object:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= limits.REPLICAS_MAX:
        return tell(f"must be a whole number from 1 to {limits.REPLICAS_MAX}")
    return value


def _table(read: Reader) -> Reader:
    """Return a reader of a table whose members are read so."""

    def read_table(value: object, tell: Tell) -> object:
        if not isinstance(value, dict):
            return tell(f"must be a table, not {_kind(value)}")
        members = cast("dict[str, object]", value)
        if len(members) > GLOBS_MAX:
            return tell(f"has more than {GLOBS_MAX} members")
        found: dict[str, object] = {}
        for name, item in members.items():

            def tell_below(text: str, *below: str | int, name: str = name) -> None:
                tell(text, name, *below)

            found[name] = read(item, tell_below)
        return found

    return read_table


def _tool_timeouts(value: object, tell: Tell) -> object:
    found = _table(_number(config.parse_call_timeout))(value, tell)
    for tool in cast("dict[str, object]", found or {}):
        try:
            config.check_tool_name(tool)
        except ConfigError as error:
            tell(str(error), tool)
    return tuple(cast("dict[str, object]", found or {}).items())


def _fallback(value: object, tell: Tell) -> object:
    found = _table(_text(_pattern))(value, tell)
    return tuple(cast("dict[str, object]", found or {}).items())


def _override(value: object, tell: Tell) -> object:
    if not isinstance(value, dict):
        return tell(f"must be a table of title, description and annotations, not {_kind(value)}")
    members = cast("dict[str, object]", value)
    for name, item in members.items():
        if name not in ("title", "description", "annotations"):
            tell("there is no such key; known are: annotations, description, title", name)
        elif not isinstance(item, dict if name == "annotations" else str):
            tell(f"must be {'a table' if name == 'annotations' else 'a text in quotes'}, not {_kind(item)}", name)
        elif isinstance(item, str) and len(item) > TEXT_CHARS_MAX:
            tell(f"is longer than {TEXT_CHARS_MAX} characters", name)
    title, description = (str(members.get(name, "")) for name in ("title", "description"))
    annotations = members.get("annotations")
    return Override(title, description, msgspec.json.encode(annotations) if annotations else b"")


def _tuple(reader: Reader) -> Reader:
    def read(value: object, tell: Tell) -> object:
        found = reader(value, tell)
        return tuple(cast("list[object]", found)) if isinstance(found, list) else found

    return read


def _server(text: str) -> str:
    if not re.fullmatch(_NAME_PATTERN, text):
        raise ConfigError(f"{config.shown(text)} is not the name of a server")
    return text


def _portions(most: float) -> Reader:
    def read(value: object, tell: Tell) -> object:
        if not isinstance(value, dict):
            return tell(f"must be a table of servers and numbers, not {_kind(value)}")
        found: list[tuple[str, float]] = []
        for name, item in cast("dict[str, object]", value).items():
            if isinstance(item, bool) or not isinstance(item, int | float):
                tell(f"must be a number, not {_kind(item)}", name)
            elif not 0 < item <= most:
                tell(f"must be more than 0 and at most {most:g}", name)
            else:
                found.append((name, float(item)))
        return tuple(found)

    return read


def _portions_schema(most: float) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": {"type": "number", "exclusiveMinimum": 0, "maximum": most}}


def _sticky_by(text: str) -> str:
    if text.startswith("header:"):
        config.check_field_name(text.removeprefix("header:"))
    return _pattern(text)


def _pattern(text: str) -> str:
    if not 0 < len(text) <= GLOB_CHARS_MAX:
        raise ConfigError(f"must have 1 to {GLOB_CHARS_MAX} characters")
    return text


def _prefix(text: str) -> str:
    if not re.fullmatch(_NAME_PATTERN, text):
        raise ConfigError(f"{config.shown(text)} cannot stand before names; it must be as a server's name is")
    return text


_SECONDS: Final = {"type": "number", "minimum": 0, "maximum": limits.CALL_CEILING_S}
_SIZE: Final = {"type": ["string", "integer"], "minimum": 0}
_IN_FLIGHT: Final = {"type": "integer", "minimum": 1, "maximum": limits.IN_FLIGHT_PER_SERVER_MAX}
_QUEUE: Final = {"type": "integer", "minimum": 0, "maximum": config.QUEUE_MAX}
_DURABLE: Final = {"type": "number", "minimum": 0, "exclusiveMaximum": limits.CALL_CEILING_S}
_RETRIES: Final = {"type": "integer", "minimum": 0, "maximum": limits.RETRIES_MAX}
_STRINGS: Final = {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
_BOOLEAN: Final = {"type": "boolean"}
_STRING: Final = {"type": "string"}

WHOLE: Final[Mapping[str, Key]] = MappingProxyType(
    {
        "stdio": Key("stdio", _flag, _BOOLEAN, "Speak MCP on standard input and output."),
        "http": Key("http", _flag, _BOOLEAN, "Speak MCP over Streamable HTTP."),
        "host": Key(
            "host",
            _texts(config.parse_listen_host, config.NAMES_MAX),
            _STRINGS,
            "Addresses to listen on; 127.0.0.1 if not given.",
        ),
        "port": Key(
            "port",
            _number(config.parse_port),
            {"type": "integer", "minimum": 0, "maximum": config.PORT_MAX},
            "Port to listen on; 8001 if not given, 0 for any free one.",
        ),
        "ws": Key(
            "ws",
            _text(config.parse_path),
            _STRING,
            "Path at which clients can connect over WebSocket, such as /ws; nowhere if not given.",
        ),
        "listen_unix": Key(
            "listen_unix",
            _text(config.parse_unix_path),
            _STRING,
            "Unix socket to speak MCP over HTTP on, with or without http.",
        ),
        "listen_unix_mode": Key(
            "listen_unix_mode",
            _text(config.parse_mode),
            _STRING,
            "Mode of that socket's file: who may connect; 600 if not given.",
        ),
        "tls_cert": Key(
            "tls_cert",
            _text(config.parse_file),
            _STRING,
            "File with the certificate for HTTPS on the port; read again when it changes.",
        ),
        "tls_key": Key("tls_key", _text(config.parse_file), _STRING, "File with its key, if that is another one."),
        "sse": Key("sse", _flag, _BOOLEAN, "Serve clients that know HTTP+SSE (2024-11-05) only, at /sse."),
        "fronts": Key(
            "fronts",
            _number(config.parse_fronts),
            {"type": "integer", "minimum": 1, "maximum": limits.FRONTS_MAX},
            "Processes that serve clients over HTTP, all on the same sockets; 1 if not given.",
        ),
        "trusted_proxies": Key(
            "trusted_proxies",
            _texts(config.parse_trusted_proxy, config.NAMES_MAX),
            _STRINGS,
            "Networks of gateways whose word about clients counts, and unix.",
        ),
        "proxy_protocol": Key(
            "proxy_protocol", _flag, _BOOLEAN, "Connections from there begin with a header of the PROXY protocol."
        ),
        "path": Key("path", _text(config.parse_path), _STRING, "Path of the endpoint; /mcp if not given."),
        "allow_host": Key(
            "allow_host",
            _texts(config.parse_allowed_host, config.NAMES_MAX),
            _STRINGS,
            "Further names under which clients reach this proxy.",
        ),
        "allow_origin": Key(
            "allow_origin",
            _texts(config.parse_origin, config.NAMES_MAX),
            _STRINGS,
            "Further web origins whose pages may call this proxy.",
        ),
        "separator": Key(
            "separator",
            _text(config.parse_separator),
            {"type": "string", "pattern": "^[_./-]{1,8}$"},
            "Stands between a server's name and a tool's name; __ if not given.",
        ),
        "namespace": Key(
            "namespace",
            _one_of(*(policy.value for policy in Policy)),
            {"enum": [policy.value for policy in Policy]},
            "prefix: main__echo; auto: a prefix only where several servers have the name; none: names as they are.",
        ),
        "name_limit": Key(
            "name_limit",
            _number(config.parse_name_limit),
            {"type": "integer", "minimum": 0, "maximum": config.NAME_LIMIT_MAX},
            "Longer names of tools are shortened; 64 if not given, 0 to leave names as they are.",
        ),
        "tools": Key(
            "tools",
            _one_of("all", "lazy"),
            {"enum": ["all", "lazy"]},
            "lazy: list three tools that find, describe and call the others instead of many.",
        ),
        "lazy_above": Key(
            "lazy_above",
            _number(config.parse_count),
            {"type": "integer", "minimum": 0, "maximum": 999_999},
            "With tools = lazy: list up to so many as usual; 40 if not given.",
        ),
        "call_timeout": Key(
            "call_timeout",
            _number(config.parse_call_timeout),
            _SECONDS,
            "Seconds a call may go without an answer or progress; 60 if not given, 0: as long as a call may take.",
        ),
        "memory_limit": Key(
            "memory_limit",
            _size,
            _SIZE,
            "Memory of each server's worker process, which is replaced if it has more; 1GiB if not given, 0: no limit.",
        ),
        "in_flight": Key(
            "in_flight",
            _number(config.parse_in_flight),
            _IN_FLIGHT,
            "Calls that each server is given at a time; 64 if not given.",
        ),
        "queue": Key(
            "queue",
            _number(config.parse_queue),
            _QUEUE,
            "Calls that may wait for that, for each server; 256 if not given.",
        ),
        "retries": Key(
            "retries",
            _number(config.parse_retries),
            _RETRIES,
            "How often a call that may be sent again is given to the next worker; 2 if not given, 0: never.",
        ),
        "durable_after": Key(
            "durable_after",
            _number(config.parse_durable_after),
            _DURABLE,
            "Seconds after which a call becomes a task, for clients that take tasks; never if not given, or 0.",
        ),
        "page_size": Key(
            "page_size",
            _number(config.parse_page_size),
            {"type": "integer", "minimum": 0, "maximum": limits.LIST_ITEMS_MAX},
            "Items in one page of a list; 0, or not given: everything at once.",
        ),
        "trust_annotations": Key(
            "trust_annotations",
            _flag,
            _BOOLEAN,
            "Send calls of tools that call themselves read-only or idempotent again after a crash; true if not given.",
        ),
        "allow_private": Key(
            "allow_private",
            _flag,
            _BOOLEAN,
            "Let public names of servers lead to private addresses; false if not given.",
        ),
        "allow_stdio_add": Key(
            "allow_stdio_add",
            _flag,
            _BOOLEAN,
            "Let servers that are commands be added at run time; false if not given.",
        ),
        "management": Key(
            "management",
            _flag,
            _BOOLEAN,
            "Offer clients the tools manage, proxy_status and proxy_health; true if not given.",
        ),
        "management_prefix": Key(
            "management_prefix",
            _text(config.parse_management_prefix),
            {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,32}$"},
            "Begin the names of those tools with this text.",
        ),
        "admin": Key("admin", _flag, _BOOLEAN, "Open a socket for mcp-bulkhead ctl; true if not given."),
        "admin_socket": Key("admin_socket", _text(config.parse_file), _STRING, "Where that socket is."),
        "admin_listen": Key(
            "admin_listen",
            _text(config.parse_listen_address),
            _STRING,
            "HOST:PORT of the same door over TCP, for those who have its token.",
        ),
        "admin_token_file": Key("admin_token_file", _text(config.parse_file), _STRING, "Where that token is."),
        "debug": Key("debug", _flag, _BOOLEAN, "Log everything."),
        "log_file": Key("log_file", _text(config.parse_file), _STRING, "Log to this file as well."),
        "state_dir": Key("state_dir", _text(config.parse_file), _STRING, "Where the key of client sessions is kept."),
    }
)
"""Keys at the top of the file, beside `servers`."""

_SERVER_KEYS: Final[dict[str, Key]] = {
    "url": Key(
        "url",
        _text(_url),
        _STRING,
        "Where the server is: http(s)://, ws(s):// or unix:///path/to/socket:/mcp. References are possible after '?'.",
    ),
    "ca_file": Key(
        "ca_file",
        _text(config.parse_own_file),
        _STRING,
        "With https: a PEM file of authorities whose certificates are trusted beside those of the system's.",
    ),
    "client_cert": Key(
        "client_cert",
        _text(config.parse_own_file),
        _STRING,
        "With https: a PEM file with the certificate that the server is shown.",
    ),
    "client_key": Key(
        "client_key",
        _text(config.parse_own_file),
        _STRING,
        "The key to that certificate, if it is not in the same file.",
    ),
    "http2": Key(
        "http2",
        _flag,
        _BOOLEAN,
        "true: the server, which has an https:// URL, may choose HTTP/2; false if not given.",
    ),
    "proxy": Key(
        "proxy",
        _text(egress.check),
        _STRING,
        "URL of an HTTP proxy before the server; may have references. none: no proxy, whatever the environment says.",
    ),
    "command": Key(
        "command",
        _text(command.check_program),
        _STRING,
        "Instead of url: a program to start, which speaks MCP on its standard input and output.",
    ),
    "args": Key(
        "args",
        _arguments,
        {"type": "array", "items": _STRING, "maxItems": limits.COMMAND_ARGUMENTS_MAX},
        "Its arguments, as they are: there is no shell.",
    ),
    "env": Key(
        "env",
        _environment,
        {"type": "object", "additionalProperties": _STRING, "maxProperties": VARIABLES_MAX},
        "Variables of its environment beside HOME, PATH, LANG and a few more; values may have references.",
    ),
    "env_file": Key(
        "env_file",
        _text(command.check_file),
        _STRING,
        "A file with more variables, a line NAME=VALUE each; what env says counts more. Begins with / or ~/.",
    ),
    "process_limit": Key(
        "process_limit",
        _number(config.parse_process_limit),
        {"type": "integer", "minimum": 0, "maximum": limits.COMMAND_PROCESSES_MAX},
        "A command that has more processes is ended, with all it has started; 0, or not given: no limit.",
    ),
    "cpu_limit": Key(
        "cpu_limit",
        _number(config.parse_cpu_limit),
        {"type": "integer", "minimum": 0, "maximum": limits.COMMAND_PROCESSORS_MAX},
        "A command runs on so many processors, with all it has started; 0, or not given: on all.",
    ),
    "nice": Key(
        "nice",
        _number(config.parse_nice),
        {"type": "integer", "minimum": 0, "maximum": 19},
        "How much a command gives way to other programs, up to 19; 0 if not given.",
    ),
    "cwd": Key("cwd", _text(command.check_directory), _STRING, "Where it is started; begins with / or ~/."),
    "transport": Key(
        "transport",
        _one_of(*config.TRANSPORTS),
        {"enum": list(config.TRANSPORTS)},
        "How it is spoken to; if not given, a http URL means http or sse, whichever the server has.",
    ),
    "isolation": Key(
        "isolation",
        _one_of(*config.ISOLATIONS),
        {"enum": list(config.ISOLATIONS)},
        "session: each client has a session of its own with it, or a process of the command; shared if not given.",
    ),
    "session_limit": Key(
        "session_limit",
        _number(config.parse_session_limit),
        {"type": "integer", "minimum": 1, "maximum": limits.SESSION_LIMIT_MAX},
        f"With isolation = session, how many at a time; {limits.CLIENT_PROCESSES_MAX} processes of a command, "
        f"{limits.CLIENT_SESSIONS_MAX} sessions else, if not given.",
    ),
    "replicas": Key(
        "replicas",
        _replicas,
        {"type": "integer", "minimum": 1, "maximum": limits.REPLICAS_MAX},
        "Start the command so often, as a group of replicas of this name; 1 if not given.",
    ),
    "discover": Key(
        "discover",
        _one_of(config.DNS),
        {"enum": [config.DNS]},
        "dns: each address of the host in the URL is a replica, and the name is looked up again and again.",
    ),
    "discover_every": Key(
        "discover_every_s",
        _number(config.parse_discover_every),
        {"type": "number", "minimum": limits.DISCOVER_EVERY_MIN_S, "maximum": limits.DISCOVER_EVERY_MAX_S},
        "Seconds between two such look-ups; 30 if not given.",
    ),
    "allow_private": Key(
        "allow_private",
        _flag,
        _BOOLEAN,
        "true: the public name in the URL may lead to an address of a private network, or of this machine.",
    ),
    "enabled": Key("enabled", _flag, _BOOLEAN, "false: keep it in the file but do not start it."),
    "headers": Key(
        "headers",
        _headers,
        {"type": "object", "additionalProperties": _STRING, "maxProperties": limits.HEADERS_PER_SERVER_MAX},
        "Header fields sent with every request to the server; values may have references.",
    ),
    "group": Key(
        "group",
        _text(config.parse_group),
        _STRING,
        "The group of replicas it belongs to; a label shown in lists if no such group is declared.",
    ),
    "namespace": Key(
        "namespace",
        _text(_prefix),
        {"type": "string", "pattern": _NAME_PATTERN},
        "Stands before the names of its tools instead of the server's name.",
    ),
    "priority": Key(
        "priority",
        _integer,
        {"type": "integer", "minimum": -PRIORITY_MAX, "maximum": PRIORITY_MAX},
        "Without prefixes, who gets a name that several servers offer: the highest; 0 if not given.",
    ),
    "call_timeout": Key(
        "call_timeout_s",
        _number(config.parse_call_timeout),
        _SECONDS,
        "Seconds a call of this server may go without an answer or progress.",
    ),
    "tool_timeouts": Key(
        "tool_timeouts",
        _tool_timeouts,
        {"type": "object", "additionalProperties": _SECONDS, "maxProperties": GLOBS_MAX},
        "The same for single tools, by the names the server gives them.",
    ),
    "memory_limit": Key("memory_limit", _size, _SIZE, "Memory of this server's worker process."),
    "in_flight": Key(
        "in_flight_max", _number(config.parse_in_flight), _IN_FLIGHT, "Calls that this server is given at a time."
    ),
    "queue": Key("queue_max", _number(config.parse_queue), _QUEUE, "Calls that may wait for that."),
    "retries": Key(
        "retries_max",
        _number(config.parse_retries),
        _RETRIES,
        "How often a call of this server that may be sent again is given to the next worker.",
    ),
    "durable_after": Key(
        "durable_after_s",
        _number(config.parse_durable_after),
        _DURABLE,
        "Seconds after which a call of this server becomes a task, for clients that take tasks; 0: never.",
    ),
    "trust_annotations": Key(
        "trust_annotations",
        _flag,
        _BOOLEAN,
        "false: what this server's tools say of themselves is no reason to send a call of them again.",
    ),
    "allow": Key(
        "rules.allow", _tuple(_texts(_pattern, GLOBS_MAX)), _STRINGS, "Patterns of tools to offer; all if not given."
    ),
    "deny": Key("rules.deny", _tuple(_texts(_pattern, GLOBS_MAX)), _STRINGS, "Patterns of tools not to offer."),
    "renames": Key(
        "rules.renames",
        _table(_text(_pattern)),
        {"type": "object", "additionalProperties": _STRING, "maxProperties": GLOBS_MAX},
        "New names of tools, by the server's own.",
    ),
    "overrides": Key(
        "rules.overrides",
        _table(_override),
        {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "properties": {"title": _STRING, "description": _STRING, "annotations": {"type": "object"}},
                "additionalProperties": False,
            },
            "maxProperties": GLOBS_MAX,
        },
        "What clients are told of tools instead of what the server says: title, description, annotations.",
    ),
    "fallback": Key(
        "fallback",
        _fallback,
        {"type": "object", "additionalProperties": _STRING, "maxProperties": GLOBS_MAX},
        "Tools of other servers, as SERVER__TOOL, that take calls which this server cannot serve, by its own tools.",
    ),
}
SERVER: Final[Mapping[str, Key]] = MappingProxyType(_SERVER_KEYS)
"""Keys of one server."""

_GROUP_KEYS: Final[dict[str, Key]] = {
    "servers": Key(
        "servers",
        _tuple(_texts(_server, config.SERVERS_MAX)),
        _STRINGS,
        "Its replicas, in order of preference. A server whose own group names this one need not be listed.",
    ),
    "policy": Key(
        "policy",
        _one_of(*groups.POLICIES),
        {"enum": list(groups.POLICIES)},
        "Who gets a call; least_loaded if not given.",
    ),
    "weights": Key(
        "weights",
        _portions(limits.REPLICA_WEIGHT_MAX),
        _portions_schema(limits.REPLICA_WEIGHT_MAX),
        "How much each replica can take compared with the others, by its name; 1 if not given.",
    ),
    "canary": Key(
        "canary",
        _portions(limits.CANARY_PERCENT_MAX),
        _portions_schema(limits.CANARY_PERCENT_MAX),
        "Percentages of the calls that single replicas get, by name, whatever the policy; the others share the rest.",
    ),
    "sticky_by": Key(
        "sticky_by",
        _text(_sticky_by),
        _STRING,
        "With the policy sticky: calls with the same value of this argument (or header:NAME) go to the same replica.",
    ),
    "hedge": Key(
        "hedge",
        _flag,
        _BOOLEAN,
        "A read-only call that takes unusually long is given to a second replica, and the first answer counts.",
    ),
    **{name: _SERVER_KEYS[name] for name in ("namespace", "priority", "allow", "deny", "renames", "overrides")},
    "fallback": _SERVER_KEYS["fallback"],
}
GROUP: Final[Mapping[str, Key]] = MappingProxyType(_GROUP_KEYS)
"""Keys of one group of replicas."""

_FOREIGN: Final[dict[str, str]] = {"type": "is called transport here: http, sse, ws or stdio"}
FOREIGN: Final[Mapping[str, str]] = MappingProxyType(_FOREIGN)
"""Keys of a server that other gateways know, and what they are called here."""

_RULES: Final = "rules."


def server_of(name: str, values: Mapping[str, Any]) -> Server:
    """Return the server with these values of `Key.option`."""
    return Server(name, **_with_rules(values))


def group_of(name: str, values: Mapping[str, Any]) -> Group:
    """Return the group of replicas with these values of `Key.option`."""
    return Group(name, **_with_rules(values))


def _with_rules(values: Mapping[str, Any]) -> dict[str, Any]:
    rules = {option.removeprefix(_RULES): value for option, value in values.items() if option.startswith(_RULES)}
    fields = {option: value for option, value in values.items() if not option.startswith(_RULES)}
    return {**fields, "rules": ToolRules(**rules)}


def value_of(server: Server, key: Key) -> object:
    """Return what a server has of a key, as a file has it; None if that need not be said."""
    owner: Any = server.rules if key.option.startswith(_RULES) else server
    usual: Any = ToolRules() if key.option.startswith(_RULES) else Server(server.name, "")
    field = key.option.removeprefix(_RULES)
    value = getattr(owner, field)
    return _plain(value) if value != getattr(usual, field) else None


def _plain(value: object) -> object:
    match value:
        case Override():
            members = {"title": value.title, "description": value.description}
            found: dict[str, object] = {name: text for name, text in members.items() if text}
            return found | ({"annotations": msgspec.json.decode(value.annotations)} if value.annotations else {})
        case dict():
            return {name: _plain(item) for name, item in cast("dict[str, object]", value).items()}
        case tuple():
            items = cast("tuple[Any, ...]", value)
            return dict(items) if isinstance(items[0], tuple) else list(items)
        case _:
            return value
