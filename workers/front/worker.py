"""The front worker: puts listeners, stdio, edges and servers together (architecture.md, sections 2, 3 and 5)."""

from __future__ import annotations

import resource
import socket
from collections.abc import Callable, Collection
from dataclasses import replace

import trio

from protocol import __version__
from protocol.client_profiles import Profiles
from protocol.control import (
    AddServer,
    DropServer,
    EndedSessions,
    FromWorker,
    FrontSettings,
    LinkBroken,
    Managed,
    Released,
    Serve,
    ServerDown,
    ServerInfo,
    SessionEnded,
    SessionNoted,
    SessionNotes,
    StdioClosed,
    StdioSession,
)
from protocol.http1 import response
from protocol.lazy_tools import TOOL_NAMES
from protocol.limits import CONNECTIONS_MAX
from protocol.link import Payload
from protocol.names import Namespace, ServerNaming
from protocol.tool_rules import ToolRules
from workers.front.catalogue import PROMPTS, TOOLS, Catalogue
from workers.front.endpoint import LIST_CHANGED, LISTED_UNDER, Endpoint, ServerIdentity
from workers.front.gate import Gate
from workers.front.group import Group
from workers.front.health_pages import HealthPages
from workers.front.http_connection import HttpConnection
from workers.front.http_edge import HttpEdge
from workers.front.lazy_tools import LazyTools
from workers.front.management import Management
from workers.front.replica import Replica
from workers.front.resources import Resources
from workers.front.rounds import Rounds
from workers.front.served import Served
from workers.front.server_link import ServerLink
from workers.front.sessions import Sessions
from workers.front.stdio import StdioEdge
from workers.front.task_handles import TaskHandles
from workers.logs import Log
from workers.pages import PeerPage
from workers.pipes import PipeStream
from workers.reactor import Listener, Reactor
from workers.transport import Stream, StreamHandler

CONNECTION_SWEEP_S = 1.0
DESCRIPTORS_KEPT = 32
"""Standard streams, control, listeners, log, what epoll and the loop need, and room for those that are being closed."""
DESCRIPTORS_PER_SERVER = 4
"""A link and its page, of this worker and of the one that takes its place."""
LIST_CHANGED_GATHER_S = 0.1
"""Changes that come together are told once."""


OpenPipes = Callable[[Reactor, int, int, StreamHandler], Stream]
"""Makes one stream of the descriptors of standard input and output."""


