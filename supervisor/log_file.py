"""Open the log file. It may stand where everybody can write, such as /tmp, so it is never trusted by its name alone.

It is never opened through a link, never one of another user, and never anything but a plain file that only we can read.
"""

from __future__ import annotations

import os
import stat
from typing import Final

_APPENDING: Final = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY
"""Non-blocking, should somebody have put a pipe there."""


class LogFileError(Exception):
    """The log file cannot or must not be used. The text says why and what to do."""


def open_file(path: str) -> int:
    """Open the log file for appending, made 0600 if it is not there, and return its descriptor.

    Errors: `LogFileError`.
    """
    try:
        fd = os.open(path, _APPENDING | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        if os.path.islink(path):
            raise LogFileError(f"log file {path} is a symbolic link; remove it, or name another file") from None
        raise LogFileError(
            f"log file {path} cannot be written: {error.strerror}; name another with --log-file"
        ) from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise LogFileError(f"log file {path} is not a plain file; name another with --log-file")
        if status.st_uid != os.geteuid():
            raise LogFileError(f"log file {path} belongs to another user; name another with --log-file")
        if status.st_nlink != 1:
            raise LogFileError(f"log file {path} has a second name (a hard link); name another with --log-file")
        os.fchmod(fd, 0o600)  # an older one of ours may be open to others
    except LogFileError:
        os.close(fd)
        raise
    return fd
