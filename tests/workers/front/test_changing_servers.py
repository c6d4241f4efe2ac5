"""Servers that come, go and are exchanged while a front runs: whose calls end where, and that each ends once."""

from __future__ import annotations

import pytest
from trio.testing import MockClock, wait_all_tasks_blocked

from protocol import link
from protocol.control import AddServer, DropServer, Manage, Managed, Released, ServerInfo
from protocol.errors import INVALID_PARAMS, OVERLOADED, SERVER_UNAVAILABLE
from protocol.limits import MANAGE_DEADLINE_S, MANAGE_OUTSTANDING_MAX, RESTART_WAIT_S
from protocol.names import Policy
from protocol.tool_rules import ToolRules
from tests.workers.scripted import Client, Front, Json, ScriptedWorker, advance, http, running_front

SWEEP_S = 0.2
RESULT: Json = {"content": []}
TOOLS = ["manage", "proxy_status", "proxy_health"]


def successor(front: Front, *, gently: bool = True, calls: int = 64) -> ScriptedWorker:
    """A second worker of "main", whose own incarnation is 2."""
    worker = ScriptedWorker(front.reactor, "main", calls=calls)
    worker.attach(front.worker, incarnation=2, gently=gently)
    return worker


async def names(client: Client) -> list[str]:
    await client.modern("tools/list", request_id=99)
    return [tool["name"] for tool in (await client.answer()).json["result"]["tools"]]


async def call(front: Front, tool: str = "main__echo", request_id: int = 1) -> Client:
    client = await front.client()
    await client.modern_call(tool, request_id=request_id)
    await wait_all_tasks_blocked()
    return client


# --- exchanged -------------------------------------------------------------------------------------------------------
async def test_new_calls_go_to_the_successor_and_those_in_flight_end_where_they_are(mock_clock: MockClock):
    async with running_front() as front:
        early = await call(front)
        old_call, _ = await front.main.call()
        new = successor(front)
        await wait_all_tasks_blocked()
        late = await call(front)
        new_call, _ = await new.call()
        assert front.main.calls == []

        new.answer(new_call, {"from": "new"})
        assert (await late.answer()).json["result"]["from"] == "new"
        await advance(mock_clock, 5.0)
        assert Released("main", 1) not in front.reports, "it has a call to finish"
        front.main.answer(old_call, {"from": "old"})
        assert (await early.answer()).json["result"]["from"] == "old"
        await advance(mock_clock, SWEEP_S)
        assert front.reports.count(Released("main", 1)) == 1
        await front.main.until(lambda: front.main.closed)
        assert not new.closed


async def test_calls_that_wait_for_a_place_move_to_the_successor_in_their_order(mock_clock: MockClock):
    async with running_front(calls=1) as front:
        clients = [await call(front, request_id=number) for number in range(4)]
        assert len(front.main.calls) == 1
        new = successor(front)
        await wait_all_tasks_blocked()

        assert [header.id for header, _ in new.calls] == sorted(header.id for header, _ in new.calls)
        assert len(new.calls) == 3
        for number, client in enumerate(clients):
            worker = front.main if number == 0 else new
            header, _ = await worker.call()
            worker.answer(header, {"number": number})
            assert (await client.answer()).json["result"]["number"] == number


async def test_a_call_whose_old_worker_dies_unread_is_made_by_the_successor(mock_clock: MockClock):
    """Without its page all that the old worker had counts as sent; a harmless tool's call is sent again."""
    async with running_front() as front:
        front.main.tools = [{"name": "echo", "inputSchema": {}, "annotations": {"readOnlyHint": True}}]
        client = await front.client()
        await names(client)
        caller = await call(front)
        await front.main.call()
        new = successor(front)
        await wait_all_tasks_blocked()
        front.main.die()

        header, _ = await new.call()
        new.answer(header, RESULT)
        assert (await caller.answer()).json["result"] == RESULT
        await advance(mock_clock, SWEEP_S)
        assert Released("main", 1) in front.reports


async def test_the_list_of_the_old_worker_is_offered_until_the_successor_has_one(mock_clock: MockClock):
    async with running_front() as front:
        client = await front.client()
        assert await names(client) == ["main__echo"]
        new = ScriptedWorker(front.reactor, "main")
        new.lists = False
        new.attach(front.worker, ready=False, incarnation=2, gently=True)
        new.state("backoff")
        await wait_all_tasks_blocked()

        assert await names(client) == ["main__echo"]


