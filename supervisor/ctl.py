"""`mcp-bulkhead ctl`: the command line's door to a running proxy. Tables for people, `--json` for scripts.

It speaks to the admin socket (admin.py) and knows nothing that is not in its answers.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn, cast
from urllib.parse import quote, urlsplit

from protocol.log_lines import clean
from supervisor import admin_port, admin_socket, command, secret
from supervisor.admin_socket import AdminSocketError
from supervisor.config import ConfigError

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_NO_PROXY: Final = 3
ANSWER_TIMEOUT_S: Final = 60.0
"""Longer than any operation takes."""

Json = dict[str, Any]

_DESCRIPTION: Final = """\
See and change the servers of a proxy that is running on this machine, as the user who started it.

The proxy is found by itself if only one is running; otherwise say which with --port or --socket. One on another machine
is reached at its admin port (--admin-listen) with --url and the token of that port."""

_EXAMPLES: Final = """\
examples:
  mcp-bulkhead ctl list                                     all servers: state, health, tools, restarts
  mcp-bulkhead ctl add files http://localhost:8010/mcp      check a server, then offer its tools
  mcp-bulkhead ctl add files http://localhost:8010/mcp --dry-run --json
  mcp-bulkhead ctl add notes --command "npx -y @modelcontextprotocol/server-memory"   needs --allow-stdio-add
  mcp-bulkhead ctl health                                   check all servers now; ctl health main: one
  mcp-bulkhead ctl metrics                                  all numbers, for Prometheus (docs/metrics.md)
  mcp-bulkhead ctl restart main                             a new worker takes over; also un-parks
  mcp-bulkhead ctl disable main                             its tools vanish, calls in flight may end
  mcp-bulkhead ctl drain search-2                           no new calls for this replica; undrain takes it back
  mcp-bulkhead ctl weight search-3 5%                       one call in twenty for this replica; also 2, or default
  mcp-bulkhead ctl reload --dry-run                         what an edited configuration file would change

A change is written into the file the proxy was started with (--config), and without one lasts until it ends.

exit status: 0 if it was done (health: and every server asked is healthy), 1 if not,
  2 for wrong arguments, 3 if no proxy could be reached"""


class _UsageError(Exception):
    """The arguments make no sense. The text is one line for the user."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _UsageError(message)


def main(arguments: Sequence[str]) -> int:
    """Carry out one command and return the exit status."""
    try:
        options = _parser().parse_args(list(arguments))
        _check(options)
    except (_UsageError, ConfigError) as error:
        _complain(f"{error} (mcp-bulkhead ctl --help explains)")
        return EXIT_USAGE
    try:
        door = _port(options) if options.door else _socket(_find(options))
        method, target, body = cast("Callable[[argparse.Namespace], _Request]", options.request)(options)
        answer = _exchange(door, method, target, body)
    except AdminSocketError as error:
        _complain(str(error))
        return EXIT_NO_PROXY
    try:
        _show(answer, options)
        sys.stdout.flush()
    except BrokenPipeError:  # of `ctl list | head`: nobody wants to read the rest
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return EXIT_OK if _went_well(answer) else EXIT_FAILED


def _check(options: argparse.Namespace) -> None:
    if options.command == "add":
        if bool(options.url) == bool(options.command_line):
            raise _UsageError("say where the server is: its URL, or its command with --command")
        if options.command_line:
            command.split(options.command_line)


# --- the proxy -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class _Door:
    connection: http.client.HTTPConnection
    headers: Mapping[str, str]
    where: str


def _socket(path: Path) -> _Door:
    connection = http.client.HTTPConnection("localhost")
    connection.sock = admin_socket.connect(path)
    connection.sock.settimeout(ANSWER_TIMEOUT_S)
    return _Door(connection, {}, str(path))


def _port(options: argparse.Namespace) -> _Door:
    """Return the admin port at the URL. Errors: `AdminSocketError` if there is no token for it."""
    https, host, port = options.door
    path = admin_port.token_path(options.token_file or "", options.state_dir or "")
    try:
        token = secret.load(path, secret.ADMIN_TOKEN).decode()
    except (OSError, secret.SecretError) as error:
        raise AdminSocketError(f"no token for the admin port: {error}; name its file with --token-file") from None
    kind = http.client.HTTPSConnection if https else http.client.HTTPConnection
    connection = kind(host, port, timeout=ANSWER_TIMEOUT_S)
    return _Door(connection, {"Authorization": f"Bearer {token}"}, f"{host}:{port}")


