"""Prompts, resources, templates and completions: merged lists, whose each is, and what reaches the server."""

from __future__ import annotations

import pytest
from trio.testing import wait_all_tasks_blocked

from protocol import link
from protocol.errors import INVALID_PARAMS, METHOD_NOT_FOUND, RESOURCE_NOT_FOUND_LEGACY
from protocol.names import Policy
from protocol.versions import Era
from tests import schemas
from tests.workers.scripted import MODERN, Client, Front, Json, http, running_front

LEGACY = "2025-11-25"


async def ask(client: Client, era: str, method: str, **params: object) -> Json:
    """Return the answer to a request, checked against the schema."""
    if era == "modern":
        await client.modern(method, dict(params))
    else:
        await client.legacy(method, dict(params))
    final = (await client.answer()).final
    if "result" in final:
        schemas.validate_answer(MODERN if era == "modern" else LEGACY, method, final)
    return final


async def connected(front: Front, era: str) -> Client:
    return await front.client(None if era == "modern" else LEGACY)


def prompt(name: str, **more: object) -> Json:
    return {"name": name, "arguments": [{"name": "topic", "required": True}], **more}


def resource(uri: str, **more: object) -> Json:
    return {"uri": uri, "name": uri, **more}


def template(uri: str) -> Json:
    return {"uriTemplate": uri, "name": uri}


@pytest.fixture(params=["legacy", "modern"])
def era(request: pytest.FixtureRequest) -> str:
    return request.param


# --- lists -----------------------------------------------------------------------------------------------------------
async def test_prompts_are_named_as_tools_are_and_keep_every_field(era: str):
    async with running_front("one", "two") as front, await connected(front, era) as client:
        front.servers["one"].prompts = [prompt("greet", unknown=[1.5]), prompt("x" * 80)]
        front.servers["two"].prompts = [prompt("greet")]
        prompts = (await ask(client, era, "prompts/list"))["result"]["prompts"]

    assert prompts[0] == prompt("one__greet", unknown=[1.5])
    assert [len(one["name"]) for one in prompts] == [10, 64, 10]
    assert prompts[2]["name"] == "two__greet"


async def test_resources_keep_their_uris_and_the_second_of_two_equal_ones_is_given_an_alias(era: str):
    async with running_front("one", "two") as front, await connected(front, era) as client:
        front.servers["one"].resources = [resource("file:///a", unknown=[1.5]), resource("file:///b")]
        front.servers["two"].resources = [resource("file:///a"), resource("db://x")]
        resources = (await ask(client, era, "resources/list"))["result"]["resources"]

    assert resources[0] == resource("file:///a", unknown=[1.5])
    assert [one["uri"] for one in resources[1:]] == ["file:///b", "mcp-bulkhead://two/file:///a", "db://x"]


async def test_templates_are_merged(era: str):
    async with running_front("one", "two") as front, await connected(front, era) as client:
        front.servers["one"].templates = [template("file:///{+path}")]
        front.servers["two"].templates = [template("file:///{+path}"), template("db://{table}")]
        listed = (await ask(client, era, "resources/templates/list"))["result"]["resourceTemplates"]

    assert [one["uriTemplate"] for one in listed] == [
        "file:///{+path}",
        "mcp-bulkhead://two/file:///{+path}",
        "db://{table}",
    ]


async def test_lists_have_pages_whatever_the_length_of_a_uri(era: str):
    uris = [f"file:///{number}/{'x' * 2000}" for number in range(5)]
    async with running_front(page_size=2) as front, await connected(front, era) as client:
        front.main.resources = [resource(uri) for uri in uris]
        found: list[str] = []
        cursor: Json = {}
        while True:
            page = (await ask(client, era, "resources/list", **cursor))["result"]
            found += [one["uri"] for one in page["resources"]]
            if "nextCursor" not in page:
                break
            assert len(page["nextCursor"]) < 1024
            cursor = {"cursor": page["nextCursor"]}

    assert found == uris


