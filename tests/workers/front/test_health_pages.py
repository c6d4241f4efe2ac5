"""What a probe is told, whatever the servers and the other clients are doing."""

from __future__ import annotations

import json

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from protocol.control import GroupInfo
from protocol.limits import IN_FLIGHT_PER_SERVER_MAX, QUEUE_PER_SERVER_MAX
from tests.workers.scripted import Answer, Front, http, running_front
from workers.front.health_pages import HealthPages

PATHS = ("/healthz", "/readyz")


async def probe(front: Front, path: str, request: bytes = b"") -> Answer:
    async with await front.client() as client:
        await client.send(request or http("GET", path=path))
        return await client.answer()


@pytest.mark.promise("R20")
async def test_a_front_without_a_single_server_is_healthy_and_not_ready():
    async with running_front("main", "backup", attach=False) as front:
        health, ready = await probe(front, "/healthz"), await probe(front, "/readyz")

    assert (health.status, health.json) == (200, {"status": "ok"})
    assert (ready.status, ready.json) == (503, {"status": "not ready", "servers": 2, "usable": 0})


@pytest.mark.promise("R20")
async def test_a_group_whose_replicas_have_not_been_found_yet_makes_nobody_ready():
    told: list[int] = []

    class Reply:
        def plain(self, status: int, *rest: object) -> None:
            told.append(status)

        reject = plain

    for empty_groups, status in ((1, 503), (0, 200)):
        assert HealthPages((), lambda count=empty_groups: count).serve(b"GET", b"/readyz", Reply())
        assert told.pop() == status
    async with running_front("one", groups=[GroupInfo("search", "round_robin")]) as front:
        assert (await probe(front, "/readyz")).json == {"status": "ready", "servers": 2, "usable": 1}


@pytest.mark.promise("R20")
async def test_a_front_is_ready_as_long_as_one_server_can_be_called():
    async with running_front("main", "backup") as front:
        assert (await probe(front, "/readyz")).json == {"status": "ready", "servers": 2, "usable": 2}
        for state in ("open", "half_open", "backoff", "negotiating"):
            front.servers["backup"].state(state)
            await front.servers["backup"].frame_round_trip()
            answer = await probe(front, "/readyz")
            assert (answer.status, answer.json["usable"]) == (200, 1)

        front.main.die()
        await wait_all_tasks_blocked()
        assert (await probe(front, "/readyz")).status == 503
        assert (await probe(front, "/healthz")).status == 200
        front.main.attach(front.worker)
        await wait_all_tasks_blocked()
        assert (await probe(front, "/readyz?verbose")).status == 200


@pytest.mark.case("D-26")
async def test_a_probe_is_told_no_name_and_nothing_that_may_be_kept(front: Front):
    for path in PATHS:
        answer = await probe(front, path)
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["cache-control"] == "no-store"
        assert b"main" not in answer.body


@pytest.mark.promise("R20")
@pytest.mark.parametrize("path", PATHS)
async def test_what_a_probe_carries_is_not_looked_at(front: Front, path: str):
    headers = {"content-type": "application/json", "mcp-protocol-version": "1999", "mcp-session-id": "nobody's"}
    for body in (b'{"jsonrpc":', b"\xff\x00", b"[" * 100_000):
        request = http("GET", headers | {"content-length": str(len(body))}, body, path)
        assert (await probe(front, path, request)).status == 200
    chunked = http("GET", {"transfer-encoding": "chunked"}, b"1\r\n{\r\n0\r\n\r\n", path)
    assert (await probe(front, path, chunked)).status == 200


@pytest.mark.case("A-16")
@pytest.mark.parametrize("path", PATHS)
async def test_a_probe_only_asks(front: Front, path: str):
    for method in ("POST", "DELETE", "PUT", "OPTIONS"):
        answer = await probe(front, path, http(method, path=path))
        assert (answer.status, answer.headers["allow"]) == (405, "GET")


@pytest.mark.case("D-02", "D-03")
async def test_a_page_that_has_rebound_its_name_learns_nothing_from_a_probe(front: Front):
    for path in PATHS:
        assert (await probe(front, path, http("GET", {"host": "evil.test"}, path=path))).status == 421
        foreign = http("GET", {"origin": "http://evil.test"}, path=path)
        assert (await probe(front, path, foreign)).status == 403


async def test_an_endpoint_of_that_name_goes_before_the_page():
    async with running_front(path="/healthz") as front:
        assert (await probe(front, "/healthz")).status != 200
        assert (await probe(front, "/readyz")).status == 200


@pytest.mark.promise("R20")
async def test_probes_do_not_wait_behind_calls_of_a_server_that_is_full(front: Front):
    full = IN_FLIGHT_PER_SERVER_MAX + QUEUE_PER_SERVER_MAX
    clients = [await front.client("2025-11-25") for _ in range(full)]
    for client in clients:
        await client.call()
    await front.main.until(lambda: len(front.main.calls) == IN_FLIGHT_PER_SERVER_MAX)

    for path in PATHS:
        begun = trio.current_time()
        assert json.loads((await probe(front, path)).body)["status"] in ("ok", "ready")
        assert trio.current_time() - begun <= 0.1