def _url(text: str) -> tuple[bool, str, int]:
    """Return whether it is https, host and port."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise argparse.ArgumentTypeError("a URL is written http://HOST:PORT") from None
    if not host or parts.scheme not in ("http", "https") or parts.path.strip("/") or parts.query or "@" in parts.netloc:
        raise argparse.ArgumentTypeError("a URL is written http://HOST:PORT")
    https = parts.scheme == "https"
    return https, host, port or (443 if https else 80)


def _find(options: argparse.Namespace) -> Path:
    """Return the socket of the proxy that is meant. Errors: `AdminSocketError`."""
    if options.socket:
        return Path(options.socket)
    folder = admin_socket.usual_folder(options.state_dir or "")
    if options.port:
        return admin_socket.usual_path(folder, options.port)
    found = admin_socket.find(folder)
    if len(found) == 1:
        return found[0]
    if not found:
        raise AdminSocketError(
            f"no running proxy was found (looked in {folder}); start one with mcp-bulkhead --http --servers ..., "
            "or say where its socket is with --socket (or its state directory with --state-dir)"
        )
    listed = ", ".join(str(path) for path in found)
    raise AdminSocketError(f"several proxies are running; say which with --port or --socket: {listed}")


def _exchange(door: _Door, method: str, target: str, sent: bytes | None) -> Json:
    """Return the proxy's answer; what is no JSON, as its `text`. Errors: `AdminSocketError` if there is none."""
    try:
        headers = dict(door.headers) | ({"Content-Type": "application/json"} if sent is not None else {})
        door.connection.request(method, target, sent, headers)
        response = door.connection.getresponse()
        body = response.read()
        is_json = response.headers.get_content_type() == "application/json"
        answer = json.loads(body) if is_json else {"text": body.decode()}
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise AdminSocketError(f"the proxy at {door.where} did not answer: {error!r}") from None
    finally:
        door.connection.close()
    if not isinstance(answer, dict):
        raise AdminSocketError(f"what answers at {door.where} is no proxy of this version")
    return cast("Json", answer)


def _went_well(answer: Json) -> bool:
    if "results" in answer:
        summary = answer["summary"]
        return bool(summary["healthy_count"] == summary["enabled_count"])
    return answer.get("success") is not False


# --- what is asked ---------------------------------------------------------------------------------------------------
_Request = tuple[str, str, bytes | None]


def _of_server(method: str, what: str) -> Callable[[argparse.Namespace], _Request]:
    return lambda options: (method, f"/v1/servers/{quote(options.name, safe='')}{what}", None)


def _metrics(options: argparse.Namespace) -> _Request:
    del options
    return "GET", "/metrics", None


def _reload(options: argparse.Namespace) -> _Request:
    return "GET" if options.dry_run else "POST", "/v1/config/reload", None


def _logs(options: argparse.Namespace) -> _Request:
    return "GET", f"/v1/servers/{quote(options.name, safe='')}/logs?lines={options.lines}", None


def _weight(options: argparse.Namespace) -> _Request:
    return "POST", f"/v1/servers/{quote(options.name, safe='')}/weight?to={quote(options.weight, safe='')}", None


def _add(options: argparse.Namespace) -> _Request:
    members: Json = {"name": options.name}
    if options.url:
        members["url"] = options.url
    if options.command_line:
        members["command"], *members["args"] = _words(options.command_line)
    if options.header:
        members["headers"] = dict(options.header)
    if options.env:
        members["env"] = dict(options.env)
    if options.cwd:
        members["cwd"] = options.cwd
    for key in ("transport", "group", "force", "dry_run"):
        if value := getattr(options, key):
            members[key] = value
    return "POST", "/v1/servers", json.dumps(members).encode()


def _words(command_line: str) -> list[str]:
    program, arguments = command.split(command_line)
    return [program, *arguments]


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise argparse.ArgumentTypeError("a header is written NAME:VALUE, or NAME:@FILE for a value from a file")
    return name.strip(), _value(f"header {name}", value.strip())


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError("a variable is written NAME=VALUE, or NAME=@FILE for a value from a file")
    return name, _value(f"variable {name}", value)


