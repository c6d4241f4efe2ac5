"""Turn a configuration file's values into settings, or into everything that is wrong with them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from protocol.limits import DISCOVERED_MAX
from protocol.names import server_name_fault
from supervisor import config, fallbacks, groups
from supervisor.cli import separator_of
from supervisor.config import ConfigError, Group, Server
from supervisor.configuration import clients, keys
from supervisor.configuration.document import Document
from supervisor.configuration.keys import Key
from supervisor.configuration.problems import ConfigFileError, Path, Problem, similar
from supervisor.configuration.references import LookUp
from supervisor.configuration.resolving import proxy_url_of, url_of, value_of, variable_of, variables_of

IGNORED: Final = frozenset({"$schema"})
SERVERS: Final = "servers"
GROUPS: Final = "groups"


@dataclass(frozen=True, slots=True)
class FileSettings:
    """What one file says."""

    options: Mapping[str, Any]
    """What is to be taken for the options of the command line, by their names, where those are not given."""
    servers: tuple[Server, ...]
    groups: tuple[Group, ...] = ()
    identity: tuple[int, int, int, int] | None = None
    """Of the file (files.py)."""
    notes: tuple[str, ...] = ()
    """What of a client's file is left out, and why: lines as those of `ConfigFileError`."""


def read(document: Document, look_up: LookUp, given: Mapping[str, Any] | None = None) -> FileSettings:
    """Return what the file says, if all of it makes sense.

    `given`: options of the command line, which count more. Errors: `ConfigFileError` with every problem.
    """
    reader = _Reader(document, look_up)
    options: dict[str, object] = {}
    notes: tuple[str, ...] = ()
    found: tuple[Group, ...] = ()
    separator = separator_of(given or {})
    if clients.is_clients(document):
        servers, notes = reader.clients_servers(separator)
    else:
        options = reader.options()
        separator = separator_of({**options, **(given or {})})
        servers = reader.servers(separator)
        found = reader.groups(separator)
    if not reader.problems and any(server.replicas > 1 for server in servers):
        servers, found = groups.multiplied(servers, found)
    if not reader.problems:
        reader.check_all(servers)
    if (found or any(server.discover for server in servers)) and not reader.problems:
        servers, found = reader.arranged(servers, found)
        notes += groups.remarks(found, servers) if not reader.problems else ()
    if not reader.problems and any(one.fallback for one in (*servers, *found)):
        reader.check_fallbacks(servers, found, separator)
    if reader.problems:
        raise ConfigFileError(document.file, reader.problems)
    return FileSettings(options, servers, found, notes=notes)


def names(document: Document) -> frozenset[str]:
    """Return the names of the servers in a file of ours, also if something is wrong with it."""
    servers = document.values.get(SERVERS)
    return frozenset(cast("dict[str, object]", servers)) if isinstance(servers, dict) else frozenset()


