"""Read the command line. A mistake is told in one line that names the part at fault.

Only light modules are imported here: the port is bound, and the zygote started, before anything heavy loads.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NoReturn

from protocol import limits
from protocol.client_profiles import NAME_CHARACTERS_MAX
from protocol.names import Policy
from supervisor import DISTRIBUTION, config, server_options
from supervisor.config import ConfigError, Group, Server, Settings

if TYPE_CHECKING:
    from supervisor.configuration.reading import FileSettings

TOOL_NAMES: Final = ("manage", "proxy_status", "proxy_health")
"""As in protocol/management.py, which would load what is not needed yet."""
LAZY_ABOVE: Final = 40
WEBSOCKET_PATH: Final = "/ws"
DEBUG_LOG_FILE: Final = "/tmp/mcp_multiproxy_debug.log"  # noqa: S108 - asked for by name; logs.py opens it with care

_DEFAULTS: Final = Settings(servers=())

_DESCRIPTION: Final = """\
One MCP server in front of many. Each configured server gets a worker process of its own, so that one that crashes,
hangs or misbehaves harms nobody else. Clients of every protocol revision can talk to servers of every revision."""

_EXAMPLES: Final = """\
examples:
  mcp-bulkhead --stdio --servers main=http://localhost:8000/mcp
      for clients that start their servers themselves, such as Claude Desktop; the tool "echo" becomes "main__echo"

  mcp-bulkhead --http --servers main=http://localhost:8000/mcp,files=http://localhost:8010/mcp
      for clients that connect over HTTP: http://127.0.0.1:8001/mcp

  mcp-bulkhead --http --servers "files=npx -y @modelcontextprotocol/server-filesystem /data"
      a server that is a command: started, watched and restarted by its worker

  mcp-bulkhead --http --servers live=ws://localhost:8020/ws
      a server that speaks WebSocket

  mcp-bulkhead --http --port 9000 --host localhost --namespace none --servers main=http://localhost:8000/mcp
      IPv4 and IPv6 on port 9000; names of tools as the server gives them

  mcp-bulkhead --http --config ~/.config/Claude/claude_desktop_config.json
      the servers of Claude Desktop, once for all clients

  mcp-bulkhead --http --servers "search=http://localhost:8000/mcp|http://localhost:8002/mcp"
      two replicas behind one name: calls are spread over them, and go to the other one when one fails

  mcp-bulkhead --config bulkhead.toml
      everything in a file; "mcp-bulkhead check bulkhead.toml" says what it means, and "mcp-bulkhead import claude"
      writes one from the servers of Claude, Cursor or VS Code

  mcp-bulkhead ctl list
      see, add, remove, restart servers while it runs; mcp-bulkhead ctl --help explains

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
    """Return the settings that the arguments ask for, and the file they name. An option counts more than the file.

    Errors: `UsageError`; `ConfigFileError`; `SystemExit` after --help and --version, which print and are done.
    """
    given = vars(_parser().parse_args(list(arguments)))
    file: str = given.pop("config", "")
    texts: list[str] = given.pop("servers", [])
    group_texts: list[str] = given.pop("group", [])
    own: dict[str, list[str]] = {option: given.pop(option, []) for option in server_options.OPTIONS}
    found = _from_file(file, given) if file else None
    options: Mapping[str, Any] = {**found.options, **given} if found else given
    servers = found.servers if found else ()
    if not (options.get("stdio") or options.get("http") or options.get("listen_unix")):
        where = f", on the command line or in {file}" if file else ""
        raise UsageError(f"say how clients connect: --stdio, --http, --listen-unix, or several of them{where}")
    if "tls_key" in options and "tls_cert" not in options:
        raise UsageError("--tls-key: name the certificate that it belongs to with --tls-cert")
    if "tls_cert" in options and not options.get("http"):
        raise UsageError("--tls-cert: TLS is spoken on the port, which --http opens; add it")
    if "ws" in options:
        _check_websocket_path(options)
    if not (file or texts):
        raise UsageError(
            "no servers; name at least one with --servers, for example main=http://localhost:8000/mcp, "
            "or a file that does with --config"
        )
    if options.get("sse") and not (options.get("http") or options.get("listen_unix")):
        raise UsageError("--sse: it is a way over HTTP; add --http or --listen-unix")
    if options.get("fronts", 1) > 1 and not (options.get("http") or options.get("listen_unix")):
        raise UsageError("--fronts: several share a port or a Unix socket; add --http or --listen-unix")
    if options.get("proxy_protocol") and not options.get("trusted_proxies"):
        raise UsageError("--proxy-protocol: say whose headers count with --trusted-proxies")
    for option in ("allow_host", "allow_origin", "trusted_proxies"):
        if len(options.get(option, ())) > config.NAMES_MAX:
            raise UsageError(f"--{option.replace('_', '-')}: more than {config.NAMES_MAX}")
    try:
        named = config.parse_servers(texts, separator_of(options)) if texts else ()
        servers = (*servers, *named)
        config.check_servers(servers)
    except ConfigError as error:
        raise UsageError(f"--servers: {error}") from None
    groups = found.groups if found else ()
    if group_texts or groups or any(server.group or server.discover for server in named):
        servers, groups = _grouped(servers, groups, named, group_texts, separator_of(options))
    try:
        whole = server_options.apply(settings(options, servers, groups), **own)
    except ConfigError as error:
        raise UsageError(str(error)) from None
    notes = _remarks(servers, groups) if group_texts else ()
    if found is None:
        return replace(whole, notes=notes)
    notes = tuple(dict.fromkeys((*found.notes, *notes)))
    return replace(whole, config_file=file, config_identity=found.identity, notes=notes)


