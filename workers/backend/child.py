"""One life of a server that is a command: starting the process, telling how it ended, making an end of what it left.

Rule 1: no shell. The arguments reach the program as they were written.
Rule 2: it is started from the worker's main thread, because a death signal is sent when the *thread* that forked ends.
Rule 3: it leads a session, and so a process group, of its own, and dies with the worker. What it starts belongs to that
group, or leaves it and becomes a child of the worker when its parent ends (the worker is a subreaper); the group and
those children are killed when the server has ended. If the worker is killed, they become the zygote's, which kills
them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
from collections.abc import Container
from typing import Final

import msgspec
import trio

from protocol.control import Command

_PR_SET_PDEATHSIG: Final = 1
_PR_GET_CHILD_SUBREAPER: Final = 37
_DESCRIPTORS_USUAL: Final = 1024
"""Soft limit that programs are used to. Ours is far higher, and some close every descriptor up to it one by one."""
_HINTS: Final = {
    **dict.fromkeys(("node", "npm", "npx"), "install Node.js"),
    **dict.fromkeys(("uv", "uvx"), "install uv (https://docs.astral.sh/uv)"),
    **dict.fromkeys(("docker", "podman", "deno", "bun", "bunx", "python", "python3", "pipx"), "install it"),
}
_OUT_OF_MEMORY: Final = (b"heap out of memory", b"MemoryError", b"Out of memory")
"""What Node.js, Python and others say when they end because no memory is left to them."""
MARK: Final = "MCP_BULKHEAD_RUN"
"""The variable that tells apart what several runs of one command have started."""
_MARK: Final = MARK.encode() + b"="
_ENVIRON_BYTES_MAX: Final = 1 << 20
TASKS_SPARE: Final = 1000
"""What other programs of the user may start meanwhile."""
_NOT_FOUND_STATUS: Final = 127
_NOT_EXECUTABLE_STATUS: Final = 126


class End(msgspec.Struct, frozen=True):
    """How a process ended."""

    status: int
    """Its exit status, or minus the signal."""
    text: str
    """Continues "the server ..."."""


class Child:
    """A running command. The descriptors are ours, and non-blocking.

    Errors: `OSError` if it cannot be started (see `why_not`).
    """

    def __init__(self, command: Command) -> None:
        descriptors, memory = _usual_limit(), _memory_limit(command.memory_bytes)
        tasks = _task_limit(command.processes_max)
        processors = _processors(command.processors_max)
        self._oom_kills = _oom_kills()
        parent = os.getpid()
        prctl = ctypes.CDLL(None, use_errno=True).prctl

        def settle() -> None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)  # the worker died before it could be said
            resource.setrlimit(resource.RLIMIT_NOFILE, descriptors)
            resource.setrlimit(resource.RLIMIT_DATA, memory)
            resource.setrlimit(resource.RLIMIT_NPROC, tasks)
            os.nice(command.nice)
            if processors:
                os.sched_setaffinity(0, processors)

        self._process = subprocess.Popen(  # noqa: S603 - what the user has configured, as it is
            [os.path.expanduser(command.argv[0]), *command.argv[1:]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=command.environment,
            cwd=os.path.expanduser(command.cwd) or None,
            start_new_session=True,
            preexec_fn=settle,
        )
        self.pid = self._process.pid
        self.gone = trio.Event()
        """Set when it has ended and been reaped."""
        self.end: End | None = None

    def take_pipes(self) -> tuple[int, int, int]:
        """Return its standard input, output and error, which belong to the caller from now on."""
        process = self._process
        files = (process.stdin, process.stdout, process.stderr)
        process.stdin = process.stdout = process.stderr = None
        fds: list[int] = []
        for file in files:
            assert file is not None
            fd = os.dup(file.fileno())
            file.close()
            os.set_blocking(fd, False)
            fds.append(fd)
        return fds[0], fds[1], fds[2]

    def look(self) -> bool:
        """Tell whether it has ended; if it just has, kill what is left of its group and reap it."""
        if self.end is None and _has_ended(self.pid):
            # Not reaped yet, so the group's number cannot have become another's.
            self.signal(signal.SIGKILL)
            self.end = _end_of(self._process.wait(), _oom_kills() > self._oom_kills)
            self.gone.set()
        return self.end is not None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to its whole group."""
        if self.end is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)


def why_not(command: Command, error: OSError) -> str:
    """Say why a command could not be started. Continues "the server ..."; shows no argument."""
    program = command.argv[0]
    if command.cwd and error.filename == os.path.expanduser(command.cwd):
        return f"cannot be started in {command.cwd}: {error.strerror}; check its cwd"
    if isinstance(error, FileNotFoundError):
        if "/" in program and os.path.exists(os.path.expanduser(program)):
            return f"cannot be started: the interpreter that {program} names in its first line is missing"
        if " " in program:
            return f"cannot be started: there is no program {program!r}; its arguments belong in args"
        hint = _HINTS.get(os.path.basename(program), "check its command, or give the program's whole path")
        return f"cannot be started: {program} was not found{'' if '/' in program else ' on PATH'}; {hint}"
    if isinstance(error, PermissionError):
        return (
            f"cannot be started: {program} may not be executed; make it executable (chmod +x), or name its interpreter"
        )
    return f"cannot be started: {program}: {error.strerror or 'unknown error'}"


