"""The connections to one server: idle ones are used again last in, first out; new ones are opened while too few.

Rule 1: at most `POOL_CONNECTIONS_MAX` connections beside those of standing streams, at most `QUEUE_PER_SERVER_MAX`
exchanges waiting for one.
Rule 2: a connection that may be closed this moment carries only what can be repeated.
Rule 3: an attempt to connect that fails fails everyone who has waited since before it began: the server is not there.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

import trio

from protocol.limits import (
    POOL_CONNECTIONS_MAX,
    POOL_IDLE_S,
    QUEUE_DEADLINE_S,
    QUEUE_PER_SERVER_MAX,
)
from workers.backend.exchange import LINGER_S, PROMPT_S, Connection, Exchange
from workers.backend.faults import Failure, Faults
from workers.backend.way import Way
from workers.logs import Log
from workers.reactor import Reactor


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
        self._open: dict[Connection, None] = {}
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
        return self._idle[0].idle_since + self._idle_s if self._idle else math.inf

    @property
    def is_overfull(self) -> bool:
        """There are more connections than there may be, now that a standing stream has ended."""
        return len(self._open) + self._connecting > POOL_CONNECTIONS_MAX + self.standing

    def submit(self, exchange: Exchange) -> None:
        """Start the exchange on an idle connection, or let it wait for one; it may fail at once."""
        self._used()
        connection = self._take_idle(exchange)
        if connection is not None:
            connection.start(exchange)
        elif self._closed:
            exchange.failed(self.faults.stopping())
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
        if self._closed or (self._waiting and not self._may_carry(self._waiting[0], idle_s=0.0)):
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

    def forget(self, connection: Connection) -> None:
        """A connection is gone."""
        if connection.tls is not None:
            self._way.remember(connection.tls)
        self.retire(connection)
        self._open.pop(connection, None)
        self._connect_for_waiting()

    def sweep(self) -> None:
        """Close what has been idle or lingering too long, and fail what has waited too long for a connection."""
        now = self.reactor.now
        while self._idle and now - self._idle[0].idle_since > self._idle_s:
            self._idle[0].abort()
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

    def _connect_for_waiting(self) -> None:
        while (
            len(self._waiting) > self._connecting
            and len(self._open) + self._connecting < POOL_CONNECTIONS_MAX + self.standing
        ):
            self._connecting += 1
            self.reactor.start_soon(self._connect)
        if self._idle and len(self._waiting) > self._connecting:
            self._idle[0].abort()  # it may not carry what is waiting, and takes the place of one that may

    async def _connect(self) -> None:
        started = trio.current_time()
        newest = next(reversed(self._open), None)
        if newest is not None and newest.tls is not None:
            self._way.remember(newest.tls)
        try:
            sock, tls = await self._way.connect()
        except OSError as error:
            self._connecting -= 1
            self._fail_waiting(self.faults.unreachable(error), started)
            self._connect_for_waiting()
            return
        except BaseException:
            self._connecting -= 1
            raise
        self._connecting -= 1
        connection = Connection(self, sock, tls)
        if self._closed:
            connection.abort()
            return
        self._open[connection] = None
        self._connected()
        self._give(connection)

    def _fail_waiting(self, failure: Failure, waiting_since: float) -> None:
        failed = [exchange for exchange in self._waiting if exchange.waiting_since <= waiting_since]
        self._waiting = deque(exchange for exchange in self._waiting if exchange.waiting_since > waiting_since)
        for exchange in failed:
            exchange.failed(failure)
