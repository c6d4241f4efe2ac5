"""How long, and by whom, lists may be kept: what clients are told of it, and when the front itself asks again."""

from __future__ import annotations

import pytest
from trio.testing import MockClock, wait_all_tasks_blocked

from protocol import link
from protocol.control import GroupInfo
from protocol.errors import INVALID_PARAMS
from protocol.versions import Era
from tests import schemas
from tests.workers.scripted import MODERN, Client, Front, Json, ScriptedWorker, advance, modern_post, running_front
from workers.front.server_lists import LISTS_ASKED_MAX

UI: Json = {"io.modelcontextprotocol/clientCapabilities": {"extensions": {"io.modelcontextprotocol/ui": {}}}}


def tool(name: str, **more: object) -> Json:
    return {"name": name, "inputSchema": {"type": "object"}, **more}


def hint(worker: ScriptedWorker, ttl_ms: int, *, private: bool = False) -> None:
    worker.ttl_ms, worker.private = ttl_ms, private


async def listed(client: Client, method: str = "tools/list", _meta: Json | None = None, **params: object) -> Json:
    await client.modern(method, dict(params), **(_meta or {}))
    answer = await client.answer()
    schemas.validate_answer(MODERN, method, answer.final)
    return answer.final["result"]


def hints(result: Json) -> tuple[int, str]:
    return result["ttlMs"], result["cacheScope"]


def asked(worker: ScriptedWorker) -> int:
    """How often a server's worker was asked for a list."""
    return sum(isinstance(frame, link.ListRequest) for frame in worker.frames)


# --- what a merged list says -----------------------------------------------------------------------------------------
@pytest.mark.case("D-21")
@pytest.mark.parametrize("method", ["tools/list", "prompts/list", "resources/list", "resources/templates/list"])
async def test_a_list_may_be_kept_as_long_as_each_part_of_it_and_by_others_only_if_each_part_may(
    mock_clock: MockClock, method: str
):
    async with running_front("long", "short") as front, await front.client() as client:
        for worker in front.servers.values():
            worker.offers = ["tools", "prompts", "resources"]
            worker.state("ready")
        hint(front.servers["long"], 60_000)
        hint(front.servers["short"], 20_000)
        assert hints(await listed(client, method)) == (20_000, "public")
        await advance(mock_clock, 5)
        assert hints(await listed(client, method)) == (15_000, "public")
        hint(front.servers["short"], 5_000, private=True)
        await advance(mock_clock, 15)
        assert hints(await listed(client, method)) == (5_000, "private")
        hint(front.servers["short"], 0)
        await advance(mock_clock, 5)
        assert hints(await listed(client, method)) == (0, "public")

    assert asked(front.servers["long"]) == 1


@pytest.mark.case("D-21")
async def test_a_list_that_has_not_changed_but_is_private_now_is_private(front: Front):
    hint(front.main, 0)
    async with await front.client() as client:
        assert hints(await listed(client)) == (0, "public")
        hint(front.main, 0, private=True)
        assert hints(await listed(client)) == (0, "private")


@pytest.mark.case("D-21")
async def test_a_group_says_what_its_strictest_replica_says(mock_clock: MockClock):
    groups = [GroupInfo("search", "round_robin", "")]
    async with (
        running_front("one", "two", groups=groups, groups_of=dict.fromkeys(("one", "two"), "search")) as front,
        await front.client() as client,
    ):
        hint(front.servers["one"], 60_000)
        hint(front.servers["two"], 20_000)
        assert hints(await listed(client)) == (20_000, "public")
        hint(front.servers["two"], 30_000, private=True)
        await advance(mock_clock, 20)
        assert hints(await listed(client)) == (30_000, "private")


@pytest.mark.case("D-21")
@pytest.mark.parametrize(
    ("tools", "scope"),
    [
        ([tool("echo")], "public"),
        ([tool("x" * 60)], "private"),
        ([tool("with.a.dot")], "private"),
        ([tool("echo"), tool("show", _meta={"ui": {"resourceUri": "ui://a", "visibility": ["app"]}})], "private"),
    ],
)
async def test_a_list_that_not_all_clients_get_alike_is_private(front: Front, tools: list[Json], scope: str):
    front.main.tools = tools
    hint(front.main, 10_000)
    async with await front.client() as client:
        for meta in (None, UI):
            assert (await listed(client, _meta=meta))["cacheScope"] == scope


