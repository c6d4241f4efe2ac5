"""A server that speaks HTTP+SSE (2024-11-05) as a test tells it to, in the test's own process.

peer = await nursery.start(SsePeer().serve)
peer.on["tools/call"] = never
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import partial

import trio

from tests.peers.raw_server import HangUpError, RawServer, Reply, Request
from tests.peers.websocket_server import Peer, Wire


@dataclass
class SseWire(Wire):
    """One event stream."""

    reply: Reply
    lock: trio.Lock = field(default_factory=trio.Lock)

    async def text(self, text: str | bytes) -> None:
        data = text if isinstance(text, bytes) else text.encode()
        await self.event(b"message", data)

    async def event(self, kind: bytes, data: bytes) -> None:
        async with self.lock:
            await self.reply.chunk(b"event: %b\r\ndata: %b\r\n\r\n" % (kind, data))

    async def hang_up(self) -> None:
        await trio.aclose_forcefully(self.reply.stream)


@dataclass
class SsePeer(Peer):
    """A scriptable server. The stream is at /mcp, and messages are posted to /post?session=N."""

    endpoint: str = "/post?session={}"
    """What the endpoint event says; "" for no such event."""
    post_status: int = 202
    before_accepting: bool = False
    """A message is worked on before its POST is answered, not after."""
    wires: list[SseWire] = field(default_factory=list)
    """Streams so far."""
    posts: list[Request] = field(default_factory=list)
    http: RawServer = field(default_factory=RawServer)

    @property
    def url(self) -> str:
        return self.http.url

    async def serve(self, task_status: trio.TaskStatus[SsePeer] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            self.http._answer = partial(self._answer, nursery)
            await nursery.start(self.http.serve)
            self.port = self.http.port
            task_status.started(self)

    async def _answer(self, nursery: trio.Nursery, request: Request, reply: Reply) -> None:
        if request.verb == "GET" and request.target == "/mcp":
            await self._stream(reply)
        elif request.verb == "POST" and request.target.startswith("/post?session="):
            await self._posted(nursery, request, reply)
        else:
            await reply.status(405 if request.target == "/mcp" else 404)

    async def _stream(self, reply: Reply) -> None:
        wire = SseWire(self, len(self.wires) + 1, reply)
        self.wires.append(wire)
        await reply.start_events()
        if self.endpoint:
            await wire.event(b"endpoint", self.endpoint.format(wire.number).encode())
        while await reply.stream.receive_some():
            pass
        raise HangUpError

    async def _posted(self, nursery: trio.Nursery, request: Request, reply: Reply) -> None:
        self.posts.append(request)
        if self.post_status != 202:
            await reply.status(self.post_status)
            return
        wire = self.wires[int(request.target.rpartition("=")[2]) - 1]
        message = json.loads(request.body)
        if self.before_accepting:
            await self.take(wire, message)
        await reply.status(202, b"Accepted")
        if not self.before_accepting:
            nursery.start_soon(self._take, wire, message)

    async def _take(self, wire: SseWire, message: dict[str, object]) -> None:
        try:
            await self.take(wire, message)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
