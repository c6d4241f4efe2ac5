"""Arrays of messages, which only 2025-03-26 has."""

from __future__ import annotations

import json

import pytest
from trio.testing import MockClock, wait_all_tasks_blocked

from protocol import link
from protocol.errors import INVALID_REQUEST, METHOD_NOT_FOUND, OUTCOME_UNKNOWN
from protocol.limits import BATCH_MESSAGES_MAX, STREAM_KEEP_ALIVE_S
from tests.workers.scripted import MODERN, Client, Front, Json, advance, envelope, http, post

RESULT: Json = {"content": []}


def call(request_id: object, **params: object) -> Json:
    return envelope("tools/call", {"name": "main__echo", **params}, request_id)


async def batch(client: Client, *messages: object) -> None:
    await client.send(post(json.dumps(messages).encode(), client.legacy_headers))


def by_id(messages: list[Json]) -> dict[object, Json]:
    return {message["id"]: message for message in messages}


async def test_every_request_of_an_array_is_answered_in_one_array(front: Front):
    async with await front.client("2025-03-26") as client:
        await batch(
            client, call(1), envelope("ping", request_id="p"), call("1"), envelope("notifications/x", request_id=None),
            envelope("nope", request_id=4), {"jsonrpc": "2.0", "id": 9, "result": {}}, {"jsonrpc": "2.0", "id": 5},
            envelope("tools/list", request_id=6),
        )  # fmt: skip
        calls = [await front.main.call() for _ in range(2)]
        for one, _ in reversed(calls):
            front.main.answer(one, {"marker": one.id})
        answer = await client.answer()

    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    answers = by_id(answer.json)
    assert len(answers) == len(answer.json) == 6
    assert (answers[1]["result"]["marker"], answers["1"]["result"]["marker"]) == (calls[0][0].id, calls[1][0].id)
    assert answers["p"]["result"] == {}
    assert answers[4]["error"]["code"] == METHOD_NOT_FOUND
    assert answers[5]["error"]["code"] == INVALID_REQUEST
    assert answers[6]["result"]["tools"][0]["name"] == "main__echo"


async def test_an_array_of_notifications_is_accepted_without_an_answer(front: Front):
    async with await front.client("2025-03-26") as client:
        await batch(client, *[envelope("notifications/x", request_id=None)] * 3)
        answer = await client.answer()

    assert (answer.status, answer.body) == (202, b"")


@pytest.mark.case("A-04")
@pytest.mark.parametrize("count", [0, BATCH_MESSAGES_MAX + 1, 1000])
async def test_an_array_of_the_wrong_length_is_refused_and_nothing_is_executed(front: Front, count: int):
    async with await front.client("2025-03-26") as client:
        await batch(client, *(call(number) for number in range(count)))
        answer = await client.answer()
        assert (answer.status, answer.json["error"]["code"]) == (400, INVALID_REQUEST)
        await client.legacy("ping")
        assert (await client.answer()).status == 200

    assert front.main.calls == []


@pytest.mark.case("A-04")
@pytest.mark.parametrize("version", ["2024-11-05", "2025-06-18", "2025-11-25", MODERN])
@pytest.mark.parametrize("count", [0, 1, 1000])
async def test_clients_of_other_revisions_have_no_arrays(front: Front, version: str, count: int):
    async with await front.client(None if version == MODERN else version) as client:
        headers = {"mcp-protocol-version": MODERN} if version == MODERN else client.legacy_headers
        await client.send(post([call(number) for number in range(count)], headers))
        answer = await client.answer()

    assert (answer.status, answer.json["error"]["code"]) == (400, INVALID_REQUEST)
    assert front.main.calls == []


async def test_an_initialize_inside_an_array_is_refused(front: Front):
    async with await front.client("2025-03-26") as client:
        await batch(client, envelope("initialize", {"protocolVersion": "2025-03-26"}))

        assert (await client.answer()).json[0]["error"]["code"] == INVALID_REQUEST


