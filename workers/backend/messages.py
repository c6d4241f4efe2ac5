"""Messages of all calls side by side on one channel, told apart by their ids: what pipes, WebSockets and event streams
have in common.

A *life* is the time for which a server can be spoken with in one go: a run of a command, a connection.

Rule 1: what a server says that is no message costs it nothing but a count, up to `JUNK_LINES_MAX` in a row.
Rule 2: a life ends for everybody at once: first nobody may use it any more, then those who did are told.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Iterable
from typing import ClassVar, Final, Generic, Protocol, TypeVar

import msgspec

from protocol.jsonrpc import Raw, Reply, RpcError, decode_object, decode_reply
from protocol.limits import BATCH_MESSAGES_MAX, JUNK_LINES_MAX
from protocol.meta import SUBSCRIPTION_ID_KEY
from workers.backend.exchange import Exchange
from workers.backend.faults import Failure, quoted
from workers.backend.leg import Counters
from workers.backend.message_faults import MessageFaults
from workers.logs import Log
from workers.reactor import Reactor

JUNK_TOLD_S: Final = 60.0
"""Between two lines in the log about what is no message."""


class Speaker(Protocol):
    """Takes the messages of the server that belong to no call."""

    def on_message(self, reply: Reply) -> None: ...


class Life(abc.ABC):
    """One life, and what is under way in it."""

    def __init__(self, started_at: float) -> None:
        self.started_at = started_at
        self.junk = 0
        """What had no meaning since the last message."""
        self.sent: dict[bytes, Exchange] = {}
        """What has been written and not been answered, by own id."""
        self.verdict = ""
        """Why we end it; continues "the server ..."."""
        self.is_over = False

    @abc.abstractmethod
    def set_paused(self, *, is_paused: bool) -> None:
        """Take nothing from the server, or go on."""

    @abc.abstractmethod
    def close(self) -> None:
        """Let go of what leads to the server. Idempotent."""


L = TypeVar("L", bound=Life)


class MessageChannel(abc.ABC, Generic[L]):
    """A `workers.backend.channel.Channel`, but for how lives begin and end.

    `used`: there are deadlines to watch. `ended`: a life has ended, not because we wanted it to.
    """

    speaks_modern: ClassVar[bool] = True
    """A server may speak the stateless era on such a channel."""
    initialize_s: ClassVar[float]
    """How long a server may take to be initialized."""
    no_life: ClassVar[str] = "is not connected"
    """Continues "the server ..."."""
    junk_event: ClassVar[str] = "not a message"
    """What the log says of one of them."""
    junk_verdict: ClassVar[str] = "sent {} messages in a row that are none of MCP's"
    """Continues "the server ..."; with their number."""

    def __init__(
        self,
        reactor: Reactor,
        faults: MessageFaults,
        counters: Counters,
        log: Log,
        *,
        used: Callable[[], None],
        ended: Callable[[Failure], None],
    ) -> None:
        self.faults = faults
        self.speaker: Speaker | None = None
        self.life: L | None = None
        """None while there is none."""
        self._reactor = reactor
        self._counters = counters
        self._log = log
        self._used = used
        self._ended = ended
        self.standing = 0
        self.is_of_one_client = False
        """Nobody else's calls go through it."""
        self._holders = 0
        self._junk_told_at = float("-inf")
        self._closed = False

    def __repr__(self) -> str:
        life = f"{len(self.life.sent)} sent" if self.life else "no life"
        return f"<{type(self).__name__} {life}>"

    @abc.abstractmethod
    async def start(self) -> None:
        """See to it that there is a life. Errors: `Unanswered` with the reason why there is none."""

    @abc.abstractmethod
    def give_up(self, life: L, why: str) -> None:
        """End a life that is of no use any more. `why` continues "the server ..."."""

    def replace(self, why: str) -> None:
        """End the life that there is; the next one begins when somebody wants it."""
        if self.life is not None:
            self.give_up(self.life, why)

    @abc.abstractmethod
    def sweep(self) -> None: ...

    @abc.abstractmethod
    def drop_idle(self) -> None: ...

    @abc.abstractmethod
    async def stop(self) -> None: ...

    @property
    def next_due(self) -> float | None:
        return None if self.life is not None and len(self.life.sent) > self.standing else math.inf

    @property
    def is_overfull(self) -> bool:
        return False

    # --- requests ----------------------------------------------------------------------------------------------------
    def submit(self, exchange: Exchange) -> None:
        self._used()
        if self._closed:
            exchange.failed(self.faults.stopping())
        elif self.life is None:
            exchange.failed(self.faults.unsent(self.no_life))
        else:
            self._send(self.life, exchange)

    def say(self, message: bytes) -> None:
        """Send a message that nobody waits for, if there is somebody to hear it."""
        if self.life is not None:
            self._send(self.life, message)

    async def deliver(self, message: bytes, timeout_s: float) -> None:
        """The same, and come back when what is sent from now on cannot arrive before it."""
        del timeout_s
        self.say(message)

    @abc.abstractmethod
    def abandon(self, exchange: Exchange) -> bool: ...

    @abc.abstractmethod
    def _send(self, life: L, item: Exchange | bytes) -> None:
        """Write a request, or a message that nobody waits for, as soon as that can be done."""

    @abc.abstractmethod
    def _take_unsent(self, life: L) -> Iterable[Exchange]:
        """Give up writing anything more in this life; return the requests of which nothing has been written."""

    # --- answers -----------------------------------------------------------------------------------------------------
    def hold(self, *, is_held: bool) -> None:
        self._holders += 1 if is_held else -1
        if self.life is not None:
            self.life.set_paused(is_paused=self.is_held)

    @property
    def is_held(self) -> bool:
        """Some front takes what it is sent too slowly."""
        return self._holders > 0

    def take(self, life: L, message: bytes) -> None:
        """The server has said this."""
        if message.startswith(b"["):
            self._take_batch(life, message)
            return
        try:
            reply = decode_reply(message)
        except RpcError as error:
            exchange = life.sent.pop(error.id, None) if error.id is not None else None
            if exchange is not None:
                exchange.failed(self.faults.malformed("something that is no answer to the request"))
            self._take_junk(life, message)
            return
        life.junk = 0
        if reply.method is not None:
            self._take_message(life, reply)
            return
        exchange = life.sent.pop(reply.id, None) if reply.id is not None else None
        if exchange is not None:
            exchange.replied(reply)
        else:
            self._counters.answers += 1

    def _take_batch(self, life: L, message: bytes) -> None:
        """Servers of 2025-03-26 may send several messages in an array."""
        try:
            messages = msgspec.json.decode(message, type=list[Raw])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            messages = []
        if not 0 < len(messages) <= BATCH_MESSAGES_MAX:
            self._take_junk(life, message)
            return
        for each in messages:
            if not bytes(each).startswith(b"["):
                self.take(life, bytes(each))

    def _take_message(self, life: L, message: Reply) -> None:
        """Hand on what is no answer: to the call it is about, if there can be no doubt about that."""
        exchange: Exchange | None = None
        if message.id is not None:
            pass
        elif message.method == "notifications/progress":
            exchange = life.sent.get(_progress_token(message))
            if exchange is None:
                self._counters.messages += 1
                return
        elif message.method == "notifications/message":
            # A log line does not say what it is about. While several calls run, it could be another client's.
            calls = [one for one in life.sent.values() if one.is_call]
            if not calls or (len(calls) > 1 and not self.is_of_one_client):
                self._counters.messages += 1
                return
            exchange = calls[-1]
        elif self.standing and (listen_id := _subscription_id(message)):
            exchange = life.sent.get(listen_id)
            if exchange is None:  # what was said before the server heard that this stream has ended
                self._counters.messages += 1
                return
        if exchange is not None:
            exchange.noted(message)
        elif self.speaker is not None:
            self.speaker.on_message(message)

    def _take_junk(self, life: L, message: bytes) -> None:
        self._counters.messages += 1
        life.junk += 1
        if life.junk > JUNK_LINES_MAX:
            self.give_up(life, self.junk_verdict.format(JUNK_LINES_MAX))
        elif self._reactor.now - self._junk_told_at > JUNK_TOLD_S:
            self._junk_told_at = self._reactor.now
            self._log.info(self.junk_event, beginning=quoted(message), dropped=self._counters.messages)

    # --- the end -----------------------------------------------------------------------------------------------------
    def _settle(self, life: L, how: str) -> None:
        """A life is over (`life` is `self.life` no more): tell everybody, in an order in which nobody tries it again.

        `how` continues "the server ...".
        """
        unsent = self._take_unsent(life)
        if not self._closed:
            self._ended(self.faults.over(how))
        for exchange in life.sent.values():
            exchange.failed(self.faults.ended(how) if exchange.is_call else self.faults.over(how))
        for exchange in unsent:
            exchange.returned(self.faults.unsent(how))

    def _stop_exchanges(self) -> None:
        """We are leaving: whoever awaits something fails."""
        self._closed = True
        if self.life is None:
            return
        for exchange in self._take_unsent(self.life):
            exchange.failed(self.faults.stopping())
        sent, self.life.sent = self.life.sent, {}
        for exchange in sent.values():
            exchange.failed(self.faults.broke_off("because the proxy is stopping"))


def _progress_token(message: Reply) -> bytes:
    """Return the token of a progress notification as raw JSON; b"" if it has none."""
    try:
        return bytes(decode_object(message.params or b"{}").get("progressToken", b""))
    except RpcError:
        return b""


def _subscription_id(message: Reply) -> bytes:
    """Return the id of the listen request that a notification belongs to as raw JSON; b"" if to none."""
    try:
        meta = decode_object(message.params or b"{}").get("_meta", b"{}")
        return bytes(decode_object(meta).get(SUBSCRIPTION_ID_KEY, b""))
    except RpcError:
        return b""
