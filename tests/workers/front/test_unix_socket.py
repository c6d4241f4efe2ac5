"""Clients on a Unix socket: what of them is checked, and that they are served like all others."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import trio

from tests.workers.scripted import Client, modern_post, running_front


@pytest.mark.case("D-02")
async def test_any_host_may_be_named_there_and_no_foreign_origin(tmp_path: Path):
    path = tmp_path / "mcp.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        async with running_front(inherited=listener, allowed_origins=["https://app.example"]) as front:
            for headers, status in (
                ({"host": "whatever.example"}, 200),
                ({"origin": "https://app.example"}, 200),
                ({"origin": "https://evil.example"}, 403),
            ):
                client = Client(await trio.open_unix_socket(str(path)))  # type: ignore[arg-type]
                front.clients.append(client)
                await client.send(modern_post("server/discover", headers=headers))
                assert (await client.answer()).status == status