async def test_once_something_precedes_an_answer_all_come_on_the_stream(front: Front):
    async with await front.client("2025-03-26") as client:
        await batch(client, envelope("ping", request_id="p"), call(1, _meta={"progressToken": "t"}), call(2))
        calls = [(await front.main.call())[0] for _ in range(2)]
        front.main.notify(calls[0], "notifications/progress", {"progressToken": "b", "progress": 1})
        front.main.answer(calls[1], RESULT)
        front.main.answer(calls[0], RESULT)
        answer = await client.answer()

    assert answer.is_stream
    assert answer.events[0]["params"] == {"progressToken": "t", "progress": 1}
    assert sorted(map(str, by_id(answer.events[1:]))) == ["1", "2", "p"]


async def test_an_array_that_takes_long_is_kept_alive_and_its_answers_come_on_the_stream(
    mock_clock: MockClock, front: Front
):
    async with await front.client("2025-03-26") as client:
        await batch(client, envelope("ping", request_id="p"), call(1))
        one, _ = await front.main.call()
        await advance(mock_clock, STREAM_KEEP_ALIVE_S + 2)
        front.main.answer(one, RESULT)
        answer = await client.answer()

    assert answer.comments == 1
    assert by_id(answer.events) == {
        "p": {"jsonrpc": "2.0", "id": "p", "result": {}},
        1: {"jsonrpc": "2.0", "id": 1, "result": RESULT},
    }


async def test_answers_with_line_ends_in_them_do_not_split_the_stream(front: Front):
    async with await front.client("2025-03-26") as client:
        await batch(client, call(1), call(2))
        calls = [(await front.main.call())[0] for _ in range(2)]
        front.main.answer(calls[0], b'{"a":\r\n1}')
        front.main.notify(calls[1], "notifications/message", b'{"a":\n2}')
        front.main.answer(calls[1], b'{"a":\r3}')
        answer = await client.answer()

    assert [event.get("result") for event in answer.events] == [None, {"a": 3}, {"a": 1}]


async def test_notifications_are_left_out_while_the_client_does_not_read(front: Front):
    """There is one stream for all requests of the array, so no single one can be held back."""
    async with await front.client("2025-03-26") as client:
        await batch(client, call(1))
        one, _ = await front.main.call()
        for _ in range(300):
            front.main.notify(one, "notifications/message", b'{"data":"%b"}' % (b"x" * 100_000))
        await wait_all_tasks_blocked()
        (connection,) = front.worker._connections
        assert connection.stream.buffered < 2_000_000
        front.main.answer(one, RESULT)
        answer = await client.answer()

    assert 1 < len(answer.events) < 300
    assert answer.final["result"] == RESULT


async def test_a_cancelled_request_of_an_array_leaves_no_answer(front: Front):
    async with await front.client("2025-03-26") as client, await front.client() as canceller:
        canceller.session, canceller.version = client.session, client.version
        await batch(client, call(1), call(2))
        calls = [(await front.main.call())[0] for _ in range(2)]
        await canceller.legacy("notifications/cancelled", {"requestId": 1}, request_id=None)
        assert (await front.main.frame(link.Cancel)).id == calls[0].id
        front.main.answer(calls[1], RESULT)

        assert list(by_id((await client.answer()).json)) == [2]


@pytest.mark.parametrize("how", ["delete", "death"])
async def test_an_array_ends_when_all_of_it_does(front: Front, how: str):
    async with await front.client("2025-03-26") as client, await front.client() as deleter:
        await batch(client, call(1), call(2))
        for _ in range(2):
            await front.main.call()
        if how == "death":
            front.main.die()
            answers = (await client.answer()).json
            assert [answer["error"]["code"] for answer in answers] == [OUTCOME_UNKNOWN] * 2
        else:
            await deleter.send(http("DELETE", client.legacy_headers))
            assert (await deleter.answer()).status == 200
            assert (await client.answer()).events == []


@pytest.mark.case("A-07")
async def test_an_id_that_is_used_twice_in_an_array_is_answered_twice(front: Front):
    async with await front.client("2025-03-26") as client:
        await batch(client, call(1, marker="a"), call(1, marker="b"))
        for _ in range(2):
            one, params = await front.main.call()
            front.main.answer(one, {"marker": params["marker"]})
        answers = (await client.answer()).json

    assert sorted((answer["id"], answer["result"]["marker"]) for answer in answers) == [(1, "a"), (1, "b")]