async def test_exchanging_a_server_a_thousand_times_leaves_nothing_behind(mock_clock: MockClock):
    async with running_front() as front:
        await advance(mock_clock, SWEEP_S)
        nursery = front.reactor._nursery
        assert nursery is not None
        tasks = len(nursery.child_tasks)
        sources = len(front.reactor._sources)
        for incarnation in range(2, 1002):
            worker = ScriptedWorker(front.reactor, "main")
            worker.attach(front.worker, incarnation=incarnation, gently=True)
            if incarnation % 50 == 0:
                await advance(mock_clock, SWEEP_S)
        await advance(mock_clock, 1.0)

        assert len(front.reports) >= 1000
        assert len(front.reactor._sources) <= sources
        assert len(nursery.child_tasks) <= tasks


# --- gone ------------------------------------------------------------------------------------------------------------
async def test_a_server_that_is_dropped_finishes_its_calls_and_takes_no_more(mock_clock: MockClock):
    async with running_front("main", "other", calls=1) as front:
        first, second = await call(front, request_id=1), await call(front, request_id=2)
        front.worker.obey(DropServer("main"))
        error = (await (await call(front)).answer()).json["error"]
        assert error["code"] == INVALID_PARAMS
        assert error["message"].startswith("Tool 'main__echo' not found")
        assert await names(await front.client()) == ["other__echo"]

        for client in (first, second):
            header, _ = await front.main.call()
            front.main.answer(header, RESULT)
            assert (await client.answer()).json["result"] == RESULT
        await advance(mock_clock, SWEEP_S)
        assert front.reports[-1] == Released("main", 1)
        await front.main.until(lambda: front.main.closed)


async def test_calls_of_a_dropped_server_that_dies_are_answered(mock_clock: MockClock):
    async with running_front() as front:
        front.main.tools = [{"name": "echo", "inputSchema": {}, "annotations": {"readOnlyHint": True}}]
        client = await front.client()
        await names(client)
        caller = await call(front)
        await front.main.call()
        front.worker.obey(DropServer("main"))
        front.main.die()
        error = (await caller.answer()).json["error"]

        assert "may or may not have been executed" in error["message"]
        assert error["data"]["sent"] is True


async def test_calls_that_wait_for_a_worker_of_a_dropped_server_are_refused(mock_clock: MockClock):
    async with running_front(attach=False) as front:
        caller = await call(front)
        front.worker.obey(DropServer("main"))
        error = (await caller.answer()).json["error"]

        assert error["code"] == SERVER_UNAVAILABLE
        assert error["message"] == 'server "main" has been removed or disabled; the call was not sent'
        await advance(mock_clock, SWEEP_S)
        assert front.reports == [Released("main", 0)]
        front.worker.obey(DropServer("main"))
        assert front.reports == [Released("main", 0)], "it is gone already"


# --- new -------------------------------------------------------------------------------------------------------------
async def test_a_server_that_is_added_has_its_place_in_the_order_and_is_waited_for(mock_clock: MockClock):
    async with running_front("a", "c") as front, await front.client("2025-11-25") as listener:
        await advance(mock_clock, 1)  # what the start had to tell has been told
        await listener.send(http("GET", {**listener.legacy_headers, "accept": "text/event-stream"}))
        await listener.head()
        front.worker.obey(AddServer(ServerInfo("b", "http://b/"), 1))
        caller = await call(front, "b__echo")
        await advance(mock_clock, RESTART_WAIT_S / 2)
        worker = ScriptedWorker(front.reactor, "b")
        worker.attach(front.worker)
        header, _ = await worker.call()
        worker.answer(header, RESULT)
        assert (await caller.answer()).json["result"] == RESULT
        assert await names(await front.client()) == ["a__echo", "b__echo", "c__echo"]
        await advance(mock_clock, SWEEP_S)
        # One that has not said what it offers may offer anything.
        assert {(await listener.event())["method"] for _ in range(3)} == {
            f"notifications/{kind}/list_changed" for kind in ("tools", "prompts", "resources")
        }


async def test_without_prefixes_the_names_of_a_dropped_server_are_free_again(mock_clock: MockClock):
    async with running_front("a", "b", namespace=Policy.NONE) as front:
        client = await front.client()
        assert await names(client) == ["echo"]
        front.worker.obey(DropServer("a"))
        assert await names(client) == ["echo"]
        caller = await call(front, "echo")
        header, _ = await front.servers["b"].call()
        front.servers["b"].answer(header, RESULT)
        assert (await caller.answer()).json["result"] == RESULT


# --- the management tools --------------------------------------------------------------------------------------------
async def manage(front: Front, **arguments: object) -> Client:
    client = await front.client()
    params = {"name": "manage", "arguments": {"operation": "list", **arguments}}
    await client.modern("tools/call", params, request_id=1)
    await wait_all_tasks_blocked()
    return client


async def told(client: Client) -> Json:
    return (await client.answer()).final["result"]


