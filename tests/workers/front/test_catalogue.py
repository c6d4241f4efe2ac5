"""The merged list: names, order, what is missing, and pages."""

from __future__ import annotations

import difflib
import json
import time

import pytest
from trio.testing import MockClock, wait_all_tasks_blocked

from protocol import link
from protocol.errors import INVALID_PARAMS
from protocol.limits import LIST_WAIT_S
from protocol.names import Policy
from protocol.tool_rules import Override, ToolRules
from protocol.versions import Era
from tests import schemas
from tests.workers.scripted import META, MODERN, Client, Front, Json, advance, http, running_front

MISSING = "io.github.mcp-bulkhead/missingServers"
PLAIN: Json = {"type": "object"}


def tool(name: str, **more: object) -> Json:
    return {"name": name, "inputSchema": PLAIN, **more}


async def listed(client: Client, **params: object) -> Json:
    """Return the result of a stateless tools/list."""
    await client.modern("tools/list", dict(params))
    answer = await client.answer()
    schemas.validate_answer(MODERN, "tools/list", answer.final)
    return answer.final["result"]


def names(result: Json) -> list[str]:
    return [item["name"] for item in result["tools"]]


# --- merging ---------------------------------------------------------------------------------------------------------
@pytest.mark.case("B-21")
async def test_tools_are_listed_in_configured_order_under_names_that_cannot_collide():
    async with running_front("zeta", "alpha") as front, await front.client("2025-11-25") as client:
        front.servers["zeta"].tools = [tool("b"), tool("a", title="A", unknown=[1.50])]
        front.servers["alpha"].tools = [tool("b")]
        modern = await listed(client)
        await client.legacy("tools/list")
        legacy = (await client.answer()).json["result"]

    assert names(modern) == names(legacy) == ["zeta__b", "zeta__a", "alpha__b"]
    assert modern["tools"][1] == tool("zeta__a", title="A", unknown=[1.5])
    assert modern["resultType"] == "complete"
    assert modern["_meta"][META + "serverInfo"]["name"] == "mcp-bulkhead"
    assert set(legacy) == {"tools"}


async def test_without_prefixes_tools_are_passed_on_byte_for_byte():
    async with running_front(namespace=Policy.NONE) as front, await front.client() as client:
        front.main.tools = [tool("echo", number=1.50)]
        await client.modern("tools/list")
        body = (await client.answer()).body

    assert json.dumps(tool("echo", number=1.50)).encode() in body


@pytest.mark.case("B-21")
async def test_without_prefixes_the_first_of_two_equal_names_wins_and_calls_follow_the_list():
    async with running_front("one", "two", namespace=Policy.NONE) as front, await front.client() as client:
        front.servers["one"].tools = [tool("a"), tool("two.x")]
        front.servers["two"].tools = [tool("a"), tool("b")]
        assert names(await listed(client)) == ["a", "two_x_uv5vvh6l", "b"]
        await listed(client)
        (warning,) = front.log.of("warning")  # once for all lists that say the same
        assert warning == ("tools have a name that is taken; they are not offered", {"unused": "a of two"})

        for name, server, own in [
            ("a", "one", "a"),
            ("b", "two", "b"),
            ("two_x_uv5vvh6l", "one", "two.x"),
            ("two.x", "one", "two.x"),
            ("one.q", "one", "q"),
        ]:
            await client.modern_call(name)
            call, _ = await front.servers[server].call()
            assert call.name == own
            front.servers[server].answer(call, b"{}")
            await client.answer()


# --- names that clients can take, and what the user wants -------------------------------------------------------------
LONG = "a_tool_with_a_very_long_name_that_goes_on_and_on_until_no_client_takes_it"
FULL_NAME = "io.github.mcp-bulkhead/fullName"


async def test_a_name_that_is_too_long_is_shortened_and_both_names_can_be_called(front: Front):
    front.main.tools = [tool(LONG, _meta={"theirs": 1}), tool("echo")]
    async with await front.client() as client:
        tools = (await listed(client))["tools"]
        short = tools[0]["name"]
        for name in (short, f"main__{LONG}", f"main.{LONG}"):
            await client.modern_call(name)
            call, params = await front.main.call()
            assert call.name == params["name"] == LONG
            front.main.answer(call, b"{}")
            await client.answer()

    assert len(short) == 64
    assert tools[0]["_meta"] == {"theirs": 1, FULL_NAME: f"main__{LONG}"}
    assert "_meta" not in tools[1]


