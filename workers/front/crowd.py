"""How many connections each front has, in memory that all fronts share: who has many more than another lets it accept.

All fronts wait at the same listening sockets, and whoever the kernel wakes first would take everything that comes.
Nobody has to be right about the numbers: a front that is gone still has its last one, and that costs those who come
then the time for which the others hold back.
"""

from __future__ import annotations

import mmap
import os
from typing import Final

LEAD_MAX: Final = 4
"""So many more connections than another front are no reason to hold back."""
HOLD_BACK_S: Final = 0.002
"""For so long; then who has held back accepts a connection in any case."""


class Crowd:
    """`counts`: one number for each front; `number`: of this one."""

    def __init__(self, counts: memoryview, number: int) -> None:
        self._counts = counts
        self._number = number
        counts[number] = 0

    def note(self, connections: int) -> None:
        """This front has so many."""
        self._counts[self._number] = connections

    @property
    def is_ahead(self) -> bool:
        """This front has many more connections than another."""
        return self._counts[self._number] > min(self._counts) + LEAD_MAX


def open_crowd(fd: int, fronts: int, number: int) -> Crowd:
    """Map the memory. Takes ownership of the descriptor."""
    shared = mmap.mmap(fd, 8 * fronts)
    os.close(fd)
    return Crowd(memoryview(shared).cast("Q"), number)