async def test_a_management_call_goes_to_the_root_and_its_answer_comes_in_parts(mock_clock: MockClock):
    async with running_front(management=TOOLS) as front:
        client = await manage(front)
        order = front.reports[-1]
        assert isinstance(order, Manage)
        assert order.request.operation == "list"
        front.worker.obey(Managed(order.number, b'{"succ', False))
        front.worker.obey(Managed(order.number, b'ess":true}', True))
        result = await told(client)

    assert result["structuredContent"] == {"success": True}
    assert result["isError"] is False
    assert result["resultType"] == "complete"


async def test_a_root_that_does_not_answer_is_waited_for_only_so_long(mock_clock: MockClock):
    async with running_front(management=TOOLS) as front:
        client = await manage(front)
        await advance(mock_clock, MANAGE_DEADLINE_S + 1.0, 1.0)
        result = await told(client)
        late = front.reports[-1]
        assert isinstance(late, Manage)
        front.worker.obey(Managed(late.number, b"{}", True))

    assert result["isError"] is True
    assert "did not do it in time" in result["structuredContent"]["error"]


async def test_too_many_management_calls_at_once_are_refused(mock_clock: MockClock):
    async with running_front(management=TOOLS) as front:
        for _ in range(MANAGE_OUTSTANDING_MAX):
            await manage(front)
        assert len(front.reports) == MANAGE_OUTSTANDING_MAX
        result = await told(await manage(front))

        assert "too many management requests" in result["structuredContent"]["error"]
        assert len(front.reports) == MANAGE_OUTSTANDING_MAX


@pytest.mark.parametrize("gone", [True, False])
async def test_an_answer_nobody_waits_for_is_dropped(mock_clock: MockClock, gone: bool):
    async with running_front(management=TOOLS) as front:
        number = 7
        if gone:
            client = await manage(front)
            order = front.reports[-1]
            assert isinstance(order, Manage)
            number = order.number
            client.stream.socket.close()
            await wait_all_tasks_blocked()
        front.worker.obey(Managed(number, b'{"success":true}', True))
        await wait_all_tasks_blocked()


async def test_links_of_calls_to_servers_are_not_used_for_management(mock_clock: MockClock):
    async with running_front(management=TOOLS) as front:
        await manage(front)
        assert not [frame for frame in front.main.frames if isinstance(frame, link.Call)]
        assert front.main.calls == []


async def test_clients_hear_that_the_names_of_a_server_have_changed(mock_clock: MockClock):
    async with running_front("a") as front, await front.client("2025-11-25") as listener:
        await advance(mock_clock, 1)  # what the start had to tell has been told
        await listener.send(http("GET", {**listener.legacy_headers, "accept": "text/event-stream"}))
        await listener.head()
        front.worker.obey(AddServer(ServerInfo("a", "http://a/", prefix="first"), 0))
        await advance(mock_clock, 1)
        assert (await listener.event())["method"] == "notifications/tools/list_changed"


async def test_a_server_that_gets_other_settings_keeps_its_link_and_is_offered_by_the_new_ones(mock_clock: MockClock):
    async with running_front("a", "b") as front:
        client, listener = await front.client(), await front.client("2025-11-25")
        assert await names(client) == ["a__echo", "b__echo"]
        await advance(mock_clock, 1)  # what the start had to tell has been told
        await listener.send(http("GET", {**listener.legacy_headers, "accept": "text/event-stream"}))
        await listener.head()
        changed = ServerInfo("a", "http://a/", prefix="first", rules=ToolRules(renames={"echo": "say"}))
        front.worker.obey(AddServer(changed, 0))
        assert await names(client) == ["first__say", "b__echo"]
        caller = await call(front, "first__say")
        header, _ = await front.servers["a"].call()
        front.servers["a"].answer(header, RESULT)
        assert (await caller.answer()).json["result"] == RESULT
        await advance(mock_clock, SWEEP_S)
        assert (await listener.event())["method"] == "notifications/tools/list_changed"


async def test_a_successor_has_the_limits_of_the_new_settings(mock_clock: MockClock):
    limits = {"call_timeout_s": 100.0, "tool_timeouts": {"echo": 10.0}, "queue_max": 1}
    async with running_front(limits=limits) as front:
        await call(front)
        header, _ = await front.main.call()
        assert header.timeout_s == pytest.approx(10.0, abs=0.05)
        changed = ServerInfo("main", "http://main/", tool_timeouts={"echo": 20.0}, queue_max=0)
        front.worker.obey(AddServer(changed, 0))
        new = successor(front, calls=1)
        await wait_all_tasks_blocked()
        await call(front, request_id=2)
        header, _ = await new.call()
        assert header.timeout_s == pytest.approx(20.0, abs=0.05)
        refused = await call(front, request_id=3)
        assert (await refused.answer()).json["error"]["code"] == OVERLOADED
