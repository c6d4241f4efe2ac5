"""How the server is reached: everything that is one thing over HTTP and another through the pipes of a command."""

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
from workers.backend.endpoint import Endpoint
from workers.backend.faults import Failure, Faults
from workers.backend.fetch import Fetcher
from workers.backend.leg import Counters, Leg
from workers.backend.legacy import LegacyLeg
from workers.backend.legs import Legs
from workers.backend.modern import ModernLeg
from workers.backend.pipe import Pipe
from workers.backend.pipe_faults import PipeFaults
from workers.backend.pipe_legs import PipeLegacyLeg, PipeLegs, PipeModernLeg
from workers.backend.pool import Pool
from workers.backend.requests import Ids
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
    """Return the way to the server of these settings. `ended` and `said` are called for commands alone."""
    server, command = settings.server, settings.command
    if command is None:
        endpoint = Endpoint(server.url, server.headers)
        faults = Faults(server.name, endpoint)
        pool = Pool(reactor, endpoint, faults, log, connected=connected, used=used)
        fetcher = Fetcher(pool, faults)

        def legacy_leg(abilities: int) -> LegacyLeg:
            return LegacyLeg(fetcher, ids, counters, list_changed, updated, endpoint, reactor, abilities, calls)

        legacy = legacy_leg(NOTHING)
        modern = ModernLeg(fetcher, ids, counters, list_changed, updated, endpoint)
        able = AbleSessions(reactor, legacy_leg, faults)
        legs = Legs(reactor, {Era.MODERN: modern, Era.LEGACY: legacy}, able, faults, log, opened)
        return Access(faults, pool, legacy, modern, legs, pool)
    pipe_faults = PipeFaults(server.name)
    pipe = Pipe(
        reactor, command, pipe_faults, counters, log, started=connected, ended=ended, used=used, said=said
    )  # fmt: skip
    fetcher = Fetcher(pipe, pipe_faults)
    pipe_legacy = PipeLegacyLeg(fetcher, ids, counters, list_changed, updated, pipe, reactor, calls)
    pipe_modern = PipeModernLeg(fetcher, ids, counters, list_changed, updated, pipe)
    pipe_legs = PipeLegs(reactor, pipe_modern, pipe_legacy, pipe_faults, log, opened)
    return Access(pipe_faults, pipe, pipe_legacy, pipe_modern, pipe_legs, None)
