"""What a run of the proxy is told: `Settings`, and the checks that every part of it has passed.

Each check raises `ConfigError` with the reason alone; the caller says which option it was about. No message repeats a
URL: it may hold a password.
"""

from __future__ import annotations

import ipaddress
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final
from urllib.parse import urlsplit

from protocol import limits
from protocol.client_profiles import NAME_CHARACTERS_LEAST, NAME_CHARACTERS_MAX
from protocol.forwarded import UNIX
from protocol.names import Policy, server_name_fault
from protocol.tool_rules import ToolRules

SERVERS_MAX: Final = 200
SERVERS_BYTES_MAX: Final = 48 * limits.KIB
"""All names and URLs together, of which the names reach the front in one control packet."""
URL_CHARS_MAX: Final = 2048
NAMES_MAX: Final = 50
"""Allowed hosts, and allowed origins; they are in the same packet."""
ORIGIN_CHARS_MAX: Final = 300
PATH_CHARS_MAX: Final = 256
NAME_LIMIT_MAX: Final = 256
PORT_MAX: Final = 65_535
UNIX_PATH_BYTES_MAX: Final = 107
QUEUE_MAX: Final = 4096
"""Calls that may be allowed to wait for one server. They are refused after a second, so more would not be served."""
TOOL_CHARS_MAX: Final = 128
"""Of a tool's name; the specification advises servers to stay within it."""
TOOLS_BYTES_MAX: Final = 8 * limits.KIB
"""Of all tools with a timeout of their own: they reach the front in one control packet."""
TOOL_EXTRA_BYTES: Final = 16
"""What each of them takes beside its name, in the packet."""
SHOWN_CHARS_MAX: Final = 80

DNS: Final = "dns"
DNS_PREFIX: Final = "dns+"
"""Before a URL on the command line: the server is to be discovered so."""
TRANSPORTS: Final = ("http", "sse", "ws", "stdio")
SHARED: Final = "shared"
ISOLATIONS: Final = (SHARED, "session")
_WEBSOCKET: Final = ("ws:", "wss:")
_HOST_NAME: Final = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_-]+)*\.?")
_PATH: Final = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,;=:@-]+)+/?|/")
_SEPARATOR: Final = re.compile(r"[_./-]{1,8}")
_VISIBLE: Final = re.compile(r"[!-~]+")
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,128}")
_HEADER_VALUE: Final = re.compile(r"[!-~]([ \t!-~]{0,4094}[!-~])?")
_OWN_HEADERS: Final = frozenset(
    {
        "accept", "accept-encoding", "connection", "content-encoding", "content-length", "content-type", "expect",
        "host", "keep-alive", "last-event-id", "proxy-authorization", "proxy-connection", "te", "trailer",
        "transfer-encoding", "upgrade", "user-agent",
    }
)  # fmt: skip
"""What we say ourselves, and what is about a connection, which is ours (RFC 9110, section 7.6.1)."""
_MODE: Final = re.compile(r"0?[0-7]{3}")
_GROUP: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_MANAGEMENT_PREFIX: Final = re.compile(r"[A-Za-z0-9_-]{1,32}")
_SIZE: Final = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,3})?) ?([kKmMgG][iI]?[bB]?|[bB]?)")
_UNITS: Final = {
    "": 1, "b": 1, "k": 1000, "kb": 1000, "ki": 1024, "kib": 1024, "m": 10**6, "mb": 10**6, "mi": 2**20, "mib": 2**20,
    "g": 10**9, "gb": 10**9, "gi": 2**30, "gib": 2**30,
}  # fmt: skip


class ConfigError(ValueError):
    """A setting that cannot be used. The text is for the user and says why."""


