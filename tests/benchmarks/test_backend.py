"""benchmarks.backend: a correct MCP server for clients of both eras, and a strict one."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
import trio
from mcp import Client, MCPError
from trio_websocket import open_websocket_url

from benchmarks import wire
from benchmarks.backend import remaining
from benchmarks.backend_answers import Answers, Head, parse_head
from benchmarks.clients import Endpoint
from benchmarks.messages import DISCOVER, INITIALIZE, INITIALIZED, list_tools, payload_text
from protocol.versions import LATEST_LEGACY, LATEST_MODERN, Era
from tests.schemas import validate_answer

META = {
    "io.modelcontextprotocol/protocolVersion": LATEST_MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
}


def head(method: str = "POST", *, version: str = "", session: str = "", says: str = "", name: str = "") -> Head:
    lines = [f"{method} /mcp HTTP/1.1", "Host: x", "Content-Length: 0"]
    fields = {"MCP-Protocol-Version": version, "Mcp-Session-Id": session, "mcp-METHOD": says, "Mcp-Name": name}
    lines += [f"{field}:  {value}" for field, value in fields.items() if value]
    return parse_head(("\r\n".join(lines) + "\r\n\r\n").encode())


def ask(answers: Answers, request: Head, body: bytes | dict[str, Any]) -> tuple[wire.Response, Any]:
    """Return the response and the JSON in it."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = wire.Response()
    response.feed(b"".join(answers.to(request, raw)))
    assert response.complete
    return response, json.loads(response.body) if response.body else None


def modern_call(name: str, arguments: object) -> dict[str, Any]:
    params = {"name": name, "arguments": arguments, "_meta": META}
    return {"jsonrpc": "2.0", "id": "seven", "method": "tools/call", "params": params}


@pytest.mark.parametrize("mode", ["legacy", LATEST_MODERN, "auto"])
async def test_clients_of_the_official_sdk_of_either_era_are_served(backend: Endpoint, mode: str) -> None:
    url = "http://{}:{}/mcp".format(*backend.address)
    with trio.fail_after(20):
        async with Client(url, mode=mode) as client:
            tools = await client.list_tools()
            echoed = await client.call_tool("echo", {"text": 'é"\n'})
            blob = await client.call_tool("blob", {"size": 300_000})
            with pytest.raises(MCPError):
                await client.call_tool("unknown", {})
            version = client.protocol_version

    assert [tool.name for tool in tools.tools] == ["echo", "blob", "look"]
    assert [block.text for block in echoed.content] == ['é"\n']
    assert [block.text for block in blob.content] == [payload_text(300_000)]
    assert version == (LATEST_LEGACY if mode == "legacy" else LATEST_MODERN)


def test_legacy_answers_are_what_the_specification_says() -> None:
    answers = Answers()
    opened, initialized = ask(answers, head(), INITIALIZE)
    session = opened.headers[b"mcp-session-id"].decode()
    here = head(version=LATEST_LEGACY, session=session)

    validate_answer(LATEST_LEGACY, "initialize", initialized)
    assert ask(answers, here, INITIALIZED)[0].status == 202
    validate_answer(LATEST_LEGACY, "tools/list", ask(answers, here, list_tools(Era.LEGACY))[1])
    validate_answer(LATEST_LEGACY, "ping", ask(answers, here, {"jsonrpc": "2.0", "id": 3, "method": "ping"})[1])
    call = {"jsonrpc": "2.0", "id": 4, "method": "tools/call", "params": {"name": "blob", "arguments": {"size": 3}}}
    validate_answer(LATEST_LEGACY, "tools/call", ask(answers, here, call)[1])
    assert ask(answers, here, {"jsonrpc": "2.0", "id": 5, "method": "other"})[1]["error"]["code"] == -32601


def test_a_legacy_session_is_needed_and_ends_when_it_is_deleted() -> None:
    answers = Answers()
    session = ask(answers, head(), INITIALIZE)[0].headers[b"mcp-session-id"].decode()

    assert ask(answers, head(), list_tools(Era.LEGACY))[0].status == 400
    assert ask(answers, head(session="other"), list_tools(Era.LEGACY))[0].status == 404
    assert ask(answers, head("DELETE", session=session), b"")[0].status == 200
    assert ask(answers, head(session=session), list_tools(Era.LEGACY))[0].status == 404
    assert ask(answers, head("GET", session=session), b"")[0].status == 405


