"""Speaks HTTP/1.1 as a client needs it outside of the fast path: whole responses, in plain JSON or as an event stream.

This is deliberately not `protocol.http1`, which is part of what is measured: an independent reader notices its
mistakes.
"""

from __future__ import annotations

import re
import socket
from typing import Final

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


def connect(address: Address) -> socket.socket:
    """Open a blocking connection with a deadline on each operation. Raises ExchangeError."""
    try:
        connection = socket.create_connection(address, timeout=ANSWER_WAIT_S)
    except OSError as error:
        raise ExchangeError(f"cannot connect to {address[0]}:{address[1]}: {error}") from None
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


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
