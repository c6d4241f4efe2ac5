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
_NEXT_URL: Final = re.compile(r"\|\s*[A-Za-z][A-Za-z0-9+.-]*://|\|\s|\|\Z")
"""What may follow on a URL in the short form; a URL may have the character itself, but not at its end."""


def alternatives(text: str) -> list[str]:
    """Return the replicas in `URL|URL`, `COMMAND | COMMAND`, or both kinds mixed; a single one is alone.

    Within a command everything that is not quoted separates, as it would in a shell; within a URL only what is followed
    by the next URL or has spaces around it does.
    """
    found: list[str] = []
    while True:
        text = text.strip()
        end = _alternative_end(text)
        found.append(text[:end].rstrip())
        if end == len(text):
            return found
        text = text[end + 1 :]


def _alternative_end(text: str) -> int:
    from supervisor.command import is_address

    if is_address(text):
        separators = (at for at, char in enumerate(text) if char == "|" and _NEXT_URL.match(text, at))
        return next(separators, len(text))
    quote, at = "", 0
    while at < len(text):
        char = text[at]
        if char == "\\" and quote != "'":
            at += 1
        elif char in "'\"" and quote in ("", char):
            quote = "" if quote else char
        elif char == "|" and not quote:
            return at
        at += 1
    return len(text)


def multiplied(servers: Sequence[Server], groups: Sequence[Group]) -> tuple[tuple[Server, ...], tuple[Group, ...]]:
    """Return servers and groups with N servers NAME-1 … in place of each that has `replicas` = N more than one.

    They belong to the group that names the server, or that the server names; else to the one of its own name, which is
    made unless it is declared. What clients are to see of them is said of that group then.
    """
    found: list[Server] = []
    known = list(groups)
    for server in servers:
        if server.replicas == 1:
            found.append(server)
            continue
        names = tuple(replica_name(server.name, number) for number in range(1, server.replicas + 1))
        known = [replace(group, servers=_with_replicas(group.servers, server.name, names)) for group in known]
        lister = next((group.name for group in known if names[0] in group.servers), "")
        group = server.group or lister or server.name
        alike = replace(server, group=group, replicas=1)
        if not any(one.name == group for one in known):
            alike, seen = _moved_to_group(alike, group)
            known.append(seen)
        found += [replace(alike, name=name) for name in names]
    return tuple(found), tuple(known)


