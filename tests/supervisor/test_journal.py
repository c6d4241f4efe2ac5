"""Crash reports: bounded, and without secrets."""

from __future__ import annotations

from protocol.flight import DUMP_BYTES
from protocol.limits import CRASH_REPORTS_MAX
from supervisor.journal import Journal
from supervisor.restart import End, EndKind

STUCK = End(EndKind.STUCK, "was stuck")


def test_a_report_says_who_ended_when_and_how_and_what_it_was_doing():
    journal = Journal()
    report = journal.note("server main", 3, STUCK, 1_700_000_000.0, b"File a.py, line 1 in loop\n" + bytes(100))

    assert (report.name, report.incarnation, report.end, report.at) == ("server main", 3, STUCK, 1_700_000_000.0)
    assert report.dump == "File a.py, line 1 in loop\n"
    assert journal.reports == (report,)


def test_only_the_newest_reports_are_kept():
    journal = Journal()
    for number in range(CRASH_REPORTS_MAX + 5):
        journal.note("front", number, STUCK, 0.0, b"")

    assert [report.incarnation for report in journal.reports] == list(range(5, CRASH_REPORTS_MAX + 5))


def test_whatever_a_worker_leaves_is_bounded_and_shows_no_secret():
    dump = Journal().note("front", 1, STUCK, 0.0, b"token=hunter2 \xff " + b"x" * 100_000).dump

    assert len(dump) <= DUMP_BYTES
    assert "hunter2" not in dump
