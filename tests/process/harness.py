"""Start a root with fake workers, talk to its front, watch its processes, and prove that nothing is left.

The test process is a subreaper while a root runs: whatever escapes from the root's tree becomes a child of the test,
however it was started, and fails it.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress

import trio
import trio.lowlevel

from supervisor import linux
from tests.catalogue import CHECKOUT
from tests.waiting import eventually

WAIT_S = 5.0
ANSWER_S = 20.0
"""For what a front waits for before it answers, such as a new zygote, which imports everything anew."""
TITLE = "mcp-bulkhead: "
_LAUNCH = """
import sys
{prelude}
from supervisor.__main__ import main
from supervisor.zygote_process import WorkerProgram
sys.exit(main(program=WorkerProgram({entry!r}, {warm_up!r}, ({checkout!r},))))
"""


def children(pid: int) -> list[int]:
    with suppress(OSError), open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(child) for child in file.read().split()]
    return []


def descendants(pid: int) -> list[int]:
    return [found for child in children(pid) for found in (child, *descendants(child))]


def command_line(pid: int) -> str:
    with suppress(OSError), open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as file:
        return file.read().replace("\0", " ").strip()
    return ""


def state(pid: int) -> str:
    """One letter as in proc(5), "" if there is no such process."""
    with suppress(OSError), open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        return file.read().rpartition(")")[2].split()[0]
    return ""


def cpu_s(pid: int) -> float:
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def oom_score(pid: int) -> int:
    with open(f"/proc/{pid}/oom_score_adj", encoding="ascii") as file:
        return int(file.read())


async def wait_gone(pid: int, within_s: float = WAIT_S) -> None:
    """Wait until the process has ended (it may still wait to be reaped)."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        with trio.fail_after(within_s):
            await trio.lowlevel.wait_readable(pidfd)
    finally:
        os.close(pidfd)