def test_modern_answers_are_what_the_specification_says() -> None:
    answers = Answers()
    modern = LATEST_MODERN

    discovered = ask(answers, head(version=modern, says="server/discover"), DISCOVER)[1]
    listed = ask(answers, head(version=modern, says="tools/list"), list_tools(Era.MODERN))[1]
    called = ask(answers, head(version=modern, says="tools/call", name="echo"), modern_call("echo", {"text": "a"}))[1]

    validate_answer(modern, "server/discover", discovered)
    validate_answer(modern, "tools/list", listed)
    validate_answer(modern, "tools/call", called)
    assert called["id"] == "seven"


@pytest.mark.parametrize(
    ("request_head", "body", "status", "code"),
    [
        (head(version="2099-01-01", says="tools/call"), modern_call("echo", {"text": "a"}), 400, -32022),
        (head(version=LATEST_MODERN, says="tools/list"), modern_call("echo", {"text": "a"}), 400, -32020),
        (head(version=LATEST_MODERN, says="tools/call", name="blob"), modern_call("echo", {"text": "a"}), 400, -32020),
        (head(version=LATEST_MODERN, says="tools/call", name="none"), modern_call("none", {"text": "a"}), 200, -32602),
        (head(version=LATEST_MODERN, says="tools/call", name="echo"), modern_call("echo", {"text": 1}), 200, -32602),
        (head(version=LATEST_MODERN, says="tools/call", name="blob"), modern_call("blob", {"size": -1}), 200, -32602),
        (head(version=LATEST_MODERN, says="tools/call"), {"id": 1, "method": "tools/call", "params": {}}, 400, -32602),
        (head(version=LATEST_MODERN), b"\xff{", 400, -32700),
        (head(), b"[1]", 400, -32700),
    ],
)
def test_a_wrong_request_gets_the_error_of_the_specification(
    request_head: Head, body: bytes | dict[str, Any], status: int, code: int
) -> None:
    response, answer = ask(Answers(), request_head, body)

    assert response.status == status
    assert answer["error"]["code"] == code


def test_requests_may_come_in_pieces_and_several_at_once(backend: Endpoint) -> None:
    def discover(number: int) -> bytes:
        body = DISCOVER.replace(b'"id":1', b'"id":%d' % number)
        headers = {"MCP-Protocol-Version": LATEST_MODERN, "Mcp-Method": "server/discover"}
        return wire.request_head(backend.address, "POST", backend.path, headers, len(body)) + body

    with wire.connect(backend.address) as connection:
        first = discover(1)
        connection.sendall(first[:50])
        connection.sendall(first[50:-5])
        answered_first = wire.exchange(connection, first[-5:])
        connection.sendall(discover(2) + discover(3))
        received = b""
        while received.count(b'"resultType"') < 2:
            received += connection.recv(65536)

    assert json.loads(answered_first.body)["id"] == 1
    assert [b'"id":2' in received, b'"id":3' in received, b'"id":4' in received] == [True, True, False]


@pytest.mark.parametrize(
    "raw", [b"no HTTP\r\n\r\n", b"POST / HTTP/2\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n"]
)
def test_what_is_no_http_closes_its_own_connection_only(backend: Endpoint, raw: bytes) -> None:
    with wire.connect(backend.address) as bad, wire.connect(backend.address) as good:
        bad.sendall(raw)
        assert bad.recv(1000) == b""
        request = wire.request_head(backend.address, "GET", backend.path, {}, 0)
        assert wire.exchange(good, request).status == 405


def test_what_the_kernel_did_not_take_is_kept_in_order() -> None:
    left = remaining([b"abc", memoryview(b"def"), b"ghi"], 4)

    assert b"".join(left) == b"efghi"
    assert remaining([b"abc"], 3) == []


def test_arguments_keep_their_bytes() -> None:
    call = msgspec.json.encode(modern_call("echo", {"text": "x"})).replace(b'"x"', rb'"\u00e9\/"')

    response, _ = ask(Answers(), head(version=LATEST_MODERN, says="tools/call", name="echo"), call)

    assert rb'"text":"\u00e9\/"' in response.body


async def test_a_get_that_asks_for_it_becomes_a_websocket_with_a_message_in_each_frame(backend: Endpoint) -> None:
    url = "ws://{}:{}/mcp".format(*backend.address)
    with trio.fail_after(5):
        async with open_websocket_url(url, subprotocols=["mcp"]) as websocket:
            await websocket.send_message(json.dumps({"jsonrpc": "2.0", "method": "notifications/cancelled"}))
            await websocket.send_message(json.dumps(modern_call("echo", {"text": "grüße"})))
            answer = json.loads(await websocket.get_message())

    assert (answer["id"], answer["result"]["content"][0]["text"]) == ("seven", "grüße")
