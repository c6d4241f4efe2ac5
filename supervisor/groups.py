"""Groups of replicas as they are configured: who belongs to which, and what does not fit together. Pure.

A server belongs to a declared group if its `group` names it. The other ways of saying so (a list in the table of the
group, --group, a short form of --servers) come down to that here. A `group` that nobody declares is a label for people.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from protocol.limits import CANARY_PERCENT_MAX, GROUPS_MAX, REPLICA_WEIGHT_MAX
from protocol.names import server_name_fault
from protocol.tool_rules import ToolRules
from supervisor.config import ConfigError, Group, Portion, Server, shown

POLICIES: Final = ("least_loaded", "round_robin", "weighted", "priority", "sticky")
"""As in protocol/balancing.py, which would load what is not needed before the port is bound."""
USES_WEIGHTS: Final = ("least_loaded", "weighted", "sticky")
_ALTERNATIVES: Final = re.compile(r"\|(?=\s*[A-Za-z][A-Za-z0-9+.-]*://)")
"""Between the URLs of replicas; a URL may have the character itself."""


def replicas(name: str, urls: str) -> tuple[Server, ...]:
    """Return the servers of `NAME=URL|URL`: NAME-1, NAME-2, … of the group NAME; a single URL is a server alone.

    Names and URLs are still to be checked.
    """
    found = [url.strip() for url in _ALTERNATIVES.split(urls)]
    if len(found) == 1:
        return (Server(name, found[0]),)
    return tuple(Server(f"{name}-{number}", url, group=name) for number, url in enumerate(found, 1))


def parse(text: str, separator: str) -> Group:
    """Return the group of a `NAME=SERVER,SERVER` or `NAME=SERVER,SERVER:POLICY` text."""
    name, equals, members = text.partition("=")
    members, colon, policy = members.partition(":")
    servers = tuple(member.strip() for member in members.split(",") if member.strip())
    if not equals or not servers:
        raise ConfigError(f"{shown(text)} is no group; write NAME=SERVER,SERVER, for example search=search1,search2")
    check_name(name.strip(), separator)
    if colon and policy not in POLICIES:
        raise ConfigError(f"{shown(policy)} is no policy; write one of {', '.join(POLICIES)}")
    return Group(name.strip(), servers, policy or POLICIES[0])


def check_name(name: str, separator: str) -> None:
    """Check the name of a group, which clients see as they see that of a server."""
    if fault := server_name_fault(name, separator):
        raise ConfigError(f"{shown(name)}: {fault.replace('server', 'group', 1)}")


def portion_of(group: Group, server: str) -> Portion:
    """Return the portion that a server has by the configuration of its group."""
    return Portion(dict(group.weights).get(server, 1.0), dict(group.canary).get(server, 0.0))


def parse_portion(text: str, group: Group) -> Portion | None:
    """Return the portion that `3` or `5%` means for a replica of this group; None for "default".

    Errors: `ConfigError`.
    """
    if text == "default":
        return None
    number, percent, rest = text.partition("%")
    try:
        value = float(number)
    except ValueError:
        value = 0.0
    if rest or not 0 < value <= (CANARY_PERCENT_MAX if percent else REPLICA_WEIGHT_MAX):  # which no nan is
        raise ConfigError(
            f"{shown(text)} is no weight; write a number up to {REPLICA_WEIGHT_MAX:g}, a percentage such as 5%, "
            "or default"
        )
    if percent:
        return Portion(percent=value)
    if group.policy not in USES_WEIGHTS:
        raise ConfigError(f"the policy {group.policy!r} of the group {group.name!r} has no use for weights")
    return Portion(value)


def arrange(servers: Sequence[Server], groups: Iterable[Group]) -> tuple[tuple[Server, ...], tuple[Group, ...]]:
    """Return the servers, each saying which group it belongs to, and the groups with all of their servers.

    Errors: `ConfigError` for whatever does not fit together.
    """
    groups = tuple(groups)
    _check_groups(groups, servers)
    belongs = {server: group.name for group in groups for server in group.servers}
    arranged: list[Server] = []
    for server in servers:
        listed, said = belongs.get(server.name, ""), server.group
        if listed and said and listed != said:
            raise ConfigError(f"server {server.name!r} says that its group is {said!r}, but {listed!r} lists it, too")
        arranged.append(replace(server, group=listed or said))
    return tuple(arranged), tuple(_whole(group, arranged) for group in groups)


def _check_groups(groups: Sequence[Group], servers: Sequence[Server]) -> None:
    names = [group.name for group in groups]
    known = {server.name for server in servers}
    if len(groups) > GROUPS_MAX:
        raise ConfigError(f"{len(groups)} groups are too many; at most {GROUPS_MAX} are possible")
    listed: dict[str, str] = {}
    for group in groups:
        if names.count(group.name) > 1:
            raise ConfigError(f"two groups are called {group.name!r}; give each its own name")
        if group.name in known:
            raise ConfigError(f"a group and a server are called {group.name!r}; clients could not tell them apart")
        for server in group.servers:
            if server not in known:
                raise ConfigError(f"group {group.name!r}: there is no server {shown(server)}")
            if server in listed:
                raise ConfigError(f"server {server!r} is in two groups: {listed[server]!r} and {group.name!r}")
            listed[server] = group.name


def _whole(group: Group, servers: Sequence[Server]) -> Group:
    """Return a group with the servers that only say themselves that they belong to it."""
    members = [server for server in servers if server.group == group.name]
    if not members:
        raise ConfigError(f"group {group.name!r} has no servers")
    for server in members:
        if server.namespace is not None or server.priority or server.rules != ToolRules():
            raise ConfigError(
                f"server {server.name!r}: clients see the tools of a group, not those of its replicas, so namespace, "
                f"priority, allow, deny, renames and overrides belong to the group {group.name!r}"
            )
    names = tuple(dict.fromkeys((*group.servers, *(server.name for server in members))))
    if group.weights and group.policy not in USES_WEIGHTS:
        raise ConfigError(f"group {group.name!r}: the policy {group.policy!r} has no use for weights")
    for name, weight in group.weights:
        if name not in names:
            raise ConfigError(f"group {group.name!r}: there is a weight for {shown(name)}, which is no server of it")
        if not 0 < weight <= REPLICA_WEIGHT_MAX:
            raise ConfigError(f"group {group.name!r}: weights are more than 0 and at most {REPLICA_WEIGHT_MAX:g}")
    for name, _ in group.canary:
        if name not in names:
            raise ConfigError(f"group {group.name!r}: there is a canary {shown(name)}, which is no server of it")
        if name in dict(group.weights):
            raise ConfigError(f"group {group.name!r}: {name!r} has both a weight and a percentage")
    if group.canary and len(group.canary) == len(names):
        raise ConfigError(f"group {group.name!r}: at least one server has to share what no canary gets")
    if sum(percent for _, percent in group.canary) > CANARY_PERCENT_MAX:
        raise ConfigError(f"group {group.name!r}: canaries get at most {CANARY_PERCENT_MAX:g} % of the calls together")
    if group.sticky_by and group.policy != "sticky":
        raise ConfigError(f"group {group.name!r}: sticky_by belongs to the policy 'sticky'")
    return replace(group, servers=names)
