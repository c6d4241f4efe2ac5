"""The flight page: what a worker is doing, in shared memory that outlives it.

The worker writes, the root and the fronts read, also after SIGKILL. From it follows what may be done with a call whose
worker died: one that was never sent is sent again, one that may have been executed is not (architecture.md, section 5).

Layout: a header of 64-bit numbers, some of which count what the worker does (counts.py), one such number for each link
(the last call that came over it), then `SLOTS` call keys of 64 bits, then `SLOTS` stages of one byte; behind the page,
room for the stack dump of a worker that is aborted. One writer; every field is written with one store, and a call's key
before its stage, so a reader never sees half of anything. A slot is used again as soon as its call is answered, but the
answer may still be in the memory of the worker then. Hence the number per link: a call that came over the link and is
on no slot has been answered, not ignored.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from typing import Final

from protocol.counts import COUNTS
from protocol.limits import IN_FLIGHT_PER_SERVER_MAX, KIB

LINKS: Final = 16
"""Fronts that a worker serves at once, those included whose end it has not seen yet."""
SLOTS: Final = LINKS * IN_FLIGHT_PER_SERVER_MAX
_MAGIC: Final = 0x3147414C464B4C42
_W_MAGIC, _W_INCARNATION, _W_HEARTBEAT, _W_RESTS, _COUNTS_AT = range(5)
_HEADER_WORDS: Final = _COUNTS_AT + COUNTS
_LINKS_AT: Final = _HEADER_WORDS
_KEYS_AT: Final = (_HEADER_WORDS + LINKS) * 8
_STAGES_AT: Final = _KEYS_AT + SLOTS * 8
HEADER_BYTES: Final = _HEADER_WORDS * 8
PAGE_BYTES: Final = _STAGES_AT + SLOTS
DUMP_AT: Final = 12 * KIB
DUMP_BYTES: Final = 16 * KIB
SHARED_BYTES: Final = DUMP_AT + DUMP_BYTES
"""Of the whole memory. Both parts end with a page of the kernel's: it refuses what is written across its end."""
assert PAGE_BYTES <= DUMP_AT
_FRONT_SHIFT: Final = 40
_LINK_ID_MASK: Final = (1 << _FRONT_SHIFT) - 1


class Stage(enum.IntEnum):
    """How far a call has come."""

    NONE = 0
    """It never reached the worker."""
    QUEUED = 1
    """Accepted from the link; no byte of it has been written to the server, or the server refused to execute it."""
    SENT = 2
    """Some of it may have reached the server."""
    DONE = 3
    """The answer has been handed to the link."""


_QUEUED, _SENT, _DONE = int(Stage.QUEUED), int(Stage.SENT), int(Stage.DONE)
_KNOWN: Final = frozenset(map(int, Stage))


