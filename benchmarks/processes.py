"""Starts the processes of a run and makes sure that none of them, and none of theirs, outlives it.

Three nets, one behind the other: `Children.stop` ends each child (TERM, wait, then KILL of its process group); what a
child left behind becomes ours, because this process is made a subreaper, and is killed; and if this very process is
killed, the kernel sends each child TERM (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from pathlib import Path
from typing import Final

STOP_WAIT_S: Final = 10.0
"""How long children may take to end after TERM."""
LOG_TAIL_BYTES: Final = 2000
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_prctl: Final = ctypes.CDLL(None, use_errno=True).prctl


class Child:
    """One started process; what it writes to its error output is kept in a file."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.process = process
        self.pid = process.pid
        self._log = log

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def last_words(self) -> str:
        """Return the end of what the process wrote to its error output."""
        return self._log.read_bytes()[-LOG_TAIL_BYTES:].decode("utf-8", "replace").strip()


class Children:
    """All processes of one run. `directory` takes their logs."""

    def __init__(self, directory: Path, say: Callable[[str], None]) -> None:
        self._directory = directory
        self._say = say
        self._children: list[Child] = []
        self._strangers = set(child_pids())
        """Children this process had before; they are none of our business."""
        _prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        cwd: Path,
        environment: Mapping[str, str] | None = None,
        inherit: Sequence[int] = (),
        piped: bool = False,
        processors: Collection[int] | None = None,
    ) -> Child:
        """Start a process in a session of its own, so that an interrupt of the terminal reaches only us.

        `piped`: its input and output are pipes of ours; otherwise its input is empty and its output goes to its log.
        `processors`: those on which it may run, it and its children; by default those of this process."""
        log = self._directory / f"{name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=None if environment is None else dict(environment),
                stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
                stdout=subprocess.PIPE if piped else output,
                stderr=output,
                bufsize=0,
                pass_fds=inherit,
                start_new_session=True,
                preexec_fn=functools.partial(_before_exec, processors),  # safe: this process has one thread
            )
        child = Child(name, process, log)
        self._children.append(child)
        return child

    def stop(self) -> None:
        """End everything, whatever state it is in; interrupts have to wait for it (at most STOP_WAIT_S)."""
        with _uninterrupted():
            for child in self._children:
                for pipe in (child.process.stdin, child.process.stdout):
                    if pipe is not None:
                        pipe.close()
                if child.alive:
                    child.process.terminate()
            deadline = time.monotonic() + STOP_WAIT_S
            for child in self._children:
                self._await_end(child, deadline)
            self._sweep()
            self._children.clear()
            _prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)

    def _await_end(self, child: Child, deadline: float) -> None:
        try:
            child.process.wait(max(deadline - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            self._say(f"{child.name} did not end within {STOP_WAIT_S:.0f} s of being told to, and is killed")
        # The group may have members although its leader has ended.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.process.wait()

    def _sweep(self) -> None:
        """Kill what has become our child because its own parent left it behind, until nothing comes any more."""
        while orphans := [pid for pid in child_pids() if pid not in self._strangers]:
            for pid in orphans:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, 0)


def child_pids(pid: int | None = None) -> list[int]:
    """Return the children of a process (default: this one), also of its threads; [] if it is gone."""
    tasks = Path(f"/proc/{pid or os.getpid()}/task")
    found: list[int] = []
    # A task may end while the directory is read.
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in tasks.iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                found += map(int, (task / "children").read_text().split())
    return found


def _before_exec(processors: Collection[int] | None) -> None:
    if processors is not None:
        os.sched_setaffinity(0, processors)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


@contextlib.contextmanager
def _uninterrupted() -> Generator[None]:
    before = {
        number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
