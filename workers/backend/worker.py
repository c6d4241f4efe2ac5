"""The backend worker: owns one server, keeps it connected, and serves the fronts' calls to it.

One loop only has work while nobody has succeeded: it connects, then sleeps until the server cannot be reached any more.
Calls do not wait for it; one that succeeds while the loop is waiting to try again wakes it. The other looks after a
server that nobody has called for a while.

Two things are known of the server and shown as one state: whether it can be reached (`_state`), and whether calls are
worth a try (the breaker), which hides the other unless it is closed.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Final

import trio

from protocol import link
from protocol.control import BackendSettings, Check, Checked, Said, WorkerState
from protocol.flight import FlightPage
from protocol.jsonrpc import Raw
from protocol.limits import CALL_TIMEOUT_S, TOOLS_REPORTED_MAX
from protocol.tasks import EXTENSION
from protocol.versions import Era
from workers.backend.access import reach
from workers.backend.breaker import Breaker, Position
from workers.backend.calls import BackendCall, Desk
from workers.backend.client_sessions import ClientSessions
from workers.backend.faults import Failure, Says, Unanswered
from workers.backend.front_link import FrontLink
from workers.backend.health import Checkup, Vitals
from workers.backend.kept_tasks import KeptTasks
from workers.backend.leased_sessions import LeasedSessions
from workers.backend.leg import Counters, Leg
from workers.backend.legacy import END_TIMEOUT_S
from workers.backend.listings import Listings
from workers.backend.requests import Ids
from workers.backend.sharing_link import sharing
from workers.backend.streams import streams_of
from workers.backend.watches import Watches
from workers.logs import Log
from workers.reactor import Reactor

SWEEP_S: Final = 0.25
BACKOFF_MIN_S: Final = 0.1
BACKOFF_MAX_S: Final = 5.0
BACKOFF_WANTED_MAX_S: Final = 1.0
"""The longest pause while calls are being refused for want of the server."""
CLOSE_S: Final = 1.0
"""How long the fronts may take to read what is still queued for them when the worker leaves."""
REACHED_STATES: Final = frozenset({"ready", "degraded"})
NAME_CHARACTERS_MAX: Final = 128
"""Of a tool's name as the root is told it."""
LIST_KINDS: Final = ("tools", "prompts", "resources")
BREAKER_STATES: Final = REACHED_STATES | {"backoff"}
"""Those that the breaker's position hides unless it is closed."""
_NOT_CLOSED: Final = frozenset({Position.OPEN.value, Position.HALF_OPEN.value})


