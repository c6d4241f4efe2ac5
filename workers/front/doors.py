"""The sockets that clients connect to: how many may come in, and what is asked of those who come through which one."""

from __future__ import annotations

import resource
import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from protocol.control import FrontSettings
from protocol.counts import ACCEPTED, CONNECTIONS, TURNED_AWAY
from protocol.forwarded import UNIX, TrustedProxies
from protocol.http1 import Request, response
from protocol.limits import CONNECTIONS_MAX, HANDSHAKES_MAX, HEADERS_DEADLINE_S
from protocol.moving import Moved, moved
from protocol.moving import requests as requests_of
from workers.front.certificate import Certificate
from workers.front.crowd import HOLD_BACK_S, Crowd
from workers.front.endpoints import Endpoints
from workers.front.gate import Gate
from workers.front.handshakes import USE_HTTPS, Handshakes
from workers.front.health_pages import HealthPages
from workers.front.http_connection import Connected, HttpConnection, OpenStream
from workers.front.http_router import HttpRouter, ProxyRouter
from workers.front.other_fronts import FrontGone, OtherFronts
from workers.front.proxy_preface import ProxyPreface
from workers.front.relay import Relay
from workers.front.sse_edge import SseEdge
from workers.logs import Log
from workers.reactor import Listener, Reactor
from workers.tls import TlsStream
from workers.transport import StreamHandler

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
        shared: Sequence[int] = (),
        front_gone: Callable[[int], None] = lambda _: None,
    ) -> None:
        """`shared`: descriptors of what this front shares with others, if there are any (`protocol.control.Boot`).

        `front_gone`: told of each of them that has left.
        """
        self._reactor = reactor
        self._settings = settings
        self._sockets = sockets
        self._log = log
        self.connections: dict[Connected, None] = {}
        self._prefaces: dict[ProxyPreface, None] = {}
        """Connections of load balancers that have not said yet whom they are for."""
        self._half_open: dict[HttpConnection, TlsStream] = {}
        """Connections whose handshake is not over, as far as is known."""
        self._max = CONNECTIONS_MAX
        self._sweep = reactor.every(CONNECTION_SWEEP_S, self._sweep_connections)
        self.listeners: list[Listener] = []
        self._proxies = TrustedProxies(settings.trusted_proxies) if settings.trusted_proxies else None

        self._crowd = Crowd(shared[0], settings.fronts, settings.number) if shared else None
        self._tell_gone = connection_gone
        self._idle_s = 0.0
        """While draining: how long clients may still begin a request."""
        self._is_draining = False
        self._handshakes = Handshakes(reactor, log)
        sse = self._sse = SseEdge(log, fronts=settings.fronts, number=settings.number) if settings.sse else None

        def routers(gate: Gate) -> tuple[HttpRouter, HttpRouter]:
            common = (
                endpoints, gate, settings.path, pages, self.connections, self._one_gone, log, sse,
                settings.websocket_path, self._spoke_tls, self._move if shared else None,
            )  # fmt: skip
            direct, behind = HttpRouter(*common), ProxyRouter(*common)
            if self._proxies is not None:
                behind.proxies = self._proxies
            return direct, behind

        self._tell_front_gone = front_gone
        self._others = self._open_others(shared[1:]) if shared else None
        self._network = routers(Gate(settings.allowed_hosts, settings.allowed_origins))
        """For clients, and for proxies that are trusted to say whom they speak for."""
        # Whoever gets to a socket that is a file has been let in by its mode; names are not how one gets there.
        self._local = routers(Gate(settings.allowed_hosts, settings.allowed_origins, any_host=True))
        self._certificate = None
        if settings.certificate:
            self._certificate = Certificate(settings.certificate, settings.key, log, changed=self._named)
            self._certificate.read()

    def _named(self, names: list[str]) -> None:
        """The certificate says who we are: no page can get here by another name, so these need no list of their own."""
        gate = Gate([*self._settings.allowed_hosts, *names], self._settings.allowed_origins)
        for router in self._network:
            router.rules = gate

    def read_certificate(self) -> None:
        """Read it again now."""
        if self._certificate is not None:
            self._certificate.read()

    def servers_changed(self, count: int) -> None:
        """There are so many servers now, behind other names."""
        self._max = connections_max(count)
        for router in (*self._network, *self._local):
            router.servers_changed()

    def open(self) -> None:
        """Accept connections from now on."""
        if not self.listeners:
            holds_back = self._holds_back if self._crowd is not None else None
            self.listeners = [self._reactor.add_listener(sock, self._accepted, holds_back) for sock in self._sockets]

    def _holds_back(self) -> float:
        assert self._crowd is not None
        self._crowd.note(len(self.connections))
        return HOLD_BACK_S if self._crowd.is_ahead else 0.0

    def _one_gone(self) -> None:
        """A connection has ended."""
        self._reactor.counts[CONNECTIONS] = len(self.connections)
        if self._crowd is not None:
            self._crowd.note(len(self.connections))
        self._tell_gone()

    def drain(self, idle_s: float) -> None:
        """Accept nothing new, and close connections as soon as they have what they wait for."""
        self._is_draining, self._idle_s = True, idle_s
        for listener in self.listeners:
            listener.close()
        for sock in self._sockets:
            sock.close()  # whoever connects is refused, once nobody holds it any more, and need not wait for nothing
        for preface in list(self._prefaces):
            preface.give_up("the proxy is stopping")
        for connection in list(self.connections):
            connection.drain(idle_s)

    def leave(self) -> bool:
        """Take nothing more from other fronts; return whether nothing came after all."""
        others, self._others = self._others, None
        if others is not None:
            others.leave()
        crowd, self._crowd = self._crowd, None
        if crowd is not None:
            crowd.close()
        return not self.connections

    def _open_others(self, descriptors: Sequence[int]) -> OtherFronts:
        inbox, *ways = (self._reactor.machine.socket(fd) for fd in descriptors)
        return OtherFronts(
            self._reactor, self._settings.number, inbox, ways, self._log,
            arrived=self._arrived, gone=self._front_gone,
        )  # fmt: skip

    # --- to other fronts, and from there --------------------------------------------------------------------
    def _move(self, connection: HttpConnection, front: int, requests: Sequence[Request]) -> bool:
        """Hand a connection over to another front; return False if that is gone."""
        if self._others is None:
            self._front_gone(front)  # or this one is about to be, which is the same to the client
            return False
        stream = connection.stream
        try:
            if isinstance(stream, TlsStream):
                return self._move_tls(self._others, stream, front, moved(connection.client, requests))
            sock = stream.socket.dup()
        except OSError as error:
            self._log.warning("a connection is closed: it belongs to another front", reason=error.strerror)
            stream.abort()
            return True
        is_local = connection.service in self._local
        try:
            self._others.hand_over(
                front, sock, moved(connection.client, requests, is_local=is_local, unsent=stream.unsent())
            )
        except FrontGone:
            sock.close()
            return False
        stream.let_go()
        return True

    def _move_tls(self, others: OtherFronts, stream: TlsStream, front: int, message: Moved) -> bool:
        ours, theirs = socket.socketpair()
        try:
            others.hand_over(front, theirs, message)
        except FrontGone:
            ours.close()
            theirs.close()
            return False
        self.connections[Relay(self._reactor, stream, ours, self._relay_gone)] = None
        return True

    def _front_gone(self, front: int) -> None:
        if self._sse is not None:
            self._sse.front_gone(front)
        self._tell_front_gone(front)

    def _relay_gone(self, relay: Relay) -> None:
        self.connections.pop(relay, None)
        self._one_gone()

    def _arrived(self, sock: socket.socket, message: Moved) -> None:
        """Another front hands over a connection whose requests are this one's to serve."""
        if len(self.connections) + len(self._prefaces) >= self._max:
            self._reactor.counts[TURNED_AWAY] += 1
            self._turn_away(sock, is_plain=True)
            return
        router = self._router(message.client, is_local=message.is_local)
        connection = self._add(lambda handler: self._reactor.add_stream(sock, handler), router, message.client)
        connection.take_over(message.unsent, requests_of(message))
        if self._is_draining:
            connection.drain(self._idle_s)

    # --- who comes in ---------------------------------------------------------------------------------------
    def _accepted(self, sock: socket.socket) -> None:
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if len(self.connections) + len(self._prefaces) >= self._max:
            self._reactor.counts[TURNED_AWAY] += 1
            self._turn_away(sock)
        elif self._proxies is None:
            self._begin(sock, "")
        else:
            self._accepted_from(sock, self._proxies)

    def _accepted_from(self, sock: socket.socket, proxies: TrustedProxies) -> None:
        """Find out whether the client is a proxy that may speak for others."""
        try:
            peer = UNIX if sock.family == socket.AF_UNIX else sock.getpeername()[0]
        except OSError:  # gone again
            sock.close()
            return
        if not proxies.trusts(peer):
            self._begin(sock, "")
        elif not self._settings.proxy_protocol:
            self._begin(sock, peer)
        else:

            def introduced(preface: ProxyPreface, client: str | None) -> None:
                del self._prefaces[preface]
                if client is not None:
                    self._begin(sock, client or peer)

            self._prefaces[ProxyPreface(self._reactor, sock, peer, self._log, introduced)] = None
            self._sweep.wake()

    def _router(self, client: str, *, is_local: bool) -> HttpRouter:
        routers = self._local if is_local else self._network
        return routers[bool(client) and self._proxies is not None and self._proxies.trusts(client)]

    def _begin(self, sock: socket.socket, client: str) -> None:
        """Serve a connection. `client`: its address, if that can be trusted to be one client's, or a proxy's."""
        is_local = sock.family == socket.AF_UNIX
        router = self._router(client, is_local=is_local)
        if self._certificate is not None and not is_local:
            self._begin_tls(sock, self._certificate, router, client)
        else:
            self._reactor.counts[ACCEPTED] += 1
            self._add(lambda handler: self._reactor.add_stream(sock, handler), router, client)

    def _begin_tls(self, sock: socket.socket, certificate: Certificate, router: HttpRouter, client: str) -> None:
        """Begin the handshake. What bounds its time is that a connection without a request is idle."""
        context = certificate.context(self._reactor.now)
        if context is None or not self._has_room_for_handshake():
            self._reactor.counts[TURNED_AWAY] += 1
            sock.close()  # to say why would take a handshake
            return

        failed = partial(self._handshakes.failed, client or _address(sock), self._reactor.now)

        def open_stream(handler: StreamHandler) -> TlsStream:
            return TlsStream(self._reactor, sock, handler, context, server_side=True, failed=failed, plainly=USE_HTTPS)

        self._reactor.counts[ACCEPTED] += 1
        connection = self._add(open_stream, router, client)
        assert isinstance(connection.stream, TlsStream)
        self._half_open[connection] = connection.stream

    def _spoke_tls(self, connection: HttpConnection) -> None:
        self._handshakes.unexpected(connection.client or _address(connection.stream.socket))

    def _has_room_for_handshake(self) -> bool:
        if len(self._half_open) >= HANDSHAKES_MAX:
            self._half_open = {
                connection: stream
                for connection, stream in self._half_open.items()
                if not connection.closed and not stream.is_secured
            }
        return len(self._half_open) < HANDSHAKES_MAX

    def _add(self, open_stream: OpenStream, router: HttpRouter, client: str) -> HttpConnection:
        connection = HttpConnection(self._reactor, open_stream, router, client)
        self.connections[connection] = None
        self._reactor.counts[CONNECTIONS] = len(self.connections)
        self._sweep.wake()
        return connection

    def _turn_away(self, sock: socket.socket, *, is_plain: bool = False) -> None:
        """Say why, as far as that goes without waiting. `is_plain`: no TLS is spoken on it, whatever it is."""
        try:
            if is_plain or self._certificate is None or sock.family == socket.AF_UNIX:
                sock.send(response(503, [(b"retry-after", b"1")], b"too many connections\n", close=True))
        except OSError:
            pass
        finally:
            sock.close()

    def _sweep_connections(self) -> bool:
        now = self._reactor.now
        for preface in list(self._prefaces):
            if now - preface.since > HEADERS_DEADLINE_S:
                preface.give_up("no header of the PROXY protocol came in time")
        for connection in list(self.connections):
            connection.sweep(now)
        return bool(self.connections or self._prefaces)


def _address(sock: socket.socket) -> str:
    """Return who is at the other end, for people."""
    try:
        return str(sock.getpeername()[0]) if sock.family != socket.AF_UNIX else UNIX
    except OSError:  # gone again
        return "unknown"
