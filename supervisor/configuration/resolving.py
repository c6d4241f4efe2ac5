"""What a server's worker is told in place of references: its URL and header fields with the values in them. Pure."""

from __future__ import annotations

from typing import Final

from supervisor import config
from supervisor.config import ConfigError, Server
from supervisor.configuration.references import LookUp, resolved, resolved_url

HEADERS_CHARS_MAX: Final = 32 * 1024
"""All of one server; they reach its worker in one control packet."""


def resolved_server(server: Server, look_up: LookUp) -> tuple[str, list[tuple[str, str]]]:
    """Return URL and header fields. Errors: `ConfigError` that names the part, never the value."""
    try:
        url = url_of(server.url, look_up)
    except ConfigError as error:
        raise ConfigError(f"its url cannot be used: {error}") from None
    fields: list[tuple[str, str]] = []
    for name, text in server.headers:
        try:
            fields.append((name, value_of(text, look_up)))
        except ConfigError as error:
            raise ConfigError(f"its header {name} cannot be used: {error}") from None
    if sum(len(name) + len(value) for name, value in fields) > HEADERS_CHARS_MAX:
        raise ConfigError(f"its headers are longer than {HEADERS_CHARS_MAX} characters")
    return url, fields


def url_of(url: str, look_up: LookUp) -> str:
    """Return a URL with the values in it. Errors: `ConfigError`."""
    found = resolved_url(url, look_up)
    config.check_url(found)
    return found


def value_of(text: str, look_up: LookUp) -> str:
    """Return a header's value with the values in it. Errors: `ConfigError`."""
    found = resolved(text, look_up)
    config.check_header_value(found)
    return found
