"""The front worker: puts listeners, stdio, edges and servers together (architecture.md, sections 2, 3 and 5)."""

from __future__ import annotations

import socket
from collections.abc import Callable

import trio

from protocol import __version__
from protocol.control import FromWorker, FrontSettings, LinkBroken, SessionEnded, StdioClosed, StdioSession
from protocol.http1 import response
from protocol.limits import CONNECTIONS_MAX
from protocol.names import Namespace
from workers.front.catalogue import Catalogue
from workers.front.endpoint import TOOLS_CHANGED, Endpoint, ServerIdentity
from workers.front.gate import Gate
from workers.front.http_connection import HttpConnection
from workers.front.http_edge import HttpEdge
from workers.front.server_link import ServerLink
from workers.front.sessions import Sessions
from workers.front.stdio import StdioEdge
from workers.logs import Log
from workers.pages import PeerPage
from workers.pipes import PipeStream
from workers.reactor import Listener, Reactor
from workers.transport import Stream, StreamHandler

CONNECTION_SWEEP_S = 1.0
LIST_CHANGED_GATHER_S = 0.1
"""Changes that come together are told once."""


OpenPipes = Callable[[Reactor, int, int, StreamHandler], Stream]
"""Makes one stream of the descriptors of standard input and output."""


class FrontWorker:
    """Speaks MCP to clients."""

    def __init__(
        self,
        reactor: Reactor,
        settings: FrontSettings,
        descriptors: list[int],
        *,
        incarnation: int,
        log: Log,
        tell_root: Callable[[FromWorker], None],
        open_pipes: OpenPipes = PipeStream,
    ) -> None:
        self._open_pipes = open_pipes
        self._reactor = reactor
        self._log = log
        self._incarnation = incarnation
        self._tell_root = tell_root
        self._change_pending = False
        self._draining = False
        self._drained = trio.Event()
        self._servers = {
            info.name: ServerLink(
                reactor,
                info.name,
                log,
                list_changed=self._list_changed,
                link_broken=self._link_broken,
                trust_annotations=settings.trust_annotations,
            )
            for info in settings.servers
        }
        namespace = Namespace([info.name for info in settings.servers], settings.separator)
        self._catalogue = Catalogue(list(self._servers.values()), namespace, log)
        self._sessions = Sessions(
            settings.session_key, settings.ended_sessions, lambda session_id: tell_root(SessionEnded(session_id))
        )
        self._endpoint = Endpoint(
            reactor, self._servers, self._catalogue, self._sessions, log,
            identity=ServerIdentity("mcp-bulkhead", "Multi-Server MCP Proxy", __version__),
            call_timeout_s=settings.call_timeout_s, page_size=settings.page_size,
        )  # fmt: skip
        gate = Gate(settings.allowed_hosts, settings.allowed_origins)
        self._http = HttpEdge(self._endpoint, gate, settings.path, log, connection_gone=self._check_drained)
        self._connections = self._http.connections
        self._connection_sweep = reactor.every(CONNECTION_SWEEP_S, self._sweep_connections)
        self._listening = [reactor.machine.socket(fd) for fd in descriptors[: settings.listeners]]
        self._listeners: list[Listener] = []
        if not settings.held:
            self.serve()
        self._stdio = self._open_stdio(descriptors[settings.listeners :], settings) if settings.stdio else None

    async def run(self) -> None:
        """Wait: everything happens in callbacks."""
        await trio.sleep_forever()

    def attach(self, sock: socket.socket, peer: str, incarnation: int, page: PeerPage | None = None) -> None:
        """A link to a new life of a server's worker, and that worker's page."""
        server = self._servers.get(peer)
        if server is not None:
            server.attach(sock, incarnation, self._incarnation, page)
            return
        sock.close()
        if page is not None:
            page.close()

    def server_down(self, name: str, retry_after_s: float) -> None:
        if name in self._servers:
            self._servers[name].down(retry_after_s)

    def sessions_ended(self, session_ids: list[str]) -> None:
        """Sessions ended that this front did not see end: before its time, or at a front of another root."""
        self._sessions.add_ended(session_ids)

    def serve(self) -> None:
        """Accept connections from now on."""
        if not self._listeners and not self._draining:
            self._listeners = [self._reactor.add_listener(sock, self._accepted) for sock in self._listening]

    async def drain(self, deadline_s: float, idle_s: float = 0.0) -> None:
        """Accept nothing new, finish what is under way, close.

        `idle_s`: how long clients may still begin a request on a connection that they have.
        """
        for listener in self._listeners:
            listener.close()
        for sock in self._listening:
            sock.close()  # whoever connects is refused, once nobody holds it any more, and need not wait for nothing
        for connection in list(self._connections):
            connection.drain(idle_s)
        if self._stdio is not None:
            self._stdio.drain()
        self._draining = True
        self._check_drained()
        with trio.move_on_after(deadline_s):
            await self._drained.wait()
        if self._connections:
            self._log.warning("connections were closed at the end of the drain", connections=len(self._connections))

    def _check_drained(self) -> None:
        if self._draining and not self._connections and not (self._stdio is not None and self._stdio.busy):
            self._drained.set()

    # --- listeners ------------------------------------------------------------------------------------------
    def _accepted(self, sock: socket.socket) -> None:
        if len(self._connections) >= CONNECTIONS_MAX:
            self._turn_away(sock)
            return
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connections.add(HttpConnection(self._reactor, sock, self._http))
        self._connection_sweep.wake()

    def _turn_away(self, sock: socket.socket) -> None:
        """Say why, as far as that goes without waiting."""
        try:
            sock.send(response(503, [(b"retry-after", b"1")], b"too many connections\n", close=True))
        except OSError:
            pass
        finally:
            sock.close()

    def _open_stdio(self, descriptors: list[int], settings: FrontSettings) -> StdioEdge:
        stdin, stdout = descriptors

        def open_pipes(handler: StdioEdge) -> Stream:
            return self._open_pipes(self._reactor, stdin, stdout, handler)

        return StdioEdge(
            self._endpoint, self._log, open_pipes=open_pipes,
            session=self._sessions.find(settings.stdio_session) if settings.stdio_session else None,
            session_opened=lambda token: self._tell_root(StdioSession(token)),
            closed=lambda: self._tell_root(StdioClosed()), answered=self._check_drained,
        )  # fmt: skip

    # --- sweeps and changes ---------------------------------------------------------------------------------
    def _sweep_connections(self) -> bool:
        now = self._reactor.now
        for connection in list(self._connections):
            connection.sweep(now)
        return bool(self._connections)

    def _link_broken(self, peer: str, incarnation: int, reason: str) -> None:
        self._log.error("a worker broke the link protocol", server=peer, incarnation=incarnation, reason=reason)
        self._tell_root(LinkBroken(peer, incarnation, reason))

    def _list_changed(self, server: str) -> None:
        del server
        if not self._change_pending:
            self._change_pending = True
            self._reactor.start_soon(self._tell_clients)

    async def _tell_clients(self) -> None:
        await trio.sleep(LIST_CHANGED_GATHER_S)
        self._change_pending = False
        self._sessions.broadcast(TOOLS_CHANGED)
