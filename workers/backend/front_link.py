"""A front as its server's worker sees it: its link, and its calls in flight."""

from __future__ import annotations

import socket
from collections.abc import Callable

import trio

from protocol import link
from protocol.counts import ANSWERED, SPENT_US
from protocol.limits import STREAM_BUFFER_HIGH_BYTES, STREAM_BUFFER_LOW_BYTES
from protocol.link import Header, LinkError, Payload
from protocol.versions import Era
from workers.backend.calls import BackendCall, Desk
from workers.backend.interactions import Ending
from workers.link_end import LinkEnd


class FrontLink:
    """One front."""

    def __init__(
        self,
        sock: socket.socket,
        server: str,
        incarnation: int,
        desk: Desk,
        *,
        front_incarnation: int,
        calls_max: int,
        list_requested: Callable[[FrontLink, link.ListRequest], None],
        watch: Callable[[FrontLink, link.Watch], None],
        unwatch: Callable[[FrontLink, str], None],
        probe: Callable[[FrontLink], None],
        closed: Callable[[FrontLink, str], None],
    ) -> None:
        self.calls: dict[int, BackendCall] = {}
        self.is_congested = False
        """The front takes our frames too slowly: answers are not read from the server until it has caught up."""
        self._desk = desk
        self._flight_link = desk.flight.open_link(front_incarnation)
        self._list_requested = list_requested
        self._watch = watch
        self._unwatch = unwatch
        self._probe = probe
        self._closed = closed
        self._answered = 0
        self._spent_s = 0.0
        """Calls that have ended in this batch, and how long they took together: counted once for all."""
        self.quiet = trio.Event()
        """Set when no call is in flight and none will begin any more."""
        self._gone = trio.Event()
        self._is_stopping = False
        self._calls_max = calls_max
        self._end = LinkEnd(
            desk.reactor,
            sock,
            role="worker",
            name=server,
            incarnation=incarnation,
            calls=calls_max,
            on_frame=self._frame,
            on_closed=self._link_closed,
            on_room=self._room_made,
        )
        self._empty = trio.Event()
        """Set when what was queued on the link has been sent, or never will be."""

    def send(self, header: Header, payload: Payload = b"") -> None:
        """Send a frame; hold the server back if the front does not keep up."""
        end = self._end
        end.send(header, payload)  # which does nothing, and queues nothing, once the link is gone
        if end.queued_bytes > STREAM_BUFFER_HIGH_BYTES and not self.is_congested:
            self._set_congested(True)

    def finish(self, call: BackendCall, header: Ending, payload: Payload) -> None:
        """End a call."""
        call.over(header)
        self.part(call, header, payload)

    def part(self, call: BackendCall, header: Ending, payload: Payload) -> None:
        """End a call for this front; it may be held for another request of the client."""
        del self.calls[call.header.id]
        end = self._end
        end.send(header, payload)  # which does nothing, and queues nothing, once the link is gone
        if end.queued_bytes > STREAM_BUFFER_HIGH_BYTES and not self.is_congested:
            self._set_congested(True)
        desk = self._desk
        self._answered += 1
        self._spent_s += desk.reactor.now - call.came_at
        if self._answered == 1:
            desk.reactor.at_batch_end(self._count)
        if call.slot >= 0:
            desk.flight.release(call.slot)
            call.slot = -1
        if self._is_stopping and not self.calls:
            self.quiet.set()

    def _count(self) -> None:
        counts = self._desk.reactor.counts
        counts[ANSWERED] += self._answered
        counts[SPENT_US] += int(self._spent_s * 1e6)
        self._answered = 0
        self._spent_s = 0.0

    def sweep(self, now: float) -> None:
        """End the calls whose time is over."""
        for call in [call for call in self.calls.values() if call.deadline <= now]:
            call.expire()

    def refuse_calls(self) -> None:
        """The worker is about to stop: what is in flight may end, nothing new begins."""
        self._is_stopping = True
        if not self.calls:
            self.quiet.set()

    async def close(self) -> None:
        """Send what is still queued, then close."""
        if self._end.queued_bytes:
            self._empty = trio.Event()
            await self._empty.wait()
        self._end.close()
        await self._gone.wait()

    # --- frames ------------------------------------------------------------------------------------------------------
    def _frame(self, header: Header, payload: Payload) -> None:
        if not isinstance(header, link.Call):
            self._other_frame(header, payload)
            return
        calls, number = self.calls, header.id
        if number in calls:
            raise LinkError(f"call {number} begins twice")
        desk = self._desk
        call = calls[number] = BackendCall(desk, self, header, payload)
        if self._is_stopping:
            call.failed(desk.faults.stopping())
        elif len(calls) > self._calls_max:
            call.failed(desk.faults.too_many_calls(self._calls_max))
        else:
            call.slot = desk.flight.claim(self._flight_link, number)
            call.begin()

    def _other_frame(self, header: Header, payload: Payload) -> None:
        if isinstance(header, link.ListRequest):
            self._list_requested(self, header)
        elif isinstance(header, link.Cancel):
            if (call := self.calls.get(header.id)) is not None:
                call.cancel(header.reason)
        elif isinstance(header, link.Recall):
            if (call := self.calls.get(header.id)) is not None:
                call.recall()
        elif isinstance(header, link.Watch):
            self._watch(self, header)
        elif isinstance(header, link.ClientGone):
            if self._desk.sessions is not None:
                self._desk.sessions.client_gone(header.client)
        elif isinstance(header, link.Unwatch):
            self._unwatch(self, header.uri)
        elif isinstance(header, link.Answered):
            if (call := self.calls.get(header.id)) is not None:
                call.answered_by_client(header, bytes(payload))
        elif isinstance(header, link.Resume):
            self._resume(header, bytes(payload))
        elif isinstance(header, link.Probe):
            self._probe(self)
        elif isinstance(header, link.TaskAsk):
            self._desk.kept.ask(self, header, bytes(payload))
        elif isinstance(header, link.Abandon):
            self._desk.interactions.abandon(header.interaction, "the client is gone")
        elif (
            isinstance(header, (link.PauseEvents, link.ResumeEvents))
            and (call := self.calls.get(header.id)) is not None
        ):
            call.set_client_slow(isinstance(header, link.PauseEvents))

    def _resume(self, header: link.Resume, responses: bytes) -> None:
        if header.id in self.calls:
            raise LinkError(f"call {header.id} begins twice")
        desk = self._desk
        call = None if self._is_stopping else desk.interactions.take(header.interaction)
        if call is None:
            failure = desk.faults.stopping() if self._is_stopping else desk.faults.unknown_interaction()
            self.send(link.Fault(header.id, failure.code, failure.message, True, 0, Era.LEGACY))
            return
        self.calls[header.id] = call
        call.slot = desk.flight.claim(self._flight_link, header.id)
        desk.flight.sent(call.slot)
        call.resume(self, header, responses)

    def _link_closed(self, reason: str) -> None:
        self._gone.set()
        self._empty.set()
        if self.is_congested:
            self._set_congested(False)
        for call in list(self.calls.values()):
            call.cancel("the client is gone")
        self._desk.flight.close_link(self._flight_link)
        self.quiet.set()
        self._closed(self, reason)

    # --- back-pressure -----------------------------------------------------------------------------------------------
    def _set_congested(self, is_congested: bool) -> None:
        self.is_congested = is_congested
        self._desk.hold(is_held=is_congested)
        for call in self.calls.values():
            call.update_reading()

    def _room_made(self) -> None:
        if self.is_congested and self._end.queued_bytes <= STREAM_BUFFER_LOW_BYTES:
            self._set_congested(False)
        if not self._end.queued_bytes:
            self._empty.set()
