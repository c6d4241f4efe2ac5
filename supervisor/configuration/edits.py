"""Change one server in a configuration file's text and leave everything else as its author wrote it. Pure.

TOML and YAML keep comments, order and quotes; JSON keeps its order and indentation, and has no comments to lose: text
that has some is not changed. Every edit is read again and compared with what was wanted, so that no surprise of a
library gets into a file.
"""

from __future__ import annotations

import copy
import io
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, Final, cast

from supervisor.config import ConfigError, Server
from supervisor.configuration import clients, document, json_text, keys
from supervisor.configuration.document import Document, Format
from supervisor.configuration.reading import SERVERS

Edit = Callable[[MutableMapping[str, Any]], None]
"""Changes the table of servers."""
_INDENT: Final = re.compile(r"\n([ \t]+)\S")
_COPY: Final = "import its servers into one of ours: mcp-bulkhead import FILE --to bulkhead.toml"


class EditError(ConfigError):
    """The text cannot be changed so. The message says why and what to do."""


def values_of(server: Server) -> dict[str, Any]:
    """Return a server as the file has it: only what is not as it would be anyway."""
    found = {name: keys.value_of(server, key) for name, key in keys.SERVER.items()}
    return {name: value for name, value in found.items() if value is not None}


def add_server(file: str, text: str, name: str, values: Mapping[str, Any]) -> str:
    """Return the text with one more server, the last. Errors: `EditError`, `ConfigFileError`."""

    def add(servers: MutableMapping[str, Any]) -> None:
        if name in servers:
            raise EditError(f"{file} has a server {name!r} already")
        servers[name] = dict(values)

    return _edited(file, text, add, [_add_toml(name, values, inline=inline) for inline in (False, True)])


def remove_server(file: str, text: str, name: str) -> str:
    """Return the text without this server. Errors: `EditError`, `ConfigFileError`."""

    def remove(servers: MutableMapping[str, Any]) -> None:
        _require(file, servers, name)
        del servers[name]

    return _edited(file, text, remove, [remove], _lines_removed(file, text, name))


def _lines_removed(file: str, text: str, name: str) -> Iterator[str]:
    """Yield the text without the server's lines; unlike the libraries, this keeps the comment about the next server."""
    known = document.format_of(file, text)
    if known is Format.TOML:
        from supervisor.configuration import toml_text

        rest = toml_text.without(text, (SERVERS, name))
        yield rest
        yield rest.rstrip("\n") + f"\n\n[{SERVERS}]\n"  # it was the last
    elif known is Format.YAML:
        from supervisor.configuration import yaml_text

        line = document.parse(file, text).line_of((SERVERS, name))
        whole = text.split("\n")[line - 1]
        yield yaml_text.without(text, line, len(whole) - len(whole.lstrip(" ")))


def set_enabled(file: str, text: str, name: str, *, enabled: bool) -> str:
    """Return the text with this server switched on or off. Errors: `EditError`, `ConfigFileError`."""

    def switch(servers: MutableMapping[str, Any]) -> None:
        _require(file, servers, name)
        if enabled and "enabled" not in servers[name]:
            return  # it is on unless something says otherwise
        servers[name]["enabled"] = enabled

    return _edited(file, text, switch, [switch])


def _require(file: str, servers: Mapping[str, Any], name: str) -> None:
    if name not in servers:
        raise EditError(
            f"{file} has no server {name!r}; it comes from the command line, "
            "is one of several replicas, or was never kept"
        )


def _edited(file: str, text: str, edit: Edit, toml_edits: Sequence[Edit], texts: Iterable[str] = ()) -> str:
    """Return the text after the edit.

    `toml_edits`: ways to make it in TOML, which knows several; the best is first. `texts`: how it might look, better
    still.
    """
    before = document.parse(file, text)
    if clients.is_clients(before):
        raise EditError(f"{file} belongs to another program, so nothing is written into it; {_COPY}")
    wanted = copy.deepcopy(before.values)
    if not isinstance(wanted.setdefault(SERVERS, {}), dict):
        raise EditError(f'"servers" in {file} is no table')
    edit(cast("dict[str, Any]", wanted[SERVERS]))
    match before.format:
        case Format.TOML:
            ways = (_edit_toml(text, way) for way in toml_edits)
        case Format.YAML:
            ways = (_edit_yaml(text, way) for way in [edit])
        case Format.JSON:
            ways = (_edit_json(before, text, values) for values in [wanted])
    for after in itertools.chain(texts, ways):
        if _means(file, after, wanted):
            return after
    raise EditError(f"{file} is written in a way that cannot be changed here without harm; change it by hand")


def _means(file: str, text: str, wanted: dict[str, object]) -> bool:
    try:
        return document.parse(file, text).values == wanted
    except ConfigError:
        return False


def _edit_toml(text: str, edit: Edit) -> str:
    """Return the text after the edit, or "" if that cannot be made."""
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        whole = cast("Any", tomlkit.parse(text))
        if SERVERS not in whole:
            whole[SERVERS] = tomlkit.table(is_super_table=True)
        edit(whole[SERVERS])
        if not whole[SERVERS]:
            whole[SERVERS] = tomlkit.table()  # so that it is said that none is meant
        return tomlkit.dumps(whole)
    except TOMLKitError:
        return ""


def _add_toml(name: str, values: Mapping[str, Any], *, inline: bool) -> Edit:
    """Return the edit that adds a table of its own, or one in a line; tables within are in a line in any case."""

    def add(servers: MutableMapping[str, Any]) -> None:
        import tomlkit
        from tomlkit.items import InlineTable

        table: Any = tomlkit.inline_table() if inline or isinstance(servers, InlineTable) else tomlkit.table()
        for key, value in values.items():
            if isinstance(value, dict):
                table[key] = member = tomlkit.inline_table()
                for name_below, item in cast("dict[str, Any]", value).items():
                    member[name_below] = item
            else:
                table[key] = value
        servers[name] = table

    return add


def _edit_yaml(text: str, edit: Edit) -> str:
    from supervisor.configuration import yaml_text

    editor = yaml_text.editor()
    whole = editor.load(text)
    if whole.get(SERVERS) is None:
        whole[SERVERS] = {}
    indent = re.search(r"^( +)\S", text, re.MULTILINE)
    if indent:
        editor.indent(mapping=len(indent[1]))
    edit(whole[SERVERS])
    if not whole[SERVERS]:
        whole[SERVERS] = {}  # without the comments of those that are gone, which would not fit behind it
    written = io.StringIO()
    editor.dump(whole, written)
    return written.getvalue()


def _edit_json(before: Document, text: str, wanted: dict[str, Any]) -> str:
    if json_text.has_comments(text):
        raise EditError(f"{before.file} has comments, which JSON has no place for, so nothing is written into it")
    indent = _INDENT.search(text)
    return json.dumps(wanted, indent=indent[1] if indent else 2, ensure_ascii=False) + "\n"
