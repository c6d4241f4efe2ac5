"""The simulated operating system: processes with descriptors, sockets, memory, readiness. Nothing real is opened.

What a descriptor refers to is a `Thing`; several descriptors, also of several processes, may refer to one. A process
that is killed loses its descriptors at once, whatever its code still does while it unwinds: every system call of a dead
process fails and changes nothing, and the memory that it shared is no longer the memory that others see.
"""

from __future__ import annotations

import errno
import hashlib
import heapq
import os
import select
from collections import deque
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final

import trio

from tests.sim.clockwork import PROCESS, Agenda, Time, release

IN: Final = select.EPOLLIN
OUT: Final = select.EPOLLOUT
ERR: Final = select.EPOLLERR
HUP: Final = select.EPOLLHUP
SIGKILL_STATUS: Final = -9
CALLS_PER_INSTANT_MAX: Final = 300_000
"""System calls without a step of the clock. More is a loop that does not end."""


class KilledError(BaseException):
    """Ends the code of a process that has been killed in the middle of a system call."""


class LivelockError(AssertionError):
    """The simulated machine works without end and time stands still."""


def error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class Kernel:
    """What all processes share."""

    def __init__(self, times: Time, agenda: Agenda, chance: Random) -> None:
        self.times = times
        self.agenda = agenda
        self.chance = chance
        self.processes: list[Process] = []
        self.open_things = 0
        self.pairs = 0
        self._digest = hashlib.blake2b(digest_size=16)
        self._instant = -1.0
        self._calls = 0
        self.trace_lines: list[str] | None = None
        """Set to a list to keep every line that goes into the digest."""

    def note(self, who: str, what: str, data: bytes = b"") -> None:
        """Make it part of what a replay must repeat."""
        line = f"{self.times.now():.6f} {who} {what} {len(data)} "
        self._digest.update(line.encode())
        self._digest.update(data)
        if self.trace_lines is not None:
            self.trace_lines.append(line + repr(data[:200]))

    def digest(self) -> str:
        return self._digest.hexdigest()

    def count_call(self) -> None:
        now = self.times.now()
        if now != self._instant:
            self._instant = now
            self._calls = 0
        self._calls += 1
        if self._calls > CALLS_PER_INSTANT_MAX:
            raise LivelockError(f"more than {CALLS_PER_INSTANT_MAX} system calls at {now:.3f} s")


