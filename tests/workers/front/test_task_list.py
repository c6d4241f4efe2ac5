"""`tasks/list`: a legacy client is told of all tasks that it was given in its session, and of no others."""

from __future__ import annotations

import pytest
from trio.testing import MockClock, wait_all_tasks_blocked

from protocol import link
from protocol.control import DropServer, SessionNoted, SessionNotes
from protocol.errors import INVALID_PARAMS, METHOD_NOT_FOUND
from protocol.limits import SESSION_NOTE_BYTES_MAX, TASK_LIST_WAIT_S, TASKS_PER_PAGE_MAX
from tests import schemas
from tests.workers.front.test_tasks import LEGACY_TASK, offering
from tests.workers.scripted import Client, Front, Json, ScriptedWorker, advance, envelope, http, post, running_front
from workers.front import sessions

VERSION = "2025-11-25"
MISSING = "io.github.mcp-bulkhead/missingServers"


async def given(client: Client, worker: ScriptedWorker, task_id: str) -> str:
    """Have a call of this client become a task; return its handle."""
    await client.call(f"{worker.name}__echo", task={"ttl": 1000})
    header, _ = await worker.call()
    worker.answer(header, {"task": LEGACY_TASK | {"taskId": task_id}})
    return (await client.answer()).json["result"]["task"]["taskId"]


async def answer_all(front: Front, status: str = "working", unknown: tuple[str, ...] = ()) -> list[str]:
    """Answer each `tasks/get` that has come; return the ids that were asked for."""
    await wait_all_tasks_blocked()
    asked: list[str] = []
    for worker in front.servers.values():
        while worker.calls:
            header, params = await worker.call()
            assert header.method == "tasks/get"
            asked.append(params["taskId"])
            if params["taskId"] in unknown:
                error = {"code": INVALID_PARAMS, "message": "Task not found"}
                worker.fault(header, INVALID_PARAMS, "Task not found", sent=True, error=error)
            else:
                worker.answer(header, LEGACY_TASK | {"taskId": params["taskId"], "status": status, "_meta": {}})
    return asked


async def listed(client: Client) -> Json:
    answer = await client.answer()
    schemas.validate_answer(VERSION, "tasks/list", answer.json)
    return answer.json["result"]


def handles(result: Json) -> list[str]:
    return [task["taskId"] for task in result["tasks"]]


@pytest.mark.case("D-08")
async def test_a_client_lists_its_own_tasks_of_all_servers_as_they_are_now_under_the_ids_it_knows():
    async with running_front("main", "other") as front:
        await offering(front)
        client, somebody = await front.client(VERSION), await front.client(VERSION)
        mine = [await given(client, front.main, "t-1"), await given(client, front.servers["other"], "t-1")]
        await given(somebody, front.main, "t-2")
        await client.legacy("tasks/list")
        assert await answer_all(front, "completed") == ["t-1", "t-1"]
        result = await listed(client)

        assert result == {"tasks": [LEGACY_TASK | {"taskId": handle, "status": "completed"} for handle in mine]}
        await somebody.legacy("tasks/list", {})
        assert await answer_all(front) == ["t-2"]
        assert len(handles(await listed(somebody))) == 1
        nobody = await front.client(VERSION)
        await nobody.legacy("tasks/list")
        assert await listed(nobody) == {"tasks": []}


async def test_a_task_is_asked_for_in_the_session_in_which_it_was_given():
    async with running_front("main") as front:
        await offering(front)
        client = await front.client()
        info = {"name": "test", "version": "1"}
        params: Json = {"protocolVersion": VERSION, "capabilities": {"elicitation": {}}, "clientInfo": info}
        await client.send(post(envelope("initialize", params)))
        client.session, client.version = (await client.answer()).headers["mcp-session-id"], VERSION
        await client.call(task={"ttl": 1000})
        made, _ = await front.main.call()
        front.main.answer(made, {"task": LEGACY_TASK})
        await client.answer()
        await client.legacy("tasks/list")
        asked, _ = await front.main.call()

    assert asked.abilities == made.abilities != 0
    assert asked.client == made.client != 0