@dataclass(frozen=True, slots=True)
class Server:
    """A configured backend MCP server."""

    name: str
    url: str
    """May have references to secrets in its query (configuration/references.py), and is shown with them.

    "" for a server that is a command.
    """
    enabled: bool = True
    """False: it is known, but has no worker."""
    headers: tuple[tuple[str, str], ...] = ()
    """Fields sent with every request to it; values may have references."""
    group: str = ""
    """The group of replicas it belongs to or, if no such group is declared, a label for people; "" for none."""
    namespace: str | None = None
    """In front of the public names of its tools, instead of its name."""
    priority: int = 0
    """Without prefixes, who gets a name that several servers offer: the highest."""
    rules: ToolRules = field(default_factory=ToolRules)
    """Which of its tools are offered, and how."""
    # What is None is as for all servers (`Settings`).
    call_timeout_s: float | None = None
    tool_timeouts: tuple[tuple[str, float], ...] = ()
    """(tool, seconds), each tool once, by the names the server gives them."""
    memory_limit: int | None = None
    """Bytes; 0 for none."""
    in_flight_max: int | None = None
    queue_max: int | None = None
    trust_annotations: bool | None = None
    retries_max: int | None = None
    durable_after_s: float | None = None
    """Calls of clients that take tasks become tasks of ours after so long; 0: never."""
    ca_file: str = ""
    """Authorities that it may have its certificate from, beside those of the system; paths begin with / or ~/."""
    client_cert: str = ""
    """What we show it, if it wants to see a certificate."""
    client_key: str = ""
    """"" if it is in the same file."""
    proxy: str = ""
    """The URL of the proxy before it, which may have references; "none" for none, "" for what the environment says."""
    http2: bool = False
    """It is offered HTTP/2; its URL begins with https:// then."""
    allow_private: bool | None = None
    """The name in its URL may lead to a private address, also if it seems to be public."""
    command: str = ""
    """The program to start, for a server that speaks on its standard input and output; it has no `url` then."""
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    """Variables it gets beside the usual ones; values may have references."""
    env_file: str = ""
    """A file with more of them, read each time it is started; what `env` says counts more."""
    process_limit: int = 0
    """Processes, with all that it starts; 0 for as many as it likes."""
    cpu_limit: int = 0
    """Processors that they run on; 0 for all."""
    nice: int = 0
    """How much it gives way to others, 0 to 19."""
    cwd: str = ""
    """Where it is started; "" for where the proxy was."""
    replicas: int = 1
    """How many servers are meant by this one, in a file; 1 in everything that runs (groups.py)."""
    fallback: tuple[tuple[str, str], ...] = ()
    """(tool, SERVER__TOOL): what takes a call that this server cannot serve (fallbacks.py)."""
    discover: str = ""
    """"dns": every address of the host in its URL is a replica (discovery.py), and it has no worker itself."""
    discover_every_s: float = limits.DISCOVER_EVERY_S
    found_for: str = ""
    """The server that such a replica was found for; "" for all others. It is in no file."""
    address: str = ""
    """Where that replica is: an IP address."""

    isolation: str = SHARED
    """One of `ISOLATIONS`: whether all clients share a session with it, or each has its own."""
    session_limit: int | None = None
    """How many clients may have their own at a time."""

    transport: str = ""
    """How it is spoken to, one of `TRANSPORTS`; "" for what its command or URL says, of which http may mean either."""

    @property
    def shown_transport(self) -> str:
        """The same for people, as far as it is known without having spoken to it."""
        if self.transport or self.command:
            return self.transport or "stdio"
        return "ws" if self.url.lower().startswith(_WEBSOCKET) else "http"


@dataclass(frozen=True, slots=True)
class Group:
    """Servers that are replicas of one another, which clients see under one name (supervisor/groups.py)."""

    name: str
    servers: tuple[str, ...] = ()
    """In the order in which the policy "priority" prefers them."""
    policy: str = "least_loaded"
    weights: tuple[tuple[str, float], ...] = ()
    """By the names of servers; 1 for those that are not here."""
    canary: tuple[tuple[str, float], ...] = ()
    """Percentages of the calls that single servers get, whatever the policy; the others share the rest."""
    sticky_by: str = ""
    """The argument of a call, or "header:" and a field of its request, whose value decides which replica gets it,
    instead of the client's session."""
    hedge: bool = False
    """Ask another replica as well when a read-only call takes unusually long."""
    namespace: str | None = None
    priority: int = 0
    rules: ToolRules = field(default_factory=ToolRules)
    fallback: tuple[tuple[str, str], ...] = ()
    """As of a server."""


@dataclass(frozen=True, slots=True)
class Portion:
    """How many of its group's calls a replica gets."""

    weight: float = 1.0
    """Compared with the others."""
    percent: float = 0.0
    """Of all calls, whatever the weights; 0 for none set apart."""


