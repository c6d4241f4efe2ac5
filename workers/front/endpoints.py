"""The endpoints of one front: that of all servers together, and one for each server, made when somebody asks for it.

A server's own endpoint is transparent. Names are those that the server gives, nothing of ours is added, and whatever is
asked for is meant for that server. What the user wants of its tools (filters, renames) counts there as well.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Final

import trio

from protocol import __version__
from protocol.client_profiles import Profiles
from protocol.control import FrontSettings, Manage, Managed
from protocol.lazy_tools import TOOL_NAMES
from protocol.link import Payload
from protocol.names import Namespace, Policy, ServerNaming
from protocol.tool_rules import ToolRules
from workers.front.catalogue import PROMPTS, TOOLS, Catalogue
from workers.front.endpoint import LIST_CHANGED, LISTED_UNDER, Endpoint, ServerIdentity
from workers.front.lazy_tools import LazyTools
from workers.front.management import Management
from workers.front.resources import Resources
from workers.front.rounds import Rounds
from workers.front.served import Served
from workers.front.sessions import Sessions
from workers.front.subscriptions import Tally
from workers.front.task_handles import TaskHandles
from workers.logs import Log
from workers.reactor import Reactor

IDENTITY: Final = ServerIdentity("mcp-bulkhead", "Multi-Server MCP Proxy", __version__)
LIST_CHANGED_GATHER_S: Final = 0.1
"""Changes that come together are told once."""


class Endpoints:
    """Makes endpoints, and sees to it that each knows its servers and hears of them."""

    def __init__(
        self,
        reactor: Reactor,
        settings: FrontSettings,
        servers: Mapping[str, Served],
        namings: Sequence[ServerNaming],
        sessions: Sessions,
        rounds: Rounds,
        log: Log,
        tell_root: Callable[[Manage], None],
    ) -> None:
        """`servers`: what clients see, by public name; `namings`: how it is named, in the same order."""
        self._reactor = reactor
        self._settings = settings
        self._sessions = sessions
        self._rounds = rounds
        self._log = log
        self._servers = servers
        self._namings = {naming.server: naming for naming in namings}
        self._management = Management(reactor, settings.management, tell_root)
        self._no_management = Management(reactor, [], tell_root)
        self._handles = TaskHandles(settings.session_key)
        self._tally = Tally()
        self._changed: dict[str, set[str]] = {}
        """Kinds of lists by server, about which clients are told in a moment."""
        self._own: dict[str, _Place] = {}
        """By server."""
        self._all = _Place("", self)

    @property
    def merged(self) -> Endpoint:
        """The endpoint of all servers."""
        return self._all.endpoint

    @property
    def names(self) -> list[str]:
        """Those that have an endpoint of their own."""
        return list(self._servers)

    def find(self, name: str) -> Endpoint | None:
        """Return the endpoint of this server ("": of all), None if there is no such server."""
        if not name:
            return self._all.endpoint
        place = self._own.get(name)
        if place is None:
            if name not in self._servers:
                return None
            place = self._own[name] = _Place(name, self)
        return place.endpoint

    def serve(self, servers: Mapping[str, Served], namings: Sequence[ServerNaming]) -> None:
        """From now on these are the servers."""
        self._servers = servers
        self._namings = {naming.server: naming for naming in namings}
        for name in [name for name in self._own if name not in servers]:
            self._own.pop(name).close()
        for place in (self._all, *self._own.values()):
            place.serve()

    def managed(self, order: Managed) -> None:
        self._management.managed(order)

    def drain(self) -> None:
        """The front leaves."""
        for place in (self._all, *self._own.values()):
            place.endpoint.subscriptions.drain()

    # --- what servers tell ----------------------------------------------------------------------------------
    def updated(self, server: str, uri: str, params: Payload) -> None:
        """A server says that one of its resources has changed."""
        for place in (self._all, self._own.get(server)):
            if place is not None:
                place.endpoint.subscriptions.updated(server, uri, params)

    def list_changed(self, server: str, kinds: Collection[str]) -> None:
        """Lists of a server have changed, or it has come or gone."""
        if not self._changed and kinds:
            self._reactor.start_soon(self._tell_clients)
        if kinds:
            self._changed.setdefault(server, set()).update(kinds)

    async def _tell_clients(self) -> None:
        await trio.sleep(LIST_CHANGED_GATHER_S)
        changed, self._changed = self._changed, {}
        self._all.lists_changed(set[str]().union(*changed.values()))
        for server, kinds in changed.items():
            if (place := self._own.get(server)) is not None:
                place.lists_changed(kinds)

    # --- for the places -------------------------------------------------------------------------------------
    def served(self, name: str) -> dict[str, Served]:
        """Return the servers of an endpoint."""
        return {name: self._servers[name]} if name else dict(self._servers)

    def namespace(self, name: str, *, tools: bool) -> Namespace:
        """Return how an endpoint names tools, or prompts.

        Prompts are named as tools are, but what the user wants of a server's tools says nothing about them.
        """
        namings = [self._namings[name]] if name else list(self._namings.values())
        if not tools:
            namings = [replace(naming, rules=ToolRules()) for naming in namings]
        settings = self._settings
        if name:
            return Namespace(namings, settings.separator, Policy.NONE)
        reserved = frozenset(settings.management) if tools else frozenset[str]()
        if tools and settings.lazy_above >= 0:
            reserved |= TOOL_NAMES
        return Namespace(namings, settings.separator, settings.namespace, reserved)

    def endpoint(self, name: str, place: _Place) -> Endpoint:
        settings = self._settings
        lazy = settings.lazy_above >= 0 and not name
        return Endpoint(
            self._reactor, place.servers, place.tools, self._sessions,
            self._no_management if name else self._management, self._rounds, self._handles, self._log,
            identity=IDENTITY, prompts=place.prompts, resources=place.resources,
            profiles=Profiles(0 if name else settings.name_characters_max, settings.separator),
            lazy=LazyTools(place.tools, settings.lazy_above) if lazy else None,
            page_size=settings.page_size, tally=self._tally, name=name,
        )  # fmt: skip

    @property
    def log(self) -> Log:
        return self._log

    @property
    def sessions(self) -> Sessions:
        return self._sessions


class _Place:
    """One endpoint and the lists it offers."""

    def __init__(self, name: str, owner: Endpoints) -> None:
        self._name = name
        self._owner = owner
        self.servers: dict[str, Served] = owner.served(name)
        servers = list(self.servers.values())
        self.tools = Catalogue(TOOLS, servers, owner.namespace(name, tools=True), owner.log)
        self.prompts = Catalogue(PROMPTS, servers, owner.namespace(name, tools=False), owner.log)
        self.resources = Resources(servers, owner.log, owns_all=bool(name))
        self.endpoint = owner.endpoint(name, self)

    def serve(self) -> None:
        """There are other servers now, or other links to them."""
        found = self._owner.served(self._name)
        self.servers.clear()  # the endpoint looks servers up in this very dictionary
        self.servers.update(found)
        servers = list(found.values())
        self.tools.serve(servers, self._owner.namespace(self._name, tools=True))
        self.prompts.serve(servers, self._owner.namespace(self._name, tools=False))
        self.resources.serve(servers)
        self.endpoint.subscriptions.servers_changed()

    def lists_changed(self, kinds: set[str]) -> None:
        """Tell the clients."""
        for message in dict.fromkeys(LIST_CHANGED[kind] for kind in sorted(kinds) if kind in LIST_CHANGED):
            self._owner.sessions.broadcast(message, self._name)
        for capability in dict.fromkeys(LISTED_UNDER[kind] for kind in sorted(kinds) if kind in LISTED_UNDER):
            self.endpoint.subscriptions.list_changed(capability)

    def close(self) -> None:
        """The server is gone."""
        self.servers.clear()
        self.tools.serve([], Namespace([], ""))
        self.prompts.serve([], Namespace([], ""))
        self.resources.serve([])
        self.endpoint.subscriptions.close()
