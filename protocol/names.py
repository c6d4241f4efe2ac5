"""Gives the tools of several servers public names that cannot collide, and finds the server behind a name (B-21).

With prefixes the public name is `prefix separator name`. A prefix never lets a separator begin before its own end, so
the first separator in a public name is the one we put there, whatever the tool is called. Names are then fitted to what
the client can take (protocol/client_profiles.py); the name before that is understood as well.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from protocol.client_profiles import Profile
from protocol.tool_rules import Override, ToolFilter, ToolRules

SERVER_NAME_CHARACTERS_MAX: Final = 32
"""Model APIs commonly take 64 characters for a tool's name; half of them are left to the tool."""
_ALIAS: Final = "."
"""`server.name` is understood as well: no server name has a dot, and people write it that way."""
_SERVER_NAME: Final = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{SERVER_NAME_CHARACTERS_MAX - 1}}}")


class Policy(Enum):
    """When a public name has its server's prefix."""

    PREFIX = "prefix"
    """Always."""
    AUTO = "auto"
    """When several servers offer the name, and when it would look prefixed itself."""
    NONE = "none"
    """Never; of several servers that offer a name, one is chosen."""


@dataclass(frozen=True, slots=True)
class ServerNaming:
    """How the tools of one server are named."""

    server: str
    prefix: str = ""
    """"" for the server's name."""
    priority: int = 0
    """Without prefixes the highest gets a name that several offer; among equals, the first configured."""
    rules: ToolRules = field(default_factory=ToolRules)


@dataclass(slots=True)
class Assigned:
    """The public names of some lists."""

    names: list[list[str]]
    """As the lists that were given; "" for a tool that is not offered."""
    full_names: list[list[str]]
    """The same, before they were made to fit."""
    targets: dict[str, tuple[str, str]]
    """(server, its own name for the tool) by every name that only the lists explain."""
    clashes: list[str]
    """Tools that are not offered because their name is taken, as "name of server"."""


class Namespace:
    """Public names for the given servers."""

    def __init__(
        self,
        servers: Sequence[ServerNaming],
        separator: str,
        policy: Policy = Policy.PREFIX,
        reserved: frozenset[str] = frozenset(),
    ) -> None:
        """`reserved`: names of tools of our own, which no server's tool is given."""
        self._servers = {naming.server: naming for naming in servers}
        self._separator = separator
        self._policy = policy
        self.reserved = reserved
        self._by_prefix = {naming.server: naming.server for naming in servers}
        self._by_prefix |= {naming.prefix: naming.server for naming in servers if naming.prefix}
        self._filters = {naming.server: ToolFilter(naming.rules) for naming in servers if naming.rules != ToolRules()}
        self._only = servers[0].server if policy is not Policy.PREFIX and len(servers) == 1 else ""

    def assign(self, lists: Sequence[tuple[str, Sequence[str]]], profile: Profile) -> Assigned:
        """Name the tools of (server, its own names) lists, for clients of one kind."""
        offered = [self._offered(server, own_names) for server, own_names in lists]
        counts = Counter(name for names in offered for name in names)
        blank = [[""] * len(own_names) for _, own_names in lists]
        assigned = Assigned(blank, [list(names) for names in blank], {}, [])
        taken: set[str] = set()
        # Sorting is stable: among servers of one priority, the order of the lists decides.
        for index in sorted(range(len(lists)), key=lambda index: -self._servers[lists[index][0]].priority):
            server, own_names = lists[index]
            for position, (own, name) in enumerate(zip(own_names, offered[index], strict=True)):
                if not name:
                    continue
                full = self._full(server, name, is_shared=counts[name] > 1)
                public = profile.fit(full)
                if public in self.reserved:
                    public = profile.marked(full)
                if public in taken:
                    assigned.clashes.append(f"{public} of {server}")
                    continue
                taken.add(public)
                assigned.names[index][position] = public
                assigned.full_names[index][position] = full
                for understood in (public, full):
                    assigned.targets.setdefault(understood, (server, own))
        return assigned

    def override(self, server: str, own: str) -> Override | None:
        """Return what the user wants to be said of a tool."""
        return self._servers[server].rules.overrides.get(own)

    def split(self, public: str) -> tuple[str, str] | None:
        """Return the server and its own name for a tool, by the prefix; None if no tool is offered under such a name.

        Without prefixes a single server owns every name. Look into what `assign` has found first.
        """
        found = (self._only, public) if self._only else self.cut(public)
        if found is None or (tools := self._filters.get(found[0])) is None:
            return found
        own = tools.own(found[1])
        return None if own is None else (found[0], own)

    def cut(self, public: str) -> tuple[str, str] | None:
        """Return the server whose prefix is in front, and the rest of the name."""
        return self._cut(public, self._separator) or self._cut(public, _ALIAS)

    def _cut(self, public: str, separator: str) -> tuple[str, str] | None:
        prefix, _, name = public.partition(separator)
        server = self._by_prefix.get(prefix)
        return (server, name) if name and server is not None else None

    def _offered(self, server: str, own_names: Sequence[str]) -> list[str]:
        tools = self._filters.get(server)
        return [tools.offered(own) or "" for own in own_names] if tools else list(own_names)

    def _full(self, server: str, name: str, *, is_shared: bool) -> str:
        if self._policy is Policy.NONE or (
            self._policy is Policy.AUTO and not is_shared and (self._only or self.cut(name) is None)
        ):
            return name
        return f"{self._servers[server].prefix or server}{self._separator}{name}"


def server_name_fault(name: str, separator: str) -> str | None:
    """Return why a server must not be called so, None if it may."""
    if not _SERVER_NAME.fullmatch(name):
        return (
            f"a server's name has 1 to {SERVER_NAME_CHARACTERS_MAX} letters, digits, '-' and '_' "
            "and begins with a letter or a digit"
        )
    if separator and (name + separator).index(separator) != len(name):
        return f"a server's name must not contain the separator {separator!r} or run into it at its end"
    return None