def _check_websocket_path(options: Mapping[str, Any]) -> None:
    path: str = options.get("path", _DEFAULTS.path)
    if not (options.get("http") or options.get("listen_unix")):
        raise UsageError("--ws: WebSocket begins as HTTP; add --http or --listen-unix")
    if options["ws"] in (path, "/healthz", "/readyz") or options["ws"].startswith(path.rstrip("/") + "/"):
        raise UsageError(f"--ws: something else is served at {options['ws']}; choose another path")


def _grouped(
    servers: tuple[Server, ...], groups: tuple[Group, ...], named: tuple[Server, ...], texts: list[str], separator: str
) -> tuple[tuple[Server, ...], tuple[Group, ...]]:
    """Return servers and groups, with those that the command line declares. `named`: the servers that it names."""
    from supervisor.groups import arrange, parse  # needed by few

    try:
        declared = [parse(text, separator) for text in texts]
        known = {group.name for group in (*groups, *declared)}
        short = dict.fromkeys(server.group for server in named if server.group and server.group not in known)
        return arrange(servers, (*groups, *declared, *map(Group, short)))
    except ConfigError as error:
        raise UsageError(f"--group: {error}" if texts else str(error)) from None


def _remarks(servers: Sequence[Server], groups: Sequence[Group]) -> tuple[str, ...]:
    from supervisor.groups import remarks  # needed by few

    return remarks(groups, servers)


def separator_of(options: Mapping[str, Any]) -> str:
    """Return what stands between a server's name and a tool's name; "" if public names have no prefix."""
    return "" if options.get("namespace") == "none" else options.get("separator", _DEFAULTS.separator)