class _Reader:
    def __init__(self, document: Document, look_up: LookUp) -> None:
        self._document = document
        self._look_up = look_up
        self.problems: list[Problem] = []

    def options(self) -> dict[str, object]:
        """Return what stands at the top of the file, but for the servers."""
        found: dict[str, object] = {}
        for name, value in self._document.values.items():
            if name in (SERVERS, GROUPS) or name in IGNORED:
                continue
            key = keys.WHOLE.get(name)
            if key is None:
                self._unknown((name,), [*keys.WHOLE, SERVERS, GROUPS])
            else:
                found[key.option] = self._value(key, (name,), value)
        return found

    def servers(self, separator: str) -> tuple[Server, ...]:
        values = self._document.values.get(SERVERS)
        if values is None:
            # An editor may have emptied the file a moment ago. Who wants no server says so.
            self._tell((), 'has no "servers"; name at least one, or write an empty table of them if none is meant')
        elif not isinstance(values, dict):
            self._tell((SERVERS,), "must be a table of names, each with a table of its own")
        else:
            members = cast("dict[str, object]", values).items()
            found = [self._server((SERVERS, name), name, value, separator) for name, value in members]
            return tuple(server for server in found if server)
        return ()

    def groups(self, separator: str) -> tuple[Group, ...]:
        """Return the groups of replicas that the file declares."""
        values = self._document.values.get(GROUPS, {})
        if not isinstance(values, dict):
            self._tell((GROUPS,), "must be a table of names, each with a table of its own")
            return ()
        members = cast("dict[str, object]", values).items()
        found = [self._group((GROUPS, name), name, value, separator) for name, value in members]
        return tuple(group for group in found if group)

    def arranged(
        self, servers: tuple[Server, ...], found: tuple[Group, ...]
    ) -> tuple[tuple[Server, ...], tuple[Group, ...]]:
        """Return servers and groups as they belong together."""
        try:
            return groups.arrange(servers, found)
        except ConfigError as error:
            self._tell((GROUPS,), str(error))
            return servers, found

    def check_fallbacks(self, servers: tuple[Server, ...], found: tuple[Group, ...], separator: str) -> None:
        """Check where calls go that a server cannot serve."""
        try:
            fallbacks.check(servers, found, separator)
        except ConfigError as error:
            self._tell((SERVERS,), str(error))

    def clients_servers(self, separator: str) -> tuple[tuple[Server, ...], tuple[str, ...]]:
        """Return the servers of a client's file that can be used, and what is to be said about the others."""
        servers: list[Server] = []
        notes: list[Problem] = []
        for found in clients.found_servers(self._document):
            if found.obstacle:
                notes.append(self._document.problem(found.path, f"left out: it {found.obstacle}"))
                continue
            one = _Reader(self._document, self._look_up)
            server = one._server(found.path, found.name, found.values, separator)
            if server and not one.problems:
                servers.append(server)
            notes += [Problem(fault.line, fault.key, f"left out: {fault.text}") for fault in one.problems]
        if not servers:
            self.problems += notes or [Problem(0, "", "has no servers")]
        return tuple(servers), ConfigFileError(self._document.file, notes).lines

    def check_all(self, servers: tuple[Server, ...]) -> None:
        """Check what no single server can know."""
        try:
            config.check_servers(servers)
        except ConfigError as error:
            self._tell((SERVERS,), str(error))

    def _server(self, path: Path, name: str, value: object, separator: str) -> Server | None:
        before = len(self.problems)
        if fault := server_name_fault(name, separator):
            self._tell(path, fault)
        if not isinstance(value, dict):
            self._tell(path, 'must be a table, such as { url = "http://localhost:8000/mcp" }')
            return None
        fields: dict[str, Any] = {}
        for word, item in cast("dict[str, object]", value).items():
            key = keys.SERVER.get(word)
            if key is not None:
                fields[key.option] = self._value(key, (*path, word), item)
            elif word in keys.FOREIGN:
                self._tell((*path, word), keys.FOREIGN[word])
            else:
                self._unknown((*path, word), list(keys.SERVER))
        self._check_kind(path, cast("dict[str, object]", value))
        if len(self.problems) > before:
            return None
        server = keys.server_of(name, {"url": "", **fields})
        last = groups.replica_name(name, server.replicas)
        if server.replicas > 1 and (fault := server_name_fault(last, separator)):
            self._tell((*path, "replicas"), f"would make servers up to {last!r}: {fault}")
        last = groups.replica_name(name, DISCOVERED_MAX)
        if server.discover and (fault := server_name_fault(last, separator)):
            self._tell((*path, "discover"), f"would make servers up to {last!r}: {fault}")
        if "discover_every_s" in fields and not server.discover:
            self._tell((*path, "discover_every"), "is there without discover")
        for word, text in {**config.check_tls(server), **config.check_discovery(server)}.items():
            self._tell((*path, word), text)
        self._check_references(path, server)
        return server

    def _check_kind(self, path: Path, value: Mapping[str, object]) -> None:
        """Check that it is either at a URL or a command, and has no key of the other kind."""
        if "url" in value and "command" in value:
            self._tell((*path, "command"), "is there beside url; a server has one of them")
        elif "url" in value:
            for word in ("args", "env", "env_file", "cwd", "replicas", "process_limit", "cpu_limit", "nice"):
                if word in value:
                    self._tell((*path, word), "is for servers with a command; this one has a url")
        elif "command" in value:
            if "headers" in value:
                self._tell((*path, "headers"), "is for servers with a url; a command gets its secrets in env")
            for word in (
                "ca_file",
                "client_cert",
                "client_key",
                "proxy",
                "http2",
                "allow_private",
                "discover",
                "discover_every",
            ):
                if word in value:
                    self._tell((*path, word), "is for servers with a url; this one is a command")
        else:
            self._tell(path, 'has neither url nor command; write for example: url = "http://localhost:8000/mcp"')

        if "session_limit" in value and value.get("isolation") != "session":
            self._tell((*path, "session_limit"), 'has no meaning without isolation = "session"')
        transport = value.get("transport")
        if transport in config.TRANSPORTS and ("url" in value) != ("command" in value):
            try:
                config.check_transport(
                    str(transport), command=str(value.get("command", "")), url=str(value.get("url", ""))
                )
            except ConfigError as error:
                self._tell((*path, "transport"), str(error))

    def _group(self, path: Path, name: str, value: object, separator: str) -> Group | None:
        before = len(self.problems)
        try:
            groups.check_name(name, separator)
        except ConfigError as error:
            self._tell(path, str(error))
        if not isinstance(value, dict):
            self._tell(path, 'must be a table, such as { servers = ["search1", "search2"] }')
            return None
        fields: dict[str, Any] = {}
        for word, item in cast("dict[str, object]", value).items():
            key = keys.GROUP.get(word)
            if key is None:
                self._unknown((*path, word), list(keys.GROUP))
            else:
                fields[key.option] = self._value(key, (*path, word), item)
        return keys.group_of(name, fields) if len(self.problems) == before else None

    def _check_references(self, path: Path, server: Server) -> None:
        """Look every secret up once, so that a mistake is told now and not when its worker starts."""
        if not server.enabled:
            return
        parts = [(("url",), url_of, server.url)] if server.url else []
        parts += [(("proxy",), proxy_url_of, server.proxy)] if server.proxy else []
        parts += [(("headers", name), value_of, text) for name, text in server.headers]
        parts += [(("env", name), variable_of, text) for name, text in server.env]
        for below, look, text in parts:
            try:
                look(text, self._look_up)
            except ConfigError as error:
                self._tell((*path, *below), str(error))
        try:
            if server.env_file:
                variables_of(server.env_file, self._look_up)
        except ConfigError as error:
            self._tell((*path, "env_file"), str(error))

    def _value(self, key: Key, path: Path, value: object) -> object:
        def tell(text: str, *below: str | int) -> None:
            self._tell((*path, *below), text)

        return key.read(value, tell)

    def _unknown(self, path: Path, known: list[str]) -> None:
        word = str(path[-1])
        hint = similar(word, known) or f"; known are: {', '.join(sorted(known))}"
        self._tell(path, f"there is no such key{hint}")

    def _tell(self, path: Path, text: str) -> None:
        self.problems.append(self._document.problem(path, text))
