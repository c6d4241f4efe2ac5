"""Simulated MCP clients: over HTTP in either era, over standard input and output, and one that only does harm.

They choose their request ids from the same few numbers, so that what belongs to one can be told from what belongs to
another only by whoever keeps them apart. Every call carries a text that is nobody else's.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Final

import trio

from tests.sim.history import Call, History
from tests.sim.peers import HEAD_END, GoneError, Json, Wire, compact, head, parse_head
from tests.sim.server import HINTS, LEGACY_LATEST, MODERN

META: Final = "io.modelcontextprotocol/"
IDLE_MAX_S: Final = 40.0
"""Shorter than the proxy keeps an idle connection."""
LEGACY_VERSIONS: Final = ("2024-11-05", "2025-03-26", "2025-06-18", LEGACY_LATEST)
Connect = Callable[[str], Awaitable[Wire]]


@dataclass
class Workload:
    """What clients do. Probabilities are of one call."""

    servers: tuple[str, ...]
    until: float
    """When no more new calls are made."""
    wait_s: float
    """How long an answer is waited for. Longer than the proxy gives any call."""
    pause_s: float = 0.5
    """The longest between two calls of one lane."""
    ms_max: int = 200
    size_max: int = 2000
    large: float = 0.02
    large_sizes: tuple[int, ...] = (70_000, 400_000)
    notes: float = 0.2
    list_tools: float = 0.2
    vanish: float = 0.02
    cancel: float = 0.03
    pipeline: float = 0.05
    slow: float = 0.02


class Client:
    """What all clients have in common: they make up calls, and judge answers."""

    transport = "http"

    def __init__(self, name: str, history: History, chance: Random, work: Workload, connect: Connect) -> None:
        self.name = name
        self.history = history
        self.chance = chance
        self.work = work
        self._connect = connect
        self._calls = 0
        self.given_up: dict[str, None] = {}
        """Calls whose answers this client does not wait for any more, though they may come."""

    def new_call(self, request_id: Any, server: str = "", tool: str = "") -> tuple[Call, Json]:
        """Return a new call and the params of its request."""
        chance, work = self.chance, self.work
        self._calls += 1
        uid = f"{self.name}.{self._calls}."
        server = server or chance.choice(work.servers)
        tool = tool or chance.choice(tuple(HINTS))
        size = chance.randint(0, work.size_max)
        if chance.random() < work.large:
            size = chance.choice(work.large_sizes)
        arguments = {"uid": uid, "ms": chance.randint(0, work.ms_max), "size": size, "notes": chance.randint(0, 4)}
        params: Json = {"name": f"{server}__{tool}", "arguments": arguments}
        if chance.random() < work.notes:
            params["_meta"] = {"progressToken": chance.choice([1, "1", request_id])}
        call = Call(uid, self.name, self.transport, server, tool, request_id, trio.current_time())
        return self.history.begin(call), params

    async def pause(self) -> None:
        await trio.sleep(self.chance.uniform(0.0, self.work.pause_s))

    @property
    def is_time_over(self) -> bool:
        return trio.current_time() >= self.work.until

    def hear(self, message: Json, calls: dict[Any, Call]) -> Call | None:
        """Judge one message. `calls`: those it may be about, by id. Return the call it ends."""
        self._check_owner(message)
        if "method" in message:
            self._hear_note(message, calls)
            return None
        call = calls.get(_key(message.get("id")))
        if call is None:
            self.history.wrong(f"{self.name} got an answer to nothing: {_short(message)}")
            return None
        call.finals += 1
        if "result" in message:
            text = message["result"]["content"][0]["text"]
            self.history.end(call, "result", text=text[:200])
        else:
            error = message["error"]
            self._keep(message)
            self.history.end(call, "error", error["code"], error.get("data"), error["message"])
        return call

    def _hear_note(self, message: Json, calls: dict[Any, Call]) -> None:
        if message["method"] == "notifications/progress":
            text = message["params"].get("message", "")
            if text not in self.given_up and not any(call.uid == text and not call.outcome for call in calls.values()):
                self.history.wrong(f"{self.name} was told of progress of what is not under way: {_short(message)}")
        elif message["method"] != "notifications/tools/list_changed":
            self.history.wrong(f"{self.name} got {_short(message)}")

    def _check_owner(self, message: Json) -> None:
        """No byte of another client's call may reach this one."""
        text = compact(message).decode()
        at = text.find("~c")
        while at >= 0:
            if not text.startswith(self.name + ".", at):
                self.history.wrong(f"{self.name} got what belongs to another: {text[max(0, at - 40) : at + 60]}")
            at = text.find("~c", at + 1)

    def _keep(self, message: Json) -> None:
        self.history.received.append((self.name, trio.current_time(), _short(message)))


