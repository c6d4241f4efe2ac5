"""Servers that answer wrongly, late or never: each call has one clear end, and the next one is served."""

from __future__ import annotations

import pytest
import trio
from mcp import MCPError

from protocol.limits import MIB
from protocol.management import TOOL_NAMES
from tests.conftest import StartProxy
from tests.peers.clients import ERAS, Client, http_client, modern_client
from tests.peers.raw_server import (
    Answer,
    RawServer,
    Reply,
    Request,
    cycle,
    drip,
    hang_up,
    hang_up_half_way,
    never,
    with_id,
    with_status,
)
from tests.waiting import eventually
from tests.workers.scripted import Client as WireClient

STOPPED_S = 1.0
"""Who has sent nothing for so long, and would like to, can send no more."""
INTERNAL, UNAVAILABLE, OUTCOME_UNKNOWN, TIMEOUT = -32603, -31001, -31002, -31003


async def redirect(_request: Request, reply: Reply) -> None:
    reply.headers.append(("Location", "http://127.0.0.1:1/elsewhere?token=secret"))
    await reply.status(307)


async def not_to_be_used(_request: Request, reply: Reply) -> None:
    reply.headers.append(("Retry-After", "1000000000"))
    await reply.status(503, b"<h1>maintenance</h1>", "text/html")


ODD: dict[str, tuple[int, Answer]] = {
    "hangs up": (OUTCOME_UNKNOWN, hang_up),
    "hangs up half way": (OUTCOME_UNKNOWN, hang_up_half_way),
    "ends its stream early": (OUTCOME_UNKNOWN, with_status(200, b": nothing\n\n", "text/event-stream")),
    "answers somebody else": (INTERNAL, with_id("not-yours")),
    "answers a number that looks alike": (INTERNAL, with_id(1)),
    "answers nobody": (INTERNAL, with_id(None)),
    "is a web page": (INTERNAL, with_status(200, b"<html>\x1b[31m hello", "text/html")),
    "has no JSON": (INTERNAL, with_status(200, b'{"jsonrpc":', "application/json")),
    "has nothing to say": (INTERNAL, with_status(204)),
    "accepts only": (INTERNAL, with_status(202)),
    "fails": (INTERNAL, with_status(500, b"Traceback: password=hunter2")),
    "is not to be used": (UNAVAILABLE, not_to_be_used),
    "sends elsewhere": (UNAVAILABLE, redirect),
    "wants a login": (UNAVAILABLE, with_status(401)),
}
"""What a server does with a call, and the error its client gets."""


async def call_in_peace(client: Client, times: int) -> None:
    """Call a server that behaves, so often that it is not taken for one that fails most of the time."""
    with trio.fail_after(5):
        for _ in range(times):
            assert await client.text("main__echo", text="still here") == "still here"


@pytest.mark.promise("R04", "R16")
@pytest.mark.case("B-03", "B-06", "B-12", "B-14", "B-16")
@pytest.mark.parametrize("server_era", ERAS)
async def test_an_odd_answer_ends_its_call_with_an_error_that_names_the_server(
    proxy: StartProxy, nursery: trio.Nursery, server_era: str
):
    server = await nursery.start(RawServer(era=server_era).serve)
    started = await proxy({"main": server.url})

    with trio.fail_after(30):
        async with modern_client(started.url) as client:
            await call_in_peace(client, 10)
            for habit, (code, answer) in ODD.items():
                server.on["tools/call"] = answer
                with trio.fail_after(5), pytest.raises(MCPError, match="main") as failed:
                    await client.call("main__echo", text=habit)
                assert (habit, failed.value.code) == (habit, code)
                assert "hunter2" not in str(failed.value)
                assert "secret" not in str(failed.value)
                del server.on["tools/call"]
                await call_in_peace(client, 5)

    executed = [call.params["arguments"]["text"] for call in server.received("tools/call")]
    assert [habit for habit in ODD if executed.count(habit) > 1] == [], "a call that was sent is never sent again"


