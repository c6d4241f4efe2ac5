"""The lists of a group's replicas as one: what any of them offers, once, and who offers what not all of them do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from protocol import bridge
from protocol.limits import DIFFERENCES_TOLD_MAX
from protocol.link import Listing
from protocol.versions import Era
from workers.front.merging import is_same
from workers.front.snapshot import Snapshot
from workers.logs import Log

KINDS: Final = {"tools/call": "tools", "prompts/get": "prompts", "resources/read": "resources"}
"""By method: the list that what it asks for is in."""
KEYS: Final = {"resources": "uri", "resourceTemplates": "uriTemplate"}
NAMES_TOLD_MAX: Final = 20
WHAT: Final = {
    "tools": "tool", "prompts": "prompt", "resources": "resource", "resourceTemplates": "resource template",
}  # fmt: skip
"""One item of each kind, in words."""
NAME_CHARS_MAX: Final = 128
_NOWHERE: Final[Mapping[str, frozenset[str]]] = {}
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_str = msgspec.json.Decoder(str).decode

Known = Sequence[tuple[str, Snapshot | None]]
"""The last lists of the replicas, by name."""


class _Merged:
    """What one list of a group was made of, and what was found."""

    def __init__(self, parts: Known, list_: Snapshot) -> None:
        self.parts = parts
        self.list = list_
        self.only: dict[str, frozenset[str]] = {}
        """Who offers it, by name (or URI), of what some replicas lack."""
        self.differing: list[str] = []
        self.lacks: list[tuple[str, str]] = []
        """(replica, name) of what others offer."""
        self.differs: list[tuple[str, str]] = []
        """(replica, name) of what is not described as the first does."""

    def is_of(self, parts: Known) -> bool:
        names = [name for name, _ in self.parts] == [name for name, _ in parts]
        return names and is_same([one for _, one in self.parts], [one for _, one in parts])


class ReplicaLists:
    """The lists of one group, by era and kind."""

    def __init__(self, group: str, log: Log) -> None:
        self._group = group
        self._log = log
        self._merged: dict[tuple[Era, str], _Merged] = {}
        self._told: dict[str, tuple[list[str], list[str]]] = {}
        """Differences that are in the log, by kind."""
        self._generation = 0

    def differences(self) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        """Return what each replica lacks that others offer, and what it describes differently, in words, by replica.

        Both together at most `DIFFERENCES_TOLD_MAX`.
        """
        lacks: dict[str, list[str]] = {}
        differs: dict[str, list[str]] = {}
        latest = {kind: merged for (_, kind), merged in self._merged.items()}
        left = DIFFERENCES_TOLD_MAX
        for kind, merged in latest.items():
            for pairs, told in ((merged.lacks, lacks), (merged.differs, differs)):
                for replica, name in pairs[:left]:
                    told.setdefault(replica, []).append(f"{WHAT[kind]} {name[:NAME_CHARS_MAX]}")
                left -= min(left, len(pairs))
        return lacks, differs

    def has(self, era: Era, kind: str) -> bool:
        """Whether it has been merged yet."""
        return (era, kind) in self._merged

    def merge(self, era: Era, kind: str, parts: Known, now: float) -> Snapshot | None:
        """Return these lists as one: the same object as before if they are what they were."""
        merged = self._merged.get((era, kind))
        if merged is None or not merged.is_of(parts):
            known = [(name, one) for name, one in parts if one is not None]
            if not known:
                return None
            merged = self._merged[era, kind] = self._make(era, kind, parts, known, now)
            self._tell(kind, merged)
        made_of = [one for _, one in parts if one is not None]
        merged.list.fetched_at = now
        merged.list.ttl_s = max(0.0, min(one.fetched_at + one.ttl_s - now for one in made_of))
        merged.list.private = any(one.private for one in made_of)
        return merged.list

    def offering(self, method: str, era: Era, name: str) -> frozenset[str] | None:
        """Return the replicas that offer what is asked for; None if all do, or nobody knows of it."""
        merged = self._merged.get((era, KINDS.get(method, "")))
        return (merged.only if merged else _NOWHERE).get(name)

    def _make(self, era: Era, kind: str, parts: Known, known: Sequence[tuple[str, Snapshot]], now: float) -> _Merged:
        leg = known[0][1].leg
        self._generation += 1
        header = Listing(0, era, kind, self._generation, 0, True, leg)
        items: dict[str, msgspec.Raw] = {}
        offering: dict[str, set[str]] = {}
        nameless: list[msgspec.Raw] = []
        merged = _Merged(parts, Snapshot(header, [], 0, now))
        for replica, one in known:
            for item in one.items:
                raw = item if one.leg is leg or kind != "tools" else _in_shape(item, leg)
                name = _name_of(raw, KEYS.get(kind, "name"))
                if name is None:
                    nameless.append(raw)  # the catalogue leaves it out, and says so
                    continue
                first = items.setdefault(name, raw)
                offering.setdefault(name, set()).add(replica)
                if first is not raw and _differ(first, raw):
                    merged.differs.append((replica, name))
                    if name not in merged.differing:
                        merged.differing.append(name)
        # Where a list is not known, the call may be tried.
        unknown = {name for name, one in parts if one is None}
        merged.only = {name: frozenset(who | unknown) for name, who in offering.items() if len(who) < len(known)}
        merged.lacks = [
            (replica, name) for name, who in merged.only.items() for replica, _ in known if replica not in who
        ]
        merged.list.items.extend([*items.values(), *nameless])
        return merged

    def _tell(self, kind: str, merged: _Merged) -> None:
        only, differing = sorted(merged.only), sorted(merged.differing)
        if self._told.get(kind, ([], [])) == (only, differing):
            return
        self._told[kind] = (only, differing)
        if only or differing:
            self._log.warning(
                f"the replicas of a group do not offer the same {kind}", group=self._group,
                only_some_have=", ".join(only[:NAMES_TOLD_MAX]),
                described_differently=", ".join(differing[:NAMES_TOLD_MAX]),
            )  # fmt: skip


def _in_shape(tool: msgspec.Raw, leg: Era) -> msgspec.Raw:
    return msgspec.Raw(bridge.tool_to_modern(tool) if leg is Era.MODERN else bridge.tool_to_legacy(tool))


def _name_of(item: msgspec.Raw, key: str) -> str | None:
    try:
        return _decode_str(_decode_members(item)[key])
    except (KeyError, msgspec.DecodeError):
        return None


def _differ(one: msgspec.Raw, other: msgspec.Raw) -> bool:
    if bytes(one) == bytes(other):
        return False
    try:
        return bool(msgspec.json.decode(one) != msgspec.json.decode(other))
    except msgspec.DecodeError:
        return True
