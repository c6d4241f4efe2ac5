"""`--fronts 3`: whichever front a client's connection gets to, it cannot tell that there are several."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest
import trio
from mcp.client.streamable_http import streamable_http_client

from tests.catalogue import CHECKOUT
from tests.conformance.legs import reference_server
from tests.e2e.test_questions import answering, check_all_kinds
from tests.fronts import FRONTS, NAMES, SeveralFronts, at_each_front, front_of
from tests.peers.clients import ERAS
from tests.waiting import eventually
from tests.workers.scripted import META, Client, Json, http

LEGACY = "2025-11-25"
ASKS = "main__test_input_required_result_elicitation"
CAPABLE = {META + "clientCapabilities": {"elicitation": {}}}


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeveralFronts]:
    """A proxy with three fronts before a server over HTTP that asks ("main"), and a command that tells ("cmd")."""
    folder = tmp_path_factory.mktemp("several")
    command = f"{sys.executable} -m tests.peers.everything_server --stdio --era legacy --name cmd"
    admin = ["--admin-socket", str(folder / "admin.sock")]
    with ExitStack() as stack:
        server = reference_server("legacy", folder / "server.log")
        stack.callback(server.destroy)
        proxy = SeveralFronts(
            {"main": server.url, "cmd": command}, folder / "proxy.log", "--fronts", str(FRONTS), *admin
        )
        stack.callback(proxy.destroy)
        yield proxy
        proxy.stop()


def as_guest(client: Client, owner: Client) -> Client:
    """Have a client ask for the session of another from now on."""
    client.session, client.version = owner.session, owner.version
    return client


async def result(client: Client, tool: str, **arguments: Any) -> Json:
    await client.call(tool, arguments=arguments)
    return (await client.answer()).final["result"]


async def modern_result(client: Client, params: Json, **meta: Any) -> Json:
    await client.modern("tools/call", params, **meta)
    return (await client.answer()).final["result"]


async def heard(client: Client, *methods: str) -> None:
    """Wait until all of these have been said on an event stream."""
    missing = set(methods)
    with trio.fail_after(10):
        while missing:
            event = await client.event()
            missing.discard(event["method"] if event else "")


async def test_a_legacy_session_is_the_same_at_all_fronts(several: SeveralFronts):
    async with at_each_front(several) as clients, at_each_front(several) as guests:
        for client in clients.values():
            await client.initialize(LEGACY)
        for owner, client in clients.items():
            for guest in guests.values():
                said = await result(as_guest(guest, client), "cmd__echo", text="hi")
                assert said["content"][0]["text"] == "hi"
                assert await front_of(guest, several) == owner


async def test_a_legacy_client_hears_on_its_stream_and_can_end_its_session_from_anywhere(several: SeveralFronts):
    async with at_each_front(several) as clients:
        first, second, third = clients.values()
        await first.initialize(LEGACY)
        await as_guest(second, first).send(http("GET", first.legacy_headers | {"accept": "text/event-stream"}))
        await second.head()
        await as_guest(third, first).legacy("resources/subscribe", {"uri": "cmd:1"})
        assert "result" in (await third.answer()).final
        await result(first, "cmd__touch", uri="cmd:1")
        await heard(second, "notifications/resources/updated")

        await third.send(http("DELETE", first.legacy_headers))
        assert (await third.answer()).status == 200
        await first.legacy("ping")
        assert (await first.answer()).status == 404


async def test_listen_streams_hear_at_every_front_what_was_done_at_one(several: SeveralFronts):
    wanted = {"toolsListChanged": True, "resourceSubscriptions": ["cmd:7"]}
    async with at_each_front(several) as clients, await several.client() as other:
        for client in clients.values():
            await client.modern("subscriptions/listen", {"notifications": wanted})
            await client.head()
            await heard(client, "notifications/subscriptions/acknowledged")
        await modern_result(other, {"name": "cmd__touch", "arguments": {"uri": "cmd:7"}})
        await modern_result(other, {"name": "cmd__grow", "arguments": {}})
        for client in clients.values():
            await heard(client, "notifications/resources/updated", "notifications/tools/list_changed")


async def test_a_call_that_asked_for_input_is_gone_on_with_at_every_front(several: SeveralFronts):
    async with at_each_front(several) as clients:
        call: Json = {"name": ASKS, "arguments": {}}
        asked = [await modern_result(client, call, **CAPABLE) for client in clients.values()]
        accepted = {"action": "accept", "content": {"name": "Ada", "ok": True}}
        for number, client in enumerate(clients.values()):
            question = asked[number - 1]  # of another front
            answers = dict.fromkeys(question["inputRequests"], accepted)
            again = call | {"inputResponses": answers, "requestState": question["requestState"]}
            assert "Ada" in str(await modern_result(client, again, **CAPABLE))
        assert [await front_of(client, several) for client in clients.values()] == several.fronts, "nobody had to move"


@pytest.mark.parametrize("era", ERAS)
async def test_clients_of_the_official_sdk_are_asked_and_answer_wherever_they_are(several: SeveralFronts, era: str):
    async def one() -> None:
        async with answering(streamable_http_client(several.url), era) as client:
            await check_all_kinds(client, "main")

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(one)


async def knows(client: Client, words: str) -> bool:
    await client.modern_call("nobody__x")
    return words in str((await client.answer()).final)


async def test_every_front_serves_the_management_tools_and_is_seen_in_the_status(several: SeveralFronts):
    async with at_each_front(several) as clients:
        for client in clients.values():
            answer = await modern_result(client, {"name": "proxy_status", "arguments": {}})
            processes = json.loads(answer["content"][0]["text"])["processes"]
            assert [processes[name]["pid"] for name in NAMES] == several.fronts
            assert [processes[name]["restarts"] for name in NAMES] == [0] * FRONTS
        more = {"operation": "add", "name": "more", "url": "http://127.0.0.1:9/mcp", "force": True}
        answer = await modern_result(next(iter(clients.values())), {"name": "manage", "arguments": more})
        assert "added" in str(answer)
        for client in clients.values():
            await eventually(partial(knows, client, "cmd, more"), "each front offers the new server")
    told = await trio.run_process(
        [sys.executable, "-m", "supervisor", "ctl", "--socket", f"{several.stderr.parent}/admin.sock", "metrics"],
        capture_stdout=True,
        cwd=CHECKOUT,
    )
    for name in NAMES:
        assert b'mcp_bulkhead_front_connections{front="%b"}' % name.encode() in told.stdout
