"""What the user wants of one server's tools: which are offered, under which names, described how."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from protocol.jsonrpc import Object

CHECKED_NAMES_MAX = 4096
"""Verdicts that are remembered; a client can make up any number of names."""


@dataclass(frozen=True, slots=True)
class Override:
    """What is told to clients instead of what the server says of one tool."""

    title: str = ""
    description: str = ""
    annotations: bytes = b""
    """Members that replace those of the same name: a JSON object, or b""."""


@dataclass(frozen=True, slots=True)
class ToolRules:
    """The rules for the tools of one server. Names and patterns are the server's own."""

    allow: tuple[str, ...] = ()
    """Glob patterns; if there are any, only tools that match one are offered."""
    deny: tuple[str, ...] = ()
    """Glob patterns of tools that are not offered, whatever `allow` says."""
    renames: dict[str, str] = field(default_factory=dict[str, str])
    """New names by the server's own."""
    overrides: dict[str, Override] = field(default_factory=dict[str, Override])
    """By the server's own names."""


class ToolFilter:
    """Applies the rules of one server to the names of its tools."""

    def __init__(self, rules: ToolRules) -> None:
        self._allow = _any_of(rules.allow) if rules.allow else None
        self._deny = _any_of(rules.deny) if rules.deny else None
        self._new = dict(rules.renames)
        self._old = {new: old for old, new in rules.renames.items()}
        self.own = lru_cache(CHECKED_NAMES_MAX)(self._own)

    def offered(self, own: str) -> str | None:
        """Return the name under which a tool of the server is offered, None if it is not."""
        if (self._allow and not self._allow.fullmatch(own)) or (self._deny and self._deny.fullmatch(own)):
            return None
        name = self._new.get(own, own)
        # A tool that another one has been given the name of cannot be told from that one, so it is not offered.
        return name if (name == own and own not in self._old) or name != own else None

    def _own(self, offered: str) -> str | None:
        """Return the server's own name for an offered one, None if no tool is or would be offered so."""
        own = self._old.get(offered, offered)
        return own if self.offered(own) == offered else None


def apply_override(tool: Object, override: Override) -> None:
    """Put the user's words about a tool in place of the server's."""
    import msgspec  # these two load what a root does not need before its port is bound

    from protocol.jsonrpc import Raw, decode_object, encode_object

    if override.title:
        tool["title"] = Raw(msgspec.json.encode(override.title))
    if override.description:
        tool["description"] = Raw(msgspec.json.encode(override.description))
    if override.annotations:
        given = decode_object(tool["annotations"], "annotations") if "annotations" in tool else {}
        tool["annotations"] = Raw(encode_object(given | decode_object(Raw(override.annotations), "annotations")))


def _any_of(patterns: Iterable[str]) -> re.Pattern[str]:
    """`fnmatch.translate` makes patterns that cannot backtrack without end."""
    return re.compile("|".join(f"(?:{fnmatch.translate(pattern)})" for pattern in patterns))