class Process:
    """A simulated process: its descriptors, its tasks, its end."""

    def __init__(self, kernel: Kernel, name: str, fds_max: int = 256) -> None:
        self.kernel = kernel
        kernel.processes.append(self)
        self.pid = len(kernel.processes)
        self.name = name
        self.label = f"{name}#{self.pid}"
        self.fds: dict[int, Thing] = {}
        self.fds_max = fds_max
        self.fds_peak = 0
        self.is_alive = True
        self.is_stopped = False
        self.is_stuck = False
        """It does not get to anything any more, but can still be aborted."""
        self.held: list[tuple[trio.lowlevel.Task, Any]] = []
        self.exit_status: int | None = None
        self.ended_at = 0.0
        self.scope = trio.CancelScope()
        self.own_memory: list[Memory] = []
        self.on_end: list[Callable[[], None]] = []
        self.fuse = 0
        """After so many more system calls it is killed; 0: not."""
        self._free: list[int] = []
        self._next_fd = 0
        self._handles: list[Death] = []

    # --- descriptors -------------------------------------------------------------------------------------------------
    def install(self, thing: Thing) -> int:
        if len(self.fds) >= self.fds_max:
            raise error(errno.EMFILE)
        if self._free:
            fd = heapq.heappop(self._free)
        else:
            fd = self._next_fd
            self._next_fd += 1
        self.fds[fd] = thing
        self.fds_peak = max(self.fds_peak, len(self.fds))
        thing.opened()
        return fd

    def thing(self, fd: int) -> Any:
        try:
            return self.fds[fd]
        except KeyError:
            raise error(errno.EBADF) from None

    def close(self, fd: int) -> None:
        thing = self.fds.pop(fd, None)
        if thing is not None:
            heapq.heappush(self._free, fd)
            thing.closed_one()

    def call(self) -> None:
        """Every system call begins here."""
        if not self.is_alive:
            raise error(errno.EBADF)
        self.kernel.count_call()
        if self.fuse:
            self.fuse -= 1
            if not self.fuse:
                self.kernel.note(self.label, "dies in a system call")
                self.die(SIGKILL_STATUS)
                raise KilledError

    # --- life --------------------------------------------------------------------------------------------------------
    def stop(self) -> None:
        """SIGSTOP."""
        self.is_stopped = True

    def go_on(self) -> None:
        """SIGCONT."""
        if self.is_stopped:
            self.is_stopped = self.is_stuck = False
            release(self)

    def death(self) -> Death:
        """Return a new handle on its end."""
        handle = Death(self)
        self._handles.append(handle)
        return handle

    def die(self, status: int) -> None:
        """End it here and now; what its tasks still do has no effect."""
        if not self.is_alive:
            return
        self.is_alive = False
        self.exit_status = status
        self.ended_at = self.kernel.times.now()
        self.kernel.note(self.label, f"ended with {status}")
        for memory in self.own_memory:
            memory.detach()
        fds, self.fds = self.fds, {}
        for thing in fds.values():
            thing.closed_one()
        for handle in self._handles:
            handle.changed()
        for action in self.on_end:
            action()
        self.scope.cancel()
        self.go_on()

    async def run(self, program: Callable[[Process], Any], crashed: Callable[[Process, BaseException], None]) -> None:
        """Be the process. `program` returns its exit status."""
        PROCESS.set(self)
        with self.scope:
            try:
                status = await program(self)
            except BaseException as raised:
                if not self.is_alive or isinstance(raised, trio.Cancelled):
                    return
                if not isinstance(raised, Exception):
                    raise
                crashed(self, raised)
                status = 70
            self.die(status)


class _Wait:
    """Somebody who waits for readiness."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.over = trio.Event()
        self.was_interrupted = False


class Thing:
    """What a descriptor refers to."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.references = 0
        self.polls: list[Poll] = []
        self._waiting: list[_Wait] = []

    def mask(self) -> int:
        return 0

    def opened(self) -> None:
        self.references += 1
        if self.references == 1:
            self.kernel.open_things += 1

    def closed_one(self) -> None:
        self.references -= 1
        if self.references == 0:
            self.kernel.open_things -= 1
            for poll in list(self.polls):
                poll.thing_closed(self)
            self.closed()

    def closed(self) -> None:
        """Nothing refers to it any more."""

    def changed(self) -> None:
        """What it is ready for may have changed."""
        for poll in self.polls:
            poll.may_be_ready(self)
        if self._waiting:
            mask = self.mask()
            for wait in self._waiting:
                if mask & (wait.wanted | ERR | HUP):
                    wait.over.set()

    def interrupt(self) -> None:
        """End all waiting, ready or not."""
        for wait in self._waiting:
            wait.was_interrupted = not wait.over.is_set()
            wait.over.set()

    async def wait(self, wanted: int) -> None:
        """Errors: `trio.ClosedResourceError` if interrupted."""
        if self.mask() & (wanted | ERR | HUP):
            await trio.lowlevel.checkpoint()
            return
        wait = _Wait(wanted)
        self._waiting.append(wait)
        try:
            await wait.over.wait()
        finally:
            self._waiting.remove(wait)
        if wait.was_interrupted:
            raise trio.ClosedResourceError("another task closed this")


