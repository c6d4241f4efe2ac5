"""Lists: pages, limits, bad items, numbering, freshness."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from protocol import link
from protocol.http1 import ResponseHead
from protocol.jsonrpc import decode_reply
from protocol.limits import LIST_ITEMS_MAX, LIST_PAGES_MAX
from protocol.versions import Era
from tests.workers.backend.harness import Log
from workers.backend.answers import Answer
from workers.backend.catalogue import KINDS, Catalogue
from workers.backend.endpoint import Endpoint
from workers.backend.faults import Faults, Unanswered

FAULTS = Faults("main", Endpoint("http://127.0.0.1:8000/mcp"))
Json = dict[str, Any]
Page = Callable[[str], Json | bytes]


def tool(name: str, **more: Any) -> Json:
    return {"name": name, "inputSchema": {"type": "object"}, **more}


class Script:
    """Answers list requests from a function of the cursor ("" for the first page)."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.asked: list[str] = []

    async def __call__(self, method: str, params: bytes) -> Answer:
        await trio.lowlevel.checkpoint()
        cursor = json.loads(params).get("cursor", "")
        self.asked.append(cursor)
        result = self.page(cursor)
        raw = result if isinstance(result, bytes) else json.dumps(result).encode()
        reply = decode_reply(b'{"jsonrpc":"2.0","id":"x","result":%b}' % raw)
        return Answer(ResponseHead(200, {}, None, keep_alive=True), reply, b'"x"', is_empty=False)


def pages(*results: Json) -> Script:
    """Results in order, tied together by cursors "1", "2", …"""

    def page(cursor: str) -> Json:
        at = int(cursor or "0")
        more = {"nextCursor": str(at + 1)} if at + 1 < len(results) else {}
        return {**results[at], **more}

    return Script(page)


def catalogue(era: Era = Era.MODERN, kind: str = "tools") -> Catalogue:
    return Catalogue(era, KINDS[kind], FAULTS, Log(), count(1))


def names(of: Catalogue) -> list[str]:
    return [item["name"] for item in json.loads(of.payload)]


async def test_all_pages_make_one_list_in_the_servers_order():
    tools = catalogue()
    script = pages({"tools": [tool("b"), tool("a")]}, {"tools": []}, {"tools": [tool("c")]})

    assert await tools.refresh(script)

    assert names(tools) == ["b", "a", "c"]
    assert script.asked == ["", "1", "2"]


async def test_items_are_kept_byte_for_byte():
    odd = b'{ "x-vendor":[1.0, 10000000000000000000000],\n "name":"\\u0061" , "title":null}'
    tools = catalogue()

    await tools.refresh(Script(lambda _: b'{"tools":[ %b ]}' % odd))

    assert tools.payload == b"[" + odd + b"]"


@pytest.mark.case("B-18")
async def test_a_cursor_that_comes_twice_ends_the_list():
    tools = catalogue()
    script = Script(lambda cursor: {"tools": [tool(f"t{len(cursor)}")], "nextCursor": "x" * ((len(cursor) + 1) % 3)})

    await tools.refresh(script)

    assert script.asked == ["", "x", "xx", ""]
    assert names(tools) == ["t0", "t1", "t2"]


@pytest.mark.case("B-18")
async def test_endless_pages_are_cut():
    tools = catalogue()
    script = Script(lambda cursor: {"tools": [tool("t" + cursor)], "nextCursor": str(int(cursor or "0") + 1)})

    await tools.refresh(script)

    assert len(script.asked) == len(names(tools)) == LIST_PAGES_MAX


@pytest.mark.case("B-18")
async def test_too_many_items_are_cut_and_the_first_of_equal_names_wins():
    tools = catalogue()
    many = [tool(f"t{number}") for number in range(LIST_ITEMS_MAX + 5)]

    await tools.refresh(pages({"tools": [tool("t0", title="first"), *many]}, {"tools": [tool("unseen")]}))

    assert len(names(tools)) == LIST_ITEMS_MAX
    assert json.loads(tools.payload)[0]["title"] == "first"
    assert "unseen" not in names(tools)


@pytest.mark.case("B-18")
async def test_huge_items_are_cut_by_their_bytes():
    tools = catalogue()
    huge = [tool(f"t{number}", description="x" * 1_000_000) for number in range(20)]

    await tools.refresh(pages({"tools": huge}))

    assert names(tools) == [f"t{number}" for number in range(16)]


