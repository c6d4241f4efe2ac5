"""Calls of many clients that use the same ids, through fronts and workers as they are: does anybody get another's?

    python -m tests.collide --calls 10000000 --jobs 2

The code is real from the endpoint of a front to the channel of a backend worker, with the links between them and the
bytes on those. Clients and servers, time and order are played: clients use five ids and two progress tokens over and
over, as numbers and as strings; servers answer in any order, report progress, ask back, and are told of calls that are
given up; bytes arrive in any pieces. Every call carries a text of its own, which must come back in its answer, in its
progress and in what is asked for it, and nowhere else (R18). The seed decides everything, so what fails, fails again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import msgspec
import trio
from trio.testing import MockClock

from protocol.control import BackendSettings, FrontSettings, ServerInfo
from protocol.counts import nowhere
from protocol.flight import PAGE_BYTES, FlightPage
from protocol.jsonrpc import decode_message, decode_reply
from protocol.meta import CLIENT_CAPABILITIES_KEY, CLIENT_INFO_KEY, PROTOCOL_VERSION_KEY
from tests.sim.clockwork import deterministic
from tests.workers.backend.harness import Log
from workers.backend import worker as backend_worker
from workers.backend.access import Access
from workers.backend.endpoint import NOWHERE
from workers.backend.fetch import Fetcher
from workers.backend.message_faults import MessageFaults
from workers.backend.message_legs import MessageLegacyLeg, MessageLegs, MessageModernLeg
from workers.backend.ordered import OrderedChannel, OrderedLife
from workers.front.worker import FrontWorker

SERVERS: Final = ("legacy", "modern")
FRONTS: Final = 2
CLIENTS: Final = 12
"""Of each front; one half of each era."""
IN_FLIGHT: Final = 96
IDS: Final = (*range(1, 6), *(str(number) for number in range(1, 6)))
TOKENS: Final = (1, "1")
PROMPTNESS: Final = 0.2
"""How likely a client answers a question at the next turn."""
PATIENCE_TURNS: Final = 5_000
"""Turns without the end of a call, after which one counts as lost."""
TURN_S: Final = 0.000_1
"""What a turn takes by the played clock."""
ABLE: Final[dict[str, Any]] = {"elicitation": {}}
QUESTION: Final[dict[str, Any]] = {"requestedSchema": {"type": "object", "properties": {}}}


class Wire:
    """One end of a link."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.peer: Wire = self
        self.handler: Any = None
        self.inbox = bytearray()
        self.into = None
        self.buffered = 0

    def write(self, data: Any) -> None:
        self.writelines((data,))

    def writelines(self, chunks: Any) -> None:
        for chunk in chunks:
            self.peer.inbox += chunk
        self.loop.arrived(self.peer)

    def close(self) -> None: ...

    def abort(self) -> None:
        raise AssertionError("a link has ended")


class Loop:
    """What fronts and workers need of the reactor; bytes arrive when `turn` says so."""

    def __init__(self, nursery: trio.Nursery, chance: random.Random) -> None:
        self.now = 0.0
        self.machine = self
        self.random = chance
        self.counts = nowhere()
        self._nursery = nursery
        self._ending: list[Callable[[], None]] = []
        self._arrived: list[Wire] = []

    def add_stream(self, sock: Any, handler: Any) -> Any:
        sock.handler = handler
        return sock

    def start_soon(self, function: Any, *arguments: Any) -> None:
        self._nursery.start_soon(function, *arguments)

    def every(self, _interval_s: float, _callback: Any) -> Any:
        return _Never()

    def at_batch_end(self, flush: Callable[[], None]) -> None:
        self._ending.append(flush)

    def arrived(self, wire: Wire) -> None:
        if wire not in self._arrived:
            self._arrived.append(wire)

    def pair(self) -> tuple[Any, Any]:
        one, other = Wire(self), Wire(self)
        one.peer, other.peer = other, one
        return one, other

    def turn(self) -> None:
        """Let some bytes arrive at each wire that has any, in some order, then end the batch."""
        wires, self._arrived = self._arrived, []
        self.random.shuffle(wires)
        for wire in wires:
            size = len(wire.inbox)
            cut = size if self.random.random() < 0.8 else self.random.randint(1, size)
            data = bytes(wire.inbox[:cut])
            del wire.inbox[:cut]
            if wire.inbox:
                self.arrived(wire)
            wire.handler.data_received(data)
        ending, self._ending = self._ending, []
        for flush in ending:
            flush()


class _Never:
    """A sweep in a world without deadlines."""

    def wake(self) -> None: ...

    def end(self) -> None: ...


