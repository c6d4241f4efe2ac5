"""The ledger of the client on stdio: what is noted is found by whoever comes after, however its writer ended."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from protocol.ledger import LEDGER_BYTES, NOT_NOTED, SKIPPED, SLOTS, Ledger
from protocol.limits import ID_BYTES_MAX, LINE_BYTES_MAX


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=ID_BYTES_MAX), st.booleans()), max_size=50))
def test_the_next_one_finds_what_was_noted_and_not_cleared_and_nothing_else(requests: list[tuple[bytes, bool]]):
    memory = memoryview(bytearray(LEDGER_BYTES))
    first = Ledger(memory)
    slots = [(first.note(request_id), answered) for request_id, answered in requests]
    for slot, answered in slots:
        if answered:
            first.clear(slot)

    assert sorted(Ledger(memory).take()) == sorted(one for one, answered in requests if not answered)
    assert Ledger(memory).take() == []


def test_it_is_bounded_and_a_place_is_used_again():
    ledger = Ledger(memoryview(bytearray(LEDGER_BYTES)))
    slots = [ledger.note(b"%d" % number) for number in range(SLOTS)]

    assert ledger.note(b"one too many") == NOT_NOTED
    ledger.clear(NOT_NOTED)
    ledger.clear(slots[5])
    assert ledger.note(b"again") == slots[5]
    assert ledger.note(b"x" * (ID_BYTES_MAX + 1)) == NOT_NOTED


def test_rubbish_in_the_memory_is_bounded():
    found = Ledger(memoryview(bytearray(b"\xff" * LEDGER_BYTES))).take()

    assert len(found) == SLOTS
    assert {len(one) for one in found} == {ID_BYTES_MAX}


def kept(memory: memoryview) -> bytes | None:
    return Ledger(memory).kept_line()


def test_the_beginning_of_a_line_is_kept_piece_by_piece_until_the_line_has_ended():
    memory = memoryview(bytearray(LEDGER_BYTES))
    ledger = Ledger(memory)
    assert kept(memory) == b""
    ledger.keep_line(3, b"a line\nthe")
    assert kept(memory) == b"the"
    ledger.keep_line(8, b" next")
    assert kept(memory) == b"the next"
    ledger.keep_line(2, b" one\nof")
    assert kept(memory) == b"of"
    ledger.keep_line(SKIPPED, b"too much")
    assert kept(memory) is None
    ledger.keep_line(0, b"\n")
    assert kept(memory) == b""


def test_a_line_of_any_length_that_is_allowed_is_kept_and_rubbish_is_bounded():
    memory = memoryview(bytearray(LEDGER_BYTES))
    Ledger(memory).keep_line(LINE_BYTES_MAX, b"x" * LINE_BYTES_MAX)
    assert kept(memory) == b"x" * LINE_BYTES_MAX
    assert Ledger(memory).take() == []

    memory[-LINE_BYTES_MAX - 4 : -LINE_BYTES_MAX] = b"\xfe" * 4
    assert kept(memory) == b"x" * LINE_BYTES_MAX
