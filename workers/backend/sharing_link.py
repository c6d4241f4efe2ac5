"""A front that shares its server's places with other fronts: what it may have in flight, and what it wants, go over its
link. Where there is one front only, none of this is made.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from protocol import link
from protocol.link import Header, Payload
from workers.backend.calls import BackendCall
from workers.backend.front_link import FrontLink
from workers.backend.interactions import Ending
from workers.backend.places import Places


class SharingLink(FrontLink):
    """One of several fronts."""

    def __init__(self, places: Places[SharingLink], *arguments: Any, **options: Any) -> None:
        self._places = places
        super().__init__(*arguments, **options)
        self.send(link.Limit(places.join(self)))

    def part(self, call: BackendCall, header: Ending, payload: Payload) -> None:
        super().part(call, header, payload)
        _tell(self._places.ended())

    def _frame(self, header: Header, payload: Payload) -> None:
        if isinstance(header, link.Call):
            super()._frame(header, payload)
        elif isinstance(header, link.Want):
            _tell(self._places.want(self, wants=header.wants))
        elif isinstance(header, link.Limited):
            _tell(self._places.acknowledged(self))
        else:
            super()._frame(header, payload)

    def _link_closed(self, reason: str) -> None:
        super()._link_closed(reason)
        _tell(self._places.leave(self))


def _tell(limits: list[tuple[SharingLink, int]]) -> None:
    for front, calls in limits:
        front.send(link.Limit(calls))


def sharing(places: int, fronts: int) -> Callable[..., SharingLink]:
    """Return what makes links to fronts that have so many places together."""
    return functools.partial(SharingLink, Places[SharingLink](places, fronts, lambda front: len(front.calls)))
