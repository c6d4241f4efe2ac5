"""How the proxy and its servers are, as users are told it: the shapes of lists and reports, from what the root knows.

Every URL is without user information and query values, and every text without secrets.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import msgspec
import trio

from protocol import __version__
from protocol.control import GroupReport, ReplicaReport, WorkerState
from protocol.health import HEALTHY, PROXY_ERROR, UNKNOWN, health_status
from protocol.limits import DIFFERENCES_TOLD_MAX
from protocol.log_lines import redact_url, safe
from supervisor.command import shown_command
from supervisor.config import DNS_PREFIX, SHARED, Server, Settings
from supervisor.lives import Life
from supervisor.lookups import LookUp
from supervisor.machine import Machine
from supervisor.news import STATE_CHARS_MAX, News
from supervisor.plan import ZYGOTE, front_names
from supervisor.roster import Entry, Roster
from supervisor.tree import Child, Phase, Tree

CRASH_REPORTS_SHOWN: Final = 10
STACK_CHARS_SHOWN: Final = 2000


class ReplicaStatus(msgspec.Struct):
    """What a server is in its group of replicas. The counts are of the fronts that run now, together."""

    weight: float
    percent: float
    """Of the group's calls, set apart for it; 0: it shares the rest."""
    drained: bool
    """It gets no new calls, because somebody wants it so."""
    ejected: bool
    """It gets none for a while, because it failed too often."""
    share: float
    """Of the group's calls of late, 0 to 1: the mean over the fronts."""
    ejections: int
    failovers: int
    """Calls that another replica took over."""
    lacks: list[str]
    """What other replicas offer and it does not."""
    differs: list[str]
    """What it describes otherwise than they do."""
    hedged: int
    """Calls that another was given as well because they took long at this one."""


class ServerStatus(msgspec.Struct):
    """One server."""

    name: str
    url: str
    """"" for a command."""
    enabled: bool
    health_status: str
    """One of `protocol.health.HEALTH_STATUSES`."""
    last_health_check: str | None
    """When it was last known to answer or not."""
    tool_count: int | None
    error_count: int
    last_error: str | None
    state: str
    """Of its worker (architecture.md, section 6)."""
    pid: int | None
    restarts: int
    uptime: float | None
    """Seconds that its worker has been ready."""
    response_time_ms: float | None
    """Of the last health check that was answered."""
    era: str | None
    sessions: int | None
    """Clients that have a session of their own with it, or a process; None unless it is isolated."""
    transport: str
    """http (Streamable HTTP), sse (HTTP+SSE), ws or stdio."""
    group: str | None
    command: str | None
    """As one would write it in a shell; None for a server that has a URL."""
    replica: ReplicaStatus | None
    """None unless the group is one of replicas."""
    address: str | None = None
    """Where it is, if that was looked up."""


class ServerList(msgspec.Struct):
    """All servers, in their order."""

    success: bool
    servers: list[ServerStatus]
    total_count: int
    enabled_count: int
    healthy_count: int


class ProxyInfo(msgspec.Struct):
    version: str
    name: str
    type: str
    debug_mode: bool


class Capabilities(msgspec.Struct):
    dynamic_server_management: bool
    health_monitoring: bool
    server_isolation: bool
    transport_modes: list[str]


class ProcessStatus(msgspec.Struct):
    """One of the processes that belong to no server."""

    pid: int | None
    restarts: int
    uptime: float | None


class Crash(msgspec.Struct):
    """A process that failed."""

    name: str
    at: str
    kind: str
    reason: str
    stack: str
    """Where it stood, innermost frame first, if it stood still; cut off."""


class ConfigurationStatus(msgspec.Struct):
    """The file that the proxy follows."""

    file: str
    problem: str | None
    """What is wrong with the file as it is now: the proxy goes on with what it said before."""
    restart_needed: list[str]
    """Keys of it whose values take effect only with a restart of the proxy."""


class ProxyStatus(msgspec.Struct):
    proxy_info: ProxyInfo
    servers: ServerList
    capabilities: Capabilities
    processes: dict[str, ProcessStatus]
    crash_reports: list[Crash]
    """Newest first."""
    configuration: ConfigurationStatus | None
    """None if there is no such file."""


