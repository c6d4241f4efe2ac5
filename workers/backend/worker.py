"""The backend worker: owns one server, keeps it connected, and serves the fronts' calls to it.

The loop in `run` only has work while nobody has succeeded: it connects, and after that sleeps until the server cannot
be reached. Calls do not wait for it; one that succeeds while the loop is waiting to try again wakes it.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from typing import Final

import trio

from protocol import link
from protocol.control import BackendSettings
from protocol.versions import Era
from workers.backend.calls import Desk
from workers.backend.endpoint import Endpoint
from workers.backend.faults import Failure, Faults, Unanswered
from workers.backend.fetch import Fetcher
from workers.backend.front_link import FrontLink
from workers.backend.leg import Counters, Leg
from workers.backend.legacy import LegacyLeg
from workers.backend.legs import Legs
from workers.backend.listings import Listings
from workers.backend.modern import ModernLeg
from workers.backend.pool import Pool
from workers.backend.requests import Ids
from workers.logs import Log
from workers.reactor import Reactor

SWEEP_S: Final = 0.25
BACKOFF_MIN_S: Final = 0.1
BACKOFF_MAX_S: Final = 5.0
CLOSE_S: Final = 1.0
"""How long the fronts may take to read what is still queued for them when the worker leaves."""


class BackendWorker:
    """One server."""

    def __init__(
        self,
        reactor: Reactor,
        settings: BackendSettings,
        *,
        incarnation: int,
        log: Log,
        report_state: Callable[[str, str], None],
    ) -> None:
        self._reactor = reactor
        self._name = settings.server.name
        self._incarnation = incarnation
        self._log = log
        self._report_state = report_state
        self._state = "starting"
        self._detail = ""
        self._instructions = ""
        self._told_instructions = ""
        self._fronts: set[FrontLink] = set()
        self._works = trio.Event()
        """Set while the server answers; replaced when it no longer can be reached."""
        self._fails = trio.Event()
        """Set while it cannot be reached; replaced when it answers."""
        self._running = trio.CancelScope()
        self._stopping = False
        self.counters = Counters()

        endpoint = Endpoint(settings.server.url)
        faults = Faults(self._name, endpoint)
        ids = Ids(incarnation)
        sweep = reactor.every(SWEEP_S, self._sweep)
        self._pool = Pool(reactor, endpoint, faults, log, connected=self._connected, used=sweep.wake)
        fetcher = Fetcher(self._pool, faults)
        modern = ModernLeg(fetcher, ids, self.counters, self._list_changed, endpoint)
        self._legacy = LegacyLeg(fetcher, ids, self.counters, self._list_changed, endpoint, reactor)
        self._legs = Legs(reactor, {Era.MODERN: modern, Era.LEGACY: self._legacy}, faults, log, self._opened)
        self._listings = Listings(
            reactor,
            self._legs,
            faults,
            log,
            page_timeout_s=settings.call_timeout_s,
            changed=self._tell_list_changed,
            unreachable=self._unreachable,
        )
        self._desk = Desk(
            reactor,
            self._legs,
            self._pool,
            ids,
            self.counters,
            log,
            answered=self._answered,
            unreachable=self._unreachable,
            relist=self._listings.relist,
        )

    def attach(self, sock: socket.socket, peer: str, incarnation: int) -> None:
        """Serve the front at the other end of this link."""
        self._log.debug("link attached", peer=peer, peer_incarnation=incarnation)
        front = FrontLink(
            sock,
            self._name,
            self._incarnation,
            self._desk,
            list_requested=self._listings.request,
            closed=self._front_closed,
        )
        self._fronts.add(front)
        front.send(self._state_frame())
        if self._stopping:
            front.refuse_calls()

    async def run(self) -> None:
        """Keep the server connected until cancelled."""
        self._report_state(self._state, self._detail)
        pause_s = 0.0
        with self._running:
            while True:
                failure = await self._connect()
                if failure is None:
                    pause_s = 0.0
                    await self._fails.wait()
                    self._legs.doubt()
                else:
                    self._set_backoff(failure)
                # Decorrelated jitter: many workers that lost one server do not come back in step.
                longest_s = max(BACKOFF_MIN_S, pause_s * 3)
                pause_s = min(BACKOFF_MAX_S, random.uniform(BACKOFF_MIN_S, longest_s))  # noqa: S311 - no secret
                with trio.move_on_after(pause_s):
                    await self._works.wait()

    async def drain(self, deadline_s: float) -> None:
        """Finish the calls in flight within `deadline_s`, end the session at the server, close everything."""
        self._running.cancel()
        self._set_state("draining", "")
        self._stopping = True
        for front in self._fronts:
            front.refuse_calls()
        with trio.move_on_after(deadline_s):
            for front in list(self._fronts):
                await front.quiet.wait()
        for front in self._fronts:
            for call in list(front.calls.values()):
                call.cancel("the proxy is shutting down")
        await self._legacy.end()
        self._pool.close()
        with trio.move_on_after(CLOSE_S):
            async with trio.open_nursery() as nursery:
                for front in list(self._fronts):
                    nursery.start_soon(front.close)

    async def _connect(self) -> Failure | None:
        """Find out how the server is spoken to; return why that is not possible."""
        if self._state == "starting":
            self._set_state("connecting", "")
        try:
            await self._legs.leg_for(Era.MODERN)
        except Unanswered as error:
            return error.failure
        self._set_ready()
        return None

    def _sweep(self) -> bool:
        """Look at deadlines. Return whether there is anything left that has one."""
        self._pool.sweep()
        for front in self._fronts:
            front.sweep(self._reactor.now)
        return self._pool.is_in_use or any(front.calls for front in self._fronts)

    def _front_closed(self, front: FrontLink, reason: str) -> None:
        self._log.debug("link closed", reason=reason)
        self._fronts.discard(front)

    # --- what the server does ----------------------------------------------------------------------------------------
    def _connected(self) -> None:
        if self._state == "connecting":
            self._set_state("negotiating", "")

    def _opened(self, leg: Leg) -> None:
        self._instructions = leg.instructions or self._instructions
        self._set_ready()
        self._reactor.start_soon(self._listings.warm, leg)

    def _answered(self) -> None:
        if self._state != "ready":
            self._set_ready()

    def _unreachable(self, failure: Failure) -> None:
        if self._state == "ready":
            self._set_backoff(failure)

    def _set_backoff(self, failure: Failure) -> None:
        if self._works.is_set():
            self._works = trio.Event()
        self._fails.set()
        self._set_state("backoff", failure.message)

    def _set_ready(self) -> None:
        if self._fails.is_set():
            self._fails = trio.Event()
        self._works.set()
        self._set_state("ready", "")

    def _list_changed(self, kind: str) -> None:
        self._listings.list_changed(kind)

    # --- what the fronts and the root are told -----------------------------------------------------------------------
    def _set_state(self, state: str, detail: str) -> None:
        told = (self._state, self._detail, self._told_instructions)
        if self._stopping or told == (state, detail, self._instructions):
            return
        if state != self._state:
            self._log.info("state", state=state, detail=detail)
        self._state = state
        self._detail = detail
        self._told_instructions = self._instructions
        self._report_state(state, detail)
        for front in self._fronts:
            front.send(self._state_frame())

    def _state_frame(self) -> link.State:
        return link.State(self._state, self._detail, self._instructions)

    def _tell_list_changed(self, kind: str) -> None:
        for front in self._fronts:
            front.send(link.ListChanged(kind))
