"""How the server is reached: everything that is one thing over HTTP and another on a pipe or a WebSocket."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from protocol.abilities import NOTHING
from protocol.control import BackendSettings
from protocol.jsonrpc import Raw
from protocol.versions import Era
from workers.backend.able_sessions import AbleSessions
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
from workers.backend.pipe import Pipe
from workers.backend.pipe_faults import PipeFaults
from workers.backend.pool import Pool
from workers.backend.requests import Ids
from workers.backend.sse_channel import SseChannel
from workers.backend.sse_faults import SseFaults
from workers.backend.way import Way
from workers.logs import Log
from workers.reactor import Reactor


@dataclass(frozen=True, slots=True)
class Access:
    """The way to one server."""

    faults: Faults
    channel: Channel
    legacy: LegacyLeg
    modern: ModernLeg
    legs: Legs
    pool: Pool | None
    """The channel, if it is one of connections."""


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
) -> Access:
    """Return the way to the server of these settings. `ended`: not of HTTP. `said`: of commands."""
    server, command = settings.server, settings.command
    endpoint = (
        NOWHERE if command else Endpoint(server.url, server.headers, settings.route.proxy, settings.route.address)
    )
    has_certificate = bool(settings.route.client_cert)
    is_http = not command and not endpoint.is_websocket
    channel: MessageChannel
    pool: Pool | None = None
    if command:
        channel = Pipe(
            reactor, command, PipeFaults(server.name), counters, log,
            started=connected, ended=ended, used=used, said=said,
        )  # fmt: skip
    elif is_http:
        sse_faults = SseFaults(server.name, endpoint, has_certificate=has_certificate)
        pool = Pool(reactor, Way(reactor, endpoint, settings.route), sse_faults, log, connected=connected, used=used)
        channel = SseChannel(
            reactor, pool, endpoint, server, sse_faults, counters, log, ended=ended, used=used
        )  # fmt: skip
    else:
        from workers.backend.websocket_channel import WebSocketChannel  # needed by few, and slow to load
        from workers.backend.websocket_faults import WebSocketFaults

        channel = WebSocketChannel(
            reactor, endpoint, Way(reactor, endpoint, settings.route),
            WebSocketFaults(server.name, endpoint, has_certificate=has_certificate), counters, log,
            connected=connected, ended=ended, used=used,
        )  # fmt: skip
    faults = channel.faults
    by_messages = Fetcher(channel, faults)
    message_legacy = MessageLegacyLeg(by_messages, ids, counters, list_changed, updated, channel, reactor, calls)
    if pool is None or settings.transport == "sse":
        message_modern = MessageModernLeg(by_messages, ids, counters, list_changed, updated, channel)
        message_legs = MessageLegs(reactor, message_modern, message_legacy, faults, log, opened)
        return Access(faults, channel, message_legacy, message_modern, message_legs, None)

    fetcher = Fetcher(pool, faults)

    def legacy_leg(abilities: int) -> LegacyLeg:
        return LegacyLeg(fetcher, ids, counters, list_changed, updated, endpoint, reactor, abilities, calls)

    legacy = legacy_leg(NOTHING)
    modern = ModernLeg(fetcher, ids, counters, list_changed, updated, endpoint)
    able = AbleSessions(reactor, legacy_leg, faults)
    if settings.transport == "http":
        legs = Legs(reactor, {Era.MODERN: modern, Era.LEGACY: legacy}, able, faults, log, opened)
    else:
        legs = HttpLegs(reactor, modern, legacy, message_legacy, able, faults, log, opened)
    return Access(faults, channel, legacy, modern, legs, pool)
