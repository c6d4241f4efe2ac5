"""A transport of the official SDK that holds every message the client is sent against the schema of its revision."""

from __future__ import annotations

import json
from types import TracebackType
from typing import Any

from tests import schemas

_GOOD: set[tuple[str, str, str]] = set()
"""Messages that were found to be right, but for their ids."""


class Tapped:
    """Wraps a transport. `faults` says what was wrong with which messages."""

    def __init__(self, transport: Any, revision: str) -> None:
        self._transport = transport
        self._revision = revision
        self.faults: list[str] = []
        self.seen = 0
        """Messages that were looked at."""
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
        whole = message.model_dump(by_alias=True, mode="json", exclude_unset=True)
        method = self._methods.pop(whole.get("id"), "") if "method" not in whole else ""
        # The same lists come again and again; a schema takes its time over them.
        known = (self._revision, method, json.dumps({**whole, "id": "id" in whole}))
        if known in _GOOD:
            return
        if "method" not in whole:
            fault = schemas.answer_fault(self._revision, method, whole)
        elif "id" in whole:
            fault = schemas.fault(self._revision, "ServerRequest", whole)
        else:
            fault = schemas.fault(self._revision, "ServerNotification", whole)
        if fault:
            self.faults.append(fault)
        else:
            _GOOD.add(known)


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
