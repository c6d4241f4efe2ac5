"""Serves MCP as fast as a plain Python process can: the server behind every subject, in both eras.

`python -m benchmarks.backend --fd N` serves the listening socket it inherits as descriptor N. Tools: `echo` returns its
argument `text`, so does `look`, which says that it only reads; `blob` returns `size` bytes of text. With `--delay-ms`
every call is answered so much later, as by a server that waits for something else. With `--certificate` it speaks
https. SIGUSR1 makes it answer `SLOWED_S` late from then on, SIGUSR2 makes all of its answers rubbish.

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
import ssl
import time
from collections.abc import Sequence
from typing import Final, Protocol

from benchmarks.backend_answers import Answers, Head, Parts, http_head, parse_head
from benchmarks.websocket_backend import Frames, acceptance

RECEIVE_BYTES: Final = 64 * 1024
HEADS_MAX: Final = 4096
"""Remembered heads; each client sends few different ones."""
HEAD_BYTES_MAX: Final = 64 * 1024
SLOWED_S: Final = 0.5
RUBBISH: Final = http_head("200 OK", 9) + b'{"jsonrpc'


class Peer(Protocol):
    """What is used of a client's socket."""

    def fileno(self) -> int: ...

    def recv(self, size: int, /) -> bytes: ...

    def sendmsg(self, parts: Parts | list[memoryview], /) -> int: ...

    def close(self) -> None: ...


class TlsPeer:
    """A socket with TLS, used like one without. OpenSSL works in memory, which saves half of the system calls."""

    def __init__(self, peer: socket.socket, context: ssl.SSLContext) -> None:
        self._peer = peer
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._secured = False
        self._unsent = memoryview(b"")
        """Records that the kernel has not taken."""
        self._size = 0
        """Of what is in them."""

    def fileno(self) -> int:
        return self._peer.fileno()

    def recv(self, size: int) -> bytes:
        """Raises `BlockingIOError` if there is nothing yet; the handshake is no more than that."""
        records = self._peer.recv(size)
        if not records:
            return b""
        self._incoming.write(records)
        received = b""
        try:
            if not self._secured:
                self._tls.do_handshake()
                self._secured = True
            while not received or self._incoming.pending:
                record = self._tls.read(size)
                if not record:
                    return received  # the end, as the client has announced
                received += record
        except ssl.SSLWantReadError:
            pass
        if self._outgoing.pending:
            self._peer.sendall(self._outgoing.read())
        if not received:
            raise BlockingIOError
        return received

    def sendmsg(self, parts: Parts | list[memoryview]) -> int:
        """Like that of a socket, but takes everything or, for now, nothing."""
        if not self._unsent:
            text = b"".join(parts)
            self._size = len(text)
            while text:
                text = text[self._tls.write(text) :]
            self._unsent = memoryview(self._outgoing.read())
        with contextlib.suppress(BlockingIOError):
            self._unsent = self._unsent[self._peer.send(self._unsent) :]
        return 0 if self._unsent else self._size

    def close(self) -> None:
        self._peer.close()


class _Connection:
    __slots__ = ("frames", "peer", "received", "unsent")

    def __init__(self, peer: Peer) -> None:
        self.frames: Frames | None = None
        """Set if it has become a WebSocket."""
        self.peer = peer
        self.received = bytearray()
        """The beginning of a request whose end has not come."""
        self.unsent: list[memoryview] = []


class Server:
    """One listening socket and its connections, served by one loop."""

    def __init__(self, listener: socket.socket, delay_s: float = 0.0, tls: ssl.SSLContext | None = None) -> None:
        self._listener = listener
        self._tls = tls
        self._delay_s = delay_s
        self._delayed: collections.deque[tuple[float, _Connection, Parts]] = collections.deque()
        """Answers that are not due yet, and when they are. All wait for the same time, so the first is due first."""
        self._poll = select.epoll()
        self._connections: dict[int, _Connection] = {}
        self._heads: dict[bytes, Head] = {}
        self._answers = Answers()
        self._is_corrupt = False

    def slow_down(self, *_: object) -> None:
        """Answer calls `SLOWED_S` late from now on."""
        self._delay_s = SLOWED_S

    def corrupt(self, *_: object) -> None:
        """Answer nothing but rubbish from now on."""
        self._is_corrupt = True

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
        fd = peer.fileno()
        self._connections[fd] = _Connection(TlsPeer(peer, self._tls) if self._tls else peer)
        self._poll.register(fd, select.EPOLLIN)

    def _serve(self, connection: _Connection, events: int) -> bool:
        if connection.unsent:
            self._flush(connection)
            return True
        if not events & select.EPOLLIN:
            return False
        try:
            data = connection.peer.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return True
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
        parts = (RUBBISH,) if self._is_corrupt else self._answers.to(head, data[body_at:end])
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
    parser.add_argument("--certificate", help="of a server with TLS: a file with it and its key")
    options = parser.parse_args(argv)
    # The run that started this process decides when it ends; an interrupt of the terminal is for the run.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tls = None
    if options.certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(options.certificate)
    server = Server(socket.socket(fileno=options.fd), options.delay_ms / 1000, tls)
    signal.signal(signal.SIGUSR1, server.slow_down)
    signal.signal(signal.SIGUSR2, server.corrupt)
    server.run()


if __name__ == "__main__":
    main()
