"""Serves MCP as fast as a plain Python process can: the server behind every subject, in both eras.

`python -m benchmarks.backend --fd N` serves the listening socket it inherits as descriptor N. Tools: `echo` returns its
argument `text`, `blob` returns `size` bytes of text. With `--delay-ms` every call is answered so much later, as by a
server that waits for something else.

A GET that asks for WebSocket gets one (websocket_backend.py); it is answered without delay.

Fast because heads are parsed once: the bytes of a head seen before are looked up. Bodies need Content-Length.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import select
import signal
import socket
import time
from collections.abc import Sequence
from typing import Final

from benchmarks.backend_answers import Answers, Head, Parts, http_head, parse_head
from benchmarks.websocket_backend import Frames, acceptance

RECEIVE_BYTES: Final = 64 * 1024
HEADS_MAX: Final = 4096
"""Remembered heads; each client sends few different ones."""
HEAD_BYTES_MAX: Final = 64 * 1024


class _Connection:
    __slots__ = ("frames", "peer", "received", "unsent")

    def __init__(self, peer: socket.socket) -> None:
        self.frames: Frames | None = None
        """Set if it has become a WebSocket."""
        self.peer = peer
        self.received = bytearray()
        """The beginning of a request whose end has not come."""
        self.unsent: list[memoryview] = []


class Server:
    """One listening socket and its connections, served by one loop."""

    def __init__(self, listener: socket.socket, delay_s: float = 0.0) -> None:
        self._listener = listener
        self._delay_s = delay_s
        self._delayed: collections.deque[tuple[float, _Connection, Parts]] = collections.deque()
        """Answers that are not due yet, and when they are. All wait for the same time, so the first is due first."""
        self._poll = select.epoll()
        self._connections: dict[int, _Connection] = {}
        self._heads: dict[bytes, Head] = {}
        self._answers = Answers()

    def run(self) -> None:
        """Serve until the process is ended."""
        self._listener.setblocking(False)
        listener_fd = self._listener.fileno()
        self._poll.register(listener_fd, select.EPOLLIN)
        while True:
            for fd, events in self._poll.poll(self._wait_s()):
                if fd == listener_fd:
                    self._accept()
                    continue
                connection = self._connections[fd]
                try:
                    alive = self._serve(connection, events)
                except (OSError, ValueError):
                    alive = False  # the client is gone, or speaks no HTTP
                if not alive:
                    del self._connections[fd]
                    connection.peer.close()
            self._send_due()

    def _wait_s(self) -> float | None:
        return max(self._delayed[0][0] - time.monotonic(), 0.0) if self._delayed else None

    def _send_due(self) -> None:
        while self._delayed and self._delayed[0][0] <= time.monotonic():
            _, connection, parts = self._delayed.popleft()
            with contextlib.suppress(OSError):  # the client is gone, which the loop hears of by itself
                self._send(connection, parts)

    def _accept(self) -> None:
        try:
            peer, _ = self._listener.accept()
        except BlockingIOError:
            return
        peer.setblocking(False)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connections[peer.fileno()] = _Connection(peer)
        self._poll.register(peer.fileno(), select.EPOLLIN)

    def _serve(self, connection: _Connection, events: int) -> bool:
        if connection.unsent:
            self._flush(connection)
            return True
        if not events & select.EPOLLIN:
            return False
        data = connection.peer.recv(RECEIVE_BYTES)
        if not data:
            return False
        if connection.frames is not None:
            for parts in connection.frames.answers_to(data):
                self._send(connection, parts)
            return True
        if connection.received:
            connection.received += data
            data = bytes(connection.received)
            connection.received.clear()
        while data:
            used = self._answer_one(connection, data)
            if not used:
                connection.received += data
                break
            data = data[used:]
        return True

    def _answer_one(self, connection: _Connection, data: bytes) -> int:
        """Answer the request at the beginning of `data`. Returns its length, or 0 if it is not complete."""
        body_at = data.find(b"\r\n\r\n") + 4
        if body_at < 4:
            if len(data) > HEAD_BYTES_MAX:
                raise ValueError("head too large")
            return 0
        head = self._head(data[:body_at])
        end = body_at + head.content_length
        if head.chunked:
            self._send(connection, (http_head("411 Length Required", 0, b"Connection: close\r\n"),))
            raise ValueError("no Content-Length")
        if len(data) < end:
            return 0
        if head.method == "GET" and (answer := acceptance(data[:body_at])):
            connection.frames = Frames(self._answers)
            self._send(connection, (answer,))
            return end
        parts = self._answers.to(head, data[body_at:end])
        if self._delay_s and head.is_call(data[body_at:end]):
            self._delayed.append((time.monotonic() + self._delay_s, connection, parts))
        else:
            self._send(connection, parts)
        return end

    def _head(self, raw: bytes) -> Head:
        head = self._heads.get(raw)
        if head is None:
            head = parse_head(raw)
            if len(self._heads) >= HEADS_MAX:
                self._heads.clear()
            self._heads[raw] = head
        return head

    def _send(self, connection: _Connection, parts: Parts) -> None:
        if not connection.unsent:
            sent = connection.peer.sendmsg(parts)
            if sent == sum(map(len, parts)):
                return
            connection.unsent = remaining(parts, sent)
            self._poll.modify(connection.peer.fileno(), select.EPOLLOUT)
        else:
            connection.unsent += map(memoryview, parts)

    def _flush(self, connection: _Connection) -> None:
        sent = connection.peer.sendmsg(connection.unsent)
        connection.unsent = remaining(connection.unsent, sent)
        if not connection.unsent:
            self._poll.modify(connection.peer.fileno(), select.EPOLLIN)


def remaining(parts: Sequence[bytes | memoryview], sent: int) -> list[memoryview]:
    """Return what is left of some pieces after the kernel has taken `sent` bytes of them."""
    left: list[memoryview] = []
    for part in parts:
        if sent < len(part):
            left.append(memoryview(part)[sent:])
        sent = max(sent - len(part), 0)
    return left


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.backend", description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="the listening socket, inherited")
    parser.add_argument("--delay-ms", type=float, default=0.0, help="between a call and its answer")
    options = parser.parse_args(argv)
    # The run that started this process decides when it ends; an interrupt of the terminal is for the run.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Server(socket.socket(fileno=options.fd), options.delay_ms / 1000).run()


if __name__ == "__main__":
    main()
