"""The admin door over TCP, for those who cannot reach a Unix socket: who has the token gets in, nobody else.

The token is in a file that only we can read, and is made if it is not there. It goes over the wire as it is: a port
that others than this machine can reach belongs behind something that speaks TLS.
"""

from __future__ import annotations

import hmac
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from supervisor import listen, secret
from supervisor.config import Settings

SCHEME: Final = b"bearer"


class AdminPortError(Exception):
    """It cannot be opened. The text says why and what to do."""


def bind(address: tuple[str, int]) -> list[socket.socket]:
    """Return sockets that listen there. Errors: `AdminPortError`."""
    host, port = address
    try:
        return listen.bind([host], port)
    except listen.ListenError as error:
        advice = str(error).replace("--port", "--admin-listen").replace("--host", "--admin-listen")
        raise AdminPortError(f"the admin port: {advice}") from None


def is_at(sockets: Sequence[socket.socket], address: tuple[str, int]) -> bool:
    """Whether these sockets listen where `bind` would."""
    host, port = address
    found = [listen.endpoint(sock) for sock in sockets]
    return bool(found) and all(where in listen.addresses_of(host) and port in (0, theirs) for where, theirs in found)


def token_path(token_file: str, state_dir: str) -> Path:
    """Return where the token is: in the file that was named, else in the state directory."""
    if token_file:
        return Path(token_file)
    return (Path(state_dir) if state_dir else secret.usual_state_dir()) / secret.TOKEN_FILE_NAME


def token(settings: Settings) -> bytes:
    """Return the token, which is made if there is none. Errors: `AdminPortError`."""
    path = token_path(settings.admin_token_file, settings.state_dir)
    try:
        return secret.load_or_create(path, secret.ADMIN_TOKEN)
    except secret.SecretError as error:
        raise AdminPortError(f"the admin port: {error}") from None
    except OSError as error:
        raise AdminPortError(
            f"the admin port: its token cannot be kept at {path} ({error.strerror}); "
            "name another file with --admin-token-file"
        ) from None


def may_enter(authorization: bytes, wanted: bytes) -> bool:
    """Whether the field `Authorization` has the token (RFC 6750, section 2.1)."""
    scheme, _, given = authorization.partition(b" ")
    return scheme.lower() == SCHEME and hmac.compare_digest(given.strip(), wanted)


def exposure_warning(sockets: Sequence[socket.socket]) -> str:
    """Return what to tell who opens the port to other machines, or ""."""
    open_to_others = [listen.endpoint(sock)[0] for sock in sockets if not listen.is_loopback(listen.endpoint(sock)[0])]
    if not open_to_others:
        return ""
    return (
        f"the admin port listens on {', '.join(open_to_others)}, and the token goes to it unencrypted; "
        "put something that speaks TLS in front of it"
    )
