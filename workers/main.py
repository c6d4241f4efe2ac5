"""Where every worker begins: read the boot order, pick the role, serve until told to leave.

The zygote calls `run` by name in a freshly forked process; nothing else does.
"""

from __future__ import annotations

import gc
import os
import resource
import socket
import sys
import threading
from typing import NoReturn

import trio

from protocol.control import (
    AddServer,
    Attach,
    BackendSettings,
    Boot,
    Check,
    Drain,
    DropServer,
    EndedSessions,
    Groups,
    Managed,
    Ping,
    Pong,
    ReadCertificate,
    Ready,
    Serve,
    ServerDown,
    SessionNotes,
    Stop,
    Woke,
)
from protocol.flight import FlightPage
from protocol.limits import MIB
from workers import logs
from workers.backend.worker import BackendWorker
from workers.control_end import ControlEnd, RootLost, receive_boot
from workers.front.worker import FrontWorker, OpenPipes
from workers.heart import Heart
from workers.machine import LinuxMachine, Machine
from workers.out_of_memory import leave_if_out_of_memory
from workers.pages import PeerPage, open_own
from workers.pipes import PipeStream
from workers.reactor import Reactor

THREAD_STACK_BYTES = MIB
"""Of the threads that resolve names. The usual 8 MiB each count against the cap on memory, used or not."""
EXIT_OK = 0
EXIT_CRASHED = 70  # sysexits EX_SOFTWARE


def run(control_fd: int) -> NoReturn:
    """Serve as the worker that the boot order on this control socket describes, then exit the process."""
    code = EXIT_CRASHED
    try:
        sock = socket.socket(fileno=control_fd)
        boot, descriptors = receive_boot(sock)
        page = open_own(descriptors.pop())
        log = logs.open_log(boot, descriptors.pop() if boot.log.file else None)
        _raise_descriptor_limit()
        threading.stack_size(THREAD_STACK_BYTES)
        gc.freeze()
        try:
            machine = LinuxMachine()
            trio.run(serve, ControlEnd(sock, machine), boot, descriptors, page, log, machine)
            code = EXIT_OK
        except BaseException as error:
            leave_if_out_of_memory(error)
            log.error("the worker crashed", error=type(error).__name__, detail=str(error), exc_info=error)
    except RootLost:
        code = EXIT_OK
    except BaseException as error:  # noqa: BLE001 - the process ends here either way; say why
        sys.stderr.write(f"mcp-bulkhead: a worker could not start: {type(error).__name__}: {error}\n")
    finally:
        os._exit(code)  # never unwind into the zygote's frames


def _raise_descriptor_limit() -> None:
    """Allow as many descriptors as the system does: a connection costs one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def serve(
    control: ControlEnd,
    boot: Boot,
    descriptors: list[int],
    page: FlightPage,
    log: logs.Log,
    machine: Machine,
    open_pipes: OpenPipes = PipeStream,
) -> None:
    """Be the worker that `boot` describes until told to leave. `descriptors`: those for a front alone."""
    page.begin(boot.incarnation, machine.monotonic_ns())
    reactor = Reactor(log, machine, page.counts)
    worker: BackendWorker | FrontWorker
    if isinstance(boot.settings, BackendSettings):
        worker = BackendWorker(
            reactor, boot.settings, incarnation=boot.incarnation, flight=page, log=log, tell_root=control.send
        )
    else:
        worker = FrontWorker(
            reactor, boot.settings, descriptors, incarnation=boot.incarnation, log=log, tell_root=control.send,
            open_pipes=open_pipes,
        )  # fmt: skip
    Heart(reactor, page)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reactor.run)
        nursery.start_soon(worker.run)
        control.send(Ready(boot.incarnation))
        log.debug("worker started", incarnation=boot.incarnation, pid=os.getpid())
        if await _obey(control, worker, nursery, machine) and isinstance(worker, BackendWorker):
            await worker.leave()
        nursery.cancel_scope.cancel()
    log.debug("worker leaves")


def _attach(worker: BackendWorker | FrontWorker, order: Attach, descriptors: list[int], machine: Machine) -> None:
    sock = machine.socket(descriptors[0])
    if isinstance(worker, FrontWorker):
        worker.attach(sock, order.peer, order.incarnation, PeerPage(descriptors[1], machine), gently=order.gently)
    else:
        worker.attach(sock, order.peer, order.incarnation)


async def _obey(
    control: ControlEnd, worker: BackendWorker | FrontWorker, nursery: trio.Nursery, machine: Machine
) -> bool:
    """Carry out the root's orders until one of them says to leave (True), or the root's end does (False)."""
    left = trio.Event()

    async def drain_then_leave(order: Drain) -> None:
        if isinstance(worker, FrontWorker):
            await worker.drain(order.deadline_s, order.idle_s)
        else:
            await worker.drain(order.deadline_s)
        left.set()
        leave.cancel()

    with trio.CancelScope() as leave:
        draining = False
        while True:
            try:
                order, descriptors = await control.receive()
            except RootLost:
                return False
            match order:
                case Attach():
                    _attach(worker, order, descriptors, machine)
                case (
                    ServerDown()
                    | AddServer()
                    | DropServer()
                    | Groups()
                    | EndedSessions()
                    | SessionNotes()
                    | Managed()
                    | Serve()
                    | ReadCertificate()
                ):
                    if isinstance(worker, FrontWorker):
                        worker.obey(order)
                case Check():
                    if isinstance(worker, BackendWorker):
                        worker.check(order)
                case Woke():
                    if isinstance(worker, BackendWorker):
                        worker.woke(order.absent_s)
                case Drain():
                    if not draining:
                        draining = True
                        nursery.start_soon(drain_then_leave, order)
                case Ping():
                    control.send(Pong(order.number))
                case Stop():
                    return True
                case Boot():
                    raise RootLost("a second boot order")
    return True
