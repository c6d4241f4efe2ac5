"""The official SDK's client at the endpoint of one server: as if it were connected to that server itself."""

from __future__ import annotations

import pytest
import trio

from tests.e2e.test_eras import SERVERS, TOOLS
from tests.peers.clients import ERAS, http_client
from tests.processes import Proxy


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("server", SERVERS)
async def test_a_client_sees_one_server_as_if_it_were_connected_to_it(shared_proxy: Proxy, era: str, server: str):
    with trio.fail_after(60):
        async with http_client(f"{shared_proxy.url}/{server}", era) as client:
            assert await client.names() == list(TOOLS)
            assert await client.text("whoami") == server
            assert await client.text("echo", text="zwölf 🦉") == "zwölf 🦉"
            result = await client.watch("slow", seconds=0.2)
            assert result.content[0].text == f"{server} slept"
            assert [step for step, _, _ in client.progressed] == list(range(1, 11))
            assert (await client.call("fail")).is_error
