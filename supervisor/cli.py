"""Read the command line. A mistake is told in one line that names the part at fault.

Only light modules are imported here: the port is bound, and the zygote started, before anything heavy loads.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from typing import Final, NoReturn

from protocol import limits
from supervisor import DISTRIBUTION, config
from supervisor.config import ConfigError, Settings

DEBUG_LOG_FILE: Final = "/tmp/mcp_multiproxy_debug.log"  # noqa: S108 - asked for by name; logs.py opens it with care

_DESCRIPTION: Final = """\
One MCP server in front of many. Each configured server gets a worker process of its own, so that one that crashes,
hangs or misbehaves harms nobody else. Clients of every protocol revision can talk to servers of every revision."""

_EXAMPLES: Final = """\
examples:
  mcp-bulkhead --stdio --servers main=http://localhost:8000/mcp
      for clients that start their servers themselves, such as Claude Desktop; the tool "echo" becomes "main__echo"

  mcp-bulkhead --http --servers main=http://localhost:8000/mcp,files=http://localhost:8010/mcp
      for clients that connect over HTTP: http://127.0.0.1:8001/mcp

  mcp-bulkhead --http --port 9000 --host localhost --namespace none --servers main=http://localhost:8000/mcp
      IPv4 and IPv6 on port 9000; names of tools as the server gives them

  mcp-bulkhead bench load --help
      measure it

signals: SIGTERM and SIGINT finish the calls in flight, then stop; once more to stop at once
  SIGUSR2 upgrades: the version that is installed now takes over the port, and no client notices

exit status: 0 after being told to stop (SIGTERM, SIGINT, or the end of standard input with --stdio alone) or being
  replaced in an upgrade, 1 if it could not start or gave up, 2 for wrong arguments, 70 for a bug in the root, 78 if
  sockets from a service manager (LISTEN_FDS) cannot be used, 128 + n if signal n came a second time during a stop"""


class UsageError(Exception):
    """The arguments make no sense. The text is one line for the user."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(re.sub(r"^argument ([^:]*?)(?:/-\w)?: ", r"\1: ", message))


def parse(arguments: Sequence[str]) -> Settings:
    """Return the settings that the arguments ask for.

    Errors: `UsageError`; `SystemExit` after --help and --version, which print and are done.
    """
    options = _parser().parse_args(list(arguments))
    if not (options.stdio or options.http):
        raise UsageError("say how clients connect: --stdio, --http, or both")
    if not options.servers:
        raise UsageError("no servers; name at least one with --servers, for example main=http://localhost:8000/mcp")
    for option, values in (("--allow-host", options.allow_host), ("--allow-origin", options.allow_origin)):
        if len(values) > config.NAMES_MAX:
            raise UsageError(f"{option}: more than {config.NAMES_MAX}")
    separator = options.separator if options.namespace == "prefix" else ""
    try:
        servers = config.parse_servers(options.servers, separator)
    except ConfigError as error:
        raise UsageError(f"--servers: {error}") from None
    hosts = tuple(dict.fromkeys(options.host or ["127.0.0.1"]))
    return Settings(
        servers=servers,
        stdio=options.stdio,
        http=options.http,
        hosts=hosts,
        port=options.port,
        path=options.path,
        separator=separator,
        allowed_hosts=(*options.allow_host, *config.names_of(hosts)),
        allowed_origins=tuple(options.allow_origin),
        call_timeout_s=options.call_timeout,
        page_size=options.page_size,
        trust_annotations=not options.no_trust_annotations,
        state_dir=options.state_dir or "",
        debug=options.debug,
        log_file=options.log_file or (DEBUG_LOG_FILE if options.debug else ""),
    )


def _checked(parse_value: Callable[[str], object]) -> Callable[[str], object]:
    """Let argparse say which option a `ConfigError` is about."""

    def parse_or_explain(text: str) -> object:
        try:
            return parse_value(text)
        except ConfigError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse_or_explain


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib import metadata  # costs more than all the rest of this file

        try:
            version = metadata.version(DISTRIBUTION)
        except metadata.PackageNotFoundError:
            version = "(not installed, running from its source)"
        sys.stdout.write(f"{DISTRIBUTION} {version}\n")
        parser.exit()


def _parser() -> _Parser:
    parser = _Parser(
        prog=DISTRIBUTION,
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    _add_clients(parser)
    _add_servers(parser)
    _add_running(parser)
    return parser


def _add_clients(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("clients").add_argument
    add("--stdio", action="store_true", help="speak MCP on standard input and output; ends when the input does")
    add("--http", action="store_true", help="speak MCP over Streamable HTTP")
    add(
        "--host",
        action="append",
        type=_checked(config.parse_listen_host),
        metavar="HOST",
        help="address to listen on (127.0.0.1); localhost means IPv4 and IPv6; may be given several times",
    )
    add(
        "--port",
        type=_checked(config.parse_port),
        default=8001,
        metavar="N",
        help="port to listen on (8001); not used with sockets from a service manager",
    )
    add("--path", type=_checked(config.parse_path), default="/mcp", help="path of the endpoint (/mcp)")
    add(
        "--allow-host",
        action="append",
        default=[],
        type=_checked(config.parse_allowed_host),
        metavar="NAME",
        help="a further name under which clients reach this proxy; others are refused (DNS rebinding)",
    )
    add(
        "--allow-origin",
        action="append",
        default=[],
        type=_checked(config.parse_origin),
        metavar="ORIGIN",
        help="a further web origin whose pages may call this proxy, for example https://app.example.com",
    )


def _add_servers(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("servers").add_argument
    add(
        "--servers",
        action="extend",
        nargs="+",
        default=[],
        metavar="NAME=URL",
        help="servers to offer, separated by commas or spaces; may be given several times",
    )
    add(
        "--separator",
        type=_checked(config.parse_separator),
        default="__",
        metavar="TEXT",
        help="stands between a server's name and a tool's name (__)",
    )
    add(
        "--namespace",
        choices=("prefix", "none"),
        default="prefix",
        help="prefix: main__echo; none: names as the servers give them (prefix)",
    )
    add(
        "--call-timeout",
        type=_checked(config.parse_call_timeout),
        default=limits.CALL_TIMEOUT_S,
        metavar="SECONDS",
        help=f"how long a call may go without an answer or progress ({limits.CALL_TIMEOUT_S:g})",
    )
    add(
        "--page-size",
        type=_checked(config.parse_page_size),
        default=0,
        metavar="N",
        help="items in one page of a list (0: everything at once)",
    )
    add(
        "--no-trust-annotations",
        action="store_true",
        help="never send a call again that a server may have got, even if the tool says that this does no harm",
    )


def _add_running(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("running it").add_argument
    add("--debug", action="store_true", help=f"log everything, to {DEBUG_LOG_FILE} unless --log-file says otherwise")
    add("--log-file", type=_checked(config.parse_file), metavar="FILE", help="log to this file as well")
    add(
        "--state-dir",
        type=_checked(config.parse_file),
        metavar="DIR",
        help="where the key of client sessions is kept (the user's state directory)",
    )