# --- what is asked of one server -------------------------------------------------------------------------------------
async def test_a_prompt_is_got_from_its_server_under_its_own_name(era: str):
    async with running_front("one", "two") as front, await connected(front, era) as client:
        name = "two__greet"
        sent = {"name": name, "arguments": {"topic": "ü"}, "x-unknown": 1}
        await (client.modern("prompts/get", sent) if era == "modern" else client.legacy("prompts/get", sent))
        call, params = await front.servers["two"].call()
        front.servers["two"].answer(call, {"messages": []})
        result = (await client.answer()).final["result"]

    assert (call.method, call.name) == ("prompts/get", "greet")
    assert params == {"name": "greet", "arguments": {"topic": "ü"}, "x-unknown": 1}
    assert result["messages"] == []


@pytest.mark.parametrize(
    ("uri", "server", "own"),
    [
        ("file:///a", "one", "file:///a"),
        ("mcp-bulkhead://two/file:///a", "two", "file:///a"),
        ("db://x", "two", "db://x"),
        ("db://not/listed", "two", "db://not/listed"),  # nobody else has this scheme
        ("mail://box/17/part", "one", "mail://box/17/part"),  # a template fits
    ],
)
async def test_a_resource_is_read_from_the_server_it_belongs_to(era: str, uri: str, server: str, own: str):
    async with running_front("one", "two") as front, await connected(front, era) as client:
        front.servers["one"].resources = [resource("file:///a")]
        front.servers["one"].templates = [template("mail://box/{id}/part")]
        front.servers["two"].resources = [resource("file:///a"), resource("db://x")]
        front.servers["two"].templates = [template("mail://other/{id}")]
        for _ in range(2):  # first by a front that has seen no list, then by one that knows them
            sent = {"uri": uri}
            await (client.modern("resources/read", sent) if era == "modern" else client.legacy("resources/read", sent))
            call, params = await front.servers[server].call()
            assert (call.method, call.name, params) == ("resources/read", own, {"uri": own})
            front.servers[server].answer(call, {"contents": [], "ttlMs": 0, "cacheScope": "private"})
            assert (await client.answer()).final["result"]["contents"] == []


async def test_a_resource_of_a_server_of_the_other_era_comes_with_what_the_clients_era_demands(front: Front):
    front.main.resources = [resource("file:///a")]
    async with await front.client() as client:
        await client.modern("resources/read", {"uri": "file:///a"})
        call, _ = await front.main.call()
        front.main.answer(call, {"contents": []}, Era.LEGACY)
        final = (await client.answer()).final
        schemas.validate_answer(MODERN, "resources/read", final)

    assert final["result"]["ttlMs"] == 0
    assert final["result"]["cacheScope"] == "private"


@pytest.mark.case("A-30")
@pytest.mark.parametrize("uri", ["nowhere://x", ":", "\x00", "../..", "x" * 5000])
async def test_a_resource_that_nobody_has_is_not_found(era: str, uri: str):
    async with running_front("one", "two") as front, await connected(front, era) as client:
        front.servers["one"].resources = [resource("file:///a")]
        front.servers["two"].resources = [resource("db://x")]
        error = (await ask(client, era, "resources/read", uri=uri))["error"]
        assert error["code"] == (INVALID_PARAMS if era == "modern" else RESOURCE_NOT_FOUND_LEGACY)
        assert error["data"] == {"uri": uri[:200]}
        assert not front.servers["one"].calls
        assert not front.servers["two"].calls


@pytest.mark.parametrize(
    ("ref", "server", "own"),
    [
        ({"type": "ref/prompt", "name": "two__greet", "title": "T"}, "two", {"name": "greet"}),
        ({"type": "ref/resource", "uri": "file:///{path}"}, "one", {}),
    ],
)
async def test_a_completion_is_asked_of_the_server_whose_prompt_or_template_it_is(
    era: str, ref: Json, server: str, own: Json
):
    async with running_front("one", "two") as front, await connected(front, era) as client:
        front.servers["one"].templates = [template("file:///{path}")]
        front.servers["two"].templates = [template("db://{table}")]
        sent = {"ref": ref, "argument": {"name": "path", "value": "a"}, "context": {"arguments": {"x": "y"}}}
        method = "completion/complete"
        await (client.modern(method, sent) if era == "modern" else client.legacy(method, sent))
        call, params = await front.servers[server].call()
        front.servers[server].answer(call, {"completion": {"values": ["abc"]}})
        result = (await client.answer()).final["result"]

    assert params == sent | {"ref": ref | own}
    assert result["completion"] == {"values": ["abc"]}