class Root:
    """A running root, and what takes its place in an upgrade. `lines` is what they have written to standard error."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.pid = process.pid
        """Of the version that is the service now, as far as the test has followed."""
        self.versions = [process.pid]
        self.lines: list[str] = []
        self.port = 0
        self._grown = trio.Event()

    async def read_lines(self) -> None:
        assert self.process.stderr
        rest = b""
        async with trio.lowlevel.FdStream(os.dup(self.process.stderr.fileno())) as stream:
            async for data in stream:
                *lines, rest = (rest + data).split(b"\n")
                self.lines += [line.decode() for line in lines]
                self._grown.set()
                self._grown = trio.Event()

    async def line(self, pattern: str, *, number: int = 1, within_s: float = WAIT_S) -> str:
        """Return the n-th line that matches, as soon as it is there."""
        try:
            with trio.fail_after(within_s):
                while len(found := [line for line in self.lines if re.search(pattern, line)]) < number:
                    await self._grown.wait()
        except trio.TooSlowError:
            raise AssertionError(f"no line {number} like {pattern!r} in {self.lines}") from None
        return found[number - 1]

    def process_of(self, role: str) -> int:
        """Return the pid of "zygote", "front" or "server main"; 0 if there is none."""
        return next((pid for pid in descendants(self.pid) if command_line(pid) == TITLE + role), 0)

    def roles(self) -> list[str]:
        """What processes there are, in the order in which they were started."""
        return [command_line(pid).removeprefix(TITLE) for pid in descendants(self.pid)]

    async def ask(self, words: str = "", *, host: str = "127.0.0.1") -> dict[str, object]:
        """Say something to the front, and return what it answers; asks again if the front dies meanwhile."""
        with trio.fail_after(ANSWER_S):
            while True:
                await trio.lowlevel.checkpoint()
                with suppress(trio.BrokenResourceError, OSError):
                    async with await trio.open_tcp_stream(host, self.port) as stream:
                        await stream.send_all(words.encode() + b"\n")
                        answer = b"".join([part async for part in stream])
                        if answer:
                            return json.loads(answer)

    async def server(self, name: str, incarnation: int = 1) -> dict[str, object]:
        """Return what the worker of a server said to the front, as soon as it is of that incarnation or a later one."""
        return (await self.ask(f"{name} {incarnation}"))["servers"][name]  # type: ignore[index, return-value]

    def kill(self, role: str, number: int = signal.SIGKILL) -> int:
        # The kernel may leave out a child while its siblings end (proc(5), "children"), so we look more than once.
        pid = next(filter(None, (self.process_of(role) for _ in range(10))), 0)
        assert pid, f"no {role} among {self.roles()}"
        os.kill(pid, number)
        return pid

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    async def upgraded(self) -> int:
        """Wait until another version is the service, follow it, and return which process was until now."""
        line = await self.line(r"process \d+ has taken over", number=len(self.versions), within_s=30)
        old, self.pid = self.pid, int(re.findall(r"process (\d+) has", line)[0])
        self.versions.append(self.pid)
        return old

    async def ended(self, within_s: float = WAIT_S, *, pid: int = 0) -> int:
        """Return the exit status of the service, or of the version that is named."""
        pid = pid or self.pid
        await wait_gone(pid, within_s)
        if pid == self.process.pid:
            return self.process.wait()

        async def is_ours() -> bool:
            return pid in children(os.getpid())

        await eventually(is_ours, "the version before it, its parent, is gone", within_s)
        return os.waitstatus_to_exitcode(os.waitpid(pid, os.WNOHANG)[1])  # noqa: ASYNC222 - it does not block

    @property
    def is_running(self) -> bool:
        if self.pid == self.process.pid:
            return self.process.poll() is None
        return state(self.pid) not in ("", "Z")


@asynccontextmanager
async def root(
    servers: Mapping[str, str] | None = None,
    *arguments: str,
    http: bool = True,
    prelude: str = "",
    entry: str = "tests.process.fake_worker:run",
    warm_up: str = "",
    wrap: Sequence[str] = (),
    wait: bool = True,
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.DEVNULL,
    stderr: int = subprocess.PIPE,
    port: int = 0,
    environ: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> AsyncIterator[Root]:
    """Run a root whose servers' workers behave as named (fake_worker.BEHAVIOURS); afterwards nothing may be left.

    A server may be given as a URL too, for an `entry` that is not made up. `environ`: more variables.

    `prelude`: code that runs first, to make times shorter than a test wants to wait for. `wait`: until it is ready,
    which only one whose standard error is not redirected can tell.
    """
    code = _LAUNCH.format(prelude=prelude, entry=entry, warm_up=warm_up, checkout=str(CHECKOUT))
    named = [
        f"{name}={what if '://' in what else f'http://fake.test/{what}'}"
        for name, what in (servers or {"main": "mcp"}).items()
    ]
    where = ["--http", "--port", str(port), "--state-dir", f"/proc/{os.getpid()}/no-such-folder"] if http else []
    if "--admin-socket" not in arguments and "--state-dir" not in arguments:
        where.append("--no-admin")
    command = [*wrap, sys.executable, "-c", code, *where, *arguments, "--servers", *named]
    _subreaper(True)
    known = set(children(os.getpid()))
    process = subprocess.Popen(  # noqa: ASYNC220 - takes milliseconds
        command,
        cwd=CHECKOUT,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
        env={**os.environ, **(environ or {})},
        pass_fds=pass_fds,
    )
    known.add(process.pid)
    one = Root(process)
    one.port = port
    try:
        async with trio.open_nursery() as nursery:
            if process.stderr:
                nursery.start_soon(one.read_lines)
            if wait and http:
                one.port = int(re.findall(r":(\d+)/mcp", await one.line("ready on", within_s=20))[0])
            yield one
            if one.is_running:
                one.signal(signal.SIGTERM)
                assert await one.ended() == 0, one.lines
            nursery.cancel_scope.cancel()
        await _nothing_left(known)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream:
                stream.close()
        for _ in range(100):
            if linux.kill_strangers(known):
                await trio.sleep(0.01)
        _subreaper(False)


async def _nothing_left(known: set[int], within_s: float = 2.0) -> None:
    """Fail if a process of the root outlives it by so long (R15)."""
    with trio.move_on_after(within_s):
        while left := [pid for pid in children(os.getpid()) if pid not in known]:
            for pid in left:
                await wait_gone(pid)
            linux.reap_strangers(known)
    left = [f"{pid} {command_line(pid)}" for pid in children(os.getpid()) if pid not in known]
    assert not left, f"left behind: {left}"


def _subreaper(on: bool) -> None:
    assert ctypes.CDLL(None).prctl(36, int(on), 0, 0, 0) == 0


def refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=WAIT_S).close()
    except ConnectionRefusedError:
        return True
    return False
