"""The certificate that clients are shown: read when the front starts, and again when its files have changed.

Nothing wakes up to look at files: a connection does, as the first thing that would be shown what is out of date.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
from collections.abc import Callable
from typing import Final

from workers.logs import Log
from workers.tls import ContextError, server_context

LOOK_S: Final = 1.0
"""The files are not looked at more often than so."""
ROUNDS_MAX: Final = 8
"""Of a handshake with ourselves, which has two."""

Identity = tuple[tuple[int, int, int, int] | None, ...]


class Certificate:
    """Certificate and key, in one file or two."""

    def __init__(self, certificate: str, key: str, log: Log, *, changed: Callable[[list[str]], None]) -> None:
        """`changed` is told the names in the certificate each time that one has been read."""
        self._certificate = certificate
        self._key = key
        self._log = log
        self._changed = changed
        self._looked_at = float("-inf")
        self._identity: Identity = ()
        self._context: ssl.SSLContext | None = None

    def context(self, now: float) -> ssl.SSLContext | None:
        """Return what connections are accepted with; None if no certificate could be read yet."""
        if now - self._looked_at >= LOOK_S:
            self._looked_at = now
            if self._look() != self._identity:
                self.read()
        return self._context

    def read(self) -> None:
        """Read the files now. If they cannot be used, what was read before stays."""
        self._identity = self._look()
        try:
            context = server_context(self._certificate, self._key, settings=("tls_cert", "tls_key"))
        except ContextError as error:
            kept = "the certificate that was read before is kept" if self._context else "nobody can connect"
            self._log.error(f"{error}; {kept}")
            return
        is_first, self._context = self._context is None, context
        names, doubt = _names(context, self._certificate)
        if doubt:
            self._log.warning("clients may refuse the certificate", file=self._certificate, reason=doubt)
        if not is_first:
            self._log.info("another certificate is shown from now on", file=self._certificate, names=", ".join(names))
        self._changed(names)

    def _look(self) -> Identity:
        return tuple(_identity(path) for path in (self._certificate, self._key) if path)


def _identity(path: str) -> tuple[int, int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


def _names(context: ssl.SSLContext, certificate: str) -> tuple[list[str], str]:
    """Return the names and addresses that a certificate is for, or why a client that trusts it would refuse it.

    The standard library decodes certificates of peers only, so we connect to ourselves, in memory.
    """
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(to_server, to_client, server_side=True)
    try:
        trusting.load_verify_locations(certificate)
        client = trusting.wrap_bio(to_client, to_server)
        for _ in range(ROUNDS_MAX):
            if _is_done(client) & _is_done(server):
                break
        found = client.getpeercert() or {}
    except (ssl.SSLError, ValueError) as error:
        return [], getattr(error, "verify_message", "") or str(getattr(error, "reason", "") or error)
    alternatives = [(str(kind), str(name)) for kind, name in found.get("subjectAltName", ())]
    names = [name for kind, name in alternatives if kind == "DNS"]
    names += [str(ipaddress.ip_address(name)) for kind, name in alternatives if kind == "IP Address"]
    return names, "" if names else "it names no host (subjectAltName)"


def _is_done(side: ssl.SSLObject) -> bool:
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True
