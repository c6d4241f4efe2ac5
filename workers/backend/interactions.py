"""The calls of a worker whose server has asked something of the client: how many there are, and which are held.

A call of a modern client is held between two requests of the client: its answer was that input is required, and nobody
waits for anything until the client comes back. Such a call belongs to no front, so it outlives the one it came from.
Rule 1: a held call is taken once, by the number that only its client was given.
Rule 2: it ends by itself (`INTERACTION_S`); then the server is told that the call is cancelled.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import TYPE_CHECKING, Final, Protocol

from protocol import link
from protocol.limits import INTERACTIVE_CALLS_MAX
from protocol.link import Header, Payload

if TYPE_CHECKING:
    from workers.backend.calls import BackendCall

_NUMBER_BITS: Final = 62
Ending = link.Result | link.Fault | link.NeedInput | link.TaskCreated
"""What ends a call."""


class Interactions:
    """All calls with questions of one worker."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._active: dict[BackendCall, None] = {}
        self._held: dict[int, BackendCall] = {}

    @property
    def held(self) -> int:
        return len(self._held)

    @property
    def active(self) -> int:
        return len(self._active)

    def calls(self) -> Iterable[BackendCall]:
        """Return the calls that are held."""
        return self._held.values()

    def admit(self, call: BackendCall) -> bool:
        """Return whether this call may ask its client something; `leave` gives the place back."""
        if call not in self._active and len(self._active) >= INTERACTIVE_CALLS_MAX:
            return False
        self._active[call] = None
        return True

    def leave(self, call: BackendCall) -> None:
        self._active.pop(call, None)

    def hold(self, call: BackendCall) -> int:
        """Keep a call that no front waits for, and return its number."""
        # Random, because a number of an earlier life of this worker must mean nothing to a later one.
        number = self._random.getrandbits(_NUMBER_BITS) | 1
        self._held[number] = call
        return number

    def take(self, number: int) -> BackendCall | None:
        return self._held.pop(number, None)

    def abandon(self, number: int, reason: str) -> None:
        """Nobody comes back for this call."""
        call = self._held.pop(number, None)
        if call is not None:
            call.abandon(reason)

    def sweep(self, now: float) -> bool:
        """End the held calls whose time is over. Return whether any are left."""
        for number in [number for number, call in self._held.items() if call.deadline <= now]:
            self.abandon(number, "the client did not come back with its answers in time")
        return bool(self._held)

    def abandon_all(self, reason: str) -> None:
        for number in list(self._held):
            self.abandon(number, reason)


class Front(Protocol):
    """What a call needs of the front that waits for it."""

    @property
    def is_congested(self) -> bool: ...

    def send(self, header: Header, payload: Payload = b"") -> None: ...

    def finish(self, call: BackendCall, header: Ending, payload: Payload) -> None:
        """End a call."""
        ...

    def part(self, call: BackendCall, header: Ending, payload: Payload) -> None:
        """End a call for the front, while the server goes on with it."""
        ...


class Shelf:
    """Stands in for the front of a held call: it keeps what the server still says, for the front that resumes it.

    That is little: the stream is not read while the call is held (`is_congested`), so it can only be what came together
    with the question.
    """

    def __init__(self) -> None:
        self._frames: list[tuple[Header, Payload]] = []
        self._end: tuple[link.Result | link.Fault | link.NeedInput, Payload] | None = None

    @property
    def is_congested(self) -> bool:
        return True

    def send(self, header: Header, payload: Payload = b"") -> None:
        self._frames.append((header, bytes(payload)))

    def finish(self, call: BackendCall, header: Ending, payload: Payload) -> None:
        """Note how the call ended, unless that is told to nobody any more."""
        assert not isinstance(header, link.TaskCreated)
        call.ended = True
        if call.session is not None:
            call.session.over(call)
        self._end = (header, bytes(payload))

    def part(self, call: BackendCall, header: Ending, payload: Payload) -> None:
        raise AssertionError("a held call cannot be held once more")

    def hand_over(self, front: Front, call: BackendCall) -> None:
        """Send everything on to the front that has resumed the call, under the number it has there."""
        for header, payload in self._frames:
            if isinstance(header, link.Event):
                front.send(link.Event(call.header.id, header.method), payload)
        if self._end is not None:
            header, payload = self._end
            header.id = call.header.id
            front.finish(call, header, payload)
