"""What the settings mean for each process: how it is kept, and what it is told when it starts."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, TypeVar

from protocol import limits
from protocol.control import BackendSettings, Boot, Command, FrontSettings, GroupInfo, LogSettings, Route, ServerInfo
from supervisor import fallbacks
from supervisor.config import SHARED, Group, Portion, Server, Settings
from supervisor.spec import ChildSpec, Excess, Restart, Role
from supervisor.unix_socket import Bound

_T = TypeVar("_T")

ZYGOTE: Final = "zygote"
FRONT: Final = "front"
FRONT_STOP_S: Final = limits.DRAIN_S + 1.0
"""The front gives up by itself after `DRAIN_S`; the rest is for the way there and back."""
ZYGOTE_STOP_S: Final = 2.0
OWN_DELAY_S_MAX: Final = 1.0
"""Between restarts of the front and the zygote: there is no server that a longer wait would spare."""


@dataclass(frozen=True, slots=True)
class Holdings:
    """What the root owns for the workers, from before the first to after the last of them."""

    listeners: Sequence[socket.socket]
    """For clients, over TCP and Unix sockets."""
    session_key: bytes
    log_fd: int | None
    inherited: frozenset[int]
    """Children we had before we started any (of a shell that became us by exec)."""
    admin: Bound | None = None
    """Where the admin door listens."""
    admin_ports: Sequence[socket.socket] = ()
    """Where it listens to those who have the token."""
    admin_token: bytes | None = None


@dataclass(frozen=True, slots=True)
class Replica:
    """What a server is in its group."""

    group: Group
    portion: Portion
    is_drained: bool = False
    """It gets no new calls."""


def child_name(server: Server) -> str:
    return f"server {server.name}"


def front_names(count: int) -> list[str]:
    """Return the fronts by the names of the tree, in their order: the first serves standard input, if anybody does."""
    return [FRONT, *(f"{FRONT} #{number}" for number in range(2, count + 1))]


def has_worker(server: Server) -> bool:
    """Whether it is served by a worker of its own; one whose addresses are looked up has replicas instead."""
    return server.enabled and not server.discover


def child_specs(settings: Settings) -> list[ChildSpec]:
    """Return the children of a tree with these settings."""
    only_stdio = settings.stdio and not settings.has_http
    return [
        ChildSpec(
            ZYGOTE,
            Role.ZYGOTE,
            shutdown_s=ZYGOTE_STOP_S,
            excess=Excess.ESCALATE,
            intensity=limits.TREE_INTENSITY,
            period_s=limits.TREE_PERIOD_S,
            delay_s_max=OWN_DELAY_S_MAX,
        ),
        *(
            ChildSpec(
                name,
                Role.FRONT,
                # On standard input alone, a front that leaves in peace has seen its only client leave.
                restart=Restart.TRANSIENT if only_stdio else Restart.PERMANENT,
                significant=only_stdio,
                shutdown_s=FRONT_STOP_S,
                excess=Excess.ESCALATE,
                delay_s_max=OWN_DELAY_S_MAX,
            )
            for name in front_names(settings.fronts)
        ),
        *(ChildSpec(child_name(server), Role.SERVER) for server in settings.servers if has_worker(server)),
    ]


def front_boot(
    settings: Settings,
    servers: Iterable[Server],
    holdings: Holdings,
    incarnation: int,
    stdio_session: str | None,
    ended_sessions: list[str],
    *,
    held: bool = False,
    groups: Iterable[Group] = (),
    replicas: Mapping[str, Replica] = MappingProxyType({}),
    number: int = 0,
    inboxes: Sequence[int] = (),
    ledger: int = -1,
) -> tuple[Boot, list[int]]:
    """Return the first order of a front and the descriptors that go with it, but for those of its own life.

    `number`: which front it is, from 0; `inboxes`: what `Inboxes.of` says, if there are several.

    `servers`: those it offers now; `replicas`: those of them that belong to one of the `groups`, by name.
    `stdio_session`: of the client on standard input ("" if it has none yet); None if there is no such client.
    `ledger`: the memory in which that client's requests are noted.
    `held`: nobody may connect before `Serve`.
    """
    stdio = stdio_session is not None
    front = FrontSettings(
        servers=[offered_info(settings, server, replicas.get(server.name), number) for server in servers],
        groups=[group_info(settings, group) for group in groups],
        separator=settings.separator,
        namespace=settings.namespace,
        name_characters_max=settings.name_limit,
        lazy_above=settings.lazy_above,
        path=settings.path,
        websocket_path=settings.websocket_path,
        allowed_hosts=list(settings.allowed_hosts),
        allowed_origins=list(settings.allowed_origins),
        session_key=holdings.session_key,
        listeners=len(holdings.listeners),
        stdio=stdio,
        stdio_session=stdio_session or "",
        ended_sessions=ended_sessions,
        page_size=settings.page_size,
        management=list(settings.management),
        held=held,
        certificate=os.path.abspath(settings.tls_cert) if settings.tls_cert else "",
        key=os.path.abspath(settings.tls_key) if settings.tls_key else "",
        trusted_proxies=list(settings.trusted_proxies),
        proxy_protocol=settings.proxy_protocol,
        sse=settings.sse,
        fronts=settings.fronts,
        number=number,
    )
    fds = [sock.fileno() for sock in holdings.listeners] + ([0, 1, ledger] if stdio else []) + list(inboxes)
    return Boot(
        front_names(settings.fronts)[number], incarnation, front, _log_settings(settings, holdings)
    ), fds + _log_fds(holdings)


def server_boot(settings: Settings, holdings: Holdings, incarnation: int, server: Server) -> tuple[Boot, list[int]]:
    """Return the first order of a backend worker and the descriptors that go with it, but for those of its own life.

    Errors: `ConfigError` if a secret that it needs cannot be looked up.
    """
    command = _command(server) if server.command else None
    route = Route() if command else _route(settings, server)
    backend = BackendSettings(_with_secrets(settings, server), command, route, server.transport, settings.fronts)
    return Boot(server.name, incarnation, backend, _log_settings(settings, holdings)), _log_fds(holdings)


def _with_secrets(settings: Settings, server: Server) -> ServerInfo:
    """Return what only the server's own worker is told: URL and headers with the values of their references."""
    info = server_info(settings, server)
    if not server.headers and "${" not in server.url:
        return info
    from supervisor.configuration.lookup import look_up  # needed by few
    from supervisor.configuration.resolving import resolved_server

    info.url, info.headers = resolved_server(server, look_up)
    return info


