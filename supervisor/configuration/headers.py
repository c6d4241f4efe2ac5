"""Checks the header fields that a server is to be sent with every request. Pure."""

from __future__ import annotations

import re
from typing import Final

from supervisor.config import ConfigError

FIELDS_MAX: Final = 32
FIELD_CHARS_MAX: Final = 8 * 1024
"""Of a value, also after its references are looked up."""
FIELDS_CHARS_MAX: Final = 32 * 1024
"""All fields of one server; they reach its worker in one control packet."""
_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_VALUE: Final = re.compile(r"[!-~](?:[ -~\t]*[!-~])?")
"""RFC 9110, section 5.5: visible ASCII, with blanks and tabs inside only."""
_OURS: Final = frozenset(
    {"accept", "accept-encoding", "content-encoding", "content-length", "content-type", "expect", "host"}
    | {"last-event-id", "user-agent"}
)
_HOP_BY_HOP: Final = frozenset(
    {"connection", "keep-alive", "proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding"}
    | {"upgrade"}
)
"""RFC 9110, section 7.6.1: about a connection, which is ours."""


def check_name(name: str) -> None:
    """Errors: `ConfigError`."""
    lower = name.lower()
    if not _TOKEN.fullmatch(name):
        raise ConfigError("is no name of a header field; write for example Authorization or X-Api-Key")
    if lower in _HOP_BY_HOP:
        raise ConfigError("is about the connection, which the proxy sees to; leave it out")
    if lower in _OURS or lower.startswith("mcp-"):
        raise ConfigError("is set by the proxy itself; leave it out")


def check_value(value: str) -> None:
    """Errors: `ConfigError`, which does not repeat the value."""
    if len(value) > FIELD_CHARS_MAX:
        raise ConfigError(f"is longer than {FIELD_CHARS_MAX} characters")
    if not _VALUE.fullmatch(value):
        raise ConfigError(
            "must be visible ASCII characters, with blanks only between them (a line break would begin another field)"
        )
