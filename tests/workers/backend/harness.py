"""A backend worker in the test's own process, and the front's end of its link played by the test."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio
import trio.testing

from protocol import link
from protocol.control import BackendSettings, Checked, Command, Route, Said, ServerInfo, WorkerState
from protocol.flight import PAGE_BYTES, FlightPage
from protocol.limits import LINK_VERSION
from protocol.versions import Era
from tests.peers.raw_server import Answer, RawServer, Reply, Request
from workers.backend.worker import BackendWorker
from workers.link_end import LinkEnd
from workers.reactor import Reactor

INCARNATION = 3
Json = dict[str, Any]


class Log:
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, object]]] = []

    def _keep(self, level: str, event: str, fields: dict[str, object]) -> None:
        self.lines.append((level, event, fields))

    def debug(self, event: str, **fields: object) -> None:
        self._keep("debug", event, fields)

    def info(self, event: str, **fields: object) -> None:
        self._keep("info", event, fields)

    def warning(self, event: str, **fields: object) -> None:
        self._keep("warning", event, fields)

    def error(self, event: str, **fields: object) -> None:
        self._keep("error", event, fields)

    def fields_of(self, event: str) -> list[dict[str, object]]:
        return [fields for _, said, fields in self.lines if said == event]

    def assert_no_defect(self) -> None:
        """Nothing raised where nothing may raise."""
        assert [line for line in self.lines if line[0] == "error"] == []


@dataclass
class Outcome:
    """How one call or list request ended, and what came before."""

    header: link.Header
    payload: bytes
    events: list[tuple[str, Json]]

    @property
    def fault(self) -> link.Fault:
        assert isinstance(self.header, link.Fault), (self.header, self.payload)
        return self.header

    @property
    def result(self) -> Json:
        assert isinstance(self.header, link.Result), self.header
        return json.loads(self.payload)

    @property
    def era(self) -> Era:
        assert isinstance(self.header, (link.Result, link.Fault))
        return self.header.era

    @property
    def text(self) -> str:
        return self.result["content"][0]["text"]

    @property
    def listing(self) -> link.Listing:
        assert isinstance(self.header, link.Listing), self.header
        return self.header

    @property
    def items(self) -> list[Json]:
        assert isinstance(self.header, link.Listing), self.header
        return json.loads(self.payload)

    @property
    def names(self) -> list[str]:
        return [item["name"] for item in self.items]


@dataclass
class Pending:
    """A call on its way."""

    id: int
    front: FakeFront
    events: list[tuple[str, Json]] = field(default_factory=list)
    questions: list[tuple[link.Ask, Json]] = field(default_factory=list)
    withdrawn: list[int] = field(default_factory=list)
    outcome: Outcome | None = None
    changed: trio.Event = field(default_factory=trio.Event)

    async def done(self) -> Outcome:
        while self.outcome is None:
            await self.changed.wait()
        return self.outcome

    async def wait_events(self, count: int) -> list[tuple[str, Json]]:
        while len(self.events) < count:
            await self.changed.wait()
        return self.events

    def poke(self) -> None:
        self.changed.set()
        self.changed = trio.Event()


class FakeFront:
    """The front's end of one link."""

    def __init__(self, reactor: Reactor, sock: socket.socket) -> None:
        self.states: list[link.State] = []
        self.list_changes: list[str] = []
        self.probed: list[bool] = []
        self.limits: list[int] = []
        """How many calls it may have in flight, if there are several fronts: all that it was told, and acknowledged."""
        self.unexpected: list[link.Header] = []
        self.closed = trio.Event()
        self._pending: dict[int, Pending] = {}
        self._next_id = 1
        self._changed = trio.Event()
        self.end = LinkEnd(
            reactor,
            sock,
            role="front",
            name="front",
            incarnation=1,
            calls=0,
            on_frame=self._frame,
            on_closed=lambda _reason: self.closed.set(),
        )

    def call(
        self,
        name: str = "echo",
        arguments: Json | None = None,
        *,
        era: Era = Era.MODERN,
        method: str = "tools/call",
        params: bytes | None = None,
        timeout_s: float = 5.0,
        meta: bytes = b"",
        progress: bool = False,
        log_level: str = "",
        client_info: bytes = b"",
        abilities: int = 0,
        client: int = 0,
    ) -> Pending:
        if params is None:
            params = json.dumps({"name": name, "arguments": arguments or {}}, separators=(",", ":")).encode()
        pending = self._new()
        header = link.Call(
            pending.id, era, method, name, timeout_s, meta, progress, log_level, client_info, abilities, client
        )
        self.end.send(header, params)
        return pending

    def resume(self, interaction: int, responses: bytes) -> Pending:
        pending = self._new()
        self.end.send(link.Resume(pending.id, interaction, 5.0, False, ""), responses)
        return pending

    def ask_list(self, era: Era = Era.MODERN, kind: str = "tools", have: int = 0) -> Pending:
        pending = self._new()
        self.end.send(link.ListRequest(pending.id, era, kind, have))
        return pending

    def cancel(self, call: Pending, reason: str) -> None:
        self.end.send(link.Cancel(call.id, reason))

    def send(self, header: link.Header, payload: bytes = b"") -> None:
        self.end.send(header, payload)

    async def wait_state(self, state: str) -> link.State:
        """Wait until the worker is in this state; return what it says about it."""
        while not self.states or self.states[-1].state != state:
            await self._changed.wait()
        return self.states[-1]

    async def probe(self) -> bool:
        """Have the worker check its server; return what it has found."""
        self.end.send(link.Probe())
        before = len(self.probed)
        while len(self.probed) == before:
            await self._changed.wait()
        return self.probed[-1]

    async def wait_limit(self, calls: int) -> None:
        """Wait until it may have so many calls in flight."""
        while not self.limits or self.limits[-1] != calls:
            await self._changed.wait()

    async def wait_list_change(self, kind: str = "") -> None:
        """Wait until a list has changed, or this one."""
        while not self.list_changes or (kind and kind not in self.list_changes):
            await self._changed.wait()

    def _new(self) -> Pending:
        pending = Pending(self._next_id, self)
        self._next_id += 1
        self._pending[pending.id] = pending
        return pending

    def _frame(self, header: link.Header, payload: memoryview) -> None:
        if isinstance(header, link.State):
            self.states.append(header)
        elif isinstance(header, link.ListChanged):
            self.list_changes.append(header.kind)
        elif isinstance(header, link.Probed):
            self.probed.append(header.works)
        elif isinstance(header, link.Limit):
            self.limits.append(header.calls)
            self.end.send(link.Limited())
        elif isinstance(header, link.Event) and header.id in self._pending:
            pending = self._pending[header.id]
            pending.events.append((header.method, json.loads(bytes(payload))))
            pending.poke()
        elif isinstance(header, link.Ask) and header.id in self._pending:
            pending = self._pending[header.id]
            pending.questions.append((header, json.loads(bytes(payload))))
            pending.poke()
        elif isinstance(header, link.Unask) and header.id in self._pending:
            self._pending[header.id].withdrawn.append(header.ask)
        elif (
            isinstance(
                header, link.Result | link.Fault | link.NeedInput | link.TaskCreated | link.Listing | link.ListFault
            )
            and header.id in self._pending
        ):
            pending = self._pending.pop(header.id)
            pending.outcome = Outcome(header, bytes(payload), pending.events)
            pending.poke()
        else:
            self.unexpected.append(header)  # such as a second end of a call, or an event after it
        self._changed.set()
        self._changed = trio.Event()


