"""The zygote: a process with one thread and no event loop that forks every worker, and reaps what it has forked.

It has imported what workers need, so a fork is ready in milliseconds and shares most of its memory with the others. It
is a program of its own (zygote_process.py starts it), so that the first start and a replacement are the same thing.

Rule 1: one thread, always. A fork copies only the thread that forks; locks held by another would stay locked for ever.
Rule 2: it waits for orders from the root and for signals, and for nothing else but the time to make a spare.
Rule 3: when the root is gone, so is everybody: all workers are killed, then every orphan, then the zygote leaves.
Rule 4: a child that it did not fork is what a dead worker left behind. It is killed.
Rule 5: there is one spare (newborn.py), made only when nothing has been ordered for a while, and once for each order.
The root knows nothing of it: to the root, a spare that is handed over has been forked very fast.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib
import math
import os
import select
import signal
import socket
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn, cast

import setproctitle

from protocol import control, log_lines
from protocol.control import Exited, Fork, Forked, ForkFailed, FromZygote
from supervisor import linux
from supervisor.newborn import EXIT_CRASHED, Entry, Newborn, hand_over, say, warm_up

EXIT_BROKEN: Final = 78
"""sysexits EX_CONFIG: the worker program cannot even be imported."""
SPARE_AFTER_S: Final = 0.5
"""After an order. What it starts, and others that follow it, are more urgent."""
SWEEP_S_MAX: Final = 2.0
_WORTH_IGNORING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)
"""Terminals, `timeout`, and service managers send these to whole groups of processes. Only the root decides what they
mean: a front that died of SIGTERM could not finish its calls. What a worker starts does not inherit this, because a
handler, unlike "ignore", ends with exec."""
_PARENT_GONE: Final = signal.SIGUSR1
_HANDLED: Final = (signal.SIGCHLD, _PARENT_GONE)
"""Those that mean something to the zygote."""
_CAUGHT: Final = (*_HANDLED, *_WORTH_IGNORING)


@dataclass(frozen=True, slots=True)
class Program:
    """What workers run (`zygote_process.WorkerProgram`)."""

    entry: Entry
    warm_up: Callable[[], object] | None


@dataclass(frozen=True, slots=True)
class Spare:
    pid: int
    orders: socket.socket


def main(control_fd: int, entry_name: str, warm_up_name: str) -> NoReturn:
    """Run the zygote on this control socket. The names are those of `zygote_process.WorkerProgram`."""
    gc.disable()  # imports make much garbage that lives for ever anyway; workers turn it on again
    root = socket.socket(fileno=control_fd)
    wakeup = _catch_signals()
    linux.die_with_parent(_PARENT_GONE)  # if the root died before this, its end of the socket is closed already
    linux.adopt_orphans()
    setproctitle.setproctitle(f"{log_lines.PROGRAM}: zygote")
    try:
        program = Program(cast("Entry", _load(entry_name)), _load(warm_up_name) if warm_up_name else None)
    except Exception as error:  # noqa: BLE001 - whatever an import raises, it must be told in one line
        say(f"zygote: cannot load {entry_name}: {type(error).__name__}: {error}")
        os._exit(EXIT_BROKEN)
    gc.freeze()
    try:
        Zygote(root, wakeup, program).run()
    except BaseException:  # noqa: BLE001 - as above
        say(f"zygote: crashed: {traceback.format_exc()}")
        os._exit(EXIT_CRASHED)


def _load(name: str) -> Callable[..., object]:
    module, _, function = name.partition(":")
    return cast("Callable[..., object]", getattr(importlib.import_module(module), function))


def _catch_signals() -> socket.socket:
    """Make signals wake the returned socket. They arrive there as single bytes, and do nothing else."""
    wakeup, writer = socket.socketpair()
    wakeup.setblocking(False)
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
    for number in _CAUGHT:
        signal.signal(number, _do_nothing)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the root holds signals back while it starts
    return wakeup


def _do_nothing(_number: int, _frame: object) -> None:
    pass


class Zygote:
    """The loop of the zygote."""

    def __init__(self, root: socket.socket, wakeup: socket.socket, program: Program) -> None:
        self._root = root
        self._wakeup = wakeup
        self._program = program
        self._is_warm = False
        self._spare: Spare | None = None
        self._spare_due = math.inf
        self._workers: dict[int, int] = {}
        """pid → the root's key of that worker."""

    def run(self) -> NoReturn:
        poll = select.poll()
        poll.register(self._root, select.POLLIN)
        poll.register(self._wakeup, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll(self._patience_ms())}
            if not ready:
                self._make_spare()
            if self._wakeup.fileno() in ready:
                numbers = self._signals()
                if _PARENT_GONE in numbers:
                    self._leave()
                self._reap()
            if self._root.fileno() in ready:
                self._obey()

    def _signals(self) -> bytes:
        with contextlib.suppress(BlockingIOError):
            return self._wakeup.recv(4096)
        return b""

    def _obey(self) -> None:
        try:
            packet, fds, _, _ = socket.recv_fds(self._root, control.PACKET_BYTES_MAX, 1, socket.MSG_CMSG_CLOEXEC)
        except OSError:
            packet, fds = b"", []
        if not packet:
            self._leave()
        order = control.decode_to_zygote(packet)
        if fds:
            self._start(order, fds[0])
        else:  # the kernel had no descriptor left to give us, and has closed the worker's socket
            self._tell(ForkFailed(order.key, f"could not be started: {os.strerror(errno.EMFILE)}"))

    def _start(self, order: Fork, control_fd: int) -> None:
        try:
            pid = self._use_spare(order, control_fd) or self._fork_worker(order, control_fd)
        except OSError as error:  # EAGAIN, ENOMEM: the root tries again later
            self._tell(ForkFailed(order.key, f"could not be started: {error.strerror}"))
            return
        finally:
            os.close(control_fd)
            if self._program.warm_up and not self._spare:
                self._spare_due = time.monotonic() + SPARE_AFTER_S
        self._workers[pid] = order.key
        self._tell_forked(order.key, pid)

    def _fork_worker(self, order: Fork, control_fd: int) -> int:
        if self._workers and self._program.warm_up and not self._is_warm:
            self._warm_up(self._program.warm_up)  # not before the first: that is the front, whose port is waited for
        return self._fork(lambda newborn: newborn.be_worker(self._program.entry, order, control_fd))

    def _fork(self, become: Callable[[Newborn], NoReturn]) -> int:
        """Return the pid of a new process that does what `become` says. Errors: `OSError`."""
        assert linux.is_single_threaded(), "a thread was started in the zygote; forking would copy its locks"
        newborn = Newborn(os.getpid(), (self._root, self._wakeup), _HANDLED)
        # A signal between fork and the child's own settings would wake the zygote's loop from within the child.
        signal.pthread_sigmask(signal.SIG_BLOCK, _CAUGHT)
        try:
            pid = os.fork()
            if pid == 0:
                become(newborn)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _CAUGHT)
        return pid

    def _warm_up(self, rehearse: Callable[[], object]) -> None:
        """Do what the program wants to have done once before it is forked. It may run an event loop of its own."""
        self._is_warm = True
        signal.pthread_sigmask(signal.SIG_BLOCK, _CAUGHT)
        wakeup_fd = signal.set_wakeup_fd(-1)
        warm_up(rehearse, "zygote")
        signal.set_wakeup_fd(wakeup_fd, warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _CAUGHT)
        gc.freeze()

    # --- the spare ---------------------------------------------------------------------------------------------------
    def _patience_ms(self) -> float | None:
        """Return how long to wait for orders before a spare is made; None: there is no hurry."""
        return None if math.isinf(self._spare_due) else max(0.0, self._spare_due - time.monotonic()) * 1000

    def _make_spare(self) -> None:
        self._spare_due = math.inf
        rehearse = self._program.warm_up
        assert rehearse is not None, "without it no spare is due"
        with contextlib.suppress(OSError):  # the next order makes for another try
            orders, spare_end = linux.control_pair()
            with spare_end, contextlib.ExitStack() as on_failure:
                on_failure.enter_context(orders)
                fd = spare_end.fileno()
                pid = self._fork(lambda newborn: newborn.be_spare(self._program.entry, rehearse, fd))
                on_failure.pop_all()
            self._spare = Spare(pid, orders)

    def _use_spare(self, order: Fork, control_fd: int) -> int:
        """Make a worker of the spare and return its pid; 0 if there is none."""
        spare = self._spare
        if spare is None:
            return 0
        self._spare = None
        with spare.orders:
            return spare.pid if hand_over(spare.orders, order, control_fd) else 0

    def _tell_forked(self, key: int, pid: int) -> None:
        try:
            pidfd = os.pidfd_open(pid)  # it cannot have been reaped yet, so this is it
        except OSError as error:  # no descriptor left: a worker that cannot be watched must not live
            del self._workers[pid]
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            self._tell(ForkFailed(key, f"could not be watched: {error.strerror}"))
            return
        self._tell(Forked(key, pid), [pidfd])
        os.close(pidfd)

    def _tell(self, message: FromZygote, fds: Sequence[int] = ()) -> None:
        """Report to the root. Waits for room: without the root there is nothing else to do."""
        with contextlib.suppress(OSError):  # the root is gone; the next look at the socket says so
            socket.send_fds(self._root, [control.encode(message)], fds)

    def _reap(self) -> None:
        """Report workers that have ended, and make an end of what they left."""
        for pid, status, peak_bytes in _ended_children():
            key = self._workers.pop(pid, None)
            if key is not None:
                self._tell(Exited(key, pid, os.waitstatus_to_exitcode(status), peak_bytes))
            elif self._spare and pid == self._spare.pid:
                self._spare.orders.close()
                self._spare = None
        linux.kill_strangers(self._workers if self._spare is None else {*self._workers, self._spare.pid})

    def _leave(self) -> NoReturn:
        """End everything that descends from here, then this process."""
        deadline = time.monotonic() + SWEEP_S_MAX
        while linux.kill_strangers(()) and time.monotonic() < deadline:
            select.select([self._wakeup], [], [], 0.02)  # a child's end wakes it; orphans may follow without a signal
            self._signals()
        os._exit(0)


def _ended_children() -> list[tuple[int, int, int]]:
    """Reap every child that has ended; return (pid, wait status, most bytes resident at a time) of each."""
    ended: list[tuple[int, int, int]] = []
    with contextlib.suppress(ChildProcessError):
        while (found := os.wait4(-1, os.WNOHANG))[0]:
            pid, status, usage = found
            ended.append((pid, status, usage.ru_maxrss * 1024))
    return ended
