"""The shared memory of a worker's life, as its own process and as a front holds it (protocol/flight.py)."""

from __future__ import annotations

import faulthandler
import mmap
import os

from protocol.flight import DUMP_AT, PAGE_BYTES, SHARED_BYTES, FlightPage
from workers.machine import LinuxMachine, Machine


def open_own(fd: int) -> FlightPage:
    """Return this worker's page for writing; if the worker is aborted, its stacks are written behind it."""
    os.lseek(fd, DUMP_AT, os.SEEK_SET)
    faulthandler.enable(fd)
    return FlightPage(memoryview(mmap.mmap(fd, SHARED_BYTES)))


class PeerPage:
    """The page of the worker at the other end of a link. It is copied when it is needed, and not mapped."""

    def __init__(self, fd: int, machine: Machine | None = None) -> None:
        self._fd = fd
        self._machine = machine or LinuxMachine()

    def read(self) -> FlightPage:
        """Return the page as it is now."""
        return FlightPage(memoryview(self._machine.read_memory(self._fd, PAGE_BYTES, 0)))

    def close(self) -> None:
        if self._fd >= 0:
            self._machine.close(self._fd)
            self._fd = -1
