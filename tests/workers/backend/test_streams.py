"""What happens during a call: notifications, requests of the server, cancellation, back-pressure."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
import trio.testing

from protocol import link
from protocol.errors import METHOD_NOT_FOUND
from protocol.limits import LINK_WINDOW_BYTES, STREAM_BUFFER_HIGH_BYTES
from protocol.versions import Era
from tests.peers.raw_server import RawServer, Reply, Request, never, with_status
from tests.workers.backend.harness import Json, backend, rig

BOTH = pytest.mark.parametrize("era", [Era.LEGACY, Era.MODERN], ids=["legacy", "modern"])


def talkative(*messages: Json) -> Any:
    """Send these notifications before an empty result; "TOKEN" in them becomes the id of the request."""

    async def answer(request: Request, reply: Reply) -> None:
        own_id = request.message["id"]
        await reply.start_events()
        for message in messages:
            text = json.dumps({"jsonrpc": "2.0", **message}).replace("TOKEN", own_id)
            await reply.event(json.loads(text))
        await reply.event({"jsonrpc": "2.0", "id": own_id, "result": {"content": []}})
        await reply.end_events()

    return answer


def progress(step: int, token: Any = "TOKEN") -> Json:
    return {"method": "notifications/progress", "params": {"progressToken": token, "progress": step}}


def logged(level: str) -> Json:
    return {"method": "notifications/message", "params": {"level": level, "data": [1.0, None]}}


# --- notifications ---------------------------------------------------------------------------------------------------
@BOTH
@pytest.mark.case("A-26")
async def test_progress_is_relayed_in_order_and_only_for_the_calls_own_token(era: Era):
    answer = talkative(
        progress(1), progress(2, "b3-1"), progress(3, 7), {"method": "notifications/progress"}, progress(4)
    )
    async with rig(RawServer(on={"tools/call": answer})) as (server, one):
        outcome = await one.front.call(era=era, progress=True).done()

        own_id = server.received("tools/call")[0].message["id"]
        assert outcome.events == [
            ("notifications/progress", {"progressToken": own_id, "progress": step}) for step in (1, 4)
        ]


async def test_progress_nobody_asked_for_is_dropped():
    async with rig(RawServer(on={"tools/call": talkative(progress(1))})) as (_server, one):
        assert (await one.front.call().done()).events == []


@pytest.mark.parametrize(
    ("era", "level", "heard"),
    [
        (Era.LEGACY, "", ["warning", "alert"]),
        (Era.LEGACY, "warning", ["warning", "alert"]),
        (Era.MODERN, "", []),
        (Era.MODERN, "debug", ["debug", "warning", "alert"]),
        (Era.MODERN, "warning", ["warning", "alert"]),
        (Era.MODERN, "emergency", []),
    ],
)
@pytest.mark.parametrize("server_era", ["legacy", "modern"])
async def test_log_messages_reach_clients_that_want_them(era: Era, level: str, heard: list[str], server_era: str):
    answer = talkative(logged("debug"), logged("warning"), logged("alert"))
    async with rig(RawServer(era=server_era, on={"tools/call": answer})) as (_server, one):
        outcome = await one.front.call(era=era, log_level=level).done()

        assert [params["level"] for _, params in outcome.events] == heard
        assert all(params["data"] == [1.0, None] for _, params in outcome.events)


def levels(server: RawServer) -> list[str]:
    return [request.params["level"] for request in server.received("logging/setLevel")]


async def test_a_legacy_server_is_told_the_most_verbose_level_that_anybody_wants_before_the_call_is_sent():
    async with rig(RawServer(era="legacy")) as (server, one):
        for wanted, told in (
            ("", []), ("error", ["info"]), ("info", ["info"]), ("debug", ["info", "debug"]),
            ("alert", ["info", "debug"]), ("", ["info", "debug"]),
        ):  # fmt: skip
            await one.front.call(era=Era.LEGACY, log_level=wanted).done()
            assert levels(server) == told
        methods = [
            request.method for request in server.requests if request.method in ("tools/call", "logging/setLevel")
        ]
        assert methods[:3] == ["tools/call", "logging/setLevel", "tools/call"]


@pytest.mark.case("D-07")
async def test_what_one_client_wants_logged_no_other_one_hears():
    answer = talkative(*(logged(level) for level in ("debug", "info", "error")))
    async with rig(RawServer(era="legacy", on={"tools/call": answer})) as (_server, one):
        heard: dict[str, list[str]] = {}
        calls = {wanted: one.front.call(era=Era.LEGACY, log_level=wanted) for wanted in ("debug", "error", "")}
        for wanted, call in calls.items():
            heard[wanted] = [params["level"] for _, params in (await call.done()).events]
        assert heard == {"debug": ["debug", "info", "error"], "error": ["error"], "": ["info", "error"]}


async def test_a_session_that_is_opened_anew_is_told_the_level_again():
    async with rig(RawServer(era="legacy")) as (server, one):
        await one.front.call(era=Era.LEGACY, log_level="debug").done()
        server.forget_sessions()
        await one.front.call(era=Era.LEGACY, log_level="debug").done()
        assert levels(server) == ["debug", "debug"]


@pytest.mark.parametrize("refuse", [with_status(500), never], ids=["refused", "never answered"])
async def test_a_server_that_does_not_take_a_level_is_called_all_the_same(refuse: Any, autojump_clock: object):
    server = RawServer(era="legacy", on={"logging/setLevel": refuse})
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        async with backend(server.url) as one:
            for _ in range(2):
                assert (await one.front.call(era=Era.LEGACY, log_level="debug", timeout_s=50).done()).result
        nursery.cancel_scope.cancel()
    assert levels(server) == ["debug"]


async def test_a_call_that_is_cancelled_while_the_level_is_told_is_never_sent():
    async with rig(RawServer(era="legacy", on={"logging/setLevel": never})) as (server, one):
        call = one.front.call(era=Era.LEGACY, log_level="debug")
        await server.wait_for("logging/setLevel")
        one.front.cancel(call, "enough")
        assert not (await call.done()).fault.sent
        assert server.received("tools/call") == []


@BOTH
async def test_other_notifications_are_not_relayed(era: Era):
    answer = talkative(
        {"method": "notifications/resources/updated", "params": {"uri": "a:1"}},
        {"method": "notifications/cancelled", "params": {"requestId": "TOKEN"}},
        {"method": "notifications/made/up"},
        {"method": "notifications/message", "params": {"data": 1}},
        {"method": "notifications/message", "params": {"level": 5}},
    )
    async with rig(RawServer(on={"tools/call": answer})) as (_server, one):
        outcome = await one.front.call(era=era, log_level="debug", progress=True).done()
        assert outcome.result["content"] == []
        assert outcome.events == []


async def test_an_announced_change_makes_the_next_list_come_from_the_server():
    async def hinted(_request: Request, reply: Reply) -> None:
        await reply.result({"tools": server.tools, "ttlMs": 60_000, "cacheScope": "public"})

    answer = talkative({"method": "notifications/tools/list_changed"})
    server = RawServer(era="modern", on={"tools/call": answer, "tools/list": hinted})
    async with rig(server) as (_server, one):
        first = await one.front.ask_list().done()
        server.tools = []
        assert (await one.front.ask_list().done()).names == ["echo"]
        await one.front.call().done()
        await one.front.wait_list_change()
        again = await one.front.ask_list(have=first.listing.generation).done()
        assert again.items == []


# --- requests of the server ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("era", [Era.LEGACY, Era.MODERN], ids=["legacy", "modern"])
@pytest.mark.case("B-22")
async def test_a_legacy_server_that_asks_its_client_is_answered_at_once(era: Era):
    answers: list[Json] = []
    answered = trio.Event()

    async def curious(request: Request, reply: Reply) -> None:
        await reply.start_events()
        for number, method in enumerate(("sampling/createMessage", "elicitation/create", "roots/list", "ping")):
            await reply.event({"jsonrpc": "2.0", "id": number, "method": method, "params": {}})
        await answered.wait()
        await reply.event({"jsonrpc": "2.0", "id": request.message["id"], "result": {"content": []}})
        await reply.end_events()

    async def take(request: Request, reply: Reply) -> None:
        assert request.headers["mcp-session-id"] == "raw-session-1"
        answers.append(request.message)
        if len(answers) == 4:
            answered.set()
        await reply.status(202)

    server = RawServer(era="legacy", on={"tools/call": curious, "POST": take})
    async with rig(server) as (_server, one):
        assert (await one.front.call(era=era).done()).result["content"] == []
        by_id = {answer["id"]: answer for answer in answers}
        assert by_id[3]["result"] == {}
        assert all(by_id[number]["error"]["code"] == METHOD_NOT_FOUND for number in range(3))
        assert "sampling/createMessage is not supported by this client" in by_id[0]["error"]["message"]


@pytest.mark.case("B-22")
async def test_a_request_no_modern_server_may_make_is_dropped():
    answer = talkative({"id": 1, "method": "sampling/createMessage", "params": {}})
    async with rig(RawServer(era="modern", on={"tools/call": answer})) as (server, one):
        assert (await one.front.call().done()).result["content"] == []
        assert one.worker.counters.messages == 1
        usual = {"server/discover", "tools/list", "tools/call", "subscriptions/listen"}
        assert {request.method for request in server.requests} <= usual


@pytest.mark.case("B-10")
async def test_a_flood_of_requests_is_not_answered_by_a_flood():
    released = trio.Event()
    answering = 0
    most = 0

    async def flood(request: Request, reply: Reply) -> None:
        await reply.start_events()
        for number in range(1000):
            await reply.event({"jsonrpc": "2.0", "id": number, "method": "ping"})
        released.set()
        await reply.event({"jsonrpc": "2.0", "id": request.message["id"], "result": {"content": []}})
        await reply.end_events()

    async def take(_request: Request, reply: Reply) -> None:
        nonlocal answering, most
        answering += 1
        most = max(most, answering)
        await released.wait()
        await reply.status(202)
        answering -= 1

    server = RawServer(era="legacy", on={"tools/call": flood, "POST": take})
    async with rig(server) as (_server, one):
        assert (await one.front.call().done()).result["content"] == []
        assert most <= 16
        assert one.worker.counters.messages > 900


# --- cancellation ----------------------------------------------------------------------------------------------------
@pytest.mark.case("A-21")
async def test_a_cancelled_call_hangs_up_on_a_modern_server():
    async with rig(RawServer(era="modern", on={"tools/call": never})) as (server, one):
        call = one.front.call()
        (request,) = await server.wait_for("tools/call")
        one.front.cancel(call, "gone")
        await server.wait_until_closed(request.connection)
        assert (await call.done()).fault.sent


@pytest.mark.case("A-21")
async def test_a_call_cancelled_before_it_was_sent_never_is():
    async with rig(RawServer(on={"server/discover": never})) as (server, one):
        call = one.front.call()
        await server.wait_for("server/discover")
        one.front.cancel(call, "gone")
        assert not (await call.done()).fault.sent
        assert not server.received("tools/call")


@BOTH
@pytest.mark.case("A-26")
async def test_cancelling_what_is_over_or_never_was_does_nothing(era: Era):
    async with rig() as (server, one):
        call = one.front.call(era=era)
        await call.done()
        one.front.send(link.Cancel(call.id, "late"))
        one.front.send(link.Cancel(4711, "who?"))
        one.front.send(link.PauseEvents(call.id))
        assert (await one.front.call(era=era, arguments={"text": "on"}).done()).text == "on"
        assert not server.received("notifications/cancelled")


async def test_all_calls_of_a_front_that_is_gone_are_cancelled_at_a_legacy_server():
    async with rig(RawServer(era="legacy", on={"tools/call": never})) as (server, one):
        await one.front.ask_list().done()
        for _ in range(50):
            one.front.call()
        calls = await server.wait_for("tools/call", 50)
        one.front.end.close()
        notices = await server.wait_for("notifications/cancelled", 50)
        assert {notice.params["requestId"] for notice in notices} == {call.message["id"] for call in calls}


@pytest.mark.parametrize("server_era", ["legacy", "modern"])
@pytest.mark.case("C-04")
async def test_the_calls_of_a_front_that_is_gone_are_cancelled_and_those_of_others_are_not(server_era: str):
    released = trio.Event()

    async def slow(request: Request, reply: Reply) -> None:
        if request.params["name"] == "mine":
            await never(request, reply)
        await released.wait()
        await reply.result({"content": []})

    async with rig(RawServer(era=server_era, on={"tools/call": slow})) as (server, one):
        other = one.attach()
        kept = other.call("theirs")
        one.front.call("mine")
        requests = await server.wait_for("tools/call", 2)
        (mine,) = (request for request in requests if request.params["name"] == "mine")
        one.front.end.close()
        await server.wait_until_closed(mine.connection)
        if server_era == "legacy":
            (notice,) = await server.wait_for("notifications/cancelled")
            assert notice.params["requestId"] == mine.message["id"]
        released.set()
        assert (await kept.done()).result["content"] == []


# --- back-pressure ---------------------------------------------------------------------------------------------------
EVENT_BYTES = 100_000


def flooding(sent: list[int], count: int) -> Any:
    """Send large log messages as fast as they are taken; `sent` grows with each that was."""

    async def answer(request: Request, reply: Reply) -> None:
        own_id = request.message["id"]
        await reply.start_events()
        for number in range(count):
            data = "x" * EVENT_BYTES
            await reply.notify("notifications/message", {"level": "info", "data": data, "logger": str(number)})
            sent.append(number)
        await reply.event({"jsonrpc": "2.0", "id": own_id, "result": {"content": []}})
        await reply.end_events()

    return answer


@BOTH
@pytest.mark.case("A-20", "B-10")
async def test_a_paused_call_stops_reading_its_stream_and_loses_nothing(era: Era):
    sent: list[int] = []
    async with rig(RawServer(on={"tools/call": flooding(sent, 200)})) as (_server, one):
        call = one.front.call(era=era, log_level="info", timeout_s=60)
        await call.wait_events(1)
        one.front.send(link.PauseEvents(call.id))
        await settled(sent)
        assert len(sent) < 200
        assert (await one.front.call("other", era=era, method="ping", params=b"{}").done()).result is not None
        one.front.send(link.ResumeEvents(call.id))
        outcome = await call.done()
        assert [params["logger"] for _, params in outcome.events] == [str(number) for number in range(200)]


@BOTH
@pytest.mark.case("A-20")
async def test_a_front_that_takes_nothing_stops_the_server_not_the_memory(era: Era):
    sent: list[int] = []
    async with rig(RawServer(on={"tools/call": flooding(sent, 600)})) as (_server, one):
        await one.front.ask_list().done()
        one.front.end._stream.pause_reading()
        call = one.front.call(era=era, log_level="info", timeout_s=60)
        await settled(sent)
        taken = len(sent) * EVENT_BYTES
        assert taken < LINK_WINDOW_BYTES + STREAM_BUFFER_HIGH_BYTES + 30_000_000  # and what the sockets hold
        assert len(sent) < 600
        one.front.end._stream.resume_reading()
        outcome = await call.done()
        assert len(outcome.events) == 600
        assert outcome.result["content"] == []


async def settled(sent: list[int]) -> None:
    """Wait until the server gets rid of nothing any more. Nothing tells when that is, so look until it is so."""
    before = -1
    while len(sent) != before:
        before = len(sent)
        await trio.sleep(0.2)


# --- streams that go on ----------------------------------------------------------------------------------------------
@BOTH
async def test_an_answer_is_delivered_before_its_stream_has_ended(era: Era):
    released = trio.Event()

    async def dawdle(request: Request, reply: Reply) -> None:
        await reply.start_events()
        await reply.event({"jsonrpc": "2.0", "id": request.message["id"], "result": {"content": []}})
        await released.wait()
        await reply.end_events()

    async with rig(RawServer(on={"tools/call": dawdle})) as (server, one):
        assert (await one.front.call(era=era).done()).result["content"] == []
        connection = server.received("tools/call")[0].connection
        assert connection in server.open_now
        released.set()
        await trio.testing.wait_all_tasks_blocked()
        assert connection in server.open_now


async def test_a_stream_that_never_ends_after_its_answer_is_given_up(autojump_clock: object):
    async def forever(request: Request, reply: Reply) -> None:
        await reply.start_events()
        await reply.event({"jsonrpc": "2.0", "id": request.message["id"], "result": {"content": []}})
        while True:
            await reply.chunk(b": still here\n\n")
            await trio.sleep(0.2)

    server = RawServer(era="legacy", on={"tools/call": forever})
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve)
            async with backend(server.url) as one:
                assert (await one.front.call().done()).result["content"] == []
                await server.wait_until_closed(server.received("tools/call")[0].connection)
            nursery.cancel_scope.cancel()
