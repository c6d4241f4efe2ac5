"""What a worker costs in memory beside what it shares with the others."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from protocol.limits import KIB, MIB
from tests.conftest import StartProxy
from tests.peers.clients import modern_client
from tests.peers.raw_server import RawServer

OWN_BYTES_MAX = int(5.8 * MIB)
"""5.2 MiB with Python 3.11, 5.45 if it has to compile everything. It is the number of pages that are written to,
whatever else the machine does."""


def own_bytes(pid: int) -> int:
    """Return how much memory this process alone has."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return KIB * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


@pytest.mark.promise("R10")
async def test_a_worker_shares_most_of_its_memory_with_the_others(proxy: StartProxy, nursery: trio.Nursery):
    server = await nursery.start(RawServer().serve)
    names = ("one", "two")
    started = await proxy(dict.fromkeys(names, server.url))
    async with modern_client(started.url) as client:
        for name in names:
            assert await client.text(f"{name}__echo", text=name) == name

    own = [own_bytes(started.worker(f"server {name}").pid) for name in names]
    print(f"of its own a worker has {own[0] / MIB:.2f} MiB")
    assert max(own) <= OWN_BYTES_MAX
