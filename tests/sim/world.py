"""Put one simulated world together, let it run, and hand back its history.

A `Plan` says what world it is; `plan_of` draws one from a seed. The same plan gives the same history, byte for byte.
"""

from __future__ import annotations

import contextlib
import math
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final
from unittest import mock

import trio
from trio.testing import MockClock

import workers.main
from protocol import hedging
from protocol.limits import STOP_S
from supervisor.config import Group, Server, Settings
from supervisor.groups import POLICIES
from supervisor.plan import Holdings
from supervisor.root import Root
from supervisor.tree import Phase
from supervisor.zygote_process import WorkerProgram
from tests.sim.client import Client, HttpClient, StdioClient, Vandal, Workload
from tests.sim.clockwork import PROCESS, Agenda, Time, deterministic
from tests.sim.history import Ended, History
from tests.sim.kernel import Kernel, Listener, Process, StreamEnd, error, stream_pair
from tests.sim.machines import Hardware, Log, RootMachine, Scarcity
from tests.sim.nemesis import FAULTS, Nemesis
from tests.sim.peers import Wire
from tests.sim.server import SimServer
from tests.sim.sockets import as_socket
from workers.backend.calls import BackendCall
from workers.backend.worker import BackendWorker
from workers.front.worker import FrontWorker

PORT: Final = 8001
SERVES_WITHIN_S: Final = 10.0
"""After the last fault, a healthy server serves again by then, unless a known wait (back-off, breaker) is longer."""
KNOWN_WAIT_MAX_S: Final = 75.0
PROBE_S: Final = 8.0
REST_S: Final = 4.0
SESSION_KEY: Final = bytes(range(100, 132))
PARKED: Final = "parked"
GROUP: Final = "group"
"""Name of the group of replicas, in worlds that have one."""


@dataclass(frozen=True)
class Plan:
    """One world."""

    seed: str
    """Of all chance in it."""
    eras: tuple[str, ...] = ("both", "modern")
    """One server each."""
    grouped: int = 0
    """So many of them, from the first, are replicas of one group; 0 for none. The last one, which is never harmed, is
    not among them."""
    policy: str = ""
    """Of the group; "" if that is drawn, and whether it hedges."""
    http_clients: tuple[tuple[str, int], ...] = (("modern", 2), ("legacy", 2))
    """Era and lanes of each."""
    stdio: str = ""
    """Era of the client on standard input; "" for none."""
    has_vandal: bool = False
    load_s: float = 5.0
    """How long clients make calls and things are broken."""
    kinds: tuple[str, ...] = ()
    """Of faults."""
    mean_pause_s: float = 1.0
    """Between two faults."""
    call_timeout_s: float = 5.0
    latency_s: float = 0.001
    jitter_s: float = 0.001
    link_capacity: int = 200_000
    control_capacity: int = 200_000
    network_capacity: int = 65_536
    stop: str = "at rest"
    """at rest, under load, or twice under load."""
    pause_s: float = 0.5
    ms_max: int = 200


def plan_of(seed: int) -> Plan:
    """Draw a world."""
    chance = Random(f"{seed}:plan")
    names = tuple(fault.name for fault in FAULTS)
    mood = chance.random()
    if mood < 0.08:
        kinds: tuple[str, ...] = ()
    elif mood < 0.3:
        kinds = (chance.choice(names),)
    elif mood < 0.9:
        kinds = tuple(chance.sample(names, chance.randint(2, 8)))
    else:
        kinds = names
    http = tuple((chance.choice(["modern", "legacy"]), chance.randint(1, 3)) for _ in range(chance.randint(1, 3)))
    stop = chance.random()
    eras = tuple(chance.choice(["modern", "legacy", "both"]) for _ in range(chance.randint(1, 4)))
    own_chance = Random(f"{seed}:group")
    return Plan(
        seed=str(seed),
        eras=eras,
        grouped=own_chance.randint(2, len(eras) - 1) if len(eras) > 2 and own_chance.random() < 0.5 else 0,
        http_clients=http,
        stdio=chance.choice(["", "", "modern", "legacy"]),
        has_vandal=chance.random() < 0.3,
        load_s=chance.uniform(2.0, 8.0),
        kinds=kinds,
        mean_pause_s=chance.choice([0.2, 0.7, 2.0]),
        call_timeout_s=chance.choice([1.0, 3.0, 8.0]),
        latency_s=chance.choice([0.0, 0.001, 0.02]),
        jitter_s=chance.choice([0.0, 0.001, 0.02]),
        link_capacity=chance.choice([4_000, 30_000, 200_000]),
        control_capacity=chance.choice([3_000, 200_000]),
        network_capacity=chance.choice([3_000, 65_536]),
        stop="at rest" if stop < 0.7 else "under load" if stop < 0.9 else "twice under load",
        pause_s=chance.choice([0.1, 0.5, 1.0]),
        ms_max=chance.choice([5, 100, 400]),
    )