async def test_a_client_known_to_be_picky_gets_shorter_names_than_others(front: Front):
    front.main.tools = [tool("x" * 50)]
    async with await front.client() as client:
        (usual,) = names(await listed(client))
        await client.modern("tools/list", **{META + "clientInfo": {"name": "claude-code", "version": "2"}})
        (short,) = names((await client.answer()).final["result"])
        await client.modern_call(short)
        call, _ = await front.main.call()

    assert usual == f"main__{'x' * 50}"
    assert len(short) == 44
    assert call.name == "x" * 50


async def test_a_front_that_knows_no_list_yet_finds_out_what_a_shortened_name_stands_for():
    async with running_front() as first, await first.client() as client:
        first.main.tools = [tool(LONG)]
        (short,) = names(await listed(client))

    async with running_front() as second, await second.client() as client:
        second.main.tools = [tool(LONG), tool("list_projects")]  # which looks like a shortened name
        for name, own in [(short, LONG), ("main__list_projects", "list_projects")]:
            await client.modern_call(name)
            call, _ = await second.main.call()
            assert call.name == own
            second.main.answer(call, b"{}")
            await client.answer()


@pytest.mark.parametrize("policy", [Policy.NONE, Policy.AUTO])
async def test_a_front_that_knows_no_list_yet_finds_the_owner_of_a_name_without_prefix(policy: Policy):
    async with running_front("one", "two", namespace=policy) as front, await front.client() as client:
        front.servers["one"].tools = [tool("a")]
        front.servers["two"].tools = [tool("b")]
        await client.modern_call("b")
        call, _ = await front.servers["two"].call()
        assert call.name == "b"


async def test_a_call_is_not_sent_once_listed_if_its_client_has_gone(front: Front):
    front.main.lists = False
    async with await front.client() as client:
        await client.modern_call("main__list_projects")
        request = await front.main.frame(link.ListRequest)
    await wait_all_tasks_blocked()
    assert front.connections == 0
    front.main.listing(request)
    await wait_all_tasks_blocked()

    assert not front.main.calls


async def test_who_calls_tools_that_nobody_offers_does_not_make_us_ask_all_servers_each_time(autojump_clock: MockClock):
    async with running_front("one", "two", namespace=Policy.NONE) as front, await front.client() as client:
        for _ in range(5):
            await client.modern_call("nothing")
            assert (await client.answer()).final["error"]["code"] == INVALID_PARAMS

        assert len([frame for frame in front.servers["one"].frames if isinstance(frame, link.ListRequest)]) == 1


@pytest.mark.case("D-27")
async def test_only_the_tools_that_the_user_wants_are_offered_and_can_be_called():
    rules = ToolRules(
        allow=("get_*", "delete"),
        deny=("*secret*",),
        renames={"delete": "remove"},
        overrides={"get_file": Override(title="Read", description="Reads.", annotations=b'{"readOnlyHint":true}')},
    )
    async with running_front(rules={"main": rules}) as front, await front.client() as client:
        server = front.main
        server.tools = [
            tool("get_file", description="theirs", annotations={"title": "T"}),
            *(tool(name) for name in ("get_secret", "delete", "put")),
        ]
        tools = (await listed(client))["tools"]
        assert tools == [
            tool(
                "main__get_file",
                title="Read",
                description="Reads.",
                annotations={"title": "T", "readOnlyHint": True},
            ),
            tool("main__remove"),
        ]
        for name in ("main__get_secret", "main.get_secret", "main__put", "main__delete", "main.put"):
            await client.modern_call(name)
            assert f"Tool '{name}' not found" in (await client.answer()).final["error"]["message"]
        await client.modern_call("main__remove")
        call, _ = await server.call()
        assert call.name == "delete"


# --- three tools in place of many -------------------------------------------------------------------------------------
def many() -> list[Json]:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    weather = tool("get_weather", description="Current weather of a city", inputSchema=schema, unknown=[1.50])
    return [tool(f"tool_{number}", description="does something else") for number in range(50)] + [weather]


async def called(client: Client, name: str, arguments: Json) -> Json:
    await client.modern("tools/call", {"name": name, "arguments": arguments})
    answer = await client.answer()
    schemas.validate_answer(MODERN, "tools/call", answer.final)
    return answer.final


