"""The endpoints of single servers, beside that of all of them: what is served there, and who hears of what."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from protocol import link
from protocol.control import AddServer, DropServer, GroupInfo, ServerInfo
from protocol.errors import METHOD_NOT_FOUND
from protocol.tool_rules import ToolRules
from tests.workers.scripted import Client, Front, Json, ScriptedWorker, envelope, http, post, running_front
from workers.front import subscriptions
from workers.front.endpoints import LIST_CHANGED_GATHER_S

RESULT: Json = {"content": []}
ARGUMENT: Json = {"name": "x", "value": ""}
BOTH = ["2025-11-25", "2026-07-28"]
UPDATED = "notifications/resources/updated"


async def connected(front: Front, version: str, path: str = "/mcp/main") -> Client:
    return await front.client(None if version == BOTH[1] else version, path)


async def ask(client: Client, method: str, params: Json | None = None) -> None:
    """Send a request in the client's era, without waiting for its answer."""
    await (client.legacy if client.session else client.modern)(method, params)


async def result(client: Client, method: str, params: Json | None = None) -> Json:
    await ask(client, method, params)
    return (await client.answer()).json["result"]


async def stream(front: Front, client: Client) -> Client:
    """Open the session's stream."""
    opened = await front.client(path=client.path)
    await opened.send(http("GET", {**client.legacy_headers, "accept": "text/event-stream"}, path=client.path))
    assert (await opened.head()).status == 200
    return opened


async def listen(front: Front, path: str, wanted: Json) -> Client:
    client = await front.client(path=path)
    await client.modern("subscriptions/listen", {"notifications": wanted})
    assert (await client.head()).status == 200
    return client


async def event(client: Client) -> Json:
    while (found := await client.event()) is None:
        pass
    return found


def filled(server: ScriptedWorker) -> None:
    server.tools = [{"name": "echo", "inputSchema": {}}, {"name": "a.b c", "inputSchema": {}, "odd": 1.50}]
    server.prompts = [{"name": "greet"}]
    server.resources = [{"uri": "x:1", "name": server.name}]
    server.templates = [{"uriTemplate": "x:{id}", "name": server.name}]
    server.offers = ["tools", "prompts", "resources", "resources.subscribe", "completions"]
    server.state("ready", f"use {server.name} well")


# --- what is served --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("version", BOTH)
async def test_lists_hold_what_that_server_has_under_its_own_names_and_nothing_of_ours(version: str):
    management = ["manage", "proxy_status", "proxy_health"]
    async with running_front("main", "files", management=management, lazy_above=0) as front:
        for server in front.servers.values():
            filled(server)
        own, merged = await connected(front, version), await connected(front, version, "/mcp")

        assert (await result(own, "tools/list"))["tools"] == front.main.tools
        assert (await result(own, "prompts/list"))["prompts"] == front.main.prompts
        assert (await result(own, "resources/list"))["resources"] == front.main.resources
        assert (await result(own, "resources/templates/list"))["resourceTemplates"] == front.main.templates
        assert management[0] in [tool["name"] for tool in (await result(merged, "tools/list"))["tools"]]


