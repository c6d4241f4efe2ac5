"""Resources that fronts want to hear about: subscriptions at servers of both eras, and what servers tell of them."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from protocol import link
from protocol.errors import METHOD_NOT_FOUND
from protocol.limits import SUBSCRIPTION_WAIT_S
from protocol.tasks import EXTENSION, topic
from protocol.versions import Era
from tests.peers.raw_server import META, RawServer, Reply, Request
from tests.workers.backend.harness import Backend, FakeFront, Json, backend
from tests.workers.backend.test_get_stream import Streams

BOTH = pytest.mark.parametrize("era", ["legacy", "modern"])
UPDATED = "notifications/resources/updated"
LISTEN = "subscriptions/listen"


class Teller:
    """A server of one era that tells of resources: it keeps who is subscribed to what, and says so on its streams."""

    def __init__(self, era: str, *, refuses: tuple[str, ...] = (), subscribe: bool = True) -> None:
        self.era = era
        self.refuses = refuses
        self.capabilities: Json = {"tools": {"listChanged": True}, "resources": {"subscribe": subscribe}}
        self.streams = Streams()
        self.subscribed: set[str] = set()
        self.filters: list[Json] = []
        self.live: dict[int, tuple[Reply, Any]] = {}
        self._changed = trio.Event()
        self.server = RawServer(era=era)
        self.server.on |= {
            "GET": self.streams,
            "initialize": self._initialize,
            "server/discover": self._discover,
            "resources/subscribe": self._subscribe,
            "resources/unsubscribe": self._unsubscribe,
            LISTEN: self._listen,
        }

    async def until(self, look: Any) -> None:
        while not look():
            await self._changed.wait()

    def poke(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def tell(self, uri: str) -> None:
        if self.era == "legacy":
            await self.streams.replies[-1].notify(UPDATED, {"uri": uri, "odd": [1.50]})
        else:
            for reply, own_id in list(self.live.values()):
                meta = {META + "subscriptionId": own_id}
                await reply.notify(UPDATED, {"uri": uri, "odd": [1.50], "_meta": meta})

    async def _initialize(self, request: Request, reply: Reply) -> None:
        self.server._minted += 1
        session = f"s-{self.server._minted}"
        self.server.known_sessions.add(session)
        reply.headers.append(("Mcp-Session-Id", session))
        info = {"name": "teller", "version": "1"}
        result = {"protocolVersion": "2025-11-25", "capabilities": self.capabilities, "serverInfo": info}
        await reply.result(result)

    async def _discover(self, request: Request, reply: Reply) -> None:
        if self.era == "legacy":
            await reply.error(-32601, "Method not found", 404)
            return
        result: Json = {"supportedVersions": ["2026-07-28"], "capabilities": self.capabilities}
        await reply.result({**result, "ttlMs": 0, "cacheScope": "private"})

    async def _subscribe(self, request: Request, reply: Reply) -> None:
        uri = request.params["uri"]
        if uri in self.refuses:
            await reply.error(-32002, "Resource not found")
            return
        self.subscribed.add(uri)
        await reply.result({})
        self.poke()

    async def _unsubscribe(self, request: Request, reply: Reply) -> None:
        self.subscribed.discard(request.params["uri"])
        await reply.result({})
        self.poke()

    async def _listen(self, request: Request, reply: Reply) -> None:
        wanted = dict(request.params["notifications"])
        self.filters.append(wanted)
        own_id = request.message["id"]
        if "resourceSubscriptions" in wanted:
            wanted["resourceSubscriptions"] = [
                uri for uri in wanted["resourceSubscriptions"] if uri not in self.refuses
            ]
        await reply.start_events()
        meta = {META + "subscriptionId": own_id}
        await reply.notify("notifications/subscriptions/acknowledged", {"notifications": wanted, "_meta": meta})
        self.live[request.connection] = (reply, own_id)
        self.subscribed = set(wanted.get("resourceSubscriptions", []))
        self.poke()
        try:
            while await reply.stream.receive_some():
                pass
        finally:
            self.live.pop(request.connection, None)
            self.poke()
        raise trio.ClosedResourceError


class Hearing:
    """What a front is told of updates."""

    def __init__(self, front: FakeFront) -> None:
        self.front = front
        self.told: list[tuple[str, Any]] = []
        self.verdicts: dict[int, link.Watching] = {}
        self._changed = trio.Event()
        front.end._on_frame, self._otherwise = self._frame, front.end._on_frame

    def _frame(self, header: link.Header, payload: memoryview) -> None:
        if isinstance(header, link.Updated):
            self.told.append((header.uri, json.loads(bytes(payload)) if payload else None))
        elif isinstance(header, link.Watching):
            self.verdicts[header.id] = header
        else:
            self._otherwise(header, payload)
        self._changed.set()
        self._changed = trio.Event()

    async def watch(self, uri: str, number: int = 1) -> link.Watching:
        self.front.send(link.Watch(number, uri))
        return await self.heard_verdict(number)

    async def heard_verdict(self, number: int) -> link.Watching:
        while number not in self.verdicts:
            await self._changed.wait()
        return self.verdicts[number]

    async def heard(self, count: int) -> list[str]:
        while len(self.told) < count:
            await self._changed.wait()
        return [uri for uri, _ in self.told]


@asynccontextmanager
async def told_by(teller: Teller) -> AsyncIterator[tuple[Backend, Hearing]]:
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(teller.server.serve)
            async with backend(teller.server.url) as one:
                await one.front.wait_state("ready")
                yield one, Hearing(one.front)
            nursery.cancel_scope.cancel()


@BOTH
async def test_an_update_reaches_the_fronts_that_watch_the_resource_and_no_others(era: str):
    teller = Teller(era)
    async with told_by(teller) as (one, hearing):
        other = Hearing(one.attach())
        assert (await hearing.watch("a:1")).code == 0
        assert (await other.watch("a:2")).code == 0
        await teller.until(lambda: teller.subscribed == {"a:1", "a:2"})
        for uri in ("a:1", "a:3", "a:1/part", "a:10"):
            await teller.tell(uri)
        await teller.tell("a:2")
        assert await other.heard(1) == ["a:2"]
        assert sorted(await hearing.heard(2)) == ["a:1", "a:1/part"]
        assert hearing.told[0][1]["odd"] == [1.5]


@BOTH
async def test_a_resource_is_unsubscribed_when_the_last_front_has_lost_interest(era: str):
    teller = Teller(era)
    async with told_by(teller) as (one, hearing):
        other = Hearing(one.attach())
        await hearing.watch("a:1")
        await other.watch("a:1")
        await other.watch("a:2", 2)
        hearing.front.send(link.Unwatch("a:1"))
        hearing.front.send(link.Unwatch("never:watched"))
        await hearing.watch("a:3", 2)
        await teller.until(lambda: teller.subscribed == {"a:1", "a:2", "a:3"})
        other.front.end.close()
        await teller.until(lambda: teller.subscribed == {"a:3"})


@BOTH
async def test_what_the_server_refuses_is_refused(era: str):
    teller = Teller(era, refuses=("a:no",))
    async with told_by(teller) as (one, hearing):
        verdict = await hearing.watch("a:no")
        assert verdict.code == (METHOD_NOT_FOUND if era == "modern" else -32002)
        assert '"main"' in verdict.message
        assert (await hearing.watch("a:1", 2)).code == 0
        assert one.worker._watches.wanted() == (["a:1"], [])


@BOTH
async def test_a_server_that_has_no_subscriptions_is_not_asked_for_one(era: str):
    teller = Teller(era, subscribe=False)
    async with told_by(teller) as (_, hearing):
        assert (await hearing.watch("a:1")).code == METHOD_NOT_FOUND
        assert teller.server.received("resources/subscribe") == []
        assert not [wanted for wanted in teller.filters if "resourceSubscriptions" in wanted]


@BOTH
async def test_fronts_are_told_what_the_server_offers(era: str):
    async with told_by(Teller(era)) as (one, _):
        (state,) = one.front.states[-1:]
        assert state.offers == ["resources", "resources.subscribe", "tools", "tools.listChanged"]


async def test_a_new_session_is_subscribed_again_and_everything_counts_as_updated(autojump_clock: MockClock):
    teller = Teller("legacy")
    async with told_by(teller) as (one, hearing):
        await hearing.watch("a:1")
        teller.subscribed.clear()
        teller.server.forget_sessions()
        await one.front.call(era=Era.LEGACY).done()
        await teller.until(lambda: teller.subscribed == {"a:1"})
        assert await hearing.heard(1) == ["a:1"]


async def test_a_server_that_opens_its_stream_too_late_is_subscribed_and_everything_counts_as_updated(
    autojump_clock: MockClock,
):
    teller = Teller("legacy")
    opened = trio.Event()

    async def open_late(request: Request, reply: Reply) -> None:
        await opened.wait()
        await teller.streams(request, reply)

    teller.server.on["GET"] = open_late
    async with told_by(teller) as (_, hearing):
        began_at = trio.current_time()
        await hearing.watch("a:1")
        await teller.until(lambda: teller.subscribed == {"a:1"})
        assert trio.current_time() - began_at >= SUBSCRIPTION_WAIT_S
        assert hearing.told == []
        opened.set()
        assert await hearing.heard(1) == ["a:1"]


async def test_a_listen_stream_that_breaks_is_opened_again_and_everything_counts_as_updated(autojump_clock: MockClock):
    teller = Teller("modern")
    async with told_by(teller) as (_, hearing):
        await hearing.watch("a:1")
        await teller.until(lambda: len(teller.live) == 1)
        ((reply, _),) = teller.live.values()
        broken_at = trio.current_time()
        await reply.end_events()
        assert await hearing.heard(1) == ["a:1"]
        assert trio.current_time() - broken_at >= 1
        assert teller.filters[-1] == {"toolsListChanged": True, "resourceSubscriptions": ["a:1"]}


async def test_one_listen_stream_takes_the_place_of_another_without_a_gap():
    teller = Teller("modern")
    async with told_by(teller) as (_, hearing):
        for number, uri in enumerate(("a:1", "a:2", "a:3")):
            await hearing.watch(uri, number)
        await teller.until(lambda: len(teller.live) == 1 and teller.subscribed == {"a:1", "a:2", "a:3"})
        assert hearing.told == []
        for live, _ in teller.live.values():
            await live.notify("notifications/tools/list_changed", {})
        await hearing.front.wait_list_change()


@BOTH
@pytest.mark.case("B-10")
async def test_a_flood_of_updates_is_told_once_in_a_while(era: str):
    teller = Teller(era)
    async with told_by(teller) as (_, hearing):
        await hearing.watch("a:1")
        await teller.until(lambda: teller.subscribed == {"a:1"} and (era == "legacy" or teller.live))
        for _ in range(500):
            await teller.tell("a:1")
        await hearing.watch("a:2", 2)
        await teller.until(lambda: "a:2" in teller.subscribed and (era == "legacy" or teller.live))
        await teller.tell("a:2")
        while "a:2" not in [uri for uri, _ in hearing.told]:
            await hearing.heard(len(hearing.told) + 1)
        assert len(hearing.told) < 50


@BOTH
async def test_a_server_that_is_away_is_asked_when_it_is_back(era: str):
    teller = Teller(era)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        teller.server.port = taken.getsockname()[1]
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            async with backend(teller.server.url) as one:
                await one.front.wait_state("backoff")
                hearing = Hearing(one.front)
                one.front.send(link.Watch(7, "a:1"))
                await nursery.start(teller.server.serve)
                await hearing.heard_verdict(7)
                assert teller.subscribed == {"a:1"}
            nursery.cancel_scope.cancel()


# --- tasks -----------------------------------------------------------------------------------------------------------
class TaskTeller(Teller):
    """It has tasks, and tells of those that a client has named (modern), or of all (legacy)."""

    def __init__(self, era: str) -> None:
        super().__init__(era)
        extension = {"extensions": {EXTENSION: {}, "com.example/other": {}}}
        self.capabilities |= extension if era == "modern" else {"tasks": {}}

    async def tell_of(self, task_id: str, status: str) -> None:
        params = {"taskId": task_id, "status": status}
        if self.era == "legacy":
            await self.streams.replies[-1].notify("notifications/tasks/status", params)
        else:
            for reply, _ in list(self.live.values()):
                await reply.notify("notifications/tasks", params)


@BOTH
async def test_a_front_is_told_of_the_tasks_that_it_watches(era: str):
    teller = TaskTeller(era)
    async with told_by(teller) as (one, hearing):
        other = Hearing(one.attach())
        assert (await hearing.watch(topic("", "t-1"))).code == 0
        assert (await other.watch(topic("main", "t-2"))).code == 0
        assert (await hearing.watch("a:1", 2)).code == 0
        if era == "modern":
            await teller.until(lambda: teller.filters[-1].get("taskIds") == ["t-1", "t-2"] and teller.live)
            request = teller.server.received(LISTEN)[-1]
            capabilities = request.params["_meta"][META + "clientCapabilities"]
            assert capabilities == {"extensions": {EXTENSION: {}}}
        for task_id in ("t-3", "t-2", "t-1"):
            await teller.tell_of(task_id, "completed")
        await teller.tell("a:1")
        assert sorted(await hearing.heard(2)) == ["a:1", topic("", "t-1")]
        assert {"taskId": "t-1", "status": "completed"} in [params for _, params in hearing.told]
        assert await other.heard(1) == [topic("main", "t-2")]
        hearing.front.send(link.Unwatch(topic("", "t-1")))
        hearing.front.send(link.Unwatch("a:1"))
        if era == "modern":
            await teller.until(lambda: teller.filters[-1].get("taskIds") == ["t-2"])
            assert one.front.states[-1].offers is not None
            assert [name for name in one.front.states[-1].offers if "extensions" in name] == [
                "extensions", f"extensions.{EXTENSION}",
            ]  # fmt: skip


@BOTH
async def test_a_server_without_tasks_is_not_asked_to_tell_of_any(era: str):
    teller = Teller(era)
    async with told_by(teller) as (_, hearing):
        assert (await hearing.watch(topic("", "t-1"))).code == METHOD_NOT_FOUND
        assert not [wanted for wanted in teller.filters if "taskIds" in wanted]
        assert teller.server.received("resources/subscribe") == []


async def test_after_a_gap_a_task_may_have_changed(autojump_clock: MockClock):
    teller = TaskTeller("modern")
    async with told_by(teller) as (_, hearing):
        assert (await hearing.watch(topic("", "t-1"))).code == 0
        await teller.until(lambda: teller.live)
        for reply, _own_id in list(teller.live.values()):
            await trio.aclose_forcefully(reply.stream)
        await hearing.heard(1)
        assert hearing.told == [(topic("", "t-1"), None)]
