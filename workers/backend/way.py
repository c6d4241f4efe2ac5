"""How a connection to the server is made: TCP or a Unix socket, through a proxy if there is one, with TLS for https.

Whatever goes wrong here, no byte of a request has been sent.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Generator
from typing import Final

import trio

from protocol.control import Route
from protocol.limits import CONNECT_TIMEOUT_S, PROXY_ANSWER_BYTES_MAX, TLS_HANDSHAKE_S
from workers import tls
from workers.backend.endpoint import Endpoint, authorization_field
from workers.dialing import PrivateAddressError, is_local_name, is_public
from workers.reactor import Reactor
from workers.tls import TlsStream

RECEIVE_BYTES: Final = 4096
DIRECT: Final = Route()


class TunnelError(OSError):
    """The proxy does not let us through: the text says what it did."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status
        """Of its answer; 0 if that was none."""


class HandshakeError(OSError):
    """There is a connection, but no TLS has come about on it; `cause` is why."""

    def __init__(self, cause: OSError, *, http2: bool = False) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.http2 = http2
        """It was offered."""


class GreetingError(OSError):
    """The server has chosen HTTP/2 and does not speak it: the text says what it did instead."""

    def __init__(self, text: str, *, is_closed: bool = False) -> None:
        super().__init__(text)
        self.is_closed = is_closed
        """It has said nothing at all."""


class Way:
    """The way to one server."""

    def __init__(self, reactor: Reactor, endpoint: Endpoint, route: Route = DIRECT) -> None:
        self._reactor = reactor
        self._endpoint = endpoint
        self._route = route
        self._context: ssl.SSLContext | None = None
        self._session: ssl.SSLSession | None = None

    @property
    def offers_http2(self) -> bool:
        return self._route.http2 and self._endpoint.tls

    async def connect(self) -> tuple[socket.socket, TlsStream | None]:
        """Return a connection and, if it has TLS, the stream on it (as `workers.tls.connect` does).

        Errors: `OSError`, of which `HandshakeError`, `TunnelError` and `workers.tls.ContextError` are some.
        """
        context = self._tls_context() if self._endpoint.tls else None
        with _bounded(CONNECT_TIMEOUT_S):
            sock = await self._open_socket()
        if context is None:
            return sock, None
        try:
            with _bounded(TLS_HANDSHAKE_S):
                return sock, await tls.connect(self._reactor, sock, context, self._endpoint.host, self._session)
        except OSError as error:
            self._session = None  # should that be what the server does not like
            raise HandshakeError(error, http2=self._route.http2) from None

    def remember(self, stream: TlsStream) -> None:
        """Let later connections go on with the session of this one."""
        self._session = stream.session or self._session

    def _tls_context(self) -> ssl.SSLContext:
        """Made when it is needed first: reading the authorities of the system takes some 20 ms and two megabytes."""
        if self._context is None:
            route = self._route
            self._context = tls.client_context(
                route.ca_file, route.client_cert, route.client_key, http2=self.offers_http2
            )
        return self._context

    async def _open_socket(self) -> socket.socket:
        endpoint, machine = self._endpoint, self._reactor.machine
        if endpoint.socket:
            return await machine.connect_unix(endpoint.socket)
        proxy = endpoint.proxy
        if proxy is None:
            private = self._route.allow_private or is_local_name(endpoint.host)
            if not private and self._route.address and not is_public(self._route.address):
                raise PrivateAddressError  # found by looking the name up elsewhere
            return await machine.connect(endpoint.location, endpoint.port, private=private)
        sock = await machine.connect(proxy.host, proxy.port)
        if endpoint.has_tunnel:
            try:
                await _open_tunnel(sock, endpoint)
            except BaseException:
                sock.close()
                raise
        return sock


@contextlib.contextmanager
def _bounded(seconds: float) -> Generator[None]:
    """Like `trio.fail_after`, but raise `TimeoutError`, as connecting does by itself."""
    try:
        with trio.fail_after(seconds):
            yield
    except trio.TooSlowError:
        raise TimeoutError from None


async def _open_tunnel(sock: socket.socket, endpoint: Endpoint) -> None:
    """Have the proxy at the other end connect us with the server (RFC 9110, section 9.3.6). Errors: `OSError`."""
    assert endpoint.proxy is not None
    target = endpoint.address.encode()
    field = authorization_field(endpoint.proxy)
    await _send_all(sock, b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (target, target, field))
    answer = b""
    while b"\r\n\r\n" not in answer:
        await trio.lowlevel.wait_readable(sock)
        received = sock.recv(RECEIVE_BYTES)
        answer += received
        if not received or len(answer) > PROXY_ANSWER_BYTES_MAX:
            raise TunnelError("did not answer as a proxy does")
    version, _, rest = answer.partition(b" ")
    status = int(rest[:3]) if version.startswith(b"HTTP/1.") and rest[:3].isdigit() else 0
    if not 200 <= status < 300:
        raise TunnelError(f"answered with HTTP {status}" if status else "did not answer as a proxy does", status)
    if answer.partition(b"\r\n\r\n")[2]:  # the server has to wait for us, so this is not the server's
        raise TunnelError("sent something that the server cannot have said")


async def _send_all(sock: socket.socket, data: bytes) -> None:
    while data:
        await trio.lowlevel.wait_writable(sock)
        data = data[sock.send(data) :]
