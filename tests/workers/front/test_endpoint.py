"""What each method does, for clients of both eras, over HTTP by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio

from protocol import link
from protocol.errors import (
    HEADER_MISMATCH,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    OUTCOME_UNKNOWN,
    UNSUPPORTED_VERSION,
)
from protocol.versions import LEGACY_VERSIONS, Era
from tests import schemas
from tests.workers.scripted import META, MODERN, Front, Json, envelope, modern_params, modern_post, post, running_front

RESULT = {"content": [{"type": "text", "text": "hi"}]}


# --- opening ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("version", LEGACY_VERSIONS)
async def test_a_client_of_each_handshake_revision_gets_its_own_revision(front: Front, version: str):
    async with await front.client() as client:
        answer = await client.initialize(version)

    result = answer.json["result"]
    assert result["protocolVersion"] == version
    assert result["serverInfo"]["name"] == "mcp-bulkhead"
    assert result["capabilities"] == {"tools": {"listChanged": True}}
    assert client.session.startswith("mb1.")


async def test_a_client_of_an_unknown_revision_is_offered_the_newest(front: Front):
    async with await front.client() as client:
        answer = await client.initialize("2031-01-01")

    assert answer.json["result"]["protocolVersion"] == "2025-11-25"


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"protocolVersion": 7, "capabilities": {}, "clientInfo": {}},
        {"protocolVersion": "2025-11-25", "capabilities": [], "clientInfo": {}},
        {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": "me"},
    ],
)
@pytest.mark.case("A-13")
async def test_an_initialize_that_lacks_what_it_needs_says_so(front: Front, params: Json):
    async with await front.client() as client:
        await client.send(post(envelope("initialize", params, "x")))
        answer = await client.answer()

    assert answer.json["id"] == "x"
    assert answer.json["error"]["code"] == INVALID_PARAMS
    assert "mcp-session-id" not in answer.headers


async def test_instructions_of_all_servers_are_passed_on_under_their_names():
    async with running_front("main", "files") as front, await front.client() as client:
        front.servers["main"].state("ready", "be kind")
        front.servers["files"].state("ready", "be quick")
        await front.main.frame_round_trip()
        legacy = (await client.initialize()).json["result"]
        await client.modern("server/discover")
        modern = (await client.answer()).json["result"]

    assert legacy["instructions"] == modern["instructions"] == "## main\nbe kind\n\n## files\nbe quick"


async def test_discover_tells_a_stateless_client_what_it_needs(front: Front):
    async with await front.client() as client:
        await client.modern("server/discover")
        answer = await client.answer()

    assert answer.status == 200
    schemas.validate_answer(MODERN, "server/discover", answer.json)
    result = answer.json["result"]
    assert result["supportedVersions"] == [MODERN]
    assert result["_meta"][META + "serverInfo"]["name"] == "mcp-bulkhead"
    assert "mcp-session-id" not in answer.headers


async def test_a_session_is_initialized_once_and_pings_are_answered_here(front: Front):
    async with await front.client("2025-06-18") as client:
        await client.legacy("ping", request_id="p")
        assert (await client.answer()).json == {"jsonrpc": "2.0", "id": "p", "result": {}}
        await client.legacy("notifications/initialized", request_id=None)
        answer = await client.answer()
        assert (answer.status, answer.body) == (202, b"")

    assert front.main.calls == []


# --- methods ---------------------------------------------------------------------------------------------------------
@pytest.mark.case("A-11")
@pytest.mark.parametrize(
    "method", ["ping", "initialize", "logging/setLevel", "resources/subscribe", "nope", "x" * 10_000, "a\nb"]
)
async def test_methods_a_stateless_client_cannot_have_are_not_found(front: Front, method: str):
    async with await front.client() as client:
        header = {"mcp-method": method if method.isprintable() else ""}
        await client.send(modern_post(method, request_id=3, headers=header))
        answer = await client.answer()

    if not method.isprintable():  # a header cannot say it
        assert (answer.status, answer.json["error"]["code"]) == (400, HEADER_MISMATCH)
        return
    assert answer.status == 404
    assert answer.json["id"] == 3
    assert answer.json["error"]["code"] == METHOD_NOT_FOUND
    assert len(answer.json["error"]["message"]) < 150


@pytest.mark.case("A-11")
async def test_an_unknown_method_of_a_session_is_an_ordinary_error(front: Front):
    async with await front.client("2025-11-25") as client:
        await client.legacy("nope")
        answer = await client.answer()

    assert answer.status == 200
    assert answer.json["error"]["code"] == METHOD_NOT_FOUND


@pytest.mark.case("A-13")
@pytest.mark.parametrize(
    ("meta", "code"),
    [
        pytest.param({META + "protocolVersion": MODERN}, INVALID_PARAMS, id="no capabilities"),
        pytest.param({META + "clientCapabilities": {}}, INVALID_PARAMS, id="no version"),
        pytest.param({META + "protocolVersion": 7, META + "clientCapabilities": {}}, INVALID_PARAMS, id="no string"),
        pytest.param(
            {META + "protocolVersion": "2026-07-29", META + "clientCapabilities": {}}, HEADER_MISMATCH, id="differs"
        ),
    ],
)
async def test_meta_of_a_stateless_request_is_checked(front: Front, meta: Json, code: int):
    async with await front.client() as client:
        message = envelope("tools/list", {"_meta": meta}, "m")
        await client.send(post(message, {"mcp-protocol-version": MODERN, "mcp-method": "tools/list"}))
        answer = await client.answer()

    assert (answer.status, answer.json["id"], answer.json["error"]["code"]) == (400, "m", code)


@pytest.mark.case("A-13")
async def test_an_unknown_revision_is_told_which_ones_there_are(front: Front):
    async with await front.client() as client:
        params = {"_meta": {META + "protocolVersion": "2027-01-01", META + "clientCapabilities": {}}}
        headers = {"mcp-protocol-version": "2027-01-01", "mcp-method": "tools/list"}
        await client.send(post(envelope("tools/list", params), headers))
        answer = await client.answer()

    assert answer.status == 400
    assert answer.json["error"]["code"] == UNSUPPORTED_VERSION
    assert answer.json["error"]["data"] == {"supported": [MODERN], "requested": "2027-01-01"}


@pytest.mark.case("A-12")
@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"mcp-method": "tools/list"}, id="another method"),
        pytest.param({"mcp-method": "TOOLS/CALL"}, id="another case"),
        pytest.param({"mcp-method": ""}, id="no method"),
        pytest.param({"mcp-name": "main__other"}, id="another name"),
        pytest.param({"mcp-name": ""}, id="no name"),
        pytest.param({"mcp-name": "=?base64?!!!?="}, id="a broken sentinel"),
        pytest.param({"mcp-protocol-version": "2026-07-29"}, id="another version"),
        pytest.param({"mcp-protocol-version": "2025-11-25"}, id="a version of the other era"),
        pytest.param({"mcp-name": "main__echo\r\nmcp-name: main__echo"}, id="a name twice"),
        pytest.param({"mcp-protocol-version": f"{MODERN}\r\nmcp-protocol-version: {MODERN}"}, id="a version twice"),
        pytest.param({"mcp-protocol-version": f"2025-11-25\r\nmcp-protocol-version: {MODERN}"}, id="two versions"),
    ],
)
async def test_a_header_that_differs_from_the_body_stops_the_call(front: Front, headers: dict[str, str]):
    async with await front.client() as client:
        await client.send(modern_post("tools/call", {"name": "main__echo"}, 5, headers))
        answer = await client.answer()
        await client.modern_call()
        await front.main.call()

    assert (answer.status, answer.json["id"], answer.json["error"]["code"]) == (400, 5, HEADER_MISMATCH)
    assert front.main.calls == [], "only the good one came through"


@pytest.mark.parametrize(
    ("params", "code"),
    [
        pytest.param({"name": "main__othr"}, HEADER_MISMATCH, id="another name"),
        pytest.param({}, HEADER_MISMATCH, id="no name"),
        pytest.param({"_meta": {}}, INVALID_PARAMS, id="an empty _meta"),
        pytest.param({"_meta": None}, INVALID_PARAMS, id="a null as _meta"),
    ],
)
async def test_a_head_that_has_agreed_is_compared_again_with_whatever_else_a_body_says(
    front: Front, params: dict[str, Any], code: int
):
    good = modern_post("tools/call", {"name": "main__echo"}, 5)
    head, _, body = good.partition(b"\r\n\r\n")
    said = json.loads(body)
    if "_meta" in params:
        said["params"] |= params
    else:
        said["params"] = {"_meta": said["params"]["_meta"], **params}
    other = json.dumps(said).encode().ljust(len(body))
    async with await front.client() as client:
        for _ in range(3):
            await client.send(good)
            call, _ = await front.main.call()
            assert call.name == "echo"
            front.main.answer(call, RESULT)
            assert (await client.answer()).status == 200
        await client.send(head + b"\r\n\r\n" + other)
        answer = await client.answer()

    assert answer.json["error"]["code"] == code
    assert front.main.calls == []


async def test_a_name_no_header_can_hold_is_compared_in_its_coded_form(front: Front):
    async with await front.client() as client:
        await client.send(
            modern_post("tools/call", {"name": "main__größe"}, headers={"mcp-name": "=?base64?bWFpbl9fZ3LDtsOfZQ==?="})
        )
        call, params = await front.main.call()

    assert call.name == params["name"] == "größe"


# --- calls -----------------------------------------------------------------------------------------------------------
async def test_a_call_reaches_its_server_with_everything_the_client_said(front: Front):
    async with await front.client() as client:
        params = {"name": "main__echo", "arguments": {"a": [1, 2.50, None]}, "unknown": "kept"}
        meta = {"progressToken": "7", "trace": {"x": 1}, META + "clientInfo": {"name": "c"}, META + "logLevel": "error"}
        await client.modern("tools/call", params, "id-1", **meta)
        call, sent = await front.main.call()
        front.main.answer(call, b'{"content":[],"odd":1.50,"resultType":"complete"}')
        answer = await client.answer()

    assert sent == {"name": "echo", "arguments": {"a": [1, 2.5, None]}, "unknown": "kept"}
    assert (call.era, call.method, call.name, call.progress, call.log_level) == (
        Era.MODERN,
        "tools/call",
        "echo",
        True,
        "error",
    )
    assert json.loads(b"{%b}" % call.meta) == {"trace": {"x": 1}}
    assert json.loads(call.client_info) == {"name": "c"}
    assert 59 < call.timeout_s <= 60
    assert answer.body == b'{"jsonrpc":"2.0","id":"id-1","result":{"content":[],"odd":1.50,"resultType":"complete"}}'


async def test_a_call_of_a_session_carries_what_its_client_said_when_it_initialized(front: Front):
    async with await front.client("2025-03-26") as client:
        await client.call(task={"ttl": 1}, _meta={"progressToken": 7})
        call, sent = await front.main.call()
        front.main.answer(call, RESULT)
        answer = await client.answer()

    assert (call.era, call.progress) == (Era.LEGACY, True)
    assert json.loads(call.client_info) == {"name": "test", "version": "1"}
    assert "task" not in sent, "tasks are not served yet"
    assert "_meta" not in sent
    assert answer.json["result"] == RESULT


@pytest.mark.case("A-06")
@pytest.mark.parametrize(
    "request_id", ["7", "-0", '"7"', '""', '"\\u0041\\n"', "18446744073709551616", "-9223372036854775809"]
)
async def test_ids_come_back_exactly_as_they_were_sent(front: Front, request_id: str):
    async with await front.client("2025-11-25") as client:
        body = b'{"jsonrpc":"2.0","id":%b,"method":"tools/call","params":{"name":"main__echo"}}' % request_id.encode()
        await client.send(post(body, client.legacy_headers))
        call, _ = await front.main.call()
        front.main.answer(call, RESULT)

        assert (await client.answer()).body.startswith(b'{"jsonrpc":"2.0","id":%b,"result":' % request_id.encode())


@pytest.mark.case("A-30")
@pytest.mark.parametrize(
    "name",
    [
        "", "echo", "other__echo", "main", "main__", "__echo", "MAIN__echo", "main_echo", "../main__echo",
        "main \x00__echo", "x" * 1_000_000,
    ],
)  # fmt: skip
async def test_a_name_that_belongs_to_no_server_reaches_none(name: str):
    async with running_front("main", "files") as front, await front.client("2025-11-25") as client:
        await client.call(name)
        answer = await client.answer()

        assert answer.json["error"]["code"] == INVALID_PARAMS
        assert len(answer.body) < 600
        assert front.servers["main"].calls == front.servers["files"].calls == []


async def test_a_misspelled_name_is_answered_with_the_nearest_ones(front: Front):
    async with await front.client("2025-11-25") as client:
        await client.legacy("tools/list")
        await client.answer()
        await client.call("mian__echo")
        answer = await client.answer()

    assert answer.json["error"]["message"] == "Tool 'mian__echo' not found; did you mean main__echo?"


@pytest.mark.parametrize(("name", "own"), [("files__read", "read"), ("files.read", "read"), ("files__a__b", "a__b")])
async def test_a_public_name_finds_its_server(name: str, own: str):
    async with running_front("main", "files") as front, await front.client() as client:
        await client.modern_call(name)
        call, params = await front.servers["files"].call()

    assert call.name == params["name"] == own


async def test_parameters_of_a_call_must_name_a_tool(front: Front):
    async with await front.client("2025-11-25") as client:
        for params in ({}, {"name": 7}, {"name": None}):
            await client.legacy("tools/call", params)
            assert (await client.answer()).json["error"]["code"] == INVALID_PARAMS


async def test_an_unknown_log_level_is_refused(front: Front):
    async with await front.client() as client:
        await client.modern_call(**{META + "logLevel": "loud"})
        answer = await client.answer()

    assert (answer.status, answer.json["error"]["code"]) == (400, INVALID_PARAMS)


# --- between the eras ------------------------------------------------------------------------------------------------
async def test_a_result_of_the_other_eras_leg_is_put_into_the_clients_shape(front: Front):
    async with await front.client("2025-11-25") as client:
        await client.call(request_id=1)
        call, _ = await front.main.call()
        front.main.answer(call, {**RESULT, "resultType": "complete", "ttlMs": 5}, era=Era.MODERN)
        assert (await client.answer()).json["result"] == RESULT

        await client.modern_call(request_id=2)
        call, _ = await front.main.call()
        front.main.answer(call, RESULT, era=Era.LEGACY)
        assert (await client.answer()).json["result"] == {**RESULT, "resultType": "complete"}


async def test_a_result_that_cannot_be_put_into_the_clients_shape_ends_that_call_only(front: Front):
    async with await front.client("2025-11-25") as client, await front.client() as other:
        await other.modern_call()
        waiting, _ = await front.main.call()
        await client.call()
        call, _ = await front.main.call()
        front.main.answer(call, {"resultType": "input_required", "requestState": "x"}, era=Era.MODERN)
        assert (await client.answer()).json["error"]["code"] == INTERNAL_ERROR

        front.main.answer(waiting, b"[]", era=Era.LEGACY)
        assert (await other.answer()).json["error"]["code"] == INTERNAL_ERROR
        assert front.main.closed == []


async def test_errors_of_a_server_reach_each_era_in_its_own_words(front: Front):
    async with await front.client("2025-11-25") as client:
        await client.call()
        call, _ = await front.main.call()
        error = {"code": -32021, "message": "no", "data": {"requiredCapabilities": {"sampling": {}}}}
        front.main.send(link.Fault(call.id, -32021, "no", True, 0, Era.MODERN), error)
        answer = await client.answer()

    assert answer.json["error"]["code"] == INTERNAL_ERROR
    assert "sampling" in answer.json["error"]["message"]


async def test_an_error_of_the_server_itself_passes_unchanged(front: Front):
    error = {"code": -32050, "message": "odd", "data": {"deep": [1, None]}}
    async with await front.client() as client:
        await client.modern_call()
        call, _ = await front.main.call()
        front.main.fault(call, -32050, "odd", sent=True, error=error)
        answer = await client.answer()

    assert (answer.status, answer.json["error"]) == (200, error)


async def test_a_fault_of_the_proxy_says_which_server_and_whether_to_try_again(front: Front):
    async with await front.client() as client:
        for sent, retryable in ((True, False), (False, True)):
            await client.modern_call()
            call, _ = await front.main.call()
            front.main.send(link.Fault(call.id, -31003, "too slow", sent, 250, Era.MODERN))
            error = (await client.answer()).json["error"]
            assert error["data"] == {"server": "main", "sent": sent, "retryable": retryable, "retryAfterMs": 250}


# --- what precedes an answer -----------------------------------------------------------------------------------------
async def test_progress_comes_with_the_clients_own_token_before_the_answer(front: Front):
    for token in (7, "7", "x"):
        async with await front.client() as client:
            await client.modern_call(progressToken=token)
            call, _ = await front.main.call()
            front.main.notify(call, "notifications/progress", {"progressToken": "b1-1", "progress": 0.5})
            front.main.notify(call, "notifications/message", b'{"level":"info",\r\n"data":1}')
            front.main.answer(call, b'{"content":[]\n}')
            answer = await client.answer()

        assert [event.get("method") for event in answer.events] == [
            "notifications/progress",
            "notifications/message",
            None,
        ]
        assert answer.events[0]["params"] == {"progressToken": token, "progress": 0.5}
        assert answer.final == {"jsonrpc": "2.0", "id": 1, "result": {"content": []}}


@pytest.mark.case("A-26", "D-07")
async def test_a_progress_token_used_by_many_calls_reports_to_each_its_own(front: Front):
    session = await front.client("2025-11-25")
    clients = [session, await front.client(), await front.client("2025-11-25")]
    clients[1].session, clients[1].version = session.session, session.version
    for client in clients:
        await client.call(request_id=1, _meta={"progressToken": "t"})
    calls = [(await front.main.call())[0] for _ in clients]
    for number, call in enumerate(calls):
        front.main.notify(call, "notifications/progress", {"progressToken": f"b1-{number}", "progress": number})
    for call in calls:
        front.main.answer(call, RESULT)

    for number, client in enumerate(clients):
        (progress, _) = (await client.answer()).events
        assert progress["params"] == {"progressToken": "t", "progress": number}


async def test_progress_nobody_asked_for_is_dropped(front: Front):
    async with await front.client() as client:
        await client.modern_call()
        call, _ = await front.main.call()
        front.main.notify(call, "notifications/progress", {"progressToken": "b1-1", "progress": 0.5})
        front.main.answer(call, RESULT)

        assert not (await client.answer()).is_stream


async def test_a_malformed_event_of_a_worker_harms_nothing(front: Front):
    async with await front.client() as client:
        await client.modern_call(progressToken=1)
        call, _ = await front.main.call()
        front.main.notify(call, "notifications/progress", b"[1]")
        front.main.answer(call, RESULT)

        assert (await client.answer()).final["result"] == RESULT
    assert front.main.closed == []
    assert len(front.log.take_errors()) == 1


# --- cancelling ------------------------------------------------------------------------------------------------------
async def test_a_cancelled_call_is_withdrawn_and_its_request_ends_without_an_answer(front: Front):
    async with await front.client("2025-11-25") as client, await front.client() as canceller:
        canceller.session, canceller.version = client.session, client.version
        await client.call(request_id="c")
        call, _ = await front.main.call()
        await canceller.legacy("notifications/cancelled", {"requestId": "c", "reason": "bored"}, request_id=None)
        assert (await canceller.answer()).status == 202

        assert await front.main.frame(link.Cancel) == link.Cancel(call.id, "bored")
        answer = await client.answer()
        assert (answer.status, answer.is_stream, answer.events) == (200, True, [])

        front.main.answer(call, RESULT)  # too late
        await client.legacy("ping", request_id=2)
        assert (await client.answer()).json["id"] == 2


@pytest.mark.case("A-26")
@pytest.mark.parametrize("named", ['"unknown"', '"7"', "7.0", "null", "[]", "{}", "true"])
async def test_cancelling_what_is_not_in_flight_changes_nothing(front: Front, named: str):
    async with await front.client("2025-11-25") as client, await front.client() as canceller:
        canceller.session, canceller.version = client.session, client.version
        await client.call(request_id=7)
        call, _ = await front.main.call()
        body = b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":%b}}' % named.encode()
        await canceller.send(post(body, canceller.legacy_headers))
        assert (await canceller.answer()).status == 202

        front.main.answer(call, RESULT)
        assert (await client.answer()).json["result"] == RESULT


@pytest.mark.case("A-26", "D-08")
async def test_nobody_can_cancel_calls_of_another_session(front: Front):
    async with await front.client("2025-11-25") as victim, await front.client("2025-11-25") as stranger:
        await victim.call(request_id=1)
        call, _ = await front.main.call()
        await stranger.legacy("notifications/cancelled", {"requestId": 1}, request_id=None)
        assert (await stranger.answer()).status == 202

        front.main.answer(call, RESULT)
        assert (await victim.answer()).json["result"] == RESULT
        assert not [frame for frame in front.main.frames if isinstance(frame, link.Cancel)]


# --- who gets what ---------------------------------------------------------------------------------------------------
@pytest.mark.case("A-07", "D-07")
@pytest.mark.promise("R18", "R04")
async def test_one_id_in_flight_many_times_gets_every_answer_to_its_own_request(front: Front):
    """The same id on one session over several connections, in other sessions, and without any, ended in odd order."""
    async with trio.open_nursery() as nursery:
        first = await front.client("2025-11-25")
        same_session = await front.client()
        same_session.session, same_session.version = first.session, first.version
        clients = [first, same_session, await front.client("2025-11-25"), await front.client("2025-03-26")]
        stateless = [await front.client() for _ in range(3)]
        for number, client in enumerate(clients):
            await client.call(request_id=1, marker=number)
        for number, client in enumerate(stateless, len(clients)):
            await client.send(modern_post("tools/call", {"name": "main__echo", "marker": number}, 1))
        everybody = clients + stateless
        calls = [await front.main.call() for _ in everybody]
        assert len({call.id for call, _ in calls}) == len(everybody)
        for call, params in sorted(calls, key=lambda one: -one[1]["marker"] % 3):
            front.main.answer(call, {"content": [], "marker": params["marker"]})

        for number, client in enumerate(everybody):
            answer = await client.answer()
            assert (answer.json["id"], answer.json["result"]["marker"]) == (1, number)
            await client.close()
        nursery.cancel_scope.cancel()


@pytest.mark.case("C-01")
@pytest.mark.promise("R04")
async def test_calls_under_way_when_their_worker_dies_are_answered_once_with_what_is_known(front: Front):
    async with await front.client("2025-11-25") as client, await front.client() as stateless:
        await client.call(request_id="a")
        await stateless.modern_call(request_id="b")
        for _ in range(2):
            await front.main.call()
        front.main.die()
        for one, request_id in ((client, "a"), (stateless, "b")):
            answer = await one.answer()
            assert answer.json["id"] == request_id
            assert answer.json["error"]["code"] == OUTCOME_UNKNOWN
            assert answer.json["error"]["data"] == {"server": "main", "sent": True, "retryable": False}
        front.main.attach(front.worker)
        await client.call(request_id="c")
        call, _ = await front.main.call()
        front.main.answer(call, RESULT)

        assert (await client.answer()).json["id"] == "c"


@pytest.mark.case("A-25")
async def test_no_notification_is_ever_answered(front: Front):
    async with await front.client("2025-11-25") as client:
        for message in (
            envelope("notifications/initialized", request_id=None),
            envelope("notifications/unknown", {"x": 1}, request_id=None),
            envelope("notifications/cancelled", {}, request_id=None),
            envelope("tools/call", {"name": "main__echo"}, request_id=None),
            {"jsonrpc": "2.0", "id": 5, "result": {}},
        ):
            await client.send(post(message, client.legacy_headers))
            answer = await client.answer()
            assert (answer.status, answer.body) == (202, b""), message
        await client.send(post(envelope("notifications/x", modern_params(), None), {"mcp-protocol-version": MODERN}))
        assert (await client.answer()).status == 202
        await client.send(post({"jsonrpc": "2.0", "id": 5, "result": {}}, {"mcp-protocol-version": MODERN}))
        answer = await client.answer()
        assert (answer.status, answer.json["error"]["code"]) == (400, INVALID_REQUEST)

    assert front.main.calls == []
