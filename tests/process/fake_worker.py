"""A worker for tests of the supervisor: speaks the control protocol, and misbehaves as the server's URL tells it to.

The front answers every connection to its port with one line of JSON about what it knows. It first reads a line that
says what to wait for or to do:

    ""           nothing               "main 2"      wait for a link with incarnation 2 of server main, or a later one
    "end x,y"    report the sessions   "parked main" wait until no restart of server main is due soon
                 as ended              "broken main 2"  report the link with that incarnation as broken
    "drain 3"    take so long to drain

A backend worker writes who it is to each link it gets, and nothing else.

The path of a server's URL says how its worker behaves, see `BEHAVIOURS`.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import time
from typing import NoReturn

from protocol import control
from protocol.control import (
    Attach,
    Boot,
    Drain,
    DropServer,
    EndedSessions,
    FrontSettings,
    LinkBroken,
    Ready,
    Released,
    Serve,
    ServerDown,
    SessionEnded,
    StdioClosed,
    StdioSession,
    Stop,
    WorkerState,
)
from workers.pages import open_own


class Control:
    def __init__(self, fd: int) -> None:
        self.sock = socket.socket(fileno=fd)
        self.page_fd = -1
        """The memory shared with the root. Who does not write to it shows no heartbeats, and is not expected to."""

    def receive(self) -> tuple[control.ToWorker | None, list[int]]:
        data, fds, _, _ = socket.recv_fds(self.sock, control.PACKET_BYTES_MAX, 32)
        return (control.decode_to_worker(data) if data else None), fds

    def send(self, message: control.FromWorker) -> None:
        self.sock.send(control.encode(message))


def warm_up() -> None:
    """What the zygote does before it forks, and a spare before it waits."""


def fail_to_warm_up() -> None:
    raise RuntimeError("no stage")


def run(control_fd: int) -> NoReturn:
    root = Control(control_fd)
    boot, fds = root.receive()
    assert isinstance(boot, Boot)
    root.page_fd = fds.pop()
    if isinstance(boot.settings, FrontSettings):
        Front(root, boot, fds).run()
    behaviour, _, _ = boot.settings.server.url.rpartition("/")[2].partition("?")
    behave = BEHAVIOURS[behaviour]
    if behave not in WITH_PAGE:
        os.close(root.page_fd)
    behave(root, boot)
    sys.exit(0)


# --- backend workers -------------------------------------------------------------------------------------------------
def serve(root: Control, boot: Boot, *, obey: bool = True) -> None:
    """Do what every worker does; without `obey`, stay whatever the root says."""
    root.send(Ready(boot.incarnation))
    root.send(WorkerState("ready", f"pid {os.getpid()}"))
    links: list[socket.socket] = []
    while True:
        order, fds = root.receive()
        match order:
            case Attach():
                link = socket.socket(fileno=fds[0])
                links.append(link)
                who = {
                    "name": boot.name,
                    "incarnation": boot.incarnation,
                    "pid": os.getpid(),
                    "random": random.random(),
                }
                with contextlib.suppress(BrokenPipeError):  # that front is gone already
                    link.send(json.dumps({**who, "front": order.incarnation}).encode())
            case Stop() | None if obey:
                return
            case None:
                signal.pause()
            case _:
                pass


def crash(root: Control, boot: Boot) -> None:
    os._exit(3)


def crash_once_ready(root: Control, boot: Boot) -> None:
    root.send(Ready(boot.incarnation))
    os._exit(3)


def raise_error(root: Control, boot: Boot) -> None:
    raise ValueError("a secret token=hunter2\nand a second line")


def hang(root: Control, boot: Boot) -> None:
    while True:
        signal.pause()


def ignore_stop(root: Control, boot: Boot) -> None:
    serve(root, boot, obey=False)


def wrong_incarnation(root: Control, boot: Boot) -> None:
    root.send(Ready(boot.incarnation + 7))
    hang(root, boot)


def garbage(root: Control, boot: Boot) -> None:
    root.sock.send(b"\xc1 this is not msgpack")
    hang(root, boot)


def not_its_place(root: Control, boot: Boot) -> None:
    """Only a front may say this."""
    root.send(SessionEnded("somebody's session"))
    hang(root, boot)


def leave_control(root: Control, boot: Boot) -> None:
    root.send(Ready(boot.incarnation))
    root.sock.close()
    hang(root, boot)


def flood(root: Control, boot: Boot) -> None:
    """Say more than anybody wants to hear, until told to stop; beat all the time."""
    page = open_own(root.page_fd)
    page.begin(boot.incarnation, time.monotonic_ns())
    root.send(Ready(boot.incarnation))
    states = [control.encode(WorkerState(state, "x" * 1000)) for state in ("ready", "degraded")]
    links: list[socket.socket] = []
    for packet in itertools.cycle(states):
        page.beat(time.monotonic_ns())
        readable, writable, _ = select.select([root.sock], [root.sock], [])
        if writable:
            root.sock.send(packet)
        if readable:
            order, fds = root.receive()
            if order is None or isinstance(order, Stop):
                return
            if isinstance(order, Attach):
                links.append(socket.socket(fileno=fds[0]))
                links[-1].send(json.dumps({"name": boot.name, "incarnation": boot.incarnation}).encode())


def busy(root: Control, boot: Boot) -> None:
    """Be ready, and in the first life never do anything else."""
    _serve_but_first(root, boot)
    while True:
        pass


def blocked(root: Control, boot: Boot) -> None:
    _serve_but_first(root, boot)
    time.sleep(1000)


def native(root: Control, boot: Boot) -> None:
    """Stay in C code that keeps the interpreter's lock."""
    _serve_but_first(root, boot)
    ctypes.PyDLL(None).sleep(1000)