@dataclass
class Backend:
    """One worker under test."""

    worker: BackendWorker
    fronts: list[FakeFront]
    log: Log
    reactor: Reactor
    reported: list[tuple[str, str]]
    """Each state and detail, once for each change."""
    vitals: list[WorkerState]
    """All that the root was told of its state."""
    checks: trio.MemoryReceiveChannel[Checked]
    """What it answered to the root's questions."""
    said: list[str]
    """What it told of its server's words."""

    @property
    def front(self) -> FakeFront:
        return self.fronts[0]

    def attach(self) -> FakeFront:
        """Connect one more front."""
        ours, theirs = socket.socketpair()
        front = FakeFront(self.reactor, ours)
        self.worker.attach(theirs, "front", 1)
        self.fronts.append(front)
        return front


def after(released: trio.Event, then: Answer) -> Answer:
    """Answer only when the test says so."""

    async def answer(request: Request, reply: Reply) -> None:
        await released.wait()
        await then(request, reply)

    return answer


@asynccontextmanager
async def rig(server: RawServer | None = None, **options: Any) -> AsyncIterator[tuple[RawServer, Backend]]:
    """Run a scriptable server and a worker for it, for at most five seconds."""
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            running = await nursery.start((server or RawServer()).serve)
            async with backend(running.url, **options) as one:
                yield running, one
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def backend(
    url: str,
    *,
    name: str = "main",
    headers: Sequence[tuple[str, str]] = (),
    command: Command | None = None,
    transport: str = "",
    route: Route | None = None,
    shares: int = 1,
    **limits: Any,
) -> AsyncIterator[Backend]:
    """Run a worker for the server at `url`, with one front attached. What goes wrong inside fails the test.

    `shares`: how many fronts there are to be.

    `limits`: fields of `ServerInfo`.
    """
    log = Log()
    reported: list[tuple[str, str]] = []
    vitals: list[WorkerState] = []

    found, checks = trio.open_memory_channel[Checked](100)

    said: list[str] = []

    def report(told: WorkerState | Checked | Said) -> None:
        if isinstance(told, Said):
            said.extend(told.lines)
            return
        if isinstance(told, Checked):
            found.send_nowait(told)
            return
        vitals.append(told)
        if not reported or reported[-1] != (told.state, told.detail):
            reported.append((told.state, told.detail))

    async with trio.open_nursery() as nursery:
        reactor = Reactor(log)
        flight = FlightPage(memoryview(bytearray(PAGE_BYTES)))
        flight.begin(INCARNATION, 1)
        worker = BackendWorker(
            reactor,
            BackendSettings(
                ServerInfo(name, url, list(headers), **limits), command, route or Route(), transport, shares
            ),
            incarnation=INCARNATION,
            flight=flight,
            log=log,
            tell_root=report,
        )
        nursery.start_soon(reactor.run)
        nursery.start_soon(worker.run)
        ours, theirs = socket.socketpair()
        front = FakeFront(reactor, ours)
        worker.attach(theirs, "front", 1)
        one = Backend(worker, [front], log, reactor, reported, vitals, checks, said)
        try:
            yield one
        finally:
            with trio.move_on_after(3, shield=True):
                await worker.drain(0.0)
                for each in one.fronts:
                    await each.closed.wait()
                await trio.testing.wait_all_tasks_blocked()  # the reactor closes connections in tasks of its own
            nursery.cancel_scope.cancel()
    log.assert_no_defect()
    assert front.end.peer is not None
    assert front.end.peer.version == LINK_VERSION
    assert front.unexpected == []
