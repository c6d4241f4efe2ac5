"""Says why there is no connection to a server: what happened, and what to do about it. Pure.

Nothing here repeats what a server or a proxy has said, beyond a status and the name of an alert.
"""

from __future__ import annotations

import errno
import socket
import ssl
from typing import Final

from protocol.limits import CONNECT_TIMEOUT_S, TLS_HANDSHAKE_S
from workers.backend.endpoint import Endpoint
from workers.backend.way import GreetingError, HandshakeError, TunnelError
from workers.dialing import PrivateAddressError
from workers.tls import ContextError, refuses_handshake

_PROXY_AUTHENTICATION_REQUIRED: Final = 407
# OpenSSL's numbers for what is wrong with a certificate (openssl-verification-options(1), x509_vfy.h)
_NOT_YET_VALID: Final = 9
_EXPIRED: Final = 10
_WRONG_NAME: Final = frozenset({62, 64})
_UNKNOWN_AUTHORITY: Final = frozenset({2, 18, 19, 20, 21, 27})
_NO_TLS: Final = frozenset(
    {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "UNEXPECTED_MESSAGE"}
)
_NO_COMMON_PROTOCOL: Final = "no application protocol"
"""It has none of what we offer (RFC 7301, section 3.2). Not all versions of Python have a name for this alert."""
_OLD_TLS: Final = frozenset({"UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION", "VERSION_TOO_LOW"})


def in_words(error: OSError, endpoint: Endpoint, *, has_certificate: bool) -> str:
    """Return why connecting failed. It continues "server "name" "."""
    if isinstance(error, ContextError):
        return f"cannot be reached: its {error}; correct the configuration"
    if isinstance(error, GreetingError):
        # Some servers that want a certificate just hang up on those without one.
        hint = ", or client_cert if it wants a certificate" if error.is_closed and not has_certificate else ""
        return f"has chosen HTTP/2 and does not speak it ({endpoint.address}: {error}): set http2 = false for it{hint}"
    if isinstance(error, HandshakeError):
        return _of_tls(error, endpoint, has_certificate=has_certificate)
    proxy = endpoint.proxy
    if isinstance(error, TunnelError):
        assert proxy is not None
        advice = "check its settings"
        if error.status == _PROXY_AUTHENTICATION_REQUIRED:
            advice = "name a user in its URL"
        return f"cannot be reached: the proxy {proxy.host}:{proxy.port} {error}; {advice}"
    if proxy is not None:
        return f"cannot be reached: the proxy before it {_of_host(error, proxy.host, f'{proxy.host}:{proxy.port}')}"
    return _of_socket(error, endpoint.socket) if endpoint.socket else _of_host(error, endpoint.host, endpoint.address)


def _of_host(error: OSError, host: str, address: str) -> str:
    if isinstance(error, PrivateAddressError):
        return (
            f'cannot be reached: the name "{host}" leads to a private address, which a public name should not; '
            "if that is meant, set allow_private = true for it, or start the proxy with --allow-private"
        )
    if isinstance(error, socket.gaierror):
        return f'could not be found: the name "{host}" does not resolve; check the URL'
    if isinstance(error, ConnectionRefusedError):
        return f"refused the connection ({address}): is it running?"
    if isinstance(error, TimeoutError):
        return f"did not accept a connection within {CONNECT_TIMEOUT_S:g} s ({address}): is it running?"
    reason = errno.errorcode.get(error.errno or 0, "unknown error")
    return f"cannot be reached ({address}: {reason}): check the network and the URL"


def _of_socket(error: OSError, path: str) -> str:
    if isinstance(error, FileNotFoundError | ConnectionRefusedError):
        what = "does not exist" if isinstance(error, FileNotFoundError) else "has nobody listening on it"
        return f"cannot be reached: the socket {path} {what}; is it running?"
    if isinstance(error, PermissionError):
        return f"cannot be reached: the socket {path} may not be used by this user; check owner and mode"
    return _of_host(error, path, path)


def _of_tls(failed: HandshakeError, endpoint: Endpoint, *, has_certificate: bool) -> str:
    at, error = endpoint.address, failed.cause
    if isinstance(error, ssl.SSLCertVerificationError):
        return _of_certificate(error, endpoint)
    if isinstance(error, TimeoutError):
        return f"did not finish the TLS handshake within {TLS_HANDSHAKE_S:g} s ({at}): does it speak TLS on that port?"
    reason = error.reason or "" if isinstance(error, ssl.SSLError) else ""
    if reason in _NO_TLS:
        return f"does not speak TLS on that port ({at}): use http:// in its URL, or another port"
    if reason in _OLD_TLS:
        return f"speaks only versions of TLS older than 1.2 ({at}), which are not safe: update it"
    if _NO_COMMON_PROTOCOL in str(error):
        if failed.http2:
            return f"speaks neither HTTP/1.1 nor HTTP/2 on that port ({at}): check the URL"
        return f"does not speak HTTP/1.1 ({at}): set http2 = true for it, if it speaks HTTP/2"
    if refuses_handshake(error):
        if has_certificate:
            return f"does not accept our certificate ({at}, {reason}): check client_cert and client_key"
        return f"refused the TLS handshake ({at}, {reason}): if it wants a certificate, set client_cert and client_key"
    if isinstance(error, ssl.SSLEOFError | ConnectionError):
        return f"closed the connection in the TLS handshake ({at}): does it speak TLS on that port?"
    return f"failed in the TLS handshake ({at}: {reason or 'unknown error'}): look at the log of that server"


def _of_certificate(error: ssl.SSLCertVerificationError, endpoint: Endpoint) -> str:
    at = endpoint.address
    code = error.verify_code
    if code == _EXPIRED:
        return f"has a certificate that has expired ({at}): renew it"
    if code == _NOT_YET_VALID:
        return f"has a certificate that is not valid yet ({at}): compare the clocks"
    if code in _WRONG_NAME:
        return f"has a certificate for another name than {endpoint.host}: use the name it is for in the URL"
    if code in _UNKNOWN_AUTHORITY:
        return f"has a certificate of an unknown authority ({at}): if you trust that one, name its file in ca_file"
    return f"has a certificate that cannot be trusted ({at}: {error.verify_message})"
