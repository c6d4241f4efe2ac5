"""Clients at each of several fronts: connections are opened until there is one everywhere; a test sees where it is."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import trio

from tests.processes import LOOPBACK, Proxy
from tests.workers.scripted import Client, http

NAMES = ("front", "front #2", "front #3")
FRONTS = len(NAMES)
ATTEMPTS = 200


class SeveralFronts(Proxy):
    """A proxy with three fronts, which are all there when it has started."""

    def wait_for_port(self, port: int) -> None:
        super().wait_for_port(port)
        self.fronts = [self.worker(name).pid for name in NAMES]
        """Their processes, in their order, as they are now."""

    async def client(self) -> Client:
        return Client(await trio.open_tcp_stream(LOOPBACK, self.port))

    def holder(self, client_port: int) -> int:
        """Return the front that has the connection from this port (columns as in proc(5), /proc/net/tcp)."""
        ours, theirs = f":{self.port:04X}", f":{client_port:04X}"
        rows = [line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()]
        # The table is not read in one piece, and may show a row twice, and connections that are no socket's any more.
        (inode,) = {row[9] for row in rows if row[1].endswith(ours) and row[2].endswith(theirs)} - {"0"}
        for pid in self.fronts:
            if any(_is_at(f"/proc/{pid}/fd/{fd}", inode) for fd in os.listdir(f"/proc/{pid}/fd")):
                return pid
        raise AssertionError("no front has this connection")


def _is_at(path: str, inode: str) -> bool:
    try:
        return os.readlink(path) == f"socket:[{inode}]"
    except OSError:
        return False


async def front_of(client: Client, proxy: SeveralFronts) -> int:
    """Return the front that has the connection of this client, once it has been accepted."""
    await client.send(http("GET", path="/healthz"))
    assert (await client.answer()).status == 200
    return proxy.holder(client.stream.socket.getsockname()[1])


@asynccontextmanager
async def at_each_front(proxy: SeveralFronts) -> AsyncIterator[dict[int, Client]]:
    """Return a client for each front, by the front's process, in their order."""
    found: dict[int, Client] = {}
    async with AsyncExitStack() as stack:
        for _ in range(ATTEMPTS):
            if len(found) == FRONTS:
                break
            client = await stack.enter_async_context(await proxy.client())
            found.setdefault(await front_of(client, proxy), client)
        assert len(found) == FRONTS, "there is a front that no connection gets to"
        yield {pid: found[pid] for pid in proxy.fronts}
