"""TLS on a stream of the reactor, for either side: handlers see the plain text, the socket sees the records.

OpenSSL works in memory (`ssl.MemoryBIO`), so it never blocks and costs no task: some 5 µs a message and side, where a
stream of trio's costs 140. Streams without TLS know nothing of it.

Rule 1: before the handshake is over, nothing is written and the handler hears of nothing but the end.
Rule 2: an end that the peer has not announced (close_notify; RFC 8446, section 6.1) is an error: somebody on the way
may have cut the answer short.
Rule 3: our own end is always announced, if that is possible without waiting.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Final, cast

import trio

from protocol.link import Payload
from workers.reactor import Reactor, SocketStream
from workers.transport import StreamHandler

RECORD_BYTES_MAX: Final = 16 * 1024
"""As much plain text is in one record (RFC 8446, section 5.1); smaller chunks are joined to fill one."""
PIECE_BYTES: Final = 256 * 1024
"""Of a large message, so much is encrypted before it is handed on: the whole would be in memory several times over."""
HTTP_1: Final = "http/1.1"
HTTP_2: Final = "h2"
"""What we say in ALPN (RFC 7301). Servers that also have HTTP/2 would be free to choose it if nothing were said."""

_REFUSALS: Final = frozenset(
    {
        "TLSV13_ALERT_CERTIFICATE_REQUIRED", "SSLV3_ALERT_BAD_CERTIFICATE", "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        "SSLV3_ALERT_CERTIFICATE_REVOKED", "SSLV3_ALERT_CERTIFICATE_UNKNOWN", "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
        "SSLV3_ALERT_HANDSHAKE_FAILURE", "TLSV1_ALERT_ACCESS_DENIED", "TLSV1_ALERT_UNKNOWN_CA",
        "TLSV1_ALERT_DECRYPT_ERROR",
    }
)  # fmt: skip
"""What is said of a client's certificate or the lack of one (RFC 8446, section 6.2)."""


PLAIN_HTTP: Final = frozenset({"HTTP_REQUEST", "HTTPS_PROXY_REQUEST"})
"""What OpenSSL says when the first bytes are those of a request without TLS."""


class ContextError(OSError):
    """A certificate or key that is configured cannot be used. The text names the setting and says why."""