class Poll(Thing):
    """An epoll instance."""

    def __init__(self, process: Process) -> None:
        super().__init__(process.kernel)
        self._process = process
        self._fd = process.install(self)
        self._entries: dict[int, tuple[Thing, int]] = {}
        self._candidates: dict[int, None] = {}
        """Descriptors that may be ready."""

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        self._process.close(self._fd)

    def register(self, fd: int, mask: int) -> None:
        self._process.call()
        thing = self._process.thing(fd)
        if fd in self._entries:
            raise FileExistsError(errno.EEXIST, "registered already")
        self._entries[fd] = (thing, mask)
        thing.polls.append(self)
        self._look_at(fd)

    def modify(self, fd: int, mask: int) -> None:
        self._process.call()
        if fd not in self._entries:
            raise FileNotFoundError(errno.ENOENT, "not registered")
        self._entries[fd] = (self._entries[fd][0], mask)
        self._look_at(fd)

    def unregister(self, fd: int) -> None:
        self._process.call()
        entry = self._entries.pop(fd, None)
        if entry is None:
            raise FileNotFoundError(errno.ENOENT, "not registered")
        self._candidates.pop(fd, None)
        entry[0].polls.remove(self)

    def poll(self, timeout: float, count: int) -> list[tuple[int, int]]:
        del timeout
        self._process.call()
        ready: list[tuple[int, int]] = []
        for fd in list(self._candidates):
            thing, wanted = self._entries[fd]
            if mask := thing.mask() & (wanted | ERR | HUP):
                ready.append((fd, mask))
            else:
                del self._candidates[fd]
        if len(ready) > 1:
            self.kernel.chance.shuffle(ready)
        return ready[:count]

    def mask(self) -> int:
        for fd in self._candidates:
            thing, wanted = self._entries[fd]
            if thing.mask() & (wanted | ERR | HUP):
                return IN
        return 0

    def may_be_ready(self, thing: Thing) -> None:
        for fd, (known, _) in self._entries.items():
            if known is thing:
                self._look_at(fd)
                return

    def thing_closed(self, thing: Thing) -> None:
        for fd in [fd for fd, (known, _) in self._entries.items() if known is thing]:
            del self._entries[fd]
            self._candidates.pop(fd, None)
            thing.polls.remove(self)

    def closed(self) -> None:
        for thing, _ in self._entries.values():
            thing.polls.remove(self)
        self._entries.clear()
        self._candidates.clear()

    def _look_at(self, fd: int) -> None:
        thing, wanted = self._entries[fd]
        if thing.mask() & (wanted | ERR | HUP):
            self._candidates[fd] = None
            self.changed()


class Memory(Thing):
    """Shared memory."""

    def __init__(self, kernel: Kernel, size: int) -> None:
        super().__init__(kernel)
        self.data = bytearray(size)

    def detach(self) -> None:
        """Whoever has mapped it writes into a copy from now on."""
        self.data = bytearray(self.data)


class Death(Thing):
    """A handle on a process, readable when it has ended."""

    def __init__(self, process: Process) -> None:
        super().__init__(process.kernel)
        self.process = process

    def mask(self) -> int:
        return 0 if self.process.is_alive else IN


class PacketEnd(Thing):
    """One end of a socketpair of whole packets, which may carry descriptors."""

    def __init__(self, kernel: Kernel, name: str) -> None:
        super().__init__(kernel)
        self.name = name
        self.peer: PacketEnd = self
        self.queue: deque[tuple[bytes, list[Thing]]] = deque()
        self.size = 0
        self.capacity = 200_000
        self.is_shut = False
        self.is_clogged = False
        """What is sent to this end does not arrive, and waits."""

    def mask(self) -> int:
        readable = (self.queue and not self.is_clogged) or self.is_shut or not self.peer.references
        writable = self.peer.size < self.peer.capacity or not self.peer.references
        return (IN if readable else 0) | (OUT if writable else 0)

    def send(self, data: bytes, things: list[Thing]) -> None:
        peer = self.peer
        if self.is_shut or not peer.references:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")
        if peer.size >= peer.capacity:
            raise BlockingIOError(errno.EAGAIN, "would block")
        for thing in things:
            thing.opened()
        peer.queue.append((data, things))
        peer.size += len(data) + 512
        self.kernel.note(self.name, "packet", data)
        peer.changed()

    def receive(self) -> tuple[bytes, list[Thing]]:
        if not self.queue or self.is_clogged:
            if (self.is_shut or not self.peer.references) and not self.queue:
                return b"", []
            raise BlockingIOError(errno.EAGAIN, "would block")
        data, things = self.queue.popleft()
        self.size -= len(data) + 512
        self.peer.changed()
        return data, things

    def shutdown(self) -> None:
        self.is_shut = self.peer.is_shut = True
        self.changed()
        self.peer.changed()

    def unclog(self) -> None:
        self.is_clogged = False
        self.changed()

    def closed(self) -> None:
        for _, things in self.queue:
            for thing in things:
                thing.closed_one()
        self.queue.clear()
        self.peer.changed()


