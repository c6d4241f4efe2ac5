"""The WebSocket side of the backend: a message of MCP in each text frame, for stateless clients alone.

The frames are wsproto's, as in the proxy, so this costs the backend more than HTTP does; its CPU is counted apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from wsproto.connection import Connection, ConnectionType
from wsproto.events import CloseConnection, Ping, TextMessage
from wsproto.utilities import generate_accept_token

from benchmarks.backend_answers import Answers, Parts, answer_alone

_KEY: Final = b"sec-websocket-key:"


def acceptance(head: bytes) -> bytes:
    """Return the answer to a handshake; b"" if the head of this request is none."""
    fields = [line for line in head.split(b"\r\n") if line.lower().startswith(_KEY)]
    if not fields:
        return b""
    token = generate_accept_token(fields[0].partition(b":")[2].strip())
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Protocol: mcp\r\nSec-WebSocket-Accept: %s\r\n\r\n" % token
    )


class Frames:
    """One WebSocket. Messages fit into one frame each."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._frames = Connection(ConnectionType.SERVER)
        self._pieces: list[str] = []

    def answers_to(self, data: bytes) -> Iterator[Parts]:
        """Yield what is to be sent for what has come. Raises ValueError at the end of the connection."""
        self._frames.receive_data(data)
        for event in self._frames.events():
            if isinstance(event, TextMessage):
                self._pieces.append(event.data)
                if event.message_finished:
                    text, self._pieces = "".join(self._pieces), []
                    yield from self._answer(text.encode())
            elif isinstance(event, Ping):
                yield (self._frames.send(event.response()),)
            elif isinstance(event, CloseConnection):
                raise ValueError("the client has closed the connection")

    def _answer(self, body: bytes) -> Iterator[Parts]:
        if answer := answer_alone(self._answers, body):
            yield (self._frames.send(TextMessage(answer.decode())),)
