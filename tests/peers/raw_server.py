"""A server that says exactly what a test tells it to, also when that is wrong; it lives in the test's own process.

By default it is a polite MCP server of either era or both, with one tool that echoes. A test changes its fields, or
gives it an answer of its own for a method:

    async with trio.open_nursery() as nursery:
        server = await nursery.start(RawServer(era="legacy").serve)
        server.on["tools/call"] = never
        ...
        nursery.cancel_scope.cancel()

An answer is an async function of the request and the reply; `Reply` writes to the socket, correctly or not.
"""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import trio

Json = dict[str, Any]

META: Final = "io.modelcontextprotocol/"
LEGACY_VERSIONS: Final = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
MODERN_VERSION: Final = "2026-07-28"
HEAD_BYTES_MAX: Final = 64 * 1024
ECHO: Final[Json] = {
    "name": "echo",
    "description": "Gives back its argument.",
    "inputSchema": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
}


@dataclass
class Request:
    """One HTTP request as it came."""

    verb: str
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes
    connection: int
    """Which connection it came on, counted from 1."""
    target: str = ""

    @property
    def message(self) -> Json:
        return json.loads(self.body)

    @property
    def method(self) -> str:
        """The JSON-RPC method, "" in a response; of anything that is not a POST, its verb."""
        return self.message.get("method", "") if self.verb == "POST" else self.verb

    @property
    def params(self) -> Json:
        return self.message.get("params", {})

    @property
    def is_modern(self) -> bool:
        return META + "protocolVersion" in self.params.get("_meta", {})


class HangUpError(Exception):
    """Close the connection now, whatever has been written."""


@dataclass
class Reply:
    """The way back. Every method sends at once."""

    stream: trio.abc.Stream
    request: Request
    server: RawServer
    headers: list[tuple[str, str]] = field(default_factory=list)
    """More headers for the response, such as a session id."""
    close_after: bool = False
    """Hang up once the answer is complete, without having announced it."""

    async def raw(self, data: bytes) -> None:
        """Write these bytes and no others."""
        await self.stream.send_all(data)

    async def head(self, status: int, *headers: tuple[str, str]) -> None:
        lines = [f"HTTP/1.1 {status} Status", *(f"{name}: {value}" for name, value in (*headers, *self.headers))]
        await self.raw("\r\n".join([*lines, "", ""]).encode("latin-1"))

    async def status(self, status: int, body: bytes = b"", kind: str = "text/plain") -> None:
        """A whole answer that is no JSON-RPC message."""
        extra = [("Content-Type", kind)] if body else []
        await self.head(status, *extra, ("Content-Length", str(len(body))))
        await self.raw(body)

    async def message(self, message: Json, status: int = 200) -> None:
        """One message as JSON, in the way the server's fields ask for."""
        body = self.server.encode(message)
        if not self.server.chunk_bytes:
            await self.status(status, body, "application/json")
            return
        await self.head(status, ("Content-Type", "application/json"), ("Transfer-Encoding", "chunked"))
        size = self.server.chunk_bytes
        for start in range(0, len(body), size):
            await self.chunk(body[start : start + size])
        await self.raw(b"0\r\n\r\n")

    async def chunk(self, data: bytes) -> None:
        await self.raw(b"%x\r\n%s\r\n" % (len(data), data))

    async def start_events(self) -> None:
        await self.head(200, ("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked"))

    async def event(self, message: Json) -> None:
        """One message as an event; pretty JSON becomes several data lines."""
        lines = self.server.encode(message).split(b"\n")
        await self.chunk(b"event: message\n" + b"".join(b"data: " + line + b"\n" for line in lines) + b"\n")

    async def notify(self, method: str, params: Json) -> None:
        await self.event({"jsonrpc": "2.0", "method": method, "params": params})

    async def end_events(self) -> None:
        await self.raw(b"0\r\n\r\n")

    async def result(self, result: Json) -> None:
        """The result of this request, with what its era demands, as JSON or as the only event of a stream."""
        if self.request.is_modern:
            result = {"resultType": "complete", **result}
        await self.final({"result": result})

    async def error(self, code: int, message: str, status: int = 200, **more: Any) -> None:
        await self.final({"error": {"code": code, "message": message, **more}}, status)

    async def final(self, outcome: Json, status: int = 200) -> None:
        message = {"jsonrpc": "2.0", "id": self.request.message["id"], **outcome}
        if not self.server.events or status != 200:
            await self.message(message, status)
            return
        await self.start_events()
        await self.event(message)
        await self.end_events()


Answer = Callable[[Request, Reply], Awaitable[None]]