@pytest.mark.case("A-30")
@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("prompts/get", {}),
        ("prompts/get", {"name": 7}),
        ("prompts/get", {"name": "nobody"}),
        ("prompts/get", {"name": "other__greet"}),
        ("resources/read", {}),
        ("resources/read", {"uri": ["file:///a"]}),
        ("completion/complete", {}),
        ("completion/complete", {"ref": "x"}),
        ("completion/complete", {"ref": {"type": "ref/tool", "name": "main__echo"}}),
        ("completion/complete", {"ref": {"type": "ref/prompt"}}),
        ("completion/complete", {"ref": {"type": "ref/prompt", "name": "nobody"}}),
        ("prompts/list", {"cursor": "nonsense"}),
    ],
)
async def test_what_makes_no_sense_is_refused_and_reaches_nobody(front: Front, method: str, params: Json):
    async with await front.client(LEGACY) as client:
        await client.legacy(method, params)
        assert (await client.answer()).final["error"]["code"] == INVALID_PARAMS
        assert not front.main.calls


async def test_without_prefixes_a_prompt_is_found_by_a_front_that_knows_no_list_yet():
    async with running_front("one", "two", namespace=Policy.NONE) as front, await front.client(LEGACY) as client:
        front.servers["two"].prompts = [prompt("greet")]
        await client.legacy("prompts/get", {"name": "greet"})
        call, _ = await front.servers["two"].call()
        assert call.name == "greet"


async def test_a_read_is_withdrawn_when_its_client_cancels_while_lists_are_fetched(front: Front):
    front.main.lists = False
    async with await front.client(LEGACY) as client:
        await client.legacy("resources/read", {"uri": "file:///a"}, request_id=7)
        requests = [await front.main.frame(link.ListRequest) for _ in range(2)]
        async with await front.client() as other:
            other.session, other.version = client.session, client.version
            await other.legacy("notifications/cancelled", {"requestId": 7}, request_id=None)
            assert (await other.answer()).status == 202
        for request in requests:
            front.main.listing(request)
        await wait_all_tasks_blocked()

    assert not front.main.calls


# --- what is said to be there ----------------------------------------------------------------------------------------
async def test_capabilities_are_the_union_of_what_the_servers_offer():
    async with running_front("one", "two", attach=False) as front, await front.client() as client:
        for server, offers in (("one", ["tools", "prompts"]), ("two", ["completions", "experimental", "tools"])):
            front.servers[server].offers = offers
            front.servers[server].attach(front.worker)
        await wait_all_tasks_blocked()
        await client.modern("server/discover")
        modern = (await client.answer()).final["result"]["capabilities"]
        legacy = (await client.initialize(LEGACY)).final["result"]

    assert modern == {"tools": {"listChanged": True}, "prompts": {"listChanged": True}, "completions": {}}
    assert legacy["capabilities"] == {
        "tools": {"listChanged": True},
        "prompts": {"listChanged": True},
        "completions": {},
    }


async def test_a_server_that_was_not_reached_yet_may_offer_anything():
    async with running_front(attach=False) as front, await front.client() as client:
        await client.modern("server/discover")
        capabilities = (await client.answer()).final["result"]["capabilities"]

    assert set(capabilities) == {"tools", "prompts", "resources", "completions", "logging", "extensions"}


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("tools", "notifications/tools/list_changed"),
        ("prompts", "notifications/prompts/list_changed"),
        ("resources", "notifications/resources/list_changed"),
        ("resourceTemplates", "notifications/resources/list_changed"),
    ],
)
async def test_a_change_of_a_list_is_told_by_its_own_name(front: Front, kind: str, method: str):
    async with await front.client(LEGACY) as client:
        await client.send(http("GET", {**client.legacy_headers, "accept": "text/event-stream"}))
        assert (await client.head()).status == 200
        front.main.send(link.ListChanged(kind))
        assert (await client.event())["method"] == method


async def test_methods_that_are_not_there_are_still_refused(era: str, front: Front):
    async with await connected(front, era) as client:
        final = await ask(client, era, "prompts/delete", name="main__x")
        assert final["error"]["code"] == METHOD_NOT_FOUND
