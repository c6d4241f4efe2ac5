"""Clients that come and go: some say nothing, some leave in the middle of a word, some before their answer is there."""

from __future__ import annotations

import collections
import socket
import struct
from collections.abc import Callable
from typing import Final

from benchmarks import clients, wire
from benchmarks.clients import Client, Endpoint
from benchmarks.messages import CALL_IDS_FROM, Workload
from benchmarks.steady import PAYLOAD_BYTES, public_tool
from benchmarks.wire import ExchangeError, Response
from protocol.versions import Era

ANSWER_WAIT_S: Final = 10.0
_RESET: Final = struct.pack("ii", 1, 0)
"""For SO_LINGER: closing sends a reset and not an end."""


class Visitors:
    """Visits one proxy from now on. Each kind of visit comes as often as the others, to one server after the other.

    Raises ExchangeError or ValueError if the proxy does not answer."""

    def __init__(self, endpoint: Endpoint, servers: int) -> None:
        self._endpoint = endpoint
        self._calls: dict[Era, list[Client]] = {era: [] for era in Era}
        """A client for each server, of which only the prepared request is used."""
        self._last_id = CALL_IDS_FROM
        self._visits = 0
        self.answered: collections.Counter[bool] = collections.Counter()
        """Of the visitors who stayed: whether they got the answer to their call."""
        self.turned_away = 0
        """Visitors who could not even connect, or were hung up on in the middle of their request."""
        try:
            for era, opened in self._calls.items():
                for server in range(servers):
                    opened += clients.open_clients(endpoint, Workload(PAYLOAD_BYTES, era), 1, public_tool(server))
        finally:
            for opened in self._calls.values():  # their sessions go on without them
                for client in opened:
                    client.peer.close()

    def visit(self) -> None:
        """Make the next visit."""
        kind = _KINDS[self._visits % len(_KINDS)]
        server = self._visits // len(_KINDS) % len(self._calls[Era.MODERN])
        self._visits += 1
        try:
            connection = wire.connect(self._endpoint.address)
        except ExchangeError:
            self.turned_away += 1
            return
        with connection:
            connection.settimeout(ANSWER_WAIT_S)
            kind(self, connection, server)

    def _request(self, era: Era, server: int) -> bytes:
        client = self._calls[era][server]
        self._last_id += 1
        return client.before_id + b"%d" % self._last_id + client.after_id

    def _send(self, connection: socket.socket, data: bytes) -> None:
        try:
            connection.sendall(data)
        except OSError:
            self.turned_away += 1

    # --- kinds of visits ---------------------------------------------------------------------------------------------
    def say_nothing(self, connection: socket.socket, server: int) -> None:
        """Connect, and leave."""

    def say_nothing_and_reset(self, connection: socket.socket, server: int) -> None:
        reset(connection)

    def leave_in_the_head(self, connection: socket.socket, server: int) -> None:
        self._send(connection, self._request(Era.MODERN, server)[:60])
        reset(connection)

    def leave_in_the_body(self, connection: socket.socket, server: int) -> None:
        self._send(connection, self._request(Era.LEGACY, server)[:-20])

    def vanish_in_a_modern_call(self, connection: socket.socket, server: int) -> None:
        self._send(connection, self._request(Era.MODERN, server))
        reset(connection)

    def vanish_in_a_legacy_call(self, connection: socket.socket, server: int) -> None:
        self._send(connection, self._request(Era.LEGACY, server))
        reset(connection)

    def leave_an_event_stream(self, connection: socket.socket, server: int) -> None:
        session = self._calls[Era.LEGACY][server].session.decode("ascii")
        headers = {"Mcp-Session-Id": session, "Accept": "text/event-stream"}
        endpoint = self._endpoint
        self._send(connection, wire.request_head(endpoint.address, "GET", endpoint.path, headers, 0))
        try:
            connection.recv(4096)
        except OSError:
            self.turned_away += 1

    def stay(self, connection: socket.socket, server: int) -> None:
        try:
            response: Response | None = wire.exchange(connection, self._request(Era.MODERN, server))
        except ExchangeError:
            response = None
        self.answered[response is not None and b'"result"' in response.body] += 1


def reset(connection: socket.socket) -> None:
    """Make the connection end as if its client had crashed."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


_KINDS: Final[tuple[Callable[[Visitors, socket.socket, int], None], ...]] = (
    Visitors.say_nothing,
    Visitors.say_nothing_and_reset,
    Visitors.leave_in_the_head,
    Visitors.leave_in_the_body,
    Visitors.vanish_in_a_modern_call,
    Visitors.vanish_in_a_legacy_call,
    Visitors.leave_an_event_stream,
    Visitors.stay,
)
