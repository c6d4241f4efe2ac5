"""What the client on stdio has sent and no front has answered yet, in shared memory that outlives the front.

A client over HTTP sees its connection end when a front dies. The pipes of a client on stdio stay open, so it would wait
for ever for answers that nobody owes it any more: the next front reads here which those are, and says so. It also finds
the beginning of a line that was read only in part, whose rest it will read itself.

Layout: `SLOTS` times the length of an id, as two bytes (0: free), and the id as it is in JSON; then the length of the
beginning of a line, as four bytes, and that itself. One writer at a time, and a length is written after what it is the
length of, so who comes after it never reads half of anything.
"""

from __future__ import annotations

from typing import Final

from protocol.limits import ID_BYTES_MAX, LINE_BYTES_MAX

SLOTS: Final = 1024
"""Of more requests than that at a time, those beyond are not noted."""
_LENGTH_BYTES: Final = 2
_SLOT_BYTES: Final = _LENGTH_BYTES + ID_BYTES_MAX
_LINE_AT: Final = SLOTS * _SLOT_BYTES
_LINE_LENGTH_BYTES: Final = 4
_LINE_BEGINS: Final = _LINE_AT + _LINE_LENGTH_BYTES
LEDGER_BYTES: Final = _LINE_BEGINS + LINE_BYTES_MAX
"""Most of it is never touched, and takes no memory."""
SKIPPED: Final = 2**32 - 1
"""In place of the length of a line's beginning: the line is too long, which the client has been told."""
NOT_NOTED: Final = -1
_FREE: Final = bytes(_LENGTH_BYTES)


class Ledger:
    """A view on the shared bytes. What is in them at first was left by the front before."""

    def __init__(self, shared: memoryview) -> None:
        self._shared = shared
        self._free = list(range(SLOTS - 1, -1, -1))

    def note(self, request_id: bytes) -> int:
        """Note a request, and return its slot, or `NOT_NOTED`."""
        if not self._free or len(request_id) > ID_BYTES_MAX:
            return NOT_NOTED
        slot = self._free.pop()
        at = slot * _SLOT_BYTES
        ends = at + _LENGTH_BYTES + len(request_id)
        self._shared[at + _LENGTH_BYTES : ends] = request_id
        self._shared[at : at + _LENGTH_BYTES] = len(request_id).to_bytes(_LENGTH_BYTES, "little")
        return slot

    def clear(self, slot: int) -> None:
        """It is answered. Nothing happens for `NOT_NOTED`."""
        if slot != NOT_NOTED:
            at = slot * _SLOT_BYTES
            self._shared[at : at + _LENGTH_BYTES] = _FREE
            self._free.append(slot)

    def keep_line(self, length: int, data: bytes) -> None:
        """Keep the beginning of a line, which now has that length (0: there is none; `SKIPPED`) and ends with `data`.

        Of what it begins with, more than `data` is there already.
        """
        if length and length != SKIPPED:
            new = data[-length:]
            ends = _LINE_BEGINS + length
            if len(new) == length:
                self._set_line_length(0)  # what is overwritten belongs to another line
            self._shared[ends - len(new) : ends] = new
        self._set_line_length(length)

    def kept_line(self) -> bytes | None:
        """Return the beginning of a line that was left, b"" if there is none; None if the rest is to be skipped."""
        length = int.from_bytes(self._shared[_LINE_AT:_LINE_BEGINS], "little")
        if length == SKIPPED:
            return None
        return bytes(self._shared[_LINE_BEGINS : _LINE_BEGINS + min(length, LINE_BYTES_MAX)])

    def _set_line_length(self, length: int) -> None:
        self._shared[_LINE_AT:_LINE_BEGINS] = length.to_bytes(_LINE_LENGTH_BYTES, "little")

    def close(self) -> None:
        """Let go of the memory. Nothing can be noted or cleared any more."""
        self._shared.release()

    def take(self) -> list[bytes]:
        """Return the ids of the requests that were left, and forget them. Before anything is noted."""
        found: list[bytes] = []
        for at in range(0, _LINE_AT, _SLOT_BYTES):
            begins = at + _LENGTH_BYTES
            if length := min(int.from_bytes(self._shared[at:begins], "little"), ID_BYTES_MAX):
                found.append(bytes(self._shared[begins : begins + length]))
                self._shared[at:begins] = _FREE
        return found
