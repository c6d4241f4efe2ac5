"""The simulated machine as the root and workers see it (`supervisor.machine`, `workers.machine`), and the zygote."""

from __future__ import annotations

import contextlib
import errno
import random
import signal
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Generator
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, Protocol

import trio

from protocol import control
from protocol.control import Exited, Fork, Forked, ForkFailed, FromZygote
from protocol.flight import FlightPage
from supervisor.zygote_process import WorkerProgram, ZygoteProcess
from tests.sim.kernel import (
    IN,
    OUT,
    SIGKILL_STATUS,
    Kernel,
    Memory,
    PacketEnd,
    Poll,
    Process,
    StreamEnd,
    error,
    packet_pair,
    stream_pair,
)
from tests.sim.sockets import Sock, as_socket
from workers.control_end import ControlEnd, RootLost, receive_boot
from workers.main import serve
from workers.reactor import Reactor
from workers.transport import Stream, StreamHandler

if TYPE_CHECKING:
    from protocol.control import Boot

Connect = Callable[[Process, str, int], Awaitable[StreamEnd]]


class Log(Protocol):
    """Where a simulated process logs to."""

    def debug(self, event: str, **fields: object) -> object: ...

    def info(self, event: str, **fields: object) -> object: ...

    def warning(self, event: str, **fields: object) -> object: ...

    def error(self, event: str, **fields: object) -> object: ...


@dataclass
class Scarcity:
    """What the machine has too little of: so many of the next requests of each kind fail."""

    next_fail: Counter[str] = field(default_factory=Counter[str])
    boot_delay_s: float = 0.0
    """Workers forked now need so long until they run."""

    def check(self, kind: str, number: int) -> None:
        if self.next_fail[kind] > 0:
            self.next_fail[kind] -= 1
            raise error(number)


@dataclass
class Hardware:
    """What all simulated processes run on."""

    kernel: Kernel
    nursery: trio.Nursery
    chance: Random
    scarcity: Scarcity
    connect: Connect
    new_log: Callable[[Process, str], Log]
    crashed: Callable[[Process, BaseException], None]
    started: Callable[[Process], None]
    link_capacity: int = 200_000
    control_capacity: int = 200_000
    """A worker or zygote process has been started."""
    links: list[StreamEnd] = field(default_factory=list[StreamEnd])
    """The fronts' ends, oldest first."""
    zygotes: list[Zygote] = field(default_factory=list["Zygote"])


async def _wait(process: Process, what: int | socket.socket, wanted: int) -> None:
    if not process.is_alive:
        await trio.sleep_forever()
    fd = what if isinstance(what, int) else what.fileno()
    await process.thing(fd).wait(wanted)


