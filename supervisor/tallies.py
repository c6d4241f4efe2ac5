"""What workers have counted (protocol/counts.py) since the proxy was started, those included that are gone.

A worker's numbers are in its page, which is read when somebody asks, and once more when it has ended.
"""

from __future__ import annotations

from collections.abc import Container, Mapping

from protocol.counts import CONNECTIONS, COUNTS
from supervisor.lives import Life


class Tally:
    """The sum of some workers' counts."""

    def __init__(self) -> None:
        self.counts = [0] * COUNTS
        self.in_flight = 0
        """Calls that have no answer yet."""
        self.connections = 0

    def add(self, life: Life, *, is_gone: bool = False) -> None:
        counts, in_flight = life.counted()
        self.counts = [one + other for one, other in zip(self.counts, counts, strict=True)]
        if not is_gone:
            self.in_flight += in_flight
            self.connections += counts[CONNECTIONS]


class Tallies:
    """`lives`: the current ones, by the names of the tree."""

    def __init__(self, lives: Mapping[str, Life]) -> None:
        self._lives = lives
        self._past: dict[str, Tally] = {}
        """Of workers that are gone, by what they are called."""

    def ended(self, life: Life) -> None:
        """A worker is gone, and its page about to be."""
        self._past.setdefault(life.title, Tally()).add(life, is_gone=True)

    def now(self, known: Container[str]) -> Mapping[str, Tally]:
        """Return what has been counted, by what workers are called. What is not `known` any more is forgotten."""
        self._past = {title: tally for title, tally in self._past.items() if title in known}
        found: dict[str, Tally] = {}
        for title, past in self._past.items():
            found[title] = tally = Tally()
            tally.counts = list(past.counts)
        for life in self._lives.values():
            found.setdefault(life.title, Tally()).add(life)
        return found
