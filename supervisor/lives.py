"""The processes that are there now, and what the root holds of each: its control socket and a handle on its end."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections import deque
from collections.abc import Sequence

import trio

from protocol import flight
from protocol.control import Fork
from protocol.limits import REST_S
from supervisor.channel import Channel
from supervisor.config import Server
from supervisor.machine import Machine
from supervisor.spec import family
from supervisor.zygote_process import ZygoteProcess


class Life:
    """One incarnation of a worker, from the order to fork it until it is gone. Takes ownership of `page_fd`."""

    def __init__(
        self, machine: Machine, name: str, server: Server | None, incarnation: int, channel: Channel, page_fd: int
    ) -> None:
        self._machine = machine
        self.name = name
        self.server = server
        """None for the front."""
        self.incarnation = incarnation
        self.channel = channel
        self.page_fd = page_fd
        """The shared memory of this life (protocol/flight.py), read also after its end."""
        self.stuck = ""
        """Why it has been told to abort itself; continues "worker …". "" if it has not."""
        self.abort_until = 0.0
        self.pidfd = -1
        """-1 until the zygote has forked it."""
        self.pid = 0
        """Only for looking at it: signals go to `pidfd`, because a number may be another process by now. 0 as above."""
        self._seen_asleep = 0.0
        self.kill_wanted = False
        self.scope = trio.CancelScope()
        """Around the task that listens to it."""
        self.told_state = ""
        self.flood_told = False
        """People have heard that it says more than the root listens to."""

    @property
    def title(self) -> str:
        """What it is called towards people."""
        return self.name if self.server is None else family(self.name)

    def kill(self) -> None:
        """SIGKILL it, now or as soon as it can be."""
        self.kill_wanted = True
        self._signal(signal.SIGKILL)

    def abort(self, why: str, until: float) -> None:
        """Make it write down its stacks and die. `until`: when it is killed if it cannot even do that."""
        self.stuck = why
        self.abort_until = until
        self._signal(signal.SIGABRT)

    def _signal(self, number: signal.Signals) -> None:
        if self.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                self._machine.signal_process(self.pidfd, number)

    def last_sign(self, now: float) -> float:
        """Return when its loop was last known to run, in seconds of the monotonic clock; 0 if it has not begun to.

        One that has said that it rests is well as long as it sleeps. It does not for ever, so that one that hangs in
        some call of the system is found too.
        """
        beat_ns, rests = flight.heartbeat(self._machine.read_memory(self.page_fd, flight.HEADER_BYTES, 0))
        beat = beat_ns / 1e9
        if rests and now - beat <= REST_S and self._machine.is_asleep(self.pid):
            self._seen_asleep = now
        return max(beat, self._seen_asleep)

    def counted(self) -> tuple[Sequence[int], int]:
        """Return what it has counted so far, and how many calls it has not answered yet (`flight.counted`)."""
        return flight.counted(self._machine.read_memory(self.page_fd, flight.PAGE_BYTES, 0))

    def dump(self) -> bytes:
        """Return the stacks it wrote down when it was aborted, filled up with zeros."""
        return self._machine.read_memory(self.page_fd, flight.DUMP_BYTES, flight.DUMP_AT)

    def forked(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self.pidfd = pidfd
        if self.kill_wanted:
            self.kill()

    async def wait_ended(self) -> None:
        """Wait until the process is gone; if it was never forked, that is now."""
        if self.pidfd >= 0:
            with contextlib.suppress(trio.ClosedResourceError):
                await self._machine.wait_readable(self.pidfd)

    def close(self) -> None:
        self.scope.cancel()
        self.channel.close()
        if self.pidfd >= 0:
            self._machine.close(self.pidfd)
            self.pidfd = -1
        if self.page_fd >= 0:
            self._machine.close(self.page_fd)
            self.page_fd = -1


class ZygoteLife:
    """One incarnation of the zygote.

    Errors: `OSError` if it cannot be watched; then it is not there any more.
    """

    def __init__(self, machine: Machine, launched: ZygoteProcess, incarnation: int) -> None:
        self._machine = machine
        self.process = launched.process
        self.incarnation = incarnation
        self.channel = Channel(launched.control, machine, fds_max=1)
        self.scope = trio.CancelScope()
        """Around the task that listens to it."""
        self.lives: dict[int, Life] = {}
        """What it was told to fork and has not reported the end of, by key."""
        self.orders: deque[tuple[Fork, socket.socket]] = deque()
        """Not sent to it yet; each with the worker's end of its control socket."""
        self.unanswered = 0
        try:
            self.pidfd = machine.open_process(self.process.pid)
        except OSError:
            self.channel.close()
            self.process.kill()
            self.process.wait()
            raise

    def close(self) -> None:
        self.scope.cancel()
        self.channel.close()
        self._machine.close(self.pidfd)
        for _, worker_end in self.orders:
            worker_end.close()
        self.orders.clear()
