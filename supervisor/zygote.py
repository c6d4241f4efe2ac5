"""The zygote: a process with one thread and no event loop that forks every worker, and reaps what it has forked.

It has imported what workers need, so a fork is ready in milliseconds and shares most of its memory with the others. It
is a program of its own (zygote_process.py starts it), so that the first start and a replacement are the same thing.

Rule 1: one thread, always. A fork copies only the thread that forks; locks held by another would stay locked for ever.
Rule 2: it waits for orders from the root and for signals, and for nothing else.
Rule 3: when the root is gone, so is everybody: all workers are killed, then every orphan, then the zygote leaves.
Rule 4: a child that it did not fork is what a dead worker left behind. It is killed.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import select
import signal
import socket
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Final, NoReturn, cast

import setproctitle

from protocol import control, log_lines
from protocol.control import Exited, Fork, Forked, ForkFailed, FromZygote
from supervisor import linux

Entry = Callable[[int], NoReturn]
"""What a worker runs: takes its control socket's descriptor and never returns."""

CONTROL_FD: Final = 3
"""Of every worker, and nothing else is open above standard error."""
EXIT_BROKEN: Final = 78
"""sysexits EX_CONFIG: the worker program cannot even be imported."""
EXIT_CRASHED: Final = 70
"""sysexits EX_SOFTWARE: a worker let an exception escape."""
SWEEP_S_MAX: Final = 2.0
_WORTH_IGNORING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)
"""Terminals, `timeout`, and service managers send these to whole groups of processes. Only the root decides what they
mean: a front that died of SIGTERM could not finish its calls. What a worker starts does not inherit this, because a
handler, unlike "ignore", ends with exec."""
_PARENT_GONE: Final = signal.SIGUSR1


def main(control_fd: int, entry_name: str) -> NoReturn:
    """Run the zygote on this control socket. `entry_name`: "module:function", what each worker runs."""
    gc.disable()  # imports make much garbage that lives for ever anyway; workers turn it on again
    root = socket.socket(fileno=control_fd)
    wakeup = _catch_signals()
    linux.die_with_parent(_PARENT_GONE)  # if the root died before this, its end of the socket is closed already
    linux.adopt_orphans()
    setproctitle.setproctitle(f"{log_lines.PROGRAM}: zygote")
    try:
        entry = _load(entry_name)
    except Exception as error:  # noqa: BLE001 - whatever an import raises, it must be told in one line
        _say(f"zygote: cannot load {entry_name}: {type(error).__name__}: {error}")
        os._exit(EXIT_BROKEN)
    gc.freeze()
    try:
        Zygote(root, wakeup, entry).run()
    except BaseException:  # noqa: BLE001 - as above
        _say(f"zygote: crashed: {traceback.format_exc()}")
        os._exit(EXIT_CRASHED)


def _load(entry_name: str) -> Entry:
    module, _, function = entry_name.partition(":")
    return cast("Entry", getattr(importlib.import_module(module), function))


def _catch_signals() -> socket.socket:
    """Make signals wake the returned socket. They arrive there as single bytes, and do nothing else."""
    wakeup, writer = socket.socketpair()
    wakeup.setblocking(False)
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, _PARENT_GONE, *_WORTH_IGNORING):
        signal.signal(number, _do_nothing)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the root holds signals back while it starts
    return wakeup


def _do_nothing(_number: int, _frame: object) -> None:
    pass


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, log_lines.human_line(text))


class Zygote:
    """The loop of the zygote."""

    def __init__(self, root: socket.socket, wakeup: socket.socket, entry: Entry) -> None:
        self._root = root
        self._wakeup = wakeup
        self._entry = entry
        self._workers: dict[int, int] = {}
        """pid → the root's key of that worker."""

    def run(self) -> NoReturn:
        poll = select.poll()
        poll.register(self._root, select.POLLIN)
        poll.register(self._wakeup, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll()}
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
        self._fork(control.decode_to_zygote(packet), fds[0])

    def _fork(self, order: Fork, control_fd: int) -> None:
        assert linux.is_single_threaded(), "a thread was started in the zygote; forking would copy its locks"
        parent = os.getpid()
        # A signal between fork and the child's own settings would wake the zygote's loop from within the child.
        blocked = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
        try:
            pid = os.fork()
        except OSError as error:  # EAGAIN, ENOMEM: the root tries again later
            self._tell(ForkFailed(order.key, f"could not be started: {error.strerror}"))
            return
        else:
            if pid == 0:
                self._become_worker(parent, control_fd, order)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            os.close(control_fd)
        self._workers[pid] = order.key
        self._tell_forked(order.key, pid)

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
        linux.kill_strangers(self._workers)

    def _leave(self) -> NoReturn:
        """End everything that descends from here, then this process."""
        deadline = time.monotonic() + SWEEP_S_MAX
        while linux.kill_strangers(()) and time.monotonic() < deadline:
            select.select([self._wakeup], [], [], 0.02)  # a child's end wakes it; orphans may follow without a signal
            self._signals()
        os._exit(0)

    # --- in the child ------------------------------------------------------------------------------------------------
    def _become_worker(self, parent: int, control_fd: int, order: Fork) -> NoReturn:
        code, title = EXIT_CRASHED, order.title
        try:
            self._settle(parent, control_fd, title)
            if order.data_max:
                linux.limit_data(order.data_max)
            self._entry(CONTROL_FD)
        except MemoryError:
            code = control.EXIT_OUT_OF_MEMORY
        except SystemExit as leave:
            code = leave.code if isinstance(leave.code, int) else int(leave.code is not None)
        except BaseException:  # noqa: BLE001 - the last place where it can be told
            _say(f"{title.removeprefix(f'{log_lines.PROGRAM}: ')}: crashed: {traceback.format_exc()}")
        finally:
            os._exit(code)  # never unwind into the zygote's frames

    def _settle(self, parent: int, control_fd: int, title: str) -> None:
        """Cut what ties this process to the zygote, and tie its life to the zygote's."""
        linux.die_with_parent(signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(EXIT_CRASHED)
        linux.adopt_orphans()  # what its server leaves behind stays with this worker until it ends
        linux.prefer_as_oom_victim()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(_PARENT_GONE, signal.SIG_DFL)
        # Were these sockets collected as garbage, they would close whatever has their numbers by then.
        self._root.detach()
        self._wakeup.detach()
        os.dup2(control_fd, CONTROL_FD, inheritable=False)
        os.closerange(CONTROL_FD + 1, 2**31 - 1)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        setproctitle.setproctitle(title)
        gc.enable()


def _ended_children() -> list[tuple[int, int, int]]:
    """Reap every child that has ended; return (pid, wait status, most bytes resident at a time) of each."""
    ended: list[tuple[int, int, int]] = []
    with contextlib.suppress(ChildProcessError):
        while (found := os.wait4(-1, os.WNOHANG))[0]:
            pid, status, usage = found
            ended.append((pid, status, usage.ru_maxrss * 1024))
    return ended
