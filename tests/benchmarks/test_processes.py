"""benchmarks.processes, .cpu and .memory: nothing started stays, and what processes use is told truly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from benchmarks import cpu
from benchmarks.cpu import CpuUse, cpu_ns, family, process_title, proxy_parts
from benchmarks.memory import SIZES, per_large_answer
from benchmarks.messages import Workload
from benchmarks.rounds import LoadResult
from tests.catalogue import CHECKOUT
from tests.processes import assert_gone, is_running
from tests.waiting import wait_until

STARTS_TWO = """
import subprocess, sys, time
from pathlib import Path
from benchmarks.processes import Children

ORPHAN = "import os, time; os.setsid(); open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(60)"
LEADER = (
    "import signal, subprocess, sys, time;"
    "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0));"
    "subprocess.Popen([sys.executable, '-c', 'import sys;' + sys.argv[1], sys.argv[2]]);"
    "time.sleep(60)"
)
directory = Path(sys.argv[1])
stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], stdout=subprocess.DEVNULL)
children = Children(directory, print)
children.start("leader", [sys.executable, "-c", LEADER, ORPHAN, str(directory / "orphan")], cwd=directory)
children.start("stubborn", [sys.executable, "-c", "import signal, sys, time;"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN); print('I stay', file=sys.stderr, flush=True);"
    "time.sleep(60)"], cwd=directory)
print("started", stranger.pid, flush=True)
sys.stdin.readline()
import benchmarks.processes
benchmarks.processes.STOP_WAIT_S = 0.5
children.stop()
assert stranger.poll() is None, "a child from before was none of its business"
stranger.kill()
stranger.wait()
print("stopped", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def starter(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that starts one child with a daemon of its own, and one that does not end when it is told to."""
    process = subprocess.Popen(
        [sys.executable, "-c", STARTS_TWO, str(tmp_path)],
        cwd=CHECKOUT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process
    process.kill()
    process.communicate(timeout=5)


def started_by(starter: subprocess.Popen[str], directory: Path) -> list[psutil.Process]:
    """Wait until all is started; return the processes that must go."""
    word, stranger = starter.stdout.readline().split()
    assert word == "started"
    wait_until(lambda: (directory / "orphan").exists() and (directory / "orphan").read_text(), "the daemon has started")
    wait_until(lambda: b"I stay" in (directory / "stubborn.log").read_bytes(), "the stubborn one has started")
    found = psutil.Process(starter.pid).children(recursive=True)
    assert len(found) == 4
    return [process for process in found if process.pid != int(stranger)]


def test_stopping_ends_daemons_and_those_who_do_not_listen_but_no_strangers(
    starter: subprocess.Popen[str], tmp_path: Path
) -> None:
    processes = started_by(starter, tmp_path)

    starter.stdin.write("\n")
    starter.stdin.flush()

    assert starter.stdout.readline() == "stubborn did not end within 0 s of being told to, and is killed\n"
    assert starter.stdout.readline() == "stopped\n"
    assert not [process for process in processes if is_running(process)]


def test_children_that_listen_end_when_their_starter_is_killed(starter: subprocess.Popen[str], tmp_path: Path) -> None:
    processes = started_by(starter, tmp_path)
    family = psutil.Process(starter.pid).children(recursive=True)
    leader = next(process for process in processes if "subprocess" in " ".join(process.cmdline()))
    try:
        starter.kill()

        assert_gone([leader])
    finally:
        for process in family:
            if is_running(process):
                process.kill()


SPINNER = "import sys, time\nwhile time.process_time() < 0.3: pass\nprint('done', flush=True)\nsys.stdin.readline()"


def test_cpu_time_is_what_the_process_itself_has_counted() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SPINNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    use = CpuUse({process.pid: "worker", os.getpid(): "front"})
    assert process.stdout.readline() == "done\n"
    used, ended = use.end()
    process.communicate("\n", timeout=5)

    assert 0.2e9 < used["worker"] < 0.5e9
    assert used["front"] < 0.2e9
    assert not ended
    assert use.end()[1], "a process that has ended is noticed"
    assert cpu_ns(process.pid) is None


def test_kernels_without_exact_accounts_are_asked_for_ticks() -> None:
    begun = cpu._ticks_ns(os.getpid())
    while time.process_time_ns() - begun < 30_000_000:
        pass

    assert cpu._ticks_ns(os.getpid()) == pytest.approx(time.process_time_ns(), abs=50_000_000)


TITLED = """
import os, sys, time
from setproctitle import setproctitle
for title in ("front", "server main", "server other", "zygote"):
    if os.fork() == 0:
        setproctitle("mcp-bulkhead: " + title)
        if title == "zygote" and os.fork() == 0:
            setproctitle("something else")
        time.sleep(60)
setproctitle("mcp-bulkhead: root")
print("titled", flush=True)
sys.stdin.readline()
"""


def test_the_parts_of_a_proxy_are_known_by_their_titles() -> None:
    root = subprocess.Popen([sys.executable, "-c", TITLED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert root.stdout.readline() == "titled\n"
        wait_until(
            lambda: sorted(proxy_parts(root.pid).values()) == ["front", "other", "root", "worker", "worker", "zygote"],
            "all have their titles",
        )
        assert process_title(root.pid) == "mcp-bulkhead: root"
    finally:
        for pid in reversed(family(root.pid)):
            os.kill(pid, signal.SIGKILL)
        root.communicate(timeout=5)

    assert proxy_parts(root.pid) == {root.pid: "other"}, "it is gone, and so are its children"


COPIER = """
import sys
print("ready", flush=True)
answers = []
for line in sys.stdin:
    size, copies = map(int, line.split())
    answer = bytes(size)
    for _ in range(copies):
        answers.append(bytearray(answer))
    print("held", flush=True)
    sys.stdin.readline()
    answers.clear()
    del answer
"""


class Copying:
    """A subject that holds an answer and a number of copies of it."""

    name = "copying"

    def __init__(self, process: subprocess.Popen[str], copies: int) -> None:
        self.process = process
        self.copies = copies
        self.size = 0

    def open_load(self, workload: Workload, connections: int) -> Copying:
        self.size = workload.size
        return self

    def parts(self) -> dict[int, str]:
        return {self.process.pid: "front"}

    def run(self, seconds: float) -> LoadResult:
        self.process.stdin.write(f"{self.size} {self.copies}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "held\n"
        return LoadResult(calls=1)

    def close(self) -> None:
        self.process.stdin.write("\n")
        self.process.stdin.flush()


@pytest.mark.parametrize("copies", [0, 1, 3])
def test_copies_of_an_answer_are_seen_in_the_memory_it_takes(copies: int) -> None:
    process = subprocess.Popen([sys.executable, "-c", COPIER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        multiples = per_large_answer(Copying(process, copies))
    finally:
        process.communicate(timeout=5)

    assert len(SIZES) == 3
    # An answer of zeros needs no memory of its own until it is copied or written to: the kernel's one page of zeros.
    assert copies <= multiples["front"] <= copies + 1.3