class Flow:
    """One direction of a stream: bytes under way, and those that have arrived."""

    def __init__(self, kernel: Kernel, name: str, capacity: int, latency: Callable[[], float] | None) -> None:
        self.kernel = kernel
        self.name = name
        self.capacity = capacity
        self.latency = latency
        self.arrived: deque[bytes] = deque()
        self.arrived_size = 0
        self.has_ended = False
        """The end has arrived behind the last byte."""
        self.is_ending = False
        self.is_clogged = False
        self.mangle: Callable[[bytes], bytes] | None = None
        """Damages what is sent, once."""
        self.is_cut = False
        """Nothing more gets through."""
        self._transit: deque[tuple[float, bytes]] = deque()
        self._transit_size = 0
        self._last_arrival = 0.0
        self.reader: StreamEnd
        self.writer: StreamEnd

    @property
    def room(self) -> int:
        return self.capacity - self.arrived_size - self._transit_size

    def push(self, data: bytes) -> None:
        """Send bytes; b"" for the end."""
        if self.is_cut:
            return
        if self.mangle is not None and data:
            mangle, self.mangle = self.mangle, None
            data = mangle(data)
            if not data:
                return
        if data:
            self.kernel.note(self.name, "bytes", data)
        latency_s = self.latency() if self.latency is not None else 0.0
        if not latency_s and not self._transit and not self.is_clogged:
            self._arrive(data)
            return
        when = max(self._last_arrival, self.kernel.times.now() + latency_s)
        self._last_arrival = when
        self._transit.append((when, data))
        self._transit_size += len(data)
        self.kernel.agenda.at(when, self.deliver)

    def deliver(self) -> None:
        """Let arrive what is due."""
        now = self.kernel.times.now()
        while self._transit and self._transit[0][0] <= now and not self.is_clogged:
            _, data = self._transit.popleft()
            self._transit_size -= len(data)
            self._arrive(data)

    def unclog(self) -> None:
        self.is_clogged = False
        self.deliver()

    def cut(self) -> None:
        """Let the reader see the end behind what has been sent, though the writer has not ended."""
        self.push(b"")
        self.is_cut = True

    def take(self, count: int, *, peek: bool = False) -> bytes:
        data = self.arrived[0]
        if peek:
            return data[:count]
        if len(data) > count:
            self.arrived[0] = data[count:]
            data = data[:count]
        else:
            self.arrived.popleft()
        was_full = self.room <= 0
        self.arrived_size -= len(data)
        if was_full:
            self.writer.changed()
        return data

    def drop(self) -> None:
        self.arrived.clear()
        self.arrived_size = 0

    def _arrive(self, data: bytes) -> None:
        if not self.reader.references:
            if data:
                self.writer.reset()  # nobody is there to take it
        elif data:
            self.arrived.append(data)
            self.arrived_size += len(data)
            self.reader.changed()
        else:
            self.has_ended = True
            self.reader.changed()


