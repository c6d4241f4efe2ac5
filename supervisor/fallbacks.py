"""Tools that take over from tools of servers that are no replicas: what is configured, and whether it can be. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from protocol.limits import FALLBACKS_MAX
from protocol.tool_rules import ToolFilter, ToolRules
from supervisor.config import TOOL_EXTRA_BYTES, TOOLS_BYTES_MAX, ConfigError, Group, Server, check_tool_name, shown

Tool = tuple[str, str]
"""A server or group as clients see it, and its own name of the tool."""


def of(owner: Server | Group, separator: str) -> dict[str, Tool]:
    """Return what takes over from each tool of a server or group, by its own name. It has been checked."""
    return {tool: _target(text, separator) for tool, text in owner.fallback}


def _target(text: str, separator: str) -> Tool:
    server, _, tool = text.partition(separator)
    return server, tool


def check(servers: Sequence[Server], groups: Sequence[Group], separator: str) -> None:
    """Check that every fallback leads to a tool that can be called, and never back. Errors: `ConfigError`."""
    owners: dict[str, Server | Group] = {one.name: one for one in (*servers, *groups)}
    replicas = {name: group.name for group in groups for name in group.servers}
    following: dict[Tool, Tool] = {}
    for owner in owners.values():
        for tool, text in owner.fallback:
            target = _target(text, separator)
            _check_one(f"fallback of {owner.name}{separator}{tool}", target, text, separator, owners, replicas)
            following[owner.name, tool] = target
    if sum(len(f"{tool}{text}") + TOOL_EXTRA_BYTES for one in owners.values() for tool, text in one.fallback) > (
        TOOLS_BYTES_MAX
    ):
        raise ConfigError(f"{len(following)} fallbacks are too many with names that long")
    for first in following:
        _check_chain(first, following, separator)


def _check_one(
    what: str,
    target: Tool,
    text: str,
    separator: str,
    owners: Mapping[str, Server | Group],
    replicas: Mapping[str, str],
) -> None:
    server, tool = target
    if not tool:
        raise ConfigError(f"{what}: {shown(text)} is no tool of a server; write SERVER{separator}TOOL")
    check_tool_name(tool)
    if server in replicas:
        raise ConfigError(f"{what}: {server!r} is a replica; name its group, {replicas[server]!r}")
    if server not in owners:
        raise ConfigError(f"{what}: there is no server or group {shown(server)}")
    rules: ToolRules = owners[server].rules
    if ToolFilter(rules).offered(tool) is None:
        raise ConfigError(f"{what}: {server!r} is configured not to offer the tool {shown(tool)}")


def _check_chain(first: Tool, following: Mapping[Tool, Tool], separator: str) -> None:
    seen = [first]
    while (tool := following.get(seen[-1])) is not None:
        seen.append(tool)
        told = " to ".join(separator.join(one) for one in seen)
        if tool == first:
            raise ConfigError(f"fallbacks lead in a circle: {told}")
        if len(seen) > FALLBACKS_MAX + 1:
            raise ConfigError(f"more than {FALLBACKS_MAX} fallbacks, one after the other: {told}")