@dataclass(frozen=True, slots=True)
class Settings:
    """One whole and checked configuration."""

    servers: tuple[Server, ...]
    groups: tuple[Group, ...] = ()
    stdio: bool = False
    http: bool = False
    hosts: tuple[str, ...] = ("127.0.0.1",)
    port: int = 8001
    websocket_path: str = ""
    """Where clients can connect over WebSocket; "" for nowhere."""
    listen_unix: str = ""
    """A Unix socket to listen on for HTTP, with or without `http`; "" for none."""
    listen_unix_mode: int = 0o600
    tls_cert: str = ""
    """The certificate, and those it depends on, for HTTP over TLS on all TCP sockets; "" for none."""
    tls_key: str = ""
    """Its key; "" if that is in the same file."""
    trusted_proxies: tuple[str, ...] = ()
    """Networks whose word about clients counts, and "unix" for those who connect to the Unix socket."""
    proxy_protocol: bool = False
    """Connections from there begin with a header of the PROXY protocol."""
    sse: bool = False
    """Serve clients that know HTTP+SSE (2024-11-05) only."""
    fronts: int = 1
    """Processes that serve clients over HTTP."""
    path: str = "/mcp"
    separator: str = "__"
    namespace: Policy = Policy.PREFIX
    name_limit: int = NAME_CHARACTERS_MAX
    """Characters of a public name, for clients in general; 0 to leave names as they are."""
    lazy_above: int = -1
    """List three tools that find and call the others, if there are more of those than this; -1: never."""
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    call_timeout_s: float = limits.CALL_TIMEOUT_S
    """0: as long as a call may take at all (`CALL_CEILING_S`). So it is everywhere in these settings."""
    memory_limit: int = limits.MEMORY_LIMIT_BYTES
    """Bytes each backend worker may have; 0 for no limit."""
    in_flight_max: int = limits.IN_FLIGHT_PER_SERVER_MAX
    queue_max: int = limits.QUEUE_PER_SERVER_MAX
    page_size: int = 0
    retries_max: int = limits.RETRIES
    durable_after_s: float = 0.0
    trust_annotations: bool = True
    """Believe tools that call themselves read-only or idempotent: their calls may be sent again after a crash."""
    state_dir: str = ""
    """"" for the user's usual one."""
    debug: bool = False
    log_file: str = ""
    """"" for none."""
    allow_private: bool = False
    """Names in URLs may lead to private addresses, also those that seem to be public."""
    allow_stdio_add: bool = False
    """Servers that are commands may be added at run time."""
    management: tuple[str, ...] = ()
    """Public names of the management tools, in the order of `protocol.management.TOOL_NAMES`; empty for none."""
    admin: bool = True
    admin_socket: str = ""
    """"" for a place where `ctl` finds it."""
    admin_listen: tuple[str, int] | None = None
    """Host and port of the admin door over TCP; None for none."""
    admin_token_file: str = ""
    """Where its token is; "" for the state directory."""
    config_file: str = ""
    """Where what can be changed at run time comes from; "" if there is no such file."""
    config_identity: tuple[int, int, int, int] | None = None
    """Of the file as it was read: device, inode, time of change in ns, size."""
    notes: tuple[str, ...] = ()
    """What of the file is left out, and why: lines for people."""

    @property
    def has_http(self) -> bool:
        """Whether clients connect over HTTP, by whatever kind of socket."""
        return self.http or bool(self.listen_unix)


def shown(text: str) -> str:
    """Return a piece of the user's input as an error message may repeat it: quoted, visible, short, and no password."""
    _, at, after = text.rpartition("@")
    text = f"...@{after}" if at else text
    cut = text if len(text) <= SHOWN_CHARS_MAX else text[: SHOWN_CHARS_MAX - 3] + "..."
    return ascii(cut)


def parse_servers(texts: Iterable[str], separator: str) -> tuple[Server, ...]:
    """Return the servers of "name=url" and "name=command arguments" texts.

    Each may hold several, separated by commas; those within quotes, in a command, separate nothing. Those of
    "name=url|url" and "name=command | command" are replicas of the group of that name.
    """
    pieces = (piece.strip() for text in texts for piece in _pieces(text))
    servers = [server for piece in pieces for server in _parse_piece(piece, separator)]
    check_servers(servers)
    return tuple(servers)