@dataclass
class RawServer:
    """One scriptable server. Fields may be changed at any time."""

    era: str = "dual"
    """legacy, modern or dual: what it answers, and what it has never heard of."""
    name: str = "raw"
    tools: list[Json] = field(default_factory=lambda: [ECHO])
    page_size: int = 0
    """Tools per page of tools/list; 0: all of them on one."""
    list_extra: Json = field(default_factory=dict)
    """More members for the result of tools/list."""
    sessions: bool = True
    """Whether legacy clients are given a session id and have to use it."""
    pretty: bool = False
    """JSON over many lines."""
    events: bool = False
    """Every answer as an event stream."""
    chunk_bytes: int = 0
    """JSON answers in chunks of so many bytes; 0: with Content-Length."""
    close_each: bool = False
    """Hang up after every answer without having said so."""
    tls: ssl.SSLContext | None = None
    """With it the server speaks https."""
    host: str | None = None
    """The address it listens on; None for all."""
    unix: str = ""
    """The path of the Unix socket it listens on, instead of a port."""
    on: dict[str, Answer] = field(default_factory=dict)
    """Answers of the test's own, by JSON-RPC method, or by HTTP verb for GET and DELETE."""

    requests: list[Request] = field(default_factory=list)
    """Everything received so far, in order."""
    connections: int = 0
    """How many have ever been accepted."""
    open_now: set[int] = field(default_factory=set)
    """Numbers of the connections that are open."""
    port: int = 0
    known_sessions: set[str] = field(default_factory=set)
    _minted: int = 0
    _changed: trio.Condition = field(default_factory=trio.Condition)

    # --- what a test does ------------------------------------------------------------------------------------------
    @property
    def url(self) -> str:
        if self.unix:
            return f"unix://{self.unix}"
        return f"{'https' if self.tls else 'http'}://{self.host or '127.0.0.1'}:{self.port}/mcp"

    async def serve(self, task_status: trio.TaskStatus[RawServer] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled. Give it to `nursery.start`, which returns the server once it listens."""
        async with trio.open_nursery() as nursery:
            if self.unix:
                listeners = [await self._unix_listener()]
            else:
                listeners = await trio.open_tcp_listeners(self.port, host=self.host)
            self.port = 0 if self.unix else listeners[0].socket.getsockname()[1]
            nursery.start_soon(trio.serve_listeners, self._connection, listeners)
            task_status.started(self)

    async def _unix_listener(self) -> trio.SocketListener:
        sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        await sock.bind(self.unix)
        sock.listen()
        return trio.SocketListener(sock)

    def received(self, method: str) -> list[Request]:
        """Return the requests and notifications of one method so far."""
        return [request for request in self.requests if request.method == method]

    async def wait_for(self, method: str, count: int = 1) -> list[Request]:
        """Wait until so many of a method have come, and return them."""
        async with self._changed:
            while len(self.received(method)) < count:
                await self._changed.wait()
        return self.received(method)

    async def wait_until_closed(self, connection: int) -> None:
        """Wait until the other side has closed a connection, or this side has."""
        async with self._changed:
            while connection in self.open_now:
                await self._changed.wait()

    def forget_sessions(self) -> None:
        """As after a restart: every session id is unknown from now on."""
        self.known_sessions.clear()

    def encode(self, message: Json) -> bytes:
        if self.pretty:
            return json.dumps(message, indent=4, ensure_ascii=False).encode()
        return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()

    # --- connections -------------------------------------------------------------------------------------------------
    async def _connection(self, stream: trio.abc.Stream) -> None:
        self.connections += 1
        if self.tls is not None:
            assert isinstance(stream, trio.SocketStream)
            stream = trio.SSLStream(stream, self.tls, server_side=True)
        number = self.connections
        self.open_now.add(number)
        try:
            reader = _Reader(stream)
            while (request := await reader.request(number)) is not None:
                self.requests.append(request)
                await self._tell()
                reply = Reply(stream, request, self, close_after=self.close_each)
                await self._answer(request, reply)
                if reply.close_after:
                    return
        except (trio.BrokenResourceError, trio.ClosedResourceError, HangUpError):
            return
        finally:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(stream)
                self.open_now.discard(number)
                await self._tell()

    async def _tell(self) -> None:
        """Wake up whoever waits for something to happen here."""
        async with self._changed:
            self._changed.notify_all()

    async def _answer(self, request: Request, reply: Reply) -> None:
        scripted = self.on.get(request.method or request.verb)
        await (scripted or self.polite)(request, reply)

    # --- the polite server -------------------------------------------------------------------------------------------
    async def polite(self, request: Request, reply: Reply) -> None:
        """Answer as if the test had given no answer of its own."""
        if request.verb != "POST":
            await reply.status(405)
        elif request.is_modern:
            await self._modern(request, reply)
        else:
            await self._legacy(request, reply)

    async def _modern(self, request: Request, reply: Reply) -> None:
        if self.era == "legacy":
            await reply.error(-32000, "Bad Request: Unsupported protocol version", 400)
        elif "id" not in request.message:
            await reply.status(202)
        elif request.method == "server/discover":
            capabilities: Json = {"tools": {"listChanged": True}, "logging": {}}
            await reply.result({"supportedVersions": [MODERN_VERSION], "capabilities": capabilities, **_cache_hints()})
        else:
            await self._either(request, reply)

    async def _legacy(self, request: Request, reply: Reply) -> None:
        session = request.headers.get("mcp-session-id")
        if self.era == "modern":
            data = {"supported": [MODERN_VERSION], "requested": request.headers.get("mcp-protocol-version", "")}
            await reply.error(-32022, "Unsupported protocol version", 400, data=data)
        elif request.method == "initialize":
            await self._initialize(request, reply)
        elif self.sessions and session not in self.known_sessions:
            await reply.error(-32600, "Session not found", 404 if session else 400)
        elif "id" not in request.message:
            await reply.status(202)
        else:
            await self._either(request, reply)

    async def _initialize(self, request: Request, reply: Reply) -> None:
        offered = request.params["protocolVersion"]
        if self.sessions:
            self._minted += 1
            session = f"{self.name}-session-{self._minted}"
            self.known_sessions.add(session)
            reply.headers.append(("Mcp-Session-Id", session))
        await reply.result(
            {
                "protocolVersion": offered if offered in LEGACY_VERSIONS else LEGACY_VERSIONS[-1],
                "capabilities": {"tools": {"listChanged": True}, "logging": {}},
                "serverInfo": {"name": self.name, "version": "1.0"},
            }
        )

    async def _either(self, request: Request, reply: Reply) -> None:
        if request.method == "tools/list":
            await reply.result(self._page(request))
        elif request.method == "tools/call":
            arguments = request.params.get("arguments", {})
            await reply.result({"content": [{"type": "text", "text": str(arguments.get("text", self.name))}]})
        elif request.method in ("ping", "logging/setLevel"):
            await reply.result({})
        else:
            await reply.error(-32601, "Method not found", 404 if request.is_modern else 200)

    def _page(self, request: Request) -> Json:
        start = int(request.params.get("cursor", "0"))
        end = start + self.page_size if self.page_size else len(self.tools)
        page: Json = {"tools": self.tools[start:end], **self.list_extra}
        if end < len(self.tools):
            page["nextCursor"] = str(end)
        return page | _cache_hints() if request.is_modern else page


class _Reader:
    """Takes requests off a connection. The proxy is trusted to be a correct client here; its own tests see to that."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.buffer = b""

    async def more(self) -> bool:
        data = await self.stream.receive_some()
        self.buffer += data
        return bool(data)

    async def request(self, connection: int) -> Request | None:
        while b"\r\n\r\n" not in self.buffer:
            assert len(self.buffer) < HEAD_BYTES_MAX, "a request's head never ends"
            if not await self.more():
                return None
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        pairs = (line.split(":", 1) for line in lines)
        headers = {name.lower(): value.strip() for name, value in pairs}
        assert "transfer-encoding" not in headers, "the proxy knows how long its requests are"
        length = int(headers.get("content-length", "0"))
        while len(self.buffer) < length:
            if not await self.more():
                return None
        body, self.buffer = self.buffer[:length], self.buffer[length:]
        verb, target, _ = first.split(" ")
        return Request(verb, headers, body, connection, target)


def _cache_hints() -> Json:
    return {"ttlMs": 0, "cacheScope": "private"}


# --- answers that are not polite -------------------------------------------------------------------------------------
async def never(_request: Request, reply: Reply) -> None:
    """Take the request and never answer it; end when the other side does."""
    while await reply.stream.receive_some():
        pass
    raise HangUpError


async def hang_up(_request: Request, _reply: Reply) -> None:
    """Close the connection instead of answering."""
    raise HangUpError


async def hang_up_half_way(_request: Request, reply: Reply) -> None:
    """Promise more bytes than come."""
    await reply.head(200, ("Content-Type", "application/json"), ("Content-Length", "1000"))
    await reply.raw(b'{"jsonrpc":"2.0",')
    raise HangUpError


async def drip(request: Request, reply: Reply) -> None:
    """Give a good answer one byte at a time."""
    message = {"jsonrpc": "2.0", "id": request.message["id"], "result": {"content": [], "resultType": "complete"}}
    body = reply.server.encode(message)
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    for byte in head.encode() + body:
        await reply.raw(bytes([byte]))
        await trio.lowlevel.checkpoint()


async def cycle(_request: Request, reply: Reply) -> None:
    """Give a page of a list that is followed by itself, for ever."""
    await reply.result({"tools": [ECHO], "nextCursor": "again", "ttlMs": 0, "cacheScope": "private"})


def with_id(other: Any) -> Answer:
    """Answer under an id that was never asked for."""

    async def answer(_request: Request, reply: Reply) -> None:
        await reply.message({"jsonrpc": "2.0", "id": other, "result": {"content": []}})

    return answer


def with_status(status: int, body: bytes = b"", kind: str = "text/html") -> Answer:
    """Answer like something that is no MCP server at all."""

    async def answer(_request: Request, reply: Reply) -> None:
        await reply.status(status, body, kind)

    return answer


def with_result(result: Json) -> Answer:
    async def answer(_request: Request, reply: Reply) -> None:
        await reply.result(result)

    return answer


def with_events(messages: Sequence[Json], result: Json) -> Answer:
    """Send these messages before the result, on the request's own stream."""

    async def answer(request: Request, reply: Reply) -> None:
        await reply.start_events()
        for message in messages:
            await reply.event(message)
        if request.is_modern:
            result.setdefault("resultType", "complete")
        await reply.event({"jsonrpc": "2.0", "id": request.message["id"], "result": result})
        await reply.end_events()

    return answer
