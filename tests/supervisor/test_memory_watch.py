"""Who has too much memory, and what is said of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import pytest

from protocol.limits import MIB
from supervisor.config import Server
from supervisor.lives import Life
from supervisor.machine import Machine
from supervisor.memory_watch import MemoryWatch
from supervisor.restart import End, EndKind

OWN = Server("own", "http://a/", memory_limit=100 * MIB)
USUAL = Server("usual", "http://a/")
FREE = Server("free", "http://a/", memory_limit=0)


@dataclass
class OneProcess:
    """A machine on which every process has so much memory."""

    used: int = 0

    def resident_bytes(self, pid: int) -> int:
        return self.used


@dataclass
class Worker:
    """A life, as far as memory is concerned."""

    server: Server | None
    pid: int = 17
    kill_wanted: bool = False


@dataclass
class Watched:
    machine: OneProcess = field(default_factory=OneProcess)
    ends: list[End] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.watch = MemoryWatch(cast("Machine", self.machine), 200 * MIB, lambda _, why: self.ends.append(why))

    def look(self, used: int, worker: Worker) -> list[str]:
        self.machine.used = used
        self.ends.clear()
        self.watch.look(cast("Life", worker))
        assert all(end.kind is EndKind.OOM for end in self.ends)
        return [end.text for end in self.ends]


def test_a_worker_may_have_its_limit_and_not_a_page_more():
    one = Watched()

    assert one.look(100 * MIB, Worker(OWN)) == []
    assert one.look(101 * MIB, Worker(OWN)) == [
        "had 101 MiB of memory, over its limit of 100 MiB (--memory-limit own=SIZE allows more)"
    ]


@pytest.mark.parametrize(("server", "limit_mib"), [(OWN, 100), (USUAL, 200)])
def test_a_server_has_its_own_limit_else_that_of_all(server: Server, limit_mib: int):
    one = Watched()

    assert one.look(limit_mib * MIB, Worker(server)) == []
    assert len(one.look((limit_mib + 1) * MIB, Worker(server))) == 1


@pytest.mark.parametrize(
    "worker",
    [Worker(FREE), Worker(None), Worker(OWN, pid=0), Worker(OWN, kill_wanted=True)],
    ids=["no limit", "the front", "not there yet", "killed already"],
)
def test_who_has_no_limit_is_not_there_or_is_ended_already_is_left_alone(worker: Worker):
    assert Watched().look(1000 * MIB, worker) == []


def test_the_cap_leaves_room_above_the_limit_but_not_much():
    watch = Watched().watch

    assert watch.cap(OWN) == (125 + 64) * MIB
    assert watch.cap(FREE) == watch.cap(None) == 0


def test_who_was_refused_memory_is_told_its_limit_or_that_the_machine_had_none():
    watch = Watched().watch

    assert watch.refused(cast("Life", Worker(OWN)), 130 * MIB) == End(
        EndKind.OOM,
        "ran out of memory with 130 MiB, over its limit of 100 MiB (--memory-limit own=SIZE allows more)",
    )
    assert watch.refused(cast("Life", Worker(None)), 130 * MIB).text == (
        "ran out of memory with 130 MiB, and the system had no more"
    )