def _with_replicas(listed: tuple[str, ...], name: str, replicas: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(one for server in listed for one in (replicas if server == name else (server,)))


def replica_name(name: str, number: int) -> str:
    return f"{name}-{number}"


def parse(text: str, separator: str) -> Group:
    """Return the group of a `NAME=SERVER,SERVER` or `NAME=SERVER,SERVER:POLICY` text."""
    name, equals, members = text.partition("=")
    members, colon, policy = members.partition(":")
    servers = tuple(member.strip() for member in members.split(",") if member.strip())
    if not equals or not servers:
        raise ConfigError(f"{shown(text)} is no group; write NAME=SERVER,SERVER, for example search=search1,search2")
    check_name(name.strip(), separator)
    if colon and policy not in POLICIES:
        hint = _similar(policy, POLICIES)
        raise ConfigError(f"{shown(policy)} is no policy; write one of {', '.join(POLICIES)}{hint}")
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
    servers, groups = _with_own_groups(servers, tuple(groups))
    _check_groups(groups, servers)
    belongs = {server: group.name for group in groups for server in group.servers}
    arranged: list[Server] = []
    for server in servers:
        listed, said = belongs.get(server.name, ""), server.group
        if listed and said and listed != said:
            raise ConfigError(f"server {server.name!r} says that its group is {said!r}, but {listed!r} lists it, too")
        arranged.append(replace(server, group=listed or said))
    return tuple(arranged), tuple(_whole(group, arranged) for group in groups)


def _with_own_groups(
    servers: Sequence[Server], groups: tuple[Group, ...]
) -> tuple[Sequence[Server], tuple[Group, ...]]:
    """Return also the groups of servers that are looked up, and whose replicas belong to no group that is declared."""
    declared = {group.name for group in groups}
    listed = {server for group in groups for server in group.servers}
    found: list[Server] = []
    for server in servers:
        if server.discover and server.name not in listed and (server.group or server.name) not in declared:
            server, own = _moved_to_group(server, server.group or server.name)
            groups = (*groups, own)
            declared.add(own.name)
        elif server.discover and server.name not in listed:
            server = replace(server, group=server.group or server.name)
        found.append(server)
    return found, groups


def _moved_to_group(server: Server, name: str) -> tuple[Server, Group]:
    """Return a server that belongs to a group of this name, and that group, with what clients are to see of it."""
    group = Group(
        name, namespace=server.namespace, priority=server.priority, rules=server.rules, fallback=server.fallback
    )
    return replace(server, group=name, namespace=None, priority=0, rules=ToolRules(), fallback=()), group


def _check_groups(groups: Sequence[Group], servers: Sequence[Server]) -> None:
    names = [group.name for group in groups]
    known = {server.name for server in servers}
    seen = {server.name for server in servers if not server.discover}
    if len(groups) > GROUPS_MAX:
        raise ConfigError(f"{len(groups)} groups are too many; at most {GROUPS_MAX} are possible")
    listed: dict[str, str] = {}
    for group in groups:
        if names.count(group.name) > 1:
            raise ConfigError(f"two groups are called {group.name!r}; give each its own name")
        if group.name in seen:
            raise ConfigError(f"a group and a server are called {group.name!r}; clients could not tell them apart")
        for server in group.servers:
            if server not in known:
                hint = _similar(server, sorted(known))
                raise ConfigError(f"group {group.name!r}: there is no server {shown(server)}{hint}")
            if group.servers.count(server) > 1:
                raise ConfigError(f"group {group.name!r} lists server {server!r} twice; weights make it get more calls")
            if server in listed:
                raise ConfigError(f"server {server!r} is in two groups: {listed[server]!r} and {group.name!r}")
            listed[server] = group.name


def _similar(word: str, words: Sequence[str]) -> str:
    from supervisor.configuration.problems import similar  # needed by few

    return similar(word, words)


def remarks(groups: Iterable[Group], servers: Sequence[Server]) -> tuple[str, ...]:
    """Return what is possible and probably not meant, in lines for people."""
    growing = {server.group for server in servers if server.discover}
    return tuple(
        f"group {group.name!r} has one server only, {group.servers[0]!r}: no other one takes over its calls"
        for group in groups
        if len(group.servers) == 1 and group.name not in growing
    )


def _whole(group: Group, servers: Sequence[Server]) -> Group:
    """Return a group with the servers that only say themselves that they belong to it."""
    members = [server for server in servers if server.group == group.name]
    if not members:
        raise ConfigError(f"group {group.name!r} has no servers")
    for server in members:
        if server.namespace is not None or server.priority or server.rules != ToolRules() or server.fallback:
            raise ConfigError(
                f"server {server.name!r}: clients see the tools of a group, not those of its replicas, so namespace, "
                f"priority, allow, deny, renames, overrides and fallback belong to the group {group.name!r}"
            )
    if len({server.isolation for server in members}) > 1:
        raise ConfigError(f"group {group.name!r}: its servers must have the same isolation, as a client may get any")
    looked_up = {server.name for server in members if server.discover}
    names = tuple(
        dict.fromkeys(name for name in (*group.servers, *(server.name for server in members)) if name not in looked_up)
    )
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
    if group.canary and len(group.canary) == len(names) and not looked_up:
        raise ConfigError(f"group {group.name!r}: at least one server has to share what no canary gets")
    if sum(percent for _, percent in group.canary) > CANARY_PERCENT_MAX:
        raise ConfigError(f"group {group.name!r}: canaries get at most {CANARY_PERCENT_MAX:g} % of the calls together")
    if group.sticky_by and group.policy != "sticky":
        raise ConfigError(f"group {group.name!r}: sticky_by belongs to the policy 'sticky'")
    return replace(group, servers=names)
