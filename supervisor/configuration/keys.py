"""The table of everything a configuration file can say: each key with its type, its check and a word about it. Pure.

The reader, the JSON Schema and the reference in docs/configuration.md are all made from this table.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, Final, Protocol, cast

from protocol import limits
from supervisor import config
from supervisor.config import ConfigError, Server
from supervisor.configuration import references

GLOBS_MAX: Final = 100
GLOB_CHARS_MAX: Final = 128
_SIZE: Final = re.compile(r"(\d{1,12})\s*(|[KMG]iB|[KMG]B)")
_UNITS: Final = {"": 1, "KB": 1000, "MB": 1000**2, "GB": 1000**3, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


class Tell(Protocol):
    """Takes what is wrong with the value, or with what is below it at these keys."""

    def __call__(self, text: str, *below: str | int) -> None: ...


Reader = Callable[[object, Tell], object]
"""Returns the setting of a value; what it returns after telling something is not used."""


@dataclass(frozen=True, slots=True)
class Key:
    option: str
    """Of a whole configuration: the command line's option, as argparse names it. Of a server: the field of `Server`."""
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


def _namespace(text: str) -> str:
    if text not in ("prefix", "none"):
        raise ConfigError(f'{config.shown(text)} is no way to name tools; write "prefix" or "none"')
    return text


def _url(text: str) -> str:
    references.check_url_references(text)
    config.check_url(text)
    return text


def _headers(value: object, tell: Tell) -> object:
    if not isinstance(value, dict):
        return tell(f"must be a table of names and texts, not {_kind(value)}")
    found: list[tuple[str, str]] = []
    for name, item in cast("dict[str, object]", value).items():
        if not isinstance(item, str):
            tell(f"must be a text in quotes, not {_kind(item)}", name)
            continue
        try:
            config.check_header_name(name)
            config.check_header_value(item)
            references.references(item)
        except ConfigError as error:
            tell(str(error), name)
            continue
        if any(known.lower() == name.lower() for known, _ in found):
            tell("is there twice (upper and lower case do not matter)", name)
        found.append((name, item))
    if len(found) > limits.HEADERS_PER_SERVER_MAX:
        tell(f"has more than {limits.HEADERS_PER_SERVER_MAX} headers")
    return tuple(found)


def _timeouts(value: object, tell: Tell) -> object:
    if not isinstance(value, dict):
        return tell(f"must be a table of tools and seconds, not {_kind(value)}")
    found: list[tuple[str, object]] = []
    seconds = _number(config.parse_call_timeout)
    for glob, item in cast("dict[str, object]", value).items():

        def tell_below(text: str, *_: str | int, glob: str = glob) -> None:
            tell(text, glob)

        found.append((glob, seconds(item, tell_below)))
        if not 0 < len(glob) <= GLOB_CHARS_MAX:
            tell(f"a pattern has 1 to {GLOB_CHARS_MAX} characters", glob)
    if len(found) > GLOBS_MAX:
        tell(f"has more than {GLOBS_MAX} patterns")
    return tuple(found)


def _size(value: object, tell: Tell) -> object:
    match = _SIZE.fullmatch(str(value)) if isinstance(value, int | str) and not isinstance(value, bool) else None
    if match is None or not (size := int(match[1]) * _UNITS[match[2]]):
        return tell('must be a size such as "512 MiB", or a number of bytes')
    return size


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text[:7]) <= 100_000 and len(text) <= 6):
        raise ConfigError(f"{config.shown(text)} is not a number from 1 to 100000")
    return int(text)


def _tuple(reader: Reader) -> Reader:
    def read(value: object, tell: Tell) -> object:
        found = reader(value, tell)
        return tuple(cast("list[object]", found)) if isinstance(found, list) else found

    return read


def _any_text(text: str) -> str:
    if not 0 < len(text) <= GLOB_CHARS_MAX:
        raise ConfigError(f"must have 1 to {GLOB_CHARS_MAX} characters")
    return text


