"""A transport of the official SDK that holds every message the client is sent against the schema of its revision."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any

import mcp

from tests import schemas

_GOOD: set[tuple[str, str, bytes]] = set()
"""What was found to be right: revision, method, and a digest of the message without what may be anything."""
_FREE = frozenset({"text", "description", "title", "name"})
"""Members that no schema says more of than that they are strings."""
_NEWEST = {"legacy": "2025-11-25", "modern": "2026-07-28"}


@asynccontextmanager
async def sdk_client(transport: Any, era: str, **options: Any) -> AsyncIterator[mcp.Client]:
    """Connect a client of the official SDK. In the end, fails if it was sent what its revision does not know.

    It may not cache: a test wants to know what the proxy says now.
    """
    revision = _NEWEST[era]
    tapped: Any = Tapped(transport, revision)
    mode: Any = "legacy" if era == "legacy" else revision
    async with mcp.Client(tapped, mode=mode, cache=None, **options) as client:
        yield client
    assert tapped.faults == []


class Tapped:
    """Wraps a transport. `faults` says what was wrong with which messages; only then they are looked at.

    The SDK runs a callback for each notification beside what it reads next, so that a slow look at one could have an
    answer overtake it.
    """

    def __init__(self, transport: Any, revision: str) -> None:
        self._transport = transport
        self._revision = revision
        self._faults: list[str] = []
        self._unchecked: list[tuple[str, Any]] = []
        """Messages, with the method of the request that one answers."""
        self.seen = 0
        self._methods: dict[Any, str] = {}
        """By the ids of requests without an answer."""

    async def __aenter__(self) -> tuple[Any, Any]:
        reading, writing = await self._transport.__aenter__()
        return _Reading(self, reading), _Writing(self, writing)

    async def __aexit__(self, *error: Any) -> bool | None:
        return await self._transport.__aexit__(*error)

    def sent(self, message: Any) -> None:
        if getattr(message, "method", None) is not None and getattr(message, "id", None) is not None:
            self._methods[message.id] = message.method

    def received(self, message: Any) -> None:
        self.seen += 1
        is_answer = getattr(message, "method", None) is None
        self._unchecked.append((self._methods.pop(message.id, "") if is_answer else "", message))

    @property
    def faults(self) -> list[str]:
        unchecked, self._unchecked = self._unchecked, []
        for method, message in unchecked:
            self._check(method, message)
        return self._faults

    def _check(self, method: str, message: Any) -> None:
        whole = message.model_dump(by_alias=True, mode="json", exclude_unset=True)
        # The same lists come again and again; a schema takes its time over them.
        told = json.dumps(_without_free({**whole, "id": "id" in whole}))
        known = (self._revision, method, hashlib.sha256(told.encode()).digest())
        if known in _GOOD:
            return
        if "method" not in whole:
            fault = schemas.answer_fault(self._revision, method, whole)
        elif "id" in whole:
            fault = schemas.fault(self._revision, "ServerRequest", whole)
        else:
            fault = schemas.fault(self._revision, "ServerNotification", whole)
        if fault:
            self._faults.append(fault)
        else:
            _GOOD.add(known)


def _without_free(value: Any) -> Any:
    if isinstance(value, dict):
        members: dict[str, Any] = value
        return {
            name: "" if name in _FREE and isinstance(each, str) else _without_free(each)
            for name, each in members.items()
        }
    return [_without_free(each) for each in value] if isinstance(value, list) else value  # type: ignore[misc]


class _Wrapped:
    def __init__(self, tap: Tapped, stream: Any) -> None:
        self._tap = tap
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def __aenter__(self) -> Any:
        await self._stream.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._stream.__aexit__(kind, error, trace)


class _Reading(_Wrapped):
    def __aiter__(self) -> Any:
        return self

    async def __anext__(self) -> Any:
        return self._look(await self._stream.__anext__())

    async def receive(self) -> Any:
        return self._look(await self._stream.receive())

    def _look(self, item: Any) -> Any:
        if not isinstance(item, Exception):
            self._tap.received(item.message)
        return item


class _Writing(_Wrapped):
    async def send(self, item: Any) -> None:
        self._tap.sent(item.message)
        await self._stream.send(item)
