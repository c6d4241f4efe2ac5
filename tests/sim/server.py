"""A simulated MCP server over HTTP, of either era: what it answers, and everything that can be wrong with it.

Its tools carry a call out exactly when they say so in the history: `read` and `put` say of themselves that doing it
twice does no harm, `act` does not.
"""

from __future__ import annotations

import json
from collections import Counter
from random import Random
from typing import Final

import trio

from tests.sim.history import History
from tests.sim.kernel import StreamEnd
from tests.sim.peers import HEAD_END, GoneError, Json, Wire, chunk, compact, head, parse_head

MODERN: Final = "2026-07-28"
LEGACY_LATEST: Final = "2025-11-25"
TOKEN_KEY: Final = "progressToken"
HINTS: Final[dict[str, Json]] = {
    "read": {"readOnlyHint": True},
    "put": {"idempotentHint": True},
    "act": {},
}
TROUBLES: Final = (
    "hang",
    "slow",
    "500",
    "503",
    "429",
    "garbage",
    "reset",
    "reset half way",
    "html",
    "wrong id",
    "lost",
)
"""What may become of a single request."""
NOT_CARRIED_OUT: Final = frozenset({"slow", "429", "lost"})
"""Or not because of the trouble. In all others a call may be carried out although it is not answered."""


