"""What a run of the proxy is told: `Settings`, and the checks that every part of it has passed.

Each check raises `ConfigError` with the reason alone; the caller says which option it was about. No message repeats a
URL: it may hold a password.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from protocol import limits
from protocol.names import server_name_fault

SERVERS_MAX: Final = 200
SERVERS_BYTES_MAX: Final = 48 * limits.KIB
"""All names and URLs together; they reach the front in one control packet."""
URL_CHARS_MAX: Final = 2048
NAMES_MAX: Final = 50
"""Allowed hosts, and allowed origins; they are in the same packet."""
ORIGIN_CHARS_MAX: Final = 300
PATH_CHARS_MAX: Final = 256
PORT_MAX: Final = 65_535
QUEUE_MAX: Final = 4096
"""Calls that may be allowed to wait for one server. They are refused after a second, so more would not be served."""
SHOWN_CHARS_MAX: Final = 80

_HOST_NAME: Final = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_-]+)*\.?")
_PATH: Final = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,;=:@-]+)+/?|/")
_SEPARATOR: Final = re.compile(r"[_./-]{1,8}")
_VISIBLE: Final = re.compile(r"[!-~]+")
_SIZE: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?) ?([kKmMgG][iI]?[bB]?|[bB]?)")
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
    # What is None is as for all servers (`Settings`).
    call_timeout_s: float | None = None
    tool_timeouts: tuple[tuple[str, float], ...] = ()
    """(tool, seconds), each tool once, by the names the server gives them."""
    memory_limit: int | None = None
    """Bytes; 0 for none."""
    in_flight_max: int | None = None
    queue_max: int | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """One whole and checked configuration."""

    servers: tuple[Server, ...]
    stdio: bool = False
    http: bool = False
    hosts: tuple[str, ...] = ("127.0.0.1",)
    port: int = 8001
    path: str = "/mcp"
    separator: str = "__"
    """"" for public names without prefixes."""
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    call_timeout_s: float = limits.CALL_TIMEOUT_S
    """0: as long as a call may take at all (`CALL_CEILING_S`). So it is everywhere in these settings."""
    memory_limit: int = limits.MEMORY_LIMIT_BYTES
    """Bytes each backend worker may have; 0 for no limit."""
    in_flight_max: int = limits.IN_FLIGHT_PER_SERVER_MAX
    queue_max: int = limits.QUEUE_PER_SERVER_MAX
    page_size: int = 0
    trust_annotations: bool = True
    """Believe tools that call themselves read-only or idempotent: their calls may be sent again after a crash."""
    state_dir: str = ""
    """"" for the user's usual one."""
    debug: bool = False
    log_file: str = ""
    """"" for none."""


def shown(text: str) -> str:
    """Return a piece of the user's input as an error message may repeat it: quoted, visible, short, and no password."""
    _, at, after = text.rpartition("@")
    text = f"...@{after}" if at else text
    cut = text if len(text) <= SHOWN_CHARS_MAX else text[: SHOWN_CHARS_MAX - 3] + "..."
    return ascii(cut)


def parse_servers(texts: Iterable[str], separator: str) -> tuple[Server, ...]:
    """Return the servers of "name=url" texts, each of which may hold several, separated by commas."""
    servers: list[Server] = []
    for piece in (piece.strip() for text in texts for piece in text.split(",")):
        server = _parse_server(piece, separator)
        if any(known.name == server.name for known in servers):
            raise ConfigError(f"two servers are called {server.name!r}; give each its own name")
        servers.append(server)
    if len(servers) > SERVERS_MAX:
        raise ConfigError(f"{len(servers)} servers are too many; at most {SERVERS_MAX} are possible")
    if sum(len(server.name) + len(server.url) for server in servers) > SERVERS_BYTES_MAX:
        raise ConfigError(f"names and URLs together are longer than {SERVERS_BYTES_MAX} characters")
    return tuple(servers)


def _parse_server(piece: str, separator: str) -> Server:
    name, equals, url = (part.strip() for part in piece.partition("="))
    if not piece:
        raise ConfigError("there is an empty entry; write name=url,name=url without a comma too many")
    if not equals or "://" in name:
        # What is before the first "=" of a URL's query would otherwise be taken for a name, and repeated.
        hint = "write name=url, for example main=http://localhost:8000/mcp (and a comma inside of a URL as %2C)"
        where = "a server has no name" if "://" in piece else f"{shown(piece)} has no '='"
        raise ConfigError(f"{where}; {hint}")
    if not name:
        raise ConfigError("a server has no name before its '='; write name=url")
    if fault := server_name_fault(name, separator):
        raise ConfigError(f"{shown(name)}: {fault}")
    try:
        check_url(url)
    except ConfigError as error:
        raise ConfigError(f"server {name!r}: {error}") from None
    return Server(name, url)


def check_url(url: str) -> None:
    """Check the URL of a server."""
    if not url:
        raise ConfigError("the URL is missing; write name=url")
    if len(url) > URL_CHARS_MAX:
        raise ConfigError(f"the URL is longer than {URL_CHARS_MAX} characters")
    if not _VISIBLE.fullmatch(url) or "\\" in url:
        raise ConfigError("the URL has a space, a backslash or another character that must be percent-encoded")
    scheme = url.partition(":")[0].lower()
    if "://" not in url or scheme not in ("http", "https"):
        raise ConfigError("the URL must begin with http://")
    if scheme == "https":
        raise ConfigError("https is not supported by this version yet; use http, or end TLS in front of the server")
    if "#" in url:
        raise ConfigError("the URL has a fragment (#...), which is never sent to a server; leave it out")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ConfigError("the host or port of the URL cannot be read") from None
    if "@" in parts.netloc:
        raise ConfigError("the URL has a user name or password, which would end up in logs; leave it out")
    if not host:
        raise ConfigError("the URL has no host")
    if not _is_host(host) or parts.netloc.endswith(":") or port == 0:
        raise ConfigError("the host or port of the URL cannot be read")


def _is_host(host: str) -> bool:
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
    if not _is_host(host):
        raise ConfigError(f"{shown(text)} is neither a host name nor an IP address")
    return host


def names_of(hosts: Iterable[str]) -> tuple[str, ...]:
    """Return how clients may call us because we listen there. An address for everything is nobody's name."""
    return tuple(host.lower() for host in hosts if host not in ("0.0.0.0", "::"))  # noqa: S104 - compared, not bound


def parse_allowed_host(text: str) -> str:
    """Return a host name as it is compared: lower case, no brackets, no dot at its end."""
    host = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if not _is_host(host):
        raise ConfigError(f"{shown(text)} is not a host name; give it without a port, and each by its own option")
    return host.lower().rstrip(".")


def parse_origin(text: str) -> str:
    """Return an origin as browsers send it: scheme://host or scheme://host:port, lower case."""
    advice = f"{shown(text)} is not an origin; write it as browsers do, for example https://app.example.com:8443"
    try:
        parts = urlsplit(text)
        valid = bool(parts.hostname) and _is_host(parts.hostname or "") and parts.port != 0
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
    return _parse_count(text, 1, limits.IN_FLIGHT_PER_SERVER_MAX, "a number of calls in flight")


def parse_queue(text: str) -> int:
    return _parse_count(text, 0, QUEUE_MAX, "a number of waiting calls")


def _parse_count(text: str, lowest: int, highest: int, what: str) -> int:
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
