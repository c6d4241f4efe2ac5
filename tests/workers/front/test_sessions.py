"""Sessions of legacy clients: who has one, who does not, and what ends with it."""

from __future__ import annotations

from typing import Any

import pytest

from protocol import link
from protocol.control import EndedSessions, SessionEnded
from tests.workers.scripted import KEY, Client, Front, envelope, http, post, running_front
from workers.front import sessions as sessions_module
from workers.front.calls import FrontCall
from workers.front.kept_streams import KeptStreams
from workers.front.sessions import Session, Sessions

RESULT = {"content": []}


class Stream:
    """A client's channel."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.ended = False

    def send(self, message: bytes) -> None:
        self.sent.append(message)

    def end(self) -> None:
        self.ended = True


class _Idle:
    """A reactor in which nothing happens."""

    now = 0.0

    def every(self, *_: Any) -> Any:
        return self

    def wake(self) -> None: ...


def opened(*, key: bytes = KEY, ended: list[str] | None = None) -> tuple[Sessions, list[str]]:
    told: list[str] = []
    return Sessions(key, ended or [], told.append, noted=lambda note: None, kept=KeptStreams(_Idle())), told


def open_one(sessions: Sessions) -> Session:
    return sessions.open("2025-11-25", b"{}", b'{"name":"x"}')


# --- the table -------------------------------------------------------------------------------------------------------
def test_a_session_is_found_by_its_id_and_by_any_front_with_the_same_key():
    sessions, _ = opened()
    session = open_one(sessions)
    other_front, _ = opened()
    stranger, _ = opened(key=bytes(32))

    assert sessions.find(session.id) is session
    found = other_front.find(session.id)
    assert found is not None
    assert found.facts == session.facts
    assert other_front.find(session.id) is found
    assert stranger.find(session.id) is None


@pytest.mark.case("D-08")
def test_no_two_sessions_have_one_id_and_a_changed_id_is_unknown():
    sessions, _ = opened()
    session = open_one(sessions)
    assert open_one(sessions).id != session.id

    for at in range(0, len(session.id), 7):
        forged = session.id[:at] + ("A" if session.id[at] != "A" else "B") + session.id[at + 1 :]
        assert sessions.find(forged) is None
    for forged in ("", session.id[:-1], session.id + "A", session.id.upper(), session.id + "="):
        assert sessions.find(forged) is None


def test_an_ended_session_stays_ended_also_on_the_next_front():
    sessions, told = opened()
    session = open_one(sessions)
    sessions.end(session)
    assert sessions.find(session.id) is None
    assert told == [session.id]

    next_front, _ = opened(ended=told)
    assert next_front.find(session.id) is None


def test_only_so_many_sessions_are_remembered_and_the_others_are_still_good(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sessions_module, "SESSIONS_KEPT_MAX", 10)
    sessions, _ = opened()
    busy = open_one(sessions)
    sessions.set_stream(busy, Stream())
    many = [open_one(sessions) for _ in range(100)]

    assert len(sessions._known) == 10
    assert sessions.find(busy.id) is busy, "a session in use is never forgotten"
    assert [session.is_known for session in many].count(True) == 9
    assert all(session.is_known is (sessions._known.get(session.id) is session) for session in many)
    assert all(sessions.find(session.id) is not None for session in many)
    assert len(sessions._known) == 10


def test_only_so_many_ended_sessions_are_remembered(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sessions_module, "ENDED_KEPT_MAX", 10)
    sessions, _ = opened()
    ended = [open_one(sessions) for _ in range(30)]
    for session in ended:
        sessions.end(session)

    assert len(sessions._ended) == 10
    assert sessions.find(ended[-1].id) is None


def test_a_message_for_all_goes_to_each_open_channel_once():
    sessions, _ = opened()
    first, second, third = (open_one(sessions) for _ in range(3))
    old, new, other, gone = Stream(), Stream(), Stream(), Stream()
    sessions.set_stream(first, old)
    sessions.set_stream(first, new)
    sessions.set_stream(second, other)
    sessions.set_stream(third, gone)
    sessions.stream_gone(third, gone)
    sessions.stream_gone(first, old)  # it has been replaced before
    sessions.broadcast(b"news")

    assert (old.ended, new.ended) == (True, False)
    assert [stream.sent for stream in (old, new, other, gone)] == [[], [b"news"], [b"news"], []]
    sessions.end(first)
    assert new.ended
    sessions.broadcast(b"more")
    assert new.sent == [b"news"]


# --- over HTTP -------------------------------------------------------------------------------------------------------
async def use(client: Client, session: str) -> int:
    """Return the status of a ping with this session id."""
    headers = {"mcp-session-id": session, "mcp-protocol-version": "2025-11-25"}
    await client.send(post(envelope("ping"), headers))
    return (await client.answer()).status


@pytest.mark.case("D-08")
async def test_without_a_session_of_ours_nothing_is_served(front: Front):
    async with await front.client() as client:
        await client.send(post(envelope("tools/call", {"name": "main__echo"}, "n")))
        missing = await client.answer()
        assert (missing.status, missing.json["id"], missing.json["error"]["code"]) == (400, "n", -32600)
        for session in ("mb1.AAAA", "x" * 5000, "mb1.\xff", "null"):
            assert await use(client, session) == 404
    assert front.main.calls == []


async def test_two_session_ids_are_none(front: Front):
    async with await front.client("2025-11-25") as client:
        assert await use(client, f"{client.session}\r\nmcp-session-id: {client.session}") == 404
        assert await use(client, client.session) == 200


async def test_a_session_survives_its_front():
    async with running_front() as front, await front.client("2025-06-18") as client:
        session = client.session
    async with running_front() as front, await front.client() as client:
        assert await use(client, session) == 200
    async with running_front(ended_sessions=[session]) as front, await front.client() as client:
        assert await use(client, session) == 404
    async with running_front(session_key=bytes(32)) as front, await front.client() as client:
        assert await use(client, session) == 404


async def test_deleting_a_session_cancels_its_calls_ends_its_stream_and_is_reported(front: Front):
    async with (
        await front.client("2025-11-25") as client,
        await front.client() as listener,
        await front.client() as deleter,
    ):
        await client.call(request_id="c")
        call, _ = await front.main.call()
        await listener.send(http("GET", {**client.legacy_headers, "accept": "text/event-stream"}))
        assert (await listener.head()).status == 200

        await deleter.send(http("DELETE", client.legacy_headers))
        assert (await deleter.answer()).status == 200

        assert (await front.main.frame(link.Cancel)).id == call.id
        assert (await client.answer()).events == []
        await listener.stream_ended()
        assert front.reports == [SessionEnded(client.session)]
        for one in (client, listener, deleter):
            assert await use(one, client.session) == 404
        await deleter.send(http("DELETE", client.legacy_headers))
        assert (await deleter.answer()).status == 404
        front.main.answer(call, RESULT)  # too late
        assert await use(client, client.session) == 404


async def test_a_connection_in_use_learns_that_its_session_has_ended_on_another(front: Front):
    async with await front.client("2025-11-25") as client, await front.client() as deleter:
        for _ in range(3):
            await client.legacy("ping")
            assert (await client.answer()).status == 200
        await deleter.send(http("DELETE", client.legacy_headers))
        assert (await deleter.answer()).status == 200

        await client.legacy("ping")
        assert (await client.answer()).status == 404


async def test_deleting_one_session_leaves_the_others_alone(front: Front):
    async with await front.client("2025-11-25") as client, await front.client("2025-11-25") as other:
        await other.call()
        call, _ = await front.main.call()
        await client.send(http("DELETE", client.legacy_headers))
        assert (await client.answer()).status == 200
        front.main.answer(call, RESULT)

        assert (await other.answer()).json["result"] == RESULT


async def test_a_finished_call_is_not_kept(front: Front):
    async with await front.client("2025-11-25") as client:
        for ending in ("result", "fault", "cancel"):
            await client.call(request_id=ending)
            call, _ = await front.main.call()
            session = front.worker._sessions.find(client.session)
            assert session is not None
            assert isinstance(session.in_flight[b'"%b"' % ending.encode()], FrontCall)
            if ending == "cancel":
                async with await front.client() as canceller:
                    canceller.session, canceller.version = client.session, client.version
                    await canceller.legacy("notifications/cancelled", {"requestId": ending}, request_id=None)
                    await canceller.answer()
            elif ending == "fault":
                front.main.fault(call, -32603, "no", sent=True)
            else:
                front.main.answer(call, RESULT)
            await client.answer()
            assert session.in_flight == {}


async def test_a_session_that_ended_at_another_front_is_not_known_any_more_and_lets_go_of_its_calls(front: Front):
    async with await front.client("2025-11-25") as client, await front.client("2025-11-25") as other:
        await client.call()
        call, _ = await front.main.call()
        front.worker.obey(EndedSessions([client.session, "mb1.unheard-of"]))

        assert (await front.main.frame(link.Cancel)).id == call.id
        answer = await client.answer()
        assert (answer.status, answer.events) == (200, [])
        await client.legacy("ping")
        assert (await client.answer()).status == 404
        await other.legacy("ping")
        assert (await other.answer()).status == 200
        assert front.reports == [], "the root knows already"
