"""What is on the wire, byte by byte as HTTP and JSON-RPC, for every revision of the protocol."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from protocol.management import TOOL_NAMES
from supervisor import ended_file
from tests import schemas
from tests.conftest import StartProxy
from tests.peers.clients import ERAS
from tests.peers.raw_server import LEGACY_VERSIONS, RawServer
from tests.peers.wire import ACCEPT, META, MODERN, read, wire
from tests.processes import Proxy, assert_gone
from tests.waiting import eventually

SERVERS = ("dual", "legacy", "modern")
UNBUILT = ("logging/setLevel", "tasks/get")
"""Methods that the proxy does not have, or not in front of servers like these."""
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
}

every_revision = pytest.mark.parametrize("revision", schemas.REVISIONS)
every_legacy_revision = pytest.mark.parametrize("revision", LEGACY_VERSIONS)


@every_revision
async def test_every_revision_opens_lists_and_calls(shared_proxy: Proxy, revision: str):
    with trio.fail_after(15):
        async with wire(shared_proxy.url, revision, log_level="info") as client:
            opened = (await client.open()).result
            if client.is_modern:
                assert revision in opened["supportedVersions"]
            else:
                assert opened["protocolVersion"] == revision
                assert client.session
            assert "tools" in opened["capabilities"]
            assert {tool["name"].split("__")[0] for tool in await client.tools()} == {*TOOL_NAMES, *SERVERS}
            for server in SERVERS:
                assert (await client.call(f"{server}__whoami")).result["content"] == [{"type": "text", "text": server}]
                assert (await client.call(f"{server}__fail")).result["isError"] is True


@every_revision
async def test_an_answer_is_json_unless_something_precedes_it(shared_proxy: Proxy, revision: str):
    with trio.fail_after(15):
        async with wire(shared_proxy.url, revision) as client:
            await client.open()
            for server in SERVERS:
                plain = await client.call(f"{server}__echo", text="x")
                assert not plain.is_stream
                assert plain.response.headers["content-type"] == "application/json"
                told = await client.call(f"{server}__slow", seconds=0.05, progress_token="p-1")
                assert told.is_stream
                progress = [n["params"] for n in told.notifications if n["method"] == "notifications/progress"]
                assert [note["progress"] for note in progress] == list(range(1, 11))
                assert {note["progressToken"] for note in progress} == {"p-1"}


@every_revision
@pytest.mark.parametrize("token", [0, 7, "7", "", "tök en", 2**53])
async def test_a_progress_token_comes_back_as_it_was_sent(shared_proxy: Proxy, revision: str, token: Any):
    with trio.fail_after(60):
        async with wire(shared_proxy.url, revision) as client:
            await client.open()
            answer = await client.call("dual__slow", seconds=0.01, progress_token=token)
    tokens = [n["params"]["progressToken"] for n in answer.notifications if n["method"] == "notifications/progress"]
    assert tokens == [token] * 10
    assert {type(one) for one in tokens} == {type(token)}


@pytest.mark.parametrize("level", ["debug", "info", "notice", "emergency"])
async def test_log_lines_are_sent_from_the_wanted_level_on(shared_proxy: Proxy, level: str):
    with trio.fail_after(15):
        async with wire(shared_proxy.url, MODERN, log_level=level) as client:
            for server in SERVERS:
                answer = await client.call(f"{server}__slow", seconds=0.01)
                logged = [n["params"]["data"] for n in answer.notifications if n["method"] == "notifications/message"]
                wanted = [f"{server} starts", f"{server} is done"] if level in ("debug", "info") else []
                assert logged == wanted


@pytest.mark.parametrize("server", SERVERS)
async def test_a_modern_client_that_wants_no_log_gets_none(shared_proxy: Proxy, server: str):
    with trio.fail_after(60):
        async with wire(shared_proxy.url, MODERN) as client:
            answer = await client.call(f"{server}__slow", seconds=0.01)
    assert not [n for n in answer.notifications if n["method"] == "notifications/message"]


@every_legacy_revision
async def test_ping_is_answered_in_every_legacy_revision(shared_proxy: Proxy, revision: str):
    with trio.fail_after(60):
        async with wire(shared_proxy.url, revision) as client:
            await client.open()
            assert (await client.request("ping")).result == {}


@every_revision
@pytest.mark.case("A-11")
@pytest.mark.parametrize("method", [*UNBUILT, "no/such", "tools/List"])
async def test_a_method_that_is_not_there_is_answered_so(shared_proxy: Proxy, revision: str, method: str):
    with trio.fail_after(60):
        async with wire(shared_proxy.url, revision) as client:
            await client.open()
            message = client.envelope(method, {"name": "x", "uri": "x:y"})
            answer = read(await client.post(message))
    schemas.validate(revision, "JSONRPCErrorResponse", answer.final)
    assert answer.error["code"] == -32601
    assert answer.final["id"] == message["id"]
    assert answer.status == (404 if revision == MODERN else 200)


@pytest.mark.case("A-11")
@pytest.mark.parametrize("method", ["initialize", "ping", "logging/setLevel", "resources/subscribe"])
async def test_methods_of_the_other_era_are_unknown_to_a_modern_client(shared_proxy: Proxy, method: str):
    with trio.fail_after(60):
        async with wire(shared_proxy.url, MODERN) as client:
            answer = read(await client.post(client.envelope(method, {"level": "info", "uri": "x:y"})))
    assert (answer.status, answer.error["code"]) == (404, -32601)


@pytest.mark.parametrize("offered", ["2023-01-01", "2099-12-31", "next", MODERN])
async def test_initialize_with_an_unknown_version_is_answered_with_our_newest(shared_proxy: Proxy, offered: str):
    with trio.fail_after(60):
        async with httpx.AsyncClient() as http:
            message = INITIALIZE | {"params": INITIALIZE["params"] | {"protocolVersion": offered}}
            answer = read(await http.post(shared_proxy.url, json=message, headers=ACCEPT))
    schemas.validate_answer("2025-11-25", "initialize", answer.final)
    assert answer.result["protocolVersion"] == "2025-11-25"


@pytest.mark.case("A-13")
async def test_an_unknown_stateless_version_is_refused_naming_the_known_ones(shared_proxy: Proxy):
    with trio.fail_after(60):
        async with wire(shared_proxy.url, MODERN) as client:
            message = client.envelope("tools/list", None)
            message["params"]["_meta"][META + "protocolVersion"] = "2027-01-01"
            answer = read(await client.post(message, {"MCP-Protocol-Version": "2027-01-01"}))
    schemas.validate(MODERN, "UnsupportedProtocolVersionError", answer.final)
    assert answer.status == 400
    assert MODERN in answer.error["data"]["supported"]


@pytest.mark.case("A-13")
@pytest.mark.parametrize("missing", ["protocolVersion", "clientCapabilities"])
async def test_a_stateless_request_without_its_envelope_is_refused(shared_proxy: Proxy, missing: str):
    with trio.fail_after(60):
        async with wire(shared_proxy.url, MODERN) as client:
            message = client.envelope("tools/list", None)
            del message["params"]["_meta"][META + missing]
            answer = read(await client.post(message))
    assert (answer.status, answer.error["code"]) == (400, -32602)


@pytest.mark.case("A-12")
@pytest.mark.parametrize(
    "headers",
    [
        {"Mcp-Method": "tools/list"},
        {"Mcp-Method": "TOOLS/CALL"},
        {"Mcp-Method": ""},
        {"Mcp-Name": "dual__whoami"},
        {"Mcp-Name": ""},
        {"Mcp-Name": "=?base64?!!!?="},
    ],
    ids=str,
)
async def test_headers_that_contradict_the_body_are_refused(shared_proxy: Proxy, headers: dict[str, str]):
    with trio.fail_after(60):
        async with wire(shared_proxy.url, MODERN) as client:
            message = client.envelope("tools/call", {"name": "dual__echo", "arguments": {"text": "x"}})
            answer = read(await client.post(message, headers))
    assert (answer.status, answer.error["code"]) == (400, -32020)


async def test_a_name_outside_ascii_travels_encoded_in_its_header(proxy: StartProxy, nursery: trio.Nursery):
    tool = {"name": "grüß_🦉", "inputSchema": {"type": "object"}}
    server = await nursery.start(RawServer(era="modern", tools=[tool]).serve)
    started = await proxy({"main": server.url})

    with trio.fail_after(60):
        async with wire(started.url, MODERN) as client:
            message = client.envelope("tools/call", {"name": "main__grüß_🦉", "arguments": {"text": "x"}})
            answer = read(await client.post(message, {"Mcp-Name": header_encoded("main__grüß_🦉")}))
    assert answer.result["content"] == [{"type": "text", "text": "x"}]
    (call,) = server.received("tools/call")
    assert call.headers["mcp-name"] == header_encoded("grüß_🦉")


def header_encoded(text: str) -> str:
    return f"=?base64?{base64.b64encode(text.encode()).decode()}?="


@every_legacy_revision
async def test_a_session_that_was_ended_is_unknown_from_then_on(shared_proxy: Proxy, revision: str):
    with trio.fail_after(60):
        async with wire(shared_proxy.url, revision) as client:
            await client.open()
            headers = {**ACCEPT, "Mcp-Session-Id": client.session}
            ended = await client.http.delete(client.url, headers=headers)
            assert ended.status_code in (200, 202, 204)
            after = await client.post(client.envelope("tools/list", None))
            again = await client.http.delete(client.url, headers=headers)
    assert after.status_code == 404
    assert again.status_code == 404


async def test_an_ended_session_stays_ended_when_the_front_is_replaced(proxy: StartProxy, nursery: trio.Nursery):
    server = await nursery.start(RawServer().serve)
    started = await proxy({"main": server.url})

    with trio.fail_after(15):
        async with wire(started.url, "2025-11-25") as ended, wire(started.url, "2025-11-25") as kept:
            await ended.open()
            await kept.open()
            await ended.http.delete(ended.url, headers={"Mcp-Session-Id": ended.session})
            old = await trio.to_thread.run_sync(started.kill_worker, "front")
            await trio.to_thread.run_sync(started.replacement, "front", old)
        async with wire(started.url, "2025-11-25", session=ended.session) as client:
            assert (await client.post(client.envelope("tools/list", None))).status_code == 404
        async with wire(started.url, "2025-11-25", session=kept.session) as client:
            assert (await client.tools())[-1]["name"] == "main__echo"


@pytest.mark.case("D-08")
async def test_when_the_whole_proxy_was_killed_and_started_again_sessions_go_on_and_those_that_were_ended_do_not(
    proxy: StartProxy, nursery: trio.Nursery, tmp_path: Path
):
    server = await nursery.start(RawServer().serve)
    state = tmp_path / "state"
    first = await proxy({"main": server.url}, "--state-dir", str(state))

    with trio.fail_after(60):
        async with wire(first.url, "2025-06-18") as client, wire(first.url, "2025-06-18") as ended:
            await client.open()
            await ended.open()
            await ended.http.delete(ended.url, headers={"Mcp-Session-Id": ended.session})

            async def is_written() -> bool:
                path = state / ended_file.FILE_NAME
                return path.exists() and ended.session in path.read_text()

            await eventually(is_written, "the end of the session is on the disk")
        family = first.family()
        first.kill()
        await trio.to_thread.run_sync(assert_gone, family)
        again = await proxy({"main": server.url}, "--state-dir", str(state), port=first.port)
        async with wire(again.url, "2025-06-18", session=client.session) as client:
            assert (await client.call("main__echo", text="on")).result["content"][0]["text"] == "on"
        async with wire(again.url, "2025-06-18", session=ended.session) as client:
            assert (await client.post(client.envelope("tools/list", None))).status_code == 404


@pytest.mark.case("D-08")
@pytest.mark.parametrize("session", ["", "unheard-of", "mb1.AAAA.BBBB"])
async def test_a_session_that_is_not_ours_is_refused(shared_proxy: Proxy, session: str):
    with trio.fail_after(60):
        async with wire(shared_proxy.url, "2025-11-25", session=session) as client:
            answer = await client.post(client.envelope("tools/list", None))
    assert answer.status_code == (404 if session else 400)


@every_legacy_revision
async def test_get_without_a_stream_to_offer_says_so(shared_proxy: Proxy, revision: str):
    with trio.fail_after(60):
        async with wire(shared_proxy.url, revision) as client:
            await client.open()
            headers = {"Accept": "text/event-stream", "Mcp-Session-Id": client.session}
            async with client.http.stream("GET", client.url, headers=headers) as response:
                kind = response.headers.get("content-type", "")
                assert response.status_code == 405 or (response.status_code == 200 and kind == "text/event-stream")


@pytest.mark.case("A-16")
@pytest.mark.parametrize("verb", ["GET", "DELETE", "PUT", "PATCH"])
async def test_a_stateless_client_may_only_post(shared_proxy: Proxy, verb: str):
    with trio.fail_after(60):
        async with httpx.AsyncClient() as http:
            response = await http.request(verb, shared_proxy.url, headers={"MCP-Protocol-Version": MODERN})
    assert response.status_code == 405
    assert "POST" in response.headers["allow"]


@every_revision
async def test_a_notification_is_accepted_without_an_answer(shared_proxy: Proxy, revision: str):
    with trio.fail_after(60):
        async with wire(shared_proxy.url, revision) as client:
            await client.open()
            message = client.envelope("notifications/cancelled", {"requestId": 999})
            del message["id"]
            response = await client.post(message)
    assert (response.status_code, response.content) == (202, b"")


async def test_a_batch_is_answered_whole_in_the_one_revision_that_has_them(shared_proxy: Proxy):
    batch = [
        {"jsonrpc": "2.0", "id": "a", "method": "ping"},
        {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 999}},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "dual__whoami"}},
        {"jsonrpc": "2.0", "id": 3, "method": "no/such"},
    ]
    with trio.fail_after(60):
        async with wire(shared_proxy.url, "2025-03-26") as client:
            await client.open()
            response = await client.post(batch)
            assert response.status_code == 200
            answers = {answer["id"]: answer for answer in response.json()}
    assert set(answers) == {"a", 2, 3}
    assert answers["a"]["result"] == {}
    assert answers[2]["result"]["content"][0]["text"] == "dual"
    assert answers[3]["error"]["code"] == -32601


@pytest.mark.case("A-04")
@pytest.mark.parametrize("revision", [one for one in schemas.REVISIONS if one >= "2025-06-18"])
async def test_a_batch_is_refused_in_revisions_that_have_none(shared_proxy: Proxy, revision: str):
    with trio.fail_after(60):
        async with wire(shared_proxy.url, revision) as client:
            await client.open()
            response = await client.post([client.envelope("tools/list", None)])
    assert (response.status_code, response.json()["error"]["code"]) == (400, -32600)


@pytest.mark.case("D-01", "D-02", "D-03")
@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({"Origin": "http://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "http://localhost.evil.example"}, False),
        ({"Host": "evil.example"}, False),
        ({"Host": "127.0.0.1.nip.io"}, False),
        ({"Origin": "http://localhost:3000"}, True),
        ({"Host": "localhost"}, True),
    ],
    ids=str,
)
async def test_only_local_pages_and_names_reach_the_proxy(shared_proxy: Proxy, headers: dict[str, str], allowed: bool):
    with trio.fail_after(60):
        async with httpx.AsyncClient() as http:
            response = await http.post(shared_proxy.url, json=INITIALIZE, headers=ACCEPT | headers)
    assert response.status_code == 200 if allowed else response.status_code in (403, 421)
    assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize("era", ERAS)
async def test_the_proxy_speaks_to_a_server_as_its_era_demands(proxy: StartProxy, nursery: trio.Nursery, era: str):
    server = await nursery.start(RawServer(era=era).serve)
    started = await proxy({"main": server.url})

    with trio.fail_after(60):
        async with wire(started.url, MODERN) as client:
            await client.call("main__echo", text="x")

    (call,) = server.received("tools/call")
    assert {"application/json", "text/event-stream"} <= {kind.strip() for kind in call.headers["accept"].split(",")}
    assert call.headers["content-type"] == "application/json"
    if era == "modern":
        schemas.validate(MODERN, "CallToolRequest", call.message)
        assert call.headers["mcp-protocol-version"] == MODERN
        assert (call.headers["mcp-method"], call.headers["mcp-name"]) == ("tools/call", "echo")
        assert "mcp-session-id" not in call.headers
    else:
        schemas.validate("2025-11-25", "CallToolRequest", call.message)
        assert call.headers["mcp-protocol-version"] == "2025-11-25"
        assert call.headers["mcp-session-id"] == "raw-session-1"
        assert not [name for name in call.message["params"].get("_meta", {}) if name.startswith(META)]
        assert [request.method for request in server.requests].count("notifications/initialized") == 1