def settings(options: Mapping[str, Any], servers: tuple[Server, ...], groups: tuple[Group, ...] = ()) -> Settings:
    """Return the settings that checked options mean, whether they were given on the command line or in a file."""
    hosts = tuple(dict.fromkeys(options.get("host") or _DEFAULTS.hosts))
    return Settings(
        servers=servers,
        groups=groups,
        stdio=options.get("stdio", False),
        http=options.get("http", False),
        hosts=hosts,
        port=options.get("port", _DEFAULTS.port),
        listen_unix=options.get("listen_unix", ""),
        listen_unix_mode=options.get("listen_unix_mode", _DEFAULTS.listen_unix_mode),
        tls_cert=options.get("tls_cert", ""),
        tls_key=options.get("tls_key", ""),
        trusted_proxies=tuple(dict.fromkeys(options.get("trusted_proxies", ()))),
        proxy_protocol=options.get("proxy_protocol", False),
        sse=options.get("sse", False),
        fronts=options.get("fronts", _DEFAULTS.fronts),
        path=options.get("path", _DEFAULTS.path),
        websocket_path=options.get("ws", ""),
        separator=options.get("separator", _DEFAULTS.separator),
        namespace=Policy(options.get("namespace", _DEFAULTS.namespace)),
        name_limit=options.get("name_limit", _DEFAULTS.name_limit),
        lazy_above=options.get("lazy_above", LAZY_ABOVE) if options.get("tools") == "lazy" else -1,
        allowed_hosts=(*options.get("allow_host", ()), *config.names_of(hosts)),
        allowed_origins=tuple(options.get("allow_origin", ())),
        call_timeout_s=options.get("call_timeout", _DEFAULTS.call_timeout_s),
        memory_limit=options.get("memory_limit", _DEFAULTS.memory_limit),
        in_flight_max=options.get("in_flight", _DEFAULTS.in_flight_max),
        retries_max=options.get("retries", _DEFAULTS.retries_max),
        durable_after_s=options.get("durable_after", _DEFAULTS.durable_after_s),
        queue_max=options.get("queue", _DEFAULTS.queue_max),
        page_size=options.get("page_size", _DEFAULTS.page_size),
        trust_annotations=options.get("trust_annotations", True),
        state_dir=options.get("state_dir", ""),
        debug=options.get("debug", False),
        log_file=options.get("log_file") or (DEBUG_LOG_FILE if options.get("debug") else ""),
        management=tuple(options.get("management_prefix", "") + tool for tool in TOOL_NAMES)
        if options.get("management", True)
        else (),
        allow_private=options.get("allow_private", False),
        allow_stdio_add=options.get("allow_stdio_add", False),
        admin=options.get("admin", True),
        admin_socket=options.get("admin_socket", ""),
        admin_listen=options.get("admin_listen"),
        admin_token_file=options.get("admin_token_file", ""),
    )
    try:
        return server_options.apply(
            settings,
            call_timeout=options.call_timeout,
            memory_limit=options.memory_limit,
            in_flight=options.in_flight,
            queue=options.queue,
            retries=options.retries,
            durable_after=options.durable_after,
        )
    except ConfigError as error:
        raise UsageError(str(error)) from None


def _from_file(file: str, given: Mapping[str, Any]) -> FileSettings:
    from supervisor.configuration import loading  # and the parser of its format: only those who have a file pay for it

    return loading.load(file, given)


def _checked(parse_value: Callable[[str], object]) -> Callable[[str], object]:
    """Let argparse say which option a `ConfigError` is about."""

    def parse_or_explain(text: str) -> object:
        try:
            return parse_value(text)
        except ConfigError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse_or_explain