class HttpClient(Client):
    """Makes calls over HTTP, on several connections at a time."""

    def __init__(
        self,
        name: str,
        history: History,
        chance: Random,
        work: Workload,
        connect: Connect,
        *,
        era: str,
        lanes: int,
    ) -> None:
        super().__init__(name, history, chance, work, connect)
        self.era = era
        self._lanes = lanes
        self._version = MODERN if era == "modern" else chance.choice(LEGACY_VERSIONS)
        self._session = ""
        self._wires: list[Wire] = []

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for lane in range(self._lanes):
                nursery.start_soon(self._lane, lane)
        for wire in self._wires:
            wire.close()

    async def _lane(self, lane: int) -> None:
        wire: Wire | None = None
        idle_since = 0.0
        if lane == 0 and self.era == "legacy" and self.chance.random() < 0.5:
            await self._listen()
        while not self.is_time_over:
            await self.pause()
            if wire is not None and (wire.has_ended or trio.current_time() - idle_since > IDLE_MAX_S):
                wire.close()
                wire = None
            try:
                if wire is None:
                    wire = await self._connect(self.name)
                    self._wires.append(wire)
                if self.era == "legacy" and not self._session:
                    await self._initialize(wire)
                if self.chance.random() < self.work.list_tools:
                    await self.list_tools(wire)
                await self._calls_on(wire, lane)
            except (GoneError, OSError):
                if wire is not None:
                    wire.close()
            idle_since = trio.current_time()

    async def probe(self, server: str, wait_s: float, tool: str = "", *, with_list: bool = False) -> Call:
        """Make one call on a connection of its own and wait for its end."""
        call, params = self.new_call(1, server, tool)
        params["arguments"] |= {"ms": 1, "size": 1}
        params.pop("_meta", None)
        wire: Wire | None = None
        with trio.move_on_after(wait_s):
            try:
                wire = await self._connect(self.name)
                if self.era == "legacy":
                    await self._initialize(wire)
                if with_list:
                    await self.list_tools(wire)
                await wire.send(self._request(call, params))
                await self._answer(wire, {_key(1): call})
            except (GoneError, OSError) as error:
                self.history.end(call, "lost", text=str(error))
        if not call.outcome:
            self.history.end(call, "none")
        if wire is not None:
            wire.close()
        return call

    async def _calls_on(self, wire: Wire, lane: int) -> None:
        """Make one call, or some at once."""
        chance, work = self.chance, self.work
        count = chance.randint(2, 4) if chance.random() < work.pipeline else 1
        calls: list[tuple[Call, Json]] = []
        for number in range(count):
            request_id = chance.choice([number + 1, str(number + 1)]) if chance.random() < 0.8 else lane * 10 + number
            calls.append(self.new_call(request_id))
        await self._waited(self._exchange(wire, calls), wire, [call for call, _ in calls])

    async def _waited(self, exchange: Awaitable[None], wire: Wire, calls: list[Call]) -> None:
        with trio.CancelScope() as scope:
            scope.deadline = trio.current_time() + self.work.wait_s
            try:
                await exchange
            except (GoneError, OSError) as error:
                for call in calls:
                    if not call.outcome:
                        self.history.end(call, "lost", text=str(error))
                raise
        if scope.cancelled_caught:
            for call in calls:
                if not call.outcome:
                    self.history.end(call, "none")
            wire.close()

    async def _exchange(self, wire: Wire, calls: list[tuple[Call, Json]]) -> None:
        chance, work = self.chance, self.work
        requests = [self._request(call, params) for call, params in calls]
        if chance.random() < work.vanish:
            await self._vanish(wire, requests, [call for call, _ in calls])
            return
        await wire.send(b"".join(requests))
        if chance.random() < work.slow:
            await trio.sleep(chance.uniform(0.5, 4.0))
        # In a session, several lanes have calls of the same id, and a cancellation names no more than the id.
        may_cancel = len(calls) == 1 and (self.era == "modern" or self._lanes == 1)
        if may_cancel and chance.random() < work.cancel:
            await self._cancel(wire, calls[0][0])
            return
        for call, _ in calls:
            await self._answer(wire, {_key(call.id): call})

    async def _vanish(self, wire: Wire, requests: list[bytes], calls: list[Call]) -> None:
        """Go away without a word: before the request is all sent, or while it is under way."""
        data = b"".join(requests)
        if self.chance.random() < 0.5:
            data = data[: self.chance.randrange(len(data))]
        await wire.send(data)
        await trio.sleep(self.chance.uniform(0.0, 0.3))
        for call in calls:
            self.history.end(call, "left")
        if self.chance.random() < 0.5:
            wire.reset()
        else:
            wire.close()

    async def _cancel(self, wire: Wire, call: Call) -> None:
        await trio.sleep(self.chance.uniform(0.0, 0.2))
        if self.era == "modern":
            self.history.end(call, "left")
            wire.reset()
            return
        # Ids are the session's: another of its calls may have this one. So an answer may come or not.
        params = {"requestId": call.id, "reason": "enough"}
        message = compact({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})
        other = await self._connect(self.name)
        try:
            await other.send(self._post(message, "notifications/cancelled", ""))
            await self._plain(other)
        finally:
            other.close()
        self.history.end(call, "left")
        wire.close()

    async def _initialize(self, wire: Wire) -> None:
        info = {"name": self.name + ".", "version": "1"}
        params = {"protocolVersion": self._version, "capabilities": {}, "clientInfo": info}
        message = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
        self._session = ""
        await wire.send(self._post(compact(message), "initialize", ""))
        status, fields, _ = await self._plain(wire)
        if status != 200:
            self.history.wrong(f"{self.name} could not initialize: {status}")
            raise GoneError(was_reset=False)
        self._session = fields["mcp-session-id"]
        notice = compact({"jsonrpc": "2.0", "method": "notifications/initialized"})
        await wire.send(self._post(notice, "notifications/initialized", ""))
        await self._plain(wire)

    async def list_tools(self, wire: Wire) -> None:
        """Ask what tools there are; from this the front learns which calls may be made twice."""
        params: Json = {}
        if self.era == "modern":
            params["_meta"] = {META + "protocolVersion": MODERN, META + "clientCapabilities": {}}
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": params}
        await wire.send(self._post(compact(message), "tools/list", ""))
        answers: list[Json] = []
        await self._response(wire, answers.append)
        known = {f"{server}__{tool}" for server in self.work.servers for tool in HINTS}
        if len(answers) != 1 or not {tool["name"] for tool in answers[0]["result"]["tools"]} <= known:
            self.history.wrong(f"{self.name} got as the list of tools {answers}")

    async def _listen(self) -> None:
        """Open the stream for what belongs to no request, and leave it open."""
        try:
            wire = await self._connect(self.name)
            self._wires.append(wire)
            await self._initialize(wire)
            fields = {"Host": "127.0.0.1", "Accept": "text/event-stream", "Mcp-Session-Id": self._session}
            await wire.send(head("GET /mcp HTTP/1.1", fields))
        except (GoneError, OSError):
            return

    # --- bytes -------------------------------------------------------------------------------------------------------
    def _request(self, call: Call, params: Json) -> bytes:
        if self.era == "modern":
            ours = {META + "protocolVersion": MODERN, META + "clientCapabilities": {}}
            params = {**params, "_meta": ours | params.get("_meta", {})}
        message = {"jsonrpc": "2.0", "id": call.id, "method": "tools/call", "params": params}
        return self._post(compact(message), "tools/call", params["name"])

    def _post(self, body: bytes, method: str, name: str) -> bytes:
        fields = {"Host": "127.0.0.1", "Content-Type": "application/json", "Content-Length": str(len(body))}
        fields["Accept"] = "application/json, text/event-stream"
        if self.era == "modern":
            fields |= {"MCP-Protocol-Version": MODERN, "Mcp-Method": method}
            if name:
                fields["Mcp-Name"] = name
        elif self._session:
            fields["Mcp-Session-Id"] = self._session
            if self._version >= "2025-06-18":
                fields["MCP-Protocol-Version"] = self._version
        return head("POST /mcp HTTP/1.1", fields) + body

    async def _plain(self, wire: Wire) -> tuple[int, dict[str, str], bytes]:
        first, fields = parse_head(await wire.until(HEAD_END))
        body = await wire.exactly(int(fields.get("content-length", "0")))
        return int(first.split()[1]), fields, body

    async def _answer(self, wire: Wire, calls: dict[Any, Call]) -> None:
        """Read one response, which must be to one of these calls."""
        (call,) = calls.values()
        status = await self._response(wire, lambda message: self.hear(message, calls))
        if not call.outcome:
            self.history.end(call, "http", status)

    async def _response(self, wire: Wire, hear: Callable[[Json], object]) -> int:
        """Read one response, handing on every message in it as it comes. Return its status."""
        first, fields = parse_head(await wire.until(HEAD_END))
        if fields.get("content-type") == "text/event-stream":
            await self._events(wire, hear)
        else:
            body = await wire.exactly(int(fields.get("content-length", "0")))
            if fields.get("content-type") == "application/json" and body:
                hear(json.loads(body))
        if fields.get("connection", "").lower() == "close":
            wire.close()
        return int(first.split()[1])

    async def _events(self, wire: Wire, hear: Callable[[Json], object]) -> None:
        text = b""
        while size := int((await wire.until(b"\r\n"))[:-2], 16):
            text += (await wire.exactly(size + 2))[:-2]
            *events, text = text.split(b"\n\n")
            for event in events:
                lines = [line[6:] for line in event.split(b"\n") if line.startswith(b"data: ")]
                if data := b"\n".join(lines):  # one without data only says where to go on
                    hear(json.loads(data))
        await wire.until(b"\r\n")


