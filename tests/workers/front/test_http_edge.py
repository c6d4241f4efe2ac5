"""From an HTTP request to a message of the right era: what is refused, with which status, and what is let through."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from protocol.errors import INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND, PARSE_ERROR, UNSUPPORTED_VERSION
from protocol.limits import BODY_BYTES_MAX
from tests.workers.scripted import MODERN, Front, Json, envelope, http, modern_params, modern_post, post
from workers.front.http_edge import _accepts, _is_json

CORPUS = Path(__file__).parents[2] / "corpus" / "jsonrpc"
RESULT: Json = {"content": []}
CALL: Json = {"name": "main__echo", "arguments": {}}
HEADERS = {"mcp-protocol-version": MODERN, "mcp-method": "tools/call", "mcp-name": "main__echo"}
BOTH = ["legacy", "modern"]


def nested(levels: int, *, closed: bool = True) -> bytes:
    return b'{"a":' * levels + b"1" + b"}" * (levels if closed else 0)


def call_with(arguments: bytes) -> bytes:
    meta = json.dumps(modern_params()["_meta"]).encode()
    return (
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"main__echo","_meta":%b,"arguments":%b}}'
        % (
            meta,
            arguments,
        )
    )


async def refused(front: Front, body: bytes, era: str = "modern") -> tuple[int, int]:
    """Return status and code a body is refused with; the connection must be usable afterwards, and no server asked."""
    async with await front.client("2025-11-25") as client:
        await client.send(post(body, HEADERS if era == "modern" else client.legacy_headers))
        answer = await client.answer()
        assert answer.json["jsonrpc"] == "2.0"
        await client.legacy("ping", request_id="after")
        assert (await client.answer()).json["id"] == "after"
    assert front.main.calls == []
    return answer.status, answer.json["error"]["code"]


# --- bodies that are no message --------------------------------------------------------------------------------------
@pytest.mark.case("A-01")
@pytest.mark.parametrize("era", BOTH)
@pytest.mark.parametrize(
    "body",
    [
        b"", b" ", b"{", b'{"jsonrpc":"2.0"', b"{'jsonrpc':'2.0'}", b'{"a":1}}', b'{"a":1} x', b'{"a":NaN}',
        b'{"a":1,}', b'{"a":1 /* no */}', b"nonsense", b"\x00", b"%PDF-1.7", b'{"a":01}', b'{"a":+1}', b'{"a":"\t"}',
    ],
)  # fmt: skip
async def test_what_is_not_json_is_a_parse_error(front: Front, body: bytes, era: str):
    assert await refused(front, body, era) == (400, PARSE_ERROR)


@pytest.mark.case("A-02")
@pytest.mark.parametrize("era", BOTH)
@pytest.mark.parametrize("levels", [65, 1_000, 100_000])
async def test_what_is_nested_too_deep_is_refused_quickly_wherever_it_is(front: Front, levels: int, era: str):
    begun = time.process_time()
    for body in (
        nested(levels),
        b"[" * levels + b"]" * levels,
        call_with(nested(levels)),
        nested(levels, closed=False),
    ):
        status, code = await refused(front, body, era)
        assert status == 400
        # What is not closed may be called either.
        assert code in ((INVALID_REQUEST,) if body.endswith((b"}", b"]")) else (INVALID_REQUEST, PARSE_ERROR))
    assert time.process_time() - begun < 0.5


@pytest.mark.case("A-03")
@pytest.mark.parametrize("era", BOTH)
@pytest.mark.parametrize("text", [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\\ud800", b"\\udc00x", b"\xe2\x82"])
async def test_what_is_not_utf_8_is_refused_also_deep_inside(front: Front, text: bytes, era: str):
    assert await refused(front, call_with(b'{"deep":[{"a":"%b"}]}' % text), era) == (400, PARSE_ERROR)
    assert await refused(front, b'{"jsonrpc":"2.0","id":1,"method":"%b"}' % text, era) == (400, PARSE_ERROR)


@pytest.mark.case("A-03")
async def test_a_byte_order_mark_is_refused(front: Front):
    assert await refused(front, b"\xef\xbb\xbf" + call_with(b"{}")) == (400, PARSE_ERROR)


@pytest.mark.case("A-05")
@pytest.mark.parametrize(
    "body",
    [
        b'{"jsonrpc":"2.0","id":1,"id":2,"method":"tools/call","params":{"name":"main__echo"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"ping","m\\u0065thod":"tools/call","params":{"name":"main__echo"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"main__a","name":"main__echo"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"main__echo","_meta":{"a":1,"a":2}}}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{},"params":{"name":"main__echo"}}',
    ],
)
@pytest.mark.parametrize("era", BOTH)
async def test_a_member_that_is_there_twice_is_refused(front: Front, body: bytes, era: str):
    status, code = await refused(front, body, era)

    assert code == INVALID_REQUEST
    assert status == (200 if era == "legacy" and b"_meta" in body else 400)


@pytest.mark.case("A-06", "A-10")
@pytest.mark.parametrize("era", BOTH)
@pytest.mark.parametrize(
    "message",
    [
        *({"jsonrpc": "2.0", "id": odd, "method": "ping"} for odd in (None, True, 1.0, {}, [], "x" * 1_000_000)),
        *({"jsonrpc": "2.0", "id": 1, "method": odd} for odd in (7, None, [], "")),
        *({"jsonrpc": "2.0", "id": 1, "method": "ping", "params": odd} for odd in ([], "x", 1, None)),
        *({"jsonrpc": odd, "id": 1, "method": "ping"} for odd in ("1.0", 2.0, None)),
        {"id": 1, "method": "ping"},
        {"jsonrpc": "2.0", "id": 1, "method": "ping", "result": {}},
        {"jsonrpc": "2.0", "id": 1, "result": {}, "error": {"code": 1, "message": ""}},
        {"jsonrpc": "2.0", "id": 1},
        "text", 7, None, True,
    ],
    ids=lambda message: json.dumps(message)[:40],
)  # fmt: skip
async def test_what_is_no_message_of_json_rpc_is_refused(front: Front, message: object, era: str):
    assert await refused(front, json.dumps(message).encode(), era) == (400, INVALID_REQUEST)


@pytest.mark.case("A-01", "A-05", "A-10")
async def test_no_document_of_the_corpus_ends_the_connection_or_reaches_a_server(front: Front):
    documents = [path for path in sorted(CORPUS.rglob("*")) if path.is_file() and "invalid" in path.parts]
    async with await front.client("2025-11-25") as client:
        for document in documents:
            for headers in (HEADERS, client.legacy_headers):
                await client.send(post(document.read_bytes(), headers))
                answer = await client.answer()
                assert answer.status in (200, 202, 400, 404), document.name
    assert front.main.calls == []


@pytest.mark.case("A-28", "D-31")
@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(b'{"text":"' + b"x" * (BODY_BYTES_MAX - 1000) + b'"}', id="a long text"),
        pytest.param(b'{"list":[' + b"1," * 1_000_000 + b"1]}", id="a million elements"),
        pytest.param(b"{" + b",".join(b'"%d":1' % number for number in range(200_000)) + b"}", id="200,000 members"),
        pytest.param(b'{"text":"' + b"\\u00e4" * 600_000 + b'"}', id="escapes"),
        pytest.param(b'{"text":"' + "ä€😀".encode() * 400_000 + b'"}', id="all sizes of characters"),
    ],
)
async def test_a_large_call_is_forwarded_in_little_time(front: Front, arguments: bytes):
    async with await front.client() as client:
        begun = time.process_time()
        await client.send(post(call_with(arguments), HEADERS))
        call, params = await front.main.call()
        spent_s = time.process_time() - begun
        front.main.answer(call, RESULT)
        assert (await client.answer()).status == 200

    assert params["arguments"] == json.loads(arguments)
    # 50 ms/MiB, and as much again for the test's own sending, receiving and decoding.
    assert spent_s < 0.1 * len(arguments) / (1 << 20) + 0.1


# --- headers ---------------------------------------------------------------------------------------------------------
@pytest.mark.case("A-17")
@pytest.mark.parametrize(
    ("kind", "good"),
    [
        ("application/json", True), ("Application/JSON", True), ("application/json; charset=utf-8", True),
        ('application/json;charset="UTF-8"', True), ("application/json;", True), ("", False), ("text/plain", False),
        ("application/json; charset=latin-1", False), ("application/json-rpc", False), ("application/jsonx", False),
        ("text/json", False), ("multipart/form-data; boundary=x", False), ("application/x-www-form-urlencoded", False),
        ("text/plain; application/json", False), ("application/json, text/plain", False),
    ],
)  # fmt: skip
def test_content_types(kind: str, good: bool):
    assert _is_json(kind.encode()) is good


@pytest.mark.case("A-17")
@pytest.mark.parametrize(
    ("accept", "good"),
    [
        ("application/json, text/event-stream", True), ("text/event-stream,application/json", True), ("*/*", True),
        ("application/*, text/*", True), ("application/json;q=0.5, text/event-stream;q=1.0", True),
        ("Application/JSON, Text/Event-Stream", True), ("text/html, */*;q=0.1", True),
        ("application/json", False), ("text/event-stream", False), ("text/html", False), ("", False),
        ("application/json, text/event-stream;q=0", False), ("application/json; q=0.000, text/event-stream", False),
        ("*/*;q=0", False), ("application/*", False),
    ],
)  # fmt: skip
def test_accepted_types(accept: str, good: bool):
    assert _accepts(accept.encode(), b"application/json", b"text/event-stream") is good


@pytest.mark.case("A-17")
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": ""}, 415),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/json; charset=latin-1"}, 415),
        ({"content-encoding": "gzip"}, 415),
        ({"content-encoding": "br"}, 415),
        ({"accept": "application/json"}, 406),
        ({"accept": "text/html"}, 406),
    ],
)
async def test_types_that_do_not_fit_are_refused(front: Front, headers: dict[str, str], status: int):
    async with await front.client() as client:
        await client.send(modern_post("tools/call", CALL, headers=headers))
        assert (await client.answer()).status == status
    assert front.main.calls == []


async def test_a_client_that_says_nothing_of_what_it_accepts_is_served(front: Front):
    async with await front.client() as client:
        await client.send(modern_post("server/discover", headers={"accept": ""}))
        assert (await client.answer()).status == 200


@pytest.mark.case("D-11")
async def test_headers_that_try_to_speak_for_somebody_else_change_nothing(front: Front):
    odd = {
        "x-forwarded-host": "evil.com", "x-forwarded-for": "10.0.0.1", "forwarded": "host=evil.com",
        "mcp-session-id": "mb1.whatever", "last-event-id": "5", "mcp-param-x": "1", "x-http-method-override": "DELETE",
        "connection": "keep-alive, mcp-name", "te": "trailers", "upgrade": "h2c",
    }  # fmt: skip
    async with await front.client() as client:
        await client.send(modern_post("tools/call", CALL, headers=odd))
        call, params = await front.main.call()
        front.main.answer(call, RESULT)
        answer = await client.answer()

    assert answer.status == 200
    assert params == {"name": "echo", "arguments": {}}
    assert "mcp-session-id" not in answer.headers


# --- where and how ---------------------------------------------------------------------------------------------------
@pytest.mark.case("D-04")
@pytest.mark.parametrize(
    "path", ["/", "/mcp/", "/MCP", "//mcp", "/./mcp", "/x/../mcp", "/%6dcp", "/mcp%2f", "/mcp;x", "/sse"]
)
async def test_nothing_is_served_elsewhere(front: Front, path: str):
    async with await front.client() as client:
        for method in ("POST", "GET", "DELETE"):
            await client.send(http(method, path=path))
            assert (await client.answer()).status == 404


@pytest.mark.case("D-04")
@pytest.mark.parametrize("path", ["/mcp", "/mcp?x=1", "http://127.0.0.1/mcp"])
async def test_the_endpoint_is_found_by_the_path_of_the_target_alone(front: Front, path: str):
    async with await front.client() as client:
        body = json.dumps(envelope("server/discover", modern_params())).encode()
        headers = {"mcp-protocol-version": MODERN, "mcp-method": "server/discover"}
        await client.send(http("POST", headers, body, path))
        assert (await client.answer()).status == 200


@pytest.mark.case("A-16")
@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT"])
async def test_stateless_clients_may_only_post(front: Front, method: str):
    async with await front.client() as client:
        await client.send(http(method, {"mcp-protocol-version": MODERN, "accept": "text/event-stream"}))
        answer = await client.answer()

    assert (answer.status, answer.headers["allow"]) == (405, "POST")


async def test_a_get_needs_a_session_and_must_accept_a_stream(front: Front):
    async with await front.client("2025-11-25") as client:
        await client.send(http("GET", {"accept": "text/event-stream"}))
        assert (await client.answer()).status == 400
        await client.send(http("GET", {**client.legacy_headers, "accept": "application/json"}))
        assert (await client.answer()).status == 406
        await client.send(http("DELETE"))
        assert (await client.answer()).status == 400


# --- eras ------------------------------------------------------------------------------------------------------------
async def test_without_a_version_header_the_body_says_which_era_it_is(front: Front):
    async with await front.client("2025-03-26") as client:
        await client.send(post(envelope("tools/call", CALL), {"mcp-session-id": client.session}))
        call, _ = await front.main.call()
        front.main.answer(call, RESULT)
        assert (await client.answer()).status == 200

        await client.send(post(envelope("tools/call", modern_params(CALL), "m")))
        answer = await client.answer()
        assert (answer.status, answer.json["id"], answer.json["error"]["code"]) == (400, "m", -32020)


@pytest.mark.case("A-13")
@pytest.mark.parametrize("version", ["2024-01-01", "2026-07-29", "banana", "\xff", "1"])
async def test_a_version_nobody_speaks_gets_an_error_that_can_be_acted_on(front: Front, version: str):
    async with await front.client() as client:
        body = envelope("initialize", {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}})
        await client.send(post(body, {"mcp-protocol-version": version}))
        refusal = await client.answer()
        assert (refusal.status, refusal.json["error"]["code"]) == (400, INVALID_PARAMS)
        await client.send(post(envelope("notifications/x", {}, None), {"mcp-protocol-version": version}))
        refusal = await client.answer()
        assert (refusal.status, refusal.json["error"]["code"]) == (400, UNSUPPORTED_VERSION)


async def test_errors_of_a_session_are_answers_and_errors_of_a_stateless_request_have_a_status(front: Front):
    async with await front.client("2025-11-25") as client:
        for code, status in ((METHOD_NOT_FOUND, 404), (INVALID_PARAMS, 400), (-32603, 200), (-31003, 200)):
            await client.call()
            call, _ = await front.main.call()
            front.main.fault(call, code, "no", sent=True, error={"code": code, "message": "no"})
            assert (await client.answer()).status == 200
            await client.modern_call()
            call, _ = await front.main.call()
            front.main.fault(call, code, "no", sent=True, error={"code": code, "message": "no"})
            assert (await client.answer()).status == status


@pytest.mark.case("D-26")
async def test_no_refusal_shows_our_insides(front: Front):
    async with await front.client() as client:
        for data in (b"GARBAGE\r\n\r\n", post(b"{"), http("PUT"), http("GET", path="/x"), post(envelope("nope"))):
            probe = await front.client()
            await probe.send(data)
            body = (await probe.answer()).body.decode()
            for secret in ("Traceback", ".py", "python", "httptools", "msgspec", "main"):
                assert secret not in body
        await client.send(post(envelope("tools/call", {})))


@pytest.mark.case("A-12")
async def test_what_is_remembered_of_a_head_excuses_no_other_body_that_comes_with_it(front: Front):
    """Heads of the same bytes are looked at once; what they are compared with is not the same for ever."""
    good = call_with(b"{}")
    other_tool = good.replace(b"main__echo", b"main__ohce")
    other_version = good.replace(MODERN.encode(), b"2026-07-29")
    async with await front.client() as client:
        for body, status in ((good, 200), (other_tool, 400), (good, 200), (other_version, 400), (good, 200)):
            await client.send(post(body, HEADERS))
            if status == 200:
                call, _ = await front.main.call()
                front.main.answer(call, RESULT)
            assert (await client.answer()).status == status
