"""`mcp-bulkhead check` and `mcp-bulkhead import`: what a file means, and a file made of a client's servers."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from protocol.log_lines import clean
from supervisor import DISTRIBUTION, cli
from supervisor.command import shown_place
from supervisor.config import ConfigError, Server, Settings
from supervisor.configuration import clients, document, edits, files, loading, places, reading, schema
from supervisor.configuration.document import Document, Format
from supervisor.configuration.files import CLIENT_FILE_BYTES_MAX
from supervisor.configuration.plan import diff
from supervisor.configuration.problems import WholeFileError
from supervisor.configuration.references import Reference, references

EXIT_OK: Final = 0
EXIT_PROBLEMS: Final = 1
EXIT_USAGE: Final = 2
USUAL_FILE: Final = "mcp-bulkhead.toml"
_HEADINGS: Final = {
    Format.TOML: "# Configuration of mcp-bulkhead; docs/configuration.md says what else can be set.\nhttp = true\n",
    Format.YAML: "# Configuration of mcp-bulkhead; docs/configuration.md says what else can be set.\nhttp: true\n",
    Format.JSON: '{\n  "http": true\n}\n',
}
"""How a new file begins."""


def check(arguments: Sequence[str]) -> int:
    """Say what is wrong with a file or, if nothing is, what it means. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog=f"{DISTRIBUTION} check",
        description="Say what is wrong with a configuration file, or what a proxy that is started with it would do.",
        epilog=f"exit status: {EXIT_OK} if the file can be used, {EXIT_PROBLEMS} if not",
    )
    parser.add_argument("file", nargs="?", default=USUAL_FILE, metavar="FILE", help=f"the file ({USUAL_FILE})")
    parser.add_argument("--schema", action="store_true", help="print the JSON Schema of such files instead")
    options = parser.parse_args(list(arguments))
    if options.schema:
        sys.stdout.write(schema.text())
        return EXIT_OK
    try:
        found = loading.load(options.file, {})
    except ConfigError as error:
        _complain(str(error))
        return EXIT_PROBLEMS
    for note in found.notes:
        _complain(note)
    _say(_meaning(cli.settings(found.options, found.servers, found.groups), options.file))
    return EXIT_OK


def _meaning(settings: Settings, file: str) -> str:
    ways = ["standard input and output"] if settings.stdio else []
    scheme = "https" if settings.tls_cert else "http"
    ways += [f"{scheme}://{host}:{settings.port}{settings.path}" for host in settings.hosts] if settings.http else []
    ways += [f"{settings.path} of the Unix socket {settings.listen_unix}"] if settings.listen_unix else []
    lines = [f"{file} can be used.", f"clients: {', '.join(ways) or 'none yet; start with --http or --stdio'}"]
    plan = diff(Settings(()), Settings(settings.servers))
    for step in plan.steps:
        server = step.server
        state = "" if server.enabled else " (disabled: no worker)"
        lines.append(f"{step.what.value} {server.name}: {shown_place(server)}{state}")
        lines += [f"    header {name}{_source(text)}" for name, text in server.headers]
        lines += [f"    variable {name}{_source(text)}" for name, text in server.env]
        lines += [f"    variables of {server.env_file}"] if server.env_file else []
    for group in settings.groups:
        names = [one.name for one in settings.servers if one.discover and one.group == group.name]
        members = [*group.servers, *(f"the addresses of {name}" for name in names)]
        lines.append(f"group {group.name}: {', '.join(members)} ({group.policy})")
    return "\n".join(lines if plan.steps else [*lines, "no servers"])


def _source(text: str) -> str:
    """Return where a value comes from, and nothing of what it is."""
    found = ", ".join(str(reference) for reference in references(text))
    return f" with {found}" if found else ""


def import_(arguments: Sequence[str]) -> int:
    """Make a file of ours of the servers that a client has. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog=f"{DISTRIBUTION} import",
        description="Find the servers of an MCP client and write them into a configuration file. One that is there "
        "already keeps everything it has and gets the servers that it lacks.",
        epilog=f"exit status: {EXIT_OK} if there were servers that can be used, {EXIT_PROBLEMS} if not",
    )
    parser.add_argument(
        "source",
        metavar="claude|cursor|vscode|FILE",
        help="whose servers: those of a client, looked for where it keeps them, or of a file like theirs",
    )
    parser.add_argument("--to", metavar="FILE", default=USUAL_FILE, help=f"where to write them ({USUAL_FILE})")
    parser.add_argument("--dry-run", action="store_true", help="print what would be written, and write nothing")
    options = parser.parse_args(list(arguments))
    try:
        source = _source_document(options.source)
        servers = _servers(source)
        return _write(servers, options.to, dry_run=options.dry_run) if servers else EXIT_PROBLEMS
    except ConfigError as error:
        _complain(str(error))
        return EXIT_PROBLEMS


def _source_document(source: str) -> Document:
    if source not in places.CLIENTS:
        return document.parse(source, files.read(source, CLIENT_FILE_BYTES_MAX).text)
    looked = places.places(source)
    for path in looked:
        if path.exists():
            found = document.parse(str(path), files.read(str(path), CLIENT_FILE_BYTES_MAX).text)
            if clients.is_clients(found) and clients.found_servers(found):
                return found
    listed = ", ".join(map(str, looked))
    raise WholeFileError(source, f"no servers were found; looked into {listed}; name a file if they are elsewhere")


def _servers(source: Document) -> list[Server]:
    """Return those that can be used, and say which cannot and why."""
    if not clients.is_clients(source):
        raise WholeFileError(source.file, 'has no servers of a client: neither "mcpServers" nor VS Code\'s "servers"')
    _complain(f"reading {source.file}")
    found = reading.read(source, _anything)
    for note in found.notes:
        _complain(note)
    return list(found.servers)


def _anything(_: Reference) -> str:
    """Stand in for secrets: they need not be there when a file is made."""
    return "x"


def _write(servers: Sequence[Server], target: str, *, dry_run: bool) -> int:
    is_new = not Path(target).exists()
    content = None if is_new else files.read(target)
    text = content.text if content else _HEADINGS[document.format_of(target)]
    known = reading.names(document.parse(target, text))
    for server in servers:
        if server.name in known:
            _complain(f"{target} has a server {server.name!r} already, which is kept")
            continue
        text = edits.add_server(target, text, server.name, edits.values_of(server))
        parts = [*(("header", *one) for one in server.headers), *(("variable", *one) for one in server.env)]
        for kind, name, value in parts:
            if not references(value):
                _complain(f"{server.name}: {kind} {name} is written as it is; if it is a secret, use ${{env:NAME}}")
    if dry_run:
        sys.stdout.write(text)
        return EXIT_OK
    with files.locked(target):
        files.replace(target, text, content.identity if content else None)
    _say(f"{len(servers)} servers are in {target}; start with: {DISTRIBUTION} --config {target}")
    return EXIT_OK


def _say(text: str) -> None:
    sys.stdout.write("".join(f"{clean(line)}\n" for line in text.split("\n")))


def _complain(text: str) -> None:
    sys.stderr.write("".join(f"{clean(line)}\n" for line in text.split("\n")))
