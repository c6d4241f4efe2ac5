"""How many connections each front has, in memory that all fronts share: who has many more than another lets it accept.

All fronts wait at the same listening sockets, and whoever the kernel wakes first would take everything that comes.
Nobody has to be right about the numbers: a front that is gone still has its last one, and that costs those who come
then the time for which the others hold back.
"""

from __future__ import annotations

import mmap
import os
from typing import Final

_NUMBER_BYTES: Final = 8
LEAD_MAX: Final = 4
"""So many more connections than another front are no reason to hold back."""
HOLD_BACK_S: Final = 0.002
"""For so long; then who has held back accepts a connection in any case."""


class Crowd:
    """Takes ownership of the descriptor of the memory. `number`: of this front, from 0."""

    def __init__(self, fd: int, fronts: int, number: int) -> None:
        self._shared = mmap.mmap(fd, _NUMBER_BYTES * fronts)
        os.close(fd)
        self._counts = memoryview(self._shared).cast("Q")
        self._number = number
        self.note(0)

    def note(self, connections: int) -> None:
        """This front has so many."""
        self._counts[self._number] = connections

    @property
    def is_ahead(self) -> bool:
        """This front has many more connections than another."""
        return self._counts[self._number] > min(self._counts) + LEAD_MAX

    def close(self) -> None:
        self._counts.release()
        self._shared.close()
