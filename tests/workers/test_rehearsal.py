"""The rehearsal of a worker's life: it comes to its end, and leaves nothing in the process that forks workers."""

from __future__ import annotations

import os
import threading

import pytest

from protocol.flight import FlightPage
from workers import layout, rehearsal


def held() -> list[str]:
    """Return the descriptors of this process, but for the one that lists them."""
    return sorted(os.listdir("/proc/self/fd"))


def test_a_life_is_played_to_its_end_and_leaves_neither_descriptor_nor_thread():
    before, threads = held(), threading.active_count()

    assert rehearsal.rehearse()

    assert held() == before
    assert threading.active_count() == threads


def test_it_speaks_both_eras_with_its_server(monkeypatch: pytest.MonkeyPatch):
    asked: list[bytes] = []
    answer = rehearsal._answer

    def note(body: bytes) -> bytes:
        asked.append(body)
        return answer(body)

    monkeypatch.setattr(rehearsal, "_answer", note)

    assert rehearsal.rehearse()

    for method in (b'"server/discover"', b'"initialize"', b'"tools/list"'):
        assert any(method in body for body in asked)
    assert sum(b'"tools/call"' in body for body in asked) == 2


def test_time_passes_until_the_worker_has_rested_and_has_checked_its_server(monkeypatch: pytest.MonkeyPatch):
    seen: list[str] = []
    answer, rest = rehearsal._answer, FlightPage.rest

    def note(body: bytes) -> bytes:
        if b'"server/discover"' in body:
            seen.append("asked")
        return answer(body)

    def note_rest(page: FlightPage, now_ns: int) -> None:
        seen.append("rests")
        rest(page, now_ns)

    monkeypatch.setattr(rehearsal, "_answer", note)
    monkeypatch.setattr(FlightPage, "rest", note_rest)

    assert rehearsal.rehearse()

    first, *later = seen
    assert first == "asked", "which era it is"
    assert set(later) == {"asked", "rests"}


def test_a_rehearsal_that_hangs_is_broken_off(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rehearsal, "PATIENCE_S", 0.05)
    monkeypatch.setattr(rehearsal, "_answer", lambda body: b"")
    before = held()

    assert not rehearsal.rehearse()

    assert held() == before


def test_the_zygote_rehearses_often_and_a_spare_of_it_once(monkeypatch: pytest.MonkeyPatch):
    lives: list[str] = []
    monkeypatch.setattr(rehearsal, "_is_prepared", False)
    monkeypatch.setattr(rehearsal, "rehearse", lambda: lives.append("life"))
    monkeypatch.setattr(layout, "gather", lambda play: lives.append("gathered") or play())

    rehearsal.prepare()
    assert lives[:3] == ["life", "gathered", "life"]
    assert len(lives) > rehearsal.LIVES

    lives.clear()
    rehearsal.prepare()
    assert lives == ["life"]
