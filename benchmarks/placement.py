"""Says which processors the two ends of a run work on, and which the subject between them.

With processes that are free to go anywhere, a comparison also measures how the kernel places them: that of a virtual
machine may leave one of two processors idle while two of four processes wait for the other, and a subject of one
process suffers less from that than one of two. Apart, each subject has the same processors for itself, whatever it is
made of.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Generator, Iterable
from typing import Final

APART: Final = "apart"
FREE: Final = "free"
WISHES: Final = (APART, FREE)


@dataclasses.dataclass(frozen=True, slots=True)
class Placement:
    """Processors by number. None: any."""

    ends: frozenset[int] | None = None
    """Of the client and of the server that is called."""
    between: frozenset[int] | None = None
    """Of nginx, or of all processes of a proxy or relay."""

    @property
    def sentence(self) -> str:
        if self.ends is None or self.between is None:
            return "all processes are free to run on any processor"
        return (
            f"client and backend have processor {_listed(self.ends)}, what is between them has {_listed(self.between)}"
        )


def chosen(wish: str, processors: Iterable[int]) -> Placement:
    """Divide these processors in halves, the first for the ends. With a single one there is nothing to divide."""
    known = sorted(processors)
    half = len(known) // 2
    if wish == FREE or not half:
        return Placement()
    return Placement(frozenset(known[:half]), frozenset(known[half:]))


@contextlib.contextmanager
def at_the_end(placement: Placement) -> Generator[None]:
    """Let this process be one of the ends, as will be all that it starts and does not place elsewhere."""
    before = os.sched_getaffinity(0)
    if placement.ends is not None:
        os.sched_setaffinity(0, placement.ends)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _listed(processors: frozenset[int]) -> str:
    return ", ".join(map(str, sorted(processors)))