class TlsStream:
    """A `workers.transport.Stream` on a `SocketStream`, whose handler it is."""

    __slots__ = (
        "_closing", "_decrypt", "_encrypt", "_ended", "_error", "_failed", "_finishing", "_heard", "_incoming",
        "_inner", "_is_begun", "_is_open", "_outgoing", "_plainly", "_reactor", "_reading", "_scratch", "_secured",
        "_ssl", "handler", "into", "is_secured",
    )  # fmt: skip

    def __init__(
        self,
        reactor: Reactor,
        sock: socket.socket,
        handler: StreamHandler,
        context: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_name: str | None = None,
        session: ssl.SSLSession | None = None,
        secured: Callable[[], None] | None = None,
        failed: Callable[[OSError | None, bool], None] | None = None,
        plainly: bytes = b"",
    ) -> None:
        """Own a connected socket and begin the handshake. `secured`: called when it is over.

        `failed`: called if the stream ends before that, with why, and whether the peer has sent anything.
        Clients: `server_name` is whom the certificate must name, `session` an earlier one to go on with.
        Servers: `plainly` is what a peer is answered that speaks HTTP without TLS.
        """
        self._reactor = reactor
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._ssl = context.wrap_bio(self._incoming, self._outgoing, server_side, server_name, session)
        # The methods behind those of `SSLObject`, which only pass on what they are given, if they are where they always
        # were: two calls less for each message.
        direct = getattr(self._ssl, "_sslobj", self._ssl)
        self._encrypt = cast("Callable[[Payload], int]", direct.write)
        self._decrypt = cast("Callable[[int, memoryview], int]", direct.read)
        self._scratch = reactor.scratch
        self._secured = secured
        self._failed = failed
        self._plainly = plainly
        self._heard = False
        self._reading = True
        self._ended = False
        """The peer has announced the end."""
        self._finishing = False
        self._closing = False
        self._is_open = False
        """Secured, and neither finishing nor closing."""
        self._is_begun = False
        """A piece of what was written last has been handed on, and not refused."""
        self._error: OSError | None = None
        self.is_secured = False
        """The handshake is over."""
        self.handler = handler
        self.into: memoryview | None = None
        self._inner: SocketStream = reactor.add_stream(sock, self)
        self._inner.into = self._scratch  # OpenSSL takes a copy
        if not server_side:
            self._shake_hands()

    # --- what handlers call (workers.transport.Stream) ---------------------------------------------------------------
    @property
    def buffered(self) -> int:
        return self._inner.buffered

    @property
    def stalled_since(self) -> float:
        return self._inner.stalled_since

    @property
    def socket(self) -> socket.socket:
        return self._inner.socket

    @property
    def refused_write(self) -> bool:
        return self._inner.refused_write and not self._is_begun

    @property
    def protocol(self) -> str | None:
        """What has been agreed on by ALPN, once the handshake is over; None if the peer knows nothing of that."""
        return self._ssl.selected_alpn_protocol()

    @property
    def session(self) -> ssl.SSLSession | None:
        """What another connection can go on with, spared of most of the handshake; None if the peer offers nothing."""
        session = self._ssl.session
        return session if session is not None and session.has_ticket else None

    def write(self, data: Payload) -> None:
        self._write((data,))

    def writelines(self, chunks: Sequence[Payload]) -> None:
        self._write((b"".join(chunks),) if sum(map(len, chunks)) <= RECORD_BYTES_MAX else chunks)

    def _write(self, chunks: Sequence[Payload]) -> None:
        if not self._is_open:
            return
        encrypt, outgoing = self._encrypt, self._outgoing
        self._is_begun = False
        try:
            for chunk in chunks:
                written = encrypt(chunk if len(chunk) <= PIECE_BYTES else memoryview(chunk)[:PIECE_BYTES])
                if written < len(chunk):
                    rest = memoryview(chunk)
                    while rest := rest[written:]:
                        if outgoing.pending >= PIECE_BYTES:
                            self._inner.write(outgoing.read())
                            self._is_begun = self._is_begun or not self._inner.refused_write
                        written = encrypt(rest[:PIECE_BYTES])
        except ssl.SSLError as error:
            self._reactor.defer(self._fail, error)  # the caller is in the middle of its own work on this stream
            return
        self._inner.write(outgoing.read())

    def tell_when_empty(self) -> None:
        self._inner.tell_when_empty()

    def pause_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._inner.pause_reading()

    def hold(self) -> None:
        """Keep what comes until `resume_reading`. The socket is read on, so this is for a moment only."""
        self._reading = False

    def resume_reading(self) -> None:
        if not self._reading:
            self._reading = True
            self._inner.resume_reading()
            self._reactor.defer(self._read_rest, None)  # some of it may have come before the pause

    def catch_up(self) -> None:
        """Read once what may have come, before the loop gets to it."""
        self._inner.ready(select.EPOLLIN)

    def finish(self) -> None:
        """As `SocketStream.finish`. What still comes is not decrypted."""
        if not self._closing and not self._finishing:
            self._announce_end()
            self._finishing = True
            self._is_open = False
            self._inner.finish()

    def close(self) -> None:
        if not self._closing:
            self._announce_end()
            self._closing = True
            self._is_open = False
            self._inner.close()

    def abort(self) -> None:
        if not self._closing and not self._inner.buffered:
            self._announce_end()
        self._closing = True
        self._is_open = False
        self._inner.abort()

    # --- workers.transport.StreamHandler, for the socket's stream ----------------------------------------------------
    def data_received(self, data: bytes) -> None:
        raise AssertionError(f"{len(data)} bytes of records that nobody has made room for")

    def into_filled(self, count: int) -> None:
        if self._finishing or self._closing:
            return
        self._incoming.write(self._scratch[:count])
        if self._is_open or self._take_handshake():
            self._read()

    def eof_received(self) -> None:
        if self._finishing:
            self.handler.eof_received()
        elif not self._ended and not self._closing:
            self._incoming.write_eof()
            if self.is_secured or self._shake_hands():
                self._read()

    def buffer_drained(self) -> None:
        if self.is_secured:
            self.handler.buffer_drained()

    def stream_closed(self, error: OSError | None) -> None:
        self._closing = True
        self._is_open = False
        if not self.is_secured and self._failed is not None:
            self._failed(self._error or error, self._heard)
        if self.is_secured and self._error is None and self._incoming.pending:
            # Nobody has asked for what came last. It may say why the peer is gone.
            try:
                self._decrypt(len(self._scratch), self._scratch)
            except ssl.SSLError as alert:
                self._error = None if isinstance(alert, ssl.SSLWantReadError) else alert
        # That a peer who has said goodbye does not hear ours is no error.
        self.handler.stream_closed(self._error or (None if self._ended else error))

    # --- OpenSSL -----------------------------------------------------------------------------------------------------
    def _take_handshake(self) -> bool:
        self._heard = True
        return self._shake_hands()

    def _shake_hands(self) -> bool:
        """Go on with the handshake; return whether it is over."""
        try:
            self._ssl.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return False
        except (OSError, ValueError) as error:  # ValueError: certificates whose names cannot be compared
            self._refuse(error if isinstance(error, OSError) else ssl.SSLError(str(error)))
            return False
        self._flush()
        self.is_secured = self._is_open = True
        if self._secured is not None:
            self._secured()
        return True

    def _read_rest(self, _: OSError | None) -> None:
        if self.is_secured:
            self._read()

    def _read(self) -> None:
        """Hand on what has come, as far as the handler wants it now."""
        decrypt, incoming = self._decrypt, self._incoming
        scratch = self._scratch
        while self._reading and self._is_open and not self._ended:
            into = self.into
            buffer = scratch if into is None else into
            try:
                count = decrypt(len(buffer), buffer)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLError as error:
                self._fail(error)
                return
            if not count:
                self._ended = True
                self.handler.eof_received()
            elif into is None:
                self.handler.data_received(bytes(scratch[:count]))
            else:
                self.handler.into_filled(count)
            # Asking for more in vain costs an exception. Nothing is left if the last record was all that came, of which
            # `scratch` takes a whole one.
            if not incoming.pending and (into is None or not self._ssl.pending()) and not incoming.eof:
                break
        if self._outgoing.pending:
            self._flush()

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._inner.write(self._outgoing.read())

    def _announce_end(self) -> None:
        if self.is_secured and self._error is None:
            with contextlib.suppress(ssl.SSLError):  # that the peer has not announced its own is no error
                self._ssl.unwrap()
            self._flush()

    def _refuse(self, error: OSError) -> None:
        """The handshake cannot go on."""
        if not self._plainly or getattr(error, "reason", "") not in PLAIN_HTTP:
            self._fail(error)
            return
        self._error = error
        self._finishing = True
        self._outgoing.read()  # an alert, which the peer could not read
        self._inner.write(self._plainly)
        self._inner.finish()

    def _fail(self, error: OSError | None) -> None:
        """What came is no TLS, or not as it must be. Tell the peer why, as far as OpenSSL has something to say."""
        if self._closing:
            return
        self._error = error
        self._closing = True
        self._is_open = False
        self._flush()
        self._inner.abort()


