"""Look up what references stand for: environment, files, the system's keyring. No message repeats a value."""

from __future__ import annotations

import importlib
import os
import stat
from typing import Any, Final

from supervisor.config import ConfigError
from supervisor.configuration.references import LookUp, Reference

SECRET_BYTES_MAX: Final = 16 * 1024


class Lookup:
    """Looks secrets up, each time anew, so that one that has been changed is used by the next worker.

    Only those of the keyring are kept in memory: it may ask its user for a password, and must not do so when a worker
    has died in the night.
    """

    def __init__(self) -> None:
        self._from_keyring: dict[str, str] = {}

    def __call__(self, reference: Reference) -> str:
        """Return the value. Errors: `ConfigError`."""
        match reference.kind:
            case "env":
                value = _from_environment(reference)
            case "file":
                value = _from_file(reference)
            case _:
                if reference.what not in self._from_keyring:
                    self._from_keyring[reference.what] = _from_keyring(reference)
                value = self._from_keyring[reference.what]
        if not value:
            raise ConfigError(f"{reference} is empty")
        return value


look_up: Final[LookUp] = Lookup()


def _from_environment(reference: Reference) -> str:
    value = os.environ.get(reference.what)
    if value is None:
        raise ConfigError(f"{reference}: there is no such variable in the environment of the proxy; export it first")
    return value


def _from_file(reference: Reference) -> str:
    path = os.path.expanduser(reference.what)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)  # non-blocking, should it be a pipe
        with open(fd, "rb") as file:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise ConfigError(f"{reference} is not a plain file")
            if status.st_mode & stat.S_IWOTH:
                raise ConfigError(f"{reference} can be written by everybody; chmod o-w it")
            data = file.read(SECRET_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"{reference} cannot be read: {error.strerror}") from None
    if len(data) > SECRET_BYTES_MAX:
        raise ConfigError(f"{reference} is longer than {SECRET_BYTES_MAX} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise ConfigError(f"{reference} is no UTF-8 text") from None
    return text.removesuffix("\n").removesuffix("\r")  # which editors and echo put there


def _from_keyring(reference: Reference) -> str:
    try:
        keyring: Any = importlib.import_module("keyring")
    except ImportError:
        raise ConfigError(
            f"{reference} needs the package 'keyring', which is not installed here: pip install keyring"
        ) from None
    service, _, user = reference.what.partition("/")
    try:
        value = keyring.get_password(service, user)
    except Exception as error:  # noqa: BLE001 - every back-end of it has errors of its own
        raise ConfigError(f"{reference} cannot be read: the keyring says {type(error).__name__}") from None
    if value is None:
        raise ConfigError(f"{reference} is not in the keyring; put it there: keyring set {service} {user}")
    return str(value)
