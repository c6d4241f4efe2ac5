"""The proxy over standard input and output, line by line, as a client that starts it sees it."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import trio

from protocol.management import TOOL_NAMES
from tests import schemas
from tests.catalogue import CHECKOUT
from tests.peers.raw_server import LEGACY_VERSIONS, RawServer, never
from tests.peers.wire import CLIENT_INFO, META, MODERN
from tests.processes import assert_gone, is_running, servers_option, tail
from tests.waiting import eventually

Json = dict[str, Any]


class Lines:
    """A client that writes and reads lines by hand."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self._buffer = b""

    async def send(self, message: Any) -> None:
        await self.send_raw(json.dumps(message, ensure_ascii=False).encode() + b"\n")

    async def send_raw(self, data: bytes) -> None:
        await self.process.stdin.send_all(data)

    async def receive(self) -> Json:
        while b"\n" not in self._buffer:
            data = await self.process.stdout.receive_some()
            assert data, "standard output has ended"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: Json = json.loads(line)
        return message

    async def ask(self, method: str, params: Json | None = None, request_id: Any = 1) -> Json:
        """Make one request while no other is running, and return its answer."""
        await self.send(
            {"jsonrpc": "2.0", "id": request_id, "method": method, **({"params": params} if params else {})}
        )
        answer = await self.receive()
        assert answer["id"] == request_id
        return answer

    async def initialize(self, revision: str = "2025-11-25") -> Json:
        params = {"protocolVersion": revision, "capabilities": {}, "clientInfo": CLIENT_INFO}
        answer = await self.ask("initialize", params, "init")
        await self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        return answer


LISTS_CHANGED = {f"notifications/{kind}/list_changed" for kind in ("tools", "prompts", "resources")}


@asynccontextmanager
async def stdio_proxy(servers: dict[str, str], folder: Path, *arguments: str) -> AsyncIterator[Lines]:
    """Start the proxy; afterwards close its input and prove that it leaves at once, cleanly and whole."""
    files = ["--state-dir", str(folder / "state"), "--log-file", str(folder / "log.jsonl")]
    command = [sys.executable, "-m", "supervisor", "--stdio", *files, *arguments, *servers_option(servers)]
    errors = folder / "stderr"
    with errors.open("wb") as sink:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": sink}
        process = await trio.lowlevel.open_process(command, cwd=CHECKOUT, start_new_session=True, **pipes)
    family = [psutil.Process(process.pid)]
    try:
        yield Lines(process)
        family += family[0].children(recursive=True)
        await process.stdin.aclose()
        with trio.fail_after(60):
            assert await process.wait() == 0, tail(errors)
        await trio.to_thread.run_sync(assert_gone, family)
        left = b"".join([part async for part in process.stdout])
        told = {json.loads(line).get("method", line) for line in left.splitlines()}
        # A server that was reached a moment ago has a list, which is news to a client that is there already.
        assert told <= LISTS_CHANGED, "nothing but answers may be written"
    finally:
        for one in family + (family[0].children(recursive=True) if is_running(family[0]) else []):
            if is_running(one):
                one.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            await process.stdin.aclose()
            await process.stdout.aclose()


@pytest.mark.parametrize("revision", [LEGACY_VERSIONS[0], LEGACY_VERSIONS[-1]])
async def test_legacy_revisions_are_spoken_on_stdio(nursery: trio.Nursery, tmp_path: Path, revision: str):
    server = await nursery.start(RawServer().serve)

    with trio.fail_after(60):
        async with stdio_proxy({"main": server.url}, tmp_path) as client:
            opened = await client.initialize(revision)
            schemas.validate_answer(revision, "initialize", opened)
            assert opened["result"]["protocolVersion"] == revision
            listed = await client.ask("tools/list")
            schemas.validate_answer(revision, "tools/list", listed)
            assert [tool["name"] for tool in listed["result"]["tools"]] == [*TOOL_NAMES, "main__echo"]
            called = await client.ask("tools/call", {"name": "main__echo", "arguments": {"text": "ü"}}, "one")
            schemas.validate_answer(revision, "tools/call", called)
            assert called["result"]["content"][0]["text"] == "ü"


async def test_the_stateless_revision_is_spoken_on_stdio(nursery: trio.Nursery, tmp_path: Path):
    server = await nursery.start(RawServer().serve)
    meta = {META + "protocolVersion": MODERN, META + "clientCapabilities": {}}

    with trio.fail_after(60):
        async with stdio_proxy({"main": server.url}, tmp_path) as client:
            found = await client.ask("server/discover", {"_meta": meta})
            schemas.validate_answer(MODERN, "server/discover", found)
            params = {"name": "main__echo", "arguments": {"text": "ü"}, "_meta": meta}
            called = await client.ask("tools/call", params)
            schemas.validate_answer(MODERN, "tools/call", called)
            assert called["result"]["content"][0]["text"] == "ü"


