"""The flight page: what a backend worker is doing, in shared memory that outlives it.

The worker writes, the root and the fronts read, also after SIGKILL. From it follows what may be done with a call whose
worker died: one that was never sent is sent again, one that may have been executed is not (architecture.md, section 5).

Layout: a header of eight 64-bit numbers, then `SLOTS` call ids of 64 bits, then `SLOTS` states of one byte. One writer;
every field is written with one store, and a call's id before its state, so a reader never sees half of anything.
"""

from __future__ import annotations

import enum
from typing import Final

SLOTS: Final = 1024
"""More calls than links admit at once (`IN_FLIGHT_PER_SERVER_MAX` per front)."""
_HEADER_WORDS: Final = 8
_MAGIC: Final = 0x3147414C464B4C42  # "BLKFLAG1"
_W_MAGIC, _W_INCARNATION, _W_HEARTBEAT, _W_STARTED, _W_ENDED = range(5)
_IDS_AT: Final = _HEADER_WORDS * 8
_STATES_AT: Final = _IDS_AT + SLOTS * 8
PAGE_BYTES: Final = _STATES_AT + SLOTS
_FRONT_SHIFT: Final = 40
_LINK_ID_MASK: Final = (1 << _FRONT_SHIFT) - 1


class Stage(enum.IntEnum):
    """How far a call has come."""

    NONE = 0
    """Not known to the worker (any more)."""
    QUEUED = 1
    """Accepted from the link; no byte of it has been written to the server."""
    SENT = 2
    """Some of it may have reached the server."""
    DONE = 3
    """The answer has been handed to the link."""


def call_key(front_incarnation: int, link_id: int) -> int:
    """Return the page-wide id of a call: fronts number their calls each for themselves."""
    return (front_incarnation << _FRONT_SHIFT) | (link_id & _LINK_ID_MASK)


class FlightPage:
    """A view on the shared bytes, for the one writer and for readers alike."""

    def __init__(self, shared: memoryview) -> None:
        if len(shared) < PAGE_BYTES:
            raise ValueError(f"a flight page needs {PAGE_BYTES} bytes, not {len(shared)}")
        self._words = shared[:_IDS_AT].cast("B").cast("Q")
        self._ids = shared[_IDS_AT:_STATES_AT].cast("B").cast("Q")
        self._stages = shared[_STATES_AT:PAGE_BYTES].cast("B")
        self._free = list(range(SLOTS - 1, -1, -1))

    # --- writing --------------------------------------------------------------------------------------------
    def begin(self, incarnation: int, now_ns: int) -> None:
        """Claim the page for a new life of the worker."""
        self._words[_W_INCARNATION] = incarnation
        self._words[_W_HEARTBEAT] = now_ns
        self._words[_W_MAGIC] = _MAGIC

    def beat(self, now_ns: int) -> None:
        """Show that the loop runs. `now_ns`: CLOCK_MONOTONIC, which all processes share."""
        self._words[_W_HEARTBEAT] = now_ns

    def claim(self, key: int) -> int:
        """Note a call as queued and return its slot. Errors: IndexError if all slots are taken."""
        slot = self._free.pop()
        self._ids[slot] = key
        self._stages[slot] = Stage.QUEUED
        self._words[_W_STARTED] += 1
        return slot

    def sent(self, slot: int) -> None:
        """Some of the call is about to be written to the server."""
        self._stages[slot] = Stage.SENT

    def unsent(self, slot: int) -> None:
        """None of it was executed after all (the server said so); it is about to be sent again."""
        self._stages[slot] = Stage.QUEUED

    def release(self, slot: int) -> None:
        """The answer has been handed to the link."""
        self._stages[slot] = Stage.DONE
        self._words[_W_ENDED] += 1
        self._free.append(slot)

    # --- reading --------------------------------------------------------------------------------------------
    @property
    def incarnation(self) -> int:
        return self._words[_W_INCARNATION] if self._words[_W_MAGIC] == _MAGIC else 0

    @property
    def heartbeat_ns(self) -> int:
        return self._words[_W_HEARTBEAT]

    @property
    def started(self) -> int:
        return self._words[_W_STARTED]

    @property
    def ended(self) -> int:
        return self._words[_W_ENDED]

    def stages(self, front_incarnation: int) -> dict[int, Stage]:
        """Return the stage of each call of this front, by its id on the link. What is not in it never arrived."""
        found: dict[int, Stage] = {}
        for slot in range(SLOTS):
            stage = self._stages[slot]
            if stage:
                key = self._ids[slot]
                if key >> _FRONT_SHIFT == front_incarnation:
                    # A worker that has been taken over can write what it likes here; an unknown number means the worst.
                    found[key & _LINK_ID_MASK] = Stage(stage) if stage in _KNOWN else Stage.SENT
        return found


_KNOWN: Final = frozenset(Stage)