class _Extend(argparse.Action):
    """Gathers the items of lists."""

    def __call__(self, parser: argparse.ArgumentParser, given: argparse.Namespace, value: Any, *_: object) -> None:
        setattr(given, self.dest, [*getattr(given, self.dest, []), *value])


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
        argument_default=argparse.SUPPRESS,  # what is not given here may be in the file
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    _add_clients(parser)
    _add_servers(parser)
    _add_management(parser)
    _add_limits(parser)
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
        metavar="N",
        help="port to listen on (8001); not used with sockets from a service manager",
    )
    add(
        "--listen-unix",
        type=_checked(config.parse_unix_path),
        metavar="PATH",
        help="speak MCP over HTTP on this Unix socket, with or without --http",
    )
    add(
        "--listen-unix-mode",
        type=_checked(config.parse_mode),
        metavar="MODE",
        help="who may connect to it: the mode of its file (600: nobody but you)",
    )
    add(
        "--tls-cert",
        type=_checked(config.parse_file),
        metavar="FILE",
        help="speak HTTPS on the port, with this certificate and those it depends on (PEM); read again when it changes",
    )
    add(
        "--tls-key",
        type=_checked(config.parse_file),
        metavar="FILE",
        help="its private key (PEM), if that is in a file of its own",
    )
    add(
        "--sse",
        action="store_true",
        help="serve clients that know HTTP+SSE only, the transport of 2024-11-05, as well: at /sse",
    )
    add(
        "--fronts",
        type=_checked(config.parse_fronts),
        metavar="N",
        help=f"so many processes serve clients over HTTP, on the same sockets (1, at most {limits.FRONTS_MAX}): for "
        "machines with cores to spare (docs/fronts.md)",
    )
    add(
        "--trusted-proxies",
        action=_Extend,
        type=_checked(config.parse_trusted_proxies),
        metavar="NETWORK,...",
        help="gateways whose word counts when they say whom they speak for (Forwarded, X-Forwarded-For); unix: those "
        "that connect to the Unix socket",
    )
    add(
        "--proxy-protocol",
        action="store_true",
        help="every connection from there begins with a header of the PROXY protocol (version 1 or 2)",
    )
    add(
        "--path",
        type=_checked(config.parse_path),
        help="path of the endpoint (/mcp); a server has one of its own below it, such as /mcp/main (docs/fronts.md)",
    )
    add(
        "--ws",
        nargs="?",
        const=WEBSOCKET_PATH,
        type=_checked(config.parse_path),
        metavar="PATH",
        help=f"speak MCP over WebSocket as well, at this path ({WEBSOCKET_PATH}; docs/fronts.md)",
    )
    add(
        "--allow-host",
        action="append",
        type=_checked(config.parse_allowed_host),
        metavar="NAME",
        help="a further name under which clients reach this proxy; others are refused (DNS rebinding)",
    )
    add(
        "--allow-origin",
        action="append",
        type=_checked(config.parse_origin),
        metavar="ORIGIN",
        help="a further web origin whose pages may call this proxy, for example https://app.example.com",
    )


