"""What a server's worker is told in place of references: its URL and header fields with the values in them. Pure."""

from __future__ import annotations

from supervisor import config
from supervisor.config import ConfigError, Server
from supervisor.configuration import headers
from supervisor.configuration.references import LookUp, resolved, resolved_url


def resolved_server(server: Server, look_up: LookUp) -> tuple[str, list[tuple[str, str]]]:
    """Return URL and header fields. Errors: `ConfigError` that names the part, never the value."""
    try:
        url = resolved_url(server.url, look_up)
        config.check_url(url)
    except ConfigError as error:
        raise ConfigError(f"url: {error}") from None
    fields = [(name, _value(name, text, look_up)) for name, text in server.headers]
    if sum(len(name) + len(value) for name, value in fields) > headers.FIELDS_CHARS_MAX:
        raise ConfigError(f"headers: are longer than {headers.FIELDS_CHARS_MAX} characters")
    return url, fields


def _value(name: str, text: str, look_up: LookUp) -> str:
    try:
        value = resolved(text, look_up)
        headers.check_value(value)
    except ConfigError as error:
        raise ConfigError(f"header {name}: {error}") from None
    return value
