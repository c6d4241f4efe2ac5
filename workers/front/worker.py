"""The front worker: puts listeners, stdio, edges and servers together (architecture.md, sections 2, 3 and 5)."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Mapping, Sequence

import trio

from protocol.control import (
    AddServer,
    DropServer,
    EndedSessions,
    FromWorker,
    FrontSettings,
    GroupInfo,
    Groups,
    LinkBroken,
    Managed,
    ReadCertificate,
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
from protocol.ledger import LEDGER_BYTES, Ledger
from protocol.link import Payload
from protocol.names import ServerNaming
from workers.front.doors import Doors
from workers.front.endpoints import Endpoints
from workers.front.fallbacks import Fallbacks
from workers.front.group import Group
from workers.front.health_pages import HealthPages
from workers.front.kept_streams import KeptStreams
from workers.front.replica import Replica
from workers.front.rounds import Rounds
from workers.front.served import Served
from workers.front.server_link import LIST_CAPABILITIES, ServerLink
from workers.front.sessions import Sessions
from workers.front.stdio import StdioEdge
from workers.logs import Log
from workers.pages import PeerPage
from workers.pipes import PipeStream
from workers.reactor import Reactor
from workers.transport import Stream, StreamHandler

OpenPipes = Callable[[Reactor, int, int, StreamHandler], Stream]
"""Makes one stream of the descriptors of standard input and output."""

Order = ServerDown | AddServer | DropServer | Groups | EndedSessions | SessionNotes | Managed | Serve | ReadCertificate
"""What comes without descriptors."""


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
        self._draining = False
        self._drained = trio.Event()
        self._settings = settings
        self._rounds = Rounds(settings.session_key)
        self._infos = {info.name: info for info in settings.servers}
        self._groups = {info.name: self._new_group(info) for info in settings.groups}
        self._servers: dict[str, Served] = {}
        """What clients see, by public name: servers, and groups in place of their replicas."""
        self._fallbacks = Fallbacks(self._servers, self._configured_fallbacks)
        self._links = {info.name: self._new_link(info) for info in settings.servers}
        self._arrange()
        self._sessions = Sessions(
            settings.session_key, settings.ended_sessions, lambda session_id: tell_root(SessionEnded(session_id)),
            noted=lambda note: tell_root(SessionNoted(note)), kept=KeptStreams(reactor), fronts=settings.fronts,
            number=settings.number,
        )  # fmt: skip
        self._sessions.gone = self._client_gone
        self._endpoints = Endpoints(
            reactor, settings, self._servers, self._namings(), self._sessions, self._rounds, log, tell_root
        )
        self._endpoint = self._endpoints.merged
        shared = descriptors[settings.listeners + (3 if settings.stdio else 0) :]
        self._doors = Doors(
            reactor, settings, [reactor.machine.socket(fd) for fd in descriptors[: settings.listeners]],
            self._endpoints,
            HealthPages(self._servers.values(), lambda: len(self._groups.keys() - self._servers.keys())),
            log, connection_gone=self._check_drained,
            shared=shared if settings.fronts > 1 else (), front_gone=self._sessions.front_gone,
        )  # fmt: skip
        self._doors.servers_changed(len(self._links))
        self._connections = self._doors.connections
        if not settings.held:
            self.serve()
        stdio = descriptors[settings.listeners : settings.listeners + 3]
        self._stdio = self._open_stdio(stdio, settings) if settings.stdio else None

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

    def obey(self, order: Order) -> None:
        """Carry out an order that comes without descriptors."""
        match order:
            case ServerDown():
                self.server_down(order.name, order.retry_after_s)
            case AddServer():
                self._add_server(order.server, order.place)
            case DropServer():
                self._drop_server(order.name)
            case Groups():
                self._regroup(order.groups)
            case EndedSessions():
                self._sessions.add_ended(order.session_ids)
            case SessionNotes():
                self._sessions.add_notes(order.notes)
            case Managed():
                self._endpoints.managed(order)
            case Serve():
                self.serve()
            case ReadCertificate():
                self._doors.read_certificate()

    def server_down(self, name: str, retry_after_s: float) -> None:
        if name in self._links:
            self._links[name].down(retry_after_s)

    def serve(self) -> None:
        """Accept connections from now on."""
        if not self._draining:
            self._doors.open()

    async def drain(self, deadline_s: float, idle_s: float = 0.0) -> None:
        """Accept nothing new, finish what is under way, close.

        `idle_s`: how long clients may still begin a request on a connection that they have.
        """
        self._doors.drain(idle_s)
        self._endpoints.drain()
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
            link.weight, link.percent = info.weight, info.percent
        self._infos[info.name] = info
        self._servers_changed()
        self._endpoints.list_changed(self._public_name(info), link.kinds)

    def _drop_server(self, name: str) -> None:
        if (server := self._links.pop(name, None)) is None:
            return
        public = self._public_name(self._infos.pop(name))
        self._servers_changed()
        self._retire(server, None)
        self._endpoints.list_changed(public, server.kinds)

    def _regroup(self, infos: Sequence[GroupInfo]) -> None:
        known = self._groups
        self._groups = {info.name: known.get(info.name) or self._new_group(info) for info in infos}
        for info in infos:
            self._groups[info.name].become(info)
        self._servers_changed()
        for name in self._groups.keys() & self._servers:
            self._endpoints.list_changed(name, LIST_CAPABILITIES)

    def _new_group(self, info: GroupInfo) -> Group:
        return Group(self._reactor, info, self._log, tell_root=self._tell_root)

    def _retire(self, server: ServerLink, successor: ServerLink | None) -> None:
        server.retire(successor, lambda: self._tell_root(Released(server.name, server.incarnation)))

    def _arrange(self) -> None:
        """Put each group that has replicas in the place of the first of them."""
        self._servers.clear()  # probes look into this very dictionary
        for name, link in self._links.items():
            group = self._groups.get(self._infos[name].group)
            self._servers[group.name if group else name] = group or link
        replicas = [link for link in self._links.values() if isinstance(link, Replica)]
        replicas.sort(key=lambda one: self._infos[one.name].rank)
        for group in self._groups.values():
            group.serve([one for one in replicas if self._infos[one.name].group == group.name])

    def _servers_changed(self) -> None:
        self._arrange()
        self._endpoints.serve(self._servers, self._namings())
        self._doors.servers_changed(len(self._links))

    def _namings(self) -> list[ServerNaming]:
        return [self._naming(name) for name in self._servers]

    def _naming(self, public: str) -> ServerNaming:
        group = self._groups.get(public)
        info = group.info if group else self._infos[public]
        return ServerNaming(public, info.prefix, info.priority, info.rules)

    def _configured_fallbacks(self, public: str) -> Mapping[str, tuple[str, str]]:
        group = self._groups.get(public)
        info = group.info if group else self._infos.get(public)
        return info.fallbacks if info else {}

    def _public_name(self, info: ServerInfo) -> str:
        return info.group if info.group in self._groups else info.name

    def _new_link(self, info: ServerInfo) -> ServerLink:
        def list_changed(kinds: Collection[str]) -> None:
            self._endpoints.list_changed(self._public_name(info), kinds)

        if group := self._groups.get(info.group):
            return Replica(
                self._reactor, info, self._log, group=group, list_changed=list_changed,
                link_broken=self._link_broken,
                updated=lambda _, uri, params: self._resource_updated(group.name, uri, params), rounds=self._rounds,
                fallback=self._fallbacks.of, is_shared=self._settings.fronts > 1,
            )  # fmt: skip
        return ServerLink(
            self._reactor, info, self._log, list_changed=list_changed, link_broken=self._link_broken,
            updated=self._resource_updated, rounds=self._rounds, fallback=self._fallbacks.of,
            is_shared=self._settings.fronts > 1,
        )  # fmt: skip

    def _client_gone(self, client: int) -> None:
        for link in self._links.values():
            link.client_gone(client)
        for group in self._groups.values():
            group.client_gone(client)

    def _check_drained(self) -> None:
        is_done = not self._connections and not (self._stdio is not None and self._stdio.busy)
        if self._draining and is_done and self._doors.leave():  # else one has just come from another front
            self._drained.set()

    def _open_stdio(self, descriptors: list[int], settings: FrontSettings) -> StdioEdge:
        stdin, stdout, ledger = descriptors

        def open_pipes(handler: StdioEdge) -> Stream:
            return self._open_pipes(self._reactor, stdin, stdout, handler)

        return StdioEdge(
            self._endpoint, self._log, open_pipes=open_pipes,
            ledger=Ledger(self._reactor.machine.map_memory(ledger, LEDGER_BYTES)),
            session=self._sessions.find(settings.stdio_session) if settings.stdio_session else None,
            session_opened=lambda token: self._tell_root(StdioSession(token)),
            closed=lambda: self._tell_root(StdioClosed()), answered=self._check_drained,
        )  # fmt: skip

    def _link_broken(self, peer: str, incarnation: int, reason: str) -> None:
        self._tell_root(LinkBroken(peer, incarnation, reason))

    def _resource_updated(self, server: str, uri: str, params: Payload) -> None:
        self._endpoints.updated(server, uri, params)
