"""Servers that are commands: what may be configured, how it is shown, and the environment that they get.

There is no shell anywhere: a command is a program and its arguments, which reach it as they are written. Errors:
`ConfigError`; no message repeats an argument or a value, which may be a secret.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Final

from protocol.limits import COMMAND_ARGUMENTS_MAX, COMMAND_BYTES_MAX
from supervisor.config import DNS_PREFIX, ConfigError, Server, shown

_INHERITED: Final = frozenset({"HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER"})  # as the official SDKs do
_INHERITED_TOO: Final = frozenset({"LANG", "LANGUAGE", "SSL_CERT_DIR", "SSL_CERT_FILE", "TMPDIR", "TZ"})
_INHERITED_PREFIX: Final = "LC_"
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_LOADER: Final = re.compile(r"LD_[A-Z_]+|GLIBC_TUNABLES")
_ADDRESS: Final = re.compile(r"https?:|[A-Za-z][A-Za-z0-9+.-]*://|[A-Za-z0-9_.-]+:[0-9]+(/|\Z)|//|\[")
SHOWN_CHARS_MAX: Final = 500


def is_address(text: str) -> bool:
    """Whether what stands for a server on the command line is meant as a URL; else it is a command."""
    return bool(_ADDRESS.match(text))


def split(text: str) -> tuple[str, tuple[str, ...]]:
    """Return program and arguments of a command as one writes it in a shell; only quotes and backslashes count."""
    try:
        words = shlex.split(text)
    except ValueError:
        raise ConfigError("the command has a quote or backslash without its other half") from None
    if not words:
        raise ConfigError("the command is empty")
    return check_program(words[0]), check_arguments(words[1:])


def check_program(text: str) -> str:
    if not text or "\0" in text or "\n" in text:
        raise ConfigError("must be a program: its path, or a name that is looked for on PATH")
    return text


def check_arguments(arguments: Sequence[str]) -> tuple[str, ...]:
    if len(arguments) > COMMAND_ARGUMENTS_MAX:
        raise ConfigError(f"{len(arguments)} arguments are too many; at most {COMMAND_ARGUMENTS_MAX} are possible")
    if any("\0" in argument for argument in arguments):
        raise ConfigError("an argument has a NUL character")
    if sum(len(argument.encode("utf-8", "surrogateescape")) + 1 for argument in arguments) > COMMAND_BYTES_MAX:
        raise ConfigError(f"the arguments are longer than {COMMAND_BYTES_MAX} bytes")
    if any(re.search(r"\$\{(env|file|keyring):", argument) for argument in arguments):
        raise ConfigError(
            "references such as ${env:NAME} are not possible in arguments, which every user of the machine can see; "
            "give the server its secrets in env"
        )
    return tuple(arguments)


def check_variable(name: str, value: str) -> None:
    """Check a variable that is configured for a command; what it is resolved to is checked by `check_environment`."""
    if not _VARIABLE.fullmatch(name):
        raise ConfigError(f"{shown(name)} is not the name of a variable")
    if _LOADER.fullmatch(name):
        raise ConfigError(
            f"{name} changes which code programs load, so it cannot be set here; if it is meant, "
            f'make the command "env" and its first argument "{name}=..."'
        )
    if "\0" in value:
        raise ConfigError("has a NUL character")


def check_directory(text: str) -> str:
    if not text.startswith(("/", "~/")) or "\0" in text:
        raise ConfigError(f"{shown(text)} is not a directory; its path must begin with / or ~/")
    return text


def check_file(text: str) -> str:
    if not text.startswith(("/", "~/")) or "\0" in text:
        raise ConfigError(f"{shown(text)} is not a file; its path must begin with / or ~/")
    return text


def environment(ours: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """Return the whole environment of a command: what programs need of ours, then what is configured for it."""
    kept = {
        name: value
        for name, value in ours.items()
        if (name in _INHERITED | _INHERITED_TOO or name.startswith(_INHERITED_PREFIX))
        and not value.startswith("()")  # a function of a shell's, which others would execute
    }
    found = {**kept, **own}
    if sum(len(name) + len(value.encode("utf-8", "surrogateescape")) + 2 for name, value in found.items()) > (
        2 * COMMAND_BYTES_MAX
    ):
        raise ConfigError(f"its environment is longer than {2 * COMMAND_BYTES_MAX} bytes")
    return {name: _encodable(value) for name, value in found.items()}


def _encodable(value: str) -> str:
    """Return the value as text that can be told: bytes of ours that are no UTF-8 are of no use to a server."""
    return value.encode("utf-8", "replace").decode()


def shown_command(server: Server) -> str:
    """Return a command as lists show it: as one would write it in a shell, without what looks like a secret.

    "" for a server that has a URL.
    """
    if not server.command:
        return ""
    from protocol.log_lines import safe  # not needed, and slow to load, unless somebody asks

    text = safe(shlex.join((server.command, *server.args)))
    return text if len(text) <= SHOWN_CHARS_MAX else text[: SHOWN_CHARS_MAX - 3] + "..."


def shown_place(server: Server) -> str:
    """Return where a server is, as people are told it: its URL without secrets, or its command."""
    from protocol.log_lines import redact_url

    return shown_command(server) or f"{DNS_PREFIX if server.discover else ''}{redact_url(server.url)}"