class SimServer:
    """One server. `trouble`: which part of its requests meets one of `troubles`."""

    def __init__(self, name: str, port: int, era: str, history: History, chance: Random, nursery: trio.Nursery) -> None:
        self.name = name
        self.port = port
        self.era = era
        self.is_up = True
        self.is_cut_off = False
        """Nothing gets through to it or from it."""
        self.troubles: tuple[str, ...] = ()
        self.trouble = 0.0
        self.slow_s = 0.05
        self.met: Counter[str] = Counter()
        self.connections: list[Wire] = []
        self.requests = 0
        self._history = history
        self._chance = chance
        self._nursery = nursery
        self._sessions: dict[str, None] = {}
        self._minted = 0

    # --- what the nemesis does ---------------------------------------------------------------------------------------
    def crash(self) -> None:
        """End, and lose all sessions."""
        self.is_up = False
        self._sessions.clear()
        for wire in list(self.connections):
            wire.reset()

    def restart(self) -> None:
        self.is_up = True

    def forget_sessions(self) -> None:
        self._sessions.clear()

    def reset_connections(self) -> None:
        for wire in list(self.connections):
            wire.reset()

    def cut_off(self) -> None:
        self.is_cut_off = True
        for wire in self.connections:
            wire.end.incoming.is_clogged = wire.end.outgoing.is_clogged = True

    def let_through(self) -> None:
        self.is_cut_off = False
        for wire in self.connections:
            wire.end.incoming.unclog()
            wire.end.outgoing.unclog()

    def heal(self) -> None:
        self.trouble = 0.0
        self.restart()
        self.let_through()

    # --- connections -------------------------------------------------------------------------------------------------
    def accept(self, end: StreamEnd) -> None:
        wire = Wire(end)
        self.connections.append(wire)
        self._nursery.start_soon(self._serve, wire)

    async def _serve(self, wire: Wire) -> None:
        try:
            while True:
                first, fields = parse_head(await wire.until(HEAD_END))
                body = await wire.exactly(int(fields.get("content-length", "0")))
                self.requests += 1
                await self._request(wire, first.partition(" ")[0], fields, json.loads(body) if body else {})
        except GoneError:
            pass
        except ValueError as error:
            self._history.wrong(f"{self.name} was sent a request that makes no sense: {error!r}")
        finally:
            wire.close()
            self.connections.remove(wire)

    async def _request(self, wire: Wire, verb: str, fields: dict[str, str], message: Json) -> None:
        trouble = self._chance.choice(self.troubles) if self._chance.random() < self.trouble else ""
        if trouble:
            self.met[trouble] += 1
            if await self._meet(trouble, wire, message):
                return
        if verb == "GET":
            await self._reply(wire, 405, b"")
        elif verb == "DELETE":
            self._sessions.pop(fields.get("mcp-session-id", ""), None)
            await self._reply(wire, 200, b"")
        elif fields.get("mcp-protocol-version") == MODERN:
            await self._modern(wire, message)
        else:
            await self._legacy(wire, fields, message)

    async def _meet(self, trouble: str, wire: Wire, message: Json) -> bool:
        """Return whether that was all that becomes of the request."""
        is_heard = self._chance.random() >= 0.5
        if is_heard and trouble not in NOT_CARRIED_OUT:
            self._execute(message)
        match trouble:
            case "hang":
                await trio.sleep(self._chance.choice([0.5, 5.0, 50.0]))
                raise GoneError(was_reset=False)
            case "slow":
                await trio.sleep(self.slow_s)
                return False
            case "500" | "503":
                advice = {"Retry-After": self._chance.choice(["0", "1", "1000000000", "x"])} if trouble == "503" else {}
                await self._reply(wire, int(trouble), b"oops", "text/plain", advice)
            case "429":
                await self._reply(wire, 429, b"", "text/plain", {"Retry-After": self._chance.choice(["0", "1", "3"])})
            case "garbage":
                await wire.send(self._chance.randbytes(self._chance.choice([1, 40, 3000])))
            case "reset":
                wire.reset()
                raise GoneError(was_reset=True)
            case "reset half way":
                await wire.send(
                    b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n{"js'
                )
                wire.reset()
                raise GoneError(was_reset=True)
            case "html":
                await self._reply(wire, 200, b"<html>welcome</html>", "text/html")
            case "wrong id":
                answer = {"jsonrpc": "2.0", "id": "somebody-elses", "result": {"content": []}}
                await self._reply(wire, 200, compact(answer))
            case _:
                self._sessions.clear()
                return False
        return True

    # --- the eras ----------------------------------------------------------------------------------------------------
    async def _modern(self, wire: Wire, message: Json) -> None:
        if self.era == "legacy":
            await self._error(wire, message, -32000, "Bad Request: Unsupported protocol version", 400)
        elif "id" not in message:
            await self._reply(wire, 202, b"")
        elif message["method"] == "server/discover":
            known = {"supportedVersions": [MODERN], "capabilities": {"tools": {}}, "ttlMs": 0, "cacheScope": "public"}
            await self._result(wire, message, {"resultType": "complete", **known})
        else:
            await self._either(wire, message, {"resultType": "complete", "ttlMs": 0, "cacheScope": "public"})

    async def _legacy(self, wire: Wire, fields: dict[str, str], message: Json) -> None:
        if self.era == "modern":
            data = {"supported": [MODERN], "requested": fields.get("mcp-protocol-version", "")}
            await self._error(wire, message, -32022, "Unsupported protocol version", 400, data)
        elif message["method"] == "initialize":
            self._minted += 1
            session = f"{self.name}-{self._minted}-{self._chance.getrandbits(32):x}"
            self._sessions[session] = None
            result = {
                "protocolVersion": LEGACY_LATEST,
                "capabilities": {"tools": {}},
                "serverInfo": {"name": self.name},
            }
            answer = compact({"jsonrpc": "2.0", "id": message["id"], "result": result})
            await self._reply(wire, 200, answer, "application/json", {"Mcp-Session-Id": session})
        elif fields.get("mcp-session-id") not in self._sessions:
            await self._error(wire, message, -32600, "Session not found", 404)
        elif "id" not in message:
            await self._reply(wire, 202, b"")
        else:
            await self._either(wire, message, {})

    async def _either(self, wire: Wire, message: Json, extra: Json) -> None:
        method = message["method"]
        if method == "tools/list":
            schema = {"type": "object"}
            tools = [{"name": name, "inputSchema": schema, "annotations": hints} for name, hints in HINTS.items()]
            await self._result(wire, message, {"tools": tools, **extra})
        elif method == "tools/call":
            await self._call(wire, message, extra)
        elif method == "ping":
            await self._result(wire, message, dict(extra))
        else:
            await self._error(wire, message, -32601, "Method not found", 200)

    async def _call(self, wire: Wire, message: Json, extra: Json) -> None:
        params = message["params"]
        arguments = params["arguments"]
        await trio.sleep(arguments["ms"] / 1000)
        self._execute(message)
        text = f"{arguments['uid']}|{self.name}|{params['name']}|" + "x" * arguments["size"]
        result = {"content": [{"type": "text", "text": text}], **{k: v for k, v in extra.items() if k == "resultType"}}
        answer = compact({"jsonrpc": "2.0", "id": message["id"], "result": result})
        token = params.get("_meta", {}).get(TOKEN_KEY)
        if token is None and self._chance.random() < 0.6:
            await self._reply(wire, 200, answer)
            return
        await wire.send(head("HTTP/1.1 200 OK", {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"}))
        for step in range(arguments["notes"] if token is not None else 0):
            note = {"progressToken": token, "progress": step, "message": arguments["uid"]}
            method = "notifications/progress"
            await wire.send(_event(compact({"jsonrpc": "2.0", "method": method, "params": note})))
            await trio.sleep(0.01)
        await wire.send(_event(answer) + b"0\r\n\r\n")

    def _execute(self, message: Json) -> None:
        if message.get("method") == "tools/call":
            self._history.execute(message["params"]["arguments"]["uid"], self.name)

    # --- answers -----------------------------------------------------------------------------------------------------
    async def _result(self, wire: Wire, message: Json, result: Json) -> None:
        await self._reply(wire, 200, compact({"jsonrpc": "2.0", "id": message["id"], "result": result}))

    async def _error(
        self, wire: Wire, message: Json, code: int, text: str, status: int, data: Json | None = None
    ) -> None:
        error: Json = {"code": code, "message": text, **({"data": data} if data else {})}
        await self._reply(wire, status, compact({"jsonrpc": "2.0", "id": message.get("id"), "error": error}))

    async def _reply(
        self, wire: Wire, status: int, body: bytes, kind: str = "application/json", more: dict[str, str] | None = None
    ) -> None:
        fields = {"Content-Length": str(len(body)), **({"Content-Type": kind} if body else {}), **(more or {})}
        await wire.send(head(f"HTTP/1.1 {status} X", fields) + body)


def _event(data: bytes) -> bytes:
    return chunk(b"data: " + data + b"\n\n")