@pytest.mark.case("B-02")
@pytest.mark.parametrize("server_era", ERAS)
async def test_a_call_that_is_never_answered_times_out_and_is_cancelled(
    proxy: StartProxy, nursery: trio.Nursery, server_era: str
):
    server = await nursery.start(RawServer(era=server_era).serve)
    server.on["tools/call"] = never
    started = await proxy({"main": server.url}, "--call-timeout", "0.5")

    with trio.fail_after(10):
        async with modern_client(started.url) as client:
            with pytest.raises(MCPError, match="main") as failed:
                await client.call("main__echo")
            assert failed.value.code == TIMEOUT
            (call,) = server.received("tools/call")
            if server_era == "legacy":
                (cancelled,) = await server.wait_for("notifications/cancelled")
                assert cancelled.params["requestId"] == call.message["id"]
            else:
                await server.wait_until_closed(call.connection)


async def test_an_answer_may_come_byte_by_byte(proxy: StartProxy, nursery: trio.Nursery):
    server = await nursery.start(RawServer().serve)
    server.on["tools/call"] = drip
    started = await proxy({"main": server.url})

    with trio.fail_after(10):
        async with modern_client(started.url) as client:
            assert (await client.call("main__echo")).content == []


@pytest.mark.parametrize("server_era", ERAS)
async def test_answers_may_come_in_any_of_the_usual_forms(proxy: StartProxy, nursery: trio.Nursery, server_era: str):
    forms = {
        "pretty": RawServer(era=server_era, pretty=True),
        "events": RawServer(era=server_era, events=True),
        "both": RawServer(era=server_era, events=True, pretty=True),
        "chunks": RawServer(era=server_era, chunk_bytes=3),
        "short": RawServer(era=server_era, close_each=True),
        "sessionless": RawServer(era=server_era, sessions=False),
    }
    servers = {name: await nursery.start(server.serve) for name, server in forms.items()}
    started = await proxy({name: server.url for name, server in servers.items()})

    with trio.fail_after(20):
        for era in ERAS:
            async with http_client(started.url, era) as client:
                await client.lists(*TOOL_NAMES, *(f"{name}__echo" for name in forms))
                for name in forms:
                    for text in ("one", "two\nlines 🦉"):
                        assert await client.text(f"{name}__echo", text=text) == text


@pytest.mark.case("B-18")
async def test_a_list_that_never_ends_is_ended(proxy: StartProxy, nursery: trio.Nursery):
    endless, good = await nursery.start(RawServer().serve), await nursery.start(RawServer().serve)
    endless.on["tools/list"] = cycle
    started = await proxy({"endless": endless.url, "good": good.url})

    with trio.fail_after(10):
        async with modern_client(started.url) as client:
            assert "good__echo" in await client.names()
    assert len(endless.received("tools/list")) <= 10


@pytest.mark.promise("R10")
async def test_a_client_that_does_not_read_its_stream_stops_the_server_and_costs_no_memory(
    proxy: StartProxy, nursery: trio.Nursery
):
    sent, last_at = 0, 0.0

    async def flood(request: Request, reply: Reply) -> None:
        nonlocal sent, last_at
        token = request.params["_meta"]["progressToken"]
        await reply.start_events()
        while True:
            progress = {"progressToken": token, "progress": sent, "message": "x" * 10_000}
            await reply.notify("notifications/progress", progress)
            sent, last_at = sent + 1, trio.current_time()

    async def is_stopped() -> bool:
        return sent > 0 and trio.current_time() - last_at > STOPPED_S

    server = await nursery.start(RawServer(on={"tools/call": flood}).serve)
    started = await proxy({"main": server.url}, "--no-management")
    processes = [started.worker("front"), started.worker("server main")]
    with trio.fail_after(60):
        async with WireClient(await trio.open_tcp_stream("127.0.0.1", started.port)) as client:
            await client.initialize()
            before = [process.memory_info().rss for process in processes]
            params = {"name": "main__x", "arguments": {}, "_meta": {"progressToken": "mine"}}
            await client.legacy("tools/call", params)
            await eventually(is_stopped, "the server can send no more", 60.0)
            grown = [process.memory_info().rss - rss for process, rss in zip(processes, before, strict=True)]
            assert max(grown) < 16 * MIB
            assert (await client.head()).status == 200
            stopped_at, heard = sent, [-1]
            while heard[-1] < stopped_at:  # it goes on when the client does, and nothing is out of order
                event = await client.event()
                heard += [event["params"]["progress"]] if event else []
            assert heard == sorted(set(heard))