def check_servers(servers: Sequence[Server]) -> None:
    """Check what no single server can know."""
    if len(servers) > SERVERS_MAX:
        raise ConfigError(f"{len(servers)} servers are too many; at most {SERVERS_MAX} are possible")
    names = [server.name for server in servers]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        raise ConfigError(f"two servers are called {twice!r}; give each its own name")
    if sum(len(server.name) + len(server.url) for server in servers) > SERVERS_BYTES_MAX:
        raise ConfigError(f"names and URLs together are longer than {SERVERS_BYTES_MAX} characters")
    tools = [tool for server in servers for tool, _ in server.tool_timeouts]
    if sum(len(tool.encode()) + TOOL_EXTRA_BYTES for tool in tools) > TOOLS_BYTES_MAX:
        raise ConfigError(f"{len(tools)} tools have timeouts of their own, which is too many with names that long")


def _pieces(text: str) -> Iterator[str]:
    """Yield the servers in a text."""
    while True:
        end = _piece_end(text)
        yield text[:end]
        if end == len(text):
            return
        text = text[end + 1 :]


def _piece_end(text: str) -> int:
    """Return where the first server in the text ends: at a comma, or with the text."""
    from supervisor.command import is_address

    quoting = not is_address(text.partition("=")[2].lstrip())  # in a URL a quote is a character like any other
    quote, at = "", 0
    while at < len(text):
        char = text[at]
        if quoting and char == "\\" and quote != "'":
            at += 1
        elif quoting and char in "'\"" and quote in ("", char):
            quote = "" if quote else char
        elif char == "," and not quote:
            return at
        at += 1
    return len(text)


def _parse_piece(piece: str, separator: str) -> Sequence[Server]:
    name, equals, url = (part.strip() for part in piece.partition("="))
    if not piece:
        raise ConfigError("there is an empty entry; write name=url,name=url without a comma too many")
    if not equals or "://" in name:
        # What is before the first "=" of a URL's query would otherwise be taken for a name, and repeated.
        hint = (
            "write name=url, for example main=http://localhost:8000/mcp (and a comma inside of a URL as %2C), "
            'or "name=command arguments" in quotes'
        )
        where = "a server has no name" if "://" in piece else f"{shown(piece)} has no '='"
        raise ConfigError(f"{where}; {hint}")
    if not name:
        raise ConfigError("a server has no name before its '='; write name=url")
    texts, group = [url], ""
    if "|" in url:
        from supervisor import groups  # needed by few

        texts = groups.alternatives(url)
        group = name if len(texts) > 1 else ""
    names = [f"{name}-{number}" for number in range(1, len(texts) + 1)] if group else [name]
    if fault := next((fault for one in names if (fault := server_name_fault(one, separator))), ""):
        raise ConfigError(f"{shown(names[-1])}: {fault}")
    for one, text in zip(names, texts, strict=True):
        last = f"{one}-{limits.DISCOVERED_MAX}"
        if text.startswith(DNS_PREFIX) and (fault := server_name_fault(last, separator)):
            raise ConfigError(f"server {one!r} would make servers up to {last!r}: {fault}")
    return [_server_at(one, text, group) for one, text in zip(names, texts, strict=True)]


def _server_at(name: str, text: str, group: str) -> Server:
    """Return the server with this URL or command."""
    from supervisor import command

    try:
        if text and not command.is_address(text):
            program, arguments = command.split(text)
            return Server(name, "", group=group, command=program, args=arguments)
        found = Server(name, text.removeprefix(DNS_PREFIX), group=group)
        check_url(found.url)
        if "${" in text:
            from supervisor.configuration.references import check_url_references  # needed by few

            check_url_references(text)
        if text.startswith(DNS_PREFIX):
            found = replace(found, discover=DNS)
            for key, fault in check_discovery(found).items():
                raise ConfigError(f"{key} {fault}")
    except ConfigError as error:
        raise ConfigError(f"server {name!r}: {error}") from None
    return found


def check_url(url: str) -> None:
    """Check the URL of a server."""
    if not url:
        raise ConfigError("the URL is missing; write name=url")
    if len(url) > URL_CHARS_MAX:
        raise ConfigError(f"the URL is longer than {URL_CHARS_MAX} characters")
    if not _VISIBLE.fullmatch(url) or "\\" in url:
        raise ConfigError("the URL has a space, a backslash or another character that must be percent-encoded")
    scheme = url.partition(":")[0].lower()
    if "://" not in url or scheme not in ("http", "https", "unix", "ws", "wss"):
        raise ConfigError("the URL must begin with http://, https://, ws://, wss:// or unix://")
    if "#" in url:
        raise ConfigError("the URL has a fragment (#...), which is never sent to a server; leave it out")
    if scheme == "unix":
        _check_unix_url(url)
        return
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ConfigError("the host or port of the URL cannot be read") from None
    if "@" in parts.netloc:
        raise ConfigError("the URL has a user name or password, which would end up in logs; leave it out")
    if not host:
        raise ConfigError("the URL has no host")
    if not is_host(host) or parts.netloc.endswith(":") or port == 0:
        raise ConfigError("the host or port of the URL cannot be read")


