"""What the proxy tells a Prometheus: one table of all metrics, and where each number comes from.

Labels are names of servers, groups and processes and words of fixed lists, all of them bounded; never an address, which
may hold a secret. Nothing is kept here: a scrape reads what the status knows, the pages of workers, and /proc.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from protocol.counts import (
    ACCEPTED,
    ANSWERED,
    ERRORS,
    FAILED_CALLS,
    LEGACY_REQUESTS,
    MODERN_REQUESTS,
    OVERLOADED_CALLS,
    REFUSED,
    SPENT_US,
    TURNED_AWAY,
)
from protocol.health import HEALTH_STATUSES, STATES
from supervisor.exposition import Family, Kind, Sample, render
from supervisor.lives import Life
from supervisor.machine import Machine
from supervisor.plan import ZYGOTE
from supervisor.status import ConfigurationStatus, ServerStatus, Status
from supervisor.tallies import Tallies, Tally
from supervisor.tree import Tree

PREFIX: Final = "mcp_bulkhead_"
ROOT: Final = "root"
_NOTHING: Final = Tally()

FAMILIES: Final[dict[str, Family]] = {}
"""By their names without `PREFIX`, in the order in which they are told."""


def _family(name: str, kind: Kind, text: str) -> str:
    FAMILIES[name] = Family(PREFIX + name, kind, text)
    return name


_COUNTER, _GAUGE, _SUMMARY = Kind.COUNTER, Kind.GAUGE, Kind.SUMMARY
INFO = _family("info", _GAUGE, "Always 1; the version is a label.")
UPTIME = _family("uptime_seconds", _GAUGE, "How long the proxy has been running.")
HEALTHY = _family("healthy", _GAUGE, "1 if the proxy serves clients, whatever the servers do.")
CONFIGURATION_USABLE = _family(
    "configuration_usable", _GAUGE, "0 if the configuration file as it is now has a mistake, and is not followed."
)
RESTART_NEEDED = _family(
    "configuration_restart_needed", _GAUGE, "1 if something in the configuration file waits for a restart of the proxy."
)
SERVER_STATE = _family("server_state", _GAUGE, "1 for the state that the server's worker is in, 0 for all others.")
SERVER_HEALTH = _family("server_health", _GAUGE, "1 for the health status of the server, 0 for all others.")
SERVER_UPTIME = _family("server_uptime_seconds", _GAUGE, "How long the server's worker has been ready.")
SERVER_RESTARTS = _family("server_restarts_total", _COUNTER, "Workers started for the server after the first.")
SERVER_TOOLS = _family("server_tools", _GAUGE, "Tools in the server's last list.")
SERVER_IN_FLIGHT = _family("server_calls_in_flight", _GAUGE, "Calls that the server's worker has not answered yet.")
SERVER_DURATION = _family(
    "server_call_duration_seconds", _SUMMARY,
    "How long calls took in the server's worker, those included that were answered with an error.",
)  # fmt: skip
SERVER_ERRORS = _family(
    "server_errors_total", _COUNTER,
    "Calls, checks and attempts to connect that the server failed; errors that it answers with are none.",
)  # fmt: skip
SERVER_RESPONSE = _family(
    "server_response_time_seconds", _GAUGE, "How long the last health check took that the server answered."
)
SERVER_SESSIONS = _family(
    "server_sessions", _GAUGE, "Clients that have a session of their own with the server, if it is isolated."
)
REPLICA_SHARE = _family("replica_share_ratio", _GAUGE, "The part of its group's calls of late that the replica got.")
REPLICA_WEIGHT = _family("replica_weight", _GAUGE, "Its weight among the replicas of its group.")
REPLICA_DRAINED = _family("replica_drained", _GAUGE, "1 while it gets no new calls because somebody wants it so.")
REPLICA_EJECTED = _family("replica_ejected", _GAUGE, "1 while it gets no calls because it did worse than the others.")
REPLICA_EJECTIONS = _family("replica_ejections_total", _COUNTER, "How often it was ejected.")
REPLICA_FAILOVERS = _family("replica_failovers_total", _COUNTER, "Calls of it that another replica took over.")
REPLICA_HEDGED = _family(
    "replica_hedged_total", _COUNTER, "Calls of it that another replica was given as well because they took long."
)
FRONT_CONNECTIONS = _family("front_connections", _GAUGE, "Connections of clients that are open.")
FRONT_ACCEPTED = _family("front_connections_accepted_total", _COUNTER, "Connections of clients that were served.")
FRONT_TURNED_AWAY = _family(
    "front_connections_refused_total", _COUNTER, "Connections closed at once because there were too many."
)
FRONT_REQUESTS = _family("front_requests_total", _COUNTER, "JSON-RPC requests of clients, by the era they are of.")
FRONT_REFUSED = _family(
    "front_http_errors_total", _COUNTER, "HTTP requests answered with an error of HTTP instead of being served."
)
FRONT_CALLS_FAILED = _family(
    "front_calls_failed_total", _COUNTER,
    "Calls answered with an error of the proxy's own: overloaded if the server had too many calls, other otherwise.",
)  # fmt: skip
PROCESS_RESTARTS = _family("process_restarts_total", _COUNTER, "Restarts of processes that belong to no server.")
PROCESS_MEMORY = _family("process_resident_memory_bytes", _GAUGE, "Memory of the processes of that name.")
PROCESS_CPU = _family("process_cpu_seconds_total", _COUNTER, "Time on processors of the processes of that name.")


class Metrics:
    """`lives`: the current ones, by the names of the tree."""

    def __init__(
        self,
        machine: Machine,
        status: Status,
        tree: Tree,
        lives: Mapping[str, Life],
        tallies: Tallies,
        zygote_pid: Callable[[], int | None],
    ) -> None:
        self._machine = machine
        self._status = status
        self._tree = tree
        self._lives = lives
        self._tallies = tallies
        self._zygote_pid = zygote_pid

    def render(self, configuration: ConfigurationStatus | None, *, openmetrics: bool) -> bytes:
        """Return everything as it is now. `configuration`: of the file that the proxy follows, if there is one."""
        return render(FAMILIES.values(), self._samples(configuration), openmetrics=openmetrics)

    def _samples(self, configuration: ConfigurationStatus | None) -> Iterator[Sample]:
        proxy = self._status.proxy(configuration)
        rows = proxy.servers.servers
        fronts = [child.spec.name for child in self._tree.fronts()]
        tallies = self._tallies.now({*fronts, *map(_title, rows)})

        yield _sample(INFO, 1, version=proxy.proxy_info.version)
        yield _sample(UPTIME, proxy.processes[ROOT].uptime or 0.0)
        yield _sample(HEALTHY, self._status.health().proxy_healthy)
        if configuration is not None:
            yield _sample(CONFIGURATION_USABLE, configuration.problem is None)
            yield _sample(RESTART_NEEDED, bool(configuration.restart_needed))
        for row in rows:
            yield from _of_server(row, tallies.get(_title(row), _NOTHING))
            yield from _of_replica(row)
        for front in fronts:
            yield from _of_front(front, tallies.get(front, _NOTHING))
        for name, process in proxy.processes.items():
            if name != ROOT:
                yield _sample(PROCESS_RESTARTS, process.restarts, process=name)
        yield from self._of_processes()

    def _of_processes(self) -> Iterator[Sample]:
        """A worker and the one that takes its place have the same name for a while."""
        found = [(ROOT, os.getpid()), (ZYGOTE, self._zygote_pid())]
        found += [(life.title, life.pid) for life in self._lives.values()]
        memory: dict[str, int] = {}
        seconds: dict[str, float] = {}
        for name, pid in found:
            if pid:
                memory[name] = memory.get(name, 0) + self._machine.resident_bytes(pid)
                seconds[name] = seconds.get(name, 0.0) + self._machine.cpu_seconds(pid)
        for name in memory:
            yield _sample(PROCESS_MEMORY, memory[name], process=name)
            yield _sample(PROCESS_CPU, round(seconds[name], 3), process=name)


def _sample(name: str, value: float, suffix: str = "", **labels: str) -> Sample:
    return Sample(FAMILIES[name], tuple(labels.items()), value + 0, suffix)  # of a bool, + 0 makes a number


def _title(row: ServerStatus) -> str:
    return f"server {row.name}"


def _of_server(row: ServerStatus, tally: Tally) -> Iterator[Sample]:
    server = row.name
    for state in STATES:
        yield _sample(SERVER_STATE, state == row.state, server=server, state=state)
    for status in HEALTH_STATUSES:
        yield _sample(SERVER_HEALTH, status == row.health_status, server=server, status=status)
    if row.uptime is not None:
        yield _sample(SERVER_UPTIME, row.uptime, server=server)
    yield _sample(SERVER_RESTARTS, row.restarts, server=server)
    if row.tool_count is not None:
        yield _sample(SERVER_TOOLS, row.tool_count, server=server)
    yield _sample(SERVER_IN_FLIGHT, tally.in_flight, server=server)
    yield _sample(SERVER_DURATION, tally.counts[ANSWERED], "_count", server=server)
    yield _sample(SERVER_DURATION, tally.counts[SPENT_US] / 1e6, "_sum", server=server)
    yield _sample(SERVER_ERRORS, tally.counts[ERRORS], server=server)
    if row.sessions is not None:
        yield _sample(SERVER_SESSIONS, row.sessions, server=server)
    if row.response_time_ms is not None:
        yield _sample(SERVER_RESPONSE, row.response_time_ms / 1000, server=server)


def _of_replica(row: ServerStatus) -> Iterator[Sample]:
    replica, group, server = row.replica, row.group or "", row.name
    if replica is None:
        return
    yield _sample(REPLICA_SHARE, replica.share, group=group, server=server)
    yield _sample(REPLICA_WEIGHT, replica.weight, group=group, server=server)
    yield _sample(REPLICA_DRAINED, replica.drained, group=group, server=server)
    yield _sample(REPLICA_EJECTED, replica.ejected, group=group, server=server)
    yield _sample(REPLICA_EJECTIONS, replica.ejections, group=group, server=server)
    yield _sample(REPLICA_FAILOVERS, replica.failovers, group=group, server=server)
    yield _sample(REPLICA_HEDGED, replica.hedged, group=group, server=server)


def _of_front(front: str, tally: Tally) -> Iterator[Sample]:
    counts = tally.counts
    yield _sample(FRONT_CONNECTIONS, tally.connections, front=front)
    yield _sample(FRONT_ACCEPTED, counts[ACCEPTED], front=front)
    yield _sample(FRONT_TURNED_AWAY, counts[TURNED_AWAY], front=front)
    yield _sample(FRONT_REQUESTS, counts[LEGACY_REQUESTS], front=front, era="legacy")
    yield _sample(FRONT_REQUESTS, counts[MODERN_REQUESTS], front=front, era="modern")
    yield _sample(FRONT_REFUSED, counts[REFUSED], front=front)
    yield _sample(FRONT_CALLS_FAILED, counts[OVERLOADED_CALLS], front=front, reason="overloaded")
    yield _sample(FRONT_CALLS_FAILED, counts[FAILED_CALLS], front=front, reason="other")
