"""What a server's worker is told in place of references: its URL and header fields with the values in them. Pure."""

from __future__ import annotations

from typing import Final

from supervisor import config, egress
from supervisor.config import ConfigError, Server
from supervisor.configuration.references import LookUp, Reference, references, resolved, resolved_url
from supervisor.configuration.variables import variables

HEADERS_CHARS_MAX: Final = 32 * 1024
"""All of one server; they reach its worker in one control packet."""
SECRET_CHARS_MIN: Final = 6
"""A shorter value from a file of variables is hidden nowhere: it is more likely "true" or a port than a secret."""


def resolved_server(server: Server, look_up: LookUp) -> tuple[str, list[tuple[str, str]]]:
    """Return URL and header fields. Errors: `ConfigError` that names the part, never the value."""
    if server.command:
        return "", []
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


def resolved_environment(server: Server, look_up: LookUp) -> tuple[dict[str, str], list[str]]:
    """Return the variables configured for a command, and which values are secrets. Errors: as above."""
    try:
        found = variables_of(server.env_file, look_up) if server.env_file else {}
    except ConfigError as error:
        raise ConfigError(f"its env_file cannot be used: {error}") from None
    secrets = [value for value in found.values() if len(value) >= SECRET_CHARS_MIN]
    for name, text in server.env:
        try:
            found[name] = variable_of(text, look_up)
        except ConfigError as error:
            raise ConfigError(f"its variable {name} cannot be used: {error}") from None
        if references(text):
            secrets += {found[name], *(look_up(reference) for reference in references(text))}
    return found, secrets


def variables_of(env_file: str, look_up: LookUp) -> dict[str, str]:
    """Return the variables in a file. Errors: `ConfigError`."""
    return variables(look_up(Reference("file", env_file)))


def variable_of(text: str, look_up: LookUp) -> str:
    """Return a variable's value with the values in it. Errors: `ConfigError`."""
    found = resolved(text, look_up)
    if "\0" in found:
        raise ConfigError("it has a NUL character")
    return found


def url_of(url: str, look_up: LookUp) -> str:
    """Return a URL with the values in it. Errors: `ConfigError`."""
    found = resolved_url(url, look_up)
    config.check_url(found)
    return found


def proxy_url_of(text: str, look_up: LookUp) -> str:
    """Return the URL of a proxy with the values in it. Errors: `ConfigError`."""
    found = resolved_url(text, look_up)
    egress.check(found)
    return found


def value_of(text: str, look_up: LookUp) -> str:
    """Return a header's value with the values in it. Errors: `ConfigError`."""
    found = resolved(text, look_up)
    config.check_header_value(found)
    return found