@pytest.mark.parametrize("version", BOTH)
@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("tools/call", {"name": "main__echo", "arguments": {"deep": [1, {"a": None}]}}),
        ("tools/call", {"name": "manage", "arguments": {}}),
        ("prompts/get", {"name": "nobody lists this"}),
        ("resources/read", {"uri": "unheard:of"}),
        ("completion/complete", {"ref": {"type": "ref/prompt", "name": "a__b"}, "argument": ARGUMENT}),
        ("completion/complete", {"ref": {"type": "ref/resource", "uri": "q:1"}, "argument": ARGUMENT}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
async def test_whatever_is_asked_for_goes_to_that_server_as_it_is(version: str, method: str, params: Json):
    async with running_front("files", "main", management=["manage", "proxy_status", "proxy_health"]) as front:
        client = await connected(front, version)
        await ask(client, method, params)
        call, sent = await front.main.call()

        assert (call.method, {name: sent[name] for name in params}) == (method, params)
        front.main.answer(call, RESULT)
        assert (await client.answer()).json["result"] == RESULT
        assert front.servers["files"].calls == []


async def test_what_a_server_can_do_and_its_instructions_are_told_as_they_are():
    async with running_front("main", "files") as front:
        filled(front.servers["files"])
        front.main.offers = ["prompts"]
        front.main.state("ready", "be kind")
        await front.main.frame_round_trip()
        client = await front.client(path="/mcp/main")
        told = (await client.initialize()).json["result"]
        discovered = await result(await front.client(path="/mcp/main"), "server/discover")

    for one in (told, discovered):
        assert one["capabilities"] == {"prompts": {"listChanged": True}}
        assert one["instructions"] == "be kind"


@pytest.mark.case("D-27")
@pytest.mark.parametrize("version", BOTH)
async def test_a_tool_that_the_user_does_not_offer_is_not_offered_there_either(version: str):
    rules = {"main": ToolRules(deny=("ec*",))}
    async with running_front(rules=rules) as front:
        client = await connected(front, version)
        assert (await result(client, "tools/list"))["tools"] == []
        await ask(client, "tools/call", {"name": "echo"})
        error = (await client.answer()).json["error"]

    assert error["message"] == "Tool 'echo' not found"
    assert front.main.calls == []


async def test_a_group_has_an_endpoint_and_its_replicas_have_none():
    groups = [GroupInfo("search", "least_loaded")]
    async with running_front("one", "two", groups=groups, groups_of={"one": "search", "two": "search"}) as front:
        client = await front.client(path="/mcp/search")
        assert [tool["name"] for tool in (await result(client, "tools/list"))["tools"]] == ["echo"]
        other = await front.client(path="/mcp/one")
        await other.modern("tools/list")
        assert (await other.answer()).status == 404


# --- where -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_an_unknown_server_is_answered_with_those_that_there_are(method: str):
    async with running_front("main", "files") as front:
        client = await front.client()
        for path in ("/mcp/nobody", "/mcp/", "/mcp/main/", "/mcp/main/x", "/mcp/MAIN", "/mcp/main__x"):
            await client.send(http(method, path=path))
            answer = await client.answer()
            assert (answer.status, answer.json["error"]["code"]) == (404, METHOD_NOT_FOUND)
            message = answer.json["error"]["message"]
            assert message.endswith("here; the servers are main, files; all of them together are at /mcp")


@pytest.mark.parametrize(("path", "own"), [("/", "/main"), ("/deep/path", "/deep/path/main"), ("/deep/", "/deep/main")])
async def test_the_endpoint_of_a_server_is_below_the_path_that_is_configured(path: str, own: str):
    async with running_front(path=path) as front:
        client = await front.client(path=own)
        assert [tool["name"] for tool in (await result(client, "tools/list"))["tools"]] == ["echo"]


@pytest.mark.parametrize("page", ["/healthz", "/readyz"])
async def test_the_pages_for_probes_stay_where_a_server_is_called_like_one(page: str):
    async with running_front(page[1:], path="/") as front:
        client = await front.client()
        await client.send(http("GET", path=page))
        assert "status" in (await client.answer()).json


# --- sessions --------------------------------------------------------------------------------------------------------
@pytest.mark.case("D-08")
@pytest.mark.parametrize("made_at", ["/mcp", "/mcp/main", "/mcp/files"])
async def test_a_session_is_unknown_at_every_other_endpoint_also_to_the_next_front(made_at: str):
    async with running_front("main", "files") as front:
        first = await front.client("2025-11-25", made_at)
    async with running_front("main", "files") as other_front:
        for path in ("/mcp", "/mcp/main", "/mcp/files"):
            client = await other_front.client()
            for method, body in (("POST", envelope("ping")), ("GET", None), ("DELETE", None)):
                if path == made_at and method != "POST":
                    continue
                await client.send(
                    post(body, first.legacy_headers, path) if body else http(method, first.legacy_headers, path=path)
                )
                assert (await client.answer()).status == (200 if path == made_at else 404)


async def test_only_the_own_calls_of_an_endpoint_can_be_cancelled_there(front: Front):
    """Ids of requests are a client's own, and each endpoint has clients of its own."""
    one, other = await front.client("2025-11-25", "/mcp/main"), await front.client("2025-11-25", "/mcp")
    await one.call("echo", request_id=7)
    await front.main.call()
    await other.legacy("notifications/cancelled", {"requestId": 7}, request_id=None)
    assert (await other.answer()).status == 202
    assert not [frame for frame in front.main.frames if isinstance(frame, link.Cancel)]
    await other.legacy("ping")
    assert (await other.answer()).status == 200


# --- who hears of what -----------------------------------------------------------------------------------------------
async def test_clients_hear_of_changed_lists_of_their_server_only(autojump_clock: MockClock):
    async with running_front("main", "files") as front:
        for server in front.servers.values():
            filled(server)
        await trio.sleep(2 * LIST_CHANGED_GATHER_S)
        client = await front.client("2025-11-25", "/mcp/main")
        own_stream = await stream(front, client)
        wanted = {"toolsListChanged": True, "promptsListChanged": True}
        own = await listen(front, "/mcp/main", wanted)
        merged = await listen(front, "/mcp", wanted)
        for each in (own, merged):
            assert (await event(each))["method"] == "notifications/subscriptions/acknowledged"

        front.servers["files"].send(link.ListChanged("prompts"))
        assert (await event(merged))["method"] == "notifications/prompts/list_changed"
        front.main.send(link.ListChanged("tools"))
        for each in (own_stream, own, merged):
            assert (await event(each))["method"] == "notifications/tools/list_changed"


@pytest.mark.parametrize("version", BOTH)
async def test_a_resource_is_watched_as_long_as_a_client_of_any_endpoint_wants_it(
    version: str, autojump_clock: MockClock
):
    async with running_front("main", "files") as front:
        for server in front.servers.values():
            filled(server)
        await trio.sleep(2 * LIST_CHANGED_GATHER_S)
        merged = await listen(front, "/mcp", {"resourceSubscriptions": ["x:1"]})
        watch = await front.main.frame(link.Watch)
        front.main.send(link.Watching(watch.id, 0, ""))
        assert (await event(merged))["params"]["notifications"] == {"resourceSubscriptions": ["x:1"]}
        if version == BOTH[1]:
            own = await listen(front, "/mcp/main", {"resourceSubscriptions": ["x:1"]})
            assert (await event(own))["params"]["notifications"] == {"resourceSubscriptions": ["x:1"]}
        else:
            client = await front.client(version, "/mcp/main")
            own = await stream(front, client)
            assert await result(client, "resources/subscribe", {"uri": "x:1"}) == {}

        await merged.close()
        front.servers["files"].send(link.Updated("x:1"), {"uri": "x:1"})
        front.main.send(link.Updated("x:1"), {"uri": "x:1", "own": True})
        told = await event(own)
        assert (told["method"], told["params"]["own"]) == (UPDATED, True)
        assert not [frame for frame in front.main.frames if isinstance(frame, link.Unwatch | link.Watch)]
        if version == BOTH[1]:
            await own.close()
        else:
            assert await result(client, "resources/unsubscribe", {"uri": "x:1"}) == {}
        assert (await front.main.frame(link.Unwatch)).uri == "x:1"
        tally = front.worker._endpoint.subscriptions._tally
        assert (tally.listens, tally.subscriptions, dict(tally.endpoints)) == (0, 0, {})


# --- servers that come and go ----------------------------------------------------------------------------------------
async def test_a_server_that_is_added_has_an_endpoint_at_once():
    async with running_front() as front:
        client = await front.client(path="/mcp/late")
        await client.modern("tools/list")
        assert (await client.answer()).status == 404
        front.worker.obey(AddServer(ServerInfo("late", ""), 1))
        late = ScriptedWorker(front.reactor, "late")
        late.attach(front.worker)
        assert [tool["name"] for tool in (await result(client, "tools/list"))["tools"]] == ["echo"]


async def test_a_server_that_is_dropped_takes_its_endpoint_with_it_and_may_come_back(autojump_clock: MockClock):
    async with running_front("main", "files") as front:
        await trio.sleep(2 * LIST_CHANGED_GATHER_S)
        client = await front.client("2025-11-25", "/mcp/main")
        own_stream = await stream(front, client)
        own = await listen(front, "/mcp/main", {"toolsListChanged": True})
        assert (await event(own))["method"] == "notifications/subscriptions/acknowledged"
        assert await result(client, "ping") == {}

        front.worker.obey(DropServer("main"))
        await own_stream.stream_ended()
        assert (await event(own))["result"]["resultType"] == "complete"
        await client.legacy("ping")
        assert (await client.answer()).status == 404

        front.worker.obey(AddServer(ServerInfo("main", ""), 0))
        ScriptedWorker(front.reactor, "main").attach(front.worker, incarnation=5)
        assert await result(client, "ping") == {}
        assert [tool["name"] for tool in (await result(client, "tools/list"))["tools"]] == ["echo"]


async def test_a_server_whose_worker_is_exchanged_is_reached_at_its_endpoint(autojump_clock: MockClock):
    async with running_front() as front:
        client = await front.client(path="/mcp/main")
        assert await result(client, "tools/list")
        new = ScriptedWorker(front.reactor, "main")
        new.attach(front.worker, incarnation=2, gently=True)
        await new.frame_round_trip()
        await client.modern_call("echo")
        call, _ = await new.call()
        new.answer(call, RESULT)
        assert (await client.answer()).json["result"] == RESULT


async def test_an_endpoint_that_comes_and_goes_a_hundred_times_leaves_nothing_behind(autojump_clock: MockClock):
    async with running_front("main", "files") as front:
        await trio.sleep(1)
        nursery = front.reactor._nursery
        assert nursery is not None
        tasks = len(nursery.child_tasks)
        client = await front.client(path="/mcp/main")
        for incarnation in range(2, 102):
            front.worker.obey(DropServer("main"))
            front.worker.obey(AddServer(ServerInfo("main", ""), 0))
            ScriptedWorker(front.reactor, "main").attach(front.worker, incarnation=incarnation)
            assert await result(client, "server/discover")
        await client.close()
        await trio.sleep(subscriptions.SWEEP_S + 1)
        assert len(nursery.child_tasks) <= tasks + 1, "one endpoint is in use"
        assert len(front.worker._sessions.on_stream) == 2
