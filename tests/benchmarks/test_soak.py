"""benchmarks.soak and recovery: what is broken when, and what is made of what was seen."""

from __future__ import annotations

import dataclasses
import os
import socket
from random import Random

from benchmarks import footprint, soak_report
from benchmarks.faults import FREEZE_KIND, SERVER_KIND, WORKER_KIND
from benchmarks.soak_plan import EVERYWHERE, RESET_S, ZYGOTE_S, Plan
from benchmarks.soak_report import Sample
from benchmarks.stand import FRONT, ZYGOTE
from benchmarks.timeline import NS_PER_S, Call, Fault

BEFORE = Sample(at_ns=0, processes=9, descriptors=100, connections=20, root_rss=30_000_000, pss=100_000_000)


def planned(seed: int, seconds: int) -> list[tuple[float, str, int]]:
    plan = Plan(Random(seed), servers=3)
    done: list[tuple[float, str, int]] = []
    for now in range(0, seconds, 5):
        chosen = plan.choose(now)
        if chosen:
            plan.done(*chosen, now)
            done.append((now, *chosen))
    return done


def test_no_process_is_killed_twice_within_the_time_in_which_restarts_are_slowed_down() -> None:
    done = planned(1, 3600)

    assert {kind for _, kind, _ in done} == {WORKER_KIND, SERVER_KIND, FREEZE_KIND, FRONT, ZYGOTE}
    for now, kind, server in done:
        killed_before = [
            then for then, what, where in done if then < now and ((what, where) == (kind, server) or what == ZYGOTE)
        ]
        if kind in (WORKER_KIND, FRONT) and killed_before:
            assert now - max(killed_before) >= RESET_S
        if kind == ZYGOTE and killed_before:
            assert now - max(killed_before) >= ZYGOTE_S


def test_there_is_always_something_to_break_and_a_seed_repeats_it() -> None:
    assert len(planned(7, 3600)) > 700
    assert planned(7, 600) == planned(7, 600)
    assert planned(7, 600) != planned(8, 600)


def test_faults_that_hit_everything_name_no_server() -> None:
    assert {server for _, kind, server in planned(1, 3600) if kind in (FRONT, ZYGOTE)} == {EVERYWHERE}


def test_failed_calls_need_a_fault_on_their_server_shortly_before() -> None:
    fault = Fault(WORKER_KIND, 1, 10 * NS_PER_S)
    explained = Call(1, 10 * NS_PER_S, 11 * NS_PER_S, "lost")
    elsewhere = Call(0, 10 * NS_PER_S, 11 * NS_PER_S, "lost")
    too_late = Call(1, 20 * NS_PER_S, 21 * NS_PER_S, "lost")
    good = Call(0, 20 * NS_PER_S, 21 * NS_PER_S)

    assert list(soak_report.unexplained([explained, elsewhere, too_late, good], [fault])) == [elsewhere, too_late]


def test_the_verdict_names_what_has_leaked() -> None:
    after = dataclasses.replace(BEFORE, descriptors=101, processes=8, root_rss=33_000_000)

    missed = [verdict.what for verdict in soak_report.verdicts([], [], BEFORE, after) if not verdict.kept]

    assert missed == ["processes more or fewer", "descriptors more or fewer", "% more: RSS of the root"]
    assert all(verdict.kept for verdict in soak_report.verdicts([], [], BEFORE, BEFORE))


def test_connections_are_not_counted_as_descriptors_but_listening_sockets_are() -> None:
    others, connections = footprint.descriptors([os.getpid()])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        with socket.create_connection(listener.getsockname()) as client:
            accepted, _ = listener.accept()
            with accepted, client:
                assert footprint.descriptors([os.getpid()]) == (others + 1, connections + 2)
        assert footprint.descriptors([os.getpid()])[0] == others + 1


def test_a_process_has_memory_until_it_is_gone() -> None:
    assert 0 < footprint.pss_bytes(os.getpid()) <= 1.1 * footprint.rss_bytes(os.getpid())
    assert footprint.pss_bytes(2**22 + 1) == 0
    assert footprint.rss_bytes(2**22 + 1) == 0