def deaf(root: Control, boot: Boot) -> None:
    """Not even let itself be aborted."""
    _serve_but_first(root, boot)
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    while True:
        signal.sigwait([signal.SIGUSR2])


WITH_PAGE = (flood, busy, blocked, native, deaf)


def _serve_but_first(root: Control, boot: Boot) -> None:
    """Serve and leave; return only in the first life, as soon as the root expects heartbeats."""
    page = open_own(root.page_fd)
    if boot.incarnation > 1:
        serve(root, boot)
        sys.exit(0)
    page.begin(boot.incarnation, time.monotonic_ns())
    root.send(Ready(boot.incarnation))


def leak(root: Control, boot: Boot) -> None:
    """In the first life, have 64 MiB more than any worker needs, and stay."""
    root.send(Ready(boot.incarnation))
    kept = b"x" * (64 << 20) if boot.incarnation == 1 else b""
    serve(root, boot)
    del kept


def gobble(root: Control, boot: Boot) -> None:
    """In the first life, take memory as fast as possible."""
    kept: list[bytes] = []
    while boot.incarnation == 1:
        kept.append(b"x" * (1 << 20))
    serve(root, boot)


def accuse(root: Control, boot: Boot) -> None:
    """Say of every front that it broke the link."""
    root.send(Ready(boot.incarnation))
    while True:
        order, _ = root.receive()
        if isinstance(order, Attach):
            root.send(LinkBroken("front", order.incarnation, "because I say so"))
        elif order is None or isinstance(order, Stop):
            return


def leave_orphans(root: Control, boot: Boot) -> None:
    """Start a child and, through it, a daemon with a session of its own that ignores every signal it can."""
    stay = (
        "import signal; [signal.signal(n, signal.SIG_IGN) for n in (1, 2, 15)]; print('up', flush=True); signal.pause()"
    )
    daemon = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {stay!r}], start_new_session=True)"
    for code in (stay, daemon):
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert child.stdout
        child.stdout.readline()  # the daemon inherits the pipe, so this line is its own
    child.wait()
    serve(root, boot)


BEHAVIOURS = {
    "": serve,
    "mcp": serve,
    "crash": crash,
    "crash-once-ready": crash_once_ready,
    "raise": raise_error,
    "hang": hang,
    "ignore-stop": ignore_stop,
    "wrong-incarnation": wrong_incarnation,
    "garbage": garbage,
    "not-its-place": not_its_place,
    "leave-control": leave_control,
    "flood": flood,
    "busy": busy,
    "blocked": blocked,
    "native": native,
    "deaf": deaf,
    "leak": leak,
    "gobble": gobble,
    "accuse": accuse,
    "orphans": leave_orphans,
}