def _add_servers(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("servers").add_argument
    add(
        "--config",
        type=_checked(config.parse_file),
        metavar="FILE",
        help="TOML, YAML or JSON with everything that can be set (docs/configuration.md), or the file in which Claude, "
        "Cursor or VS Code keep their servers; options given here count more",
    )
    add(
        "--servers",
        action="extend",
        nargs="+",
        metavar="NAME=URL|COMMAND",
        help="servers to offer beside those of the file, separated by commas or spaces: where each is (http://, "
        "https:// or unix:///path/to/socket:/mcp) or, in quotes, "
        'the command that starts it, such as "files=npx -y @modelcontextprotocol/server-filesystem /data"; dns+http:// '
        "makes a replica of each address that the name has (docs/groups.md); may be given several times",
    )
    add(
        "--group",
        action="append",
        metavar="NAME=SERVER,SERVER[:POLICY]",
        help="servers that are replicas of one another: clients see their tools once, under this name, and calls go to "
        "the least loaded that works, or as the policy says: round_robin, weighted, priority, sticky; "
        '"--servers NAME=URL|URL" is short for naming and grouping them, so is "NAME=COMMAND | COMMAND" '
        "(docs/groups.md)",
    )
    add(
        "--separator",
        type=_checked(config.parse_separator),
        metavar="TEXT",
        help="stands between a server's name and a tool's name (__)",
    )
    add(
        "--namespace",
        choices=[policy.value for policy in Policy],
        help="prefix: main__echo; auto: echo, and a prefix only where several servers have the name; "
        "none: names as the servers give them (prefix)",
    )
    add(
        "--name-limit",
        type=_checked(config.parse_name_limit),
        metavar="N",
        help="longer names of tools are shortened, and characters that models' APIs refuse replaced, the same way "
        f"every time; 0: names stay as they are ({NAME_CHARACTERS_MAX})",
    )
    add(
        "--tools",
        choices=("all", "lazy"),
        help="lazy: instead of a flood of tools list three that find (tool_search), describe (tool_schema) and call "
        "(tool_call) them (all)",
    )
    add(
        "--lazy-above",
        type=_checked(config.parse_count),
        metavar="N",
        help=f"with --tools lazy: list up to so many tools as usual ({LAZY_ABOVE})",
    )
    add(
        "--page-size",
        type=_checked(config.parse_page_size),
        metavar="N",
        help="items in one page of a list (0: everything at once)",
    )
    add(
        "--no-trust-annotations",
        action="store_false",
        dest="trust_annotations",
        help="never send a call again that a server may have got, even if the tool says that this does no harm",
    )


def _add_management(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("management").add_argument
    add(
        "--no-management",
        action="store_false",
        dest="management",
        help="do not offer clients the tools manage, proxy_status and proxy_health",
    )
    add(
        "--management-prefix",
        type=_checked(config.parse_management_prefix),
        metavar="TEXT",
        help="begin the names of those tools with this text, for example proxy_ (nothing)",
    )
    add(
        "--allow-private",
        action="store_true",
        help="let public names of servers lead to addresses of a private network or of this machine (docs/servers.md)",
    )
    add(
        "--allow-stdio-add",
        action="store_true",
        help="let servers that are commands be added while the proxy runs: whoever can add one runs programs as you",
    )
    add(
        "--admin-socket",
        type=_checked(config.parse_file),
        metavar="PATH",
        help="where mcp-bulkhead ctl reaches this proxy (in the user's runtime directory, or that of --state-dir)",
    )
    add("--no-admin", action="store_false", dest="admin", help="open no such socket")
    add(
        "--admin-listen",
        type=_checked(config.parse_listen_address),
        metavar="HOST:PORT",
        help="open the same door over TCP as well, for those who have its token",
    )
    add(
        "--admin-token-file",
        type=_checked(config.parse_file),
        metavar="FILE",
        help="where that token is; it is made if it is not there (admin-token in the state directory)",
    )


def _add_limits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "limits of each server",
        "Each may be given several times: VALUE for every server, SERVER=VALUE for one.",
    )

    def add(option: str, metavar: str, text: str) -> None:
        group.add_argument(option, action="append", metavar=metavar, help=text)

    add(
        "--call-timeout",
        "[SERVER[.TOOL]=]SECONDS",
        f"how long a call may go without an answer or progress ({limits.CALL_TIMEOUT_S:g}); 0: as long as a call may "
        f"take at all ({limits.CALL_CEILING_S:g}). For example: 30, slow=120, slow.report=600",
    )
    add(
        "--memory-limit",
        "[SERVER=]SIZE",
        "memory of the worker process; one that has more is ended and replaced "
        f"({limits.MEMORY_LIMIT_BYTES // limits.MIB}MiB; 0: no limit)",
    )
    add("--in-flight", "[SERVER=]N", f"calls that a server is given at a time ({limits.IN_FLIGHT_PER_SERVER_MAX})")
    add("--queue", "[SERVER=]N", f"calls that may wait for that; more are refused ({limits.QUEUE_PER_SERVER_MAX})")
    add(
        "--retries",
        "[SERVER=]N",
        f"how often a call is given to the next worker, or another replica, if that does no harm ({limits.RETRIES})",
    )
    add(
        "--durable-after",
        "[SERVER=]SECONDS",
        "after so long a call becomes a task that its client asks for later, if it takes tasks (0: never)",
    )


def _add_running(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("running it").add_argument
    add("--debug", action="store_true", help=f"log everything, to {DEBUG_LOG_FILE} unless --log-file says otherwise")
    add("--log-file", type=_checked(config.parse_file), metavar="FILE", help="log to this file as well")
    add(
        "--state-dir",
        type=_checked(config.parse_file),
        metavar="DIR",
        help="where the key of client sessions is kept, and which of them have ended (the user's state directory)",
    )
