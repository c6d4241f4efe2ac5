"""The server of `raw_server.py` over HTTP/2, made with the library h2.

A scripted answer gets an `Http2Reply`, whose `peer` is the connection: its state in h2, and its bytes. Each request is
answered in a task of its own, which ends when the other side resets the stream.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field

import trio
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    PingAckReceived,
    RequestReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import H2Error
from h2.settings import SettingCodes, Settings
from hyperframe.frame import GoAwayFrame

from tests.peers.raw_server import HangUpError, RawServer, Reply, Request

UNFRAMED = ("transfer-encoding", "connection")


@dataclass
class Http2Reply(Reply):
    """The way back on one stream. What an answer does not end is ended when it returns."""

    peer: Peer = field(kw_only=True)
    id: int = 0
    """Of the stream."""

    async def raw(self, data: bytes) -> None:
        """Send a part of the body, as far and as fast as the other side takes it."""
        rest = memoryview(data)
        while rest:
            await self.peer.room(self.id)
            state = self.peer.state
            size = min(len(rest), state.local_flow_control_window(self.id), state.max_outbound_frame_size)
            state.send_data(self.id, bytes(rest[:size]))
            rest = rest[size:]
            await self.peer.flush()

    async def head(self, status: int, *headers: tuple[str, str]) -> None:
        fields = [(name.lower(), value) for name, value in (*headers, *self.headers) if name.lower() not in UNFRAMED]
        await self.fields((":status", str(status)), *fields)

    async def fields(self, *fields: tuple[str, str], is_end: bool = False) -> None:
        """Send these fields and no others, also if h2 would not."""
        self.peer.state.send_headers(self.id, list(fields), end_stream=is_end)
        await self.peer.flush()

    async def chunk(self, data: bytes) -> None:
        await self.raw(data)

    async def end_events(self) -> None:
        """The stream ends when the answer returns."""

    async def reset(self, code: int) -> None:
        self.peer.state.reset_stream(self.id, code)
        await self.peer.flush()


class Peer:
    """One connection as the server sees it."""

    def __init__(self, server: Http2Server, stream: trio.SSLStream[trio.SocketStream], number: int) -> None:
        self.server = server
        self.stream = stream
        self.number = number
        config = H2Configuration(
            client_side=False, header_encoding="latin-1", validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )  # fmt: skip
        self.state = H2Connection(config)
        self.state.local_settings = Settings(client=False, initial_values=dict(server.settings))
        self.resets: list[tuple[int, int]] = []
        """What the other side has reset: streams and error codes."""
        self.goaways: list[int] = []
        """With which codes it has said goodbye."""
        self.pongs = 0
        self._heads: dict[int, dict[str, str]] = {}
        self._bodies: dict[int, bytearray] = {}
        self._answering: dict[int, trio.CancelScope] = {}
        self._last_stream = 2**31 - 1
        self._changed = trio.Event()
        self._written = bytearray()
        self._has_written = trio.Event()

    async def flush(self) -> None:
        """Send what h2 has to say."""
        await self.raw(self.state.data_to_send())

    async def raw(self, data: bytes) -> None:
        """Send these bytes and no others; return when the kernel has taken them."""
        self._written += data
        self._has_written.set()
        while self._has_written.is_set():
            await self._changed.wait()

    async def _send(self) -> None:
        """Send what has been written, whoever has: an answer that is cancelled must not leave half a record behind."""
        while True:
            await self._has_written.wait()
            while self._written:
                data = bytes(self._written)
                self._written.clear()
                await self.stream.send_all(data)
            self._has_written = trio.Event()
            self._poke()

    def _poke(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def go_away(self, last_stream: int = 2**31 - 1, code: int = 0) -> None:
        """Say that later streams will not be looked at. (h2 itself would end the connection for good.)"""
        self._last_stream = last_stream
        await self.raw(GoAwayFrame(0, last_stream_id=last_stream, error_code=code).serialize())

    async def room(self, stream_id: int) -> None:
        """Wait until something may be sent on a stream."""
        while self.state.local_flow_control_window(stream_id) <= 0:
            await self._changed.wait()

    async def until_reset(self, count: int = 1) -> None:
        """Wait until the other side has reset so many streams."""
        while len(self.resets) < count:
            await self._changed.wait()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send)
            if self.server.greets:
                self.state.initiate_connection()
                if self.server.window:
                    self.state.increment_flow_control_window(self.server.window)
                await self.flush()
            while data := await self._receive():
                for event in self.state.receive_data(data):
                    await self._react(event, nursery)
                self._written += self.state.data_to_send()
                self._has_written.set()
                self._poke()
            nursery.cancel_scope.cancel()

    async def _receive(self) -> bytes | bytearray:
        await self.server.reads.wait()
        return await self.stream.receive_some()

    async def _react(self, event: Event, nursery: trio.Nursery) -> None:
        if isinstance(event, RequestReceived):
            assert all(name == name.lower() for name, _ in event.headers)
            self._heads[event.stream_id] = {str(name): str(value) for name, value in event.headers}
            self._bodies[event.stream_id] = bytearray()
        elif isinstance(event, DataReceived):
            self._bodies[event.stream_id] += event.data
            if not self.server.window:
                self.state.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, StreamEnded):
            fields = self._heads.pop(event.stream_id)
            body = bytes(self._bodies.pop(event.stream_id))
            request = Request(fields[":method"], fields, body, self.number, fields[":path"])
            if event.stream_id <= self._last_stream:
                nursery.start_soon(self._answer, request, event.stream_id)
        elif isinstance(event, StreamReset):
            self.resets.append((event.stream_id, int(event.error_code)))
            if event.stream_id in self._answering:
                self._answering[event.stream_id].cancel()
        elif isinstance(event, ConnectionTerminated):
            self.goaways.append(int(event.error_code or 0))
        elif isinstance(event, PingAckReceived):
            self.pongs += 1
        else:
            assert isinstance(event, WindowUpdated | Event)

    async def _answer(self, request: Request, stream_id: int) -> None:
        reply = Http2Reply(self.stream, request, self.server, peer=self, id=stream_id)
        with trio.CancelScope() as self._answering[stream_id]:
            await self.server.received_one(request)
            with contextlib.suppress(H2Error, KeyError):  # reset by the other side
                await self.server.answer(request, reply)
                if stream_id in self.state.streams and not self.state.streams[stream_id].closed:
                    self.state.end_stream(stream_id)
                    await self.flush()
        del self._answering[stream_id]


@dataclass
class Http2Server(RawServer):
    """One scriptable server that speaks HTTP/2 alone."""

    settings: dict[SettingCodes, int] = field(default_factory=dict[SettingCodes, int])
    greets: bool = True
    """It begins with its settings, as it must."""
    window: int = 0
    """By how much more than usual all streams together may send."""
    reads: trio.Event = field(default_factory=trio.Event)
    """Replaced by one that is not set, it receives nothing until that is."""
    peers: list[Peer] = field(default_factory=list[Peer])

    def __post_init__(self) -> None:
        self.reads.set()

    async def received_one(self, request: Request) -> None:
        self.requests.append(request)
        await self._tell()

    async def answer(self, request: Request, reply: Reply) -> None:
        await self._answer(request, reply)

    async def _connection(self, stream: trio.abc.Stream) -> None:
        assert isinstance(stream, trio.SocketStream)
        assert self.tls is not None
        self.connections += 1
        number = self.connections
        self.open_now.add(number)
        secured = trio.SSLStream(stream, self.tls, server_side=True)
        try:
            await secured.do_handshake()
            assert secured.selected_alpn_protocol() == "h2"
            peer = Peer(self, secured, number)
            self.peers.append(peer)
            await peer.run()
        except* (trio.BrokenResourceError, trio.ClosedResourceError, HangUpError):
            pass
        finally:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(secured)
                self.open_now.discard(number)
                await self._tell()


async def never(_request: Request, _reply: Reply) -> None:
    """Take the request and never answer it."""
    await trio.sleep_forever()


def any_reply(reply: Reply) -> Http2Reply:
    """Return a reply as what it is here."""
    assert isinstance(reply, Http2Reply)
    return reply
