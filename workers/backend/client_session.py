"""The session that one client has with the server, or the process: its legs, its streams, its subscriptions, its calls.

It is opened like the one that all share, with the first call that needs it, and again when the server has forgotten it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec
import trio

from protocol.abilities import EVERYTHING, NOTHING
from protocol.jsonrpc import Raw
from protocol.limits import SESSION_IDLE_S
from protocol.versions import Era
from workers.backend.access import Told
from workers.backend.calls import BackendCall
from workers.backend.channel import Channel
from workers.backend.faults import Failure, Says, Unanswered
from workers.backend.leg import Leg
from workers.backend.legacy import LegacyLeg
from workers.backend.legs import Legs
from workers.backend.own_leg import OwnLeg
from workers.backend.streams import streams_of
from workers.backend.watches import Watches

if TYPE_CHECKING:
    from workers.backend.client_sessions import ClientSessions


class ClientSession:
    """`client`: its number; 0 if it is for one call only, or leased now by one and then by another (`is_leased`)."""

    def __init__(self, owner: ClientSessions, abilities: int, client: int = 0, *, is_leased: bool = False) -> None:
        self._owner = owner
        self.client = client
        self.abilities = abilities
        """What it is for, by what its clients can do; of leased ones as their owner counts them."""
        self.is_leased = is_leased
        self.calls: dict[BackendCall, None] = {}
        """Under way, from when they wait for the session to be opened, oldest first."""
        self.idle_since = owner.reactor.now
        self.is_last_call = not client and not is_leased
        """It ends as soon as no call is under way."""
        self.is_ending = False
        self.ended = trio.Event()
        shared = owner.shared
        assert shared.own is not None
        self._access = access = shared.own(
            abilities or (EVERYTHING if is_leased else NOTHING),
            Told(
                connected=_nothing,
                ended=self._channel_ended,
                list_changed=_not_asked_for,
                updated=self._updated,
                opened=self._opened,
                used=owner.used,
                said=owner.said,
                calls=self._calls_at,
                asked=owner.asked,
                is_of_one_client=not is_leased,
            ),
        )
        self.legs: Legs = access.legs
        self.legacy: LegacyLeg = access.legacy
        self.has_channel = access.pool is None
        """Nobody else speaks through its channel."""
        self.watches = Watches(
            owner.reactor, access.legs, access.faults, owner.log, kick_listen=lambda: self._streams.changed()
        )
        self._streams = streams_of(
            owner.reactor, access, owner.ids, owner.log, owner.random, self.watches,
            gap=self.watches.missed, unreachable=self._unreachable, forgotten=self._forgotten,
        )  # fmt: skip
        self._is_heard = bool(client or abilities or is_leased)
        """What the server says on no call's stream is about somebody."""
        if isinstance(access.legs, OwnLeg):
            access.legs.heard = (lambda: self._streams.settled) if self._is_heard else None
            access.legs.contradicted = self._contradicted

    @property
    def channel(self) -> Channel:
        return self._access.channel

    # --- calls -------------------------------------------------------------------------------------------------------
    def begin(self, call: BackendCall) -> None:
        """A call is to be sent in it."""
        self.calls[call] = None
        call.session = self

    def over(self, call: BackendCall) -> None:
        """It has ended; it may say so twice."""
        if self.calls.pop(call, 0) is None and not self.calls:
            self.idle_since = self._owner.reactor.now
            if self.is_last_call:
                self._owner.end(self)

    def as_news(self, failure: Failure) -> Failure:
        """Return what a failure of a call in it says of the server: nothing, if only its own channel may have ended."""
        return msgspec.structs.replace(failure, says=Says.NOTHING, down=False) if self.has_channel else failure

    def idle_s(self, now: float) -> float:
        """Return for how long nobody has needed it; negative if somebody does, or it is ending anyway."""
        is_needed = self.calls or self.is_ending or not self.watches.is_empty
        return -1.0 if is_needed else now - self.idle_since

    @property
    def next_due(self) -> float | None:
        """When there is something to do; None: soon."""
        due = self.channel.next_due if self.has_channel else math.inf
        if due is None or self.calls:
            return None
        return min(due, self.idle_since + SESSION_IDLE_S) if self.watches.is_empty and not self.is_ending else due

    def _calls_at(self, leg: Leg) -> list[BackendCall]:
        """Return the calls that the server may mean, also such that wait for the session to be opened."""
        return [call for call in self.calls if not call.ended and (call.is_at(leg) or call.header.era is Era.LEGACY)]

    # --- what the server does ----------------------------------------------------------------------------------------
    def hold(self, *, is_held: bool) -> None:
        if self.has_channel:
            self.channel.hold(is_held=is_held)

    def _opened(self, leg: Leg) -> None:
        if self._is_heard and not self.is_ending:
            self._streams.opened(leg)
            self.watches.opened(leg, self._streams.settled)

    def _updated(self, params: Raw) -> None:
        self.watches.updated(params)

    def _channel_ended(self, failure: Failure) -> None:
        """What is said next must be preceded by a handshake."""
        del failure
        self.legs.doubt()
        self._open_again()

    def _forgotten(self, leg: Leg, opening: int) -> None:
        self.legs.forget(leg, opening)
        self._open_again()

    def _open_again(self) -> None:
        """If somebody wants to hear of resources, do not wait for the next call."""
        if not self.watches.is_empty and not self.is_ending:
            self._owner.reactor.start_soon(self._open)

    async def _open(self) -> None:
        try:
            await self.legs.leg_for(Era.LEGACY)
        except Unanswered as error:
            self._owner.log.info("a client's session could not be opened again", reason=error.failure.message)

    def _unreachable(self, failure: Failure) -> None:
        if not self.has_channel:
            self._owner.unreachable(failure)

    def _contradicted(self) -> None:
        """It is no legacy server any more, of which those must hear who ask the session that all share."""
        shared = self._owner.shared.legacy
        self._owner.shared.legs.forget(shared, shared.opening)

    async def end(self) -> None:
        """End it at the server; whoever awaits something fails."""
        self._streams.stop()
        self.watches.stop()
        if self.has_channel:
            await self.channel.stop()
        else:
            await self.legacy.end()


def _nothing() -> None:
    pass


def _not_asked_for(kind: str) -> None:
    """Lists are those of the session that all share."""
    del kind
