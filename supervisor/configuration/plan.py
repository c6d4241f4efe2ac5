"""Compare two configurations: the fewest steps that turn one into the other while it runs. Pure."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Final

from supervisor.config import Group, Server, Settings

_AT_RUN_TIME: Final = frozenset({"servers", "groups"})
_NO_EFFECT: Final = frozenset({"notes", "config_file", "config_identity"})
"""Told once, when they come; nothing runs differently."""
ORDER: Final = "order of servers"
_OPTIONS: Final = {
    "hosts": "host",
    "allowed_hosts": "allow_host",
    "allowed_origins": "allow_origin",
    "call_timeout_s": "call_timeout",
    "in_flight_max": "in_flight",
    "queue_max": "queue",
    "retries_max": "retries",
    "websocket_path": "ws",
    "durable_after_s": "durable_after",
    "discover_every_s": "discover_every",
}
"""Fields of `Settings` and `Server` whose keys in the file are called otherwise."""


class What(enum.Enum):
    ADD = "add"
    REMOVE = "remove"
    REPLACE = "replace"
    """A worker with the new settings is ready before the old one drains."""
    ENABLE = "enable"
    DISABLE = "disable"
    """It stays known; its worker drains."""


@dataclass(frozen=True, slots=True)
class Step:
    what: What
    server: Server
    """As it is to be; one that is removed, as it was."""
    changed: tuple[str, ...] = ()
    """What of the server differs; never the values."""

    def __str__(self) -> str:
        parts = f" ({', '.join(self.changed)})" if self.changed else ""
        return f"{self.what.value} {self.server.name}{parts}"


@dataclass(frozen=True, slots=True)
class Plan:
    steps: tuple[Step, ...]
    """In the order in which they are to be taken: what leaves goes first, so that there is room for what comes."""
    restart: tuple[str, ...]
    """Keys of the file whose change takes effect only when the proxy is restarted."""
    kept: tuple[str, ...]
    """Names of servers that notice nothing."""
    groups: tuple[Group, ...] | None = None
    """All of them as they are to be, after what leaves has left and before anything else; None if they are so."""
    regrouped: tuple[str, ...] = ()
    """Names of the groups that come, go or change."""

    @property
    def is_empty(self) -> bool:
        return not self.steps and not self.restart and self.groups is None

    def lines(self) -> list[str]:
        """Return it for people, one thing a line."""
        told = [str(step) for step in self.steps]
        if self.regrouped:
            told.append(f"regroup {', '.join(self.regrouped)}")
        if self.kept:
            told.append(f"keep {', '.join(self.kept)}")
        if self.restart:
            told.append(f"only after a restart of the proxy: {', '.join(self.restart)}")
        return told


def diff(old: Settings, new: Settings) -> Plan:
    """Return the smallest plan that leads from one to the other."""
    before = {server.name: server for server in old.servers}
    after = {server.name: server for server in new.servers}
    gone = [Step(What.REMOVE, server) for name, server in before.items() if name not in after]
    both = [(server, after[name]) for name, server in before.items() if name in after]
    changed = [_step(one, other) for one, other in both if one != other]
    come = [Step(What.ADD, server) for name, server in after.items() if name not in before]
    kept = tuple(one.name for one, other in both if one == other)
    restart = [
        _OPTIONS.get(field.name, field.name)
        for field in fields(Settings)
        if field.name not in _AT_RUN_TIME | _NO_EFFECT and getattr(old, field.name) != getattr(new, field.name)
    ]
    steps = tuple(sorted((*gone, *changed, *come), key=lambda step: _URGENCY[step.what]))
    if [server.name for server in _stepped(old.servers, steps)] != list(after):
        restart.append(ORDER)
    if old.groups == new.groups:
        return Plan(steps, tuple(restart), kept)
    return Plan(steps, tuple(restart), kept, new.groups, _regrouped(old.groups, new.groups))


def apply(plan: Plan, settings: Settings) -> Settings:
    """Return the settings that run after the plan's steps: what needs a restart is as it was."""
    groups = settings.groups if plan.groups is None else plan.groups
    return replace(settings, servers=_stepped(settings.servers, plan.steps), groups=groups)


def _regrouped(old: Iterable[Group], new: Iterable[Group]) -> tuple[str, ...]:
    before, after = {group.name: group for group in old}, {group.name: group for group in new}
    return tuple(name for name in (before | after) if before.get(name) != after.get(name)) or ("order of groups",)


_URGENCY: Final = {What.REMOVE: 0, What.DISABLE: 1, What.REPLACE: 2, What.ENABLE: 3, What.ADD: 4}


def _step(old: Server, new: Server) -> Step:
    differ = tuple(
        _OPTIONS.get(field.name, field.name)
        for field in fields(Server)
        if getattr(old, field.name) != getattr(new, field.name)
    )
    if new.enabled != old.enabled:
        others = tuple(name for name in differ if name != "enabled")
        return Step(What.ENABLE if new.enabled else What.DISABLE, new, others)
    return Step(What.REPLACE, new, differ)


def _stepped(servers: Iterable[Server], steps: Iterable[Step]) -> tuple[Server, ...]:
    running = {server.name: server for server in servers}
    for step in steps:
        if step.what is What.REMOVE:
            del running[step.server.name]
        else:
            running[step.server.name] = step.server  # a known one keeps its place, a new one is the last
    return tuple(running.values())
