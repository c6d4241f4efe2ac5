"""HTTP+SSE (revision 2024-11-05, transports) to a server: one event stream on which everything comes, a POST for each
message of ours.

Rule 1: the stream is the session. The first event that counts says where messages are posted to; whoever ends the
stream ends the session, and the next one is opened with a new handshake.
Rule 2: messages are posted to the origin of the configured URL and nowhere else: they carry the user's headers.
Rule 3: a call is sent when its POST is written. That the POST is refused ends the call; that it is accepted says
nothing, because the answer comes on the stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final
from urllib.parse import urljoin

import trio

from protocol import unix_url
from protocol.control import ServerInfo
from protocol.http1 import ResponseHead
from protocol.jsonrpc import Reply
from protocol.limits import CONNECT_TIMEOUT_S
from protocol.link import Payload
from protocol.sse import Event
from workers.backend.answers import Answer, read_body
from workers.backend.endpoint import Endpoint
from workers.backend.exchange import Exchange
from workers.backend.faults import Failure, Unanswered
from workers.backend.leg import HANDSHAKE_TIMEOUT_S, Counters
from workers.backend.messages import Life, MessageChannel
from workers.backend.pool import Pool
from workers.backend.requests import head, json_head, with_body
from workers.backend.sse_faults import SseFaults
from workers.backend.standing import Standing
from workers.logs import Log
from workers.reactor import Reactor

ENDPOINT_CHARACTERS_MAX: Final = 2048
_FORGOTTEN: Final = frozenset({404, 410})
"""The server does not know the session any more."""


class Post(Exchange):
    """One message on its way to the server. `carried`: the request in it; None for what nobody waits for."""

    __slots__ = ("_channel", "_life", "carried", "done", "is_written")

    def __init__(self, channel: SseChannel, life: EventStream, message: Payload, carried: Exchange | None) -> None:
        super().__init__(repeatable=carried is not None and carried.repeatable)
        self._channel = channel
        self._life = life
        self.request = with_body(life.post_head, message)
        self.carried = carried
        self.is_written = False
        self.done = trio.Event()
        """The server has taken it, or will not."""

    def writing(self) -> None:
        self.is_written = True
        if self.carried is not None:
            self._life.sent[self.carried.own_id] = self.carried
            self.carried.writing()

    def answered(self, head: ResponseHead, body: Payload) -> bool:
        self._finish()
        accepted = 200 <= head.status < 300
        if not accepted:
            answer = Answer(head, read_body(head, body), b"", is_empty=not len(body))
            self._channel.refused(self._life, self.carried, answer)
        return accepted

    def streamed(self, event: Event) -> None:
        """This is not how it is answered, but the answer may come where it should all the same."""
        del event
        if self.connection is not None:
            self.connection.release_early()
        self._finish()

    def stream_ended(self) -> None:
        self._finish()

    def failed(self, failure: Failure) -> None:
        self._finish()
        carried = self.carried
        if carried is not None and (not self.is_written or self._life.take_back(carried)):
            carried.failed(failure)

    def _finish(self) -> None:
        self.done.set()
        self._life.posts.pop(self, None)


class EventStream(Life):
    """One event stream, and what is under way while it lasts."""

    def __init__(self, channel: SseChannel, pool: Pool, endpoint: Endpoint, now: float) -> None:
        super().__init__(now)
        self._channel = channel
        self.post_head = b""
        """Of the POST of a message; b"" before it is known where to."""
        self.wrong_endpoint = False
        self.posts: dict[Post, None] = {}
        """Under way."""
        request = (
            head(b"GET", endpoint, (b"Accept", b"text/event-stream"), (b"Cache-Control", b"no-store")) + b"\r\n",
        )
        self.standing = _Events(self, pool, request)

    @property
    def is_open(self) -> bool:
        return bool(self.post_head) and not self.standing.ended.is_set()

    def take_back(self, exchange: Exchange) -> bool:
        """Forget a request that was sent; return whether it still waits for its answer."""
        if self.sent.get(exchange.own_id) is exchange:
            del self.sent[exchange.own_id]
            return True
        return False

    def event(self, event: Event) -> None:
        if event.event == "message" and event.data and not self.is_over:
            self._channel.take(self, event.data)
        elif event.event == "endpoint" and not self.post_head:
            self.post_head = self._channel.post_head(event.data)
            self.wrong_endpoint = not self.post_head

    def ended(self) -> None:
        self._channel.stream_ended(self)

    def set_paused(self, *, is_paused: bool) -> None:
        self.standing.is_paused = is_paused
        if (connection := self.standing.connection) is not None:
            (connection.pause_reading if is_paused else connection.resume_reading)()

    def close(self) -> None:
        self.standing.close()


class _Events(Standing):
    """The stream as the pool sees it."""

    __slots__ = ("_life",)

    def __init__(self, life: EventStream, pool: Pool, request: tuple[Payload, ...]) -> None:
        super().__init__(pool, request, b"", _nothing, method=b"GET", ended=life.ended)
        self._life = life

    def streamed(self, event: Event) -> None:
        self._life.event(event)
        self.poke()


class SseChannel(MessageChannel[EventStream]):
    """A channel to a server that speaks HTTP+SSE, on connections of `pool`, which it looks after."""

    speaks_modern = False  # the transport is older than the stateless era
    initialize_s = HANDSHAKE_TIMEOUT_S
    faults: SseFaults

    def __init__(
        self,
        reactor: Reactor,
        pool: Pool,
        endpoint: Endpoint,
        server: ServerInfo,
        faults: SseFaults,
        counters: Counters,
        log: Log,
        *,
        ended: Callable[[Failure], None],
        used: Callable[[], None],
    ) -> None:
        super().__init__(reactor, faults, counters, log, used=used, ended=ended)
        self._pool = pool
        self._endpoint = endpoint
        self._server = server
        self._starting = trio.Lock()

    @property
    def next_due(self) -> float | None:
        own, pools = super().next_due, self._pool.next_due
        return None if own is None or pools is None else min(own, pools)

    # --- requests ----------------------------------------------------------------------------------------------------
    def abandon(self, exchange: Exchange) -> bool:
        life = self.life
        if life is None:
            return False
        if life.take_back(exchange):
            return True
        post = next((post for post in life.posts if post.carried is exchange), None)
        if post is not None and not post.is_written:
            self._pool.abandon(post)
            life.posts.pop(post, None)
        return False

    async def deliver(self, message: bytes, timeout_s: float) -> None:
        if self.life is not None:
            post = self._post(self.life, message, None)
            with trio.move_on_after(timeout_s):
                await post.done.wait()

    def _send(self, life: EventStream, item: Exchange | bytes) -> None:
        if isinstance(item, bytes):
            self._post(life, item, None)
        else:
            self._post(life, item.request[0], item)

    def _post(self, life: EventStream, message: Payload, carried: Exchange | None) -> Post:
        post = Post(self, life, message, carried)
        life.posts[post] = None
        self._pool.submit(post)
        return post

    def _take_unsent(self, life: EventStream) -> Iterable[Exchange]:
        found: list[Exchange] = []
        for post in [post for post in life.posts if not post.is_written]:
            self._pool.abandon(post)
            life.posts.pop(post, None)
            post.done.set()
            if post.carried is not None:
                found.append(post.carried)
        return found

    def refused(self, life: EventStream, carried: Exchange | None, answer: Answer) -> None:
        """The server does not want a message."""
        if carried is not None and life.take_back(carried):
            carried.failed(self.faults.of_status(answer))
        if answer.status in _FORGOTTEN:
            self.give_up(life, f"does not know its own session any more (HTTP {answer.status})")

    # --- its life ----------------------------------------------------------------------------------------------------
    def post_head(self, where: bytes) -> bytes:
        """Return the head of POSTs to where an endpoint event says; b"" if that is another server, or no place."""
        try:
            text = where.decode("ascii")
            if len(text) > ENDPOINT_CHARACTERS_MAX:
                return b""
            own = self._endpoint
            is_path = text.startswith("/") and not text.startswith("//")
            url = f"{unix_url.PREFIX}{own.socket}:{text}" if own.socket and is_path else urljoin(self._server.url, text)
            found = Endpoint(url, self._server.headers, own.proxy)
        except ValueError:
            return b""
        return json_head(found) if _origin(found) == _origin(own) else b""

    async def start(self) -> None:
        """Open the event stream, unless that is done. Errors: `Unanswered`."""
        async with self._starting:
            if self.life is not None:
                return
            if self._closed:
                raise Unanswered(self.faults.stopping())
            life = EventStream(self, self._pool, self._endpoint, trio.current_time())
            standing = life.standing
            standing.begin()
            try:
                with trio.move_on_after(CONNECT_TIMEOUT_S):
                    while not (life.post_head or life.wrong_endpoint or standing.ended.is_set()):
                        await standing.changed.wait()
            finally:
                if not life.is_open or self._closed:
                    life.is_over = True
                    standing.close()
            if life.is_over:
                raise Unanswered(self._why_not(life))
            self.life = life
            life.set_paused(is_paused=self.is_held)

    def _why_not(self, life: EventStream) -> Failure:
        standing = life.standing
        if self._closed:
            return self.faults.stopping()
        if life.wrong_endpoint:
            return self.faults.foreign_endpoint()
        if standing.failure is not None:
            return standing.failure
        if standing.answer is not None:
            return self.faults.no_event_stream(standing.answer)
        return self.faults.no_endpoint(CONNECT_TIMEOUT_S)

    def stream_ended(self, life: EventStream) -> None:
        """The server has ended the stream, or we have."""
        if self.life is life:
            self._life_over(life, "closed its event stream")

    def give_up(self, life: EventStream, why: str) -> None:
        if self.life is life:
            self._life_over(life, why)

    def _life_over(self, life: EventStream, how: str) -> None:
        life.is_over = True
        self.life = None
        life.close()
        self._log.info("the event stream has ended", how=how)
        self._settle(life, how)

    # --- connections -------------------------------------------------------------------------------------------------
    def sweep(self) -> None:
        self._pool.sweep()

    def drop_idle(self) -> None:
        """What is idle may have been cut off; the kernel looks after the stream."""
        self._pool.drop_idle()

    async def stop(self) -> None:
        self._stop_exchanges()
        if self.life is not None:
            self.give_up(self.life, "was disconnected")
        await self._pool.stop()


def _origin(endpoint: Endpoint) -> tuple[object, ...]:
    return endpoint.host.lower(), endpoint.port, endpoint.tls, endpoint.is_websocket, endpoint.socket


def _nothing(reply: Reply) -> None:
    del reply
