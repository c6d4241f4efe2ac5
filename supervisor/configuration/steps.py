"""Take the steps of a plan while the proxy runs, whoever made it; one that cannot be taken now holds up no other."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Iterable, Mapping
from typing import Final, Protocol

import trio

from supervisor.config import Server
from supervisor.configuration.plan import Step, What
from supervisor.logs import Log

REPLACED_AT_ONCE: Final = 8
"""Each is a process more until the one before it has left."""


class Changes(Protocol):
    """How servers are changed. Errors of all: an exception that says why, after which nothing has changed."""

    def servers(self) -> Mapping[str, Server]: ...

    async def add(self, server: Server, *, force: bool) -> object: ...

    def remove(self, name: str) -> None: ...

    def enable(self, name: str) -> bool: ...

    def disable(self, name: str) -> bool: ...

    async def replace(self, server: Server, *, force: bool) -> object: ...


class Steps:
    """`refused`: what `changes` raises."""

    def __init__(self, changes: Changes, refused: type[Exception], log: Log) -> None:
        self._changes = changes
        self._refused = refused
        self._log = log

    async def take(self, steps: Iterable[Step]) -> list[Step]:
        """Take the steps that are not so already, those that take time side by side; return which could be taken."""
        slow: list[Step] = []
        done: list[Step] = []
        for step in steps:
            if self._takes_time(step):
                slow.append(step)
            elif await self._took(step, self._at_once(step)):
                done.append(step)
        limiter = trio.CapacityLimiter(REPLACED_AT_ONCE)

        async def replace(step: Step) -> None:
            async with limiter:
                if await self._took(step, self._changes.replace(step.server, force=True)):
                    done.append(step)

        async with trio.open_nursery() as nursery:
            for step in slow:
                nursery.start_soon(replace, step)
        return done

    def _takes_time(self, step: Step) -> bool:
        known = self._changes.servers().get(step.server.name)
        if step.what is What.REMOVE or known is None or known == step.server:
            return False
        return dataclasses.replace(known, enabled=step.server.enabled) != step.server

    async def _at_once(self, step: Step) -> None:
        """Take a step that is quick, if it is not so already."""
        server, known = step.server, self._changes.servers().get(step.server.name)
        if step.what is What.REMOVE:
            if known is not None:
                self._changes.remove(server.name)
        elif known is None:
            await self._changes.add(server, force=True)
        elif known.enabled != server.enabled:
            (self._changes.enable if server.enabled else self._changes.disable)(server.name)

    async def _took(self, step: Step, taking: Awaitable[object]) -> bool:
        try:
            await taking
        except self._refused as error:
            self._log.warning(f"{step} has to wait: {error}")
            return False
        return True
