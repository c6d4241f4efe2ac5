"""Tells people of clients that spoke TLS where none is, none where it is, or could not agree with us: who, and why.

Rule 1: whoever connects decides how often this happens, so no more is told than can be read.
Rule 2: who comes and goes without a word (a load balancer that looks whether the port is there) is no news.
"""

from __future__ import annotations

import ssl
from typing import Final

from protocol.http1 import response
from protocol.limits import HANDSHAKE_NEWS_MAX, HANDSHAKE_NEWS_PERIOD_S, HEADERS_DEADLINE_S
from workers.logs import Log
from workers.reactor import Reactor
from workers.tls import PLAIN_HTTP

USE_HTTPS: Final = response(
    400,
    [(b"content-type", b"text/plain; charset=utf-8")],
    b"This port speaks HTTPS: use https:// in place of http://\n",
    close=True,
)
"""The answer to a client that speaks plain HTTP where TLS is spoken."""
_REASONS: Final = {
    **dict.fromkeys(PLAIN_HTTP, "it spoke plain HTTP, and was told to use https://"),
    **dict.fromkeys(
        ("UNSUPPORTED_PROTOCOL", "VERSION_TOO_LOW", "TLSV1_ALERT_PROTOCOL_VERSION"), "it knows neither TLS 1.2 nor 1.3"
    ),
    **dict.fromkeys(("NO_SHARED_CIPHER", "NO_SUITABLE_SIGNATURE_ALGORITHM"), "it knows no cipher that we accept"),
    **dict.fromkeys(("WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE"), "what it sent is no TLS"),
    "TLSV1_ALERT_UNKNOWN_CA": "it does not trust whoever has signed our certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "our certificate has expired, it says",
    **dict.fromkeys(
        ("SSLV3_ALERT_BAD_CERTIFICATE", "SSLV3_ALERT_CERTIFICATE_UNKNOWN", "SSLV3_ALERT_CERTIFICATE_REVOKED"),
        "it does not accept our certificate (its name, its dates, or who has signed it)",
    ),
}
"""By OpenSSL's name for it."""


class Handshakes:
    """What became of them, as far as it is worth telling."""

    def __init__(self, reactor: Reactor, log: Log) -> None:
        self._reactor = reactor
        self._log = log
        self._since = float("-inf")
        self._told = 0
        """Lines since then."""
        self._untold = 0

    def failed(self, peer: str, begun: float, error: OSError | None, heard: bool) -> None:
        """A handshake has ended before it was over. `heard`: the client had said something.

        `error`: why; None if we have closed the connection.
        """
        is_late = self._reactor.now - begun >= HEADERS_DEADLINE_S
        if heard and (error is not None or is_late):
            self._tell("a TLS handshake with a client failed", peer, _reason(error))

    def unexpected(self, peer: str) -> None:
        """A client began a handshake where plain HTTP is spoken."""
        self._tell("a client spoke TLS to a port without it", peer, "this port speaks plain HTTP: use http://")

    def _tell(self, what: str, peer: str, reason: str) -> None:
        now = self._reactor.now
        if now - self._since >= HANDSHAKE_NEWS_PERIOD_S:
            self._since, self._told = now, 0
        if self._told >= HANDSHAKE_NEWS_MAX:
            self._untold += 1
            return
        self._told += 1
        more = {"untold": self._untold} if self._untold else {}
        self._untold = 0
        self._log.info(what, peer=peer, reason=reason, **more)


def _reason(error: OSError | None) -> str:
    if error is None:
        return f"it was not over after {HEADERS_DEADLINE_S:.0f} s"
    if isinstance(error, ssl.SSLEOFError) or not isinstance(error, ssl.SSLError):
        return "the client went away in the middle of it"
    name = str(error.reason or "unknown")
    return _REASONS.get(name) or f"OpenSSL says: {name.lower().replace('_', ' ')}"
