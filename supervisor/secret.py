"""The key that signs session ids of clients. Kept in a file, so that a restart of the proxy breaks no client."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path
from typing import Final

KEY_BYTES: Final = 32
FILE_NAME: Final = "session-key"


class SecretError(Exception):
    """The file that is there must not be trusted. The text says why and what to do."""


def usual_state_dir() -> Path:
    from platformdirs import user_state_path  # loads only where it is needed

    return user_state_path("mcp-bulkhead", appauthor=False)


def new_key() -> bytes:
    return secrets.token_bytes(KEY_BYTES)


def load_or_create(folder: Path) -> bytes:
    """Return the key kept in the folder, making both if they are not there.

    Errors: `SecretError` if others could know or choose the key; `OSError` if it can be neither read nor kept.
    """
    path = folder / FILE_NAME
    try:
        return _read(path)
    except FileNotFoundError:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _create(path)
        return _read(path)


def _read(path: Path) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # non-blocking, should it be a pipe
    except OSError as error:
        if path.is_symlink():
            raise SecretError(f"{path} is a symbolic link; remove it, and a key is made in its place") from None
        raise error
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        advice = "remove it, and a new one is made; clients then have to connect again"
        if not stat.S_ISREG(status.st_mode):
            raise SecretError(f"{path} is not a plain file; {advice}")
        if status.st_uid != os.geteuid():
            raise SecretError(f"{path} belongs to another user; {advice}")
        if status.st_mode & 0o077:
            raise SecretError(f"{path} can be read or written by others, so the key in it is no secret; {advice}")
        key = file.read(KEY_BYTES + 1)
    if len(key) != KEY_BYTES:
        raise SecretError(f"{path} does not hold a key of {KEY_BYTES} bytes; {advice}")
    return key


def _create(path: Path) -> None:
    """Put a new key there, whole or not at all. If another process is faster, its key stays."""
    draft = path.with_name(f".{FILE_NAME}.{secrets.token_hex(8)}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(new_key())
            file.flush()
            os.fsync(fd)
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
