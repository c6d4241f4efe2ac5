"""The connections to one server: idle ones are used again last in, first out; new ones are opened while too few.

Rule 1: at most `POOL_CONNECTIONS_MAX` connections beside those of standing streams, at most `QUEUE_PER_SERVER_MAX`
exchanges waiting for one. On a connection over HTTP/2 each stream counts as one.
Rule 2: a connection that may be closed this moment carries only what can be repeated.
Rule 3: an attempt to connect that fails fails everyone who has waited since before it began: the server is not there.
"""

from __future__ import annotations

import math
import socket
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import trio

from protocol.limits import (
    POOL_CONNECTIONS_MAX,
    POOL_IDLE_S,
    QUEUE_DEADLINE_S,
    QUEUE_PER_SERVER_MAX,
)
from workers.backend.exchange import LINGER_S, PROMPT_S, Carrier, Connection, Exchange
from workers.backend.faults import Failure, Faults
from workers.backend.way import Way
from workers.logs import Log
from workers.reactor import Reactor
from workers.tls import HTTP_2, TlsStream

if TYPE_CHECKING:
    from workers.backend.http2 import Http2Connection


class Pool:
    """Gives connections to exchanges."""

    def __init__(
        self,
        reactor: Reactor,
        way: Way,
        faults: Faults,
        log: Log,
        *,
        connected: Callable[[], None],
        used: Callable[[], None],
        idle_s: float = POOL_IDLE_S,
    ) -> None:
        self.reactor = reactor
        self.faults = faults
        self.log = log
        self._way = way
        self._connected = connected
        self._used = used
        self._idle_s = idle_s
        self._idle: list[Connection] = []
        """Oldest first."""
        self._open: dict[Carrier, None] = {}
        """Connections over HTTP/1.1 and streams of those over HTTP/2."""
        self._shared: list[Http2Connection] = []
        """Those over HTTP/2, oldest first."""
        self._greet: Callable[[Pool, socket.socket, TlsStream], Awaitable[Http2Connection]] | None = None
        if way.offers_http2:
            from workers.backend.http2 import greet  # needed by few, and slow to load

            self._greet = greet
        self._one_is_enough = way.offers_http2
        """As far as is known: the server speaks HTTP/2, and one connection is for all who wait."""
        self._connecting = 0
        self._waiting: deque[Exchange] = deque()
        self.keeps_alive = False
        """Whether the server, when last seen to do either, kept a connection for another request or closed it soon."""
        self.standing = 0
        """How many exchanges now are streams that stay open: calls do not have to do without their connections."""
        self._closed = False

    def __repr__(self) -> str:
        busy = len(self._open) - len(self._idle)
        return (
            f"<Pool {busy} busy, {len(self._idle)} idle, {self._connecting} connecting, {len(self._waiting)} waiting>"
        )

    @property
    def next_due(self) -> float | None:
        """When `sweep` has something to do next, in reactor time; None: it should look again soon."""
        if self._waiting:
            return None
        if len(self._open) > len(self._idle) + self.standing:  # standing streams have no deadline
            return None
        oldest = self._idle[0].idle_since if self._idle else math.inf
        return min([oldest, *(shared.idle_since for shared in self._shared if shared.is_idle)]) + self._idle_s

    @property
    def is_overfull(self) -> bool:
        """There are more connections than there may be, now that a standing stream has ended."""
        return len(self._open) + self._connecting > POOL_CONNECTIONS_MAX + self.standing

    def submit(self, exchange: Exchange) -> None:
        """Start the exchange on an idle connection, or let it wait for one; it may fail at once."""
        self._used()
        idle = self._idle
        # Nearly always: the server keeps connections open, and has answered on one only just now.
        if idle and self.keeps_alive and self.reactor.now - idle[-1].idle_since <= PROMPT_S:
            idle.pop().start(exchange)
        elif (connection := self._take_idle(exchange)) is not None:
            connection.start(exchange)
        elif self._closed:
            exchange.failed(self.faults.stopping())
        elif (shared := self._with_room()) is not None:
            self._open[shared.start(exchange)] = None
        elif len(self._waiting) >= QUEUE_PER_SERVER_MAX:
            exchange.failed(self.faults.queue_full())
        else:
            exchange.waiting_since = trio.current_time()
            self._waiting.append(exchange)
            self._connect_for_waiting()

    def abandon(self, exchange: Exchange) -> bool:
        """End an exchange silently, wherever it is. Return whether some of its request may have been written."""
        if exchange.connection is not None:
            exchange.connection.abort()
            return True
        if exchange in self._waiting:
            self._waiting.remove(exchange)
        return False

    def release(self, connection: Connection) -> None:
        """A connection has come to the end of an answer and may be used again."""
        if not self._waiting and not self._closed:  # nearly always
            connection.idle_since = self.reactor.now
            self._idle.append(connection)
        elif self._closed or not self._may_carry(self._waiting[0], idle_s=0.0):
            connection.abort()
        else:
            self._give(connection)

    def retire(self, connection: Connection) -> None:
        """A connection is about to close: it must not be used again, also not in the moment until it has."""
        if connection in self._idle:
            self._idle.remove(connection)

    def drop_idle(self) -> None:
        """A connection broke in the middle of an exchange: if that was the end of the server, the others end too."""
        while self._idle:
            self._idle[-1].abort()
        for shared in list(self._shared):
            shared.retire()

    def forget(self, carrier: Carrier) -> None:
        """A connection is gone, or a stream has ended."""
        if isinstance(carrier, Connection):
            self.retire(carrier)
        self._open.pop(carrier, None)
        self.find_room()

    def forget_shared(self, connection: Http2Connection) -> None:
        """A connection over HTTP/2 is gone."""
        if connection in self._shared:
            self._shared.remove(connection)

    def find_room(self) -> None:
        """There may be room for who has been waiting."""
        while self._waiting and (shared := self._with_room()) is not None:
            self._open[shared.start(self._waiting.popleft())] = None
        self._connect_for_waiting()

    def sweep(self) -> None:
        """Close what has been idle or lingering too long, and fail what has waited too long for a connection."""
        now = self.reactor.now
        while self._idle and now - self._idle[0].idle_since > self._idle_s:
            self._idle[0].abort()
        for shared in list(self._shared):
            shared.sweep(now, self._idle_s)
        for connection in list(self._open):
            if connection.lingering_since is not None and now - connection.lingering_since > LINGER_S:
                connection.abort()
            else:
                connection.check_silence(now)
        while not self._connecting and self._waiting and now - self._waiting[0].waiting_since > QUEUE_DEADLINE_S:
            self._waiting.popleft().failed(self.faults.pool_full(POOL_CONNECTIONS_MAX))

    def hold(self, *, is_held: bool) -> None:
        """A front takes answers too slowly, or again fast enough. Each call pauses its own connection."""

    async def stop(self) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection; whoever is using or awaiting one fails."""
        self._closed = True
        self._fail_waiting(self.faults.stopping(), trio.current_time())
        for connection in list(self._open):
            exchange = connection.exchange
            connection.abort()
            if exchange is not None:
                exchange.failed(self.faults.broke_off("because the proxy is stopping"))
        for shared in list(self._shared):
            shared.close()

    def _give(self, connection: Connection) -> None:
        connection.idle_since = self.reactor.now
        if self._waiting:
            connection.start(self._waiting.popleft())
        else:
            self._idle.append(connection)

    # --- connecting --------------------------------------------------------------------------------------------------
    def _take_idle(self, exchange: Exchange) -> Connection | None:
        while self._idle:
            connection = self._idle[-1]
            idle_s = self.reactor.now - connection.idle_since
            if idle_s > PROMPT_S and not connection.is_alive():
                connection.abort()
            elif self._may_carry(exchange, idle_s):
                return self._idle.pop()
            else:
                return None
        return None

    def _may_carry(self, exchange: Exchange, idle_s: float) -> bool:
        """Some servers close after each answer without saying so. What is sent in that moment may be lost or not.

        So what must not be executed twice goes on a used connection only if the server is known to keep them, or has
        kept this one for a while.
        """
        return self.keeps_alive or exchange.repeatable or idle_s > PROMPT_S

    def _with_room(self) -> Http2Connection | None:
        if self._shared and len(self._open) < POOL_CONNECTIONS_MAX + self.standing:
            for shared in tuple(self._shared):  # one of them may find out that it is gone
                if shared.has_room():
                    return shared
        return None

    def _may_connect(self) -> bool:
        if len(self._open) + self._connecting >= POOL_CONNECTIONS_MAX + self.standing:
            return False
        if not self._one_is_enough:
            return True
        # One that has no room although it is idle: the server takes nothing at all for now.
        return not self._connecting and not any(shared.is_idle and shared.takes_streams for shared in self._shared)

    def _connect_for_waiting(self) -> None:
        while len(self._waiting) > self._connecting and self._may_connect():
            self._connecting += 1
            self.reactor.start_soon(self._connect)
        if self._idle and len(self._waiting) > self._connecting:
            self._idle[0].abort()  # it may not carry what is waiting, and takes the place of one that may

    async def _connect(self) -> None:
        started = trio.current_time()
        newest = next(reversed(self._open), None) or next(reversed(self._shared), None)
        if newest is not None and newest.tls is not None:
            self._way.remember(newest.tls)
        shared: Http2Connection | None = None
        try:
            sock, tls = await self._way.connect()
            if self._greet is not None and tls is not None and tls.protocol == HTTP_2:
                shared = await self._greet(self, sock, tls)
        except OSError as error:
            self._connecting -= 1
            self._fail_waiting(self.faults.unreachable(error), started)
            self._connect_for_waiting()
            return
        except BaseException:
            self._connecting -= 1
            raise
        self._connecting -= 1
        if shared is not None:
            self._share(shared)
            return
        connection = Connection(self, sock, tls)
        if self._closed:
            connection.abort()
            return
        self._open[connection] = None
        self._connected()
        self._give(connection)
        if self._one_is_enough:  # as it seemed, but the server does not speak HTTP/2
            self._one_is_enough = False
            self._connect_for_waiting()

    def _share(self, connection: Http2Connection) -> None:
        if self._closed:
            connection.close()
            return
        self._shared.append(connection)
        self._one_is_enough = True
        self._connected()
        self.find_room()

    def _fail_waiting(self, failure: Failure, waiting_since: float) -> None:
        failed = [exchange for exchange in self._waiting if exchange.waiting_since <= waiting_since]
        self._waiting = deque(exchange for exchange in self._waiting if exchange.waiting_since > waiting_since)
        for exchange in failed:
            exchange.failed(failure)
