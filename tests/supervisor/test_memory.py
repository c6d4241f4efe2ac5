"""What the root remembers for the next front."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from protocol.control import PACKET_BYTES_MAX, EndedSessions, SessionNote, SessionNotes, encode
from protocol.limits import SESSION_NOTE_BYTES_MAX, SESSION_NOTES_MAX
from supervisor import memory
from supervisor.memory import ENDED_BYTES_MAX, ENDED_MAX, ID_CHARS_MAX, ClientMemory


def remembered(kept: ClientMemory) -> list[str]:
    """All ended sessions, oldest first, as a front puts them together."""
    return [session for part in reversed(list(kept.ended_parts())) for session in part]


def test_nothing_ended_is_one_empty_part():
    assert list(ClientMemory().ended_parts()) == [[]]


@given(st.lists(st.text("abc", max_size=3), max_size=50))
def test_every_ended_session_is_kept_once_in_the_order_in_which_they_ended(sessions: list[str]):
    kept = ClientMemory()
    for session in sessions:
        kept.keep_ended(session)

    assert remembered(kept) == list(dict.fromkeys(sessions))


def test_only_the_newest_are_kept_when_there_are_too_many():
    kept = ClientMemory()
    for number in range(ENDED_MAX + 5):
        kept.keep_ended(str(number))

    assert remembered(kept) == [str(number) for number in range(5, ENDED_MAX + 5)]


def test_only_as_much_is_kept_as_the_bound_on_memory_allows():
    kept = ClientMemory()
    for number in range(2 * ENDED_BYTES_MAX // ID_CHARS_MAX):
        kept.keep_ended(f"{number:0{ID_CHARS_MAX}}")

    assert len(remembered(kept)) == ENDED_BYTES_MAX // ID_CHARS_MAX


def test_every_part_fits_into_a_packet_with_room_to_spare():
    kept = ClientMemory()
    for number in range(ENDED_MAX):
        kept.keep_ended(f"{number:0300}")

    parts = list(kept.ended_parts())
    assert len(parts) > 1
    assert all(len(encode(EndedSessions(part))) < memory.PART_BYTES_MAX + 64 < PACKET_BYTES_MAX / 2 for part in parts)
    assert parts[0][-1] == f"{ENDED_MAX - 1:0300}", "the newest goes first, in the boot order itself"


def test_what_can_be_no_session_id_is_not_kept():
    kept = ClientMemory()
    kept.keep_ended("x" * (ID_CHARS_MAX + 1))
    kept.keep_stdio_session("x" * (ID_CHARS_MAX + 1))

    assert remembered(kept) == []
    assert kept.stdio_session == ""
    kept.keep_stdio_session("token")
    assert kept.stdio_session == "token"
    assert msgspec.msgpack.decode(encode(EndedSessions([]))) == ["ended_more", []]


# --- what was noted of sessions ---------------------------------------------------------------------------------------
def noted(kept: ClientMemory) -> dict[str, bytes]:
    return {each.key: each.note for part in kept.note_parts() for each in part}


def test_the_last_note_of_a_session_counts_and_an_empty_one_forgets_it():
    kept = ClientMemory()
    for key, note in (("a", b"1"), ("b", b"2"), ("a", b"3"), ("b", b"")):
        kept.keep_note(SessionNote(key, note))
    assert noted(kept) == {"a": b"3"}
    assert list(ClientMemory().note_parts()) == []


def test_so_many_notes_are_kept_the_newest_and_they_come_in_packets():
    kept = ClientMemory()
    for number in range(SESSION_NOTES_MAX + 10):
        kept.keep_note(SessionNote(str(number), bytes(SESSION_NOTE_BYTES_MAX)))
    kept.keep_note(SessionNote("long", bytes(SESSION_NOTE_BYTES_MAX + 1)))
    kept.keep_note(SessionNote("k" * 65, b"1"))
    assert set(noted(kept)) == {str(number) for number in range(10, SESSION_NOTES_MAX + 10)}
    assert all(len(encode(SessionNotes(part))) < PACKET_BYTES_MAX / 2 for part in kept.note_parts())