async def test_many_tools_can_be_searched_read_and_called_without_being_listed():
    async with running_front(lazy_above=40) as front, await front.client() as client:
        front.main.tools = many()
        assert names(await listed(client)) == ["tool_search", "tool_schema", "tool_call"]

        found = (await called(client, "tool_search", {"query": "weather in Paris", "limit": 2}))["result"]
        assert found["structuredContent"]["total"] == 51
        (best,) = found["structuredContent"]["tools"]
        assert (best["name"], best["description"]) == ("main__get_weather", "Current weather of a city")
        assert json.loads(found["content"][0]["text"]) == found["structuredContent"]

        read = (await called(client, "tool_schema", {"names": ["main__get_weather", "main__nothing"]}))["result"]
        assert read["structuredContent"] == {
            "tools": [many()[-1] | {"name": "main__get_weather"}],
            "missing": ["main__nothing"],
        }

        inner = {"name": "main__get_weather", "arguments": {"city": "Paris"}}
        await client.modern("tools/call", {"name": "tool_call", "arguments": inner})
        call, params = await front.main.call()
        assert params == {"name": "get_weather", "arguments": {"city": "Paris"}}
        front.main.answer(call, {"content": [], "resultType": "complete"})
        assert (await client.answer()).final["result"]["content"] == []

        await client.modern_call("main__tool_7")  # who knows its name may call it
        call, _ = await front.main.call()
        assert call.name == "tool_7"


async def test_few_tools_are_listed_as_usual_and_can_be_searched_all_the_same():
    async with running_front(lazy_above=51) as front, await front.client("2025-03-26") as client:
        front.main.tools = many()
        await client.legacy("tools/list")
        assert len((await client.answer()).json["result"]["tools"]) == 51
        await client.legacy("tools/call", {"name": "tool_search", "arguments": {"query": "weather"}})
        result = (await client.answer()).json["result"]

    assert set(result) == {"content"}  # this revision knows no structured content
    assert json.loads(result["content"][0]["text"])["tools"][0]["name"] == "main__get_weather"


async def test_a_search_follows_the_list():
    async with running_front(lazy_above=0) as front, await front.client() as client:
        front.main.tools = [tool("alpha")]
        assert (await called(client, "tool_search", {"query": "beta"}))["result"]["structuredContent"]["tools"] == []
        front.main.tools = [tool("alpha"), tool("beta")]
        front.main.generation += 1
        found = (await called(client, "tool_search", {"query": "beta"}))["result"]["structuredContent"]["tools"]

    assert [one["name"] for one in found] == ["main__beta"]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("tool_search", {}),
        ("tool_search", {"query": 7}),
        ("tool_search", {"query": "x", "limit": 0}),
        ("tool_search", {"query": "x", "limit": 10**30}),
        ("tool_schema", {"names": []}),
        ("tool_schema", {"names": ["x"] * 21}),
        ("tool_schema", {"names": "x"}),
        ("tool_call", {}),
        ("tool_call", {"name": 7}),
        ("tool_call", {"name": "main__echo", "arguments": []}),
        ("tool_call", {"name": "main__echo", "more": 1}),
        ("tool_call", {"name": "tool_call", "arguments": {"name": "main__echo"}}),
        ("tool_call", {"name": "nobody"}),
    ],
)
async def test_arguments_that_make_no_sense_are_refused(name: str, arguments: Json):
    async with running_front(lazy_above=0) as front, await front.client() as client:
        answer = await called(client, name, arguments)
        assert answer["error"]["code"] == INVALID_PARAMS
        assert not front.main.calls


async def test_one_bad_tool_is_left_out_alone(front: Front):
    front.main.tools = [
        tool("good"),
        {"inputSchema": PLAIN},
        {"name": 7, "inputSchema": PLAIN},
        "no object",
        tool(
            "bad-header", inputSchema={"type": "object", "properties": {"a": {"type": "number", "x-mcp-header": "A"}}}
        ),
        tool("twice") | {"inputSchema": {"type": "object", "x-mcp-header": "A"}},
        tool("also_good"),
    ]
    async with await front.client() as client:
        assert names(await listed(client)) == ["main__good", "main__also_good"]

    assert [event for event, _ in front.log.of("warning")] == ["a tool was left out"] * 5


async def test_tools_of_the_other_eras_leg_are_put_into_the_clients_shape(front: Front):
    front.main.leg = Era.MODERN
    front.main.tools = [tool("t", outputSchema={"type": "array"}, execution={"taskSupport": "optional"})]
    async with await front.client("2025-11-25") as client:
        await client.legacy("tools/list")
        legacy = (await client.answer()).json["result"]["tools"]
        front.main.leg = Era.LEGACY
        front.main.generation += 1
        modern = (await listed(client))["tools"]

    assert "outputSchema" not in legacy[0]
    assert "execution" not in modern[0]


