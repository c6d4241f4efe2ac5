"""What fronts share, if there are several: inboxes, in which one puts a connection that another has to serve
(workers/front/other_fronts.py), and the memory that says how many connections each has (workers/front/crowd.py).

The root holds both ends of each inbox for as long as it lives, as it holds the listening sockets: what is on its way to
a front that is being replaced waits for the next one. Nothing is read or written here.
"""

from __future__ import annotations

from typing import Final

from supervisor.machine import Machine

BYTES_PER_FRONT: Final = 8


class Inboxes:
    """One for each front. Errors: `OSError` if there are not enough descriptors."""

    def __init__(self, machine: Machine, fronts: int) -> None:
        self._memory_fd = machine.shared_memory(BYTES_PER_FRONT * fronts)
        self._pairs = [machine.control_pair() for _ in range(fronts)]
        for pair in self._pairs:
            for end in pair:
                end.setblocking(False)

    def of(self, number: int) -> list[int]:
        """Return what this front gets: the memory, the end of its own inbox that is read, the other end of each."""
        return [self._memory_fd, self._pairs[number][1].fileno(), *(writing.fileno() for writing, _ in self._pairs)]