class _Waiter:
    """The handler of a client's stream until the handshake is over."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.closed = False
        self.error: OSError | None = None

    def data_received(self, data: bytes) -> None:
        raise AssertionError(f"{len(data)} bytes for nobody")

    def into_filled(self, count: int) -> None:
        raise AssertionError(f"{count} bytes for nobody")

    def eof_received(self) -> None:
        raise AssertionError("an end for nobody")

    def buffer_drained(self) -> None: ...

    def stream_closed(self, error: OSError | None) -> None:
        self.closed = True
        self.error = error
        self.done.set()


async def connect(
    reactor: Reactor,
    sock: socket.socket,
    context: ssl.SSLContext,
    server_name: str,
    session: ssl.SSLSession | None = None,
) -> TlsStream:
    """Shake hands as a client on a connected socket, which is owned from now on. Bounded by the caller.

    Return a stream that does not read yet: set its handler, then call `resume_reading`. Errors: `OSError`, of which
    `ssl.SSLError` is one.
    """
    waiter = _Waiter()

    def secured() -> None:
        stream.hold()
        waiter.done.set()

    try:
        stream = TlsStream(reactor, sock, waiter, context, server_name=server_name, session=session, secured=secured)
    except ValueError as error:  # a name that no certificate can have
        sock.close()
        raise ssl.SSLError(str(error)) from None
    try:
        await waiter.done.wait()
    except BaseException:
        stream.abort()
        raise
    if waiter.closed:
        raise waiter.error or ConnectionResetError("closed during the TLS handshake")
    return stream


def refuses_handshake(error: OSError) -> bool:
    """Whether a peer says with this alert that it does not accept our handshake, of which it has seen all by then."""
    return isinstance(error, ssl.SSLError) and error.reason in _REFUSALS


# --- certificates and keys -------------------------------------------------------------------------------------------
def client_context(ca_file: str = "", certificate: str = "", key: str = "", *, http2: bool = False) -> ssl.SSLContext:
    """Return what connections to servers are made with: TLS 1.2 or newer, certificate and name are checked.

    `ca_file`: trusted beside the authorities of the system. `certificate`, `key`: who we are; the key may stand in the
    same file. All of them are paths. `http2`: the server may choose it. Errors: `ContextError`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _harden(context, [HTTP_2, HTTP_1] if http2 else [HTTP_1])
    context.load_default_certs()
    if ca_file:
        with _blaming("ca_file", ca_file):
            context.load_verify_locations(ca_file)
        # Whoever is in that file is trusted, whether or not it has been issued by somebody who is not in it.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if certificate:
        _load_identity(context, certificate, key, ("client_cert", "client_key"))
    return context


