"""What clients told a front and the next front has to know. The root keeps it, and neither reads nor understands it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

from protocol.control import SessionNote
from protocol.limits import KIB, MIB, SESSION_NOTE_BYTES_MAX, SESSION_NOTES_MAX

ENDED_MAX: Final = 10_000
"""As many as a front keeps itself."""
ENDED_BYTES_MAX: Final = 8 * MIB
ID_CHARS_MAX: Final = 8 * KIB
"""A session id is a header value, and those are at most 16 KiB in all."""
NOTE_KEY_CHARS_MAX: Final = 64
PART_BYTES_MAX: Final = 32 * KIB
"""Leaves most of a control packet to everything else in it."""


class ClientMemory:
    """Sessions that have ended, what was noted of others, and the one session of the client on standard input."""

    def __init__(self) -> None:
        self.stdio_session = ""
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._bytes = 0
        self._notes: OrderedDict[str, bytes] = OrderedDict()

    def keep_stdio_session(self, token: str) -> None:
        if len(token) <= ID_CHARS_MAX:
            self.stdio_session = token

    def keep_ended(self, session_id: str) -> None:
        """Remember it as the newest, and forget the oldest when there are too many."""
        if len(session_id) > ID_CHARS_MAX or session_id in self._ended:
            return
        self._ended[session_id] = None
        self._bytes += len(session_id)
        while len(self._ended) > ENDED_MAX or self._bytes > ENDED_BYTES_MAX:
            oldest, _ = self._ended.popitem(last=False)
            self._bytes -= len(oldest)

    def keep_note(self, note: SessionNote) -> None:
        """Keep it as the newest in place of what was noted before, and forget the oldest when there are too many."""
        if len(note.key) > NOTE_KEY_CHARS_MAX or len(note.note) > SESSION_NOTE_BYTES_MAX:
            return
        self._notes.pop(note.key, None)
        if note.note:
            self._notes[note.key] = note.note
        while len(self._notes) > SESSION_NOTES_MAX:
            self._notes.popitem(last=False)

    def note_parts(self) -> Iterator[list[SessionNote]]:
        """Yield all notes in parts that fit into a packet, newest first."""
        part: list[SessionNote] = []
        size = 0
        for key, note in reversed(self._notes.items()):
            if size + len(note) > PART_BYTES_MAX:
                yield part
                part, size = [], 0
            part.append(SessionNote(key, note))
            size += len(key) + len(note) + 8
        if part:
            yield part

    def ended_parts(self) -> Iterator[list[str]]:
        """Yield all ended sessions in parts that fit into a packet, the newest part first; one empty part for none.

        Within a part, they are in the order in which they ended.
        """
        part: list[str] = []
        size = 0
        for session_id in reversed(self._ended):
            if size + len(session_id) > PART_BYTES_MAX:
                yield part[::-1]
                part, size = [], 0
            part.append(session_id)
            size += len(session_id) + 3  # the length that stands before it in the packet
        yield part[::-1]
