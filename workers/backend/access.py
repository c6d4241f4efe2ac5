"""How the server is reached: everything that is one thing over HTTP and another on a pipe or a WebSocket."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from protocol.abilities import EVERYTHING, NOTHING
from protocol.control import BackendSettings
from protocol.jsonrpc import Raw
from protocol.versions import Era
from workers.backend.able_sessions import AbleSessions
from workers.backend.brood import Brood
from workers.backend.calls import BackendCall
from workers.backend.channel import Channel
from workers.backend.endpoint import NOWHERE, Endpoint
from workers.backend.faults import Failure, Faults
from workers.backend.fetch import Fetcher
from workers.backend.http_legs import HttpLegs
from workers.backend.leg import Counters, Leg
from workers.backend.legacy import LegacyLeg
from workers.backend.legs import Legs
from workers.backend.message_legs import Channel as MessageChannel
from workers.backend.message_legs import MessageLegacyLeg, MessageLegs, MessageModernLeg
from workers.backend.modern import ModernLeg
from workers.backend.own_leg import OwnLeg
from workers.backend.pipe import Pipe
from workers.backend.pipe_faults import PipeFaults
from workers.backend.pool import Pool
from workers.backend.requests import Ids
from workers.backend.sse_channel import SseChannel
from workers.backend.sse_faults import SseFaults
from workers.backend.way import Way
from workers.logs import Log
from workers.reactor import Reactor

SSE: Final = "sse"


@dataclass(frozen=True, slots=True)
class Told:
    """Who is told what happens on a way to a server."""

    connected: Callable[[], None]
    ended: Callable[[Failure], None]
    """Not of HTTP."""
    list_changed: Callable[[str], None]
    updated: Callable[[Raw], None]
    opened: Callable[[Leg], None]
    used: Callable[[], None]
    said: Callable[[list[str]], None]
    """Of commands."""
    calls: Callable[[Leg], Iterable[BackendCall]]
    asked: Callable[[Leg], None]
    """The server has asked something of a client that names no call, over this leg."""
    is_of_one_client: bool = False
    """All calls on this way are one client's."""


@dataclass(frozen=True, slots=True)
class Access:
    """A way to one server."""

    faults: Faults
    channel: Channel
    legacy: LegacyLeg
    modern: ModernLeg
    legs: Legs
    pool: Pool | None
    """The channel, if it is one of connections."""
    is_url: bool = True
    """It is not a command."""
    own: Callable[[int, Told], Access] | None = None
    """Returns one more way, for a client that can be asked this (protocol/abilities.py), with a session of its own.

    Only the connections of Streamable HTTP are the same. (None of a way that is one client's.)
    """


def reach(
    reactor: Reactor,
    settings: BackendSettings,
    ids: Ids,
    counters: Counters,
    log: Log,
    *,
    connected: Callable[[], None],
    ended: Callable[[Failure], None],
    list_changed: Callable[[str], None],
    updated: Callable[[Raw], None],
    opened: Callable[[Leg], None],
    used: Callable[[], None],
    said: Callable[[list[str]], None],
    calls: Callable[[Leg], Iterable[BackendCall]],
    asked: Callable[[Leg], None],
) -> Access:
    """Return the way to the server of these settings that all clients share."""
    told = Told(connected, ended, list_changed, updated, opened, used, said, calls, asked)
    return _Ways(reactor, settings, ids, counters, log).shared(told)