@pytest.mark.case("A-12")
async def test_arguments_repeated_in_headers_are_checked_once_the_list_is_known(front: Front):
    schema = {"type": "object", "properties": {"where": {"type": "string", "x-mcp-header": "Where"}}}
    front.main.tools = [tool("echo", inputSchema=schema)]
    async with await front.client() as client:
        await listed(client)
        params = {"name": "main__echo", "arguments": {"where": "here"}}
        await client.modern("tools/call", params)
        refused = await client.answer()
        assert (refused.status, refused.json["error"]["code"]) == (400, -32020)
    assert front.main.calls == []


@pytest.mark.case("D-31")
async def test_a_wrong_name_costs_little_also_among_thousands_of_tools(front: Front):
    front.main.tools = [tool(f"tool_{number:05}_of_many_that_look_alike") for number in range(10_000)]
    async with await front.client() as client:
        await client.modern("tools/list")
        await client.answer()
        wrong = "mian__tool_00001_of_many_that_look_alike"
        begun = time.process_time()
        difflib.get_close_matches(wrong, [f"main__{one['name']}" for one in front.main.tools])
        comparing_all_s = time.process_time() - begun
        begun = time.process_time()
        for _ in range(5):
            await client.modern_call(wrong)
            assert "did you mean main__tool_00001_of_many_that_look_alike" in (await client.answer()).body.decode()
        assert (time.process_time() - begun) / 5 < comparing_all_s / 3


# --- what cannot be asked --------------------------------------------------------------------------------------------
@pytest.mark.case("B-20")
async def test_a_server_that_does_not_answer_delays_the_list_once_and_is_named(mock_clock: MockClock):
    async with running_front("quick", "slow") as front, await front.client() as client:
        front.servers["slow"].lists = False
        await client.modern("tools/list")
        await wait_all_tasks_blocked()
        await advance(mock_clock, LIST_WAIT_S)
        first = (await client.answer()).json["result"]
        second = await listed(client)  # with the clock standing still

        for result in (first, second):
            assert names(result) == ["quick__echo"]
            assert result["_meta"][MISSING] == ["slow"]
            assert (result["ttlMs"], result["cacheScope"]) == (0, "private")
        request = await front.servers["slow"].frame(link.ListRequest)
        front.servers["slow"].listing(request)
        await wait_all_tasks_blocked()
        front.servers["slow"].lists = True
        assert names(await listed(client)) == ["quick__echo", "slow__echo"]


async def test_a_client_that_listens_is_told_when_a_late_list_has_come(mock_clock: MockClock):
    async with running_front("slow") as front, await front.client("2025-11-25") as client:
        slow = front.servers["slow"]
        await advance(mock_clock, 1)  # what the start had to tell has been told
        await client.send(http("GET", {**client.legacy_headers, "accept": "text/event-stream"}))
        await client.head()
        slow.lists = False
        async with await front.client() as asking:
            await asking.modern("tools/list")
            await wait_all_tasks_blocked()
            await advance(mock_clock, LIST_WAIT_S + 0.5)
            assert names((await asking.answer()).json["result"]) == []
        slow.listing(await slow.frame(link.ListRequest))
        await wait_all_tasks_blocked()
        await advance(mock_clock, 0.2)

        assert (await client.event())["method"] == "notifications/tools/list_changed"


async def test_the_last_good_list_stands_in_for_a_server_that_is_down(mock_clock: MockClock, front: Front):
    async with await front.client() as client:
        assert names(await listed(client)) == ["main__echo"]
        front.main.die()
        await wait_all_tasks_blocked()
        result = await listed(client)
        assert names(result) == ["main__echo"]
        assert MISSING not in result["_meta"]

        front.main.tools = [tool("new")]
        front.main.attach(front.worker)
        await wait_all_tasks_blocked()
        assert names(await listed(client)) == ["main__new"]


async def test_the_first_list_waits_a_moment_for_a_worker_that_is_being_started(mock_clock: MockClock):
    async with running_front(attach=False) as front, await front.client() as client:
        await client.modern("tools/list")
        await wait_all_tasks_blocked()
        await advance(mock_clock, LIST_WAIT_S / 2)
        front.main.attach(front.worker, ready=False)

        assert names((await client.answer()).json["result"]) == ["main__echo"]


@pytest.mark.parametrize("parked", [False, True])
async def test_a_list_without_any_server_is_empty_and_says_whose_tools_are_missing(mock_clock: MockClock, parked: bool):
    async with running_front(attach=False) as front, await front.client() as client:
        front.worker.server_down("main", -1.0 if parked else 0.5)
        await client.modern("tools/list")
        await wait_all_tasks_blocked()
        if not parked:
            await advance(mock_clock, LIST_WAIT_S)
        result = (await client.answer()).json["result"]

    assert result["tools"] == []
    assert result["_meta"][MISSING] == ["main"]


