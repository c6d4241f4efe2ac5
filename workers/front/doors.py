"""The sockets that clients connect to: how many may come in, and what is asked of those who come through which one."""

from __future__ import annotations

import resource
import socket
from collections.abc import Callable, Sequence
from typing import Final

from protocol.control import FrontSettings
from protocol.http1 import response
from protocol.limits import CONNECTIONS_MAX
from workers.front.endpoints import Endpoints
from workers.front.gate import Gate
from workers.front.health_pages import HealthPages
from workers.front.http_connection import HttpConnection
from workers.front.http_router import HttpRouter
from workers.logs import Log
from workers.reactor import Listener, Reactor

CONNECTION_SWEEP_S: Final = 1.0
DESCRIPTORS_KEPT: Final = 32
"""Standard streams, control, listeners, log, what epoll and the loop need, and room for those that are being closed."""
DESCRIPTORS_PER_SERVER: Final = 4
"""A link and its page, of this worker and of the one that takes its place."""


def connections_max(servers: int) -> int:
    """Return how many clients may be connected at once, so that links to the servers' next workers can still be had."""
    may_open, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    kept = DESCRIPTORS_KEPT + DESCRIPTORS_PER_SERVER * servers
    return CONNECTIONS_MAX if may_open == resource.RLIM_INFINITY else max(1, min(CONNECTIONS_MAX, may_open - kept))


class Doors:
    """All listening sockets of a front, and the connections that came in."""

    def __init__(
        self,
        reactor: Reactor,
        settings: FrontSettings,
        sockets: Sequence[socket.socket],
        endpoints: Endpoints,
        pages: HealthPages,
        log: Log,
        *,
        connection_gone: Callable[[], None],
    ) -> None:
        self._reactor = reactor
        self._log = log
        self._sockets = sockets
        self.connections: dict[HttpConnection, None] = {}
        self._max = CONNECTIONS_MAX
        self._sweep = reactor.every(CONNECTION_SWEEP_S, self._sweep_connections)
        self.listeners: list[Listener] = []

        def router(gate: Gate) -> HttpRouter:
            return HttpRouter(endpoints, gate, settings.path, pages, self.connections, connection_gone, log)

        self._network = router(Gate(settings.allowed_hosts, settings.allowed_origins))
        # Whoever gets to a socket that is a file has been let in by its mode; names are not how one gets there.
        self._local = router(Gate(settings.allowed_hosts, settings.allowed_origins, any_host=True))

    def servers_changed(self, count: int) -> None:
        """There are so many servers now, behind other names."""
        self._max = connections_max(count)
        for router in (self._network, self._local):
            router.servers_changed()

    def open(self) -> None:
        """Accept connections from now on."""
        if not self.listeners:
            self.listeners = [self._reactor.add_listener(sock, self._accepted) for sock in self._sockets]

    def drain(self, idle_s: float) -> None:
        """Accept nothing new, and close connections as soon as they have what they wait for."""
        for listener in self.listeners:
            listener.close()
        for sock in self._sockets:
            sock.close()  # whoever connects is refused, once nobody holds it any more, and need not wait for nothing
        for connection in list(self.connections):
            connection.drain(idle_s)

    def _accepted(self, sock: socket.socket) -> None:
        if len(self.connections) >= self._max:
            self._turn_away(sock)
            return
        if sock.family == socket.AF_UNIX:
            router = self._local
        else:
            router = self._network
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connections[HttpConnection(self._reactor, sock, router)] = None
        self._sweep.wake()

    def _turn_away(self, sock: socket.socket) -> None:
        """Say why, as far as that goes without waiting."""
        try:
            sock.send(response(503, [(b"retry-after", b"1")], b"too many connections\n", close=True))
        except OSError:
            pass
        finally:
            sock.close()

    def _sweep_connections(self) -> bool:
        now = self._reactor.now
        for connection in list(self.connections):
            connection.sweep(now)
        return bool(self.connections)
