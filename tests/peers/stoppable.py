"""Ends a server that runs in the test itself, as if it were killed, and starts it again on its port."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

import trio


class Served(Protocol):
    """A server that serves until it is cancelled, on one port as long as it lives."""

    async def serve(self, task_status: trio.TaskStatus[object] = ...) -> None: ...


ServerT = TypeVar("ServerT", bound=Served)


class Stoppable(Generic[ServerT]):
    """`server` in the nursery of the test."""

    def __init__(self, nursery: trio.Nursery, server: ServerT) -> None:
        self.server = server
        self._nursery = nursery
        self._scope = trio.CancelScope()

    async def start(self) -> None:
        """Serve, for the first time or again."""
        self._scope = trio.CancelScope()

        async def serve(task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED) -> None:
            with self._scope:
                await self.server.serve(task_status)

        await self._nursery.start(serve)

    def kill(self) -> None:
        """As the kernel does: connections are closed, and the port refuses."""
        self._scope.cancel()