def _value(of: str, value: str) -> str:
    if not value.startswith("@"):
        return value
    try:  # what is in an argument can be seen by every user of the machine
        return Path(value[1:]).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise argparse.ArgumentTypeError(f"the file for the {of} cannot be read") from None


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="mcp-bulkhead ctl",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--port", type=int, metavar="N", help="the proxy that listens on this port")
    parser.add_argument("--socket", metavar="PATH", help="the proxy with this admin socket")
    parser.add_argument("--state-dir", metavar="DIR", help="the proxy that was started with this --state-dir")
    parser.add_argument(
        "--url", type=_url, dest="door", metavar="URL", help="the proxy with this admin port: http://HOST:PORT"
    )
    parser.add_argument(
        "--token-file", metavar="FILE", help="where the token of that port is (admin-token in the state directory)"
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)

    def command(name: str, explanation: str, request: Callable[[argparse.Namespace], _Request]) -> _Parser:
        one = commands.add_parser(name, help=explanation, description=explanation.capitalize() + ".")
        one.add_argument("--json", action="store_true", help="print the proxy's answer as JSON")
        one.set_defaults(request=request, command=name)
        return one

    def of_server(name: str, explanation: str, method: str, what: str) -> _Parser:
        one = command(name, explanation, _of_server(method, what))
        one.add_argument("name", metavar="NAME", help="the server's name")
        return one

    command("list", "list all servers", lambda _: ("GET", "/v1/servers", None))
    metrics = commands.add_parser(
        "metrics", help="print all numbers as Prometheus reads them", description="Print all numbers as Prometheus "
        "reads them, which can fetch them itself at /metrics of the admin port (docs/metrics.md).",
    )  # fmt: skip
    metrics.set_defaults(request=_metrics, command="metrics", json=False)
    command("status", "tell how the proxy and its processes are", lambda _: ("GET", "/v1/status", None))
    add = command("add", "add a server, if it answers", _add)
    add.add_argument("name", metavar="NAME", help="how to call it: letters, digits, '-' and '_'")
    add.add_argument("url", metavar="URL", nargs="?", help="its MCP endpoint, for example http://localhost:8010/mcp")
    add.add_argument(
        "--command", dest="command_line", metavar="COMMAND",
        help="in place of URL: the command that starts it, with its arguments, in quotes; the proxy must have been "
        "started with --allow-stdio-add",
    )  # fmt: skip
    add.add_argument(
        "--env", action="append", type=_variable, metavar="NAME=VALUE",
        help="a variable for that command; NAME=@FILE takes the value from a file; may be given several times",
    )  # fmt: skip
    add.add_argument("--cwd", metavar="DIR", help="where that command is started")
    add.add_argument("--transport", choices=["auto", "http", "sse", "ws", "stdio"], help="how it is spoken to (auto)")
    add.add_argument(
        "--header", action="append", type=_header, metavar="NAME:VALUE",
        help="sent to it with every request; NAME:@FILE takes the value from a file; may be given several times",
    )  # fmt: skip
    add.add_argument("--group", help="the group of replicas it joins, or a label shown in lists")
    add.add_argument("--force", action="store_true", help="add it without a check, even if it does not answer now")
    add.add_argument("--dry-run", action="store_true", help="check it and tell what it offers, but do not add it")
    of_server("remove", "remove a server; calls in flight may end", "DELETE", "")
    of_server("enable", "start a disabled server again", "POST", "/enable")
    of_server("disable", "stop offering a server but keep it; calls in flight may end", "POST", "/disable")
    reload = command("reload", "do what the configuration file says now, which happens by itself soon", _reload)
    reload.add_argument("--dry-run", action="store_true", help="tell what would be done, and do nothing")
    command(
        "rollback",
        "undo the last change that the proxy has made to its configuration file",
        lambda _: ("POST", "/v1/config/rollback", None),
    )
    health = command("health", "check now whether servers answer", _of_server("GET", "/health"))
    health.add_argument("name", metavar="NAME", nargs="?", default="all", help="the server's name (all)")
    of_server("restart", "give a server a new worker; one that is parked is tried at once", "POST", "/restart")
    of_server("drain", "give a replica of a group no new calls; those that it has may end", "POST", "/drain")
    of_server("undrain", "give a drained replica calls again", "POST", "/undrain")
    weight = command("weight", "give a replica of a group another portion of its calls", _weight)
    weight.add_argument("name", metavar="NAME", help="the server's name")
    weight.add_argument(
        "weight", metavar="WEIGHT",
        help="a number compared with the others' (1 is usual), a percentage of all calls such as 5%%, or default",
    )  # fmt: skip
    logs = command("logs", "print the last lines about a server", _logs)
    logs.add_argument("name", metavar="NAME", help="the server's name")
    logs.add_argument("-n", "--lines", type=int, default=50, metavar="N", help="how many (50)")
    return parser


# --- what is shown ---------------------------------------------------------------------------------------------------
def _show(answer: Json, options: argparse.Namespace) -> None:
    if options.json:
        _print(json.dumps(answer, indent=2))
    elif answer.get("success") is False:
        status = f" (status: {answer['status']})" if answer.get("status") else ""
        _complain(f"{answer.get('error', 'it failed')}{status}")
        if "available_servers" in answer:
            _complain(f"the servers are: {', '.join(answer['available_servers']) or '(none)'}")
    else:
        for line in _lines(options.command, answer):
            _print(clean(line))