class FlightPage:
    """A view on the shared bytes, for the one writer and for readers alike."""

    __slots__ = ("_free_links", "_free_slots", "_fronts", "_keys", "_stages", "_used_slots", "_words", "counts")

    def __init__(self, shared: memoryview) -> None:
        if len(shared) < PAGE_BYTES:
            raise ValueError(f"a flight page needs {PAGE_BYTES} bytes, not {len(shared)}")
        self._words = shared[:_KEYS_AT].cast("B").cast("Q")
        self.counts = self._words[_COUNTS_AT:_HEADER_WORDS]
        """What the worker counts, in the places of protocol/counts.py."""
        self._keys = shared[_KEYS_AT:_STAGES_AT].cast("B").cast("Q")
        self._stages = shared[_STAGES_AT:PAGE_BYTES].cast("B")
        self._fronts = [0] * LINKS
        self._free_links = list(range(LINKS - 1, -1, -1))
        self._free_slots: list[int] = []
        """Those that have been used. A list of all would be larger than what a worker that rests needs of them."""
        self._used_slots = 0
        """How many have been used, the first ones."""

    # --- writing ------------------------------------------------------------------------------------------------------
    def begin(self, incarnation: int, now_ns: int) -> None:
        """Claim the page, which must be all zeros, for a life of the worker."""
        self._words[_W_INCARNATION] = incarnation
        self._words[_W_HEARTBEAT] = now_ns
        self._words[_W_MAGIC] = _MAGIC

    def beat(self, now_ns: int) -> None:
        """Show that the loop runs. `now_ns`: CLOCK_MONOTONIC, which all processes share."""
        self._words[_W_HEARTBEAT] = now_ns
        self._words[_W_RESTS] = 0

    def rest(self, now_ns: int) -> None:
        """Show that the loop runs and has nothing to do: it sleeps in the kernel now, and may not beat for `REST_S`."""
        self._words[_W_HEARTBEAT] = now_ns
        self._words[_W_RESTS] = 1

    def open_link(self, front_incarnation: int) -> int:
        """Note that this front may send calls now, and return the link's number.

        Errors: IndexError if there are `LINKS` already.
        """
        at = self._free_links.pop()
        self._fronts[at] = self._words[_LINKS_AT + at] = front_incarnation << _FRONT_SHIFT
        return at

    def close_link(self, at: int) -> None:
        """No call will come over this link any more. What it says remains until its place is needed."""
        self._free_links.insert(0, at)

    def claim(self, at: int, link_id: int) -> int:
        """Note a call that came over this link as queued, and return its slot. Ids must grow.

        Errors: IndexError if all slots are taken.
        """
        try:
            slot = self._free_slots.pop()
        except IndexError:
            slot = self._new_slot()
        key = self._fronts[at] | link_id
        self._keys[slot] = key
        self._stages[slot] = _QUEUED
        self._words[_LINKS_AT + at] = key
        return slot

    def _new_slot(self) -> int:
        slot = self._used_slots
        if slot == SLOTS:
            raise IndexError("all slots are taken")
        self._used_slots = slot + 1
        return slot

    def sent(self, slot: int) -> None:
        """Some of the call is about to be written to the server."""
        self._stages[slot] = _SENT

    def unsent(self, slot: int) -> None:
        """None of it was executed after all (the server said so); it is about to be sent again."""
        self._stages[slot] = _QUEUED

    def is_sent(self, slot: int) -> bool:
        """Whether some of the call may have been written to the server."""
        return self._stages[slot] >= _SENT

    def release(self, slot: int) -> None:
        """The answer has been handed to the link."""
        self._stages[slot] = _DONE
        self._free_slots.append(slot)

    # --- reading ------------------------------------------------------------------------------------------------------
    def stages(self, front_incarnation: int, link_ids: Iterable[int]) -> dict[int, Stage]:
        """Return how far each of these calls of a front has come. Only final if the worker is gone."""
        came = self._last_id(front_incarnation)
        found = {link_id: Stage.NONE if link_id > came else Stage.DONE for link_id in link_ids}
        for slot, stage in enumerate(self._stages):
            key = self._keys[slot]
            link_id = key & _LINK_ID_MASK
            if key >> _FRONT_SHIFT == front_incarnation and link_id in found:
                # A worker that has been taken over can write what it likes here; an unknown number means the worst.
                found[link_id] = Stage(stage) if stage in _KNOWN else Stage.SENT
        return found

    def _last_id(self, front_incarnation: int) -> int:
        """Return the last call that came from this front; 0 if none did."""
        links = self._words[_LINKS_AT : _LINKS_AT + LINKS]
        return max((key & _LINK_ID_MASK for key in links if key >> _FRONT_SHIFT == front_incarnation), default=0)


def heartbeat(header: bytes) -> tuple[int, bool]:
    """Return when the worker last showed that its loop runs, in ns, and whether it said that it rests from then on.

    `header`: the first `HEADER_BYTES`. The time is 0 if it never began.
    """
    words = memoryview(header).cast("Q")
    return (words[_W_HEARTBEAT], bool(words[_W_RESTS])) if words[_W_MAGIC] == _MAGIC else (0, False)


def counted(page: bytes) -> tuple[Sequence[int], int]:
    """Return what a worker has counted (protocol/counts.py), and how many calls it has not answered yet.

    `page`: the first `PAGE_BYTES`.
    """
    stages = page[_STAGES_AT:PAGE_BYTES]
    counts = memoryview(page)[_COUNTS_AT * 8 : _HEADER_WORDS * 8].cast("Q").tolist()
    return counts, stages.count(_QUEUED) + stages.count(_SENT)
