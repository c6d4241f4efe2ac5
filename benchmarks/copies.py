"""Measures what it costs a process on this machine to pass a large answer on, without and with one more copy of it.

A front receives an answer from a socketpair and sends it to a TCP connection; a worker does the opposite. A child
process does just that, with nothing else around, for each answer: receive it into a new buffer, send the buffer. Then
it copies the buffer into fresh memory, which is accounted for separately. What a part of the proxy needs beyond the
first, divided by the second, tells how many copies it has surely made.

Fresh memory, because that is what a copy costs when it is dear: the kernel clears and maps each page first, which takes
several times as long as the copying. Into memory used before, a copy costs a fraction, and would not be noticed here.
"""

from __future__ import annotations

import dataclasses
import mmap
import os
import socket
import statistics
import time
from collections.abc import Sequence
from typing import Final

REPETITIONS: Final = 60
WARM_UP: Final = 10


@dataclasses.dataclass(frozen=True, slots=True)
class PassingOn:
    """CPU ns per answer."""

    front_ns: float
    """From a socketpair to TCP."""
    worker_ns: float
    """From TCP to a socketpair."""
    copy_ns: float
    """Of one copy into fresh memory."""


def measure(size: int) -> PassingOn:
    """Measure with answers of `size` bytes; takes some tenths of a second. Raises OSError."""
    front, copying_in_front = _pass_on(size, tcp_in=False)
    worker, copying_in_worker = _pass_on(size, tcp_in=True)
    return PassingOn(front, worker, (copying_in_front + copying_in_worker) / 2)


def median(measured: Sequence[PassingOn]) -> PassingOn:
    """Return the median of each figure; they are measured between the rounds of what they are compared with."""
    return PassingOn(
        statistics.median(each.front_ns for each in measured),
        statistics.median(each.worker_ns for each in measured),
        statistics.median(each.copy_ns for each in measured),
    )


def _pass_on(size: int, *, tcp_in: bool) -> tuple[float, float]:
    """Let a child pass answers on. Returns the CPU ns per answer of that, and of one copy."""
    tcp, unix = _tcp_pair(), socket.socketpair()
    (feed, source), (sink, drain) = (tcp, unix) if tcp_in else (unix, tcp)
    report, reported = socket.socketpair()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            for theirs in (feed, drain, report):
                theirs.close()
            reported.sendall(b"%d %d" % _relay(source, sink, size))
            status = 0
        finally:
            os._exit(status)  # nothing of this process's own ending is the child's to do
    for theirs in (source, sink, reported):
        theirs.close()
    try:
        _feed_and_drain(feed, drain, size)
        used = report.recv(64).split()
        if len(used) != 2:
            raise ConnectionError("the measured process has gone")
        return int(used[0]) / REPETITIONS, int(used[1]) / REPETITIONS
    finally:
        for ours in (feed, drain, report):
            ours.close()
        os.waitpid(child, 0)


def _relay(source: socket.socket, sink: socket.socket, size: int) -> tuple[int, int]:
    """Pass all answers on. Returns the CPU ns of that (the last REPETITIONS of them), and of copying each once."""
    passing = copying = 0
    for repetition in range(WARM_UP + REPETITIONS):
        if repetition == WARM_UP:
            passing = copying = 0
        started = time.process_time_ns()
        buffer = bytearray(size)
        view = memoryview(buffer)
        filled = 0
        while filled < size:
            received = source.recv_into(view[filled:])
            if not received:
                raise ConnectionError("the feeding process has gone")
            filled += received
        sink.sendall(buffer)
        passed_on = time.process_time_ns()
        with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as fresh:
            fresh.write(buffer)
        copying += time.process_time_ns() - passed_on
        passing += passed_on - started
    return passing, copying


def _feed_and_drain(feed: socket.socket, drain: socket.socket, size: int) -> None:
    """Keep one answer at a time on its way: the child reads while it is fed, and writes while it is drained."""
    answer = bytes(size)
    room = memoryview(bytearray(size))
    for peer in (feed, drain):
        peer.settimeout(10.0)
    for _ in range(WARM_UP + REPETITIONS):
        feed.sendall(answer)
        filled = 0
        while filled < size:
            received = drain.recv_into(room[filled:])
            if not received:
                raise ConnectionError("the measured process has gone")
            filled += received


def _tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname(), timeout=10.0)
        near.settimeout(None)
        far, _ = listener.accept()
    return near, far