def _route(settings: Settings, server: Server) -> Route:
    """Return how a server's own worker gets to it. Errors: `ConfigError`."""
    from supervisor.configuration.lookup import look_up
    from supervisor.egress import route

    return route(server, os.environ, look_up, allow_private=settings.allow_private)


def _command(server: Server) -> Command:
    """Return what a server's own worker is told to start. Errors: `ConfigError`."""
    from supervisor.command import environment
    from supervisor.configuration.lookup import look_up
    from supervisor.configuration.resolving import resolved_environment

    own, secrets = resolved_environment(server, look_up)
    return Command(
        [server.command, *server.args],
        environment(os.environ, own),
        server.cwd,
        secrets,
        memory_bytes=server.memory_limit or 0,
        processes_max=server.process_limit,
        nice=server.nice,
        processors_max=server.cpu_limit,
    )


def server_info(settings: Settings, server: Server) -> ServerInfo:
    """Return what everybody is told of a server."""
    return ServerInfo(
        server.name,
        server.url,
        prefix=server.namespace or "",
        priority=server.priority,
        rules=server.rules,
        call_timeout_s=_own(server.call_timeout_s, settings.call_timeout_s) or limits.CALL_CEILING_S,
        tool_timeouts={tool: timeout_s or limits.CALL_CEILING_S for tool, timeout_s in server.tool_timeouts},
        in_flight_max=_own(server.in_flight_max, settings.in_flight_max),
        queue_max=_own(server.queue_max, settings.queue_max),
        trust_annotations=_own(server.trust_annotations, settings.trust_annotations),
        retries_max=_own(server.retries_max, settings.retries_max),
        durable_after_s=_own(server.durable_after_s, settings.durable_after_s),
        is_isolated=server.isolation != SHARED,
        sessions_max=_sessions_max(server),
    )


def _sessions_max(server: Server) -> int:
    if server.isolation == SHARED:
        return 0
    usual = limits.CLIENT_PROCESSES_MAX if server.command else limits.CLIENT_SESSIONS_MAX
    return _own(server.session_limit, usual)


def call_time_s(settings: Settings, server: Server) -> float:
    """Return how long a call of this server may go at most without an answer or progress."""
    info = server_info(settings, server)
    return max((info.call_timeout_s, *info.tool_timeouts.values()))


def _own(value: _T | None, default: _T) -> _T:
    return default if value is None else value


def offered_info(settings: Settings, server: Server, replica: Replica | None, front: int = 0) -> ServerInfo:
    """Return what a front (its number) is told of a server, which may be a replica of a group: not where it is."""
    info = server_info(settings, server)
    info.url = ""
    info.queue_max = queue_share(info.queue_max, front, settings.fronts)
    if server.fallback:
        info.fallbacks = fallbacks.of(server, settings.separator)
    if replica is not None:
        group = replica.group
        info.group = group.name
        info.weight = 0.0 if replica.is_drained else replica.portion.weight
        info.percent = replica.portion.percent
        info.rank = group.servers.index(server.name) if server.name in group.servers else len(group.servers)
    return info


def queue_share(queue_max: int, front: int, fronts: int) -> int:
    """Return how many calls may wait at this front, of those that may wait for a server at all fronts together.

    Where several fronts share the server's places, one that has no place yet has to let a call wait to get one, so it
    has room for one in any case.
    """
    if fronts == 1:
        return queue_max
    return max(1, queue_max // fronts + (front < queue_max % fronts))


def group_info(settings: Settings, group: Group) -> GroupInfo:
    """Return what a front is told of a group."""
    return GroupInfo(
        group.name,
        group.policy,
        group.sticky_by,
        group.namespace or "",
        group.priority,
        group.rules,
        fallbacks.of(group, settings.separator),
        group.hedge,
    )


def _log_settings(settings: Settings, holdings: Holdings) -> LogSettings:
    return LogSettings("debug" if settings.debug else "info", holdings.log_fd is not None)


def _log_fds(holdings: Holdings) -> list[int]:
    return [] if holdings.log_fd is None else [holdings.log_fd]