class ProxyHealth(msgspec.Struct):
    proxy_healthy: bool
    """The proxy itself serves clients, whatever the servers do."""
    total_servers: int
    enabled_servers: int
    healthy_servers: int
    status: str
    """healthy: all enabled servers are; unhealthy: none is, or the proxy is not; degraded: anything between."""
    timestamp: str


def iso(seconds: float) -> str:
    """Return a time (seconds since 1970) as users are told it."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="milliseconds")


class Status:
    """`lives`: the current ones, by the names of the tree."""

    def __init__(
        self,
        machine: Machine,
        settings: Settings,
        roster: Roster,
        tree: Tree,
        lives: Mapping[str, Life],
        news: News,
        zygote_pid: Callable[[], int | None],
        lookups: Mapping[str, LookUp] = MappingProxyType({}),
    ) -> None:
        """`lookups`: of servers whose names are looked up (discovery.py)."""
        self._lookups = lookups
        self._machine = machine
        self._settings = settings
        self._roster = roster
        self._tree = tree
        self._lives = lives
        self._news = news
        self._zygote_pid = zygote_pid
        self._began = machine.monotonic()
        self._reports: dict[tuple[str, str], dict[str, ReplicaReport]] = {}
        """The last of each group from each front, by the names of the group's replicas."""

    def heard(self, front: str, report: GroupReport) -> None:
        """A front tells how the replicas of a group do."""
        if report.name in self._roster.groups:
            self._reports[front, report.name] = {one.name: one for one in report.replicas}

    def servers(self) -> ServerList:
        rows = [self._row(entry) for entry in self._roster.entries.values()]
        enabled = [row for row in rows if row.enabled]
        return ServerList(True, rows, len(rows), len(enabled), sum(row.health_status == HEALTHY for row in enabled))

    def server(self, name: str) -> ServerStatus:
        """Errors: `KeyError`."""
        return self._row(self._roster.entries[name])

    def proxy(self, configuration: ConfigurationStatus | None = None) -> ProxyStatus:
        return ProxyStatus(
            ProxyInfo(__version__, "Multi-Server MCP Proxy", "multi_server", self._settings.debug),
            self.servers(),
            Capabilities(True, True, True, ["stdio", "http"]),
            {
                "root": ProcessStatus(os.getpid(), 0, round(self._machine.monotonic() - self._began, 1)),
                **{
                    name: self._process(name, _pid(self._lives.get(name)))
                    for name in front_names(self._settings.fronts)
                },
                ZYGOTE: self._process(ZYGOTE, self._zygote_pid()),
            },
            [
                Crash(
                    report.name,
                    iso(report.at),
                    report.end.kind.value,
                    safe(report.end.text),
                    safe(report.dump[:STACK_CHARS_SHOWN]),
                )
                for report in reversed(self._news.crash_reports[-CRASH_REPORTS_SHOWN:])
            ],
            configuration,
        )

    def health(self) -> ProxyHealth:
        listed = self.servers()
        works = any(front.phase is Phase.UP for front in self._tree.fronts()) and not self._tree.stopping
        if works and listed.healthy_count == listed.enabled_count:
            status = "healthy"
        elif works and listed.healthy_count:
            status = "degraded"
        else:
            status = "unhealthy"
        counts = (listed.total_count, listed.enabled_count, listed.healthy_count)
        return ProxyHealth(works, *counts, status, iso(self._machine.wall_time()))

    # --- rows --------------------------------------------------------------------------------------------------------
    def _process(self, name: str, pid: int | None) -> ProcessStatus:
        child = self._tree.children[name]
        return ProcessStatus(pid, max(0, child.starts - 1), self._uptime(child))

    def _uptime(self, child: Child | None) -> float | None:
        if child is None or child.phase is not Phase.UP or child.up_since is None:
            return None
        return round(trio.current_time() - child.up_since, 1)

    def _row(self, entry: Entry) -> ServerStatus:
        if entry.server.discover:
            return self._looked_up(entry.server)
        child = self._tree.children.get(entry.child)
        said = self._news.states.get(entry.child) or WorkerState("starting", "")
        state, health = _state_and_health(child, said)
        return ServerStatus(
            name=entry.server.name,
            url=redact_url(entry.server.url),
            enabled=entry.server.enabled,
            health_status=health,
            last_health_check=iso(said.checked_at) if said.checked_at else None,
            tool_count=said.tool_count if said.tool_count >= 0 else None,
            error_count=said.error_count,
            last_error=safe(said.last_error) or None,
            state=state,
            pid=_pid(self._lives.get(entry.child)),
            restarts=max(0, entry.starts - 1),
            uptime=self._uptime(child),
            response_time_ms=round(said.response_ms, 3) or None,
            era=safe(said.era) or None,
            sessions=said.sessions if entry.server.isolation != SHARED else None,
            transport=safe(said.transport) or entry.server.shown_transport,
            group=entry.server.group or None,
            command=shown_command(entry.server) or None,
            replica=self._replica(entry),
            address=entry.server.address or None,
        )

    def _looked_up(self, server: Server) -> ServerStatus:
        """Return how a server is that has replicas and no worker, in the words for workers."""
        lookup = self._lookups.get(server.name)
        if not server.enabled or lookup is None:
            state = "starting" if server.enabled else "disabled"
        elif not lookup.problem:
            state = "ready"
        else:
            state = "degraded" if self._roster.found_for(server.name) else "backoff"
        return ServerStatus(
            name=server.name,
            url=DNS_PREFIX + redact_url(server.url),
            enabled=server.enabled,
            health_status=health_status(state, answers=state != "backoff"),
            last_health_check=iso(lookup.at) if lookup else None,
            tool_count=None,
            error_count=lookup.failures if lookup else 0,
            last_error=(safe(lookup.problem) or None) if lookup else None,
            state=state,
            pid=None,
            restarts=0,
            uptime=None,
            response_time_ms=None,
            era=None,
            sessions=None,
            transport=server.shown_transport,
            group=server.group or None,
            command=None,
            replica=None,
        )

    def _replica(self, entry: Entry) -> ReplicaStatus | None:
        name = entry.server.name
        replica = self._roster.replica(name)
        if replica is None:
            return None
        found = self._report(replica.group.name, name)
        return ReplicaStatus(
            weight=replica.portion.weight,
            percent=replica.portion.percent,
            drained=entry.is_drained,
            ejected=found.ejected,
            share=round(found.share, 3),
            ejections=found.ejections,
            failovers=found.failovers,
            lacks=[safe(name) for name in found.lacks[:DIFFERENCES_TOLD_MAX]],
            differs=[safe(name) for name in found.differs[:DIFFERENCES_TOLD_MAX]],
            hedged=found.hedged,
        )

    def _report(self, group: str, name: str) -> ReplicaReport:
        """Return what the fronts tell of a replica, in one: all fronts choose for themselves."""
        fronts = [one for (_, of_group), one in self._reports.items() if of_group == group and name in one]
        found = [replicas[name] for replicas in fronts]
        if not found:
            return ReplicaReport(name, 0.0, False, 0, 0)
        return ReplicaReport(
            name,
            sum(one.share for one in found) / len(found),
            any(one.ejected for one in found),
            sum(one.ejections for one in found),
            sum(one.failovers for one in found),
            found[-1].lacks,
            found[-1].differs,
            sum(one.hedged for one in found),
        )


def _pid(life: Life | None) -> int | None:
    return life.pid or None if life else None


def _state_and_health(child: Child | None, said: WorkerState) -> tuple[str, str]:
    """Return the state of a server's worker and the health status that follows. `child`: None while it is disabled."""
    if child is None:
        return "disabled", UNKNOWN
    match child.phase:
        case Phase.WAITING if child.parked:
            return "parked", PROXY_ERROR
        case Phase.WAITING:
            return "backoff", PROXY_ERROR
        case Phase.UP:
            state = said.state[:STATE_CHARS_MAX]
            return state, health_status(state, answers=said.answers)
        case Phase.FORKING | Phase.BOOTING:
            return "starting", UNKNOWN
        case Phase.STOPPING | Phase.DYING | Phase.ENDED:
            return "stopped" if child.phase is Phase.ENDED else "draining", UNKNOWN