async def test_an_answer_is_one_line_also_when_the_server_writes_many(nursery: trio.Nursery, tmp_path: Path):
    server = await nursery.start(RawServer(pretty=True).serve)

    with trio.fail_after(60):
        async with stdio_proxy({"main": server.url}, tmp_path) as client:
            await client.initialize()
            assert (await client.ask("tools/list"))["result"]["tools"][-1]["name"] == "main__echo"
            answer = await client.ask("tools/call", {"name": "main__echo", "arguments": {"text": "a\nb"}})
            assert answer["result"]["content"][0]["text"] == "a\nb"


BAD_LINES = {
    b"{": -32700,
    b"hello": -32700,
    b'{"jsonrpc":"2.0","id":1,"method":"\xff"}': -32700,
    b'{"jsonrpc":"2.0","id":1,"method":7}': -32600,
    b'{"jsonrpc":"1.0","id":1,"method":"ping"}': -32600,
    b"7": -32600,
}


@pytest.mark.case("A-01", "A-03", "A-10")
async def test_a_bad_line_is_refused_and_the_next_one_served(nursery: trio.Nursery, tmp_path: Path):
    server = await nursery.start(RawServer().serve)

    with trio.fail_after(60):
        async with stdio_proxy({"main": server.url}, tmp_path) as client:
            await client.initialize()
            for line, code in BAD_LINES.items():
                await client.send_raw(line + b"\n")
                assert (await client.receive())["error"]["code"] == code, line
                assert (await client.ask("ping"))["result"] == {}


async def test_answers_overtake_one_another(nursery: trio.Nursery, tmp_path: Path):
    server = await nursery.start(RawServer().serve)
    released = trio.Event()

    async def first_waits(request: Any, reply: Any) -> None:
        if request.params["arguments"]["text"] == "slow":
            await released.wait()
        await reply.result({"content": [{"type": "text", "text": request.params["arguments"]["text"]}]})

    server.on["tools/call"] = first_waits

    def call(text: str) -> Json:
        params = {"name": "main__echo", "arguments": {"text": text}}
        return {"jsonrpc": "2.0", "id": text, "method": "tools/call", "params": params}

    with trio.fail_after(60):
        async with stdio_proxy({"main": server.url}, tmp_path) as client:
            await client.initialize()
            await client.send(call("slow"))
            await server.wait_for("tools/call")
            await client.send(call("quick"))
            assert (await client.receive())["id"] == "quick"
            released.set()
            assert (await client.receive())["id"] == "slow"


@pytest.mark.case("C-04")
@pytest.mark.promise("R04")
async def test_a_killed_front_is_replaced_and_the_session_on_stdio_goes_on(nursery: trio.Nursery, tmp_path: Path):
    server = await nursery.start(RawServer().serve)

    with trio.fail_after(60):
        async with stdio_proxy({"main": server.url}, tmp_path) as client:
            await client.initialize()
            server.on["tools/call"] = never
            await client.send(
                {
                    "jsonrpc": "2.0",
                    "id": "lost",
                    "method": "tools/call",
                    "params": {"name": "main__echo", "arguments": {}},
                }
            )
            await server.wait_for("tools/call")
            call = {"name": "main__echo", "arguments": {"text": "x"}}
            torn = json.dumps({"jsonrpc": "2.0", "id": "torn", "method": "tools/call", "params": call}).encode() + b"\n"
            await client.send_raw(torn[:50])

            async def is_read() -> bool:
                return fcntl.ioctl(client.process.stdin.fileno(), termios.FIONREAD, bytes(4)) == bytes(4)

            await eventually(is_read, "the front has half a line")
            family = psutil.Process(client.process.pid).children(recursive=True)
            (front,) = [one for one in family if "mcp-bulkhead: front" in " ".join(one.cmdline())]
            front.kill()
            await trio.to_thread.run_sync(assert_gone, [front])
            del server.on["tools/call"]
            lost = await client.receive()
            assert (lost["id"], lost["error"]["code"]) == ("lost", -31002), "its outcome is unknown"
            await client.send_raw(torn[50:])
            rest = await client.receive()
            assert (rest["id"], rest["result"]["content"][0]["text"]) == ("torn", "x")
            answer = await client.ask("tools/call", {"name": "main__echo", "arguments": {"text": "on"}})
            assert answer["result"]["content"][0]["text"] == "on"


async def test_it_leaves_when_its_input_ends_before_anything_was_said(nursery: trio.Nursery, tmp_path: Path):
    server = await nursery.start(RawServer().serve)

    with trio.fail_after(60):
        async with stdio_proxy({"main": server.url}, tmp_path):
            pass