class Network:
    """What connections over the network have in common."""

    def __init__(self, plan: Plan, chance: Random) -> None:
        self._plan = plan
        self._chance = chance
        self.extra_s = 0.0

    def latency(self) -> float:
        plan = self._plan
        return plan.latency_s + (self._chance.random() * plan.jitter_s if plan.jitter_s else 0.0) + self.extra_s


class RecordingLog:
    """The log of one simulated process."""

    def __init__(self, history: History, process: Process) -> None:
        self._history = history
        self._process = process

    def _keep(self, level: str, event: str, fields: dict[str, object]) -> None:
        if not self._process.is_alive:
            return
        raised = fields.pop("exc_info", None)
        if isinstance(raised, BaseException):
            self._history.wrong(f"{self._process.label}: {event}: {raised!r} {places(raised)} {fields}")
        self._history.logs.append((self._process.label, level, event, repr(fields)))
        self._history.note(self._process.label, f"logs {level} {event}")

    def debug(self, event: str, **fields: object) -> None:
        self._keep("debug", event, fields)

    def info(self, event: str, **fields: object) -> None:
        self._keep("info", event, fields)

    def warning(self, event: str, **fields: object) -> None:
        self._keep("warning", event, fields)

    def error(self, event: str, **fields: object) -> None:
        self._keep("error", event, fields)


def places(raised: BaseException) -> str:
    """Return where it was raised, innermost place first; of a group, where its first part was."""
    while isinstance(raised, BaseExceptionGroup):
        raised = raised.exceptions[0]  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    trace = raised.__traceback__
    found: list[str] = []
    while trace is not None:
        found.append(f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}")
        trace = trace.tb_next
    return f"{raised!r} at " + " < ".join(reversed(found[-6:]))