@pytest.mark.case("D-21")
async def test_all_pages_of_a_list_have_the_scope_of_the_first():
    async with running_front(page_size=1) as front, await front.client() as client:
        front.main.tools = [tool("a"), tool("b"), tool("c")]
        hint(front.main, 0, private=True)
        private = (await listed(client))["nextCursor"]
        hint(front.main, 0)
        second = await listed(client, cursor=private)
        public = (await listed(client))["nextCursor"]
        assert hints(second) == (0, "private")
        assert hints(await listed(client, cursor=second["nextCursor"])) == (0, "private")
        assert hints(await listed(client, cursor=public)) == (0, "public")

        hint(front.main, 0, private=True)
        await client.modern("tools/list", {"cursor": public})
        error = (await client.answer()).json["error"]
        assert (error["code"], "start again" in error["message"]) == (INVALID_PARAMS, True)


# --- when the front asks again ---------------------------------------------------------------------------------------
async def test_a_server_that_says_its_list_has_changed_is_asked_again_for_clients_of_both_eras(front: Front):
    hint(front.main, 60_000)
    async with await front.client() as client, await front.client("2025-11-25") as legacy:
        for _ in range(2):
            await listed(client)
            await legacy.legacy("tools/list")
            await legacy.answer()
        assert asked(front.main) == len(Era)
        front.main.send(link.ListChanged("tools"))
        await front.main.frame_round_trip()
        await listed(client)
        await legacy.legacy("tools/list")
        await legacy.answer()

    assert asked(front.main) == 2 * len(Era)


@pytest.mark.parametrize("gently", [False, True])
async def test_a_new_worker_is_asked_whatever_the_last_one_said(front: Front, gently: bool):
    hint(front.main, 60_000)
    async with await front.client() as client:
        assert len((await listed(client))["tools"]) == 1
        front.main.tools = [tool("a"), tool("b")]
        front.main.generation += 1
        if not gently:
            front.main.die()
            await wait_all_tasks_blocked()
        front.main.attach(front.worker, gently=gently)
        await wait_all_tasks_blocked()
        assert len((await listed(client))["tools"]) == 2


async def test_who_asks_after_a_change_does_not_get_what_was_asked_for_before_it(front: Front):
    front.main.lists = False
    async with await front.client() as before, await front.client() as after:
        await before.modern("tools/list")
        old = await front.main.frame(link.ListRequest)
        front.main.send(link.ListChanged("tools"))
        await after.modern("tools/list")
        new = await front.main.frame(link.ListRequest)
        front.main.listing(old)
        assert len((await before.answer()).final["result"]["tools"]) == 1
        front.main.tools = [tool("a"), tool("b")]
        front.main.generation += 1
        front.main.listing(new)
        assert len((await after.answer()).final["result"]["tools"]) == 2


async def test_a_server_whose_list_changes_without_end_is_not_asked_without_end(front: Front):
    front.main.lists = False
    for _ in range(5):
        front.main.send(link.ListChanged("tools"))
        await front.main.frame_round_trip()
        client = await front.client()
        await client.modern("tools/list")
        await wait_all_tasks_blocked()

    assert asked(front.main) == LISTS_ASKED_MAX


# --- whose it is -----------------------------------------------------------------------------------------------------
@pytest.mark.case("D-21")
async def test_nothing_of_a_client_goes_with_the_request_for_a_list(front: Front):
    async with await front.client() as client:
        own = {"authorization": "Bearer canary", "cookie": "canary", "mcp-session-id": "canary"}
        await client.send(modern_post("tools/list", headers=own))
        assert len((await client.answer()).final["result"]["tools"]) == 1
    (request,) = [frame for frame in front.main.frames if isinstance(frame, link.ListRequest)]

    assert request == link.ListRequest(request.id, Era.MODERN, "tools", 0)
