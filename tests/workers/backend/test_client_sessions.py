"""Clients that have a session of their own with a server over HTTP: nothing of one ever reaches another."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from protocol import link
from protocol.abilities import FORM, ROOTS
from protocol.clients import number_of
from protocol.errors import OVERLOADED
from protocol.limits import SESSION_IDLE_S, SESSION_SPARE_S
from protocol.link import AnswerKind
from protocol.uris import of_client
from protocol.versions import Era
from tests.peers.raw_server import RawServer, Reply, Request
from tests.workers.backend.harness import Backend, Json, Pending, backend
from workers.backend import client_sessions

LEGACY = Era.LEGACY
ALICE = number_of(b"alice", LEGACY, FORM)
BOB = number_of(b"bob", LEGACY, ROOTS)
CAROL = number_of(b"carol", LEGACY)
UPDATED = "notifications/resources/updated"


class Notebook:
    """A legacy server with sessions that remember: each has its own notes, subscriptions, log level and stream."""

    def __init__(self) -> None:
        self.server = RawServer(era="legacy")
        self.notes: dict[str, list[str]] = defaultdict(list)
        self.levels: dict[str, list[str]] = defaultdict(list)
        self.subscribed: dict[str, list[str]] = defaultdict(list)
        self.declared: dict[str, Json] = {}
        self.ended: list[str] = []
        self.streams: dict[str, Reply] = {}
        self.answers: list[tuple[str, Json]] = []
        self.asks_for_roots = False
        self.held = trio.Event()
        """Calls of "hold" are answered when it is set."""
        self._changed = trio.Event()
        self.server.on |= {
            "initialize": self._initialize, "tools/call": self._call, "logging/setLevel": self._set_level,
            "resources/subscribe": self._subscribe, "resources/unsubscribe": self._subscribe, "GET": self._get,
            "DELETE": self._delete, "POST": self._answer,
        }  # fmt: skip

    async def until(self, look: Any) -> None:
        while not look():
            await self._changed.wait()

    def poke(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def say(self, session: str, message: Json) -> None:
        """Say something on the GET stream of a session."""
        await self.until(lambda: session in self.streams)
        await self.streams[session].event({"jsonrpc": "2.0", **message})

    async def _initialize(self, request: Request, reply: Reply) -> None:
        session = f"s{len(self.declared)}"
        self.declared[session] = request.params["capabilities"]
        self.server.known_sessions.add(session)
        reply.headers.append(("Mcp-Session-Id", session))
        capabilities = {"tools": {}, "logging": {}, "resources": {"subscribe": True}}
        info = {"name": "notebook", "version": "1"}
        await reply.result({"protocolVersion": "2025-11-25", "capabilities": capabilities, "serverInfo": info})
        self.poke()

    async def _call(self, request: Request, reply: Reply) -> None:
        session = request.headers["mcp-session-id"]
        if session not in self.server.known_sessions:
            await reply.error(-32600, "Session not found", 404)
            return
        text = request.params["arguments"].get("text", "")
        self.notes[session].append(text)
        self.poke()
        if request.params["name"] == "hold":
            await self.held.wait()
        await reply.result({"content": [{"type": "text", "text": f"{session}: {' '.join(self.notes[session])}"}]})

    async def _set_level(self, request: Request, reply: Reply) -> None:
        self.levels[request.headers["mcp-session-id"]].append(request.params["level"])
        await reply.result({})

    async def _subscribe(self, request: Request, reply: Reply) -> None:
        of_session = self.subscribed[request.headers["mcp-session-id"]]
        uri = request.params["uri"]
        of_session.append(uri if request.method == "resources/subscribe" else f"-{uri}")
        await reply.result({})
        self.poke()

    async def _get(self, request: Request, reply: Reply) -> None:
        await reply.start_events()
        session = request.headers["mcp-session-id"]
        self.streams[session] = reply
        if self.asks_for_roots:
            await self.say(session, {"id": f"roots of {session}", "method": "roots/list"})
        self.poke()
        await trio.sleep_forever()

    async def _delete(self, request: Request, reply: Reply) -> None:
        self.ended.append(request.headers["mcp-session-id"])
        await reply.status(200)
        self.poke()

    async def _answer(self, request: Request, reply: Reply) -> None:
        self.answers.append((request.headers["mcp-session-id"], request.message))
        await reply.status(202)
        self.poke()


@asynccontextmanager
async def isolated(book: Notebook, sessions_max: int = 8, within_s: float = 5.0) -> AsyncIterator[Backend]:
    with trio.fail_after(within_s):
        async with trio.open_nursery() as nursery:
            running = await nursery.start(book.server.serve)
            async with backend(running.url, is_isolated=True, sessions_max=sessions_max) as one:
                await one.front.wait_state("ready")
                yield one
            nursery.cancel_scope.cancel()


def call(one: Backend, client: int, text: str, name: str = "note", **options: Any) -> Pending:
    options.setdefault("era", LEGACY)
    return one.front.call(name, {"text": text}, client=client, **options)


async def said(one: Backend, client: int, text: str, **options: Any) -> str:
    return (await call(one, client, text, **options).done()).text


async def asked(pending: Pending) -> tuple[link.Ask, Json]:
    while not pending.questions:
        await pending.changed.wait()
    return pending.questions[0]


# --- calls ------------------------------------------------------------------------------------------------------------
@pytest.mark.promise("R18")
async def test_each_client_has_a_session_that_declares_what_it_can_do_and_lists_have_theirs():
    book = Notebook()
    async with isolated(book) as one:
        assert await said(one, ALICE, "a1", abilities=FORM) == "s1: a1"
        assert await said(one, BOB, "b1", abilities=ROOTS) == "s2: b1"
        assert await said(one, ALICE, "a2", abilities=FORM) == "s1: a1 a2"
        assert (await one.front.ask_list(LEGACY).done()).names == ["echo"]

        assert book.declared == {"s0": {}, "s1": {"elicitation": {"form": {}}}, "s2": {"roots": {}}}
        assert {each.headers["mcp-session-id"] for each in book.server.received("tools/list")} == {"s0"}
        assert one.vitals[-1].sessions == 2
    assert sorted(book.ended) == ["s0", "s1", "s2"]


async def test_a_client_is_the_same_on_every_front():
    book = Notebook()
    async with isolated(book) as one:
        other = one.attach()
        assert await said(one, ALICE, "1") == "s1: 1"
        assert (await other.call("note", {"text": "2"}, era=LEGACY, client=ALICE).done()).text == "s1: 1 2"


@pytest.mark.promise("R18")
async def test_a_client_that_cannot_be_told_from_others_has_a_session_for_one_call():
    book = Notebook()
    async with isolated(book) as one:
        texts = [await said(one, 0, text, era=Era.MODERN) for text in ("1", "2")]
        assert texts == ["s1: 1", "s2: 2"]
        await book.until(lambda: sorted(book.ended) == ["s1", "s2"])
        assert one.vitals[-1].sessions == 0


async def test_the_log_level_of_one_client_is_not_that_of_another():
    book = Notebook()
    async with isolated(book) as one:
        await said(one, ALICE, "a", log_level="debug")
        await said(one, BOB, "b", log_level="error")
        assert book.levels == {"s1": ["debug"], "s2": ["info"]}


async def test_a_session_that_the_server_has_lost_is_opened_again_for_its_client_alone():
    book = Notebook()
    async with isolated(book) as one:
        await said(one, ALICE, "a1")
        await said(one, BOB, "b1")
        book.server.known_sessions.discard("s1")

        assert await said(one, ALICE, "a2") == "s3: a2"
        assert await said(one, BOB, "b2") == "s2: b1 b2"


async def test_a_modern_server_has_nothing_to_keep_apart():
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(RawServer(era="modern").serve)
            async with backend(server.url, is_isolated=True, sessions_max=1) as one:
                for client in (ALICE, BOB, 0):
                    assert await said(one, client, "x") == "x"
                assert len(server.received("initialize")) == 1  # as it always is, to find out what it speaks
                assert one.vitals[-1].sessions == 0
            nursery.cancel_scope.cancel()


# --- questions --------------------------------------------------------------------------------------------------------
@pytest.mark.case("D-07")
async def test_two_clients_that_are_asked_at_once_on_no_calls_stream_both_get_their_own_question():
    book = Notebook()
    async with isolated(book) as one:
        pending = {who: call(one, client, who, "hold", abilities=FORM) for who, client in (("a", ALICE), ("b", BOB))}
        await book.until(lambda: len(book.notes) == 2)
        for session, (who,) in book.notes.items():
            params = {"message": who, "requestedSchema": {"type": "object", "properties": {}}}
            await book.say(session, {"id": f"q-{session}", "method": "elicitation/create", "params": params})
        for who, each in pending.items():
            header, params = await asked(each)
            assert params["message"] == who
            one.front.send(link.Answered(each.id, header.ask, AnswerKind.RESULT), b'{"action":"accept"}')
        await book.until(lambda: len(book.answers) == 2)
        assert {(session, message["id"]) for session, message in book.answers} == {("s1", "q-s1"), ("s2", "q-s2")}
        book.held.set()
        for each in pending.values():
            await each.done()


async def test_a_server_that_asks_for_roots_when_the_session_begins_is_told_those_of_its_client():
    book = Notebook()
    book.asks_for_roots = True
    async with isolated(book) as one:
        pending = call(one, BOB, "b", "hold", abilities=ROOTS)
        header, _ = await asked(pending)
        one.front.send(link.Answered(pending.id, header.ask, AnswerKind.RESULT), b'{"roots":[{"uri":"file:///b"}]}')
        await book.until(lambda: any(session == "s1" for session, _ in book.answers))
        answer = next(message for session, message in book.answers if session == "s1")
        assert answer["result"] == {"roots": [{"uri": "file:///b"}]}
        book.held.set()
        await pending.done()


async def test_a_held_call_of_an_unknown_client_keeps_its_session_until_it_has_been_gone_on_with():
    book = Notebook()
    async with isolated(book) as one:
        pending = call(one, 0, "x", "hold", abilities=FORM, era=Era.MODERN)
        await book.until(lambda: "s1" in book.notes)
        params = {"message": "?", "requestedSchema": {"type": "object", "properties": {}}}
        await book.say("s1", {"id": 1, "method": "elicitation/create", "params": params})
        needed = await pending.done()
        assert isinstance(needed.header, link.NeedInput)
        assert book.ended == []

        responses = {key: {"action": "accept"} for key in json.loads(needed.payload)["inputRequests"]}
        resumed = one.front.resume(needed.header.interaction, json.dumps(responses).encode())
        await book.until(lambda: len(book.answers) == 1)
        book.held.set()
        assert (await resumed.done()).text == "s1: x"
        await book.until(lambda: book.ended == ["s1"])


# --- subscriptions ----------------------------------------------------------------------------------------------------
def updates(one: Backend) -> list[str]:
    return [header.uri for header in one.front.unexpected if isinstance(header, link.Updated)]


@pytest.mark.promise("R18")
@pytest.mark.case("D-07")
async def test_updates_reach_the_client_whose_session_they_come_on_and_nobody_else():
    book = Notebook()
    async with isolated(book) as one:
        await said(one, ALICE, "a")
        await said(one, BOB, "b")
        one.front.send(link.Watch(100, of_client(ALICE, "note:1")))
        one.front.send(link.Watch(101, of_client(BOB, "note:2")))
        one.front.send(link.Watch(102, of_client(CAROL, "note:1")))  # who has made no call yet
        await book.until(lambda: len(book.subscribed) == 3)
        assert book.subscribed == {"s1": ["note:1"], "s2": ["note:2"], "s3": ["note:1"]}

        for session in ("s2", "s1", "s0"):
            await book.say(session, {"method": UPDATED, "params": {"uri": "note:1"}})
        while not updates(one):
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert updates(one) == [of_client(ALICE, "note:1")]

        one.front.send(link.Unwatch(of_client(ALICE, "note:1")))
        await book.until(lambda: "-note:1" in book.subscribed["s1"])
        assert book.subscribed["s3"] == ["note:1"]
        one.front.unexpected.clear()


async def test_subscriptions_are_made_again_when_the_server_has_lost_the_session():
    book = Notebook()
    async with isolated(book) as one:
        one.front.send(link.Watch(100, of_client(ALICE, "note:1")))
        await book.until(lambda: book.subscribed["s1"] == ["note:1"])
        book.server.known_sessions.discard("s1")
        assert await said(one, ALICE, "a") == "s2: a"
        await book.until(lambda: book.subscribed["s2"] == ["note:1"])
        one.front.unexpected.clear()


# --- how many, and for how long ---------------------------------------------------------------------------------------
async def test_the_session_of_a_client_that_has_gone_is_ended_and_others_stay():
    book = Notebook()
    async with isolated(book) as one:
        await said(one, ALICE, "a")
        await said(one, BOB, "b1")
        one.front.send(link.ClientGone(ALICE))
        await book.until(lambda: book.ended == ["s1"])
        assert await said(one, BOB, "b2") == "s2: b1 b2"
        assert one.vitals[-1].sessions == 1


async def test_a_session_is_ended_when_it_was_idle_for_long_but_not_while_somebody_listens(mock_clock: MockClock):
    mock_clock.rate = 1.0
    book = Notebook()
    async with isolated(book, within_s=3 * SESSION_IDLE_S) as one:
        await said(one, ALICE, "a1")
        await said(one, BOB, "b1")
        one.front.send(link.Watch(100, of_client(BOB, "note:1")))
        await book.until(lambda: book.subscribed["s2"] == ["note:1"])
        mock_clock.jump(SESSION_IDLE_S)
        await book.until(lambda: "s1" in book.ended)

        assert await said(one, BOB, "b2") == "s2: b1 b2"
        assert "s2" not in book.ended
        assert await said(one, ALICE, "a2") == "s3: a2"
        one.front.unexpected.clear()


async def test_who_finds_all_sessions_taken_waits_a_little_and_is_told_the_limit(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(client_sessions, "QUEUE_DEADLINE_S", 0.1)
    book = Notebook()
    async with isolated(book, sessions_max=1) as one:
        held = call(one, ALICE, "a", "hold")
        await book.until(lambda: "s1" in book.notes)
        fault = (await call(one, BOB, "b").done()).fault
        assert (fault.code, fault.sent) == (OVERLOADED, False)
        assert 'server "main" has 1 sessions of single clients already' in fault.message
        assert "session_limit" in fault.message

        monkeypatch.setattr(client_sessions, "QUEUE_DEADLINE_S", 5.0)
        waiting = call(one, BOB, "b")
        book.held.set()
        await held.done()
        one.front.send(link.ClientGone(ALICE))
        assert (await waiting.done()).text == "s2: b"


async def test_a_session_that_is_idle_makes_room_if_another_client_needs_it(mock_clock: MockClock):
    mock_clock.rate = 1.0
    book = Notebook()
    async with isolated(book, sessions_max=2, within_s=2 * SESSION_SPARE_S) as one:
        await said(one, ALICE, "a")
        await said(one, BOB, "b1")
        mock_clock.jump(SESSION_SPARE_S)
        await said(one, BOB, "b2")
        assert await said(one, CAROL, "c") == "s3: c"
        assert book.ended == ["s1"]
        assert await said(one, BOB, "b3") == "s2: b1 b2 b3"
