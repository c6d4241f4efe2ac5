"""Secrets of the proxy's own, kept in files so that a restart of the proxy breaks no client."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

KEY_BYTES: Final = 32
TOKEN_BYTES_MIN: Final = 24
TOKEN_BYTES_MAX: Final = 256
FILE_BYTES_MAX: Final = TOKEN_BYTES_MAX + 2  # with the end of its line
FILE_NAME: Final = "session-key"
TOKEN_FILE_NAME: Final = "admin-token"  # noqa: S105 - a name of a file


class SecretError(Exception):
    """The file that is there must not be trusted. The text says why and what to do."""


def usual_state_dir() -> Path:
    from platformdirs import user_state_path  # loads only where it is needed

    return user_state_path("mcp-bulkhead", appauthor=False)


def new_key() -> bytes:
    return secrets.token_bytes(KEY_BYTES)


@dataclass(frozen=True, slots=True)
class Kind:
    """What is kept in a file."""

    noun: str
    consequence: str
    """Of making a new one."""
    form: str
    new: Callable[[], bytes]
    read: Callable[[bytes], bytes | None]
    """Returns the secret in a file's content; None if that is none."""


SESSION_KEY: Final = Kind(
    "key",
    "clients then have to connect again",
    f"a key of {KEY_BYTES} bytes",
    new_key,
    lambda content: content if len(content) == KEY_BYTES else None,
)
"""Signs session ids of clients."""
ADMIN_TOKEN: Final = Kind(
    "token",
    "whoever uses it has to be given the new one",
    f"a token of {TOKEN_BYTES_MIN} to {TOKEN_BYTES_MAX} letters, digits and the like",
    lambda: secrets.token_urlsafe(KEY_BYTES).encode() + b"\n",
    lambda content: _token(content.strip()),
)
"""Opens the admin port."""


def load_or_create(path: Path, kind: Kind = SESSION_KEY) -> bytes:
    """Return what is kept in the file, making it, and its folder, if they are not there.

    Errors: `SecretError` if others could know or choose it; `OSError` if it can be neither read nor kept.
    """
    try:
        return load(path, kind)
    except FileNotFoundError:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _create(path, kind)
        return load(path, kind)


def load(path: Path, kind: Kind) -> bytes:
    """Return what is kept in the file. Errors: `SecretError`; `OSError`, if there is none for example."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # non-blocking, should it be a pipe
    except OSError as error:
        if path.is_symlink():
            raise SecretError(f"{path} is a symbolic link; remove it, and a {kind.noun} is made in its place") from None
        raise error
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        advice = f"remove it, and a new one is made; {kind.consequence}"
        if not stat.S_ISREG(status.st_mode):
            raise SecretError(f"{path} is not a plain file; {advice}")
        if status.st_uid != os.geteuid():
            raise SecretError(f"{path} belongs to another user; {advice}")
        if status.st_mode & 0o077:
            raise SecretError(
                f"{path} can be read or written by others, so the {kind.noun} in it is no secret; {advice}"
            )
        content = file.read(FILE_BYTES_MAX + 1)
    if (found := kind.read(content)) is None:
        raise SecretError(f"{path} does not hold {kind.form}; {advice}")
    return found


def _token(text: bytes) -> bytes | None:
    is_visible = all(0x21 <= byte <= 0x7E for byte in text)
    return text if is_visible and TOKEN_BYTES_MIN <= len(text) <= TOKEN_BYTES_MAX else None


def _create(path: Path, kind: Kind) -> None:
    """Put a new secret there, whole or not at all. If another process is faster, its secret stays."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(kind.new())
            file.flush()
            os.fsync(fd)
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
