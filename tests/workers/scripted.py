"""What the tests of workers play against the part under test: a log, a stream's handler, a server's worker, a client.

The parts under test run on a real reactor with real sockets, in the process of the test. `Watched.until` is how a test
waits: it looks again whenever something has happened, and gives up after five seconds, also if the test's clock stands
still.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from protocol import headers as headers_module
from protocol import link
from protocol.control import FromWorker, FrontSettings, ServerInfo
from protocol.ledger import LEDGER_BYTES
from protocol.link import Header, Payload
from protocol.tool_rules import ToolRules
from protocol.versions import Era
from supervisor.linux import shared_memory
from workers.front.worker import FrontWorker
from workers.link_end import LinkEnd
from workers.reactor import Listener, Reactor, SocketStream

T = TypeVar("T")
Json = dict[str, Any]

WAIT_S = 30.0
MODERN = "2026-07-28"
META = "io.modelcontextprotocol/"
KEY = bytes(range(32))


@contextmanager
def bounded() -> Iterator[None]:
    """Fail after five seconds of real time, whatever the test's clock shows."""
    if not isinstance(trio.lowlevel.current_clock(), MockClock):
        with trio.fail_after(WAIT_S):
            yield
        return
    with trio.CancelScope() as scope:
        timer = threading.Timer(WAIT_S, trio.lowlevel.current_trio_token().run_sync_soon, [scope.cancel])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
    if scope.cancelled_caught:
        raise trio.TooSlowError


class Watched:
    """Something that tells when it has changed."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def changed(self) -> None:
        event, self._event = self._event, trio.Event()
        event.set()

    async def until(self, look: Callable[[], T]) -> T:
        """Return the first truthy value of `look`."""
        with bounded():
            while not (found := look()):
                await self._event.wait()
            return found


class RecordingLog(Watched):
    """A `workers.logs.Log` that keeps everything."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[tuple[str, str, Json]] = []

    def _note(self, level: str, event: str, fields: Json) -> None:
        self.entries.append((level, event, fields))
        self.changed()

    def debug(self, event: str, **fields: object) -> None:
        self._note("debug", event, fields)

    def info(self, event: str, **fields: object) -> None:
        self._note("info", event, fields)

    def warning(self, event: str, **fields: object) -> None:
        self._note("warning", event, fields)

    def error(self, event: str, **fields: object) -> None:
        self._note("error", event, fields)

    def of(self, level: str) -> list[tuple[str, Json]]:
        return [(event, fields) for entry_level, event, fields in self.entries if entry_level == level]

    def take_errors_of(self, beginning: str) -> list[str]:
        """Return the errors that begin so and forget them."""
        found = [event for event, _ in self.of("error") if event.startswith(beginning)]
        self.entries = [one for one in self.entries if one[0] != "error" or not one[1].startswith(beginning)]
        return found

    def take_errors(self) -> list[str]:
        """Return what callbacks did wrong and forget it; what is left at the end of a test fails it."""
        errors = [str(fields.get("detail") or fields.get("exc_info")) for _, fields in self.of("error")]
        self.entries = [entry for entry in self.entries if entry[0] != "error"]
        return errors


@asynccontextmanager
async def running_reactor() -> AsyncIterator[tuple[Reactor, RecordingLog]]:
    """Run a reactor, and afterwards close all it serves. Callbacks must not have failed, unless the test took note."""
    log = RecordingLog()
    reactor = Reactor(log)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reactor.run)
        try:
            yield reactor, log
        finally:
            with trio.CancelScope(shield=True):
                close_all(reactor)
                await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    assert log.of("error") == []


def close_all(reactor: Reactor) -> None:
    """Close every stream that is left."""
    for source in list(reactor._sources.values()):
        if isinstance(source, SocketStream):
            source.abort()
        elif not isinstance(source, Listener):  # whose socket belongs to the test
            source.ready.__self__.abort()  # one side of a PipeStream


def open_descriptors() -> set[tuple[int, str]]:
    """Return the descriptors of this process and what each is."""
    found: set[tuple[int, str]] = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
            mode = os.fstat(int(name)).st_mode
        except OSError:
            continue  # the one that listed the directory
        if not stat.S_ISDIR(mode):
            found.add((int(name), target))
    return found