class Life(OrderedLife):
    """The one life of a server."""

    is_full = False

    def __init__(self, server: Server) -> None:
        super().__init__(0.0)
        self._server = server

    def write(self, messages: Any) -> bool:
        for message in messages:
            for line in bytes(message).split(b"\n"):
                if line:
                    self._server.received(msgspec.json.decode(line))
        return True

    def set_paused(self, *, is_paused: bool) -> None: ...

    def close(self) -> None: ...


class Channel(OrderedChannel[Life]):
    """The way to a played server."""

    initialize_s = 10.0

    def __init__(self, server: Server, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._server = server
        server.say = self._heard

    async def start(self) -> None:
        if self.life is None:
            self.life = Life(self._server)

    def give_up(self, life: Life, why: str) -> None:
        raise AssertionError(f"a server was given up: {why}")

    def sweep(self) -> None: ...

    def drop_idle(self) -> None: ...

    async def stop(self) -> None: ...

    def _heard(self, message: Any) -> None:
        assert self.life is not None
        self.take(self.life, msgspec.json.encode(message))


class Server:
    """A played server: it remembers what it has to say, and says one thing of it at each turn."""

    def __init__(self, era: str, chance: random.Random, seen: Counter[str]) -> None:
        self.era = era
        self.say: Callable[[Any], None] = lambda _: None
        self._chance = chance
        self._seen = seen
        self._plans: dict[Any, deque[Any]] = {}
        """By the id of a call: what is still to be said, in this order."""

    def received(self, message: Any) -> None:
        method, request_id, params = message.get("method"), message.get("id"), message.get("params", {})
        match method:
            case "tools/call":
                self._call(request_id, params)
            case "notifications/cancelled":
                self._seen["cancelled at the server"] += self._plans.pop(params["requestId"], None) is not None
            case "server/discover" if self.era == "modern":
                self._answer(request_id, {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}})
            case "initialize" if self.era == "legacy":
                info = {"name": "played", "version": "1"}
                self._answer(
                    request_id, {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": info}
                )
            case "tools/list":
                self._answer(request_id, {"tools": [{"name": "echo", "inputSchema": {"type": "object"}}]})
            case _ if request_id is not None and method is not None:
                self._plans[request_id] = deque([{"id": request_id, "error": {"code": -32601, "message": "no"}}])
            case _:
                pass

    def turn(self) -> None:
        if not self._plans:
            return
        request_id = self._chance.choice(list(self._plans))
        plan = self._plans[request_id]
        message = plan.popleft()
        if not plan:
            del self._plans[request_id]
        self.say({"jsonrpc": "2.0", **message})

    def _answer(self, request_id: Any, result: Any) -> None:
        self._plans[request_id] = deque([{"id": request_id, "result": self._typed(result)}])

    def _typed(self, result: Any) -> Any:
        hints = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"}
        return {**hints, **result} if self.era == "modern" else result

    def _call(self, request_id: Any, params: Any) -> None:
        text = params["arguments"]["text"]
        plan: deque[Any] = deque()
        token = params.get("_meta", {}).get("progressToken")
        for step in range(self._chance.randint(0, 2) if token is not None else 0):
            progress = {"progressToken": token, "progress": step, "message": text}
            plan.append({"method": "notifications/progress", "params": progress})
        answers = params.get("inputResponses")
        if answers is not None:
            assert [answer["content"]["text"] for answer in answers.values()] == [text], (answers, text)
            assert params["requestState"] == text
            self._seen["answers to questions"] += 1
        if self.era == "modern" and answers is None and self._chance.random() < 0.1:
            question = {"method": "elicitation/create", "params": {**QUESTION, "message": text, "mode": "form"}}
            needed = {"resultType": "input_required", "inputRequests": {"q": question}, "requestState": text}
            plan.append({"id": request_id, "result": needed})
        else:
            plan.append({"id": request_id, "result": self._typed({"content": [{"type": "text", "text": text}]})})
        self._plans[request_id] = plan


class Client:
    """A client, of which there are several with the same ids."""

    def __init__(self, world: World, endpoint: Any, era: str) -> None:
        self.world = world
        self.endpoint = endpoint
        self.era = era
        self.in_flight: dict[bytes, Any] = {}
        self.session: Any = None
        if era == "legacy":
            info = {"name": "client", "version": "1"}
            params = {"protocolVersion": "2025-11-25", "capabilities": ABLE, "clientInfo": info}
            message = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
            self.session, _ = endpoint.initialize(decode_message(msgspec.json.encode(message)))

    def call(self, text: str, more: dict[str, Any] | None = None) -> None:
        chance = self.world.chance
        server = chance.choice(SERVERS)
        params: dict[str, Any] = {"name": f"{server}__echo", "arguments": {"text": text}}
        if more is not None:
            params = more["again"] | {"inputResponses": more["responses"], "requestState": more["state"]}
        meta: dict[str, Any] = {}
        token = chance.choice((None, *TOKENS))
        if token is not None:
            meta["progressToken"] = token
        if self.era == "modern":
            meta |= {PROTOCOL_VERSION_KEY: "2026-07-28", CLIENT_CAPABILITIES_KEY: ABLE}
            meta |= {CLIENT_INFO_KEY: {"name": "client", "version": "1"}}
        request_id = chance.choice(IDS)
        message = {"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": {**params, "_meta": meta}}
        reply = Expected(self, text, token, params)
        self.world.open[reply] = None
        decoded = decode_message(msgspec.json.encode(message))
        if self.era == "legacy":
            self.endpoint.legacy(decoded, self.session, reply)
        else:
            table = self.in_flight if chance.random() < 0.5 else None
            self.endpoint.modern(decoded, reply, headers=None, in_flight=table)

    def answer(self, question: Any) -> None:
        result = {"action": "accept", "content": {"text": question["params"]["message"]}}
        answer = {"jsonrpc": "2.0", "id": question["id"], "result": result}
        assert self.session.questions.answered(decode_reply(msgspec.json.encode(answer)))


class Expected:
    """The place where the answer to one call goes (`workers.front.calls.Reply`), which knows what that must be."""

    client = "127.0.0.1"
    """All of them come from there."""

    def __init__(self, client: Client, text: str, token: Any, params: Any) -> None:
        self.call: Any = None
        self._client = client
        self._text = text
        self._token = token
        self._params = params
        self._is_over = False

    def notify(self, method: str, params: Any) -> None:
        told = msgspec.json.decode(params)
        if method != "notifications/progress":
            return
        wanted = (self._text, self._token, type(self._token))
        self._check((told["message"], told["progressToken"], type(told["progressToken"])) == wanted, told)
        self._client.world.seen["progress"] += 1

    def ask(self, message: bytes) -> bool:
        question = msgspec.json.decode(message)
        self._check(question["params"]["message"] == self._text, question)
        self._client.world.later(lambda: self._is_over or self._client.answer(question))
        return True

    def result(self, result: Any) -> None:
        self._end()
        told = msgspec.json.decode(result)
        if told.get("resultType") == "input_required":
            (question,) = told["inputRequests"].values()
            self._check(question["params"]["message"] == self._text, told)
            answers = {"q": {"action": "accept", "content": {"text": self._text}}}
            more = {"again": self._params, "responses": answers, "state": told["requestState"]}
            self._client.world.later(lambda: self._client.call(self._text, more))
            return
        self._check(told["content"][0]["text"] == self._text, told)
        self._client.world.ended()

    def error(self, code: int, message: str, data: bytes = b"", retry_after_s: int = 0) -> None:
        self._check(False, (code, message, data, retry_after_s))

    def raw_error(self, error: Any, code: int) -> None:
        self._check(False, (bytes(error), code))

    def nothing(self) -> None:
        self._end()
        self._client.world.ended("cancelled")

    def give_up(self) -> None:
        """The client wants it no more."""
        if self.call is not None:
            self.call.cancel("enough")
            self.nothing()

    def _end(self) -> None:
        self._check(not self._is_over, "a second end")
        self._is_over = True
        self.call = None
        self._client.world.open.pop(self)

    def _check(self, is_right: bool, told: Any) -> None:
        if not is_right:  # not raised here: the proxy survives what single frames do
            self._client.world.wrong.append(f"{told!r} came for {self._text!r}, token {self._token!r}")


class World:
    """Fronts, workers, clients and servers of one run."""

    def __init__(self, seed: int, clock: MockClock) -> None:
        self.chance = random.Random(seed)
        self._clock = clock
        self.seen: Counter[str] = Counter()
        self.open: dict[Expected, None] = {}
        self.log = Log()
        self.wrong: list[str] = []
        """What was misdelivered."""
        self._later: list[Callable[[], object]] = []
        self._count = 0
        self._waited = 0

    def later(self, action: Callable[[], object]) -> None:
        self._later.append(action)

    def ended(self, how: str = "answered") -> None:
        self.seen[how] += 1
        self._waited = 0

    async def run(self, calls: int) -> None:
        async with trio.open_nursery() as nursery:
            self._build(nursery)
            while self.seen["answered"] + self.seen["cancelled"] < calls:
                self._turn(calls)
                await trio.lowlevel.checkpoint()
            for _ in range(100):  # what is late has no right to come at all
                self._turn(0)
                await trio.lowlevel.checkpoint()
            assert not self.open
            nursery.cancel_scope.cancel()

    def _build(self, nursery: trio.Nursery) -> None:
        self.loop: Any = Loop(nursery, self.chance)
        self.servers = [Server(era, self.chance, self.seen) for era in SERVERS]
        infos = [ServerInfo(era, "http://127.0.0.1:1/mcp") for era in SERVERS]
        workers = []
        for server, info in zip(self.servers, infos, strict=True):
            flight = FlightPage(memoryview(bytearray(PAGE_BYTES)))
            flight.begin(1, 1)
            with _reached_by(server):
                worker = backend_worker.BackendWorker(
                    self.loop, BackendSettings(info, None), incarnation=1, flight=flight, log=self.log,
                    tell_root=lambda _: None,
                )  # fmt: skip
            nursery.start_soon(worker.run)
            workers.append(worker)
        self.clients: list[Client] = []
        for number in range(1, FRONTS + 1):
            settings = FrontSettings(
                servers=infos, listeners=0, stdio=False, separator="__", path="/mcp", session_key=b"k" * 32,
                allowed_hosts=[], allowed_origins=[], stdio_session="", ended_sessions=[], page_size=0,
            )  # fmt: skip
            front: Any = FrontWorker(
                self.loop, settings, [], incarnation=number, log=self.log, tell_root=lambda _: None
            )  # fmt: skip
            front._rounds._wall_clock = lambda: self.loop.now  # a machine that is asleep for a while ends no question
            for info, worker in zip(infos, workers, strict=True):
                ours, theirs = self.loop.pair()
                front.attach(ours, info.name, 1)
                worker.attach(theirs, "front", number)
            for client in range(CLIENTS):
                self.clients.append(Client(self, front._endpoint, SERVERS[client % 2]))

    def _turn(self, calls: int) -> None:
        self._clock.jump(TURN_S)
        self.loop.now = trio.current_time()
        self._waited += 1
        assert self._waited < PATIENCE_TURNS or not self.open, f"{len(self.open)} calls are not answered"
        while self._count < calls and len(self.open) < IN_FLIGHT:
            self._count += 1
            self.chance.choice(self.clients).call(f"text {self._count}")
        if self.open and self.chance.random() < 0.5:
            self.chance.choice(list(self.open)).give_up()
        later, self._later = self._later, []
        for action in later:
            if self.chance.random() < PROMPTNESS:
                action()
            else:
                self._later.append(action)
        for _ in range(16):
            for server in self.servers:
                server.turn()
        self.loop.turn()
        assert not self.wrong, f"misdelivered: {self.wrong[0]}"
        self.log.assert_no_defect()


@contextmanager
def _reached_by(server: Server) -> Iterator[None]:
    """Let a worker that is made meanwhile reach this server."""

    def reach(reactor: Any, settings: Any, ids: Any, counters: Any, log: Any, **told: Any) -> Access:
        faults = MessageFaults(settings.server.name, NOWHERE)
        channel: Any = Channel(server, reactor, faults, counters, log, used=told["used"], ended=told["ended"])
        fetcher = Fetcher(channel, faults)
        usual = (fetcher, ids, counters, told["list_changed"], told["updated"], channel)
        legacy, modern = MessageLegacyLeg(*usual, reactor, told["calls"]), MessageModernLeg(*usual)
        legs = MessageLegs(reactor, modern, legacy, faults, log, told["opened"])
        return Access(faults, channel, legacy, modern, legs, None)

    real, backend_worker.reach = backend_worker.reach, reach  # type: ignore[assignment]
    try:
        yield
    finally:
        backend_worker.reach = real


def collide(seed: int, calls: int) -> Counter[str]:
    """Run so many calls, and return what was seen. Errors: `AssertionError` if a message is misdelivered."""
    clock = MockClock()
    world = World(seed, clock)
    with deterministic(str(seed), clock):
        trio.run(world.run, calls, clock=clock)
    return world.seen


def _part(work: tuple[int, int]) -> tuple[int, Counter[str], str]:
    try:
        return work[0], collide(*work), ""
    except BaseException as error:  # noqa: BLE001 - it is told in the process that counts
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        return work[0], Counter(), f"{type(error).__name__}: {error}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Calls with colliding ids, through fronts and workers as they are.")
    parser.add_argument("--calls", type=int, default=10_000_000)
    parser.add_argument("--seed", type=int, default=1, help="of the first part; each part has the next")
    parser.add_argument("--part", type=int, default=100_000, help="calls with one seed")
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count())
    arguments = parser.parse_args()
    count = -(-arguments.calls // arguments.part)
    parts = [(arguments.seed + number, arguments.part) for number in range(count)]
    seen: Counter[str] = Counter()
    began = time.monotonic()
    with multiprocessing.Pool(arguments.jobs) as pool:
        for seed, found, wrong in pool.imap_unordered(_part, parts):
            if wrong:
                print(f"seed {seed} ({arguments.part} calls): {wrong}", file=sys.stderr)
                return 1
            seen += found
            print(f"{time.monotonic() - began:.0f} s: {json.dumps(seen)}", flush=True)
    print(f"{seen['answered'] + seen['cancelled']} calls, nothing misdelivered")
    return 0


if __name__ == "__main__":
    sys.exit(main())
