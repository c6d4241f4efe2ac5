"""When a worker last showed that it lives: by its heartbeat, or by sleeping after it said that it rests."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager

import pytest

from protocol.flight import SHARED_BYTES, FlightPage
from protocol.limits import REST_S
from supervisor import linux
from supervisor.channel import Channel
from supervisor.lives import Life
from supervisor.machine import LinuxMachine
from tests.waiting import wait_until


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "1000"])
    yield process
    process.kill()
    process.wait()


class Shown(AbstractContextManager["Shown"]):
    """A life whose page the test writes, of a process that does nothing."""

    def __init__(self, pid: int) -> None:
        machine = LinuxMachine()
        ours, self._theirs = machine.control_pair()
        fd = machine.shared_memory(SHARED_BYTES)
        self.life = Life(machine, "server main", None, 1, Channel(ours, machine), fd)
        self.life.pid = pid
        self.memory = memoryview(bytearray(SHARED_BYTES))
        self.page = FlightPage(self.memory)
        self.page.begin(1, 1)

    def __exit__(self, *_: object) -> None:
        self.life.close()
        self._theirs.close()

    def sign(self, now: float) -> float:
        os.pwrite(self.life.page_fd, self.memory, 0)
        return self.life.last_sign(now)


def stopped(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGSTOP)
    wait_until(lambda: not linux.is_asleep(process.pid), "it stops")


@pytest.mark.promise("R03")
async def test_one_that_rests_is_well_as_long_as_it_sleeps(sleeper: subprocess.Popen[bytes]):
    with Shown(sleeper.pid) as one:
        wait_until(lambda: linux.is_asleep(sleeper.pid), "it sleeps")
        now = time.monotonic()
        one.page.rest(int(now * 1e9))
        assert one.sign(now + 3) == pytest.approx(now + 3)

        stopped(sleeper)

        assert one.sign(now + 4) == pytest.approx(now + 3)


@pytest.mark.promise("R03")
async def test_one_that_does_not_say_that_it_rests_must_beat(sleeper: subprocess.Popen[bytes]):
    with Shown(sleeper.pid) as one:
        wait_until(lambda: linux.is_asleep(sleeper.pid), "it sleeps")
        now = time.monotonic()
        one.page.beat(int(now * 1e9))

        assert one.sign(now + 3) == pytest.approx(now)


@pytest.mark.promise("R03")
async def test_nobody_rests_for_ever(sleeper: subprocess.Popen[bytes]):
    with Shown(sleeper.pid) as one:
        wait_until(lambda: linux.is_asleep(sleeper.pid), "it sleeps")
        now = time.monotonic()
        one.page.rest(int(now * 1e9))

        assert one.sign(now + REST_S + 1) == pytest.approx(now)


async def test_one_that_never_began_has_shown_nothing(sleeper: subprocess.Popen[bytes]):
    with Shown(sleeper.pid) as one:
        one.memory[:] = bytes(SHARED_BYTES)

        assert one.sign(time.monotonic()) == 0


def test_a_process_that_is_gone_is_not_called_awake():
    process = subprocess.Popen(["true"])
    process.wait()
    assert linux.is_asleep(process.pid)
