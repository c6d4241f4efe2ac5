"""Upgrade, the side of the new version: become the service when the old one says so.

Rule 1: until it has taken over, the new version accepts no client and speaks to no service manager, and it dies with
the old one: kill either of them, and clients meet what they would have met without an upgrade.
Rule 2: from then on it depends on the old one for nothing.
"""

from __future__ import annotations

from typing import Protocol

import msgspec
import trio

from supervisor import handover, linux
from supervisor.channel import Channel, ChannelFull
from supervisor.handover import Announced, Configured, Ended, FromNew, FromOld, Inheritance, Prepared, Taken, TakeOver
from supervisor.inheritance import Inherited


class Listener(Protocol):
    """Who acts on what the old version says."""

    def take_over(self) -> None:
        """We are the service now."""
        ...

    def announced(self) -> None:
        """The service manager knows that."""
        ...

    def sessions_ended(self, session_ids: list[str]) -> None:
        """Clients of the old version ended these sessions."""
        ...


class Predecessor:
    """The old version, while it is still there."""

    def __init__(self, inherited: Inherited) -> None:
        self._channel = Channel(inherited.handover)
        self.gone = trio.Event()
        self.taken = False
        """We are the service now."""

    def prepared(self) -> None:
        """Say that all is up here."""
        self._send(Prepared())

    def tell_ended(self, session_id: str) -> None:
        self._send(Ended([session_id]))

    async def listen(self, listener: Listener) -> None:
        """Obey the old version until it is gone."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._channel.flush_forever)
            while packets := await self._channel.receive():
                for packet in packets:
                    self._hear(packet.data, listener)
            nursery.cancel_scope.cancel()
        self._channel.close()
        self.gone.set()

    def _hear(self, packet: bytes, listener: Listener) -> None:
        try:
            message: FromOld = handover.decode_from_old(packet)
        except msgspec.DecodeError:
            self._channel.end()
            return
        match message:
            case TakeOver():
                if not self.taken:
                    self.taken = True
                    linux.outlive_parent()
                    listener.take_over()
                    self._send(Taken())
            case Ended(session_ids):
                listener.sessions_ended(session_ids)
            case Announced():
                listener.announced()
            case Inheritance() | Configured():
                pass

    def _send(self, message: FromNew) -> None:
        try:
            self._channel.send(handover.encode(message))
        except (OSError, ChannelFull):
            self._channel.end()
