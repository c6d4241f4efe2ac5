"""Read a file of variables, as `env_file` names one: lines of NAME=VALUE. Pure.

As everywhere such files are used: empty lines and those that begin with "#" say nothing, "export " before a name is
allowed, and quotes around a whole value do not belong to it. Nothing within a value means anything.
"""

from __future__ import annotations

from typing import Final

from supervisor import command
from supervisor.config import ConfigError

VARIABLES_MAX: Final = 1000
_QUOTES: Final = ("'", '"')


def variables(text: str) -> dict[str, str]:
    """Return the variables; of two with one name the last counts.

    Errors: `ConfigError` that names the line and never repeats a value, which may be a secret.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        name, equals, value = stripped.removeprefix("export ").partition("=")
        if not equals:
            raise ConfigError(f"line {number} is not NAME=VALUE")
        value = value.strip()
        if len(value) > 1 and value[0] == value[-1] and value[0] in _QUOTES:
            value = value[1:-1]
        try:
            command.check_variable(name.strip(), value)
        except ConfigError as error:
            raise ConfigError(f"line {number}: {error}") from None
        found[name.strip()] = value
    if len(found) > VARIABLES_MAX:
        raise ConfigError(f"more than {VARIABLES_MAX} variables")
    return found
