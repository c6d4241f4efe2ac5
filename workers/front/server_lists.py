"""The lists of one server as a front knows them, and the requests for newer ones that are under way on its link."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection
from typing import Final

import msgspec
import trio

from protocol.limits import LIST_WAIT_S
from protocol.link import ListFault, Listing, ListRequest, Payload
from protocol.versions import Era
from workers.front.snapshot import Snapshot
from workers.link_end import LinkEnd
from workers.logs import Log
from workers.reactor import Reactor

LISTS_ASKED_MAX: Final = 2
"""Requests for one list under way: that of before a change, and that of after it."""

_Key = tuple[Era, str]


class ServerLists:
    """The last good lists, by the era of the clients and the kind. They outlive the worker that they came from."""

    def __init__(self, reactor: Reactor, server: str, log: Log, changed: Callable[[Collection[str]], None]) -> None:
        """`changed`: told of the kinds of lists that came unasked or late."""
        self._reactor = reactor
        self._server = server
        self._log = log
        self._changed = changed
        self._numbers = itertools.count(1)
        self._snapshots: dict[_Key, Snapshot] = {}
        self._waiting: dict[int, _Waiter] = {}
        self._newest: dict[_Key, _Waiter] = {}
        """Of those, the ones that were asked after the last change."""
        self._slow: set[_Key] = set()

    def held(self, era: Era, kind: str) -> Snapshot | None:
        """Return the last good list for clients of `era`."""
        return self._snapshots.get((era, kind))

    def known(self, era: Era, kind: str) -> Snapshot | None:
        """Return the last good list for clients of `era`, else that of the other era, else None."""
        return self._snapshots.get((era, kind)) or self._snapshots.get((era.other, kind))

    async def ask(self, era: Era, kind: str, end: LinkEnd, incarnation: int) -> None:
        """Have the worker say what the list is now; return when it has, or when it has taken too long."""
        key = (era, kind)
        waiter = self._newest.get(key)
        if waiter is None:
            number = next(self._numbers)
            waiter = self._waiting[number] = self._newest[key] = _Waiter(key)
            held = self._snapshots.get(key)
            have = held.generation if held is not None and held.incarnation == incarnation else 0
            end.send(ListRequest(number, era, kind, have))
        if key not in self._slow:
            with trio.move_on_after(LIST_WAIT_S) as waited:
                await waiter.event.wait()
            if waited.cancelled_caught:
                self._slow.add(key)  # it answered too late once: do not make every list wait for it

    def listing(self, header: Listing, payload: Payload, incarnation: int) -> None:
        """The worker has said what a list is, or that it is what it was."""
        waiter = self._answered(header.id)
        key = (header.era, header.kind)
        self._slow.discard(key)
        held = self._snapshots.get(key)
        if payload:
            items = msgspec.json.decode(bytes(payload), type=list[msgspec.Raw])
            self._snapshots[key] = Snapshot(header, items, incarnation, self._reactor.now)
        elif held is not None:
            held.fetched_at = self._reactor.now
            held.ttl_s = header.ttl_ms / 1000
            held.private = header.private
        changed = held is None or bool(payload)
        if waiter is not None:
            waiter.event.set()
        if changed and (waiter is None or waiter.late):
            self._changed((header.kind,))

    def fault(self, header: ListFault) -> None:
        """There is no list to be had."""
        waiter = self._answered(header.id)
        self._log.info("no list", server=self._server, reason=header.message)
        if waiter is not None:
            waiter.event.set()

    def outdate(self, kinds: Collection[str]) -> None:
        """What is known of these lists, or has been asked for already, is not to be used again without asking."""
        for (_, kind), held in self._snapshots.items():
            if kind in kinds:
                held.ttl_s = 0.0
        asked = [waiter.key for waiter in self._waiting.values()]
        for key in list(self._newest):
            # A server that says this without end, and never answers, is not asked without end.
            if key[1] in kinds and asked.count(key) < LISTS_ASKED_MAX:
                del self._newest[key]

    def outdate_all(self) -> None:
        """The same for all of which one is known."""
        self.outdate({kind for _, kind in self._snapshots})

    def settled(self) -> None:
        """The server can be used again: whoever was slow before gets another chance, and nothing counts as known."""
        self._slow.clear()
        self.outdate_all()

    def give_up(self) -> None:
        """Nothing will come soon: whoever waits takes what is known."""
        for waiter in list(self._waiting.values()):
            waiter.event.set()

    def lost(self) -> None:
        """The worker is gone, and with it what it was asked."""
        self.give_up()
        self._waiting.clear()
        self._newest.clear()

    def handed_to(self, successor: ServerLists) -> None:
        """What is known is the beginning of what another link knows. It may be another server, so it is outdated."""
        self.outdate_all()
        successor._snapshots = dict(self._snapshots)

    def _answered(self, number: int) -> _Waiter | None:
        waiter = self._waiting.pop(number, None)
        if waiter is not None and self._newest.get(waiter.key) is waiter:
            del self._newest[waiter.key]
        return waiter


class _Waiter:
    """A list request under way, shared by all who want the same list."""

    __slots__ = ("asked_at", "event", "key")

    def __init__(self, key: _Key) -> None:
        self.key = key
        self.event = trio.Event()
        self.asked_at = trio.current_time()

    @property
    def late(self) -> bool:
        return trio.current_time() - self.asked_at > LIST_WAIT_S
