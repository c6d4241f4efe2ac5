"""Find the replicas of servers that are named by a host with several addresses: look the name up, again and again.

A server with `discover` has no worker. Each address of its host becomes a replica with a worker of its own, by the same
steps as an edited configuration file, and is a server like any other from then on; but it is in no file.

Rule 1: only a look-up that has found something changes anything. One that fails, or takes too long, leaves everything
as it is, and is told.
Rule 2: an address is gone when `DISCOVER_MISSES` look-ups in a row did not tell it: large sets are told in parts.
Rule 3: a resolver that hangs holds up nobody: look-ups have threads of their own, of which there are few.
How long an answer may be used (its TTL) is not known: getaddrinfo(3), which asks /etc/hosts and all else that the
system is configured to ask, does not tell it.
"""

from __future__ import annotations

import itertools
import socket
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Final
from urllib.parse import urlsplit

import trio

from protocol.limits import (
    DISCOVER_EVERY_MIN_S,
    DISCOVER_EVERY_S,
    DISCOVER_MISSES,
    DISCOVERED_MAX,
    LOOK_UP_S,
)
from supervisor.config import Server, Settings
from supervisor.configuration.plan import diff
from supervisor.configuration.steps import Changes, Steps
from supervisor.groups import replica_name
from supervisor.logs import Log
from supervisor.lookups import LookUp
from supervisor.news import News

SPREAD: Final = 0.1
"""Of the time between look-ups: proxies that were started together do not ask in step."""


@dataclass(slots=True)
class _Watch:
    source: Server
    due: float
    is_busy: bool = False
    missed: dict[str, int] = field(default_factory=dict[str, int])
    """How many look-ups in a row have not told these addresses, which have replicas."""