def check_transport(transport: str, *, command: str, url: str) -> None:
    """Check that a server with this command, or else this URL, can be spoken to so; "" always can."""
    if not transport:
        return
    if (transport == "stdio") != bool(command):
        fit = "only a server with a command speaks on stdio" if transport == "stdio" else "a command speaks on stdio"
        raise ConfigError(f"{transport} is not possible here: {fit}")
    if not command and (transport == "ws") != url.lower().startswith(_WEBSOCKET):
        raise ConfigError(
            f"{transport} does not fit the URL: WebSocket is ws://, Streamable HTTP and HTTP+SSE are http://"
        )


def check_discovery(server: Server) -> Mapping[str, str]:
    """Return what is wrong with how the addresses of a server are to be found, by the keys that say it."""
    if not server.discover:
        return {}
    wrong: dict[str, str] = {}
    host = urlsplit(server.url).hostname or ""
    if server.url.lower().startswith("unix://") or is_address(host):
        wrong["discover"] = "looks up a name, and the URL has none"
    if server.proxy not in ("", "none"):
        wrong["proxy"] = "is not possible before a server whose addresses are looked up"
    return wrong


def parse_discover_every(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not limits.DISCOVER_EVERY_MIN_S <= seconds <= limits.DISCOVER_EVERY_MAX_S:  # false for nan, too
        raise ConfigError(
            f"{shown(text)} is not a time between look-ups; give {limits.DISCOVER_EVERY_MIN_S:g} to "
            f"{limits.DISCOVER_EVERY_MAX_S:g} seconds"
        )
    return seconds


def _check_unix_url(url: str) -> None:
    from protocol.unix_url import split  # needed by few

    try:
        split(url)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def check_tls(server: Server) -> Mapping[str, str]:
    """Return what is wrong with how TLS and proxy of a server are configured, by the keys that say it."""
    wrong: dict[str, str] = {}
    if not server.url.lower().startswith(("https://", "wss://")):
        words = ("ca_file", "client_cert", "client_key")
        wrong = {word: "is for servers with an https:// URL or a wss:// URL" for word in words if getattr(server, word)}
    elif server.client_key and not server.client_cert:
        wrong["client_key"] = "is there without client_cert"
    if server.http2 and not server.url.lower().startswith("https://"):
        wrong["http2"] = "is for servers with an https:// URL: HTTP/2 is agreed on in the TLS handshake"
    if server.proxy and server.url.lower().startswith("unix://"):
        wrong["proxy"] = "is not possible before a Unix socket"
    return wrong


def parse_own_file(text: str) -> str:
    """Check the path of a certificate or key."""
    if not text.startswith(("/", "~/")) or "\0" in text:
        raise ConfigError(f"{shown(text)} is not a file; its path must begin with / or ~/")
    return text


def parse_server_name(text: str, separator: str) -> str:
    if fault := server_name_fault(text, separator):
        raise ConfigError(f"{shown(text)}: {fault}")
    return text


def parse_headers(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return headers for every request to a server. No message repeats a value: it may be a secret."""
    if len(headers) > limits.HEADERS_PER_SERVER_MAX:
        raise ConfigError(f"{len(headers)} headers are too many; at most {limits.HEADERS_PER_SERVER_MAX} are possible")
    for name, value in headers.items():
        check_header_name(name)
        try:
            check_header_value(value)
        except ConfigError as error:
            raise ConfigError(f"the value of the header {name} {error}") from None
    return tuple(headers.items())


def check_field_name(name: str) -> None:
    """Check the name of any header field (RFC 9110, section 5.1)."""
    if not _HEADER_NAME.fullmatch(name):
        raise ConfigError(f"{shown(name)} is not a header name")


def check_header_name(name: str) -> None:
    check_field_name(name)
    if name.lower() in _OWN_HEADERS or name.lower().startswith("mcp-"):
        raise ConfigError(f"the header {name} is set by the proxy itself; leave it out")


def check_header_value(value: str) -> None:
    """Check a value (RFC 9110, section 5.5). The message continues "the value ..."."""
    if not _HEADER_VALUE.fullmatch(value):
        raise ConfigError(
            "has a character that no header may have (a line break would begin another header), or is too long"
        )


def parse_group(text: str) -> str:
    if text and not _GROUP.fullmatch(text):
        raise ConfigError(f"{shown(text)} is not a group; use 1 to 64 letters, digits, '.', '-' and '_'")
    return text


def parse_management_prefix(text: str) -> str:
    if not _MANAGEMENT_PREFIX.fullmatch(text):
        raise ConfigError(f"{shown(text)} cannot begin a tool's name; use 1 to 32 letters, digits, '-' and '_'")
    return text


def is_host(host: str) -> bool:
    """Whether the text is a host name or an address."""
    return is_address(host) or bool(_HOST_NAME.fullmatch(host))


def is_address(host: str) -> bool:
    """Whether the text is an IPv4 or IPv6 address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def parse_listen_host(text: str) -> str:
    """Return the name or address to listen on, without the brackets of an IPv6 address."""
    host = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if not is_host(host):
        raise ConfigError(f"{shown(text)} is neither a host name nor an IP address")
    return host


def names_of(hosts: Iterable[str]) -> tuple[str, ...]:
    """Return how clients may call us because we listen there. An address for everything is nobody's name."""
    return tuple(host.lower() for host in hosts if host not in ("0.0.0.0", "::"))  # noqa: S104 - compared, not bound


def parse_allowed_host(text: str) -> str:
    """Return a host name as it is compared: lower case, no brackets, no dot at its end."""
    host = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if not is_host(host):
        raise ConfigError(f"{shown(text)} is not a host name; give it without a port, and each by its own option")
    return host.lower().rstrip(".")


def parse_origin(text: str) -> str:
    """Return an origin as browsers send it: scheme://host or scheme://host:port, lower case."""
    advice = f"{shown(text)} is not an origin; write it as browsers do, for example https://app.example.com:8443"
    try:
        parts = urlsplit(text)
        valid = bool(parts.hostname) and is_host(parts.hostname or "") and parts.port != 0
    except ValueError:
        raise ConfigError(advice) from None
    plain = not (parts.path or parts.query or parts.fragment or "@" in parts.netloc or parts.netloc.endswith(":"))
    if not (valid and plain and parts.scheme and _VISIBLE.fullmatch(text) and len(text) <= ORIGIN_CHARS_MAX):
        raise ConfigError(advice)
    return text.lower()


def parse_port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= PORT_MAX):
        raise ConfigError(f"{shown(text)} is not a port; give a number from 0 to {PORT_MAX} (0: any free one)")
    return int(text)


def parse_listen_address(text: str) -> tuple[str, int]:
    """Return host and port of HOST:PORT, [IPv6]:PORT or PORT (on loopback)."""
    host, colon, port = text.rpartition(":")
    if not colon:
        return "127.0.0.1", parse_port(port)
    if ":" in host and not host.startswith("["):
        raise ConfigError(f"{shown(text)} is no HOST:PORT; an IPv6 address stands in brackets, as in [::1]:9901")
    return parse_listen_host(host), parse_port(port)


def parse_unix_path(text: str) -> str:
    """Check where a Unix socket is to be (unix(7): 108 bytes with the zero at the end)."""
    if not text or "\0" in text or len(os.path.abspath(text).encode("utf-8", "surrogateescape")) > UNIX_PATH_BYTES_MAX:
        raise ConfigError(f"{shown(text)} cannot be a Unix socket; give a path of 1 to {UNIX_PATH_BYTES_MAX} bytes")
    return text


def parse_mode(text: str) -> int:
    """Return the mode of a file from its octal digits."""
    if not _MODE.fullmatch(text):
        raise ConfigError(f"{shown(text)} is not the mode of a socket; give three octal digits such as 600 or 660")
    return int(text, 8)


def parse_trusted_proxy(text: str) -> str:
    """Return a network as "10.0.0.0/8", or "unix"."""
    if text == UNIX:
        return text
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        advice = "give an address, or a network such as 10.0.0.0/8"
        raise ConfigError(f"{shown(text)} is no network; {advice}, or unix") from None


def parse_trusted_proxies(text: str) -> list[str]:
    """Return the networks of a text in which commas separate them."""
    return [parse_trusted_proxy(part.strip()) for part in text.split(",")]


def parse_path(text: str) -> str:
    if len(text) > PATH_CHARS_MAX or not _PATH.fullmatch(text) or any(part in (".", "..") for part in text.split("/")):
        raise ConfigError(f"{shown(text)} is not a path; it begins with '/' and has no '?', '#', '%' or empty part")
    return text


def parse_separator(text: str) -> str:
    if not _SEPARATOR.fullmatch(text):
        raise ConfigError(
            f"{shown(text)} cannot separate names; use 1 to 8 of the characters '_', '-', '.' and '/', "
            "or --namespace none for names without prefixes"
        )
    return text


def parse_call_timeout(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= limits.CALL_CEILING_S:  # false for nan, too
        raise ConfigError(
            f"{shown(text)} is not a time; give seconds, at most {limits.CALL_CEILING_S:g} "
            "(0: that long, which no call may exceed)"
        )
    return seconds


def parse_durable_after(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < limits.CALL_CEILING_S:  # false for nan, too
        raise ConfigError(
            f"{shown(text)} is not a time; give seconds, less than {limits.CALL_CEILING_S:g}, or 0 for never"
        )
    return seconds


def parse_name_limit(text: str) -> int:
    limit = int(text) if text.isascii() and text.isdigit() and len(text) <= 3 else -1
    if limit and not NAME_CHARACTERS_LEAST <= limit <= NAME_LIMIT_MAX:
        raise ConfigError(
            f"{shown(text)} is not a length for names; give {NAME_CHARACTERS_LEAST} to {NAME_LIMIT_MAX}, "
            "or 0 to leave names as they are"
        )
    return limit


def parse_count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 6):
        raise ConfigError(f"{shown(text)} is not a number of tools; give 0 or more")
    return int(text)


def check_tool_name(tool: str) -> None:
    """Check the name that a server gives a tool."""
    if not (0 < len(tool) <= TOOL_CHARS_MAX and tool.isprintable()):
        raise ConfigError(f"{shown(tool)} names no tool; give the name the server gives it")


def parse_memory_limit(text: str) -> int:
    """Return the bytes of a size as people write it: a number and MiB, GiB, MB or GB."""
    found = _SIZE.fullmatch(text)
    size = int(float(found[1]) * _UNITS[found[2].lower()]) if found else -1
    if size and size < limits.MEMORY_LIMIT_MIN_BYTES:
        raise ConfigError(
            f"{shown(text)} is not a memory limit; give a size such as 512MiB or 1.5GiB, at least "
            f"{limits.MEMORY_LIMIT_MIN_BYTES // limits.MIB}MiB (0: no limit)"
        )
    return size


def parse_in_flight(text: str) -> int:
    return _parse_whole_number(text, 1, limits.IN_FLIGHT_PER_SERVER_MAX, "a number of calls in flight")


def parse_fronts(text: str) -> int:
    return _parse_whole_number(text, 1, limits.FRONTS_MAX, "a number of fronts")


def parse_process_limit(text: str) -> int:
    return _parse_whole_number(text, 0, limits.COMMAND_PROCESSES_MAX, "a number of processes")


def parse_cpu_limit(text: str) -> int:
    return _parse_whole_number(text, 0, limits.COMMAND_PROCESSORS_MAX, "a number of processors")


def parse_session_limit(text: str) -> int:
    return _parse_whole_number(text, 1, limits.SESSION_LIMIT_MAX, "a number of sessions")


def parse_nice(text: str) -> int:
    return _parse_whole_number(text, 0, 19, "a niceness")


def parse_retries(text: str) -> int:
    return _parse_whole_number(text, 0, limits.RETRIES_MAX, "a number of retries")


def parse_queue(text: str) -> int:
    return _parse_whole_number(text, 0, QUEUE_MAX, "a number of waiting calls")


def _parse_whole_number(text: str, lowest: int, highest: int, what: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 6 and lowest <= int(text) <= highest):
        raise ConfigError(f"{shown(text)} is not {what}; give a whole number from {lowest} to {highest}")
    return int(text)


def parse_page_size(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 6 and int(text) <= limits.LIST_ITEMS_MAX):
        raise ConfigError(
            f"{shown(text)} is not a page size; give 0 to {limits.LIST_ITEMS_MAX} (0: everything at once)"
        )
    return int(text)


def parse_file(text: str) -> str:
    if not text or "\0" in text:
        raise ConfigError("a path must not be empty")
    return text
