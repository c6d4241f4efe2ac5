"""What connections cost: memory, descriptors, and the patience of others."""

from __future__ import annotations

import gc
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from protocol.limits import HEADERS_DEADLINE_S
from tests.workers.scripted import Front, advance, http, open_descriptors, running_front

IDLE_CONNECTION_BYTES_MAX = 64 * 1024
HOLD = """
import socket, sys
port, count, request = int(sys.argv[1]), int(sys.argv[2]), bytes.fromhex(sys.argv[3])
held = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
for one in held:
    one.sendall(request)
for one in held:
    if b"404 Not Found" not in one.recv(4096):
        sys.exit("not answered")
print("all answered", flush=True)
sys.stdin.read()
"""


@asynccontextmanager
async def held(front: Front, count: int, request: bytes) -> AsyncIterator[None]:
    """Hold so many connections from another process, each of which has made one request."""
    arguments = [sys.executable, "-c", HOLD, str(front.port), str(count), request.hex()]
    async with trio.open_nursery() as nursery:
        process = await trio.lowlevel.open_process(arguments, stdin=-1, stdout=-1)
        assert process.stdin is not None
        assert process.stdout is not None
        with trio.fail_after(30):
            assert await process.stdout.receive_some() == b"all answered\n"
            yield
            await process.stdin.aclose()
            assert await process.wait() == 0
            await process.stdout.aclose()
        nursery.cancel_scope.cancel()


def resident() -> int:
    gc.collect()
    return psutil.Process(os.getpid()).memory_info().rss


@pytest.mark.promise("R10")
async def test_a_thousand_idle_connections_cost_little_memory():
    async with running_front() as front:
        request = http("GET", path="/nowhere")
        async with held(front, 100, request):
            pass
        before = resident()
        async with held(front, 1000, request):
            assert front.connections == 1000
            each = (resident() - before) / 1000
            print(f"an idle connection costs {each:.0f} bytes")
            assert each < IDLE_CONNECTION_BYTES_MAX / 4
        await wait_all_tasks_blocked()
        assert front.connections == 0


@pytest.mark.promise("R14")
async def test_ten_thousand_connections_leave_no_descriptor_and_hardly_any_memory():
    async with running_front() as front:
        request, answered = http("GET", path="/nowhere"), 0

        async def visit(how: int) -> None:
            nonlocal answered
            with socket.socket() as sock:
                sock.connect(("127.0.0.1", front.port))
                if how == 0:
                    return
                sock.send(request[:20] if how == 1 else request)
                if how == 2:
                    sock.setblocking(False)
                    with trio.fail_after(60):
                        await trio.lowlevel.wait_readable(sock)
                    answered += b"404" in sock.recv(1000)
                elif how == 3:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            if how != 2:
                await trio.lowlevel.checkpoint()

        for number in range(1000):
            await visit(number % 4)
        await wait_all_tasks_blocked()
        descriptors, memory, sources = open_descriptors(), resident(), len(front.reactor._sources)
        for number in range(10_000):
            await visit(number % 4)
        await wait_all_tasks_blocked()

        assert answered == 2750
        assert front.connections == 0
        assert len(front.reactor._sources) == sources
        assert open_descriptors() == descriptors
        grown = resident() / memory - 1
        print(f"memory has grown by {grown:.2%}")
        assert grown <= 0.05


@pytest.mark.case("A-22")
@pytest.mark.promise("R10", "R14")
async def test_a_connection_serves_a_hundred_thousand_requests_and_costs_no_more_after_them():
    portion, portions = 500, 200
    requests = http("GET", path="/nowhere") * portion
    async with running_front() as front, await front.client() as client:
        answered, end = 0, b""
        status = b"HTTP/1.1 404 "

        async def ask(count: int) -> None:
            nonlocal answered, end
            for number in range(answered + portion, answered + portion * count + 1, portion):
                await client.send(requests)
                with trio.fail_after(60):
                    while answered < number:
                        received = end + await client.stream.receive_some(65536)
                        answered += received.count(status)
                        end = received[1 - len(status) :]

        await ask(20)
        descriptors, memory, sources = open_descriptors(), resident(), len(front.reactor._sources)
        await ask(portions - 20)

        assert answered == portion * portions == 100_000
        assert open_descriptors() == descriptors
        assert len(front.reactor._sources) == sources
        assert resident() - memory < 2**20


@pytest.mark.case("A-18")
@pytest.mark.promise("R17")
async def test_a_thousand_clients_that_say_one_byte_a_second_are_closed_and_nobody_waits_for_them(
    mock_clock: MockClock,
):
    async with running_front() as front, await front.client("2025-11-25") as client:
        slow = [socket.create_connection(("127.0.0.1", front.port)) for _ in range(1000)]
        for byte in http("POST")[: int(HEADERS_DEADLINE_S) + 1]:
            for sock in slow:
                sock.send(bytes([byte]))
            await wait_all_tasks_blocked()
            assert front.connections == 1001
            await client.legacy("ping")
            assert (await client.answer()).status == 200
            await advance(mock_clock, 1)
        await advance(mock_clock, 1)
        for sock in slow:
            assert sock.recv(1000).startswith(b"HTTP/1.1 408 ")
            sock.close()
        await advance(mock_clock, 1)
        assert front.connections == 1