class StreamEnd(Thing):
    """One end of a stream: of a link, or of a connection over the network."""

    def __init__(self, kernel: Kernel, name: str) -> None:
        super().__init__(kernel)
        self.name = name
        self.peer: StreamEnd = self
        self.incoming: Flow
        self.outgoing: Flow
        self.is_reset = False
        self._error_told = False

    def mask(self) -> int:
        mask = 0
        if self.incoming.arrived or self.incoming.has_ended or self.is_reset:
            mask |= IN
        if self.outgoing.room > 0 or self.is_reset:
            mask |= OUT
        if self.is_reset:
            mask |= HUP | (0 if self._error_told else ERR)
        elif self.incoming.has_ended and (self.outgoing.is_ending or self._is_deserted):
            mask |= HUP
        return mask

    def send(self, data: bytes) -> int:
        if self.is_reset or self.outgoing.is_ending or self._is_deserted:
            raise self._broken()
        room = self.outgoing.room
        if room <= 0:
            raise BlockingIOError(errno.EAGAIN, "would block")
        data = data[:room]
        if data:
            self.outgoing.push(data)
        return len(data)

    def receive(self, count: int, *, peek: bool = False) -> bytes:
        if self.incoming.arrived:
            return self.incoming.take(count, peek=peek)
        if self.is_reset:
            if self._error_told:
                return b""
            self._error_told = True
            raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
        if self.incoming.has_ended:
            return b""
        raise BlockingIOError(errno.EAGAIN, "would block")

    def take_error(self) -> int:
        if self.is_reset and not self._error_told:
            self._error_told = True
            return errno.ECONNRESET
        return 0

    def end_output(self) -> None:
        if self.is_reset:
            raise OSError(errno.ENOTCONN, "not connected")
        if not self.outgoing.is_ending:
            self.outgoing.is_ending = True
            self.outgoing.push(b"")

    def reset(self) -> None:
        """The other side has broken the connection."""
        if not self.is_reset:
            self.is_reset = True
            self.incoming.drop()
            self.changed()

    def abort(self) -> None:
        """Break the connection for both sides."""
        self.reset()
        self.peer.reset()

    def closed(self) -> None:
        if self.is_reset:
            return
        if self.incoming.arrived:
            self.peer.reset()
        else:
            if not self.outgoing.is_ending:
                self.outgoing.is_ending = True
                self.outgoing.push(b"")

    @property
    def _is_deserted(self) -> bool:
        """The other end is closed, and both are on this machine: over a network, that is heard only when bytes come."""
        return self.incoming.latency is None and self.incoming.has_ended and not self.peer.references

    def _broken(self) -> OSError:
        if self.is_reset and not self._error_told:
            self._error_told = True
            return ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
        return BrokenPipeError(errno.EPIPE, "Broken pipe")


class Listener(Thing):
    """A listening socket."""

    def __init__(self, kernel: Kernel, port: int) -> None:
        super().__init__(kernel)
        self.port = port
        self.queue: deque[StreamEnd] = deque()
        self.fails = 0
        """So many accepts find no descriptor."""

    def mask(self) -> int:
        return IN if self.queue else 0

    def connect(self, end: StreamEnd) -> None:
        """A client has connected; `end` is ours."""
        end.opened()
        self.queue.append(end)
        self.changed()

    def closed(self) -> None:
        for end in self.queue:
            end.peer.reset()
            end.closed_one()
        self.queue.clear()


def packet_pair(kernel: Kernel, name: str) -> tuple[PacketEnd, PacketEnd]:
    one, other = PacketEnd(kernel, f"{name}>"), PacketEnd(kernel, f"{name}<")
    one.peer, other.peer = other, one
    return one, other


def stream_pair(
    kernel: Kernel, name: str, capacity: int, latency: Callable[[], float] | None = None
) -> tuple[StreamEnd, StreamEnd]:
    """Return both ends of a stream."""
    kernel.pairs += 1
    one, other = StreamEnd(kernel, f"{name}>"), StreamEnd(kernel, f"{name}<")
    there, back = Flow(kernel, one.name, capacity, latency), Flow(kernel, other.name, capacity, latency)
    one.peer, other.peer = other, one
    one.outgoing = other.incoming = there
    one.incoming = other.outgoing = back
    there.writer, there.reader = one, other
    back.writer, back.reader = other, one
    return one, other


def joined(chunks: Sequence[Any]) -> bytes:
    return b"".join(bytes(chunk) for chunk in chunks)