class Discovery:
    """`look_up`: returns the addresses of a host, or raises `OSError`. `refused`: what `changes` raises.

    `lookups`: is kept up to date, by the names of servers. `told`: called when it has changed.
    """

    def __init__(
        self,
        changes: Changes,
        refused: type[Exception],
        look_up: Callable[[str], Awaitable[Sequence[str]]],
        lookups: dict[str, LookUp],
        news: News,
        log: Log,
        *,
        random: Random,
        wall_time: Callable[[], float],
        told: Callable[[], None],
    ) -> None:
        self._changes = changes
        self._steps = Steps(changes, refused, log)
        self._look_up = look_up
        self._lookups = lookups
        self._news = news
        self._random = random
        self._wall_time = wall_time
        self._told = told
        self._watches: dict[str, _Watch] = {}
        self._wake = trio.Event()
        self._ended = False

    def changed(self, name: str) -> None:
        """A server that is looked up has come, changed or gone; or it is to be looked up now."""
        if watch := self._watches.get(name):
            watch.due = 0.0
        self._wake.set()

    def end(self) -> None:
        """Look nothing up any more: the proxy stops."""
        self._ended = True
        self._wake.set()

    @property
    def is_undecided(self) -> bool:
        """Whether some name has not been looked up yet."""
        return any(source.enabled and name not in self._lookups for name, source in self._sources().items())

    async def run(self) -> None:
        """Keep looking up until cancelled, or told to end."""
        async with trio.open_nursery() as nursery:
            while not self._ended:
                self._wake = trio.Event()
                self._follow()
                for watch in self._watches.values():
                    if not watch.is_busy and watch.due <= trio.current_time():
                        watch.is_busy = True
                        nursery.start_soon(self._look, watch)
                due = min((watch.due for watch in self._watches.values() if not watch.is_busy), default=float("inf"))
                with trio.move_on_at(due):
                    await self._wake.wait()
            nursery.cancel_scope.cancel()

    def _sources(self) -> dict[str, Server]:
        return {name: server for name, server in self._changes.servers().items() if server.discover}

    def _follow(self) -> None:
        """Watch the servers that are to be looked up now, and no others."""
        sources = {name: source for name, source in self._sources().items() if source.enabled}
        before, self._watches = self._watches, {}
        for name, source in sources.items():
            known = before.get(name)
            self._watches[name] = known if known and known.source == source else _Watch(source, 0.0)
        for name in [name for name in self._lookups if name not in sources]:
            del self._lookups[name]

    # --- one look ----------------------------------------------------------------------------------------------------
    async def _look(self, watch: _Watch) -> None:
        source = watch.source
        found, problem = await self._addresses(host_of(source))
        if self._watches.get(source.name) is watch and not self._ended:
            self._note(watch, problem)
            if found:
                await self._follow_addresses(watch, found)
        pause_s = min(DISCOVER_EVERY_MIN_S, source.discover_every_s) if problem else source.discover_every_s
        watch.due = trio.current_time() + pause_s * self._random.uniform(1 - SPREAD, 1 + SPREAD)
        watch.is_busy = False
        self._wake.set()
        self._told()

    async def _addresses(self, host: str) -> tuple[Sequence[str], str]:
        """Return the addresses of a host, or why there are none."""
        try:
            with trio.fail_after(LOOK_UP_S):
                found = await self._look_up(host)
        except trio.TooSlowError:
            return (), f'the name "{host}" was not looked up within {LOOK_UP_S:g} s: is the resolver down?'
        except socket.gaierror as error:
            advice = "check the URL" if error.errno == socket.EAI_NONAME else "check the resolver of this machine"
            return (), f'the name "{host}" does not resolve ({error.strerror}): {advice}'
        except OSError as error:
            return (), f'the name "{host}" cannot be looked up ({error.strerror})'
        return found, "" if found else f'the name "{host}" has no addresses'

    def _note(self, watch: _Watch, problem: str) -> None:
        name = watch.source.name
        before = self._lookups.setdefault(name, LookUp())
        if problem and problem != before.problem:
            self._news.looked_up(name, f"{problem}; what is known of it stays", is_wrong=True)
        elif before.problem and not problem:
            self._news.looked_up(name, "its name can be looked up again")
        before.problem = problem
        before.failures += bool(problem)
        before.at = self._wall_time()

    async def _follow_addresses(self, watch: _Watch, found: Sequence[str]) -> None:
        source, lookup = watch.source, self._lookups[watch.source.name]
        servers = self._changes.servers()
        running = tuple(server for server in servers.values() if server.found_for == source.name)
        wanted, watch.missed = decide(source, running, found, watch.missed, servers)
        is_too_many = len(found) > DISCOVERED_MAX
        if is_too_many and not lookup.is_too_many:
            line = f"{host_of(source)} has {len(found)} addresses; {DISCOVERED_MAX} of them become replicas"
            self._news.looked_up(source.name, line, is_wrong=True)
        lookup.is_too_many = is_too_many
        steps = diff(Settings(running), Settings(wanted)).steps
        if steps:
            line = f"{host_of(source)} is at {', '.join(found)}: {'; '.join(map(str, steps))}"
            self._news.looked_up(source.name, line)
            await self._steps.take(steps)


def host_of(source: Server) -> str:
    return urlsplit(source.url).hostname or ""


def decide(
    source: Server,
    running: Sequence[Server],
    found: Sequence[str],
    missed: Mapping[str, int],
    taken: Container[str],
) -> tuple[tuple[Server, ...], dict[str, int]]:
    """Return the replicas that there are to be, and how often addresses have been missed now. Pure.

    `running`: those that there are. `found`: the addresses of the last look-up. `missed`: as this returned it before.
    `taken`: names of servers. A replica keeps its name as long as its address is known, and stays disabled if it is.
    """
    like = replace(source, discover="", discover_every_s=DISCOVER_EVERY_S, found_for=source.name)
    misses = {one.address: missed.get(one.address, 0) + 1 for one in running if one.address not in found}
    misses = {address: count for address, count in misses.items() if count < DISCOVER_MISSES}
    kept = [one for one in running if one.address in found or one.address in misses]
    wanted = [replace(like, name=one.name, address=one.address, enabled=one.enabled) for one in kept]
    known = {one.address for one in running}
    names = (name for number in itertools.count(1) if (name := replica_name(source.name, number)) not in taken)
    for address in dict.fromkeys(found):
        if address not in known and len(wanted) < DISCOVERED_MAX:
            wanted.append(replace(like, name=next(names), address=address))
    return tuple(wanted), misses