class StdioClient(Client):
    """The one client on standard input and output."""

    transport = "stdio"

    def __init__(
        self, name: str, history: History, chance: Random, work: Workload, wire: Wire, *, era: str, in_flight: int
    ) -> None:
        super().__init__(name, history, chance, work, self._never)
        self._wire = wire
        self._era = era
        self._in_flight_max = in_flight
        self._open: dict[Any, Call] = {}
        self._changed = trio.Event()
        self._ids = 0
        self._initialized = trio.Event()
        self.torn_lines = 0
        self._given_up: dict[Any, None] = {}

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read)
            nursery.start_soon(self._expire)
            try:
                await self._make_calls()
            except GoneError:
                self._end_all("lost")
            nursery.cancel_scope.cancel()

    async def _make_calls(self) -> None:
        if self._era == "legacy":
            await self._initialize()
        while not self.is_time_over:
            await self.pause()
            if len(self._open) < self._in_flight_max:
                await self._call()
        while self._open:
            await self._changed.wait()

    def leave(self) -> None:
        """End our input to the proxy."""
        self._wire.close()

    async def _initialize(self) -> None:
        info = {"name": self.name + ".", "version": "1"}
        params = {"protocolVersion": LEGACY_LATEST, "capabilities": {}, "clientInfo": info}
        message = {"jsonrpc": "2.0", "id": "hello", "method": "initialize", "params": params}
        while not self._initialized.is_set() and not self.is_time_over:
            await self._say(message)
            with trio.move_on_after(5.0):
                await self._initialized.wait()
        await self._say({"jsonrpc": "2.0", "method": "notifications/initialized"})

    async def _call(self) -> None:
        self._ids += 1
        call, params = self.new_call(self._ids)
        if "_meta" in params:
            params["_meta"]["progressToken"] = self._ids  # one client must not use a token twice
        if self._era == "modern":
            ours = {META + "protocolVersion": MODERN, META + "clientCapabilities": {}}
            params = {**params, "_meta": ours | params.get("_meta", {})}
        self._open[_key(call.id)] = call
        await self._say({"jsonrpc": "2.0", "id": call.id, "method": "tools/call", "params": params})
        if self.chance.random() < self.work.cancel:
            await self._say(
                {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": call.id, "reason": "x"}}
            )
            if not call.outcome:
                self.history.end(call, "left")

    async def _say(self, message: Json) -> None:
        await self._wire.send(compact(message) + b"\n")

    async def _read(self) -> None:
        try:
            while True:
                line = await self._wire.until(b"\n")
                try:
                    message = json.loads(line)
                except ValueError:
                    self.torn_lines += 1
                    self.history.note(self.name, "torn line", line[:100])
                    continue
                self._line(message)
        except GoneError:
            self._end_all("lost")

    def _line(self, message: Json) -> None:
        if message.get("id") == "hello":
            self._initialized.set()
            return
        if _key(message.get("id")) in self._given_up:
            return
        left = self._open.get(_key(message.get("id")))
        if left is not None and left.outcome == "left":
            self._forget(left)  # the answer was on its way when it was cancelled
            return
        if message.get("id") is None and "error" in message and "method" not in message:
            self._keep(message)  # the rest of a line that a front had begun to read
            return
        call = self.hear(message, self._open)
        if call is not None:
            self._forget(call)

    async def _expire(self) -> None:
        """Give up calls that no front knows any more."""
        while True:
            await trio.sleep(1.0)
            now = trio.current_time()
            for call in list(self._open.values()):
                if now - call.sent_at > self.work.wait_s or call.outcome == "left":
                    if not call.outcome:
                        self.history.end(call, "none")
                    self._given_up[_key(call.id)] = None
                    self.given_up[call.uid] = None
                    self._forget(call)

    def _end_all(self, outcome: str) -> None:
        for call in list(self._open.values()):
            if not call.outcome:
                self.history.end(call, outcome)
            self._forget(call)

    def _forget(self, call: Call) -> None:
        del self._open[_key(call.id)]
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    @staticmethod
    async def _never(name: str) -> Wire:
        raise AssertionError(name)


class Vandal:
    """Sends what no client should. All that is asked is that the proxy lives, and lets go of it."""

    BAD: Final = (
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 5\r\n\r\n{a,b}",
        b"POST /mcp HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999999999\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"POST /mcp HTT",
        b"",
    )

    def __init__(self, history: History, chance: Random, work: Workload, connect: Connect) -> None:
        self._history = history
        self._chance = chance
        self._work = work
        self._connect = connect

    async def run(self) -> None:
        while trio.current_time() < self._work.until:
            await trio.sleep(self._chance.uniform(0.0, 2.0))
            try:
                wire = await self._connect("vandal")
            except (GoneError, OSError):
                continue
            try:
                await wire.send(self._chance.choice(self.BAD))
                if self._chance.random() < 0.5:
                    await wire.send(self._chance.randbytes(self._chance.choice([1, 20, 5000])))
                if self._chance.random() < 0.5:
                    wire.end_output()
                with trio.move_on_after(self._chance.choice([0.1, 1.0, 5.0])):
                    await wire.to_the_end()
            except GoneError:
                pass
            finally:
                wire.close()


def _key(request_id: Any) -> tuple[str, Any]:
    """Ids 1 and "1" are two."""
    return type(request_id).__name__, request_id


def _short(message: Json) -> str:
    return compact(message).decode()[:300]
