"""The flight page: what a reader may conclude from it after the writer has died at any moment."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.counts import ANSWERED, COUNTS
from protocol.flight import (
    HEADER_BYTES,
    LINKS,
    PAGE_BYTES,
    SLOTS,
    FlightPage,
    Stage,
    counted,
    heartbeat,
)

FRONT = 7


def page() -> tuple[FlightPage, bytearray]:
    shared = bytearray(PAGE_BYTES)
    writer = FlightPage(memoryview(shared))
    writer.begin(3, 1_000)
    return writer, shared


def read(shared: bytearray) -> FlightPage:
    """What another process sees: the same bytes and nothing else."""
    return FlightPage(memoryview(bytes(shared)))


def test_each_step_of_a_call_is_seen_by_a_reader():
    writer, shared = page()
    link = writer.open_link(FRONT)
    seen = [read(shared).stages(FRONT, [1])[1]]
    slot = writer.claim(link, 1)
    for step in (None, writer.sent, writer.unsent, writer.sent, writer.release):
        if step is not None:
            step(slot)
        seen.append(read(shared).stages(FRONT, [1])[1])

    assert seen == [Stage.NONE, Stage.QUEUED, Stage.SENT, Stage.QUEUED, Stage.SENT, Stage.DONE]


@pytest.mark.promise("R07")
def test_an_answered_call_whose_slot_is_used_again_is_not_taken_for_one_that_never_came():
    writer, shared = page()
    link = writer.open_link(FRONT)
    writer.release(writer.claim(link, 1))
    writer.claim(link, 2)

    assert read(shared).stages(FRONT, [1, 2, 3]) == {1: Stage.DONE, 2: Stage.QUEUED, 3: Stage.NONE}


@pytest.mark.promise("R07")
def test_what_one_front_sends_says_nothing_about_the_calls_of_another():
    writer, shared = page()
    mine, other = writer.open_link(FRONT), writer.open_link(FRONT + 1)
    writer.release(writer.claim(mine, 1))
    for number in range(1, 100):
        writer.sent(writer.claim(other, number))

    assert read(shared).stages(FRONT, [1, 2]) == {1: Stage.DONE, 2: Stage.NONE}
    assert read(shared).stages(FRONT + 1, [99, 100]) == {99: Stage.SENT, 100: Stage.NONE}


def test_a_front_the_worker_never_met_has_sent_nothing():
    _, shared = page()

    assert read(shared).stages(FRONT, [1, 2]) == {1: Stage.NONE, 2: Stage.NONE}


def test_a_closed_link_can_still_be_read_and_its_place_is_used_again_last():
    writer, shared = page()
    link = writer.open_link(FRONT)
    writer.sent(writer.claim(link, 5))
    writer.close_link(link)
    others = [writer.open_link(FRONT + 1 + number) for number in range(LINKS - 1)]

    assert link not in others
    assert read(shared).stages(FRONT, [5, 6]) == {5: Stage.SENT, 6: Stage.NONE}
    assert writer.open_link(FRONT + LINKS) == link
    with pytest.raises(IndexError):
        writer.open_link(FRONT + LINKS + 1)


@pytest.mark.case("D-29")
def test_a_stage_nobody_knows_means_that_the_call_may_have_been_sent():
    writer, shared = page()
    slot = writer.claim(writer.open_link(FRONT), 1)
    shared[PAGE_BYTES - SLOTS + slot] = 200

    assert read(shared).stages(FRONT, [1]) == {1: Stage.SENT}


def test_every_slot_can_be_taken_and_no_more():
    writer, _ = page()
    link = writer.open_link(FRONT)
    assert len({writer.claim(link, number) for number in range(1, SLOTS + 1)}) == SLOTS
    with pytest.raises(IndexError):
        writer.claim(link, SLOTS + 1)


def test_a_heartbeat_is_read_only_from_a_page_that_was_begun():
    writer, shared = page()
    assert heartbeat(bytes(shared[:HEADER_BYTES])) == (1_000, False)
    writer.beat(2_000)
    assert heartbeat(bytes(shared[:HEADER_BYTES])) == (2_000, False)
    assert heartbeat(bytes(HEADER_BYTES)) == (0, False)


def test_a_worker_rests_until_its_next_heartbeat():
    writer, shared = page()
    writer.rest(2_000)
    assert heartbeat(bytes(shared[:HEADER_BYTES])) == (2_000, True)
    writer.beat(3_000)
    assert heartbeat(bytes(shared[:HEADER_BYTES])) == (3_000, False)


def test_too_small_a_memory_is_refused():
    with pytest.raises(ValueError, match="needs"):
        FlightPage(memoryview(bytearray(PAGE_BYTES - 1)))


@pytest.mark.promise("R07")
@given(st.lists(st.tuples(st.sampled_from(["claim", "sent", "unsent", "release"]), st.integers(0, 63)), max_size=200))
def test_no_call_that_was_sent_or_answered_is_ever_shown_as_unsent(steps: list[tuple[str, int]]):
    writer, shared = page()
    link = writer.open_link(FRONT)
    slots: dict[int, int] = {}
    truth: dict[int, Stage] = {}
    for step, number in steps:
        if step == "claim":
            link_id = len(truth) + 1
            slots[link_id] = writer.claim(link, link_id)
            truth[link_id] = Stage.QUEUED
        elif slots:
            link_id = sorted(slots)[number % len(slots)]
            getattr(writer, step)(slots[link_id])
            truth[link_id] = {"sent": Stage.SENT, "unsent": Stage.QUEUED, "release": Stage.DONE}[step]
            if step == "release":
                del slots[link_id]
        absent = len(truth) + 1
        assert read(shared).stages(FRONT, [*truth, absent]) == truth | {absent: Stage.NONE}


def test_a_call_costs_little():
    writer, _ = page()
    link = writer.open_link(FRONT)
    best_ns = 10**9
    for attempt in range(5):
        begun = time.perf_counter_ns()
        for number in range(2_000):
            slot = writer.claim(link, attempt * 2_000 + number + 1)
            writer.sent(slot)
            writer.release(slot)
        best_ns = min(best_ns, (time.perf_counter_ns() - begun) // 2_000)
    print(best_ns)
    assert best_ns < 5_000, f"{best_ns} ns for each call"


def test_a_reader_sees_what_was_counted_and_how_many_calls_are_not_answered_yet():
    writer, shared = page()
    writer.counts[ANSWERED] += 3
    writer.counts[COUNTS - 1] = 2**64 - 1
    link = writer.open_link(FRONT)
    slots = [writer.claim(link, number) for number in (1, 2, 3)]
    writer.sent(slots[0])
    writer.sent(slots[1])
    writer.release(slots[1])

    counts, in_flight = counted(bytes(shared))
    assert (counts[ANSWERED], counts[COUNTS - 1], sum(counts[1:-1]), in_flight) == (3, 2**64 - 1, 0, 2)
    assert heartbeat(bytes(shared[:HEADER_BYTES])) == (1_000, False)
    assert read(shared).stages(FRONT, [1, 2, 3]) == {1: Stage.SENT, 2: Stage.DONE, 3: Stage.QUEUED}