async def test_bad_items_are_dropped_alone():
    tools = catalogue()
    bad = [7, "text", None, [], {}, {"name": 5}, {"title": "nameless"}]

    await tools.refresh(pages({"tools": [tool("good"), *bad, tool("better")]}))

    assert names(tools) == ["good", "better"]


async def test_tools_with_invalid_header_annotations_are_dropped_for_the_modern_leg_only():
    annotated = {"type": "object", "properties": {"r": {"type": "string", "x-mcp-header": "Region"}}}
    invalid = {"type": "object", "properties": {"r": {"type": "number", "x-mcp-header": "Region"}}}
    page = {"tools": [tool("good", inputSchema=annotated), tool("bad", inputSchema=invalid)]}
    modern, legacy = catalogue(Era.MODERN), catalogue(Era.LEGACY)

    await modern.refresh(pages(page))
    await legacy.refresh(pages(page))

    assert names(modern) == ["good"]
    assert [declared.header for declared in modern.param_headers["good"]] == ["Region"]
    assert names(legacy) == ["good", "bad"]
    assert legacy.param_headers == {}


async def test_the_generation_grows_only_when_the_list_changes():
    tools = catalogue()
    assert tools.generation == 0

    assert await tools.refresh(pages({"tools": [tool("a")]}))
    assert not await tools.refresh(pages({"tools": [tool("a")]}))
    assert tools.generation == 1
    assert await tools.refresh(pages({"tools": [tool("a", title="new")]}))
    assert tools.generation == 2


async def test_a_front_that_holds_the_current_generation_gets_no_items():
    tools = catalogue()
    await tools.refresh(pages({"tools": [tool("a")]}))

    header, payload = tools.listing(link.ListRequest(9, Era.LEGACY, "tools", have=1), 0)
    assert (header.id, header.era, header.leg, header.generation, payload) == (9, Era.LEGACY, Era.MODERN, 1, b"")
    assert tools.listing(link.ListRequest(9, Era.LEGACY, "tools", have=0), 0)[1] == tools.payload


@pytest.mark.parametrize(
    ("era", "hints", "ttl_ms", "private"),
    [
        (Era.MODERN, {"ttlMs": 5000, "cacheScope": "public"}, 5000, False),
        (Era.MODERN, {"ttlMs": 5000}, 5000, True),
        (Era.MODERN, {"ttlMs": -5, "cacheScope": "private"}, 0, True),
        (Era.MODERN, {"ttlMs": 1e300, "cacheScope": "public"}, 86_400_000, False),
        (Era.MODERN, {"ttlMs": "long", "cacheScope": 1}, 0, True),
        (Era.LEGACY, {"ttlMs": 5000, "cacheScope": "public"}, 0, True),
    ],
)
@pytest.mark.case("D-21")
async def test_cache_hints_are_clamped_and_private_unless_said_otherwise(
    era: Era, hints: Json, ttl_ms: int, private: bool, autojump_clock: object
):
    tools = catalogue(era)

    await tools.refresh(pages({"tools": [tool("a")], **hints}))

    header, _ = tools.listing(link.ListRequest(1, era, "tools", 0), trio.current_time())
    assert (header.ttl_ms, header.private) == (ttl_ms, private)


async def test_the_shortest_time_and_the_strictest_scope_of_all_pages_hold(autojump_clock: object):
    tools = catalogue()
    first = {"tools": [tool("a")], "ttlMs": 9000, "cacheScope": "public"}

    await tools.refresh(pages(first, {"tools": [], "ttlMs": 100, "cacheScope": "private"}))

    header, _ = tools.listing(link.ListRequest(1, Era.MODERN, "tools", 0), trio.current_time())
    assert (header.ttl_ms, header.private) == (100, True)


@pytest.mark.case("D-21")
async def test_a_list_may_be_kept_for_what_is_left_of_its_time_counted_from_when_it_was_asked_for(
    mock_clock: trio.testing.MockClock,
):
    tools = catalogue()

    def page(_cursor: str) -> Json:
        mock_clock.jump(3)  # the server takes its time
        return {"tools": [tool("a")], "ttlMs": 60_000}

    await tools.refresh(Script(page))

    for age_s, left_ms in [(3, 57_000), (10, 50_000), (61, 0)]:
        asked = tools.listing(link.ListRequest(1, Era.MODERN, "tools", 0), trio.current_time() - 3 + age_s)
        assert asked[0].ttl_ms == left_ms
    tools.invalidate()
    assert tools.listing(link.ListRequest(1, Era.MODERN, "tools", 0), trio.current_time())[0].ttl_ms == 0


