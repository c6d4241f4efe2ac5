"""The operating system as the root uses it, behind one object: whoever gives the root another one plays the machine.

Everything here is what a single process may do to others and to itself. Nothing decides anything.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import time
from collections.abc import AsyncIterator, Container, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import trio

from protocol.limits import LOOK_UPS_MAX
from supervisor import linux, zygote_process
from supervisor.zygote_process import WorkerProgram, ZygoteProcess


class Machine(Protocol):
    """What the root needs. Descriptors and process handles are numbers, as everywhere in the system."""

    random: random.Random
    """For spreading restarts, not for secrets."""

    # --- clocks and signals ------------------------------------------------------------------------------------------
    def monotonic(self) -> float:
        """Return the seconds of the clock that all processes share and that nobody can set."""
        ...

    def uptime(self) -> float:
        """Return the seconds since the machine was started, those it was asleep included, unlike `monotonic`."""
        ...

    def wall_time(self) -> float:
        """Return the seconds since 1970, as far as this machine knows."""
        ...

    def signals(self, *numbers: int) -> AbstractContextManager[AsyncIterator[int]]:
        """Receive these signals instead of obeying them."""
        ...

    # --- processes ---------------------------------------------------------------------------------------------------
    def launch(self, program: WorkerProgram) -> ZygoteProcess:
        """Start a zygote. Errors: `OSError`."""
        ...

    def open_process(self, pid: int) -> int:
        """Return a handle that becomes readable when the process ends. Errors: `OSError` if there is none any more."""
        ...

    def signal_process(self, handle: int, number: signal.Signals) -> None:
        """Errors: `ProcessLookupError` if it has ended."""
        ...

    def is_asleep(self, pid: int) -> bool:
        """Whether the process waits for something to happen, as opposed to running or having been stopped."""
        ...

    def kill_orphans(self, known: Container[int]) -> bool:
        """Kill children that are not among the known; return whether there were any."""
        ...

    def reap_strangers(self, known: Container[int]) -> None: ...

    def resident_bytes(self, pid: int) -> int:
        """Return how much memory a process has; 0 if it is gone."""
        ...

    def cpu_seconds(self, pid: int) -> float:
        """Return how long a process has run on processors; 0 if it is gone."""
        ...

    def own_cpu_seconds(self) -> float:
        """Return how long the thread that asks has run on processors, as a difference to another such time."""
        ...

    def oom_kills(self) -> int:
        """Return how many processes the kernel has killed for want of memory since it booted."""
        ...

    # --- names -------------------------------------------------------------------------------------------------------
    async def look_up(self, host: str) -> Sequence[str]:
        """Return the IP addresses of a host, each once. It may take long. Errors: `OSError`."""
        ...

    # --- descriptors -------------------------------------------------------------------------------------------------
    def require_descriptors(self, count: int) -> None:
        """Errors: `OSError` if so many more cannot be had."""
        ...

    def shared_memory(self, size: int) -> int:
        """Errors: `OSError`."""
        ...

    def read_memory(self, fd: int, count: int, at: int) -> bytes: ...

    def control_pair(self) -> tuple[socket.socket, socket.socket]:
        """Return both ends of a socket for whole packets with descriptors. Errors: `OSError`."""
        ...

    def link_pair(self) -> tuple[socket.socket, socket.socket]:
        """Return both ends of a stream. Errors: `OSError`."""
        ...

    def duplicate(self, fd: int) -> int:
        """Errors: `OSError`."""
        ...

    def close(self, fd: int) -> None:
        """Close it, and end the waiting of whoever waits for it."""
        ...

    def notify_closing(self, sock: socket.socket) -> None:
        """End the waiting of whoever waits for it."""
        ...

    async def wait_readable(self, what: int | socket.socket) -> None: ...

    async def wait_writable(self, what: int | socket.socket) -> None: ...


class LinuxMachine:
    """The machine we run on (`Machine`)."""

    def __init__(self) -> None:
        self.random = random.Random()  # noqa: S311 - see `Machine.random`
        self._look_ups = trio.CapacityLimiter(LOOK_UPS_MAX)

    def monotonic(self) -> float:
        return time.monotonic()

    def uptime(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def wall_time(self) -> float:
        return time.time()

    def signals(self, *numbers: int) -> AbstractContextManager[AsyncIterator[int]]:
        return trio.open_signal_receiver(*numbers)

    def launch(self, program: WorkerProgram) -> ZygoteProcess:
        return zygote_process.launch(program)

    def open_process(self, pid: int) -> int:
        return os.pidfd_open(pid)

    def signal_process(self, handle: int, number: signal.Signals) -> None:
        signal.pidfd_send_signal(handle, number)

    def is_asleep(self, pid: int) -> bool:
        return linux.is_asleep(pid)

    def kill_orphans(self, known: Container[int]) -> bool:
        # As process 1 we also get orphans of strangers, and cannot tell whose they are.
        return os.getpid() != 1 and linux.kill_strangers(known)

    def reap_strangers(self, known: Container[int]) -> None:
        linux.reap_strangers(known)

    def resident_bytes(self, pid: int) -> int:
        return linux.resident_bytes(pid)

    def cpu_seconds(self, pid: int) -> float:
        return linux.cpu_seconds(pid)

    def own_cpu_seconds(self) -> float:
        return time.thread_time()

    def oom_kills(self) -> int:
        return linux.oom_kills()

    async def look_up(self, host: str) -> Sequence[str]:
        # A thread that hangs is left behind, and counts until it is done: so there are never more than a few.
        return await trio.to_thread.run_sync(linux.addresses, host, abandon_on_cancel=True, limiter=self._look_ups)

    def require_descriptors(self, count: int) -> None:
        linux.require_descriptors(count)

    def shared_memory(self, size: int) -> int:
        return linux.shared_memory(size)

    def read_memory(self, fd: int, count: int, at: int) -> bytes:
        return os.pread(fd, count, at)

    def control_pair(self) -> tuple[socket.socket, socket.socket]:
        return linux.control_pair()

    def link_pair(self) -> tuple[socket.socket, socket.socket]:
        return socket.socketpair()

    def duplicate(self, fd: int) -> int:
        return os.dup(fd)

    def close(self, fd: int) -> None:
        trio.lowlevel.notify_closing(fd)
        os.close(fd)

    def notify_closing(self, sock: socket.socket) -> None:
        trio.lowlevel.notify_closing(sock)

    async def wait_readable(self, what: int | socket.socket) -> None:
        await trio.lowlevel.wait_readable(what)

    async def wait_writable(self, what: int | socket.socket) -> None:
        await trio.lowlevel.wait_writable(what)
