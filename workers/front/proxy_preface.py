"""Reads what a load balancer says about a client before that client's first byte, and not one byte more.

The rest stays in the kernel: it may be TLS, or HTTP, and is for others to read.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable

from protocol.proxy_protocol import V2_BYTES_MAX, ProxyProtocolError, read
from workers.logs import Log
from workers.reactor import Reactor


class ProxyPreface:
    """The beginning of one connection (`workers.reactor.Source`)."""

    def __init__(self, reactor: Reactor, sock: socket.socket, peer: str, log: Log, ended: Ended) -> None:
        """`ended` is called once, with the client's address ("" if `peer` speaks for itself), or None if it failed."""
        self._reactor = reactor
        self._sock = sock
        self._peer = peer
        self._log = log
        self._ended = ended
        self._head = b""
        self.since = reactor.now
        reactor.watch(sock.fileno(), self, select.EPOLLIN)

    def ready(self, mask: int) -> None:
        del mask
        try:
            seen = self._sock.recv(V2_BYTES_MAX, socket.MSG_PEEK)
            if not seen:
                self.give_up("the connection ended before a header of the PROXY protocol")
                return
            header = read(self._head + seen)
            self._head += self._sock.recv(header.size - len(self._head) if header else len(seen))
        except (BlockingIOError, InterruptedError):
            return
        except (OSError, ProxyProtocolError) as error:
            self.give_up(str(error))
            return
        if header is not None:
            self._reactor.forget(self._sock.fileno())
            self._ended(self, header.client)

    def failed(self, error: Exception) -> None:
        self.give_up(type(error).__name__)

    def give_up(self, why: str) -> None:
        """Close the connection."""
        self._log.debug("a connection was refused", peer=self._peer, reason=why)
        self._reactor.forget(self._sock.fileno())
        self._sock.close()
        self._ended(self, None)


Ended = Callable[[ProxyPreface, "str | None"], None]