class World:
    """Everything in one run."""

    def __init__(self, plan: Plan, times: Time, nursery: trio.Nursery) -> None:
        self.plan = plan
        self.times = times
        self.chance = Random(f"{plan.seed}:world")
        self.agenda = Agenda()
        self.kernel = Kernel(times, self.agenda, Random(f"{plan.seed}:kernel"))
        self.history = History(self.kernel)
        self.network = Network(plan, Random(f"{plan.seed}:network"))
        self.scarcity = Scarcity()
        self.nursery = nursery
        self.servers = [
            SimServer(f"s{n}", 9000 + n, era, self.history, Random(f"{plan.seed}:server {n}"), nursery)
            for n, era in enumerate(plan.eras)
        ]
        self.hardware = Hardware(
            kernel=self.kernel,
            nursery=nursery,
            chance=Random(f"{plan.seed}:hardware"),
            scarcity=self.scarcity,
            connect=self._connect_to_server,
            new_log=self._new_log,
            crashed=self._crashed,
            started=self._started,
            link_capacity=plan.link_capacity,
            control_capacity=plan.control_capacity,
        )
        self.nemesis = Nemesis(self, Random(f"{plan.seed}:nemesis"))
        replicas = tuple(server.name for server in self.servers[: plan.grouped])
        self.history.members = {GROUP: frozenset(replicas)} if replicas else {}
        self.public_names = (*self.history.members, *(server.name for server in self.servers[plan.grouped :]))
        self.work = Workload(
            servers=self.public_names,
            until=plan.load_s,
            wait_s=plan.call_timeout_s + 40.0,
            pause_s=plan.pause_s,
            ms_max=plan.ms_max,
            large_sizes=(70_000, 400_000) if plan.network_capacity > 10_000 else (4_000, 10_000),
        )
        self.fronts: dict[Process, FrontWorker] = {}
        self.backends: dict[Process, BackendWorker] = {}
        self.root_process = Process(self.kernel, "root", fds_max=1000)
        self.users = Process(self.kernel, "users")
        """Clients, which sleep when the machine does."""
        self.clients: list[Client] = []
        self.suspended_until = 0.0
        self._asleep: list[Process] = []
        self._stdio_end: StreamEnd | None = None
        if plan.stdio:
            outside, inside = stream_pair(self.kernel, "stdio", 65_536)
            self._stdio_end = outside
            assert [self.root_process.install(inside), self.root_process.install(inside)] == [0, 1]
        self.listener = Listener(self.kernel, PORT)
        listener_fd = self.root_process.install(self.listener)
        self.machine = RootMachine(self.hardware, self.root_process)
        settings = Settings(
            servers=tuple(
                Server(server.name, f"http://sim:{server.port}/mcp", group=GROUP if server.name in replicas else "")
                for server in self.servers
            ),
            groups=(self._group(replicas),) if replicas else (),
            http=True,
            stdio=bool(plan.stdio),
            call_timeout_s=plan.call_timeout_s,
        )
        holdings = Holdings([as_socket(self.root_process, listener_fd)], SESSION_KEY, None, frozenset())
        log: Any = RecordingLog(self.history, self.root_process)
        program = WorkerProgram()
        self.root = Root(settings, holdings, program, self.machine.launch(program), log, self.machine)
        self._root_ended = trio.Event()

    def _group(self, replicas: tuple[str, ...]) -> Group:
        if self.plan.policy:
            return Group(GROUP, replicas, self.plan.policy)
        policy = Random(f"{self.plan.seed}:policy").choice(POLICIES)
        return Group(GROUP, replicas, policy, hedge=Random(f"{self.plan.seed}:hedge").random() < 0.5)

    # --- looking around ----------------------------------------------------------------------------------------------
    def process(self, name: str) -> Process | None:
        """Return the youngest living process of that name."""
        for process in reversed(self.kernel.processes):
            if process.name == name and process.is_alive:
                return process
        return None

    def open_links(self) -> list[tuple[str, StreamEnd]]:
        """Return the fronts' ends of links that both sides hold, with the server's name."""
        workers = [one for one in self.kernel.processes if one.is_alive and one.name.startswith("server ")]
        return [
            (worker.name.removeprefix("server "), end)
            for end in self.hardware.links
            if end.references and end.peer.references
            for worker in workers
            if end.peer in worker.fds.values()
        ]

    # --- the parts ---------------------------------------------------------------------------------------------------
    def _new_log(self, process: Process, who: str) -> Log:
        del who
        return RecordingLog(self.history, process)

    def _crashed(self, process: Process, raised: BaseException) -> None:
        self.history.wrong(f"{process.label} crashed: {raised!r} {places(raised)}")

    def _started(self, process: Process) -> None:
        now = self.times.now()
        self.history.starts.append((process.name, now))
        self.history.note(process.label, "started")
        process.on_end.append(lambda: self._ended(process))
        alive = sum(one.is_alive for one in self.kernel.processes) - 2  # root and users
        self.history.peaks["processes"] = max(self.history.peaks["processes"], alive)

    def _ended(self, process: Process) -> None:
        assert process.exit_status is not None
        self.history.ends.append(Ended(process.name, self.times.now(), process.exit_status))
        self.history.peaks["descriptors of one"] = max(self.history.peaks["descriptors of one"], process.fds_peak)

    async def _connect_to_server(self, process: Process, host: str, port: int) -> StreamEnd:
        assert host == "sim"
        server = self.servers[port - 9000]
        self.scarcity.check("connect", 24)
        if server.is_cut_off:
            await trio.sleep_forever()
        await trio.sleep(self.network.latency())
        if not server.is_up:
            raise ConnectionRefusedError(111, "Connection refused")
        name = f"{process.label}-{server.name}-{self.kernel.pairs}"
        ours, theirs = stream_pair(self.kernel, name, self.plan.network_capacity, self.network.latency)
        server.accept(theirs)
        ours.opened()
        return ours

    async def connect_to_front(self, who: str) -> Wire:
        """Connect as a client does. Errors: `OSError` if nobody listens."""
        await trio.sleep(self.network.latency())
        if not self.listener.references:
            raise error(111)
        name = f"{who}-front-{self.kernel.pairs}"
        ours, theirs = stream_pair(self.kernel, name, self.plan.network_capacity, self.network.latency)
        wire = Wire(ours)
        self.listener.connect(theirs)
        return wire

    def suspend(self, lasts_s: float) -> None:
        """Let the whole machine sleep. Servers are elsewhere, and do not."""
        asleep = [process for process in self.kernel.processes if process.is_alive and not process.is_stopped]
        for process in asleep:
            process.stop()
        self._asleep += asleep
        self.suspended_until = self.times.now() + lasts_s
        self.work.until += lasts_s
        self.agenda.after(lasts_s, self._wake)
        if self.chance.random() < 0.5:
            for server in self.servers:  # nobody keeps a connection for a machine that sleeps
                self.agenda.after(lasts_s / 2, server.reset_connections)

    def let_go_on(self, process: Process) -> None:
        """Let a stopped process go on, as soon as the machine is awake."""
        self.agenda.at(max(self.times.now(), self.suspended_until), process.go_on)

    def _wake(self) -> None:
        if self.times.now() < self.suspended_until:
            return  # it has fallen asleep again in the same moment
        asleep, self._asleep = self._asleep, []
        for process in asleep:
            process.go_on()

    # --- the run -----------------------------------------------------------------------------------------------------
    async def start(self) -> None:
        """Start everything but clients and faults."""
        self.nursery.start_soon(self.agenda.run)
        self.nursery.start_soon(self.root_process.run, self._run_root, self._crashed)
        self.nursery.start_soon(self._sample)

    async def _run_root(self, process: Process) -> int:
        try:
            self.history.exit_status = await self.root.run(contextlib.nullcontext)
        finally:
            self.history.finished_at = self.times.now()
            self._root_ended.set()
        return self.history.exit_status

    async def as_user(self, do: Callable[..., Awaitable[Any]], *args: Any) -> None:
        """Run something in the place where clients are."""
        PROCESS.set(self.users)
        await do(*args)

    def new_client(self, era: str, lanes: int = 1) -> HttpClient:
        """Return a client that does nothing yet."""
        name = f"~c{len(self.clients)}"
        chance = Random(f"{self.plan.seed}:{name}")
        client = HttpClient(name, self.history, chance, self.work, self.connect_to_front, era=era, lanes=lanes)
        self.clients.append(client)
        return client

    async def load(self) -> None:
        """Let clients call and the nemesis break until the time is over; return when every call has settled."""
        plan = self.plan
        stdio: StdioClient | None = None
        async with trio.open_nursery() as nursery:
            for era, lanes in plan.http_clients:
                nursery.start_soon(self.as_user, self.new_client(era, lanes).run)
            if self._stdio_end is not None:
                name = f"~c{len(self.clients)}"
                chance = Random(f"{plan.seed}:{name}")
                wire = Wire(self._stdio_end)
                stdio = StdioClient(name, self.history, chance, self.work, wire, era=plan.stdio, in_flight=4)
                self.clients.append(stdio)
                nursery.start_soon(self.as_user, stdio.run)
            if plan.has_vandal:
                vandal = Vandal(self.history, Random(f"{plan.seed}:vandal"), self.work, self.connect_to_front)
                nursery.start_soon(self.as_user, vandal.run)
            nursery.start_soon(self.nemesis.run, plan.kinds, plan.mean_pause_s)
            if plan.stop != "at rest":
                nursery.start_soon(self._stop_under_load)
        self.history.healed_at = min(self.history.healed_at, self.times.now())

    async def _stop_under_load(self) -> None:
        await trio.sleep(self.chance.uniform(0.0, self.plan.load_s))
        self.stop()
        if self.plan.stop == "twice under load":
            await trio.sleep(self.chance.uniform(0.2, 3.0))
            self.machine.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """Tell the root to stop."""
        if self.history.stopped_at == math.inf:
            self.history.stopped_at = self.times.now()
            self.history.note("nemesis", "stop")
        self.machine.send_signal(signal.SIGTERM)

    async def probe_all(self) -> None:
        """See whether every server is served again."""
        async with trio.open_nursery() as nursery:
            for name in self.public_names:
                members = self.history.serving(name)
                nursery.start_soon(self._probe, name, [one for one in self.servers if one.name in members])

    async def _probe(self, name: str, servers: Sequence[SimServer]) -> None:
        client = self.new_client("legacy" if any(server.era == "legacy" for server in servers) else "modern")
        since = self.times.now()
        limit = since + SERVES_WITHIN_S
        said = ""
        while self.times.now() < limit and self.process_is_coming():
            call = await client.probe(name, PROBE_S)
            said = f"{call.outcome} {call.code} {call.text}"
            if call.outcome == "result":
                self.history.probes.append((name, limit, self.times.now(), said))
                return
            if all(self.root._tree.children[f"server {server.name}"].parked for server in servers):
                self.history.probes.append((name, math.inf, math.inf, PARKED))
                return
            known = call.data.get("retryAfterMs", 0) / 1000 if call.data else 0.0
            for one in self.root._tree.children.values():
                if one.phase is Phase.WAITING and math.isfinite(one.deadline):
                    known = max(known, one.deadline - self.times.now())
            limit = min(max(limit, self.times.now() + known + SERVES_WITHIN_S), since + KNOWN_WAIT_MAX_S)
            await trio.sleep(0.25)
        self.history.probes.append((name, limit, math.inf, said))

    def process_is_coming(self) -> bool:
        """The root has not given up."""
        return not self._root_ended.is_set()

    async def come_to_rest(self) -> None:
        """Wait until nothing is under way, and note what is held all the same."""
        await trio.sleep(REST_S)
        rest = self.history.rest
        for process, front in self.fronts.items():
            if process.is_alive:
                self._note_front(process, front, rest)
        for process, backend in self.backends.items():
            if process.is_alive:
                self._note_backend(process, backend, rest)
        lives = sum(
            child.phase not in (Phase.WAITING, Phase.ENDED) for child in self.root._tree.children.values()
        )  # of which one is the zygote
        expected = 1 + (3 if self.plan.stdio else 0) + 2 + 3 * (lives - 1)
        rest["root: descriptors too many"] = max(0, len(self.root_process.fds) - expected)

    def _note_front(self, process: Process, front: FrontWorker, rest: dict[str, int]) -> None:
        rest[f"{process.label}: connections"] = len(front._connections)
        links = 0
        for name, server in front._links.items():
            rest[f"{process.label}: calls for {name}"] = server.in_flight
            links += server._end is not None
        expected = 4 + (1 if self.plan.stdio else 0) + 2 * links
        rest[f"{process.label}: descriptors too many"] = max(0, len(process.fds) - expected)

    def _note_backend(self, process: Process, backend: BackendWorker, rest: dict[str, int]) -> None:
        pool = backend._channel._pool
        # The worker's own questions (a list, a handshake) may still wait for their time to be over.
        rest[f"{process.label}: connections of calls"] = sum(
            isinstance(one.exchange, BackendCall) for one in pool._open
        )
        rest[f"{process.label}: waiting for a connection"] = sum(isinstance(one, BackendCall) for one in pool._waiting)
        rest[f"{process.label}: links too many"] = max(0, len(backend._fronts) - 1)
        rest[f"{process.label}: calls"] = sum(len(front.calls) for front in backend._fronts)
        expected = 3 + len(backend._fronts) + len(pool._open)
        rest[f"{process.label}: descriptors too many"] = max(0, len(process.fds) - expected)

    async def _sample(self) -> None:
        """Look at the queues again and again."""
        peaks = self.history.peaks

        def peak(name: str, value: int) -> None:
            peaks[name] = max(peaks[name], value)

        while True:
            await trio.sleep(0.25)
            await trio.sleep_until(self.suspended_until)
            for process, front in self.fronts.items():
                if process.is_alive:
                    for server in front._links.values():
                        peak("in flight", len(server._in_flight))
                        peak("queued", len(server._queue))
                        peak("link bytes", server._end.queued_bytes if server._end is not None else 0)
                    peak("connections", len(front._connections))
            for process, backend in self.backends.items():
                if process.is_alive:
                    peak("pool", len(backend._channel._pool._open))
                    peak("pool queue", len(backend._channel._pool._waiting))
                    peak("links of a worker", len(backend._fronts))

    async def finish(self) -> None:
        """Stop the proxy, and wait for its end."""
        if self.history.stopped_at == math.inf:
            self.history.quiet_stop = self.nemesis_is_quiet()
            self.stop()
        with trio.move_on_after(STOP_S + 10.0):
            await self._root_ended.wait()
        if not self._root_ended.is_set():
            self.history.wrong("the root did not stop")
            self.root_process.scope.cancel()
        await trio.sleep(0.5)
        for process in self.kernel.processes:
            if process.is_alive and process is not self.users:
                self.history.wrong(f"{process.label} has outlived the root")
                process.die(-9)
        if self._stdio_end is not None and self._stdio_end.references:
            self._stdio_end.closed_one()
        for server in self.servers:
            server.reset_connections()
        await trio.sleep(0.5)
        self.history.rest["descriptions open at the end"] = self.kernel.open_things

    def nemesis_is_quiet(self) -> bool:
        """Everything has been up for a while."""
        now = self.times.now()
        children = self.root._tree.children.values()
        return all(cause.until < now for cause in self.history.causes) and all(
            child.phase is Phase.UP and child.up_since is not None and child.up_since < now - 1.0 for child in children
        )


