"""SIGTERM with clients of every kind connected: calls finish, streams end as they should, and nobody waits in vain."""

from __future__ import annotations

import signal
import socket

import httpx
import pytest
import trio

from tests.peers.raw_server import RawServer, Reply, Request
from tests.peers.wire import MODERN, Wire
from tests.process.harness import refused, root, state
from tests.waiting import eventually

REAL = "workers.main:run"


@pytest.mark.case("C-06")
@pytest.mark.promise("R11")
async def test_a_stop_finishes_calls_ends_streams_and_refuses_who_comes_later():
    go_on = trio.Event()

    async def slowly(request: Request, reply: Reply) -> None:
        await reply.start_events()
        token = request.params["_meta"]["progressToken"]
        await reply.notify("notifications/progress", {"progressToken": token, "progress": 1})
        await go_on.wait()
        result = {"resultType": "complete", "content": [{"type": "text", "text": "done"}]}
        await reply.event({"jsonrpc": "2.0", "id": request.message["id"], "result": result})
        await reply.end_events()

    async def wait(request: Request, reply: Reply) -> None:
        if "progressToken" in request.params.get("_meta", {}):
            await slowly(request, reply)
        else:
            await go_on.wait()
            await reply.result({"content": [{"type": "text", "text": "done"}]})

    async with trio.open_nursery() as nursery:
        server = await nursery.start(RawServer(on={"tools/call": wait}).serve)
        async with (
            root({"main": server.url}, entry=REAL) as proxy,
            httpx.AsyncClient(timeout=20) as http,
        ):
            url = f"http://127.0.0.1:{proxy.port}/mcp"
            modern, legacy = Wire(http, url, MODERN), Wire(http, url, "2025-11-25")
            await modern.open()
            await legacy.open()
            seen: dict[str, object] = {}
            progressed, listening, ended = trio.Event(), trio.Event(), trio.Event()

            async def call_with_progress() -> None:
                message = modern.envelope("tools/call", {"name": "main__echo", "arguments": {}}, "token")
                async with http.stream("POST", url, json=message, headers=modern.headers(message)) as response:
                    async for line in response.aiter_lines():  # raises if the stream does not end as it should
                        progressed.set()
                        seen["progress"] = line if line.startswith("data:") else seen.get("progress", "")

            async def call() -> None:
                seen["call"] = await modern.post(modern.envelope("tools/call", {"name": "main__echo", "arguments": {}}))

            async def listen() -> None:
                headers = {**legacy.headers({}), "Accept": "text/event-stream"}
                async with http.stream("GET", url, headers=headers) as response:
                    listening.set()
                    async for _ in response.aiter_lines():
                        pass

            async def all_of_them() -> None:
                async with trio.open_nursery() as clients:
                    for client in (call_with_progress, call, listen):
                        clients.start_soon(client)
                ended.set()

            nursery.start_soon(all_of_them)
            await server.wait_for("tools/call", 2)
            await progressed.wait()
            await listening.wait()
            with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as idle:
                front = proxy.process_of("front")
                proxy.signal(signal.SIGTERM)
                assert await trio.to_thread.run_sync(idle.recv, 1) == b"", "it is closed at once"

            async def is_refused() -> bool:
                return refused(proxy.port)

            await eventually(is_refused, "who connects now is refused, not kept waiting for nothing")
            assert state(front) in ("S", "R"), "two calls are in flight"
            go_on.set()
            with trio.fail_after(5):
                await ended.wait()
            answer = seen["call"]
            assert isinstance(answer, httpx.Response)
            assert answer.json()["result"]["content"][0]["text"] == "done"
            assert answer.headers["connection"] == "close"
            assert '"text":"done"' in str(seen["progress"]).replace(" ", "")
            assert await proxy.ended() == 0
        nursery.cancel_scope.cancel()
