"""Real processes under test: starting them, finding their workers, killing them, proving that nothing is left.

Everything here blocks, with a bound. Asynchronous tests call it through `trio.to_thread.run_sync`, or use the fixtures
of conftest.py, which do.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil

from tests.catalogue import CHECKOUT
from tests.waiting import wait_until

LOOPBACK = "127.0.0.1"
START_S_MAX = 20.0  # importing an SDK takes seconds on a machine that is busy with other tests
STOP_S_MAX = 35.0  # the proxy promises to be gone after 30 s, whatever happens
LEFTOVER_S_MAX = 2.0  # R15
TITLE = "mcp-bulkhead: "


def free_port() -> int:
    """Return a port nobody listens on; the kernel does not hand it out again soon."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def answers(port: int) -> bool:
    try:
        socket.create_connection((LOOPBACK, port), timeout=1.0).close()
    except OSError:
        return False
    return True


def is_running(process: psutil.Process) -> bool:
    """Whether the process still does anything; one that only waits to be reaped does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


def tail(path: Path, bytes_max: int = 8192) -> str:
    """Return the end of a text file; "" if there is none."""
    try:
        return path.read_bytes()[-bytes_max:].decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


class Program:
    """One program under test, in a session of its own, with its standard error in a file."""

    def __init__(self, arguments: Sequence[str], stderr: Path, *, env: dict[str, str] | None = None) -> None:
        self.stderr = stderr
        self.arguments = [sys.executable, *arguments]
        self.env = os.environ | (env or {})
        self.start()

    def start(self) -> None:
        self.ended_by_test = False
        with self.stderr.open("ab") as sink:
            self.process = subprocess.Popen(
                self.arguments,
                cwd=CHECKOUT,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def said(self) -> str:
        """What the program has written so far, for the message of a failing test."""
        return tail(self.stderr)

    def wait_for_port(self, port: int) -> None:
        """Errors: `AssertionError` with what the program wrote, if it ends or is not ready in time; it is gone then."""

        def look() -> bool:
            assert self.process.poll() is None, f"it ended with {self.process.returncode} instead of starting"
            return answers(port)

        try:
            wait_until(look, f"port {port} answers", START_S_MAX)
        except AssertionError as error:
            self.destroy()
            raise AssertionError(f"{error}\nIt wrote:\n{self.said()}") from None

    def family(self) -> list[psutil.Process]:
        """The process and everything it started that is still there."""
        try:
            root = psutil.Process(self.pid)
            return [process for process in (root, *root.children(recursive=True)) if is_running(process)]
        except psutil.NoSuchProcess:
            return []

    def kill(self) -> None:
        """SIGKILL, as the kernel does when memory runs out; returns when the process is gone."""
        self.ended_by_test = True
        self.process.kill()
        self.process.wait(5)

    def stop(self) -> None:
        """Ask it to leave and prove that it does: in time, without error, and taking everything it started along.

        Errors: `AssertionError` with what it wrote. Nothing is left running in either case.
        """
        self.ended_by_test = True
        family = self.family()
        try:
            assert self.process.poll() is None, f"it ended by itself, with {self.process.returncode}"
            self.process.send_signal(signal.SIGTERM)
            try:
                status = self.process.wait(STOP_S_MAX)
            except subprocess.TimeoutExpired:
                raise AssertionError(f"still there {STOP_S_MAX:g} s after SIGTERM") from None
            assert status == 0, f"exit status {status}"
            assert_gone(family)
        except AssertionError as error:
            raise AssertionError(f"it did not stop cleanly: {error}\nIt wrote:\n{self.said()}") from None
        finally:
            for process in family:
                if is_running(process):
                    process.kill()
            self.destroy()

    def destroy(self) -> None:
        """Leave nothing behind, whatever state the program is in."""
        for process in self.family():
            if is_running(process):
                process.kill()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(5)


class Server(Program):
    """A server of the official SDK in a process of its own, which can be killed and started again on its port.

    `options` become its command line: `era="legacy"` is `--era legacy`.
    """

    def __init__(
        self,
        stderr: Path,
        *,
        port: int = 0,
        wait: bool = True,
        module: str = "tests.peers.sdk_server",
        **options: object,
    ) -> None:
        self.port = port or free_port()
        self.url = f"http://{LOOPBACK}:{self.port}/mcp"
        given = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        super().__init__(["-m", module, "--port", str(self.port), *given], stderr)
        if wait:
            self.wait_for_port(self.port)

    def restart(self) -> None:
        self.kill()
        self.start()
        self.wait_for_port(self.port)


def servers_option(servers: dict[str, str]) -> list[str]:
    """Return the part of the proxy's command line that names the servers."""
    return ["--servers", ",".join(f"{name}={url}" for name, url in servers.items())]


class Proxy(Program):
    """The proxy over HTTP, as a user starts it."""

    def __init__(
        self, servers: dict[str, str], stderr: Path, *arguments: str, port: int = 0, env: dict[str, str] | None = None
    ) -> None:
        self.port = port or free_port()
        self.url = f"http://{LOOPBACK}:{self.port}/mcp"
        self.log_file = stderr.with_suffix(".jsonl")
        files = ["--state-dir", str(stderr.with_suffix(".state")), "--log-file", str(self.log_file)]
        named = servers_option(servers) if servers else []
        command = ["-m", "supervisor", "--http", "--port", str(self.port), *files, *arguments, *named]
        super().__init__(command, stderr, env=env)
        self.wait_for_port(self.port)

    def said(self) -> str:
        return f"{super().said()}\nand to its log:\n{tail(self.log_file)}"

    def worker(self, role: str) -> psutil.Process:
        """Return the process titled so: "front", "zygote", or "server NAME"; waits until there is one."""

        def look() -> psutil.Process | None:
            wanted = TITLE + role
            return next((process for process in self.family() if title(process).strip() == wanted), None)

        return wait_until(look, f"a process titled {TITLE + role!r}")

    def kill_worker(self, role: str) -> int:
        """SIGKILL one worker, wait until it is gone, and return the pid it had."""
        process = self.worker(role)
        process.kill()
        wait_until(lambda: not is_running(process), f"{role} is gone")
        return process.pid

    def replacement(self, role: str, old_pid: int, timeout_s: float = 5.0) -> psutil.Process:
        """Return the worker that took the place of the one with `old_pid`."""

        def look() -> psutil.Process | None:
            process = self.worker(role)
            return process if process.pid != old_pid else None

        return wait_until(look, f"{role} is replaced", timeout_s)


def assert_gone(processes: Sequence[psutil.Process], within_s: float = LEFTOVER_S_MAX) -> None:
    """Fail unless all of them are gone `within_s` seconds from now."""
    _, alive = psutil.wait_procs([p for p in processes if is_running(p)], timeout=within_s)
    left = [f"{process.pid} {title(process)}" for process in alive if is_running(process)]
    assert not left, f"left behind: {', '.join(left)}"
