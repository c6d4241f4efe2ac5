"""What the Linux kernel offers for keeping hold of processes: death signals, adopted orphans, limits."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import resource
import signal
import socket
from collections.abc import Container
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import ctypes

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_OOM_SCORE_RAISE: Final = 300
_PAGE_BYTES: Final = resource.getpagesize()
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_DESCRIPTORS_WANTED: Final = 65_536
"""Clients, links and control sockets; far below what makes anything that walks all descriptors slow."""


@functools.cache
def _libc() -> ctypes.CDLL:
    import ctypes  # not needed before the zygote is started, and slow to load

    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)
    return libc


def _prctl(option: int, argument: int) -> None:
    if _libc().prctl(option, argument, 0, 0, 0) != 0:
        import ctypes

        error = ctypes.get_errno()
        raise OSError(error, f"prctl {option}: {os.strerror(error)}")


def die_with_parent(number: signal.Signals) -> None:
    """Get this signal when the parent's thread that started us ends. The caller must check that it has not yet."""
    _prctl(_PR_SET_PDEATHSIG, number)


def outlive_parent() -> None:
    """Take back `die_with_parent`."""
    _prctl(_PR_SET_PDEATHSIG, 0)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies (child subreaper)."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def children() -> list[int]:
    """Return the pids of our children, those not yet reaped included. Only for processes with a single thread.

    None if the kernel does not say (no CONFIG_PROC_CHILDREN) or no descriptor is left to ask with: orphans then live
    until their own death signals, or the next look.
    """
    pid = os.getpid()
    with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(child) for child in file.read().split()]
    return []


def kill_strangers(known: Container[int]) -> bool:
    """SIGKILL and, if already dead, reap every child that is not among the known ones. Return whether there was any.

    A child we did not start is an orphan of one that we did: a subreaper inherits them. Each may leave orphans itself,
    so only a look that finds none ends the search.
    """
    strangers = [pid for pid in children() if pid not in known]
    for pid in strangers:
        with contextlib.suppress(ProcessLookupError, PermissionError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)  # not yet reaped by us, so the number is still this child's
            os.waitpid(pid, os.WNOHANG)
    return bool(strangers)


def reap_strangers(known: Container[int]) -> None:
    """Reap children that we did not start, if they are dead (as process 1 of a container we get all orphans)."""
    for pid in children():
        if pid not in known:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def is_asleep(pid: int) -> bool:
    """Whether the process waits for something to happen (proc(5), states S and I). If /proc does not say: yes."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        # The second field, a name in parentheses, may contain anything; the state follows it.
        return os.read(fd, 256).rpartition(b")")[2][1:2] in b"SI"
    except OSError:
        return True
    finally:
        os.close(fd)


def is_single_threaded() -> bool:
    return len(os.listdir("/proc/self/task")) == 1


def prefer_as_oom_victim() -> None:
    """Ask the kernel to take this process before its root when memory runs out. Best effort."""
    with contextlib.suppress(OSError, ValueError):
        fd = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
        try:
            os.write(fd, b"%d" % min(1000, int(os.read(fd, 32)) + _OOM_SCORE_RAISE))
        finally:
            os.close(fd)


def oom_kills() -> int:
    """Return how many processes the kernel has killed for want of memory since it booted (0 if it does not say)."""
    with contextlib.suppress(OSError, ValueError), open("/proc/vmstat", encoding="ascii") as file:
        for line in file:
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def resident_bytes(pid: int) -> int:
    """Return how much memory a process has that is not swapped out, shared pages included; 0 if it is gone."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        fd = os.open(f"/proc/{pid}/statm", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return int(os.read(fd, 128).split()[1]) * _PAGE_BYTES
        finally:
            os.close(fd)
    return 0


def cpu_seconds(pid: int) -> float:
    """Return how long all threads of a process have run, in user and in system mode; 0 if it is gone."""
    with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{pid}/stat", "rb") as file:
        # Fields 14 and 15 of proc(5); the second, a name in parentheses, may contain anything.
        fields = file.read().rpartition(b")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
    return 0.0


def addresses(host: str) -> list[str]:
    """Return the IP addresses of a host, each once, in the order in which the system tells them. Blocks.

    Errors: `OSError`, of which `socket.gaierror` is one.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except UnicodeError:  # of a part of the name that is too long
        raise OSError(errno.EINVAL, "it is no name of a host") from None
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


def limit_data(size: int) -> None:
    """Let this process have so many bytes of private memory and no more.

    Only the soft limit: whatever it starts itself can be given another one.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (size if hard == resource.RLIM_INFINITY else min(size, hard), hard))


def require_descriptors(count: int) -> None:
    """Make sure that so many more descriptors can be had.

    Errors: `OSError` (EMFILE, ENFILE) if not.
    """
    taken: list[int] = []
    try:
        for _ in range(count):
            taken.append(os.dup(2))  # noqa: PERF401 - those that were had before it failed must not be lost
    finally:
        for fd in taken:
            os.close(fd)


def shared_memory(size: int) -> int:
    """Return a descriptor of so many zeros in memory that nobody can make larger or smaller any more.

    Errors: `OSError` if there is no descriptor or no memory to be had.
    """
    fd = os.memfd_create("mcp-bulkhead", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        # A worker that has been taken over by its server must neither fill the memory nor cut off what others read.
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
    except OSError:
        os.close(fd)
        raise
    return fd


def control_pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a control socket.

    Errors: `OSError`.
    """
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def set_limits() -> None:
    """Allow as many descriptors as we may, and no core dumps: they would hold session keys and calls."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS_WANTED if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS_WANTED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