async def test_the_capability_is_there_where_the_method_is():
    async with running_front("main") as front:
        client, old, modern = await front.client(VERSION), await front.client("2025-06-18"), await front.client()
        for _ in range(2):
            await old.legacy("tasks/list")
            assert (await old.answer()).json["error"]["code"] == METHOD_NOT_FOUND
            await modern.modern("tasks/list")
            assert (await modern.answer()).json["error"]["code"] == METHOD_NOT_FOUND
            await client.legacy("tasks/list")
            assert ("result" in (await client.answer()).json) is (front.main.offers != ["tools"])
            await offering(front)


async def test_what_its_server_does_not_know_any_more_is_left_out_and_not_asked_for_again():
    async with running_front("main") as front:
        await offering(front)
        client = await front.client(VERSION)
        kept, _ = await given(client, front.main, "t-1"), await given(client, front.main, "t-2")
        for asked in (["t-1", "t-2"], ["t-1"]):
            await client.legacy("tasks/list")
            assert await answer_all(front, unknown=("t-2",)) == asked
            assert handles(await listed(client)) == [kept]


@pytest.mark.case("B-20")
async def test_a_server_that_does_not_answer_is_named_and_the_tasks_of_the_others_are_there(mock_clock: MockClock):
    async with running_front("main", "slow", "gone") as front:
        await offering(front)
        client = await front.client(VERSION)
        kept = await given(client, front.main, "t-1")
        await given(client, front.servers["slow"], "t-2")
        await given(client, front.servers["gone"], "t-3")
        front.worker.obey(DropServer("gone"))
        slow = front.servers.pop("slow")
        for _ in range(2):
            await client.legacy("tasks/list")
            await answer_all(front)
            await advance(mock_clock, TASK_LIST_WAIT_S)
            result = await listed(client)
            assert handles(result) == [kept]
            assert result["_meta"] == {MISSING: ["slow"]}
            assert (await slow.frame(link.Cancel)).id == (await slow.call())[0].id


@pytest.mark.case("A-30")
async def test_many_tasks_come_in_pages_and_only_the_newest_are_remembered(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sessions, "TASKS_LISTED_MAX", 70)
    async with running_front("main") as front:
        await offering(front)
        client = await front.client(VERSION)
        mine = [await given(client, front.main, f"t-{number}") for number in range(72)]
        found: list[str] = []
        params: Json = {}
        while not found or params:
            await client.legacy("tasks/list", params)
            await answer_all(front, unknown=("t-20",))
            result = await listed(client)
            found += handles(result)
            assert len(result["tasks"]) <= TASKS_PER_PAGE_MAX
            params = {"cursor": result["nextCursor"]} if "nextCursor" in result else {}
        del mine[20]
        assert found == mine[2:]
        for cursor in (7, "nonsense", "dDE6LTE", "YzE6bWFpbg", "x" * 100_000, "\ud7ff"):
            await client.legacy("tasks/list", {"cursor": cursor})
            error = (await client.answer()).json["error"]
            assert (error["code"], len(error["message"]) < 100) == (INVALID_PARAMS, True)


async def test_the_next_front_knows_which_tasks_a_session_was_given_and_none_of_one_that_has_ended():
    async with running_front("main") as front:
        await offering(front)
        client = await front.client(VERSION)
        handle = await given(client, front.main, "t-1")
        await client.legacy("logging/setLevel", {"level": "error"})
        await client.answer()
        (*_, noted) = [report.note for report in front.reports if isinstance(report, SessionNoted)]
    async with running_front("main") as front:
        front.worker.obey(SessionNotes([noted]))
        await offering(front)
        again = await front.client()
        again.session, again.version = client.session, client.version
        await again.legacy("tasks/list")
        await answer_all(front)
        assert handles(await listed(again)) == [handle]
        await again.send(http("DELETE", again.legacy_headers))
        await again.answer()
        (*_, noted) = [report.note for report in front.reports if isinstance(report, SessionNoted)]
        assert noted.note == b""


async def test_a_note_stays_small_however_long_the_ids_of_tasks_are():
    async with running_front("main") as front:
        await offering(front)
        client = await front.client(VERSION)
        for number in range(40):
            await given(client, front.main, f"{number:02}" + "x" * 500)
        sizes = [len(report.note.note) for report in front.reports if isinstance(report, SessionNoted)]
        await client.legacy("tasks/list")
        asked = await answer_all(front)

    assert SESSION_NOTE_BYTES_MAX - 600 < sizes[-1] <= max(sizes) <= SESSION_NOTE_BYTES_MAX
    assert [task_id[:2] for task_id in asked] == [f"{number:02}" for number in range(40 - len(asked), 40)]