@pytest.mark.parametrize("ending", ["fault", "death", "backoff"])
async def test_a_list_that_will_not_come_is_not_waited_for(mock_clock: MockClock, front: Front, ending: str):
    front.main.lists = False
    async with await front.client() as client:
        await client.modern("tools/list")
        request = await front.main.frame(link.ListRequest)
        if ending == "fault":
            front.main.send(link.ListFault(request.id, "no"))
        elif ending == "death":
            front.main.die()
        else:
            front.main.state("backoff")

        assert (await client.answer()).json["result"]["_meta"][MISSING] == ["main"]


# --- asking no more than needed --------------------------------------------------------------------------------------
async def test_an_unchanged_list_is_not_sent_again(front: Front):
    async with await front.client() as client:
        for _ in range(3):
            assert names(await listed(client)) == ["main__echo"]

    requests = [frame for frame in front.main.frames if isinstance(frame, link.ListRequest)]
    assert [request.have for request in requests] == [0, 1, 1]


async def test_a_list_with_a_time_to_live_is_not_asked_for_again_in_that_time(mock_clock: MockClock, front: Front):
    front.main.ttl_ms = 10_000
    front.main.private = False
    async with await front.client() as client:
        first = await listed(client)
        await advance(mock_clock, 6)
        second = await listed(client)
        await advance(mock_clock, 5)
        await listed(client)

    assert (first["ttlMs"], first["cacheScope"]) == (10_000, "public")
    assert second["ttlMs"] == 4_000
    assert len([frame for frame in front.main.frames if isinstance(frame, link.ListRequest)]) == 2


async def test_one_request_serves_all_who_ask_meanwhile(front: Front):
    front.main.lists = False
    async with await front.client() as first, await front.client() as second:
        await first.modern("tools/list")
        await second.modern("tools/list")
        await wait_all_tasks_blocked()
        (request,) = [frame for frame in front.main.frames if isinstance(frame, link.ListRequest)]
        front.main.listing(request)

        for client in (first, second):
            assert names((await client.answer()).json["result"]) == ["main__echo"]


async def test_what_one_life_of_a_worker_numbered_means_nothing_to_the_next(front: Front):
    async with await front.client() as client:
        await listed(client)
        front.main.die()
        front.main.tools = [tool("new")]  # with the same generation number
        front.main.attach(front.worker)

        assert names(await listed(client)) == ["main__new"]


# --- pages -----------------------------------------------------------------------------------------------------------
async def test_pages_hold_all_tools_once_in_order():
    async with running_front("a", "b", page_size=3) as front, await front.client() as client:
        for server in front.servers.values():
            server.tools = [tool(f"t{number}") for number in range(4)]
        found: list[str] = []
        sizes: list[int] = []
        params: Json = {}
        while True:
            result = await listed(client, **params)
            found += names(result)
            sizes.append(len(result["tools"]))
            if "nextCursor" not in result:
                break
            params = {"cursor": result["nextCursor"]}

    assert found == [f"{server}__t{number}" for server in "ab" for number in range(4)]
    assert sizes == [3, 3, 2]


async def test_a_cursor_stays_good_when_the_list_changes_elsewhere():
    async with running_front(page_size=2) as front, await front.client() as client:
        front.main.tools = [tool(name) for name in "bcde"]
        cursor = (await listed(client))["nextCursor"]
        front.main.tools = [tool(name) for name in "abcdef"]
        front.main.generation += 1

        assert names(await listed(client, cursor=cursor)) == ["main__d", "main__e"]


@pytest.mark.case("A-30")
@pytest.mark.parametrize(
    "cursor",
    [
        7,
        None,
        [],
        {},
        "nonsense",
        "YzE6Z29uZQ",
        "YzE6",
        "YzI6bWFpbl9fZWNobw",
        "=",
        "\x00",
        "\ud7ff",
        "../..",
        "A" * 1_000_000,
        "/w",
    ],
)
async def test_a_cursor_of_somebody_else_is_refused(front: Front, cursor: object):
    async with await front.client() as client:
        await client.modern("tools/list", {"cursor": cursor})
        answer = await client.answer()

    assert (answer.status, answer.json["error"]["code"]) == (400, INVALID_PARAMS)
    assert len(answer.body) < 200


async def test_an_empty_cursor_asks_for_the_beginning(front: Front):
    async with await front.client() as client:
        assert names(await listed(client, cursor="")) == ["main__echo"]
