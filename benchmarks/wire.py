"""Speaks HTTP/1.1 as a client needs it outside of the fast path: whole responses, in plain JSON or as an event stream.

This is deliberately not `protocol.http1`, which is part of what is measured: an independent reader notices its
mistakes.
"""

from __future__ import annotations

import re
import socket
import ssl
from pathlib import Path
from typing import Any, Final

import httptools

ANSWER_WAIT_S: Final = 15.0
"""How long one exchange may take. The slowest subject answers 64 calls of a megabyte in a few seconds."""
RECEIVE_BYTES: Final = 256 * 1024
_LINE_END: Final = re.compile(rb"\r\n|\r|\n")

Address = tuple[str, int]


class ExchangeError(Exception):
    """An exchange did not end in a whole HTTP response of the kind expected; the message says why."""


class Response:
    """One HTTP response, filled by `feed` until `complete`. Header names are in lower case."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.complete = False
        self.keep_alive = True
        self._pieces: list[bytes] = []
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        """Take some bytes. Raises ExchangeError if they are no HTTP, or go on after the end of the response."""
        if self._parser is None:
            raise ExchangeError("more bytes after the end of the response")
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            raise ExchangeError(f"malformed HTTP response: {error}") from None
        if self.complete:
            self._parser = None  # the parser holds this object: without the cycle both are freed at once

    @property
    def body(self) -> bytes:
        return b"".join(self._pieces)

    def messages(self) -> list[bytes]:
        """Return the JSON-RPC messages of the body: one, or those of the events."""
        if self.headers.get(b"content-type", b"").startswith(b"text/event-stream"):
            return event_data(self.body)
        return [self.body]

    def on_message_begin(self) -> None:
        if self.complete:
            raise ExchangeError("more bytes after the end of the response")

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.lower()] = value

    def on_body(self, piece: bytes) -> None:
        self._pieces.append(piece)

    def on_message_complete(self) -> None:
        assert self._parser is not None, "only the parser calls this"
        self.status = self._parser.get_status_code()
        self.keep_alive = self._parser.should_keep_alive()
        self.complete = self.status >= 200  # an interim response announces the real one (RFC 9110 §15.2)


def event_data(body: bytes) -> list[bytes]:
    """Return the data of each event of a complete event stream (WHATWG HTML §9.2.6)."""
    events: list[bytes] = []
    data: list[bytes] = []
    for line in _LINE_END.split(body)[:-1]:  # what follows the last line end is no line
        if line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
        elif not line and data:
            events.append(b"\n".join(data))
            data = []
    return [event for event in events if event]


class TlsSocket(ssl.SSLSocket):
    """A socket with TLS that is used like one without.

    OpenSSL reads no further than to the end of a record, so that what is left is seen by whoever polls the socket.
    """

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        """Raises `BlockingIOError` if there is nothing yet; tickets for later sessions are no more than that."""
        try:
            return super().recv_into(buffer, nbytes, flags)
        except ssl.SSLWantReadError:
            raise BlockingIOError from None

    def send(self, data: Any, flags: int = 0) -> int:
        """Send all of it: OpenSSL has to be given what it has begun to send once more, so that is waited for."""
        try:
            return super().send(data, flags)
        except ssl.SSLWantWriteError:
            self.settimeout(ANSWER_WAIT_S)
            try:
                return super().send(data, flags)
            finally:
                self.setblocking(False)


def trusting(certificate: Path) -> ssl.SSLContext:
    """Return what clients connect with to somebody who has this certificate."""
    context = ssl.create_default_context(cafile=str(certificate))
    context.sslsocket_class = TlsSocket
    return context


def connect(address: Address, tls: ssl.SSLContext | None = None) -> socket.socket:
    """Open a blocking connection with a deadline on each operation. Raises ExchangeError."""
    try:
        connection = socket.create_connection(address, timeout=ANSWER_WAIT_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection if tls is None else tls.wrap_socket(connection, server_hostname=address[0])
    except OSError as error:
        raise ExchangeError(f"cannot connect to {address[0]}:{address[1]}: {error}") from None


def has_ended(connection: socket.socket) -> bool:
    """Whether an idle connection has ended, or has something to read, which comes to the same between two calls."""
    try:
        socket.socket.recv(connection, 1, socket.MSG_PEEK | socket.MSG_DONTWAIT)  # with TLS too: what the kernel has
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def exchange(connection: socket.socket, request: bytes) -> Response:
    """Send a whole request and wait for its whole response. Raises ExchangeError."""
    response = Response()
    try:
        connection.sendall(request)
        while not response.complete:
            data = connection.recv(RECEIVE_BYTES)
            if not data:
                raise ExchangeError("the connection was closed before the answer was complete")
            response.feed(data)
    except OSError as error:
        raise ExchangeError(f"the connection failed: {error}") from None
    return response


def request_head(address: Address, method: str, path: str, headers: dict[str, str], body_bytes: int) -> bytes:
    """Return the head of a request with the headers every MCP client sends (transports: Streamable HTTP)."""
    fields = {
        "Host": f"{address[0]}:{address[1]}",
        "User-Agent": "mcp-bulkhead-benchmark",
        "Accept": "application/json, text/event-stream",
        **headers,
    }
    if method == "POST":
        fields |= {"Content-Type": "application/json", "Content-Length": str(body_bytes)}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")