class BackendWorker:
    """One server."""

    def __init__(
        self,
        reactor: Reactor,
        settings: BackendSettings,
        *,
        incarnation: int,
        flight: FlightPage,
        log: Log,
        tell_root: Callable[[WorkerState | Checked | Said], None],
    ) -> None:
        self._reactor = reactor
        server = settings.server
        self._name = server.name
        self._incarnation = incarnation
        self._log = log
        self._tell_root = tell_root
        self._state = "starting"
        self._detail = ""
        self._instructions = ""
        self._told: tuple[str, str, str, list[str] | None] = ("starting", "", "", None)
        """State, detail and instructions as the fronts know them."""
        self._fronts: dict[FrontLink, None] = {}
        self._works = trio.Event()
        """Set while the server answers; replaced when it no longer can be reached."""
        self._fails = trio.Event()
        """Set while it cannot be reached; replaced when it answers."""
        self._refused = False
        """A call was refused since the server was last tried."""
        self._succeeded_at = 0.0
        """When a call was last answered, in reactor time."""
        self._running = trio.CancelScope()
        self._stopping = False
        self.counters = Counters()

        ids = Ids(incarnation)
        sweep = reactor.every(SWEEP_S, self._sweep)
        access = reach(
            reactor,
            settings,
            ids,
            self.counters,
            log,
            connected=self._connected,
            ended=self._ended,
            list_changed=self._list_changed,
            updated=self._updated,
            opened=self._opened,
            used=sweep.wake,
            said=self._said,
            calls=self._calls_at,
            asked=self._asked,
        )
        faults = self._faults = access.faults
        self._channel = access.channel
        self._legacy = access.legacy
        self._legs = access.legs
        spread = self._spread = reactor.machine.random
        self._watches = Watches(reactor, self._legs, faults, log, kick_listen=lambda: self._streams.changed())
        self._streams = streams_of(
            reactor, access, ids, log, spread, self._watches,
            gap=self._missed, unreachable=self._own_request_failed, forgotten=self._forgotten,
        )  # fmt: skip
        self._breaker = Breaker(spread)
        self._half_opens_at = self._breaker.open_until
        self._vitals = Vitals(counts=reactor.counts)
        self._checkup = Checkup(self._legs, faults, self._vitals, spread, call_timeout_s=server.call_timeout_s)
        self._listings = Listings(
            reactor,
            self._legs,
            faults,
            log,
            page_timeout_s=min(server.call_timeout_s, CALL_TIMEOUT_S),
            changed=self._tell_list_changed,
            header_rules=access.pool is not None,
            tools_known=self._report,
            unreachable=self._own_request_failed,
        )
        self._access = access
        self._ids = ids
        self._used = sweep.wake
        self._sessions: ClientSessions | None = None
        """What single clients have; None if there is one session for all."""
        if server.is_isolated:
            self._sessions = ClientSessions(
                reactor, access, self._watches, ids, log, spread, most=server.sessions_max, used=sweep.wake,
                said=self._said, unreachable=self._own_request_failed, changed=self._report,
            )  # fmt: skip
        self._listeners = self._sessions or self._watches
        self._kept = KeptTasks(reactor, faults, server.durable_after_s, told=self._watches.kept_changed)
        self._watches.kept = self._kept
        self._desk = Desk(
            reactor,
            self._legs,
            self._channel,
            ids,
            self.counters,
            log,
            breaker=self._breaker,
            admit=self._admit,
            refusal=self._refusal,
            answered=self._answered,
            failed=self._call_failed,
            relist=self._listings.relist,
            task_support=self._listings.task_support,
            flight=flight,
            timeout_s=server.timeout_s,
            kept=self._kept,
            keep_apart=self._keep_apart,
            sessions=self._sessions,
        )
        self.interactions = self._desk.interactions
        self._in_flight_max = server.in_flight_max
        self._front_kind = FrontLink if settings.fronts == 1 else sharing(server.in_flight_max, settings.fronts)

    def attach(self, sock: socket.socket, peer: str, incarnation: int) -> None:
        """Serve the front at the other end of this link."""
        self._log.debug("link attached", peer=peer, peer_incarnation=incarnation)
        front = self._front_kind(
            sock,
            self._name,
            self._incarnation,
            self._desk,
            front_incarnation=incarnation,
            calls_max=self._in_flight_max,
            list_requested=self._listings.request,
            watch=self._listeners.watch,
            unwatch=self._listeners.unwatch,
            probe=self._probe,
            closed=self._front_closed,
        )
        self._fronts[front] = None
        front.send(self._state_frame())
        if self._stopping:
            front.refuse_calls()

    async def run(self) -> None:
        """Keep the server connected, and an eye on it, until cancelled."""
        self._report()
        with self._running:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._check_forever)
                await self._keep_connected()

    async def _keep_connected(self) -> None:
        pause_s = 0.0
        while True:
            failure = await self._connect()
            if failure is None:
                pause_s = 0.0
                await self._fails.wait()
                self._legs.doubt()
                if self._sessions is not None:
                    self._sessions.doubt()
            else:
                self._vitals.failed(failure)
                self._set_backoff(failure)
                self._report()  # the numbers have changed, even if nothing else has
            # Decorrelated jitter: many workers that lost one server do not come back in step.
            longest_s = max(BACKOFF_MIN_S, pause_s * 3)
            limit_s = BACKOFF_WANTED_MAX_S if self._refused else BACKOFF_MAX_S
            pause_s = min(limit_s, self._spread.uniform(BACKOFF_MIN_S, longest_s))
            if failure is not None and failure.parked:
                pause_s = failure.retry_after_ms / 1000
            self._refused = False
            with trio.move_on_after(pause_s):
                await self._works.wait()

    async def _check_forever(self) -> None:
        while True:
            quiet_since = await self._checkup.pause()
            if self._state not in REACHED_STATES:
                continue  # the other loop is at it
            if self._succeeded_at < quiet_since:
                await self._check()
            else:
                self._vitals.answered()
            self._report()

    def check(self, order: Check) -> None:
        """Find out for the root how the server is now, connecting to it first if need be; then tell it."""
        self._reactor.start_soon(self._check_for_root, order)

    async def _check_for_root(self, order: Check) -> None:
        failure: Failure | None = self._faults.silent(order.deadline_s)
        with trio.move_on_after(order.deadline_s):
            failure = await self._connect() or await self._check() or await self._list()
        if failure is not None and self._state not in REACHED_STATES:
            self._vitals.failed(failure)
        self._report()
        tools = self._listings.tools
        self._tell_root(
            Checked(
                order.number,
                self._faults.in_words(failure) if failure is not None else "",
                failure is not None and failure.refused,
                failure is None or failure.says is not Says.SILENT,
                self._vitals.response_ms if failure is None else 0.0,
                len(tools) if tools is not None else -1,
                [name[:NAME_CHARACTERS_MAX] for name in (tools or ())[:TOOLS_REPORTED_MAX]],
            )
        )

    def _probe(self, front: FrontLink) -> None:
        self._reactor.start_soon(self._check_for_front, front)

    async def _check_for_front(self, front: FrontLink) -> None:
        # If calls are being refused, this takes the place of the one that would be let through to find out.
        ticket = self._breaker.admit(self._reactor.now) if self._state in REACHED_STATES else 0
        works = bool(ticket) and await self._check(ticket) is None
        front.send(link.Probed(works))
        self._report()

    async def _list(self) -> Failure | None:
        try:
            await self._listings.list_tools()
        except Unanswered as error:
            return error.failure
        return None

    async def _check(self, ticket: int = 0) -> Failure | None:
        """`ticket`: of the breaker, if it was asked whether this check may find out."""
        if self._breaker.is_closed:
            ticket = self._breaker.admit(0.0)
        failure = await self._checkup.check()
        if failure is not None:
            self._channel.drop_idle()  # what is wrong with one connection is likely wrong with the others
            self._server_failed(ticket, failure)
            if self._state in REACHED_STATES:
                self._set_state("degraded", failure.message)
            return failure
        self._vitals.answered()
        self._breaker.recovered(trio.current_time())
        if self._state in REACHED_STATES:
            self._set_ready()
        return None

    def woke(self, absent_s: float) -> None:
        """The machine was asleep: what idle connections lead to may be gone, and so may the server."""
        self._log.info("nothing ran for a while; the server is checked", seconds=round(absent_s))
        self._channel.drop_idle()
        if self._sessions is not None:
            self._sessions.woke()
        self._checkup.hasten()

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
        self._streams.stop()
        self._watches.stop()
        self.interactions.abandon_all("the proxy is shutting down")
        self._kept.abandon_all("the proxy is shutting down")
        await self._end_sessions()
        await self._stop_channels()
        with trio.move_on_after(CLOSE_S):
            async with trio.open_nursery() as nursery:
                for front in list(self._fronts):
                    nursery.start_soon(front.close)

    async def leave(self) -> None:
        """End what must not outlive us: our sessions at the server, and a server that is a command."""
        self._running.cancel()
        self._stopping = True
        await self._end_sessions()
        await self._stop_channels()

    async def _end_sessions(self) -> None:
        """Tell a legacy server that what it keeps for us is not needed any more, all in `END_TIMEOUT_S` (legacy.py)."""
        with trio.move_on_after(END_TIMEOUT_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._legacy.end)
                if self._legs.able is not None:
                    nursery.start_soon(self._legs.able.end)

    async def _stop_channels(self) -> None:
        if self._sessions is not None and (self._sessions.shared.pool is not None):
            await self._sessions.end_all()  # through the connections of all
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._channel.stop)
            if self._sessions is not None:
                nursery.start_soon(self._sessions.end_all)

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

    def _sweep(self) -> float | None:
        """Look at deadlines. Return when there may be something to do again; None: soon."""
        self._channel.sweep()
        for front in self._fronts:
            front.sweep(self._reactor.now)
            if self._kept.is_on:
                self._kept.take_from(front)
        holds = self.interactions.sweep(self._reactor.now)
        due = self._kept.sweep(self._reactor.now)
        if self._sessions is not None:
            sessions_due = self._sessions.sweep(self._reactor.now)
            due = None if due is None or sessions_due is None else min(due, sessions_due)
        if holds or due is None or any(front.calls for front in self._fronts):
            return None
        next_due = self._channel.next_due
        return min(due, next_due) if next_due is not None else None

    def _calls_at(self, leg: Leg) -> list[BackendCall]:
        """Return the calls under way on a leg, those that no front waits for first."""
        known = [*self.interactions.calls(), *self._kept.calls()]
        known += [call for front in self._fronts for call in front.calls.values()]
        return [call for call in known if call.is_at(leg)]

    def _asked(self, leg: Leg) -> None:
        """The server asks what names no call."""
        if self._sessions is not None:
            self._sessions.asked(leg)

    def _keep_apart(self) -> None:
        """The server may ask something: from now on it is seen to that it is clear whom it asks."""
        self._sessions = self._desk.sessions = LeasedSessions(
            self._reactor, self._access, self._watches, self._ids, self._log, self._spread, used=self._used,
            said=self._said, unreachable=self._own_request_failed, calls=self._calls_at,
        )  # fmt: skip
        for front in self._fronts:
            if front.is_congested:
                self._sessions.hold(is_held=True)

    def _front_closed(self, front: FrontLink, reason: str) -> None:
        self._log.debug("link closed", reason=reason)
        self._fronts.pop(front, None)
        self._listeners.front_gone(front)

    # --- what the server does ----------------------------------------------------------------------------------------
    def _connected(self) -> None:
        if self._state == "connecting":
            self._set_state("negotiating", "")

    def _opened(self, leg: Leg) -> None:
        self._instructions = leg.instructions or self._instructions
        self._vitals.answered()
        self._breaker.recovered(trio.current_time())
        self._set_ready()
        self._report()  # the era is news, even if nothing else is
        self._listings.opened(leg)
        self._reactor.start_soon(self._listings.warm, leg)
        self._streams.opened(leg)
        self._watches.opened(leg, self._streams.settled)

    def _forgotten(self, leg: Leg, opening: int) -> None:
        self._legs.forget(leg, opening)
        self._reactor.start_soon(self._open_again, leg.era)

    async def _open_again(self, era: Era) -> None:
        """Open a leg that nobody may ask for soon, because of what the server says on it unasked."""
        try:
            await self._legs.leg_for(era)
        except Unanswered as error:
            if not self._legs.open_legs() and self._state in REACHED_STATES:
                self._set_backoff(error.failure)

    def _missed(self) -> None:
        """The server may have said something that did not reach us."""
        for kind in LIST_KINDS:
            self._listings.list_changed(kind)
        self._watches.missed()

    def _admit(self) -> int:
        ticket = self._breaker.admit(self._reactor.now)
        if not ticket:
            self._refused = True
        return ticket

    def _refusal(self) -> Failure:
        return self._faults.given_up(self._vitals.last_error, self._breaker.retry_after_s(self._reactor.now))

    def _answered(self, ticket: int) -> None:
        now = self._succeeded_at = self._reactor.now
        self._breaker.succeeded(ticket, now)
        if self._told[0] != "ready":
            self._vitals.answered()
            self._set_ready()

    def _call_failed(self, ticket: int, failure: Failure) -> None:
        match failure.says:
            case Says.NOTHING:
                self._breaker.abandoned(ticket)
            case Says.WORKS:
                self._breaker.succeeded(ticket, trio.current_time())
            case Says.THROTTLES:
                self._breaker.throttled(ticket, trio.current_time())
                self._half_open_in_time()
            case Says.BROKEN | Says.SILENT:
                self._server_failed(ticket, failure)
        self._unreachable(failure)
        self._show()

    def _server_failed(self, ticket: int, failure: Failure) -> None:
        self._vitals.failed(failure)
        self._breaker.failed(ticket, trio.current_time())
        self._half_open_in_time()
        self._unreachable(failure)

    def _own_request_failed(self, failure: Failure) -> None:
        self._vitals.failed(failure)
        self._unreachable(failure)

    def _unreachable(self, failure: Failure) -> None:
        if failure.down and self._state in REACHED_STATES:
            self._set_backoff(failure)

    def _ended(self, failure: Failure) -> None:
        """What all messages went through has ended. Who speaks through the next one must introduce himself first."""
        self._legs.doubt()
        self._vitals.failed(failure)
        self._unreachable(failure)

    def _said(self, lines: list[str]) -> None:
        self._tell_root(Said(lines))

    def _set_backoff(self, failure: Failure) -> None:
        if self._works.is_set():
            self._works = trio.Event()
        self._fails.set()
        self._set_state("parked" if failure.parked else "backoff", failure.message)

    def _set_ready(self) -> None:
        if self._fails.is_set():
            self._fails = trio.Event()
        self._works.set()
        self._set_state("ready", "")

    def _list_changed(self, kind: str) -> None:
        self._listings.list_changed(kind)

    def _updated(self, params: Raw) -> None:
        self._watches.updated(params)

    # --- what the fronts and the root are told -----------------------------------------------------------------------
    def _set_state(self, state: str, detail: str) -> None:
        self._state = state
        self._detail = detail
        self._show()

    def _half_open_in_time(self) -> None:
        """If the breaker has just opened, see to it that its half opening is told, which comes with time alone."""
        until = self._breaker.open_until
        if until != self._half_opens_at:
            self._half_opens_at = until
            self._reactor.start_soon(self._show_at, until)

    async def _show_at(self, when: float) -> None:
        await trio.sleep_until(when)
        self._show()

    def _show(self) -> None:
        """Tell everybody what has changed, if anything has."""
        state, detail = self._state, self._detail
        if state in BREAKER_STATES and not self._breaker.is_closed:
            state = self._breaker.position(trio.current_time()).value
            # Failures of calls sent before are still coming in; they are no news.
            detail = self._told[1] if self._told[0] in _NOT_CLOSED else self._vitals.last_error
        shown = (state, detail, self._instructions, self._offers())
        if self._stopping or self._told == shown:
            return
        if state != self._told[0]:
            self._log.info("state", state=state, detail=detail)
        self._told = shown
        self._report()
        for front in self._fronts:
            front.send(self._state_frame())

    def _report(self) -> None:
        state, detail, _, _ = self._told
        vitals = self._vitals
        numbers = (vitals.answers, vitals.checked_at, vitals.response_ms, vitals.error_count, vitals.last_error)
        era = ", ".join(leg.era.name.lower() for leg in sorted(self._legs.open_legs(), key=lambda leg: leg.era))
        tools = self._listings.tools
        transport = self._legs.found_transport
        sessions = self._sessions.count if self._sessions is not None else 0
        self._tell_root(
            WorkerState(state, detail, *numbers, era, len(tools) if tools is not None else -1, transport, sessions)
        )

    def _offers(self) -> list[str] | None:
        """Return what the server can do in the eras it has been spoken to in; as before while it is away."""
        known = [leg.capabilities | leg.flags for leg in self._legs.open_legs() if leg.capabilities is not None]
        if not known:
            return self._told[3]
        has_tasks = self._kept.is_on or any(leg.has_tasks for leg in self._legs.open_legs())
        ours = {f"extensions.{EXTENSION}"} if has_tasks else frozenset[str]()
        return sorted(ours.union(*known))

    def _state_frame(self) -> link.State:
        return link.State(*self._told)

    def _tell_list_changed(self, kind: str) -> None:
        for front in self._fronts:
            front.send(link.ListChanged(kind))
