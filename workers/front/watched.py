"""What one server is to tell of: resources (or tasks) that somebody at this front wants to hear of.

The wishes outlive the worker: the next one is told of them all.
"""

from __future__ import annotations

import itertools

import trio

from protocol.limits import SUBSCRIPTION_WAIT_S
from protocol.link import Unwatch, Watch, Watching
from workers.link_end import LinkEnd


class Watched:
    """The wishes at one server. `end`: the link to its worker, None while there is none."""

    def __init__(self) -> None:
        self._uris: dict[str, None] = {}
        self._numbers = itertools.count(1)
        self._waiting: dict[int, _Waiter] = {}
        self._waiting_by_uri: dict[str, _Waiter] = {}

    async def watch(self, uri: str, end: LinkEnd | None) -> tuple[int, str] | None:
        """Be told of it from now on; return the code and message of why the server refuses, None if it does not."""
        waiter = self._waiting_by_uri.get(uri)
        if waiter is None:
            if uri in self._uris:
                return None
            self._uris[uri] = None
            if end is None:
                return None
            number = next(self._numbers)
            waiter = self._waiting[number] = self._waiting_by_uri[uri] = _Waiter(uri)
            end.send(Watch(number, uri))
        with trio.move_on_after(SUBSCRIPTION_WAIT_S):
            await waiter.event.wait()
        return waiter.refusal

    def keep(self, uri: str, end: LinkEnd | None) -> None:
        """Be told of it from now on, whoever asked for it before; nobody waits for the answer."""
        if uri not in self._uris:
            self._uris[uri] = None
            if end is not None:
                end.send(Watch(next(self._numbers), uri))

    def unwatch(self, uri: str, end: LinkEnd | None) -> None:
        """Be told of it no more."""
        if self._uris.pop(uri, 0) is None and end is not None:
            end.send(Unwatch(uri))

    def attached(self, end: LinkEnd) -> None:
        """A new worker is there, which knows of nothing."""
        for uri in self._uris:
            end.send(Watch(next(self._numbers), uri))

    def answered(self, header: Watching) -> None:
        """The server has agreed, or refused."""
        waiter = self._waiting.pop(header.id, None)
        if waiter is None:
            return
        if self._waiting_by_uri.get(waiter.uri) is waiter:
            del self._waiting_by_uri[waiter.uri]
        if header.code:
            waiter.refusal = (header.code, header.message)
            self._uris.pop(waiter.uri, None)
        waiter.event.set()

    def lost(self) -> None:
        """The worker is gone: the next one is asked again, and nobody waits for that."""
        for waiter in list(self._waiting.values()):
            waiter.event.set()
        self._waiting.clear()
        self._waiting_by_uri.clear()

    def handed_to(self, successor: Watched) -> None:
        """Another link hears of it all instead of this one."""
        successor._uris, self._uris = self._uris, {}


class _Waiter:
    """A wish that the server has not agreed to yet, shared by all who have it."""

    __slots__ = ("event", "refusal", "uri")

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.event = trio.Event()
        self.refusal: tuple[int, str] | None = None
