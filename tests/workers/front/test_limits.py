"""Each server's own limits in the front: how long its calls may take, and how many may wait."""

from __future__ import annotations

import pytest
from trio.testing import MockClock, wait_all_tasks_blocked

from protocol import link
from protocol.errors import CALL_TIMEOUT, OUTCOME_UNKNOWN, OVERLOADED
from protocol.limits import CALL_CEILING_S
from protocol.names import Policy
from tests.workers.front.test_server_link import error_of, many
from tests.workers.scripted import Front, advance, running_front

TIMEOUTS = {"call_timeout_s": 120.0, "tool_timeouts": {"report": 600.0, "echo": 0.5, "endless": CALL_CEILING_S}}


# --- timeouts --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("tool", "timeout_s"), [("report", 600.0), ("echo", 0.5), ("other", 120.0)])
@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_a_call_has_the_time_of_its_tool_else_of_its_server(tool: str, timeout_s: float, era: str):
    async with running_front(limits=TIMEOUTS) as front, await front.client() as client:
        if era == "legacy":
            await client.initialize()
            await client.call(f"main__{tool}")
        else:
            await client.modern_call(f"main__{tool}")
        call, _ = await front.main.call()

        assert call.timeout_s == pytest.approx(timeout_s, abs=0.05)


@pytest.mark.parametrize("listed", [True, False])
async def test_what_clients_read_has_the_time_of_the_server_whatever_its_tools_have(listed: bool):
    async with running_front(limits=TIMEOUTS) as front, await front.client() as client:
        front.main.prompts = [{"name": "echo"}]
        if listed:
            await client.modern("prompts/list")
            await client.answer()
        await client.modern("prompts/get", {"name": "main__echo"})
        call, _ = await front.main.call()

        assert call.timeout_s == pytest.approx(120.0, abs=0.05)
        front.main.fault(call, CALL_TIMEOUT, 'server "main" did not answer', sent=True)
        message = (await error_of(client))["message"]
        assert message.endswith(' (prompts/get of "echo"; --call-timeout main=SECONDS allows it more)')


async def test_a_call_that_came_before_its_server_was_known_has_its_time_from_when_it_came(mock_clock: MockClock):
    async with running_front("one", "two", namespace=Policy.NONE, limits=TIMEOUTS) as front:
        for worker in front.servers.values():
            worker.lists = False
            worker.tools = [{"name": "report", "inputSchema": {"type": "object"}}]
        async with await front.client() as client:
            await client.modern_call("report")
            await advance(mock_clock, 0.5, 0.1)
            for worker in front.servers.values():
                worker.listing(await worker.frame(link.ListRequest))
            call, _ = await front.servers["one"].call()

            assert call.timeout_s == pytest.approx(599.5, abs=0.11)


async def test_a_call_that_waited_for_a_place_has_so_much_less_time(mock_clock: MockClock):
    async with running_front(calls=1, limits=TIMEOUTS) as front:
        clients = [await front.client() for _ in range(2)]
        for client in clients:
            await client.modern_call("main__report")
            await wait_all_tasks_blocked()
        await advance(mock_clock, 0.8, 0.1)
        first, _ = await front.main.call()
        front.main.answer(first, {"content": []})
        second, _ = await front.main.call()

        assert second.timeout_s == pytest.approx(600 - 0.8, abs=0.11)


@pytest.mark.parametrize(
    ("tool", "advice"),
    [
        ("report", ' (tool "report"; --call-timeout main.report=SECONDS allows it more)'),
        ("other", ' (tool "other"; --call-timeout main.other=SECONDS allows it more)'),
        ("endless", ' (tool "endless")'),
    ],
)
async def test_who_is_told_of_a_timeout_is_told_which_tool_and_what_to_do(tool: str, advice: str):
    async with running_front(limits=TIMEOUTS) as front, await front.client() as client:
        await client.modern_call(f"main__{tool}")
        error = await timed_out(front, client)

        assert error["code"] == CALL_TIMEOUT
        assert error["message"] == 'server "main" did not answer' + advice
        assert error["data"] == {"server": "main", "sent": True, "retryable": False}


async def test_a_tool_with_an_endless_name_is_shown_in_part():
    async with running_front(limits=TIMEOUTS) as front, await front.client() as client:
        await client.modern_call("main__" + "x" * 10_000)
        error = await timed_out(front, client)

        assert len(error["message"]) < 300


async def test_other_faults_say_nothing_of_timeouts():
    async with running_front(limits=TIMEOUTS) as front, await front.client() as client:
        await client.modern_call("main__report")
        error = await timed_out(front, client, OUTCOME_UNKNOWN)

        assert error["message"] == 'server "main" did not answer'


async def timed_out(front: Front, client: object, code: int = CALL_TIMEOUT) -> dict[str, object]:
    call, _ = await front.main.call()
    front.main.send(link.Fault(call.id, code, 'server "main" did not answer', True, 0, call.era))
    return await error_of(client)  # type: ignore[arg-type]


# --- queues ----------------------------------------------------------------------------------------------------------
@pytest.mark.promise("R09")
async def test_a_server_has_a_queue_of_its_own_length(mock_clock: MockClock):
    async with running_front("short", "long", calls=1, limits={"queue_max": 2}) as front:
        clients = [await front.client() for _ in range(4)]
        for client in clients:
            await client.modern_call("short__echo")
            await wait_all_tasks_blocked()
        answer = await clients[3].answer()
        error = answer.json["error"]

        assert error["code"] == OVERLOADED
        assert "1 calls in flight and 2 waiting; try again in a moment" in error["message"]
        assert error["data"] == {"server": "short", "sent": False, "retryable": True, "retryAfterMs": 1000}
        assert answer.headers["retry-after"] == "1"
        for client in clients[:3]:
            call, _ = await front.servers["short"].call()
            front.servers["short"].answer(call, {"content": []})
            assert (await client.answer()).json["result"] == {"content": []}


async def test_a_queue_of_length_zero_refuses_what_cannot_be_sent_at_once():
    async with running_front(calls=1, limits={"queue_max": 0}) as front:
        clients = await many(front, 2)

        assert (await error_of(clients[1]))["code"] == OVERLOADED


async def test_a_call_that_waited_all_its_time_is_told_how_long_that_was(mock_clock: MockClock):
    async with running_front(calls=1, limits=TIMEOUTS) as front:
        clients = await many(front, 2)
        await advance(mock_clock, 0.7, 0.1)

        assert "waited 0.5 s for one of 1 places" in (await error_of(clients[1]))["message"]


async def test_without_a_worker_a_queue_of_length_zero_holds_nobody():
    async with running_front(attach=False, limits={"queue_max": 0}) as front, await front.client() as client:
        await client.modern_call()
        assert (await error_of(client))["code"] == OVERLOADED
