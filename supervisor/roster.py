"""Which servers there are, in which order, and which worker serves each. Pure; `changes.py` changes it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from supervisor.config import Group, Portion, Server
from supervisor.groups import portion_of
from supervisor.plan import Replica, child_name, has_worker


@dataclass(slots=True)
class Entry:
    """One configured server."""

    server: Server
    child: str
    """The name, in the tree, of the worker that serves it; "" while it is disabled, or if it is looked up."""
    starts: int = 0
    """How many times a worker has been started for it since it was added or enabled."""
    is_drained: bool = False
    """It is a replica that gets no new calls."""
    portion: Portion | None = None
    """What it gets of its group's calls, if that was said at run time."""


class Roster:
    """All configured servers, by name, in their order, and the groups that they are replicas of."""

    def __init__(self, servers: Sequence[Server], groups: Iterable[Group] = ()) -> None:
        self.groups = {group.name: group for group in groups}
        self.entries = {
            server.name: Entry(server, child_name(server) if has_worker(server) else "") for server in servers
        }
        self.children = {entry.child: entry.server for entry in self.entries.values() if entry.child}
        """The servers of all workers, by the names of the tree: also of workers that are not offered to clients yet, or
        not any more."""

    def offered(self) -> Iterator[Entry]:
        """Yield those whose tools clients are offered."""
        return (entry for entry in self.entries.values() if entry.child)

    def drained(self) -> frozenset[str]:
        """Return the names of the replicas that get no new calls."""
        return frozenset(name for name, entry in self.entries.items() if entry.is_drained)

    def replica(self, name: str) -> Replica | None:
        """Return what a server is in its group; None if it belongs to none that is declared."""
        entry = self.entries[name]
        group = self.groups.get(entry.server.group)
        if group is None or entry.server.discover:
            return None
        return Replica(group, entry.portion or portion_of(group, name), entry.is_drained)

    def replicas(self) -> dict[str, Replica]:
        """Return all servers that belong to groups, by name."""
        return {name: replica for name in self.entries if (replica := self.replica(name))}

    def is_offered(self, child: str) -> bool:
        """Whether clients are served by this worker."""
        return self.offering(child) is not None

    def offering(self, child: str) -> Entry | None:
        """Return the server that this worker serves; None if it is on probation, or on its way out."""
        server = self.children.get(child)
        entry = self.entries.get(server.name) if server else None
        return entry if entry and entry.child == child else None

    def place(self, name: str) -> int:
        """Return how many of those that are offered come before this server."""
        before = itertools.takewhile(lambda entry: entry.server.name != name, self.entries.values())
        return sum(bool(entry.child) for entry in before)

    def enter(self, entry: Entry) -> None:
        """Take in a server: in its place if it is known, behind its name if it was found for one, else as the last."""
        name, owner = entry.server.name, entry.server.found_for
        if name in self.entries or owner not in self.entries:
            self.entries[name] = entry
            return
        listed = list(self.entries.items())
        place = max(at for at, (known, one) in enumerate(listed) if owner in (known, one.server.found_for)) + 1
        self.entries.clear()
        self.entries.update([*listed[:place], (name, entry), *listed[place:]])

    def found_for(self, name: str) -> list[str]:
        """Return the names of the replicas that were found for a server."""
        return [entry.server.name for entry in self.entries.values() if entry.server.found_for == name]

    def free_child_name(self, server: Server) -> str:
        """Return a name for one more worker of this server: the usual one unless another worker still has it."""
        usual = child_name(server)
        names = itertools.chain([usual], (f"{usual} #{number}" for number in itertools.count(2)))
        return next(name for name in names if name not in self.children)
