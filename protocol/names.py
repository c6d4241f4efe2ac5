"""Gives tools and prompts of several servers names that cannot collide, and finds the server behind a name (B-21).

The public name is `server separator name`. A server's name never lets a separator begin before its own end, so the
first separator in a public name is the one we put there, whatever the tool is called.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

SERVER_NAME_CHARACTERS_MAX: Final = 32
"""Model APIs commonly take 64 characters for a tool's name; half of them are left to the tool."""
_ALIAS: Final = "."
"""`server.name` is understood as well: no server name has a dot, and people write it that way."""
_SERVER_NAME: Final = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{SERVER_NAME_CHARACTERS_MAX - 1}}}")


class Namespace:
    """Public names for the given servers. With separator "" names are public as they are."""

    def __init__(self, servers: Sequence[str], separator: str) -> None:
        self._servers = tuple(servers)
        self._known = frozenset(servers)
        self._separator = separator

    def public(self, server: str, name: str) -> str:
        return f"{server}{self._separator}{name}" if self._separator else name

    def split(self, public: str) -> tuple[str, str] | None:
        """Return the server and its own name for a tool; None if no server's prefix is in front.

        Without prefixes a single server owns every name. Of several servers only the alias tells which is meant, and a
        tool may have a dot in its name: look into the catalogue first.
        """
        if not self._separator and len(self._servers) == 1:
            return self._servers[0], public
        if self._separator and (found := self._cut(public, self._separator)):
            return found
        return self._cut(public, _ALIAS)

    def _cut(self, public: str, separator: str) -> tuple[str, str] | None:
        server, _, name = public.partition(separator)
        return (server, name) if name and server in self._known else None


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