class Recorder(Watched):
    """A `workers.transport.StreamHandler` that keeps what it is told. `on_data` and `on_into` may be replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.received = bytearray()
        self.told: list[str] = []
        self.error: OSError | None = None
        self.on_data: Callable[[bytes], None] = lambda data: None
        self.on_into: Callable[[int], None] = lambda count: None

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.changed()
        self.on_data(data)

    def into_filled(self, count: int) -> None:
        self._note(f"into {count}")
        self.on_into(count)

    def eof_received(self) -> None:
        self._note("eof")

    def buffer_drained(self) -> None:
        self._note("drained")

    def stream_closed(self, error: OSError | None) -> None:
        self.error = error
        self._note("closed")

    def _note(self, what: str) -> None:
        self.told.append(what)
        self.changed()

    async def until_received(self, count: int) -> bytes:
        await self.until(lambda: len(self.received) >= count)
        return bytes(self.received)

    async def until_told(self, what: str) -> None:
        await self.until(lambda: what in self.told)


# --- time -----------------------------------------------------------------------------------------------------------
async def advance(clock: MockClock, seconds: float, step_s: float = 0.5) -> None:
    """Let a frozen clock move on in steps, so that every sweep due on the way runs, and what it causes happens."""
    left = seconds
    while left > 0:
        clock.jump(min(step_s, left))
        left -= step_s
        await wait_all_tasks_blocked()


# --- servers --------------------------------------------------------------------------------------------------------
class ScriptedWorker(Watched):
    """The other end of a front's link: a server's worker that answers when and what the test says.

    Lists are answered at once with `tools`, unless `lists` is False.
    """

    def __init__(self, reactor: Reactor, name: str, *, calls: int = 64, is_shared: bool = False) -> None:
        super().__init__()
        self.name = name
        self.incarnation = 0
        self.tools: list[Json] = [{"name": "echo", "inputSchema": {"type": "object"}}]
        self.leg: Era | None = None
        """Era of the leg that everything comes over; None for the one asked for."""
        self.prompts: list[Json] = []
        self.resources: list[Json] = []
        self.templates: list[Json] = []
        self.offers: list[str] | None = ["tools"]
        """Capabilities, as of the next state that is told."""
        self.generation = 1
        self.ttl_ms = 0
        self.private = True
        self.lists = True
        self.works: bool | None = True
        """What a probe finds out; None: it is not answered."""
        self.calls: list[tuple[link.Call, Json]] = []
        self.frames: list[Header] = []
        """Everything else."""
        self.closed: list[str] = []
        self.end: LinkEnd | None = None
        self._limit = calls
        self._is_shared = is_shared
        """There are other fronts, so this one is told how many calls it may have in flight."""
        self._reactor = reactor

    def attach(self, front: FrontWorker, *, ready: bool = True, incarnation: int = 0, gently: bool = False) -> None:
        """Begin the next life, or that incarnation of the server. `gently`: the worker before it is still there."""
        self.incarnation = incarnation or self.incarnation + 1
        ours, theirs = socket.socketpair()
        self.end = LinkEnd(
            self._reactor, ours, role="worker", name=self.name, incarnation=self.incarnation, calls=self._limit,
            on_frame=self._frame, on_closed=self._closed,
        )  # fmt: skip
        front.attach(theirs, self.name, self.incarnation, gently=gently)
        if self._is_shared:
            self.send(link.Limit(self._limit))
        if ready:
            self.state("ready")

    def die(self) -> None:
        """End as a killed process does: the kernel closes its end."""
        assert self.end is not None
        self.end._stream.abort()

    def send(self, header: Header, payload: Payload | Json | list[Any] = b"") -> None:
        assert self.end is not None
        self.end.send(header, json.dumps(payload).encode() if isinstance(payload, dict | list) else payload)

    def state(self, state: str, instructions: str = "") -> None:
        self.send(link.State(state, "", instructions, self.offers))

    def answer(self, call: link.Call, result: Payload | Json, era: Era | None = None) -> None:
        self.send(link.Result(call.id, call.era if era is None else era), result)

    def notify(self, call: link.Call, method: str, params: Json | bytes) -> None:
        self.send(link.Event(call.id, method), params)

    def fault(self, call: link.Call, code: int, message: str, *, sent: bool, error: Json | None = None) -> None:
        payload = b"" if error is None else json.dumps(error).encode()
        self.send(link.Fault(call.id, code, message, sent, 0, call.era), payload)

    def listing(self, request: link.ListRequest) -> None:
        current = request.have == self.generation
        leg = request.era if self.leg is None else self.leg
        header = link.Listing(request.id, request.era, request.kind, self.generation, self.ttl_ms, self.private, leg)
        lists = {"tools": self.tools, "prompts": self.prompts, "resources": self.resources}
        self.send(header, b"" if current else lists.get(request.kind, self.templates))

    async def call(self) -> tuple[link.Call, Json]:
        """Return the oldest call that was not taken yet, with its params."""
        await self.until(lambda: self.calls)
        return self.calls.pop(0)

    async def frame_round_trip(self) -> None:
        """Wait until the front has taken everything that was sent to it before."""
        await wait_all_tasks_blocked()

    async def frame(self, kind: type[T]) -> T:
        """Return the oldest other frame of a kind that was not taken yet."""
        found = await self.until(lambda: [frame for frame in self.frames if isinstance(frame, kind)])
        self.frames.remove(found[0])
        return found[0]

    def _frame(self, header: Header, payload: memoryview) -> None:
        if isinstance(header, link.Call):
            self.calls.append((header, json.loads(bytes(payload))))
        elif isinstance(header, link.ListRequest) and self.lists:
            self.frames.append(header)
            self.listing(header)
        elif isinstance(header, link.Probe) and self.works is not None:
            self.frames.append(header)
            self.send(link.Probed(self.works))
        else:
            self.frames.append(header)
        self.changed()

    def _closed(self, reason: str) -> None:
        self.closed.append(reason)
        self.changed()


class Front:
    """A front on its reactor, with scripted workers behind it."""

    def __init__(self, reactor: Reactor, log: RecordingLog, worker: FrontWorker, port: int) -> None:
        self.reactor = reactor
        self.log = log
        self.worker = worker
        self.port = port
        self.reports: list[FromWorker] = []
        self.servers: dict[str, ScriptedWorker] = {}
        self.clients: list[Client] = []

    @property
    def main(self) -> ScriptedWorker:
        return self.servers["main"]

    @property
    def connections(self) -> int:
        return len(self.worker._connections)

    async def client(self, version: str | None = None, path: str = "/mcp") -> Client:
        """Connect a client, which is closed with the front; with a version also initialize it."""
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        client = Client(stream)
        client.path = path
        self.clients.append(client)
        if version is not None:
            await client.initialize(version)
        return client


@asynccontextmanager
async def running_front(
    *servers: str,
    separator: str = "__",
    calls: int = 64,
    attach: bool = True,
    stdio: tuple[int, int] | None = None,
    ledger: int = 0,
    inherited: socket.socket | None = None,
    rules: dict[str, ToolRules] | None = None,
    groups_of: dict[str, str] | None = None,
    limits: Json | None = None,
    shared: Sequence[int] = (),
    **settings: Any,
) -> AsyncIterator[Front]:
    """Run a front for these servers (one called "main" if none is named), listening on a port of its own.

    `limits`: more fields of `ServerInfo`, for every server.
    `ledger`: a descriptor of the memory that it has in common with an earlier front on stdio.
    `shared`: descriptors of what it has in common with other fronts (`Inboxes.of`).
    With `inherited` it listens on that socket, which stays open when the front ends, as the root keeps it open.
    """
    before = open_descriptors()
    names = servers or ("main",)
    async with running_reactor() as (reactor, log):
        listener = inherited.dup() if inherited else socket.create_server(("127.0.0.1", 0), backlog=1024)
        port = listener.getsockname()[1] if listener.family != socket.AF_UNIX else 0
        reports: list[FromWorker] = []
        wanted, own = rules or {}, limits or {}
        infos = [
            ServerInfo(
                name, "http://127.0.0.1:1/mcp", rules=wanted.get(name, ToolRules()),
                group=(groups_of or {}).get(name, ""), **own,
            )
            for name in names
        ]  # fmt: skip
        usual: Json = {
            "separator": separator, "path": "/mcp", "session_key": KEY, "allowed_hosts": [], "allowed_origins": [],
            "stdio_session": "", "ended_sessions": [], "page_size": 0,
        }  # fmt: skip
        worker = FrontWorker(
            reactor,
            FrontSettings(servers=infos, listeners=1, stdio=stdio is not None, **(usual | settings)),
            [listener.detach(), *((*stdio, ledger or shared_memory(LEDGER_BYTES)) if stdio else ()), *shared],
            incarnation=1,
            log=log,
            tell_root=reports.append,
        )
        front = Front(reactor, log, worker, port)
        front.reports = reports
        reactor.start_soon(worker.run)
        for name in names:
            front.servers[name] = ScriptedWorker(reactor, name, calls=calls, is_shared=settings.get("fronts", 1) > 1)
            if attach:
                front.servers[name].attach(worker)
        await wait_all_tasks_blocked()
        try:
            yield front
        finally:
            for client in front.clients:
                client.stream.socket.close()
            worker._doors.leave()
            for listening in worker._doors.listeners:
                listening.close()
                listening._sock.close()
    if not shared:  # else the other front has been given some meanwhile
        assert open_descriptors() <= before, "descriptors were left open"


# --- clients --------------------------------------------------------------------------------------------------------
@dataclass
class Answer:
    """One HTTP response."""

    status: int
    headers: dict[str, str]
    body: bytes = b""
    events: list[Json] = field(default_factory=list)
    comments: int = 0

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def final(self) -> Json:
        """The JSON-RPC response, however it came."""
        return self.events[-1] if self.is_stream else self.json

    @property
    def is_stream(self) -> bool:
        return self.headers.get("content-type") == "text/event-stream"


def http(method: str, headers: dict[str, str] | None = None, body: bytes = b"", path: str = "/mcp") -> bytes:
    """Return one request. A header given as "" is left out."""
    usual = {"host": "127.0.0.1"}
    if method == "POST":
        usual |= {"content-type": "application/json", "accept": "application/json, text/event-stream"}
        usual |= {"content-length": str(len(body))}
    chosen = {name: value for name, value in (usual | (headers or {})).items() if value}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in chosen.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def envelope(method: str, params: Json | None = None, request_id: Any = 1) -> Json:
    """Return a request, or a notification if the id is None."""
    message: Json = {"jsonrpc": "2.0", "method": method}
    if request_id is not None:
        message["id"] = request_id
    return message | ({} if params is None else {"params": params})


def modern_params(params: Json | None = None, **meta: Any) -> Json:
    ours = {META + "protocolVersion": MODERN, META + "clientCapabilities": {}}
    return {**(params or {}), "_meta": ours | meta}


def post(message: Any, headers: dict[str, str] | None = None, path: str = "/mcp") -> bytes:
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    return http("POST", headers, body, path)


def modern_post(
    method: str,
    params: Json | None = None,
    request_id: Any = 1,
    headers: dict[str, str] | None = None,
    path: str = "/mcp",
    **meta: Any,
) -> bytes:
    """Return a stateless request with all the headers it needs."""
    usual = {"mcp-protocol-version": MODERN, "mcp-method": method}
    named = headers_module.NAME_BEARING.get(method)
    if params and named in params:
        usual["mcp-name"] = headers_module.encode_value(params[named]).decode()
    return post(envelope(method, modern_params(params, **meta), request_id), usual | (headers or {}), path)


class Client:
    """A client that speaks HTTP by hand."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.session = ""
        self.version = ""
        self.path = "/mcp"
        self._buffer = bytearray()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await trio.aclose_forcefully(self.stream)

    def reset(self) -> None:
        """Vanish without a word: the kernel tells the other side with a RST."""
        self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.stream.socket.close()

    async def send(self, data: bytes) -> None:
        with bounded():
            await self.stream.send_all(data)

    # --- requests -------------------------------------------------------------------------------------------
    async def initialize(self, version: str = "2025-11-25") -> Answer:
        params = {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
        await self.send(post(envelope("initialize", params), path=self.path))
        answer = await self.answer()
        assert answer.status == 200, answer
        self.session = answer.headers["mcp-session-id"]
        self.version = answer.json["result"]["protocolVersion"]
        return answer

    @property
    def legacy_headers(self) -> dict[str, str]:
        return {"mcp-session-id": self.session, "mcp-protocol-version": self.version}

    async def legacy(self, method: str, params: Json | None = None, request_id: Any = 1) -> None:
        """Send a message of the session, without waiting for its answer."""
        await self.send(post(envelope(method, params, request_id), self.legacy_headers, self.path))

    async def call(self, name: str = "main__echo", request_id: Any = 1, **params: Any) -> None:
        """Send a legacy call of a tool, without waiting for its answer."""
        await self.legacy("tools/call", {"name": name, "arguments": {}, **params}, request_id)

    async def modern(self, method: str, params: Json | None = None, request_id: Any = 1, **meta: Any) -> None:
        await self.send(modern_post(method, params, request_id, path=self.path, **meta))

    async def modern_call(self, name: str = "main__echo", request_id: Any = 1, **meta: Any) -> None:
        await self.modern("tools/call", {"name": name, "arguments": {}}, request_id, **meta)

    # --- answers --------------------------------------------------------------------------------------------
    async def answer(self) -> Answer:
        """Return the next response, all of it."""
        with bounded():
            answer = await self._head()
            if answer.headers.get("transfer-encoding") == "chunked":
                while (piece := await self._chunk()) is not None:
                    answer.body += piece
            else:
                answer.body = await self._exactly(int(answer.headers["content-length"]))
        if answer.is_stream:
            self._read_events(answer)
        return answer

    async def head(self) -> Answer:
        """Return the head of the next response only; `event` reads its events."""
        with bounded():
            return await self._head()

    async def _head(self) -> Answer:
        lines = (await self._until(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        fields = (line.split(": ", 1) for line in lines[1:] if line)
        return Answer(int(lines[0].split(" ")[1]), {name.lower(): value for name, value in fields})

    async def event(self) -> Json | None:
        """Return the next event of a stream; None for a comment. Errors: `EOFError` at the end of the stream."""
        with bounded():
            piece = await self._chunk()
        if piece is None:
            raise EOFError
        answer = Answer(200, {}, piece)
        self._read_events(answer)
        return answer.events[0] if answer.events else None

    async def stream_ended(self) -> None:
        """Wait for the end of a stream on which nothing is said but that the tools have changed, as after any start."""
        try:
            while True:
                event = await self.event()
                assert event is None or event["method"] == "notifications/tools/list_changed"
        except EOFError:
            pass

    async def peek(self, count: int) -> None:
        """Receive at least so many bytes of what comes next, and keep them."""
        with bounded():
            while len(self._buffer) < count:
                assert await self._more(), "the connection has ended"

    async def closed(self) -> bytes:
        """Wait until the other side has closed the connection; return what it still sent."""
        with bounded():
            try:
                while await self._more():
                    pass
            except trio.BrokenResourceError:
                self._buffer += b"<reset>"
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest

    def _read_events(self, answer: Answer) -> None:
        for block in answer.body.decode().split("\n\n"):
            lines = [line for line in block.split("\n") if line]
            data = [line[len("data: ") :] for line in lines if line.startswith("data: ")]
            answer.events += [json.loads(text) for text in data]
            answer.comments += bool(lines) and not data

    async def _chunk(self) -> bytes | None:
        size = int((await self._until(b"\r\n"))[:-2], 16)
        piece = (await self._exactly(size + 2))[:-2]
        return piece if size else None

    async def _until(self, mark: bytes) -> bytes:
        while (at := self._buffer.find(mark)) < 0:
            assert await self._more(), f"the connection ended after {bytes(self._buffer)!r}"
        return self._take(at + len(mark))

    async def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            assert await self._more(), f"the connection ended after {bytes(self._buffer)!r}"
        return self._take(count)

    def _take(self, count: int) -> bytes:
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    async def _more(self) -> bool:
        data = await self.stream.receive_some(256 * 1024)
        self._buffer += data
        return bool(data)
