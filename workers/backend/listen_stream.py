"""Keeps one `subscriptions/listen` stream to a modern server open, with the union of what everybody wants to hear.

Resources are named by their URIs, tasks by the server's own ids; `Wanted` is both.

Rule 1: what a stream is about cannot be changed, so another one is opened beside it, and takes its place once the
server has acknowledged it. What the server said before that may still be on its way, so the old one stays open for
`LINGER_S`. Nothing is missed in between; something may be heard twice.
Rule 2: a stream that ends is opened again after a pause. What was said meanwhile is missed, and `gap` is called.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final

import msgspec
import trio

from protocol.abilities import NOTHING, TASKS
from protocol.jsonrpc import Object, Raw, Reply, RpcError, decode_object, encode_object
from protocol.tasks import EXTENSION
from protocol.versions import Era
from workers.backend.channel import Channel
from workers.backend.era import contradicts
from workers.backend.faults import Failure
from workers.backend.leg import HANDSHAKE_TIMEOUT_S
from workers.backend.modern import ModernLeg
from workers.backend.requests import Ids
from workers.backend.standing import Pauses, Standing
from workers.backend.watches import Wanted
from workers.logs import Log
from workers.reactor import Reactor

GATHER_S: Final = 0.02
"""A client that wants much usually says so in one go."""
LINGER_S: Final = 0.5
LINGERING_MAX: Final = 4
"""Streams that others have taken the place of; whoever changes his mind so often may miss something."""
LISTEN: Final = "subscriptions/listen"
_LISTED: Final = ("resourceSubscriptions", "taskIds")
"""Members of a filter, in the order of `Wanted`."""
_ACKNOWLEDGED: Final = "notifications/subscriptions/acknowledged"
_FLAGS: Final = {
    "tools.listChanged": "toolsListChanged",
    "prompts.listChanged": "promptsListChanged",
    "resources.listChanged": "resourcesListChanged",
}
_SUBSCRIBE: Final = "resources.subscribe"
_TASKS: Final = f"extensions.{EXTENSION}"
_NOT_WANTED: Final = "nothing of this is wanted any more"
_TRY_AGAIN: Final = frozenset({408, 425, 429})
_SERVER_ERRORS: Final = 500


class ListenStream:
    """The stream. `wanted` returns what is wanted now; `acknowledged` is told what was asked for and what of it the
    server has agreed to; the other callbacks are those of `workers.backend.get_stream.GetStream`."""

    def __init__(
        self,
        reactor: Reactor,
        channel: Channel,
        leg: ModernLeg,
        ids: Ids,
        log: Log,
        random: Random,
        *,
        wanted: Callable[[], Wanted],
        acknowledged: Callable[[Wanted, Wanted], None],
        on_notification: Callable[[Reply], None],
        gap: Callable[[], None],
        unreachable: Callable[[Failure], None],
        forgotten: Callable[[int], None],
    ) -> None:
        self._reactor = reactor
        self._channel = channel
        self._leg = leg
        self._ids = ids
        self._log = log
        self._random = random
        self._wanted = wanted
        self._acknowledged = acknowledged
        self._on_notification = on_notification
        self._gap = gap
        self._unreachable = unreachable
        self._forgotten = forgotten
        self._running = trio.CancelScope()
        self._wanted_changed = trio.Event()
        self._lingering: list[_Listen] = []
        self._lost = False
        """A stream has ended since one was last acknowledged."""

    def follow(self) -> None:
        """The leg has just been opened: listen from now on."""
        self.stop()
        self._running = trio.CancelScope()
        self._reactor.start_soon(self._keep, self._running)

    def stop(self) -> None:
        """Close the stream."""
        self._running.cancel()

    def changed(self) -> None:
        """Something else is wanted now."""
        self._wanted_changed.set()

    async def _keep(self, running: trio.CancelScope) -> None:
        opening = self._leg.opening
        pauses = Pauses(self._random)
        current: _Listen | None = None
        try:
            with running:
                while True:
                    self._wanted_changed = trio.Event()
                    asked = self._asked()
                    filter_ = self._filter(asked)
                    if not filter_:
                        if current is not None:
                            current.close()
                        current = None
                        await self._wanted_changed.wait()
                        await trio.sleep(GATHER_S)
                        continue
                    began_at = trio.current_time()
                    following = await self._opened(filter_, TASKS if asked[1] else NOTHING)
                    if following.honoured is not None:
                        if current is not None:
                            self._retire(current)
                        current = following
                        self._take_up(asked, following.honoured)
                    elif self._is_over(following, asked, opening):
                        return
                    if current is not None:
                        await self._until_ended_or_changed(current)
                        if not current.stream.ended.is_set():
                            await trio.sleep(GATHER_S)
                            continue
                        current = None
                        self._lost = True
                    await trio.sleep(pauses.next(trio.current_time() - began_at, following.stream.retry_s))
        finally:
            for listen in self._lingering:
                listen.close()
            if current is not None:
                self._lost = True
                current.close()

    def _retire(self, listen: _Listen) -> None:
        """Close a stream soon that another has taken the place of."""
        self._lingering.append(listen)
        if len(self._lingering) > LINGERING_MAX:
            self._lingering[0].close()
        self._reactor.start_soon(self._close_soon, listen)

    async def _close_soon(self, listen: _Listen) -> None:
        try:
            with trio.move_on_after(LINGER_S):
                await listen.stream.ended.wait()
        finally:
            self._lingering.remove(listen)
            listen.close()

    def _take_up(self, asked: Wanted, honoured: Wanted) -> None:
        if self._lost:
            self._gap()
        self._lost = False
        self._acknowledged(asked, honoured)

    def _asked(self) -> Wanted:
        """Return what is wanted of all that this server tells of."""
        flags, (uris, task_ids) = self._leg.flags, self._wanted()
        return uris if _SUBSCRIBE in flags else [], task_ids if _TASKS in flags else []

    def _filter(self, asked: Wanted) -> Object:
        flags = self._leg.flags
        members: Object = {member: Raw(b"true") for flag, member in _FLAGS.items() if flag in flags}
        members |= {member: Raw(msgspec.json.encode(some)) for member, some in zip(_LISTED, asked, strict=True) if some}
        return members

    async def _opened(self, filter_: Object, abilities: int) -> _Listen:
        own_id = self._ids.next()
        params = encode_object({"notifications": Raw(encode_object(filter_))})
        listen = _Listen(self._channel, self._leg, own_id, params, abilities, self._on_notification)
        try:
            listen.stream.begin()
            with trio.move_on_after(HANDSHAKE_TIMEOUT_S):
                await listen.settled.wait()
        finally:
            if listen.honoured is None:
                listen.close()
        return listen

    async def _until_ended_or_changed(self, listen: _Listen) -> None:
        async with trio.open_nursery() as nursery:

            async def first(event: trio.Event) -> None:
                await event.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(first, listen.stream.ended)
            nursery.start_soon(first, self._wanted_changed)

    def _is_over(self, listen: _Listen, asked: Wanted, opening: int) -> bool:
        """What came in place of an acknowledgement: whether trying again is of no use until the leg is opened anew."""
        failure, answer = listen.stream.failure, listen.stream.answer
        if failure is not None:
            if failure.down:
                self._unreachable(failure)
            return failure.down
        if answer is not None and contradicts(Era.MODERN, answer):
            self._forgotten(opening)
            return True
        status = answer.status if answer is not None else 0
        if listen.is_refused or (status and status < _SERVER_ERRORS and status not in _TRY_AGAIN):
            self._log.info("the server tells us nothing unasked", http=status)
            self._acknowledged(asked, ([], []))
            return True
        return False


class _Listen:
    """One stream of several."""

    def __init__(
        self,
        channel: Channel,
        leg: ModernLeg,
        own_id: bytes,
        params: bytes,
        abilities: int,
        told: Callable[[Reply], None],
    ) -> None:
        request = leg.plain_request(own_id, LISTEN, params, abilities)
        self.stream = Standing(channel, request, own_id, self._message, method=b"POST", ended=self._ended)
        self.settled = trio.Event()
        """The server has agreed, or the stream has ended."""
        self.honoured: Wanted | None = None
        """What the server tells us of; None until it has said so."""
        self.is_refused = False
        self._leg = leg
        self._told = told

    def close(self) -> None:
        """End the stream. Where no connection ends with it, the server is told."""
        if self.stream.close():
            self._leg.cancel(self.stream.own_id, _NOT_WANTED)

    def _message(self, message: Reply) -> None:
        if message.method == _ACKNOWLEDGED:
            if self.honoured is None:
                self.honoured = _honoured(message)
                self.settled.set()
        elif message.method is None:
            self.is_refused = message.error is not None  # a result is a graceful end; the stream's end follows
            self.settled.set()
        elif message.id is None:
            self._told(message)

    def _ended(self) -> None:
        self.settled.set()


def _honoured(message: Reply) -> Wanted:
    try:
        members = decode_object(decode_object(message.params or Raw(b"{}")).get("notifications", Raw(b"{}")))
        uris, task_ids = (msgspec.json.decode(members.get(member, b"[]"), type=list[str]) for member in _LISTED)
    except (RpcError, msgspec.MsgspecError, UnicodeDecodeError):
        return [], []
    return uris, task_ids