@contextlib.contextmanager
def _observed(world_of: Callable[[], World]) -> Any:
    """Let the world know the front and backend workers that its processes make."""

    class ObservedFront(FrontWorker):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            process: Any = PROCESS.get()
            world_of().fronts[process] = self

    class ObservedBackend(BackendWorker):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            process: Any = PROCESS.get()
            world_of().backends[process] = self

    with (
        mock.patch.object(workers.main, "FrontWorker", ObservedFront),
        mock.patch.object(workers.main, "BackendWorker", ObservedBackend),
        mock.patch.object(hedging, "HEDGE_SAMPLES_MIN", 3),  # a world does not live long enough for more
    ):
        yield


async def whole_life(world: World) -> None:
    """What the world of a seed goes through."""
    await world.start()
    await world.load()
    if world.history.stopped_at == math.inf:
        await world.as_user(world.probe_all)
        await world.come_to_rest()
    await world.finish()


def run(
    plan: Plan, story: Callable[[World], Awaitable[None]] = whole_life, *, trace: list[str] | None = None
) -> History:
    """Run the story of one world from its beginning to its end, and return its history."""
    clock = MockClock(autojump_threshold=0.0)
    worlds: list[World] = []

    async def main(times: Time) -> None:
        async with trio.open_nursery() as nursery:
            world = World(plan, times, nursery)
            world.kernel.trace_lines = trace
            worlds.append(world)
            await story(world)
            nursery.cancel_scope.cancel()

    with deterministic(plan.seed, clock) as times, _observed(lambda: worlds[0]):
        trio.run(main, times, clock=clock)
    return worlds[0].history