# --- the root --------------------------------------------------------------------------------------------------------
class ZygoteChild:
    """The zygote as its parent sees it (`supervisor.zygote_process.ChildProcess`)."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.pid = process.pid

    def kill(self) -> None:
        self._process.die(SIGKILL_STATUS)

    def poll(self) -> int | None:
        return self._process.exit_status

    def wait(self) -> int:
        assert self._process.exit_status is not None, "the root would block"
        return self._process.exit_status


class RootMachine:
    """`supervisor.machine.Machine` for the simulated root."""

    def __init__(self, hardware: Hardware, process: Process) -> None:
        self._hardware = hardware
        self._kernel = hardware.kernel
        self._process = process
        self.random = random.Random(hardware.chance.getrandbits(64))
        self._signals, self._heard = trio.open_memory_channel[int](100)

    def send_signal(self, number: int) -> None:
        with contextlib.suppress(trio.WouldBlock):
            self._signals.send_nowait(number)

    def monotonic(self) -> float:
        return self._kernel.times.monotonic()

    def uptime(self) -> float:
        return self._kernel.times.uptime()

    def wall_time(self) -> float:
        return self._kernel.times.wall()

    @contextlib.contextmanager
    def signals(self, *numbers: int) -> Generator[AsyncIterator[int]]:
        assert signal.SIGTERM in numbers
        yield self._heard

    def launch(self, program: WorkerProgram) -> ZygoteProcess:
        del program
        self._process.call()
        self._hardware.scarcity.check("launch", errno.EAGAIN)
        ours, theirs = self.control_pair()
        zygote = Zygote(self._hardware, self._process.thing(theirs.fileno()))
        theirs.close()
        zygote.process.on_end.append(lambda: self.send_signal(signal.SIGCHLD))
        return ZygoteProcess(ZygoteChild(zygote.process), ours)

    def open_process(self, pid: int) -> int:
        self._process.call()
        return self._process.install(self._kernel.processes[pid - 1].death())

    def signal_process(self, handle: int, number: signal.Signals) -> None:
        self._process.call()
        target: Process = self._process.thing(handle).process
        if not target.is_alive:
            raise ProcessLookupError
        if number == signal.SIGKILL or not target.is_stopped or target.is_stuck:
            target.die(-number)
        # Any other signal waits until a stopped process goes on.

    def is_asleep(self, pid: int) -> bool:
        return not self._kernel.processes[pid - 1].is_stopped

    def kill_orphans(self, known: Container[int]) -> bool:
        del known
        return False  # the simulated kernel ends a zygote's workers with it

    def reap_strangers(self, known: Container[int]) -> None:
        """There are none."""

    def resident_bytes(self, pid: int) -> int:
        del pid
        return 0  # simulated processes need no memory of their own

    async def look_up(self, host: str) -> list[str]:
        return [host]

    def cpu_seconds(self, pid: int) -> float:
        del pid
        return 0.0

    def own_cpu_seconds(self) -> float:
        return 0.0  # simulated processes need no time either

    def oom_kills(self) -> int:
        return 0

    def require_descriptors(self, count: int) -> None:
        self._process.call()
        self._hardware.scarcity.check("descriptors", errno.EMFILE)
        if len(self._process.fds) + count > self._process.fds_max:
            raise error(errno.EMFILE)

    def shared_memory(self, size: int) -> int:
        self._process.call()
        self._hardware.scarcity.check("memory", errno.ENOMEM)
        return self._process.install(Memory(self._kernel, size))

    def read_memory(self, fd: int, count: int, at: int) -> bytes:
        return _read_memory(self._process, fd, count, at)

    def control_pair(self) -> tuple[socket.socket, socket.socket]:
        self._process.call()
        self._hardware.scarcity.check("control_pair", errno.EMFILE)
        self._kernel.pairs += 1
        one, other = packet_pair(self._kernel, f"control{self._kernel.pairs}")
        one.capacity = other.capacity = self._hardware.control_capacity
        return self._own(one), self._own(other)

    def link_pair(self) -> tuple[socket.socket, socket.socket]:
        self._process.call()
        self._hardware.scarcity.check("link_pair", errno.EMFILE)
        one, other = stream_pair(self._kernel, f"link{self._kernel.pairs + 1}", self._hardware.link_capacity)
        self._hardware.links.append(one)
        return self._own(one), self._own(other)

    def duplicate(self, fd: int) -> int:
        self._process.call()
        self._hardware.scarcity.check("duplicate", errno.EMFILE)
        return self._process.install(self._process.thing(fd))

    def close(self, fd: int) -> None:
        self._interrupt(fd)
        self._process.close(fd)

    def notify_closing(self, sock: socket.socket) -> None:
        self._interrupt(sock.fileno())

    def _interrupt(self, fd: int) -> None:
        thing = self._process.fds.get(fd)
        if thing is not None:
            thing.interrupt()

    async def wait_readable(self, what: int | socket.socket) -> None:
        await _wait(self._process, what, IN)

    async def wait_writable(self, what: int | socket.socket) -> None:
        await _wait(self._process, what, OUT)

    def _own(self, thing: Any) -> socket.socket:
        return as_socket(self._process, self._process.install(thing))


def _read_memory(process: Process, fd: int, count: int, at: int) -> bytes:
    process.call()
    memory: Memory = process.thing(fd)
    return bytes(memory.data[at : at + count])


# --- workers ---------------------------------------------------------------------------------------------------------
class WorkerMachine:
    """`workers.machine.Machine` for a simulated worker."""

    def __init__(self, hardware: Hardware, process: Process) -> None:
        self._hardware = hardware
        self._process = process
        self.random = random.Random(hardware.chance.getrandbits(64))
        self.wait_readable: Callable[[int | socket.socket], Awaitable[None]] = self._wait_readable

    async def _wait_readable(self, what: int | socket.socket) -> None:
        await _wait(self._process, what, IN)

    def monotonic_ns(self) -> int:
        return int(self._hardware.kernel.times.monotonic() * 1e9)

    def new_poll(self) -> Poll:
        return Poll(self._process)

    def socket(self, fd: int) -> socket.socket:
        return as_socket(self._process, fd)

    async def connect(self, host: str, port: int, *, private: bool = True) -> socket.socket:
        del private  # there are no names here
        self._process.call()
        end = await self._hardware.connect(self._process, host, port)
        try:
            self._process.call()
            return as_socket(self._process, self._process.install(end))
        finally:
            end.closed_one()

    def read_memory(self, fd: int, count: int, at: int) -> bytes:
        return _read_memory(self._process, fd, count, at)

    def map_memory(self, fd: int, size: int) -> memoryview:
        self._process.call()
        memory: Memory = self._process.thing(fd)
        self._process.own_memory.append(memory)
        self._process.close(fd)
        return memoryview(memory.data)[:size]

    def close(self, fd: int) -> None:
        self._process.close(fd)

    def open_pipes(self, reactor: Reactor, read_fd: int, write_fd: int, handler: StreamHandler) -> Stream:
        """Standard input and output are one simulated stream."""
        self._process.close(write_fd)
        return reactor.add_stream(self.socket(read_fd), handler)


async def _worker(hardware: Hardware, process: Process, control_fd: int) -> int:
    """What `workers.main.run` is in a real process."""
    machine = WorkerMachine(hardware, process)
    sock = machine.socket(control_fd)
    await machine.wait_readable(sock)
    try:
        boot, descriptors = receive_boot(sock)
        memory: Memory = process.thing(descriptors.pop())
        process.own_memory.append(memory)
        log = hardware.new_log(process, _who(boot))
        page = FlightPage(memoryview(memory.data))
        await serve(ControlEnd(sock, machine), boot, descriptors, page, log, machine, machine.open_pipes)
    except RootLost:
        return 0
    return 0


def _who(boot: Boot) -> str:
    return boot.name


# --- the zygote ------------------------------------------------------------------------------------------------------
class Zygote:
    """What supervisor/zygote.py is in a real process, which forks and so cannot be simulated."""

    def __init__(self, hardware: Hardware, control_end: PacketEnd) -> None:
        self._hardware = hardware
        self._kernel = hardware.kernel
        self.process = Process(hardware.kernel, "zygote")
        self._control = Sock(self.process, self.process.install(control_end))
        self.workers: dict[int, Process] = {}
        """By the root's key."""
        self._ended: list[tuple[int, Process]] = []
        self._somebody_ended = trio.Event()
        self.process.on_end.append(self._take_all_along)
        hardware.zygotes.append(self)
        hardware.nursery.start_soon(self.process.run, self._run, hardware.crashed)
        hardware.started(self.process)

    async def _run(self, process: Process) -> int:
        await trio.sleep(self._hardware.chance.uniform(0.0, 0.3))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._reap)
            while True:
                await _wait(process, self._control.fileno(), IN)
                data, ancillary, _, _ = self._control.recvmsg(control.PACKET_BYTES_MAX, socket.CMSG_SPACE(4))
                if not data:
                    break
                order: Fork = control.decode_to_zygote(data)
                (fd,) = memoryview(ancillary[0][2]).cast("i")
                await trio.sleep(self._hardware.chance.uniform(0.001, 0.01))
                self._fork(order, fd)
            nursery.cancel_scope.cancel()
        return 0

    def _fork(self, order: Fork, control_fd: int) -> None:
        end = self.process.thing(control_fd)
        try:
            self._hardware.scarcity.check("fork", errno.EAGAIN)
        except OSError as failed:
            self.process.close(control_fd)
            self._tell(ForkFailed(order.key, f"could not be started: {failed.strerror}"))
            return
        worker = Process(self._kernel, order.title.rpartition(": ")[2])
        fd = worker.install(end)
        self.process.close(control_fd)
        self.workers[order.key] = worker
        worker.on_end.append(lambda: self._child_ended(order.key, worker))
        handle = self.process.install(worker.death())
        self._tell(Forked(order.key, worker.pid), [handle])
        self.process.close(handle)
        delay_s = self._hardware.scarcity.boot_delay_s + self._hardware.chance.uniform(0.0, 0.02)

        async def program(process: Process) -> int:
            await trio.sleep(delay_s)
            return await _worker(self._hardware, process, fd)

        self._hardware.nursery.start_soon(worker.run, program, self._hardware.crashed)
        self._hardware.started(worker)

    def _tell(self, message: FromZygote, fds: list[int] | None = None) -> None:
        with contextlib.suppress(OSError):
            socket.send_fds(self._control, [control.encode(message)], fds or [])  # type: ignore[arg-type]

    def _child_ended(self, key: int, worker: Process) -> None:
        self._ended.append((key, worker))
        self._somebody_ended.set()

    async def _reap(self) -> None:
        while True:
            await self._somebody_ended.wait()
            self._somebody_ended = trio.Event()
            ended, self._ended = self._ended, []
            for key, worker in ended:
                del self.workers[key]
                assert worker.exit_status is not None
                self._tell(Exited(key, worker.pid, worker.exit_status))

    def _take_all_along(self) -> None:
        """PR_SET_PDEATHSIG: nobody outlives the zygote."""
        for worker in self.workers.values():
            worker.die(SIGKILL_STATUS)