_SECONDS: Final = {"type": "number", "exclusiveMinimum": 0, "maximum": limits.CALL_CEILING_S}
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
            _text(_namespace),
            {"enum": ["prefix", "none"]},
            "prefix: main__echo; none: names as the servers give them.",
        ),
        "call_timeout": Key(
            "call_timeout",
            _number(config.parse_call_timeout),
            _SECONDS,
            "Seconds a call may go without an answer or progress; 60 if not given.",
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
        "debug": Key("debug", _flag, _BOOLEAN, "Log everything."),
        "log_file": Key("log_file", _text(config.parse_file), _STRING, "Log to this file as well."),
        "state_dir": Key("state_dir", _text(config.parse_file), _STRING, "Where the key of client sessions is kept."),
    }
)
"""Keys at the top of the file, beside `servers`."""

_SERVER_KEYS: Final[Mapping[str, Key]] = {
    "url": Key(
        "url",
        _text(_url),
        _STRING,
        "Where the server is, such as http://localhost:8000/mcp. References are possible after a '?'.",
    ),
    "enabled": Key("enabled", _flag, _BOOLEAN, "false: keep it in the file but do not start it."),
    "headers": Key(
        "headers",
        _headers,
        {"type": "object", "additionalProperties": _STRING, "maxProperties": limits.HEADERS_PER_SERVER_MAX},
        "Header fields sent with every request to the server; values may have references.",
    ),
    "call_timeout": Key(
        "call_timeout_s",
        _number(config.parse_call_timeout),
        _SECONDS,
        "Seconds a call to this server may go without an answer or progress.",
    ),
    "tool_timeouts": Key(
        "tool_timeouts",
        _timeouts,
        {"type": "object", "additionalProperties": _SECONDS, "maxProperties": GLOBS_MAX},
        "The same for some of its tools, by name; * and ? stand for any characters.",
    ),
    "memory_limit": Key(
        "memory_limit",
        _size,
        {"oneOf": [{"type": "integer", "exclusiveMinimum": 0}, {"type": "string", "pattern": f"^{_SIZE.pattern}$"}]},
        'How much memory its worker may use, such as "512 MiB".',
    ),
    "trust_annotations": Key("trust_annotations", _flag, _BOOLEAN, "As above, for this server's tools."),
    "in_flight_max": Key(
        "in_flight_max",
        _number(_count),
        {"type": "integer", "minimum": 1, "maximum": 100_000},
        f"Calls it gets at a time; {limits.IN_FLIGHT_PER_SERVER_MAX} if not given.",
    ),
    "queue_max": Key(
        "queue_max",
        _number(_count),
        {"type": "integer", "minimum": 1, "maximum": 100_000},
        f"Calls that may wait for it; {limits.QUEUE_PER_SERVER_MAX} if not given.",
    ),
    "group": Key("group", _text(config.parse_group), _STRING, "A word of your own to group servers by."),
    "allow": Key("allow", _tuple(_texts(_any_text, GLOBS_MAX)), _STRINGS, "Patterns of tools to offer; all if empty."),
    "deny": Key("deny", _tuple(_texts(_any_text, GLOBS_MAX)), _STRINGS, "Patterns of tools not to offer."),
}
_FIELDS: Final = frozenset(field.name for field in fields(Server))

SERVER: Final[Mapping[str, Key]] = MappingProxyType(
    {name: key for name, key in _SERVER_KEYS.items() if key.option in _FIELDS}
)
"""Keys of one server."""

_STDIO: Final = "stdio servers are not supported by this version yet; give the server's url"
UNBUILT: Final[Mapping[str, str]] = MappingProxyType(
    dict.fromkeys(("command", "args", "env", "env_file", "cwd"), _STDIO)
    | {name: "is not supported by this version yet; leave it out" for name in _SERVER_KEYS if name not in SERVER}
    | dict.fromkeys(
        ("transport", "type", "retries", "isolation", "renames", "overrides", "namespace", "priority"),
        "is not supported by this version yet; leave it out",
    )
)
"""Keys of a server that other gateways know, or that we will: what is said about them."""
