"""Groups of replicas: one name for clients, and every call answered once, by whichever replica can."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from trio.testing import MockClock, wait_all_tasks_blocked

from protocol import link
from protocol.control import AddServer, DropServer, GroupInfo, GroupReport, Groups, ServerDown, ServerInfo
from protocol.errors import INVALID_PARAMS, METHOD_NOT_FOUND, OUTCOME_UNKNOWN, SERVER_UNAVAILABLE
from protocol.limits import (
    DIFFERENCES_TOLD_MAX,
    EJECTION_BASE_S,
    EJECTION_CALLS_MIN,
    EJECTION_FAILURES,
    RECALL_S,
    RESTART_WAIT_S,
    SLOW_START_S,
    STALL_CALLS_MIN,
    STALL_S,
    STALL_SHARE,
)
from protocol.tool_rules import ToolRules
from tests.workers.scripted import (
    Answer,
    Client,
    Front,
    Json,
    ScriptedWorker,
    advance,
    envelope,
    http,
    modern_post,
    post,
    running_front,
)  # fmt: skip

RESULT: Json = {"content": []}
READ: Json = {"name": "read", "inputSchema": {}, "annotations": {"readOnlyHint": True}}
WRITE: Json = {"name": "write", "inputSchema": {}}
REPLICAS = ("one", "two", "three")


@asynccontextmanager
async def running_group(
    *names: str,
    policy: str = "round_robin",
    calls: int = 64,
    rules: ToolRules | None = None,
    sticky_by: str = "",
    limits: Json | None = None,
) -> AsyncIterator[Front]:
    """Run a front with the group "search" of these replicas, and a server "other" beside it."""
    chosen = names or REPLICAS
    info = GroupInfo("search", policy, sticky_by, rules=rules or ToolRules())
    async with running_front(
        *chosen, "other", calls=calls, groups=[info], groups_of=dict.fromkeys(chosen, "search"), limits=limits
    ) as front:
        for name in chosen:
            front.servers[name].tools = [READ, WRITE]
        yield front


async def call(front: Front, tool: str = "write", request_id: int = 1) -> Client:
    client = await front.client()
    await client.modern_call(f"search__{tool}", request_id=request_id)
    await wait_all_tasks_blocked()
    return client


async def names(front: Front) -> list[str]:
    client = await front.client()
    await client.modern("tools/list", request_id=99)
    return [tool["name"] for tool in (await client.answer()).json["result"]["tools"]]


def holders(front: Front) -> list[str]:
    """The replicas that have calls, once for each."""
    return [name for name, worker in front.servers.items() for _ in worker.calls]


async def serve_all(front: Front) -> Counter[str]:
    """Answer every call; return how many each replica had."""
    served: Counter[str] = Counter()
    for name, worker in front.servers.items():
        while worker.calls:
            header, _ = await worker.call()
            worker.answer(header, {"from": name})
            served[name] += 1
    await wait_all_tasks_blocked()
    return served


def error_of(answer: Answer) -> Json:
    return answer.json["error"]


# --- one name --------------------------------------------------------------------------------------------------------
async def test_tools_of_a_group_are_there_once_under_its_name_in_the_place_of_its_first_replica():
    async with running_group() as front:
        assert await names(front) == ["search__read", "search__write", "other__echo"]


async def test_a_tool_that_only_some_replicas_have_goes_to_them_and_the_log_says_so_once():
    async with running_group() as front:
        front.servers["two"].tools = [READ, WRITE, {"name": "extra", "inputSchema": {}}]
        front.servers["three"].tools = [READ, WRITE | {"description": "differs"}]
        for _ in range(3):
            assert await names(front) == ["search__read", "search__write", "search__extra", "other__echo"]
        for number in range(4):
            await call(front, "extra", request_id=number)
        assert holders(front) == ["two"] * 4
        told = [fields for event, fields in front.log.of("warning") if "replicas" in event]
        assert [(one["only_some_have"], one["described_differently"]) for one in told] == [("extra", "write")]


async def test_rules_for_a_group_hold_for_every_replica():
    async with running_group(rules=ToolRules(deny=("write",))) as front:
        assert await names(front) == ["search__read", "other__echo"]
        refused = error_of(await (await call(front, "write")).answer())
        assert "not found" in refused["message"]
        assert holders(front) == []


async def test_the_list_of_a_group_stays_whole_while_a_replica_is_away():
    async with running_group() as front:
        front.servers["three"].tools = [READ, WRITE, {"name": "extra", "inputSchema": {}}]
        whole = await names(front)
        front.servers["three"].die()
        await wait_all_tasks_blocked()
        assert await names(front) == whole
        assert "search__extra" in whole


async def test_prompts_and_resources_of_a_group_are_there_once():
    async with running_group() as front:
        for worker in front.servers.values():
            worker.prompts = [{"name": "greet"}]
            worker.resources = [{"uri": "file:///a", "name": "a"}]
        client = await front.client()
        await client.modern("prompts/list")
        assert [one["name"] for one in (await client.answer()).json["result"]["prompts"]] == [
            "search__greet", "other__greet",
        ]  # fmt: skip
        await client.modern("resources/list")
        listed = [one["uri"] for one in (await client.answer()).json["result"]["resources"]]
        assert (listed[0], len(listed)) == ("file:///a", 2), "the other server's has an alias"
        await client.modern("resources/read", {"uri": "file:///a"})
        await wait_all_tasks_blocked()
        assert len(holders(front)) == 1


async def test_the_root_is_told_what_each_replica_lacks_and_describes_differently(mock_clock: MockClock):
    async with running_group() as front:
        front.servers["two"].tools = [READ, WRITE, {"name": "extra", "inputSchema": {}}]
        front.servers["three"].tools = [READ, WRITE | {"description": "differs"}]
        await names(front)
        await call(front)
        await advance(mock_clock, 1.5, step_s=0.25)
        one, two, three = report_of(front).replicas
        assert (one.lacks, one.differs) == (["tool extra"], [])
        assert (two.lacks, two.differs) == ([], [])
        assert (three.lacks, three.differs) == (["tool extra"], ["tool write"])
        front.servers["two"].tools = [READ, *({"name": f"extra {n}", "inputSchema": {}} for n in range(500))]
        front.servers["two"].generation += 1
        await names(front)
        await advance(mock_clock, 1.5, step_s=0.25)
        told = [name for replica in report_of(front).replicas for name in (*replica.lacks, *replica.differs)]
        assert len(told) == DIFFERENCES_TOLD_MAX


def report_of(front: Front) -> GroupReport:
    return [one for one in front.reports if isinstance(one, GroupReport)][-1]


# --- who gets a call -------------------------------------------------------------------------------------------------
async def test_calls_take_turns():
    async with running_group() as front:
        for number in range(9):
            await call(front, request_id=number)
        assert Counter(holders(front)) == dict.fromkeys(REPLICAS, 3)


async def test_a_replica_that_is_not_known_to_work_gets_no_calls_while_others_do():
    async with running_group() as front:
        front.servers["one"].state("degraded")
        front.servers["two"].state("backoff")
        await wait_all_tasks_blocked()
        for number in range(6):
            await call(front, request_id=number)
        assert set(holders(front)) == {"three"}
        front.servers["three"].state("backoff")
        await wait_all_tasks_blocked()
        await call(front, request_id=7)
        assert holders(front).count("one") == 1


async def test_a_new_replica_gets_calls_when_its_worker_has_found_it_well(mock_clock: MockClock):
    async with running_group("one", "two") as front:
        await advance(mock_clock, SLOW_START_S)
        front.worker.obey(AddServer(ServerInfo("three", "http://127.0.0.1:1/mcp", group="search"), 2))
        three = front.servers["three"] = ScriptedWorker(front.reactor, "three")
        three.tools = [READ, WRITE]
        three.attach(front.worker, ready=False)
        await wait_all_tasks_blocked()
        for number in range(4):
            await call(front, request_id=number)
        assert Counter(holders(front)) == {"one": 2, "two": 2}
        three.state("ready")
        await wait_all_tasks_blocked()
        for number in range(30):
            await call(front, request_id=number)
        assert 1 <= len(three.calls) <= 4, "it begins with a tenth of its share"


async def test_a_replica_of_weight_zero_finishes_its_calls_and_gets_no_more():
    async with running_group() as front:
        for number in range(3):
            await call(front, request_id=number)
        front.worker.obey(AddServer(ServerInfo("two", "http://127.0.0.1:1/mcp", group="search", weight=0.0), 1))
        for number in range(3, 9):
            await call(front, request_id=number)
        assert len(front.servers["two"].calls) == 1
        front.worker.obey(AddServer(ServerInfo("two", "http://127.0.0.1:1/mcp", group="search"), 1))
        for number in range(9, 12):
            await call(front, request_id=number)
        assert len(front.servers["two"].calls) == 2


async def test_groups_may_come_change_and_go_while_clients_are_there():
    async with running_group() as front:
        front.worker.obey(DropServer("other"))
        front.worker.obey(Groups([GroupInfo("search", "priority"), GroupInfo("late", "round_robin")]))
        front.worker.obey(AddServer(ServerInfo("other", "", group="late"), 3))
        front.servers["other"] = other = ScriptedWorker(front.reactor, "other")
        other.attach(front.worker, incarnation=2)
        await wait_all_tasks_blocked()
        assert await names(front) == ["search__read", "search__write", "late__echo"]
        for number in range(6):
            await call(front, request_id=number)
        assert set(holders(front)) == {"one"}, "the policy is another one"
        await serve_all(front)
        front.worker.obey(DropServer("other"))
        front.worker.obey(Groups([GroupInfo("search", "priority")]))
        assert await names(front) == ["search__read", "search__write"]


@pytest.mark.parametrize("policy", ["round_robin", "priority"])
async def test_a_percentage_of_the_calls_is_set_apart_for_a_canary_whatever_the_policy(policy: str):
    async with running_group(policy=policy) as front:
        canary = ServerInfo("one", "http://127.0.0.1:1/mcp", group="search", percent=25.0)
        front.worker.obey(AddServer(canary, 1))
        served: Counter[str] = Counter()
        for number in range(80):
            await call(front, request_id=number)
        served += await serve_all(front)
        assert 5 <= served["one"] <= 38
        if policy == "round_robin":
            assert abs(served["two"] - served["three"]) <= 1
        front.servers["one"].state("degraded")
        await wait_all_tasks_blocked()
        for number in range(20):
            await call(front, request_id=number)
        assert "one" not in await serve_all(front), "what it does not get goes to the others"


async def test_a_canary_gets_everything_when_nobody_else_is_left():
    async with running_group("one", "two") as front:
        front.worker.obey(AddServer(ServerInfo("one", "http://127.0.0.1:1/mcp", group="search", percent=1.0), 1))
        front.servers["two"].state("backoff")
        await wait_all_tasks_blocked()
        for number in range(20):
            await call(front, request_id=number)
        assert await serve_all(front) == {"one": 20}


async def test_a_replica_that_is_dropped_is_no_part_of_the_group_and_the_last_takes_the_group_along():
    async with running_group("one", "two") as front:
        front.worker.obey(DropServer("one"))
        for number in range(2):
            await call(front, request_id=number)
        assert holders(front) == ["two", "two"]
        front.worker.obey(DropServer("two"))
        assert "not found" in error_of(await (await call(front)).answer())["message"]


async def test_calls_of_a_session_stick_to_a_replica():
    async with running_group(policy="sticky") as front:
        clients = [await front.client("2025-11-25") for _ in range(12)]
        for client in clients:
            for _ in range(3):
                await client.call("search__write")
                await wait_all_tasks_blocked()
                replica = holders(front)[0]
                await serve_all(front)
                assert (await client.answer()).json["result"]["from"] == replica
            assert replica  # pyright: ignore[reportPossiblyUnboundVariable]


async def test_calls_stick_by_an_argument_if_that_is_wanted():
    async with running_group(policy="sticky", sticky_by="user") as front:
        where: dict[str, set[str]] = {}
        for number in range(60):
            user = f"user {number % 10}"
            client = await front.client()
            await client.modern("tools/call", {"name": "search__write", "arguments": {"user": user}})
            await wait_all_tasks_blocked()
            where.setdefault(user, set()).update(holders(front))
            await serve_all(front)
        assert all(len(replicas) == 1 for replicas in where.values())
        assert len(set[str]().union(*where.values())) > 1


async def test_calls_stick_by_a_header_if_that_is_wanted():
    async with running_group(policy="sticky", sticky_by="header:X-User") as front:
        where: dict[str, set[str]] = {}
        for number in range(24):
            user = f"user {number % 6}"
            client = await front.client()
            await client.send(modern_post("tools/call", {"name": "search__write"}, headers={"x-user": user}))
            session = await front.client("2025-11-25")
            message = envelope("tools/call", {"name": "search__write"})
            await session.send(post(message, session.legacy_headers | {"X-User": user}))
            await wait_all_tasks_blocked()
            where.setdefault(user, set()).update(holders(front))
            await serve_all(front)
        assert all(len(replicas) == 1 for replicas in where.values())
        assert len(set[str]().union(*where.values())) > 1


# --- who takes over --------------------------------------------------------------------------------------------------
@pytest.mark.promise("R04")
@pytest.mark.case("B-01")
async def test_a_call_that_was_not_sent_goes_to_each_replica_at_most_once():
    async with running_group() as front:
        client = await call(front)
        asked: list[str] = []
        while found := holders(front):
            (name,) = found
            header, _ = await front.servers[name].call()
            front.servers[name].fault(header, SERVER_UNAVAILABLE, "refused the connection", sent=False)
            await wait_all_tasks_blocked()
            asked.append(name)
        assert sorted(asked) == sorted(REPLICAS)
        answer = error_of(await client.answer())
        assert answer["code"] == SERVER_UNAVAILABLE
        assert answer["data"]["sent"] is False
        assert answer["data"]["server"] == asked[-1]


@pytest.mark.promise("R04", "R07")
@pytest.mark.case("B-03")
async def test_a_call_that_may_have_been_executed_goes_to_another_replica_only_if_that_does_no_harm():
    async with running_group() as front:
        await names(front)
        for tool in ("read", "write"):
            client = await call(front, tool)
            (name,) = holders(front)
            header, _ = await front.servers[name].call()
            front.servers[name].fault(header, OUTCOME_UNKNOWN, "closed the connection", sent=True)
            await wait_all_tasks_blocked()
            if tool == "read":
                (other,) = holders(front)
                assert other != name
                await serve_all(front)
                assert (await client.answer()).json["result"]["from"] == other
            else:
                assert holders(front) == []
                assert error_of(await client.answer())["code"] == OUTCOME_UNKNOWN


@pytest.mark.promise("R04")
async def test_a_servers_own_error_is_an_answer():
    async with running_group() as front:
        await names(front)
        client = await call(front, "read")
        (name,) = holders(front)
        header, _ = await front.servers[name].call()
        front.servers[name].fault(header, -32000, "no", sent=True, error={"code": -32000, "message": "no"})
        assert error_of(await client.answer())["message"] == "no"
        assert holders(front) == []


async def test_a_call_of_which_the_client_has_heard_stays_where_it_is():
    async with running_group() as front:
        await names(front)
        client = await front.client()
        await client.modern_call("search__read", progressToken="p")
        await wait_all_tasks_blocked()
        (name,) = holders(front)
        header, _ = await front.servers[name].call()
        front.servers[name].notify(header, "notifications/progress", {"progressToken": header.id, "progress": 1})
        front.servers[name].fault(header, OUTCOME_UNKNOWN, "closed the connection", sent=True)
        answer = await client.answer()
        assert answer.final["error"]["code"] == OUTCOME_UNKNOWN
        assert holders(front) == []


@pytest.mark.promise("R04", "R07")
@pytest.mark.case("C-01")
async def test_when_a_worker_dies_others_take_what_they_may_and_the_rest_is_answered():
    """Without its page all that it had counts as sent."""
    async with running_group("one", "two", calls=2) as front:
        await names(front)
        front.servers["two"].state("backoff")
        await wait_all_tasks_blocked()
        read, write = await call(front, "read", 1), await call(front, "write", 2)
        waiting = await call(front, "write", 3)
        assert len(front.servers["one"].calls) == 2
        front.servers["two"].state("ready")
        front.servers["one"].die()
        await wait_all_tasks_blocked()

        assert error_of(await write.answer())["code"] == OUTCOME_UNKNOWN
        assert await serve_all(front) | Counter() >= Counter({"two": 2})
        for client in (read, waiting):
            assert (await client.answer()).json["result"]["from"] == "two"


async def test_calls_that_wait_for_a_place_go_where_there_is_one():
    async with running_group("one", "two", calls=1) as front:
        front.servers["two"].state("backoff")
        await wait_all_tasks_blocked()
        clients = [await call(front, request_id=number) for number in range(2)]
        assert holders(front) == ["one"]
        front.servers["two"].state("ready")
        await wait_all_tasks_blocked()
        front.servers["one"].state("degraded")
        await wait_all_tasks_blocked()
        assert sorted(holders(front)) == ["one", "two"]
        await serve_all(front)
        assert sorted([(await client.answer()).json["result"]["from"] for client in clients]) == ["one", "two"]


async def test_when_all_workers_have_died_a_call_waits_for_the_first_that_is_back(mock_clock: MockClock):
    async with running_group("one", "two") as front:
        for name in ("one", "two"):
            front.servers[name].die()
            front.worker.obey(ServerDown(name, 0.5))
        await wait_all_tasks_blocked()
        client = await call(front)
        for name in ("one", "two"):
            back = ScriptedWorker(front.reactor, name)
            if name == "two":
                front.servers["two"] = back
                back.attach(front.worker, incarnation=2)
        await advance(mock_clock, 0.5)
        assert holders(front) == ["two"]
        await serve_all(front)
        assert (await client.answer()).json["result"]["from"] == "two"


async def test_when_nobody_comes_back_the_call_is_answered(mock_clock: MockClock):
    async with running_group("one", "two") as front:
        for name in ("one", "two"):
            front.servers[name].die()
            front.worker.obey(ServerDown(name, 30.0))
        await wait_all_tasks_blocked()
        client = await call(front)
        await advance(mock_clock, RESTART_WAIT_S + 0.5)
        answer = error_of(await client.answer())
        assert answer["code"] == SERVER_UNAVAILABLE
        assert answer["data"]["retryable"] is True


async def test_a_call_that_its_client_cancels_after_a_failover_is_cancelled_where_it_is():
    async with running_group("one", "two") as front:
        client = await front.client("2025-11-25")
        await client.call("search__write", request_id=5)
        await wait_all_tasks_blocked()
        (first,) = holders(front)
        header, _ = await front.servers[first].call()
        front.servers[first].fault(header, SERVER_UNAVAILABLE, "refused", sent=False)
        await wait_all_tasks_blocked()
        (second,) = holders(front)
        canceller = await front.client()
        canceller.session, canceller.version = client.session, client.version
        await canceller.legacy("notifications/cancelled", {"requestId": 5}, None)
        moved, _ = await front.servers[second].call()
        cancel = await front.servers[second].frame(link.Cancel)
        assert cancel.id == moved.id
        assert not [frame for frame in front.servers[first].frames if isinstance(frame, link.Cancel)]


# --- ejection --------------------------------------------------------------------------------------------------------
async def test_a_replica_that_fails_again_and_again_gets_no_calls_for_a_while_and_then_some(mock_clock: MockClock):
    async with running_group() as front:
        await names(front)
        one = front.servers["one"]
        for number in range(3 * EJECTION_FAILURES):
            client = await call(front, "read", number)
            if one.calls:
                header, _ = await one.call()
                one.fault(header, SERVER_UNAVAILABLE, "refused", sent=False)
                await wait_all_tasks_blocked()
            await serve_all(front)
            assert "result" in (await client.answer()).json
        for number in range(9):
            await call(front, "read", number)
        assert set(holders(front)) == {"two", "three"}
        await serve_all(front)
        assert [event for event, _ in front.log.of("warning")].count("a replica gets no calls for a while") == 1
        await advance(mock_clock, 1.0, step_s=0.25)
        report = report_of(front)
        assert (report.name, report.replicas[0].name) == ("search", "one")
        assert report.replicas[0].ejected
        assert report.replicas[0].ejections == 1
        assert report.replicas[0].failovers == EJECTION_FAILURES
        assert 0.3 < report.replicas[1].share < 0.7

        await advance(mock_clock, EJECTION_BASE_S + 1.0)
        for number in range(40):
            await call(front, "read", number)
        assert 1 <= len(one.calls) <= 10, "it begins with a small share"


async def test_a_replica_that_answers_nothing_is_found_out_by_its_silence(mock_clock: MockClock):
    async with running_group() as front:
        await names(front)
        silent = front.servers["one"]
        reads = [await call(front, "read", number) for number in range(3 * STALL_CALLS_MIN - 1)]
        write = await call(front, "write", 100)
        held = len(silent.calls)
        assert held >= STALL_CALLS_MIN
        writes = [header for header, params in silent.calls if params["name"] == "write"]
        for _ in range(int((STALL_S + 0.5) / 0.25)):
            await advance(mock_clock, 0.25, step_s=0.25)
            for name in ("two", "three"):
                for header, _ in front.servers[name].calls:
                    front.servers[name].answer(header, RESULT)
                front.servers[name].calls.clear()
            reads.append(await call(front, "read", 200))
        await wait_all_tasks_blocked()

        cancelled = {frame.id for frame in silent.frames if isinstance(frame, link.Cancel)}
        assert cancelled
        assert not cancelled & {header.id for header in writes}
        silent.calls = [one for one in silent.calls if one[0].id not in cancelled]
        await serve_all(front)
        for client in (*reads, write):
            assert "result" in (await client.answer()).json


async def ejected(front: Front, clock: MockClock) -> ScriptedWorker:
    """Let the first replica fail until it gets no calls, and its time pass."""
    one = front.servers["one"]
    for number in range(3 * EJECTION_FAILURES):
        await call(front, "read", number)
        if one.calls:
            header, _ = await one.call()
            one.fault(header, SERVER_UNAVAILABLE, "refused", sent=False)
            await wait_all_tasks_blocked()
        await serve_all(front)
    one.frames.clear()
    await advance(clock, EJECTION_BASE_S + 1.0)
    return one


async def test_a_replica_gets_calls_again_only_when_its_server_has_been_checked(mock_clock: MockClock):
    async with running_group() as front:
        await names(front)
        front.servers["one"].works = None
        one = await ejected(front, mock_clock)
        for number in range(20):
            await call(front, "read", number)
        assert one.calls == []
        await one.frame(link.Probe)
        assert not [frame for frame in one.frames if isinstance(frame, link.Probe)], "one check at a time"
        one.send(link.Probed(False))
        await advance(mock_clock, 2 * EJECTION_BASE_S - 1.0)
        assert not [frame for frame in one.frames if isinstance(frame, link.Probe)]
        await advance(mock_clock, 1.5)
        await one.frame(link.Probe)
        one.send(link.Probed(True))
        await wait_all_tasks_blocked()
        for number in range(40):
            await call(front, "read", number)
        assert 1 <= len(one.calls) <= 10


async def test_a_replica_that_comes_back_and_hangs_is_given_up_after_one_call(mock_clock: MockClock):
    async with running_group() as front:
        await names(front)
        one = await ejected(front, mock_clock)
        while not one.calls:
            await call(front, "read")
            if not one.calls:
                await serve_all(front)
        hung, _ = one.calls[0]
        for number in range(int((STALL_S + 0.5) / 0.25)):
            await advance(mock_clock, 0.25, step_s=0.25)
            await call(front, "write", number)
            for name in ("two", "three"):
                for header, _ in front.servers[name].calls:
                    front.servers[name].answer(header, RESULT)
                front.servers[name].calls.clear()
        assert (await one.frame(link.Cancel)).id == hung.id
        await advance(mock_clock, 1.0, step_s=0.25)
        assert report_of(front).replicas[0].ejections == 2


async def test_a_replica_that_is_not_called_because_it_kept_failing_is_checked_as_soon_as_that_may_help(
    mock_clock: MockClock,
):
    async with running_group() as front:
        await names(front)
        front.servers["one"].works = False
        front.servers["one"].state("open")
        await call(front)
        await advance(mock_clock, 1.0)
        assert not [frame for frame in front.servers["one"].frames if isinstance(frame, link.Probe)]
        front.servers["one"].state("half_open")
        await advance(mock_clock, 0.5, step_s=0.25)
        await front.servers["one"].frame(link.Probe)


async def test_where_calls_may_take_little_time_silence_is_noticed_sooner(mock_clock: MockClock):
    async with running_group(limits={"call_timeout_s": 1.0}) as front:
        await names(front)
        reads = [await call(front, "read", number) for number in range(9)]
        for _ in range(3):
            await advance(mock_clock, 0.25, step_s=0.25)
            for name in ("two", "three"):
                for header, _ in front.servers[name].calls:
                    front.servers[name].answer(header, {"from": name})
                front.servers[name].calls.clear()
        assert STALL_SHARE + 0.5 > 3 * 0.25
        await serve_all_but(front, "one")
        for client in reads:
            assert (await client.answer()).json["result"]["from"] != "one"


async def serve_all_but(front: Front, silent: str) -> None:
    front.servers[silent].calls.clear()
    await serve_all(front)


async def test_a_replica_that_fails_every_other_call_is_ejected_though_never_often_in_a_row(mock_clock: MockClock):
    async with running_group() as front:
        await names(front)
        one = front.servers["one"]
        for number in range(3 * EJECTION_CALLS_MIN + 3):
            await call(front, "write", number)
            if one.calls and number % 2:
                header, _ = await one.call()
                one.fault(header, OUTCOME_UNKNOWN, "garbled", sent=True)
                await wait_all_tasks_blocked()
            await serve_all(front)
        await advance(mock_clock, 1.0, step_s=0.25)
        told = [fields for event, fields in front.log.of("warning") if event == "a replica gets no calls for a while"]
        assert [(fields["server"], fields["reason"]) for fields in told] == [
            ("one", "it fails far more of its calls than the others")
        ]


async def test_a_replica_that_is_many_times_slower_is_ejected_if_the_policy_does_not_avoid_it(mock_clock: MockClock):
    async with running_group() as front:
        await names(front)
        one = front.servers["one"]
        for number in range(3 * EJECTION_CALLS_MIN + 3):
            await call(front, "write", number)
            for name in ("two", "three"):
                for header, _ in front.servers[name].calls:
                    front.servers[name].answer(header, RESULT)
                front.servers[name].calls.clear()
            await wait_all_tasks_blocked()
            mock_clock.jump(0.1)
            await serve_all(front)
        await advance(mock_clock, 1.0, step_s=0.25)
        told = [fields for event, fields in front.log.of("warning") if event == "a replica gets no calls for a while"]
        assert [(fields["server"], fields["reason"]) for fields in told] == [
            ("one", "it is many times slower than the others")
        ]
        for number in range(9):
            await call(front, "write", number)
        assert one.calls == []


async def test_one_call_that_takes_its_time_makes_no_stall(mock_clock: MockClock):
    async with running_group("one", "two") as front:
        await names(front)
        slow = await call(front, "read", 1)
        (name,) = holders(front)
        for number in range(20):
            quick = await call(front, "read", number + 10)
            for other in front.servers.values():
                for header, _ in other.calls[1 if other is front.servers[name] else 0 :]:
                    other.answer(header, RESULT)
                del other.calls[1 if other is front.servers[name] else 0 :]
            await quick.answer()
            await advance(mock_clock, 0.5)
        assert holders(front) == [name]
        await serve_all(front)
        assert (await slow.answer()).json["result"]["from"] == name
        assert not [event for event, _ in front.log.of("warning") if "gets no calls" in event]


async def test_a_call_that_a_replica_has_had_for_a_while_is_asked_for_once_and_goes_elsewhere_if_it_was_not_sent(
    mock_clock: MockClock,
):
    async with running_group() as front:
        await names(front)
        unsent, sent = await call(front, "write", 1), await call(front, "write", 2)
        places = holders(front)
        headers = [(await front.servers[name].call())[0] for name in places]
        await advance(mock_clock, RECALL_S + 0.3, step_s=0.1)
        for name, header in zip(places, headers, strict=True):
            assert await front.servers[name].frame(link.Recall) == link.Recall(header.id)
        # The first worker has not sent its call; the second says nothing, because it has.
        front.servers[places[0]].fault(headers[0], SERVER_UNAVAILABLE, "was not sent", sent=False)
        await wait_all_tasks_blocked()
        [taker] = holders(front)
        assert taker != places[0]
        await serve_all(front)
        assert (await unsent.answer()).json["result"]["from"] == taker
        await advance(mock_clock, 4 * RECALL_S, step_s=0.1)
        assert not [one for one in front.servers[places[1]].frames if isinstance(one, link.Recall)]
        front.servers[places[1]].answer(headers[1], RESULT)
        assert "result" in (await sent.answer()).json


@pytest.mark.parametrize(
    ("policy", "age_s", "expected"),
    [
        ("round_robin", SLOW_START_S, ["one", "one", "two", "three"]),
        ("priority", 0.0, ["one"] * 4),
    ],
)
async def test_to_ask_whether_another_replica_would_take_a_call_is_no_call_that_it_gets(
    mock_clock: MockClock, policy: str, age_s: float, expected: list[str]
):
    async with running_group(policy=policy) as front:
        await advance(mock_clock, age_s)
        await call(front, request_id=1)
        await advance(mock_clock, RECALL_S + 0.3, step_s=0.1)
        assert isinstance(await front.servers["one"].frame(link.Recall), link.Recall)
        # The worker has sent it, and so gives nothing back.
        for number in (2, 3, 4):
            await call(front, request_id=number)
        assert holders(front) == expected


async def test_a_call_is_not_asked_for_if_nobody_else_would_send_it(mock_clock: MockClock):
    async with running_group("one", "two") as front:
        front.servers["two"].state("degraded")
        await call(front, "write", 1)
        assert holders(front) == ["one"]
        await advance(mock_clock, 2 * RECALL_S, step_s=0.1)
        assert not [one for one in front.servers["one"].frames if isinstance(one, link.Recall)]


# --- what stays with a replica ---------------------------------------------------------------------------------------
@pytest.mark.case("B-23")
async def test_a_request_that_goes_on_with_what_a_replica_asked_goes_to_that_one_or_to_none():
    async with running_group() as front:
        client = await call(front)
        [asker] = holders(front)
        header, _ = await front.servers[asker].call()
        needed = {"resultType": "input_required", "inputRequests": {}, "requestState": "its own"}
        front.servers[asker].send(link.NeedInput(header.id, 0), needed)
        state = (await client.answer()).json["result"]["requestState"]
        retry = {"name": "search__write", "arguments": {}, "requestState": state, "inputResponses": {}}

        for number in range(4):  # each policy would give some of them to others
            again = await front.client()
            await again.modern("tools/call", retry, number)
            header, params = await front.servers[asker].call()
            assert params["requestState"] == "its own"
            front.servers[asker].answer(header, RESULT)
            assert (await again.answer()).status == 200
        assert holders(front) == []

        front.worker.obey(DropServer(asker))
        await client.modern("tools/call", retry, "late")
        refused = error_of(await client.answer())
        assert refused["code"] == INVALID_PARAMS
        assert f'server "{asker}" is not there any more' in refused["message"]
        assert holders(front) == []


async def test_every_replica_is_to_tell_of_a_resource_that_somebody_wants_also_one_that_comes_later():
    offers = ["tools", "resources", "resources.subscribe"]
    async with running_group("one", "two") as front:
        for name in ("one", "two"):
            front.servers[name].resources = [{"uri": "a:1", "name": "a"}]
            front.servers[name].offers = offers
            front.servers[name].state("ready")
        client, stream = await front.client("2025-11-25"), await front.client()
        stream.session, stream.version = client.session, client.version
        await stream.send(http("GET", {**stream.legacy_headers, "accept": "text/event-stream"}))
        assert (await stream.head()).status == 200
        await client.legacy("resources/subscribe", {"uri": "a:1"})
        for name, code in (("one", METHOD_NOT_FOUND), ("two", 0)):
            watch = await front.servers[name].frame(link.Watch)
            front.servers[name].send(link.Watching(watch.id, code, ""))
        assert (await client.answer()).json["result"] == {}

        front.servers["two"].send(link.Updated("a:1"), {"uri": "a:1"})
        while (told := await stream.event()) is None or told["method"] != "notifications/resources/updated":
            pass
        assert told["params"] == {"uri": "a:1"}

        front.worker.obey(AddServer(ServerInfo("late", "", group="search"), 2))
        late = ScriptedWorker(front.reactor, "late")
        late.offers = offers
        late.attach(front.worker)
        assert (await late.frame(link.Watch)).uri == "a:1"
        await client.legacy("resources/unsubscribe", {"uri": "a:1"})
        assert (await front.servers["two"].frame(link.Unwatch)).uri == "a:1"
        assert (await late.frame(link.Unwatch)).uri == "a:1"
