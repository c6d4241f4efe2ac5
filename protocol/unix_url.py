"""The URL of a server behind a Unix socket: `unix:///run/files.sock:/mcp`, that is socket, colon, path and query.

A path is separated as nginx does it, because sockets have names with any character; a colon in one is written %3A.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote

PREFIX: Final = "unix://"
USUAL_PATH: Final = "/mcp"
SOCKET_BYTES_MAX: Final = 107
"""unix(7): sun_path has 108 bytes, and a zero ends it."""


def split(url: str) -> tuple[str, str]:
    """Return the path of the socket, and what follows it: path and query of the endpoint.

    Errors: `ValueError` with the reason.
    """
    place, colon, target = url.removeprefix(PREFIX).partition(":")
    place, question, query = place.partition("?")
    path = unquote(place, errors="surrogateescape")
    if not url.startswith(PREFIX) or not path.startswith("/") or path.endswith("/") or "\0" in path:
        raise ValueError("the URL of a Unix socket is unix:// and an absolute path, as in unix:///run/files.sock:/mcp")
    if len(path.encode("utf-8", "surrogateescape")) > SOCKET_BYTES_MAX:
        raise ValueError(f"the path of a Unix socket has at most {SOCKET_BYTES_MAX} bytes")
    if question:
        return path, f"{USUAL_PATH}?{query}{colon}{target}"
    if colon and not target.startswith("/"):
        raise ValueError("behind the colon of a Unix socket's URL stands a path that begins with '/'")
    return path, target or USUAL_PATH