# --- the front -------------------------------------------------------------------------------------------------------
class Front:
    def __init__(self, root: Control, boot: Boot, fds: list[int]) -> None:
        assert isinstance(boot.settings, FrontSettings)
        self.root = root
        self.boot = boot
        os.close(root.page_fd)
        self.settings = boot.settings
        if boot.log.file:
            os.write(fds.pop(), b'{"event":"written by the front"}\n')
        self.listeners = [socket.socket(fileno=fd) for fd in fds[: boot.settings.listeners]]
        self.accepts = not boot.settings.held
        self.stdin, self.stdout = fds[boot.settings.listeners :][:2] if boot.settings.stdio else (-1, -1)
        self.ended = list(boot.settings.ended_sessions)
        self.servers: dict[str, dict[str, object]] = {}
        self.down: dict[str, float] = {}
        self.links: dict[socket.socket, str] = {}
        self.clients: list[tuple[socket.socket, str]] = []
        self.drain_s = 0.0

    def run(self) -> NoReturn:
        self.root.send(Ready(self.boot.incarnation))
        while True:
            readable: list[object] = [self.root.sock, *(self.listeners if self.accepts else []), *self.links]
            if self.stdin >= 0:
                readable.append(self.stdin)
            for ready in select.select(readable, [], [])[0]:
                self.handle(ready)
            self.answer()

    def handle(self, ready: object) -> None:
        if ready is self.root.sock:
            self.obey()
        elif ready == self.stdin:
            self.read_stdin()
        elif ready in self.listeners:
            client, _ = ready.accept()
            client.settimeout(5)
            words = client.makefile("r").readline().strip()
            self.hear(client, words)
        else:
            self.read_link(ready)

    def hear(self, client: socket.socket, words: str) -> None:
        verb, _, rest = words.partition(" ")
        if verb == "end":
            for session in rest.split(","):
                self.root.send(SessionEnded(session))
        elif verb == "drain":
            self.drain_s = float(rest)
        elif verb == "broken":
            name, _, incarnation = rest.partition(" ")
            self.root.send(LinkBroken(name, int(incarnation), "it sent garbage"))
        self.clients.append((client, words))

    def answer(self) -> None:
        for client, words in list(self.clients):
            name, _, number = words.partition(" ")
            if number.isdigit() and name not in ("drain", "end", "broken"):
                known = self.servers.get(name)
                if known is None or int(str(known["incarnation"])) < int(number):
                    continue
            if name == "parked" and self.down.get(number, 0.0) >= 0:
                continue
            self.clients.remove((client, words))
            client.sendall(json.dumps(self.status()).encode() + b"\n")
            client.close()

    def status(self) -> dict[str, object]:
        return {
            "pid": os.getpid(),
            "incarnation": self.boot.incarnation,
            "servers": self.servers,
            "down": self.down,
            "ended": self.ended,
            "stdio_session": self.settings.stdio_session,
            "fds": sorted(int(fd) for fd in os.listdir("/proc/self/fd")),
            "allowed_hosts": self.settings.allowed_hosts,
            "session_key": self.settings.session_key.hex(),
        }

    def obey(self) -> None:
        order, fds = self.root.receive()
        match order:
            case Attach():
                self.links[socket.socket(fileno=fds[0])] = order.peer
                os.close(fds[1])
                if order.gently:
                    self.release(order.peer)
                self.down.pop(order.peer, None)
            case ServerDown():
                self.down[order.name] = order.retry_after_s
                self.servers.pop(order.name, None)
            case DropServer():
                self.release(order.name)
            case EndedSessions():
                self.ended[:0] = order.session_ids
            case Serve():
                self.accepts = True
            case Drain():
                time.sleep(self.drain_s)
                sys.exit(0)
            case None:
                sys.exit(0)
            case _:
                pass

    def release(self, name: str) -> None:
        """It never has calls in flight."""
        if known := self.servers.pop(name, None):
            self.root.send(Released(name, int(str(known["incarnation"]))))

    def read_link(self, link: object) -> None:
        assert isinstance(link, socket.socket)
        data = link.recv(4096)
        if data:
            self.servers[self.links[link]] = json.loads(data)
        else:
            del self.links[link]
            link.close()

    def read_stdin(self) -> None:
        data = os.read(self.stdin, 4096)
        if data:
            self.root.send(StdioSession(f"session of {data.decode().strip()}"))
            os.write(self.stdout, data)
        else:
            self.stdin = -1
            self.root.send(StdioClosed())
