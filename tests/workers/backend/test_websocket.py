"""A backend worker and a server that is reached over WebSocket."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from wsproto.connection import Connection, ConnectionType
from wsproto.events import Ping, TextMessage

from protocol import link
from protocol.control import Proxy, Route
from protocol.errors import INTERNAL_ERROR, OUTCOME_UNKNOWN, SERVER_UNAVAILABLE
from protocol.versions import Era
from tests.peers.certificates import Authority
from tests.peers.websocket_server import Json, WebSocketPeer, WebSocketWire, never, raw_peer
from tests.waiting import eventually
from tests.workers.backend.harness import Backend, backend
from workers.backend import messages, websocket_channel

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


@asynccontextmanager
async def rig(peer: WebSocketPeer | None = None, **options: Any) -> AsyncIterator[tuple[WebSocketPeer, Backend]]:
    """Run a peer and a worker for it, for at most five seconds."""
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            running = await nursery.start((peer or WebSocketPeer()).serve)
            async with backend(running.url, **options) as one:
                yield running, one
            nursery.cancel_scope.cancel()


async def echoed(one: Backend, text: str = "x", era: Era = Era.MODERN) -> str:
    return (await one.front.call("echo", {"text": text}, era=era).done()).text


async def eventually_echoed(one: Backend) -> None:
    """Have a call answered; the first may go to a connection that ends under it."""

    async def look() -> bool:
        return isinstance((await one.front.call("echo").done()).header, link.Result)

    await eventually(look, "a call is answered")


async def pour(source: trio.SocketStream, sink: trio.SocketStream) -> None:
    """Hand on what comes, until it ends."""
    async for data in source:
        await sink.send_all(data)


async def read_head(stream: trio.SocketStream) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head:
        head += await stream.receive_some(4096)
    return head


async def accept(stream: trio.SocketStream, more: bytes = b"") -> None:
    """Answer a handshake by hand."""
    head = await read_head(stream)
    key = head.split(b"Sec-WebSocket-Key: ")[1].split(b"\r\n")[0]
    token = base64.b64encode(hashlib.sha1(key + GUID).digest())
    await stream.send_all(
        b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
        + token
        + b"\r\n\r\n"
        + more
    )


# --- speaking ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("era", "spoken"), [("modern", Era.MODERN), ("legacy", Era.LEGACY)])
async def test_clients_of_both_eras_are_served_in_the_one_the_server_speaks(era: str, spoken: Era):
    async with rig(WebSocketPeer(era)) as (peer, one):
        for asked in Era:
            outcome = await one.front.call("echo", {"text": "grüße"}, era=asked).done()
            listed = await one.front.ask_list(asked).done()
            assert (outcome.text, outcome.era, listed.names) == ("grüße", spoken, ["echo"])

        assert peer.asked_for == [["mcp"]]  # one connection for all of it
        assert len(peer.of("notifications/initialized")) == (spoken is Era.LEGACY)


async def test_configured_headers_are_sent_with_the_handshake():
    async with rig(headers=[("Authorization", "Bearer secret")]) as (peer, one):
        await echoed(one)
        assert peer.headers[0]["authorization"] == "Bearer secret"


@pytest.mark.case("B-33")
async def test_a_server_that_says_nothing_to_discovery_is_initialized(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("workers.backend.message_legs.MessageModernLeg._discover_timeout_s", 0.1)
    async with rig(WebSocketPeer(on={"server/discover": never})) as (_, one):
        assert await echoed(one) == "x"


async def test_calls_travel_side_by_side_with_progress_log_lines_and_cancellation():
    async def progress(wire: WebSocketWire, request: Json) -> None:
        token = request["params"]["_meta"]["progressToken"]
        await wire.say({"method": "notifications/progress", "params": {"progressToken": token, "progress": 1}})
        await wire.say({"method": "notifications/message", "params": {"level": "info", "data": "hear"}})
        await wire.echo(request)

    async with rig() as (peer, one):
        calls = [one.front.call("echo", {"text": str(number)}) for number in range(60)]
        assert [(await call.done()).text for call in calls] == [str(number) for number in range(60)]
        assert len(peer.wires) == 1

        peer.on["tools/call"] = progress
        outcome = await one.front.call("echo", progress=True, era=Era.LEGACY).done()
        assert [method for method, _ in outcome.events] == ["notifications/progress", "notifications/message"]

        peer.on["tools/call"] = never
        silent = one.front.call("echo")
        [request] = (await peer.has("tools/call", 62))[-1:]
        one.front.cancel(silent, "not needed")
        assert (await silent.done()).fault.sent
        [cancelled] = await peer.has("notifications/cancelled")
        assert cancelled["params"] == {"requestId": request["id"], "reason": "not needed"}


async def test_what_the_server_asks_and_tells_unasked_is_taken():
    async with rig() as (peer, one):
        await echoed(one)
        await peer.wires[0].say({"id": 7, "method": "ping"})
        await peer.wires[0].say({"id": "s", "method": "sampling/createMessage", "params": {}})
        answers = {answer["id"]: answer for answer in await peer.has("", 2)}
        assert answers[7]["result"] == {}
        assert answers["s"]["error"]["code"] == -32601

        await peer.wires[0].say({"method": "notifications/tools/list_changed"})
        await one.front.wait_list_change()


async def test_large_messages_pass_in_both_directions():
    text = "ä" * 1_000_000
    async with rig() as (_, one):
        assert await echoed(one, text) == text


async def test_a_wss_url_is_websocket_with_tls(tmp_path: Path):
    authority = Authority(tmp_path)
    peer = WebSocketPeer(tls=authority.server_context())
    text = "ä" * 100_000
    async with rig(peer, route=Route(ca_file=authority.file)) as (_, one):
        assert await echoed(one, text) == text
        await peer.wires[0].close(1012)
        await eventually_echoed(one)
        assert len(peer.wires) == 2


@pytest.mark.case("B-15")
async def test_a_wss_server_that_cannot_prove_who_it_is_is_not_spoken_to(tmp_path: Path):
    peer = WebSocketPeer(tls=Authority(tmp_path).server_context())
    async with rig(peer) as (_, one):
        fault = (await one.front.call("echo").done()).fault
        assert fault.sent is False
        assert "certificate" in fault.message
        assert peer.wires == []


async def test_a_proxy_is_asked_for_a_tunnel():
    async with trio.open_nursery() as nursery:
        peer = await nursery.start(WebSocketPeer().serve)
        asked: list[bytes] = []

        async def tunnel(client: trio.SocketStream) -> None:
            asked.append(await read_head(client))
            server = await trio.open_tcp_stream("127.0.0.1", peer.port)
            await client.send_all(b"HTTP/1.1 200 Yes\r\n\r\n")
            async with server, trio.open_nursery() as both:
                both.start_soon(pour, server, client)
                both.start_soon(pour, client, server)

        place = await nursery.start(raw_peer, tunnel)
        port = int(place.split(":")[2].split("/")[0])
        with trio.fail_after(60):
            async with backend(f"ws://name.example:{peer.port}/mcp", route=Route(Proxy("127.0.0.1", port))) as one:
                assert await echoed(one) == "x"
                assert asked[0].startswith(b"CONNECT name.example:%d HTTP/1.1\r\n" % peer.port)
        nursery.cancel_scope.cancel()


# --- connections that end ---------------------------------------------------------------------------------------------
@pytest.mark.case("B-03")
@pytest.mark.parametrize("is_polite", [True, False], ids=["close frame", "no word"])
async def test_calls_that_were_sent_when_the_connection_ends_may_have_been_executed(is_polite: bool):
    async def leave(wire: WebSocketWire, _request: Json) -> None:
        if is_polite:
            await wire.close(1012, "new version")
        else:
            await wire.hang_up()

    async with rig(WebSocketPeer(on={"tools/call": leave})) as (peer, one):
        fault = (await one.front.call("echo").done()).fault
        assert (fault.code, fault.sent, fault.lost) == (OUTCOME_UNKNOWN, True, True)
        assert ("code 1012: it is restarting" in fault.message) is is_polite
        assert 'server "main" closed the connection' in fault.message

        del peer.on["tools/call"]
        assert await echoed(one, "again") == "again"
        assert len(peer.wires) == 2


async def test_a_server_that_restarts_is_connected_to_again_without_being_asked_to():
    async with rig() as (peer, one):
        await echoed(one)
        await peer.wires[0].close(1001)

        async def twice() -> bool:
            return len(peer.of("initialize")) == 2

        await eventually(twice, "it is initialized again")
        await one.front.wait_state("ready")
        assert await echoed(one) == "x"


@pytest.mark.case("B-26")
async def test_what_a_server_has_not_read_goes_to_the_next_connection(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(websocket_channel, "WRITE_IDLE_S", 0.3)
    received: list[list[Json]] = []

    async def converse(stream: trio.SocketStream) -> None:
        """The first connection is not read once it is initialized."""
        mine: list[Json] = []
        received.append(mine)
        await accept(stream)

        async def take(message: Json | Ping) -> None:
            assert isinstance(message, dict)
            mine.append(message)
            await stream.send_all(frame(answer_to(message)))
            if len(received) == 1 and message.get("method") == "tools/list":
                await trio.sleep_forever()

        await hear(stream, take)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            url = await nursery.start(raw_peer, converse)
            async with backend(url) as one:
                await one.front.ask_list().done()
                # More than kernels buffer, in one message; what comes behind it is not written at all.
                filling = one.front.call("echo", {"text": "x" * 8_000_000})
                behind = one.front.call("echo", {"text": "behind"})

                fault = (await filling.done()).fault
                assert (fault.sent, "has read nothing" in fault.message) == (True, True)
                assert (await behind.done()).text == "behind"
                calls = [message for message in received[1] if message.get("method") == "tools/call"]
                assert [call["params"]["arguments"]["text"] for call in calls] == ["behind"]
            nursery.cancel_scope.cancel()


@pytest.mark.case("B-04")
async def test_a_peer_that_answers_no_ping_is_gone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(websocket_channel, "WEBSOCKET_PING_S", 0.1)
    monkeypatch.setattr(websocket_channel, "WEBSOCKET_PONG_S", 0.2)
    pings: list[Ping] = []

    async def converse(stream: trio.SocketStream) -> None:
        async def take(message: Json | Ping) -> None:
            if isinstance(message, Ping):
                pings.append(message)
            else:
                await stream.send_all(frame(answer_to(message)))

        await accept(stream)
        await hear(stream, take)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            url = await nursery.start(raw_peer, converse)
            async with backend(url) as one:
                await one.front.wait_state("ready")
                assert "did not answer a ping within 0.2 s" in (await one.front.wait_state("backoff")).detail
                assert len(pings) == 1
            nursery.cancel_scope.cancel()


async def test_an_idle_connection_is_kept_by_pings(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(websocket_channel, "WEBSOCKET_PING_S", 0.05)
    pings: list[Ping] = []
    asked_often = trio.Event()

    async def converse(stream: trio.SocketStream) -> None:
        async def take(message: Json | Ping) -> None:
            if not isinstance(message, Ping):
                await stream.send_all(frame(answer_to(message)))
                return
            await stream.send_all(frame(bytes(message.payload), 0x8A))
            pings.append(message)
            if len(pings) == 3:
                asked_often.set()

        await accept(stream)
        await hear(stream, take)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            url = await nursery.start(raw_peer, converse)
            async with backend(url) as one:
                await one.front.wait_state("ready")
                await asked_often.wait()
                assert [state for state, _ in one.reported].count("ready") == 1
            nursery.cancel_scope.cancel()


# --- peers that break rules -------------------------------------------------------------------------------------------
def frame(text: bytes, first: int = 0x81) -> bytes:
    size = len(text)
    head = bytes([first, size]) if size < 126 else bytes([first, 126]) + size.to_bytes(2, "big")
    return head + text


async def hear(stream: trio.SocketStream, take: Callable[[Json | Ping], Awaitable[None]]) -> None:
    """Hand on the messages and the pings of a client, without answering any."""
    frames = Connection(ConnectionType.SERVER)
    while data := await stream.receive_some(65536):
        frames.receive_data(data)
        for event in frames.events():
            if isinstance(event, TextMessage):
                assert event.message_finished  # no test that uses this is sent more than one read holds
                await take(json.loads(event.data))
            elif isinstance(event, Ping):
                await take(event)


def answer_to(message: Json) -> bytes:
    arguments = message.get("params", {}).get("arguments", {})
    results: Json = {
        "initialize": {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": {}},
        "tools/list": {"tools": []},
        "tools/call": {"content": [{"type": "text", "text": arguments.get("text")}]},
    }  # fmt: skip
    if message.get("method") in results:
        return json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": results[message["method"]]}).encode()
    return json.dumps({"jsonrpc": "2.0", "id": message.get("id"), "error": {"code": -32601, "message": "no"}}).encode()


@pytest.mark.case("B-06", "B-07", "B-16")
async def test_garbage_wrong_ids_and_second_answers_harm_nobody():
    async def confusing(wire: WebSocketWire, request: Json) -> None:
        await wire.text("no JSON")
        await wire.text("[]")
        await wire.say({"id": "unknown", "result": {}})
        await wire.raw(frame(b'{"jsonrpc":"2.0",', 0x01) + frame(b"", 0x89) + frame(b'"id":"b0-0","result":{}}', 0x80))
        await wire.echo(request)
        await wire.echo(request)

    async with rig() as (peer, one):
        await echoed(one)
        peer.on["tools/call"] = confusing
        assert await echoed(one, "right") == "right"
        del peer.on["tools/call"]
        assert await echoed(one, "still there") == "still there"

        assert (one.worker.counters.messages, one.worker.counters.answers) == (2, 3)
        assert len(one.log.fields_of("not a message")) == 1  # once a minute, not each time
        assert len(peer.wires) == 1


async def test_endless_garbage_ends_the_connection(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(messages, "JUNK_LINES_MAX", 50)

    async def babble(wire: WebSocketWire, _request: Json) -> None:
        while True:
            await wire.text("bla")

    async with rig(WebSocketPeer(on={"tools/call": babble})) as (_, one):
        fault = (await one.front.call("echo").done()).fault
        assert "sent 50 messages in a row that are none of MCP's" in fault.message


@pytest.mark.case("B-11")
@pytest.mark.parametrize(
    ("bad", "code", "said"),
    [
        (frame(b"{}", 0x82), 1003, "sent a binary frame, but messages of MCP are text"),
        (frame(b"x" * 2000) + frame(b"x" * 2000, 0x01) * 2, 1002, "broke the rules of WebSocket (code 1002"),
        (frame(b"{}", 0xC1), 1002, "broke the rules of WebSocket"),
        (frame(b"\xff\xfe"), 1007, "broke the rules of WebSocket (code 1007"),
        (b"\x81\x82aaaabb", 1002, "broke the rules of WebSocket"),
        (frame(b"", 0x01) + frame(b"", 0x00) * 3000, 1008, "broke the rules of WebSocket (code 1008"),
        (frame(b"x" * 3000, 0x01) + frame(b"x" * 3000, 0x00), 1009, "sent a message longer than"),
    ],
    ids=["binary", "fragments mixed up", "reserved bit", "no UTF-8", "masked", "empty frames", "too long"],
)
async def test_breaking_the_rules_ends_the_connection_with_its_code(
    bad: bytes, code: int, said: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(websocket_channel, "ANSWER_BYTES_MAX", 5000)

    async def break_rules(wire: WebSocketWire, _request: Json) -> None:
        await wire.raw(bad)

    async with rig(WebSocketPeer(on={"tools/call": break_rules})) as (peer, one):
        fault = (await one.front.call("echo").done()).fault
        assert fault.code == OUTCOME_UNKNOWN
        assert said in fault.message

        async def told() -> bool:
            closed = peer.wires[0].websocket.closed
            return closed is not None and closed.code == code

        await eventually(told, "the server is told why")
        del peer.on["tools/call"]
        assert await echoed(one) == "x"


async def test_an_error_in_place_of_an_answer_ends_that_call_alone():
    async def half(wire: WebSocketWire, request: Json) -> None:
        await wire.say({"id": request["id"], "result": {}, "error": {"code": 1, "message": "both"}})

    async with rig(WebSocketPeer(on={"tools/call": half})) as (peer, one):
        fault = (await one.front.call("echo").done()).fault
        assert (fault.code, len(peer.wires)) == (INTERNAL_ERROR, 1)


# --- handshakes that fail ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "does not speak WebSocket at /mcp (HTTP 404)"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "does not speak WebSocket at /mcp (HTTP 200)"),
        (b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n", "needs authorization (HTTP 401)"),
        (b"HTTP/1.1 307 No\r\nLocation: ws://elsewhere/\r\nContent-Length: 0\r\n\r\n", "redirects elsewhere"),
        (b"HTTP/1.1 503 No\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n", "try again in 7 s"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "answered the WebSocket handshake at /mcp with something else"),
        (
            b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n",
            "answered the WebSocket handshake at /mcp with something else",
        ),
        (b"", "closed the connection during the WebSocket handshake"),
    ],
    ids=["404", "no upgrade", "401", "redirect", "503", "no HTTP", "wrong token", "closed"],
)
async def test_a_server_that_does_not_accept_is_told_of_in_words(answer: bytes, said: str):
    async def converse(stream: trio.SocketStream) -> None:
        await read_head(stream)
        await stream.send_all(answer)
        if answer:
            await stream.receive_some(1)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            url = await nursery.start(raw_peer, converse)
            async with backend(url) as one:
                fault = (await one.front.call("echo").done()).fault
                assert said in fault.message
                assert (fault.sent, fault.code) == (False, SERVER_UNAVAILABLE)
                await one.front.wait_state("backoff")
            nursery.cancel_scope.cancel()


async def test_a_server_that_does_not_answer_the_handshake_is_not_waited_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(websocket_channel, "CONNECT_TIMEOUT_S", 0.1)

    async def converse(stream: trio.SocketStream) -> None:
        await stream.receive_some(1)
        await trio.sleep_forever()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            url = await nursery.start(raw_peer, converse)
            async with backend(url) as one:
                fault = (await one.front.call("echo").done()).fault
                assert "did not answer the WebSocket handshake within 0.1 s" in fault.message
            nursery.cancel_scope.cancel()


async def test_nobody_listening_is_told_as_over_http():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
    with trio.fail_after(60):
        async with backend(f"ws://127.0.0.1:{port}/mcp") as one:
            fault = (await one.front.call("echo").done()).fault
            assert "refused the connection" in fault.message


async def test_leaving_says_goodbye():
    async with rig() as (peer, one):
        await echoed(one)
        await one.worker.drain(0.0)

        async def told() -> bool:
            closed = peer.wires[0].websocket.closed
            return closed is not None and closed.code == 1001

        await eventually(told, "the server is told that we go")


async def test_messages_that_come_with_the_handshake_are_taken():
    async def converse(stream: trio.SocketStream) -> None:
        await accept(stream, frame(b'{"jsonrpc":"2.0","id":1,"method":"ping"}'))

        async def take(message: Json | Ping) -> None:
            assert isinstance(message, dict)
            await stream.send_all(frame(answer_to(message)))

        await hear(stream, take)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            url = await nursery.start(raw_peer, converse)
            async with backend(url) as one:
                assert await echoed(one) == "x"
            nursery.cancel_scope.cancel()