def tells_want_of_memory(tail: bytes) -> bool:
    """Whether the last that a process wrote says that it ran out of memory."""
    return any(mark in tail for mark in _OUT_OF_MEMORY)


def sweep_orphans(known: Container[int], mark: str | None = None) -> bool:
    """Kill, or reap, every child of this process that is not among the known; return whether there was any.

    `mark`: only those that carry it (`mark_of`); None for all.

    Each may leave orphans itself, so only a look that finds none ends the search.
    """
    strangers = [pid for pid in children() if pid not in known and (mark is None or mark_of(pid) == mark)]
    for pid in strangers:
        with contextlib.suppress(ProcessLookupError, PermissionError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, os.WNOHANG)
    return bool(strangers)


def reap_orphans(known: Container[int]) -> None:
    """Reap children that are not among the known, if they have ended."""
    for pid in children():
        if pid not in known:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def are_more_than(most: int, roots: list[int]) -> bool:
    """Whether these are more processes than that, with what descends from them; no more of them are looked at."""
    found = pending = roots
    while pending and len(found) <= most:
        pending = [child for pid in pending for child in _children_of(pid)]
        found = found + pending
    return len(found) > most


def is_subreaper() -> bool:
    """Whether orphans that descend from this process become its children, and all its children are therefore ours."""
    found = ctypes.c_int(0)
    return ctypes.CDLL(None).prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(found), 0, 0, 0) == 0 and found.value == 1


def mark_of(pid: int) -> str:
    """Return the mark in the environment that a process was started with; "" for none, or if that cannot be read."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
        for variable in file.read(_ENVIRON_BYTES_MAX).split(b"\0"):
            if variable.startswith(_MARK):
                return variable[len(_MARK) :].decode("ascii", "replace")
    return ""


def children() -> list[int]:
    """Return the children of this process, those that have ended included."""
    # Orphans are given to the first thread of a process, which is also the one that starts servers.
    pid = os.getpid()
    with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(child) for child in file.read().split()]
    return []


def _children_of(pid: int) -> list[int]:
    """The same of another process, which may have several threads."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:
                found += map(int, file.read().split())
    return found


def _has_ended(pid: int) -> bool:
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def _end_of(status: int, is_memory_short: bool) -> End:
    if status == -signal.SIGKILL and is_memory_short:
        return End(status, "was killed by the system because memory ran out")
    if status < 0:
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        return End(status, f"was ended by {name}")
    if status == _NOT_FOUND_STATUS:
        return End(status, "ended with exit status 127: something it starts was not found; check its command")
    if status == _NOT_EXECUTABLE_STATUS:
        return End(status, "ended with exit status 126: something it starts may not be executed; check its command")
    return End(status, f"ended by itself (exit status {status})")


def _usual_limit() -> tuple[int, int]:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (_DESCRIPTORS_USUAL if hard == resource.RLIM_INFINITY else min(_DESCRIPTORS_USUAL, hard)), hard


def _memory_limit(size: int) -> tuple[int, int]:
    """Return the limit of its own, or none: that of the worker is meant for the worker."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if not size:
        return hard, hard
    return (size if hard == resource.RLIM_INFINITY else min(size, hard)), hard


def _task_limit(processes_max: int) -> tuple[int, int]:
    """Return a limit that lets a flood of processes run into the kernel before it is noticed here.

    The kernel counts all tasks of the user, whoever started them, and not at all for root.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    if not processes_max:
        return soft, hard
    wanted = _tasks_of_user() + processes_max + TASKS_SPARE
    return min((wanted, *(limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY))), hard


def _processors(most: int) -> set[int]:
    """Return which of those that we may use it may use, all that it starts included; none if it may use all.

    Those of different workers begin at different ones, so that few commands crowd on the same.
    """
    ours = sorted(os.sched_getaffinity(0))
    if not 0 < most < len(ours):
        return set()
    first = os.getpid() % len(ours)
    return set((ours + ours)[first : first + most])


def _tasks_of_user() -> int:
    count, user = 0, os.getuid()
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                if os.stat(f"/proc/{name}").st_uid == user:
                    count += len(os.listdir(f"/proc/{name}/task"))
    return count


def _oom_kills() -> int:
    """Return how many processes the kernel has killed for want of memory (0 if it does not say)."""
    with contextlib.suppress(OSError, ValueError), open("/proc/vmstat", encoding="ascii") as file:
        for line in file:
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0