def _lines(command: str, answer: Json) -> list[str]:
    match command:
        case "list":
            return _server_table(answer)
        case "metrics":
            return answer["text"].splitlines()
        case "status":
            return _status(answer)
        case "health" if "results" in answer:
            rows = [
                [name, check["health_status"], _milliseconds(check["response_time_ms"]), check["error"] or ""]
                for name, check in answer["results"].items()
            ]
            return _table(["NAME", "HEALTH", "ANSWERED IN", "ERROR"], rows)
        case "health":
            return [f"{answer['name']} is {answer['health_status']}; answered in {answer['response_time_ms']:g} ms"]
        case "logs":
            return answer["lines"] or ["(nothing has been said about it yet)"]
        case "reload" | "rollback":
            return [answer["message"], *(f"  {step}" for step in answer["plan"])]
        case _:
            tools: list[str] = answer.get("tools") or []
            return [answer["message"], *(f"  {tool}" for tool in tools)]


def _server_table(listed: Json) -> list[str]:
    titles = ["NAME", "STATE", "HEALTH", "TOOLS", "ERRORS", "RESTARTS", "UPTIME", "PID", "URL/COMMAND"]
    rows = [
        [
            server["name"],
            server["state"],
            server["health_status"],
            _or_dash(server["tool_count"]),
            str(server["error_count"]),
            str(server["restarts"]),
            _duration(server["uptime"]),
            _or_dash(server["pid"]),
            server["command"] or f"{server['url']}{' at ' + server['address'] if server.get('address') else ''}",
        ]
        for server in listed["servers"]
    ]
    if any(server["replica"] for server in listed["servers"]):
        titles[1:1] = ["GROUP", "CALLS", "FAILOVERS"]
        for row, server in zip(rows, listed["servers"], strict=True):
            row[1:1] = _replica_cells(server)
    differences = [line for server in listed["servers"] for line in _differences(server)]
    counts = f"{listed['total_count']} servers, {listed['enabled_count']} enabled, {listed['healthy_count']} healthy"
    return [*_table(titles, rows), counts, *differences]


def _replica_cells(server: Json) -> list[str]:
    """Return what is shown of a replica: its group, its share of the calls or why it gets none, and calls it lost."""
    replica = server["replica"]
    if not replica:
        return [_or_dash(server["group"]), "-", "-"]
    calls = "drained" if replica["drained"] else "ejected" if replica["ejected"] else f"{replica['share']:.0%}"
    if replica["percent"]:
        calls += f" of {replica['percent']:g}%"
    return [server["group"], calls, str(replica["failovers"])]


def _differences(server: Json) -> list[str]:
    """Return lines about what a replica offers otherwise than those of its group."""
    replica: Json = server["replica"] or {}
    told = (("lacks", "lacks"), ("describes differently", "differs"))
    return [f"{server['name']} {what}: {', '.join(replica[key])}" for what, key in told if replica.get(key)]


def _status(status: Json) -> list[str]:
    info = status["proxy_info"]
    titles = ["PROCESS", "PID", "RESTARTS", "UPTIME"]
    rows = [
        [name, _or_dash(process["pid"]), str(process["restarts"]), _duration(process["uptime"])]
        for name, process in status["processes"].items()
    ]
    lines = [f"{info['name']} {info['version']}", "", *_table(titles, rows), "", *_server_table(status["servers"])]
    if followed := status["configuration"]:
        lines += ["", f"configuration: {followed['file']}"]
        if followed["problem"]:
            lines += ["  it cannot be used as it is now, and what it said before goes on:", f"  {followed['problem']}"]
        if followed["restart_needed"]:
            lines.append(f"  only after a restart of the proxy: {', '.join(followed['restart_needed'])}")
    if reports := status["crash_reports"]:
        lines += ["", "crashes, newest first:", *(f"  {one['at']}  {one['name']} {one['reason']}" for one in reports)]
    return lines


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in (titles, *rows)]  # fmt: skip


def _or_dash(value: object) -> str:
    return "-" if value is None else str(value)


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    whole = int(seconds)
    units: Mapping[str, int] = {"d": 86_400, "h": 3600, "m": 60}
    for unit, size in units.items():
        if whole >= size:
            return f"{whole / size:.1f}{unit}"
    return f"{whole}s"


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")


def _complain(text: str) -> None:
    sys.stderr.write(f"mcp-bulkhead ctl: {clean(text)}\n")