class _Ways:
    """Makes ways to one server."""

    def __init__(self, reactor: Reactor, settings: BackendSettings, ids: Ids, counters: Counters, log: Log) -> None:
        server = settings.server
        self._reactor = reactor
        self._settings = settings
        self._ids = ids
        self._counters = counters
        self._log = log
        self._endpoint = NOWHERE
        if not settings.command:
            self._endpoint = Endpoint(server.url, server.headers, settings.route.proxy, settings.route.address)
        self._brood = Brood(reactor) if settings.command else None

    def shared(self, told: Told) -> Access:
        """Return the way that all clients share."""
        if self._brood is not None or self._endpoint.is_websocket:
            return self._by_messages(self._channel(told), told)
        channel, pool = self._sse(told)
        if self._settings.transport == SSE:
            return self._by_messages(channel, told)
        fetcher, faults = Fetcher(pool, channel.faults), channel.faults
        legacy = self._legacy_leg(fetcher, told, NOTHING)
        modern = ModernLeg(fetcher, self._ids, self._counters, told.list_changed, told.updated, self._endpoint)
        able = AbleSessions(self._reactor, lambda abilities: self._legacy_leg(fetcher, told, abilities), faults)
        legs: Legs
        if self._settings.transport == "http":
            legs = Legs(
                self._reactor, {Era.MODERN: modern, Era.LEGACY: legacy}, able, faults, self._log, told.opened
            )  # fmt: skip
        else:
            older = self._message_legacy(channel, told, EVERYTHING)
            legs = HttpLegs(self._reactor, modern, legacy, older, able, faults, self._log, told.opened)

        def own(abilities: int, told: Told) -> Access:
            if legs.found_transport == SSE:
                return self._own_by_messages(abilities, told)
            leg = self._legacy_leg(fetcher, told, abilities)
            return Access(
                faults, channel, leg, modern, OwnLeg(self._reactor, leg, faults, self._log, told.opened), pool
            )  # fmt: skip

        return Access(faults, channel, legacy, modern, legs, pool, own=own)

    def _by_messages(self, channel: MessageChannel, told: Told) -> Access:
        legacy, modern = self._message_legacy(channel, told, EVERYTHING), self._message_modern(channel, told)
        legs = MessageLegs(self._reactor, modern, legacy, channel.faults, self._log, told.opened)

        def own(abilities: int, told: Told) -> Access:
            return self._own_by_messages(abilities, told, was_silent=modern.was_silent)

        return Access(channel.faults, channel, legacy, modern, legs, None, self._brood is None, own)

    def _own_by_messages(self, abilities: int, told: Told, *, was_silent: bool = False) -> Access:
        """`was_silent`: the server says nothing to discovery, so that nobody has to wait for that again."""
        channel = self._channel(told, self._brood.new_mark() if self._brood is not None else "")
        channel.is_of_one_client = told.is_of_one_client
        legacy, modern = self._message_legacy(channel, told, abilities), self._message_modern(channel, told)
        modern.was_silent = was_silent
        legs = MessageLegs(self._reactor, modern, legacy, channel.faults, self._log, told.opened)
        return Access(channel.faults, channel, legacy, modern, legs, None, self._brood is None)

    # --- parts -------------------------------------------------------------------------------------------------------
    def _legacy_leg(self, fetcher: Fetcher, told: Told, abilities: int) -> LegacyLeg:
        leg = LegacyLeg(
            fetcher, self._ids, self._counters, told.list_changed, told.updated, self._endpoint, self._reactor,
            abilities, told.calls,
        )  # fmt: skip
        leg.asked = told.asked
        return leg

    def _message_legacy(self, channel: MessageChannel, told: Told, abilities: int) -> MessageLegacyLeg:
        leg = MessageLegacyLeg(
            Fetcher(channel, channel.faults), self._ids, self._counters, told.list_changed, told.updated, channel,
            self._reactor, told.calls, abilities,
        )  # fmt: skip
        leg.asked = told.asked
        return leg

    def _message_modern(self, channel: MessageChannel, told: Told) -> MessageModernLeg:
        fetcher = Fetcher(channel, channel.faults)
        return MessageModernLeg(fetcher, self._ids, self._counters, told.list_changed, told.updated, channel)

    def _channel(self, told: Told, mark: str = "") -> MessageChannel:
        """`mark`: of the processes of a command, if it runs several times."""
        command, server = self._settings.command, self._settings.server
        if command is not None and self._brood is not None:
            return Pipe(
                self._reactor, command, self._brood, PipeFaults(server.name), self._counters, self._log,
                started=told.connected, ended=told.ended, used=told.used, said=told.said, mark=mark,
            )  # fmt: skip
        if not self._endpoint.is_websocket:
            return self._sse(told)[0]
        from workers.backend.websocket_channel import WebSocketChannel  # needed by few, and slow to load
        from workers.backend.websocket_faults import WebSocketFaults

        return WebSocketChannel(
            self._reactor, self._endpoint, Way(self._reactor, self._endpoint, self._settings.route),
            WebSocketFaults(server.name, self._endpoint, has_certificate=bool(self._settings.route.client_cert)),
            self._counters, self._log, connected=told.connected, ended=told.ended, used=told.used,
        )  # fmt: skip

    def _sse(self, told: Told) -> tuple[SseChannel, Pool]:
        server, route = self._settings.server, self._settings.route
        faults = SseFaults(server.name, self._endpoint, has_certificate=bool(route.client_cert))
        way = Way(self._reactor, self._endpoint, route)
        pool = Pool(self._reactor, way, faults, self._log, connected=told.connected, used=told.used)
        channel = SseChannel(
            self._reactor, pool, self._endpoint, server, faults, self._counters, self._log, ended=told.ended,
            used=told.used,
        )  # fmt: skip
        return channel, pool