async def test_a_server_that_says_it_has_no_such_list_keeps_nobody_from_keeping_the_others(autojump_clock: object):
    async def refuse(_method: str, _params: bytes) -> Answer:
        reply = decode_reply(b'{"jsonrpc":"2.0","id":"x","error":{"code":-32601,"message":"no"}}')
        return Answer(ResponseHead(404, {}, None, keep_alive=True), reply, b'"x"', is_empty=False)

    lacking, refused = catalogue(kind="prompts"), catalogue(kind="prompts")

    lacking.take_nothing()
    await refused.refresh(refuse)

    request = link.ListRequest(1, Era.MODERN, "prompts", 0)
    for of, ttl_ms, private in [(lacking, 86_400_000, False), (refused, 0, True)]:
        header, payload = of.listing(request, trio.current_time())
        assert (header.ttl_ms, header.private, payload) == (ttl_ms, private, b"[]")
    lacking.invalidate()
    assert not lacking.is_lacking
    assert not lacking.is_fresh(trio.current_time())


async def test_a_list_is_fresh_for_as_long_as_the_server_said_and_no_longer_once_it_has_changed(autojump_clock: object):
    tools = catalogue()
    page = {"tools": [tool("a")], "ttlMs": 5000}
    await tools.refresh(pages(page))

    assert tools.is_fresh(trio.current_time() + 4.9)
    assert not tools.is_fresh(trio.current_time() + 5.1)
    tools.invalidate()
    assert not tools.is_fresh(trio.current_time())


async def test_a_list_that_changes_while_it_is_fetched_is_not_fresh():
    tools = catalogue()

    def page(_cursor: str) -> Json:
        tools.invalidate()
        return {"tools": [tool("a")], "ttlMs": 5000}

    await tools.refresh(Script(page))

    assert names(tools) == ["a"]
    assert not tools.is_fresh(trio.current_time())


async def test_who_asks_after_a_change_gets_no_list_from_before_it(autojump_clock: object):
    tools = catalogue()
    versions = count(1)
    asked, may_answer = trio.Event(), trio.Event()

    async def ask(method: str, params: bytes) -> Answer:
        script = pages({"tools": [tool(f"v{next(versions)}")], "ttlMs": 5000})
        asked.set()
        await may_answer.wait()
        return await script(method, params)

    found: list[list[str]] = []

    async def list_them() -> None:
        await tools.refresh(ask)
        found.append(names(tools))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(list_them)
        await asked.wait()
        tools.invalidate()
        nursery.start_soon(list_them)
        nursery.start_soon(list_them)
        await trio.testing.wait_all_tasks_blocked()
        may_answer.set()

    assert found == [["v1"], ["v2"], ["v2"]]
    assert tools.is_fresh(trio.current_time())


async def test_a_fetch_under_way_is_shared_with_its_failure():
    tools = catalogue()
    released = trio.Event()
    failures: list[str] = []
    asked = 0

    async def ask(_method: str, _params: bytes) -> Answer:
        nonlocal asked
        asked += 1
        await released.wait()
        raise Unanswered(FAULTS.broke_off("before it answered"))

    async def refresh() -> None:
        try:
            await tools.refresh(ask)
        except Unanswered as error:
            failures.append(error.failure.message)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(refresh)
            nursery.start_soon(refresh)
            await trio.testing.wait_all_tasks_blocked()
            released.set()

    assert asked == 1
    assert len(failures) == 2
    assert await tools.refresh(pages({"tools": [tool("a")]}))


async def test_a_fetch_that_fails_changes_nothing():
    tools = catalogue()
    await tools.refresh(pages({"tools": [tool("a")]}))

    with pytest.raises(Unanswered, match="no list to tools/list"):
        await tools.refresh(Script(lambda _: {"tools": 5}))
    with pytest.raises(Unanswered, match="no list to tools/list"):
        await tools.refresh(Script(lambda _: {}))

    assert (names(tools), tools.generation) == (["a"], 1)


async def test_other_kinds_are_told_apart_by_their_own_key():
    resources = catalogue(kind="resources")

    await resources.refresh(
        Script(lambda _: {"resources": [{"uri": "a:1"}, {"name": "x"}, {"uri": "a:1", "name": "y"}]})
    )

    assert resources.payload == msgspec.json.encode([{"uri": "a:1"}]).replace(b":", b": ", 1)