def server_context(
    certificate: str, key: str = "", *, client_ca: str = "", settings: tuple[str, str] = ("certificate", "key")
) -> ssl.SSLContext:
    """Return what connections from clients are accepted with: TLS 1.2 or newer.

    `client_ca`: if given, clients need a certificate that these have issued. `settings`: what the user calls the first
    two, for messages. Errors: `ContextError`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _harden(context, [HTTP_1])
    _load_identity(context, certificate, key, settings)
    if client_ca:
        with _blaming("client_ca", client_ca):
            context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _harden(context: ssl.SSLContext, protocols: list[str]) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(protocols)


def _load_identity(context: ssl.SSLContext, certificate: str, key: str, settings: tuple[str, str]) -> None:
    own, own_key = settings
    with _blaming(own, certificate):
        open(certificate, "rb").close()  # OpenSSL does not say which of the two files it could not read
    if key:
        with _blaming(own_key, key):
            open(key, "rb").close()

    def refuse_to_ask() -> str:
        raise ContextError(f"{own_key} {key or certificate} is encrypted, and nobody is there to ask for its password")

    with _blaming(own_key if key else own, key or certificate):
        context.load_cert_chain(certificate, key or None, refuse_to_ask)


class _blaming(contextlib.AbstractContextManager[None]):  # noqa: N801 - used like a function
    """Turns what goes wrong inside into `ContextError` about this setting."""

    def __init__(self, setting: str, path: str) -> None:
        self._what = f"{setting} {path}"

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ContextError) or not isinstance(error, OSError):
            return
        if not isinstance(error, ssl.SSLError):
            reason = f"cannot be read: {error.strerror}"
        elif error.reason == "KEY_VALUES_MISMATCH":
            reason = "does not belong to the certificate"
        else:
            reason = "does not hold what is needed, in PEM form"
        raise ContextError(f"{self._what} {reason}") from None