def connections_max(servers: int) -> int:
    """Return how many clients may be connected at once, so that links to the servers' next workers can still be had."""
    may_open, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    kept = DESCRIPTORS_KEPT + DESCRIPTORS_PER_SERVER * servers
    return CONNECTIONS_MAX if may_open == resource.RLIM_INFINITY else max(1, min(CONNECTIONS_MAX, may_open - kept))


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
        self._changed_kinds: set[str] = set()
        """Of lists, about which clients are told in a moment."""
        self._draining = False
        self._drained = trio.Event()
        self._settings = settings
        self._reserved = frozenset(settings.management)
        if settings.lazy_above >= 0:
            self._reserved |= TOOL_NAMES
        self._rounds = Rounds(settings.session_key)
        self._infos = {info.name: info for info in settings.servers}
        self._groups = {info.name: Group(reactor, info, log, tell_root=tell_root) for info in settings.groups}
        self._links = {info.name: self._new_link(info) for info in settings.servers}
        self._servers: dict[str, Served] = {}
        """What clients see, by public name: servers, and groups in place of their replicas."""
        self._arrange()
        servers = list(self._servers.values())
        self._catalogue = Catalogue(TOOLS, servers, self._namespace(), log)
        self._prompts = Catalogue(PROMPTS, servers, self._prompt_namespace(), log)
        self._resources = Resources(servers, log)
        profiles = Profiles(settings.name_characters_max, settings.separator)
        self._management = Management(reactor, settings.management, tell_root)
        self._sessions = Sessions(
            settings.session_key, settings.ended_sessions, lambda session_id: tell_root(SessionEnded(session_id)),
            noted=lambda note: tell_root(SessionNoted(note)),
        )  # fmt: skip
        self._endpoint = Endpoint(
            reactor, self._servers, self._catalogue, self._sessions, self._management, self._rounds,
            TaskHandles(settings.session_key), log,
            identity=ServerIdentity("mcp-bulkhead", "Multi-Server MCP Proxy", __version__),
            prompts=self._prompts, resources=self._resources, profiles=profiles,
            lazy=LazyTools(self._catalogue, settings.lazy_above) if settings.lazy_above >= 0 else None,
            page_size=settings.page_size,
        )  # fmt: skip
        gate = Gate(settings.allowed_hosts, settings.allowed_origins)
        pages = HealthPages(self._servers.values())
        self._http = HttpEdge(self._endpoint, gate, settings.path, pages, log, connection_gone=self._check_drained)
        self._connections = self._http.connections
        self._connection_sweep = reactor.every(CONNECTION_SWEEP_S, self._sweep_connections)
        self._connections_max = connections_max(len(self._links))
        self._listening = [reactor.machine.socket(fd) for fd in descriptors[: settings.listeners]]
        self._listeners: list[Listener] = []
        if not settings.held:
            self.serve()
        self._stdio = self._open_stdio(descriptors[settings.listeners :], settings) if settings.stdio else None

    async def run(self) -> None:
        """Wait: everything happens in callbacks."""
        await trio.sleep_forever()

    def attach(
        self, sock: socket.socket, peer: str, incarnation: int, page: PeerPage | None = None, *, gently: bool = False
    ) -> None:
        """A link to a new life of a server's worker, and that worker's page.

        `gently`: the worker before it is still there, and finishes what it has.
        """
        server = self._links.get(peer)
        if server is None:
            sock.close()
            if page is not None:
                page.close()
        elif gently:
            successor = self._links[peer] = self._new_link(self._infos[peer])
            self._servers_changed()
            self._retire(server, successor)
            successor.attach(sock, incarnation, self._incarnation, page)
        else:
            server.attach(sock, incarnation, self._incarnation, page)

    def obey(self, order: ServerDown | AddServer | DropServer | EndedSessions | SessionNotes | Managed | Serve) -> None:
        """Carry out an order that comes without descriptors."""
        match order:
            case ServerDown():
                self.server_down(order.name, order.retry_after_s)
            case AddServer():
                self._add_server(order.server, order.place)
            case DropServer():
                self._drop_server(order.name)
            case EndedSessions():
                self._sessions.add_ended(order.session_ids)
            case SessionNotes():
                self._sessions.add_notes(order.notes)
            case Managed():
                self._management.managed(order)
            case Serve():
                self.serve()

    def server_down(self, name: str, retry_after_s: float) -> None:
        if name in self._links:
            self._links[name].down(retry_after_s)

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
        self._endpoint.subscriptions.drain()
        if self._stdio is not None:
            self._stdio.drain()
        self._draining = True
        self._check_drained()
        with trio.move_on_after(deadline_s):
            await self._drained.wait()
        if self._connections:
            self._log.warning("connections were closed at the end of the drain", connections=len(self._connections))

    # --- servers that come and go ---------------------------------------------------------------------------
    def _add_server(self, info: ServerInfo, place: int) -> None:
        link = self._links.get(info.name)
        if link is None:
            links = list(self._links.items())
            links.insert(place, (info.name, link := self._new_link(info)))
            self._links = dict(links)
        elif isinstance(link, Replica):  # it has got other settings
            link.weight = info.weight
        self._infos[info.name] = info
        self._servers_changed()
        self._list_changed(link.kinds)

    def _drop_server(self, name: str) -> None:
        if (server := self._links.pop(name, None)) is None:
            return
        del self._infos[name]
        self._servers_changed()
        self._retire(server, None)
        self._list_changed(server.kinds)

    def _retire(self, server: ServerLink, successor: ServerLink | None) -> None:
        server.retire(successor, lambda: self._tell_root(Released(server.name, server.incarnation)))

    def _arrange(self) -> None:
        """Put each group that has replicas in the place of the first of them."""
        self._servers.clear()  # the endpoint looks servers up in this very dictionary
        for name, link in self._links.items():
            group = self._groups.get(self._infos[name].group)
            self._servers[group.name if group else name] = group or link
        replicas = [link for link in self._links.values() if isinstance(link, Replica)]
        replicas.sort(key=lambda one: self._infos[one.name].rank)
        for group in self._groups.values():
            group.serve([one for one in replicas if self._infos[one.name].group == group.name])

    def _servers_changed(self) -> None:
        self._arrange()
        servers = list(self._servers.values())
        self._connections_max = connections_max(len(self._links))
        self._catalogue.serve(servers, self._namespace())
        self._prompts.serve(servers, self._prompt_namespace())
        self._resources.serve(servers)
        self._endpoint.subscriptions.servers_changed()

    def _namespace(self) -> Namespace:
        return Namespace(
            [self._naming(name) for name in self._servers], self._settings.separator, self._settings.namespace,
            self._reserved,
        )  # fmt: skip

    def _prompt_namespace(self) -> Namespace:
        """Prompts are named as tools are, but what the user wants of a server's tools says nothing about them."""
        namings = [replace(self._naming(name), rules=ToolRules()) for name in self._servers]
        return Namespace(namings, self._settings.separator, self._settings.namespace)

    def _naming(self, public: str) -> ServerNaming:
        group = self._groups.get(public)
        info = group.info if group else self._infos[public]
        return ServerNaming(public, info.prefix, info.priority, info.rules)

    def _new_link(self, info: ServerInfo) -> ServerLink:
        if group := self._groups.get(info.group):
            return Replica(
                self._reactor, info, self._log, group=group, list_changed=self._list_changed,
                link_broken=self._link_broken,
                updated=lambda _, uri, params: self._resource_updated(group.name, uri, params), rounds=self._rounds,
            )  # fmt: skip
        return ServerLink(
            self._reactor, info, self._log, list_changed=self._list_changed, link_broken=self._link_broken,
            updated=self._resource_updated, rounds=self._rounds,
        )  # fmt: skip

    def _check_drained(self) -> None:
        if self._draining and not self._connections and not (self._stdio is not None and self._stdio.busy):
            self._drained.set()

    # --- listeners ------------------------------------------------------------------------------------------
    def _accepted(self, sock: socket.socket) -> None:
        if len(self._connections) >= self._connections_max:
            self._turn_away(sock)
            return
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connections[HttpConnection(self._reactor, sock, self._http)] = None
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
        self._tell_root(LinkBroken(peer, incarnation, reason))

    def _resource_updated(self, server: str, uri: str, params: Payload) -> None:
        self._endpoint.subscriptions.updated(server, uri, params)

    def _list_changed(self, kinds: Collection[str]) -> None:
        if not self._changed_kinds and kinds:
            self._reactor.start_soon(self._tell_clients)
        self._changed_kinds.update(kinds)

    async def _tell_clients(self) -> None:
        await trio.sleep(LIST_CHANGED_GATHER_S)
        kinds, self._changed_kinds = self._changed_kinds, set()
        for message in dict.fromkeys(LIST_CHANGED[kind] for kind in sorted(kinds) if kind in LIST_CHANGED):
            self._sessions.broadcast(message)
        for capability in dict.fromkeys(LISTED_UNDER[kind] for kind in sorted(kinds) if kind in LISTED_UNDER):
            self._endpoint.subscriptions.list_changed(capability)
