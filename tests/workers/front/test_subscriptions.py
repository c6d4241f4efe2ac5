"""Subscriptions of legacy sessions and listen streams of modern clients, over both transports."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from protocol import link
from protocol.control import SessionNoted, SessionNotes
from protocol.errors import INVALID_PARAMS, METHOD_NOT_FOUND, OVERLOADED
from protocol.limits import (
    LISTENS_PER_CLIENT_MAX,
    SUBSCRIPTION_KEEP_S,
    SUBSCRIPTION_WAIT_S,
    SUBSCRIPTIONS_PER_CLIENT_MAX,
)
from tests import schemas
from tests.workers.front.test_stdio import StdioClient, stdio_front
from tests.workers.scripted import (
    META,
    MODERN,
    Client,
    Front,
    Json,
    ScriptedWorker,
    advance,
    envelope,
    http,
    modern_params,
    running_front,
)
from workers.front import subscriptions

ID = META + "subscriptionId"
UPDATED = "notifications/resources/updated"
OFFERS = ["tools", "prompts", "resources", "resources.subscribe"]


def prepare(front: Front, **uris: list[str]) -> None:
    for name, server in front.servers.items():
        server.resources = [{"uri": uri, "name": uri} for uri in uris.get(name, ["a:1", "a:2"])]
        server.offers = OFFERS
        server.state("ready")


@asynccontextmanager
async def subscribable(*names: str, **uris: list[str]) -> AsyncIterator[Front]:
    async with running_front(*names) as front:
        prepare(front, **uris)
        await trio.sleep(0.2)  # on the mock clock: the news of the start has been told
        yield front


def watches(server: ScriptedWorker) -> list[link.Watch]:
    return [frame for frame in server.frames if isinstance(frame, link.Watch)]


async def agree(server: ScriptedWorker, uri: str, code: int = 0) -> None:
    watch = await server.until(lambda: next((each for each in watches(server) if each.uri == uri), None))
    server.frames.remove(watch)
    server.send(link.Watching(watch.id, code, "no such thing" if code else ""))


async def session(front: Front, version: str = "2025-11-25") -> tuple[Client, Client]:
    """Return a client with a session, and its stream."""
    client, stream = await front.client(version), await front.client()
    stream.session, stream.version = client.session, client.version
    await open_stream(stream)
    return client, stream


async def open_stream(stream: Client) -> None:
    await stream.send(http("GET", {**stream.legacy_headers, "accept": "text/event-stream"}))
    assert (await stream.head()).status == 200


async def ask(front: Front, client: Client, method: str, uri: Any, server: str = "main", *, code: int = 0) -> Json:
    await client.legacy(f"resources/{method}", {"uri": uri})
    if method == "subscribe":
        await agree(front.servers[server], uri, code)
    return (await client.answer()).json


async def event(client: Client) -> Json:
    """Return the next message on a stream."""
    while (found := await client.event()) is None:
        pass
    return found


def update(server: ScriptedWorker, uri: str, **more: Any) -> None:
    server.send(link.Updated(uri), {"uri": uri, **more})


async def listen(front: Front, notifications: Json, request_id: Any = 1) -> Client:
    client = await front.client()
    await client.modern("subscriptions/listen", {"notifications": notifications}, request_id)
    return client


async def acknowledged(client: Client) -> Json:
    assert (await client.head()).status == 200
    message = await event(client)
    schemas.validate(MODERN, "SubscriptionsAcknowledgedNotification", message)
    return message["params"]


# --- legacy sessions -------------------------------------------------------------------------------------------------
@pytest.mark.case("D-07")
async def test_a_session_is_told_of_what_it_has_subscribed_to_and_no_other_one_is(autojump_clock: MockClock):
    async with subscribable() as front:
        one, one_stream = await session(front)
        two, two_stream = await session(front)
        assert (await ask(front, one, "subscribe", "a:1"))["result"] == {}
        assert (await ask(front, two, "subscribe", "a:2"))["result"] == {}
        update(front.main, "a:1", odd=[1.5])
        update(front.main, "a:2/part")
        update(front.main, "a:3")
        params = {"uri": "a:1", "odd": [1.5]}
        assert await event(one_stream) == {"jsonrpc": "2.0", "method": UPDATED, "params": params}
        assert (await event(two_stream))["params"] == {"uri": "a:2/part"}


async def test_the_server_is_told_only_of_the_first_and_of_the_last_that_want_a_resource(autojump_clock: MockClock):
    async with subscribable() as front:
        one, _ = await session(front)
        two, _ = await session(front)
        await ask(front, one, "subscribe", "a:1")
        for client in (one, two):
            await client.legacy("resources/subscribe", {"uri": "a:1"})
            assert (await client.answer()).json["result"] == {}
        assert (await ask(front, one, "unsubscribe", "a:1"))["result"] == {}
        assert not [frame for frame in front.main.frames if isinstance(frame, link.Watch | link.Unwatch)]
        assert (await ask(front, two, "unsubscribe", "a:1"))["result"] == {}
        assert (await front.main.frame(link.Unwatch)).uri == "a:1"


async def test_what_the_server_refuses_is_refused(autojump_clock: MockClock):
    async with subscribable() as front:
        client, _ = await session(front)
        answer = await ask(front, client, "subscribe", "a:1", code=-32002)
        assert answer["error"] == {"code": -32002, "message": "no such thing"}
        assert not front.worker._endpoint.subscriptions._wanting


@pytest.mark.case("A-30")
@pytest.mark.parametrize(("uri", "code"), [(None, -32602), (7, -32602), (["a:1"], -32602), ("b:unknown", -32002)])
async def test_what_is_no_resource_is_refused(uri: Any, code: int, autojump_clock: MockClock):
    async with subscribable("main", "other", main=["a:1"], other=["c:1"]) as front:
        client, _ = await session(front)
        await client.legacy("resources/subscribe", {"uri": uri})
        assert (await client.answer()).json["error"]["code"] == code


async def test_without_a_server_that_tells_of_resources_there_is_no_subscription():
    async with running_front() as front:
        client = await front.client()
        front.main.offers = ["tools", "resources"]
        front.main.state("ready")
        await wait_all_tasks_blocked()
        capabilities = (await client.initialize()).json["result"]["capabilities"]
        assert capabilities["resources"] == {"listChanged": True}
        for method in ("subscribe", "unsubscribe"):
            await client.legacy(f"resources/{method}", {"uri": "a:1"})
            assert (await client.answer()).json["error"]["code"] == METHOD_NOT_FOUND


async def test_what_can_be_subscribed_to_is_said_to_both_eras():
    async with running_front() as front:
        prepare(front)
        client = await front.client()
        offered = (await client.initialize()).json["result"]["capabilities"]["resources"]
        await client.modern("server/discover")
        assert (await client.answer()).json["result"]["capabilities"]["resources"] == offered
        assert offered == {"subscribe": True, "listChanged": True}


async def test_a_server_that_does_not_answer_in_time_is_taken_to_agree(autojump_clock: MockClock):
    async with subscribable() as front:
        client, stream = await session(front)
        started = trio.current_time()
        await client.legacy("resources/subscribe", {"uri": "a:1"})
        assert (await client.answer()).json["result"] == {}
        assert trio.current_time() - started >= SUBSCRIPTION_WAIT_S
        update(front.main, "a:1")
        assert (await event(stream))["method"] == UPDATED


@pytest.mark.case("C-01")
async def test_the_next_worker_is_told_what_is_wanted(autojump_clock: MockClock):
    async with subscribable() as front:
        client, stream = await session(front)
        await ask(front, client, "subscribe", "a:1")
        front.main.die()
        await wait_all_tasks_blocked()
        front.main.attach(front.worker)
        await agree(front.main, "a:1")
        update(front.main, "a:1")
        while (await event(stream))["method"] != UPDATED:
            pass


async def test_what_is_missed_without_a_stream_is_told_once_on_the_next(autojump_clock: MockClock):
    async with subscribable() as front:
        client, stream = await session(front)
        for uri in ("a:1", "a:2"):
            await ask(front, client, "subscribe", uri)
        await stream.stream.aclose()
        await wait_all_tasks_blocked()
        for uri in ("a:1", "a:2", "a:1"):
            update(front.main, uri)
        await ask(front, client, "unsubscribe", "a:2")
        again = await front.client()
        again.session, again.version = client.session, client.version
        await open_stream(again)
        assert (await event(again))["params"]["uri"] == "a:1"
        update(front.main, "a:1", last=True)
        assert (await event(again))["params"] == {"uri": "a:1", "last": True}


async def test_a_session_that_is_away_for_long_is_subscribed_again_when_it_is_back(mock_clock: MockClock):
    async with running_front() as front:
        prepare(front)
        await advance(mock_clock, 1)
        client, stream = await session(front)
        await ask(front, client, "subscribe", "a:1")
        await stream.stream.aclose()
        await advance(mock_clock, SUBSCRIPTION_KEEP_S + 2 * subscriptions.SWEEP_S)
        assert (await front.main.frame(link.Unwatch)).uri == "a:1"
        again = await front.client()
        again.session, again.version = client.session, client.version
        await open_stream(again)
        await agree(front.main, "a:1")
        assert (await event(again))["params"]["uri"] == "a:1"


@pytest.mark.case("C-04")
async def test_a_subscription_outlives_the_front(autojump_clock: MockClock):
    async with subscribable() as front:
        client, _ = await session(front)
        await ask(front, client, "subscribe", "a:1")
        (note,) = [report.note for report in front.reports if isinstance(report, SessionNoted)]
    async with subscribable() as front:
        front.worker.obey(SessionNotes([note]))
        again = await front.client()
        again.session, again.version = client.session, client.version
        await open_stream(again)
        await agree(front.main, "a:1")
        assert (await event(again))["params"]["uri"] == "a:1"  # it may have changed meanwhile
        update(front.main, "a:1", later=True)
        assert (await event(again))["params"]["later"] is True


async def test_the_end_of_a_session_ends_its_subscriptions(autojump_clock: MockClock):
    async with subscribable() as front:
        client, _ = await session(front)
        await ask(front, client, "subscribe", "a:1")
        await client.send(http("DELETE", client.legacy_headers))
        assert (await client.answer()).status == 200
        assert (await front.main.frame(link.Unwatch)).uri == "a:1"
        owner = front.worker._endpoint.subscriptions
        assert not owner._wanting
        assert not owner._active
        assert owner._tally.subscriptions == 0


@pytest.mark.case("A-29")
async def test_a_session_can_subscribe_only_to_so_much(autojump_clock: MockClock):
    async with subscribable() as front:
        client, _ = await session(front)
        (known,) = front.worker._sessions._known.values()
        known.uris = {f"a:{number}": None for number in range(SUBSCRIPTIONS_PER_CLIENT_MAX)}
        await client.legacy("resources/subscribe", {"uri": "a:one-more"})
        error = (await client.answer()).json["error"]
        assert error["code"] == INVALID_PARAMS
        assert "256 resources" in error["message"]
        known.uris = {}
        await client.legacy("resources/subscribe", {"uri": "a:" + "x" * 20_000})
        assert (await client.answer()).json["error"]["code"] == INVALID_PARAMS


# --- modern listen streams -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("request_id", [7, "7", "tök"])
async def test_a_stream_begins_with_what_is_honoured_and_all_on_it_carries_its_id(
    request_id: Any, autojump_clock: MockClock
):
    async with subscribable() as front:
        wanted = {"toolsListChanged": True, "promptsListChanged": False, "resourceSubscriptions": ["a:1", "a:2", "a:1"]}
        client = await listen(front, wanted, request_id)
        await agree(front.main, "a:1")
        await agree(front.main, "a:2", METHOD_NOT_FOUND)
        assert await acknowledged(client) == {
            "notifications": {"toolsListChanged": True, "resourceSubscriptions": ["a:1"]}, "_meta": {ID: request_id},
        }  # fmt: skip
        update(front.main, "a:1", odd=[1.5], _meta={"their": "own", ID: "not ours"})
        message = await event(client)
        schemas.validate_notification(MODERN, message)
        meta = {"their": "own", ID: request_id}
        assert message["params"] == {"uri": "a:1", "odd": [1.5], "_meta": meta}
        assert type(message["params"]["_meta"][ID]) is type(request_id)
        for kind in ("prompts", "resources", "tools"):
            front.main.send(link.ListChanged(kind))
        message = await event(client)
        schemas.validate_notification(MODERN, message)
        assert (message["method"], message["params"]) == (
            "notifications/tools/list_changed", {"_meta": {ID: request_id}},
        )  # fmt: skip


async def test_what_happens_before_the_acknowledgement_is_told_after_it(autojump_clock: MockClock):
    async with subscribable() as front:
        client = await listen(front, {"toolsListChanged": True, "resourceSubscriptions": ["a:1", "a:2"]})
        await agree(front.main, "a:1")
        update(front.main, "a:1")
        await trio.sleep(0.2)
        await agree(front.main, "a:2")
        await acknowledged(client)
        assert (await event(client))["params"]["uri"] == "a:1"


async def test_lists_that_no_server_has_are_not_honoured():
    async with running_front() as front:
        client = await listen(front, {"promptsListChanged": True, "resourcesListChanged": True})
        assert (await acknowledged(client))["notifications"] == {}


@pytest.mark.case("A-21")
async def test_a_client_that_goes_is_unsubscribed(autojump_clock: MockClock):
    async with subscribable() as front:
        client = await listen(front, {"resourceSubscriptions": ["a:1"]})
        await agree(front.main, "a:1")
        await acknowledged(client)
        await client.stream.aclose()
        assert (await front.main.frame(link.Unwatch)).uri == "a:1"
        owner = front.worker._endpoint.subscriptions
        assert (owner._listens, owner._wanting, owner._tally.subscriptions) == ({}, {}, 0)


@pytest.mark.parametrize(
    "notifications", [None, [], "all", {"toolsListChanged": 1}, {"resourceSubscriptions": "a:1"}], ids=str
)
async def test_a_filter_that_makes_no_sense_is_refused(notifications: Any):
    async with running_front() as front:
        client = await listen(front, notifications)
        answer = await client.answer()
        assert (answer.status, answer.json["error"]["code"]) == (400, INVALID_PARAMS)


@pytest.mark.case("A-29")
async def test_a_filter_with_too_many_resources_is_refused(autojump_clock: MockClock):
    async with subscribable() as front:
        client = await listen(front, {"resourceSubscriptions": [f"a:{number}" for number in range(10_000)]})
        answer = await client.answer()
        assert (answer.status, answer.json["error"]["code"]) == (400, INVALID_PARAMS)
        assert not front.worker._endpoint.subscriptions._listens


@pytest.mark.case("A-29")
async def test_only_so_many_streams_can_be_open(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(subscriptions, "LISTENS_MAX", 2)
    async with running_front() as front:
        clients = [await listen(front, {}) for _ in range(2)]
        for client in clients:
            await acknowledged(client)
        refused = await listen(front, {})
        assert (await refused.answer()).json["error"]["code"] == OVERLOADED
        await clients[0].stream.aclose()
        await wait_all_tasks_blocked()
        await acknowledged(await listen(front, {}))


@pytest.mark.case("A-20")
async def test_a_client_that_does_not_read_loses_its_stream(autojump_clock: MockClock):
    async with subscribable() as front:
        client = await listen(front, {"resourceSubscriptions": ["a:1"]})
        await agree(front.main, "a:1")
        await acknowledged(client)
        owner = front.worker._endpoint.subscriptions
        for _ in range(200):
            update(front.main, "a:1", much="x" * 100_000)
            await wait_all_tasks_blocked()
            if not owner._listens:
                break
        assert not owner._listens


async def test_a_drain_ends_streams_with_a_result(autojump_clock: MockClock):
    async with subscribable() as front:
        client = await listen(front, {"toolsListChanged": True}, "last")
        await acknowledged(client)
        front.reactor.start_soon(front.worker.drain, 5.0)
        message = await event(client)
        schemas.validate(MODERN, "SubscriptionsListenResultResponse", message)
        assert (message["id"], message["result"]["_meta"][ID]) == ("last", "last")
        with pytest.raises(EOFError):
            await event(client)


async def test_a_server_that_is_replaced_gently_is_watched_on(autojump_clock: MockClock):
    async with subscribable() as front:
        client = await listen(front, {"resourceSubscriptions": ["a:1"]})
        await agree(front.main, "a:1")
        await acknowledged(client)
        new = ScriptedWorker(front.reactor, "main")
        new.offers, new.resources = OFFERS, front.main.resources
        new.attach(front.worker, incarnation=2, gently=True)
        await agree(new, "a:1")
        update(new, "a:1")
        assert (await event(client))["params"]["uri"] == "a:1"


# --- stdio -----------------------------------------------------------------------------------------------------------
async def stdio_listen(client: StdioClient, request_id: Any, notifications: Json) -> Json:
    await client.send(envelope("subscriptions/listen", modern_params({"notifications": notifications}), request_id))
    return await client.answer()


async def test_streams_on_stdio_are_told_apart_by_their_ids_and_end_when_cancelled(autojump_clock: MockClock):
    async with stdio_front() as (front, client):
        prepare(front)
        await trio.sleep(0.2)
        for request_id in ("one", 2):
            acknowledged = await stdio_listen(client, request_id, {"toolsListChanged": True})
            assert acknowledged["params"] == {
                "notifications": {"toolsListChanged": True}, "_meta": {ID: request_id},
            }  # fmt: skip
        front.main.send(link.ListChanged("tools"))
        assert [(await client.message())["params"]["_meta"][ID] for _ in range(2)] == ["one", 2]
        await client.send(envelope("notifications/cancelled", {"requestId": "one"}, None))
        front.main.send(link.ListChanged("tools"))
        assert (await client.message())["params"]["_meta"][ID] == 2
        await client.stdin.aclose()
        final = await client.message()
        assert (final["id"], final["result"]["_meta"][ID]) == (2, 2)
        assert await client.line() is None


@pytest.mark.case("A-29")
async def test_a_client_on_stdio_can_have_only_so_many_streams(autojump_clock: MockClock):
    async with stdio_front() as (_, client):
        for number in range(LISTENS_PER_CLIENT_MAX):
            assert "params" in await stdio_listen(client, number, {})
        assert (await stdio_listen(client, "more", {}))["error"]["code"] == OVERLOADED


async def test_a_legacy_client_on_stdio_is_told_of_its_resources(autojump_clock: MockClock):
    async with stdio_front() as (front, client):
        prepare(front)
        await trio.sleep(0.2)
        await client.initialize()
        await client.send(envelope("resources/subscribe", {"uri": "a:1"}, 5))
        await agree(front.main, "a:1")
        while (answer := await client.answer()).get("id") != 5:
            pass
        assert answer["result"] == {}
        update(front.main, "a:1")
        assert (await client.answer())["params"] == {"uri": "a:1"}
